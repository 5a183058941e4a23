import { expect, test } from 'vitest';
import { Seen } from '#ingest/seen.ts';

test('knows each number of each name once', () => {
  const seen = new Seen();
  const numbers = [1, 2, 3, 4095, 4096, 4097, 2 ** 40 + 5, Number.MAX_SAFE_INTEGER];
  for (const name of ['a', 'b']) {
    expect(numbers.map((number) => seen.add(name, number))).toEqual(numbers.map(() => true));
    expect(numbers.map((number) => seen.add(name, number))).toEqual(numbers.map(() => false));
  }
  expect(seen.add('a', 4098)).toBe(true);
  expect(seen.add('a', 2 ** 40 + 4)).toBe(true);
});
