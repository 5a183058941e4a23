import { Collector } from '#client.ts';
import { type Command, hostFlag, labelFlag, labelsOf } from '#command.ts';
import { formatTime, formatValue } from '#format.ts';

export const series: Command = {
  usage: 'series TABLE FIELD[,FIELD...]',
  summary: 'Fields of a table over a range of time, aggregated by steps',
  arguments: ['TABLE', 'FIELD'],
  flags: {
    host: hostFlag,
    label: labelFlag,
    from: { value: 'TIME', help: 'Begin: -1h, RFC 3339, or milliseconds since 1970 [-1h]' },
    to: { value: 'TIME', help: 'End, exclusive [now]' },
    step: { value: 'DURATION', help: 'Width of a step: 10s, 5m, 1h, or auto [auto]' },
    agg: { value: 'NAME', help: 'avg, min, max, sum, last, p50, p95 or p99 [avg]' },
  },
  async run(invocation, output) {
    const [table = '', fields = ''] = invocation.arguments;
    const flag = (name: string) => invocation.flags.get(name)?.[0];
    using collector = new Collector(invocation.address);
    const answer = await collector.series({
      table,
      fields: fields.split(',').filter(Boolean),
      hosts: [...(invocation.flags.get('host') ?? [])],
      labels: Object.fromEntries([...labelsOf(invocation)].map(([name, values]) => [name, { values }])),
      from: flag('from') ?? '-1h',
      to: flag('to') ?? 'now',
      step: flag('step') ?? 'auto',
      aggregation: flag('agg') ?? 'avg',
    });
    if (invocation.json) return output.json(answer);
    if (answer.series.length === 0) return output.line('There are no rows in this range that match.');
    output.table(
      [{ title: 'TIME', align: 'left' }, ...titles(answer.series).map((title) => ({ title, align: 'right' as const }))],
      answer.times.map((time, index) => [
        { text: formatTime(time) },
        ...answer.series.map(({ unit, values }) => ({ text: formatValue(values[index], unit) })),
      ]),
    );
  },
};

/** What tells each series from the others: the labels that differ, and the field where there are several. */
function titles(all: readonly { field: string; labels: Readonly<Record<string, string>> }[]): string[] {
  const differs = (pick: (one: (typeof all)[number]) => string | undefined) => new Set(all.map(pick)).size > 1;
  const names = [...new Set(all.flatMap(({ labels }) => Object.keys(labels)))].filter((name) =>
    differs(({ labels }) => labels[name]),
  );
  const withField = differs(({ field }) => field) || names.length === 0;
  return all.map(({ field, labels }) =>
    [...names.map((name) => labels[name] ?? ''), ...(withField ? [field] : [])].filter(Boolean).join(' '),
  );
}
