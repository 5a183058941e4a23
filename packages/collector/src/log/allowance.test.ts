import { ApiError } from '@fleetreel/proto/errors';
import { beforeEach, expect, test } from 'vitest';
import { customCallBytesMax, customEntriesMax, customNamesMilliseconds } from '#limits.ts';
import { Allowances } from '#log/allowance.ts';

let now_ms = 0;
let refused: string[] = [];
const allowances = (settings: { rate: number; bytes?: number; names: number }) =>
  new Allowances({ bytes: 1000, ...settings }, { monotonic_ms: () => now_ms }, (bound) => refused.push(bound));
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
  expect(each.burst.entries).toBe(50_000);
  for (let call = 0; call < 5; call++) each.take('k', some(10_000), none(10_000), 0);
  const error = errorOf(() => each.take('k', some(7500), none(7500), 0));
  expect([error.code, error.retryAfter]).toEqual(['write_rate_exceeded', 2]);
  expect(errorOf(() => each.admit('k')).retryAfter).toBe(1);
  // Another key has its own.
  each.admit('l');
  now_ms += 1500;
  each.admit('k');
  each.take('k', some(7500), none(7500), 0);
  expect(refused).toEqual(['rate', 'rate']);
});

test('so does a key that writes few of many bytes', () => {
  const each = allowances({ rate: 5000, bytes: 10_000_000, names: 10 });
  expect(each.burst.bytes).toBe(100_000_000);
  for (let call = 0; call < 10; call++) each.take('k', ['a'], [[]], 10_000_000);
  const error = errorOf(() => each.take('k', ['a'], [[]], 15_000_000));
  expect([error.code, error.retryAfter]).toEqual(['write_rate_exceeded', 2]);
  expect(error.message).toContain('more than 10000000 bytes of measures and events a second');
  expect(error.message).toContain('raise custom.bytes');
  expect(errorOf(() => each.admit('k')).retryAfter).toBe(1);
  each.take('l', ['a'], [[]], 10_000_000);
  now_ms += 1500;
  each.take('k', ['a'], [[]], 15_000_000);
  expect(refused).toEqual(['bytes', 'bytes']);
});

test('the greatest call can always be written some time', () => {
  const each = allowances({ rate: 1, names: 10 });
  each.take('k', some(customEntriesMax), none(customEntriesMax), customCallBytesMax);
  expect(errorOf(() => each.admit('k')).retryAfter).toBe(1);
});

test('names and their metadata keys are counted, until they are forgotten', () => {
  const each = allowances({ rate: 1000, names: 4 });
  each.take('k', ['a', 'a'], [['x'], ['x', 'y']], 0);
  // One of a call too many is all of it too many.
  const error = errorOf(() => each.take('k', ['b', 'c'], [[], []], 0));
  expect([error.code, error.retryAfter]).toEqual(['too_many_custom_names', customNamesMilliseconds / 1000]);
  expect(error.index).toBe(1);
  each.take('k', ['b', 'a'], [[], ['y']], 0);
  expect(errorOf(() => each.take('k', ['a'], [['z']], 0)).message).toContain('"a z"');
  each.take('l', ['c'], [[]], 0);
  now_ms += customNamesMilliseconds;
  // What was written of late still counts, and what is written again goes on to.
  expect(errorOf(() => each.take('k', ['c'], [[]], 0)).code).toBe('too_many_custom_names');
  each.take('k', ['a'], [['x']], 0);
  now_ms += customNamesMilliseconds;
  each.take('k', ['c', 'd'], [[], []], 0);
  expect(errorOf(() => each.take('k', ['e'], [[]], 0)).code).toBe('too_many_custom_names');
});
