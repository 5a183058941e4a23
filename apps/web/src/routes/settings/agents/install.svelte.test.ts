import { expect, test } from 'vitest';
import { installLine } from './install.ts';

test('credentials are written to a file that only root reads, and are in no command line', () => {
  const lines = installLine('-----BEGIN-----\nsecret\n-----END-----\n', 'monitor.example').split('\n');
  expect(lines[0]).toBe("(umask 077; mkdir -p /etc/fleetreel; cat > /etc/fleetreel/nats.creds) <<'END'");
  expect(lines.slice(1, 4)).toEqual(['-----BEGIN-----', 'secret', '-----END-----']);
  expect(lines[4]).toBe('END');
  expect(lines[5]).toBe(
    'fleetreel-agent run --nats-url nats://monitor.example:4222 --nats-credentials /etc/fleetreel/nats.creds',
  );
});

test('an address of IPv6 is written in brackets', () => {
  expect(installLine('x', '2001:db8::1')).toContain('nats://[2001:db8::1]:4222');
  expect(installLine('x', '[2001:db8::1]')).toContain('nats://[2001:db8::1]:4222');
});
