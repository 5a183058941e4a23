// What a server did between two answers.
import { type Distribution, growthOf, nothing, together } from '#llm/distribution.ts';
import {
  type Counter,
  type Counters,
  counterNames,
  type DurationName,
  type Durations,
  durationNames,
  noCounters,
  type Work,
} from '#llm/reading.ts';
import { increase } from '#rates.ts';

/** The work as it stands, and how much of it is new. */
export type Interval = { seconds: number; work: Work; growth: Counters; durations: Durations };

/** `before` is undefined where nothing is known of the time before. */
export function intervalOf(work: Work, before: Work | undefined, seconds: number): Interval {
  if (!before) return { seconds, work, growth: noCounters, durations: {} };
  const durations: Partial<Record<DurationName, Distribution>> = {};
  for (const name of durationNames) {
    const now = work.durations[name];
    const growth = now && growthOf(before.durations[name] ?? nothing, now);
    if (growth) durations[name] = growth;
  }
  return {
    seconds,
    work,
    // Many a counter is on the page only once it has counted something.
    growth: each((name) => increase(before.counters[name] || 0, work.counters[name])),
    durations,
  };
}

/** A server that had done nothing: what the first answer with a model is compared to. */
export const idle: Work = {
  running: 0,
  waiting: 0,
  kv_cache_percent: Number.NaN,
  cache_hit_percent: Number.NaN,
  counters: Object.fromEntries(counterNames.map((name) => [name, 0])) as Counters,
  durations: {},
};

/** The work with several models as one; undefined of none. */
export function sumOfIntervals(intervals: readonly Interval[]): Interval | undefined {
  return intervals.length > 1 ? intervals.reduce(both) : intervals[0];
}

function both(one: Interval, other: Interval): Interval {
  const [a, b] = [one.work, other.work];
  return {
    seconds: Math.max(one.seconds, other.seconds),
    work: {
      running: plus(a.running, b.running),
      waiting: plus(a.waiting, b.waiting),
      // One cache, which all models share.
      kv_cache_percent: Number.isNaN(a.kv_cache_percent) ? b.kv_cache_percent : a.kv_cache_percent,
      cache_hit_percent: Number.isNaN(a.cache_hit_percent) ? b.cache_hit_percent : a.cache_hit_percent,
      counters: each((name) => plus(a.counters[name], b.counters[name])),
      durations: bothDurations(a.durations, b.durations),
      busySince_us: Math.min(a.busySince_us ?? Number.POSITIVE_INFINITY, b.busySince_us ?? Number.POSITIVE_INFINITY),
      lastEnd_us: Math.max(a.lastEnd_us ?? 0, b.lastEnd_us ?? 0),
    },
    growth: each((name) => plus(one.growth[name], other.growth[name])),
    durations: bothDurations(one.durations, other.durations),
  };
}

function bothDurations(one: Durations, other: Durations): Durations {
  const durations: Partial<Record<DurationName, Distribution>> = {};
  for (const name of durationNames) {
    const [a, b] = [one[name], other[name]];
    const added = a && b ? together(a, b) : (a ?? b);
    if (added) durations[name] = added;
  }
  return durations;
}

/**
 * What a server says of itself, and from a proxy in front of it what the server never says. `usual` is what the server said
 * when it last answered: while it does not, the proxy must not take its place, or the next answer would count twice.
 */
export function filled(own: Interval | undefined, proxy: Interval | undefined, usual: Interval | undefined) {
  if (!proxy) return own;
  const says = (value: number | undefined): boolean => value !== undefined && !Number.isNaN(value);
  const counter = (part: (interval: Interval) => Counters) =>
    each((name) => {
      const source = says(usual?.work.counters[name]) ? own : proxy;
      return source ? part(source)[name] : Number.NaN;
    });
  const durations = (part: (interval: Interval) => Durations): Durations => {
    const chosen: Partial<Record<DurationName, Distribution>> = {};
    for (const name of durationNames) {
      // A mean alone is less than what a proxy measures.
      const source = usual?.work.durations[name]?.buckets.length ? own : proxy;
      const found = source && part(source)[name];
      if (found) chosen[name] = found;
    }
    return chosen;
  };
  const gauge = (name: 'running' | 'waiting'): number =>
    says(usual?.work[name]) ? (own?.work[name] ?? Number.NaN) : proxy.work[name];
  const filledUp: Interval = {
    seconds: own?.seconds ?? proxy.seconds,
    work: {
      ...proxy.work,
      running: gauge('running'),
      waiting: gauge('waiting'),
      kv_cache_percent: own?.work.kv_cache_percent ?? Number.NaN,
      cache_hit_percent: own?.work.cache_hit_percent ?? Number.NaN,
      counters: counter(({ work }) => work.counters),
      durations: durations(({ work }) => work.durations),
    },
    growth: counter(({ growth }) => growth),
    durations: durations((interval) => interval.durations),
  };
  return filledUp;
}

const each = (value: (name: Counter) => number): Counters =>
  Object.fromEntries(counterNames.map((name) => [name, value(name)])) as Counters;

/** The sum of what is known. */
export const plus = (one: number, other: number): number =>
  Number.isNaN(one) ? other : Number.isNaN(other) ? one : one + other;
