// What can be done with a frame's bytes without decoding its tables. https://protobuf.dev/programming-guides/encoding/
import protobuf from 'protobufjs';
import { firstTableId, root, type Table } from '#catalog.ts';
import { FrameError, type FrameHeader, scanFrame } from '#frame.ts';

const frame = root.lookupType('fleetreel.v1.Frame');
const timeId = 3;

/**
 * The header alone: it stands first in what an agent sends, so that reading ends after some 30 bytes.
 * @throws FrameError
 */
export function frameHeader(bytes: Uint8Array): FrameHeader {
  const reader = protobuf.Reader.create(bytes);
  const header = { session: '', sequence: 0, time_us: 0, interval_ms: 0 };
  try {
    for (let found = 0; found < 4 && reader.pos < reader.len; found++) {
      const tag = reader.uint32();
      if (tag === 0x09) header.session = hex(reader.fixed32(), reader.fixed32());
      else if (tag === 0x10) header.sequence = Number(reader.uint64());
      else if (tag === 0x18) header.time_us = Number(reader.int64());
      else if (tag === 0x20) header.interval_ms = reader.uint32();
      else break;
    }
  } catch {
    // Said in full below.
  }
  if (header.session && header.sequence > 0 && header.time_us > 0 && header.interval_ms > 0) return header;
  // Another order, a field that is missing, or no frame at all.
  const { slices: _, unknownFields: __, ...scanned } = scanFrame(bytes);
  return scanned;
}

const hex = (low: number, high: number): string =>
  high.toString(16).padStart(8, '0') + low.toString(16).padStart(8, '0');

/**
 * The frame with these tables only, their bytes unchanged; undefined when it has none of them.
 * @throws FrameError
 */
export function keepTables(bytes: Uint8Array, tables: ReadonlySet<Table>): Uint8Array | undefined {
  const ids = new Set([...tables].map(({ id }) => id));
  const parts = partsOf(bytes).filter(({ id }) => id < firstTableId || ids.has(id));
  if (!parts.some(({ id }) => id >= firstTableId)) return undefined;
  return Buffer.concat(parts.map(({ begin, end }) => bytes.subarray(begin, end)));
}

/**
 * The frame at another time: rows with a time of their own are moved by as much.
 * @throws FrameError
 */
export function moveFrame(bytes: Uint8Array, time_us: number): Uint8Array {
  const seconds = (time_us - frameHeader(bytes).time_us) / 1e6;
  const moved = partsOf(bytes).map(({ id, begin, end }) => {
    const part = bytes.subarray(begin, end);
    if (id === timeId) return frame.encode({ time_us }).finish();
    const column = rowTimes.get(id);
    if (column === undefined) return part;
    const message = frame.decode(part) as unknown as Record<string, Record<string, number[]>>;
    const columns = message[column.table];
    const times = columns?.[column.name];
    if (times?.length && columns)
      // What else of the row is a time of day stays within it: the end of a loss moves with its begin.
      for (const name of [column.name, ...column.others])
        columns[name] = (columns[name] ?? []).map((value) => value + seconds);
    return frame.encode(message).finish();
  });
  return Buffer.concat(moved);
}

/** Tables whose rows have times of their own, by their numbers in the frame. */
const rowTimes = new Map(
  Object.values(frame.fields).flatMap(({ id, name, resolvedType }) => {
    if (!(resolvedType instanceof protobuf.Type)) return [];
    const columns = resolvedType.fieldsArray.filter((column) => column.type === 'double');
    const own = columns.find((column) => column.options?.['(fleetreel.v1.row_time)'] === true);
    if (own === undefined) return [];
    const others = columns.filter((column) => column !== own && column.name.endsWith('timestamp_seconds'));
    return [[id, { table: name, name: own.name, others: others.map((column) => column.name) }] as const];
  }),
);

type Part = { id: number; begin: number; end: number };

function partsOf(bytes: Uint8Array): Part[] {
  const reader = protobuf.Reader.create(bytes);
  const parts: Part[] = [];
  try {
    while (reader.pos < reader.len) {
      const begin = reader.pos;
      const tag = reader.uint32();
      reader.skipType(tag & 7);
      parts.push({ id: tag >>> 3, begin, end: reader.pos });
    }
  } catch (cause) {
    throw new FrameError(`not a frame: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
  return parts;
}
