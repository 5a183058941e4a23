// The frames of a range in the order in which they are played.
//
// A frame is played at its own time. The log is in the order of storing, so frames are looked ahead for: those that the log
// stored within `orderMilliseconds` after their own time are put in order by reading so far ahead. Those that came later came in
// batches, drained from a spool: batches are few, so all that were stored since the begin of the range are looked through once,
// and those with late frames of the range are read again when their time comes. A frame that was sent live and is later
// than that, or more than `aheadMilliseconds` before its time, comes from a host whose clock was wrong: it is played at the time at which the log stored it. Frames of one time
// come in the order of host, session and sequence, and each (host, session, sequence) once.
import type { Table } from '@fleetreel/proto';
import { frameHeader, keepTables } from '@fleetreel/proto/bytes';
import { ApiError } from '@fleetreel/proto/errors';
import type { ReelFrame } from '@fleetreel/reel/format';
import type { Clock } from '#clock.ts';
import {
  aheadMilliseconds,
  lateBatchesMax,
  lateCacheBytesMax,
  orderBytesMax,
  orderMilliseconds,
  seenStretchesMax,
} from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { framesOf } from '#log/frames.ts';
import { Seen } from '#log/seen.ts';
import { streamName } from '#log/stream.ts';
import { LogGone, type LogMessage, microsecondsOf, readLog, stateOf } from '#replay/log.ts';
import { storedFrames } from '#replay/stored.ts';
import type { Reader } from '#store/reader.ts';

export type SourceParts = { log: Log; reader: Reader; clock: Clock };

/** What is played. */
export type SourceQuestion = {
  tenant: string;
  /** None means all. */
  hosts: readonly string[];
  /** Tables that are kept in each frame; none means all, and bytes stay as they are. */
  tables: readonly Table[];
  /** By time (UTC, microseconds, the end exclusive), or by the first and last sequence of the log. */
  range: { from_us: number; to_us: number } | { first: number; last: number };
};

/** What the log lost before it was played: up to when, UTC in microseconds. */
export type Hole = { to_us: number };

/** A frame with what it is ordered by. */
export type Item = { at: number; session: string; sequence: number; frame: ReelFrame };

const order_us = orderMilliseconds * 1000;
const ahead_us = aheadMilliseconds * 1000;
/** A slice of late frames that is read at once, microseconds of recording. */
const slice_us = 10_000_000;

/** A batch with late frames of the range, and the times of those. */
type LateBatch = { sequence: number; first: number; last: number };

export class Source {
  readonly #parts: SourceParts;
  readonly #question: SourceQuestion;
  readonly #hosts: ReadonlySet<string> | undefined;
  readonly #tables: ReadonlySet<Table> | undefined;
  readonly #late: Late;
  readonly from_us: number;
  readonly to_us: number;
  /** The last message of the log that is played. */
  readonly #last: number;

  private constructor(
    parts: SourceParts,
    question: SourceQuestion,
    range: { from_us: number; to_us: number; last: number },
  ) {
    this.#parts = parts;
    this.#question = question;
    this.#hosts = question.hosts.length > 0 ? new Set(question.hosts) : undefined;
    this.#tables = question.tables.length > 0 ? new Set(question.tables) : undefined;
    this.from_us = range.from_us;
    this.to_us = range.to_us;
    this.#last = range.last;
    this.#late = new Late(parts, (message) => this.#items(message));
  }

  /** What is in the log now is what is played: what arrives later is not. @throws ApiError */
  static async open(parts: SourceParts, question: SourceQuestion): Promise<Source> {
    const state = await stateOf(parts.log);
    const { range } = question;
    if ('from_us' in range) return new Source(parts, question, { ...range, last: state.last });
    if (range.first < state.first || range.first > state.last)
      throw new ApiError('sequence_gone', { value: range.first, first: state.first, last: state.last });
    const last = Math.min(range.last, state.last);
    const [from_us, to_us] = [await storedAt(parts.log, range.first), await storedAt(parts.log, last)];
    return new Source(parts, question, { from_us: from_us - order_us, to_us: to_us + order_us, last });
  }

