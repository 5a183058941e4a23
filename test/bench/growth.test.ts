// The bench of the growth runs in a tiny form and sees every part: it is run by hand too seldom to notice when it can not.
import type { Frame } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { middle } from './figure.ts';
import { countRows, withRows } from './fleet.ts';
import { growth } from './growth.ts';

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
