import { ApiError } from '@fleetreel/proto/errors';
import { beforeEach, expect, test } from 'vitest';
import { customEntriesMax, customNamesMilliseconds } from '#limits.ts';
import { Allowances } from '#log/allowance.ts';

let now_ms = 0;
let refused: [string, number][] = [];
const allowances = (settings: { rate: number; names: number }) =>
  new Allowances(settings, { monotonic_ms: () => now_ms }, (bound, entries) => refused.push([bound, entries]));
const some = (count: number, name = 'a') => Array.from({ length: count }, () => name);
const none = (count: number): string[][] => Array.from({ length: count }, () => []);

beforeEach(() => {
  now_ms = 0;
  refused = [];
});

function errorOf(act: () => void): ApiError {
  try {
    act();
  } catch (error) {
    if (error instanceof ApiError) return error;
  }
  throw new Error('it was not refused');
}

test('a key writes its rate, and what it saved up, and is told when it may go on', () => {
  const each = allowances({ rate: 5000, names: 10 });
  expect(each.burst).toBe(50_000);
  for (let call = 0; call < 5; call++) each.take('k', some(10_000), none(10_000));
  const error = errorOf(() => each.take('k', some(7500), none(7500)));
  expect([error.code, error.retryAfter]).toEqual(['write_rate_exceeded', 2]);
  expect(errorOf(() => each.admit('k')).retryAfter).toBe(1);
  // Another key has its own.
  each.admit('l');
  now_ms += 1500;
  each.admit('k');
  each.take('k', some(7500), none(7500));
  expect(refused).toEqual([
    ['rate', 7500],
    ['rate', 1],
  ]);
});

test('the greatest call can always be written some time', () => {
  const each = allowances({ rate: 1, names: 10 });
  each.take('k', some(customEntriesMax), none(customEntriesMax));
  expect(errorOf(() => each.admit('k')).retryAfter).toBe(1);
});

test('names and their metadata keys are counted, until they are forgotten', () => {
  const each = allowances({ rate: 1000, names: 4 });
  each.take('k', ['a', 'a'], [['x'], ['x', 'y']]);
  // One of a call too many is all of it too many.
  const error = errorOf(() => each.take('k', ['b', 'c'], [[], []]));
  expect([error.code, error.retryAfter]).toEqual(['too_many_custom_names', customNamesMilliseconds / 1000]);
  expect(error.index).toBe(1);
  each.take('k', ['b', 'a'], [[], ['y']]);
  expect(errorOf(() => each.take('k', ['a'], [['z']])).message).toContain('"a z"');
  each.take('l', ['c'], [[]]);
  now_ms += customNamesMilliseconds;
  // What was written of late still counts, and what is written again goes on to.
  expect(errorOf(() => each.take('k', ['c'], [[]])).code).toBe('too_many_custom_names');
  each.take('k', ['a'], [['x']]);
  now_ms += customNamesMilliseconds;
  each.take('k', ['c', 'd'], [[], []]);
  expect(errorOf(() => each.take('k', ['e'], [[]])).code).toBe('too_many_custom_names');
});
