import { expect, test } from 'vitest';
import { CounterHistory } from '#rates.ts';
import { cpu, cpuTable, elapsedTicks, parseCpuinfo, parseLoadavg, parseStat } from '#sources/cpu.ts';
import { captured, row, rows, SteppedTree } from '#sources/testing.ts';

const noFrequencies = new Map<string, number>();

test('parses /proc/stat of Linux 4.13', () => {
  const stat = parseStat(captured('ubuntu-4.13', 'proc/stat'));
  expect([...stat.cores.keys()]).toEqual(['', '0', '1', '2', '3']);
  expect(stat.cores.get('3')).toEqual([562375, 0, 331559, 325960129, 53255, 0, 3707, 0, 0, 0]);
  expect(stat).toMatchObject({
    interrupts: 421434840,
    contextSwitches: 888692448,
    forks: 754326,
    runnable: 3,
    blocked: 0,
    softirqs: 162361882,
  });
});

test('what a torn or empty /proc/stat does not tell is absent', () => {
  const torn = parseStat('cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 55 1 2\nctxt 66');
  expect(torn.cores.size).toBe(2);
  expect(torn.interrupts).toBe(55);
  expect(torn.contextSwitches).toBeNaN();
  const tornCore = parseStat('cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2 3 4 5 6 7 8 9 1');
  expect([...tornCore.cores.keys()]).toEqual(['']);
  expect(parseStat('').cores.size).toBe(0);
});

test('parses the load averages and the number of tasks', () => {
  expect(parseLoadavg('1.55 1.74 1.73 2/1318 46377\n')).toEqual([1.55, 1.74, 1.73, 1318]);
  expect(parseLoadavg('')).toEqual([Number.NaN, Number.NaN, Number.NaN, Number.NaN]);
});

test('finds frequencies in cpuinfo on x86-64 and none on arm64', () => {
  expect(parseCpuinfo(captured('debian-6.18', 'proc/cpuinfo'))).toEqual(
    new Map([
      ['0', 2445434000],
      ['1', 2445434000],
    ]),
  );
  expect(parseCpuinfo(captured('debian-6.1-arm64/0', 'proc/cpuinfo')).size).toBe(0);
});

const ticks = (...values: number[]): number[] => [...values, ...Array.from({ length: 10 - values.length }, () => 0)];

test('guests are taken out of user and nice, which contain them', () => {
  const passed = elapsedTicks(ticks(0), [60, 30, 5, 5, 0, 0, 0, 0, 40, 20]);
  expect(passed).toMatchObject({ user: 20, nice: 10, guest: 40, guest_nice: 20, system: 5, idle: 5 });
});

test('iowait may go backwards: what idle took from it is not counted twice', () => {
  expect(elapsedTicks(ticks(10, 0, 0, 100, 50), ticks(15, 0, 0, 120, 45))).toMatchObject({
    user: 5,
    idle: 15,
    iowait: 0,
  });
  expect(elapsedTicks(ticks(10, 0, 0, 100, 50), ticks(15, 0, 0, 90, 75))).toMatchObject({
    user: 5,
    idle: 0,
    iowait: 15,
  });
});

test('a core whose counters were reset has no row of values, nor has one at its first sample', () => {
  expect(elapsedTicks(ticks(10, 0, 0, 100), ticks(9, 0, 0, 200))).toBeUndefined();
  expect(elapsedTicks(ticks(10, 0, 0, 100, 20), ticks(12, 0, 0, 50, 30))).toBeUndefined();
  expect(elapsedTicks([], ticks(9))).toBeUndefined();
});

test('percents are of what really passed, and no time is no value', () => {
  const history = new CounterHistory();
  history.begin(0);
  cpuTable(
    new Map([
      ['', ticks(0)],
      ['0', ticks(100, 0, 100, 800)],
    ]),
    history,
    noFrequencies,
  );
  history.begin(1);
  const cores = new Map([
    ['', ticks(0)],
    ['0', ticks(150, 10, 120, 815, 5)],
  ]);
  const table = rows(cpuTable(cores, history, noFrequencies), 'core');
  expect(table['0']).toMatchObject({ used_percent: 80, user_percent: 50, nice_percent: 10, system_percent: 20 });
  expect(table['0']).toMatchObject({ idle_percent: 15, iowait_percent: 5, steal_percent: 0, guest_percent: 0 });
  expect(table.total).toEqual(table['0']);
  history.begin(2);
  expect(rows(cpuTable(cores, history, noFrequencies), 'core')).toEqual({ total: {}, '0': {} });
});

test('where the kernel shows no single cores, its own sum is the total', () => {
  const history = new CounterHistory();
  history.begin(0);
  cpuTable(new Map([['', ticks(100, 0, 0, 900)]]), history, noFrequencies);
  history.begin(1);
  const table = cpuTable(new Map([['', ticks(125, 0, 0, 975)]]), history, noFrequencies);
  expect(rows(table, 'core').total).toMatchObject({ used_percent: 25, idle_percent: 75 });
});

