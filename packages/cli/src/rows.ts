// Rows of a table as commands show them.
import { catalog } from '@fleetreel/proto';
import type { Row } from '@fleetreel/proto/http';
import { suggestion } from '@fleetreel/proto/settings';
import { type Invocation, UsageError } from '#command.ts';
import { formatTime, formatValue, unitOf } from '#format.ts';
import { type Cell, type Column, type Output, tableWidth } from '#output.ts';

/** Which columns of a table are shown; `cut` where not all of its fields were asked for. */
export type Columns = { labels: readonly string[]; fields: readonly string[]; cut: boolean };

/** The columns that were asked for, by `--field`. @throws UsageError */
export function columnsOf(table: string, { flags }: Invocation): Columns {
  const wanted = (flags.get('field') ?? []).flatMap((text) => text.split(','));
  const known = catalog.find(({ name }) => name === table);
  const all = known?.fields.map(({ name }) => name) ?? [];
  for (const field of wanted)
    if (known && !all.includes(field))
      throw new UsageError(`The table ${table} has no field "${field}". ${suggestion(field, all)}`);
  const labels = known?.labels.map(({ name }) => name) ?? [];
  return wanted.length > 0 ? { labels, fields: wanted, cut: true } : { labels, fields: all, cut: false };
}

/** A row for programs: a value that is not available is null, and told apart from a field that isn't there. */
export function whole(row: Row, { labels, fields, cut }: Columns): Record<string, string | number | null> {
  const names = ['time', 'host', ...labels, ...fields];
  return {
    ...Object.fromEntries(fields.map((field) => [field, null])),
    ...(cut ? Object.fromEntries(Object.entries(row).filter(([name]) => names.includes(name))) : row),
  };
}

/** One line for each row, or one column where that is narrower than the terminal and lines are not. */
export function show(table: string, rows: readonly Row[], { labels, fields }: Columns, output: Output): void {
  const value = (row: Row, field: string): Cell => {
    const cell = row[field];
    const text = formatValue(typeof cell === 'number' ? cell : null, unitOf(table, field));
    return { text, tone: text === '-' ? 'faint' : undefined };
  };
  const label = (row: Row, name: string): Cell => ({ text: String(row[name] ?? '') });
  const left = (title: string): Column => ({ title, align: 'left' });
  const right = (title: string): Column => ({ title, align: 'right' });

  const columns = [left('TIME'), left('HOST'), ...labels.map(left), ...fields.map(right)];
  const lines = rows.map((row) => [
    { text: formatTime(row.time) },
    { text: row.host },
    ...labels.map((name) => label(row, name)),
    ...fields.map((field) => value(row, field)),
  ]);
  const width = tableWidth(columns, lines);
  const turnedColumns = [left(''), ...rows.map((row) => right(row.host))];
  const turned = [
    [{ text: 'time' }, ...rows.map((row): Cell => ({ text: formatTime(row.time) }))],
    ...labels.map((name) => [{ text: name }, ...rows.map((row) => label(row, name))]),
    ...fields.map((field) => [{ text: field }, ...rows.map((row) => value(row, field))]),
  ];
  if (width > output.width && tableWidth(turnedColumns, turned) < width) output.table(turnedColumns, turned);
  else output.table(columns, lines);
}
