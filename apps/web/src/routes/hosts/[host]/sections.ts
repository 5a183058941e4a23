// What the page of a host shows, in its order. Tables of the catalogue that are not named here get charts of their own.
import type { Table } from '#lib/api.ts';
import { capital } from '#lib/entities.ts';
import { words } from '#lib/format.ts';
import {
  batteryTable,
  containerTable,
  gpuTables,
  llmSessionTable,
  llmTables,
  powerTable,
  processTable,
  sensorTable,
  type TablePlan,
  vmTables,
} from './tables.ts';

export type ChartPlan = {
  /** `<table>.<group>`. */
  id: string;
  title: string;
  table: string;
  /** Of the table; `*` is all that no other chart of the section has, in a chart for each unit. */
  fields: readonly string[];
  /** The label by which rows are chosen: without a choice there are too many, and the chart is not shown. */
  pick?: string;
  /** Only rows with one of these values of a label. */
  labels?: Readonly<Record<string, readonly string[]>>;
  /** Rows with these values of the table's key are left out. */
  without?: readonly string[];
  stacked?: boolean;
  /** Shades instead of lines when there are more entities than lines that can be told apart. */
  heat?: boolean;
  /** The top of the axis. */
  most?: number;
};

export type SectionPlan = {
  id: string;
  title: string;
  /** The table whose entities (cores, disks, interfaces) can be chosen; its key label. */
  entities?: { table: string; label: string; without?: readonly string[] };
  charts: readonly ChartPlan[];
  /** Tables of what there is now, above the charts. The first one's rows are chosen for the charts. */
  tables?: readonly TablePlan[];
  /** A table of one row, shown in full: what is not counted here is seen. */
  facts?: string;
  /** A table whose rows have times of their own, listed for the range. */
  log?: TablePlan;
  /** The sources that fill it, but for those that are called as its tables are; given for what not every host has. */
  sources?: readonly string[];
};

const plan = (
  table: string,
  group: string,
  title: string,
  fields: readonly string[],
  rest: Partial<ChartPlan> = {},
) => ({
  id: `${table}.${group}`,
  title,
  table,
  fields,
  ...rest,
});

