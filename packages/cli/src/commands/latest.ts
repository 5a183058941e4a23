import { catalog } from '@fleetreel/proto';
import { suggestion } from '@fleetreel/proto/settings';
import { Collector } from '#client.ts';
import { type Command, fieldFlag, hostFlag, labelFlag, labelsOf, UsageError } from '#command.ts';
import { formatTime, formatValue, unitOf } from '#format.ts';
import { type Cell, type Column, type Output, tableWidth } from '#output.ts';

export const latest: Command = {
  usage: 'latest TABLE',
  summary: 'The newest row of every entity of a table',
  arguments: ['TABLE'],
  flags: { host: hostFlag, field: fieldFlag, label: labelFlag },
  async run(invocation, output) {
    const [table = ''] = invocation.arguments;
    const labels = new Map<string, string>();
    for (const [name, [value = '', ...more]] of labelsOf(invocation)) {
      if (more.length > 0) throw new UsageError(`--label ${name} is given twice: latest takes one value of a label.`);
      labels.set(name, value);
    }
    using collector = new Collector(invocation.address);
    const answer = await collector.latest(table, invocation.flags.get('host') ?? [], Object.fromEntries(labels));
    const wanted = (invocation.flags.get('field') ?? []).flatMap((text) => text.split(','));
    const known = catalog.find(({ name }) => name === table);
    const names = known?.labels.map(({ name }) => name) ?? [];
    const fields = wanted.length > 0 ? wanted : (known?.fields.map(({ name }) => name) ?? []);
    for (const field of wanted)
      if (known && !known.fields.some(({ name }) => name === field))
        throw new UsageError(
          `The table ${table} has no field "${field}". ${suggestion(
            field,
            known.fields.map(({ name }) => name),
          )}`,
        );
    if (invocation.json) {
      const cut = wanted.length > 0 ? ['time', 'host', ...names, ...fields] : undefined;
      const rows = answer.rows.map((row) => ({
        // A value that is not available is told apart from a field that isn't there.
        ...Object.fromEntries(fields.map((field) => [field, null])),
        ...(cut ? Object.fromEntries(Object.entries(row).filter(([name]) => cut.includes(name))) : row),
      }));
      return output.json({ rows });
    }
    if (answer.rows.length === 0) return output.line(`No host has reported rows of ${table} that match.`);
    show(table, answer.rows, names, fields, output);
  },
};

type Row = { time: number; host: string; [column: string]: string | number | null };

/** One line for each row, or one column where that is narrower than the terminal and lines are not. */
function show(
  table: string,
  rows: readonly Row[],
  labels: readonly string[],
  fields: readonly string[],
  output: Output,
) {
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
  if (width <= output.width) return output.table(columns, lines);

  const turnedColumns = [left(''), ...rows.map((row) => right(row.host))];
  const turned = [
    [{ text: 'time' }, ...rows.map((row): Cell => ({ text: formatTime(row.time) }))],
    ...labels.map((name) => [{ text: name }, ...rows.map((row) => label(row, name))]),
    ...fields.map((field) => [{ text: field }, ...rows.map((row) => value(row, field))]),
  ];
  if (tableWidth(turnedColumns, turned) < width) output.table(turnedColumns, turned);
  else output.table(columns, lines);
}
