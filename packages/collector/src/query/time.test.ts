import { ApiError } from '@fleetreel/proto/errors';
import { describe, expect, test } from 'vitest';
import { align, duration, parseRange, parseStep, parseTime, pointsMax } from '#query/time.ts';

const now = Date.UTC(2026, 0, 31, 12);
const hour = 3_600_000;
const codeOf = (attempt: () => unknown): string => {
  try {
    attempt();
  } catch (error) {
    if (error instanceof ApiError) return error.code;
    throw error;
  }
  return 'none';
};

describe('a time', () => {
  test.each([
    ['now', now],
    ['-1h', now - hour],
    ['-1h30m', now - 1.5 * hour],
    ['-0.5h', now - hour / 2],
    ['-500ms', now - 500],
    ['0', 0],
    [String(now), now],
    [`${now}.123`, now + 0.123],
    ['2026-01-31T12:00:00Z', now],
    ['2026-01-31t12:00:00z', now],
    ['2026-01-31T12:00:00.250Z', now + 250],
    ['2026-01-31T12:00:00.25012Z', now + 250.12],
    ['2026-01-31T14:00:00+02:00', now],
    ['2026-01-31T14:00:00 02:00', now],
    ['2026-01-31T07:00:00-05:00', now],
  ])('%s', (text, time) => {
    expect(parseTime(text, 'from', now)).toBe(time);
  });

  test.each([
    '',
    'yesterday',
    '-1',
    '-1y',
    '+1h',
    '1e12',
    '1.5',
    '1.',
    '.5',
    '1769860800000.1.2',
    '2026-01-31',
    '2026-01-31T12:00:00',
    '2026-02-30T12:00:00Z',
    '2026-13-01T12:00:00Z',
    '2026-01-31T25:00:00Z',
    '1969-12-31T23:59:59Z',
    '2300-01-01T00:00:00Z',
    '99999999999999999999',
    '1769860800',
    "now'; DROP TABLE cpu --",
  ])('%s is none', (text) => {
    expect(codeOf(() => parseTime(text, 'from', now))).toBe('bad_time');
  });

  test('seconds are recognized', () => {
    expect(() => parseTime('1769860800', 'from', now)).toThrow('it is 1769860800000 in milliseconds');
  });
});

describe('a range', () => {
  test('is the last hour unless it is given', () => {
    expect(parseRange(undefined, undefined, now)).toEqual({ from: now - hour, to: now });
    expect(parseRange('', '', now)).toEqual({ from: now - hour, to: now });
  });

  test.each([
    ['now', 'now'],
    ['-1h', '-2h'],
  ])('%s to %s is empty', (from, to) => {
    expect(codeOf(() => parseRange(from, to, now))).toBe('bad_range');
  });
});

describe('a step', () => {
  const range = (ms: number) => ({ from: now - ms, to: now });

  test.each([
    [60_000, 5000, 5000],
    [hour, 5000, 10_000],
    [hour, 60_000, 60_000],
    [hour, 7000, 10_000],
    [24 * hour, 5000, 300_000],
    [30 * 24 * hour, 5000, 2 * hour],
    [20 * 365 * 24 * hour, 5000, 30 * 24 * hour],
  ])('auto over %i ms with an interval of %i ms is %i ms', (width, interval, step) => {
    expect(parseStep('auto', range(width), interval)).toBe(step);
    expect(parseStep(undefined, range(width), interval)).toBe(step);
  });

  test('as it is written, even below the interval', () => {
    expect(parseStep('1s', range(60_000), 5000)).toBe(1000);
    expect(parseStep('1h30m', range(60_000), 5000)).toBe(1.5 * hour);
  });

  test.each(['0s', '10', 'x', '-5s', '1.5ms', '400d', '5 s', '10s; DROP TABLE cpu', '1e3s'])('%s is none', (text) => {
    expect(codeOf(() => parseStep(text, range(60_000), 1000))).toBe('bad_step');
  });

  test('that makes too many points names the least that does not', () => {
    const day = range(24 * hour);
    expect(codeOf(() => parseStep('1s', day, 1))).toBe('too_many_points');
    expect(() => parseStep('1s', day, 1)).toThrow('Give a step of 10s or longer');
    expect(align(day, parseStep('10s', day, 1)).times.length).toBeLessThanOrEqual(pointsMax);
  });
});

describe('steps', () => {
  test('begin at multiples of their width and cover the range', () => {
    expect(align({ from: 1_003, to: 2_999 }, 1000)).toEqual({ from: 1000, to: 3000, times: [1000, 2000] });
    expect(align({ from: 1000, to: 3000 }, 1000).times).toEqual([1000, 2000]);
  });
});

test.each([
  [90_000, '1m30s'],
  [86_400_000, '1d'],
  [250, '250ms'],
  [0, '0s'],
])('%i ms is %s', (ms, text) => expect(duration(ms)).toBe(text));
