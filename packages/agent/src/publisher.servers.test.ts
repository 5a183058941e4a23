import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { jetstream, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { connect, type NatsConnection, nanos } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { Publisher } from '#publisher.ts';
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

async function publisherOf(host: string, frames: number) {
  const telemetry = new Telemetry('silent');
  const subject = `fr.v1.default.frame.${host}`;
  const bounds = { frames, bytes: 64 * 1024 * 1024 };
  const publisher = new Publisher({ subject, session: host, bounds, clock: systemClock, telemetry });
  const connection = await connect({ servers: nats.url, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
  onTestFinished(() => connection.close());
  void (async () => {
    for await (const { type } of connection.status())
      if (type === 'disconnect') publisher.disconnected();
      else if (type === 'reconnect') publisher.reconnected();
  })();
  return { publisher, telemetry, connection, subject };
}

const frame = (sequence: number) => Buffer.alloc(2000, `${sequence} `);

/** The sequences that the log has, in its order. */
async function stored(subject: string): Promise<number[]> {
  const manager = await jetstreamManager(reader);
  const { state } = await manager.streams.info('FRAMES', { subjects_filter: subject });
  const count = state.subjects?.[subject] ?? 0;
  const found: number[] = [];
  if (count === 0) return found;
  const consumer = await jetstream(reader).consumers.get('FRAMES', { filter_subjects: [subject] });
  for await (const message of await consumer.fetch({ max_messages: count, expires: 5000 }))
    found.push(Number.parseInt(message.string(), 10));
  return found;
}

const range = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

test('what was kept before there was a connection goes oldest first', async () => {
  const { publisher, telemetry, connection, subject } = await publisherOf('backlog', 10_000);
  for (const sequence of range(1, 3000)) publisher.publish(sequence, sequence * 1e6, frame(sequence));
  expect(publisher.waiting.frames).toBe(3000);
  publisher.open(connection);
  expect(await publisher.stop(30_000)).toBe(0);
  expect(await stored(subject)).toEqual(range(1, 3000));
  expect(telemetry.framesPublished).toBe(3000);
  expect(telemetry.framesDropped).toBe(0);
});

test('beyond its bound the oldest are given up and counted, and one that is too large alone', async () => {
  const { publisher, telemetry, connection, subject } = await publisherOf('bounded', 100);
  for (const sequence of range(1, 150)) publisher.publish(sequence, sequence * 1e6, frame(sequence));
  publisher.publish(151, 151e6, Buffer.alloc(2 * 1024 * 1024));
  publisher.open(connection);
  expect(await publisher.stop(30_000)).toBe(0);
  expect(await stored(subject)).toEqual(range(51, 150));
  expect(telemetry.framesDropped).toBe(51);
  expect(telemetry.framesPublished).toBe(100);
  // Told by the next frame, and by each after it until one of them has arrived.
  expect(publisher.losses.rows(152)).toEqual({
    timestamp_seconds: [1, 151],
    frame_session: ['bounded', 'bounded'],
    cause: ['queue', 'too_large'],
    first_sequence: [1, 151],
    last_sequence: [50, 151],
    last_timestamp_seconds: [50, 151],
  });
});

test('a server that is killed while a backlog goes out leaves no hole, and nothing is stored twice', async () => {
  const { publisher, telemetry, connection, subject } = await publisherOf('killed', 20_000);
  for (const sequence of range(1, 15_000)) publisher.publish(sequence, sequence * 1e6, frame(sequence));
  publisher.open(connection);
  await expect.poll(() => telemetry.framesPublished, { interval: 5, timeout: 20_000 }).toBeGreaterThan(500);
  await nats.kill();
  const before = telemetry.framesPublished;
  expect(before).toBeLessThan(15_000);
  await nats.restart();
  expect(await publisher.stop(50_000)).toBe(0);
  expect((await stored(subject)).toSorted((a, b) => a - b)).toEqual(range(1, 15_000));
  // Sent again and counted once.
  expect(telemetry.framesPublished).toBe(15_000);
});
