// A frame's bytes to columns: found, checked, and left as they are. Packed doubles stand in a frame as the store wants them, 8
// bytes each and little-endian, so that decoding them into numbers would only be undone by the writer.
// https://protobuf.dev/programming-guides/encoding/
import { FrameError, root, scanFrame, type Table, type TableSlice } from '@fleetreel/proto';
import { rowsPerFrameMax } from '#limits.ts';
import type { PackedFrame, PackedTable } from '#store/rows.ts';

/** Where a column of a table belongs. */
type Place = { label: boolean; index: number };

const frameType = root.lookupType('fleetreel.v1.Frame');
const layouts = new Map<Table, readonly (Place | undefined)[]>();

/** The places of a table's columns by their numbers in the message. */
function layoutOf(table: Table): readonly (Place | undefined)[] {
  let layout = layouts.get(table);
  if (layout === undefined) {
    const places: (Place | undefined)[] = [];
    const columns = root.lookupType(String(frameType.fields[table.name]?.resolvedType?.fullName)).fields;
    const add = (label: boolean) => (column: { name: string }, index: number) => {
      places[columns[column.name]?.id ?? 0] = { label, index };
    };
    table.labels.forEach(add(true));
    table.fields.forEach(add(false));
    layout = places;
    layouts.set(table, layout);
  }
  return layout;
}

/** A frame, and how many of its fields this version does not know. */
export type Decoded = Omit<PackedFrame, 'tenant' | 'host' | 'received_us'> & { unknownFields: number };

/**
 * Finds the columns of a frame.
 * @throws FrameError for bytes that are no frame: what is wrong with them
 */
export function decode(bytes: Uint8Array): Decoded {
  const { slices, unknownFields, ...header } = scanFrame(bytes);
  const tables: PackedTable[] = [];
  let unknown = unknownFields;
  let rows = 0;
  for (const slice of slices) {
    const columns = new TableColumns(slice);
    unknown += columns.unknownFields;
    rows += columns.rowCount;
    if (rows > rowsPerFrameMax) throw new FrameError(`the frame has more than ${rowsPerFrameMax} rows`);
    if (columns.rowCount > 0) tables.push(columns);
  }
  return { ...header, sizeBytes: bytes.length, tables, unknownFields: unknown };
}

/** The latest time of a row that has its own, UTC in microseconds; -Infinity when there is none. */
export function latestRowTime({ tables }: Pick<Decoded, 'tables'>): number {
  let latest = Number.NEGATIVE_INFINITY;
  for (const { table, rowCount, view, offsets } of tables) {
    if (table.rowTime === undefined) continue;
    const offset = offsets[table.fields.findIndex(({ name }) => name === table.rowTime)] ?? -1;
    for (let row = 0; offset >= 0 && row < rowCount; row++) {
      const time_us = view.getFloat64(offset + row * 8, true) * 1e6;
      if (time_us > latest) latest = time_us;
    }
  }
  return latest;
}

/** Reads varints; a message that ends too early is a FrameError. */
class Wire {
  readonly bytes: Uint8Array;
  readonly #name: string;
  at = 0;

  constructor(bytes: Uint8Array, name: string) {
    this.bytes = bytes;
    this.#name = name;
  }

  get more(): boolean {
    return this.at < this.bytes.length;
  }

  /** A number below 2^32, the tags and lengths of a frame. */
  number(): number {
    const first = this.bytes[this.at];
    if (first !== undefined && first < 0x80) {
      this.at++;
      return first;
    }
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      const byte = this.bytes[this.at++];
      if (byte === undefined) this.#fail('it ends too early');
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    return this.#fail('a number is too long');
  }

  /** Passes so many bytes and gives the place of the first. */
  skip(count: number): number {
    const start = this.at;
    this.at += count;
    if (this.at > this.bytes.length) this.#fail('it ends too early');
    return start;
  }

  /** Passes the value of a field that is not known. */
  skipValue(wireType: number): void {
    if (wireType === 0) while ((this.bytes[this.skip(1)] ?? 0) >= 0x80);
    else if (wireType === 1) this.skip(8);
    else if (wireType === 2) this.skip(this.number());
    else if (wireType === 5) this.skip(4);
    else this.#fail(`there is no wire type ${wireType}`);
  }

  #fail(what: string): never {
    throw new FrameError(`table ${this.#name}: ${what}`);
  }
}