  /**
   * The frames from a time on, some at a time. A hole is said before what comes after it.
   * @throws ApiError, and the signal's reason when it is aborted
   */
  async *frames(from_us: number, signal: AbortSignal): AsyncGenerator<readonly ReelFrame[] | Hole> {
    const seen = new Seen(seenStretchesMax);
    let position = Math.max(from_us, this.from_us);
    const pass = (items: readonly Item[]) => {
      const fresh = items.filter(({ frame, session, sequence }) => seen.add(frame.host, session, sequence));
      return fresh.map(({ frame }) => frame);
    };
    for (;;) {
      const begin = await this.#logBegin();
      if (position < begin) {
        const to_us = Math.min(begin, this.to_us);
        for await (const part of this.#stored(position, to_us, signal)) {
          const frames = pass(part);
          if (frames.length > 0) yield frames;
        }
        position = to_us;
      }
      if (position >= this.to_us) return;
      try {
        for await (const { items, to_us } of this.#logged(position, signal)) {
          const frames = pass(items);
          if (frames.length > 0) yield frames;
          position = to_us;
        }
        return;
      } catch (cause) {
        if (!(cause instanceof LogGone)) throw cause;
        yield { to_us: (await stateOf(this.#parts.log)).first_us };
      }
    }
  }

  /** The time from which on the log has every frame that came in time; what is before it is the store's. */
  async #logBegin(): Promise<number> {
    if ('first' in this.#question.range) return Number.NEGATIVE_INFINITY;
    const { first, first_us, last } = await stateOf(this.#parts.log);
    if (first > last) return this.to_us;
    // Of a log that never lost anything the first frame is there too; of others, one of the same second may be gone.
    return first === 1 ? first_us - order_us : first_us + order_us;
  }

  /** What the store has of before the log, with the late frames of that time that the log does have: those go first. */
  async *#stored(from_us: number, to_us: number, signal: AbortSignal): AsyncGenerator<Item[]> {
    const { tenant, hosts, tables } = this.#question;
    const late = await this.#openLate(signal);
    const question = { tenant, hosts, tables, from_us, to_us };
    let position = from_us;
    for await (const frames of storedFrames(this.#parts.reader, question, signal)) {
      const items = frames.map((stored) => ({ ...stored, at: stored.frame.time_us }));
      const [first, end] = [items[0]?.at ?? position, (items.at(-1)?.at ?? position) + 1];
      yield* late.slices(position, first);
      yield [...(await late.between(first, end)), ...items].sort(inOrder);
      position = end;
    }
    yield* late.slices(position, to_us);
  }

  async #openLate(signal: AbortSignal): Promise<Late> {
    const { tenant, hosts } = this.#question;
    const range = { from_us: this.from_us, to_us: this.to_us, last: this.#last };
    return await this.#late.open({ tenant, hosts }, range, signal);
  }

  /** What the log has, in order, each part up to a time. */
  async *#logged(from_us: number, signal: AbortSignal): AsyncGenerator<{ items: Item[]; to_us: number }> {
    const { log, clock } = this.#parts;
    const { tenant, hosts, range } = this.#question;
    const bySequence = 'first' in range;
    // In the order of the log, a late frame is played when the log got it.
    const late = bySequence ? undefined : await this.#openLate(signal);
    let waiting: Item[] = [];
    let bytes = 0;
    let released = from_us;
    const release = async function* (until: number): AsyncGenerator<{ items: Item[]; to_us: number }> {
      while (released < until) {
        const next = Math.min(
          waiting[0]?.at ?? Number.POSITIVE_INFINITY,
          late?.next(released) ?? Number.POSITIVE_INFINITY,
        );
        if (next >= until) break;
        const to_us = late?.isEmpty === false ? Math.min(until, Math.max(next, released) + slice_us) : until;
        let count = 0;
        for (const item of waiting) {
          if (item.at >= to_us) break;
          bytes -= item.frame.bytes.length;
          count++;
        }
        const taken = waiting.slice(0, count);
        waiting = waiting.slice(count);
        const others = (await late?.between(released, to_us)) ?? [];
        released = to_us;
        yield { items: others.length > 0 ? [...taken, ...others].sort(inOrder) : taken, to_us };
      }
      released = Math.max(released, until);
    };
    const from = bySequence && from_us <= this.from_us ? { sequence: range.first } : { time_us: from_us - ahead_us };
    const asked = { tenant, hosts, kinds: ['frame', 'batch'] as const, from, last: this.#last };
    for await (const messages of readLog(log, asked, clock, signal)) {
      for (const message of messages) {
        if (bySequence && message.sequence < range.first) continue;
        for (const item of this.#items(message)) {
          if (!bySequence && isLate(message, item)) continue;
          if (item.at > message.stored_us + ahead_us || item.at < message.stored_us - order_us)
            item.at = message.stored_us;
          if (item.at < from_us || item.at >= this.to_us) continue;
          item.frame.time_us = item.at;
          waiting.push(item);
          bytes += item.frame.bytes.length;
        }
      }
      waiting.sort(inOrder);
      const stored_us = messages.at(-1)?.stored_us ?? 0;
      yield* release(Math.min(stored_us - order_us, this.to_us));
      if (bytes > orderBytesMax) yield* release(waiting[waiting.length >> 1]?.at ?? released);
      if (stored_us - order_us > this.to_us) break;
    }
    yield* release(this.to_us);
  }

  /** The frames of a message that are asked for. What can't be read is in the dead letters. */
  #items(message: LogMessage): Item[] {
    if (this.#hosts && !this.#hosts.has(message.host)) return [];
    return itemsOf(message, this.#tables);
  }
}

/** The frames of a message at their own times. What can't be read is left out: ingest counts it and puts it aside with the reason. */
export function itemsOf(
  { kind, host, data, sequence: logSequence, stored_us }: LogMessage,
  tables: ReadonlySet<Table> | undefined,
): Item[] {
  const items: Item[] = [];
  try {
    for (const own of framesOf(kind, data)) {
      const { session, sequence, time_us } = frameHeader(own);
      const bytes = tables ? keepTables(own, tables) : own;
      if (bytes === undefined) continue;
      const frame: ReelFrame = { host, time_us, logSequence, stored_us, origin: 'log', bytes };
      items.push({ at: time_us, session, sequence, frame });
    }
  } catch {
    // A frame that was read before the one at fault stays.
  }
  return items;
}

/** Whether a frame came later than is looked ahead for, in a batch. */
const isLate = ({ kind, stored_us }: LogMessage, { at }: Item): boolean =>
  kind === 'batch' && at < stored_us - order_us;

function inOrder(a: Item, b: Item): number {
  if (a.at !== b.at) return a.at - b.at;
  if (a.frame.host !== b.frame.host) return a.frame.host < b.frame.host ? -1 : 1;
  if (a.session !== b.session) return a.session < b.session ? -1 : 1;
  if (a.sequence !== b.sequence) return a.sequence - b.sequence;
  // Of what is there twice, the one from the log, and the one that it got first.
  if (a.frame.origin !== b.frame.origin) return a.frame.origin === 'log' ? -1 : 1;
  return a.frame.logSequence - b.frame.logSequence;
}

async function storedAt({ manager }: Log, sequence: number): Promise<number> {
  // A message in between may have been removed by itself.
  const message = await manager.direct.getMessage(streamName, { seq: sequence });
  if (message === null) throw new ApiError('sequence_gone', { value: sequence, first: '', last: '' });
  return microsecondsOf(message.timestamp);
}

/** Late frames of a range: which batches have them, found once. */
class Late {
  readonly #parts: SourceParts;
  readonly #items: (message: LogMessage) => Item[];
  #batches: LateBatch[] | undefined;
  readonly #cache = new Map<number, { items: Item[]; bytes: number }>();
  #cacheBytes = 0;

  constructor(parts: SourceParts, items: (message: LogMessage) => Item[]) {
    this.#parts = parts;
    this.#items = items;
  }

  get isEmpty(): boolean {
    return this.#batches?.length === 0;
  }

  async open(
    whose: Pick<SourceQuestion, 'tenant' | 'hosts'>,
    { from_us, to_us, last }: { from_us: number; to_us: number; last: number },
    signal: AbortSignal,
  ): Promise<this> {
    if (this.#batches) return this;
    const found: LateBatch[] = [];
    const { log, clock } = this.#parts;
    // A frame of the range that is late was stored after the begin of the range.
    const asked = { ...whose, kinds: ['batch'] as const, from: { time_us: from_us }, last };
    for await (const messages of readLog(log, asked, clock, signal))
      for (const message of messages) {
        const times = this.#lateItems(message)
          .map(({ at }) => at)
          .filter((at) => at >= from_us && at < to_us);
        if (times.length === 0) continue;
        const first = times.reduce((a, b) => Math.min(a, b));
        found.push({ sequence: message.sequence, first, last: times.reduce((a, b) => Math.max(a, b)) });
        if (found.length > lateBatchesMax) throw new ApiError('too_many_late', { most: lateBatchesMax });
      }
    this.#batches = found.sort((a, b) => a.first - b.first);
    return this;
  }

  /** The time at or after this one from which there may be late frames. */
  next(from: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (const { first, last } of this.#batches ?? []) {
      if (first >= next) break;
      if (last >= from) next = Math.max(first, from);
    }
    return next;
  }

  /** The late frames from a time (inclusive) to a time (exclusive), in order. */
  async between(from: number, to: number): Promise<Item[]> {
    const found: Item[] = [];
    for (const { sequence, first, last } of this.#batches ?? []) {
      if (first >= to) break;
      if (last < from) continue;
      for (const item of await this.#batch(sequence)) if (item.at >= from && item.at < to) found.push(item);
    }
    return found.sort(inOrder);
  }

  /** As `between`, a slice of the recording after the other. */
  async *slices(from: number, to: number): AsyncGenerator<Item[]> {
    for (let position = this.next(from); position < to; ) {
      const end = Math.min(to, position + slice_us);
      yield await this.between(position, end);
      position = this.next(end);
    }
  }

  #lateItems(message: LogMessage): Item[] {
    return this.#items(message).filter((item) => isLate(message, item));
  }

  async #batch(sequence: number): Promise<readonly Item[]> {
    const known = this.#cache.get(sequence);
    if (known) {
      // What was used last goes last.
      this.#cache.delete(sequence);
      this.#cache.set(sequence, known);
      return known.items;
    }
    const stored = await this.#parts.log.manager.direct.getMessage(streamName, { seq: sequence });
    // Removed since it was found.
    if (stored === null) throw new LogGone(sequence);
    const [, , , , host = ''] = stored.subject.split('.');
    const stored_us = microsecondsOf(stored.timestamp);
    const items = this.#lateItems({ sequence, stored_us, host, kind: 'batch', data: stored.data });
    const bytes = items.reduce((sum, { frame }) => sum + frame.bytes.length, 0);
    this.#cache.set(sequence, { items, bytes });
    this.#cacheBytes += bytes;
    for (const [oldest, entry] of this.#cache) {
      if (this.#cacheBytes <= lateCacheBytesMax || oldest === sequence) break;
      this.#cache.delete(oldest);
      this.#cacheBytes -= entry.bytes;
    }
    return items;
  }
}
