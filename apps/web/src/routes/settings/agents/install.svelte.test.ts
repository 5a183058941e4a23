import { expect, test } from 'vitest';
import { collectorProblem, hostProblem, lineOfCode, lineOfFile, natsProblem } from './install.ts';

test('the code is read from standard input, and the agent starts only with what it fetched', () => {
  const line = lineOfCode({ code: 'acme:x', collector: 'https://fleet.example/', nats: 'tls://nats.example:4222' });
  expect(line.split('\n')).toEqual([
    "fleetreel-agent enroll --url https://fleet.example <<'END' &&",
    'acme:x',
    'END',
    'fleetreel-agent run --nats-url tls://nats.example:4222',
  ]);
  expect(lineOfFile({ file: 'web-1.creds', nats: 'nats://[2001:db8::1]:4222' })).toBe(
    'fleetreel-agent run --nats-url nats://[2001:db8::1]:4222 --nats-credentials web-1.creds',
  );
});

test('names and addresses that can not be are told, and nothing of them means something to a shell', () => {
  for (const host of ['', 'web-1', 'a', 'db.example_2', 'x'.repeat(128)]) expect(hostProblem(host), host).toBe('');
  expect(hostProblem('x'.repeat(129))).toMatch(/128 characters, and these are 129/);
  expect(hostProblem('-web')).toMatch(/begins and ends/);
  expect(natsProblem('nats-1:4222,tls://[2001:db8::1]:4222')).toBe('');
  expect(collectorProblem('https://fleet.example:7600')).toBe('');
  expect(collectorProblem('http://127.0.0.1:7600')).toBe('');
  expect(collectorProblem('http://fleet.example')).toMatch(/whoever listens/);
  for (const hostile of [
    'a b',
    '$(id)',
    '`id`',
    "a'b",
    'a;b',
    'a\nb',
    'a&b',
    'https://a/$(id)',
    'tls://a/b',
    'tls://a:1|b',
  ]) {
    expect(hostProblem(hostile), hostile).not.toBe('');
    expect(natsProblem(hostile), hostile).not.toBe('');
    expect(collectorProblem(hostile), hostile).not.toBe('');
  }
});
