/** Times as people and answers write them: `2026-01-31T12:00:00Z`, `1769860800000`, `1769860800000.123`, `now`, `-1h30m`. */
import { durationMilliseconds } from '#duration.ts';

/** 2200-01-01: a later time is a mistake. */
const timeMax = Date.UTC(2200, 0);
/** Numbers below this (1973 in milliseconds) are taken for seconds by mistake. */
const millisecondsMin = 100_000_000_000;
const rfc3339 = /^(\d{4}-\d\d-(\d\d))[Tt ](\d\d:\d\d:\d\d(?:\.\d+)?)(?:[Zz]|([+\- ])(\d\d:\d\d))$/;

/**
 * A time, UTC, milliseconds since 1970 with microseconds as decimals: from RFC 3339, from such milliseconds, `now`, or as long before
 * now as a duration says (`-1h`). Where it is none, one sentence about that; an empty one where nothing is to be said.
 * @param now what `now` means, milliseconds since 1970
 */
export function readTime(text: string, now: number): number | { hint: string } {
  if (text === 'now') return now;
  if (/^\d+(?:\.\d+)?$/.test(text)) {
    const ms = Number(text);
    if (ms > 0 && ms < millisecondsMin) return { hint: `If this is in seconds, it is ${ms * 1000} in milliseconds.` };
    if (ms > timeMax) return { hint: 'This is after the year 2200.' };
    return Math.round(ms * 1000) / 1000;
  }
  if (text.startsWith('-')) {
    const before = durationMilliseconds(text.slice(1));
    if (before === undefined) return { hint: 'Units are ms, s, m, h and d.' };
    return Math.max(0, now - before);
  }
  // A "+" that was not written %2B in an address arrives as a space.
  const [, date, dayOfMonth, clock, sign, offset] = rfc3339.exec(text) ?? [];
  if (!date || !clock) return { hint: /^\d{4}-\d\d-\d\d/.test(text) ? 'Time of day and zone are needed.' : '' };
  const ms = Date.parse(`${date}T${clock}${offset ? `${sign === '-' ? '-' : '+'}${offset}` : 'Z'}`);
  // A day that the month does not have must not become one of the next month.
  const written = new Date(Date.parse(`${date}T00:00:00Z`));
  if (Number.isNaN(ms) || written.getUTCDate() !== Number(dayOfMonth)) return { hint: 'There is no such day or time.' };
  if (ms < 0 || ms > timeMax) return { hint: 'It has to be between 1970 and 2200.' };
  // What stands behind the milliseconds.
  return ms + Number(/\.\d{3}(\d{1,3})/.exec(clock)?.[1]?.padEnd(3, '0') ?? 0) / 1000;
}
