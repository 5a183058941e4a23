import {
  encodeFrame,
  encodeHostDescription,
  encodeHostRefusal,
  type HostDescription,
  type HostRefusal,
  subject,
} from '@fleetreel/proto';
import { milliseconds } from '@fleetreel/proto/duration';
import type { NatsAccess } from '@fleetreel/proto/nats_access';
import { jetstream } from '@nats-io/jetstream';
import { errors, type NatsConnection } from '@nats-io/transport-node';
import { type Claim, HostName } from '#claim.ts';
import type { Clock } from '#clock.ts';
import type { Settings } from '#config.ts';
import { accessOf, connectLog } from '#connect.ts';
import type { Events } from '#events.ts';
import { stopCompiling } from '#handover.ts';
import { addresses, askMachine, describe, type Identity } from '#host.ts';
import {
  acknowledgeMilliseconds,
  closeMilliseconds,
  describeMilliseconds,
  describeRetryMilliseconds,
  stopMilliseconds,
} from '#limits.ts';
import type { Machine } from '#machine.ts';
import { releasePages } from '#pages.ts';
import { version } from '#program.ts';
import { Publisher, whyNotTaken } from '#publisher.ts';
import { PushedSettings } from '#pushed.ts';
import { untilItSucceeds } from '#retry.ts';
import { Sampler } from '#sampler.ts';
import { selfReport } from '#self.ts';
import type { Source, SourceSettings } from '#source.ts';
import { spoolFolder } from '#spool.ts';
import { Telemetry } from '#telemetry.ts';

export type RunOptions = {
  settings: Settings;
  identity: Identity;
  /** 16 hexadecimal digits, random for each start. */
  session: string;
  /** All of this machine: which of them are read, the settings say. */
  sources: readonly Source[];
  /** What single sources go by; what of it can be pushed is changed here. */
  live: { container: SourceSettings['container'] };
  events: Events;
  clock: Clock;
  /** Stops the agent. */
  signal: AbortSignal;
  /** Somebody asks that the host description be looked at now. */
  onLookAgain: (listener: () => void) => void;
};

/** What every part of a running agent needs. */
type Agent = RunOptions & { telemetry: Telemetry; pushed: PushedSettings };

/**
 * Samples from the start and publishes as soon as the log can be reached and the name is ours, until the signal or until
 * the name is lost; returns the exit code.
 */
export async function run(options: RunOptions): Promise<number> {
  const { settings, identity, session, sources, live, events, clock } = options;
  const telemetry = new Telemetry(settings.log.level);
  let tell = (): void => undefined;
  const pushed = new PushedSettings({
    settings,
    host: identity.host,
    sources: sources.map(({ name }) => name),
    clock,
    telemetry,
    changed: (effect) => {
      live.container = { ...live.container, labels: [...effect.labels] };
      sampler.change(effect);
      publisher.setUploadInterval(effect.upload_interval_ms);
    },
    told: () => tell(),
  });
  const { interval_ms, upload_interval_ms, off, labels } = pushed.effect;
  live.container = { ...live.container, labels: [...labels] };
  const ended = new AbortController();
  const signal = AbortSignal.any([options.signal, ended.signal]);
  const publisher = new Publisher({
    tenant: settings.tenant,
    host: identity.host,
    session,
    queue: settings.queue,
    spool: {
      folder: spoolFolder(settings, identity.host),
      bytes: settings.spool.bytes,
      age_ms: milliseconds(settings.spool.age),
      sync_ms: milliseconds(settings.spool.sync),
    },
    upload_interval_ms,
    clock,
    telemetry,
  });
  const sampler = new Sampler({
    sources,
    events,
    interval_ms,
    off,
    clock,
    telemetry,
    self: selfReport(version, publisher, events, telemetry, clock),
  });
  let isRefused = false;
  let sequence = 0;
  telemetry.started(
    identity.host,
    pushed.told.settings.interval ?? '',
    sources.map((source) => source.name).filter((name) => !off.has(name)),
  );
  const sampling = sampler.run(({ time_us, interval_ms: in_force_ms, tables }) => {
    if (isRefused) return;
    sequence++;
    const lost = publisher.losses.rows(sequence);
    if (lost) tables.frame_loss = lost;
    publisher.publish(sequence, time_us, encodeFrame({ session, sequence, time_us, interval_ms: in_force_ms, tables }));
  }, signal);
  const holding = new Holding({ ...options, signal, telemetry, pushed }, publisher, (refused) => {
    isRefused = refused;
    if (!refused) return;
    // Nothing of this session has been sent: its frames are numbered from the beginning once the name is ours.
    telemetry.framesOfRefusedName(publisher.discard());
    sequence = 0;
  });
  tell = () => holding.tell();

  void stopCompiling(clock, signal);
  releasePages(clock, signal).catch((cause: unknown) => telemetry.failed('what is not needed stays in memory', cause));

  let lost: string | undefined;
  try {
    lost = await Promise.race([holding.untilLost(), sampling.then(() => undefined)]);
    if (lost !== undefined) telemetry.nameLost(lost);
  } catch (cause) {
    if (!options.signal.aborted) throw cause;
  } finally {
    ended.abort();
    await Promise.allSettled([sampling]);
    telemetry.stopping(publisher.waiting.frames);
    // Under a name that is another's now, nothing more is sent.
    const left = await publisher.stop(lost === undefined ? stopMilliseconds : 0);
    if (left > 0) telemetry.abandoned(left);
    await Promise.race([Promise.all([sampler.close(), holding.close()]), clock.sleep(closeMilliseconds)]);
  }
  return lost === undefined ? 0 : 1;
}

