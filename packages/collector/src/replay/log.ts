// Messages of the log from a place on, in their order, at the pace of whoever takes them.
import { randomUUID } from 'node:crypto';
import { type Address, everything, type Kind, parseSubject, prefix } from '@fleetreel/proto';
import {
  AckPolicy,
  type Consumer,
  DeliverPolicy,
  JetStreamApiError,
  type JsMsg,
  ReplayPolicy,
} from '@nats-io/jetstream';
import { nanos } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import { fetchBytesTarget, fetchMilliseconds, retryMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { isIn } from '#log/partition.ts';
import { streamName } from '#log/stream.ts';

/** A message with frames. */
export type LogMessage = {
  sequence: number;
  /** When the log stored it: UTC, microseconds since 1970. */
  stored_us: number;
  host: string;
  kind: Kind;
  data: Uint8Array;
};

/** What the log holds. */
export type LogState = {
  /** The stream's birth, which tells one log from another of the same name. */
  created: string;
  /** Sequence and storing time of the oldest message; `first` is above `last` where there is none. */
  first: number;
  first_us: number;
  last: number;
};

/** What a reader was to read next is gone: the log's bounds removed it. */
export class LogGone extends Error {
  override name = 'LogGone';
  /** The last message that was given; 0 where none was. */
  readonly last: number;

  constructor(last: number) {
    super(`the log no longer has what came after its message ${last}`);
    this.last = last;
  }
}

/** Messages of one pull at most, and at first: nothing is known of their size then. What it should bring at most, of which two are held. */
const pull = { most: 1000, first: 64, bytes: fetchBytesTarget / 12 } as const;
/** How long the server keeps a reader that does not come: a slow one gets another, from where it was. */
const inactiveMilliseconds = 60_000;
/** How often it is looked whether the log's bounds overtake the reader, milliseconds. */
const overtakenMilliseconds = 10_000;
/** Hosts that are filtered by the server; of more it sends all, and they are filtered here. */
const filteredHostsMax = 64;

/**
 * What the server looks for. With a filter that has wildcards it walks through all subjects of a block for each message that it
 * sends, which is most of its work even with a hundred hosts: where nearly all is wanted, it sends all.
 */
function filterOf({ tenant, kinds, hosts }: LogQuestion): string[] {
  if (hosts.length > 0 && hosts.length <= filteredHostsMax)
    return kinds.flatMap((kind) => hosts.map((host) => `${prefix}.${tenant}.${kind}.${host}`));
  return kinds.includes('frame') ? [everything] : kinds.map((kind) => `${prefix}.${tenant}.${kind}.*`);
}

/** Microseconds since 1970 of a time as the server writes it: RFC 3339 with up to nine digits of a second. */
export function microsecondsOf(time: string): number {
  const [, seconds = '', fraction = ''] = /^(.*?)(?:\.(\d+))?Z$/.exec(time) ?? [];
  return Date.parse(`${seconds}Z`) * 1000 + Number(fraction.slice(0, 6).padEnd(6, '0'));
}

export async function stateOf({ manager }: Log): Promise<LogState> {
  const { created, state } = await manager.streams.info(streamName);
  return {
    created,
    first: state.first_seq,
    first_us: microsecondsOf(state.first_ts),
    last: state.last_seq,
  };
}

export type LogQuestion = {
  tenant: string;
  kinds: readonly Kind[];
  /** None means all. */
  hosts: readonly string[];
  /** Where to begin: a sequence, or the first message stored at or after a time (UTC, microseconds). */
  from: { sequence: number } | { time_us: number };
  /** The last sequence that is wanted; Infinity goes on with what arrives. */
  last: number;
};

/** What was asked for, and what comes of it: as it arrives, or all of it. */
type Pull = { asked: number; messages: AsyncIterable<JsMsg> | readonly JsMsg[]; stop: () => void };

type Place = { deliver_policy: DeliverPolicy; opt_start_seq?: number; opt_start_time?: string };

/**
 * Reads messages, some at a time, each once; nothing more is pulled than what is taken. While NATS is away it waits.
 * @throws LogGone, and the signal's reason when it is aborted
 */
export async function* readLog(
  log: Log,
  question: LogQuestion,
  clock: Clock,
  signal: AbortSignal,
): AsyncGenerator<LogMessage[]> {
  const { from, last } = question;
  const position = { last: 'sequence' in from ? from.sequence - 1 : 0, begun: 'sequence' in from };
  let pause_ms: number = retryMilliseconds.min;
  while (position.last < last) {
    signal.throwIfAborted();
    let reader: PullReader | undefined;
    try {
      if (position.begun) await checkThere(log, position.last);
      const place: Place = position.begun
        ? { deliver_policy: DeliverPolicy.StartSequence, opt_start_seq: position.last + 1 }
        : {
            deliver_policy: DeliverPolicy.StartTime,
            opt_start_time: new Date((from as { time_us: number }).time_us / 1000).toISOString(),
          };
      reader = await PullReader.open(log, place, question, clock);
      if (last !== Number.POSITIVE_INFINITY && reader.pending === 0) return;
      for await (const messages of reader.read(last, signal)) {
        pause_ms = retryMilliseconds.min;
        position.begun = true;
        position.last = messages.at(-1)?.sequence ?? position.last;
        yield position.last > last ? messages.filter(({ sequence }) => sequence <= last) : messages;
      }
      if (reader.isDone) return;
    } catch (cause) {
      if (cause instanceof LogGone) throw cause;
      signal.throwIfAborted();
      if (cause instanceof Fault) throw cause.cause;
    } finally {
      await reader?.close();
    }
    // The connection, the server or its consumer is away: again, from where it was.
    await clock.sleep(pause_ms, signal);
    pause_ms = Math.min(pause_ms * 2, retryMilliseconds.max);
  }
}

/** A mistake of ours, which trying again does not mend. */
class Fault extends Error {}

async function checkThere(log: Log, last: number): Promise<void> {
  if (last > 0 && (await stateOf(log)).first > last + 1) throw new LogGone(last);
}

/** One consumer of the server, which remembers nothing and is not acknowledged to: an ordered consumer by hand, with pulls. */
class PullReader {
  readonly #log: Log;
  readonly #name: string;
  readonly #question: LogQuestion;
  readonly #clock: Clock;
  /** Messages of the question that the log has and that were not read. */
  pending: number;
  #largestBytes: number = fetchBytesTarget / pull.first;
  #delivered = 0;
  /** Of the message that came last. */
  #sequence = 0;
  /** One of the messages was lost on its way: another consumer begins with it. */
  #isTorn = false;
  isDone = false;

  private constructor(log: Log, name: string, question: LogQuestion, pending: number, clock: Clock) {
    this.#log = log;
    this.#name = name;
    this.#question = question;
    this.pending = pending;
    this.#clock = clock;
  }

  static async open(log: Log, place: Place, question: LogQuestion, clock: Clock): Promise<PullReader> {
    const name = `replay-${randomUUID()}`;
    try {
      const { num_pending } = await log.manager.consumers.add(streamName, {
        name,
        ...place,
        filter_subjects: filterOf(question),
        ack_policy: AckPolicy.None,
        replay_policy: ReplayPolicy.Instant,
        mem_storage: true,
        num_replicas: 1,
        inactive_threshold: nanos(inactiveMilliseconds),
      });
      return new PullReader(log, name, question, num_pending, clock);
    } catch (cause) {
      if (cause instanceof JetStreamApiError && cause.status === 400) throw new Fault('', { cause });
      throw cause;
    }
  }

  /** Until the last message that is wanted, or something is missing. */
  async *read(last: number, signal: AbortSignal): AsyncGenerator<LogMessage[]> {
    const consumer = await this.#log.jetstream.consumers.get(streamName, this.#name);
    const isLive = last === Number.POSITIVE_INFINITY;
    let checked_ms = this.#clock.monotonic_ms();
    let next: Promise<Pull> | undefined;
    try {
      while (isLive || this.pending > 0) {
        signal.throwIfAborted();
        const now_ms = this.#clock.monotonic_ms();
        if (now_ms - checked_ms > overtakenMilliseconds) {
          await checkThere(this.#log, this.#sequence);
          checked_ms = now_ms;
        }
        const current = await (next ?? this.#pull(consumer, isLive));
        next = undefined;
        const { asked } = current;
        const before = this.#delivered;
        for await (const messages of this.#take(current, signal)) {
          if (this.pending > 0 && this.#delivered - before === asked && this.#sequence < last) {
            next = this.#pullAhead(consumer);
            // Seen when it is its turn.
            next.catch(() => undefined);
          }
          yield messages;
          if (this.#sequence >= last) {
            this.isDone = true;
            return;
          }
        }
        if (this.#isTorn) return;
        const got = this.#delivered - before;
        // In a history as many come as were asked for; of what arrives there may be none, but then the consumer has to be there.
        if (got < asked && (!isLive || got === 0)) {
          const { num_pending } = await consumer.info();
          if (!isLive || num_pending > 0) return;
        }
      }
      this.isDone = true;
    } finally {
      next?.then(
        ({ stop }) => stop(),
        () => undefined,
      );
    }
  }

  /** Asks for as many as there are, or as memory allows for. */
  async #pull(consumer: Consumer, isLive: boolean): Promise<Pull> {
    const room = Math.min(pull.most, Math.max(1, Math.floor(pull.bytes / this.#largestBytes)));
    const asked = this.pending > 0 ? Math.min(room, this.pending) : room;
    const expires = isLive ? 5 * fetchMilliseconds : 5000;
    const messages = await consumer.fetch({ max_messages: asked, expires });
    return { asked, messages, stop: () => messages.stop() };
  }

  /** What comes next, while what is there is worked through, however long that takes: a pull that nobody reads is given up. */
  async #pullAhead(consumer: Consumer): Promise<Pull> {
    const next = await this.#pull(consumer, false);
    const messages: JsMsg[] = [];
    for await (const message of next.messages) messages.push(message);
    return { ...next, messages };
  }

  /** The messages of a pull: at once where they wait, else as they arrive. */
  async *#take({ messages: fetched, stop }: Pull, signal: AbortSignal): AsyncGenerator<LogMessage[]> {
    signal.addEventListener('abort', stop, { once: true });
    let messages: LogMessage[] = [];
    let largest = 0;
    try {
      for await (const message of fetched) {
        const { info, subject, data } = message;
        if (info.deliverySequence !== ++this.#delivered) {
          this.#isTorn = true;
          break;
        }
        this.pending = info.pending;
        this.#sequence = info.streamSequence;
        largest = Math.max(largest, data.length);
        const address = parseSubject(subject);
        if (address && this.#isWanted(address))
          messages.push({
            sequence: this.#sequence,
            stored_us: Math.floor(Number(info.timestampNanos) / 1000),
            host: address.host,
            kind: address.kind,
            data,
          });
        if (this.pending > 0 || messages.length === 0) continue;
        yield messages;
        messages = [];
      }
      signal.throwIfAborted();
      if (largest > 0) this.#largestBytes = Math.max(largest, this.#largestBytes / 8);
      if (messages.length > 0) yield messages;
    } finally {
      signal.removeEventListener('abort', stop);
      stop();
    }
  }

  /** Hosts are left to who asks: of some the server has sent those only. */
  #isWanted({ tenant, kind, host }: Address): boolean {
    const { tenant: wanted, kinds } = this.#question;
    return tenant === wanted && kinds.includes(kind) && isIn(this.#log.partition, tenant, host);
  }

  async close(): Promise<void> {
    // Where the server can't be reached it removes the consumer by itself.
    await this.#log.manager.consumers.delete(streamName, this.#name).catch(() => undefined);
  }
}
