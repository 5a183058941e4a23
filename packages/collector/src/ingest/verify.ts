// Whether a store holds what the log holds: the log is read and decoded by other code than ingest's, and counted.
import { type Columns, catalog, decodeFrame, everything, type Frame, parseSubject, type Table } from '@fleetreel/proto';
import {
  type CustomBatch,
  decodeAuditRecord,
  decodeCustomBatch,
  type LoggedAuditRecord,
} from '@fleetreel/proto/custom';
import type { ConsumerMessages, JsMsg } from '@nats-io/jetstream';
import type { Log } from '#log/connect.ts';
import { framesOf, holdsFrames } from '#log/frames.ts';
import { isIn, type Partition } from '#log/partition.ts';
import { Seen } from '#log/seen.ts';
import { streamName } from '#log/stream.ts';
import { type Content, contentKey, countedTables } from '#store/content.ts';
import { auditTable, eventTable, measureTable } from '#store/custom.ts';
import { frameTable } from '#store/schema.ts';

/** Messages of the log that wait here to be counted. */
const readMessagesMax = 2000;
/** Rows with a time of their own that are told apart: such a row may come again. Beyond, they are not compared. */
const ownTimeRowsMax = 2_000_000;
/** Calls of applications, and records of the audit trail, that are told apart: a call may be repeated. Beyond, they are not compared. */
const writtenCallsMax = 2_000_000;
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
  /** Rows of this time and earlier that applications wrote are left out: the store may have dropped them for their age. */
  after_us: number;
  /** Whether a frame was put aside instead of stored: the place of its message in the log, and its own in a batch. */
  isAside: (sequence: number, index: number | undefined) => boolean;
};

/** As `Content`, with the sums of absolute values, by which sums are compared; and whether a call of it was repeated. */
type Counted = Content & { magnitudes: number[]; isRepeated: boolean };

/** What a stretch of the log holds. */
export class LogContent {
  readonly contents = new Map<string, Counted>();
  /** The time of the earliest row of frames, and of what was written, UTC in microseconds; Infinity when there is none. */
  readonly earliest_us = { frames: Number.POSITIVE_INFINITY, written: Number.POSITIVE_INFINITY };
  frames = 0;
  rows = 0;
  /** Messages that were read. */
  messages = 0;
  /** False when there were too many rows with a time of their own to tell them apart. */
  ownTimes = true;
  /** False when there were too many calls of applications to tell them apart. */
  writtenCalls = true;
  readonly #before_us: number;
  /** When each call came, by what it is known by. */
  readonly #calls = new Map<string, number[]>();
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
        this.#take(message, log.partition, passage);
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

  #take(message: JsMsg, partition: Partition, { isAside, after_us }: Passage): void {
    this.messages++;
    const address = parseSubject(message.subject);
    if (!address || isAside(message.seq, undefined)) return;
    const { tenant, host, kind } = address;
    if (!isIn(partition, tenant, host)) return;
    if (kind === 'custom') this.#addBatch(tenant, host, decodeCustomBatch(message.data), after_us);
    else if (kind === 'audit') this.#addRecord(tenant, host, decodeAuditRecord(message.data), after_us);
    if (!holdsFrames(kind)) return;
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

  /** Of a call that is repeated, the entries that say their time are the same rows again. */
  #addBatch(tenant: string, source: string, batch: CustomBatch, after_us: number): void {
    const { call, first, received_us, measures } = batch;
    const table = measures ? measureTable : eventTable;
    const { time_us } = batch.measures ?? batch.events;
    const before = this.#call(`${table} ${tenant} ${call} ${first}`, received_us);
    if (before === undefined || before.includes(received_us)) return;
    for (let row = 0; row < time_us.length; row++) {
      const said_us = time_us[row] as number;
      const own_us = Number.isNaN(said_us) ? received_us : said_us;
      if (own_us <= after_us || own_us >= this.#before_us) continue;
      const values = measures ? [measures.value[row] as number] : [];
      if (before.length > 0 && !Number.isNaN(said_us)) {
        const known = this.contents.get(contentKey(table, tenant, source, dayOf(own_us)));
        if (known) known.isRepeated = true;
      } else this.#addRow(table, tenant, source, own_us, values, 'written');
    }
  }

  #addRecord(tenant: string, collector: string, { id, time_us }: LoggedAuditRecord, after_us: number): void {
    if (time_us <= after_us || time_us >= this.#before_us) return;
    if (this.#call(`${auditTable} ${tenant} ${id}`, time_us)?.length === 0)
      this.#addRow(auditTable, tenant, collector, time_us, [], 'written');
  }

  /** Notes that a call came; when it did before. Undefined where there are too many to know. */
  #call(identity: string, time_us: number): readonly number[] | undefined {
    const before = this.#calls.get(identity) ?? [];
    if (before.length === 0 && this.#calls.size >= writtenCallsMax) {
      this.writtenCalls = false;
      return undefined;
    }
    this.#calls.set(identity, [...before, time_us]);
    return before;
  }

  #addRow(
    table: string,
    tenant: string,
    owner: string,
    time_us: number,
    values: readonly number[],
    from: 'frames' | 'written' = 'frames',
  ): void {
    this.rows++;
    if (time_us < this.earliest_us[from]) this.earliest_us[from] = time_us;
    const key = contentKey(table, tenant, owner, dayOf(time_us));
    let content = this.contents.get(key);
    if (content === undefined) {
      const zeros = () => values.map(() => 0);
      content = { rows: 0, counts: zeros(), sums: zeros(), magnitudes: zeros(), isRepeated: false };
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
   * What of this the store does not hold: a sentence for each table, owner and day. A store may hold more, from before the log
   * begins: then it has more frames of that host and day, and only has to hold as many rows as the log. Of what applications wrote
   * and of the audit trail it may always hold more: that is of whatever time it says.
   */
  differences(stored: ReadonlyMap<string, Content>): string[] {
    const differing: string[] = [];
    for (const key of new Set([...this.contents.keys(), ...stored.keys()])) {
      const [table = '', tenant = '', owner = '', day = ''] = key.split(' ');
      const { rows, fields } = countedTables.find(({ name }) => name === table) ?? { rows: 'frame', fields: [] };
      if ((rows === 'own' && !this.ownTimes) || (rows === 'written' && !this.writtenCalls)) continue;
      const framesKey = contentKey(frameTable, tenant, owner, Number(day));
      const [log, store] = [this.contents.get(key), stored.get(key)];
      const more = rows === 'frame' && (stored.get(framesKey)?.rows ?? 0) > (this.contents.get(framesKey)?.rows ?? 0);
      const mayHaveMore = rows !== 'frame' || more;
      const comparesValues =
        rows === 'frame' ? !more : rows === 'written' && log?.rows === store?.rows && log?.isRepeated === false;
      const date = new Date(Number(day) * 86_400_000).toISOString().slice(0, 10);
      const say = (what: string, inLog: number, inStore: number) =>
        differing.push(
          `${table} of ${owner} (${tenant}) on ${date}: ${what}: the log has ${inLog}, the store ${inStore}`,
        );
      const [logRows, storeRows] = [log?.rows ?? 0, store?.rows ?? 0];
      if (storeRows < logRows || (storeRows > logRows && !mayHaveMore)) say('rows', logRows, storeRows);
      else if (comparesValues && log && store)
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

/** UTC, days since 1970. */
const dayOf = (time_us: number): number => Math.floor(time_us / 86_400_000_000);

const lengthOf = (columns: Columns): number => Math.max(0, ...Object.values(columns).map(({ length }) => length));
