import { zstdCompressSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { batchBytesMax, batchFramesMax, decodeBatch, encodeBatch } from '#batch.ts';
import { FrameError } from '#frame.ts';

const frame = (size: number, content: number) => new Uint8Array(size).fill(content);

test('frames come back as they were, in their order', () => {
  const frames = [frame(10, 1), frame(1, 2), frame(500, 3)];
  expect(decodeBatch(encodeBatch(frames)).map((bytes) => Buffer.from(bytes))).toEqual(
    frames.map((one) => Buffer.from(one)),
  );
});

test('more than a batch holds is refused on both sides', () => {
  expect(() => encodeBatch([frame(batchBytesMax, 1)])).toThrow(RangeError);
  expect(() => encodeBatch(Array.from({ length: batchFramesMax + 1 }, () => frame(1, 1)))).toThrow(RangeError);
  // What a few kilobytes would grow to is never held.
  expect(() => decodeBatch(zstdCompressSync(Buffer.alloc(batchBytesMax + 1)))).toThrow(FrameError);
  const count = batchFramesMax + 1;
  const many = Buffer.from([
    ...Array.from({ length: count }, () => [0x0a, 0]).flat(),
    0x10,
    0x80 | (count & 0x7f),
    count >> 7,
  ]);
  expect(() => decodeBatch(zstdCompressSync(many))).toThrow(`more than ${batchFramesMax} frames`);
});

test('what is no batch is said to be none', () => {
  expect(() => decodeBatch(Buffer.from('hello'))).toThrow(/not a batch/);
  expect(() => decodeBatch(encodeBatch([frame(1000, 7)]).subarray(0, 20))).toThrow(/not a batch/);
});
