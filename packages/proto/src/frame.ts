import Long from 'long';
import protobuf from 'protobufjs';
import { catalog, firstTableId, root, type Table, tableNumbered } from '#catalog.ts';
import type { Tables } from '#gen/tables.ts';

export type * from '#gen/tables.ts';

/** Who a frame is from and when: everything in it but the tables. */
export type FrameHeader = {
  /** Random 64 bits for each start of an agent, as 16 hexadecimal digits. */
  session: string;
  /** 1, 2, 3 ... within the session, without gaps. */
  sequence: number;
  /** When sampling began: UTC, microseconds since 1970. */
  time_us: number;
  /** The sampling interval in force, milliseconds. */
  interval_ms: number;
};

/** One tick of one host: the header and the tables that have rows. */
export type Frame = FrameHeader & { tables: Tables };

/** Columns of any table: labels are strings, values are numbers, an empty column is all absent. */
export type Columns = Record<string, readonly (string | number)[]>;

/** A frame that can't be what an agent sent: the message says what is wrong with it. */
export class FrameError extends Error {
  override name = 'FrameError';
}

const type = root.lookupType('fleetreel.v1.Frame');

/** Frames larger than this are refused on both sides: NATS takes 1 MiB. */
export const frameBytesMax = 1024 * 1024 - 4096;

/** A table and its columns as they are written: in the order of their numbers, with the tags before them. */
type Layout = { name: string; tag: number; columns: { name: string; tag: number; isLabel: boolean }[] };

const lengthDelimited = 2;
const tagOf = (id: number): number => ((id << 3) | lengthDelimited) >>> 0;

const layouts: readonly Layout[] = catalog
  .toSorted((a, b) => a.id - b.id)
  .map(({ name, id }) => ({
    name,
    tag: tagOf(id),
    columns: (type.fields[name] as protobuf.Field & { resolvedType: protobuf.Type }).resolvedType.fieldsArray
      .toSorted((a, b) => a.id - b.id)
      .map((column) => ({ name: column.name, tag: tagOf(column.id), isLabel: column.type === 'string' })),
  }));

/** What writes frames, when none is being written: what it writes into has grown to their size, and is no garbage of each. */
let idleWriter: protobuf.Writer | undefined;

/**
 * The wire form of a frame. A column without any value is left out, and a table without rows.
 *
 * The tables are written column by column: the encoder that is made from the contract wants a message without what is left
 * out, and making that costs as much as writing it.
 */
export function encodeFrame(frame: Frame): Uint8Array {
  const { session, sequence, time_us, interval_ms } = frame;
  const writer = idleWriter ?? protobuf.Writer.create();
  // One that fails in the middle is not used again.
  idleWriter = undefined;
  type.encode({ session: fromHex(session), sequence, time_us, interval_ms }, writer);
  const tables = frame.tables as Record<string, Columns | undefined>;
  // By place: what iterates makes an object for each step, and these are hundreds of steps in each tick of an agent.
  for (let place = 0; place < layouts.length; place++) {
    const { name, tag, columns } = layouts[place]!;
    const table = tables[name];
    if (!table) continue;
    let isBegun = false;
    for (let at = 0; at < columns.length; at++) {
      const column = columns[at]!;
      const values = table[column.name];
      if (!values || !hasValue(values)) continue;
      if (!isBegun) writer.uint32(tag).fork();
      isBegun = true;
      if (!column.isLabel) writer.uint32(column.tag).doubles(values as number[]);
      else for (const value of values) writer.uint32(column.tag).string(value as string);
    }
    if (isBegun) writer.ldelim();
  }
  // Memory of its own: part of a pool would keep all of the pool for as long as the frame is kept.
  const bytes = new Uint8Array(writer.finish(true));
  if (bytes.length <= frameBytesMax) idleWriter = writer.reset();
  return bytes;
}

/** Whether there is anything in a column but absent values. */
function hasValue(values: readonly (string | number)[]): boolean {
  for (let row = 0; row < values.length; row++) if (!Number.isNaN(values[row])) return true;
  return false;
}

/**
 * Reads a frame and checks it: a header that is complete, columns of one length within each table.
 * Fields that this version does not know are left out; `unknownFields` counts them.
 * @throws FrameError
 */
