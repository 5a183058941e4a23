import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { perfAnswerMilliseconds } from '#limits.ts';
import { type Context, type Source, Unavailable } from '#source.ts';
import { countable, perf, perfEvents, perfPrograms, permission } from '#sources/perf.ts';
import { expectContract, row, SteppedTree, systemContext } from '#sources/testing.ts';

const isAlive = (pid: number): boolean => {
  try {
    // A process that has ended and is not waited for yet counts as gone.
    return !/^\d+ \(.*\) [ZX]/s.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
};

const childrenOf = (pid: number): number[] => {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number);
  } catch {
    return [];
  }
};

/** Samples until there is a row. */
async function nextRow(source: Source): Promise<Tables> {
  let tables: Tables = {};
  await expect
    .poll(
      async () => {
        tables = await source.sample();
        return tables.perf !== undefined;
      },
      { timeout: 20_000, interval: 100 },
    )
    .toBe(true);
  return tables;
}

test('counts what happens on this machine, in intervals as long as they were', async () => {
  const online = Number(execFileSync('getconf', ['_NPROCESSORS_ONLN'], { encoding: 'utf8' }));
  const missing_s: number[] = [];
  for (let time = 0; time < 3; time++) {
    const source = perf(systemContext(), 1000);
    await source.open();
    const began_ms = systemClock.monotonic_ms();
    let seconds = 0;
    let clock_s = 0;
    for (let rows = 0; rows < 3; rows++) {
      const tables = await nextRow(source);
      expectContract(tables, source);
      const values = row(tables.perf) as Record<string, number>;
      seconds += values.interval_seconds ?? Number.NaN;
      clock_s += ((values.cpu_clock_percent ?? Number.NaN) / 100) * (values.interval_seconds ?? Number.NaN);
      expect(values.page_faults_per_second).toBeGreaterThanOrEqual(0);
    }
    const passed = (systemClock.monotonic_ms() - began_ms) / 1000;
    // All processors that are online, however busy they are; perf may have to wait between looking at the time and counting.
    expect(clock_s / seconds / online).toBeGreaterThan(0.8);
    expect(clock_s / seconds / online).toBeLessThan(1.2);
    missing_s.push(passed - seconds);
    expect(missing_s[time]).toBeGreaterThanOrEqual(-0.05);
    for (const sentence of source.limitations?.() ?? []) expect(sentence).toMatch(/^[A-Z].*\.$/);
    await source.close();
    if ((missing_s[time] ?? 0) < 1.5) break;
  }
  // A row may come late, on a machine that does something else for a moment.
  expect(Math.min(...missing_s), missing_s.join()).toBeLessThan(1.5);
}, 60_000);

/** Counters of the kernel for the same things. */
const kernel = () => {
  const after = (path: string, key: string): number =>
    Number(new RegExp(`^${key} (\\d+)$`, 'm').exec(readFileSync(path, 'utf8'))?.[1]);
  return { switches: after('/proc/stat', 'ctxt'), faults: after('/proc/vmstat', 'pgfault') };
};

test('page faults and switches of a load, beside what the kernel itself counts of them', async () => {
  const source = perf(systemContext(), 1000);
  const before = kernel();
  await source.open();
  const began = kernel();
  execFileSync('sh', ['-c', 'i=0; while [ $i -lt 2000 ]; do /bin/true; i=$((i+1)); done']);
  const ended = kernel();
  const counted = { faults: 0, switches: 0 };
  // The interval in which it ended, and one more.
  const until_ms = systemClock.monotonic_ms() + 2500;
  while (systemClock.monotonic_ms() < until_ms) {
    await systemClock.sleep(100);
    const values = row((await source.sample()).perf) as Record<string, number>;
    const seconds = values.interval_seconds ?? 0;
    counted.faults += (values.page_faults_per_second ?? 0) * seconds;
    counted.switches += (values.context_switches_per_second ?? 0) * seconds;
  }
  await source.close();
  const after = kernel();
  expect(ended.faults - began.faults).toBeGreaterThan(2000 * 20);
  for (const what of ['faults', 'switches'] as const) {
    // The kernel counts faults besides that it makes itself while it copies for a process, which perf does not.
    expect(counted[what], what).toBeGreaterThan((ended[what] - began[what]) * 0.9);
    expect(counted[what], what).toBeLessThan((after[what] - before[what]) * 1.03);
  }
}, 60_000);

