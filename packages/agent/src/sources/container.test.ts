import { mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { setTimeout as pause, setImmediate as turn } from 'node:timers/promises';
import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { type EngineChange, type EngineContainer, type Engines, noEngines } from '#engine.ts';
import { type Source, Unavailable } from '#source.ts';
import { container } from '#sources/container.ts';
import { defaultSettings, expectContract, type Row, rows, SteppedTree, unfilledColumns } from '#sources/testing.ts';

const captured = (name: string): SteppedTree => new SteppedTree(`../fixtures-container/${name}`);
const idOf = (digit: string): string => digit.repeat(64);

/** Engines that a test speaks for. */
class Told implements Engines {
  readonly containers = new Map<string, EngineContainer>();
  readonly #listeners: ((change: EngineChange) => void)[] = [];

  open = async () => {};
  onChange = (listener: (change: EngineChange) => void) => void this.#listeners.push(listener);
  limitations = () => ['The engine may not be asked: join the group docker.'];
  close = () => {};

  put(id: string, more: Partial<EngineContainer> = {}): EngineContainer {
    const described: EngineContainer = {
      id,
      engine: 'docker',
      name: 'web',
      image: 'nginx:1',
      labels: {},
      state: 'running',
      health: '',
      restarts: 0,
      exitCode: Number.NaN,
      isOomKilled: false,
      pid: 0,
      startedAt_us: 0,
      finishedAt_us: 0,
      cpuLimit_cores: Number.NaN,
      memoryLimit_bytes: Number.NaN,
      cgroupPath: '',
      ...more,
    };
    this.containers.set(id.slice(0, 12), described);
    return described;
  }

  tell(action: EngineChange['action'], id: string, more: Partial<EngineContainer> = {}): void {
    const described = this.put(id, { ...this.containers.get(id.slice(0, 12)), ...more });
    for (const listener of this.#listeners) listener({ action, container: described, time_us: 7_000_000 });
  }
}

const samples: Tables[] = [];
async function sampled(source: Source): Promise<Record<string, Row>> {
  const tables = await source.sample();
  expectContract(tables, source);
  samples.push(tables);
  return rows(tables.container, 'container');
}

/** The kernel has told of the folders, and was heard: on a busy machine timers may come before it. */
async function heard(): Promise<void> {
  await pause(60);
  await turn();
  await turn();
}

type Happened = { action: string; entity: string; name: string; detail: string; duration?: number; code?: number };
function happened({ context }: SteppedTree): Happened[] {
  const table = context.events.take();
  if (!table) return [];
  expect(new Set(table.kind)).toEqual(new Set(['container']));
  const known = (value: number | undefined) => (value === undefined || Number.isNaN(value) ? {} : value);
  return table.action.map((action, row) => ({
    action,
    entity: table.entity[row] ?? '',
    name: table.name[row] ?? '',
    detail: table.detail[row] ?? '',
    ...(typeof known(table.duration_seconds[row]) === 'number' ? { duration: table.duration_seconds[row]! } : {}),
    ...(typeof known(table.status_code[row]) === 'number' ? { code: table.status_code[row]! } : {}),
  }));
}

const kubernetes =
  'kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7a96c459_d529_44ae_9f99_90d3798d6426.slice/' +
  'cri-containerd-1d3d308a7d48a27814a68bf33a44acf4441c9c02463ca0bc1cdfdc8c0b4a8496.scope';

test('a container of Kubernetes in version 1', async () => {
  using tree = captured('kubernetes-v1');
  const source = container(tree.context, noEngines);
  await source.open();
  expect(await sampled(source)).toMatchObject({
    '1d3d308a7d48': {
      name: '1d3d308a7d48',
      engine: 'containerd',
      state: 'running',
      pod_uid: '7a96c459-d529-44ae-9f99-90d3798d6426',
      cpu_seconds_total: 124659.500367,
      cpu_user_seconds_total: 108488.91,
      cpu_system_seconds_total: 15165.02,
      cpu_periods_total: 0,
      read_bytes_total: 3448832,
      write_bytes_total: 25203200,
      read_operations_total: 59,
      write_operations_total: 5048,
      oom_kills_total: 0,
    },
  });
  const folder = (controller: string) => `sys/fs/cgroup/${controller}/${kubernetes}`;
  tree
    .write(`${folder('cpu,cpuacct')}/cpuacct.usage`, '124661000367000\n')
    .write(`${folder('cpu,cpuacct')}/cpuacct.stat`, 'user 10848991\nsystem 1516552\n')
    .write(`${folder('cpu,cpuacct')}/cpu.cfs_quota_us`, '50000\n')
    .write(
      `${folder('blkio')}/blkio.throttle.io_service_bytes_recursive`,
      '259:0 Read 3453832\n259:0 Write 25203200\nTotal 1\n',
    )
    .write(`${folder('memory')}/memory.usage_in_bytes`, '50000000\n')
    .write(`${folder('memory')}/memory.oom_control`, 'oom_kill_disable 0\nunder_oom 0\noom_kill 2\n')
    .context.clock.advance(2);
  const second = (await sampled(source))['1d3d308a7d48'];
  expect(second).toMatchObject({ cpu_percent: 75, cpu_user_percent: 50, cpu_system_percent: 25 });
  expect(second).toMatchObject({ read_bytes_per_second: 2500, write_bytes_per_second: 0, oom_kills_total: 2 });
  expect(happened(tree)).toEqual([
    { action: 'oom_kill', entity: '1d3d308a7d48', name: '1d3d308a7d48', detail: '2 processes' },
  ]);
  // A limit is seen some readings later.
  for (let tick = 0; tick < 12; tick++) {
    tree.context.clock.advance(2);
    await sampled(source);
  }
  tree.write(`${folder('cpu,cpuacct')}/cpuacct.usage`, '124661500367000\n').context.clock.advance(2);
  expect((await sampled(source))['1d3d308a7d48']).toMatchObject({ cpu_limit_count: 0.5, cpu_limit_percent: 50 });
  await source.close();
});

test('a container of Docker in version 1, older than the recursive counters; devices that others are made of count once', async () => {
  using tree = captured('docker-v1');
  const id = 'b29faf21b7ef';
  const source = container(tree.context, noEngines);
  await source.open();
  // The loop device does not count, the two of the device mapper do while nothing is known below them.
  expect((await sampled(source))[id]).toMatchObject({
    engine: 'docker',
    read_bytes_total: 4608 + 1638912,
    memory_anonymous_bytes: 230662144,
    memory_cache_bytes: 65101824,
    cpu_periods_total: 769021,
    cpu_throttled_periods_total: 1046,
    cpu_throttled_seconds_total: 352.597023453,
  });
  await source.close();
  tree.write('sys/dev/block/253:1/slaves/vda', '').write('sys/dev/block/253:0/dev', '');
  const again = container(tree.context, noEngines);
  await again.open();
  expect((await sampled(again))[id]).toMatchObject({ read_bytes_total: 4608, write_bytes_total: 0 });
  await again.close();
});

test('block I/O of version 1 that the kernel does not count is absent, not zero, and comes when it does', async () => {
  using tree = captured('docker-v1');
  const folder = 'sys/fs/cgroup/blkio';
  const own = `${folder}/docker/b29faf21b7eff959f64b4192c34d5d67a707fe8561e9eaa608cb27693fba4242`;
  for (const file of ['blkio.throttle.io_service_bytes', 'blkio.throttle.io_serviced'])
    tree.write(`${folder}/${file}`, 'Total 0\n').write(`${own}/${file}`, 'Total 0\n');
  const source = container(tree.context, noEngines);
  await source.open();
  expect((await sampled(source)).b29faf21b7ef).not.toHaveProperty('read_bytes_total');
  expect(source.limitations?.()).toEqual([expect.stringMatching(/only when a limit was set on a device/)]);
  for (const file of ['blkio.throttle.io_service_bytes', 'blkio.throttle.io_serviced'])
    tree.write(`${folder}/${file}`, '8:0 Read 4096\n8:0 Write 0\nTotal 4096\n');
  tree.context.clock.advance(31);
  expect((await sampled(source)).b29faf21b7ef).toMatchObject({ read_bytes_total: 0, write_operations_total: 0 });
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('a container of Docker in version 2', async () => {
  using tree = captured('docker-v2');
  const id = '1c8fa019edd4';
  const folder = `sys/fs/cgroup/system.slice/docker-${id}b9d4b2856f4932c55929c5c118c808ed5faee9a135ca6e84b039.scope`;
  const source = container(tree.context, noEngines);
  await source.open();
  const first = (await sampled(source))[id];
  expect(first).toMatchObject({
    cpu_seconds_total: 26772.130245,
    cpu_user_seconds_total: 20979.069928,
    cpu_throttled_seconds_total: 0.00001,
    memory_anonymous_bytes: 411045888,
    memory_cache_bytes: 0,
    // Before Linux 5.18 by its parts.
    memory_kernel_bytes: 589824 + 12029952 + 1152 + 19933824,
    oom_kills_total: 1,
    read_bytes_total: 512 + 1024,
    write_bytes_total: 4096 + 4096,
    read_operations_total: 101,
    write_operations_total: 2,
  });
  expect(first).not.toHaveProperty('cpu_limit_count');
  expect(first).not.toHaveProperty('memory_limit_bytes');
  tree
    .write(
      `${folder}/cpu.stat`,
      'usage_usec 26774130245\nuser_usec 20980069928\nsystem_usec 5794060316\nnr_periods 21\nnr_throttled 9\nthrottled_usec 500010\n',
    )
    .write(
      `${folder}/cpu.pressure`,
      'some avg10=0 avg60=0 avg300=0 total=2676316\nfull avg10=0 avg60=0 avg300=0 total=7\n',
    )
    // As some kernels print devices without numbers.
    .write(
      `${folder}/io.stat`,
      '7:0 7:1 8:0 rbytes=1024 wbytes=4096 rios=100 wios=11 dbytes=5 dios=23\n253:0 rbytes=1024 wbytes=4096 rios=1 wios=1\n',
    )
    .write(`${folder}/memory.current`, '500000000\n')
    .context.clock.advance(2);
  expect((await sampled(source))[id]).toMatchObject({
    cpu_percent: 100,
    cpu_throttled_ratio: 0.25,
    cpu_throttled_periods_per_second: 2.5,
    cpu_throttled_percent: expect.closeTo(25, 9),
    cpu_pressure_some_percent: 50,
    read_bytes_per_second: 256,
    write_operations_per_second: 5,
    memory_used_bytes: 500000000 - 270336,
  });
  await source.close();
});

test('a container of CRI-O on a large machine: limits, peak, swap', async () => {
  using tree = captured('crio-v2');
  const source = container(tree.context, noEngines);
  await source.open();
  expect((await sampled(source)).dddddddddddd).toMatchObject({
    engine: 'cri-o',
    pod_uid: '7a96c459-d529-44ae-9f99-90d3798d6426',
    cpu_limit_count: 48,
    cpu_throttled_periods_total: 6004,
    memory_used_bytes: 13071106048 - 2935459840,
    memory_peak_bytes: 87302021120,
    memory_kernel_bytes: 2065149952,
    write_bytes_total: 3789381632,
    pids_count: 592,
    pids_limit_count: 629145,
  });
  await source.close();
});

test('a hybrid system: what the files of both versions have, and absent what neither has', async () => {
  using tree = captured('hybrid');
  const source = container(tree.context, noEngines);
  await source.open();
  const row = (await sampled(source)).cccccccccccc;
  expect(row).toMatchObject({ engine: 'docker', memory_anonymous_bytes: 8404992, oom_kills_total: 0 });
  expect(row).not.toHaveProperty('cpu_seconds_total');
  const scope = `docker-${idOf('c')}.scope`;
  for (const resource of ['cpu', 'memory', 'io'])
    tree.write(`sys/fs/cgroup/unified/system.slice/${scope}/${resource}.pressure`, pressureOf(1_000_000));
  await source.close();
  await source.open();
  await sampled(source);
  for (const resource of ['cpu', 'memory', 'io'])
    tree.write(`sys/fs/cgroup/unified/system.slice/${scope}/${resource}.pressure`, pressureOf(1_500_000));
  tree.context.clock.advance(1);
  expect((await sampled(source)).cccccccccccc).toMatchObject({
    cpu_pressure_some_percent: 50,
    memory_pressure_full_percent: 50,
    io_pressure_some_percent: 50,
  });
  await source.close();
});

const pressureOf = (total: number): string =>
  ['some', 'full'].map((kind) => `${kind} avg10=1.00 avg60=2.00 avg300=3.00 total=${total}\n`).join('');

const scopeOf = (digit: string): string => `sys/fs/cgroup/system.slice/docker-${idOf(digit)}.scope`;
const shortOf = (digit: string): string => digit.repeat(12);

/** A tree of version 2 without containers. */
function empty(): SteppedTree {
  const tree = new SteppedTree()
    .write('proc/self/mountinfo', '30 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n')
    .write('proc/self/limits', 'Max open files            20000                20000                files\n')
    .write('sys/fs/cgroup/system.slice/cgroup.procs', '');
  mkdirSync(tree.path('sys/fs/cgroup/system.slice/cron.service'));
  tree.context.clock.advance(100);
  return tree;
}

const cpuOf = (usage_s: number): string =>
  `usage_usec ${Math.round(usage_s * 1e6)}\nuser_usec 0\nsystem_usec ${Math.round(usage_s * 1e6)}\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n`;

/** Makes the folder as an engine does: it comes with all of its files. */
function start(tree: SteppedTree, digit: string, usage_s: number): void {
  const folder = tree.path(scopeOf(digit));
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${folder}/cpu.stat`, cpuOf(usage_s));
  writeFileSync(`${folder}/memory.peak`, '4096\n');
}

test('a container that lives shorter than a tick leaves its totals, its rates over the tick, its start and its end', async () => {
  using tree = empty();
  const source = container(tree.context, noEngines);
  await source.open();
  expect(await sampled(source)).toEqual({});
  tree.context.clock.advance(1);
  start(tree, 'a', 0.1);
  await heard();
  tree.write(`${scopeOf('a')}/cpu.stat`, cpuOf(0.25));
  await heard();
  tree.context.clock.advance(0.3);
  rmSync(tree.path(scopeOf('a')), { recursive: true });
  await heard();
  tree.context.clock.advance(0.7);
  const ended = await sampled(source);
  expect(ended[shortOf('a')]).toMatchObject({
    state: 'exited',
    cpu_seconds_total: 0.25,
    cpu_percent: 12.5,
    memory_peak_bytes: 4096,
    uptime_seconds: 0.3,
  });
  expect(happened(tree)).toEqual([
    { action: 'start', entity: shortOf('a'), name: shortOf('a'), detail: '' },
    { action: 'stop', entity: shortOf('a'), name: shortOf('a'), detail: '', duration: 0.3 },
  ]);
  // It is gone: no row repeats what was.
  tree.context.clock.advance(1);
  expect(await sampled(source)).toEqual({});
  await source.close();
});

test('one that is started again within a tick has one row, with the rates of both lives', async () => {
  using tree = empty();
  const source = container(tree.context, noEngines);
  await source.open();
  await sampled(source);
  start(tree, 'a', 0.5);
  await heard();
  rmSync(tree.path(scopeOf('a')), { recursive: true });
  await heard();
  start(tree, 'a', 0.1);
  await heard();
  tree.context.clock.advance(1);
  const again = await sampled(source);
  expect(Object.keys(again)).toEqual([shortOf('a')]);
  expect(again[shortOf('a')]?.state).toBe('running');
  expect(again[shortOf('a')]?.cpu_seconds_total).toBeCloseTo(0.1, 9);
  expect(again[shortOf('a')]?.cpu_percent).toBeCloseTo(60, 9);
  expect(
    happened(tree)
      .map(({ action }) => action)
      .sort(),
  ).toEqual(['start', 'start', 'stop']);
  await source.close();
});

test('a folder that nobody told of is found by looking, in one that came later, too; others are left alone', async () => {
  using tree = empty();
  const source = container(tree.context, noEngines);
  await source.open();
  await sampled(source);
  const pod = 'sys/fs/cgroup/kubepods.slice/kubepods-pod7a96c459_d529_44ae_9f99_90d3798d6426.slice';
  mkdirSync(tree.path(`${pod}/cri-containerd-${idOf('b')}.scope`), { recursive: true });
  writeFileSync(tree.path(`${pod}/cri-containerd-${idOf('b')}.scope/cpu.stat`), cpuOf(1));
  mkdirSync(tree.path('sys/fs/cgroup/odd/deeper/docker'), { recursive: true });
  await heard();
  start(tree, 'e', 1);
  mkdirSync(tree.path(`sys/fs/cgroup/odd/deeper/docker/${idOf('f')}`), { recursive: true });
  for (let tick = 0; tick < 3; tick++) {
    tree.context.clock.advance(31);
    await sampled(source);
  }
  expect(Object.keys(await sampled(source)).sort()).toEqual(['b', 'e', 'f'].map(shortOf));
  rmSync(tree.path('sys/fs/cgroup/kubepods.slice'), { recursive: true });
  rmSync(tree.path('sys/fs/cgroup/odd'), { recursive: true });
  for (let tick = 0; tick < 3; tick++) {
    await heard();
    tree.context.clock.advance(31);
    await sampled(source);
  }
  expect(Object.keys(await sampled(source))).toEqual([shortOf('e')]);
  await source.close();
});

test('what engines say: names, labels by the allow-list, state, health; those that stopped have rows without numbers', async () => {
  using tree = empty();
  start(tree, 'a', 1);
  const told = new Told();
  const started_us = tree.context.clock.now_us() - 60e6;
  told.put(idOf('a'), {
    name: 'demo_web_1',
    health: 'healthy',
    restarts: 3,
    startedAt_us: started_us,
    cpuLimit_cores: 2,
    memoryLimit_bytes: 1024,
    labels: {
      'com.docker.compose.project': 'demo',
      'com.docker.compose.service': 'web',
      team: 'a=b,c',
      secret: 's',
      'io.kubernetes.pod.name': 'web-0',
      'io.kubernetes.pod.namespace': 'shop',
      version: '1',
    },
  });
  told.put(idOf('b'), { state: 'exited', exitCode: 137, isOomKilled: true });
  for (let stopped = 0; stopped < 120; stopped++)
    told.put(`${stopped}`.padStart(64, '0').split('').reverse().join(''), {
      state: 'exited',
      exitCode: 0,
      finishedAt_us: -1,
    });
  const { settings } = tree.context;
  const source = container(
    {
      ...tree.context,
      settings: { ...settings, container: { ...settings.container, labels: ['version', 'team', 'none'] } },
    },
    told,
  );
  await source.open();
  const all = await sampled(source);
  expect(Object.keys(all).length).toBe(1 + 100);
  expect(all[shortOf('a')]).toMatchObject({
    name: 'demo_web_1',
    image: 'nginx:1',
    engine: 'docker',
    state: 'running',
    health: 'healthy',
    restarts_total: 3,
    compose_project: 'demo',
    compose_service: 'web',
    pod: 'web-0',
    namespace: 'shop',
    labels: 'version=1,team=a=b,c',
    uptime_seconds: 60,
    cpu_limit_count: 2,
    memory_limit_bytes: 1024,
  });
  expect(all[shortOf('a')]).not.toHaveProperty('exit_code');
  expect(all[shortOf('b')]).toMatchObject({ state: 'exited', exit_code: 137, oom_killed_flag: 1 });
  expect(all[shortOf('b')]).not.toHaveProperty('cpu_seconds_total');
  expect(source.limitations?.()).toEqual(['The engine may not be asked: join the group docker.']);
  await source.close();
});

test('what engines tell becomes events, once, whoever comes first', async () => {
  using tree = empty();
  const told = new Told();
  const source = container(tree.context, told);
  await source.open();
  await sampled(source);
  told.put(idOf('a'), { state: 'created', startedAt_us: 6_000_000 });
  start(tree, 'a', 1);
  await heard();
  tree.context.clock.advance(1);
  expect((await sampled(source))[shortOf('a')]?.state).toBe('created');
  expect(happened(tree)).toEqual([]);
  told.tell('start', idOf('a'), { state: 'running' });
  told.tell('rename', idOf('a'), { name: 'shop' });
  told.tell('health_status', idOf('a'), { health: 'unhealthy' });
  told.tell('pause', idOf('a'), { state: 'paused' });
  expect((await sampled(source))[shortOf('a')]).toMatchObject({ name: 'shop', state: 'paused', health: 'unhealthy' });
  told.tell('unpause', idOf('a'), { state: 'running' });
  told.tell('kill', idOf('a'));
  told.tell('oom', idOf('a'));
  rmSync(tree.path(scopeOf('a')), { recursive: true });
  await heard();
  told.tell('die', idOf('a'), { state: 'exited', exitCode: 137, isOomKilled: true, finishedAt_us: 6_500_000 });
  tree.context.clock.advance(1);
  expect((await sampled(source))[shortOf('a')]).toMatchObject({
    state: 'exited',
    exit_code: 137,
    cpu_seconds_total: 1,
  });
  told.tell('destroy', idOf('a'));
  told.containers.delete(shortOf('a'));
  expect(await sampled(source)).toEqual({});
  const events = happened(tree);
  expect(events.map(({ action, detail }) => [action, detail])).toEqual([
    ['start', ''],
    ['rename', 'was web'],
    ['health', 'unhealthy'],
    ['pause', ''],
    ['unpause', ''],
    ['kill', ''],
    ['oom_kill', ''],
    ['stop', ''],
    ['remove', ''],
  ]);
  expect(events.at(-2)).toEqual({
    action: 'stop',
    entity: shortOf('a'),
    name: 'shop',
    detail: '',
    duration: 0.5,
    code: 137,
  });
  await source.close();
});

test('an engine that is late does not bring a container back; one whose cgroup is not seen is what its engine says', async () => {
  using tree = empty();
  const told = new Told();
  start(tree, 'a', 1);
  told.put(idOf('a'));
  told.put(idOf('b'));
  const source = container(tree.context, told);
  await source.open();
  const stateOf = async () =>
    Object.fromEntries(Object.entries(await sampled(source)).map(([id, { state }]) => [id[0], state]));
  expect(await stateOf()).toEqual({ a: 'running', b: 'running' });
  rmSync(tree.path(scopeOf('a')), { recursive: true });
  await heard();
  for (let tick = 0; tick < 3; tick++) expect(await stateOf()).toEqual({ a: 'exited', b: 'running' });
  told.put(idOf('a'), { state: 'exited', exitCode: 0 });
  expect(await stateOf()).toEqual({ a: 'exited', b: 'running' });
  told.put(idOf('a'), { state: 'running' });
  expect(await stateOf()).toEqual({ a: 'running', b: 'running' });
  await source.close();
});

test('names of any kind stay as they are', async () => {
  using tree = empty();
  start(tree, 'a', 1);
  const told = new Told();
  const name = `\u001b[31m"'\n<script>$(touch x)=cmd()${'x'.repeat(4096)}`;
  told.put(idOf('a'), { name, image: name, labels: { 'com.docker.compose.project': name, __proto__: name } });
  const source = container(tree.context, told);
  await source.open();
  expect((await sampled(source))[shortOf('a')]).toMatchObject({ name, image: name, compose_project: name });
  await source.close();
});

/** A process with a network. */
function process_(tree: SteppedTree, pid: number, namespace: string, received: number): void {
  const link = tree.path(`proc/${pid}/ns/net`);
  mkdirSync(dirname(link), { recursive: true });
  rmSync(link, { force: true });
  symlinkSync(`net:[${namespace}]`, link);
  tree.write(
    `proc/${pid}/net/dev`,
    'Inter-|   Receive                                                |  Transmit\n' +
      ' face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n' +
      '    lo: 999999    999 9 9 0 0 0 0 999999 999 9 9 0 0 0 0\n' +
      `  eth0:${received} 10 1 2 0 0 0 0 200 20 3 4 0 0 0 0\n` +
      `lolo: 1000 1 0 0 0 0 0 0 1000 1 0 0 0 0 0 0\n`,
  );
}

test("networks: a container's own, without loopback; the host's never; a shared one once, by another when its reader leaves", async () => {
  using tree = empty();
  process_(tree, 1, '100', 5);
  for (const [digit, pid, namespace] of [
    ['a', 11, '200'],
    ['b', 12, '200'],
    ['c', 13, '100'],
    ['d', 14, '300'],
  ] as const) {
    start(tree, digit, 1);
    // The processes of one are in a cgroup of their own below it.
    tree.write(`${scopeOf(digit)}${digit === 'd' ? '/init.scope' : ''}/cgroup.procs`, `${pid}\n99\n`);
    process_(tree, pid, namespace, 1000);
  }
  const source = container(tree.context, noEngines);
  await source.open();
  const before = await sampled(source);
  expect(before[shortOf('a')]).toMatchObject({ receive_bytes_total: 2000, transmit_bytes_total: 1200 });
  expect(before[shortOf('b')]).not.toHaveProperty('receive_bytes_total');
  expect(before[shortOf('c')]).not.toHaveProperty('receive_bytes_total');
  expect(before[shortOf('d')]).toMatchObject({ receive_bytes_total: 2000 });
  for (const pid of [11, 12, 14]) process_(tree, pid, pid === 14 ? '300' : '200', 3000);
  tree.context.clock.advance(2);
  expect((await sampled(source))[shortOf('a')]).toMatchObject({
    receive_bytes_per_second: 1000,
    receive_packets_per_second: 0,
    receive_errors_per_second: 0,
    receive_drops_per_second: 0,
    transmit_bytes_per_second: 0,
    transmit_packets_per_second: 0,
    transmit_errors_per_second: 0,
    transmit_drops_per_second: 0,
  });
  rmSync(tree.path(scopeOf('a')), { recursive: true });
  await heard();
  tree.context.clock.advance(31);
  await sampled(source);
  const after = (await sampled(source))[shortOf('b')];
  expect(after).toMatchObject({ receive_bytes_total: 4000 });
  // What was counted before it had it is not its rate.
  expect(after?.receive_bytes_per_second ?? 0).toBe(0);
  await source.close();
});

test('with few files that may be open the numbers are the same', async () => {
  using tree = captured('crio-v2');
  const source = container(tree.context, noEngines);
  await source.open();
  const many = await sampled(source);
  await source.close();
  tree.write('proc/self/limits', 'Max open files            6                 6                files\n');
  const narrow = container(tree.context, noEngines);
  await narrow.open();
  expect(await sampled(narrow)).toEqual(many);
  await narrow.close();
});

test('without cgroups it is unavailable, with what would help; a part of them is a limitation', async () => {
  using tree = new SteppedTree();
  await expect(async () => container(tree.context, noEngines).open()).rejects.toThrow(Unavailable);
  await expect(async () => container(tree.context, noEngines).open()).rejects.toThrow(/cgroupns=host/);
  using part = empty().write('proc/self/mountinfo', '30 24 0:27 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n');
  const source = container(part.context, noEngines);
  await source.open();
  expect(source.limitations?.()).toEqual([expect.stringMatching(/Only the cgroups below its own/)]);
  await source.close();
});

test('200 busy containers are read in a tick, those that are left wait for their turn and lose nothing', async () => {
  using tree = empty();
  expect(defaultSettings.container.labels).toEqual([]);
  const crio = `sys/fs/cgroup/system.slice`;
  const ids = Array.from({ length: 200 }, (_, index) => `${index}`.padStart(4, '0').repeat(16));
  const io = (bytes: number) => `259:0 rbytes=${bytes} wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n`;
  for (const id of ids) {
    tree.write(`${crio}/docker-${id}.scope/cpu.stat`, cpuOf(1)).write(`${crio}/docker-${id}.scope/io.stat`, io(0));
    tree.write(`${crio}/docker-${id}.scope/memory.current`, '1000\n');
  }
  const source = container(tree.context, noEngines);
  await source.open();
  await sampled(source);
  const read = new Map<string, number>();
  const costs_ms: number[] = [];
  for (let tick = 1; tick <= 16; tick++) {
    for (const id of ids) {
      writeFileSync(tree.path(`${crio}/docker-${id}.scope/cpu.stat`), cpuOf(1 + tick / 10));
      if (tick < 6) writeFileSync(tree.path(`${crio}/docker-${id}.scope/io.stat`), io(tick * 1000));
    }
    tree.context.clock.advance(1);
    const before = process.cpuUsage();
    const tables = await source.sample();
    const { user, system } = process.cpuUsage(before);
    costs_ms.push((user + system) / 1000);
    const all = rows(tables.container, 'container');
    expect(Object.keys(all).length).toBe(200);
    expect(Math.max(...Object.values(all).map((row) => Math.abs(Number(row.cpu_percent) - 10)))).toBeLessThan(1e-6);
    for (const [id, row] of Object.entries(all)) read.set(id, Number(row.read_bytes_total));
  }
  expect([...new Set(read.values())]).toEqual([5000]);
  // The benchmark asks for 3 ms; here other tests run beside it.
  expect(costs_ms.toSorted((a, b) => a - b)[8]).toBeLessThan(30);
  await source.close();
});

test('every column is filled by something captured or told', () => {
  expect(unfilledColumns(['container'], samples)).toEqual([]);
});
