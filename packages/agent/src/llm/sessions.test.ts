import { expect, test } from 'vitest';
import { type Distribution, growthOf, meanOf, nothing, quantileOf, Sketch, together } from '#llm/distribution.ts';
import { filled, type Interval, idle, intervalOf, sumOfIntervals } from '#llm/interval.ts';
import type { Counter, Work } from '#llm/reading.ts';
import { Sessions } from '#llm/sessions.ts';
import { type Row, rows } from '#sources/testing.ts';

const second = 1_000_000;

/** Work with what is given; nothing else is known. */
const work = (counters: Partial<Record<Counter, number>>, more: Partial<Work> = {}): Work => ({
  ...idle,
  running: 0,
  waiting: 0,
  ...more,
  counters: { ...intervalOf(idle, undefined, 1).growth, ...counters },
});

/** What was done in so many seconds. */
const done = (counters: Partial<Record<Counter, number>>, more: Partial<Work> = {}, seconds = 5): Interval =>
  intervalOf(work(counters, more), idle, seconds);

const sketch = (...values: number[]): Distribution => {
  const all = new Sketch();
  for (const value of values) all.add(value);
  return all.distribution;
};

const sessionsOf = (sessions: Sessions, now_s: number): Row[] =>
  Object.values(rows(sessions.rows(now_s * second), 'timestamp_seconds')).map((row) => row);

test('a pause longer than the setting ends a session, a shorter one does not', () => {
  const sessions = new Sessions(60_000);
  const take = (counters: Partial<Record<Counter, number>>, now_s: number) =>
    sessions.take('s', 'm', done(counters), now_s * second);
  take({ ok: 2, generated_tokens: 10, prompt_tokens: 3 }, 100);
  expect(sessionsOf(sessions, 100)).toMatchObject([{ duration_seconds: 5, active_flag: 1, requests_count: 2 }]);
  // Nothing happens: no row.
  take({}, 105);
  expect(sessionsOf(sessions, 105)).toEqual([]);
  take({ error: 1, generated_tokens: 5 }, 150);
  expect(rows(sessions.rows(150 * second), 'timestamp_seconds')).toMatchObject({
    95: { duration_seconds: 55, requests_count: 3, generated_tokens_count: 15, prompt_tokens_count: 3 },
  });
  take({}, 210);
  expect(sessionsOf(sessions, 210)).toEqual([]);
  // Its last row, with the end of the last request; and the next session begins anew.
  expect(rows(sessions.rows(211 * second), 'timestamp_seconds')).toMatchObject({
    95: { active_flag: 0, duration_seconds: 55 },
  });
  take({ ok: 1 }, 300);
  expect(rows(sessions.rows(300 * second), 'timestamp_seconds')).toMatchObject({
    295: { active_flag: 1, requests_count: 1 },
  });
});

test('a request that takes longer than the pause keeps its session, until its server is gone', () => {
  const sessions = new Sessions(10_000);
  for (let now_s = 0; now_s <= 100; now_s += 5) sessions.take('s', 'm', done({}, { running: 1 }), now_s * second);
  expect(sessionsOf(sessions, 100)).toMatchObject([{ duration_seconds: 105, active_flag: 1 }]);
  expect(sessionsOf(sessions, 200)).toEqual([]);
  sessions.gone('another');
  expect(sessionsOf(sessions, 200)).toEqual([]);
  sessions.gone('s');
  expect(sessionsOf(sessions, 200)).toMatchObject([{ duration_seconds: 105, active_flag: 0 }]);
});

test('models and servers have sessions of their own', () => {
  const sessions = new Sessions(10_000);
  for (const [server, model] of [
    ['a', 'm'],
    ['a', 'n'],
    ['b', 'm'],
  ] as const)
    sessions.take(server, model, done({ ok: 1 }), 10 * second);
  const table = sessions.rows(10 * second);
  expect(table?.server.map((server, at) => `${server} ${table.model[at]}`)).toEqual(['a m', 'a n', 'b m']);
});

test('a proxy says when a session began and ended; times are of the whole session', () => {
  const sessions = new Sessions(60_000);
  const first = { time_to_first_token: sketch(...Array.from({ length: 90 }, () => 0.1)) };
  const later = { time_to_first_token: sketch(...Array.from({ length: 10 }, () => 2)) };
  sessions.take(
    's',
    'm',
    done({ ok: 90 }, { durations: first, busySince_us: 91.25 * second, lastEnd_us: 99.5 * second }),
    100 * second,
  );
  expect(rows(sessions.rows(100 * second), 'timestamp_seconds')).toMatchObject({ 91.25: { duration_seconds: 8.25 } });
  sessions.take(
    's',
    'm',
    done({ ok: 10 }, { durations: later, busySince_us: 120 * second, lastEnd_us: 130 * second }),
    132 * second,
  );
  const [row] = Object.values(rows(sessions.rows(132 * second), 'server'));
  expect(row).toMatchObject({ timestamp_seconds: 91.25, duration_seconds: 38.75, requests_count: 100 });
  expect(row?.time_to_first_token_seconds).toBeCloseTo((90 * 0.1 + 10 * 2) / 100, 9);
  expect(row?.time_to_first_token_p95_seconds).toBeGreaterThan(1.95);
  expect(row?.time_to_first_token_p95_seconds).toBeLessThan(2.05);
});

