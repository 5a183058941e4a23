import { readFile } from 'node:fs/promises';
import { decodeFrame } from '@fleetreel/proto';
import { Collector, type Update } from '#client.ts';
import { type Command, fieldFlag, hostFlag, type Invocation } from '#command.ts';
import { absent, formatTime, formatValue, unitOf } from '#format.ts';
import { fileError, keepToken } from '#recorded.ts';
import { columnsOf } from '#rows.ts';

export const tail: Command = {
  usage: 'tail TABLE',
  summary: 'Rows of a table as they arrive, until Ctrl-C; with --json one object a line',
  arguments: ['TABLE'],
  flags: {
    host: hostFlag,
    field: fieldFlag,
    from: {
      value: 'TIME',
      help: 'First all rows since then: -1h, RFC 3339, or milliseconds since 1970; none is left out then',
    },
    resume: { value: 'FILE', help: 'Keep in this file how far it came, and go on from there: each row once' },
  },
  async run(invocation, output, signal) {
    const {
      arguments: [table = ''],
      flags,
      address,
      json,
    } = invocation;
    const fields = (flags.get('field') ?? []).flatMap((text) => text.split(','));
    using collector = new Collector(address);
    const updates =
      flags.has('from') || flags.has('resume')
        ? followed(collector, invocation, fields, signal)
        : collector.watch(table, fields, flags.get('host') ?? [], signal);
    for await (const update of updates) {
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

/** History, then what arrives, each row once; how far it came is kept in a file after what it came to was shown. */
async function* followed(
  collector: Collector,
  invocation: Invocation,
  wanted: readonly string[],
  signal: AbortSignal,
): AsyncGenerator<Update> {
  const [table = ''] = invocation.arguments;
  const { labels, fields } = columnsOf(table, invocation);
  const path = invocation.flags.get('resume')?.[0];
  const token = path === undefined ? '' : await tokenOf(path);
  const from = token ? '' : (invocation.flags.get('from')?.[0] ?? '');
  const hosts = [...(invocation.flags.get('host') ?? [])];
  for await (const part of collector.follow({ from, token, hosts, tables: [table] }, signal)) {
    for (const { host, frame } of part.frames) {
      const { time_us, tables } = decodeFrame(frame);
      const columns: Record<string, readonly (string | number)[]> = tables[table as keyof typeof tables] ?? {};
      const value = (name: string) => (columns[name] ?? []).map((one) => (Number.isNaN(one) ? null : Number(one)));
      yield {
        host,
        table,
        time: time_us / 1000,
        labels: Object.fromEntries(labels.map((name) => [name, (columns[name] ?? []).map(String)])),
        values: Object.fromEntries((wanted.length > 0 ? wanted : fields).map((name) => [name, value(name)])),
        skipped: 0,
      };
    }
    if (path !== undefined) await keepToken(path, part.token);
  }
}

/** The token in a file; empty where there is no file yet. */
async function tokenOf(path: string): Promise<string> {
  try {
    return (await readFile(path, 'utf8')).trim();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw fileError(cause);
  }
}
