import { expect, test } from 'vitest';
import { Access } from '#access/access.ts';
import { Telemetry } from '#telemetry.ts';

test.each([
  ['127.0.0.1', true],
  ['127.9.9.9', true],
  ['::1', true],
  ['::ffff:127.0.0.1', true],
  ['192.0.2.1', false],
  ['::ffff:192.0.2.1', false],
  ['2001:db8::1', false],
  ['unknown', false],
  ['', false],
])('what whoever brings no credentials may do, from "%s": %s', (address, may) => {
  const access = new Access({ anonymous: 'admin', telemetry: new Telemetry('silent') });
  const identify = () => access.identify({ address }, 'admin').kind;
  if (may) expect(identify()).toBe('anonymous');
  else expect(identify).toThrow('none that is valid');
});

test('who is not known yet is not said to be nobody', async () => {
  const { users } = new Access({ anonymous: 'none', telemetry: new Telemetry('silent') });
  await expect(users.linkOf('ada')).rejects.toMatchObject({ code: 'log_unavailable' });
});
