import { setTimeout } from 'node:timers/promises';
import { type Agent, decodeFrame, encodeFrame, type Tables } from '@fleetreel/proto';
import { expect, onTestFinished, test } from 'vitest';
import type { Clock } from '#clock.ts';
import { Events } from '#events.ts';
import { Sampler } from '#sampler.ts';
import { type Source, Unavailable } from '#source.ts';
import { Telemetry } from '#telemetry.ts';

/** A clock that a test moves; sleepers wake when it has passed them. */
class MovedClock implements Clock {
  #ms = 1_795_238_811_539;
  #sleepers: { at: number; wake: () => void }[] = [];
  /** How far the wall clock was set; the monotonic one knows nothing of it. */
  set_ms = 0;
  now_us = () => (this.#ms + this.set_ms) * 1000;
  monotonic_ms = () => this.#ms;

  sleep(milliseconds: number, signal?: AbortSignal): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#sleepers.push({ at: this.#ms + milliseconds, wake: resolve });
    signal?.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    if (signal?.aborted) reject(signal.reason as Error);
    return promise;
  }

  /** Time that passes while nothing else can run. */
  block(milliseconds: number): void {
    this.#ms += milliseconds;
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
      events: new Events(clock),
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
  await clock.move(9000);
  expect(status((await one.sample()).tables, 'slow')).toEqual(['failed', 'has not answered for 10 s']);
  expect(calls).toBe(1);
  await clock.move(20_000);
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

test('how all sources stand is told when one changes, and every 10 s', async () => {
  const clock = new MovedClock();
  let broken = false;
  const changing = source('changing', () => {
    if (broken) throw new Error('torn');
    return rows(1);
  });
  const { sampler: one } = sampler([changing, source('other', () => rows(2))], clock, 1000);
  const told: number[] = [];
  for (let second = 0; second < 30; second++) {
    broken = second === 14;
    const { tables } = await one.sample();
    if (tables.source) told.push(second);
    expect(tables.source?.source ?? ['changing', 'other']).toEqual(['changing', 'other']);
    await clock.move(1000);
  }
  // At the start, after 10 s, when it fails, a second later when it is well, and 10 s after that.
  expect(told).toEqual([0, 10, 14, 15, 25]);
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

test('a source that is always slow costs its rows, but no load and no wrong time', async () => {
  const clock = new MovedClock();
  let calls = 0;
  const slow = source('slow', async () => {
    calls++;
    await clock.sleep(1500);
    return rows(1);
  });
  const { sampler: one } = sampler([slow], clock);
  const states: unknown[] = [];
  for (let tick = 0; tick < 24; tick++) {
    const sample = one.sample();
    await clock.move(1000);
    const { tables } = await sample;
    expect(tables.udp).toBe(undefined);
    if (tables.source) states.push(...status(tables, 'slow'));
    await clock.move(4000);
  }
  expect(new Set(states)).toEqual(
    new Set(['failed', 'has not answered for 1 s', 'answered after 1.5 s, when its tick was over']),
  );
  // In two minutes: at once, then after pauses of 1, 2, 4, 8, 16, 32 and 60 s, each to the next tick.
  expect(calls).toBe(7);
});

test('a source is not opened again while it is still being closed', async () => {
  const clock = new MovedClock();
  const steps: string[] = [];
  const bad = source('bad', () => Promise.reject(new Error('torn')), {
    open: () => void steps.push('open'),
    close: async () => {
      await clock.sleep(7000);
      steps.push('closed');
    },
  });
  const { sampler: one } = sampler([bad], clock, 1000);
  for (let tick = 0; tick < 10; tick++) {
    const sample = one.sample();
    await clock.move(1000);
    await sample;
  }
  expect(steps).toEqual(['open', 'closed', 'open']);
});

test.each([
  ['columns of different length', { disk_io: { device: ['sda', 'sdb'], read_bytes_per_second: [1] } }, /1 rows, not 2/],
  ['a table without its key', { disk_io: { device: [], read_bytes_per_second: [1] } }, /key device is absent/],
  ['a table that does not exist', { dsik_io: { device: ['sda'] } }, /"dsik_io", which the contract does not know/],
])('%s fail their source, not the frame', async (_, wrong, reason) => {
  const clock = new MovedClock();
  const { sampler: one } = sampler(
    [
      source('wrong', () => wrong as unknown as Tables),
      source('late and wrong', async () => wrong as unknown as Tables),
      source('good', () => rows(2)),
    ],
    clock,
  );
  const { time_us, tables } = await one.sample();
  for (const name of ['wrong', 'late and wrong'])
    expect(status(tables, name)).toEqual(['failed', expect.stringMatching(reason)]);
  const header = { session: '0123456789abcdef', sequence: 1, time_us, interval_ms: 5000 };
  const frame = decodeFrame(encodeFrame({ ...header, tables }));
  expect(Object.keys(frame.tables).sort()).toEqual(['agent', 'source', 'udp']);
});

async function ticking(sources: Source[], clock: MovedClock) {
  const { sampler: one, telemetry } = sampler(sources, clock);
  const times: number[] = [];
  const stop = new AbortController();
  const running = one.run(({ time_us }) => times.push(time_us / 1000), stop.signal);
  onTestFinished(async () => {
    stop.abort();
    await running;
  });
  return { times, telemetry };
}

test('ticks are aligned to the wall clock; missed ones are skipped and counted', async () => {
  const clock = new MovedClock();
  let blocked_ms = 0;
  const blocking = source('blocking', () => {
    clock.block(blocked_ms);
    return rows(1);
  });
  const { times, telemetry } = await ticking([blocking], clock);
  await clock.move(15_000);
  expect(times.map((time) => time % 5000)).toEqual([0, 0, 0]);
  expect(telemetry.ticksSkipped).toBe(0);
  const before = times.at(-1) ?? 0;
  // The next tick lasts two and a half intervals.
  blocked_ms = 12_500;
  await clock.move(5000);
  blocked_ms = 0;
  await clock.move(20_000);
  expect(times.slice(3, 6).map((time) => time - before)).toEqual([5000, 20_000, 25_000]);
  expect(telemetry.ticksSkipped).toBe(2);
});

test('a wall clock that is set back or forth brings no tick twice, counts none as missed, and is followed', async () => {
  const clock = new MovedClock();
  let correction_ms = 0;
  const corrected = source('corrected', () => {
    clock.set_ms += correction_ms;
    correction_ms = 0;
    return rows(1);
  });
  const { times, telemetry } = await ticking([corrected], clock);
  await clock.move(10_000);
  expect(times.length).toBe(2);
  // Set back by a little during the third tick, to before it.
  correction_ms = -3;
  await clock.move(15_000);
  const first = times[0] ?? 0;
  expect(times.map((time) => time - first)).toEqual([0, 5000, 10_000, 15_000, 20_000]);
  clock.set_ms += 3_600_000;
  await clock.move(20_000);
  expect(times.slice(-2).every((time) => time % 5000 === 0)).toBe(true);
  clock.set_ms -= 7_200_000;
  await clock.move(30_000);
  // No two frames of one time, also when it is shown again.
  expect(times.slice(-2).every((time) => Math.floor(time) % 5000 === 0)).toBe(true);
  clock.set_ms -= 20_000;
  await clock.move(20_000);
  expect(new Set(times).size).toBe(times.length);
  expect(new Set(times.map(Math.floor)).size).toBeLessThan(times.length);
  expect(telemetry.ticksSkipped).toBe(0);
});

test('another interval is in force at once, in a tick of its own; those after it are aligned, and none counts as missed', async () => {
  const clock = new MovedClock();
  const { sampler: one, telemetry } = sampler([source('one', () => rows(1))], clock, 60_000);
  const stopping = new AbortController();
  const ticks: { at_ms: number; interval_ms: number }[] = [];
  const running = one.run(({ time_us, interval_ms }) => {
    ticks.push({ at_ms: Math.round(time_us / 1000), interval_ms });
  }, stopping.signal);
  const start_ms = clock.now_us() / 1000;
  await clock.move(1000);
  expect(ticks).toEqual([]);
  one.change({ interval_ms: 5000, off: new Set() });
  await clock.move(11_000);
  const [first, ...aligned] = ticks;
  expect(first).toEqual({ at_ms: Math.round(start_ms + 1000), interval_ms: 5000 });
  expect(aligned.length).toBeGreaterThanOrEqual(2);
  for (const { at_ms } of aligned) expect(at_ms % 5000).toBe(0);
  // Shortly after a tick: rates need some time.
  const last_ms = ticks.at(-1)?.at_ms ?? 0;
  one.change({ interval_ms: 300_000, off: new Set() });
  await clock.move(2000);
  expect(ticks.at(-1)).toEqual({ at_ms: expect.any(Number) as number, interval_ms: 300_000 });
  expect((ticks.at(-1)?.at_ms ?? 0) - last_ms).toBeGreaterThanOrEqual(500);
  one.change({ interval_ms: 1000, off: new Set() });
  await clock.move(3500);
  const seconds = ticks.filter(({ interval_ms }) => interval_ms === 1000).slice(1);
  expect(seconds.length).toBeGreaterThanOrEqual(2);
  for (const { at_ms } of seconds) expect(at_ms % 1000).toBe(0);
  expect(telemetry.ticksSkipped).toBe(0);
  stopping.abort();
  await running;
});

test('a source that is turned off is closed and left out, and opened anew when it is turned on; one that hangs is let go', async () => {
  const clock = new MovedClock();
  const did: string[] = [];
  const log = (what: string) => ({
    open: () => void did.push(`open ${what}`),
    close: () => void did.push(`close ${what}`),
  });
  let answer = Promise.withResolvers<Tables>();
  const { sampler: one } = sampler(
    [source('one', () => rows(1), log('one')), source('slow', () => answer.promise, log('slow'))],
    clock,
  );
  const tick = async () => {
    const sampled = one.sample();
    await clock.move(2500);
    return (await sampled).tables;
  };
  expect((await tick()).source?.source).toEqual(['one', 'slow']);
  one.change({ interval_ms: 5000, off: new Set(['one', 'slow']) });
  expect(did).toEqual(['open one', 'open slow', 'close one']);
  // Late, and nobody asks any more.
  answer.resolve(rows(9));
  const { source: none, udp } = await tick();
  expect([none, udp]).toEqual([undefined, undefined]);
  expect(did).toEqual(['open one', 'open slow', 'close one', 'close slow']);
  answer = Promise.withResolvers<Tables>();
  answer.resolve(rows(2));
  one.change({ interval_ms: 5000, off: new Set() });
  const tables = await tick();
  expect(tables.source?.state).toEqual(['ok', 'ok']);
  expect(did.slice(4)).toEqual(['open one', 'open slow']);
  await one.close();
});
