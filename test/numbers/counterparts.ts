// What node_exporter calls the columns of the catalogue: the other witness of the test beside it.
import { execFileSync } from 'node:child_process';
import type { Labels, Scrape } from './node_exporter.ts';
import type { Row } from './watch.ts';

const MiB = 1024 * 1024;
const page_bytes = Number(execFileSync('getconf', ['PAGESIZE'], { encoding: 'utf8' }));

type Expression = (scrape: Scrape, labels: Labels) => number;
type Options = {
  /** How far our value may be outside of the exporter's two, and why; 0 where nothing is said. */
  slack?: number | Expression;
  /** Why the exporter may tell nothing where we do. */
  untold?: string;
};

/** A value that is as it is at this moment: between what the exporter says shortly before and shortly after. */
export type Gauge = { kind: 'gauge'; expression: Expression } & Options;
/**
 * A rate of ours whose counter the exporter tells. `rate` is what the counter grows by in a second, made of our row;
 * the column itself where nothing is said.
 */
export type Counter = { kind: 'counter'; expression: Expression; rate?: (values: Row['values']) => number } & Options;
/** No counterpart, and the reason. */
export type None = { kind: 'none'; why: string };
export type Counterpart = Gauge | Counter | None;

const gauge = (expression: Expression, options: Options = {}): Gauge => ({ kind: 'gauge', expression, ...options });
const counter = (expression: Expression, options: Omit<Counter, 'kind' | 'expression'> = {}): Counter => ({
  kind: 'counter',
  expression,
  ...options,
});
const none = (why: string): None => ({ kind: 'none', why });

/** The sample of this metric, the same for all rows. */
const the =
  (name: string, scale = 1): Expression =>
  (scrape) =>
    scrape.sum(name) * scale;

// -- cpu ------------------------------------------------------------------------------------------------------------

/** Seconds of a state of a core, or the mean of the cores. */
const state =
  (...modes: string[]): Expression =>
  (scrape, { core = '' }) => {
    const cores = core === 'total' ? scrape.labels('node_cpu_seconds_total', 'cpu') : [core];
    const guests = (mode: string, cpu: string) => scrape.sum('node_cpu_guest_seconds_total', { cpu, mode });
    const seconds = (mode: string, cpu: string) =>
      mode === 'guest'
        ? guests('user', cpu) + guests('nice', cpu)
        : // The kernel counts guests twice, in their own state and in these; we don't.
          scrape.sum('node_cpu_seconds_total', { cpu, mode }) -
          (mode === 'user' || mode === 'nice' ? guests(mode, cpu) : 0);
    const all = cores.flatMap((cpu) => modes.map((mode) => seconds(mode, cpu)));
    return all.reduce((sum, value) => sum + value, 0) / cores.length;
  };

/** The kernel counts in ticks of 1/100 s, and a core that sleeps is counted when it wakes. */
const share = (column: string, ...modes: string[]): Counter =>
  counter(state(...modes), { rate: (values) => (values[column] ?? Number.NaN) / 100, slack: 0.1 });

const cpu: Record<string, Counterpart> = {
  used_percent: share('used_percent', 'user', 'nice', 'system', 'irq', 'softirq', 'steal', 'guest'),
  user_percent: share('user_percent', 'user'),
  nice_percent: share('nice_percent', 'nice'),
  system_percent: share('system_percent', 'system'),
  idle_percent: share('idle_percent', 'idle'),
  iowait_percent: share('iowait_percent', 'iowait'),
  irq_percent: share('irq_percent', 'irq'),
  softirq_percent: share('softirq_percent', 'softirq'),
  steal_percent: share('steal_percent', 'steal'),
  guest_percent: share('guest_percent', 'guest'),
  frequency_hertz: gauge(
    (scrape, { core = '' }) => scrape.mean('node_cpu_scaling_frequency_hertz', core === 'total' ? {} : { cpu: core }),
    {
      // It changes within milliseconds, and ours is read every 5 s: it can be anything that the core can do.
      slack: (scrape) =>
        scrape.mean('node_cpu_scaling_frequency_max_hertz') - scrape.mean('node_cpu_scaling_frequency_min_hertz'),
      untold: 'without cpufreq only /proc/cpuinfo knows it, which the exporter does not tell as a metric',
    },
  ),
};