export function decodeFrame(bytes: Uint8Array): Frame {
  let message: Record<string, unknown>;
  try {
    message = type.decode(bytes) as unknown as Record<string, unknown>;
  } catch (cause) {
    throw new FrameError(`not a frame: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  const header = checkHeader({
    session: toHex(message.session),
    sequence: Number(message.sequence),
    time_us: Number(message.time_us),
    interval_ms: Number(message.interval_ms),
  });
  const tables: Record<string, Columns> = {};
  for (const table of catalog) {
    const columns = message[table.name];
    if (columns && Object.hasOwn(message, table.name) && rowCount(table, columns as Columns) > 0)
      tables[table.name] = columns as Columns;
  }
  return { ...header, tables: tables as Tables };
}

/** The bytes of one table within a frame. */
export type TableSlice = { table: Table; bytes: Uint8Array };

/**
 * Reads the header and finds the tables without decoding them: a tenth of the work of `decodeFrame`.
 * @throws FrameError
 */
export function scanFrame(bytes: Uint8Array): FrameHeader & { slices: TableSlice[]; unknownFields: number } {
  const reader = protobuf.Reader.create(bytes);
  const header = { session: '', sequence: 0, time_us: 0, interval_ms: 0 };
  const slices: TableSlice[] = [];
  let unknownFields = 0;
  try {
    while (reader.pos < reader.len) {
      const tag = reader.uint32();
      const id = tag >>> 3;
      if (id >= firstTableId && (tag & 7) === 2) {
        const table = tableNumbered(id);
        const content = reader.bytes();
        if (table) slices.push({ table, bytes: content });
        else unknownFields++;
      } else if (id === 1) header.session = toHex(reader.fixed64());
      else if (id === 2) header.sequence = Number(reader.uint64());
      else if (id === 3) header.time_us = Number(reader.int64());
      else if (id === 4) header.interval_ms = reader.uint32();
      else {
        unknownFields++;
        reader.skipType(tag & 7);
      }
    }
  } catch (cause) {
    throw new FrameError(`not a frame: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  return { ...checkHeader(header), slices, unknownFields };
}

/**
 * Decodes one table of a frame.
 * @throws FrameError
 */
export function decodeTable({ table, bytes }: TableSlice): Columns {
  const message = type.fields[table.name]?.resolvedType as protobuf.Type;
  try {
    const columns = message.decode(bytes) as unknown as Columns;
    rowCount(table, columns);
    return columns;
  } catch (cause) {
    if (cause instanceof FrameError) throw cause;
    throw new FrameError(`table ${table.name}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}

/**
 * The number of rows of a table: the one length that its columns have.
 * @throws FrameError where columns differ in length, or a key is absent.
 */
export function rowCount(table: Table, columns: Columns): number {
  let rows = 0;
  const names = columnNames(table);
  for (let place = 0; place < names.length; place++) {
    const name = names[place]!;
    const length = columns[name]?.length ?? 0;
    if (length === 0) continue;
    if (rows > 0 && length !== rows)
      throw new FrameError(`table ${table.name}: ${name} has ${length} rows, not ${rows}`);
    rows = length;
  }
  const missing = rows > 0 && table.labels.find(({ name, key }) => key && (columns[name]?.length ?? 0) === 0);
  if (missing) throw new FrameError(`table ${table.name}: the key ${missing.name} is absent`);
  return rows;
}

/** The names of all columns of a table: its labels, then its fields. */
export const columnNames = (table: Table): readonly string[] => namesOf.get(table) ?? namesIn(table);

const namesIn = ({ labels, fields }: Table): string[] => [...labels, ...fields].map(({ name }) => name);

// Each table of each frame is asked for them.
const namesOf: ReadonlyMap<Table, readonly string[]> = new Map(catalog.map((table) => [table, namesIn(table)]));

function checkHeader(header: FrameHeader): FrameHeader {
  if (!(header.sequence > 0)) throw new FrameError(`the sequence is ${header.sequence}: it begins at 1`);
  if (!(header.time_us > 0)) throw new FrameError(`the time is ${header.time_us}`);
  if (!(header.interval_ms > 0)) throw new FrameError(`the interval is ${header.interval_ms} ms`);
  return header;
}

export function fromHex(session: string): Long {
  return Long.fromString(session, true, 16);
}

export function toHex(session: unknown): string {
  return Long.fromValue(session as Long, true)
    .toString(16)
    .padStart(16, '0');
}
