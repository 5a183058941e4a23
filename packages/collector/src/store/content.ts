// What a store holds, by counts and sums: to be compared with what the log holds.
import { catalog, type Table } from '@fleetreel/proto';
import { type AdminSettings, execute } from '#store/admin.ts';
import { auditTable, eventTable, measureTable } from '#store/custom.ts';
import { frameTable } from '#store/schema.ts';

/** Longest wait for the counts and sums of one table, milliseconds: it is read as a whole. */
const contentMilliseconds = 300_000;

/** The table of frames as a table of the catalogue would be. */
const frames = { name: frameTable, fields: ['sequence', 'interval_ms', 'size_bytes'] };

/** A table whose content is counted, and its fields. */
export type CountedTable = {
  name: string;
  fields: readonly string[];
  /** What a row is of, within its tenant: a host, a key that wrote it, a collector. */
  owner: 'host' | 'source' | 'collector';
  /**
   * `frame`: a row is of its frame's time. `own`: of one of its own, and may come again, grown. `written`: one message of the log each, of
   * whatever time it says.
   */
  rows: 'frame' | 'own' | 'written';
};

/** The tables that are filled from the log, frames first. */
export const countedTables: readonly CountedTable[] = [
  { ...frames, owner: 'host', rows: 'frame' },
  ...catalog.map(
    ({ name, fields, rowTime }: Table): CountedTable => ({
      name,
      fields: fields.map((field) => field.name),
      owner: 'host',
      rows: rowTime === undefined ? 'frame' : 'own',
    }),
  ),
  { name: measureTable, fields: ['value'], owner: 'source', rows: 'written' },
  { name: eventTable, fields: [], owner: 'source', rows: 'written' },
  { name: auditTable, fields: [], owner: 'collector', rows: 'written' },
];

/** Of one table, owner and day (UTC, days since 1970): rows; of each field its values and their sum. */
export type Content = { rows: number; counts: number[]; sums: number[] };

/** One entry of a map of contents. */
export const contentKey = (table: string, tenant: string, owner: string, day: number): string =>
  `${table} ${tenant} ${owner} ${day}`;

/**
 * Reads counts and sums of the rows within a time: UTC, microseconds since 1970, from inclusive, to exclusive.
 * @param from_us of the tables that frames fill, and of those that are written; Infinity where there is nothing to count
 */
export async function storeContent(
  settings: AdminSettings,
  from_us: { frames: number; written: number },
  to_us: number,
): Promise<Map<string, Content>> {
  const contents = new Map<string, Content>();
  for (const { name, fields, owner, rows: kind } of countedTables) {
    const begin_us = kind === 'written' ? from_us.written : from_us.frames;
    if (!Number.isFinite(begin_us)) continue;
    const columns = fields.map((field) => `, count("${field}"), sum("${field}")`);
    const rows = await execute(
      settings,
      `SELECT tenant, ${owner}, timestamp_floor('d', ts) day, count()${columns.join('')} FROM "${name}"` +
        ` WHERE ts >= ${begin_us} AND ts < ${to_us}`,
      contentMilliseconds,
    );
    for (const [tenant, whose, day, count, ...values] of rows)
      contents.set(contentKey(name, String(tenant), String(whose), Date.parse(String(day)) / 86_400_000), {
        rows: Number(count),
        counts: fields.map((_, place) => Number(values[2 * place])),
        sums: fields.map((_, place) => Number(values[2 * place + 1] ?? 0)),
      });
  }
  return contents;
}

/** Whether all that was sent can be read. */
export async function isVisible(settings: AdminSettings): Promise<boolean> {
  const [[waiting] = []] = await execute(
    settings,
    'SELECT count() FROM wal_tables() WHERE writerTxn < sequencerTxn AND NOT suspended',
  );
  return waiting === 0;
}
