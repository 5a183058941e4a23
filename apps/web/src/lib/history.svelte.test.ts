import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ApiError, type Series, type SeriesQuery, type Table } from '#lib/api.ts';
import { History, type Request } from '#lib/history.svelte.ts';
import type { Listener, LiveRows } from '#lib/live.svelte.ts';
import type { Scope } from '#lib/view.svelte.ts';

const table: Table = {
  name: 'cpu',
  help: '',
  rowTime: null,
  labels: [{ name: 'core', key: true, help: '' }],
  fields: [{ name: 'used_percent', unit: 'percent', help: '' }],
};
const request: Request = { table, fields: ['used_percent'], hosts: ['web-1'], labels: {} };
const step = 5_000;
const start = Math.floor(Date.UTC(2026, 10, 21, 6) / step) * step;

/** A collector whose answers the test decides. */
function collector() {
  const asked: SeriesQuery[] = [];
  const answers: ((query: SeriesQuery) => Series | Error)[] = [];
  const listeners = new Set<Listener<LiveRows>>();
  const api = {
    series: async (query: SeriesQuery) => {
      asked.push(query);
      const answer = (answers.shift() ?? (() => series([], {})))(query);
      if (answer instanceof Error) throw answer;
      return answer;
    },
  };
  const live = {
    watch: (_: unknown, listener: Listener<LiveRows>) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const view = { advance: vi.fn(), now: start + 30_000 };
  const say = (time: number, values: Record<string, number | null>, intervalMs = step) => {
    for (const { message } of listeners)
      message({
        type: 'rows',
        id: '1',
        host: 'web-1',
        time,
        intervalMs,
        labels: { core: Object.keys(values) },
        values: { used_percent: Object.values(values) },
        skipped: 0,
      });
  };
  return { asked, answers, listeners, sources: { api, live, view }, say, view };
}

function series(times: number[], values: Record<string, (number | null)[]>, stepMs = step): Series {
  return {
    from: times[0] ?? start,
    to: (times.at(-1) ?? start) + stepMs,
    stepMs,
    times,
    series: Object.entries(values).map(([core, column]) => ({
      table: 'cpu',
      field: 'used_percent',
      unit: 'percent',
      agg: 'avg',
      labels: { host: 'web-1', core },
      values: column,
    })),
  };
}

const at = (...steps: number[]) => steps.map((count) => start + count * step);
const live: Scope = { key: 'live', liveRange: 900_000, from: 0, to: 0, agg: 'avg' };
const column = (history: History, name: string) =>
  history.entities.find((entity) => entity.name === name)?.columns.used_percent;

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

test('live rows are put behind what was fetched, those that came before it included', async () => {
  const { answers, sources, say, asked } = collector();
  answers.push(() => series(at(0, 1), { '0': [1, 2], total: [3, 4] }));
  const history = new History(request, sources);
  const stop = history.run(live);
  say(start + 2 * step, { total: 6, '0': 5 });
  await vi.advanceTimersByTimeAsync(0);
  expect(asked[0]).toMatchObject({ table: 'cpu', from: '-900000ms', to: 'now', step: 'auto', agg: 'avg' });
  say(start + 3 * step + 4, { total: 8, '0': null });
  expect(history.status).toBe('ready');
  expect(history.times).toEqual(at(0, 1, 2, 3));
  expect(history.entities.map(({ name }) => name)).toEqual(['total', '0']);
  expect(column(history, 'total')).toEqual([3, 4, 6, 8]);
  expect(column(history, '0')).toEqual([1, 2, 5, null]);
  stop();
});

test('a burst of rows is drawn once', async () => {
  const { answers, sources, say } = collector();
  answers.push(() => series(at(0), { total: [1] }));
  const history = new History(request, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  const before = history.version;
  for (let count = 1; count <= 5; count++) say(start + count * step, { total: count });
  expect(history.version).toBe(before);
  await vi.advanceTimersByTimeAsync(20);
  expect(history.version).toBe(before + 1);
  expect(sources.view.advance).toHaveBeenCalledWith(start + 5 * step);
  stop();
});

test('a hole is shown as one, and filled from the store when the store has it', async () => {
  const { answers, sources, say, asked } = collector();
  answers.push(() => series(at(0, 1), { total: [1, 2] }));
  answers.push(() => series(at(1, 2, 3, 4), { total: [2, 3, 4, 5] }));
  const history = new History(request, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  say(start + 4 * step, { total: 5 });
  expect(history.times).toEqual(at(0, 1, 2, 4));
  expect(column(history, 'total')).toEqual([1, 2, null, 5]);
  await vi.advanceTimersByTimeAsync(3_000);
  expect(asked[1]).toMatchObject({ from: start + step, to: 'now', step: '5000ms' });
  expect(history.times).toEqual(at(0, 1, 2, 3, 4));
  expect(column(history, 'total')).toEqual([1, 2, 3, 4, 5]);
  stop();
});

test('a core that appears later has no past', async () => {
  const { answers, sources, say } = collector();
  answers.push(() => series(at(0, 1), { total: [1, 2] }));
  const history = new History(request, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  say(start + 2 * step, { total: 3, '7': 9 });
  expect(column(history, '7')).toEqual([null, null, 9]);
  stop();
});

test.each([
  ['avg', 20],
  ['max', 30],
] as const)('a step wider than the interval holds the %s of its frames', async (agg, expected) => {
  const { answers, sources, say } = collector();
  const wide = 60_000;
  const minute = Math.floor(start / wide) * wide;
  answers.push(() => series([minute], { total: [1] }, wide));
  const history = new History(request, sources);
  const stop = history.run({ ...live, agg });
  await vi.advanceTimersByTimeAsync(0);
  for (const [index, value] of [10, 20, 30].entries()) say(minute + wide + index * step, { total: value });
  // The newest frame comes again with a new subscription.
  say(minute + wide + 2 * step, { total: 30 });
  expect(history.times).toEqual([minute, minute + wide]);
  expect(column(history, 'total')).toEqual([1, expected]);
  stop();
});

test('what leaves the live range is let go', async () => {
  const { answers, sources, say } = collector();
  answers.push(() => series(at(0, 1, 2, 3), { total: [1, 2, 3, 4] }));
  const history = new History(request, sources);
  const stop = history.run({ ...live, liveRange: 10_000 });
  await vi.advanceTimersByTimeAsync(0);
  say(start + 4 * step, { total: 5 });
  expect(history.times).toEqual(at(1, 2, 3, 4));
  expect(column(history, 'total')).toEqual([2, 3, 4, 5]);
  stop();
});

test('without the store live data goes on, and the history comes when the store is back', async () => {
  const { answers, sources, say } = collector();
  const detail = 'QuestDB can not be reached.';
  answers.push(() => new ApiError(detail, 503, null));
  answers.push(() => series(at(-2, -1, 0, 1), { total: [null, 7, 8, 9] }));
  const history = new History(request, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  expect(history.status).toBe('ready');
  expect(history.failure).toBe(detail);
  say(start + step, { total: 9 });
  expect(column(history, 'total')).toEqual([9]);
  await vi.advanceTimersByTimeAsync(2_100);
  expect(history.failure).toBe(null);
  expect(history.times).toEqual(at(-1, 0, 1));
  expect(column(history, 'total')).toEqual([7, 8, 9]);
  stop();
});

test('a fixed range that can not be had is an error with the sentence of the collector', async () => {
  const { answers, sources, listeners } = collector();
  answers.push(() => new ApiError('The range is too long.', 400, null));
  const history = new History(request, sources);
  const stop = history.run({ key: 'fixed', liveRange: null, from: start, to: start + 60_000, agg: 'avg' });
  await vi.advanceTimersByTimeAsync(0);
  expect(history.status).toBe('error');
  expect(history.failure).toBe('The range is too long.');
  expect(listeners.size).toBe(0);
  stop();
});

test('a step of which all frames were seen is not asked for again', async () => {
  const { answers, sources, say, asked } = collector();
  const wide = 20_000;
  const first = Math.floor(start / wide) * wide;
  answers.push(() => series([first], { total: [1] }, wide));
  const history = new History(request, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  for (let frame = 0; frame < 5; frame++) say(first + wide + frame * step, { total: frame });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toHaveLength(1);
  // Of the next step one frame is missing.
  for (const frame of [5, 6, 8]) say(first + wide + frame * step, { total: frame });
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toHaveLength(2);
  stop();
});

test('steps before the first value are left out, and each frame is a point while they are few', async () => {
  const { answers, sources, asked } = collector();
  answers.push(() => series(at(0, 1, 2, 3), { total: [null, null, 3, null] }));
  const history = new History({ ...request, intervalMs: () => 5_000 }, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  expect(asked[0]).toMatchObject({ step: '5000ms' });
  expect(history.times).toEqual(at(2, 3));
  expect(column(history, 'total')).toEqual([3, null]);
  stop();
});

test('an agent that samples more rarely than before is fetched anew in its steps', async () => {
  const { answers, sources, say, asked } = collector();
  answers.push(() => series(at(0, 1), { total: [1, 2] }));
  answers.push(() => series([start], { total: [1.5] }, 4 * step));
  const history = new History({ ...request, intervalMs: () => step }, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  say(start + 2 * step, { total: 3 });
  say(start + 4 * step, { total: 4 }, 4 * step);
  await vi.advanceTimersByTimeAsync(0);
  expect(asked[1]).toMatchObject({ from: '-900000ms', step: '20000ms' });
  expect(history.stepMs).toBe(4 * step);
  say(start + 8 * step, { total: 5 }, 4 * step);
  expect(asked).toHaveLength(2);
  expect(column(history, 'total')).toEqual([1.5, 4, 5]);
  stop();
});

test('the last state of a host that is long offline is no point of the range', async () => {
  const { answers, sources, say } = collector();
  answers.push(() => series(at(0), { total: [null] }));
  const history = new History(request, sources);
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  say(start - 3_600_000, { total: 50 });
  expect(history.times).toEqual([]);
  stop();
});

test('coming back into sight asks only for what is missing', async () => {
  const { answers, sources, asked, listeners } = collector();
  answers.push(() => series(at(0, 1, 2), { total: [1, 2, 3] }));
  answers.push(() => series(at(1, 2, 3, 4), { total: [2, 3, 4, 5] }));
  const history = new History(request, sources);
  history.run(live)();
  const stop = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  stop();
  expect(listeners.size).toBe(0);
  const loaded = asked.length;
  const again = history.run(live);
  await vi.advanceTimersByTimeAsync(0);
  expect(asked).toHaveLength(loaded + 1);
  again();
});