const load: Record<string, Counterpart> = {
  load_1m_count: gauge(the('node_load1')),
  load_5m_count: gauge(the('node_load5')),
  load_15m_count: gauge(the('node_load15')),
  // Whoever reads is running itself; the exporter reads with several threads at once.
  tasks_runnable_count: gauge(the('node_procs_running'), { slack: 4 }),
  tasks_blocked_count: gauge(the('node_procs_blocked'), { slack: 2 }),
  // The exporter walks through /proc and leaves out what ends meanwhile.
  tasks_count: gauge(the('node_processes_threads'), { slack: 8 }),
  context_switches_per_second: counter(the('node_context_switches_total')),
  interrupts_per_second: counter(the('node_intr_total')),
  softirqs_per_second: counter(the('node_softirqs_total')),
  forks_per_second: counter(the('node_forks_total')),
  file_descriptors_count: gauge(the('node_filefd_allocated'), { slack: 64 }),
  file_descriptors_limit_count: gauge(the('node_filefd_maximum')),
  // The exporter's time of boot is in whole seconds.
  uptime_seconds: gauge((scrape) => scrape.sum('node_time_seconds') - scrape.sum('node_boot_time_seconds'), {
    slack: 1.1,
  }),
};

// -- memory ---------------------------------------------------------------------------------------------------------

/** Other programs take and give back memory between two readings. */
const memoryGauge = (expression: Expression): Gauge => gauge(expression, { slack: 16 * MiB });
const total = the('node_memory_MemTotal_bytes');
const available = the('node_memory_MemAvailable_bytes');
const used: Expression = (...at) => total(...at) - available(...at);
const hugePages =
  (name: string): Expression =>
  (scrape) =>
    scrape.sum(name) * scrape.sum('node_memory_Hugepagesize_bytes');

const memory: Record<string, Counterpart> = {
  total_bytes: gauge(total),
  available_bytes: memoryGauge(available),
  used_bytes: memoryGauge(used),
  used_percent: gauge((...at) => (used(...at) / total(...at)) * 100, {
    slack: (...at) => ((16 * MiB) / total(...at)) * 100,
  }),
  free_bytes: memoryGauge(the('node_memory_MemFree_bytes')),
  buffers_bytes: memoryGauge(the('node_memory_Buffers_bytes')),
  cached_bytes: memoryGauge(the('node_memory_Cached_bytes')),
  slab_bytes: memoryGauge(the('node_memory_Slab_bytes')),
  slab_reclaimable_bytes: memoryGauge(the('node_memory_SReclaimable_bytes')),
  shared_bytes: memoryGauge(the('node_memory_Shmem_bytes')),
  anonymous_bytes: memoryGauge(the('node_memory_AnonPages_bytes')),
  mapped_bytes: memoryGauge(the('node_memory_Mapped_bytes')),
  page_tables_bytes: gauge(the('node_memory_PageTables_bytes'), { slack: MiB }),
  dirty_bytes: memoryGauge(the('node_memory_Dirty_bytes')),
  writeback_bytes: memoryGauge(the('node_memory_Writeback_bytes')),
  // What is promised is a multiple of what is used.
  committed_bytes: gauge(the('node_memory_Committed_AS_bytes'), { slack: 64 * MiB }),
  commit_limit_bytes: gauge(the('node_memory_CommitLimit_bytes')),
  swap_total_bytes: gauge(the('node_memory_SwapTotal_bytes')),
  swap_used_bytes: memoryGauge(
    (scrape) => scrape.sum('node_memory_SwapTotal_bytes') - scrape.sum('node_memory_SwapFree_bytes'),
  ),
  swap_free_bytes: memoryGauge(the('node_memory_SwapFree_bytes')),
  huge_pages_total_bytes: gauge(hugePages('node_memory_HugePages_Total')),
  huge_pages_free_bytes: gauge(hugePages('node_memory_HugePages_Free')),
  anonymous_huge_pages_bytes: memoryGauge(the('node_memory_AnonHugePages_bytes')),
  page_in_bytes_per_second: counter(the('node_vmstat_pgpgin', 1024)),
  page_out_bytes_per_second: counter(the('node_vmstat_pgpgout', 1024)),
  swap_in_bytes_per_second: counter(the('node_vmstat_pswpin', page_bytes)),
  swap_out_bytes_per_second: counter(the('node_vmstat_pswpout', page_bytes)),
  minor_faults_per_second: counter(
    (scrape) => scrape.sum('node_vmstat_pgfault') - scrape.sum('node_vmstat_pgmajfault'),
  ),
  major_faults_per_second: counter(the('node_vmstat_pgmajfault')),
  oom_kills_per_second: counter(the('node_vmstat_oom_kill')),
};

