// The few values that a list of hosts shows, from a host's newest frame.
import { tableNamed } from '@fleetreel/proto';
import type { Headline } from '@fleetreel/proto/http';
import type { NewestFrame } from '#live/newest.ts';

/** Interfaces inside the machine: their traffic passes a real one too, or never leaves. */
const inner = /^(lo|veth|docker|br-|virbr|vnet|tap|cni|flannel|cali|cilium|dummy|ifb)/;

export function headline(frame: NewestFrame | undefined): Headline {
  const total = cells(frame, 'cpu').find((row) => row.label('core') === 'total');
  const memory = cells(frame, 'memory')[0];
  const load = cells(frame, 'load')[0];
  // A read-only file system is full by nature.
  const disks = cells(frame, 'filesystem').filter((row) => row.value('read_only_flag') !== 1);
  const interfaces = cells(frame, 'net_interface').filter((row) => row.label('interface') !== 'lo');
  const outer = interfaces.filter((row) => !inner.test(row.label('interface')));
  const wires = outer.length > 0 ? outer : interfaces;
  const failed = cells(frame, 'source');
  return {
    cpuUsedPercent: total?.value('used_percent') ?? null,
    memoryUsedPercent: memory?.value('used_percent') ?? null,
    diskUsedPercent: fold(disks, 'used_percent', Math.max),
    receiveBytesPerSecond: fold(wires, 'receive_bytes_per_second', (a, b) => a + b),
    transmitBytesPerSecond: fold(wires, 'transmit_bytes_per_second', (a, b) => a + b),
    load1mCount: load?.value('load_1m_count') ?? null,
    uptimeSeconds: load?.value('uptime_seconds') ?? null,
    failedSourcesCount: failed.length > 0 ? failed.filter((row) => row.label('state') === 'failed').length : null,
  };
}

type Cells = { label(name: string): string; value(name: string): number | null };

function cells(frame: NewestFrame | undefined, name: string): Cells[] {
  const table = tableNamed(name);
  const rows = table && frame?.rows(table);
  if (!rows) return [];
  return Array.from({ length: rows.count }, (_, index) => ({
    label: (column) => String(rows.columns[column]?.[index] ?? ''),
    value: (column) => {
      const value = rows.columns[column]?.[index];
      return typeof value === 'number' && !Number.isNaN(value) ? value : null;
    },
  }));
}

function fold(rows: readonly Cells[], column: string, join: (a: number, b: number) => number): number | null {
  const values = rows.map((row) => row.value(column)).filter((value) => value !== null);
  return values.length > 0 ? values.reduce((a, b) => join(a, b)) : null;
}
