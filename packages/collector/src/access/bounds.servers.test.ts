// What one tenant uses up to its bound, others have still.
import { randomBytes } from 'node:crypto';
import { Live } from '@fleetreel/proto/services';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Access } from '#access/access.ts';
import { type Clock, systemClock } from '#clock.ts';
import {
  accessTidyMilliseconds,
  customCallBytesMax,
  customTextCharactersMax,
  expiredKeyMilliseconds,
  keysMax,
  linksMax,
  liveConnectionsMax,
  replaysWaitingMax,
} from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { serveRooms, startFaces, startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const bounds = { age_ms: 3_600_000, bytes: 128 * 1024 * 1024 };
let nats: NatsServer;
let log: Log;
let faces: Awaited<ReturnType<typeof startFaces>>['faces'];
let telemetry: Awaited<ReturnType<typeof startFaces>>['telemetry'];
/** Of an admin of each tenant. */
const keys: Record<string, string> = {};

const until = (check: () => unknown) => expect.poll(check, { timeout: 60_000, interval: 20 });

beforeAll(async () => {
  nats = closing.use(await startNats());
  ({ faces, telemetry } = await startFaces(closing, 'none'));
  const { registry, ...started } = await startLog(closing, nats.url, bounds, telemetry);
  ({ log } = started);
  const allowances = { rate: 20_000, bytes: 1024, names: 100 };
  await serveRooms(closing, { telemetry, faces, log, registry, allowances });
  for (const tenant of ['full', 'other']) keys[tenant] = (await makeKey(tenant)).secret;
});

afterAll(() => closing.disposeAsync());

const makeKey = (tenant: string) =>
  faces.access.keys.create(
    { tenant, kind: 'user', id: 'test', name: 'test', scopes: new Set() },
    { name: 'test', scopes: ['admin'] },
  );

async function ask(tenant: string, method: string, path: string, body?: unknown) {
  const answer = await fetch(`http://127.0.0.1:${faces.http.port}/api/v1/${path}`, {
    method,
    headers: {
      'x-api-key': keys[tenant] ?? '',
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const retryAfter = answer.headers.get('retry-after');
  return {
    status: answer.status,
    retryAfter,
    body: (await answer.json()) as { code?: string; users?: { name: string }[] },
  };
}

/** Puts entries of the tenant that is full into the bucket, as if they had been made one by one. */
async function fill(kind: 'link' | 'key', count: number, content: object): Promise<() => Promise<void>> {
  const bucket = await log.buckets.open('access');
  const names = Array.from({ length: count }, () => `${kind}.${randomBytes(8).toString('hex')}`);
  const value = JSON.stringify({ tenant: 'full', digest: '', created: Date.now(), ...content });
  for (let first = 0; first < count; first += 500)
    await Promise.all(names.slice(first, first + 500).map((name) => bucket.put(name, value)));
  return async () => {
    for (let first = 0; first < count; first += 500)
      await Promise.all(names.slice(first, first + 500).map((name) => bucket.delete(name)));
  };
}

test('a tenant with all links that it may have makes no user without one, and others make theirs', async () => {
  const expires = Date.now() + 3_600_000;
  const remove = await fill('link', linksMax, { purpose: 'invite', role: 'viewer', user: 'gone', expires });
  const invite = (tenant: string, user: string) => ask(tenant, 'POST', 'users', { user, role: 'viewer' });
  let made = 0;
  await until(async () => (await invite('full', `ana${made++}`)).body.code).toBe('too_many_kept');
  const { body } = await ask('full', 'GET', 'users');
  expect(body.users?.map(({ name }) => name)).not.toContain(`ana${made - 1}`);
  expect((await invite('other', 'bea')).status).toBe(201);
  await remove();
  await until(async () => (await invite('full', `ana${made++}`)).status).toBe(201);
});

test('a tenant with all keys that it may have makes no other, and others do', async () => {
  const remove = await fill('key', keysMax, { name: 'x', scopes: [], createdBy: 'x', expires: null });
  const make = async (tenant: string) => await ask(tenant, 'POST', 'keys', { name: 'x', scopes: ['read'] });
  await until(async () => (await make('full')).body.code).toBe('too_many_kept');
  expect((await make('other')).status).toBe(201);
  await remove();
});

test('replays of a tenant that nobody opens keep no other tenant from making one', async () => {
  const play = async (tenant: string) => await ask(tenant, 'POST', 'replays?from=-1m');
  const made = await Promise.all(Array.from({ length: replaysWaitingMax + 5 }, () => play('full')));
  expect(made.filter(({ status: is }) => is === 201)).toHaveLength(replaysWaitingMax);
  expect(await play('full')).toMatchObject({ status: 429, body: { code: 'too_many_replays' } });
  expect((await play('other')).status).toBe(201);
});

test('a key that writes too many bytes is told when it may go on, and others write', async () => {
  const texts = Array.from({ length: 500 }, () => ({ name: 'long', text: 'x'.repeat(customTextCharactersMax) }));
  let taken = 0;
  let answer = await ask('full', 'POST', 'measure', texts);
  for (; answer.status === 200; taken++) answer = await ask('full', 'POST', 'measure', texts);
  expect(answer).toMatchObject({ status: 429, body: { code: 'write_rate_exceeded' } });
  expect(taken).toBe(Math.floor(customCallBytesMax / (500 * customTextCharactersMax)));
  expect(Number(answer.retryAfter)).toBeGreaterThan(1000);
  expect(await telemetry.registry.metrics()).toContain('custom_calls_refused_total{bound="bytes"} 1');
  expect((await ask('other', 'POST', 'measure', texts)).status).toBe(200);
});

test('a tenant with all live connections that it may have gets no other, and others do', async () => {
  const client = new Live(`127.0.0.1:${faces.grpc.port}`, credentials.createInsecure());
  const watch = (tenant: string) => {
    const metadata = new Metadata();
    metadata.set('x-api-key', keys[tenant] ?? '');
    const call = client.Watch({ watches: [{ table: 'memory' }] }, metadata);
    const ended = new Promise<number>((resolve) => call.on('error', ({ code }: ServiceError) => resolve(code)));
    call.resume();
    return { cancel: () => call.cancel(), ended };
  };
  const metric = async (name: string) =>
    Number(new RegExp(`^fleetreel_collector_${name} (\\d+)`, 'm').exec(await telemetry.registry.metrics())?.[1]);
  const open = async () => await metric('live_readers\\{face="grpc"\\}');
  const calls = Array.from({ length: liveConnectionsMax }, () => watch('full'));
  await until(open).toBe(liveConnectionsMax);
  expect(await watch('full').ended).toBe(status.RESOURCE_EXHAUSTED);
  const upgrade = async (tenant: string) => {
    const socket = new WebSocket(`ws://127.0.0.1:${faces.http.port}/api/v1/live`, {
      headers: { 'x-api-key': keys[tenant] },
    } as unknown as string[]);
    const opened = await new Promise<boolean>((resolve) => {
      socket.addEventListener('open', () => resolve(true));
      socket.addEventListener('error', () => resolve(false));
    });
    socket.close();
    return opened;
  };
  expect(await upgrade('full')).toBe(false);
  expect(await ask('full', 'GET', 'live')).toMatchObject({ status: 429, body: { code: 'too_many_live_connections' } });
  expect(await metric('live_refused_total')).toBe(3);
  expect(await upgrade('other')).toBe(true);
  const other = watch('other');
  await until(open).toBe(liveConnectionsMax + 1);
  other.cancel();
  for (const { cancel } of calls) cancel();
  await Promise.all(calls.map(({ ended }) => ended));
  await until(open).toBe(0);
  expect(await upgrade('full')).toBe(true);
  client.close();
});

test('a key is removed some days after it has expired', async () => {
  let ahead_ms = 0;
  const waits: (() => void)[] = [];
  const clock: Clock = {
    now_us: () => (Date.now() + ahead_ms) * 1000,
    monotonic_ms: () => performance.now(),
    sleep: (milliseconds, signal) =>
      milliseconds === accessTidyMilliseconds
        ? new Promise((resolve, reject) => {
            waits.push(resolve);
            signal?.addEventListener('abort', reject);
          })
        : systemClock.sleep(milliseconds, signal),
  };
  const access = new Access({ anonymous: 'none', telemetry, clock });
  await access.open(log);
  const by = { tenant: 'tidy', kind: 'user', id: 'test', name: 'test', scopes: new Set<never>() } as const;
  const make = async (ttl: string) => (await access.keys.create(by, { name: 'test', scopes: ['read'], ttl })).key.id;
  const [short, long, endless] = [await make('1m'), await make('1d'), await make('')];
  const listed = () => access.keys.list('tidy').map(({ id }) => id);
  ahead_ms = expiredKeyMilliseconds;
  waits.shift()?.();
  await until(() => waits.length).toBe(1);
  expect(listed().sort()).toEqual([short, long, endless].sort());
  ahead_ms += 60_000;
  waits.shift()?.();
  await until(() => listed().sort()).toEqual([long, endless].sort());
  await access.close();
});
