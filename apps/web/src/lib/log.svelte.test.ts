import { expect, test, vi } from 'vitest';
import type { Row, Rows, RowsQuery, Table } from '#lib/api.ts';
import { ApiError } from '#lib/api.ts';
import type { Listener, LiveRows } from '#lib/live.svelte.ts';
import { RowLog } from '#lib/log.svelte.ts';
import type { Scope } from '#lib/view.svelte.ts';

const table: Table = {
  name: 'event',
  help: '',
  rowTime: 'timestamp_seconds',
  labels: [
    { name: 'kind', key: true, help: '' },
    { name: 'name', key: false, help: '' },
  ],
  fields: [],
};
const now = 1_000_000;
const live15m: Scope = { key: 'live', liveRange: 900_000, from: 0, to: 0, agg: 'avg' };
const event = (time: number, name: string): Row => ({ time, host: 'a', kind: 'vm', name });
const arrived = (host: string, time: number): LiveRows => ({
  ...{ type: 'rows', id: '1', host, time, intervalMs: 1000 },
  ...{ labels: {}, values: {}, skipped: 0 },
});

function setUp(answers: (Rows | Error)[]) {
  const asked: RowsQuery[] = [];
  let listener: Listener<LiveRows> | undefined;
  const log = new RowLog(
    { table, hosts: ['a'], labels: { kind: ['vm'] }, limit: 2 },
    {
      api: {
        rows: async (query) => {
          asked.push(query);
          const answer = answers.shift();
          if (!answer || answer instanceof Error) throw answer ?? new Error('asked too often');
          return answer;
        },
      },
      live: {
        watch: (_, given) => {
          listener = given;
          return () => {
            listener = undefined;
          };
        },
      },
      view: { now },
    },
  );
  return {
    log,
    asked,
    arrive: (host: string, time: number) => listener?.message(arrived(host, time)),
    isWatched: () => listener !== undefined,
  };
}

test('a range is asked for once; new rows make it be asked for again, what was known already does not', async () => {
  vi.useFakeTimers();
  const first = { rows: [event(now - 100_000, 'older')], truncated: false };
  const { log, asked, arrive, isWatched } = setUp([
    first,
    { rows: [event(now, 'new'), ...first.rows], truncated: true },
  ]);
  const stop = log.run(live15m);
  arrive('a', now - 100_000);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toEqual([
    { table: 'event', hosts: ['a'], labels: { kind: ['vm'] }, from: '-900000ms', to: 'now', limit: 2 },
  ]);
  expect([log.status, log.rows.length, log.truncated]).toEqual(['ready', 1, false]);
  arrive('a', now);
  arrive('a', now + 1);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toHaveLength(2);
  expect(log.rows.map(({ name }) => name)).toEqual(['new', 'older']);
  expect(log.truncated).toBe(true);
  stop();
  expect(isWatched()).toBe(false);
  vi.useRealTimers();
});

test('what was known when it began is asked for again when it may not have been stored yet', async () => {
  vi.useFakeTimers();
  const { log, asked, arrive } = setUp([
    { rows: [], truncated: false },
    { rows: [event(now - 1000, 'just now')], truncated: false },
  ]);
  const stop = log.run(live15m);
  arrive('a', now - 1000);
  await vi.advanceTimersByTimeAsync(10_000);
  expect(asked).toHaveLength(2);
  expect(log.rows).toHaveLength(1);
  stop();
  vi.useRealTimers();
});

test('a failure is said and tried again; what is wrong with the question is not', async () => {
  vi.useFakeTimers();
  const away = new ApiError('The store is away.', 503, null);
  const { log, asked } = setUp([away, { rows: [event(1, 'x')], truncated: false }]);
  const stop = log.run({ ...live15m, liveRange: null, from: 1, to: 2 });
  await vi.advanceTimersByTimeAsync(0);
  expect([log.status, log.failure]).toEqual(['error', 'The store is away.']);
  await vi.advanceTimersByTimeAsync(10_000);
  expect([log.status, log.failure]).toEqual(['ready', null]);
  expect(asked.map(({ from, to }) => [from, to])).toEqual([
    [1, 2],
    [1, 2],
  ]);
  stop();

  const wrong = setUp([new ApiError('There is no such host.', 400, null)]);
  const end = wrong.log.run(live15m);
  await vi.advanceTimersByTimeAsync(30_000);
  expect(wrong.asked).toHaveLength(1);
  expect(wrong.log.failure).toBe('There is no such host.');
  end();
  vi.useRealTimers();
});
