import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, cpSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Event, Tables } from '@fleetreel/proto';
import { describe, expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { processesMax } from '#limits.ts';
import { ProcessIdentities } from '#processes.ts';
import type { Context, Source } from '#source.ts';
import { process as makeSource } from '#sources/process.ts';
import {
  expectContract,
  type Row,
  rows,
  SteppedTree,
  shippedClasses,
  systemContext,
  unfilledColumns,
} from '#sources/testing.ts';

type Written = {
  name?: string;
  state?: string;
  parent?: number;
  flags?: number;
  faults?: number;
  user?: number;
  system?: number;
  threads?: number;
  start?: number;
  pages?: number;
  status?: number;
  /** Read and written bytes. */
  io?: [number, number];
  command?: string;
  cgroup?: string;
};

/** What the clock of the machines below shows at first. */
const start_s = 1_209_600;

/** A machine whose processes the test says: as many as are written, each with what is given. */
class Machine extends SteppedTree {
  readonly source: Source;
  /** How often a sample waited for a scan. */
  waits = 0;
  #uptime_s = 1000;

  constructor(settings: Partial<Context['settings']['process']> = {}) {
    super();
    const { context } = this;
    // Two weeks after the beginning of time.
    context.clock.advance(start_s - 1);
    const clock = {
      ...context.clock,
      sleep: (time_ms: number, signal?: AbortSignal) => {
        this.waits++;
        return systemClock.sleep(time_ms, signal);
      },
    };
    this.write('proc/uptime', '1000.00 0.00\n');
    // Pages of 4096 bytes.
    this.write('proc/self/auxv', `\u0006${'\0'.repeat(8)}\u0010${'\0'.repeat(6)}`);
    this.write('etc/passwd', 'root:x:0:0::/root:/bin/sh\nanna:x:1000:1000::/:/\n');
    const processes = new ProcessIdentities(context.roots, {
      classify: shippedClasses,
      clock,
      commands: settings.commands === true,
    });
    const all = { ...context.settings, process: { ...context.settings.process, ...settings } };
    this.source = makeSource({ ...context, clock, settings: all, processes });
  }

  /** Makes a process run, or changes it. */
  process(pid: number, written: Written = {}): this {
    const { name = 'a', state = 'S', parent = 1, flags = 4194560, faults = 0, user = 0, system = 0 } = written;
    const { threads = 1, start = 100, pages = 10, status = 0, command = '', cgroup = '0::/\n' } = written;
    const [readBytes, writeBytes] = written.io ?? [0, 0];
    const cpu = `0 0 ${faults} 0 ${user} ${system} 0 0 20 0 ${threads} 0 ${start} 1000 ${pages}`;
    const rest = `18446744073709551615 1${' 0'.repeat(25)} ${status}`;
    this.write(`proc/${pid}/stat`, `${pid} (${name}) ${state} ${parent} 1 1 0 -1 ${flags} ${cpu} ${rest}\n`);
    this.write(
      `proc/${pid}/io`,
      `rchar: 1\nwchar: 2\nsyscr: 3\nsyscw: 4\nread_bytes: ${readBytes}\nwrite_bytes: ${writeBytes}\ncancelled_write_bytes: 0\n`,
    );
    this.write(`proc/${pid}/cmdline`, command);
    this.write(`proc/${pid}/cgroup`, cgroup);
    return this;
  }

  end(pid: number): this {
    return this.remove(`proc/${pid}`);
  }

  /** The tables some seconds later. */
  async after(seconds: number): Promise<Tables> {
    this.context.clock.advance(seconds);
    this.#uptime_s += seconds;
    this.write('proc/uptime', `${this.#uptime_s.toFixed(2)} 0.00\n`);
    const tables: Tables = {};
    // A scan of many processes comes with a later tick.
    await expect
      .poll(async () => Object.assign(tables, await this.source.sample()), { timeout: 30_000 })
      .not.toEqual({});
    expectContract(tables, this.source);
    return tables;
  }

  /** What was recorded since, as `start web nginx`. */
  events(): string[] {
    return shown(this.context.events.take());
  }
}

const shown = (table: Event | undefined): string[] =>
  (table?.action ?? []).map((action, place) => `${action} ${table?.class[place]} ${table?.name[place]}`);

const processRows = (tables: Tables): Record<string, Row> => rows(tables.process, 'pid');

describe('rates', () => {
  test('CPU time, faults and I/O over the time that passed, and everything else as it is', async () => {
    using machine = new Machine({ commands: true });
    const written = {
      name: 'postgres',
      parent: 7,
      threads: 3,
      start: 90_000,
      pages: 2000,
      command: 'postgres\0-D\0/x\0',
    };
    const id = '0123456789abcdef'.repeat(4);
    machine.process(42, { ...written, user: 1000, system: 100, faults: 5, io: [1e6, 2e6] });
    machine.process(7, { name: 'a', user: 5 }).process(2, { name: 'kthreadd', flags: 0x0020_8040, pages: 0 });
    machine.write(
      'proc/42/status',
      'Name:\tpostgres\nUid:\t0\t1000\t0\t0\nFDSize:\t64\nVmRSS:\t    8192 kB\nRssAnon:\t    1024 kB\nVmSwap:\t      12 kB\n',
    );
    machine.write('proc/42/fd/0', '');
    await machine.source.open();
    const first = processRows(await machine.after(0))[42];
    expect(first).not.toHaveProperty('cpu_percent');
    expect(first).not.toHaveProperty('write_bytes_per_second');
    machine.process(42, {
      ...written,
      user: 1250,
      system: 150,
      faults: 15,
      io: [6e6, 2e6],
      cgroup: `0::/docker/${id}\n`,
    });
    machine.process(7, { user: 5 });
    const tables = await machine.after(5);
    expect(processRows(tables)[42]).toMatchObject({
      name: 'postgres',
      class: 'database',
      container: '',
      user: 'anna',
      state: 'sleeping',
      parent_pid: '7',
      command: 'postgres -D /x',
      cpu_percent: 60,
      cpu_user_percent: 50,
      cpu_system_percent: 10,
      cpu_time_seconds: 14,
      resident_memory_bytes: 8192 * 1024,
      anonymous_memory_bytes: 1024 * 1024,
      swap_bytes: 12 * 1024,
      threads_count: 3,
      read_bytes_per_second: 1e6,
      write_bytes_per_second: 0,
      major_faults_per_second: 2,
    });
    // Started 900 s after boot, of 1000 s.
    expect(processRows(tables)[42]?.start_time_seconds).toBeCloseTo(start_s - 100, 1);
    expect(processRows(tables)[7]).toMatchObject({ cpu_percent: 0, class: 'other' });
    expect(rows(tables.process_class, 'class')).toMatchObject({
      database: { processes_count: 1, threads_count: 3, cpu_percent: 60, read_bytes_per_second: 1e6 },
      other: { processes_count: 1, cpu_percent: 0, read_bytes_per_second: 0 },
      kernel: { processes_count: 1, cpu_percent: 0, resident_memory_bytes: 0 },
    });
    expect(rows(tables.process_state, 'state')).toMatchObject({
      sleeping: { processes_count: 3, kernel_threads_count: 1 },
      zombie: { processes_count: 0, kernel_threads_count: 0 },
    });
    await machine.source.close();
  });

  test('a process that was started since has done everything in this time; one that was only not seen has not', async () => {
    using machine = new Machine();
    machine.process(1);
    await machine.source.open();
    await machine.after(0);
    machine
      .process(50, { user: 100, start: 100_200, io: [0, 5e6] })
      .process(51, { user: 100, start: 200, io: [0, 5e6] });
    const tables = await machine.after(5);
    expect(processRows(tables)[50]).toMatchObject({ cpu_percent: 20, write_bytes_per_second: 1e6 });
    expect(processRows(tables)[51]).not.toHaveProperty('cpu_percent');
    expect(processRows(tables)[51]).not.toHaveProperty('write_bytes_per_second');
    expect(rows(tables.process_class, 'class').other).toMatchObject({ cpu_percent: 20, write_bytes_per_second: 1e6 });
  });

  test('what a process waited for is not shown as its own, where it was seen before', async () => {
    using machine = new Machine();
    machine
      .process(1)
      .process(60, { name: 'sh', io: [0, 0] })
      .process(61, { name: 'dd', parent: 60, user: 1, io: [0, 4e9] });
    await machine.source.open();
    await machine.after(0);
    machine.process(61, { name: 'dd', parent: 60, user: 100, io: [0, 5e9] });
    expect(processRows(await machine.after(5))[61]?.write_bytes_per_second).toBe(2e8);
    // The kernel adds what it wrote to its parent; the last 1e8 had not been seen.
    machine.end(61).process(60, { name: 'sh', user: 2, io: [0, 5.1e9] });
    expect(processRows(await machine.after(5))[60]?.write_bytes_per_second).toBe(2e7);
    machine.process(60, { name: 'sh', user: 4, io: [0, 5.2e9] });
    expect(processRows(await machine.after(5))[60]?.write_bytes_per_second).toBe(2e7);
  });

  test('I/O is found even where a process uses no CPU time that could be seen, within a minute', async () => {
    using machine = new Machine({ top: 1 });
    machine.process(1, { pages: 100 }).process(70, { io: [0, 0] });
    await machine.source.open();
    await machine.after(0);
    machine.process(70, { io: [0, 6e6] });
    let written = 0;
    for (let scan = 0; scan < 12; scan++) {
      const row = processRows(await machine.after(5))[70];
      // The mean since it was read before.
      if (row) written += Number(row.write_bytes_per_second);
    }
    expect(written).toBeGreaterThanOrEqual(1e5);
  });
});

test('the top by CPU, by memory and by I/O come once each', async () => {
  using machine = new Machine({ top: 2 });
  for (let pid = 1; pid <= 50; pid++) machine.process(pid, { pages: 10 });
  await machine.source.open();
  await machine.after(0);
  for (let pid = 1; pid <= 50; pid++)
    machine.process(pid, { user: pid, pages: 100 - pid, io: [pid === 25 ? 1e6 : 0, pid === 50 ? 2e6 : 0] });
  const tables = await machine.after(5);
  expect(
    Object.keys(processRows(tables))
      .map(Number)
      .sort((a, b) => a - b),
  ).toEqual([1, 2, 25, 49, 50]);
  expect(rows(tables.process_class, 'class').other).toMatchObject({ processes_count: 50, cpu_percent: 255 });
});

test.each([
  ['R', 'running'],
  ['S', 'sleeping'],
  ['D', 'disk_sleep'],
  ['T', 'stopped'],
  ['t', 'traced'],
  ['Z', 'zombie'],
  ['X', 'dead'],
  ['x', 'dead'],
  ['P', 'parked'],
  ['I', 'idle'],
  ['K', 'unknown'],
  ['W', 'unknown'],
  ['?', 'unknown'],
])('the state %s is %s', async (letter, expected) => {
  using machine = new Machine();
  machine.process(5, { state: letter });
  await machine.source.open();
  const tables = await machine.after(0);
  expect(rows(tables.process_state, 'state')[expected]?.processes_count).toBe(1);
  expect(processRows(tables)[5]?.state).toBe(expected);
});

describe('events', () => {
  test('starts and stops of classified processes, but for what ran before', async () => {
    using machine = new Machine();
    machine.process(1, { name: 'systemd' }).process(10, { name: 'nginx', start: 90_000 }).process(11, { name: 'bash' });
    await machine.source.open();
    await machine.after(0);
    expect(machine.events()).toEqual([]);
    machine.process(20, { name: 'redis-server', start: 100_300 }).process(21, { name: 'sleep', start: 100_300 });
    machine
      .process(22, { name: 'sshd', start: 100_300 })
      .process(23, { name: 'kworker/3', flags: 0x0020_8040, start: 100_300 });
    await machine.after(5);
    const started = machine.context.events.take();
    expect(shown(started)).toEqual(['start database redis-server']);
    expect(started).toMatchObject({
      kind: ['process'],
      entity: ['20'],
      duration_seconds: [Number.NaN],
      status_code: [Number.NaN],
    });
    // 3 s after the scan before, as the kernel says.
    expect(started?.timestamp_seconds[0]).toBeCloseTo(start_s + 3, 1);
    machine.end(10).end(20).end(21).end(11);
    await machine.after(5);
    const stopped = machine.context.events.take();
    expect(shown(stopped)).toEqual(['stop web nginx', 'stop database redis-server']);
    expect(stopped?.duration_seconds.map((seconds) => Math.round(seconds))).toEqual([1010 - 900, 1010 - 1003]);
    expect(stopped?.timestamp_seconds).toEqual([start_s + 10, start_s + 10]);
  });

  test('a number that is used again is a stop and a start', async () => {
    using machine = new Machine();
    machine.process(1).process(10, { name: 'nginx' });
    await machine.source.open();
    await machine.after(0);
    machine.process(10, { name: 'nginx', start: 100_100 });
    await machine.after(5);
    expect(machine.events()).toEqual(['stop web nginx', 'start web nginx']);
  });

  test('a process that becomes another program stops and starts', async () => {
    using machine = new Machine();
    machine.process(1);
    await machine.source.open();
    await machine.after(0);
    machine.process(10, { name: 'bash', start: 100_100 });
    await machine.after(5);
    machine.process(10, { name: 'nginx', start: 100_100 });
    await machine.after(5);
    machine.process(10, { name: 'redis-server', start: 100_100 });
    await machine.after(5);
    machine.process(10, { name: 'bash', start: 100_100 });
    await machine.after(5);
    const events = machine.context.events.take();
    expect(shown(events)).toEqual([
      'start web nginx',
      'stop web nginx',
      'start database redis-server',
      'stop database redis-server',
    ]);
    expect(events?.duration_seconds).toEqual([Number.NaN, 5, Number.NaN, 5]);
  });

  test('a worker of the kernel is shown with what it works on now', async () => {
    using machine = new Machine();
    machine.process(5, { name: 'kworker/0:1-events', flags: 0x0020_8040 });
    await machine.source.open();
    await machine.after(0);
    machine.process(5, { name: 'kworker/0:1-mm_percpu_wq', flags: 0x0020_8040, system: 10 });
    expect(processRows(await machine.after(5))[5]).toMatchObject({ name: 'kworker/0:1-mm_percpu_wq', class: 'kernel' });
  });

  test('the workers of a program are no events of their own, also below a shell', async () => {
    using machine = new Machine();
    machine.process(1);
    await machine.source.open();
    await machine.after(0);
    machine.process(10, { name: 'make', start: 100_100 }).process(11, { name: 'sh', parent: 10, start: 100_100 });
    machine
      .process(12, { name: 'cc1', parent: 11, start: 100_100 })
      .process(13, { name: 'nginx', parent: 12, start: 100_100 });
    await machine.after(5);
    expect(machine.events().sort()).toEqual(['start build make', 'start web nginx']);
    machine.end(12).end(10).end(13);
    await machine.after(5);
    expect(machine.events().sort()).toEqual(['stop build make', 'stop web nginx']);
  });

  test('one that has ended and is still listed has stopped once, with what it ended with', async () => {
    using machine = new Machine();
    machine.process(1).process(10, { name: 'nginx' });
    await machine.source.open();
    await machine.after(0);
    machine.process(10, { name: 'nginx', state: 'Z', status: 3 << 8 });
    await machine.after(5);
    const events = machine.context.events.take();
    expect(shown(events)).toEqual(['stop web nginx']);
    expect(events?.status_code).toEqual([3]);
    await machine.after(5);
    machine.end(10);
    await machine.after(5);
    expect(machine.events()).toEqual([]);
  });

  test('more at once than are recorded are counted', async () => {
    using machine = new Machine();
    machine.process(1);
    await machine.source.open();
    await machine.after(0);
    for (let pid = 10; pid < 230; pid++) machine.process(pid, { name: 'nginx', start: 100_100 });
    await machine.after(5);
    expect(machine.events().length).toBe(200);
    expect(machine.source.limitations?.().join(' ')).toContain('Some starts and stops of processes were not recorded');
    await machine.source.close();
  });
});

describe('what can go wrong', () => {
  test('without processes it is unavailable', () => {
    using machine = new Machine();
    expect(() => machine.source.open()).toThrow(/shows no processes: is the proc file system mounted there/);
    expect(() =>
      makeSource({ ...machine.context, roots: { ...machine.context.roots, proc: '/nowhere' } }).open(),
    ).toThrow(/\/nowhere can't be read/);
  });

  test('processes that vanish while they are read, and files of other kinds, cost nothing but themselves', async () => {
    using machine = new Machine();
    machine
      .process(1)
      .process(2, { name: 'b' })
      .write('proc/3/nothing', '')
      .write('proc/4/stat', '4 (torn')
      .write('proc/5x/stat', '');
    machine.remove('proc/2/io').remove('proc/2/cgroup');
    await machine.source.open();
    expect(Object.keys(processRows(await machine.after(0)))).toEqual(['1', '2']);
    machine.end(2);
    expect(Object.keys(processRows(await machine.after(5)))).toEqual(['1']);
  });

  test('without uptime there are no times of starts', async () => {
    using machine = new Machine();
    machine.process(1);
    await machine.source.open();
    machine.write('proc/uptime', '');
    machine.context.clock.advance(5);
    const tables: Tables = {};
    await expect
      .poll(async () => Object.assign(tables, await machine.source.sample()), { timeout: 20_000 })
      .not.toEqual({});
    expect(tables.process?.start_time_seconds).toEqual([Number.NaN]);
  });

  test('more processes than are looked at: it takes turns, pauses for longer, and says so', async () => {
    using machine = new Machine();
    machine.process(10_000_001);
    for (let more = 2; more < processesMax + 10; more++)
      symlinkSync(machine.path('proc/10000001'), machine.path(`proc/${10_000_000 + more}`));
    await machine.source.open();
    let turns = 0;
    let isRunning = true;
    const turning = (async () => {
      for (; isRunning; turns++) await pause(1);
    })();
    const first = await machine.after(0);
    // The second is the first whose cost counts.
    const tables = await machine.after(5);
    isRunning = false;
    await turning;
    for (const { process_state } of [first, tables])
      expect(rows(process_state, 'state').sleeping?.processes_count).toBe(processesMax);
    expect(turns).toBeGreaterThan(20);
    expect(machine.source.limitations?.()[0]).toContain(`There are more than ${processesMax} processes`);
    // So many take far more than 1 % of a core every 5 s: when what was saved is used up, there is a pause.
    let skipped = 0;
    for (let tick = 0; tick < 40 && skipped < 2; tick++) {
      machine.context.clock.advance(5);
      const { waits } = machine;
      let sampled = await machine.source.sample();
      if (machine.waits === waits) skipped++;
      // On a busy machine a scan goes on after its tick; no time passes meanwhile, in which more could be saved.
      else while (Object.keys(sampled).length === 0) sampled = await machine.source.sample();
    }
    expect(skipped).toBe(2);
    machine.context.clock.advance(600);
    expect(Object.keys(await machine.after(0))).toContain('process_state');
    await machine.source.close();
  });
});

describe.each(['debian-5.10', 'debian-6.1-arm64'])('on the captured machine %s', (tree) => {
  const put = (machine: SteppedTree, moment: number): void => {
    machine.remove('proc').remove('etc');
    cpSync(join(import.meta.dirname, 'fixtures-process', tree, String(moment)), machine.path(''), { recursive: true });
  };

  test('every process is who it is, and in its state', async () => {
    using machine = new Machine({ top: 100, commands: true });
    put(machine, 0);
    await machine.source.open();
    const clock = machine.context.clock;
    const samples: Tables[] = [];
    for (const moment of [0, 1]) {
      put(machine, moment);
      clock.advance(5);
      const tables: Tables = {};
      await expect
        .poll(async () => Object.assign(tables, await machine.source.sample()), { timeout: 20_000 })
        .not.toEqual({});
      expectContract(tables, machine.source);
      samples.push(structuredClone(tables));
    }
    const [first = {}, second = {}] = samples;
    const isArm = tree.endsWith('arm64');
    const busy = isArm ? '94' : '87';
    // What its only core could give, beside what it was captured with.
    expect(processRows(second)[busy]).toMatchObject({ name: 'yes', class: 'other', user: 'root', state: 'running' });
    expect(processRows(second)[busy]?.cpu_percent).toBeGreaterThan(50);
    expect(processRows(second)[isArm ? '97' : '90']).toMatchObject({
      name: 'sleep',
      user: 'nobody',
      command: 'sleep 999',
    });
    expect(rows(first.process_state, 'state')).toMatchObject({
      running: { processes_count: 1 },
      stopped: { processes_count: 1 },
      zombie: { processes_count: 1, kernel_threads_count: 0 },
      idle: { processes_count: 1, kernel_threads_count: 1 },
      sleeping: { kernel_threads_count: 1 },
    });
    expect(rows(first.process_class, 'class').kernel).toMatchObject({ processes_count: 2, resident_memory_bytes: 0 });
    const container = processRows(first)[isArm ? '91' : '84'];
    expect(container).toMatchObject({ container: '0123456789ab', user: '0', resident_memory_bytes: 4096 });
    if (!isArm) return;
    expect(container).toMatchObject({ name: 'postgres', class: 'database' });
    expect(processRows(first)[92]).toMatchObject({ name: 'a) R 1 (b', class: 'other', state: 'sleeping' });
    expect(processRows(first)[90]).toMatchObject({ name: 'nginx', class: 'web' });
  });
});

const isLinux = process.platform === 'linux';
const isRoot = process.geteuid?.() === 0;
const nobody = 65534;

describe.runIf(isLinux)('on this machine', () => {
  /** Samples twice in a process of its own, which gives up its rights before. */
  const sampleAlone = (before: string, wrap: readonly string[] = []) => {
    const script = `
      import { systemClock } from '#clock.ts';
      import { Events } from '#events.ts';
      import { ProcessIdentities } from '#processes.ts';
      import { classifier } from '#classes.ts';
      import { loadRules } from '#rules.ts';
      import { process as make } from '#sources/process.ts';
      const roots = { proc: '/proc', sys: '/sys', etc: '/etc', run: '/run' };
      const processes = new ProcessIdentities(roots, { classify: classifier(loadRules()) });
      ${before}
      const events = new Events(systemClock);
      const settings = { process: { top: 500, commands: false } };
      const source = make({ roots, clock: systemClock, platform: 'linux', settings, events, processes });
      source.open();
      let tables = {};
      for (let tries = 0; tries < 100 && (tries < 3 || !tables.process); tries++) {
        tables = { ...tables, ...(await source.sample()) };
        await systemClock.sleep(100);
      }
      console.log(JSON.stringify({ tables, limitations: source.limitations(), pid: globalThis.child?.pid ?? process.pid }));
      globalThis.child?.kill();
      process.exit(0);`;
    const args = [process.execPath, '--no-warnings', '--input-type=module', '-e', script];
    const [command = '', ...rest] = [...wrap, ...args];
    const cwd = join(import.meta.dirname, '../..');
    const text = execFileSync(command, rest, { cwd, encoding: 'utf8', timeout: 60_000, maxBuffer: 1e8 });
    return JSON.parse(text) as { tables: Tables; limitations: string[]; pid: number };
  };
  const giveUpRights = `process.setgroups([]); process.setgid(${nobody}); process.setuid(${nobody});`;

  test('an ordinary user sees all processes, but not what others read and write, and is told so', () => {
    // A program of its own: one that gave up rights may not even read its own.
    const own = `globalThis.child = (await import('node:child_process')).spawn('sleep', ['60']);`;
    const { tables, limitations, pid } = sampleAlone((isRoot ? giveUpRights : '') + own);
    // What is not a number is null in JSON.
    const io = tables.process?.write_bytes_per_second ?? [];
    expect(tables.process?.pid).toContain(String(pid));
    expect(tables.process?.pid.length).toBeGreaterThan(1);
    expect(io[tables.process?.pid.indexOf(String(pid)) ?? -1]).not.toBeNull();
    expect(io.some((value) => value === null)).toBe(true);
    expect(limitations.join(' ')).toMatch(/The I\/O of some processes can't be read: .*CAP_SYS_PTRACE/);
  });

  test.runIf(isRoot)('where a mount hides the processes of others, that is said', () => {
    const mount = 'mount -t proc -o hidepid=2 proc /proc && { sleep 60 & exec "$@"; }';
    const { tables, limitations, pid } = sampleAlone(giveUpRights, ['unshare', '-mpf', 'sh', '-c', mount, 'sh']);
    expect(tables.process?.pid).toEqual([String(pid)]);
    expect(limitations.join(' ')).toMatch(
      /\/proc is mounted with hidepid=(2|invisible): other users' processes are not seen/,
    );
  });

  test.runIf(isRoot)('in a namespace of processes of its own, that is said', () => {
    const mount = 'mount -t proc proc /proc && { sleep 60 & exec "$@"; }';
    const { tables, limitations } = sampleAlone('', ['unshare', '-mpf', 'sh', '-c', mount, 'sh']);
    expect(tables.process?.pid.length).toBe(2);
    expect(limitations.join(' ')).toMatch(/Only processes of this container are seen: .*--pid=host/);
  });

  async function copyOf(name: string): Promise<ChildProcess> {
    const folder = mkdtempSync(join(tmpdir(), 'fleetreel-process-'));
    copyFileSync('/bin/sleep', join(folder, name));
    const child = spawn(join(folder, name), ['1000'], { stdio: 'ignore' });
    onTestFinished(async () => {
      child.kill('SIGKILL');
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
      rmSync(folder, { recursive: true });
    });
    await once(child, 'spawn');
    return child;
  }

  test('programs that start and stop are events; every column is filled', async () => {
    const context = systemContext();
    const processes = new ProcessIdentities(context.roots, { classify: shippedClasses, commands: true });
    const all = { ...context.settings, process: { top: 50, commands: true } };
    const source = makeSource({ ...context, settings: all, processes });
    const samples: Tables[] = [];
    const happened = { start: [] as string[], stop: [] as string[], durations: [] as number[] };
    const sample = async (): Promise<typeof happened> => {
      const tables = await source.sample();
      expectContract(tables, source);
      samples.push(tables);
      const events = context.events.take();
      for (const [place, action] of (events?.action ?? []).entries()) {
        happened[action as 'start' | 'stop'].push(
          `${events?.entity[place]} ${events?.class[place]} ${events?.name[place]}`,
        );
        if (action === 'stop') happened.durations.push(events?.duration_seconds[place] ?? Number.NaN);
      }
      return happened;
    };
    const before = await copyOf('redis-server');
    await source.open();
    await expect.poll(sample, { timeout: 20_000 }).toEqual(happened);
    const child = await copyOf('nginx');
    const line = `${child.pid} web nginx`;
    await expect.poll(async () => (await sample()).start, { timeout: 30_000, interval: 200 }).toContain(line);
    child.kill('SIGKILL');
    before.kill('SIGKILL');
    // One may be gone before the other.
    const both = [line, `${before.pid} database redis-server`];
    await expect
      .poll(async () => (await sample()).stop, { timeout: 30_000, interval: 200 })
      .toEqual(expect.arrayContaining(both));
    expect(happened.start.filter((one) => one.startsWith(`${before.pid} `))).toEqual([]);
    expect(Math.min(...happened.durations)).toBeGreaterThan(0);
    expect(Math.min(...happened.durations)).toBeLessThan(60);
    await source.close();
    // Containers are those of the captured machines.
    const unfilled = unfilledColumns(['process', 'process_state', 'process_class'], samples);
    expect(unfilled.filter((column) => column !== 'process.container')).toEqual([]);
  });
});
