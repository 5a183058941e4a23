import { expect, test } from 'vitest';
import { parseStall, pressure } from '#sources/pressure.ts';
import { captured, rows, SteppedTree } from '#sources/testing.ts';

const both = captured('mixed', 'proc/pressure/io');

test('parses the lines of a pressure file', () => {
  expect(parseStall(both, 'some')).toEqual({
    average_10s: 0.18,
    average_60s: 0.34,
    average_300s: 0.1,
    total_us: 159886802,
  });
  expect(parseStall(both, 'full')).toEqual({
    average_10s: 0.18,
    average_60s: 0.34,
    average_300s: 0.1,
    total_us: 159229614,
  });
});

const absent = { average_10s: Number.NaN, average_60s: Number.NaN, average_300s: Number.NaN, total_us: Number.NaN };

test('a line that this kernel does not have, or that is torn, is absent', () => {
  expect(parseStall('some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n', 'full')).toEqual(absent);
  expect(parseStall('full avg10=1.00 avg60=2.00 avg300=3.00 total=4\n', 'some')).toEqual(absent);
  expect(parseStall('some avg10=1.00 avg60=2.00 avg300=3.00 total=4', 'some')).toEqual(absent);
  expect(parseStall(both.slice(0, -3), 'full')).toEqual(absent);
  expect(parseStall('', 'some')).toEqual(absent);
});

const file = (some: number | undefined, full: number | undefined): string =>
  [
    ['some', some],
    ['full', full],
  ]
    .filter(([, total]) => total !== undefined)
    .map(([kind, total]) => `${kind} avg10=1.50 avg60=0.50 avg300=0.25 total=${total}\n`)
    .join('');

test('shares come from the totals; cpu without "full", irq without "some" or without a file', async () => {
  using tree = new SteppedTree()
    .write('proc/pressure/cpu', file(1_000_000, undefined))
    .write('proc/pressure/memory', file(0, 0))
    .write('proc/pressure/io', file(5_000_000, 4_000_000))
    .write('proc/pressure/irq', file(undefined, 100));
  const source = pressure(tree.context);
  await source.open();
  const sample = async () => rows((await source.sample()).pressure, 'resource');
  expect((await sample()).io).toEqual({
    some_10s_percent: 1.5,
    some_60s_percent: 0.5,
    some_300s_percent: 0.25,
    full_10s_percent: 1.5,
    full_60s_percent: 0.5,
    full_300s_percent: 0.25,
  });
  tree
    .write('proc/pressure/cpu', file(1_500_000, undefined))
    .write('proc/pressure/memory', file(2_000_100, 0))
    .write('proc/pressure/io', file(4_000_000, 4_200_000))
    .write('proc/pressure/irq', file(undefined, 20_100))
    .context.clock.advance(2);
  const second = await sample();
  expect(second.cpu).toMatchObject({ some_percent: 25 });
  expect(second.cpu).not.toHaveProperty('full_percent');
  expect(second.cpu).not.toHaveProperty('full_10s_percent');
  // A hair more than the interval is the interval.
  expect(second.memory).toMatchObject({ some_percent: 100, full_percent: 0 });
  // A total that went backwards has no share.
  expect(second.io).not.toHaveProperty('some_percent');
  expect(second.io?.full_percent).toBeCloseTo(10, 9);
  expect(second.irq).toEqual({
    full_percent: 1,
    full_10s_percent: 1.5,
    full_60s_percent: 0.5,
    full_300s_percent: 0.25,
  });
  await source.close();
});

test('a kernel without irq pressure has no such row, and says so', async () => {
  using tree = new SteppedTree('debian-5.10/0');
  const source = pressure(tree.context);
  await source.open();
  expect(Object.keys(rows((await source.sample()).pressure, 'resource'))).toEqual(['cpu', 'memory', 'io']);
  expect(source.limitations?.()).toEqual([expect.stringMatching(/pressure\/irq does not exist here$/)]);
  await source.close();
});

test('a kernel without pressure makes it unavailable, with what would help', () => {
  using tree = new SteppedTree('ubuntu-4.13');
  expect(() => pressure(tree.context).open()).toThrow(
    /pressure\/cpu does not exist here: pressure needs Linux 4.20 or newer, booted with psi=1/,
  );
});
