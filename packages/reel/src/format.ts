// The .reel file: recorded frames with the contract that they were written with.
//
//   magic        8 bytes, as in PNG: what changes line ends or the eighth bit is found out
//   sections     header, blocks, index, trailer; each
//                  kind 1 byte, length of the payload 4, CRC-32 of kind, length and payload 4, payload
//   header       version of the format 4 bytes, then JSON compressed by zstd (`ReelHeader`)
//   block        frames 4 bytes, their bytes uncompressed 4, first and last time 8 each; then zstd of the frames
//   index        JSON compressed by zstd (`ReelIndex`)
//   trailer      place of the index 8 bytes, frames 8, CRC-32 over the CRCs of all sections before it 4
//
// Numbers are little-endian, times 64-bit floats of microseconds since 1970. A file that was cut has no index and no
// trailer: its blocks are found by going from section to section.
import { crc32, zstdDecompressSync } from 'node:zlib';

export const magic = Buffer.from('\x89REEL\r\n\x1a', 'latin1');
/** Raised when an older reader could not read what a newer writer writes. */
export const formatVersion = 1;
export const sectionHeadBytes = 9;
export const blockHeadBytes = 24;
export const trailerBytes = 20;

export const kinds = { header: 0x48, block: 0x42, index: 0x49, trailer: 0x54 } as const;

/** Bytes of the frames of a block before a block is closed: what a seek has to read, and what zstd has to find likeness in. */
export const blockBytesTarget = 512 * 1024;
/** Bytes of a section at most, compressed or not: what a reader holds. A block may be one frame of the greatest size, an index of years. */
export const sectionBytesMax = 64 * 1024 * 1024;

/** Where a frame came from: its agent, by the log; or the rows of the store. */
export type Origin = 'log' | 'store';

/** A recorded frame. */
export type ReelFrame = {
  host: string;
  /** When it is played: UTC, microseconds since 1970. */
  time_us: number;
  /** Its message in the log; 0 where there is none. */
  logSequence: number;
  /** When the log stored it: UTC, microseconds since 1970; 0 where it did not. */
  stored_us: number;
  origin: Origin;
  /** `fleetreel.v1.Frame`. */
  bytes: Uint8Array;
};

/** What a recording is of. */
export type ReelHeader = {
  /** Version of the product that wrote it. */
  product: string;
  /** When: UTC, milliseconds since 1970. */
  created: number;
  tenant: string;
  /** What was asked for: UTC, microseconds since 1970; `to` is absent where it was recorded until it was stopped. */
  range: { from_us?: number; to_us?: number };
  /** None means all. */
  hosts: readonly string[];
  tables: readonly string[];
  /** The .proto files of the contract, by their paths. */
  contract: Readonly<Record<string, string>>;
};

export type ReelBlock = {
  /** Where its section begins. */
  offset: number;
  frames: number;
  /** Earliest and latest time of its frames. */
  first_us: number;
  last_us: number;
  /** Places of its hosts in the index's list; absent in a file that has no index. */
  hosts?: readonly number[];
};

export type ReelIndex = { hosts: readonly string[]; blocks: readonly ReelBlock[] };

/** How far a file is good. */
export type Good = {
  /** Bytes from its begin. */
  bytes: number;
  frames: number;
  /** The time of the last good frame; undefined when there is none. */
  time_us: number | undefined;
};

export type ReelFault = 'foreign' | 'newer' | 'cut' | 'damaged';

/** A file that can't be read, or not to its end. The message says why, where, and how far it is good. */
export class ReelError extends Error {
  override name = 'ReelError';
  readonly fault: ReelFault;
  readonly good: Good;

  constructor(fault: ReelFault, what: string, good: Good, options?: ErrorOptions) {
    super(fault === 'foreign' ? what : `${what} ${goodness(good)}`, options);
    this.fault = fault;
    this.good = good;
  }
}

/** A sentence: how far a file is good. */
export function goodness({ bytes, frames, time_us }: Good): string {
  const last = time_us === undefined ? '' : `, the last of ${new Date(time_us / 1000).toISOString()}`;
  return `It is good up to byte ${bytes}: ${frames} ${frames === 1 ? 'frame' : 'frames'}${last}.`;
}

