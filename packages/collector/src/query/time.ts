// Times, ranges and steps as people write them.

import { durationMilliseconds } from '@fleetreel/proto/duration';
import { ApiError, clip } from '@fleetreel/proto/errors';
import { readTime } from '@fleetreel/proto/time';

/** A range of time: UTC, milliseconds since 1970, `to` exclusive. */
export type Range = { from: number; to: number };

/** Points of one series at most: as many as Prometheus gives, more than any screen has columns. */
export const pointsMax = 11_000;
/** What `auto` aims at: points of one series. */
const autoPointsMax = 400;

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;
const stepMax = 365 * day;

/** Steps that divide minutes, hours and days evenly. */
const niceSteps = [
  ...[1, 2, 5, 10, 15, 30].map((count) => count * second),
  ...[1, 2, 5, 10, 15, 30].map((count) => count * minute),
  ...[1, 2, 3, 6, 12].map((count) => count * hour),
  ...[1, 2, 5, 10, 30, 90, 365].map((count) => count * day),
];

/**
 * A time: RFC 3339, milliseconds since 1970, `now`, or before now: `-1h`, `-1h30m`.
 * @throws ApiError
 */
export function parseTime(text: string, parameter: string, now: number): number {
  const time = readTime(text, now);
  if (typeof time === 'number') return text.startsWith('-') ? Math.round(time) : time;
  throw new ApiError('bad_time', { parameter, value: clip(text), hint: time.hint && ` ${time.hint}` });
}

/**
 * A range: the last hour when nothing is given.
 * @throws ApiError
 */
export function parseRange(from: string | undefined, to: string | undefined, now: number): Range {
  const range = { from: parseTime(from || '-1h', 'from', now), to: parseTime(to || 'now', 'to', now) };
  if (range.from >= range.to)
    throw new ApiError('bad_range', { parameter: 'from', from: at(range.from), to: at(range.to) });
  return range;
}

/**
 * The width of a step in milliseconds: as it is written, or for `auto` a round one that gives a few hundred points and
 * is not shorter than `finest`.
 * @throws ApiError
 */
export function parseStep(text: string | undefined, range: Range, finest: number): number {
  if (!text || text === 'auto') return niceStep(range, autoPointsMax, finest);
  const step = durationMilliseconds(text);
  if (step === undefined || !Number.isInteger(step) || step < 1 || step > stepMax)
    throw new ApiError('bad_step', {
      parameter: 'step',
      value: clip(text),
      hint: /^\d+$/.test(text) ? ' The unit is missing.' : '',
    });
  const count = (ceil(range.to, step) - floor(range.from, step)) / step;
  if (count > pointsMax)
    throw new ApiError('too_many_points', {
      parameter: 'step',
      value: clip(text),
      count,
      most: pointsMax,
      nearest: duration(niceStep(range, pointsMax - 1, 1)),
    });
  return step;
}

/** The range widened to whole steps, and the times at which its steps begin. Steps begin at multiples of their width since 1970. */
export function align({ from, to }: Range, step: number): Range & { times: number[] } {
  const begin = floor(from, step);
  const end = ceil(to, step);
  return {
    from: begin,
    to: end,
    times: Array.from({ length: (end - begin) / step }, (_, index) => begin + index * step),
  };
}

/** A duration as people write it: 90000 is "1m30s". */
export function duration(ms: number): string {
  let rest = ms;
  let text = '';
  for (const [unit, width] of [
    ['d', day],
    ['h', hour],
    ['m', minute],
    ['s', second],
    ['ms', 1],
  ] as const) {
    const count = Math.floor(rest / width);
    if (count > 0) text += `${count}${unit}`;
    rest -= count * width;
  }
  return text || '0s';
}

/** A time as the errors show it. */
export const at = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z');

export const floor = (ms: number, step: number): number => Math.floor(ms / step) * step;
export const ceil = (ms: number, step: number): number => Math.ceil(ms / step) * step;

function niceStep({ from, to }: Range, points: number, finest: number): number {
  const least = Math.max((to - from) / points, finest);
  return niceSteps.find((step) => step >= least) ?? stepMax;
}
