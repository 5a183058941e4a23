// Measures and events into the log: in columns, some thousands a message.
import { createHash, randomBytes } from 'node:crypto';
import { subject } from '@fleetreel/proto';
import { type CustomColumns, type EventColumns, encodeCustomBatch, type MeasureColumns } from '@fleetreel/proto/custom';
import { ApiError } from '@fleetreel/proto/errors';
import type { Accepted } from '@fleetreel/proto/http';
import type { Clock } from '#clock.ts';
import {
  customGroupedEntriesMax,
  customMessageBytes,
  customMessageEntriesMax,
  customPendingBytesMax,
  customRowBytes,
} from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** Entries in columns, checked; metadata as the log has them. Numbers are UTC microseconds since 1970, NaN where absent. */
export type Measures = { time_us: number[]; name: string[]; value: number[]; text: string[]; metadata: string[] };
export type Events = {
  time_us: number[];
  name: string[];
  end_us: number[];
  severity: string[];
  text: string[];
  metadata: string[];
};
export type Entries = { measures: Measures; events?: undefined } | { measures?: undefined; events: Events };

/** Who writes: the tenant, and the id of the key as a token of a subject. */
export type Writing = { tenant: string; source: string };

/** Calls of one writer that go into the log together. */
type Group = { entries: Entries; count: number; written: PromiseWithResolvers<void> };
export type EntryKind = 'measure' | 'event';

/** Writes what applications post. */
export class CustomLog {
  readonly #log: Log;
  readonly #telemetry: Pick<Telemetry, 'customWritten'>;
  readonly #clock: Clock;
  /** The calls that came while the ones before them, of the same writer and kind, were on their way. */
  readonly #waiting = new Map<string, Group>();
  #pendingBytes = 0;

  constructor(log: Log, telemetry: Pick<Telemetry, 'customWritten'>, clock: Clock) {
    this.#log = log;
    this.#telemetry = telemetry;
    this.#clock = clock;
  }

  /**
   * Writes all entries of a call; resolves when the log has them. With the same idempotency key, kind and entries, what the log has
   * is not written again: for as long as its duplicate window; later the rows are the same where a time was given.
   * @throws ApiError when the log can't take all of them: it may have some
   */
  async put(writing: Writing, entries: Entries, idempotencyKey: string | undefined): Promise<Accepted> {
    const [kind, count]: [EntryKind, number] = entries.measures
      ? ['measure', entries.measures.name.length]
      : ['event', entries.events.name.length];
    if (count === 0) return { accepted: 0, duplicate: false };
    if (idempotencyKey === undefined && count <= customGroupedEntriesMax) {
      await this.#putWithOthers(writing, kind, entries, count);
      return { accepted: count, duplicate: false };
    }
    const identity =
      idempotencyKey === undefined ? randomBytes(16) : identityOf(writing, kind, idempotencyKey, entries);
    const release = this.#hold(sizeOf(entries, count));
    try {
      return { accepted: count, duplicate: await this.#publish(writing, kind, entries, count, identity) };
    } finally {
      release();
    }
  }

  /**
   * Many small calls cost the log, its memory of duplicates and the store as much as few large ones when they go together: while one
   * message is on its way, what the same writer writes is collected for the next. Who writes alone waits for nobody.
   */
  async #putWithOthers(writing: Writing, kind: EntryKind, entries: Entries, count: number): Promise<void> {
    const release = this.#hold(sizeOf(entries, count));
    try {
      const writer = `${writing.tenant}.${writing.source}.${kind}`;
      let group = this.#waiting.get(writer);
      const isFirst = group === undefined;
      if (group === undefined) {
        group = newGroup(kind);
        this.#waiting.set(writer, group);
      }
      add(group, entries, count, Math.round(this.#clock.now_us()));
      if (isFirst) void this.#writeGroups(writing, kind, writer);
      await group.written.promise;
    } finally {
      release();
    }
  }

  /** Writes group after group, for as long as calls come. */
  async #writeGroups(writing: Writing, kind: EntryKind, writer: string): Promise<void> {
    for (let group = this.#waiting.get(writer); group && group.count > 0; group = this.#waiting.get(writer)) {
      this.#waiting.set(writer, newGroup(kind));
      try {
        await this.#publish(writing, kind, group.entries, group.count, randomBytes(16));
        group.written.resolve();
      } catch (cause) {
        group.written.reject(cause);
      }
    }
    this.#waiting.delete(writer);
  }

  /** Keeps room for so many bytes, until it is released. @throws ApiError where too many wait already */
  #hold(bytes: number): () => void {
    if (this.#pendingBytes > 0 && this.#pendingBytes + bytes > customPendingBytesMax)
      throw new ApiError('log_unavailable', { reason: `${customPendingBytesMax} bytes wait for it` });
    this.#pendingBytes += bytes;
    return () => {
      this.#pendingBytes -= bytes;
    };
  }

  /** Whether the log had all of it. @throws ApiError log_unavailable */
  async #publish(
    { tenant, source }: Writing,
    kind: EntryKind,
    entries: Entries,
    count: number,
    identity: Buffer,
  ): Promise<boolean> {
    // 63 bits: the store has signed numbers, and none for the least of them.
    identity[0] = (identity[0] as number) & 0x7f;
    const call = identity.toString('hex', 0, 8);
    const to = subject({ tenant, kind: 'custom', host: source });
    try {
      const known = await Promise.all(
        batches(entries, count, call, Math.round(this.#clock.now_us())).map(async ({ first, rows, data }) => {
          // The whole digest: message ids are of all tenants.
          const msgID = `custom-${identity.toString('hex', 0, 16)}-${first}`;
          const { duplicate } = await this.#log.jetstream.publish(to, data, { msgID });
          if (!duplicate) this.#telemetry.customWritten(kind, rows, data.length);
          return duplicate;
        }),
      );
      return known.length > 0 && known.every((one) => one);
    } catch (cause) {
      const hint =
        ' The log may have some of the call: sent again, the same under the same Idempotency-Key, it is stored once.';
      throw new ApiError('log_unavailable', { reason: sentence(cause), hint }, { cause });
    }
  }
}

