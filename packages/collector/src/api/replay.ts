// What both faces are asked of replays and cursors, checked.
import { type Table, token } from '@fleetreel/proto';
import { ApiError, clip } from '@fleetreel/proto/errors';
import { type Speed, speedRange } from '@fleetreel/reel/pacer';
import { findTable, namesMax } from '#query/names.ts';
import { parseRange, parseTime } from '#query/time.ts';
import type { SourceQuestion } from '#replay/source.ts';

/** What to play, as it was asked: empty text and 0 mean that it was not said. */
export type Asked = {
  from: string;
  to: string;
  fromSequence: number;
  toSequence: number;
  hosts: readonly string[];
  tables: readonly string[];
};

/** @param now UTC, milliseconds since 1970 @throws ApiError */
export function sourceQuestion(tenant: string, asked: Asked, now: number): SourceQuestion {
  const names = { tenant, hosts: hostNames(asked.hosts), tables: tableNames(asked.tables) };
  if (asked.fromSequence === 0 && asked.toSequence === 0) {
    const { from, to } = parseRange(asked.from, asked.to, now);
    return { ...names, range: { from_us: Math.round(from * 1000), to_us: Math.round(to * 1000) } };
  }
  if (asked.from || asked.to)
    throw new ApiError('bad_command', { reason: 'a range is given by times or by sequences, not by both' });
  const first = asked.fromSequence || 1;
  const last = asked.toSequence || Number.MAX_SAFE_INTEGER;
  if (first > last)
    throw new ApiError('bad_range', { parameter: 'from_sequence', from: String(first), to: String(last) });
  return { ...names, range: { first, last } };
}

/** 0 is as fast as possible. @throws ApiError */
export function speedOf(value: number): Speed {
  if (value === 0) return 'max';
  if (value >= speedRange.min && value <= speedRange.max) return value;
  throw new ApiError('bad_speed', { parameter: 'speed', value });
}

/** A time in microseconds. @param now UTC, milliseconds since 1970 @throws ApiError */
export const timeOf = (text: string, parameter: string, now: number): number =>
  Math.round(parseTime(text, parameter, now) * 1000);

/** Names of hosts as subjects have them, each once: nothing in them may be taken for a wildcard, and no two may be the same. @throws ApiError */
export function hostNames(names: readonly string[]): string[] {
  bounded('hosts', names);
  const tokens = names.map((name) => {
    try {
      return token('host', name);
    } catch {
      throw new ApiError('bad_value', { parameter: 'hosts', value: clip(name), expected: 'the name of a host' });
    }
  });
  return [...new Set(tokens)];
}

/** @throws ApiError */
export function tableNames(names: readonly string[]): Table[] {
  bounded('tables', names);
  return names.map(findTable);
}

function bounded(parameter: string, names: readonly string[]): void {
  if (names.length > namesMax) throw new ApiError('too_many_names', { parameter, count: names.length, most: namesMax });
}
