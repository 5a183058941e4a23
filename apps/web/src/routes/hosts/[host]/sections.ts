// What the page of a host shows, in its order. Tables of the catalogue that are not named here get charts of their own.
import type { Table } from '#lib/api.ts';
import { words } from '#lib/format.ts';

export type ChartPlan = {
  /** `<table>.<group>`. */
  id: string;
  title: string;
  table: string;
  fields: readonly string[];
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

/** The sections for these tables: those above as far as the catalogue has their fields, then the tables not named above. */
export function sectionsFor(tables: readonly Table[]): SectionPlan[] {
  const byName = new Map(tables.map((table) => [table.name, table]));
  const known = sections.flatMap((section) => {
    const charts = section.charts.flatMap((chart) => {
      const fields = chart.fields.filter((name) =>
        byName.get(chart.table)?.fields.some((field) => field.name === name),
      );
      return fields.length > 0 ? [{ ...chart, fields }] : [];
    });
    return charts.length > 0 ? [{ ...section, charts }] : [];
  });
  const named = new Set(sections.flatMap(({ charts }) => charts.map(({ table }) => table)));
  return [...known, ...tables.filter(({ name }) => !named.has(name)).map(generic)];
}

/** One chart per unit. */
function generic({ name, labels, fields }: Table): SectionPlan {
  const key = labels.find((label) => label.key);
  const unitsOfTable = [...new Set(fields.map(({ unit }) => unit))];
  return {
    id: name,
    title: capital(words(name)),
    ...(key ? { entities: { table: name, label: key.name } } : {}),
    charts: unitsOfTable.map((unit) => {
      const ofUnit = fields.filter((field) => field.unit === unit).map((field) => field.name);
      const title = ofUnit.length === 1 ? words(ofUnit[0] as string, unit) : words(unit);
      return plan(name, unit, capital(title), ofUnit);
    }),
  };
}

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);