/** The same for a call that is sent again, at whichever collector; other entries under the same key are another call. */
function identityOf({ tenant, source }: Writing, kind: EntryKind, key: string, entries: Entries): Buffer {
  const hash = createHash('sha256').update(JSON.stringify([tenant, source, kind, key]));
  for (const column of Object.values(columnsOf(entries)))
    hash.update(
      typeof column[0] === 'number'
        ? new Uint8Array(Float64Array.from(column as number[]).buffer)
        : JSON.stringify(column),
    );
  return hash.digest();
}

const newGroup = (kind: EntryKind): Group => ({
  entries: noEntries(kind),
  count: 0,
  written: Promise.withResolvers(),
});

/** Columns without a row. */
export const noEntries = (kind: EntryKind): Entries =>
  kind === 'measure'
    ? { measures: { time_us: [], name: [], value: [], text: [], metadata: [] } }
    : { events: { time_us: [], name: [], end_us: [], severity: [], text: [], metadata: [] } };

/** Adds the entries of a call to a group. Such as have no time have that of their call, which is not the one of the message. */
function add(group: Group, entries: Entries, count: number, received_us: number): void {
  const [to, from] = [columnsOf(group.entries), columnsOf(entries)];
  for (const name of Object.keys(to)) {
    const column = from[name] as unknown[];
    for (let row = 0; row < count; row++) {
      const value = column[row];
      to[name]?.push(name === 'time_us' && Number.isNaN(value) ? received_us : value);
    }
  }
  group.count += count;
}

const columnsOf = ({ measures, events }: Entries) => (measures ?? events) as Record<string, unknown[]>;

/** Bytes of entries in the log, about. */
function sizeOf(entries: Entries, count: number): number {
  const { name, text, metadata } = entries.measures ?? entries.events;
  let bytes = count * customRowBytes;
  for (let row = 0; row < count; row++)
    bytes += (name[row] as string).length + (text[row] as string).length + (metadata[row] as string).length;
  return bytes;
}

/** The entries as messages, in their order. */
function batches(
  entries: Entries,
  count: number,
  call: string,
  received_us: number,
): { first: number; rows: number; data: Uint8Array }[] {
  const messages: { first: number; rows: number; data: Uint8Array }[] = [];
  for (let first = 0; first < count; ) {
    const words = new Words();
    const [end, batch] = entries.measures
      ? measuresFrom(entries.measures, first, words)
      : eventsFrom(entries.events, first, words);
    const data = encodeCustomBatch({ call, first, received_us, words: words.list, ...batch });
    messages.push({ first, rows: end - first, data });
    first = end;
  }
  return messages;
}

function measuresFrom(entries: Measures, first: number, words: Words): [end: number, CustomColumns] {
  const columns: MeasureColumns = { time_us: [], name: [], value: [], text: [], metadata: [] };
  let row = first;
  for (; row < entries.name.length && words.hasRoom(row - first); row++) {
    columns.time_us.push(entries.time_us[row] as number);
    columns.name.push(words.place(entries.name[row] as string));
    columns.value.push(entries.value[row] as number);
    columns.text.push(words.place(entries.text[row] as string));
    columns.metadata.push(words.place(entries.metadata[row] as string));
  }
  return [row, { measures: columns }];
}

function eventsFrom(entries: Events, first: number, words: Words): [end: number, CustomColumns] {
  const columns: EventColumns = { time_us: [], name: [], end_us: [], severity: [], text: [], metadata: [] };
  let row = first;
  for (; row < entries.name.length && words.hasRoom(row - first); row++) {
    columns.time_us.push(entries.time_us[row] as number);
    columns.name.push(words.place(entries.name[row] as string));
    columns.end_us.push(entries.end_us[row] as number);
    columns.severity.push(words.place(entries.severity[row] as string));
    columns.text.push(words.place(entries.text[row] as string));
    columns.metadata.push(words.place(entries.metadata[row] as string));
  }
  return [row, { events: columns }];
}

/** Texts of a message, each once. */
class Words {
  readonly list: string[] = [''];
  readonly #places = new Map<string, number>([['', 0]]);
  #bytes = 0;

  hasRoom(rows: number): boolean {
    return rows < customMessageEntriesMax && this.#bytes + rows * customRowBytes < customMessageBytes;
  }

  place(word: string): number {
    let place = this.#places.get(word);
    if (place === undefined) {
      place = this.list.push(word) - 1;
      this.#places.set(word, place);
      // With the tag and the length before it.
      this.#bytes += 4 + Buffer.byteLength(word);
    }
    return place;
  }
}
