// Frames into the store: columns become binary ILP in one buffer, without objects in between.
// https://questdb.com/docs/reference/api/ilp/overview/, and for the binary doubles of protocol version 2 its client.
import { createHash } from 'node:crypto';
import { type Columns, decodeTable, type FrameHeader, rowCount, type Table, type TableSlice } from '@fleetreel/proto';
import { Pool } from 'undici';
import { labelCharactersMax, prefixCacheBytesMax, requestBytesMax, requestMilliseconds } from '#limits.ts';
import { type AdminSettings, authorization } from '#store/admin.ts';
import { frameTable } from '#store/schema.ts';
import type { Telemetry } from '#telemetry.ts';

/** A frame as it came: header, its tables undecoded, its size. */
export type ScannedFrame = FrameHeader & { slices: readonly TableSlice[]; size_bytes: number };

/** The store refused rows: they will never be taken as they are. The message is the store's. */
export class RowsRefused extends Error {
  override name = 'RowsRefused';
}

const space = 0x20;

/** What every row of a table has in common. */
type Plan = { table: Table; labels: readonly string[]; fields: readonly { name: string; start: Buffer }[] };

/** The beginnings of a table's rows of one host, and the labels that they were made of. */
type Beginnings = { labels: (string | undefined)[][]; starts: Buffer[] };

const plans = new Map<Table, Plan>();

function planOf(table: Table): Plan {
  let plan = plans.get(table);
  if (!plan) {
    // A field's name, `=`, and the marks of a binary double.
    const start = (name: string) => Buffer.concat([Buffer.from(`,${name}==`), Buffer.from([0x10])]);
    plan = {
      table,
      labels: table.labels.map(({ name }) => name),
      fields: table.fields.map(({ name }) => ({ name, start: start(name) })),
    };
    plans.set(table, plan);
  }
  return plan;
}

/** Rows in the store's own format, one frame after the other. */
export class RowBuffer {
  readonly #telemetry: Pick<Telemetry, 'labelShortened'>;
  #buffer = Buffer.allocUnsafeSlow(256 * 1024);
  #length = 0;
  #rows = 0;
  /** The end of each frame. */
  #ends: number[] = [];
  #hosts = new Map<string, Map<Table, Beginnings>>();
  #cachedBytes = 0;

  constructor(telemetry: Pick<Telemetry, 'labelShortened'>) {
    this.#telemetry = telemetry;
  }

  get rows(): number {
    return this.#rows;
  }

  get frames(): number {
    return this.#ends.length;
  }

  get length(): number {
    return this.#length;
  }

  /** The bytes of some frames, by their places; valid until the next change. */
  bytes(first = 0, end = this.#ends.length): Buffer {
    const from = first === 0 ? 0 : (this.#ends[first - 1] ?? 0);
    return this.#buffer.subarray(from, end === 0 ? 0 : this.#ends[end - 1]);
  }

  clear(): void {
    this.#length = 0;
    this.#rows = 0;
    this.#ends = [];
  }

  /**
   * Appends a frame's rows.
   * @throws FrameError when one of its tables can't be read; nothing is appended then
   */
  add(tenant: string, host: string, frame: ScannedFrame): void {
    const { length: before } = this;
    const rowsBefore = this.#rows;
    try {
      const time = Buffer.from(` ${frame.time_us}000\n`);
      const cache = this.#cacheOf(tenant, host);
      for (const slice of frame.slices) this.#table(slice.table, decodeTable(slice), tenant, host, time, cache);
      this.#text(
        `${frameTable},tenant=${escaped(tenant)},host=${escaped(host)},session=${frame.session} sequence=${frame.sequence}i,interval_ms=${frame.interval_ms}i,size_bytes=${frame.size_bytes}i`,
      );
      this.#copy(time);
      this.#rows++;
      this.#ends.push(this.#length);
    } catch (cause) {
      this.#length = before;
      this.#rows = rowsBefore;
      throw cause;
    }
  }

