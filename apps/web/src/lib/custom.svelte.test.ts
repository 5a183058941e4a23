import { expect, test } from 'vitest';
import { condition, linesOf } from '#lib/custom.ts';

test('a condition keeps the type of its value', () => {
  expect(condition('size', 10)).toBe('size=10');
  expect(condition('ok', false)).toBe('ok=false');
  expect(condition('version', '10')).toBe('version="10"');
  expect(condition('path', 'a"b*')).toBe('path="a\\"b*"');
});

test('one line for each metadata, over all times, and texts are none', () => {
  const { times, lines, left } = linesOf(
    [
      { time: 30, value: 3, metadata: { host: 'b' } },
      { time: 20, value: 2, metadata: { host: 'a' } },
      { time: 20, value: null, metadata: { host: 'a' } },
      { time: 10, value: 1, metadata: { host: 'b' } },
    ],
    10,
  );
  expect(times).toEqual([10, 20, 30]);
  expect(left).toBe(0);
  expect(lines.map(({ label, values }) => [label, values])).toEqual([
    ['host=a', [null, 2, null]],
    ['host=b', [1, null, 3]],
  ]);
});

test('of more metadata than can be drawn those with the newest values', () => {
  const measures = Array.from({ length: 12 }, (_, index) => ({ time: 12 - index, value: index, metadata: { index } }));
  const { times, lines, left } = linesOf(measures, 10);
  expect(lines).toHaveLength(10);
  expect(left).toBe(2);
  expect(times[0]).toBe(3);
});
