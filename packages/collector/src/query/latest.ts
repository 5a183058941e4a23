// The newest row of every entity: from memory, and from the store for what the log's newest frames did not bring.
import type { Columns, Table } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import { type Newest, slowTableMicroseconds } from '#live/newest.ts';
import type { Hosts } from '#query/hosts.ts';
import { findHosts, findLabels, findTable, type LabelFilter } from '#query/names.ts';
import type { Reader } from '#store/reader.ts';
import { newestRows } from '#store/sql.ts';

export type LatestQuestion = {
  table: string | undefined;
  hosts: readonly string[];
  labels: Readonly<Record<string, readonly string[]>>;
};

/** The newest row of an entity; a value that is not available is NaN. */
export type LatestRow = {
  /** UTC, microseconds since 1970. */
  time_us: number;
  host: string;
  labels: Record<string, string>;
  values: Record<string, number>;
};

/** Rows of one answer at most. */
export const rowsMax = 50_000;
/** Hosts that are looked up in the store for one answer at most; the others have no rows in it. */
const storedHostsMax = 100;

export type LatestParts = { reader: Reader; newest: Newest; hosts: Hosts };

/** Answers a question. @throws ApiError */
export async function queryLatest(
  { reader, newest, hosts }: LatestParts,
  tenant: string,
  question: LatestQuestion,
): Promise<{ table: Table; rows: LatestRow[] }> {
  const table = findTable(question.table);
  const labels = findLabels(table, question.labels);
  const known = hosts.names(tenant);
  const named = findHosts(known, question.hosts);
  const rows: LatestRow[] = [];
  const add = (host: string, time_us: number, columns: Columns, count: number) => {
    for (const row of rowsOf(table, columns, count, labels)) {
      const own_us = Math.round((row.values[table.rowTime ?? ''] ?? Number.NaN) * 1e6);
      rows.push({ time_us: Number.isNaN(own_us) ? time_us : own_us, host, ...row });
    }
    if (rows.length > rowsMax) throw new ApiError('too_many_values', { most: rowsMax });
  };
  /** Hosts whose rows are in the store alone, by the time of their newest frame. */
  const absent: { host: string; seen_us: number }[] = [];
  for (const host of named.length > 0 ? named : [...known].sort()) {
    const frame = newest.get(tenant, host);
    const found = frame?.rows(table);
    const seen_us = frame?.header.time_us ?? hosts.stored(tenant, host)?.time_us;
    if (found) add(host, found.time_us, found.columns, found.count);
    else if (seen_us !== undefined && !(frame && newest.isComplete(frame))) absent.push({ host, seen_us });
  }
  for (const group of together(absent)) {
    const names = group.map(({ host }) => host);
    const times = group.map(({ seen_us }) => seen_us);
    const from_us = Math.min(...times) - slowTableMicroseconds;
    const stored = await reader.query(newestRows(tenant, table, names, from_us, Math.max(...times)));
    for (const [host, own] of Map.groupBy(stored, (row) => String(row[1]))) {
      // What is newest of an entity that has gone since is older than the others.
      const time_us = Math.max(...own.map((row) => Number(row[0])));
      const isCurrent = (row: (typeof own)[number]) => table.rowTime !== undefined || row[0] === time_us;
      const current = own.filter(isCurrent).map((row) => row.slice(2));
      add(host, time_us, columnsOf(table, current), current.length);
    }
  }
  return { table, rows };
}

/** Hosts that were seen at about the same time are asked for together, the others one by one. */
function together<T extends { seen_us: number }>(absent: readonly T[]): T[][] {
  const newest_us = Math.max(...absent.map(({ seen_us }) => seen_us));
  const { true: recent = [], false: others = [] } = Object.groupBy(absent, ({ seen_us }) =>
    newest_us - seen_us <= slowTableMicroseconds ? 'true' : 'false',
  );
  return [...(recent.length > 0 ? [recent] : []), ...others.slice(0, storedHostsMax).map((one) => [one])];
}

function rowsOf(table: Table, columns: Columns, count: number, filters: readonly LabelFilter[]) {
  const rows: Pick<LatestRow, 'labels' | 'values'>[] = [];
  for (let index = 0; index < count; index++) {
    const labels = Object.fromEntries(table.labels.map(({ name }) => [name, String(columns[name]?.[index] ?? '')]));
    if (!filters.every(({ label, values }) => values.includes(labels[label.name] ?? ''))) continue;
    const values = Object.fromEntries(
      table.fields.map(({ name }) => [name, Number(columns[name]?.[index] ?? Number.NaN)]),
    );
    rows.push({ labels, values });
  }
  return rows;
}

/** A row of the store from its labels and fields, in the order of the catalogue. */
export function rowOf(
  { labels, fields }: Table,
  cells: readonly (string | number | null)[],
): Pick<LatestRow, 'labels' | 'values'> {
  return {
    labels: Object.fromEntries(labels.map(({ name }, index) => [name, String(cells[index] ?? '')])),
    values: Object.fromEntries(
      fields.map(({ name }, index) => [name, Number(cells[labels.length + index] ?? Number.NaN)]),
    ),
  };
}

function columnsOf(table: Table, rows: readonly (readonly (string | number | null)[])[]): Columns {
  return Object.fromEntries([
    ...table.labels.map(({ name }, index) => [name, rows.map((row) => String(row[index] ?? ''))]),
    ...table.fields.map(({ name }, index) => [
      name,
      rows.map((row) => Number(row[table.labels.length + index] ?? Number.NaN)),
    ]),
  ]);
}
