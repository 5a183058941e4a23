// A key of a bucket that is this host's own, read by itself and followed by what the bucket tells of it, which is told once: where a link
// behind a site's server was down then, nobody hears of it, and so it is looked at now and then as well. A consumer, as the client's watch
// makes one, is nothing that a host may make: it could have messages delivered wherever it likes.
import { toldSubject } from '@fleetreel/proto';
import type { KV } from '@nats-io/kv';
import type { NatsConnection, QueuedIterator, Status } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import { ownKeyLookMilliseconds, toldReadMilliseconds, toldReadsMax } from '#limits.ts';
import { untilItSucceeds } from '#retry.ts';

/** A key's newest entry. */
export type OwnEntry = { operation: string; revision: number; value: Uint8Array };

export type OwnKeyOptions = {
  connection: NatsConnection;
  kv: KV;
  bucket: string;
  key: string;
  clock: Clock;
  /** Hears why the key can't be read; it is tried again. */
  failed: (cause: unknown) => void;
};

/**
 * The key's entry now, and again whenever it has changed, until the signal; undefined where there never was one.
 * @throws the signal's reason
 */
export async function* followKey(options: OwnKeyOptions, signal: AbortSignal): AsyncGenerator<OwnEntry | undefined> {
  const { connection, kv, bucket, key, clock, failed } = options;
  /** The newest revision that was told of. */
  let told = 0;
  let wake = new AbortController();
  const look = () => wake.abort();
  const subscription = connection.subscribe(toldSubject(bucket, key), {
    callback(error, { headers }) {
      if (error) return failed(error);
      // No more than a hint: others could have it sent, and what they say of the key is not believed.
      told = Number(headers?.get('Nats-Sequence'));
      look();
    },
  });
  const status = connection.status() as QueuedIterator<Status>;
  // What was told while there was no connection is not told again.
  void (async () => {
    for await (const { type } of status) if (type === 'reconnect') look();
  })();
  signal.addEventListener('abort', look, { once: true });
  let revision = -1;
  try {
    for (;;) {
      signal.throwIfAborted();
      wake = new AbortController();
      let entry = await untilItSucceeds(() => kv.get(key), failed, clock, signal);
      // A server of a cluster that answers may be behind the one that told.
      for (let reads = 1; (entry?.revision ?? 0) < told && reads < toldReadsMax; reads++) {
        await clock.sleep(toldReadMilliseconds * reads, signal);
        entry = await untilItSucceeds(() => kv.get(key), failed, clock, signal);
      }
      const now = entry?.revision ?? 0;
      if (now !== revision) {
        revision = now;
        yield entry ?? undefined;
      }
      // A fleet that began together does not look together.
      const pause_ms = ownKeyLookMilliseconds * (0.5 + Math.random());
      await clock.sleep(pause_ms, wake.signal).catch(() => undefined);
      // Many changes at once are one.
      await clock.sleep(toldReadMilliseconds, signal);
    }
  } finally {
    signal.removeEventListener('abort', look);
    subscription.unsubscribe();
    status.stop();
  }
}
