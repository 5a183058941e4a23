import { setTimeout } from 'node:timers/promises';
import type { Agent, Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import type { Clock } from '#clock.ts';
import { Sampler } from '#sampler.ts';
import { type Source, Unavailable } from '#source.ts';
import { Telemetry } from '#telemetry.ts';

/** A clock that a test moves; sleepers wake when it has passed them. */
class MovedClock implements Clock {
  #ms = 1_795_238_811_539;
  #sleepers: { at: number; wake: () => void }[] = [];
  now_us = () => this.#ms * 1000;
  monotonic_ms = () => this.#ms;

  sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#sleepers.push({ at: this.#ms + milliseconds, wake: resolve });
    signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    if (signal?.aborted) reject(signal.reason as Error);
    return promise;
  }

  async move(milliseconds: number): Promise<void> {
    const end = this.#ms + milliseconds;
    for (;;) {
      // What is ready now goes first: it may sleep again.
      await setTimeout(0);
      const [next] = this.#sleepers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
      if (!next) break;
      this.#sleepers.splice(this.#sleepers.indexOf(next), 1);
      this.#ms = Math.max(this.#ms, next.at);
      next.wake();
    }
    this.#ms = end;
  }
}

const rows = (value: number): Tables => ({ udp: { receive_datagrams_per_second: [value] } }) as unknown as Tables;

const source = (name: string, sample: Source['sample'], more: Partial<Source> = {}): Source => ({
  name,
  tables: ['udp'],
  open() {},
  sample,
  close() {},
  ...more,
});

function sampler(sources: Source[], clock: Clock, interval_ms = 5000) {
  const telemetry = new Telemetry('silent');
  return {
    telemetry,
    sampler: new Sampler({
      sources,
      interval_ms,
      clock,
      telemetry,
      self: () => ({ version: ['t'] }) as unknown as Agent,
    }),
  };
}

const status = (tables: Tables, name: string) => {
  const at = tables.source?.source.indexOf(name) ?? -1;
  return [tables.source?.state[at], tables.source?.reason[at]];
};

test('a source that throws costs its own rows, says why, is tried with growing pauses, and heals', async () => {
  const clock = new MovedClock();
  let broken = true;
  let tries = 0;
  const opened: string[] = [];
  const bad = source(
    'bad',
    () => {
      tries++;
      if (broken) throw new Error('torn line 3');
      return rows(7);
    },
    { open: () => void opened.push('open'), close: () => void opened.push('close') },
  );
  const good = source('good', () => ({ tcp_connection: { state: ['listen'], connections_count: [1] } }));
  const { sampler: one } = sampler([bad, good], clock, 1000);
  const first = await one.sample();
  expect(status(first.tables, 'bad')).toEqual(['failed', 'torn line 3']);
  expect(status(first.tables, 'good')).toEqual(['ok', '']);
  expect(first.tables.udp).toBe(undefined);
  expect(first.tables.tcp_connection?.connections_count).toEqual([1]);
  expect(opened).toEqual(['open', 'close']);
  for (let tick = 0; tick < 10; tick++) {
    await clock.move(1000);
    await one.sample();
  }
  // After 1, 2, 4 and not yet 8 further seconds.
  expect(tries).toBe(4);
  broken = false;
  await clock.move(20_000);
  const healed = await one.sample();
  expect(status(healed.tables, 'bad')).toEqual(['ok', '']);
  expect(healed.tables.udp?.receive_datagrams_per_second).toEqual([7]);
});

test('a source that hangs for 30 s never delays the others by more than the limit, and heals', async () => {
  const clock = new MovedClock();
  let calls = 0;
  const slow = source('slow', async () => {
    calls++;
    await clock.sleep(30_000);
    return rows(1);
  });
  const { sampler: one } = sampler([slow, source('good', () => rows(2))], clock);
  let sample = one.sample();
  await clock.move(1000);
  const first = await sample;
  expect(status(first.tables, 'slow')).toEqual(['failed', 'has not answered for 1 s']);
  expect(first.tables.udp?.receive_datagrams_per_second).toEqual([2]);
  await clock.move(4000);
  expect(status((await one.sample()).tables, 'slow')).toEqual(['failed', 'has not answered for 5 s']);
  expect(calls).toBe(1);
  await clock.move(25_000);
  // Its late rows went nowhere; it is asked again and waited for.
  sample = one.sample();
  await clock.move(1000);
  await sample;
  expect(calls).toBe(2);
});

test('what is not here is unavailable with its reason, and looked for again after a minute', async () => {
  const clock = new MovedClock();
  let here = false;
  const card = source('card', () => rows(3), {
    open() {
      if (!here) throw new Unavailable('there is no card');
    },
  });
  const { sampler: one } = sampler([card], clock);
  expect(status((await one.sample()).tables, 'card')).toEqual(['unavailable', 'there is no card']);
  here = true;
  await clock.move(30_000);
  expect(status((await one.sample()).tables, 'card')).toEqual(['unavailable', 'there is no card']);
  await clock.move(30_000);
  expect(status((await one.sample()).tables, 'card')).toEqual(['ok', '']);
});

test('a source with its own clock is read that often', async () => {
  const clock = new MovedClock();
  let reads = 0;
  const seldom = source('seldom', () => rows(++reads), { every_ms: 15_000 });
  const { sampler: one } = sampler([seldom], clock);
  for (let tick = 0; tick < 12; tick++) {
    await one.sample();
    await clock.move(5000);
  }
  expect(reads).toBe(4);
});

test('ticks are aligned to the wall clock; missed ones are skipped and counted', async () => {
  const clock = new MovedClock();
  const times: number[] = [];
  const { sampler: one, telemetry } = sampler([source('good', () => rows(1))], clock);
  const stop = new AbortController();
  const running = one.run(({ time_us }) => times.push(time_us), stop.signal);
  await clock.move(15_000);
  expect(times.map((time) => time % 5_000_000)).toEqual([0, 0, 0]);
  expect(telemetry.ticksSkipped).toBe(0);
  stop.abort();
  await running;
});
