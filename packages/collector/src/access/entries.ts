// What is known of users, sessions, links and keys: kept in a bucket and, by a watch, in the memory of every collector.
import { ApiError } from '@fleetreel/proto/errors';
import type { Role, Scope } from '@fleetreel/proto/http';
import type { KV, KvWatchEntry } from '@nats-io/kv';
import { headers } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import { answerMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { Follower } from '#log/follow.ts';
import { answered, buckets, isOvertaken } from '#log/stream.ts';
import type { Telemetry } from '#telemetry.ts';

/** Times are UTC, milliseconds since 1970; digests are of secrets that are not kept (`secret.ts`). */
export type Content = {
  user: {
    name: string;
    tenant: string;
    role: Role;
    /** As `password.ts` writes it; null until the invitation was used. */
    password: string | null;
    /** Counts the passwords: a session of another one is over. */
    generation: number;
    created: number;
  };
  session: {
    user: string;
    generation: number;
    digest: string;
    created: number;
    expires: number;
    address: string;
    program: string;
  };
  link: {
    purpose: 'first' | 'invite' | 'reset';
    tenant: string;
    role: Role;
    user: string | null;
    digest: string;
    created: number;
    expires: number;
  };
  key: {
    name: string;
    tenant: string;
    scopes: Scope[];
    digest: string;
    created: number;
    createdBy: string;
    expires: number | null;
  };
  /** When a session or key was last used, and from where. An entry of its own, so that it never brings a revoked one back. */
  used: { time: number; address: string };
};
export type Kind = keyof Content;

/** What is kept of something, and which version that is. */
export type Entry<K extends Kind> = { kind: K; id: string; value: Content[K]; revision: number };

type Listener = (kind: Kind, id: string) => void;

export class Entries {
  readonly #telemetry: Telemetry;
  readonly #clock: Clock;
  readonly #listeners = new Set<Listener>();
  readonly #entries: { [K in Kind]: Map<string, Entry<K>> } = {
    user: new Map(),
    session: new Map(),
    link: new Map(),
    key: new Map(),
    used: new Map(),
  };
  /** What is removed, by its name: the version of that, and when it was noticed. */
  readonly #removed = new Map<string, { revision: number; noticed_ms: number }>();
  #log: Log | undefined;
  #bucket: KV | undefined;
  #isFilled = false;
  #follower: Follower | undefined;

  constructor(clock: Clock, telemetry: Telemetry) {
    this.#clock = clock;
    this.#telemetry = telemetry;
  }

  /** Reads the bucket, which has to exist; resolves when all is known, or after some seconds. */
  async open(log: Log): Promise<void> {
    this.#log = log;
    this.#bucket = await log.buckets.open(buckets.access);
    const filled = Promise.withResolvers<void>();
    const late = new AbortController();
    this.#follower = new Follower({ log, telemetry: this.#telemetry, clock: this.#clock }, buckets.access, {
      take: (entry) => this.#see(entry),
      // While the bucket is away, and until it is read to its end again, what is known goes on to be.
      known: () => Object.values(this.#entries).flatMap((of) => [...of.values()].map(nameOf)),
      forget: (name) => this.#forget(name),
      anew: () => this.#begin(),
      filled: () => {
        this.#isFilled = true;
        filled.resolve();
      },
    });
    try {
      await Promise.race([filled.promise, this.#clock.sleep(answerMilliseconds, late.signal)]);
    } finally {
      late.abort();
    }
  }

  async close(): Promise<void> {
    await this.#follower?.close();
  }

  /** Whether all entries are known. */
  get isFilled(): boolean {
    return this.#isFilled;
  }

  get<K extends Kind>(kind: K, id: string): Content[K] | undefined {
    return this.#entries[kind].get(id)?.value;
  }

  /** All of a kind, by their ids. */
  *list<K extends Kind>(kind: K): Generator<[id: string, value: Content[K]]> {
    for (const [id, { value }] of this.#entries[kind]) yield [id, value];
  }

  /** How many of a kind a tenant has. */
  countOf(tenant: string, kind: 'user' | 'link' | 'key'): number {
    let count = 0;
    for (const [, value] of this.list(kind)) if (value.tenant === tenant) count++;
    return count;
  }

  /** Calls the listener after each change; returns the way to end that. */
  onChange(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Makes an entry; false where there is one already. @throws ApiError log_unavailable */
  async create<K extends Kind>(kind: K, id: string, value: Content[K]): Promise<boolean> {
    return await this.#asked(async (bucket) => {
      try {
        this.#take(kind, id, value, await bucket.create(keyOf(kind, id), JSON.stringify(value)));
        return true;
      } catch (cause) {
        if (isOvertaken(cause)) return false;
        throw cause;
      }
    });
  }

  /** Writes an entry, whatever it was. @throws ApiError log_unavailable */
  async put<K extends Kind>(kind: K, id: string, value: Content[K]): Promise<void> {
    await this.#asked(async (bucket) =>
      this.#take(kind, id, value, await bucket.put(keyOf(kind, id), JSON.stringify(value))),
    );
  }

  /**
   * Reads, changes and writes an entry, again when another collector was faster.
   * @param change what it becomes; undefined leaves it as it is
   * @returns what it is now; undefined where there is none, or it was left
   * @throws ApiError log_unavailable, and what `change` throws
   */
  async change<K extends Kind>(
    kind: K,
    id: string,
    change: (value: Content[K]) => Content[K] | undefined,
  ): Promise<Content[K] | undefined> {
    return await this.#asked(async (bucket) => {
      for (;;) {
        const found = await bucket.get(keyOf(kind, id));
        if (found?.operation !== 'PUT') return undefined;
        const wanted = change(found.json<Content[K]>());
        if (wanted === undefined) return undefined;
        try {
          const revision = await bucket.update(keyOf(kind, id), JSON.stringify(wanted), found.revision);
          this.#take(kind, id, wanted, revision);
          return wanted;
        } catch (cause) {
          if (!isOvertaken(cause)) throw cause;
        }
      }
    });
  }

  /**
   * Changes or removes an entry where that depends on all of its kind: as the log has them, and again when any of them was changed
   * meanwhile, by whomever.
   * @param decide what it becomes; undefined removes it
   * @returns what it was; undefined where there is none
   * @throws ApiError log_unavailable, and what `decide` throws
   */
  async decide<K extends Kind>(
    kind: K,
    id: string,
    decide: (value: Content[K], all: Iterable<Content[K]>) => Content[K] | undefined,
  ): Promise<Content[K] | undefined> {
    return await this.#asked(async (bucket, { manager, jetstream }) => {
      const ofAll = `$KV.${buckets.access}.${keyOf(kind, '*')}`;
      for (let tries = 1; ; tries++) {
        const last = await manager.streams.getMessage(`KV_${buckets.access}`, { last_by_subj: ofAll });
        const all = new Map<string, Content[K]>();
        for await (const entry of await bucket.history({ key: keyOf(kind, '*') }))
          if (entry.operation === 'PUT') all.set(split(entry.key)[1], entry.json<Content[K]>());
        const value = all.get(id);
        if (last === null || value === undefined) return undefined;
        const wanted = decide(value, all.values());
        const removal = headers();
        removal.set('KV-Operation', 'DEL');
        try {
          const { seq } = await jetstream.publish(
            `$KV.${buckets.access}.${keyOf(kind, id)}`,
            wanted === undefined ? '' : JSON.stringify(wanted),
            {
              expect: { lastSubjectSequence: last.seq, lastSubjectSequenceSubject: ofAll },
              ...(wanted === undefined && { headers: removal }),
            },
          );
          if (wanted === undefined) this.#drop(kind, id, seq);
          else this.#take(kind, id, wanted, seq);
          return value;
        } catch (cause) {
          if (!isOvertaken(cause) || tries === decideTriesMax) throw cause;
        }
      }
    });
  }

  /**
   * Removes an entry as it is known here, so that of many who use it up one succeeds.
   * @returns whether it was this call that did. @throws ApiError log_unavailable
   */
  async take(kind: Kind, id: string): Promise<boolean> {
    const known = this.#entries[kind].get(id);
    if (known === undefined) return false;
    return await this.#asked(async (bucket) => {
      try {
        await bucket.delete(keyOf(kind, id), { previousSeq: known.revision });
      } catch (cause) {
        if (isOvertaken(cause)) return false;
        throw cause;
      }
      this.#drop(kind, id, known.revision + 1);
      return true;
    });
  }

  /** Removes an entry, if there is one. @throws ApiError log_unavailable */
  async remove(kind: Kind, id: string): Promise<void> {
    const known = this.#entries[kind].get(id);
    await this.#asked((bucket) => bucket.delete(keyOf(kind, id)));
    this.#drop(kind, id, (known?.revision ?? 0) + 1);
  }

  /** Removes what is left of entries that are long gone: a removal is an entry of its own, for those who watch. */
  async tidy(): Promise<void> {
    for (const [name, { revision, noticed_ms }] of this.#removed) {
      if (this.#clock.monotonic_ms() - noticed_ms < removalKeptMilliseconds) return;
      const filter = `$KV.${buckets.access}.${name}`;
      await this.#log?.manager.streams.purge(`KV_${buckets.access}`, { filter, seq: revision + 1 });
      this.#removed.delete(name);
    }
  }

  async #asked<T>(ask: (bucket: KV, log: Log) => Promise<T>): Promise<T> {
    const [bucket, log] = [this.#bucket, this.#log];
    if (bucket === undefined || log === undefined || !this.#isFilled)
      throw new ApiError('log_unavailable', { reason: 'the users are not known yet' });
    return await answered(() => ask(bucket, log));
  }

  #see(entry: KvWatchEntry): void {
    const [kind, id] = split(entry.key);
    if (kind === undefined) return;
    if (entry.operation === 'PUT') this.#take(kind, id, entry.json<Content[typeof kind]>(), entry.revision);
    else this.#drop(kind, id, entry.revision);
  }

  #take<K extends Kind>(kind: K, id: string, value: Content[K], revision: number): void {
    const known = this.#entries[kind].get(id);
    const gone = this.#removed.get(keyOf(kind, id));
    if ((known && known.revision >= revision) || (gone && gone.revision > revision)) return;
    this.#entries[kind].set(id, { kind, id, value, revision });
    this.#tell(kind, id);
  }

  /** @param revision of the removal, at least */
  #drop(kind: Kind, id: string, revision: number): void {
    const known = this.#entries[kind].get(id);
    if (known && known.revision > revision) return;
    this.#entries[kind].delete(id);
    this.#remember(keyOf(kind, id), revision);
    if (known) this.#tell(kind, id);
  }

  /** What the watch says late of something that is removed does not bring it back. */
  #remember(name: string, revision: number): void {
    this.#removed.delete(name);
    this.#removed.set(name, { revision, noticed_ms: this.#clock.monotonic_ms() });
    for (const [oldest] of this.#removed) {
      if (this.#removed.size <= removedMax) return;
      this.#removed.delete(oldest);
    }
  }

  /** Of a bucket that was made anew, nothing of before is true. */
  #begin(): void {
    this.#isFilled = false;
    this.#removed.clear();
    for (const of of Object.values(this.#entries)) for (const entry of of.values()) this.#forget(nameOf(entry));
  }

  #forget(name: string): void {
    const [kind, id] = split(name);
    if (kind !== undefined && this.#entries[kind].delete(id)) this.#tell(kind, id);
  }

  #tell(kind: Kind, id: string): void {
    for (const listener of this.#listeners) listener(kind, id);
  }
}

/** How often a change that depends on all of a kind is tried while others change any of it. */
const decideTriesMax = 20;
/** Removals that are remembered, so that what is said late does not bring them back, and what is left of them goes. */
const removedMax = 10_000;
/** How long what is left of them stays, milliseconds: as long as a collector may be away from the log and still be told. */
const removalKeptMilliseconds = 30 * 60_000;

const keyOf = (kind: Kind, id: string): string => `${kind}.${id}`;
const nameOf = ({ kind, id }: { kind: Kind; id: string }): string => keyOf(kind, id);

function split(key: string): [kind: Kind | undefined, id: string] {
  const [kind = '', id = ''] = key.split('.');
  return [(['user', 'session', 'link', 'key', 'used'] as const).find((known) => known === kind), id];
}
