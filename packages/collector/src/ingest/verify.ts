// Whether a store holds what the log holds: the log is read and decoded by other code than ingest's, and counted.
import { type Columns, catalog, decodeFrame, everything, type Frame, parseSubject, type Table } from '@fleetreel/proto';
import type { ConsumerMessages, JsMsg } from '@nats-io/jetstream';
import type { Log } from '#log/connect.ts';
import { framesOf, holdsFrames } from '#log/frames.ts';
import { isIn, type Partition } from '#log/partition.ts';
import { Seen } from '#log/seen.ts';
import { streamName } from '#log/stream.ts';
import { type Content, contentKey, countedTables } from '#store/content.ts';
import { frameTable } from '#store/schema.ts';

/** Messages of the log that wait here to be counted. */
const readMessagesMax = 2000;
/** Rows with a time of their own that are told apart: such a row may come again. Beyond, they are not compared. */
const ownTimeRowsMax = 2_000_000;
/** How much a sum may differ, in parts of the sum of its absolute values: doubles are added in another order. */
const tolerance = 1e-9;

/** Where reading begins and ends, and what is left out. */
export type Passage = {
  /** Where the log is read from: a time, RFC 3339; all of it when undefined. */
  from: string | undefined;
  /** The last message, by its place in the log. */
  lastSequence: number;
  /** Rows of this time and later are left out: they still come. UTC, microseconds since 1970. */
  before_us: number;
  /** Whether a frame was put aside instead of stored: the place of its message in the log, and its own in a batch. */
  isAside: (sequence: number, index: number | undefined) => boolean;
};

/** As `Content`, with the sums of absolute values, by which sums are compared. */
type Counted = Content & { magnitudes: number[] };

/** What a stretch of the log holds. */
export class LogContent {
  readonly contents = new Map<string, Counted>();
  /** The time of the earliest row, UTC in microseconds; Infinity when there is none. */
  earliest_us = Number.POSITIVE_INFINITY;
  frames = 0;
  rows = 0;
  /** Messages that were read. */
  messages = 0;
  /** False when there were too many rows with a time of their own to tell them apart. */
  ownTimes = true;
  readonly #before_us: number;
  readonly #seen = new Seen(Number.POSITIVE_INFINITY);
  readonly #ownTimeRows = new Set<string>();

  constructor(before_us: number) {
    this.#before_us = before_us;
  }

  /** Reads the log; `progress` is told of each message's place. */
  async read(log: Log, passage: Passage, progress: (sequence: number) => void, signal: AbortSignal): Promise<void> {
    const consumer = await log.jetstream.consumers.get(streamName, {
      filter_subjects: everything,
      ...(passage.from === undefined ? {} : { opt_start_time: passage.from }),
    });
    // Where nothing waits, waiting for a message would never end.
    if ((await consumer.info()).num_pending === 0) return;
    const messages: ConsumerMessages = await consumer.consume({ max_messages: readMessagesMax });
    const stop = () => messages.stop();
    signal.addEventListener('abort', stop);
    try {
      for await (const message of messages) {
        if (message.seq > passage.lastSequence) break;
        this.#take(message, log.partition, passage.isAside);
        progress(message.seq);
        if (message.seq === passage.lastSequence || message.info.pending === 0) break;
      }
    } finally {
      signal.removeEventListener('abort', stop);
      messages.stop();
      await consumer.delete();
    }
    signal.throwIfAborted();
  }

  #take(message: JsMsg, partition: Partition, isAside: Passage['isAside']): void {
    this.messages++;
    const address = parseSubject(message.subject);
    if (!address || !holdsFrames(address.kind) || isAside(message.seq, undefined)) return;
    const { tenant, host, kind } = address;
    if (!isIn(partition, tenant, host)) return;
    for (const [index, bytes] of framesOf(kind, message.data).entries()) {
      if (isAside(message.seq, index)) continue;
      const frame = decodeFrame(bytes);
      if (this.#seen.add(`${tenant} ${host}`, frame.session, frame.sequence))
        this.#add(tenant, host, frame, bytes.length);
    }
  }

