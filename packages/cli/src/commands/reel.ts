import { ReelError } from '@fleetreel/reel/format';
import { ReelReader } from '@fleetreel/reel/reader';
import type { Command } from '#command.ts';
import { formatTime, formatValue } from '#format.ts';
import { fileError, RecordingError } from '#recorded.ts';

export const reel: Command = {
  usage: 'reel FILE.reel',
  summary: 'What a recorded file is of, and whether all of it is good',
  arguments: ['FILE.reel'],
  flags: {},
  async run({ arguments: [path = ''], json }, output) {
    await using reader = await ReelReader.open(path).catch((cause: unknown) => {
      throw cause instanceof ReelError ? new RecordingError(cause.message, { cause }) : fileError(cause);
    });
    const fault = await reader.verify().then(
      () => undefined,
      (cause: unknown) => {
        if (cause instanceof ReelError) return cause;
        throw cause;
      },
    );
    const { header, range_us, blocks } = reader;
    const unknown = reader.unknown();
    const about = {
      file: path,
      bytes: reader.bytes,
      product: header.product,
      created: header.created,
      tenant: header.tenant,
      chosenHosts: header.hosts,
      chosenTables: header.tables,
      contract: reader.isOfThisContract ? 'this' : 'another',
      unknown,
      from: range_us && range_us.first / 1000,
      to: range_us && range_us.last / 1000,
      frames: reader.frameCount,
      blocks: blocks.length,
      hosts: reader.hosts,
      good: fault ? { fault: fault.fault, ...fault.good } : true,
    };
    if (json) output.json(about);
    else {
      const list = (names: readonly string[]) => (names.length > 0 ? names.join(', ') : 'all');
      const rows: [string, string][] = [
        ['file', `${path}, ${formatValue(reader.bytes, 'bytes')}`],
        ['written', `${formatTime(header.created)} by fleetreel ${header.product}`],
        ['tenant', header.tenant],
        ['asked for', `hosts: ${list(header.hosts)}; tables: ${list(header.tables)}`],
        ['from', range_us ? formatTime(range_us.first / 1000) : '-'],
        ['to', range_us ? formatTime(range_us.last / 1000) : '-'],
        ['frames', `${reader.frameCount} in ${blocks.length} blocks`],
        ['hosts', reader.hosts.length > 0 ? reader.hosts.join(', ') : '-'],
        [
          'contract',
          unknown.length > 0
            ? `newer: ${unknown.slice(0, 20).join(', ')} are not known here`
            : reader.isOfThisContract
              ? 'the one of this version'
              : 'an older one, all of it known here',
        ],
      ];
      for (const [name, text] of rows) output.line(`${name.padEnd(11)}${text}`);
      if (!fault) output.line('checked    good to its end', 'good');
    }
    if (fault) throw new RecordingError(fault.message, { cause: fault });
  },
};
