import { setTimeout } from 'node:timers/promises';
import {
  encodeFrame,
  encodeHostDescription,
  encodeHostRefusal,
  type HostDescription,
  type HostRefusal,
  subject,
} from '@fleetreel/proto';
import { type JetStreamClient, jetstream } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { HostName } from '#claim.ts';
import type { Clock } from '#clock.ts';
import { program, type Settings } from '#config.ts';
import { addresses, describe, type Identity } from '#host.ts';
import { acknowledgeMilliseconds, describeMilliseconds, publishRetryMilliseconds, stopMilliseconds } from '#limits.ts';
import { Publisher } from '#publisher.ts';
import { Sampler } from '#sampler.ts';
import { selfReport } from '#self.ts';
import type { Source } from '#source.ts';
import { sentence, Telemetry } from '#telemetry.ts';

export type RunOptions = {
  settings: Settings;
  identity: Identity;
  /** 16 hexadecimal digits, random for each start. */
  session: string;
  interval_ms: number;
  sources: readonly Source[];
  clock: Clock;
  /** Stops the agent. */
  signal: AbortSignal;
};

/** Samples and publishes until the signal, or until the name is lost; returns the exit code. */
export async function run(options: RunOptions): Promise<number> {
  const { settings, identity, session, interval_ms, sources, clock } = options;
  const telemetry = new Telemetry(settings.log.level);
  const ended = new AbortController();
  const signal = AbortSignal.any([options.signal, ended.signal]);
  let connection: NatsConnection;
  try {
    connection = await connectLog(settings.nats.url, telemetry, clock, signal);
  } catch (cause) {
    if (signal.aborted) return 0;
    throw cause;
  }
  const address = { tenant: settings.tenant, host: identity.host };
  const publisher = new Publisher({
    connection,
    subject: subject({ ...address, kind: 'frame' }),
    session,
    bounds: settings.queue,
    clock,
    telemetry,
  });
  const log = jetstream(connection, { timeout: acknowledgeMilliseconds });
  const say = (kind: 'host' | 'refusal', bytes: Uint8Array, id: string) =>
    publishUntilTaken(log, subject({ ...address, kind }), bytes, id, clock, signal);
  let describing: Promise<void> = Promise.resolve();
  const description = () =>
    describe(identity, {
      session,
      time_us: clock.now_us(),
      agent_version: program.version,
      interval_ms,
      tags: settings.tags,
    });
  void follow(connection, publisher, telemetry);

  let exitCode = 0;
  let sampling: Promise<void> = Promise.resolve();
  let name: HostName | undefined;
  const sampler = new Sampler({
    sources,
    interval_ms,
    clock,
    telemetry,
    self: selfReport(program.version, publisher, telemetry, clock),
  });
  try {
    const claim = {
      machineId: identity.machineId,
      bootId: identity.bootId,
      session,
      addresses: addresses(),
      claimedAt: Math.round(clock.now_us() / 1000),
    };
    name = await openName({ connection, ...address, claim, clock, telemetry }, signal);
    await name.take((refusal) => void sayRefusal(refusal, say, telemetry), signal);
    describing = keepDescribed(description, say, telemetry, clock, signal);
    let sequence = 0;
    telemetry.started(
      identity.host,
      settings.interval,
      sources.map((source) => source.name),
    );
    sampling = sampler.run(({ time_us, tables }) => {
      sequence++;
      publisher.publish(sequence, encodeFrame({ session, sequence, time_us, interval_ms, tables }));
    }, signal);
    const lost = await Promise.race([name.lost(signal), sampling.then(() => undefined)]);
    if (lost !== undefined) {
      telemetry.nameLost(lost);
      exitCode = 1;
    }
  } catch (cause) {
    if (!options.signal.aborted) throw cause;
  } finally {
    ended.abort();
    await sampling;
    await describing;
    telemetry.stopping(publisher.waiting.frames);
    const left = await publisher.stop(stopMilliseconds);
    if (left > 0) telemetry.abandoned(left);
    name?.close();
    await sampler.close();
    await Promise.race([connection.close(), setTimeout(1000)]);
  }
  return exitCode;
}

/**
 * Connects, trying until it can; from then on the client reconnects by itself, for ever.
 * @throws the signal's reason
 */
