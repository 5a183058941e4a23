// The one connection to NATS.
import { randomUUID } from 'node:crypto';
import { NatsAccess, type NatsSettings } from '@fleetreel/proto/nats_access';
import { type JetStreamClient, type JetStreamManager, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect, errors, type NatsConnection } from '@nats-io/transport-node';
import { type Clock, systemClock } from '#clock.ts';
import { answerMilliseconds, reconnectMilliseconds, retryMilliseconds } from '#limits.ts';
import { type Partition, whole } from '#log/partition.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** The log: a connection and the ways to use it. */
export type Log = {
  connection: NatsConnection;
  jetstream: JetStreamClient;
  manager: JetStreamManager;
  buckets: Kvm;
  /** Answers to this process are nobody else's: its inboxes have a prefix that only it knows. */
  inboxPrefix: string;
  /** The hosts that are read of it; those of other partitions are as if they were not there. */
  partition: Partition;
};

/**
 * Connects to NATS, trying until it can. From then on the client reconnects by itself, for ever; how it stands is in
 * `telemetry`.
 * @throws the signal's reason when it is aborted
 */
export async function openLog(
  settings: NatsSettings,
  partition: Partition,
  telemetry: Telemetry,
  clock: Clock,
  signal: AbortSignal,
): Promise<Log> {
  for (let pause: number = retryMilliseconds.min; ; pause = Math.min(pause * 2, retryMilliseconds.max)) {
    signal.throwIfAborted();
    try {
      const access = new NatsAccess(settings);
      const log = await connectedLog(access, partition);
      void follow(log.connection, settings.url, access, telemetry);
      telemetry.usable('nats');
      return log;
    } catch (cause) {
      telemetry.unusable('nats', `${settings.url} can't be reached (${sentence(cause)})`);
    }
    await clock.sleep(pause, signal);
  }
}

/**
 * Connects once.
 * @param to the settings under `nats`, or the address of a server that asks nobody who it is
 * @throws Error that says why it could not
 */
export const connectLog = (to: NatsSettings | string, partition = whole): Promise<Log> =>
  connectedLog(new NatsAccess(typeof to === 'string' ? { url: to } : to), partition);

async function connectedLog(access: NatsAccess, partition: Partition): Promise<Log> {
  const inboxPrefix = `_INBOX.${randomUUID().replaceAll('-', '')}`;
  const connection = await connect({
    ...access.options,
    name: 'fleetreel-collector',
    timeout: answerMilliseconds,
    maxReconnectAttempts: -1,
    // Whoever is refused asks less and less often: what it shows may be renewed.
    reconnectDelayHandler: () =>
      Math.min(reconnectMilliseconds.min * 2 ** access.tries, reconnectMilliseconds.max) +
      Math.random() * reconnectMilliseconds.min,
    ignoreAuthErrorAbort: true,
    // Otherwise each request builds a stack trace in advance: half of the CPU time of publishing.
    noAsyncTraces: true,
    inboxPrefix,
    pingInterval: 10_000,
  }).catch(async (cause: unknown) => {
    throw new Error(await access.explain(cause, now_s()), { cause });
  });
  access.accepted();
  const options = { timeout: answerMilliseconds };
  const client = jetstream(connection, options);
  return {
    connection,
    jetstream: client,
    manager: await jetstreamManager(connection, { ...options, checkAPI: false }),
    buckets: new Kvm(client),
    inboxPrefix,
    partition,
  };
}

const now_s = (): number => systemClock.now_us() / 1_000_000;

async function follow(
  connection: NatsConnection,
  url: string,
  access: NatsAccess,
  telemetry: Telemetry,
): Promise<void> {
  for await (const status of connection.status()) {
    if (status.type === 'disconnect') telemetry.unusable('nats', `${url} closed the connection`);
    else if (status.type === 'reconnect') {
      access.accepted();
      telemetry.usable('nats');
    } else if (
      status.type === 'error' &&
      (status.error instanceof errors.AuthorizationError ||
        status.error instanceof errors.UserAuthenticationExpiredError)
    )
      telemetry.unusable('nats', `${url} refuses this collector: ${await access.explain(status.error, now_s())}`);
    else if (status.type === 'error') telemetry.log.warn({ reason: sentence(status.error) }, 'NATS reports an error');
  }
}