export const sections: readonly SectionPlan[] = [
  {
    id: 'cpu',
    title: 'CPU',
    entities: { table: 'cpu', label: 'core', without: ['total'] },
    charts: [
      plan(
        'cpu',
        'mode',
        'All cores, by mode',
        [
          'user_percent',
          'system_percent',
          'nice_percent',
          'iowait_percent',
          'irq_percent',
          'softirq_percent',
          'steal_percent',
          'guest_percent',
        ],
        { labels: { core: ['total'] }, stacked: true, most: 100 },
      ),
      plan('cpu', 'core', 'Used, per core', ['used_percent'], { without: ['total'], heat: true, most: 100 }),
      plan('cpu', 'frequency', 'Frequency, mean of the cores', ['frequency_hertz'], { labels: { core: ['total'] } }),
    ],
  },
  {
    id: 'load',
    title: 'Load',
    charts: [
      plan('load', 'average', 'Load average', ['load_1m_count', 'load_5m_count', 'load_15m_count']),
      plan('load', 'tasks', 'Tasks runnable and blocked', ['tasks_runnable_count', 'tasks_blocked_count']),
      plan('load', 'switches', 'Switches and interrupts', [
        'context_switches_per_second',
        'interrupts_per_second',
        'softirqs_per_second',
      ]),
      plan('load', 'forks', 'Tasks created', ['forks_per_second']),
      plan('load', 'all_tasks', 'All tasks', ['tasks_count']),
      plan('load', 'descriptors', 'File descriptors', ['file_descriptors_count']),
    ],
  },
  {
    id: 'memory',
    title: 'Memory',
    charts: [
      plan(
        'memory',
        'use',
        'Physical memory',
        ['anonymous_bytes', 'slab_bytes', 'page_tables_bytes', 'buffers_bytes', 'cached_bytes', 'free_bytes'],
        { stacked: true },
      ),
      plan('memory', 'used', 'Used', ['used_percent'], { most: 100 }),
      plan('memory', 'swap', 'Swap', ['swap_used_bytes', 'swap_total_bytes']),
      plan('memory', 'paging', 'Paging', [
        'page_in_bytes_per_second',
        'page_out_bytes_per_second',
        'swap_in_bytes_per_second',
        'swap_out_bytes_per_second',
      ]),
      plan('memory', 'faults', 'Page faults', ['minor_faults_per_second', 'major_faults_per_second']),
      plan('memory', 'kills', 'Killed for lack of memory', ['oom_kills_per_second']),
      plan('memory', 'dirty', 'Waiting for disk', ['dirty_bytes', 'writeback_bytes']),
      plan('memory', 'committed', 'Promised to processes', ['committed_bytes', 'commit_limit_bytes']),
      plan('memory', 'huge', 'Huge pages', [
        'huge_pages_total_bytes',
        'huge_pages_free_bytes',
        'anonymous_huge_pages_bytes',
      ]),
    ],
  },
  {
    id: 'pressure',
    title: 'Pressure',
    charts: [
      plan('pressure', 'some', 'Some tasks waited', ['some_percent']),
      plan('pressure', 'full', 'All tasks waited', ['full_percent']),
    ],
  },
  {
    id: 'process',
    title: 'Processes',
    entities: { table: 'process', label: 'pid' },
    tables: [processTable],
    charts: [
      plan('process_state', 'state', 'By state', ['processes_count'], { stacked: true }),
      plan('process_class', 'count', 'By class', ['processes_count'], { stacked: true }),
      plan('process_class', 'cpu', 'CPU by class, of a core', ['cpu_percent'], { stacked: true }),
      plan('process_class', 'memory', 'Memory by class', ['resident_memory_bytes']),
      plan('process_class', 'read', 'Read by class', ['read_bytes_per_second']),
      plan('process_class', 'write', 'Written by class', ['write_bytes_per_second']),
      plan('process', 'cpu', 'CPU, of a core', ['cpu_percent', 'cpu_user_percent', 'cpu_system_percent'], {
        pick: 'pid',
      }),
      plan('process', 'memory', 'Memory', ['resident_memory_bytes', 'anonymous_memory_bytes', 'swap_bytes'], {
        pick: 'pid',
      }),
      plan('process', 'io', 'Disk', ['read_bytes_per_second', 'write_bytes_per_second'], { pick: 'pid' }),
      plan('process', 'threads', 'Threads and open files', ['threads_count', 'file_descriptors_count'], {
        pick: 'pid',
      }),
      plan('process', 'faults', 'Waited for a page of a disk', ['major_faults_per_second'], { pick: 'pid' }),
    ],
    sources: [],
  },
  {
    id: 'container',
    title: 'Containers',
    entities: { table: 'container', label: 'container' },
    tables: [containerTable],
    charts: [
      plan('container', 'cpu', 'CPU, of a core', ['cpu_percent'], { pick: 'container' }),
      plan('container', 'limit', 'CPU, of its limit', ['cpu_limit_percent'], { pick: 'container', most: 100 }),
      plan('container', 'throttled', 'Held back by its CPU limit', ['cpu_throttled_percent'], { pick: 'container' }),
      plan(
        'container',
        'memory',
        'Memory',
        [
          'memory_used_bytes',
          'memory_limit_bytes',
          'memory_anonymous_bytes',
          'memory_cache_bytes',
          'memory_kernel_bytes',
          'memory_swap_bytes',
        ],
        { pick: 'container' },
      ),
      plan('container', 'io', 'Block devices', ['read_bytes_per_second', 'write_bytes_per_second'], {
        pick: 'container',
      }),
      plan('container', 'operations', 'Operations', ['read_operations_per_second', 'write_operations_per_second'], {
        pick: 'container',
      }),
      plan('container', 'network', 'Network', ['receive_bytes_per_second', 'transmit_bytes_per_second'], {
        pick: 'container',
      }),
      plan('container', 'packets', 'Packets', ['receive_packets_per_second', 'transmit_packets_per_second'], {
        pick: 'container',
      }),
      plan(
        'container',
        'errors',
        'Network errors and drops',
        [
          'receive_errors_per_second',
          'transmit_errors_per_second',
          'receive_drops_per_second',
          'transmit_drops_per_second',
        ],
        { pick: 'container' },
      ),
      plan(
        'container',
        'pressure',
        'Tasks waited',
        [
          'cpu_pressure_some_percent',
          'cpu_pressure_full_percent',
          'memory_pressure_some_percent',
          'memory_pressure_full_percent',
          'io_pressure_some_percent',
          'io_pressure_full_percent',
        ],
        { pick: 'container' },
      ),
      plan('container', 'pids', 'Processes and threads', ['pids_count', 'pids_limit_count'], { pick: 'container' }),
      plan('container', 'rest', '', ['*'], { pick: 'container' }),
    ],
    sources: ['docker', 'podman', 'engine', 'cgroup'],
  },
  {
    id: 'vm',
    title: 'Virtual machines',
    entities: { table: 'vm', label: 'uuid' },
    tables: vmTables,
    charts: [
      plan('vm', 'cpu', 'CPU, of a core', ['cpu_percent', 'cpu_user_percent', 'cpu_system_percent'], { pick: 'uuid' }),
      plan('vm_vcpu', 'cpu', 'CPU by virtual processor', ['cpu_percent'], { pick: 'uuid' }),
      plan('vm_vcpu', 'delay', 'Stolen and waited', ['delay_percent', 'wait_percent'], { pick: 'uuid' }),
      plan(
        'vm',
        'memory',
        'Memory',
        [
          'memory_current_bytes',
          'memory_maximum_bytes',
          'memory_available_bytes',
          'memory_usable_bytes',
          'memory_unused_bytes',
          'memory_disk_caches_bytes',
          'memory_rss_bytes',
        ],
        { pick: 'uuid' },
      ),
      plan('vm_block', 'bytes', 'Disks', ['read_bytes_per_second', 'write_bytes_per_second'], { pick: 'uuid' }),
      plan(
        'vm_block',
        'operations',
        'Disk operations',
        ['read_operations_per_second', 'write_operations_per_second', 'flush_operations_per_second'],
        { pick: 'uuid' },
      ),
      plan('vm_block', 'latency', 'Disk latency', ['read_latency_seconds', 'write_latency_seconds'], { pick: 'uuid' }),
      plan('vm_net', 'bytes', 'Network', ['receive_bytes_per_second', 'transmit_bytes_per_second'], { pick: 'uuid' }),
      plan('vm_net', 'packets', 'Packets', ['receive_packets_per_second', 'transmit_packets_per_second'], {
        pick: 'uuid',
      }),
      plan('vm', 'paging', 'Paging in the guest', ['swap_in_bytes_per_second', 'swap_out_bytes_per_second'], {
        pick: 'uuid',
      }),
    ],
    sources: ['libvirt', 'qemu'],
  },
  {
    id: 'gpu',
    title: 'GPUs',
    entities: { table: 'gpu', label: 'gpu' },
    tables: gpuTables,
    charts: [
      plan('gpu', 'used', 'Used', ['used_percent'], { most: 100 }),
      plan('gpu', 'memory', 'Memory used', ['memory_used_bytes']),
      plan('gpu', 'temperature', 'Temperature', ['temperature_celsius']),
      plan('gpu', 'power', 'Power', ['power_watts']),
      plan(
        'gpu',
        'engines',
        'Used, by engine',
        ['memory_controller_used_percent', 'encoder_used_percent', 'decoder_used_percent'],
        { pick: 'gpu', most: 100 },
      ),
      plan('gpu', 'clocks', 'Clocks', ['clock_hertz', 'memory_clock_hertz', 'video_clock_hertz'], { pick: 'gpu' }),
      plan('gpu', 'pcie', 'PCIe', ['pcie_received_bytes_per_second', 'pcie_sent_bytes_per_second'], { pick: 'gpu' }),
      plan('gpu', 'nvlink', 'NVLink', ['nvlink_received_bytes_per_second', 'nvlink_sent_bytes_per_second'], {
        pick: 'gpu',
      }),
      plan('gpu_process', 'memory', 'Memory by process', ['memory_used_bytes'], { pick: 'gpu' }),
      plan('gpu', 'rest', '', ['*'], { pick: 'gpu' }),
      plan('gpu_process', 'rest', '', ['*'], { pick: 'gpu' }),
    ],
    sources: [],
  },
  {
    id: 'llm_server',
    title: 'Model servers',
    entities: { table: 'llm_server', label: 'server' },
    tables: llmTables,
    charts: [
      plan('llm_server', 'tokens', 'Tokens', ['prompt_tokens_per_second', 'generated_tokens_per_second']),
      plan('llm_server', 'first', 'Time to the first token', [
        'time_to_first_token_seconds',
        'time_to_first_token_p95_seconds',
      ]),
      plan('llm_server', 'between', 'Time between tokens', [
        'inter_token_latency_seconds',
        'inter_token_latency_p95_seconds',
      ]),
      plan('llm_server', 'requests', 'Requests', ['requests_running_count', 'requests_waiting_count']),
      plan('llm_server', 'cache', 'Key-value cache', ['kv_cache_percent'], { most: 100 }),
      plan('llm_server', 'rest', '', ['*'], { pick: 'server' }),
      plan('llm_model', 'rest', '', ['*'], { pick: 'server' }),
    ],
    log: llmSessionTable,
    sources: ['llm'],
  },
  {
    id: 'disk_io',
    title: 'Disks',
    entities: { table: 'disk_io', label: 'device' },
    charts: [
      plan('disk_io', 'read', 'Read', ['read_bytes_per_second']),
      plan('disk_io', 'write', 'Written', ['write_bytes_per_second']),
      plan('disk_io', 'operations', 'Operations', ['read_operations_per_second', 'write_operations_per_second']),
      plan('disk_io', 'latency', 'Latency', ['read_latency_seconds', 'write_latency_seconds']),
      plan('disk_io', 'utilization', 'Utilization', ['utilization_percent'], { most: 100 }),
      plan('disk_io', 'queue', 'Queue', ['queue_count']),
      plan('disk_io', 'flush', 'Flushes and discards', [
        'flush_operations_per_second',
        'discard_operations_per_second',
      ]),
    ],
  },
  {
    id: 'filesystem',
    title: 'File systems',
    entities: { table: 'filesystem', label: 'mount' },
    charts: [
      plan('filesystem', 'used', 'Used', ['used_percent'], { most: 100 }),
      plan('filesystem', 'available', 'Available', ['available_bytes']),
      plan('filesystem', 'inodes', 'Files and directories', ['inodes_used_count']),
    ],
  },
  {
    id: 'net_interface',
    title: 'Network interfaces',
    entities: { table: 'net_interface', label: 'interface' },
    charts: [
      plan('net_interface', 'receive', 'Received', ['receive_bytes_per_second']),
      plan('net_interface', 'transmit', 'Sent', ['transmit_bytes_per_second']),
      plan('net_interface', 'packets', 'Packets', ['receive_packets_per_second', 'transmit_packets_per_second']),
      plan('net_interface', 'errors', 'Errors and drops', [
        'receive_errors_per_second',
        'transmit_errors_per_second',
        'receive_drops_per_second',
        'transmit_drops_per_second',
      ]),
    ],
  },
  {
    id: 'tcp',
    title: 'TCP',
    charts: [
      plan('tcp', 'established', 'Connections', ['established_count']),
      plan('tcp_connection', 'state', 'Connections by state', ['connections_count'], { without: ['established'] }),
      plan('tcp', 'opens', 'Opened, accepted, failed', [
        'active_opens_per_second',
        'passive_opens_per_second',
        'attempt_failures_per_second',
        'resets_per_second',
      ]),
      plan('tcp', 'segments', 'Segments', ['receive_segments_per_second', 'transmit_segments_per_second']),
      plan('tcp', 'retransmits', 'Sent again', [
        'retransmitted_segments_per_second',
        'syn_retransmits_per_second',
        'timeouts_per_second',
      ]),
      plan('tcp', 'errors', 'Refused and lost', [
        'receive_errors_per_second',
        'transmit_resets_per_second',
        'listen_overflows_per_second',
        'listen_drops_per_second',
      ]),
    ],
  },
  {
    id: 'udp',
    title: 'UDP',
    charts: [
      plan('udp', 'datagrams', 'Datagrams', ['receive_datagrams_per_second', 'transmit_datagrams_per_second']),
      plan('udp', 'errors', 'Lost', [
        'receive_errors_per_second',
        'no_ports_per_second',
        'receive_buffer_errors_per_second',
        'transmit_buffer_errors_per_second',
        'checksum_errors_per_second',
      ]),
    ],
  },
  {
    id: 'network',
    title: 'Network stack',
    charts: [
      plan('network', 'sockets', 'Sockets', [
        'sockets_used_count',
        'tcp_sockets_count',
        'tcp_orphans_count',
        'tcp_time_wait_count',
        'udp_sockets_count',
      ]),
      plan('network', 'memory', 'Memory of socket buffers', ['tcp_memory_bytes', 'udp_memory_bytes']),
      plan('network', 'conntrack', 'Tracked connections', ['conntrack_entries_count', 'conntrack_limit_count']),
      plan('network', 'softnet', 'Receive path', [
        'softnet_processed_per_second',
        'softnet_drops_per_second',
        'softnet_squeezes_per_second',
      ]),
    ],
  },
  {
    id: 'perf',
    title: 'Hardware counters',
    facts: 'perf',
    charts: [
      plan('perf', 'ipc', 'Instructions per cycle', ['instructions_per_cycle_ratio']),
      plan('perf', 'misses', 'Share of misses', [
        'branch_miss_percent',
        'l1d_load_miss_percent',
        'l1i_load_miss_percent',
        'llc_load_miss_percent',
        'dtlb_load_miss_percent',
        'itlb_load_miss_percent',
      ]),
      plan('perf', 'cycles', 'Cycles and instructions', ['cycles_per_second', 'instructions_per_second']),
      plan('perf', 'branches', 'Branches', ['branches_per_second', 'branch_misses_per_second']),
      plan('perf', 'caches', 'Loads from caches', [
        'l1d_loads_per_second',
        'l1i_loads_per_second',
        'llc_loads_per_second',
        'llc_load_misses_per_second',
      ]),
      plan('perf', 'switches', 'Switches and migrations', ['context_switches_per_second', 'cpu_migrations_per_second']),
      plan('perf', 'faults', 'Page faults', ['minor_faults_per_second', 'major_faults_per_second']),
      plan('perf', 'clock', 'CPU time, of a core', ['cpu_clock_percent']),
    ],
    sources: [],
  },
  {
    id: 'sensor',
    title: 'Sensors',
    tables: [sensorTable],
    charts: [
      plan('sensor', 'temperature', 'Temperatures', ['temperature_celsius']),
      plan('sensor', 'fan', 'Fans', ['fan_revolutions_per_minute']),
      plan('sensor', 'voltage', 'Voltages', ['voltage_volts']),
      plan('sensor', 'current', 'Currents', ['current_amperes']),
      plan('sensor', 'power', 'Power', ['power_watts']),
    ],
    sources: ['thermal', 'hwmon'],
  },
  {
    id: 'power',
    title: 'Power',
    tables: [powerTable],
    charts: [plan('power', 'power', 'Power drawn', ['power_watts'])],
    sources: ['rapl'],
  },
  {
    id: 'battery',
    title: 'Batteries',
    tables: [batteryTable],
    charts: [
      plan('battery', 'charge', 'Charge', ['charge_percent'], { most: 100 }),
      plan('battery', 'power', 'Power', ['power_watts']),
      plan('battery', 'temperature', 'Temperature', ['temperature_celsius']),
    ],
    sources: ['power_supply'],
  },
  {
    id: 'clock',
    title: 'Clock',
    charts: [
      plan('clock', 'offset', 'Offset', ['offset_seconds']),
      plan('clock', 'error', 'Likely and largest error', ['estimated_error_seconds', 'maximum_error_seconds']),
    ],
  },
  {
    id: 'agent',
    title: 'Agent',
    charts: [
      plan('agent', 'cpu', 'CPU of the agent, in percent of a core', ['cpu_percent']),
      plan('agent', 'memory', 'Memory of the agent', ['resident_memory_bytes', 'heap_used_bytes']),
      plan('agent', 'tick', 'Time of a tick and of publishing', ['tick_duration_seconds', 'publish_latency_seconds']),
      plan('agent', 'queue', 'Frames waiting', ['queue_frames_count']),
      plan('agent', 'totals', 'Since the start', ['frames_dropped_total', 'ticks_skipped_total', 'reconnects_total']),
      plan('source', 'duration', 'Time to read each source', ['duration_seconds']),
    ],
  },
];

