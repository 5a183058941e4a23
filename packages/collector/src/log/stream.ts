// What the log is made of, as data: one stream, one durable consumer for each store, the buckets.
import { anySubject, prefix } from '@fleetreel/proto';
import {
  AckPolicy,
  type ConsumerConfig,
  DeliverPolicy,
  DiscardPolicy,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  StoreCompression,
  type StreamConfig,
} from '@nats-io/jetstream';
import { nanos } from '@nats-io/transport-node';
import { ackPendingMax, ackWaitMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { frameSubjects } from '#log/frames.ts';
import type { Telemetry } from '#telemetry.ts';

/** The stream through which everything passes. */
export const streamName = 'FRAMES';

/** Messages with one id are stored once within this time. */
const duplicateWindowMilliseconds = 2 * 60_000;

/** Key-value buckets: who holds a host's name, and what is known of each host. */
export const buckets = { claims: 'claims', hosts: 'hosts' } as const;

/** How long and how much the log keeps: milliseconds, bytes. */
export type LogBounds = { age_ms: number; bytes: number };

/** The durable consumer of a store. */
export const consumerName = (store: string): string => `store-${store}`;

const stream = ({ age_ms, bytes }: LogBounds): StreamSettings => ({
  name: streamName,
  description: 'Everything that Fleetreel records',
  subjects: [`${prefix}.>`],
  storage: StorageType.File,
  compression: StoreCompression.S2,
  retention: RetentionPolicy.Limits,
  discard: DiscardPolicy.Old,
  max_age: nanos(age_ms),
  max_bytes: bytes,
  duplicate_window: nanos(Math.min(duplicateWindowMilliseconds, age_ms)),
  allow_direct: true,
});

const consumer = (store: string): ConsumerSettings => ({
  durable_name: consumerName(store),
  description: `Into the store "${store}"`,
  filter_subjects: [...frameSubjects, anySubject('host'), anySubject('refusal')],
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(ackWaitMilliseconds),
  max_ack_pending: ackPendingMax,
  // A message is given up by us, with a dead letter, never by the server.
  max_deliver: -1,
  deliver_policy: DeliverPolicy.All,
});

type StreamSettings = Partial<StreamConfig> & { name: string };
type ConsumerSettings = Partial<ConsumerConfig> & { durable_name: string };

/** Makes stream, consumer and buckets as they should be; what differs is changed. Safe from several collectors at once. */
export async function keepLog(log: Log, bounds: LogBounds, store: string, telemetry: Telemetry): Promise<void> {
  await keepStream(log, stream(bounds), telemetry);
  await keepConsumer(log, consumer(store), telemetry);
  for (const bucket of Object.values(buckets)) {
    await log.buckets.create(bucket, { history: 1, storage: StorageType.File });
    await keepStream(log, { name: `KV_${bucket}`, max_msgs_per_subject: 1, allow_direct: true }, telemetry);
  }
}

async function keepStream({ manager }: Log, wanted: StreamSettings, telemetry: Telemetry): Promise<void> {
  const what = `the stream ${wanted.name}`;
  const found = await absent(manager.streams.info(wanted.name));
  if (found === undefined) {
    await manager.streams.add(wanted as StreamSettings & { subjects: string[] });
    telemetry.configured(what, 'created');
  } else if (differs(found.config, wanted)) {
    await manager.streams.update(wanted.name, { ...found.config, ...wanted });
    telemetry.configured(what, 'updated');
  }
}

async function keepConsumer({ manager }: Log, wanted: ConsumerSettings, telemetry: Telemetry): Promise<void> {
  const what = `the consumer ${wanted.durable_name}`;
  const found = await absent(manager.consumers.info(streamName, wanted.durable_name));
  if (found === undefined) {
    await manager.consumers.add(streamName, wanted);
    telemetry.configured(what, 'created');
  } else if (differs(found.config, wanted)) {
    await manager.consumers.update(streamName, wanted.durable_name, wanted);
    telemetry.configured(what, 'updated');
  }
}

async function absent<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found;
  } catch (cause) {
    if (cause instanceof JetStreamApiError && cause.status === 404) return undefined;
    throw cause;
  }
}

function differs(found: object, wanted: object): boolean {
  const values = found as Record<string, unknown>;
  return Object.entries(wanted).some(([key, value]) => JSON.stringify(values[key]) !== JSON.stringify(value));
}