  #table(
    table: Table,
    columns: Columns,
    tenant: string,
    host: string,
    time: Buffer,
    cache: Map<Table, Beginnings>,
  ): void {
    const count = rowCount(table, columns);
    if (count === 0) return;
    const plan = planOf(table);
    const starts = this.#beginnings(plan, columns, count, tenant, host, cache);
    const present: { values: readonly number[]; start: Buffer }[] = [];
    let width = 0;
    for (const { name, start } of plan.fields) {
      const values = columns[name] as readonly number[] | undefined;
      if (!values || values.length === 0) continue;
      present.push({ values, start });
      width += start.length + 8;
    }
    for (let row = 0; row < count; row++) {
      const start = starts[row] as Buffer;
      this.#room(start.length + width + time.length + 1);
      const buffer = this.#buffer;
      let at = this.#length + start.copy(buffer, this.#length);
      const fieldsAt = at;
      for (const { values, start: name } of present) {
        const value = values[row] as number;
        // NaN and infinities are what the store keeps as NULL: the column is left out.
        if (!Number.isFinite(value)) continue;
        at += name.copy(buffer, at);
        buffer.writeDoubleLE(value, at);
        at += 8;
      }
      // The first field follows a blank instead of a comma. Without any, the time follows the labels.
      if (at > fieldsAt) buffer[fieldsAt] = space;
      this.#length = at;
      this.#copy(time);
      this.#rows++;
    }
  }

  /** The beginning of each row: table and labels. They seldom change from frame to frame. */
  #beginnings(
    plan: Plan,
    columns: Columns,
    count: number,
    tenant: string,
    host: string,
    cache: Map<Table, Beginnings>,
  ): Buffer[] {
    let kept = cache.get(plan.table);
    if (!kept) {
      kept = { labels: [], starts: [] };
      cache.set(plan.table, kept);
    }
    const { labels, starts } = kept;
    const values = plan.labels.map((name) => columns[name] as readonly string[] | undefined);
    for (let row = 0; row < count; row++) {
      const before = labels[row];
      let same = before !== undefined;
      for (let place = 0; same && place < values.length; place++) same = before?.[place] === values[place]?.[row];
      if (same) continue;
      const own = values.map((column) => column?.[row]);
      let text = `${plan.table.name},tenant=${escaped(tenant)},host=${escaped(host)}`;
      // An empty label is no label: NULL in the store.
      for (const [place, value] of own.entries())
        if (value) text += `,${plan.labels[place]}=${escaped(this.#bounded(value))}`;
      const start = Buffer.from(text);
      this.#cachedBytes += start.length - (starts[row]?.length ?? 0);
      labels[row] = own;
      starts[row] = start;
    }
    return starts;
  }

  #cacheOf(tenant: string, host: string): Map<Table, Beginnings> {
    if (this.#cachedBytes > prefixCacheBytesMax) {
      this.#hosts = new Map();
      this.#cachedBytes = 0;
    }
    const key = `${tenant}.${host}`;
    let cache = this.#hosts.get(key);
    if (!cache) {
      cache = new Map();
      this.#hosts.set(key, cache);
    }
    return cache;
  }

  /** A label that is too long is cut and ends in a digest of the whole, so that it stays distinct. */
  #bounded(text: string): string {
    if (text.length <= labelCharactersMax) return text;
    this.#telemetry.labelShortened();
    const digest = createHash('sha256').update(text).digest('hex').slice(0, 16);
    return `${text.slice(0, labelCharactersMax - digest.length - 1)}~${digest}`;
  }

  #text(text: string): void {
    this.#room(text.length * 3);
    this.#length += this.#buffer.write(text, this.#length);
  }

  #copy(bytes: Buffer): void {
    this.#room(bytes.length);
    this.#length += bytes.copy(this.#buffer, this.#length);
  }

  #room(bytes: number): void {
    if (this.#length + bytes <= this.#buffer.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(this.#buffer.length * 2, this.#length + bytes));
    this.#buffer.copy(larger, 0, 0, this.#length);
    this.#buffer = larger;
  }
}

/** A symbol's value in the line protocol: its delimiters are escaped. */
function escaped(text: string): string {
  return /[ ,=\n\r\\]/.test(text) ? text.replace(/[ ,=\n\r\\]/g, (character) => `\\${character}`) : text;
}

/** Sends rows to the store. */
export class Writer {
  readonly #pool: Pool;
  readonly #headers: Record<string, string>;
  readonly #telemetry: Telemetry;

  constructor(settings: AdminSettings, telemetry: Telemetry) {
    this.#pool = new Pool(settings.http_url, {
      connections: 2,
      headersTimeout: requestMilliseconds,
      bodyTimeout: requestMilliseconds,
      connect: { timeout: requestMilliseconds },
    });
    this.#headers = { authorization: authorization(settings), 'content-type': 'application/octet-stream' };
    this.#telemetry = telemetry;
  }

  /**
   * Sends the rows of some frames in one request: all of them are committed when it resolves, or none.
   * @throws RowsRefused when the store will never take them, other errors when it can't be reached
   */
  async send(bytes: Buffer): Promise<void> {
    const { statusCode, body } = await this.#pool.request({
      method: 'POST',
      path: '/write',
      headers: this.#headers,
      body: bytes,
    });
    const text = await body.text();
    if (statusCode === 204) return;
    if (statusCode === 400) throw new RowsRefused(messageIn(text));
    throw new Error(`the store answered ${statusCode}: ${messageIn(text)}`);
  }

  /**
   * Sends all frames of a buffer, in parts where they are many; returns the places of those that the store refused, with
   * its reason.
   */
  async sendAll(rows: RowBuffer): Promise<Map<number, string>> {
    const refused = new Map<number, string>();
    let first = 0;
    while (first < rows.frames) {
      let end = first + 1;
      while (end < rows.frames && rows.bytes(first, end + 1).length <= requestBytesMax) end++;
      await this.#sendPart(rows, first, end, refused);
      first = end;
    }
    return refused;
  }

  /** One bad row rejects a whole request: the frames are halved until the bad one is alone. */
  async #sendPart(rows: RowBuffer, first: number, end: number, refused: Map<number, string>): Promise<void> {
    try {
      await this.send(rows.bytes(first, end));
    } catch (cause) {
      if (!(cause instanceof RowsRefused)) throw cause;
      if (end - first === 1) {
        refused.set(first, cause.message);
        return;
      }
      this.#telemetry.storeRefused(cause.message);
      const middle = (first + end) >> 1;
      await this.#sendPart(rows, first, middle, refused);
      await this.#sendPart(rows, middle, end, refused);
    }
  }

  async close(): Promise<void> {
    await this.#pool.close();
  }
}

function messageIn(text: string): string {
  try {
    return ((JSON.parse(text) as { message?: string }).message ?? text).slice(0, 500);
  } catch {
    return text.slice(0, 500);
  }
}