/** Tables that have a place of their own on the page: events, and the coverage, which knows what an agent lost. */
const elsewhere = ['event', 'frame_loss'];

/** The sections for these tables: those above as far as the catalogue has their fields, then the tables not named above. */
export function sectionsFor(tables: readonly Table[]): SectionPlan[] {
  const byName = new Map(tables.map((table) => [table.name, table]));
  const known = sections.flatMap((section) => {
    const charts = section.charts.flatMap((chart) => {
      const table = byName.get(chart.table);
      if (!table) return [];
      if (chart.fields.includes('*')) return rest(table, section, chart);
      const fields = chart.fields.filter((name) => table.fields.some((field) => field.name === name));
      return fields.length > 0 ? [{ ...chart, fields }] : [];
    });
    const shown = section.tables?.filter(({ table }) => byName.has(table)) ?? [];
    return charts.length > 0 || shown.length > 0 ? [{ ...section, charts, tables: shown }] : [];
  });
  const named = new Set([...sections.flatMap(tablesOf), ...elsewhere]);
  return [...known, ...tables.filter(({ name }) => !named.has(name)).map(generic)];
}

/** All tables that a section shows. */
export const tablesOf = ({ charts, tables = [], log }: SectionPlan): string[] => [
  ...new Set([...charts, ...tables, ...(log ? [log] : [])].map(({ table }) => table)),
];

