import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { type CgroupMounts, parseCgroupMounts } from '#cgroup.ts';
import { noEngines } from '#engine.ts';
import type { Context } from '#source.ts';
import { container } from '#sources/container.ts';
import { countDiskOf, expectContract, type Row, rows, systemContext } from '#sources/testing.ts';

// The kernel's own cgroups of this machine, in whatever version it has, with real load in them, and no engine.

const controllers = ['cpu', 'cpuacct', 'memory', 'blkio', 'pids'];
const parent = `/fleetreel-test-${process.pid}`;
const mounts: CgroupMounts = parseCgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8'), { sys: '/sys' });
const isV1 = mounts.v1.has('memory');
/** Folders of all hierarchies, one for each. */
const hierarchies = [
  ...new Set(isV1 ? controllers.flatMap((controller) => mounts.v1.get(controller) ?? []) : []),
  ...(mounts.v2 === '' ? [] : [mounts.v2]),
];

function makeFolder(path: string): void {
  for (const hierarchy of hierarchies) {
    mkdirSync(hierarchy + path, { recursive: true });
    // Version 2 hands controllers down only where it is told to.
    if (!isV1 && !path.includes('/docker/'))
      writeFileSync(`${hierarchy}${path}/cgroup.subtree_control`, '+cpu +memory +io +pids');
  }
}

/** A cgroup as an engine makes it for a container. */
class Box implements Disposable {
  readonly id = randomBytes(32).toString('hex');
  readonly path = `${parent}/docker/${this.id}`;
  readonly #children: ChildProcess[] = [];

  constructor() {
    makeFolder(this.path);
  }

  get short(): string {
    return this.id.slice(0, 12);
  }

  limit(controller: string, v1: Record<string, string>, v2: Record<string, string>): this {
    const folder = isV1 ? mounts.v1.get(controller) : mounts.v2;
    for (const [file, value] of Object.entries(isV1 ? v1 : v2)) writeFileSync(`${folder}${this.path}/${file}`, value);
    return this;
  }

  cpus(cores: number): this {
    const quota = `${cores * 100_000}`;
    return this.limit('cpu', { 'cpu.cfs_quota_us': quota }, { 'cpu.max': `${quota} 100000` });
  }

  memory(bytes: number): this {
    return this.limit(
      'memory',
      { 'memory.limit_in_bytes': `${bytes}` },
      { 'memory.max': `${bytes}`, 'memory.swap.max': '0' },
    );
  }

  /** Runs a shell in it, which begins when it is inside. */
  run(script: string, before: readonly string[] = []): ChildProcess {
    const [command, ...rest] = [...before, 'sh', '-c', `read begin; ${script}`];
    const child = spawn(command!, rest, { stdio: ['pipe', 'ignore', 'ignore'] });
    this.#children.push(child);
    for (const hierarchy of hierarchies) writeFileSync(`${hierarchy}${this.path}/cgroup.procs`, `${child.pid}`);
    child.stdin?.end('\n');
    return child;
  }

  /** Ends what runs in it, and removes it, as an engine does. */
  async remove(): Promise<void> {
    const ended = this.#children.filter((child) => child.exitCode === null && child.signalCode === null);
    const exits = ended.map((child) => once(child, 'exit'));
    for (const pid of this.#pids()) kill(pid);
    await Promise.all(exits);
    for (const hierarchy of hierarchies)
      await vi.waitFor(() => existsSync(hierarchy + this.path) && rmdirSync(hierarchy + this.path), 5000);
  }

  #pids(): number[] {
    const [first] = hierarchies;
    const file = `${first}${this.path}/cgroup.procs`;
    return existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean).map(Number) : [];
  }

  [Symbol.dispose](): void {
    for (const pid of this.#pids()) kill(pid);
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended by itself.
  }
}

/** A box for one test. */
function box(): Box {
  const made = new Box();
  onTestFinished(() => made.remove());
  return made;
}

/** The source without an engine. */
async function opened(proc = '/proc') {
  const here = systemContext();
  const context: Context = { ...here, roots: { ...here.roots, proc } };
  const source = container(context, noEngines);
  await source.open();
  onTestFinished(() => source.close());
  const row = async (of: Box): Promise<Row | undefined> => {
    const tables = await source.sample();
    expectContract(tables, source);
    return rows(tables.container, 'container')[of.short];
  };
  return { context, source, row };
}

/** CPU time of a process, seconds, as the kernel counts it for the process itself. */
function cpuOf(pid: number | undefined): number {
  return Number(readFileSync(`/proc/${pid}/schedstat`, 'utf8').split(' ')[0]) / 1e9;
}