test('what was there before the first answer begins no session, and a counter that was reset counts nothing', () => {
  const sessions = new Sessions(60_000);
  sessions.take('s', 'm', intervalOf(work({ ok: 1000, generated_tokens: 5000 }), undefined, Number.NaN), 10 * second);
  sessions.take('s', 'm', intervalOf(work({ ok: 3 }), work({ ok: 1000 }), 5), 15 * second);
  expect(sessions.rows(15 * second)).toBeUndefined();
  // But a request that is running is seen at once.
  sessions.take('s', 'm', intervalOf(work({ ok: 3 }, { running: 1 }), undefined, Number.NaN), 20 * second);
  expect(sessionsOf(sessions, 20)).toMatchObject([{ duration_seconds: 0, active_flag: 1 }]);
});

test('a proxy fills in what its server never says, and nothing twice when the server is late', () => {
  const own = done({ prompt_tokens: 10, generated_tokens: 20 }, { running: 3, kv_cache_percent: 7 });
  const proxy = done(
    { prompt_tokens: 8, generated_tokens: 16, ok: 2 },
    { running: 2, durations: { time_to_first_token: sketch(0.5) } },
  );
  const both = filled(own, proxy, own);
  expect(both?.growth).toMatchObject({ prompt_tokens: 10, generated_tokens: 20, ok: 2 });
  expect(both?.work).toMatchObject({ running: 3, kv_cache_percent: 7 });
  expect(meanOf(both?.durations.time_to_first_token)).toBe(0.5);
  // Its answer has not come: its next one will hold these tokens, too.
  const late = filled(undefined, proxy, own);
  expect(late?.growth).toMatchObject({ prompt_tokens: Number.NaN, generated_tokens: Number.NaN, ok: 2 });
  expect(filled(undefined, proxy, undefined)?.growth).toMatchObject({ prompt_tokens: 8, generated_tokens: 16 });
  expect(filled(own, undefined, own)).toBe(own);
});

test('several models are one server', () => {
  const sum = sumOfIntervals([
    done(
      { ok: 1, generated_tokens: 5 },
      { running: 1, kv_cache_percent: 40, durations: { request_duration: sketch(1) } },
    ),
    done({ ok: 2 }, { running: 2, kv_cache_percent: 40, durations: { request_duration: sketch(3) } }),
  ]);
  expect(sum?.growth).toMatchObject({ ok: 3, generated_tokens: 5, preemptions: Number.NaN });
  expect(sum?.work).toMatchObject({ running: 3, kv_cache_percent: 40 });
  expect(meanOf(sum?.durations.request_duration)).toBe(2);
  expect(sumOfIntervals([])).toBeUndefined();
});

test('a sketch is right to 1 % from a microsecond to a day, and bounded', () => {
  const values = Array.from({ length: 10_000 }, (_, at) => 1e-5 * 1.002 ** at);
  const all = sketch(...values);
  for (const share of [0.01, 0.5, 0.95, 0.99]) {
    const exact = values[Math.ceil(values.length * share) - 1] as number;
    expect(Math.abs(quantileOf(all, share) / exact - 1)).toBeLessThan(0.0201);
  }
  expect(meanOf(all)).toBeCloseTo(values.reduce((sum, value) => sum + value, 0) / values.length, 3);
  expect(sketch(0, 1e-9, 1e12, Number.MAX_VALUE, ...values).buckets.length).toBeLessThan(1400);
  expect(quantileOf(nothing, 0.95)).toBeNaN();
  expect(meanOf(undefined)).toBeNaN();
});

test('distributions: growth, reset, and the last bucket without an end', () => {
  const before = sketch(1, 2, 3);
  const now = together(before, sketch(4, 4));
  expect(growthOf(before, now)).toMatchObject({ sum: 8, count: 2 });
  expect(growthOf(now, before)).toBeUndefined();
  const open: Distribution = {
    sum: 100,
    count: 10,
    buckets: [
      { from: 0, to: 1, count: 5 },
      { from: 1, to: Number.POSITIVE_INFINITY, count: 5 },
    ],
  };
  expect(quantileOf(open, 0.95)).toBe(1);
  expect(quantileOf(open, 0.25)).toBe(0.5);
});
