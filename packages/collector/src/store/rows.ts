// Rows on their way into QuestDB: the Influx line protocol with binary doubles, made straight from a frame's columns.
import { createHash } from 'node:crypto';
import { catalog, type FrameHeader, type Table } from '@fleetreel/proto';
import { labelCharactersMax, prefixCacheBytesMax } from '#limits.ts';
import { frameTable } from '#store/schema.ts';

/** One table of a frame as it is on the wire, its columns found but not decoded. */
export interface PackedTable {
  readonly table: Table;
  readonly rowCount: number;
  /** The bytes of all label columns: the same bytes are the same labels. */
  readonly labelBytes: Uint8Array;
  /** The labels, columns in the order of the catalogue; undefined is all absent. */
  labels(): (readonly string[] | undefined)[];
  /** The values: 8 bytes a row, little-endian. */
  readonly view: DataView;
  /** Where in `view` each column begins, columns in the order of the catalogue; -1 is all absent. */
  readonly offsets: readonly number[];
}

/** A frame with what the subject says of it. */
export type PackedFrame = FrameHeader & {
  tenant: string;
  host: string;
  sizeBytes: number;
  /** When the log stored it: UTC, microseconds since 1970. */
  received_us: number;
  tables: readonly PackedTable[];
};

/** The beginnings of a table's rows: table and labels, up to the values. */
type Prefixes = { labelBytes: Uint8Array; rows: readonly Uint8Array[] };

/** `name==` and the mark of eight binary bytes. */
const names = new Map<Table, readonly Uint8Array[]>(
  catalog.map((table) => [table, table.fields.map(({ name }) => Buffer.from(`${name}==\x10`, 'latin1'))]),
);
const comma = 0x2c;
const space = 0x20;
/** Bytes that the end of a row takes at most: a space, 16 digits, the unit and a line break. */
const endBytes = 24;

/**
 * Row beginnings of hosts that were seen before. Labels rarely change from frame to frame, so that a row is mostly copied.
 * Shared by the buffers of one collector.
 */
export class PrefixCache {
  readonly #hosts = new Map<string, Map<string, Prefixes>>();
  readonly #onShortened: () => void;
  #bytes = 0;

  constructor(onShortened: () => void) {
    this.#onShortened = onShortened;
  }

  /** The beginnings of the rows of one table of a host. */
  of(tenant: string, host: string, packed: PackedTable): readonly Uint8Array[] {
    const tables = this.#host(tenant, host);
    const known = tables.get(packed.table.name);
    // Labels may be absent, and then say nothing of how many rows there are.
    if (known?.rows.length === packed.rowCount && Buffer.compare(known.labelBytes, packed.labelBytes) === 0)
      return known.rows;
    const labels = packed.labels();
    const start = `${packed.table.name},tenant=${symbol(tenant)},host=${symbol(host)}`;
    const rows = Array.from({ length: packed.rowCount }, (_, row) => {
      let line = start;
      // Texts are values to the protocol, and stand after all symbols.
      let texts = '';
      for (const [index, label] of packed.table.labels.entries()) {
        const value = labels[index]?.[row];
        if (label.text) texts += `${texts ? ',' : ' '}${label.name}=${text(this.#shorten(value ?? ''))}`;
        else if (value) line += `,${label.name}=${symbol(this.#shorten(value))}`;
      }
      return Buffer.from(line + texts);
    });
    this.#keep(tables, packed.table.name, { labelBytes: new Uint8Array(packed.labelBytes), rows });
    return rows;
  }

  /** The beginning of a host's rows of the table of frames; for each session of its agent another. */
  ofFrame(tenant: string, host: string, session: string): Uint8Array {
    const tables = this.#host(tenant, host);
    const labelBytes = Buffer.from(session);
    const known = tables.get(frameTable);
    if (known?.rows[0] && Buffer.compare(known.labelBytes, labelBytes) === 0) return known.rows[0];
    const row = Buffer.from(`${frameTable},tenant=${symbol(tenant)},host=${symbol(host)},session=${session} sequence=`);
    this.#keep(tables, frameTable, { labelBytes, rows: [row] });
    return row;
  }

  #host(tenant: string, host: string): Map<string, Prefixes> {
    const key = `${tenant} ${host}`;
    let tables = this.#hosts.get(key);
    if (this.#bytes > prefixCacheBytesMax) {
      this.#hosts.clear();
      this.#bytes = 0;
      tables = undefined;
    }
    if (tables === undefined) {
      tables = new Map();
      this.#hosts.set(key, tables);
    }
    return tables;
  }

  #keep(tables: Map<string, Prefixes>, name: string, prefixes: Prefixes): void {
    this.#bytes += bytesOf(prefixes) - bytesOf(tables.get(name));
    tables.set(name, prefixes);
  }

  #shorten(label: string): string {
    if (label.length <= labelCharactersMax) return label;
    this.#onShortened();
    return shortened(label, labelCharactersMax);
  }
}

/** A label of so many characters at most: a longer one is cut and ends in a digest of the whole, so that it stays distinct. */
export function shortened(label: string, charactersMax: number): string {
  if (label.length <= charactersMax) return label;
  const digest = createHash('sha256').update(label).digest('hex').slice(0, 16);
  return `${label.slice(0, charactersMax - digest.length - 1).toWellFormed()}~${digest}`;
}

