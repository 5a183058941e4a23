// The tables of what applications write and of the audit trail: their columns, their rows on the way in, and the questions that they
// are asked. They are no tables of the catalogue: a row has a name and metadata of its own.
import { randomBytes } from 'node:crypto';
import { type CustomBatch, type LoggedAuditRecord, markedKey } from '@fleetreel/proto/custom';
import { auditYears } from '#limits.ts';
import { symbol, textValue } from '#store/escape.ts';
import type { StoreTable } from '#store/schema.ts';
import { microseconds, type Statement } from '#store/sql.ts';

export const measureTable = 'measure';
/** `event` is the table of what agents see happen. */
export const eventTable = 'custom_event';
export const auditTable = 'audit';

/** What identifies a row: when, whose, by which call, and which of its entries. */
const written = [
  { name: 'ts', type: 'TIMESTAMP', key: true },
  { name: 'tenant', type: 'SYMBOL', key: true },
  { name: 'call', type: 'LONG', key: true },
  { name: 'entry', type: 'INT', key: true },
  { name: 'source', type: 'SYMBOL', key: false },
  { name: 'name', type: 'SYMBOL', key: false },
] as const;

/** The tables, where raw rows are kept for so many days. */
export function customTables(rawDays: number): StoreTable[] {
  const kept = { partition: 'DAY', ttl: { value: rawDays, unit: 'DAY' } } as const;
  return [
    {
      name: measureTable,
      ...kept,
      columns: [
        ...written,
        { name: 'value', type: 'DOUBLE', key: false },
        { name: 'text', type: 'VARCHAR', key: false },
        { name: 'metadata', type: 'VARCHAR', key: false },
      ],
    },
    {
      name: eventTable,
      ...kept,
      columns: [
        ...written,
        { name: 'until', type: 'TIMESTAMP', key: false },
        { name: 'severity', type: 'SYMBOL', key: false },
        { name: 'text', type: 'VARCHAR', key: false },
        { name: 'metadata', type: 'VARCHAR', key: false },
      ],
    },
    {
      name: auditTable,
      partition: 'MONTH',
      ttl: { value: auditYears, unit: 'YEAR' },
      columns: [
        { name: 'ts', type: 'TIMESTAMP', key: true },
        { name: 'tenant', type: 'SYMBOL', key: true },
        { name: 'call', type: 'LONG', key: true },
        { name: 'collector', type: 'SYMBOL', key: false },
        { name: 'actor_kind', type: 'SYMBOL', key: false },
        { name: 'action', type: 'SYMBOL', key: false },
        ...(['actor_id', 'actor_name', 'target', 'before', 'after', 'address'] as const).map(
          (name) => ({ name, type: 'VARCHAR', key: false }) as const,
        ),
      ],
    },
  ];
}

/** The lines of some rows, as the store takes them. */
export type Lines = { bytes: Uint8Array; rowCount: number };

/** The time of an entry: its own, or when the call came. */
export const timeOf = (time_us: number | undefined, received_us: number): number =>
  time_us === undefined || Number.isNaN(time_us) ? received_us : time_us;

/** Bytes of the numbers of a row and of what stands between its columns, at most. */
const rowRest = 160;

