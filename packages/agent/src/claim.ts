import { claimBucket, claimSubject, type HostRefusal, hostKey, republishOf } from '@fleetreel/proto';
import { JetStreamApiCodes, JetStreamApiError, jetstream, StorageType } from '@nats-io/jetstream';
import { type KV, Kvm } from '@nats-io/kv';
import { errors, type NatsConnection, type Subscription } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import {
  claimAnswerMilliseconds,
  claimCheckMilliseconds,
  publishRetryMilliseconds,
  refusalRepeatMilliseconds,
} from '#limits.ts';
import { followKey, type OwnEntry } from '#own_key.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** Who holds a host's name: the value in the bucket. */
export type Claim = {
  machineId: string;
  /** The kernel's identity of this boot: the same machine id under another one is a reboot or a clone. */
  bootId: string;
  session: string;
  addresses: string[];
  /** UTC, milliseconds since 1970. */
  claimedAt: number;
};

export type ClaimOptions = {
  connection: NatsConnection;
  tenant: string;
  host: string;
  claim: Claim;
  /** Whether NATS knows who this is: then the bucket is a collector's to make. */
  isKnown: boolean;
  clock: Clock;
  telemetry: Telemetry;
};

type Found = { taken: true } | { taken: false; holder: Claim; reason: string };

/**
 * A host's name, which one machine holds. It is taken by compare-and-set; whoever finds it held by another machine is
 * refused until the entry is deleted.
 */
export class HostName {
  readonly #options: ClaimOptions;
  readonly #key: string;
  readonly #kv: KV;
  readonly #answering: Subscription;