/** Percent of the time is a growth of one second in a hundred. */
const stall = (column: string, ending: 'waiting' | 'stalled'): Counter =>
  counter((scrape, { resource }) => scrape.sum(`node_pressure_${resource}_${ending}_seconds_total`), {
    rate: (values) => (values[column] ?? Number.NaN) / 100,
    // The kernel brings its sums up to date every two seconds and when it is asked.
    slack: 0.05,
    untold: 'the exporter tells no time in which all tasks waited for a core, and since 1.9 that of interrupts',
  });
const average = none("the exporter leaves the kernel's averages out");

const pressure: Record<string, Counterpart> = {
  some_percent: stall('some_percent', 'waiting'),
  full_percent: stall('full_percent', 'stalled'),
  some_10s_percent: average,
  some_60s_percent: average,
  some_300s_percent: average,
  full_10s_percent: average,
  full_60s_percent: average,
  full_300s_percent: average,
};

// -- disks ----------------------------------------------------------------------------------------------------------

const disk =
  (name: string, scale = 1): Expression =>
  (scrape, { device = '' }) =>
    scrape.sum(`node_disk_${name}`, { device }) * scale;

/** The kernel counts these times in milliseconds, per request. */
const diskTime_s = 0.02;

/** A mean time per operation: times the operations, it is the growth of the counter of time. */
const latency = (name: string, ...operations: string[]): Counter =>
  counter(disk(name), {
    rate: (values) => {
      const count = operations.reduce((sum, operation) => sum + (values[`${operation}_operations_per_second`] ?? 0), 0);
      const mean = values[operations.length > 1 ? 'latency_seconds' : `${operations[0]}_latency_seconds`] ?? Number.NaN;
      return count === 0 ? 0 : mean * count;
    },
    slack: diskTime_s,
  });

const disk_io: Record<string, Counterpart> = {
  read_bytes_per_second: counter(disk('read_bytes_total')),
  write_bytes_per_second: counter(disk('written_bytes_total')),
  read_operations_per_second: counter(disk('reads_completed_total')),
  write_operations_per_second: counter(disk('writes_completed_total')),
  read_merges_per_second: counter(disk('reads_merged_total')),
  write_merges_per_second: counter(disk('writes_merged_total')),
  read_latency_seconds: latency('read_time_seconds_total', 'read'),
  write_latency_seconds: latency('write_time_seconds_total', 'write'),
  latency_seconds: {
    ...latency('', 'read', 'write'),
    expression: (...at) => disk('read_time_seconds_total')(...at) + disk('write_time_seconds_total')(...at),
  },
  queue_count: counter(disk('io_time_weighted_seconds_total'), { slack: diskTime_s }),
  in_flight_count: gauge(disk('io_now'), { slack: 2 }),
  utilization_percent: counter(disk('io_time_seconds_total'), {
    rate: ({ utilization_percent = Number.NaN }) => utilization_percent / 100,
    slack: diskTime_s,
  }),
  discard_bytes_per_second: counter(disk('discarded_sectors_total', 512)),
  discard_operations_per_second: counter(disk('discards_completed_total')),
  discard_latency_seconds: latency('discard_time_seconds_total', 'discard'),
  flush_operations_per_second: counter(disk('flush_requests_total')),
  flush_latency_seconds: latency('flush_requests_time_seconds_total', 'flush'),
};

const mounted =
  (name: string): Expression =>
  (scrape, { mount: mountpoint = '', device = '', type: fstype = '' }) =>
    scrape.sum(`node_filesystem_${name}`, { mountpoint, device, fstype });
const size = mounted('size_bytes');
const free = mounted('free_bytes');
const availableTo = mounted('avail_bytes');
const usedOf: Expression = (...at) => size(...at) - free(...at);
const usable: Expression = (...at) => usedOf(...at) + availableTo(...at);
/** Other programs write and remove files between two readings. */
const files = { slack: 16 };
const room = { slack: 16 * MiB };

const filesystem: Record<string, Counterpart> = {
  size_bytes: gauge(size),
  used_bytes: gauge(usedOf, room),
  free_bytes: gauge(free, room),
  available_bytes: gauge(availableTo, room),
  used_percent: gauge((...at) => (usedOf(...at) / usable(...at)) * 100, {
    slack: (...at) => (Math.min(16 * MiB, usable(...at)) / usable(...at)) * 100,
  }),
  inodes_count: gauge(mounted('files')),
  inodes_used_count: gauge((...at) => mounted('files')(...at) - mounted('files_free')(...at), files),
  inodes_free_count: gauge(mounted('files_free'), files),
  read_only_flag: gauge(mounted('readonly')),
  unresponsive_flag: gauge(mounted('device_error')),
};