/** Within 3 %. */
function expectNear(value: string | number | undefined, known: number): void {
  expect(Number(value), `${value} is ${known}`).toBeGreaterThan(known * 0.97);
  expect(Number(value), `${value} is ${known}`).toBeLessThan(known * 1.03);
}

const busy = 'while :; do :; done';
const MiB = 1024 * 1024;

beforeAll(() => {
  makeFolder(parent);
  makeFolder(`${parent}/docker`);
  // They get the CPU before all else that runs on this machine: what they use is known then.
  const [file, most] = isV1 ? ['cpu.shares', '262144'] : ['cpu.weight', '10000'];
  writeFileSync(`${isV1 ? mounts.v1.get('cpu') : mounts.v2}${parent}/${file}`, most);
});

afterAll(() => {
  for (const hierarchy of hierarchies)
    for (const path of [`${parent}/docker`, parent]) if (existsSync(hierarchy + path)) rmdirSync(hierarchy + path);
});

test('a busy core under half a core: CPU time, its limit, throttling, pressure', async () => {
  const limited = box().cpus(0.5);
  const { row } = await opened();
  const { pid } = limited.run(busy);
  await pause(500);
  // Again where others held the CPU between the two looks at one moment.
  await vi.waitFor(
    async () => {
      await row(limited);
      const [before, begin] = [cpuOf(pid), performance.now()];
      await row(limited);
      await pause(6000);
      const [used, seconds] = [cpuOf(pid) - before, (performance.now() - begin) / 1000];
      const seen = await row(limited);
      expect(seen).toMatchObject({ engine: 'docker', state: 'running', cpu_limit_count: 0.5, pids_count: 1 });
      expectNear(seen?.cpu_percent, (used / seconds) * 100);
      expectNear(seen?.cpu_limit_percent, (used / seconds) * 200);
      expectNear(seen?.cpu_seconds_total, cpuOf(pid));
      expectNear(Number(seen?.cpu_user_percent) + Number(seen?.cpu_system_percent), (used / seconds) * 100);
      // On a machine that is busy itself it may have had less than its half.
      expect(Number(seen?.cpu_percent)).toBeLessThan(52);
      if (Number(seen?.cpu_percent) > 45) expect(Number(seen?.cpu_throttled_ratio)).toBeGreaterThan(0.5);
      expect(Number(seen?.cpu_throttled_seconds_total)).toBeGreaterThan(0);
      expect(Number(seen?.cpu_periods_total)).toBeGreaterThan(30);
      if (existsSync(`${mounts.v2}${limited.path}/cpu.pressure`))
        expect(Number(seen?.cpu_pressure_some_percent)).toBeGreaterThan(20);
    },
    { timeout: 120_000, interval: 100 },
  );
}, 180_000);

