import { expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { CounterHistory } from '#rates.ts';
import { cpu } from '#sources/cpu.ts';
import { filesystem } from '#sources/filesystem.ts';
import { memory } from '#sources/memory.ts';
import { netInterface } from '#sources/net_interface.ts';
import {
  portableCpu,
  portableCpuTable,
  portableDiskIo,
  portableFilesystem,
  portableFilesystemTable,
  portableInterfaceTable,
  portableMemory,
  portableMemoryTable,
  portableNetInterface,
} from '#sources/portable.ts';
import { type Row, row, rows, SteppedTree, systemContext } from '#sources/testing.ts';

const here = systemContext();
const onLinux = test.runIf(process.platform === 'linux');

/** The columns that both have agree within a share of the larger, or within `atLeast`. */
function expectAgreement(direct: Row | undefined, portable: Row | undefined, columns: string[], atLeast: number): void {
  for (const column of columns) {
    const [one, other] = [direct?.[column] as number, portable?.[column] as number];
    expect(one, column).toBeGreaterThanOrEqual(0);
    expect(Math.abs(one - other), column).toBeLessThanOrEqual(Math.max(0.02 * Math.max(one, other), atLeast));
  }
}

onLinux('on Linux it agrees with the direct sources: cores and load', async () => {
  const [direct, portable] = [cpu(here), portableCpu(here)];
  await direct.open();
  await portable.open();
  const sample = async () => [await direct.sample(), await portable.sample()] as const;
  await sample();
  await systemClock.sleep(500);
  const [one, other] = await sample();
  // Both count in ticks of 10 ms, at moments a little apart.
  expectAgreement(rows(one.cpu, 'core').total, rows(other.cpu, 'core').total, ['used_percent', 'idle_percent'], 10);
  expect(Object.keys(rows(one.cpu, 'core'))).toEqual(Object.keys(rows(other.cpu, 'core')));
  expectAgreement(row(one.load), row(other.load), ['load_1m_count', 'load_15m_count', 'uptime_seconds'], 0.1);
  await direct.close();
  await portable.close();
});

onLinux('memory', async () => {
  const [direct, portable] = [memory(here), portableMemory(here)];
  await direct.open();
  await portable.open();
  const [one, other] = [row((await direct.sample()).memory), row((await portable.sample()).memory)];
  expectAgreement(one, other, ['total_bytes', 'swap_total_bytes', 'swap_free_bytes'], 0);
  expectAgreement(one, other, ['available_bytes', 'used_bytes', 'free_bytes', 'buffers_bytes'], 200 * 2 ** 20);
  await direct.close();
});

onLinux('file systems', async () => {
  const [direct, portable] = [filesystem(here), portableFilesystem(here)];
  await direct.open();
  const one = rows((await direct.sample()).filesystem, 'mount')['/'];
  const other = rows((await portable.sample()).filesystem, 'mount')['/'];
  // In a container the root is an overlay, which the direct source leaves out.
  if (one) expectAgreement(one, other, ['size_bytes', 'used_bytes', 'available_bytes', 'used_percent'], 64 * 2 ** 20);
  else expect(other).toBeDefined();
  await direct.close();
});

onLinux('interfaces', async () => {
  const [direct, portable] = [netInterface(here), portableNetInterface(here)];
  await direct.open();
  const sample = async () =>
    [
      rows((await direct.sample()).net_interface, 'interface'),
      rows((await portable.sample()).net_interface, 'interface'),
    ] as const;
  await sample();
  await systemClock.sleep(600);
  const [one, other] = await sample();
  expect(other.lo).toMatchObject({ receive_bytes_per_second: expect.any(Number), link_up_flag: one.lo?.link_up_flag });
  await direct.close();
});

test('disks have rates from the second sample on, and a program that failed is not a spike', async () => {
  using tree = new SteppedTree();
  const source = portableDiskIo({ ...tree.context, platform: process.platform });
  await source.open();
  const { disk_io: first } = await source.sample();
  if (first) expect(rows(first, 'device')).toEqual({ total: {} });
  await expect(async () => portableDiskIo({ ...here, platform: 'win32' }).open()).rejects.toThrow(
    'The traffic of disks is not told on Windows',
  );
});

test('cores by what Node tells, the total from those that are in both samples', () => {
  const core = (user: number, idle: number, speed = 2400) => ({
    speed,
    times: { user, nice: 0, sys: 0, idle, irq: 0 },
  });
  const history = new CounterHistory();
  history.begin(0);
  const first = rows(portableCpuTable([core(100, 100), core(100, 100, 0)], history), 'core');
  expect(first).toEqual({ total: { frequency_hertz: 1.2e9 }, '0': { frequency_hertz: 2.4e9 }, '1': {} });
  history.begin(1);
  const second = rows(portableCpuTable([core(130, 170), core(90, 100)], history), 'core');
  expect(second['0']).toMatchObject({ used_percent: 30, user_percent: 30, idle_percent: 70, nice_percent: 0 });
  expect(second['0']).not.toHaveProperty('iowait_percent');
  expect(second['1']).toEqual({ frequency_hertz: 2.4e9 });
  expect(second.total).toMatchObject({ used_percent: 30 });
});

test('on Windows there are no load averages', async () => {
  const source = portableCpu({ ...here, platform: 'win32' });
  expect(row((await source.sample()).load)).toEqual({ uptime_seconds: expect.any(Number) });
});

test('memory elsewhere: what systeminformation fills with zeros is absent', () => {
  const mem = {
    total: 1000,
    free: 100,
    used: 900,
    active: 600,
    available: 400,
    buffcache: 0,
    buffers: 0,
    cached: 0,
    slab: 0,
    reclaimable: 0,
    swaptotal: 50,
    swapused: 20,
    swapfree: 30,
    writeback: null,
    dirty: null,
  };
  expect(row(portableMemoryTable(mem, 'darwin'))).toEqual({
    total_bytes: 1000,
    available_bytes: 400,
    used_bytes: 600,
    used_percent: 60,
    free_bytes: 100,
    swap_total_bytes: 50,
    swap_used_bytes: 20,
    swap_free_bytes: 30,
  });
});

test('a volume that is listed twice has one row', () => {
  const volume = { fs: 'C:', type: 'NTFS', size: 100, used: 60, available: 30, use: 60, mount: 'C:', rw: true };
  expect(rows(portableFilesystemTable([volume, { ...volume, rw: null }]), 'mount')).toEqual({
    'C:': {
      device: 'C:',
      type: 'NTFS',
      size_bytes: 100,
      used_bytes: 60,
      free_bytes: 40,
      available_bytes: 30,
      used_percent: (60 / 90) * 100,
      read_only_flag: 0,
      unresponsive_flag: 0,
    },
  });
});

test('interfaces: rates, and a counter that went backwards', () => {
  const stats = (rx_bytes: number, operstate: string) => ({
    iface: 'en0',
    operstate,
    rx_bytes,
    rx_dropped: 0,
    rx_errors: 0,
    tx_bytes: 2 * rx_bytes,
    tx_dropped: 0,
    tx_errors: 0,
    rx_sec: 0,
    tx_sec: 0,
    ms: 0,
  });
  const history = new CounterHistory();
  const at = (monotonic_ms: number, bytes: number, operstate: string) =>
    rows(portableInterfaceTable([stats(bytes, operstate)], history, history.begin(monotonic_ms)), 'interface').en0;
  expect(at(0, 100, 'up')).toEqual({ link_up_flag: 1 });
  expect(at(2_000, 300, 'up')).toMatchObject({ receive_bytes_per_second: 100, transmit_bytes_per_second: 200 });
  expect(at(3_000, 5, 'down')).toMatchObject({ link_up_flag: 0, receive_errors_per_second: 0 });
  expect(at(4_000, 4, 'down')).not.toHaveProperty('receive_bytes_per_second');
});
