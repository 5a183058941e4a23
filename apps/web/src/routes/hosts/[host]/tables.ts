// The tables of entities that the page of a host has: which columns are looked for most, and what a row is called. The
// catalogue is the truth: a column that it does not have is left out, and those that are not named here are behind "all columns".
import type { Row } from '#lib/api.ts';
import { type ColumnPlan, type Tone, textOf } from '#lib/entities.ts';
import { visible } from '#lib/text.ts';

export type TablePlan = {
  table: string;
  title: string;
  /** None means all of them. */
  columns: readonly ColumnPlan[];
  /** The column that it is sorted by at first, with `-` in front for descending. */
  sort: string;
  /** The label that a row is chosen by, for charts of its own. */
  pick?: string;
  /** The label that says which of the chosen things a row is a part of. */
  within?: string;
  /** What that thing is, as the title of its column. */
  whole?: string;
  /** Labels that are a row's name, for people. */
  name?: readonly string[];
  /** What is said when there are no rows. */
  nothing?: string;
};

/** How the rows of a table are called, by what they are chosen by; those with one name get the end of that as well. */
export function namesOf(plan: TablePlan, rows: readonly Row[]): Map<string, string> {
  const names = rows.map((row) => [textOf(row, plan.pick ?? ''), nameOf(plan, row)] as const);
  const counts = new Map<string, number>();
  for (const [, name] of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  return new Map(
    names.map(([key, name]) => [key, (counts.get(name) ?? 0) > 1 ? `${name} …${visible(key.slice(-4))}` : name]),
  );
}

/** How a row is called, by its names or else by what it is chosen by. */
export function nameOf({ name = [], pick = '' }: TablePlan, row: Row): string {
  const names = name.map((label) => textOf(row, label)).filter((text) => text !== '');
  return visible(names.join(' ') || textOf(row, pick));
}

const states: Readonly<Record<string, Tone>> = {
  running: 'good',
  healthy: 'good',
  ready: 'good',
  ok: 'good',
  charging: 'good',
  full: 'good',
  created: 'muted',
  exited: 'muted',
  shutoff: 'muted',
  blocked: 'muted',
  none: 'muted',
  starting: 'warn',
  paused: 'warn',
  shutdown: 'warn',
  pmsuspended: 'warn',
  restarting: 'warn',
  discharging: 'warn',
  unhealthy: 'bad',
  dead: 'bad',
  crashed: 'bad',
  unreachable: 'bad',
};

export const processTable: TablePlan = {
  table: 'process',
  title: 'Top processes',
  columns: [
    { name: 'name' },
    { name: 'pid', title: 'PID' },
    { name: 'cpu_percent', title: 'CPU, of a core', most: 100 },
    { name: 'resident_memory_bytes', title: 'Memory' },
    { name: 'read_bytes_per_second', title: 'Read' },
    { name: 'write_bytes_per_second', title: 'Written' },
    { name: 'class' },
    { name: 'container' },
    { name: 'user' },
    { name: 'state', tones: { running: 'good', zombie: 'bad', disk_sleep: 'warn', stopped: 'warn', traced: 'warn' } },
    { name: 'threads_count', title: 'Threads' },
    { name: 'file_descriptors_count', title: 'Open files' },
    { name: 'start_time_seconds', title: 'Started' },
    { name: 'command' },
  ],
  sort: '-cpu_percent',
  pick: 'pid',
  name: ['name', 'pid'],
  nothing: 'No process was reported.',
};

export const containerTable: TablePlan = {
  table: 'container',
  title: 'Containers now',
  columns: [
    { name: 'name' },
    { name: 'state', tones: states },
    { name: 'health', tones: states },
    { name: 'image' },
    { name: 'cpu_percent', title: 'CPU, of a core', most: 100 },
    { name: 'cpu_limit_percent', title: 'CPU, of its limit', most: 100 },
    { name: 'cpu_throttled_percent', title: 'Throttled', warn: 5 },
    { name: 'memory_used_bytes', title: 'Memory', of: 'memory_limit_bytes' },
    { name: 'read_bytes_per_second', title: 'Read' },
    { name: 'write_bytes_per_second', title: 'Written' },
    { name: 'receive_bytes_per_second', title: 'Received' },
    { name: 'transmit_bytes_per_second', title: 'Sent' },
    { name: 'pids_count', title: 'Processes' },
    { name: 'oom_kills_total', title: 'OOM kills', warn: 1 },
    { name: 'restarts_total', title: 'Restarts', warn: 1 },
    { name: 'exit_code', title: 'Exit code', warn: 1 },
    { name: 'uptime_seconds', title: 'Up' },
    { name: 'container', title: 'Id' },
  ],
  sort: '-cpu_percent',
  pick: 'container',
  name: ['name'],
  nothing: 'No containers here.',
};

export const vmTables: readonly TablePlan[] = [
  {
    table: 'vm',
    title: 'Virtual machines now',
    columns: [
      { name: 'name' },
      { name: 'state', tones: states },
      { name: 'reason' },
      { name: 'cpu_percent', title: 'CPU, of a core', most: 100 },
      { name: 'vcpu_percent', title: 'CPU, of its vCPUs', most: 100 },
      { name: 'vcpu_current_count', title: 'vCPUs' },
      { name: 'memory_current_bytes', title: 'Memory', of: 'memory_maximum_bytes', calm: true },
      { name: 'memory_usable_bytes', title: 'Usable in the guest' },
      { name: 'memory_rss_bytes', title: 'On the host' },
      { name: 'manager' },
      { name: 'uuid', title: 'UUID' },
    ],
    sort: '-cpu_percent',
    pick: 'uuid',
    name: ['name'],
    nothing: 'No virtual machines here.',
  },
  {
    table: 'vm_vcpu',
    title: 'Virtual processors',
    columns: [
      { name: 'vcpu', title: 'vCPU' },
      { name: 'uuid' },
      { name: 'state' },
      { name: 'cpu_percent', title: 'CPU, of a core', most: 100 },
      { name: 'delay_percent', title: 'Stolen', warn: 10 },
      { name: 'wait_percent', title: 'Waited' },
      { name: 'halted_flag', title: 'Halted' },
    ],
    sort: 'vcpu',
    within: 'uuid',
    whole: 'Machine',
  },
  {
    table: 'vm_block',
    title: 'Virtual disks',
    columns: [
      { name: 'device' },
      { name: 'uuid' },
      { name: 'read_bytes_per_second', title: 'Read' },
      { name: 'write_bytes_per_second', title: 'Written' },
      { name: 'read_operations_per_second', title: 'Reads' },
      { name: 'write_operations_per_second', title: 'Writes' },
      { name: 'read_latency_seconds', title: 'Read latency' },
      { name: 'write_latency_seconds', title: 'Write latency' },
      { name: 'allocation_bytes', title: 'Allocated', of: 'capacity_bytes' },
      { name: 'path' },
    ],
    sort: 'device',
    within: 'uuid',
    whole: 'Machine',
  },
  {
    table: 'vm_net',
    title: 'Virtual networks',
    columns: [
      { name: 'interface' },
      { name: 'uuid' },
      { name: 'receive_bytes_per_second', title: 'Received' },
      { name: 'transmit_bytes_per_second', title: 'Sent' },
      { name: 'receive_packets_per_second', title: 'Packets received' },
      { name: 'transmit_packets_per_second', title: 'Packets sent' },
      { name: 'receive_drops_per_second', title: 'Received, dropped' },
      { name: 'transmit_drops_per_second', title: 'Sent, dropped' },
      { name: 'receive_errors_per_second', title: 'Received, errors' },
      { name: 'transmit_errors_per_second', title: 'Sent, errors' },
    ],
    sort: 'interface',
    within: 'uuid',
    whole: 'Machine',
  },
];

export const gpuTables: readonly TablePlan[] = [
  {
    table: 'gpu',
    title: 'GPUs now',
    columns: [
      { name: 'name' },
      { name: 'used_percent', title: 'Used', most: 100 },
      { name: 'memory_used_bytes', title: 'Memory', of: 'memory_total_bytes' },
      { name: 'temperature_celsius', title: 'Temperature' },
      { name: 'power_watts', title: 'Power', of: 'power_limit_watts', calm: true },
      { name: 'clock_hertz', title: 'Clock' },
      { name: 'fan_percent', title: 'Fan' },
      { name: 'throttled_flag', title: 'Throttled', warn: 1 },
      { name: 'throttle_reasons', title: 'Why' },
      { name: 'xid_errors_total', title: 'XID errors', warn: 1 },
      { name: 'processes_count', title: 'Processes' },
      { name: 'parent', title: 'Part of' },
      { name: 'driver' },
      { name: 'gpu', title: 'UUID' },
    ],
    sort: 'gpu',
    pick: 'gpu',
    name: ['name'],
    nothing: 'No GPU here.',
  },
  {
    table: 'gpu_process',
    title: 'Processes on GPUs',
    columns: [
      { name: 'name' },
      { name: 'pid', title: 'PID' },
      { name: 'class' },
      { name: 'container' },
      { name: 'gpu', title: 'GPU' },
      { name: 'type' },
      { name: 'memory_used_bytes', title: 'GPU memory' },
      { name: 'used_percent', title: 'Used', most: 100 },
      { name: 'encoder_used_percent', title: 'Encoder' },
      { name: 'decoder_used_percent', title: 'Decoder' },
    ],
    sort: '-memory_used_bytes',
    within: 'gpu',
    nothing: 'No process uses a GPU.',
  },
];

export const llmTables: readonly TablePlan[] = [
  {
    table: 'llm_server',
    title: 'Servers now',
    columns: [
      { name: 'server' },
      { name: 'kind' },
      { name: 'version' },
      { name: 'requests_running_count', title: 'Running' },
      { name: 'requests_waiting_count', title: 'Waiting' },
      { name: 'generated_tokens_per_second', title: 'Tokens generated' },
      { name: 'prompt_tokens_per_second', title: 'Tokens of prompts' },
      { name: 'time_to_first_token_seconds', title: 'First token, mean' },
      { name: 'time_to_first_token_p95_seconds', title: 'First token, p95' },
      { name: 'inter_token_latency_seconds', title: 'Between tokens, mean' },
      { name: 'kv_cache_percent', title: 'KV cache', most: 100 },
      { name: 'models_count', title: 'Models' },
    ],
    sort: 'server',
    pick: 'server',
    name: ['server'],
    nothing: 'No model server answers here.',
  },
  {
    table: 'llm_model',
    title: 'Models loaded',
    columns: [
      { name: 'model' },
      { name: 'server' },
      { name: 'parameters' },
      { name: 'quantization' },
      { name: 'vram_bytes', title: 'GPU memory', of: 'size_bytes', calm: true },
      { name: 'context_tokens_count', title: 'Context, tokens' },
      { name: 'requests_running_count', title: 'Running' },
      { name: 'generated_tokens_per_second', title: 'Tokens generated' },
      { name: 'prompt_tokens_per_second', title: 'Tokens of prompts' },
      { name: 'unload_seconds', title: 'Unloaded in' },
    ],
    sort: 'model',
    within: 'server',
  },
];

export const llmSessionTable: TablePlan = {
  table: 'llm_session',
  title: 'Sessions',
  columns: [
    { name: 'model' },
    { name: 'server' },
    { name: 'duration_seconds', title: 'Duration' },
    { name: 'active_flag', title: 'Active' },
    { name: 'requests_count', title: 'Requests' },
    { name: 'prompt_tokens_count', title: 'Tokens of prompts' },
    { name: 'generated_tokens_count', title: 'Tokens generated' },
    { name: 'time_to_first_token_seconds', title: 'First token, mean' },
    { name: 'time_to_first_token_p95_seconds', title: 'First token, p95' },
    { name: 'inter_token_latency_seconds', title: 'Between tokens, mean' },
    { name: 'inter_token_latency_p95_seconds', title: 'Between tokens, p95' },
  ],
  sort: '-time',
  nothing: 'No session in this range.',
};

export const sensorTable: TablePlan = {
  table: 'sensor',
  title: 'Sensors now',
  columns: [
    { name: 'sensor' },
    { name: 'label' },
    { name: 'chip' },
    { name: 'device' },
    {
      name: 'reading',
      any: [
        'temperature_celsius',
        'fan_revolutions_per_minute',
        'voltage_volts',
        'current_amperes',
        'power_watts',
        'frequency_hertz',
        'humidity_percent',
      ],
    },
    {
      name: 'limit',
      title: 'Highest for normal use',
      any: ['temperature_max_celsius', 'voltage_max_volts', 'current_max_amperes', 'power_max_watts'],
    },
    { name: 'temperature_critical_celsius', title: 'Critical' },
    { name: 'alarm_flag', title: 'Alarm', warn: 1 },
    { name: 'fault_flag', title: 'Fault', warn: 1 },
  ],
  sort: 'chip',
};

export const powerTable: TablePlan = {
  table: 'power',
  title: 'Zones now',
  columns: [
    { name: 'zone' },
    { name: 'interface' },
    { name: 'power_watts', title: 'Power', of: 'limit_watts' },
    { name: 'short_term_limit_watts', title: 'Short-term limit' },
    { name: 'limit_enabled_flag', title: 'Limits enforced' },
    { name: 'energy_joules', title: 'Energy' },
  ],
  sort: 'zone',
};

export const batteryTable: TablePlan = {
  table: 'battery',
  title: 'Supplies now',
  columns: [
    { name: 'battery' },
    { name: 'kind' },
    { name: 'model' },
    { name: 'state', tones: states },
    { name: 'charge_percent', title: 'Charge', most: 100 },
    { name: 'health_percent', title: 'Health' },
    { name: 'power_watts', title: 'Power' },
    { name: 'temperature_celsius', title: 'Temperature' },
    { name: 'cycles_total', title: 'Cycles' },
    { name: 'time_to_empty_seconds', title: 'Empty in' },
    { name: 'time_to_full_seconds', title: 'Full in' },
    { name: 'online_flag', title: 'Delivers' },
  ],
  sort: 'battery',
};