test('memory in use, and a limit that is reached until the kernel kills', async () => {
  const quiet = box().memory(256 * MiB);
  const greedy = box().memory(64 * MiB);
  const { context, row } = await opened();
  await row(quiet);
  // The reader keeps the line until it ends.
  const holder = quiet.run(`(head -c ${40 * MiB} /dev/zero; sleep 60) | tail -n 1`);
  await pause(2000);
  const resident = readFileSync(`/proc/${holder.pid}/task/${holder.pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .map((pid) => readFileSync(`/proc/${pid}/status`, 'utf8'))
    .reduce((sum, status) => sum + 1024 * Number(/^RssAnon:\s+(\d+)/m.exec(status)?.[1] ?? 0), 0);
  expect(resident).toBeGreaterThan(40 * MiB);
  const held = await row(quiet);
  expectNear(held?.memory_anonymous_bytes, resident);
  expect(held).toMatchObject({ memory_limit_bytes: 256 * MiB, oom_kills_total: 0 });
  expect(Number(held?.memory_limit_percent)).toBeGreaterThan(15);
  const killed = once(greedy.run(`head -c ${512 * MiB} /dev/zero | tail -n 1; sleep 60`), 'spawn');
  await killed;
  await vi.waitFor(async () => expect((await row(greedy))?.oom_kills_total).toBe(1), {
    timeout: 20_000,
    interval: 100,
  });
  const after = await row(greedy);
  expectNear(after?.memory_peak_bytes, 64 * MiB);
  const events = context.events.take();
  const place = events?.action.indexOf('oom_kill') ?? -1;
  expect(events?.entity[place]).toBe(greedy.short);
});

test('bytes written to and read from a block device', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-io-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  countDiskOf(folder);
  const writer = box();
  const { row } = await opened();
  const begin = await row(writer);
  expect(begin).toMatchObject({ write_bytes_total: 0 });
  const write = `dd if=/dev/zero of=${folder}/file bs=1M count=48 oflag=direct`;
  const read = `dd if=${folder}/file of=/dev/null bs=1M iflag=direct`;
  writer.run(`${write} && ${read}; sleep 60`);
  await vi.waitFor(async () => expect(Number((await row(writer))?.read_bytes_total)).toBeGreaterThan(47 * MiB), 20_000);
  const seen = await row(writer);
  expectNear(seen?.write_bytes_total, 48 * MiB);
  expectNear(seen?.read_bytes_total, 48 * MiB);
  expect(Number(seen?.write_operations_total)).toBeGreaterThanOrEqual(48);
});

test('processes and their limit', async () => {
  const many = box().limit('pids', { 'pids.max': '20' }, { 'pids.max': '20' });
  const { row } = await opened();
  many.run('sleep 60 & sleep 60 & sleep 60 & wait');
  await vi.waitFor(async () => expect(await row(many)).toMatchObject({ pids_count: 4, pids_limit_count: 20 }), 10_000);
});

test("two containers with networks of their own, a cable between them; the host's network is nobody's", async () => {
  const [sender, receiver, host] = [box(), box(), box()];
  const from = sender.run('sleep 120', ['unshare', '--net']);
  const to = receiver.run('sleep 120', ['unshare', '--net']);
  host.run('sleep 120');
  const number = process.pid % 250;
  const inside = (of: ChildProcess, ...command: string[]) =>
    execFileSync('nsenter', [`--net=/proc/${of.pid}/ns/net`, ...command]);
  await vi.waitFor(() => {
    for (const { pid } of [from, to]) expect(readFileSync(`/proc/${pid}/comm`, 'utf8')).toMatch(/^s(?:h|leep)$/m);
  }, 10_000);
  inside(from, 'ip', 'link', 'add', 'near', 'type', 'veth', 'peer', 'name', 'far', 'netns', `${to.pid}`);
  for (const [of, name, end] of [
    [from, 'near', 1],
    [to, 'far', 2],
  ] as const) {
    inside(of, 'ip', 'address', 'add', `10.213.${number}.${end}/24`, 'dev', name);
    inside(of, 'ip', 'link', 'set', name, 'up');
  }
  const { row } = await opened();
  expect(Number((await row(sender))?.transmit_bytes_total)).toBeLessThan(20_000);
  const send =
    `const socket = require('node:dgram').createSocket('udp4'); let left = 2000; const next = () => left-- > 0 ` +
    `? socket.send(Buffer.alloc(1000), 9, '10.213.${number}.2', () => setTimeout(next, left % 100 === 0 ? 1 : 0)) : socket.close(); next();`;
  inside(from, process.execPath, '-e', send);
  // A thousand bytes, with the headers of UDP, IP and Ethernet.
  const bytes = 2000 * (1000 + 8 + 20 + 14);
  expectNear((await row(sender))?.transmit_bytes_total, bytes);
  expectNear((await row(receiver))?.receive_bytes_total, bytes);
  expect(await row(host)).not.toHaveProperty('receive_bytes_total');
});

test('a container of 300 ms leaves its totals, its start and its end', async () => {
  const { context, source, row } = await opened();
  await source.sample();
  const short = new Box();
  using _ = short;
  const child = short.run(`kept=$(head -c 2000000 /dev/zero | tr '\\0' x); ${busy}`);
  await pause(300);
  const known = cpuOf(child.pid);
  // As long as an engine takes to clean up behind a process that has ended.
  child.kill('SIGKILL');
  await once(child, 'exit');
  await pause(30);
  await short.remove();
  await pause(50);
  const seen = await row(short);
  expect(seen?.state).toBe('exited');
  expect(known).toBeGreaterThan(0);
  expect(Number(seen?.cpu_seconds_total)).toBeGreaterThan(known * 0.97);
  expect(Number(seen?.memory_peak_bytes)).toBeGreaterThan(2_000_000);
  expect(await row(short)).toBeUndefined();
  const events = context.events.take();
  const mine = (events?.action ?? []).filter((_, place) => events?.entity[place] === short.short);
  expect(mine).toEqual(['start', 'stop']);
});

test('containers that come and go at any moment never break a sample, and none stays behind', async () => {
  const { source } = await opened();
  const seen = new Set<string>();
  let isOver = false;
  const sampling = (async () => {
    while (!isOver) {
      const tables = await source.sample();
      expectContract(tables, source);
      for (const id of tables.container?.container ?? []) seen.add(id);
      await pause(7);
    }
  })();
  const boxes: Box[] = [];
  for (let round = 0; round < 30; round++) {
    const made = new Box();
    boxes.push(made);
    made.run(round % 3 === 0 ? 'exit 3' : 'sleep 60');
    await pause(round % 5);
    if (round % 2 === 0) await made.remove();
  }
  for (const made of boxes) if (existsSync(`${hierarchies[0]}${made.path}`)) await made.remove();
  await pause(100);
  isOver = true;
  await sampling;
  expect([...seen]).toEqual(expect.arrayContaining(boxes.map(({ short }) => short)));
  const left = (await source.sample()).container?.container ?? [];
  expect(left.filter((id) => boxes.some(({ short }) => short === id))).toEqual([]);
  const open = readdirSync('/proc/self/fd').map((descriptor) => {
    try {
      return readlinkSync(`/proc/self/fd/${descriptor}`);
    } catch {
      return '';
    }
  });
  expect(open.filter((path) => path.includes(parent) && !path.endsWith('/docker'))).toEqual([]);
});

test.each([
  ['as they are mounted', false],
  ['in version 2 alone', true],
])('the last CPU time of one that has run for long is read when its processes have left, %s', async (_, isV2Alone) => {
  if (mounts.v2 === '') return;
  const old = box();
  const { pid } = old.run(busy);
  const { source, row } = await opened(isV2Alone ? version2Alone() : undefined);
  const cpuSeen = async () => Number((await row(old))?.cpu_seconds_total);
  await vi.waitFor(async () => expect(await cpuSeen()).toBeGreaterThan(0.05), { timeout: 20_000, interval: 100 });
  await pause(700);
  const known = cpuOf(pid);
  kill(Number(pid));
  await pause(50);
  await old.remove();
  await pause(50);
  const seen = await row(old);
  expect(seen?.state).toBe('exited');
  expect(Number(seen?.cpu_seconds_total)).toBeGreaterThan(known * 0.97);
  await source.sample();
});

/** A folder for /proc in which only version 2 is mounted. */
function version2Alone(): string {
  const proc = mkdtempSync(join(tmpdir(), 'fleetreel-proc-'));
  onTestFinished(() => rmSync(proc, { recursive: true }));
  mkdirSync(join(proc, 'self'));
  writeFileSync(join(proc, 'self/mountinfo'), `30 23 0:27 / ${mounts.v2} rw - cgroup2 cgroup2 rw\n`);
  return proc;
}

test('a cgroup that is made again at once, under the same name, is another one', async () => {
  const { source, row } = await opened();
  await source.sample();
  const again = box();
  again.run(busy);
  const cpuSeen = async () => Number((await row(again))?.cpu_seconds_total);
  await vi.waitFor(async () => expect(await cpuSeen()).toBeGreaterThan(0.02), { timeout: 20_000, interval: 100 });
  await again.remove();
  // Nobody is told before this is done: the event loop has no turn in between.
  makeFolder(again.path);
  const seen = await row(again);
  expect(seen?.cpu_seconds_total).toBe(0);
  expect(seen?.state).not.toBe('exited');
});

test('an ordinary user sees the numbers, and what is missing is said with what would change it', async () => {
  const seen = box();
  seen.run('sleep 60', ['unshare', '--net']);
  const script =
    `const { container } = await import('#sources/container.ts'); const { noEngines } = await import('#engine.ts'); const { Events } = await import('#events.ts');` +
    `const { systemClock: clock } = await import('#clock.ts'); const events = new Events(clock);` +
    `const roots = { proc: '/proc', sys: '/sys', etc: '/etc', run: '/run' };` +
    `const settings = { container: { labels: [], sockets: [] } };` +
    `const source = container({ roots, clock, platform: 'linux', settings, events, processes: { identity() {} } }, noEngines);` +
    `await source.open(); const { container: table } = source.sample(); const place = table.container.indexOf('${seen.short}');` +
    `console.log(JSON.stringify({ pids: table.pids_count[place], said: source.limitations() })); source.close(); process.exit();`;
  const options = [
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    process.execPath,
    '--input-type=module',
    '-e',
    script,
  ];
  const told = execFileSync('setpriv', options, { cwd: join(import.meta.dirname, '../..'), encoding: 'utf8' });
  const { pids, said } = JSON.parse(told) as { pids: number; said: string[] };
  expect(pids).toBe(2);
  expect(said.join(' ')).toMatch(/networks can't be told apart: run the agent as root, or give it .* CAP_SYS_PTRACE/);
});
