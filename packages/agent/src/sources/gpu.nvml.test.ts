import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Tables } from '@fleetreel/proto';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { standardLibrary } from '#gpu/nvidia.ts';
import { gpuStaticRounds } from '#limits.ts';
import { nativeCalls } from '#native.ts';
import type { Context, Source } from '#source.ts';
import { gpu } from '#sources/gpu.ts';
import {
  defaultSettings,
  expectContract,
  rows,
  SteppedTree,
  type TestClock,
  unfilledColumns,
} from '#sources/testing.ts';

// There is no GPU here: a stand-in library, built from C, answers in the place of the driver's.

let built = '';

beforeAll(() => {
  built = mkdtempSync(join(tmpdir(), 'fleetreel-nvml-'));
  for (const generation of [1, 3, 4]) {
    const library = join(built, `generation${generation}.so`);
    const code = join(import.meta.dirname, 'fixtures-gpu/nvml.c');
    const flags = ['-shared', '-fPIC', '-O1', '-Wall', '-Wextra', '-Werror', `-DGENERATION=${generation}`];
    execFileSync('gcc', [...flags, '-o', library, code, '-ldl', '-lpthread']);
  }
}, 120_000);

afterAll(() => rmSync(built, { recursive: true, force: true }));

type State = Record<string, string | number | bigint>;

/** The stand-in with what it says, which can be changed while it is in use. */
class StandIn {
  readonly library: string;
  state: State;
  #changes = 0;

  constructor(state: State, generation = 3) {
    const folder = mkdtempSync(join(built, 'library-'));
    this.library = join(folder, 'libnvidia-ml.so.1');
    copyFileSync(join(built, `generation${generation}.so`), this.library);
    this.state = state;
    this.set({});
    // Nothing goes on hanging, whatever became of the test.
    onTestFinished(() => {
      if (existsSync(built)) this.without(...Object.keys(this.state).filter((key) => this.state[key] === 'hang'));
    });
  }

