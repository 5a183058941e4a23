// The rows themselves, newest first: what happened, and what was measured, without aggregation.
import type { Table } from '@fleetreel/proto';
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { Hosts } from '#query/hosts.ts';
import { type LatestRow, rowOf } from '#query/latest.ts';
import { findHosts, findLabels, findTable } from '#query/names.ts';
import { parseRange } from '#query/time.ts';
import type { Reader } from '#store/reader.ts';
import { newestFirst } from '#store/sql.ts';

/** What is asked, as it was written. */
export type RowsQuestion = {
  table: string | undefined;
  hosts: readonly string[];
  labels: Readonly<Record<string, readonly string[]>>;
  from?: string | undefined;
  to?: string | undefined;
  limit?: string | undefined;
};

export type RowsAnswer = {
  table: Table;
  rows: LatestRow[];
  /** Whether the range has older rows, which the limit left out. */
  isTruncated: boolean;
};

/** Rows of one answer, when nothing else is asked for, and at most. */
export const rowsLimit = { default: 500, max: 10_000 } as const;

export type RowsParts = { reader: Reader; hosts: Hosts };

/** Answers a question. @throws ApiError */
export async function queryRows(
  { reader, hosts }: RowsParts,
  tenant: string,
  question: RowsQuestion,
  now: number,
): Promise<RowsAnswer> {
  const table = findTable(question.table);
  const labels = findLabels(table, question.labels);
  const named = findHosts(hosts.names(tenant), question.hosts);
  const range = parseRange(question.from, question.to, now);
  const limit = parseLimit(question.limit);
  const found = await reader.query(newestFirst({ tenant, table, hosts: named, labels, ...range }, limit + 1));
  return {
    table,
    rows: found
      .slice(0, limit)
      .map(([time_us, host, ...cells]) => ({ time_us: Number(time_us), host: String(host), ...rowOf(table, cells) })),
    isTruncated: found.length > limit,
  };
}

function parseLimit(text: string | undefined): number {
  if (text === undefined || text === '') return rowsLimit.default;
  const limit = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= rowsLimit.max) return limit;
  throw new ApiError('bad_limit', { parameter: 'limit', value: clip(text), most: rowsLimit.max });
}
