// A host's own key, followed on a real nats-server that tells nobody of changes: as when a site's link was down while it would have.
import { startNats } from '@fleetreel/test/servers/nats';
import { Kvm } from '@nats-io/kv';
import { connect } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import { type Clock, systemClock } from '#clock.ts';
import { ownKeyLookMilliseconds } from '#limits.ts';
import { followKey } from '#own_key.ts';

test('what nobody was told of is found by and by, at another time by each host', async () => {
  await using nats = await startNats();
  const connection = await connect({ servers: nats.url });
  const ended = new AbortController();
  try {
    const kv = await new Kvm(connection).create('untold', { history: 1 });
    const pauses: number[] = [];
    // Long pauses are over at once, but not while nothing was asked for.
    let more = Promise.withResolvers<void>();
    const clock: Clock = {
      ...systemClock,
      sleep: async (milliseconds, signal) => {
        if (milliseconds < ownKeyLookMilliseconds / 2) return await systemClock.sleep(milliseconds, signal);
        pauses.push(milliseconds);
        await more.promise;
        more = Promise.withResolvers();
      },
    };
    const failed = (cause: unknown) => expect.unreachable(String(cause));
    const key = 'default.web-1';
    const entries = followKey({ connection, kv, bucket: 'untold', key, clock, failed }, ended.signal);
    expect((await entries.next()).value).toBeUndefined();
    for (const text of ['first', 'second', 'third']) {
      await kv.put(key, text);
      const next = entries.next();
      more.resolve();
      const { value } = await next;
      expect(new TextDecoder().decode(value?.value)).toBe(text);
    }
    expect(new Set(pauses).size).toBe(3);
    for (const pause of pauses) expect(pause).toBeLessThanOrEqual(ownKeyLookMilliseconds * 1.5);
    const last = entries.next();
    ended.abort();
    more.resolve();
    await expect(last).rejects.toThrow('aborted');
  } finally {
    ended.abort();
    await connection.close();
  }
});