  #add(tenant: string, host: string, frame: Frame, size: number): void {
    const { time_us, sequence, interval_ms } = frame;
    this.frames++;
    const inTime = time_us < this.#before_us;
    if (inTime) this.#addRow(frameTable, tenant, host, time_us, [sequence, interval_ms, size]);
    for (const table of catalog) {
      const columns = (frame.tables as Record<string, Columns | undefined>)[table.name];
      if (columns === undefined) continue;
      if (table.rowTime !== undefined) this.#addOwnTimes(tenant, host, time_us, table, columns);
      else if (inTime) this.#addTable(tenant, host, time_us, table, columns);
    }
  }

  #addTable(tenant: string, host: string, time_us: number, table: Table, columns: Columns): void {
    const values = table.fields.map(({ name }) => columns[name] as readonly number[] | undefined);
    for (let row = 0; row < lengthOf(columns); row++)
      this.#addRow(
        table.name,
        tenant,
        host,
        time_us,
        values.map((column) => column?.[row] ?? Number.NaN),
      );
  }

  /** Rows that may come again, grown: counted once, and without sums. */
  #addOwnTimes(tenant: string, host: string, time_us: number, table: Table, columns: Columns): void {
    const times = columns[String(table.rowTime)] as readonly number[] | undefined;
    const keys = table.labels.filter(({ key }) => key).map(({ name }) => columns[name]);
    for (let row = 0; row < lengthOf(columns); row++) {
      const seconds = times?.[row] ?? Number.NaN;
      const own_us = Number.isFinite(seconds) ? Math.round(seconds * 1e6) : time_us;
      if (own_us >= this.#before_us) continue;
      const identity = JSON.stringify([table.name, tenant, host, own_us, ...keys.map((column) => column?.[row])]);
      if (this.#ownTimeRows.has(identity)) continue;
      if (this.#ownTimeRows.size >= ownTimeRowsMax) {
        this.ownTimes = false;
        return;
      }
      this.#ownTimeRows.add(identity);
      this.#addRow(table.name, tenant, host, own_us, []);
    }
  }

  #addRow(table: string, tenant: string, host: string, time_us: number, values: readonly number[]): void {
    this.rows++;
    if (time_us < this.earliest_us) this.earliest_us = time_us;
    const key = contentKey(table, tenant, host, Math.floor(time_us / 86_400_000_000));
    let content = this.contents.get(key);
    if (content === undefined) {
      const zeros = () => values.map(() => 0);
      content = { rows: 0, counts: zeros(), sums: zeros(), magnitudes: zeros() };
      this.contents.set(key, content);
    }
    content.rows++;
    for (let place = 0; place < values.length; place++) {
      const value = values[place] as number;
      // The store has neither NaN nor infinities.
      if (!Number.isFinite(value)) continue;
      (content.counts[place] as number)++;
      (content.sums[place] as number) += value;
      (content.magnitudes[place] as number) += Math.abs(value);
    }
  }

  /**
   * What of this the store does not hold: a sentence for each table, host and day. A store may hold more, from before the log
   * begins: then it has more frames of that host and day, and only has to hold as many rows as the log.
   */
  differences(stored: ReadonlyMap<string, Content>): string[] {
    const differing: string[] = [];
    for (const key of new Set([...this.contents.keys(), ...stored.keys()])) {
      const [table = '', tenant = '', host = '', day = ''] = key.split(' ');
      const { rowTime, fields } = countedTables.find(({ name }) => name === table) ?? { rowTime: false, fields: [] };
      if (rowTime && !this.ownTimes) continue;
      const framesKey = contentKey(frameTable, tenant, host, Number(day));
      const more = (stored.get(framesKey)?.rows ?? 0) > (this.contents.get(framesKey)?.rows ?? 0);
      const [log, store] = [this.contents.get(key), stored.get(key)];
      const date = new Date(Number(day) * 86_400_000).toISOString().slice(0, 10);
      const say = (what: string, inLog: number, inStore: number) =>
        differing.push(
          `${table} of ${host} (${tenant}) on ${date}: ${what}: the log has ${inLog}, the store ${inStore}`,
        );
      const [logRows, storeRows] = [log?.rows ?? 0, store?.rows ?? 0];
      if (storeRows < logRows || (storeRows > logRows && !more && !rowTime)) say('rows', logRows, storeRows);
      else if (!more && !rowTime && log && store)
        for (const [place, field] of fields.entries()) {
          const [logCount = 0, storeCount = 0] = [log.counts[place], store.counts[place]];
          const [logSum = 0, storeSum = 0] = [log.sums[place], store.sums[place]];
          if (logCount !== storeCount) say(`values of ${field}`, logCount, storeCount);
          else if (Math.abs(logSum - storeSum) > tolerance * (log.magnitudes[place] ?? 0))
            say(`sum of ${field}`, logSum, storeSum);
        }
    }
    return differing;
  }
}

const lengthOf = (columns: Columns): number => Math.max(0, ...Object.values(columns).map(({ length }) => length));