test('events that this perf does not know are left out, and named', async () => {
  const can = await countable('perf', ['cpu-clock', 'no-such-event', 'page-faults', 'nor;this'], '2');
  expect(can).toEqual({
    supported: ['cpu-clock', 'page-faults'],
    unsupported: [],
    unknown: ['no-such-event', 'nor;this'],
  });
  const more = await countable('perf', [...perfEvents, 'no-such-event'], '2');
  expect(more.unknown).toEqual(['no-such-event']);
  const all = await countable('perf', perfEvents, '2');
  expect(more).toEqual({ ...all, unknown: ['no-such-event'] });
  expect([...all.supported, ...all.unsupported].sort()).toEqual([...perfEvents].sort());
  expect(all.supported).toEqual(expect.arrayContaining(['cpu-clock', 'context-switches', 'minor-faults']));
  await expect(countable('perf', ['no-such-event'], '2')).rejects.toThrow(/^perf can't count here: event syntax error/);
});

test('a script that looks for a version that is not there is passed over, as is what is no perf', async () => {
  using tree = new SteppedTree();
  // As /usr/bin/perf of Ubuntu, and of Debian until 11, where the version of the kernel is not installed.
  tree.write('perf', '#!/bin/sh\necho "WARNING: perf not found for kernel 5.15.0-91" >&2\nexit 2\n');
  tree.write('other', '#!/bin/sh\necho "something else"\n');
  tree.write('broken', 'no program');
  for (const name of ['perf', 'other', 'broken']) chmodSync(tree.path(name), 0o755);
  const bad = ['perf', 'other', 'broken', 'missing'].map((name) => tree.path(name));
  const source = perf(systemContext(), 1000, () => [...bad, ...perfPrograms('/usr')]);
  await source.open();
  expect(source.pid).toBeGreaterThan(0);
  await source.close();
  const none = perf(systemContext(), 1000, () => bad);
  await expect(async () => none.open()).rejects.toThrow(Unavailable);
  await expect(async () => none.open()).rejects.toThrow(/there is no perf here: install linux-perf \(Debian\)/);
  await none.close();
}, 30_000);

const paranoid = readFileSync('/proc/sys/kernel/perf_event_paranoid', 'utf8');

test('a perf that does not answer is passed over after a while, though what it started holds its output', async () => {
  using tree = new SteppedTree();
  tree.write('perf', '#!/bin/sh\nsleep 9\n');
  chmodSync(tree.path('perf'), 0o755);
  const source = perf(systemContext(), 1000, () => [tree.path('perf'), ...perfPrograms('/usr')]);
  const began_ms = systemClock.monotonic_ms();
  await source.open();
  expect(systemClock.monotonic_ms() - began_ms).toBeGreaterThan(perfAnswerMilliseconds - 100);
  expect(source.pid).toBeGreaterThan(0);
  await source.close();
}, 30_000);

test.runIf(process.geteuid?.() === 0 && Number(paranoid) > 0)(
  'an ordinary user is told which level forbids it, and the capability that is named permits it',
  () => {
    const asNobody = (...capabilities: string[]) =>
      spawnSync(
        'setpriv',
        ['--reuid=65534', '--regid=65534', '--clear-groups', ...capabilities].concat([
          'perf',
          'stat',
          '-a',
          '-x',
          ';',
          '-e',
          'cpu-clock',
          '--',
          'true',
        ]),
        { env: { PATH: process.env.PATH, LC_ALL: 'C' }, encoding: 'utf8' },
      );
    const refused = asNobody();
    expect(permission({ code: refused.status, errors: refused.stderr }, paranoid)).toMatch(
      /^kernel.perf_event_paranoid is \d.*CAP_PERFMON as an ambient one/,
    );
    const permitted = asNobody('--inh-caps=+perfmon', '--ambient-caps=+perfmon');
    expect(permission({ code: permitted.status, errors: permitted.stderr }, paranoid)).toBeUndefined();
    expect(permitted.stderr).toMatch(/;cpu-clock;/);
  },
);

test('a perf that dies fails the source, which counts again when it is opened again; nothing is left behind', async () => {
  const source = perf(systemContext(), 1000);
  await source.open();
  const first = source.pid ?? expect.fail();
  await expect.poll(() => childrenOf(first).length, { timeout: 10_000 }).toBe(1);
  const [cat = expect.fail()] = childrenOf(first);
  process.kill(first, 'SIGKILL');
  await expect
    .poll(() => Promise.try(() => source.sample()).then(() => 'rows', String), { timeout: 10_000 })
    .toMatch(/Error: perf has ended \(SIGKILL\)/);
  await source.close();
  await expect.poll(() => [isAlive(first), isAlive(cat)], { timeout: 10_000 }).toEqual([false, false]);

  await source.open();
  const second = source.pid ?? expect.fail();
  expect(second).not.toBe(first);
  expect(row((await nextRow(source)).perf)).toHaveProperty('context_switches_per_second');
  const children = childrenOf(second);
  await source.close();
  await expect.poll(() => [second, ...children].filter(isAlive), { timeout: 10_000 }).toEqual([]);
}, 60_000);

test('a perf that stops talking fails the source', async () => {
  const source = perf(systemContext(), 300);
  await source.open();
  const pid = source.pid ?? expect.fail();
  await nextRow(source);
  process.kill(pid, 'SIGSTOP');
  await expect
    .poll(() => Promise.try(() => source.sample()).then(() => 'rows', String), { timeout: 20_000 })
    .toMatch(/perf has said nothing for \d+ s/);
  // It does not hear SIGTERM in this state.
  await source.close();
  expect(isAlive(pid)).toBe(false);
}, 60_000);

test('processors that come are counted, too', async () => {
  using tree = new SteppedTree().write('sys/devices/system/cpu/online', '0-1\n');
  const context: Context = systemContext();
  const source = perf({ ...context, roots: { ...context.roots, sys: tree.path('sys') } }, 300);
  await source.open();
  const pid = source.pid;
  await nextRow(source);
  expect(source.pid).toBe(pid);
  tree.write('sys/devices/system/cpu/online', '0-3\n');
  await nextRow(source);
  expect(source.pid).not.toBe(pid);
  await nextRow(source);
  await source.close();
}, 60_000);

const script = `
import { perf } from ${JSON.stringify(join(import.meta.dirname, 'perf.ts'))};
import { systemClock } from ${JSON.stringify(join(import.meta.dirname, '../clock.ts'))};
const source = perf({ roots: { proc: '/proc', sys: '/sys' }, clock: systemClock });
await source.open();
console.log(source.pid);
setInterval(() => {}, 1000);
`;

async function agentWithPerf(): Promise<{ agent: ChildProcess; perf: number; cat: number }> {
  const agent = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(agent.stdout, 'data')) as [Buffer];
  const pid = Number(line.toString());
  expect(isAlive(pid)).toBe(true);
  await expect.poll(() => childrenOf(pid).length, { timeout: 10_000 }).toBe(1);
  const [cat = expect.fail()] = childrenOf(pid);
  return { agent, perf: pid, cat };
}

test.each(['SIGKILL', 'SIGTERM'] as const)(
  'perf does not outlive an agent that is ended by %s',
  async (signal) => {
    const { agent, perf: pid, cat } = await agentWithPerf();
    agent.kill(signal);
    await once(agent, 'exit');
    // At once, not when perf next writes into a pipe that nobody reads: that would be after ten seconds.
    const began_ms = systemClock.monotonic_ms();
    await expect.poll(() => [pid, cat].filter(isAlive), { timeout: 9000, interval: 20 }).toEqual([]);
    expect(systemClock.monotonic_ms() - began_ms).toBeLessThan(8000);
  },
  60_000,
);
