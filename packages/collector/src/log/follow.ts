// Follows a bucket: what it has, then every change, through whatever becomes of the connection.
import type { KV, KvWatchEntry } from '@nats-io/kv';
import type { QueuedIterator } from '@nats-io/transport-node';
import { type Clock, systemClock } from '#clock.ts';
import { retryMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';

/** What is done with what is in the bucket. */
export type Follow = {
  /** An entry as it is now; when the bucket is read again, also those that are known. */
  take: (entry: KvWatchEntry) => void;
  /** The keys that are known. Those of them that the bucket has not any more are forgotten once it was read to its end, and not before. */
  known?: () => Iterable<string>;
  forget?: (key: string) => void;
  /** It is another bucket of the same name: nothing of before is true. */
  anew?: () => void;
  /** Each time that all was taken which the bucket had when it was begun to be read. */
  filled: () => void;
  /** It can't be read now, which is tried again. The connection says itself when it is away. */
  failed?: (cause: unknown) => void;
};

/**
 * Reads a bucket, and again from its begin after every reconnection: the server may have lost the consumer that a watch is, and the
 * client would notice that only a minute later.
 */
export class Follower implements AsyncDisposable {
  readonly #log: Log;
  readonly #bucket: string;
  readonly #follow: Follow;
  readonly #clock: Clock;
  readonly #closed = new AbortController();
  readonly #status: ReturnType<Log['connection']['status']>;
  readonly #running: Promise<unknown>;
  #watch: QueuedIterator<KvWatchEntry> | undefined;
  #connections = 1;

  /** @param bucket which has to exist */
  constructor(log: Log, bucket: string, follow: Follow, clock: Clock = systemClock) {
    this.#log = log;
    this.#bucket = bucket;
    this.#follow = follow;
    this.#clock = clock;
    this.#status = log.connection.status();
    this.#running = Promise.all([this.#run(), this.#notice()]);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.#watch?.stop();
    (this.#status as QueuedIterator<unknown>).stop();
    await this.#running;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #notice(): Promise<void> {
    for await (const { type } of this.#status) {
      if (type !== 'reconnect') continue;
      this.#connections++;
      this.#watch?.stop();
    }
  }

  async #run(): Promise<void> {
    const { signal } = this.#closed;
    let made = '';
    while (!signal.aborted) {
      const connection = this.#connections;
      try {
        // Before all else: what is put there from now on is not missed at the end.
        const known = new Set(this.#follow.known?.());
        const bucket = await this.#log.buckets.open(this.#bucket);
        const { streamInfo } = await bucket.status();
        if (made !== '' && made !== streamInfo.created) this.#follow.anew?.();
        made = streamInfo.created;
        this.#watch = await bucket.watch();
        // What was done while it was begun could not stop it.
        if (signal.aborted || connection !== this.#connections) this.#watch.stop();
        else await this.#read(this.#watch, bucket, known, streamInfo.state);
      } catch (cause) {
        this.#follow.failed?.(cause);
      }
      // At once where there is a connection anew.
      if (connection === this.#connections)
        await this.#clock.sleep(retryMilliseconds.min, signal).catch(() => undefined);
    }
  }

  /** @param gone keys that were known, without those that turn up */
  async #read(
    watch: AsyncIterable<KvWatchEntry>,
    bucket: KV,
    gone: Set<string>,
    state: { messages: number; last_seq: number },
  ): Promise<void> {
    const { take, forget, filled } = this.#follow;
    let isFilled = false;
    const fill = async () => {
      isFilled = true;
      // Those that are left are gone, or were written meanwhile and come in a moment: only the bucket itself knows.
      for (const key of gone) if ((await bucket.get(key)) === null) forget?.(key);
      gone.clear();
      filled();
    };
    if (state.messages === 0) await fill();
    for await (const entry of watch) {
      gone.delete(entry.key);
      take(entry);
      // In the order of the log: up to its last message, or to what replaced that; or nothing is left to come.
      if (!isFilled && (entry.revision >= state.last_seq || entry.delta === 0)) await fill();
    }
  }
}