/** What prefixes take, a hundred bytes for each object included. */
function bytesOf(prefixes: Prefixes | undefined): number {
  if (prefixes === undefined) return 0;
  return prefixes.rows.reduce((sum, row) => sum + row.length + 100, prefixes.labelBytes.length + 100);
}

/** A text value as the line protocol wants it, in quotes. */
export const text = (value: string): string => `"${value.replace(/["\\\n\r]/g, '\\$&').replaceAll('\0', '\ufffd')}"`;

/** A symbol as the line protocol wants it. QuestDB takes any character but NUL. */
export function symbol(text: string): string {
  return /[ ,=\n\r\\\0]/.test(text) ? text.replace(/[ ,=\n\r\\]/g, '\\$&').replaceAll('\0', '\ufffd') : text;
}

/** A buffer of rows, frame by frame; it grows and is used again. */
export class Rows {
  readonly #prefixes: PrefixCache;
  #bytes = Buffer.allocUnsafeSlow(1024 * 1024);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;
  #rowCount = 0;
  /** Where each frame ends. */
  #frameEnds: number[] = [];

  constructor(prefixes: PrefixCache) {
    this.#prefixes = prefixes;
  }

  get frameCount(): number {
    return this.#frameEnds.length;
  }

  get rowCount(): number {
    return this.#rowCount;
  }

  get byteLength(): number {
    return this.#length;
  }

  /** The lines of a range of frames. Valid until the next `add` or `clear`. */
  lines(from = 0, to = this.#frameEnds.length): Uint8Array {
    return this.#bytes.subarray(from === 0 ? 0 : this.#frameEnds[from - 1], to === 0 ? 0 : this.#frameEnds[to - 1]);
  }

  clear(): void {
    this.#length = 0;
    this.#rowCount = 0;
    this.#frameEnds = [];
  }

  /** Appends a frame's rows; when it throws, none of them. */
  add(frame: PackedFrame): void {
    const before = { length: this.#length, rowCount: this.#rowCount };
    try {
      const end = Buffer.from(` ${frame.time_us}t\n`, 'latin1');
      for (const packed of frame.tables)
        this.#addTable(packed, this.#prefixes.of(frame.tenant, frame.host, packed), end);
      this.#addFrame(frame, end);
      this.#frameEnds.push(this.#length);
    } catch (cause) {
      this.#length = before.length;
      this.#rowCount = before.rowCount;
      throw cause;
    }
  }

  #addFrame(
    { tenant, host, session, sequence, interval_ms, sizeBytes, received_us }: PackedFrame,
    end: Uint8Array,
  ): void {
    const prefix = this.#prefixes.ofFrame(tenant, host, session);
    const values = Buffer.from(
      `${sequence}i,interval_ms=${interval_ms}i,size_bytes=${sizeBytes}i,received=${received_us}t`,
      'latin1',
    );
    this.#reserve(prefix.length + values.length + endBytes);
    for (const part of [prefix, values, end]) {
      this.#bytes.set(part, this.#length);
      this.#length += part.length;
    }
    this.#rowCount++;
  }

  #addTable(
    { table, rowCount, view: values, offsets }: PackedTable,
    prefixes: readonly Uint8Array[],
    end: Uint8Array,
  ): void {
    const fieldNames = names.get(table) ?? [];
    const first = table.labels.some(({ text }) => text) ? comma : space;
    const times = table.fields.findIndex(({ name }) => name === table.rowTime);
    const timeOffset = times < 0 ? -1 : (offsets[times] as number);
    const fieldBytes = fieldNames.reduce((sum, name) => sum + name.length + 9, 0);
    for (let row = 0; row < rowCount; row++) {
      const prefix = prefixes[row] as Uint8Array;
      this.#reserve(prefix.length + fieldBytes + endBytes);
      const bytes = this.#bytes;
      const view = this.#view;
      bytes.set(prefix, this.#length);
      let at = this.#length + prefix.length;
      // A space before the first value, unless a text was it; a comma before the others. A row without values has none: its labels say that it was there.
      let separator = first;
      for (let index = 0; index < fieldNames.length; index++) {
        const offset = offsets[index] as number;
        if (offset < 0) continue;
        const value = values.getFloat64(offset + row * 8, true);
        // NaN is NULL: the column is left out. So is an infinity, which the store does not have.
        if (!Number.isFinite(value)) continue;
        bytes[at++] = separator;
        separator = comma;
        const name = fieldNames[index] as Uint8Array;
        bytes.set(name, at);
        at += name.length;
        view.setFloat64(at, value, true);
        at += 8;
      }
      const time_us = timeOffset < 0 ? Number.NaN : Math.round(values.getFloat64(timeOffset + row * 8, true) * 1e6);
      const last = Number.isNaN(time_us) ? end : Buffer.from(` ${time_us}t\n`, 'latin1');
      bytes.set(last, at);
      this.#length = at + last.length;
    }
    this.#rowCount += rowCount;
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(this.#bytes.length * 2, this.#length + bytes));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}
