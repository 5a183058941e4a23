import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { inspect, promisify } from 'node:util';
import { expect, test, vi } from 'vitest';
import { Client, ConfigurationError, type Drop, type FleetreelError, type KindStats, type Options } from '#client.ts';
import { ScriptedServer, taken } from '#scripted.ts';

const key = 'frk_k1_abcdefghijklmnopqrstuvwxyz';
const soon = { timeout: 20_000, interval: 20 };

type Told = { errors: FleetreelError[]; drops: Drop[] };

/** A client that sends at once and says nothing, and what it told. */
function clientOf(url: string, options: Partial<Options> = {}): { client: Client; told: Told } {
  const told: Told = { errors: [], drops: [] };
  const client = new Client({
    url,
    key,
    flushMilliseconds: 10,
    onError: (error) => told.errors.push(error),
    onDrop: (drop) => told.drops.push(drop),
    ...options,
  });
  return { client, told };
}

const sum = ({ waiting, acknowledged, dropped }: KindStats) =>
  waiting + acknowledged + Object.values(dropped).reduce((all, one) => all + one, 0);

/** A port of loopback on which nobody listens. */
async function nobody(): Promise<{ port: number; url: string }> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return { port, url: `http://127.0.0.1:${port}` };
}

const values = (server: ScriptedServer) => server.entries.map(({ value }) => value);
const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);

test('entries go in requests of so many, each with an id and the key', async () => {
  await using server = await ScriptedServer.start();
  const { client, told } = clientOf(server.url, { batchCount: 100 });
  for (const value of upTo(250)) client.measure('queue.length', value, { shard: 'a', hot: true, size: 1.5 });
  client.event('deployed', 'version 3', { by: 'ana' }, { severity: 'warning', time: 1000, end: new Date(2000) });
  expect(await client.close()).toBe(true);
  const measures = server.seen.filter(({ path }) => path === '/api/v1/measure');
  expect(measures.map(({ entries }) => entries.length)).toEqual([100, 100, 50]);
  expect(measures.flatMap(({ entries }) => entries.map(({ value }) => value))).toEqual(upTo(250));
  expect(measures[0]?.entries[0]).toEqual({
    name: 'queue.length',
    value: 0,
    time: expect.closeTo(Date.now(), -5),
    metadata: { shard: 'a', hot: true, size: 1.5 },
  });
  const [event] = server.seen.filter(({ path }) => path === '/api/v1/event');
  expect(event?.entries).toEqual([
    { name: 'deployed', text: 'version 3', time: 1000, end: 2000, severity: 'warning', metadata: { by: 'ana' } },
  ]);
  expect(new Set(server.seen.map(({ id }) => id)).size).toBe(4);
  expect(new Set(server.seen.map(({ authorization }) => authorization))).toEqual(new Set([`Bearer ${key}`]));
  expect(client.stats().measure).toMatchObject({ given: 250, acknowledged: 250, waiting: 0, waitingBytes: 0 });
  expect(told).toEqual({ errors: [], drops: [] });
});

test('a request has no more bytes than it may', async () => {
  await using server = await ScriptedServer.start();
  const { client, told } = clientOf(server.url, { batchBytes: 1000 });
  for (const value of upTo(50)) client.measure('m', value, { text: 'ä€😀'.repeat(20) });
  client.measure('m', 50, { text: 'x'.repeat(1000) });
  expect(await client.close()).toBe(true);
  expect(values(server)).toEqual(upTo(50));
  for (const { entries } of server.seen)
    expect(Buffer.byteLength(entries.map((entry) => `${JSON.stringify(entry)}\n`).join(''))).toBeLessThanOrEqual(1000);
  expect(told.errors.map(({ code }) => code)).toEqual(['invalid_entry']);
  expect(sum(client.stats().measure)).toBe(51);
});

