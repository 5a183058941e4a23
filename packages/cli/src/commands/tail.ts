import { Collector } from '#client.ts';
import { type Command, fieldFlag, hostFlag } from '#command.ts';
import { absent, formatTime, formatValue, unitOf } from '#format.ts';

export const tail: Command = {
  usage: 'tail TABLE',
  summary: 'Rows of a table as they arrive, until Ctrl-C; with --json one object a line',
  arguments: ['TABLE'],
  flags: { host: hostFlag, field: fieldFlag },
  async run({ arguments: [table = ''], flags, address, json }, output, signal) {
    const fields = (flags.get('field') ?? []).flatMap((text) => text.split(','));
    using collector = new Collector(address);
    for await (const update of collector.watch(table, fields, flags.get('host') ?? [], signal)) {
      const { host, time, labels, values, skipped } = update;
      if (skipped > 0 && !json)
        output.line(`${host}: ${skipped} updates were left out, this reader is too slow`, 'bad');
      const count = Math.max(0, ...[...Object.values(labels), ...Object.values(values)].map(({ length }) => length));
      for (let row = 0; row < count; row++) {
        // An empty column means that all its values are absent.
        const names = Object.entries(labels).map(([name, column]) => [name, column[row] ?? ''] as const);
        const cells = Object.entries(values).map(([name, column]) => [name, column[row] ?? null] as const);
        if (json) {
          const more = row === 0 && skipped > 0 ? { skipped } : {};
          output.json({ time, host, ...Object.fromEntries(names), ...Object.fromEntries(cells), ...more });
          continue;
        }
        const shown = cells
          .map(([name, value]) => [name, formatValue(value, unitOf(table, name))] as const)
          .filter(([, text]) => text !== absent);
        output.line(
          [
            formatTime(time),
            host,
            ...[...names, ...shown].map(([name, text]) => `${name}=${text.replaceAll(' ', '')}`),
          ].join(' '),
        );
      }
    }
  },
};
