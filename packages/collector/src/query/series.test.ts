import { expect, test } from 'vitest';
import { quantile } from '#query/series.ts';

test.each([
  [[], 0.5, Number.NaN],
  [[7], 0.99, 7],
  [[3, 1, 2], 0.5, 2],
  [[1, 2], 0.5, 1.5],
  [[-5, -1, -3], 0, -5],
  [Array.from({ length: 101 }, (_, index) => 100 - index), 0.95, 95],
])('a quantile of %j at %d is %d', (values, probability, expected) => {
  expect(quantile(values, probability)).toBe(expected);
});