  private constructor(options: ClaimOptions, kv: KV) {
    this.#options = options;
    this.#key = hostKey(options.tenant, options.host);
    this.#kv = kv;
    // Another machine asks whether this one lives.
    this.#answering = options.connection.subscribe(claimSubject(options.tenant, options.host, options.claim.session), {
      callback: (error, message) => {
        if (!error) message.respond(JSON.stringify(options.claim));
      },
    });
  }

  static async open(options: ClaimOptions): Promise<HostName> {
    const kv = options.isKnown
      ? await openClaims(options.connection)
      : await new Kvm(options.connection).create(claimBucket, {
          history: 1,
          storage: StorageType.File,
          republish: republishOf(claimBucket),
        });
    return new HostName(options, kv);
  }

  /** Why the name can't be taken, or undefined when it can; changes nothing. */
  static async obstacle(options: ClaimOptions): Promise<string | undefined> {
    const { connection, tenant, host } = options;
    let entry: OwnEntry | null;
    try {
      const kv = await openClaims(connection);
      entry = await kv.get(hostKey(tenant, host));
    } catch (cause) {
      // Without the bucket nobody has ever claimed a name here.
      if (isNobody(cause)) return undefined;
      throw cause;
    }
    const holder = claimIn(entry);
    return holder && whyNot(options, holder);
  }

  /** Resolves when the name is ours; a refusal on the way goes to `refused`, again when it changes and once an hour. */
  async take(refused: (refusal: HostRefusal) => void, signal: AbortSignal): Promise<void> {
    const { clock, telemetry, host } = this.#options;
    let pause_ms: number = publishRetryMilliseconds.min;
    let said = '';
    let saidAt_ms = 0;
    for (;;) {
      signal.throwIfAborted();
      try {
        const found = await this.#try();
        if (found.taken) {
          telemetry.nameClaimed(host);
          return;
        }
        if (found.reason !== said || clock.monotonic_ms() - saidAt_ms >= refusalRepeatMilliseconds) {
          said = found.reason;
          saidAt_ms = clock.monotonic_ms();
          telemetry.nameRefused(found.reason, host, found.holder);
          refused(this.#refusal(found));
        }
        await this.#change(found.holder, signal);
        pause_ms = publishRetryMilliseconds.min;
      } catch (cause) {
        signal.throwIfAborted();
        telemetry.failed('the name could not be claimed; trying again', cause);
        pause_ms = Math.min(pause_ms * 2, publishRetryMilliseconds.max);
      }
      // Also when there was a change: a watch that ends at once must not become a busy loop.
      await clock.sleep(pause_ms, signal);
    }
  }

  /** Resolves with the reason when another session has taken the name. A name that was forgotten is taken anew. */
  async lost(signal: AbortSignal): Promise<string | undefined> {
    const { clock, claim, host, telemetry } = this.#options;
    let pause_ms: number = publishRetryMilliseconds.min;
    while (!signal.aborted) {
      try {
        for await (const entry of this.#follow(signal)) {
          pause_ms = publishRetryMilliseconds.min;
          const holder = claimIn(entry);
          if (holder === undefined) {
            const found = await this.#try();
            if (!found.taken) return found.reason;
          } else if (holder.session !== claim.session)
            return `Another agent has taken the name "${host}": machine ${holder.machineId} at ${list(holder.addresses)}. Stopped, so that the two are not mixed.`;
        }
      } catch (cause) {
        if (signal.aborted) return undefined;
        telemetry.failed('the claim could not be watched; trying again', cause);
      }
      await clock.sleep(pause_ms, signal).catch(() => undefined);
      pause_ms = Math.min(pause_ms * 2, publishRetryMilliseconds.max);
    }
    return undefined;
  }

  close(): void {
    this.#answering.unsubscribe();
  }

  async #try(): Promise<Found> {
    const value = JSON.stringify(this.#options.claim);
    for (;;) {
      const entry = await this.#kv.get(this.#key);
      const holder = claimIn(entry);
      if (holder?.session === this.#options.claim.session) return { taken: true };
      const reason = holder && (await whyNot(this.#options, holder));
      if (holder && reason !== undefined) return { taken: false, holder, reason };
      try {
        if (entry && holder) await this.#kv.update(this.#key, value, entry.revision);
        else await this.#kv.create(this.#key, value);
        return { taken: true };
      } catch (cause) {
        // Somebody else was faster: whoever it is, is the holder now.
        if (!wasChanged(cause)) throw cause;
      }
    }
  }

  /** Resolves when the entry is no longer this holder's, or after a while, since a clone may have been shut down. */
  async #change(holder: Claim, signal: AbortSignal): Promise<void> {
    const ended = new AbortController();
    const until = AbortSignal.any([signal, ended.signal]);
    const stop = () => ended.abort();
    void this.#options.clock.sleep(claimCheckMilliseconds, until).then(stop, stop);
    try {
      for await (const entry of this.#follow(until)) if (claimIn(entry)?.session !== holder.session) break;
    } catch (cause) {
      // It is looked at again.
      if (!until.aborted) throw cause;
    } finally {
      ended.abort();
    }
  }

  #follow(signal: AbortSignal): AsyncGenerator<OwnEntry | undefined> {
    const { connection, clock, telemetry } = this.#options;
    const failed = (cause: unknown) => telemetry.failed('the claim can not be read; trying again', cause);
    return followKey({ connection, kv: this.#kv, bucket: claimBucket, key: this.#key, clock, failed }, signal);
  }

  #refusal({ holder, reason }: { holder: Claim; reason: string }): HostRefusal {
    const { host, claim, clock } = this.#options;
    return {
      host,
      machine_id: claim.machineId,
      addresses: claim.addresses,
      holder_machine_id: holder.machineId,
      holder_addresses: holder.addresses,
      time_us: clock.now_us(),
      reason,
    };
  }
}

/** Whether a compare-and-set found another revision than it compared with. */
const wasChanged = (cause: unknown): boolean =>
  cause instanceof JetStreamApiError &&
  (cause.code === JetStreamApiCodes.StreamWrongLastSequence ||
    cause.code === JetStreamApiCodes.StreamWrongLastSequenceUnknown);

const list = (addresses: readonly string[]): string => addresses.join(', ') || 'an unknown address';

/** The bucket as it is, without asking what it is like: that is not for a host to know. */
const openClaims = (connection: NatsConnection): Promise<KV> =>
  new Kvm(jetstream(connection, { checkAPI: false })).open(claimBucket, { allow_direct: true });

/** Whether nobody is there who would answer. */
const isNobody = (cause: unknown): boolean =>
  cause instanceof errors.NoRespondersError || (cause instanceof errors.RequestError && cause.isNoResponders());

/** The claim in an entry; undefined where there is none. @throws where it is not a claim */
function claimIn(entry: OwnEntry | null | undefined): Claim | undefined {
  if (entry?.operation !== 'PUT') return undefined;
  try {
    return JSON.parse(Buffer.from(entry.value).toString()) as Claim;
  } catch (cause) {
    throw new Error(`a claim in the bucket ${claimBucket} can't be read: ${sentence(cause)}`, { cause });
  }
}

/** Why a name can't be taken from its holder; undefined when it can. */
async function whyNot({ tenant, host, claim, connection }: ClaimOptions, holder: Claim): Promise<string | undefined> {
  const who = `machine ${holder.machineId} at ${list(holder.addresses)}`;
  if (holder.machineId !== claim.machineId)
    return `The name "${host}" is held by ${who}, and this is machine ${claim.machineId}. Give this one another name (--host), or forget the other in the console.`;
  if (holder.bootId === claim.bootId) return undefined;
  try {
    await connection.request(claimSubject(tenant, host, holder.session), undefined, {
      timeout: claimAnswerMilliseconds,
    });
  } catch (cause) {
    // Nobody is there: the machine was booted anew. Or it lost its power, and the server still takes the dead connection for
    // a living one: then there is no answer in time.
    if (isNobody(cause) || cause instanceof errors.TimeoutError) return undefined;
    throw cause;
  }
  return `The name "${host}" is held by ${who}, which runs now and has the same machine id: one is a clone of the other. Give this one a machine id of its own (systemd-machine-id-setup), and another name.`;
}
