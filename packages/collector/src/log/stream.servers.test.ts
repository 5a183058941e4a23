// What the log is made of is made, and made again, on a real nats-server.
import { startNats } from '@fleetreel/test/servers/nats';
import { nanos } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import { codeMilliseconds } from '#limits.ts';
import { connectLog } from '#log/connect.ts';
import { buckets, keepLog } from '#log/stream.ts';
import { Telemetry } from '#telemetry.ts';

test('every bucket is there, and again when it was removed, as it has to be', { timeout: 60_000 }, async () => {
  await using nats = await startNats();
  await using closing = new AsyncDisposableStack();
  const log = await connectLog(nats.url);
  closing.defer(() => log.connection.close());
  const bounds = { age_ms: 3_600_000, bytes: 64 * 1024 ** 2 };
  const telemetry = new Telemetry('silent');
  const kept = async () =>
    await Promise.all(
      Object.values(buckets).map(async (name) => (await log.manager.streams.info(`KV_${name}`)).config),
    );
  await keepLog(log, bounds, undefined, telemetry);
  const before = await kept();
  // What is left of a code goes by itself.
  expect(before.find(({ name }) => name === 'KV_enrolment')).toMatchObject({
    allow_msg_ttl: true,
    subject_delete_marker_ttl: nanos(codeMilliseconds),
  });
  for (const { name } of before) await log.manager.streams.delete(name);
  await keepLog(log, bounds, undefined, telemetry, 'missing');
  expect(await kept()).toEqual(before);
});
