import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { Paged } from '#lib/paged.svelte.ts';

/** The number of the newest row that the collector has. */
let newest = 3;
let stop: (() => void) | undefined;

/** Pages of two rows. */
const paged = () =>
  new Paged<number>(async (before) => {
    const first = before === '' ? newest : Number(before);
    return { rows: [first, first - 1], before: first > 2 ? `${first - 2}` : null };
  });

beforeEach(() => {
  vi.useFakeTimers();
  newest = 3;
});

afterEach(() => {
  stop?.();
  vi.useRealTimers();
});

test('new rows are shown until older ones are, and again when it begins anew', async () => {
  const list = paged();
  stop = list.start(true);
  await vi.advanceTimersByTimeAsync(0);
  expect([list.rows, list.isHeld]).toEqual([[3, 2], false]);
  newest = 4;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(list.rows).toEqual([4, 3]);
  await list.more();
  newest = 9;
  await vi.advanceTimersByTimeAsync(60_000);
  expect([list.rows, list.isHeld]).toEqual([[4, 3, 2, 1], true]);
  list.again();
  await vi.advanceTimersByTimeAsync(0);
  expect([list.rows, list.isHeld]).toEqual([[9, 8], false]);
  newest = 10;
  await vi.advanceTimersByTimeAsync(10_000);
  expect(list.rows).toEqual([10, 9]);
});

test('an older page that comes after it began anew is left out', async () => {
  const list = paged();
  stop = list.start(true);
  await vi.advanceTimersByTimeAsync(0);
  const older = list.more();
  list.again();
  await older;
  await vi.advanceTimersByTimeAsync(0);
  expect([list.rows, list.before, list.busy]).toEqual([[3, 2], '1', false]);
});

test('a list that does not follow the time has no new rows to hold back', async () => {
  const list = paged();
  stop = list.start();
  await vi.advanceTimersByTimeAsync(0);
  await list.more();
  expect(list.isHeld).toBe(false);
});
