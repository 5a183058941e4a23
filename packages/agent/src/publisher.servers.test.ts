import { randomBytes } from 'node:crypto';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { anySubject, parseSubject } from '@fleetreel/proto';
import { decodeBatch } from '@fleetreel/proto/batch';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { jetstream, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { connect, type NatsConnection, nanos } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { Publisher, type PublisherOptions } from '#publisher.ts';
import { Telemetry } from '#telemetry.ts';

let nats: NatsServer;
let reader: NatsConnection;

beforeAll(async () => {
  nats = await startNats();
  reader = await connect({ servers: nats.url, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
  const manager = await jetstreamManager(reader);
  await manager.streams.add({
    name: 'FRAMES',
    subjects: ['fr.v1.>'],
    storage: StorageType.File,
    duplicate_window: nanos(120_000),
  });
});

afterAll(async () => {
  await reader?.close();
  await nats?.[Symbol.asyncDispose]();
});

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-publisher-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** A publisher that is not connected yet. */
function publisherOf(host: string, more: Partial<PublisherOptions> = {}) {
  const telemetry = new Telemetry('silent');
  const session = randomBytes(8).toString('hex');
  const publisher = new Publisher({
    tenant: 'default',
    host,
    session,
    queue: { frames: 20_000, bytes: 64 * 1024 * 1024 },
    spool: { folder: join(temporaryFolder(), 'spool'), bytes: 64 * 1024 * 1024, age_ms: 86_400_000, sync_ms: 1000 },
    upload_interval_ms: 0,
    clock: systemClock,
    telemetry,
    ...more,
  });
  onTestFinished(async () => void (await publisher.stop(0)));
  return { publisher, telemetry, session, host };
}

/** Connects a publisher, and tells it when the connection is lost and made again. */
async function open(publisher: Publisher): Promise<void> {
  const connection = await connect({ servers: nats.url, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
  onTestFinished(() => connection.close());
  void (async () => {
    for await (const { type } of connection.status())
      if (type === 'disconnect') publisher.disconnected();
      else if (type === 'reconnect') publisher.reconnected();
  })();
  publisher.open(connection);
}

const frame = (sequence: number, bytes = 1000) => Buffer.alloc(bytes, `${sequence} `);
const publish = (publisher: Publisher, sequences: readonly number[]) => {
  for (const sequence of sequences) publisher.publish(sequence, Date.now() * 1000, frame(sequence));
};

/** The sequences that the log has of a host, in its order, of those the ones that came alone, and the number of messages. */
async function stored(host: string): Promise<{ all: number[]; alone: number[]; messages: number }> {
  const consumer = await jetstream(reader).consumers.get('FRAMES', {
    filter_subjects: [anySubject('frame'), anySubject('batch')],
  });
  const all: number[] = [];
  const alone: number[] = [];
  let messages = 0;
  const { num_pending } = await consumer.info();
  if (num_pending === 0) return { all, alone, messages };
  for await (const message of await consumer.fetch({ max_messages: num_pending, expires: 30_000 })) {
    const address = parseSubject(message.subject);
    if (address?.host !== host) continue;
    const frames = address.kind === 'batch' ? decodeBatch(message.data) : [message.data];
    const sequences = frames.map((bytes) => Number.parseInt(Buffer.from(bytes.subarray(0, 20)).toString(), 10));
    messages++;
    all.push(...sequences);
    if (address.kind === 'frame') alone.push(...sequences);
  }
  return { all, alone, messages };
}

const ascending = (numbers: readonly number[]) => numbers.toSorted((a, b) => a - b);
const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const drained = (publisher: Publisher) =>
  expect.poll(() => publisher.spooled.frames + publisher.waiting.frames, { timeout: 60_000 }).toBe(0);

test('while the log takes everything, the disk is not touched', async () => {
  const folder = join(temporaryFolder(), 'spool');
  const { publisher, telemetry, host } = publisherOf('steady', {
    spool: { folder, bytes: 1e6, age_ms: 1e6, sync_ms: 0 },
  });
  await open(publisher);
  for (const sequence of range(1, 50)) {
    publish(publisher, [sequence]);
    await systemClock.sleep(2);
  }
  expect(await publisher.stop(30_000)).toBe(0);
  expect((await stored(host)).alone).toEqual(range(1, 50));
  expect(telemetry.framesPublished).toBe(50);
  expect(() => readdirSync(folder)).toThrow('ENOENT');
});

test('what was made before there was a connection goes to the disk, and from there oldest first', async () => {
  const { publisher, telemetry, host } = publisherOf('backlog');
  publish(publisher, range(1, 3000));
  await expect.poll(() => publisher.spooled.frames, { timeout: 20_000 }).toBe(3000);
  expect(publisher.waiting.frames).toBe(0);
  await open(publisher);
  await drained(publisher);
  expect((await stored(host)).all).toEqual(range(1, 3000));
  expect(telemetry.framesPublished).toBe(3000);
  expect(telemetry.framesDropped).toBe(0);
});

test('without a disk, memory keeps what its bound allows; what goes is counted and told with its cause', async () => {
  const file = join(temporaryFolder(), 'no-folder');
  writeFileSync(file, '');
  const { publisher, telemetry, session, host } = publisherOf('bounded', {
    queue: { frames: 100, bytes: 64 * 1024 * 1024 },
    spool: { folder: join(file, 'spool'), bytes: 1e6, age_ms: 1e6, sync_ms: 0 },
  });
  const folders: string[] = [];
  telemetry.spoolFailed = (folder) => void folders.push(folder);
  for (const sequence of range(1, 150)) {
    publisher.publish(sequence, sequence * 1e6, frame(sequence));
    // The first of them finds out that the disk does not take it.
    if (sequence === 1) await expect.poll(() => folders.length).toBe(1);
    await systemClock.sleep(1);
  }
  publisher.publish(151, 151e6, Buffer.alloc(2 * 1024 * 1024));
  await expect.poll(() => telemetry.framesDropped).toBe(51);
  expect(folders).toEqual([join(file, 'spool')]);
  // Told by the next frame, and by each after it until one of them has arrived.
  expect(publisher.losses.rows(152)).toEqual({
    timestamp_seconds: [1, 151],
    frame_session: [session, session],
    cause: ['disk', 'too_large'],
    first_sequence: [1, 151],
    last_sequence: [50, 151],
    last_timestamp_seconds: [50, 151],
  });
  await open(publisher);
  expect(await publisher.stop(30_000)).toBe(0);
  expect((await stored(host)).all).toEqual(range(51, 150));
  expect(telemetry.framesPublished).toBe(100);
});

test('a server that is killed while frames go out leaves no hole, and nothing is stored twice', async () => {
  const { publisher, telemetry, host } = publisherOf('killed');
  await open(publisher);
  publish(publisher, range(1, 4000));
  await expect.poll(() => telemetry.framesPublished, { interval: 2, timeout: 20_000 }).toBeGreaterThan(300);
  await nats.kill();
  expect(telemetry.framesPublished).toBeLessThan(4000);
  publish(publisher, range(4001, 4100));
  await nats.restart();
  await drained(publisher);
  expect(ascending((await stored(host)).all)).toEqual(range(1, 4100));
  // Sent again and counted once.
  expect(telemetry.framesPublished).toBe(4100);
});

test('frames of an earlier session are drained beside live ones, which do not wait for them', async () => {
  const spool = { folder: join(temporaryFolder(), 'spool'), bytes: 64e6, age_ms: 86_400_000, sync_ms: 0 };
  const before = publisherOf('beside', { spool });
  publish(before.publisher, range(1, 3000));
  await expect.poll(() => before.publisher.spooled.frames, { timeout: 20_000 }).toBe(3000);
  expect(await before.publisher.stop(0)).toBe(0);
  const { publisher, telemetry, host } = publisherOf('beside', { spool });
  await open(publisher);
  const told: number[] = [];
  let sequence = 10_000;
  while (publisher.spooled.frames > 0 || sequence < 10_050) {
    publish(publisher, [++sequence]);
    await expect.poll(() => publisher.waiting.frames, { interval: 5, timeout: 10_000 }).toBe(0);
    told.push(telemetry.takePublishLatency());
    await systemClock.sleep(20);
    expect(sequence).toBeLessThan(12_000);
  }
  const { all, alone } = await stored(host);
  expect(ascending(all)).toEqual([...range(1, 3000), ...range(10_001, sequence)]);
  expect(ascending(alone)).toEqual(range(10_001, sequence));
  // Some went out between the batches, and none had to wait for more than one of them.
  expect(all.indexOf(10_001)).toBeLessThan(3000);
  expect(Math.max(...told.filter((seconds) => !Number.isNaN(seconds)))).toBeLessThan(5);
});

test('files leave the disk only some time after the log has them; stopping leaves what is not sent', async () => {
  const spool = { folder: join(temporaryFolder(), 'spool'), bytes: 64e6, age_ms: 86_400_000, sync_ms: 0 };
  const { publisher, host } = publisherOf('later', { spool });
  publish(publisher, range(1, 10));
  await expect.poll(() => publisher.spooled.frames).toBe(10);
  await open(publisher);
  await drained(publisher);
  expect(readdirSync(spool.folder)).toHaveLength(1);
  await systemClock.sleep(3200);
  // What comes next shows that the server has lived since, and that it has synced.
  publish(publisher, [11]);
  await expect.poll(() => readdirSync(spool.folder), { timeout: 20_000 }).toEqual([]);
  publisher.disconnected();
  publish(publisher, [12, 13]);
  expect(await publisher.stop(0)).toBe(0);
  expect(readdirSync(spool.folder)).toHaveLength(1);
  const next = publisherOf('later', { spool }).publisher;
  await open(next);
  await expect.poll(async () => (await stored(host)).all, { timeout: 30_000 }).toEqual(range(1, 13));
});

test('with an upload interval frames are on disk at once, and go together when their time has come', async () => {
  const { publisher, host, telemetry } = publisherOf('together', { upload_interval_ms: 3000 });
  await open(publisher);
  const begin = performance.now();
  let sequence = 0;
  while (performance.now() - begin < 7500) {
    publish(publisher, [++sequence]);
    await systemClock.sleep(100);
  }
  await expect.poll(() => publisher.spooled.frames, { timeout: 20_000 }).toBe(0);
  const { all, messages } = await stored(host);
  expect(all).toEqual(range(1, sequence));
  expect(messages).toBeLessThanOrEqual(6);
  expect(telemetry.framesPublished).toBe(sequence);
  publish(publisher, [++sequence, ++sequence]);
  // What waits for its time does not wait for it when the agent ends.
  expect(await publisher.stop(10_000)).toBe(0);
  expect((await stored(host)).all).toEqual(range(1, sequence));
});