// -- network --------------------------------------------------------------------------------------------------------

const link =
  (name: string): Expression =>
  (scrape, { interface: device = '' }) =>
    scrape.sum(`node_network_${name}`, { device });

const net_interface: Record<string, Counterpart> = {
  receive_bytes_per_second: counter(link('receive_bytes_total')),
  transmit_bytes_per_second: counter(link('transmit_bytes_total')),
  receive_packets_per_second: counter(link('receive_packets_total')),
  transmit_packets_per_second: counter(link('transmit_packets_total')),
  receive_errors_per_second: counter(link('receive_errs_total')),
  transmit_errors_per_second: counter(link('transmit_errs_total')),
  receive_drops_per_second: counter(link('receive_drop_total')),
  transmit_drops_per_second: counter(link('transmit_drop_total')),
  receive_multicast_per_second: counter(link('receive_multicast_total')),
  collisions_per_second: counter(link('transmit_colls_total')),
  // The exporter's own flag takes "unknown", which loopback and tunnels say, as down; the kernel asks to take it as up.
  link_up_flag: gauge((scrape, { interface: device = '' }) =>
    scrape.labels('node_network_info', 'operstate', { device }).some((text) => text === 'up' || text === 'unknown')
      ? 1
      : 0,
  ),
  speed_bytes_per_second: gauge(link('speed_bytes')),
  mtu_bytes: gauge(link('mtu_bytes')),
  carrier_changes_total: gauge(link('carrier_changes_total')),
};

const netstat =
  (...names: string[]): Expression =>
  (scrape) =>
    names.reduce((sum, name) => sum + scrape.sum(`node_netstat_${name}`), 0);
/** Connections come and go between two readings. */
const connections = { slack: 4 };

const tcp: Record<string, Counterpart> = {
  established_count: gauge(netstat('Tcp_CurrEstab'), connections),
  active_opens_per_second: counter(netstat('Tcp_ActiveOpens')),
  passive_opens_per_second: counter(netstat('Tcp_PassiveOpens')),
  attempt_failures_per_second: counter(netstat('Tcp_AttemptFails')),
  resets_per_second: counter(netstat('Tcp_EstabResets')),
  receive_segments_per_second: counter(netstat('Tcp_InSegs')),
  transmit_segments_per_second: counter(netstat('Tcp_OutSegs')),
  retransmitted_segments_per_second: counter(netstat('Tcp_RetransSegs')),
  syn_retransmits_per_second: counter(netstat('TcpExt_TCPSynRetrans')),
  timeouts_per_second: counter(netstat('TcpExt_TCPTimeouts')),
  receive_errors_per_second: counter(netstat('Tcp_InErrs')),
  transmit_resets_per_second: counter(netstat('Tcp_OutRsts')),
  listen_overflows_per_second: counter(netstat('TcpExt_ListenOverflows')),
  listen_drops_per_second: counter(netstat('TcpExt_ListenDrops')),
};

const tcp_connection: Record<string, Counterpart> = {
  // The exporter leaves out a state in which there is none.
  connections_count: gauge(
    (scrape, { state = '' }) => scrape.sum('node_tcp_connection_states', { state }) || 0,
    connections,
  ),
};

const bothUdp = (name: string): Counter => counter(netstat(`Udp_${name}`, `Udp6_${name}`));

const udp: Record<string, Counterpart> = {
  receive_datagrams_per_second: bothUdp('InDatagrams'),
  transmit_datagrams_per_second: bothUdp('OutDatagrams'),
  receive_errors_per_second: bothUdp('InErrors'),
  no_ports_per_second: bothUdp('NoPorts'),
  receive_buffer_errors_per_second: bothUdp('RcvbufErrors'),
  transmit_buffer_errors_per_second: bothUdp('SndbufErrors'),
  checksum_errors_per_second: bothUdp('InCsumErrors'),
};

/** Each core keeps up to 1 MiB of its own before the kernel's sum changes. */
const socketMemory = { slack: 2 * MiB };

