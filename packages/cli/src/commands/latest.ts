import { Collector } from '#client.ts';
import { type Command, fieldFlag, hostFlag, labelFlag, labelsOf, UsageError } from '#command.ts';
import { columnsOf, show, whole } from '#rows.ts';

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
    const columns = columnsOf(table, invocation);
    if (invocation.json) return output.json({ rows: answer.rows.map((row) => whole(row, columns)) });
    if (answer.rows.length === 0) return output.line(`No host has reported rows of ${table} that match.`);
    show(table, answer.rows, columns, output);
  },
};