test('a busy core of a virtual machine, then the core next to it is taken away and comes back', async () => {
  using tree = new SteppedTree('debian-5.10/0');
  const source = cpu(tree.context);
  await source.open();
  const sample = async () => {
    const { cpu: cores, load } = await source.sample();
    return { cores: rows(cores, 'core'), load: row(load) };
  };
  const first = await sample();
  expect(Object.keys(first.cores)).toEqual(['0', '1', '2', 'total']);
  expect(first.cores['0']).not.toHaveProperty('used_percent');
  expect(first.load).toMatchObject({ tasks_runnable_count: expect.any(Number), uptime_seconds: expect.any(Number) });
  expect(first.load).not.toHaveProperty('forks_per_second');

  const uptime = (step: number): number => Number.parseFloat(captured(`debian-5.10/${step}`, 'proc/uptime'));
  tree.put('debian-5.10/1').context.clock.advance(uptime(1) - uptime(0));
  const busy = await sample();
  // One of three cores ran `yes` for 2 of the seconds that passed.
  expect(busy.cores.total?.used_percent).toBeCloseTo(
    ((busy.cores['0']?.used_percent as number) +
      (busy.cores['1']?.used_percent as number) +
      (busy.cores['2']?.used_percent as number)) /
      3,
    0,
  );
  expect(Math.max(...['0', '1', '2'].map((core) => busy.cores[core]?.user_percent as number))).toBeGreaterThan(30);
  for (const core of Object.values(busy.cores)) {
    const states = 'user nice system idle iowait irq softirq steal guest'.split(' ');
    expect(states.reduce((sum, state) => sum + (core[`${state}_percent`] as number), 0)).toBeCloseTo(100, 9);
  }
  expect(busy.load.forks_per_second).toBeGreaterThan(0);

  tree.put('debian-5.10/2').context.clock.advance(uptime(2) - uptime(1));
  const without = await sample();
  expect(Object.keys(without.cores)).toEqual(['0', '2', 'total']);
  expect(without.cores.total?.used_percent).toBeGreaterThanOrEqual(0);
  expect(without.cores.total?.used_percent).toBeLessThan(60);

  tree.put('debian-5.10/3').context.clock.advance(uptime(3) - uptime(2));
  const again = await sample();
  expect(Object.keys(again.cores)).toEqual(['0', '1', '2', 'total']);
  expect(again.cores['1']).not.toHaveProperty('used_percent');
  expect(again.cores['0']?.used_percent).toBeLessThan(60);
  await source.close();
});

test('frequencies come from cpufreq in sysfs, every 5 seconds, for the cores that have it', async () => {
  using tree = new SteppedTree('debian-5.10/0');
  const frequency = (core: number, text: string) =>
    tree.write(`sys/devices/system/cpu/cpu${core}/cpufreq/scaling_cur_freq`, text);
  frequency(0, '1400000\n');
  frequency(2, '2600000\n');
  const source = cpu(tree.context);
  await source.open();
  const sample = async () => rows((await source.sample()).cpu, 'core');
  const first = await sample();
  expect(first.total?.frequency_hertz).toBe(2e9);
  expect(first['0']?.frequency_hertz).toBe(1.4e9);
  expect(first['1']).not.toHaveProperty('frequency_hertz');
  frequency(0, '3400000\n');
  tree.context.clock.advance(1);
  expect((await sample())['0']?.frequency_hertz).toBe(1.4e9);
  tree.context.clock.advance(4);
  expect((await sample())['0']?.frequency_hertz).toBe(3.4e9);
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('without /proc/stat it is unavailable; without the rest those columns are absent, and it says so', async () => {
  using tree = new SteppedTree();
  const source = cpu(tree.context);
  expect(() => source.open()).toThrow('proc/stat does not exist here');
  tree.write('proc/stat', captured('ubuntu-4.13', 'proc/stat'));
  await source.open();
  expect(row((await source.sample()).load)).toEqual({ tasks_runnable_count: 3, tasks_blocked_count: 0 });
  expect(source.limitations?.()).toEqual([
    expect.stringMatching(/loadavg does not exist here$/),
    expect.stringMatching(/uptime does not exist here$/),
    expect.stringMatching(/file-nr does not exist here$/),
    expect.stringMatching(/^Clock frequencies are not known/),
  ]);
  await source.close();
});

test('counters of the kernel that went backwards have no rate', async () => {
  using tree = new SteppedTree('debian-5.10/1');
  const source = cpu(tree.context);
  await source.open();
  await source.sample();
  tree.put('debian-5.10/0').context.clock.advance(1);
  const { cpu: cores, load } = await source.sample();
  expect(row(load)).not.toHaveProperty('context_switches_per_second');
  expect(row(load)).not.toHaveProperty('interrupts_per_second');
  expect(rows(cores, 'core')).toEqual({ total: {}, '0': {}, '1': {}, '2': {} });
  await source.close();
});