/** The columns of one table of a frame. */
class TableColumns implements PackedTable {
  readonly table: Table;
  readonly rowCount: number;
  readonly labelBytes: Uint8Array;
  readonly labelPlaces: readonly (readonly number[])[];
  readonly view: DataView;
  readonly offsets: readonly number[];
  readonly unknownFields: number;

  /** @throws FrameError */
  constructor({ table, bytes }: TableSlice) {
    this.table = table;
    const found = find(table, bytes);
    const { values, offsets } = found.split ? join(table, bytes) : { values: bytes, offsets: found.offsets };
    this.view = new DataView(values.buffer, values.byteOffset, values.byteLength);
    this.offsets = offsets;
    this.labelBytes = bytes;
    this.labelPlaces = found.labelPlaces;
    this.unknownFields = found.unknownFields;
    this.rowCount = countRows(table, found);
  }
}

/** Where the columns of a table's message are. */
type Found = {
  /** Of each column of labels: where each begins and ends. */
  labelPlaces: number[][];
  /** Of each column of values: where it begins, -1 when it is absent; its bytes. */
  offsets: number[];
  sizes: number[];
  /** Some column is in several pieces, of which `offsets` has only the first. */
  split: boolean;
  unknownFields: number;
};

function find(table: Table, bytes: Uint8Array): Found {
  const layout = layoutOf(table);
  const wire = new Wire(bytes, table.name);
  const labelPlaces = table.labels.map((): number[] => []);
  const offsets = table.fields.map(() => -1);
  const sizes = table.fields.map(() => 0);
  let split = false;
  let unknownFields = 0;
  while (wire.more) {
    const tag = wire.number();
    const wireType = tag & 7;
    const place = layout[tag >>> 3];
    if (place?.label === true && wireType === 2) {
      const from = wire.skip(wire.number());
      labelPlaces[place.index]?.push(from, wire.at);
    } else if (place?.label === false && (wireType === 2 || wireType === 1)) {
      const from = wire.skip(wireType === 2 ? wire.number() : 8);
      if (wire.at === from) continue;
      if (offsets[place.index] === -1) offsets[place.index] = from;
      else split = true;
      sizes[place.index] = (sizes[place.index] as number) + wire.at - from;
    } else {
      unknownFields++;
      wire.skipValue(wireType);
    }
  }
  return { labelPlaces, offsets, sizes, split, unknownFields };
}

/** Columns that the encoder cut into pieces, or did not pack, put together. */
function join(table: Table, bytes: Uint8Array): { values: Uint8Array; offsets: number[] } {
  const layout = layoutOf(table);
  const wire = new Wire(bytes, table.name);
  const pieces = table.fields.map((): Uint8Array[] => []);
  while (wire.more) {
    const tag = wire.number();
    const wireType = tag & 7;
    const place = layout[tag >>> 3];
    if (place?.label === false && (wireType === 2 || wireType === 1)) {
      const from = wire.skip(wireType === 2 ? wire.number() : 8);
      pieces[place.index]?.push(bytes.subarray(from, wire.at));
    } else wire.skipValue(wireType);
  }
  const columns = pieces.map((column) => Buffer.concat(column));
  let end = 0;
  const offsets = columns.map(({ length }) => {
    end += length;
    return length === 0 ? -1 : end - length;
  });
  return { values: Buffer.concat(columns), offsets };
}

/** The one length that all columns have. @throws FrameError where they differ, or a key is absent */
function countRows({ name, labels, fields }: Table, { labelPlaces, sizes }: Found): number {
  let rows = 0;
  const agree = (column: string | undefined, count: number) => {
    if (count === 0) return;
    if (rows > 0 && count !== rows) throw new FrameError(`table ${name}: ${column} has ${count} rows, not ${rows}`);
    rows = count;
  };
  for (let index = 0; index < labels.length; index++)
    agree(labels[index]?.name, (labelPlaces[index] as number[]).length / 2);
  for (let index = 0; index < fields.length; index++) agree(fields[index]?.name, (sizes[index] as number) / 8);
  if (!Number.isInteger(rows)) throw new FrameError(`table ${name}: a column is not made of whole values`);
  const missing = rows > 0 && labels.find(({ key }, index) => key && labelPlaces[index]?.length === 0);
  if (missing) throw new FrameError(`table ${name}: the key ${missing.name} is absent`);
  return rows;
}
