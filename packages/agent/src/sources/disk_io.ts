import { join } from 'node:path';
import type { DiskIo, Tables } from '@fleetreel/proto';
import { emptyTable } from '#columns.ts';
import { Cursor, KernelFile } from '#files.ts';
import { CounterHistory, mean, Rates } from '#rates.ts';
import type { Context, Source } from '#source.ts';

/** RAM disks, loop devices and partitions: what node_exporter leaves out too. */
const excludedDevices = /^(?:ram|loop|fd|(?:h|s|v|xv)d[a-z]|nvme\d+n\d+p)\d+$/;

/** The kernel counts sectors of this size, whatever the device's own are. */
const sector_bytes = 512;

/** Counters of a line in /proc/diskstats by their place in it; times are in milliseconds. */
const at = {
  reads: 0,
  readMerges: 1,
  readSectors: 2,
  readTime: 3,
  writes: 4,
  writeMerges: 5,
  writeSectors: 6,
  writeTime: 7,
  inFlight: 8,
  busyTime: 9,
  queueTime: 10,
  discards: 11,
  discardSectors: 13,
  discardTime: 14,
  flushes: 15,
  flushTime: 16,
} as const;
const countersMin = 11;
const countersMax = 17;

/**
 * The counters of each device, in the order of `at`: 11 before Linux 4.18, 15 with discards, 17 with flushes since 5.5.
 * Shorter lines (partitions of Linux 2.6) are left out.
 * @see https://docs.kernel.org/admin-guide/iostats.html
 */
export function parseDiskstats(text: string): Map<string, readonly number[]> {
  const devices = new Map<string, readonly number[]>();
  for (const cursor = new Cursor(text); !cursor.atEnd; cursor.nextLine()) {
    cursor.skip(2);
    const device = cursor.word();
    const counters: number[] = [];
    while (counters.length < countersMax && !cursor.atLineEnd) counters.push(cursor.number());
    if (counters.length >= countersMin && !excludedDevices.test(device)) devices.set(device, counters);
  }
  return devices;
}

/** Traffic of block devices. */
export function diskIo({ roots, clock }: Context): Source {
  const diskstats = new KernelFile(join(roots.proc, 'diskstats'));
  const history = new CounterHistory();
  return {
    name: 'disk_io',
    tables: ['disk_io'],
    open: () => diskstats.open(),
    sample(): Tables {
      const devices = parseDiskstats(diskstats.text());
      const seconds = history.begin(clock.monotonic_ms());
      const table = emptyTable('disk_io');
      for (const [device, counters] of devices)
        pushDevice(table, device, counters, new Rates(history.exchange(device, counters), counters, seconds));
      return { disk_io: table };
    },
    close: () => diskstats.close(),
  };
}

function pushDevice(table: DiskIo, device: string, counters: readonly number[], rates: Rates): void {
  const latency = (time: number, operations: number): number => mean(time, operations) / 1000;
  const reads = rates.increase(at.reads);
  const writes = rates.increase(at.writes);
  const readTime = rates.increase(at.readTime);
  const writeTime = rates.increase(at.writeTime);
  table.device.push(device);
  table.read_bytes_per_second.push(rates.perSecond(at.readSectors, sector_bytes));
  table.write_bytes_per_second.push(rates.perSecond(at.writeSectors, sector_bytes));
  table.read_operations_per_second.push(rates.perSecond(at.reads));
  table.write_operations_per_second.push(rates.perSecond(at.writes));
  table.read_merges_per_second.push(rates.perSecond(at.readMerges));
  table.write_merges_per_second.push(rates.perSecond(at.writeMerges));
  table.read_latency_seconds.push(latency(readTime, reads));
  table.write_latency_seconds.push(latency(writeTime, writes));
  table.latency_seconds.push(latency(readTime + writeTime, reads + writes));
  table.queue_count.push(rates.perSecond(at.queueTime, 1e-3));
  table.in_flight_count.push(counters[at.inFlight] ?? Number.NaN);
  // Above 100 only by the rounding of the kernel's clock.
  table.utilization_percent.push(Math.min(rates.perSecond(at.busyTime, 0.1), 100));
  table.discard_bytes_per_second.push(rates.perSecond(at.discardSectors, sector_bytes));
  table.discard_operations_per_second.push(rates.perSecond(at.discards));
  table.discard_latency_seconds.push(latency(rates.increase(at.discardTime), rates.increase(at.discards)));
  table.flush_operations_per_second.push(rates.perSecond(at.flushes));
  table.flush_latency_seconds.push(latency(rates.increase(at.flushTime), rates.increase(at.flushes)));
}
