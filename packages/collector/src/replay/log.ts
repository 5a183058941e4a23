// Messages of the log from a place on, in their order, at the pace of whoever takes them.
import { randomUUID } from 'node:crypto';
import { type Address, everything, type Kind, parseSubject, prefix } from '@fleetreel/proto';
import { AckPolicy, DeliverPolicy, JetStreamApiError, ReplayPolicy } from '@nats-io/jetstream';
import { createInbox, type Msg, nanos, type Subscription } from '@nats-io/transport-node';
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
/** How long the server's word that a pull is over may be on its way, milliseconds. */
const graceMilliseconds = 1000;
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

/** What was asked for, and what has come of it so far. */
type Pull = {
  readonly asked: number;
  messages: LogMessage[];
  /** Messages that have come, those that are not wanted among them; the last of them, and the largest. */
  came: number;
  sequence: number;
  bytesMax: number;
  readonly late: AbortController;
  /** No more come. */
  isDone: boolean;
};

/**
 * What the server says of a message that a consumer delivers, in the subject for its acknowledgement:
 * `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<delivery>.<nanoseconds>.<pending>`, in newer servers with domain and account after
 * `ACK` and a token at the end (NATS ADR-15). NaN where it is none of these.
 */
function deliveryOf(reply: string): { sequence: number; delivery: number; stored_us: number; pending: number } {
  const tokens = reply.split('.');
  const begin = tokens.length > 9 ? 7 : 5;
  return {
    sequence: Number(tokens[begin]),
    delivery: Number(tokens[begin + 1]),
    stored_us: Math.floor(Number(tokens[begin + 2]) / 1000),
    pending: Number(tokens[begin + 3]),
  };
}

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

/**
 * One consumer of the server, which remembers nothing and is not acknowledged to: an ordered consumer by hand, with pulls. Messages are
 * taken from the connection where they arrive: an iterator that hands over each alone costs a fifth of the time of a replay.
 */
class PullReader {
  readonly #log: Log;
  readonly #name: string;
  readonly #question: LogQuestion;
  readonly #clock: Clock;
  readonly #inbox: string;
  readonly #subscription: Subscription;
  /** Of whom not all has come, by the number that is in the subject of its answers: the first is served first. */
  readonly #pulls = new Map<number, Pull>();
  #pulled = 0;
  #heard = Promise.withResolvers<void>();
  /** Messages of the question that the log has and that have not come. */
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
    this.#inbox = createInbox(log.inboxPrefix);
    this.#subscription = log.connection.subscribe(`${this.#inbox}.*`, {
      callback: (error, message) => (error ? this.#tear() : this.#take(message)),
    });
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
    const isLive = last === Number.POSITIVE_INFINITY;
    const hear = () => this.#hear();
    signal.addEventListener('abort', hear, { once: true });
    try {
      let checked_ms = this.#clock.monotonic_ms();
      let next: Pull | undefined;
      while (isLive || this.pending > 0 || next !== undefined) {
        const now_ms = this.#clock.monotonic_ms();
        if (now_ms - checked_ms > overtakenMilliseconds) {
          await checkThere(this.#log, this.#sequence);
          checked_ms = now_ms;
        }
        const current: Pull = next ?? this.#pull(isLive);
        next = undefined;
        do {
          while (!current.isDone && (this.pending > 0 || current.messages.length === 0)) {
            signal.throwIfAborted();
            if (this.#isTorn) break;
            await this.#heard.promise;
          }
          signal.throwIfAborted();
          // What comes next is on its way while what is there is worked through, however long that takes.
          if (current.isDone && this.pending > 0 && current.sequence < last) next = this.#pull(isLive);
          const { messages } = current;
          current.messages = [];
          if (messages.length > 0) yield messages;
        } while (!current.isDone && !this.#isTorn);
        if (this.#isTorn) return;
        this.isDone = current.sequence >= last;
        if (this.isDone) return;
        // In a history as many come as were asked for; of what arrives there may be none, but then the consumer has to be there.
        if (current.came < current.asked && (!isLive || current.came === 0)) {
          const { num_pending } = await this.#log.manager.consumers.info(streamName, this.#name);
          if (!isLive || num_pending > 0) return;
        }
      }
      this.isDone = true;
    } finally {
      signal.removeEventListener('abort', hear);
    }
  }

  /** Asks for as many as there are, or as memory allows for. */
  #pull(isLive: boolean): Pull {
    const room = Math.min(pull.most, Math.max(1, Math.floor(pull.bytes / this.#largestBytes)));
    const asked = this.pending > 0 ? Math.min(room, this.pending) : room;
    const expires_ms = isLive ? 5 * fetchMilliseconds : 5000;
    const number = ++this.#pulled;
    const late = new AbortController();
    const made: Pull = { asked, messages: [], came: 0, sequence: 0, bytesMax: 0, late, isDone: false };
    this.#pulls.set(number, made);
    this.#log.connection.publish(
      `$JS.API.CONSUMER.MSG.NEXT.${streamName}.${this.#name}`,
      JSON.stringify({ batch: asked, expires: nanos(expires_ms) }),
      { reply: `${this.#inbox}.${number}` },
    );
    // The server tells when it gives up: where it does not, it is away.
    this.#clock.sleep(expires_ms + graceMilliseconds, late.signal).then(
      () => this.#tear(),
      () => undefined,
    );
    return made;
  }

  /** A message of the log, or the server's word on a pull. */
  #take(message: Msg): void {
    const { subject } = message;
    if (subject.startsWith(this.#inbox)) {
      this.#finish(Number(subject.slice(this.#inbox.length + 1)));
      return;
    }
    const { sequence, delivery, stored_us, pending } = deliveryOf(message.reply ?? '');
    const [first] = this.#pulls;
    if (delivery !== ++this.#delivered || first === undefined) {
      this.#tear();
      return;
    }
    const [number, current] = first;
    const { data } = message;
    this.pending = pending;
    this.#sequence = sequence;
    current.sequence = sequence;
    current.bytesMax = Math.max(current.bytesMax, data.length);
    const address = parseSubject(subject);
    if (address && this.#isWanted(address))
      current.messages.push({ sequence, stored_us, host: address.host, kind: address.kind, data });
    if (++current.came === current.asked) this.#finish(number);
    else if (pending === 0) this.#hear();
  }

  #finish(number: number): void {
    const made = this.#pulls.get(number);
    if (made === undefined) return;
    made.isDone = true;
    made.late.abort();
    this.#pulls.delete(number);
    if (made.came > 0) this.#largestBytes = Math.max(made.bytesMax, this.#largestBytes / 8);
    this.#hear();
  }

  #tear(): void {
    this.#isTorn = true;
    this.#hear();
  }

  #hear(): void {
    this.#heard.resolve();
    this.#heard = Promise.withResolvers();
  }

  /** Hosts are left to who asks: of some the server has sent those only. */
  #isWanted({ tenant, kind, host }: Address): boolean {
    const { tenant: wanted, kinds } = this.#question;
    return tenant === wanted && kinds.includes(kind) && isIn(this.#log.partition, tenant, host);
  }

  async close(): Promise<void> {
    for (const { late } of this.#pulls.values()) late.abort();
    this.#subscription.unsubscribe();
    // Where the server can't be reached it removes the consumer by itself.
    await this.#log.manager.consumers.delete(streamName, this.#name).catch(() => undefined);
  }
}
