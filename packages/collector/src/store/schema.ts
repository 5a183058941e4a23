// Tables from the contract: made, widened, and checked.
import { catalog, type Table } from '@fleetreel/proto';
import { type AdminSettings, execute, StatementError } from '#store/admin.ts';
import { type Rollup, rollups } from '#store/sql.ts';
import type { Telemetry } from '#telemetry.ts';

type Column = { name: string; type: 'TIMESTAMP' | 'SYMBOL' | 'DOUBLE' | 'LONG' | 'INT'; key: boolean };

/** A table of the store. */
export type StoreTable = { name: string; columns: readonly Column[]; partition: Unit; ttl: Ttl };

/** QuestDB drops whole partitions, so how long rows are kept is a multiple of a partition. */
type Unit = 'DAY' | 'WEEK' | 'MONTH' | 'YEAR';
type Ttl = { value: number; unit: Unit };

/** One row per frame: what holes are counted by. */
export const frameTable = 'frame';

const identity: readonly Column[] = [
  { name: 'ts', type: 'TIMESTAMP', key: true },
  { name: 'tenant', type: 'SYMBOL', key: true },
  { name: 'host', type: 'SYMBOL', key: true },
];

/** How roll-ups are cut and how long they are kept. */
const rollupKept: Readonly<Record<Rollup['suffix'], { partition: Unit; ttl: Ttl }>> = {
  '1m': { partition: 'WEEK', ttl: { value: 26, unit: 'WEEK' } },
  '1h': { partition: 'MONTH', ttl: { value: 3, unit: 'YEAR' } },
};

/** How long roll-ups are kept, days. */
export const rollupDays: Readonly<Record<Rollup['suffix'], number>> = { '1m': 26 * 7, '1h': 3 * 365 };

/** What a roll-up keeps of a field. */
export const rollupAggregates = ['avg', 'min', 'max'] as const;

/** All tables of the store. */
export function storeTables(rawDays: number): StoreTable[] {
  const frame: StoreTable = {
    name: frameTable,
    partition: 'DAY',
    ttl: { value: rawDays, unit: 'DAY' },
    columns: [
      ...identity,
      { name: 'session', type: 'SYMBOL', key: true },
      { name: 'sequence', type: 'LONG', key: true },
      { name: 'interval_ms', type: 'INT', key: false },
      { name: 'size_bytes', type: 'INT', key: false },
    ],
  };
  return [
    frame,
    ...catalog.flatMap((table) => [raw(table, rawDays), ...rollups.map((rollup) => rolledUp(table, rollup))]),
  ];
}

function raw(table: Table, days: number): StoreTable {
  const fields = table.fields.map(({ name }): Column => ({ name, type: 'DOUBLE', key: false }));
  return {
    name: table.name,
    partition: 'DAY',
    ttl: { value: days, unit: 'DAY' },
    columns: [...identity, ...labels(table), ...fields],
  };
}

function rolledUp(table: Table, { suffix }: Rollup): StoreTable {
  const fields = table.fields.flatMap(({ name }) =>
    rollupAggregates.map((aggregate): Column => ({ name: `${name}_${aggregate}`, type: 'DOUBLE', key: false })),
  );
  return {
    name: `${table.name}_${suffix}`,
    ...rollupKept[suffix],
    columns: [
      ...identity,
      // Only what identifies a row: a label that merely describes may change within a step.
      ...labels(table).filter(({ key }) => key),
      { name: 'sample_count', type: 'LONG', key: false },
      ...fields,
    ],
  };
}

const labels = (table: Table): Column[] => table.labels.map(({ name, key }) => ({ name, type: 'SYMBOL', key }));

/** The statement that makes a table. */
export function createStatement({ name, columns, partition, ttl }: StoreTable): string {
  const list = columns.map((column) => `"${column.name}" ${column.type}`).join(', ');
  const keys = columns.filter(({ key }) => key).map((column) => `"${column.name}"`);
  return `CREATE TABLE IF NOT EXISTS "${name}" (${list}) TIMESTAMP(ts) PARTITION BY ${partition} TTL ${ttl.value} ${ttl.unit}S WAL DEDUP UPSERT KEYS(${keys.join(', ')})`;
}

/**
 * Makes tables that are missing, adds columns that are missing, sets how long rows are kept. Safe to repeat, and from
 * several collectors at once.
 * @throws StatementError with what does not fit, when a table is there that can't be made to fit
 */
export async function keepTables(settings: AdminSettings, rawDays: number, telemetry: Telemetry): Promise<void> {
  const found = await existing(settings);
  for (const table of storeTables(rawDays)) {
    const columns = found.get(table.name);
    if (!columns) {
      await execute(settings, createStatement(table));
      telemetry.configured(`the table ${table.name}`, 'created');
      continue;
    }
    await widen(settings, table, columns, telemetry);
    await execute(settings, `ALTER TABLE "${table.name}" SET TTL ${table.ttl.value} ${table.ttl.unit}S`);
  }
}

type Found = Map<string, { type: string; key: boolean }>;

/** All columns of all tables, in one question. */
async function existing(settings: AdminSettings): Promise<Map<string, Found>> {
  const found = new Map<string, Found>();
  const names = new Set(storeTables(1).map(({ name }) => name));
  for (const [name] of await execute(settings, 'SELECT table_name FROM tables()')) {
    if (!names.has(String(name))) continue;
    const rows = await execute(settings, `SELECT "column", type, upsertKey FROM table_columns('${String(name)}')`);
    found.set(
      String(name),
      new Map(rows.map(([column, type, key]) => [String(column), { type: String(type), key: key === true }])),
    );
  }
  return found;
}

async function widen(settings: AdminSettings, table: StoreTable, found: Found, telemetry: Telemetry): Promise<void> {
  for (const column of table.columns) {
    const there = found.get(column.name);
    if (!there && column.key)
      throw new StatementError(
        `the table ${table.name} lacks the key ${column.name}, and a key can't be added: rename the table or use another store`,
      );
    if (!there) {
      await execute(settings, `ALTER TABLE "${table.name}" ADD COLUMN IF NOT EXISTS "${column.name}" ${column.type}`);
      telemetry.configured(`the column ${table.name}.${column.name}`, 'created');
    } else if (there.type !== column.type || there.key !== column.key)
      throw new StatementError(
        `the column ${table.name}.${column.name} is ${there.type}${there.key ? ' and a key' : ''}, not ${column.type}${column.key ? ' and a key' : ''}: rename the table or use another store`,
      );
  }
}
