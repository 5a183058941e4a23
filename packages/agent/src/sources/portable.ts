import { cpus, loadavg, uptime } from 'node:os';
import type { Cpu, DiskIo, Filesystem, Load, Memory, NetInterface, Tables } from '@fleetreel/proto';
import type { Systeminformation } from 'systeminformation';
import { emptyTable, singleRow } from '#columns.ts';
import { CounterHistory, percent, Rates } from '#rates.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

// The sources of macOS and Windows. They ask systeminformation, which starts programs for most answers: hence their own
// slower clocks. On Linux they serve to compare the direct sources with.

const disksEvery_ms = 5_000;
const filesystemsEvery_ms = 30_000;
const interfacesEvery_ms = 5_000;

const absent = Number.NaN;

/** Loaded only where it is used. */
const information = async (): Promise<typeof import('systeminformation')> =>
  (await import('systeminformation')).default;

/** The cores' times, the frequency and the load, as Node itself tells them. */
export function portableCpu({ clock, platform }: Context): Source {
  const history = new CounterHistory();
  return {
    name: 'cpu',
    tables: ['cpu', 'load'],
    open() {},
    sample(): Tables {
      history.begin(clock.monotonic_ms());
      const [load_1m_count = absent, load_5m_count = absent, load_15m_count = absent] =
        platform === 'win32' ? [] : loadavg();
      const load = singleRow<Load>({
        ...absentLoad,
        load_1m_count,
        load_5m_count,
        load_15m_count,
        uptime_seconds: uptime(),
      });
      return { cpu: portableCpuTable(cpus(), history), load };
    },
    close() {},
  };
}

const absentLoad = {
  tasks_runnable_count: absent,
  tasks_blocked_count: absent,
  tasks_count: absent,
  context_switches_per_second: absent,
  interrupts_per_second: absent,
  softirqs_per_second: absent,
  forks_per_second: absent,
  file_descriptors_count: absent,
  file_descriptors_limit_count: absent,
};

/** What `os.cpus()` tells of a core: milliseconds in each state since the start, and MHz. */
type Core = { speed: number; times: { user: number; nice: number; sys: number; idle: number; irq: number } };

/** The table of all cores, "total" first. */
export function portableCpuTable(cores: readonly Core[], history: CounterHistory): Cpu {
  const table = emptyTable('cpu');
  const push = (core: string, passed: readonly number[], frequency_hertz: number): void => {
    const [user = absent, nice = absent, system = absent, idle = absent, irq = absent] = passed;
    const sum = user + nice + system + idle + irq;
    table.core.push(core);
    table.used_percent.push(percent(sum - idle, sum));
    table.user_percent.push(percent(user, sum));
    table.nice_percent.push(percent(nice, sum));
    table.system_percent.push(percent(system, sum));
    table.idle_percent.push(percent(idle, sum));
    table.irq_percent.push(percent(irq, sum));
    // 0 where Node can't tell it.
    table.frequency_hertz.push(frequency_hertz > 0 ? frequency_hertz : absent);
  };
  const passed = cores.map(({ times }, core) => {
    const counters = [times.user, times.nice, times.sys, times.idle, times.irq];
    const rates = new Rates(history.exchange(String(core), counters), counters, absent);
    return counters.map((_, place) => rates.increase(place));
  });
  const known = passed.filter((core) => !core.some(Number.isNaN));
  const total = [0, 1, 2, 3, 4].map((place) => known.reduce((sum, core) => sum + core[place]!, 0));
  push('total', total, (cores.reduce((sum, { speed }) => sum + speed, 0) / cores.length) * 1e6);
  for (const [core, { speed }] of cores.entries()) push(String(core), passed[core] ?? [], speed * 1e6);
  return table;
}

/** Physical memory and swap. */
export function portableMemory(context: Context): Source {
  return {
    name: 'memory',
    tables: ['memory'],
    open() {},
    async sample(): Promise<Tables> {
      return { memory: portableMemoryTable(await (await information()).mem(), context.platform) };
    },
    close() {},
  };
}

/** What systeminformation does not know on this platform it fills with 0: those are absent here. */
export function portableMemoryTable(mem: Systeminformation.MemData, platform: NodeJS.Platform): Memory {
  const onLinux = (value: number | null): number => (platform === 'linux' ? (value ?? absent) : absent);
  return singleRow<Memory>({
    total_bytes: mem.total,
    available_bytes: mem.available,
    used_bytes: mem.total - mem.available,
    used_percent: percent(mem.total - mem.available, mem.total),
    free_bytes: mem.free,
    buffers_bytes: onLinux(mem.buffers),
    cached_bytes: onLinux(mem.cached),
    slab_bytes: onLinux(mem.slab),
    slab_reclaimable_bytes: onLinux(mem.reclaimable),
    shared_bytes: absent,
    anonymous_bytes: absent,
    mapped_bytes: absent,
    page_tables_bytes: absent,
    dirty_bytes: onLinux(mem.dirty),
    writeback_bytes: onLinux(mem.writeback),
    committed_bytes: absent,
    commit_limit_bytes: absent,
    swap_total_bytes: mem.swaptotal,
    swap_used_bytes: mem.swapused,
    swap_free_bytes: mem.swapfree,
    huge_pages_total_bytes: absent,
    huge_pages_free_bytes: absent,
    anonymous_huge_pages_bytes: absent,
    page_in_bytes_per_second: absent,
    page_out_bytes_per_second: absent,
    swap_in_bytes_per_second: absent,
    swap_out_bytes_per_second: absent,
    minor_faults_per_second: absent,
    major_faults_per_second: absent,
    oom_kills_per_second: absent,
  });
}

