import { expect, test } from 'vitest';
import { Seen } from '#log/seen.ts';

test('knows each number of each name once', () => {
  const seen = new Seen(Number.POSITIVE_INFINITY);
  const numbers = [1, 2, 3, 4095, 4096, 4097, 2 ** 40 + 5, Number.MAX_SAFE_INTEGER];
  for (const name of ['a', 'b']) {
    expect(numbers.map((number) => seen.add(name, 's', number))).toEqual(numbers.map(() => true));
    expect(numbers.map((number) => seen.add(name, 's', number))).toEqual(numbers.map(() => false));
  }
  expect(seen.add('a', 's', 4098)).toBe(true);
  expect(seen.add('a', 's', 2 ** 40 + 4)).toBe(true);
});

test('each frame is new once, in whatever order it comes', () => {
  const seen = new Seen(Number.POSITIVE_INFINITY);
  const reference = new Set<string>();
  let state = 7;
  const random = (most: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state % most;
  };
  for (let round = 0; round < 20_000; round++) {
    const [host, session, sequence] = [`h${random(3)}`, `s${random(2)}`, 1 + random(900)] as const;
    const key = `${host} ${session} ${sequence}`;
    expect(seen.add(host, session, sequence), key).toBe(!reference.has(key));
    reference.add(key);
  }
});

test('beyond the bound, the session that is longest known is forgotten', () => {
  const seen = new Seen(3);
  for (const [host, sequence] of [
    ['a', 1],
    ['a', 3],
    ['b', 1],
    ['c', 1],
  ] as const)
    expect(seen.add(host, 's', sequence)).toBe(true);
  expect(seen.add('b', 's', 1)).toBe(false);
  expect(seen.add('c', 's', 1)).toBe(false);
  expect(seen.add('a', 's', 1)).toBe(true);
});
