// Tables from the contract: made, widened, and checked.
import { catalog, type Table } from '@fleetreel/proto';
import { type AdminSettings, execute, StatementError } from '#store/admin.ts';
import { customTables } from '#store/custom.ts';
import { type Rollup, rolledUpTables, rollups } from '#store/sql.ts';
import type { Telemetry } from '#telemetry.ts';

type Column = { name: string; type: 'TIMESTAMP' | 'SYMBOL' | 'VARCHAR' | 'DOUBLE' | 'LONG' | 'INT'; key: boolean };

/** A table of the store. */
export type StoreTable = { name: string; columns: readonly Column[]; partition: Unit; ttl: Ttl };

/** QuestDB drops whole partitions, so how long rows are kept is a multiple of a partition. */
type Unit = 'DAY' | 'WEEK' | 'MONTH' | 'YEAR';
type Ttl = { value: number; unit: Unit };

/** One row per frame: what holes are counted by. */
export const frameTable = 'frame';
/** One row for each time in which the log's bounds removed what the store did not have yet. */
export const logLossTable = 'log_loss';

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

/** What a roll-up keeps of a field; `count` is the number of rows that had a value, by which averages are weighed. */
export const rollupAggregates = ['avg', 'min', 'max', 'count'] as const;

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
      // When the log stored it: late is what came well after its own time. NULL in rows of before this column.
      { name: 'received', type: 'TIMESTAMP', key: false },
    ],
  };
  const logLoss: StoreTable = {
    name: logLossTable,
    partition: 'DAY',
    ttl: { value: rawDays, unit: 'DAY' },
    columns: [
      { name: 'ts', type: 'TIMESTAMP', key: true },
      { name: 'until', type: 'TIMESTAMP', key: false },
      { name: 'messages', type: 'LONG', key: false },
    ],
  };
  return [
    frame,
    logLoss,
    ...customTables(rawDays),
    ...catalog.map((table) => raw(table, rawDays)),
    ...rolledUpTables.flatMap((table) => rollups.map((rollup) => rolledUp(table, rollup))),
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
    rollupAggregates.map(
      (aggregate): Column => ({
        name: `${name}_${aggregate}`,
        type: aggregate === 'count' ? 'INT' : 'DOUBLE',
        key: false,
      }),
    ),
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

const labels = (table: Table): Column[] =>
  table.labels.map(({ name, key, text }) => ({ name, type: text ? 'VARCHAR' : 'SYMBOL', key }));

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
  const tables = await execute(settings, 'SELECT table_name, partitionBy, ttlValue, ttlUnit FROM tables()');
  const found = new Map(tables.map(([name, ...rest]) => [String(name), rest]));
  for (const table of storeTables(rawDays)) {
    const [partition, value, unit] = found.get(table.name) ?? [];
    if (partition === undefined) {
      await execute(settings, createStatement(table));
      telemetry.configured(`the table ${table.name}`, 'created');
    } else if (partition !== table.partition) throw unfit(table, `is cut by ${partition}, not by ${table.partition}`);
    // Also right after it was made: another collector, of another version, may have been faster.
    await widen(settings, table, telemetry);
    const { ttl } = table;
    if (partition !== undefined && length({ value: Number(value), unit: unit as Unit }) !== length(ttl)) {
      await execute(settings, `ALTER TABLE "${table.name}" SET TTL ${ttl.value} ${ttl.unit}S`);
      telemetry.configured(`how long the table ${table.name} is kept`, 'updated');
    }
  }
}

async function widen(settings: AdminSettings, table: StoreTable, telemetry: Telemetry): Promise<void> {
  const columns = await execute(settings, `SELECT "column", type, upsertKey FROM table_columns('${table.name}')`);
  const found = new Map(columns.map(([name, type, key]) => [String(name), { type: String(type), key: key === true }]));
  const kind = (type: string, key: boolean) => `${type}${key ? ' and a key' : ''}`;
  for (const { name, type, key } of table.columns) {
    const there = found.get(name);
    if (there?.type === type && there.key === key) continue;
    if (there) throw unfit(table, `has the column ${name} as ${kind(there.type, there.key)}, not ${kind(type, key)}`);
    if (key) throw unfit(table, `lacks the key ${name}`);
    try {
      await execute(settings, `ALTER TABLE "${table.name}" ADD COLUMN IF NOT EXISTS "${name}" ${type}`);
    } catch (cause) {
      // Another collector was faster: the store looks whether there is one before it is this statement's turn.
      if (cause instanceof StatementError && cause.message.startsWith('duplicate column')) continue;
      throw cause;
    }
    telemetry.configured(`the column ${table.name}.${name}`, 'created');
  }
  const names = new Set(table.columns.map(({ name }) => name));
  const foreign = [...found].find(([name, { key }]) => key && !names.has(name));
  if (foreign) throw unfit(table, `has the key ${foreign[0]}, which is none here`);
}

/** One form of a length of time: QuestDB makes a week of seven days, and perhaps a year of twelve months. */
function length({ value, unit }: Ttl): string {
  if (unit === 'DAY' || unit === 'WEEK') return `${unit === 'WEEK' ? value * 7 : value} days`;
  return `${unit === 'YEAR' ? value * 12 : value} months`;
}

function unfit({ name }: StoreTable, what: string): StatementError {
  return new StatementError(
    `the table ${name} in QuestDB ${what}: rename it (RENAME TABLE ${name} TO ${name}_old), and it is made anew`,
  );
}