/** The rows of a batch. */
export function customLines(tenant: string, source: string, batch: CustomBatch): Lines {
  const { measures, events, words, received_us, first } = batch;
  const { name, time_us, text, metadata } = measures ?? events;
  const head = Buffer.from(
    `${measures ? measureTable : eventTable},tenant=${symbol(tenant)},source=${symbol(source)},name=`,
  );
  const call = ` call=${signed(batch.call)}i,entry=`;
  // Each text is escaped once, however many rows have it.
  const symbols: Buffer[] = [];
  const texts: Buffer[] = [];
  const asSymbol = (place: number) => (symbols[place] ??= Buffer.from(symbol(words[place] as string)));
  const asText = (place: number) => (texts[place] ??= Buffer.from(textValue(words[place] as string)));
  let size = 0;
  for (let row = 0; row < name.length; row++)
    size +=
      asSymbol(name[row] as number).length +
      (events ? asSymbol(events.severity[row] as number).length : 0) +
      asText(text[row] as number).length +
      asText(metadata[row] as number).length;
  const bytes = Buffer.allocUnsafe(size + name.length * (head.length + rowRest));
  let at = 0;
  const put = (part: Uint8Array) => {
    bytes.set(part, at);
    at += part.length;
  };
  const putText = (column: string, place: number) => {
    at += bytes.write(`,${column}="`, at, 'latin1');
    put(asText(place));
    bytes[at++] = 0x22;
  };
  for (let row = 0; row < name.length; row++) {
    put(head);
    put(asSymbol(name[row] as number));
    if (events) {
      at += bytes.write(',severity=', at, 'latin1');
      put(asSymbol(events.severity[row] as number));
    }
    at += bytes.write(`${call}${first + row}i`, at, 'latin1');
    const value = measures ? (measures.value[row] as number) : Number.NaN;
    if (measures && !Number.isNaN(value)) {
      // Eight binary bytes: exact, and cheaper than digits.
      at += bytes.write(',value==\x10', at, 'latin1');
      at = bytes.writeDoubleLE(value, at);
    } else putText('text', text[row] as number);
    const end_us = events ? (events.end_us[row] as number) : Number.NaN;
    if (!Number.isNaN(end_us)) at += bytes.write(`,until=${end_us}t`, at, 'latin1');
    if (metadata[row] !== 0) putText('metadata', metadata[row] as number);
    at += bytes.write(` ${timeOf(time_us[row], received_us)}t\n`, at, 'latin1');
  }
  return { bytes: bytes.subarray(0, at), rowCount: name.length };
}

/** The row of a record. */
export function auditLines(tenant: string, collector: string, record: LoggedAuditRecord): Lines {
  const symbols = { tenant, collector, actor_kind: record.actor_kind, action: record.action };
  const { actor_id, actor_name, target, before, after, address } = record;
  const labels = Object.entries(symbols).map(([name, value]) => `,${name}=${symbol(value)}`);
  const texts = Object.entries({ actor_id, actor_name, target, before, after, address }).map(
    ([name, value]) => `,${name}="${textValue(value)}"`,
  );
  const line = `${auditTable}${labels.join('')} call=${signed(record.id)}i${texts.join('')} ${record.time_us}t\n`;
  return { bytes: Buffer.from(line), rowCount: 1 };
}

/** 63 bits as a whole number. */
const signed = (hex: string): string => BigInt(`0x${hex}`).toString();

/** Where a list of rows stands: the row that was given last. */
export type Position = { time_us: number; call: bigint; entry: number };

/** A condition on metadata, or on a column; a pattern has "*" for any characters. */
export type Comparison = '=' | '!=' | '<' | '<=' | '>' | '>=';
export type Condition =
  | { key: string; type: 'number'; comparison: Comparison; value: number }
  | { key: string; type: 'boolean'; comparison: '=' | '!='; value: boolean }
  | { key: string; type: 'string'; comparison: '=' | '!='; value: string; isPattern: boolean };

/** Rows of one of these tables. Of `names` and of each list of `columns` one has to match; none means all. */
export type CustomSelection = {
  tenant: string;
  table: typeof measureTable | typeof eventTable | typeof auditTable;
  /** UTC, microseconds since 1970: `from` inclusive, `to` exclusive. */
  from_us: number;
  to_us: number;
  /** Patterns that one of these columns has to match. */
  columns: readonly { names: readonly CustomColumn[]; patterns: readonly string[] }[];
  conditions: readonly Condition[];
};
export type CustomColumn = 'name' | 'severity' | 'actor_id' | 'actor_name' | 'action' | 'target';

const readColumns = {
  [measureTable]: ['name', 'source', 'value', 'text', 'metadata'],
  [eventTable]: ['name', 'source', 'until', 'severity', 'text', 'metadata'],
  [auditTable]: [
    'collector',
    'actor_kind',
    'actor_id',
    'actor_name',
    'action',
    'target',
    '"before"',
    '"after"',
    'address',
  ],
} as const;

/** Of the columns that may be long. The length of NULL is -1. */
const longColumns = {
  [measureTable]: ['text', 'metadata'],
  [eventTable]: ['text', 'metadata'],
  [auditTable]: ['target', '"before"', '"after"'],
} as const;