test('what fails is sent again under its id, after growing pauses, and what was asked for', async () => {
  await using server = await ScriptedServer.start((_, index) => {
    if (index === 0) return { status: 503, body: 'nothing that can be read' };
    if (index === 1) return { status: 408 };
    if (index === 2) return { status: 429, headers: { 'retry-after': '1' }, body: { code: 'busy', detail: 'Later.' } };
    return index === 3 ? { status: 500 } : taken;
  });
  const { client, told } = clientOf(server.url);
  client.measure('m', 1);
  await vi.waitFor(() => expect(client.stats().measure.acknowledged).toBe(1), soon);
  client.measure('m', 2);
  expect(await client.close()).toBe(true);
  expect(values(server)).toEqual([1, 1, 1, 1, 1, 2]);
  expect(new Set(server.seen.slice(0, 5).map(({ id }) => id)).size).toBe(1);
  expect(server.seen[5]?.id).not.toBe(server.seen[0]?.id);
  expect((server.seen[3]?.at ?? 0) - (server.seen[2]?.at ?? 0)).toBeGreaterThanOrEqual(990);
  expect(told.errors.map(({ code }) => code)).toEqual(['http_503', 'http_408', 'busy', 'http_500']);
  expect(told.errors.map(({ message }) => message)).toContain('Later.');
  expect(client.stats().measure).toMatchObject({ retries: 4, acknowledged: 2 });
});

test('a request that the collector always fails at is given up, and the next one goes', async () => {
  await using server = await ScriptedServer.start(({ entries }) => (entries[0]?.value === 1 ? { status: 500 } : taken));
  const { client, told } = clientOf(server.url, { batchCount: 1 });
  client.measure('m', 1);
  client.measure('m', 2);
  await vi.waitFor(() => expect(client.stats().measure.acknowledged).toBe(1), soon);
  expect(client.stats().measure.dropped.rejected).toBe(1);
  expect(told.drops).toMatchObject([{ kind: 'measure', reason: 'rejected', count: 1, error: { code: 'http_500' } }]);
  await client.close();
});

test('what is refused is dropped, and told of once', async () => {
  await using server = await ScriptedServer.start(() => ({
    status: 403,
    body: { code: 'forbidden', detail: `The key ${key} may not write measures.`, parameter: 'name' },
  }));
  const { client, told } = clientOf(server.url, { batchCount: 10 });
  for (const value of upTo(50)) client.measure('m', value);
  await client.flush();
  expect(server.seen).toHaveLength(5);
  expect(told.drops).toMatchObject([
    { reason: 'rejected', count: 10, error: { status: 403, code: 'forbidden', parameter: 'name' } },
  ]);
  await client.close();
  expect(told.drops.map(({ count }) => count)).toEqual([10, 40]);
  expect(client.stats().measure.dropped.rejected).toBe(50);
  expect(inspect([client, told], { depth: 20, showHidden: true })).not.toContain(key);
});

test('without the entries that are refused one by one the others are sent', async () => {
  await using server = await ScriptedServer.start(({ entries }) => {
    const index = entries.findIndex(({ value }) => value === 3 || value === 7);
    return index < 0 ? taken : { status: 400, body: { code: 'bad_entry', detail: 'Bad.', index } };
  });
  const { client, told } = clientOf(server.url);
  for (const value of upTo(10)) client.measure('m', value);
  expect(await client.close()).toBe(true);
  expect(server.seen.at(-1)?.entries.map(({ value }) => value)).toEqual([0, 1, 2, 4, 5, 6, 8, 9]);
  expect(new Set(server.seen.map(({ id }) => id)).size).toBe(3);
  expect(client.stats().measure).toMatchObject({ acknowledged: 8, dropped: { rejected: 2 } });
  expect(told.drops.map(({ count }) => count)).toEqual([1, 1]);
});

test('beyond its bounds the queue drops the oldest, and says how many', async () => {
  const { port, url } = await nobody();
  const { client, told } = clientOf(url, { queueCount: 1000, batchCount: 100 });
  for (const value of upTo(10_000)) client.measure('m', value);
  await vi.waitFor(() => expect(told.errors.map(({ code }) => code)).toEqual(['connection']), soon);
  const before = client.stats().measure;
  expect(before.waiting).toBeLessThanOrEqual(1000);
  expect(sum(before)).toBe(10_000);
  await using server = await ScriptedServer.start(undefined, port);
  await client.flush(20_000);
  // The first request was under way while the queue overflowed.
  expect(values(server).slice(-900)).toEqual(upTo(10_000).slice(-900));
  expect(client.stats().measure.acknowledged).toBe(server.entries.length);
  await client.close();
  expect(told.drops.every(({ reason }) => reason === 'full')).toBe(true);
  expect(told.drops.reduce((all, { count }) => all + count, 0)).toBe(client.stats().measure.dropped.full);
});

