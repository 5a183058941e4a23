// The one connection to NATS.
import { randomUUID } from 'node:crypto';
import { type JetStreamClient, type JetStreamManager, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import { answerMilliseconds, retryMilliseconds } from '#limits.ts';
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
  url: string,
  partition: Partition,
  telemetry: Telemetry,
  clock: Clock,
  signal: AbortSignal,
): Promise<Log> {
  for (let pause: number = retryMilliseconds.min; ; pause = Math.min(pause * 2, retryMilliseconds.max)) {
    signal.throwIfAborted();
    try {
      const log = await connectLog(url, partition);
      void follow(log.connection, url, telemetry);
      telemetry.usable('nats');
      return log;
    } catch (cause) {
      telemetry.unusable('nats', `${url} can't be reached (${sentence(cause)})`);
    }
    await clock.sleep(pause, signal);
  }
}

/**
 * Connects once.
 * @throws when no server answers
 */
export async function connectLog(url: string, partition = whole): Promise<Log> {
  const inboxPrefix = `_INBOX.${randomUUID().replaceAll('-', '')}`;
  const connection = await connect({
    servers: url.split(',').map((server) => server.trim()),
    name: 'fleetreel-collector',
    timeout: answerMilliseconds,
    maxReconnectAttempts: -1,
    reconnectTimeWait: 500,
    reconnectJitter: 500,
    ignoreAuthErrorAbort: true,
    // Otherwise each request builds a stack trace in advance: half of the CPU time of publishing.
    noAsyncTraces: true,
    inboxPrefix,
    pingInterval: 10_000,
  });
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

async function follow(connection: NatsConnection, url: string, telemetry: Telemetry): Promise<void> {
  for await (const status of connection.status()) {
    if (status.type === 'disconnect') telemetry.unusable('nats', `${url} closed the connection`);
    else if (status.type === 'reconnect') telemetry.usable('nats');
    else if (status.type === 'error') telemetry.log.warn({ reason: sentence(status.error) }, 'NATS reports an error');
  }
}