/** Traffic of all disks together, as the device "total"; nothing on Windows. */
export function portableDiskIo({ clock, platform }: Context): Source {
  const history = new CounterHistory();
  return {
    name: 'disk_io',
    tables: ['disk_io'],
    every_ms: disksEvery_ms,
    open() {
      if (platform === 'win32') throw new Unavailable('The traffic of disks is not told on Windows');
    },
    async sample(): Promise<Tables> {
      const { disksIO, fsStats } = await information();
      const [operations, bytes] = [await disksIO(), await fsStats()];
      const counters = [operations?.rIO ?? 0, operations?.wIO ?? 0, bytes?.rx ?? 0, bytes?.wx ?? 0];
      const seconds = history.begin(clock.monotonic_ms());
      // Zeros are how systeminformation says that its program failed.
      if (counters.every((counter) => counter === 0)) return {};
      return { disk_io: portableDiskTable(new Rates(history.exchange('total', counters), counters, seconds)) };
    },
    close() {},
  };
}

function portableDiskTable(rates: Rates): DiskIo {
  return {
    ...singleRow<Omit<DiskIo, 'device'>>({
      read_bytes_per_second: rates.perSecond(2),
      write_bytes_per_second: rates.perSecond(3),
      read_operations_per_second: rates.perSecond(0),
      write_operations_per_second: rates.perSecond(1),
      read_merges_per_second: absent,
      write_merges_per_second: absent,
      read_latency_seconds: absent,
      write_latency_seconds: absent,
      latency_seconds: absent,
      queue_count: absent,
      in_flight_count: absent,
      utilization_percent: absent,
      discard_bytes_per_second: absent,
      discard_operations_per_second: absent,
      discard_latency_seconds: absent,
      flush_operations_per_second: absent,
      flush_latency_seconds: absent,
    }),
    device: ['total'],
  };
}

/** Room in mounted file systems. */
export function portableFilesystem(_context: Context): Source {
  return {
    name: 'filesystem',
    tables: ['filesystem'],
    every_ms: filesystemsEvery_ms,
    open() {},
    async sample(): Promise<Tables> {
      return { filesystem: portableFilesystemTable(await (await information()).fsSize()) };
    },
    close() {},
  };
}

export function portableFilesystemTable(mounts: readonly Systeminformation.FsSizeData[]): Filesystem {
  const table = emptyTable('filesystem');
  const seen = new Set<string>();
  for (const { mount, fs, type, size, used, available, rw } of mounts) {
    if (seen.has(mount)) continue;
    seen.add(mount);
    table.mount.push(mount);
    table.device.push(fs);
    table.type.push(type);
    table.size_bytes.push(size);
    table.used_bytes.push(used);
    table.free_bytes.push(size - used);
    table.available_bytes.push(available);
    table.used_percent.push(percent(used, used + available));
    table.read_only_flag.push(rw === null ? absent : rw ? 0 : 1);
    table.unresponsive_flag.push(0);
  }
  return table;
}

/** Traffic and links of network interfaces. */
export function portableNetInterface({ clock }: Context): Source {
  const history = new CounterHistory();
  return {
    name: 'net_interface',
    tables: ['net_interface'],
    every_ms: interfacesEvery_ms,
    open() {},
    async sample(): Promise<Tables> {
      const stats = await (await information()).networkStats('*');
      const seconds = history.begin(clock.monotonic_ms());
      return { net_interface: portableInterfaceTable(stats, history, seconds) };
    },
    close() {},
  };
}

export function portableInterfaceTable(
  stats: readonly Systeminformation.NetworkStatsData[],
  history: CounterHistory,
  seconds: number,
): NetInterface {
  const table = emptyTable('net_interface');
  for (const { iface, operstate, rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped } of stats) {
    const counters = [rx_bytes, tx_bytes, rx_errors, tx_errors, rx_dropped, tx_dropped];
    const rates = new Rates(history.exchange(iface, counters), counters, seconds);
    table.interface.push(iface);
    table.receive_bytes_per_second.push(rates.perSecond(0));
    table.transmit_bytes_per_second.push(rates.perSecond(1));
    table.receive_errors_per_second.push(rates.perSecond(2));
    table.transmit_errors_per_second.push(rates.perSecond(3));
    table.receive_drops_per_second.push(rates.perSecond(4));
    table.transmit_drops_per_second.push(rates.perSecond(5));
    table.link_up_flag.push(operstate === 'up' || operstate === 'unknown' ? 1 : 0);
  }
  return table;
}