/** The head of a section with the checksum of all of it. */
export function sectionHead(kind: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(sectionHeadBytes);
  head.writeUInt8(kind, 0);
  head.writeUInt32LE(payload.length, 1);
  head.writeUInt32LE(crc32(payload, crc32(head.subarray(0, 5))), 5);
  return head;
}

/** What the head of a section says, before anything of it was checked. */
export function readHead(head: Buffer): { kind: number; length: number; crc: number } {
  return { kind: head.readUInt8(0), length: head.readUInt32LE(1), crc: head.readUInt32LE(5) };
}

export const isWhole = (head: Buffer, payload: Uint8Array): boolean =>
  crc32(payload, crc32(head.subarray(0, 5))) === head.readUInt32LE(5);

/** The checksum over the checksums of sections: with one more. */
export function chain(crc: number, head: Buffer): number {
  return crc32(head.subarray(5, sectionHeadBytes), crc);
}

const origins: readonly Origin[] = ['log', 'store'];
/** Bytes of a frame in a block besides its own: time, sequence, stored, origin, host, length. */
const entryBytes = 8 + 8 + 8 + 1 + 2 + 4;

/** The frames of a block, before compression: hosts, then one column after the other, then all bytes. */
export function packFrames(frames: readonly ReelFrame[]): Buffer {
  const hosts = [...new Set(frames.map(({ host }) => host))];
  const places = new Map(hosts.map((host, place) => [host, place]));
  const names = Buffer.from(JSON.stringify(hosts));
  const count = frames.length;
  const sum = frames.reduce((bytes, frame) => bytes + frame.bytes.length, 0);
  const packed = Buffer.allocUnsafe(4 + names.length + count * entryBytes + sum);
  let at = packed.writeUInt32LE(names.length, 0);
  at += names.copy(packed, at);
  for (const frame of frames) at = packed.writeDoubleLE(frame.time_us, at);
  for (const frame of frames) at = packed.writeDoubleLE(frame.logSequence, at);
  for (const frame of frames) at = packed.writeDoubleLE(frame.stored_us, at);
  for (const frame of frames) at = packed.writeUInt8(origins.indexOf(frame.origin), at);
  for (const frame of frames) at = packed.writeUInt16LE(places.get(frame.host) ?? 0, at);
  for (const frame of frames) at = packed.writeUInt32LE(frame.bytes.length, at);
  for (const frame of frames) {
    packed.set(frame.bytes, at);
    at += frame.bytes.length;
  }
  return packed;
}

/** The frames of a block. @throws RangeError, SyntaxError where it is not what `packFrames` makes */
export function unpackFrames(packed: Buffer, count: number): ReelFrame[] {
  const nameBytes = packed.readUInt32LE(0);
  const hosts = JSON.parse(packed.toString('utf8', 4, 4 + nameBytes)) as string[];
  const times = 4 + nameBytes;
  const sequences = times + count * 8;
  const stored = sequences + count * 8;
  const from = stored + count * 8;
  const places = from + count;
  const lengths = places + count * 2;
  let at = lengths + count * 4;
  const frames: ReelFrame[] = [];
  for (let index = 0; index < count; index++) {
    const length = packed.readUInt32LE(lengths + index * 4);
    const host = hosts[packed.readUInt16LE(places + index * 2)];
    const origin = origins[packed.readUInt8(from + index)];
    if (host === undefined || origin === undefined || at + length > packed.length)
      throw new RangeError('a frame of the block is not within it');
    frames.push({
      host,
      time_us: packed.readDoubleLE(times + index * 8),
      logSequence: packed.readDoubleLE(sequences + index * 8),
      stored_us: packed.readDoubleLE(stored + index * 8),
      origin,
      bytes: packed.subarray(at, at + length),
    });
    at += length;
  }
  return frames;
}

/** JSON compressed by zstd. @throws Error of zlib or JSON */
export const unpackJson = (bytes: Uint8Array): unknown =>
  JSON.parse(zstdDecompressSync(bytes, { maxOutputLength: sectionBytesMax }).toString('utf8'));