test('bytes bound the queue as well', async () => {
  const { url } = await nobody();
  const { client } = clientOf(url, { queueBytes: 20_000, batchBytes: 1000, closeMilliseconds: 50 });
  for (const value of upTo(1000)) client.measure('m', value, { text: 'x'.repeat(100) });
  expect(client.stats().measure.waitingBytes).toBeLessThanOrEqual(20_000);
  expect(client.stats().measure.waiting).toBeGreaterThan(100);
  await client.close();
});

const unreadable = {
  get text(): string {
    throw new Error('not now');
  },
};
test.each<[string, (client: Client) => unknown, RegExp]>([
  ['no name', (client) => client.measure(undefined as never, 1), /name of a measure .* not undefined/],
  ['a name with a space', (client) => client.measure('a b', 1), /not "a b"/],
  ['no value', (client) => client.measure('m', undefined as never), /"m" has a value .*: undefined/],
  ['not a number', (client) => client.measure('m', Number.NaN), /NaN/],
  ['too large a number', (client) => client.measure('m', Infinity), /Infinity/],
  ['a large integer of another type', (client) => client.measure('m', 1n as never), /type bigint/],
  ['too long a text', (client) => client.measure('m', 'x'.repeat(8193)), /8193 characters; 8192/],
  ['metadata that are none', (client) => client.measure('m', 1, [] as never), /no object/],
  ['a value of metadata', (client) => client.measure('m', 1, { a: {} as never }), /under "a"/],
  ['a key of metadata', (client) => client.measure('m', 1, { 'a b': 1 }), /under "a b"/],
  ['metadata that throw', (client) => client.measure('m', 1, unreadable), /not now/],
  ['a time', (client) => client.measure('m', 1, {}, { time: new Date('nonsense') }), /a time that is no date/],
  ['a text', (client) => client.event('e', 1 as never), /"e" has a text that is none: 1/],
  ['a severity', (client) => client.event('e', '', {}, { severity: 'loud' as never }), /severity "loud"/],
  ['an end before the begin', (client) => client.event('e', '', {}, { time: 2, end: 1 }), /ends before it begins/],
])('%s that can not be is told and counted, and nothing is thrown', async (_, give, message) => {
  const { url } = await nobody();
  const { client, told } = clientOf(url);
  give(client);
  expect(told.errors.map((error) => error.message)).toEqual([expect.stringMatching(message)]);
  const { measure, event } = client.stats();
  expect(measure.dropped.invalid + event.dropped.invalid).toBe(1);
  expect(measure.waiting + event.waiting).toBe(0);
  expect(await client.close()).toBe(true);
});

