// The format of the spool's files. Each begins with a header and goes on with records; all numbers are little-endian.
//   header: "frspool\n", version (4), session (8), number of its first frame (8), CRC-32 of these (4)
//   record: "frec", length of the frame (4), CRC-32 of the length and what follows it (4), session (8), number (8), time in
//           microseconds (8), the frame
// A record begins with a mark, so that the good ones behind a damaged one are found.
import { crc32 } from 'node:zlib';
import { frameBytesMax } from '@fleetreel/proto';

const magic = Buffer.from('frspool\n', 'latin1');
const mark = Buffer.from('frec', 'latin1');

/** The version of the format that is written; older ones are read. */
export const segmentVersion = 1;
export const headerBytes = 32;
const recordHeadBytes = 36;

/** A frame in the spool. */
export type SpooledFrame = {
  /** 16 hexadecimal digits. */
  session: string;
  sequence: number;
  /** When it was sampled: UTC, microseconds since 1970. */
  time_us: number;
  bytes: Uint8Array;
};

/** A frame with where its record ends in the file. */
export type SegmentRecord = SpooledFrame & { end: number };

/** Bytes between good records that can't be read. */
export type Damage = {
  offset: number;
  end: number;
  /** The frames that were there, as far as their neighbours tell: the session is empty where they don't. */
  session: string;
  first: number;
  last: number;
  first_us: number;
  last_us: number;
};

/** What a file holds. */
export type Segment = {
  /** Undefined where the header is damaged; the records say what they are themselves. */
  header: { version: number; session: string; first: number } | undefined;
  records: SegmentRecord[];
  damages: Damage[];
  /** Where the last record was cut off while it was being written; undefined where it is complete. */
  tornAt: number | undefined;
};

/** A file of a newer version of the agent. */
export class NewerSegment extends Error {
  override name = 'NewerSegment';
}

export function encodeHeader(session: string, first: number): Buffer {
  const bytes = Buffer.alloc(headerBytes);
  magic.copy(bytes);
  bytes.writeUInt32LE(segmentVersion, 8);
  bytes.write(session, 12, 8, 'hex');
  bytes.writeBigUInt64LE(BigInt(first), 20);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 28)), 28);
  return bytes;
}

export const recordBytes = (frame: { bytes: Uint8Array }): number => recordHeadBytes + frame.bytes.length;

/** Writes a record at a place of a buffer. */
export function writeRecord(to: Buffer, at: number, { session, sequence, time_us, bytes }: SpooledFrame): void {
  mark.copy(to, at);
  to.writeUInt32LE(bytes.length, at + 4);
  to.write(session, at + 12, 8, 'hex');
  to.writeBigUInt64LE(BigInt(sequence), at + 20);
  to.writeBigInt64LE(BigInt(time_us), at + 28);
  to.set(bytes, at + recordHeadBytes);
  to.writeUInt32LE(recordCrc(to, at, bytes.length), at + 8);
}

const recordCrc = (bytes: Buffer, at: number, length: number): number =>
  crc32(bytes.subarray(at + 12, at + recordHeadBytes + length), crc32(bytes.subarray(at + 4, at + 8)));

/**
 * Finds what is good in a file, and what is not. Frames are parts of the given bytes.
 * @throws NewerSegment
 */
export function readSegment(bytes: Buffer): Segment {
  const header = readHeader(bytes);
  const segment: Segment = { header, records: [], damages: [], tornAt: undefined };
  let at = Math.min(headerBytes, bytes.length);
  while (at < bytes.length) {
    let record = readRecord(bytes, at);
    if (record === undefined) {
      const offset = at;
      for (at = bytes.indexOf(mark, offset + 1); at >= 0; at = bytes.indexOf(mark, at + 1)) {
        record = readRecord(bytes, at);
        if (record) break;
      }
      if (record === undefined && isCut(bytes, offset)) {
        segment.tornAt = offset;
        return segment;
      }
      segment.damages.push(damage(segment, bytes, offset, record, record ? at : bytes.length));
      if (record === undefined) return segment;
    }
    segment.records.push(record);
    at = record.end;
  }
  return segment;
}

function readHeader(bytes: Buffer): Segment['header'] {
  if (bytes.length < headerBytes || !bytes.subarray(0, 8).equals(magic)) return undefined;
  const version = bytes.readUInt32LE(8);
  if (crc32(bytes.subarray(0, 28)) !== bytes.readUInt32LE(28)) return undefined;
  if (version > segmentVersion)
    throw new NewerSegment(
      `written by a newer version of the agent (format ${version}; this one reads ${segmentVersion})`,
    );
  return { version, session: bytes.toString('hex', 12, 20), first: Number(bytes.readBigUInt64LE(20)) };
}

function readRecord(bytes: Buffer, at: number): SegmentRecord | undefined {
  if (at + recordHeadBytes > bytes.length || !bytes.subarray(at, at + 4).equals(mark)) return undefined;
  const length = bytes.readUInt32LE(at + 4);
  const end = at + recordHeadBytes + length;
  if (length > frameBytesMax || end > bytes.length) return undefined;
  if (recordCrc(bytes, at, length) !== bytes.readUInt32LE(at + 8)) return undefined;
  return { ...claimed(bytes, at), bytes: bytes.subarray(at + recordHeadBytes, end), end };
}

/** What the head of a record says. */
const claimed = (bytes: Buffer, at: number) => ({
  session: bytes.toString('hex', at + 12, at + 20),
  sequence: Number(bytes.readBigUInt64LE(at + 20)),
  time_us: Number(bytes.readBigInt64LE(at + 28)),
});

/** Whether the file ends within the record that begins here. */
function isCut(bytes: Buffer, at: number): boolean {
  const left = bytes.length - at;
  if (left < recordHeadBytes) return true;
  if (!bytes.subarray(at, at + 4).equals(mark)) return false;
  const length = bytes.readUInt32LE(at + 4);
  return length <= frameBytesMax && left < recordHeadBytes + length;
}

function damage(
  { header, records }: Segment,
  bytes: Buffer,
  offset: number,
  next: SegmentRecord | undefined,
  end: number,
): Damage {
  const before = records.at(-1);
  const session = before?.session ?? header?.session ?? next?.session ?? '';
  const first = before ? before.sequence + 1 : header ? header.first : (next?.sequence ?? 0);
  const last = next && next.session === session ? Math.max(first, next.sequence - 1) : first;
  // The time that the record itself gives, if it can be; else that of a neighbour.
  const said_us = bytes.length - offset >= recordHeadBytes ? claimed(bytes, offset).time_us : Number.NaN;
  const from_us = before?.time_us ?? Number.NEGATIVE_INFINITY;
  const to_us = next?.time_us ?? (before ? before.time_us + 3_600_000_000 : Number.NEGATIVE_INFINITY);
  const known_us = said_us > from_us && said_us < to_us ? said_us : (before ?? next)?.time_us;
  const first_us = known_us ?? 0;
  return { offset, end, session: known_us === undefined ? '' : session, first, last, first_us, last_us: first_us };
}
