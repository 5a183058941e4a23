// Follows a bucket: what it has, then every change, through whatever becomes of the connection.
import type { KV, KvWatchEntry } from '@nats-io/kv';
import type { QueuedIterator } from '@nats-io/transport-node';
import { type Clock, systemClock } from '#clock.ts';
import { retryMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** What is done with what is in the bucket. */
export type Follow = {
  /**
   * An entry as it is now; when the bucket is read again, also those that are known.
   * @throws where it is none of ours: it is left out, and what was known of its key is forgotten
   */
  take: (entry: KvWatchEntry) => void;
  /** The keys that are known. Those of them that the bucket has not any more are forgotten once it was read to its end, and not before. */
  known?: () => Iterable<string>;
  forget?: (key: string) => void;
  /** It is another bucket of the same name: nothing of before is true. */
  anew?: () => void;
  /** Each time that all was taken which the bucket had when it was begun to be read. */
  filled: () => void;
};

export type FollowerParts = { log: Log; telemetry: Telemetry; clock?: Clock };

/**
 * Reads a bucket, and again from its begin after every reconnection: the server may have lost the consumer that a watch is, and the
 * client would notice that only a minute later.
 */
export class Follower implements AsyncDisposable {
  readonly #log: Log;
  readonly #bucket: string;
  readonly #follow: Follow;
  readonly #telemetry: Telemetry;
  readonly #clock: Clock;
  /** Why it could not be read since it was read last. */
  readonly #reasons = new Set<string>();
  /** Entries that were left out, by their keys: the revision. */
  readonly #leftOut = new Map<string, number>();
  readonly #closed = new AbortController();
  readonly #status: ReturnType<Log['connection']['status']>;
  readonly #running: Promise<unknown>;
  #watch: QueuedIterator<KvWatchEntry> | undefined;
  #connections = 1;

  /** @param bucket which has to exist */
  constructor({ log, telemetry, clock = systemClock }: FollowerParts, bucket: string, follow: Follow) {
    this.#log = log;
    this.#telemetry = telemetry;
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
        this.#failed(sentence(cause));
      }
      // At once where there is a connection anew.
      if (connection === this.#connections)
        await this.#clock.sleep(retryMilliseconds.min, signal).catch(() => undefined);
    }
  }

  /** It is tried again, and said once. */
  #failed(reason: string): void {
    if (this.#closed.signal.aborted || this.#reasons.has(reason)) return;
    this.#reasons.add(reason);
    this.#telemetry.bucketNotFollowed(this.#bucket, reason);
  }

  /** One that can't be read does not keep the others from being known. */
  #take(entry: KvWatchEntry): void {
    try {
      this.#follow.take(entry);
    } catch (cause) {
      this.#follow.forget?.(entry.key);
      if (this.#leftOut.get(entry.key) === entry.revision) return;
      this.#leftOut.set(entry.key, entry.revision);
      // What the parser says repeats some of it, which may be a secret.
      const reason = cause instanceof SyntaxError ? 'it is no JSON' : sentence(cause);
      this.#telemetry.entryLeftOut(this.#bucket, entry.key, reason);
    }
  }

  /** @param gone keys that were known, without those that turn up */
  async #read(
    watch: AsyncIterable<KvWatchEntry>,
    bucket: KV,
    gone: Set<string>,
    state: { messages: number; last_seq: number },
  ): Promise<void> {
    const { forget, filled } = this.#follow;
    let isFilled = false;
    const fill = async () => {
      isFilled = true;
      // Those that are left are gone, or were written meanwhile and come in a moment: only the bucket itself knows.
      for (const key of gone) if ((await bucket.get(key)) === null) forget?.(key);
      gone.clear();
      this.#reasons.clear();
      filled();
    };
    if (state.messages === 0) await fill();
    for await (const entry of watch) {
      gone.delete(entry.key);
      this.#take(entry);
      // In the order of the log: up to its last message, or to what replaced that; or nothing is left to come.
      if (!isFilled && (entry.revision >= state.last_seq || entry.delta === 0)) await fill();
    }
  }
}