/** The connection to the log and the host's name: from the first attempt to connect until the name is lost. */
class Holding {
  readonly #agent: Agent;
  readonly #publisher: Publisher;
  readonly #refused: (isRefused: boolean) => void;
  readonly #access: NatsAccess;
  /** Why NATS last refused this agent, so that it is said once. */
  #denial: string | undefined;
  #connection: NatsConnection | undefined;
  #name: HostName | undefined;
  /** What the machine was when it was asked last. */
  #machine: Machine | undefined;
  /** Ends the wait until the description is looked at again. */
  #wake = new AbortController();

  constructor(agent: Agent, publisher: Publisher, refused: (isRefused: boolean) => void) {
    this.#agent = agent;
    this.#publisher = publisher;
    this.#refused = refused;
    this.#access = accessOf(agent.settings, agent.identity.host);
  }

  /** Resolves with the reason when another agent has taken the name, with undefined at the signal. */
  async untilLost(): Promise<string | undefined> {
    const { settings, clock, signal, telemetry } = this.#agent;
    const connection = await untilItSucceeds(
      () => this.#connect(),
      (cause) => telemetry.connecting(settings.nats.url, cause),
      clock,
      signal,
    );
    this.#connection = connection;
    this.#access.accepted();
    telemetry.connected(connection.getServer());
    return await Promise.race([this.#hold(connection), this.#follow(connection)]);
  }

  /** @throws Error that says why it could not */
  async #connect(): Promise<NatsConnection> {
    const { settings, identity, clock } = this.#agent;
    try {
      return await connectLog(this.#access, { tenant: settings.tenant, host: identity.host });
    } catch (cause) {
      throw new Error(await this.#access.explain(cause, clock.now_us() / 1_000_000), { cause });
    }
  }

  /** Says why NATS does not let this agent in any more, once for each reason. */
  async #denied(cause: Error): Promise<void> {
    const { clock, telemetry } = this.#agent;
    // They were renewed in time, and are shown when it connects again.
    if (this.#access.isRenewed) return;
    const reason = await this.#access.explain(cause, clock.now_us() / 1_000_000);
    if (reason === this.#denial) return;
    this.#denial = reason;
    telemetry.accessRefused(reason);
  }

  /** Tells what has changed of the settings, without asking the machine what it is. */
  tell(): void {
    this.#wake.abort();
  }

  async close(): Promise<void> {
    this.#name?.close();
    await this.#connection?.close();
  }

  async #hold(connection: NatsConnection): Promise<string | undefined> {
    const { settings, identity, clock, signal, telemetry } = this.#agent;
    const { tenant } = settings;
    const { host } = identity;
    const name = await untilItSucceeds(
      () =>
        HostName.open({
          connection,
          tenant,
          host,
          claim: this.#claim(),
          isKnown: this.#access.isKnown,
          clock,
          telemetry,
        }),
      (cause) => telemetry.failed('the bucket of claims can not be used; trying again', cause),
      clock,
      signal,
    );
    this.#name = name;
    await name.take((refusal) => {
      this.#refused(true);
      this.#publish('refusal', encodeHostRefusal(refusal), refusalId(refusal));
    }, signal);
    this.#refused(false);
    this.#publisher.open(connection);
    this.#keepDescribed();
    this.#agent.pushed
      .follow(connection, signal)
      .catch(
        (cause: unknown) => signal.aborted || telemetry.failed('settings that are pushed are not followed', cause),
      );
    return await name.lost(signal);
  }

  #claim(): Claim {
    const { identity, session, clock } = this.#agent;
    const { machineId, bootId } = identity;
    return { machineId, bootId, session, addresses: addresses(), claimedAt: Math.round(clock.now_us() / 1000) };
  }

  /** @throws Error when the connection is closed for good, though nobody asked for it */
  async #follow(connection: NatsConnection): Promise<undefined> {
    const { telemetry, signal } = this.#agent;
    for await (const status of connection.status()) {
      if (status.type === 'disconnect') {
        telemetry.disconnected();
        this.#publisher.disconnected();
      } else if (status.type === 'reconnect') {
        this.#access.accepted();
        this.#denial = undefined;
        telemetry.reconnected(connection.getServer());
        this.#publisher.reconnected();
      } else if (status.type !== 'error') continue;
      else if (isDenial(status.error)) void this.#denied(status.error);
      else telemetry.failed('NATS reports an error', status.error);
    }
    const cause = await connection.closed();
    if (!signal.aborted) throw new Error('the connection to NATS was closed', { cause });
  }

  /** Publishes the host description at once, when somebody asks, and when something of it has changed. */
  #keepDescribed(): void {
    const { signal, telemetry, clock, onLookAgain } = this.#agent;
    const ask = () => {
      this.#machine = undefined;
      this.#wake.abort();
    };
    onLookAgain(ask);
    let said = '';
    const look = async (): Promise<number> => {
      try {
        const description = await this.#description();
        const text = whatStays(description);
        if (text !== said) {
          this.#publish(
            'host',
            encodeHostDescription(description),
            `host-${description.session}-${description.time_us}`,
          );
          said = text;
        }
        return describeMilliseconds;
      } catch (cause) {
        telemetry.failed('the host description could not be made; trying again', cause);
        return describeRetryMilliseconds;
      }
    };
    const keep = async (): Promise<void> => {
      while (!signal.aborted) {
        this.#wake = new AbortController();
        const pause_ms = await look();
        const slept = clock.sleep(pause_ms, AbortSignal.any([signal, this.#wake.signal]));
        // Woken, or stopped; or it is time to ask the machine again.
        await slept.then(ask, () => undefined);
      }
    };
    void keep();
  }

  async #description(): Promise<HostDescription> {
    const { identity, session, pushed, clock } = this.#agent;
    this.#machine ??= await askMachine();
    const time_us = clock.now_us();
    return await describe(identity, { session, time_us, agent_version: version, ...pushed.told }, this.#machine);
  }

  /** Sends a message until the log has taken it, or the agent ends. */
  #publish(kind: 'host' | 'refusal', bytes: Uint8Array, msgID: string): void {
    const { settings, identity, clock, signal, telemetry } = this.#agent;
    const to = subject({ tenant: settings.tenant, host: identity.host, kind });
    const log = jetstream(this.#connection as NatsConnection, { timeout: acknowledgeMilliseconds });
    untilItSucceeds(
      () => log.publish(to, bytes, { msgID }),
      (cause) => telemetry.messageWaits(kind, whyNotTaken(cause)),
      clock,
      signal,
    ).then(
      () => telemetry.messageTaken(kind),
      // The agent ends, and says itself what it leaves.
      () => undefined,
    );
  }
}

const isDenial = (error: Error): boolean =>
  error instanceof errors.AuthorizationError || error instanceof errors.UserAuthenticationExpiredError;

const refusalId = ({ machine_id, time_us }: HostRefusal): string => `refusal-${machine_id}-${time_us}`;

/** A description without what is different each time it is made. */
const whatStays = (description: HostDescription): string =>
  JSON.stringify({ ...description, time_us: 0, boot_time_us: 0 });
