// What the log is made of, as data: one stream, one durable consumer for each store, the buckets.
import { agentsBucket, claimBucket, everything, prefix, republishOf } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import {
  AckPolicy,
  type ConsumerConfig,
  DeliverPolicy,
  DiscardPolicy,
  JetStreamApiCodes,
  JetStreamApiError,
  RetentionPolicy,
  StorageType,
  StoreCompression,
  type StreamConfig,
} from '@nats-io/jetstream';
import { nanos } from '@nats-io/transport-node';
import { ackPendingMax, ackWaitMilliseconds, codeMilliseconds, rebuildIdleMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** The stream through which everything passes. */
export const streamName = 'FRAMES';

/** Messages with one id are stored once within this time. */
const duplicateWindowMilliseconds = 2 * 60_000;

/**
 * Key-value buckets: who holds a host's name, what is known of each host, what is wanted of agents and what each of them is told, users
 * with what gives them rights, and codes of enrolment with the credentials that were issued.
 */
export const buckets = {
  claims: claimBucket,
  hosts: 'hosts',
  settings: 'settings',
  agents: agentsBucket,
  access: 'access',
  enrolment: 'enrolment',
} as const;

/** Whether a compare-and-set on a bucket found another revision than it compared with: somebody else was faster. */
export const isOvertaken = (cause: unknown): boolean =>
  cause instanceof JetStreamApiError &&
  // The second is of a server of a cluster that does not know yet which revision it is.
  (cause.code === JetStreamApiCodes.StreamWrongLastSequence ||
    cause.code === JetStreamApiCodes.StreamWrongLastSequenceUnknown);

/** What a bucket answers. @throws ApiError log_unavailable where it does not, or what `ask` throws of that kind */
export async function answered<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (cause) {
    throw cause instanceof ApiError ? cause : new ApiError('log_unavailable', { reason: sentence(cause) }, { cause });
  }
}

/** Buckets of which each host has a key of its own: it is told of its changes when they are stored, since it may make no consumer. */
const told: readonly string[] = [buckets.claims, buckets.agents];

/** Buckets with entries that go by themselves; what is left of one goes after this, milliseconds. */
const markers: Readonly<Partial<Record<string, number>>> = { [buckets.enrolment]: codeMilliseconds };

/** What the log has to be like: how long and how much it keeps, in milliseconds and bytes, and on how many servers. */
export type LogSettings = { age_ms: number; bytes: number; replicas?: number };

/** The durable consumer of a store. */
export const consumerName = (store: string): string => `store-${store}`;

const stream = ({ age_ms, bytes, replicas = 1 }: LogSettings): StreamSettings => ({
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
  num_replicas: replicas,
});

const consumer = (store: string): ConsumerSettings => ({
  durable_name: consumerName(store),
  description: `Into the store "${store}"`,
  // All but dead letters are for the store, and those are few.
  filter_subjects: [everything],
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(ackWaitMilliseconds),
  max_ack_pending: ackPendingMax,
  // A message is given up by us, with a dead letter, never by the server.
  max_deliver: -1,
});

/** A consumer that reads what a store wants again, from a time (RFC 3339) or all that the log has. It goes when nobody reads it. */
export const rebuildConsumer = (name: string, store: string, from: string | undefined): ConsumerSettings => ({
  ...consumer(store),
  durable_name: name,
  description: `Rebuilds the store "${store}"`,
  inactive_threshold: nanos(rebuildIdleMilliseconds),
  ...(from === undefined
    ? { deliver_policy: DeliverPolicy.All }
    : { deliver_policy: DeliverPolicy.StartTime, opt_start_time: from }),
});

type StreamSettings = Partial<StreamConfig> & { name: string };
type ConsumerSettings = Partial<ConsumerConfig> & { durable_name: string };

/**
 * Makes stream, consumer and buckets as they should be. Safe from several collectors at once: where their settings differ,
 * the one that looked last has decided.
 * @param store whose consumer is made; none when undefined
 * @param extent `missing` makes only what is not there, so that a collector that lost the log for a while leaves others' settings
 */
