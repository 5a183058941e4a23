import { FrameError, kinds } from '@fleetreel/proto';
import { encodeBatch } from '@fleetreel/proto/batch';
import { expect, test } from 'vitest';
import { frameSubjects, framesOf, holdsFrames, isFuture } from '#log/frames.ts';

const some = [Buffer.from('one'), Buffer.from('two')];

test('a message is one frame, those of its batch, or none', () => {
  expect(framesOf('frame', Buffer.from('one'))).toEqual([Buffer.from('one')]);
  expect(framesOf('batch', encodeBatch(some)).map((bytes) => Buffer.from(bytes))).toEqual(some);
  for (const kind of kinds.filter((one) => !holdsFrames(one))) expect(framesOf(kind, encodeBatch(some))).toEqual([]);
  expect(kinds.filter(holdsFrames)).toHaveLength(frameSubjects.length);
});

test('a batch that can not be read is an error that says so', () => {
  expect(() => framesOf('batch', Buffer.from('one'))).toThrow(FrameError);
});

test('a time is in the future when it is more than ten minutes ahead', () => {
  const now_us = 1_800_000_000_000_000;
  expect(isFuture(now_us + 600_000_000, now_us)).toBe(false);
  expect(isFuture(now_us + 600_000_001, now_us)).toBe(true);
  expect(isFuture(Number.NEGATIVE_INFINITY, now_us)).toBe(false);
});
