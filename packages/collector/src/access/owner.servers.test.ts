// The key of whoever runs the machine, at one start of a collector after the other.
import { chmodSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { startNats } from '@fleetreel/test/servers/nats';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Access } from '#access/access.ts';
import type { Identity } from '#access/identity.ts';
import { keepOwnerKey } from '#access/owner.ts';
import { Telemetry } from '#telemetry.ts';
import { startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const telemetry = new Telemetry('silent');
const machine = hostname();
const bounds = { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 };
let folder: string;
let file: string;
let log: Awaited<ReturnType<typeof startLog>>['log'];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fleetreel-owner-'));
  closing.defer(() => rmSync(folder, { recursive: true }));
  file = join(folder, 'owner.key');
  ({ log } = await startLog(closing, closing.use(await startNats()).url, bounds, telemetry));
});
afterAll(() => closing.disposeAsync());

/** A collector starts; whether it made a key, and who has the one in the file. */
async function start({ path = file, tenant = 'default', of = log } = {}) {
  const access = new Access({ anonymous: 'none', telemetry });
  await access.open(of);
  closing.defer(() => access.close());
  const made = await keepOwnerKey(access.keys, { path, tenant, machine }, (step) => step());
  const key = keyNow(path);
  return { access, made, key, who: whoHas(access, key) };
}
const keyNow = (path = file) => readFileSync(path, 'utf8').trim();
const whoHas = (access: Access, apiKey: string) => access.identify({ apiKey, address: '127.0.0.1' }, 'admin');

test('it is made once, for its owner alone, and found good again', async () => {
  const { key, made, who } = await start();
  expect(made).toMatchObject({ name: `owner of ${machine}`, scopes: ['admin'], expires: null });
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(who).toMatchObject<Partial<Identity>>({ tenant: 'default', kind: 'key' });
  expect(await start()).toMatchObject({ key, made: undefined });
});

test.each<[string, (before: Started) => unknown]>([
  ['it was revoked', ({ access, key }) => access.keys.revoke('default', key.split('_')[1] ?? '')],
  ['its file is gone', () => rmSync(file)],
  ['its file is empty', () => writeFileSync(file, '')],
  ['others can read its file', () => chmodSync(file, 0o644)],
  ['another is in the file', ({ key }) => writeFileSync(file, key.slice(0, -9) + 'x'.repeat(9))],
])('where %s, it is another one, and there is no more than one', async (_, change) => {
  const before = await start();
  expect(before.made).toBeUndefined();
  await change(before);
  const { access, made, key, who } = await start();
  expect(made).toBeDefined();
  expect(who.tenant).toBe('default');
  expect(statSync(file).mode & 0o777).toBe(0o600);
  expect(() => whoHas(access, before.key)).toThrow('none that is valid');
  expect(access.keys.list('default')).toHaveLength(1);
  expect((await start()).key).toBe(key);
});
type Started = Awaited<ReturnType<typeof start>>;

test('what is open by the one before ends', async () => {
  const { access, who } = await start();
  const ended = Promise.withResolvers<void>();
  access.attend(who, 'admin', () => ended.resolve());
  rmSync(file);
  await start();
  await ended.promise;
});

test('a log that knows nothing gets another one', async () => {
  const { key } = await start();
  const other = await startLog(closing, closing.use(await startNats()).url, bounds, telemetry);
  const { made, access } = await start({ of: other.log });
  expect(made).toBeDefined();
  expect(() => whoHas(access, key)).toThrow('none that is valid');
});

test('it is of one tenant, and each file has its own', async () => {
  const here = await start();
  const there = join(folder, 'acme.key');
  const { who, access } = await start({ path: there, tenant: 'acme' });
  expect(who.tenant).toBe('acme');
  expect(access.keys.list('default').map(({ id }) => id)).toEqual([here.key.split('_')[1]]);
  expect((await start({ path: there })).who.tenant).toBe('default');
});

test('something else in the file is left there, and a file that cannot be written is named', async () => {
  const path = join(folder, 'notes.txt');
  writeFileSync(path, 'of somebody else\n');
  await expect(start({ path })).rejects.toThrow(
    `access.owner_key: the file ${path} has something else in it than an API key, and is left as it is: name another.`,
  );
  expect(keyNow(path)).toBe('of somebody else');
  await expect(start({ path: join(folder, 'none', 'owner.key') })).rejects.toThrow(
    /^access\.owner_key: the file \S+ can't be written \(ENOENT/,
  );
});
