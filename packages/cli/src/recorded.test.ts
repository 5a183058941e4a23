import { describe, expect, test } from 'vitest';
import { recordedTime } from '#recorded.ts';

const end_us = Date.UTC(2026, 0, 31, 12) * 1000 + 123;

describe('a time of a recording', () => {
  test.each([
    ['2026-01-31T11:00:00Z', Date.UTC(2026, 0, 31, 11) * 1000],
    ['2026-01-31T12:00:00+01:00', Date.UTC(2026, 0, 31, 11) * 1000],
    ['1769860800000', 1_769_860_800_000_000],
    // Before its end, to the microsecond.
    ['-10m', end_us - 600_000_000],
    ['-0s', end_us],
  ])('%s', (text, time_us) => {
    expect(recordedTime('from', text, end_us)).toBe(time_us);
  });

  test('is not there where none is given', () => {
    expect(recordedTime('from', undefined, end_us)).toBeUndefined();
  });

  test.each([
    ['now', /^--to now is no time: give RFC 3339 .* or before the recording's end \(-10m\)\.$/],
    ['2026-01-31T12:00:00', /no time: .* Time of day and zone are needed\.$/],
    ['1769860800', /no time: .* it is 1769860800000 in milliseconds\.$/],
    ['-1y', /no time: .* Units are ms, s, m, h and d\.$/],
  ])('%s is none', (text, says) => {
    expect(() => recordedTime('to', text, end_us)).toThrow(says);
  });
});
