import { describe, expect, test } from 'vitest';
import { Ranges } from '#store/rollup.ts';

const filled = (most: number, ...ranges: [number, number][]) => {
  const found = new Ranges(most);
  for (const [from, to] of ranges) found.add({ from, to });
  return found;
};
const list = (ranges: Ranges) => ranges.all.map(({ from, to }) => [from, to]);

describe('ranges', () => {
  test.each([
    [
      'apart',
      [
        [5, 6],
        [1, 2],
      ],
      [
        [1, 2],
        [5, 6],
      ],
    ],
    [
      'touching',
      [
        [1, 2],
        [2, 3],
      ],
      [[1, 3]],
    ],
    [
      'overlapping',
      [
        [1, 5],
        [3, 8],
        [7, 9],
      ],
      [[1, 9]],
    ],
    [
      'within',
      [
        [1, 9],
        [3, 4],
      ],
      [[1, 9]],
    ],
    [
      'around',
      [
        [3, 4],
        [6, 7],
        [1, 9],
      ],
      [[1, 9]],
    ],
  ] as [string, [number, number][], number[][]][])('%s', (_, given, wanted) => {
    expect(list(filled(8, ...given))).toEqual(wanted);
  });

  test('beyond their number the nearest become one, and nothing is left out', () => {
    expect(list(filled(3, [0, 1], [10, 11], [12, 13], [20, 21]))).toEqual([
      [0, 1],
      [10, 13],
      [20, 21],
    ]);
  });

  test('are taken from the oldest, in pieces, and only what is over', () => {
    const ranges = filled(8, [0, 10], [20, 30]);
    const taken = [];
    for (let range = ranges.take(25, 4); range; range = ranges.take(25, 4)) taken.push([range.from, range.to]);
    expect(taken).toEqual([
      [0, 4],
      [4, 8],
      [8, 10],
      [20, 24],
      [24, 25],
    ]);
    expect(list(ranges)).toEqual([[25, 30]]);
  });
});
