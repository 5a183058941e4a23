// The newest row of every entity: from memory, and from the store for hosts that the log knows nothing of any more.
import type { Columns, Table } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import type { Newest } from '#live/newest.ts';
import type { Hosts } from '#query/hosts.ts';
import { findHosts, findLabels, findTable, type LabelFilter } from '#query/names.ts';
import type { Reader } from '#store/reader.ts';
import { rowsOfFrame } from '#store/sql.ts';

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
    for (const row of rowsOf(table, columns, count, labels)) rows.push({ time_us, host, ...row });
    if (rows.length > rowsMax) throw new ApiError('too_many_values', { most: rowsMax });
  };
  const absent: string[] = [];
  for (const host of named.length > 0 ? named : [...known].sort()) {
    const frame = newest.get(tenant, host);
    const found = frame?.rows(table);
    if (frame && found) add(host, frame.header.time_us, found.columns, found.count);
    else if (!frame) absent.push(host);
  }
  for (const host of absent.slice(0, storedHostsMax)) {
    const seen = hosts.stored(tenant, host);
    if (!seen) continue;
    const stored = await reader.query(rowsOfFrame(tenant, table, host, seen.time_us));
    add(host, seen.time_us, columnsOf(table, stored), stored.length);
  }
  return { table, rows };
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

function columnsOf(table: Table, rows: readonly (readonly (string | number | null)[])[]): Columns {
  return Object.fromEntries([
    ...table.labels.map(({ name }, index) => [name, rows.map((row) => String(row[index] ?? ''))]),
    ...table.fields.map(({ name }, index) => [
      name,
      rows.map((row) => Number(row[table.labels.length + index] ?? Number.NaN)),
    ]),
  ]);
}
