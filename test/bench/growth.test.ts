// The bench of the growth runs in a tiny form and sees every part: it is run by hand too seldom to notice when it can not.
import type { Frame } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { middle } from './figure.ts';
import { countRows, withRows } from './fleet.ts';
import { growth, linearity, type Observed } from './growth.ts';

const cores = ['total', '0', '1'];
const recorded: Frame = {
  session: '0000000000000001',
  sequence: 1,
  time_us: 1,
  interval_ms: 1000,
  tables: {
    cpu: { core: cores, used_percent: cores.map((_, row) => row + 0.5) },
    memory: { total_bytes: [4096], used_bytes: [2048] },
  } as unknown as Frame['tables'],
};

test('frames are brought to a number of rows, under keys that differ', () => {
  const [frame] = withRows([recorded], 11);
  expect(countRows(frame as Frame)).toEqual(
    new Map([
      ['cpu', 10],
      ['memory', 1],
    ]),
  );
  expect(new Set(frame?.tables.cpu?.core).size).toBe(10);
});

test('growth: numbers of hosts are compared with the first', () => {
  const each = (value: number) => ({ publishers: value, nats: value, collector: value, questdb: value });
  const seen = (hosts: number, cpu: number): Observed => ({
    hosts,
    seconds: 10,
    frames: 1,
    rows: 1,
    values: 1,
    cpu: each(cpu),
    others: 0,
    memory: { publishers: [1], nats: [1], collector: [1], questdb: [1] },
    lag_s: [1, 2],
    latencies: { acknowledged: [1], message: [1], row: [hosts / 100] },
    published: 1,
    failed: 0,
    stored: 1,
  });
  const figures = linearity([seen(100, 1), seen(500, 7), seen(1000, 9)]);
  const named = (name: string) => figures.find((figure) => figure.name === `growth: ${name}`);
  expect(figures).toHaveLength(11);
  // 500 hosts take more than five times as much, though 1,000 are below ten times.
  expect(named('CPU of QuestDB')).toMatchObject({
    value: 0.9,
    goal: { reached: false },
    method: '10 % of a core (1) with 100, 70 % of a core (1.4) with 500, 90 % of a core (0.9) with 1,000',
  });
  expect(named('memory of the collector')).toMatchObject({ value: 0.1, goal: { reached: true } });
  expect(named('lag')).toMatchObject({ value: 1, unit: 'x that of 100 hosts' });
  expect(named('in an answer of the store, p99')?.value).toBe(10);
});

test('growth: all published frames are stored, and every part is measured', async () => {
  const figures = await growth([recorded], {
    sizes: [4],
    seconds: 2,
    warmUp_s: 1,
    interval_ms: 200,
    rows: 11,
    aligned: false,
  });
  const value = (name: string) => {
    const found = figures.find((figure) => figure.name === `4 hosts: ${name}`);
    expect(found, name).toBeDefined();
    return middle(found?.value ?? Number.NaN);
  };
  const stored = figures.find(({ name }) => name.includes('frames in the store'));
  expect(stored?.goal?.reached).toBe(true);
  expect(value('frames in the store at the end')).toBeGreaterThan(10);
  for (const part of ['the publishers', 'nats-server', 'the collector', 'QuestDB']) {
    expect(value(`CPU of ${part}`)).toBeGreaterThan(0);
    expect(value(`memory of ${part}`)).toBeGreaterThan(5);
  }
  expect(value('lag')).toBeLessThan(60);
});
