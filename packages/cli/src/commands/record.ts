import { Collector } from '#client.ts';
import { type Command, hostFlag } from '#command.ts';
import { tableFlag, tablesOf } from '#commands/replay.ts';
import { formatTime } from '#format.ts';
import { ReelSink, reelFrame } from '#recorded.ts';

export const record: Command = {
  usage: 'record FILE.reel',
  summary: 'Record frames into a file: of a range with --to, else until Ctrl-C',
  arguments: ['FILE.reel'],
  flags: {
    from: { value: 'TIME', help: 'Begin: -1h, RFC 3339, or milliseconds since 1970 [now; with --to: an hour ago]' },
    to: { value: 'TIME', help: 'End, exclusive, such as now [until Ctrl-C]' },
    host: hostFlag,
    table: tableFlag,
  },
  async run(invocation, output, signal) {
    const [path = ''] = invocation.arguments;
    const flag = (name: string) => invocation.flags.get(name)?.[0];
    const hosts = [...(invocation.flags.get('host') ?? [])];
    const tables = tablesOf(invocation).map(({ name }) => name);
    const [from, to] = [flag('from') ?? '', flag('to')];
    using collector = new Collector(invocation.address);
    let first: number | undefined;
    let last: number | undefined;
    // The file is made once the collector has answered: a question that it refuses leaves none.
    let sink: ReelSink | undefined;
    const open = async () => (sink ??= await ReelSink.create(path, { range: {}, hosts, tables }));
    const take = async (frames: readonly Parameters<typeof reelFrame>[0][]) => {
      if (frames.length === 0) return;
      const own = frames.map(reelFrame);
      first ??= own[0]?.time_us;
      last = own.at(-1)?.time_us;
      await (await open()).take(own);
    };
    try {
      if (to === undefined)
        for await (const { frames } of collector.follow({ from, hosts, tables }, signal)) await take(frames);
      else {
        const play = collector.play({ from, to, hosts, tables }, signal);
        play.end();
        for await (const { frames, mark } of play.messages) {
          await open();
          if (mark?.detail) output.line(mark.detail, 'bad');
          await take(frames);
        }
      }
      // Nothing came until Ctrl-C: that is a recording, too.
      await open();
    } finally {
      await sink?.close();
    }
    const { writer } = await open();
    if (invocation.json) {
      output.json({ file: path, frames: writer.frames, bytes: writer.bytes });
      return;
    }
    const range =
      first === undefined || last === undefined ? '' : `, ${formatTime(first / 1000)} to ${formatTime(last / 1000)}`;
    output.line(`${path}: ${writer.frames} frames, ${writer.bytes} bytes${range}`);
  },
};
