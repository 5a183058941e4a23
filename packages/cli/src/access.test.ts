import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '@fleetreel/deploy/local/port';
import { tellRunning } from '@fleetreel/deploy/local/running';
import { expect, test } from 'vitest';
import { accessOf, refusedBy } from '#access.ts';
import { UsageError } from '#command.ts';

test('the key of the own Fleetreel is taken where none is named, and for its address only', async () => {
  using closing = new DisposableStack();
  const home = mkdtempSync(join(tmpdir(), 'fleetreel-access-'));
  closing.defer(() => rmSync(home, { recursive: true }));
  const [own, other] = [join(home, 'owner.key'), join(home, 'other.key')];
  writeFileSync(own, 'frk_own\n');
  writeFileSync(other, 'frk_other\n');
  const port = await freePort();
  const server = createServer().listen(port, '127.0.0.1');
  closing.defer(() => server.close());
  await once(server, 'listening');
  const address = `127.0.0.1:${port}`;
  expect(accessOf(address, {}, home)).toMatchObject({ key: undefined, ownFile: undefined });
  closing.use(tellRunning({ env: {}, home }, port, own));
  expect(accessOf(address, {}, home)).toMatchObject({ key: 'frk_own', ownFile: own });
  expect(accessOf(`fleet.example:${port}`, {}, home).key).toBeUndefined();
  expect(accessOf(address, { FLEETREEL_KEY: 'frk_given' }, home).key).toBe('frk_given');
  expect(accessOf(address, { FLEETREEL_KEY_FILE: other }, home)).toMatchObject({
    key: 'frk_other',
    ownFile: undefined,
  });
  expect(() => accessOf(address, { FLEETREEL_KEY_FILE: join(home, 'none.key') }, home)).toThrow(UsageError);
});

test.each([
  [{ key: undefined, ownFile: undefined }, /there are no credentials: set FLEETREEL_KEY, .* --key-file\. Sign in/],
  [{ key: 'frk_x', ownFile: undefined }, /does not know this API key/],
  [{ key: 'frk_x', ownFile: '/data/owner.key' }, /does not know the API key in \/data\/owner\.key, .* `fleetreel up`/],
])('who is not known is told what to do', (who, sentence) => {
  const told = refusedBy('127.0.0.1:7601', { ...who, tls: false, ca: null });
  expect(told).toMatch(sentence);
  expect(told).not.toContain('frk_x');
});
