import { expect, test } from 'vitest';
import { diskIo, parseDiskstats } from '#sources/disk_io.ts';
import { captured, rows, SteppedTree } from '#sources/testing.ts';

test('parses lines of 14, 18 and 20 fields, and leaves out RAM disks, loop devices and partitions', () => {
  const devices = parseDiskstats(captured('mixed', 'proc/diskstats'));
  expect([...devices.keys()]).toEqual(
    'sda dm-0 dm-1 dm-2 dm-3 dm-4 dm-5 mmcblk0 mmcblk0p1 mmcblk0p2 vda sr0 nvme0n1 sdb sdc'.split(' '),
  );
  expect(devices.get('sda')).toEqual([
    25354637, 34367663, 1003346126, 18492372, 28444756, 11134226, 505697032, 63877960, 0, 9653880, 82621804,
  ]);
  expect(devices.get('sdb')?.slice(11)).toEqual([68851, 0, 1925173784, 11130]);
  expect(devices.get('sdc')?.slice(11)).toEqual([18851, 0, 125173784, 11130, 1555, 1944]);
});

test('leaves out lines that are too short, and a torn one', () => {
  expect([
    ...parseDiskstats('   8    1 sda1 1 2 3 4\n 8 0 sda 1 2 3 4 5 6 7 8 9 10 11\n 8 16 sdb 1 2 3').keys(),
  ]).toEqual(['sda']);
});

const line = (device: string, ...counters: number[]): string => ` 8 0 ${device} ${counters.join(' ')}\n`;

test('rates, latencies, queue and utilisation over the time that passed', async () => {
  using tree = new SteppedTree().write(
    'proc/diskstats',
    line('sda', 100, 10, 2000, 400, 50, 5, 1000, 600, 1, 900, 1000, 7, 0, 64, 70, 3, 9),
  );
  const source = diskIo(tree.context);
  await source.open();
  const sample = async () => rows((await source.sample()).disk_io, 'device');
  expect(await sample()).toEqual({ sda: { in_flight_count: 1 } });
  tree
    .write('proc/diskstats', line('sda', 120, 14, 4000, 500, 90, 25, 9000, 1400, 3, 1900, 2500, 9, 0, 128, 74, 5, 19))
    .context.clock.advance(2);
  expect((await sample()).sda).toEqual({
    read_bytes_per_second: 512_000,
    write_bytes_per_second: 2_048_000,
    read_operations_per_second: 10,
    write_operations_per_second: 20,
    read_merges_per_second: 2,
    write_merges_per_second: 10,
    read_latency_seconds: 0.005,
    write_latency_seconds: 0.02,
    latency_seconds: 0.015,
    queue_count: 0.75,
    in_flight_count: 3,
    utilization_percent: 50,
    discard_bytes_per_second: 16_384,
    discard_operations_per_second: 1,
    discard_latency_seconds: 0.002,
    flush_operations_per_second: 1,
    flush_latency_seconds: 0.005,
  });
  tree.context.clock.advance(1);
  const idle = (await sample()).sda;
  expect(idle).toMatchObject({ read_bytes_per_second: 0, utilization_percent: 0, queue_count: 0 });
  expect(idle).not.toHaveProperty('latency_seconds');
  expect(idle).not.toHaveProperty('flush_latency_seconds');
  await source.close();
});

test('a disk that is added, one that is removed and comes back, and a counter that wraps', async () => {
  const at = (device: string, sectors: number, readTime = 0): string =>
    line(device, 1, 0, sectors, readTime, 0, 0, 0, 0, 0, 0, 0);
  using tree = new SteppedTree().write('proc/diskstats', at('sda', 100, 2 ** 32 - 10));
  const source = diskIo(tree.context);
  await source.open();
  const step = async (text: string) => {
    tree.write('proc/diskstats', text).context.clock.advance(1);
    return rows((await source.sample()).disk_io, 'device');
  };
  await source.sample();
  const added = await step(at('sda', 102, 4) + at('sdb', 1_000_000));
  expect(added.sda?.read_bytes_per_second).toBe(1024);
  // The time of reads has 32 bits, and wrapped.
  expect(added.sda).not.toHaveProperty('read_latency_seconds');
  expect(added.sdb).toEqual({ in_flight_count: 0 });
  expect((await step(at('sda', 102) + at('sdb', 1_000_008))).sdb?.read_bytes_per_second).toBe(4096);
  expect(Object.keys(await step(at('sda', 102)))).toEqual(['sda']);
  expect((await step(at('sda', 102) + at('sdb', 1_000_016))).sdb).toEqual({ in_flight_count: 0 });
  const reset = await step(at('sda', 2) + at('sdb', 1_000_016));
  expect(reset.sda).not.toHaveProperty('read_bytes_per_second');
  expect(reset.sdb?.read_bytes_per_second).toBe(0);
  await source.close();
});

test('16 MiB written by dd in a virtual machine are 16 MiB', async () => {
  for (const system of ['debian-5.10', 'debian-6.1-arm64']) {
    using tree = new SteppedTree(`${system}/0`);
    const source = diskIo(tree.context);
    await source.open();
    await source.sample();
    tree.put(`${system}/1`).context.clock.advance(1);
    const written = rows((await source.sample()).disk_io, 'device').vda?.write_bytes_per_second as number;
    expect(written).toBeGreaterThanOrEqual(16 * 2 ** 20);
    expect(written).toBeLessThan(17 * 2 ** 20);
    await source.close();
  }
});

test('without /proc/diskstats it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => diskIo(tree.context).open()).toThrow('proc/diskstats does not exist here');
});