test.each<[string, object, RegExp]>([
  ['no address', { key }, /"url"/],
  ['another scheme', { url: 'ftp://h', key }, /http or https/],
  ['a password', { url: `http://u:${key}@h`, key }, /user name or a password/],
  ['no key', { url: 'http://h' }, /no key/],
  ['a key with a line break', { url: 'http://h', key: `${key}\n` }, /characters that no key has/],
  ['an unknown option', { url: 'http://h', key, batchSize: 1 }, /no option "batchSize"/],
  ['no number', { url: 'http://h', key, batchCount: '1' }, /"batchCount" is a whole number/],
  ['a request larger than the queue', { url: 'http://h', key, queueCount: 10 }, /no more than the queue/],
  ['no function', { url: 'http://h', key, onDrop: 1 }, /"onDrop" is no function/],
])('a client with %s is not made', (_, options, message) => {
  let thrown: unknown;
  try {
    new Client(options as never);
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toBeInstanceOf(ConfigurationError);
  expect((thrown as Error).message).toMatch(message);
  expect(inspect(thrown)).not.toContain(key);
});

test('what the application does with what it is told does not reach it', async () => {
  const { url } = await nobody();
  const said = vi.spyOn(console, 'error').mockImplementation(() => {});
  const { client } = clientOf(url, {
    onError: async () => Promise.reject(new Error('mine')),
    onDrop: () => {
      throw new Error('mine too');
    },
    queueCount: 1,
    batchCount: 1,
    closeMilliseconds: 50,
  });
  client.measure('', 1);
  for (const value of upTo(5)) client.measure('m', value);
  expect(await client.close()).toBe(false);
  expect(said).toHaveBeenCalled();
  said.mockRestore();
});

test('a collector that says nothing is left after the time, and asked again', async () => {
  await using server = await ScriptedServer.start((_, index) => (index === 0 ? undefined : taken));
  const { client, told } = clientOf(server.url, { requestMilliseconds: 2000 });
  client.measure('m', 1);
  await vi.waitFor(() => expect(client.stats().measure.acknowledged).toBe(1), soon);
  expect(told.errors.map(({ message }) => message)).toEqual([`${server.url} did not answer within 2 s.`]);
  await client.close();
});

test('what says yes and is no collector has taken nothing', async () => {
  const others = [`<html>${key}`, { ok: true }, 'null'].map((body) => ({ status: 200, body }));
  await using server = await ScriptedServer.start((_, index) => others[index] ?? taken);
  const { client, told } = clientOf(server.url);
  client.measure('m', 1);
  await vi.waitFor(() => expect(client.stats().measure.acknowledged).toBe(1), soon);
  expect([server.seen.length, new Set(server.seen.map(({ id }) => id)).size]).toEqual([4, 1]);
  expect(told.errors.map(({ message }) => message)).toEqual([expect.stringMatching(/^The answer of .* can't be read/)]);
  expect(inspect(told)).not.toContain(key);
  await expect(client.measures().next()).rejects.toThrow('is none of a collector');
  await client.close();
});

test('the key is not sent on to another address', async () => {
  await using other = await ScriptedServer.start();
  await using server = await ScriptedServer.start(() => ({ status: 307, headers: { location: other.url } }));
  const { client, told } = clientOf(server.url);
  client.measure('m', 1);
  await client.close();
  expect(other.seen).toEqual([]);
  expect(told.drops).toMatchObject([{ reason: 'rejected', error: { code: 'redirected' } }]);
});

test('closing waits no longer than it may, and what comes afterwards is counted', async () => {
  await using server = await ScriptedServer.start(() => undefined);
  const { client, told } = clientOf(server.url, { closeMilliseconds: 100 });
  for (const value of upTo(3)) client.measure('m', value);
  expect(await client.close()).toBe(false);
  client.measure('m', 4);
  client.event('e', 'late');
  const { measure, event } = client.stats();
  expect(measure).toMatchObject({ given: 4, waiting: 0, acknowledged: 0, dropped: { closed: 4 } });
  expect(event.dropped.closed).toBe(1);
  expect(told.drops[0]).toMatchObject({ kind: 'measure', reason: 'closed', count: 3 });
});

/** A server that takes what comes, but not before it is let. */
async function startHeld(): Promise<{ server: ScriptedServer; letGo: () => void }> {
  const { promise, resolve } = Promise.withResolvers<void>();
  return { server: await ScriptedServer.start(() => promise.then(() => taken)), letGo: resolve };
}

/** Whether something is still to come after all that can be done at once. */
const isPending = async (promise: Promise<unknown>) =>
  await Promise.race([promise.then(() => false), new Promise((resolve) => setImmediate(resolve, true))]);

test('what is given while it closes is dropped, and what waited is sent', async () => {
  const { server, letGo } = await startHeld();
  await using _ = server;
  const { client } = clientOf(server.url);
  for (const value of upTo(3)) client.measure('m', value);
  const closing = client.close(60_000);
  for (const value of upTo(3)) client.measure('m', value);
  expect(await isPending(closing)).toBe(true);
  letGo();
  expect(await closing).toBe(true);
  expect(client.stats().measure).toMatchObject({ given: 6, acknowledged: 3, dropped: { closed: 3 } });
});

test('flushing waits for what there was, whatever becomes of what comes later', async () => {
  const { server, letGo } = await startHeld();
  await using _ = server;
  const { client } = clientOf(server.url, { batchCount: 3, queueCount: 10 });
  for (const value of upTo(3)) client.measure('m', value);
  const flushed = client.flush(60_000);
  for (const value of upTo(3)) client.measure('', value);
  for (const value of upTo(20)) client.measure('m', value);
  expect(client.stats().measure.dropped).toMatchObject({ invalid: 3, full: 13 });
  expect(await isPending(flushed)).toBe(true);
  letGo();
  expect(await flushed).toBe(true);
  expect(client.stats().measure.acknowledged).toBeGreaterThanOrEqual(3);
  expect(await client.close(60_000)).toBe(true);
});

test.each([Infinity, 2 ** 31, Number.NaN])('flushing for %d milliseconds waits', async (milliseconds) => {
  const { server, letGo } = await startHeld();
  await using _ = server;
  const { client } = clientOf(server.url, { closeMilliseconds: 60_000 });
  client.measure('m', 1);
  const flushed = client.flush(milliseconds);
  await vi.waitFor(() => expect(server.seen).toHaveLength(1), soon);
  expect(await client.flush(-1)).toBe(false);
  letGo();
  expect(await flushed).toBe(true);
  expect(await client.close(milliseconds)).toBe(true);
});

test('closing does not wait until a collector that is away has said to come back, but until one that has too much', async () => {
  const later = { 'retry-after': '300' };
  await using away = await ScriptedServer.start((_, index) => (index === 0 ? { status: 503, headers: later } : taken));
  await using busy = await ScriptedServer.start(() => ({ status: 429, headers: later }));
  const first = clientOf(away.url).client;
  const second = clientOf(busy.url).client;
  for (const client of [first, second]) {
    client.measure('m', 1);
    await vi.waitFor(() => expect(client.stats().measure.retries).toBe(1), soon);
  }
  expect(await Promise.all([first.close(30_000), second.close(100)])).toEqual([true, false]);
  expect([away.seen.length, busy.seen.length]).toEqual([2, 1]);
});

test('times of what was found are looked for as they are', async () => {
  await using server = await ScriptedServer.start(() => ({ status: 200, body: { measures: [], before: null } }));
  const { client } = clientOf(server.url);
  await Array.fromAsync(client.measures({ from: 1763802964123.456, to: new Date(1763802964124) }));
  const { searchParams } = new URL(server.seen[0]?.path ?? '', server.url);
  expect([searchParams.get('from'), searchParams.get('to')]).toEqual(['1763802964123.456', '1763802964124']);
});

const program = join(import.meta.dirname, 'fixtures/ends.ts');

test('what was given before the end of a process is sent, and it ends', async () => {
  await using server = await ScriptedServer.start();
  await promisify(execFile)(process.execPath, [program], { env: { ...process.env, URL: server.url }, timeout: 30_000 });
  expect(values(server)).toEqual(upTo(10));
});

test('a process ends within the time when the collector is away, and says what it dropped', async () => {
  const { url } = await nobody();
  const child = spawn(process.execPath, [program], { env: { ...process.env, URL: url, CLOSE: '300' } });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => (said += part));
  const killer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  expect(await once(child, 'close')).toEqual([0, null]);
  clearTimeout(killer);
  expect(said).toMatch(/10 measures were dropped: they were not acknowledged when the client ended/);
});

test('a process ends where what it is told of a drop makes it write', async () => {
  const { url } = await nobody();
  const env = { ...process.env, URL: url, CLOSE: '100', WRITES: '1' };
  await promisify(execFile)(process.execPath, [program], { env, timeout: 30_000 });
});

test('at the end of a process it is told of all that came since it was told of last', async () => {
  const { url } = await nobody();
  const { stderr } = await promisify(execFile)(process.execPath, [program], {
    env: { ...process.env, URL: url, INVALID: '1' },
    timeout: 30_000,
  });
  expect(stderr).toMatch(/The name of a measure .*\n.*The name of a measure .* \(999 times\)\n/);
});
