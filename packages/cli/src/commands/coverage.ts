import { Collector } from '#client.ts';
import type { Command } from '#command.ts';
import { formatSeconds, formatTime } from '#format.ts';
import type { Cell, Column } from '#output.ts';

const summary: readonly Column[] = [
  { title: 'HOST', align: 'left' },
  { title: 'COVERED', align: 'right' },
  { title: 'IN TIME', align: 'right' },
  { title: 'HOLES', align: 'right' },
];
const columns: readonly Column[] = [
  { title: 'HOST', align: 'left' },
  { title: 'BEGIN', align: 'left' },
  { title: 'END', align: 'left' },
  { title: 'LENGTH', align: 'right' },
  { title: 'FRAMES', align: 'right' },
  { title: 'CAUSE', align: 'left' },
  { title: 'HEALED', align: 'left' },
];

export const coverage: Command = {
  usage: 'coverage [HOST...]',
  summary: 'What of a range of time is stored of hosts, and every hole with its cause',
  arguments: [],
  rest: 'HOST',
  flags: {
    from: { value: 'TIME', help: 'Begin: -1h, RFC 3339, or milliseconds since 1970 [-1h]' },
    to: { value: 'TIME', help: 'End, exclusive [now]' },
  },
  async run(invocation, output) {
    const flag = (name: string) => invocation.flags.get(name)?.[0];
    using collector = new Collector(invocation.address);
    const answer = await collector.coverage({
      hosts: [...invocation.arguments],
      from: flag('from') ?? '-1h',
      to: flag('to') ?? 'now',
    });
    if (invocation.json) return output.json(answer);
    if (answer.hosts.length === 0) return output.line('No host has reported yet.');
    output.table(
      summary,
      answer.hosts.map(({ host, percent, percentInTime, holes, truncated }): Cell[] => [
        { text: host },
        { text: share(percent), tone: percent < 100 ? 'bad' : 'good' },
        { text: share(percentInTime) },
        { text: truncated ? `more than ${holes.length}` : String(holes.length) },
      ]),
    );
    const holes = answer.hosts.flatMap(({ host, holes: own }) => own.map((hole) => ({ host, ...hole })));
    if (holes.length === 0) return;
    output.line('');
    output.table(
      columns,
      holes.map(({ host, begin, end, missingFrames, cause, healed }): Cell[] => [
        { text: host },
        { text: formatTime(begin) },
        { text: end === null ? 'open' : formatTime(end) },
        { text: formatSeconds(((end ?? answer.to) - begin) / 1000) },
        { text: missingFrames === null ? '-' : String(missingFrames) },
        { text: cause.replaceAll('_', ' ') },
        { text: healed === null ? 'no' : formatTime(healed), tone: healed === null ? 'bad' : 'good' },
      ]),
    );
  },
};

/** Percent, never rounded up to all. */
const share = (percent: number): string => `${percent >= 100 ? '100' : Math.min(percent, 99.999).toFixed(3)} %`;