/** What does not go up and down: it is read in the table. */
const uncharted = ['total', 'flag', 'code'];

/** What the charts of a section leave of a table: one chart per unit. */
function rest(table: Table, { charts }: SectionPlan, { pick }: ChartPlan): ChartPlan[] {
  const named = new Set(charts.flatMap((chart) => (chart.table === table.name ? chart.fields : [])));
  const fields = table.fields.filter(
    ({ name, unit }) => !named.has(name) && name !== table.rowTime && !uncharted.includes(unit),
  );
  return byUnit({ ...table, fields }, named.size > 1).map((chart) => (pick ? { ...chart, pick } : chart));
}

/** A table that no section was made for. */
function generic(table: Table): SectionPlan {
  const { name, labels } = table;
  const key = labels.find((label) => label.key);
  const title = capital(words(name));
  const now = { table: name, title: `${title} now`, columns: [], sort: key?.name ?? '' };
  if (table.rowTime) return { id: name, title, charts: [], log: { ...now, title, sort: '-time' } };
  return {
    id: name,
    title,
    ...(key ? { entities: { table: name, label: key.name } } : {}),
    ...(labels.length > 0 ? { tables: [now] } : {}),
    charts: byUnit(table),
  };
}

function byUnit({ name, fields }: Table, other = false): ChartPlan[] {
  const unitsOfTable = [...new Set(fields.map(({ unit }) => unit))];
  return unitsOfTable.map((unit) => {
    const ofUnit = fields.filter((field) => field.unit === unit).map((field) => field.name);
    const title = ofUnit.length === 1 ? words(ofUnit[0] as string, unit) : `${other ? 'other, ' : ''}${words(unit)}`;
    return plan(name, unit, capital(title), ofUnit);
  });
}
