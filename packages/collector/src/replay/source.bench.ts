// Measures what a replay does without a face: `node source.bench.ts NATS_URL FROM_MS TO_MS FILE` plays a range as fast as possible,
// into nothing, into a new .reel, and then reads the same messages by an ordered consumer alone. Prints one line of JSON.
import { contractTexts, everything } from '@fleetreel/proto';
import { ReelWriter } from '@fleetreel/reel/writer';
import { systemClock } from '#clock.ts';
import { connectLog } from '#log/connect.ts';
import { streamName } from '#log/stream.ts';
import { Source } from '#replay/source.ts';
import { Reader } from '#store/reader.ts';

const [url = '', from = '', to = '', file = ''] = process.argv.slice(2);
const log = await connectLog(url);
// The range is in the log: the store is not asked.
const reader = new Reader({ pg_host: '127.0.0.1', pg_port: 1, read_user: '', read_password: '' });
const question = {
  tenant: 'default',
  hosts: [],
  tables: [],
  range: { from_us: Number(from) * 1000, to_us: Number(to) * 1000 },
};

async function timed(run: () => Promise<number>): Promise<number> {
  const begin_ms = performance.now();
  const frames = await run();
  return frames / ((performance.now() - begin_ms) / 1000);
}

async function play(take: (frame: Parameters<ReelWriter['add']>[0]) => Promise<void> | undefined): Promise<number> {
  const source = await Source.open({ log, reader, clock: systemClock }, question);
  let frames = 0;
  for await (const part of source.frames(0, new AbortController().signal)) {
    if ('to_us' in part) throw new Error('the log has lost a part of the range');
    frames += part.length;
    for (const frame of part) {
      const behind = take(frame);
      if (behind) await behind;
    }
  }
  return frames;
}

const alone = await timed(async () => {
  const consumer = await log.jetstream.consumers.get(streamName, { filter_subjects: everything });
  let frames = 0;
  for await (const message of await consumer.consume()) {
    frames++;
    if (message.info.pending === 0) break;
  }
  return frames;
});
const nothing = await timed(() => play(() => undefined));
const intoFile = await timed(async () => {
  const header = { product: 'bench', created: 0, tenant: 'default', range: {}, hosts: [], tables: [] };
  await using writer = await ReelWriter.create(file, { ...header, contract: contractTexts() });
  return await play((frame) => writer.add(frame));
});
process.stdout.write(`${JSON.stringify({ alone, nothing, intoFile })}\n`);
await reader.close();
await log.connection.close();
