// What collectors know of users, keys and hosts while the log is killed and comes back, on a real nats-server.
import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { JetStreamApiError } from '@nats-io/jetstream';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Access } from '#access/access.ts';
import { Entries } from '#access/entries.ts';
import { makeSecret } from '#access/secret.ts';
import { type Clock, systemClock } from '#clock.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { Follower } from '#log/follow.ts';
import type { Registry } from '#log/registry.ts';
import { buckets, isOvertaken } from '#log/stream.ts';
import { Telemetry } from '#telemetry.ts';
import { describedHost, startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const telemetry = new Telemetry('silent');
let nats: NatsServer;
let one: Collector;
let two: Collector;

type Collector = { log: Log; registry: Registry; entries: Entries };

async function startCollector(): Promise<Collector> {
  const { log, registry } = await startLog(closing, nats.url, { age_ms: 3_600_000, bytes: 64 * 1024 ** 2 }, telemetry);
  const entries = new Entries(systemClock, telemetry);
  await entries.open(log);
  closing.defer(() => entries.close());
  expect(entries.isFilled).toBe(true);
  return { log, registry, entries };
}

beforeAll(async () => {
  nats = closing.use(await startNats());
  one = await startCollector();
  two = await startCollector();
});

afterAll(() => closing.disposeAsync());

/** Well below the minute after which the client itself notices that its consumer is gone. */
const soon = { timeout: 20_000, interval: 20 };

/** Kills the log and starts it again; resolves when both are connected. What is asked before that waits for long. */
async function killLog(meanwhile: () => void = () => undefined): Promise<void> {
  const connected = Promise.all([one, two].map(({ log }) => reconnection(log)));
  await nats.kill();
  meanwhile();
  await nats.restart();
  await connected;
}

async function reconnection({ connection }: Log): Promise<void> {
  for await (const { type } of connection.status()) if (type === 'reconnect') return;
}

const used = (time: number) => ({ time, address: '127.0.0.1' });

test('what is known stays known while the log is killed, and until all of it is read again', async () => {
  const ids = Array.from({ length: 2000 }, (_, index) => `known${index}`);
  await Promise.all(ids.map((id) => one.entries.put('used', id, used(1))));
  await expect.poll(() => [...two.entries.list('used')].length, soon).toBe(ids.length);
  const missed = new Set<string>();
  // Every change that is told of, and between them: none of them is the loss of one that is there.
  const ends = [one, two].map(({ entries }) =>
    entries.onChange((kind, id) => {
      if (kind === 'used' && entries.get(kind, id) === undefined) missed.add(id);
    }),
  );
  const looking = setInterval(() => {
    for (const { entries } of [one, two]) for (const id of ids) if (!entries.get('used', id)) missed.add(id);
  }, 1);
  try {
    for (let round = 2; round < 5; round++) {
      await killLog();
      // Also while it is read again others go on to write.
      const writing = Array.from({ length: 500 }, (_, index) =>
        expect
          .poll(() => one.entries.put('used', ids[(index * 7) % ids.length] ?? '', used(round)), soon)
          .toBe(undefined),
      );
      await Promise.all(writing);
      await expect.poll(() => two.entries.get('used', ids[3493 % ids.length] ?? '')?.time, soon).toBe(round);
    }
  } finally {
    clearInterval(looking);
    for (const end of ends) end();
  }
  expect(missed).toEqual(new Set());
});

test('what another collector makes and takes away is known soon after the log has lost who followed it', async () => {
  await one.entries.put('used', 'taken', used(1));
  await expect.poll(() => two.entries.get('used', 'taken'), soon).toEqual(used(1));
  await killLog(() => {
    // As after some minutes away, or on the server of a cluster that is gone.
    for (const bucket of [buckets.access, buckets.hosts]) {
      const folder = join(nats.data, 'jetstream/$G/streams', `KV_${bucket}`, 'obs');
      expect(readdirSync(folder).length).toBeGreaterThan(0);
      rmSync(folder, { recursive: true });
    }
  });
  const done = (ask: () => Promise<void>) => expect.poll(() => ask().catch(String), soon).toBe(undefined);
  await done(() => one.entries.remove('used', 'taken'));
  await done(() => one.entries.put('used', 'made', used(2)));
  await expect
    .poll(() => ['taken', 'made'].map((id) => two.entries.get('used', id)), soon)
    .toEqual([undefined, used(2)]);
  await done(() => one.registry.describe('default', describedHost('web-1')));
  const hosts = () => [one, two].map(({ registry }) => registry.get('default', 'web-1')?.host);
  await expect.poll(hosts, soon).toEqual(['web-1', 'web-1']);
});

test('what is gone without a word is forgotten when the bucket was read again', async () => {
  await one.entries.put('used', 'gone', used(1));
  await expect.poll(() => two.entries.get('used', 'gone'), soon).toEqual(used(1));
  const other = await connectLog(nats.url);
  try {
    const told = Promise.withResolvers<void>();
    closing.defer(two.entries.onChange((_, id) => id === 'gone' && told.resolve()));
    // No mark of it stays, and so nobody is told: as if it had been removed and tidied up while a collector was away.
    await other.manager.streams.purge(`KV_${buckets.access}`, { filter: `$KV.${buckets.access}.used.gone` });
    expect(two.entries.get('used', 'gone')).toEqual(used(1));
    await two.log.connection.reconnect();
    await told.promise;
    expect(two.entries.get('used', 'gone')).toBeUndefined();
    expect(two.entries.get('used', 'made')).toEqual(used(2));
  } finally {
    await other.connection.close();
  }
});

test('of a bucket that was made anew nothing of before is true', async () => {
  const other = await connectLog(nats.url);
  try {
    await other.manager.streams.delete(`KV_${buckets.access}`);
    await other.buckets.create(buckets.access, { history: 1 });
    await two.log.connection.reconnect();
    await expect.poll(() => [...two.entries.list('used')].length, soon).toBe(0);
    // Its versions begin again at 1, below those that were known.
    await expect.poll(async () => await two.entries.put('used', 'made', used(3)).catch(String), soon).toBe(undefined);
    expect(two.entries.get('used', 'made')).toEqual(used(3));
  } finally {
    await other.connection.close();
  }
});

test('an entry that can not be read is left out, told once, and keeps nothing else from being known', async () => {
  const other = await connectLog(nats.url);
  try {
    const hosts = await other.buckets.open(buckets.hosts);
    await hosts.put('default.broken', '{"firstSeen": 17');
    await hosts.put('default.foreign', '17');
    const after = () => [one, two].map(({ registry }) => registry.get('default', 'after')?.host);
    await one.registry.describe('default', describedHost('after'));
    await expect.poll(after, soon).toEqual(['after', 'after']);
    // Also when all is read again.
    const found = await startCollector();
    expect(found.registry.get('default', 'after')?.host).toBe('after');
    for (const host of ['broken', 'foreign']) expect(found.registry.get('default', host)).toBeUndefined();
    await two.log.connection.reconnect();
    await one.registry.describe('default', describedHost('later'));
    await expect.poll(() => two.registry.get('default', 'later')?.host, soon).toBe('later');
    const told = /bucket_entries_unreadable_total{bucket="hosts"} (\d+)/;
    // Two entries, by each of three.
    expect((await telemetry.registry.metrics()).match(told)?.[1]).toBe('6');
    // What the host says of itself is written over it.
    await one.registry.describe('default', describedHost('broken'));
    await expect.poll(() => found.registry.get('default', 'broken')?.host, soon).toBe('broken');
  } finally {
    await other.connection.close();
  }
});

test('why a bucket can not be read is said once, however often it is tried', async () => {
  const said: string[] = [];
  const telling = Object.assign(new Telemetry('silent'), {
    bucketNotFollowed: (bucket: string, reason: string) => said.push(`${bucket}: ${reason}`),
  });
  let tries = 0;
  const clock: Clock = {
    ...systemClock,
    sleep: (_, signal) => {
      tries++;
      return systemClock.sleep(1, signal);
    },
  };
  const filled = Promise.withResolvers<void>();
  const follow = { take: () => undefined, filled: filled.resolve };
  await using _ = new Follower({ log: one.log, telemetry: telling, clock }, 'missing', follow);
  await expect.poll(() => tries, soon).toBeGreaterThan(5);
  expect(said).toEqual([expect.stringMatching(/^missing: .*not found/)]);
  await one.log.buckets.create('missing', { history: 1 });
  await filled.promise;
});

test('who can not be known without the log is told to come again, and not that he is nobody', () => {
  const access = new Access({ anonymous: 'none', telemetry });
  for (const kind of ['key', 'session'] as const)
    expect(() =>
      access.identify({ authorization: `Bearer ${makeSecret(kind).text}`, address: '127.0.0.1' }, 'read'),
    ).toThrow(expect.objectContaining({ code: 'log_unavailable' }));
});

test('somebody was faster is told from whatever else goes wrong', async () => {
  const bucket = await one.log.buckets.open(buckets.access);
  const revision = await bucket.create('used.raced', '1');
  const errorOf = (asked: Promise<unknown>) => asked.then(() => undefined).catch((cause: unknown) => cause);
  expect(isOvertaken(await errorOf(bucket.create('used.raced', '2')))).toBe(true);
  expect(isOvertaken(await errorOf(bucket.update('used.raced', '2', revision - 1)))).toBe(true);
  expect(isOvertaken(await errorOf(bucket.delete('used.raced', { previousSeq: revision + 1 })))).toBe(true);
  const missing = await errorOf(one.log.manager.streams.info('nothing'));
  expect(missing).toBeInstanceOf(JetStreamApiError);
  expect(isOvertaken(missing)).toBe(false);
});
