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
  /** Labels that are a row's name, for people. */
  name?: readonly string[];
  /** What is said when there are no rows. */
  nothing?: string;
};

/** How a row is called, by its names or else by what it is chosen by. */
export function nameOf({ name = [], pick = '' }: TablePlan, row: Row): string {
  const names = name.map((label) => textOf(row, label)).filter((text) => text !== '');
  return visible(names.join(' ') || textOf(row, pick));
}

/** Columns that need no more than their name. */
const plain = (...names: string[]): ColumnPlan[] => names.map((name) => ({ name }));

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
  none: 'muted',
  starting: 'warn',
  paused: 'warn',
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
    { name: 'resident_bytes', title: 'Memory' },
    { name: 'memory_bytes', title: 'Memory' },
    { name: 'memory_percent', title: 'Memory, of all' },
    { name: 'read_bytes_per_second', title: 'Read' },
    { name: 'write_bytes_per_second', title: 'Written' },
    { name: 'threads_count', title: 'Threads' },
    { name: 'class' },
    { name: 'container' },
    { name: 'user' },
    { name: 'state', tones: { zombie: 'bad', disk_sleep: 'warn', stopped: 'warn' } },
    { name: 'age_seconds', title: 'Age' },
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
    { name: 'cpu_limit_percent', title: 'CPU, of its limit' },
    { name: 'cpu_throttled_percent', title: 'Throttled', warn: 5 },
    { name: 'memory_used_bytes', title: 'Memory', of: 'memory_limit_bytes' },
    { name: 'read_bytes_per_second', title: 'Read' },
    { name: 'write_bytes_per_second', title: 'Written' },
    { name: 'receive_bytes_per_second', title: 'Received' },
    { name: 'transmit_bytes_per_second', title: 'Sent' },
    { name: 'pids_count', title: 'Processes' },
    { name: 'restarts_total', title: 'Restarts' },
    { name: 'exit_code', title: 'Exit code' },
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
      { name: 'cpu_percent', title: 'CPU, of a core', most: 100 },
      { name: 'vcpus_count', title: 'vCPUs' },
      { name: 'memory_used_bytes', title: 'Memory', of: 'memory_bytes' },
      { name: 'uuid', title: 'UUID' },
    ],
    sort: '-cpu_percent',
    pick: 'uuid',
    name: ['name'],
    nothing: 'No virtual machines here.',
  },
  { table: 'vm_vcpu', title: 'Virtual processors', columns: [], sort: 'vcpu', within: 'uuid' },
  { table: 'vm_block', title: 'Virtual disks', columns: [], sort: 'device', within: 'uuid' },
  { table: 'vm_net', title: 'Virtual networks', columns: [], sort: 'interface', within: 'uuid' },
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
      { name: 'power_watts', title: 'Power', of: 'power_limit_watts' },
      { name: 'fan_percent', title: 'Fan' },
      { name: 'gpu', title: 'UUID' },
    ],
    sort: 'name',
    pick: 'gpu',
    name: ['name'],
    nothing: 'No GPU here.',
  },
  {
    table: 'gpu_process',
    title: 'Processes on GPUs',
    columns: plain('name', 'pid', 'class', 'container'),
    sort: '-memory_used_bytes',
    within: 'gpu',
    nothing: 'No process uses a GPU.',
  },
];

export const llmTables: readonly TablePlan[] = [
  { table: 'llm_server', title: 'Servers', columns: [], sort: 'server', pick: 'server', name: ['server'] },
  { table: 'llm_model', title: 'Models', columns: [], sort: 'server', within: 'server' },
];

export const sensorTable: TablePlan = { table: 'sensor', title: 'Sensors now', columns: [], sort: 'chip' };
export const batteryTable: TablePlan = { table: 'battery', title: 'Supplies', columns: [], sort: 'battery' };
