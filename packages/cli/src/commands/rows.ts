import { catalog } from '@fleetreel/proto';
import { durationMilliseconds } from '@fleetreel/proto/duration';
import { Collector } from '#client.ts';
import { type Command, fieldFlag, hostFlag, type Invocation, labelFlag, labelsOf, UsageError } from '#command.ts';
import { columnsOf, show, whole } from '#rows.ts';

export const rows: Command = {
  usage: 'rows TABLE',
  summary: 'Rows of a table over a range of time, the newest first: what happened',
  arguments: ['TABLE'],
  flags: {
    host: hostFlag,
    field: fieldFlag,
    label: labelFlag,
    since: { value: 'DURATION', help: 'Begin, before now: 90s, 15m, 1h, 7d [1h]' },
    from: { value: 'TIME', help: 'Begin, instead of --since: RFC 3339, milliseconds since 1970, or -1h' },
    to: { value: 'TIME', help: 'End, exclusive [now]' },
    limit: { value: 'COUNT', help: 'Rows at most [500]' },
  },
  async run(invocation, output) {
    const [table = ''] = invocation.arguments;
    const flag = (name: string) => invocation.flags.get(name)?.[0];
    const limit = flag('limit') ?? '0';
    if (!/^\d{1,9}$/.test(limit)) throw new UsageError(`--limit ${limit} is no number of rows.`);
    const labels = [...labelsOf(invocation)].map(([name, values]) => [name, { values }]);
    const all = columnsOf(table, invocation);
    using collector = new Collector(invocation.address);
    const answer = await collector.rows({
      table,
      hosts: [...(invocation.flags.get('host') ?? [])],
      labels: Object.fromEntries(labels),
      from: begin(invocation),
      to: flag('to') ?? 'now',
      limit: Number(limit),
    });
    if (invocation.json)
      return output.json({ rows: answer.rows.map((row) => whole(row, all)), truncated: answer.truncated });
    if (answer.rows.length === 0) return output.line('There are no rows in this range that match.');
    // The time of a row is its first column already.
    const rowTime = catalog.find(({ name }) => name === table)?.rowTime;
    show(table, answer.rows, { ...all, fields: all.fields.filter((name) => name !== rowTime) }, output);
    if (answer.truncated) output.line(`There are older rows: --limit ${answer.rows.length * 2} shows more.`, 'faint');
  },
};

/** @throws UsageError */
function begin({ flags }: Invocation): string {
  const since = flags.get('since')?.[0];
  const from = flags.get('from')?.[0];
  if (since === undefined) return from ?? '-1h';
  if (from !== undefined) throw new UsageError('--since and --from both say when to begin: give one of them.');
  if (durationMilliseconds(since) === undefined)
    throw new UsageError(`--since ${since} is no duration: give one such as 90s, 15m, 1h or 7d.`);
  return `-${since}`;
}