export async function keepLog(
  log: Log,
  settings: LogSettings,
  store: string | undefined,
  telemetry: Telemetry,
  extent: 'all' | 'missing' = 'all',
): Promise<void> {
  const keep = { log, telemetry, changes: extent === 'all' };
  const { replicas = 1 } = settings;
  await keepStream(keep, stream(settings));
  if (store !== undefined) await keepConsumer(keep, consumer(store));
  for (const bucket of Object.values(buckets)) {
    const name = `KV_${bucket}`;
    const markerTTL = markers[bucket];
    const isNew = (await absent(log.manager.streams.info(name))) === undefined;
    const made = { history: 1, storage: StorageType.File, replicas, ...(markerTTL && { markerTTL }) };
    if (isNew) await log.buckets.create(bucket, made);
    // Of a new one nobody has other settings yet.
    await keepStream(isNew ? { ...keep, changes: true } : keep, {
      name,
      max_msgs_per_subject: 1,
      allow_direct: true,
      num_replicas: replicas,
      ...(markerTTL && { allow_msg_ttl: true, subject_delete_marker_ttl: nanos(markerTTL) }),
      ...(told.includes(bucket) && {
        republish: republishOf(bucket),
        // Whoever may write one key could otherwise remove all others by a header.
        allow_rollup_hdrs: false,
      }),
    });
  }
}

/** Makes a store's consumer, if there is none, so that it begins with a message: those before are in the store. */
export async function keepStoreFrom(log: Log, store: string, sequence: number, telemetry: Telemetry): Promise<void> {
  await keepConsumer({ log, telemetry, changes: false }, consumer(store), {
    deliver_policy: DeliverPolicy.StartSequence,
    opt_start_seq: sequence,
  });
}

type Keep = { log: Log; telemetry: Telemetry; changes: boolean };

async function keepStream({ log: { manager }, telemetry, changes }: Keep, wanted: StreamSettings): Promise<void> {
  const what = `the stream ${wanted.name}`;
  const found = await absent(manager.streams.info(wanted.name));
  try {
    if (found === undefined) {
      await manager.streams.add(wanted as StreamSettings & { subjects: string[] });
      telemetry.configured(what, 'created');
      return;
    }
    const differing = differences(found.config, wanted);
    if (!changes || differing === '') return;
    await manager.streams.update(wanted.name, { ...found.config, ...wanted });
    telemetry.configured(what, 'updated', differing);
  } catch (cause) {
    throw tooFewServers(cause, wanted.num_replicas ?? 1) ?? cause;
  }
}

/** @param begin where a new one begins; of one that is there, this is not changed */
async function keepConsumer(
  { log: { manager }, telemetry, changes }: Keep,
  wanted: ConsumerSettings,
  begin: Partial<ConsumerConfig> = { deliver_policy: DeliverPolicy.All },
): Promise<void> {
  const what = `the consumer ${wanted.durable_name}`;
  const found = await absent(manager.consumers.info(streamName, wanted.durable_name));
  if (found === undefined) {
    await manager.consumers.add(streamName, { ...wanted, ...begin });
    telemetry.configured(what, 'created');
    return;
  }
  const differing = differences(found.config, wanted);
  if (!changes || differing === '') return;
  await manager.consumers.update(streamName, wanted.durable_name, wanted);
  telemetry.configured(what, 'updated', differing);
}

/** JetStream's codes: a server that is alone; fewer servers that can be reached and have room than replicas. */
const [alone, noPeers] = [10074, 10005];

/** What to do when there are fewer servers than replicas; undefined for another error. */
function tooFewServers(cause: unknown, replicas: number): Error | undefined {
  if (!(cause instanceof JetStreamApiError)) return undefined;
  const why =
    cause.code === alone
      ? 'this nats-server is not part of a cluster'
      : cause.code === noPeers && replicas > 1
        ? `fewer than ${replicas} servers of the cluster can be reached and have room`
        : undefined;
  return why === undefined ? undefined : new Error(`log.replicas is ${replicas}, but ${why}`, { cause });
}

async function absent<T>(found: Promise<T>): Promise<T | undefined> {
  try {
    return await found;
  } catch (cause) {
    if (cause instanceof JetStreamApiError && cause.status === 404) return undefined;
    throw cause;
  }
}

/** What is not as it should be, with both values; empty when all is. */
function differences(found: object, wanted: object): string {
  const values = found as Record<string, unknown>;
  return Object.entries(wanted)
    .map(([key, value]) => [key, JSON.stringify(values[key]), JSON.stringify(value)])
    .filter(([, is, should]) => is !== should)
    .map(([key, is, should]) => `${key} ${is} -> ${should}`)
    .join(', ');
}
