import { expect, test } from 'vitest';
import {
  encodeHeader,
  headerBytes,
  NewerSegment,
  readSegment,
  recordBytes,
  type SpooledFrame,
  segmentVersion,
  writeRecord,
} from '#segment.ts';

const session = '00000000000000ab';
const frameOf = (sequence: number): SpooledFrame => ({
  session,
  sequence,
  time_us: sequence * 1_000_000,
  // What looks like the beginning of a record is none.
  bytes: Buffer.from(`frec ${sequence} `.repeat(20)),
});

function fileOf(frames: readonly SpooledFrame[]): Buffer {
  const parts = frames.map((frame) => {
    const record = Buffer.alloc(recordBytes(frame));
    writeRecord(record, 0, frame);
    return record;
  });
  return Buffer.concat([encodeHeader(session, frames[0]?.sequence ?? 1), ...parts]);
}

const frames = [1, 2, 3, 4, 5].map(frameOf);
const size = recordBytes(frames[0] as SpooledFrame);
const start = (sequence: number) => headerBytes + (sequence - 1) * size;
const sequences = (file: Buffer) => readSegment(file).records.map(({ sequence }) => sequence);

test('frames come back as they were', () => {
  const { header, records, damages, tornAt } = readSegment(fileOf(frames));
  expect(header).toEqual({ version: segmentVersion, session, first: 1 });
  expect(records).toMatchObject(
    frames.map(({ session: of, sequence, time_us }) => ({ session: of, sequence, time_us })),
  );
  expect(records.map(({ bytes }) => Buffer.from(bytes))).toEqual(frames.map(({ bytes }) => bytes));
  expect(records.map(({ end }) => end)).toEqual([2, 3, 4, 5, 6].map(start));
  expect({ damages, tornAt }).toEqual({ damages: [], tornAt: undefined });
});

test('a file that was cut anywhere has every record before, and nothing counts as damaged', () => {
  const file = fileOf(frames);
  for (let length = 0; length <= file.length; length++) {
    const whole = Math.max(0, Math.floor((length - headerBytes) / size));
    const { records, damages, tornAt } = readSegment(file.subarray(0, length));
    expect(records).toHaveLength(whole);
    expect(damages).toEqual([]);
    expect(tornAt).toBe(length > headerBytes && length !== start(whole + 1) ? start(whole + 1) : undefined);
  }
});

test('any flipped bit costs the record that it is in, and says which frame that was', () => {
  const file = fileOf(frames);
  for (let at = start(3); at < start(4); at++)
    for (const bit of [0, 7]) {
      const damaged = Buffer.from(file);
      damaged[at] = (damaged[at] as number) ^ (1 << bit);
      const { records, damages, tornAt } = readSegment(damaged);
      expect(records.map(({ sequence }) => sequence)).toEqual([1, 2, 4, 5]);
      expect(damages).toMatchObject([{ offset: start(3), end: start(4), session, first: 3, last: 3 }]);
      expect(damages[0]?.first_us).toBeGreaterThanOrEqual(2_000_000);
      expect(damages[0]?.first_us).toBeLessThan(4_000_000);
      expect(tornAt).toBeUndefined();
    }
});

test('damage at either end, and over several records, is told by its neighbours', () => {
  const file = fileOf(frames);
  const without = (from: number, to: number) => Buffer.from(file).fill(0x5a, from, to);
  expect(readSegment(without(start(1), start(2))).damages).toMatchObject([{ first: 1, last: 1, session }]);
  expect(readSegment(without(start(2), start(5))).damages).toMatchObject([{ first: 2, last: 4 }]);
  expect(readSegment(without(start(5), start(6))).damages).toMatchObject([{ offset: start(5), first: 5, last: 5 }]);
  const nothing = readSegment(without(0, file.length));
  expect(nothing).toMatchObject({ header: undefined, records: [], damages: [{ session: '' }] });
});

test('a damaged header costs no frame; one of a newer version is not guessed at', () => {
  const file = fileOf(frames);
  file[13] = 0xff;
  expect(readSegment(file).header).toBeUndefined();
  expect(sequences(file)).toEqual([1, 2, 3, 4, 5]);
  const newer = fileOf(frames);
  newer.writeUInt32LE(segmentVersion + 1, 8);
  expect(readSegment(newer).header).toBeUndefined();
  // With a checksum that is right it is meant.
  const { crc32 } = process.getBuiltinModule('node:zlib');
  newer.writeUInt32LE(crc32(newer.subarray(0, 28)), 28);
  expect(() => readSegment(newer)).toThrow(NewerSegment);
});
