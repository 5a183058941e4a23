import { execFileSync, spawnSync } from 'node:child_process';
import { closeSync, constants, cpSync, openSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import type { Tables } from '@fleetreel/proto';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { parseGpuMetrics, parseLevels, pcieGeneration } from '#gpu/amd.ts';
import { parseFdinfo } from '#gpu/drm.ts';
import type { Source } from '#source.ts';
import { gpu } from '#sources/gpu.ts';
import { expectContract, rows, SteppedTree, type TestClock, unfilledColumns } from '#sources/testing.ts';

const folder = join(import.meta.dirname, 'fixtures-gpu');
const capturedFdinfo = (driver: string): string => readFileSync(join(folder, 'fdinfo', `${driver}.txt`), 'utf8');

test('levels of clocks', () => {
  expect(parseLevels('0: 167Mhz *\n1: 500Mhz \n2: 800Mhz \n3: 945Mhz \n')).toEqual({ now: 167e6, max: 945e6 });
  expect(parseLevels('0: 500Mhz \n1: 1200Mhz *\n2: 2575Mhz \n')).toEqual({ now: 1200e6, max: 2575e6 });
  // A level of sleep, as newer ones have it.
  expect(parseLevels('S: 19Mhz *\n0: 615Mhz \n1: 1900MHz \n')).toEqual({ now: 19e6, max: 1900e6 });
  expect(parseLevels('')).toEqual({ now: Number.NaN, max: Number.NaN });
});

test('generations of PCI Express', () => {
  expect(['2.5 GT/s PCIe', '5.0 GT/s PCIe', '8 GT/s', '16.0 GT/s PCIe', '32.0 GT/s PCIe'].map(pcieGeneration)).toEqual([
    1, 2, 3, 4, 5,
  ]);
  expect(pcieGeneration('Unknown')).toBeNaN();
});

/** The table of metrics, version 1.x, with nothing known but this. */
function metricsTable(revision: number, bytes: number, fill: (table: Buffer) => void): Buffer {
  const table = Buffer.alloc(bytes, 0xff);
  table.writeUInt16LE(bytes, 0);
  table.writeUInt8(1, 2);
  table.writeUInt8(revision, 3);
  fill(table);
  return table;
}

test('the table of metrics', () => {
  const v13 = metricsTable(3, 120, (table) => {
    table.writeUInt16LE(42, 20);
    table.writeBigUInt64LE((1n << 3n) | (1n << 36n), 112);
  });
  expect(parseGpuMetrics(v13)).toEqual({
    decoder_used_percent: 42,
    throttle_reasons: 'power_cap,thermal',
    throttled_flag: 1,
  });
  const idle = metricsTable(3, 120, (table) => table.writeBigUInt64LE(0n, 112));
  expect(parseGpuMetrics(idle)).toEqual({ decoder_used_percent: Number.NaN, throttle_reasons: '', throttled_flag: 0 });
  const v14 = metricsTable(4, 300, (table) => {
    table.writeUInt16LE(7, 16);
    table.writeUInt16LE(70, 18);
    table.writeBigUInt64LE(65_536n * 1234n, 24);
  });
  expect(parseGpuMetrics(v14)).toEqual({ decoder_used_percent: 70, energy_joules: 1234 });
  const v15 = metricsTable(5, 400, (table) => table.writeBigUInt64LE(65_536n, 88));
  expect(parseGpuMetrics(v15)).toEqual({ decoder_used_percent: Number.NaN, energy_joules: 1 });
  // Those of processors with graphics, later ones, and torn ones.
  const apu = metricsTable(2, 120, (table) => table.writeUInt8(2, 2));
  for (const table of [apu, metricsTable(9, 400, () => {}), v13.subarray(0, 50), Buffer.alloc(0)])
    expect(parseGpuMetrics(table)).toEqual({});
});

test('clients of xe, i915 and amdgpu', () => {
  const xe = parseFdinfo(capturedFdinfo('xe'));
  expect(xe).toMatchObject({
    driver: 'xe',
    address: '0000:03:00.0',
    client: '3',
    memory_bytes: 23992 * 1024,
    host_memory_bytes: 192 * 1024,
  });
  expect([...(xe?.engines ?? [])].map(([name]) => name)).toEqual(['rcs', 'bcs', 'vcs', 'vecs', 'ccs']);
  expect(xe?.engines.get('rcs')).toEqual({ busy: 28257900, total: 7655183225, capacity: 1 });
  expect(xe?.engines.get('ccs')).toMatchObject({ capacity: 4 });

  const i915 = parseFdinfo(capturedFdinfo('i915'));
  expect(i915).toMatchObject({
    driver: 'i915',
    address: '0000:00:02.0',
    client: '18',
    host_memory_bytes: 125 * 1024 ** 2,
  });
  expect(i915?.memory_bytes).toBeNaN();
  expect(i915?.engines.get('render')).toEqual({ busy: 25662044495, total: Number.NaN, capacity: 1 });

  const amd = parseFdinfo(amdFdinfo('0000:09:00.0', 5, 1000, 2048));
  expect(amd).toMatchObject({ memory_bytes: 2048 * 1024, host_memory_bytes: (100 + 4) * 1024 });
  expect(amd?.engines.get('gfx')).toMatchObject({ busy: 1000 });

  expect(parseFdinfo('pos:\t0\nflags:\t02\nmnt_id:\t15\n')).toBeUndefined();
  expect(parseFdinfo('')).toBeUndefined();
});

/** As amdgpu_fdinfo.c of Linux 6.1 writes it. */
const amdFdinfo = (address: string, client: number, gfx_ns: number, vram_kib: number): string =>
  [
    'pos:\t0',
    'flags:\t02100002',
    'pasid:\t32771',
    'drm-driver:\tamdgpu',
    `drm-pdev:\t${address}`,
    `drm-client-id:\t${client}`,
    `drm-memory-vram:\t${vram_kib} KiB`,
    'drm-memory-gtt: \t100 KiB',
    'drm-memory-cpu: \t4 KiB',
    `drm-engine-gfx:\t${gfx_ns} ns`,
    `drm-engine-dec:\t${gfx_ns / 2} ns`,
    `drm-engine-enc:\t${gfx_ns / 4} ns`,
    '',
  ].join('\n');

/** A tree with the captured card of AMD. */
function vega(tree: SteppedTree): void {
  cpSync(join(folder, 'vega'), tree.path('.'), { recursive: true });
  driverOf(tree, 'card0', 'amdgpu');
  tree.write('proc/sys/kernel/osrelease', '6.1.0-42-amd64\n');
}

const driverOf = (tree: SteppedTree, card: string, driver: string): void =>
  symlinkSync(`../../../../bus/pci/drivers/${driver}`, tree.path(`sys/class/drm/${card}/device/driver`));

function write(tree: SteppedTree, base: string, files: Record<string, string | number>): void {
  for (const [name, content] of Object.entries(files)) tree.write(join(base, name), `${content}\n`);
}

/** The temperatures and powers that amdgpu documents. */
const amdHwmon = {
  name: 'amdgpu',
  temp1_label: 'edge',
  temp1_input: 51000,
  temp1_crit: 85000,
  temp1_emergency: 90000,
  temp2_label: 'junction',
  temp2_input: 58000,
  temp3_label: 'mem',
  temp3_input: 62000,
  power1_average: 31_000_000,
  power1_cap: 220_000_000,
  power1_cap_max: 264_000_000,
  fan1_input: 1337,
  pwm1: 51,
  freq1_input: 860_000_000,
  freq2_input: 170_000_000,
};

type Watched = { source: Source; clock: TestClock; sample: () => Promise<Tables> };

/** `patience`: how much longer than usual devices are waited for, since a busy machine is slow. */
async function watch(tree: SteppedTree, patience = 20): Promise<Watched> {
  const { context } = tree;
  // Waits are real, since devices answer on other threads.
  const sleep = (milliseconds: number, signal?: AbortSignal) => systemClock.sleep(milliseconds * patience, signal);
  const source = gpu({ ...context, clock: { ...context.clock, sleep } });
  onTestFinished(async () => {
    await source.close();
    tree[Symbol.dispose]();
  });
  await source.open();
  const sample = async () => {
    // A busy machine may need longer than a tick waits.
    for (let attempt = 0; ; attempt++) {
      const tables = await source.sample();
      expectContract(tables, source);
      if (tables.gpu || attempt > 100) return tables;
      await systemClock.sleep(25);
    }
  };
  return { source, clock: context.clock, sample };
}

test('AMD: what amdgpu says of a captured RX Vega', async () => {
  const tree = new SteppedTree();
  vega(tree);
  const base = 'sys/class/drm/card0/device';
  write(tree, `${base}/hwmon/hwmon3`, amdHwmon);
  write(tree, base, { mem_busy_percent: 17, 'power/runtime_status': 'active' });
  tree.write(`${base}/ras/umc_err_count`, 'ue: 1\nce: 22\n');
  const { sample, source } = await watch(tree);
  const { gpu: table } = await sample();
  expect(rows(table, 'gpu')).toEqual({
    '0123456789abcdef': {
      // Without a name of its own in this capture.
      name: 'amdgpu 1002:687f',
      vendor: 'amd',
      parent: '',
      pci_address: '0000:09:00.0',
      driver: 'amdgpu 6.1.0-42-amd64',
      cuda_version: '',
      compute_mode: '',
      throttle_reasons: '',
      used_percent: 4,
      memory_controller_used_percent: 17,
      memory_total_bytes: 8573157376,
      memory_used_bytes: 1490378752,
      memory_free_bytes: 8573157376 - 1490378752,
      memory_used_percent: (1490378752 / 8573157376) * 100,
      host_memory_total_bytes: 8573157376,
      host_memory_used_bytes: 144560128,
      temperature_celsius: 51,
      hotspot_temperature_celsius: 58,
      memory_temperature_celsius: 62,
      temperature_slowdown_celsius: 85,
      temperature_shutdown_celsius: 90,
      power_watts: 31,
      power_limit_watts: 220,
      power_limit_max_watts: 264,
      clock_hertz: 860e6,
      clock_max_hertz: 1630e6,
      memory_clock_hertz: 170e6,
      memory_clock_max_hertz: 945e6,
      fan_percent: 20,
      fan_revolutions_per_minute: 1337,
      pcie_generation_code: 3,
      pcie_generation_max_code: 3,
      pcie_lanes_count: 16,
      pcie_lanes_max_count: 16,
      pcie_replays_total: 0,
      processes_count: 0,
      ecc_corrected_volatile_total: 22,
      ecc_uncorrected_volatile_total: 1,
    },
  });
  expect(source.limitations?.()).toEqual([]);
});

test('AMD: what an older kernel or another card does not have is absent', async () => {
  const tree = new SteppedTree();
  vega(tree);
  const base = 'sys/class/drm/card0/device';
  for (const file of ['mem_info_vram_used', 'gpu_busy_percent', 'pp_dpm_sclk', 'unique_id'])
    tree.remove(`${base}/${file}`);
  write(tree, base, { mem_info_gtt_used: 'N/A', product_name: 'Radeon Pro W6800' });
  const { sample } = await watch(tree);
  const row = rows((await sample()).gpu, 'gpu')['0000:09:00.0'];
  expect(row).toMatchObject({ name: 'Radeon Pro W6800', memory_total_bytes: 8573157376 });
  for (const absent of [
    'memory_used_bytes',
    'memory_free_bytes',
    'used_percent',
    'clock_hertz',
    'host_memory_used_bytes',
  ])
    expect(row).not.toHaveProperty(absent);
  expect(row).not.toHaveProperty('temperature_celsius');
});

test('Intel: i915 and xe', async () => {
  const tree = new SteppedTree();
  tree.write('sys/class/drm/card0/device/uevent', 'DRIVER=i915\nPCI_SLOT_NAME=0000:00:02.0\n');
  driverOf(tree, 'card0', 'i915');
  write(tree, 'sys/class/drm/card0', {
    'device/vendor': '0x8086',
    'device/device': '0x5917',
    'gt/gt0/rps_act_freq_mhz': 350,
    'gt/gt0/rps_RP0_freq_mhz': 1150,
    'gt/gt0/throttle_reason_status': 1,
    'gt/gt0/throttle_reason_pl1': 1,
    'gt/gt0/throttle_reason_pl2': 1,
    'gt/gt0/throttle_reason_thermal': 0,
    'gt/gt0/throttle_reason_prochot': 1,
  });
  tree.write('sys/class/drm/card1/device/uevent', 'DRIVER=xe\nPCI_SLOT_NAME=0000:03:00.0\n');
  driverOf(tree, 'card1', 'xe');
  write(tree, 'sys/class/drm/card1/device', {
    vendor: '0x8086',
    device: '0xe20b',
    'tile0/gt0/freq0/act_freq': 1200,
    'tile0/gt0/freq0/rp0_freq': 2850,
    'tile0/gt0/freq0/throttle/status': 0,
    'tile0/physical_vram_size_bytes': 12 * 1024 ** 3,
    'hwmon/hwmon5/name': 'xe',
    'hwmon/hwmon5/energy1_input': 1_000_000_000,
    'hwmon/hwmon5/power1_max': 190_000_000,
    'hwmon/hwmon5/power1_rated_max': 190_000_000,
    'hwmon/hwmon5/temp2_input': 44000,
    'hwmon/hwmon5/temp3_input': 48000,
    'hwmon/hwmon5/fan1_input': 900,
  });
  // Connectors are not cards.
  tree.write('sys/class/drm/card0-eDP-1/status', 'connected\n');
  const { sample, clock } = await watch(tree);
  const first = rows((await sample()).gpu, 'gpu');
  expect(first['0000:03:00.0']).not.toHaveProperty('power_watts');
  write(tree, 'sys/class/drm/card1/device', { 'hwmon/hwmon5/energy1_input': 1_225_000_000 });
  clock.advance(5);
  const second = rows((await sample()).gpu, 'gpu');
  expect(second['0000:00:02.0']).toEqual({
    name: 'i915 8086:5917',
    vendor: 'intel',
    parent: '',
    pci_address: '0000:00:02.0',
    driver: 'i915',
    cuda_version: '',
    compute_mode: '',
    throttle_reasons: 'power_cap,hardware_thermal',
    throttled_flag: 1,
    used_percent: 0,
    clock_hertz: 350e6,
    clock_max_hertz: 1150e6,
    processes_count: 0,
  });
  expect(second['0000:03:00.0']).toMatchObject({
    name: 'xe 8086:e20b',
    throttle_reasons: '',
    throttled_flag: 0,
    clock_hertz: 1200e6,
    clock_max_hertz: 2850e6,
    memory_total_bytes: 12 * 1024 ** 3,
    energy_joules: 1225,
    power_watts: 45,
    power_limit_watts: 190,
    power_limit_max_watts: 190,
    temperature_celsius: 44,
    memory_temperature_celsius: 48,
    fan_revolutions_per_minute: 900,
  });
});

test('Intel: frequencies where Linux before 5.18 has them', async () => {
  const tree = new SteppedTree();
  tree.write('sys/class/drm/card0/device/uevent', 'DRIVER=i915\nPCI_SLOT_NAME=0000:00:02.0\n');
  driverOf(tree, 'card0', 'i915');
  write(tree, 'sys/class/drm/card0', { gt_act_freq_mhz: 300, gt_RP0_freq_mhz: 1050 });
  const { sample } = await watch(tree);
  expect(rows((await sample()).gpu, 'gpu')['0000:00:02.0']).toMatchObject({
    clock_hertz: 300e6,
    clock_max_hertz: 1050e6,
  });
});

/** A process with a descriptor of a GPU. */
function client(tree: SteppedTree, pid: number, descriptor: number, fdinfo: string): void {
  const link = tree.path(`proc/${pid}/fd/${descriptor}`);
  tree.write(`proc/${pid}/fdinfo/${descriptor}`, fdinfo).write(`proc/${pid}/fd/other`, '');
  try {
    symlinkSync('/dev/dri/renderD128', link);
  } catch {
    // It is there from before.
  }
}

test('processes: their use and memory, by the numbers of clients, and the use of the whole GPU', async () => {
  const tree = new SteppedTree();
  vega(tree);
  tree.write('sys/class/drm/card1/device/uevent', 'DRIVER=xe\nPCI_SLOT_NAME=0000:03:00.0\n');
  driverOf(tree, 'card1', 'xe');
  const xe = (cycles: number, total: number) =>
    capturedFdinfo('xe')
      .replace('28257900', String(28257900 + cycles))
      .replaceAll('7655183225', String(7655183225 + total))
      .replace('drm-cycles-ccs: 0', `drm-cycles-ccs: ${cycles * 2}`);
  const step = (gfx_ns: number, cycles: number, total: number) => {
    client(tree, 100, 7, amdFdinfo('0000:09:00.0', 5, gfx_ns, 2048));
    // A second descriptor of the same client, a second client, and a process that was handed the first.
    client(tree, 100, 8, amdFdinfo('0000:09:00.0', 5, gfx_ns, 2048));
    client(tree, 100, 9, amdFdinfo('0000:09:00.0', 6, gfx_ns / 5, 1024));
    client(tree, 101, 3, amdFdinfo('0000:09:00.0', 5, gfx_ns, 2048));
    client(tree, 102, 4, xe(cycles, total));
    client(tree, 103, 4, 'pos:\t0\nflags:\t02\n');
  };
  tree.write('proc/100/stat', `100 (game) S 1 100 100 0 -1 4194304 ${'0 '.repeat(12)}5000 ${'0 '.repeat(30)}\n`);
  step(1e9, 0, 0);
  const { sample, clock } = await watch(tree);
  await sample();
  step(2e9, 30_000, 100_000);
  clock.advance(5);
  const tables = await sample();
  const processes = rows(tables.gpu_process, 'pid');
  expect(Object.keys(processes)).toEqual(['100', '102']);
  expect(processes['100']).toMatchObject({
    gpu: '0123456789abcdef',
    name: 'game',
    memory_used_bytes: (2048 + 1024) * 1024,
    host_memory_used_bytes: 208 * 1024,
    used_percent: 24,
    decoder_used_percent: 12,
    encoder_used_percent: 6,
  });
  // Of one engine 30 %, of four others 60 % of one.
  expect(processes['102']?.used_percent).toBeCloseTo(30, 6);
  const gpus = rows(tables.gpu, 'gpu');
  expect(gpus['0000:03:00.0']?.used_percent).toBeCloseTo(30, 6);
  // What the driver itself says comes first.
  expect(gpus['0123456789abcdef']).toMatchObject({ used_percent: 4, processes_count: 1 });
  expect(unfilledColumns(['gpu', 'gpu_process'], [tables])).not.toContain('gpu_process.host_memory_used_bytes');

  // A process that has ended, and counters that went backwards.
  tree.remove('proc/102');
  step(1e9, 0, 0);
  tree.remove('proc/102');
  clock.advance(5);
  const after = rows((await sample()).gpu_process, 'pid');
  expect(Object.keys(after)).toEqual(['100']);
  expect(after['100']).not.toHaveProperty('used_percent');
});

test('a GPU that sleeps is not woken up', async () => {
  const tree = new SteppedTree();
  vega(tree);
  write(tree, 'sys/class/drm/card0/device', { 'power/runtime_status': 'suspended' });
  const { sample, source } = await watch(tree);
  const row = rows((await sample()).gpu, 'gpu')['0123456789abcdef'];
  expect(row).toMatchObject({ vendor: 'amd', pci_address: '0000:09:00.0' });
  expect(row).not.toHaveProperty('memory_used_bytes');
  expect(row).not.toHaveProperty('temperature_celsius');
  expect(source.limitations?.()).toEqual([
    'The GPU 0000:09:00.0 is switched off to save power, and is not woken up to be read.',
  ]);
});

test('a GPU that is taken out and put in again', async () => {
  const tree = new SteppedTree();
  vega(tree);
  const { sample, source } = await watch(tree);
  expect((await sample()).gpu?.gpu).toEqual(['0123456789abcdef']);
  tree.remove('sys/class/drm/card0');
  expect(await source.sample()).toEqual({});
  vega(tree);
  expect((await sample()).gpu?.gpu).toEqual(['0123456789abcdef']);
});

test('a card that hangs costs its own rows', async () => {
  const tree = new SteppedTree();
  vega(tree);
  tree.write('sys/class/drm/card1/device/uevent', 'DRIVER=xe\nPCI_SLOT_NAME=0000:03:00.0\n');
  driverOf(tree, 'card1', 'xe');
  tree.remove('sys/class/drm/card0/device/gpu_busy_percent');
  // A pipe without a writer does not answer, like hardware.
  const pipe = tree.path('sys/class/drm/card0/device/gpu_busy_percent');
  execFileSync('mkfifo', [pipe]);
  const { sample, source, clock } = await watch(tree, 1);
  onTestFinished(() => closeSync(openSync(pipe, constants.O_RDWR)));
  expect((await sample()).gpu?.gpu).toEqual(['0000:03:00.0']);
  clock.advance(6);
  expect((await sample()).gpu?.gpu).toEqual(['0000:03:00.0']);
  expect(source.limitations?.()).toEqual([expect.stringMatching(/^The GPU 0000:09:00.0 has not answered for 6 s/)]);
});

test('a card that hangs alone: the source fails with the reason, and asks it once', async () => {
  const tree = new SteppedTree();
  vega(tree);
  tree.remove('sys/class/drm/card0/device/gpu_busy_percent');
  const pipe = tree.path('sys/class/drm/card0/device/gpu_busy_percent');
  execFileSync('mkfifo', [pipe]);
  const { source, clock } = await watch(tree, 1);
  onTestFinished(() => closeSync(openSync(pipe, constants.O_RDWR)));
  await source.sample();
  for (let round = 1; round <= 4; round++) {
    clock.advance(5);
    await expect(source.sample()).rejects.toThrow(`The GPU 0000:09:00.0 has not answered for ${5 * round} s`);
    await source.close();
    await source.open();
    // The others are descriptors that are being closed.
    const calls = () => process.getActiveResourcesInfo().filter((name) => name === 'FSReqCallback').length;
    await expect.poll(calls, { timeout: 10_000 }).toBe(1);
  }
});

const isRoot = process.getuid?.() === 0;

test.runIf(isRoot)('as an ordinary user the use by others is not seen, and said', () => {
  const tree = new SteppedTree();
  onTestFinished(() => tree[Symbol.dispose]());
  vega(tree);
  const script = `
    import { gpu } from ${JSON.stringify(join(import.meta.dirname, 'gpu.ts'))};
    import { systemClock } from ${JSON.stringify(join(import.meta.dirname, '../clock.ts'))};
    const settings = { gpu: { library: 'libnvidia-ml.so.1' } };
    const roots = { proc: '/proc', sys: ${JSON.stringify(tree.path('sys'))} };
    process.setgroups([]); process.setgid(65534); process.setuid(65534);
    const source = gpu({ roots, settings, platform: 'linux', clock: systemClock, processes: { identity() {} } });
    source.open();
    for (let attempt = 0; attempt < 100 && source.limitations().length === 0; attempt++) {
      await source.sample();
      await systemClock.sleep(25);
    }
    console.log(source.limitations().join());
    process.exit(0);
  `;
  execFileSync('chmod', ['-R', 'a+rX', tree.path('.')]);
  const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '--eval', script], {
    encoding: 'utf8',
  });
  expect(stdout, stderr).toMatch(
    /^The use of GPUs by \d+ processes of other users can't be seen: run the agent as root/,
  );
});