const network: Record<string, Counterpart> = {
  sockets_used_count: gauge(the('node_sockstat_sockets_used'), connections),
  tcp_sockets_count: gauge(the('node_sockstat_TCP_inuse'), connections),
  tcp_orphans_count: gauge(the('node_sockstat_TCP_orphan'), connections),
  tcp_time_wait_count: gauge(the('node_sockstat_TCP_tw'), connections),
  tcp_memory_bytes: gauge(the('node_sockstat_TCP_mem_bytes'), socketMemory),
  udp_sockets_count: gauge(the('node_sockstat_UDP_inuse'), connections),
  udp_memory_bytes: gauge(the('node_sockstat_UDP_mem_bytes'), socketMemory),
  conntrack_entries_count: gauge(the('node_nf_conntrack_entries'), connections),
  conntrack_limit_count: gauge(the('node_nf_conntrack_entries_limit')),
  softnet_processed_per_second: counter(the('node_softnet_processed_total')),
  softnet_drops_per_second: counter(the('node_softnet_dropped_total')),
  softnet_squeezes_per_second: counter(the('node_softnet_times_squeezed_total')),
};

const clock: Record<string, Counterpart> = {
  // What the kernel still has to correct, which gets less from second to second.
  offset_seconds: gauge(the('node_timex_offset_seconds'), { slack: 0.001 }),
  maximum_error_seconds: gauge(the('node_timex_maxerror_seconds'), { slack: 0.001 }),
  estimated_error_seconds: gauge(the('node_timex_estimated_error_seconds'), { slack: 0.001 }),
  synchronized_flag: gauge(the('node_timex_sync_status')),
};

/** Tables about Fleetreel itself. */
const own = none('it is about the agent, and not about the machine');

/** By table and column, every column of the catalogue. */
export const counterparts: Readonly<Record<string, Readonly<Record<string, Counterpart>>>> = {
  source: { duration_seconds: own },
  agent: {
    cpu_percent: own,
    resident_memory_bytes: own,
    heap_used_bytes: own,
    tick_duration_seconds: own,
    ticks_skipped_total: own,
    queue_frames_count: own,
    queue_bytes: own,
    queue_age_seconds: own,
    frames_published_total: own,
    frames_dropped_total: own,
    publish_latency_seconds: own,
    reconnects_total: own,
    events_dropped_total: own,
    spool_frames_count: own,
    spool_bytes: own,
    spool_age_seconds: own,
    spool_dropped_frames_total: own,
    spool_corrupt_records_total: own,
  },
  cpu,
  load,
  memory,
  pressure,
  disk_io,
  filesystem,
  net_interface,
  tcp,
  tcp_connection,
  udp,
  network,
  clock,
};

/** Tables of which the exporter tells nothing here, and what they are compared with instead. */
export const apart: Readonly<Record<string, string>> = {
  event: 'what happened between two scrapes is not told by counters',
  sensor: 'the tests have no sensors: captured trees',
  power: 'the tests have no powercap zones: captured trees',
  battery: 'the tests have no batteries: captured trees',
  process: 'the exporter knows no single process: processes.test.ts compares with the kernel',
  process_state:
    'the exporter counts the short-lived scan of another moment: processes.test.ts compares with the kernel',
  process_class: 'classes are ours',
  perf: 'the exporter needs rights of its own for it: perf.servers.test.ts runs perf itself',
  container: 'the exporter knows no containers: known load in real ones',
  vm: 'the exporter knows no machines: known load in a real one',
  vm_vcpu: 'as vm',
  vm_block: 'as vm',
  vm_net: 'as vm',
  gpu: 'the tests have no GPU: a stand-in library and captured trees',
  gpu_process: 'as gpu',
  llm_server: 'the exporter knows no model servers: a real one is asked in llm.servers.test.ts',
  llm_model: 'as llm_server',
  llm_session: 'as llm_server',
  frame_loss: 'what our own agent gave up',
};

/** What the exporter must be told so that it tells all of these; its defaults otherwise are the same as ours. */
export const exporterFlags: readonly string[] = [
  '--collector.stat.softirq',
  '--collector.processes',
  '--collector.tcpstat',
  '--collector.netstat.fields=^(Tcp|TcpExt|Udp|Udp6)_',
  '--collector.netclass.ignore-invalid-speed',
  // Debian's package leaves more out than the original.
  '--collector.netdev.device-exclude=^$',
  '--collector.filesystem.mount-points-exclude=^/(dev|proc|run/credentials/.+|sys|var/lib/docker/.+|var/lib/containers/storage/.+)($|/)',
];