  /** Changes some of it; at once, as the library sees it. */
  set(changes: State): void {
    this.state = { ...this.state, ...changes };
    const path = `${this.library}.state`;
    const lines = Object.entries(this.state).map(([key, value]) => `${key} ${value}\n`);
    writeFileSync(`${path}.new`, lines.join(''));
    // The kernel's times are coarse: two changes within some milliseconds would look like one.
    utimesSync(`${path}.new`, ++this.#changes, this.#changes);
    renameSync(`${path}.new`, path);
  }

  without(...keys: string[]): void {
    for (const key of keys) delete this.state[key];
    this.set({});
  }
}

const of = (gpuNumber: number | string, values: State): State =>
  Object.fromEntries(Object.entries(values).map(([key, value]) => [`${gpuNumber}.${key}`, value]));

const GiB = 1024n ** 3n;

/** A GPU that has everything. */
const full: State = {
  uuid: 'GPU-513536b6-7d19-9063-b049-1e69664bb298',
  name: 'NVIDIA H100 80GB HBM3',
  pci: 0x0000_4300,
  utilization: 87,
  memory_utilization: 45,
  encoder: 12,
  decoder: 34,
  'memory.total': 80n * GiB,
  'memory.used': 20n * GiB,
  'memory.free': 59n * GiB,
  'memory.reserved': GiB,
  temperature: 63,
  'threshold.0': 92,
  'threshold.1': 89,
  power: 412_345,
  power_limit: 700_000,
  power_limit_max: 750_000,
  'clock.1': 1980,
  'clock.2': 2619,
  'clock.3': 1545,
  'clock_max.1': 1985,
  'clock_max.2': 2620,
  fan: 57,
  fan_revolutions: 2345,
  'pcie_throughput.0': 1500,
  'pcie_throughput.1': 2500,
  pcie_replays: 3,
  pcie_generation: 4,
  pcie_generation_max: 5,
  pcie_lanes: 8,
  pcie_lanes_max: 16,
  throttle_reasons: 0x24,
  performance_state: 2,
  compute_mode: 3,
  mig_mode: 0,
  'nvlink.0': 1,
  'nvlink.1': 1,
  'nvlink.2': 0,
  'field.1': '1:1',
  'field.3': 11,
  'field.4': 12,
  'field.5': 13,
  'field.6': 14,
  'field.29': 15,
  'field.30': 16,
  'field.31': '1:1',
  'field.82': '1:71',
  'field.83': 123_456_789,
  'field.138': 1000,
  'field.139': 2000,
  'field.142': '1:17',
  'field.143': '1:18',
  'field.144': '1:0',
  'field.145': '1:1',
  'field.197': 5_000_000,
  'field.198': 7_000_000,
};

const bare: State = { uuid: 'GPU-00000000-0000-0000-0000-000000000001', name: 'NVIDIA T400' };

type Watched = { source: Source; context: Context & { clock: TestClock }; sample: () => Promise<Tables> };

/** The source on a machine with this library; it is closed at the end of the test. */
async function watch(library: string, tree = new SteppedTree()): Promise<Watched> {
  const context = {
    ...tree.context,
    // Waits are real, since the library's threads are.
    clock: {
      ...tree.context.clock,
      sleep: (milliseconds: number, signal?: AbortSignal) => systemClock.sleep(milliseconds, signal),
    },
    settings: { ...defaultSettings, gpu: { ...defaultSettings.gpu, library, nvidia_smi: '/nonexistent/nvidia-smi' } },
  };
  const source = gpu(context);
  onTestFinished(async () => {
    await source.close();
    tree[Symbol.dispose]();
  });
  await source.open();
  const sample = async () => {
    const tables = await source.sample();
    expectContract(tables, source);
    return tables;
  };
  return { source, context, sample };
}

/** Samples until there is this to be seen: the machine may be busy, and answers come late. */
async function until<T>(take: () => Promise<T | undefined>): Promise<T> {
  for (let attempt = 0; attempt < 200; attempt++) {
    const found = await take();
    if (found !== undefined) return found;
    await systemClock.sleep(25);
  }
  throw new Error('never seen');
}

/** Why a sample failed; undefined where it did not. */
const failure = (sample: () => Promise<unknown>): Promise<string | undefined> =>
  sample().then(
    () => undefined,
    (cause: Error) => cause.message,
  );

const firstGpu = full.uuid as string;

test('the library that is looked for is the one of the settings', () => {
  expect(defaultSettings.gpu.library).toBe(standardLibrary);
});

test('everything that a GPU says is in its row, in base units', async () => {
  const standIn = new StandIn({ count: 2, driver: '580.95.05', cuda: 13_000, ...of(0, full), ...of(1, bare) });
  const { sample, context, source } = await watch(standIn.library);
  await until(async () => (await sample()).gpu);
  standIn.set({ '0.field.138': 6000, '0.field.139': 12_000, '0.field.197': 30_000_000, '0.field.198': 57_000_000 });
  context.clock.advance(5);
  const gpus = rows(await until(async () => (await sample()).gpu), 'gpu');
  expect(gpus[firstGpu]).toEqual({
    name: 'NVIDIA H100 80GB HBM3',
    vendor: 'nvidia',
    parent: '',
    pci_address: '0000:43:00.0',
    driver: 'nvidia 580.95.05',
    cuda_version: '13.0',
    compute_mode: 'exclusive_process',
    throttle_reasons: 'power_cap,thermal',
    used_percent: 87,
    memory_controller_used_percent: 45,
    encoder_used_percent: 12,
    decoder_used_percent: 34,
    memory_total_bytes: 80 * 2 ** 30,
    memory_used_bytes: 20 * 2 ** 30,
    memory_free_bytes: 59 * 2 ** 30,
    memory_reserved_bytes: 2 ** 30,
    memory_used_percent: 25,
    temperature_celsius: 63,
    memory_temperature_celsius: 71,
    temperature_slowdown_celsius: 89,
    temperature_shutdown_celsius: 92,
    power_watts: 412.345,
    power_limit_watts: 700,
    power_limit_max_watts: 750,
    energy_joules: 123_456.789,
    clock_hertz: 1.98e9,
    clock_max_hertz: 1.985e9,
    memory_clock_hertz: 2.619e9,
    memory_clock_max_hertz: 2.62e9,
    video_clock_hertz: 1.545e9,
    fan_percent: 57,
    fan_revolutions_per_minute: 2345,
    pcie_sent_bytes_per_second: 5e6,
    pcie_received_bytes_per_second: 1e7,
    pcie_generation_code: 4,
    pcie_generation_max_code: 5,
    pcie_lanes_count: 8,
    pcie_lanes_max_count: 16,
    pcie_replays_total: 3,
    nvlink_sent_bytes_per_second: 1024e3,
    nvlink_received_bytes_per_second: 2048e3,
    nvlinks_count: 2,
    ecc_enabled_flag: 1,
    ecc_corrected_volatile_total: 11,
    ecc_uncorrected_volatile_total: 12,
    ecc_corrected_aggregate_total: 13,
    ecc_uncorrected_aggregate_total: 14,
    retired_pages_corrected_total: 15,
    retired_pages_uncorrected_total: 16,
    retired_pages_pending_flag: 1,
    remapped_rows_corrected_total: 17,
    remapped_rows_uncorrected_total: 18,
    remapped_rows_pending_flag: 0,
    remapped_rows_failed_flag: 1,
    throttled_flag: 1,
    performance_state_code: 2,
    mig_enabled_flag: 0,
    xid_errors_total: 0,
    processes_count: 0,
  });
  // What a GPU does not know is absent, and never 0.
  expect(gpus['GPU-00000000-0000-0000-0000-000000000001']).toEqual({
    name: 'NVIDIA T400',
    vendor: 'nvidia',
    parent: '',
    pci_address: '',
    driver: 'nvidia 580.95.05',
    cuda_version: '13.0',
    compute_mode: '',
    throttle_reasons: '',
    xid_errors_total: 0,
    processes_count: 0,
  });
  expect(source.limitations?.()).toEqual([]);
});

test('processes: memory and use, in both lists once, joined to who they are', async () => {
  const use = [`100:7:80:40:0:0`, `100:8:90:50:0:0`, `200:8:5:1:60:20`];
  const standIn = new StandIn({
    count: 1,
    ...of(0, full),
    '0.compute': `100:${4n * GiB},300:0xffffffffffffffff,400:1024`,
    '0.graphics': `200:1048576,100:${4n * GiB}`,
    '0.use': use.join(','),
  });
  const tree = new SteppedTree();
  tree.write('proc/100/stat', `100 (python3) S 1 100 100 0 -1 4194304 ${'0 '.repeat(12)}5000 ${'0 '.repeat(30)}\n`);
  tree.write('proc/100/cgroup', `0::/system.slice/docker-${'0123456789abcdef'.repeat(4)}.scope\n`);
  tree.write('proc/100/cmdline', 'python3\0-m\0vllm.entrypoints.openai.api_server\0');
  const { sample, context } = await watch(standIn.library, tree);
  const tables = await until(async () => {
    const taken = await sample();
    return taken.gpu_process ? taken : undefined;
  });
  const processes = rows(tables.gpu_process, 'pid');
  expect(processes['100']).toMatchObject({
    gpu: firstGpu,
    name: 'python3',
    container: '0123456789ab',
    type: 'compute,graphics',
    memory_used_bytes: 4 * 2 ** 30,
    used_percent: 85,
    memory_controller_used_percent: 45,
    encoder_used_percent: 0,
    decoder_used_percent: 0,
  });
  expect(processes['200']).toMatchObject({ type: 'graphics', used_percent: 5, encoder_used_percent: 60 });
  // Not available, as it always is under Windows' driver model; and no sample of its use.
  expect(processes['300']).toEqual({ gpu: firstGpu, name: '', class: '', container: '', type: 'compute' });
  expect(rows(tables.gpu, 'gpu')[firstGpu]).toMatchObject({ processes_count: 4 });
  // Samples that were there before do not come again. What the process is called says its command line, which came meanwhile.
  await context.processes.settled?.();
  const second = rows((await until(async () => (await sample()).gpu_process)) ?? {}, 'pid');
  expect(second['100']).not.toHaveProperty('used_percent');
  expect(second['100']?.class).toBe('llm');
  expect(second['100']).toMatchObject({ memory_used_bytes: 4 * 2 ** 30 });
});

test('more processes than there is room for make room', async () => {
  const list = Array.from({ length: 300 }, (_, place) => `${place + 1}:1048576`).join(',');
  const standIn = new StandIn({ count: 1, ...of(0, bare), '0.compute': list });
  const { sample } = await watch(standIn.library);
  expect((await until(async () => (await sample()).gpu_process)).pid).toHaveLength(300);
});

test('the newer function for the use by processes, where the older one is gone', async () => {
  const standIn = new StandIn({ count: 1, ...of(0, bare), '0.compute': '7:4096', '0.use': '7:1:33:22:11:1' }, 4);
  const { sample } = await watch(standIn.library);
  const processes = rows(await until(async () => (await sample()).gpu_process), 'pid');
  expect(processes['7']).toMatchObject({
    used_percent: 33,
    memory_controller_used_percent: 22,
    encoder_used_percent: 11,
    decoder_used_percent: 1,
  });
});

test('a library of 2015 has older functions, and less to say', async () => {
  const standIn = new StandIn({ count: 1, driver: '352.99', cuda: 7050, ...of(0, full), '0.compute': '9:4096' }, 1);
  const { sample } = await watch(standIn.library);
  const tables = await until(async () => {
    const taken = await sample();
    return taken.gpu ? taken : undefined;
  });
  const row = rows(tables.gpu, 'gpu')[firstGpu];
  expect(row).toMatchObject({
    pci_address: '0000:43:00.0',
    cuda_version: '7.5',
    temperature_celsius: 63,
    throttle_reasons: 'power_cap,thermal',
    memory_used_bytes: 20 * 2 ** 30,
    // Both are sampled by the driver then.
    pcie_sent_bytes_per_second: 1.5e6,
    pcie_received_bytes_per_second: 2.5e6,
  });
  for (const absent of [
    'memory_reserved_bytes',
    'energy_joules',
    'ecc_enabled_flag',
    'nvlinks_count',
    'xid_errors_total',
  ])
    expect(row).not.toHaveProperty(absent);
  expect(rows(tables.gpu_process, 'pid')['9']).toMatchObject({ memory_used_bytes: 4096 });
});

test('blank values are absent', async () => {
  const blank32 = ['0x7ffffff0', '0x7ffffff2', '0xffffffff'];
  const blank64 = ['0x7ffffffffffffff0', '0x7ffffffffffffff3', '0xffffffffffffffff'];
  for (const [place, blank] of blank32.entries()) {
    const blanks = Object.fromEntries(
      Object.keys(full)
        .filter((key) => !['uuid', 'name', 'pci', 'mig_mode'].includes(key) && !key.startsWith('nvlink'))
        .map((key) => [key, key.startsWith('memory.') || key === 'throttle_reasons' ? (blank64[place] ?? '') : blank]),
    );
    for (const field of Object.keys(blanks).filter((key) => key.startsWith('field.')))
      blanks[field] = [`1:${blank}`, `${blank64[place]}`, '0:140737488355328.0', `4:${blank64[place]}`][place] ?? '';
    const standIn = new StandIn({
      count: 1,
      ...of(0, { ...blanks, uuid: firstGpu, name: 'blank' }),
      '0.compute': `5:${blank64[place]}`,
      '0.use': `5:1:${blank}:${blank}:101000:${blank}`,
    });
    const { sample } = await watch(standIn.library);
    const tables = await until(async () => {
      const taken = await sample();
      return taken.gpu ? taken : undefined;
    });
    const values = Object.entries(rows(tables.gpu, 'gpu')[firstGpu] ?? {}).filter(([, value]) => value !== '');
    expect(Object.fromEntries(values)).toEqual({
      name: 'blank',
      vendor: 'nvidia',
      driver: 'nvidia',
      xid_errors_total: 0,
      processes_count: 1,
    });
    expect(rows(tables.gpu_process, 'pid')['5']).toEqual({
      gpu: firstGpu,
      name: '',
      class: '',
      container: '',
      type: 'compute',
    });
  }
});

test('every error of a function makes its values absent, and nothing else', async () => {
  const standIn = new StandIn({ count: 1, ...of(0, full) });
  const { sample } = await watch(standIn.library);
  await until(async () => (await sample()).gpu);
  const columns: Record<string, string> = {
    utilization: 'used_percent',
    'memory.total': 'memory_used_bytes',
    temperature: 'temperature_celsius',
    power: 'power_watts',
    'clock.1': 'clock_hertz',
    fan: 'fan_percent',
    throttle_reasons: 'throttled_flag',
    'field.83': 'energy_joules',
  };
  for (const code of [2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 17, 19, 20, 21, 23, 25, 27, 29, 999]) {
    const keys = Object.keys(columns);
    standIn.set(of(0, Object.fromEntries(keys.map((key) => [key, `error ${code}`]))));
    const row = rows(await until(async () => (await sample()).gpu), 'gpu')[firstGpu];
    expect(row).toMatchObject({ pcie_lanes_count: 8, decoder_used_percent: 34 });
    for (const column of Object.values(columns)) expect(row).not.toHaveProperty(column);
  }
});

test('MIG: instances are rows with their GPU, its processes are theirs; a new division is seen', async () => {
  const instance = (n: number): State =>
    of(`0.mig.${n}`, {
      uuid: `MIG-0000000${n}`,
      name: 'NVIDIA H100 80GB HBM3 MIG 1g.10gb',
      'memory.total': 10n * GiB,
      'memory.used': GiB,
      'memory.free': 9n * GiB,
      'memory.reserved': 0,
      compute: `5${n}:1048576:${n}:0`,
    });
  const standIn = new StandIn({
    count: 1,
    ...of(0, { ...full, mig_mode: 1, mig_count: 7 }),
    ...instance(0),
    ...instance(2),
  });
  standIn.without('0.utilization');
  const { sample } = await watch(standIn.library);
  const tables = await until(async () => {
    const taken = await sample();
    return taken.gpu ? taken : undefined;
  });
  const gpus = rows(tables.gpu, 'gpu');
  expect(Object.keys(gpus)).toEqual([firstGpu, 'MIG-00000000', 'MIG-00000002']);
  expect(gpus[firstGpu]).toMatchObject({ parent: '', mig_enabled_flag: 1, memory_total_bytes: 80 * 2 ** 30 });
  expect(gpus[firstGpu]).not.toHaveProperty('used_percent');
  expect(gpus['MIG-00000002']).toMatchObject({
    name: 'NVIDIA H100 80GB HBM3 MIG 1g.10gb',
    parent: firstGpu,
    memory_total_bytes: 10 * 2 ** 30,
    memory_used_percent: 10,
    processes_count: 1,
  });
  expect(rows(tables.gpu_process, 'pid')).toMatchObject({ 50: { gpu: 'MIG-00000000' }, 52: { gpu: 'MIG-00000002' } });

  // One instance is destroyed and another made.
  standIn.without(...Object.keys(instance(0)));
  standIn.set(instance(3));
  await until(async () => {
    const seen = (await sample()).gpu?.gpu ?? [];
    return seen.includes('MIG-00000003') && !seen.includes('MIG-00000000') ? true : undefined;
  });
});

test('errors of the GPUs (XID) are events, and are counted', async () => {
  const standIn = new StandIn({
    count: 2,
    ...of(0, full),
    ...of(1, bare),
    events: '0:31,1:79,0:31',
    'events.serial': 0,
  });
  const { sample, context } = await watch(standIn.library);
  await until(async () => (await sample()).gpu);
  context.clock.advance(5);
  standIn.set({ 'events.serial': 1 });
  const gpus = rows(await until(async () => (await sample()).gpu), 'gpu');
  expect(gpus[firstGpu]).toMatchObject({ xid_errors_total: 2 });
  const events = context.events.take();
  expect(events).toMatchObject({
    kind: ['gpu', 'gpu', 'gpu'],
    action: ['error', 'error', 'error'],
    entity: [firstGpu, bare.uuid, firstGpu],
    name: [full.name, bare.name, full.name],
    detail: ['XID 31: memory page fault', 'XID 79: the GPU has fallen off the bus', 'XID 31: memory page fault'],
    status_code: [31, 79, 31],
    timestamp_seconds: [6, 6, 6],
  });
  await until(async () => (await sample()).gpu);
  expect(context.events.take()).toBeUndefined();
});

test('a GPU that is lost or has to be reset costs its own rows, is an event once, and comes back', async () => {
  for (const [code, why] of [
    [15, 'the GPU is lost'],
    [16, 'the GPU has to be reset'],
  ] as const) {
    const standIn = new StandIn({ count: 2, ...of(0, full), ...of(1, bare) });
    const { sample, source, context } = await watch(standIn.library);
    await until(async () => (await sample()).gpu);
    standIn.set({ '0.all': `error ${code}` });
    for (let round = 0; round < 2 * gpuStaticRounds; round++) {
      const seen = await until(async () => (await sample()).gpu);
      if (round > 0) expect(seen.gpu).toEqual([bare.uuid]);
    }
    expect(source.limitations?.()).toEqual([expect.stringContaining(`${firstGpu}: NVML: ${why}`)]);
    expect(context.events.take()).toMatchObject({ entity: [firstGpu], action: ['error'] });
    standIn.without('0.all');
    await until(async () => ((await sample()).gpu?.gpu.includes(firstGpu) ? true : undefined));
    expect(source.limitations?.()).toEqual([]);
  }
});

test('a driver that vanishes is said, tried again with a pause, and found again', async () => {
  for (const code of [1, 9, 18]) {
    const standIn = new StandIn({ count: 1, ...of(0, full) });
    const { sample, source, context } = await watch(standIn.library);
    await until(async () => (await sample()).gpu);
    standIn.set({ '0.all': `error ${code}`, init: `error ${code}` });
    const reason = { 1: /not initialized/, 9: /driver is not loaded/, 18: /driver was upgraded/ }[code];
    await until(async () => {
      const why = await failure(sample);
      if (why === undefined) return undefined;
      expect(why).toMatch(reason ?? /^$/);
      return true;
    });
    // What the sampler does with a source that failed.
    await source.close();
    await source.open();
    standIn.without('0.all', 'init');
    // Not before its pause is over.
    await expect(sample()).rejects.toThrow(reason);
    context.clock.advance(120);
    await until(async () => (await sample()).gpu);
    expect(source.limitations?.()).toEqual([]);
  }
});

test('a library that is missing or is none is said', async () => {
  for (const library of ['/nonexistent/libnvidia-ml.so.1', join(import.meta.dirname, 'fixtures-gpu/nvml.c')]) {
    const { sample } = await watch(library);
    expect(await until(() => failure(sample))).toMatch(
      /(nvidia-ml|nvml\.c).* can't be loaded.*nvidia-smi can't be run/,
    );
  }
});

test('a driver has the stack that it needs', async () => {
  const standIn = new StandIn({ count: 1, ...of(0, full), stack: 1024 * 1024 });
  const { sample } = await watch(standIn.library);
  await until(async () => (await sample()).gpu);
});

test('a GPU that is added is found at once', async () => {
  const tree = new SteppedTree();
  mkdirSync(tree.path('proc/driver/nvidia/gpus/0000:43:00.0'), { recursive: true });
  const standIn = new StandIn({ count: 1, ...of(0, full), ...of(1, bare) });
  const { sample } = await watch(standIn.library, tree);
  await until(async () => (await sample()).gpu);
  standIn.set({ count: 2 });
  mkdirSync(tree.path('proc/driver/nvidia/gpus/0000:44:00.0'));
  // An answer may have been under way.
  await until(async () => (await sample()).gpu?.gpu?.length === 2 || undefined);
});

test('GPUs that the driver has and does not show are said', async () => {
  const tree = new SteppedTree();
  for (const place of ['0000:43:00.0', '0000:44:00.0', '0000:45:00.0'])
    mkdirSync(tree.path(`proc/driver/nvidia/gpus/${place}`), { recursive: true });
  const standIn = new StandIn({ count: 1, ...of(0, full) });
  const { sample, source } = await watch(standIn.library, tree);
  await until(async () => (await sample()).gpu);
  expect(source.limitations?.()).toEqual([
    'The driver of NVIDIA has 2 GPUs that are not shown to the agent: let it use their /dev/nvidia*.',
  ]);
});

test('every column of a GPU of NVIDIA is filled by its library', async () => {
  const standIn = new StandIn({
    count: 1,
    driver: '580',
    cuda: 13_000,
    ...of(0, full),
    '0.compute': '7:4096',
    '0.use': '7:1:33:22:11:1',
  });
  const { sample, context } = await watch(standIn.library);
  const samples: Tables[] = [];
  for (let step = 0; step < 3; step++) {
    samples.push(
      await until(async () => {
        const taken = await sample();
        return taken.gpu ? taken : undefined;
      }),
    );
    context.clock.advance(5);
  }
  expect(unfilledColumns(['gpu', 'gpu_process'], samples)).toEqual([
    // Those of instances, of AMD and of Intel.
    'gpu.parent',
    'gpu.host_memory_total_bytes',
    'gpu.host_memory_used_bytes',
    'gpu.hotspot_temperature_celsius',
    'gpu_process.name',
    'gpu_process.class',
    'gpu_process.container',
    'gpu_process.host_memory_used_bytes',
  ]);
});

test('a call that hangs: nothing else is asked, it is said, and it goes on when the driver does', async () => {
  const tree = new SteppedTree();
  amdCard(tree);
  const standIn = new StandIn({ count: 2, ...of(0, full), ...of(1, bare) });
  const { sample, source } = await watch(standIn.library, tree);
  await until(async () => ((await sample()).gpu?.gpu.includes(firstGpu) ? true : undefined));
  standIn.set({ '0.power': 'hang', '0.name': 'asked again' });
  /** What the GPUs of others say, which go on; on a busy machine with a later sample. */
  const others = () =>
    until(() =>
      sample().then(
        ({ gpu: table }) => table?.vendor,
        () => undefined,
      ),
    );
  for (let round = 0; round < 4; round++) {
    const begin_ms = performance.now();
    await sample();
    // It takes a third of a second at most, and longer where the machine is busy.
    expect(performance.now() - begin_ms).toBeLessThan(5000);
    expect(await others()).toEqual(['amd']);
    expect(nativeCalls.underWay).toBe(1);
    await systemClock.sleep(200);
  }
  expect(source.limitations?.()).toEqual([]);
  // The test's clock stands still: let it be later.
  tree.context.clock.advance(7);
  expect(await others()).toEqual(['amd']);
  expect(source.limitations?.()).toEqual([expect.stringMatching(/^The library of NVIDIA has not answered for 7 s/)]);
  // Neither closing nor opening waits for it or asks anew.
  await source.close();
  await source.open();
  expect(await others()).toEqual(['amd']);
  expect(nativeCalls.underWay).toBe(1);
  standIn.set({ '0.power': 412_345 });
  await until(() =>
    sample().then(
      ({ gpu: table }) => (table?.gpu.includes(firstGpu) ? true : undefined),
      () => undefined,
    ),
  );
  expect(source.limitations?.()).toEqual([]);
});

test('a driver that hangs from the beginning, alone: the source fails with the reason', async () => {
  const standIn = new StandIn({ count: 1, ...of(0, full), init: 'hang' });
  const { sample, context } = await watch(standIn.library);
  await sample();
  context.clock.advance(30);
  expect(await failure(sample)).toMatch(/^The library of NVIDIA has not answered for 30 s/);
  standIn.without('init');
  await until(() =>
    sample().then(
      ({ gpu: table }) => table,
      () => undefined,
    ),
  );
});

test('files are read while calls hang: they keep one of the threads', async () => {
  const standIn = new StandIn({ count: 1, ...of(0, full), '0.power': 'hang' });
  const { sample } = await watch(standIn.library);
  await sample();
  await until(async () => (nativeCalls.underWay === 1 ? true : undefined));
  for (let round = 0; round < 5; round++) await sample();
  expect(nativeCalls.underWay).toBe(1);
  // Three others are free: this would not end without them.
  const names = Array.from({ length: 30 }, () => stat(import.meta.filename));
  expect(await Promise.all(names)).toHaveLength(30);
  standIn.set({ '0.power': 1 });
  await until(async () => (await sample()).gpu);
});

test('the agent ends though a call hangs', async () => {
  const standIn = new StandIn({ count: 1, ...of(0, full), '0.power': 'hang' });
  const ends = async (end: string): Promise<number | null> => {
    const program = `
      import { Nvml } from ${JSON.stringify(join(import.meta.dirname, '../gpu/nvml.ts'))};
      import { nativeCalls } from ${JSON.stringify(join(import.meta.dirname, '../native.ts'))};
      import { exit } from ${JSON.stringify(join(import.meta.dirname, '../exit.ts'))};
      const nvml = new Nvml({ library: ${JSON.stringify(standIn.library)}, clock: { monotonic_ms: () => 0 }, events: {} });
      void nvml.read();
      const looking = setInterval(() => {
        if (nativeCalls.underWay !== 1) return;
        clearInterval(looking);
        console.log('hangs');
        ${end};
      }, 20);
    `;
    const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
      stdio: ['inherit', 'pipe', 'inherit'],
    });
    await once(child.stdout, 'data');
    const limit = setTimeout(() => child.kill('SIGKILL'), 10_000);
    const [code] = (await once(child, 'exit')) as [number | null];
    clearTimeout(limit);
    return code;
  };
  // The orderly end has to be killed: otherwise this would test nothing.
  expect(await Promise.all([ends('exit(7)'), ends('process.exit(7)')])).toEqual([7, null]);
}, 60_000);

/** A GPU of amdgpu beside. */
function amdCard(tree: SteppedTree): void {
  tree.write('sys/class/drm/card0/device/uevent', 'DRIVER=amdgpu\nPCI_SLOT_NAME=0000:0b:00.0\n');
  symlinkSync('../../../../bus/pci/drivers/amdgpu', tree.path('sys/class/drm/card0/device/driver'));
  tree.write('sys/class/drm/card0/device/gpu_busy_percent', '5\n');
}