async function connectLog(
  url: string,
  telemetry: Telemetry,
  clock: Clock,
  signal: AbortSignal,
): Promise<NatsConnection> {
  let said = '';
  for (
    let pause_ms: number = publishRetryMilliseconds.min;
    ;
    pause_ms = Math.min(pause_ms * 2, publishRetryMilliseconds.max)
  ) {
    signal.throwIfAborted();
    try {
      const connection = await connect(connectOptions(url));
      telemetry.connected(connection.getServer());
      return connection;
    } catch (cause) {
      const reason = sentence(cause);
      if (reason !== said) telemetry.connecting(url, reason);
      said = reason;
    }
    await clock.sleep(pause_ms, signal);
  }
}

/** How the agent connects: it never gives up, and is alone in reading its answers. */
export const connectOptions = (url: string) => ({
  servers: url.split(',').map((server) => server.trim()),
  name: program.name,
  timeout: 5000,
  maxReconnectAttempts: -1,
  reconnectTimeWait: 500,
  reconnectJitter: 500,
  ignoreAuthErrorAbort: true,
  // Otherwise each request builds a stack trace in advance: half of the CPU time of publishing.
  noAsyncTraces: true,
  pingInterval: 10_000,
});

async function follow(connection: NatsConnection, publisher: Publisher, telemetry: Telemetry): Promise<void> {
  for await (const status of connection.status()) {
    if (status.type === 'disconnect') {
      telemetry.disconnected();
      publisher.disconnected();
    } else if (status.type === 'reconnect') {
      telemetry.reconnected(connection.getServer());
      publisher.reconnected();
    } else if (status.type === 'error') telemetry.failed('NATS reports an error', status.error);
  }
}

async function openName(options: Parameters<typeof HostName.open>[0], signal: AbortSignal): Promise<HostName> {
  for (
    let pause_ms: number = publishRetryMilliseconds.min;
    ;
    pause_ms = Math.min(pause_ms * 2, publishRetryMilliseconds.max)
  ) {
    signal.throwIfAborted();
    try {
      return await HostName.open(options);
    } catch (cause) {
      options.telemetry.failed('the bucket of claims can not be used; trying again', cause);
    }
    await options.clock.sleep(pause_ms, signal);
  }
}

type Say = (kind: 'host' | 'refusal', bytes: Uint8Array, id: string) => Promise<void>;

/** Publishes a message of the log; until a collector has made the stream there is nobody who takes it. */
async function publishUntilTaken(
  log: JetStreamClient,
  to: string,
  bytes: Uint8Array,
  msgID: string,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  for (
    let pause_ms: number = publishRetryMilliseconds.min;
    ;
    pause_ms = Math.min(pause_ms * 2, publishRetryMilliseconds.max)
  ) {
    signal.throwIfAborted();
    try {
      await log.publish(to, bytes, { msgID });
      return;
    } catch (cause) {
      // The connection is followed elsewhere, and what it says is logged there; here it is only tried again.
      signal.throwIfAborted();
      await clock.sleep(pause_ms, signal);
      void cause;
    }
  }
}

async function sayRefusal(refusal: HostRefusal, say: Say, telemetry: Telemetry): Promise<void> {
  try {
    await say('refusal', encodeHostRefusal(refusal), `refusal-${refusal.machine_id}-${refusal.time_us}`);
  } catch (cause) {
    telemetry.failed('the refusal could not be published', cause);
  }
}

/** Publishes the host description at once, and again when something of it has changed. */
async function keepDescribed(
  make: () => Promise<HostDescription>,
  say: Say,
  telemetry: Telemetry,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  let said = '';
  while (!signal.aborted) {
    try {
      const description = await make();
      const { time_us: _, boot_time_us: __, ...stable } = description;
      const text = JSON.stringify(stable);
      if (text !== said) {
        await say('host', encodeHostDescription(description), `host-${description.session}-${description.time_us}`);
        telemetry.described(description.host);
        said = text;
      }
    } catch (cause) {
      if (signal.aborted) return;
      telemetry.failed('the host description failed', cause);
    }
    await clock.sleep(describeMilliseconds, signal).catch(() => undefined);
  }
}