/** So many rows at most, and none behind those that have so many bytes together. */
export type Most = { rows: number; bytes: number };

/** Rows of a table in an order: ts, call, entry, bytes, then the columns of the table. The store counts the bytes, so that none too many are read. */
function rowsOf(table: CustomSelection['table'], which: string, { rows, bytes }: Most): string {
  const columns = readColumns[table].join(', ');
  const size = longColumns[table].map((name) => `length_bytes(${name}) + 1`).join(' + ');
  const entry = table === auditTable ? '0 AS entry' : 'entry';
  const all = `SELECT ts, cast(call AS varchar) AS call_text, ${entry}, ${size} AS bytes, ${columns} FROM ${table} WHERE ${which} LIMIT ${whole(rows)}`;
  return (
    `SELECT ts, call_text, entry, bytes, ${columns} FROM ` +
    `(SELECT *, sum(bytes) OVER (ROWS UNBOUNDED PRECEDING) AS total FROM (${all})) WHERE total - bytes < ${whole(bytes)}`
  );
}

/** The newest rows, by time alone. */
export function newestCustom(selection: CustomSelection, most: Most): Statement {
  const { where, values } = conditions(selection);
  // Not by call and entry too: then all of the range would be sorted, where this ends after so many rows.
  return { text: rowsOf(selection.table, `${where} ORDER BY ts DESC`, most), values };
}

/** The rows of one time in their order, behind a position where one is given: as `newestCustom`. */
export function customAt(
  selection: CustomSelection,
  time_us: number,
  behind: Omit<Position, 'time_us'> | undefined,
  most: Most,
): Statement {
  const { where, values } = conditions({ ...selection, from_us: time_us, to_us: time_us + 1 });
  const entry = selection.table === auditTable ? '' : ', entry DESC';
  let rest = '';
  if (behind) {
    // As it is: a cast would make a double of it first.
    const call = `$${values.push(String(behind.call))}`;
    rest =
      selection.table === auditTable
        ? ` AND call < ${call}`
        : ` AND (call < ${call} OR (call = ${call} AND entry < $${values.push(behind.entry)}))`;
  }
  return { text: rowsOf(selection.table, `${where}${rest} ORDER BY call DESC${entry}`, most), values };
}

function conditions({ tenant, from_us, to_us, columns, conditions: asked }: CustomSelection) {
  const values: unknown[] = [];
  const bind = (value: unknown) => `$${values.push(value)}`;
  const where = [
    `tenant = ${bind(tenant)}`,
    `ts >= ${bind(microseconds(from_us))}`,
    `ts < ${bind(microseconds(to_us))}`,
  ];
  for (const { names, patterns } of columns) {
    if (patterns.length === 0) continue;
    const each = patterns.flatMap((pattern) => names.map((name) => matching(name, pattern, true, bind)));
    // QuestDB 9.3.4 keeps which symbols match a pattern together with the plan that it keeps of a text: a text that nobody sent
    // before has no plan.
    where.push(`(${each.join(' OR ')}) /* ${randomBytes(8).toString('hex')} */`);
  }
  for (const condition of asked) {
    const { key, type, comparison, value } = condition;
    const found = `json_extract(metadata, ${bind(`$.${markedKey(type, key)}`)})`;
    // What is not there is not unequal.
    if (comparison === '!=') where.push(`${found} IS NOT NULL`);
    if (type === 'number') where.push(`${found}::double ${comparison} ${bind(value)}`);
    else if (type === 'boolean') where.push(`${found} ${comparison} ${bind(String(value))}`);
    else {
      const match = matching(found, value, condition.isPattern, bind);
      where.push(comparison === '=' ? match : `NOT (${match})`);
    }
  }
  return { where: where.join(' AND '), values };
}

function matching(what: string, pattern: string, isPattern: boolean, bind: (value: unknown) => string): string {
  if (!isPattern || !pattern.includes('*')) return `${what} = ${bind(pattern)}`;
  return `${what} LIKE ${bind(pattern.replace(/[\\%_]/g, '\\$&').replaceAll('*', '%'))}`;
}

function whole(number: number): number {
  if (!Number.isSafeInteger(number) || number <= 0) throw new RangeError(`${number} is no whole number above 0`);
  return number;
}
