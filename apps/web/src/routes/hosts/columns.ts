// What the overview shows of a host, and how it is sorted.
import type { Host } from '#lib/api.ts';
import { compareLabels } from '#lib/format.ts';

export type Column = {
  id: string;
  title: string;
  /** What rows are sorted by; null comes last either way. */
  by: (host: Host) => number | string | null;
  /** Whether the first click sorts descending: the largest is what is looked for. */
  descending: boolean;
};

export const columns: readonly Column[] = [
  { id: 'host', title: 'Host', by: ({ host }) => host, descending: false },
  { id: 'status', title: 'Status', by: ({ status }) => status, descending: false },
  { id: 'cpu', title: 'CPU', by: ({ headline }) => headline.cpuUsedPercent, descending: true },
  { id: 'memory', title: 'Memory', by: ({ headline }) => headline.memoryUsedPercent, descending: true },
  { id: 'disk', title: 'Disk', by: ({ headline }) => headline.diskUsedPercent, descending: true },
  { id: 'receive', title: 'Network in', by: ({ headline }) => headline.receiveBytesPerSecond, descending: true },
  { id: 'transmit', title: 'Network out', by: ({ headline }) => headline.transmitBytesPerSecond, descending: true },
  { id: 'load', title: 'Load', by: ({ headline }) => headline.load1mCount, descending: true },
  { id: 'uptime', title: 'Uptime', by: ({ headline }) => headline.uptimeSeconds, descending: true },
  { id: 'seen', title: 'Last seen', by: ({ lastSeen }) => lastSeen, descending: true },
];

/** Hosts that match the search, in the order asked for: a column's id, with `-` in front for descending. */
export function arrange(hosts: readonly Host[], search: string, sort: string): Host[] {
  const descending = sort.startsWith('-');
  const column = columns.find(({ id }) => id === sort.replace(/^-/, '')) ?? (columns[0] as Column);
  const wanted = search.trim().toLowerCase().split(/\s+/);
  return hosts
    .filter((host) => wanted.every((word) => haystack(host).includes(word)))
    .sort((a, b) => compare(column.by(a), column.by(b), descending) || compareLabels(a.host, b.host));
}

function compare(a: number | string | null, b: number | string | null, descending: boolean): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  const order = typeof a === 'number' && typeof b === 'number' ? a - b : compareLabels(String(a), String(b));
  return descending ? -order : order;
}

function haystack({ host, status, description }: Host): string {
  const { os = '', addresses = [], tags = {} } = description ?? {};
  return [host, status, os, ...addresses, ...Object.entries(tags).map(([name, value]) => `${name}:${value}`)]
    .join(' ')
    .toLowerCase();
}
