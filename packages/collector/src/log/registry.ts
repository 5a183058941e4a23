// What is known of each host, kept in a bucket and, by a watch, in the memory of every collector.
import type { HostDescription, HostRefusal } from '@fleetreel/proto';
import { token } from '@fleetreel/proto';
import { JetStreamApiError } from '@nats-io/jetstream';
import type { KV, KvEntry, KvWatchEntry } from '@nats-io/kv';
import type { QueuedIterator } from '@nats-io/transport-node';
import { type Clock, systemClock } from '#clock.ts';
import { answerMilliseconds, refusalsMax, retryMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { isIn, type Partition } from '#log/partition.ts';
import { buckets } from '#log/stream.ts';

export type RegistryEntry = {
  tenant: string;
  /** As it is in subjects: dots are written `_`. */
  host: string;
  /** UTC, milliseconds since 1970. */
  firstSeen: number;
  description: HostDescription | null;
  /** Machines that were refused this name: newest first, one per machine. */
  refusals: HostRefusal[];
};

type Stored = Pick<RegistryEntry, 'firstSeen' | 'description' | 'refusals'>;
type Listener = (tenant: string, host: string) => void;

/** Code of JetStream: somebody else wrote the key since it was read. */
const wrongRevision = 10071;

export class Registry {
  readonly #hosts: KV;
  readonly #claims: KV;
  readonly #partition: Partition;
  readonly #clock: Clock;
  readonly #entries = new Map<string, RegistryEntry>();
  readonly #listeners = new Set<Listener>();
  readonly #closed = new AbortController();
  #watch: QueuedIterator<KvWatchEntry> | undefined;
  #following: Promise<void> | undefined;

  private constructor(hosts: KV, claims: KV, partition: Partition, clock: Clock) {
    this.#hosts = hosts;
    this.#claims = claims;
    this.#partition = partition;
    this.#clock = clock;
  }

  /** Opens the registry; resolves when it knows every host of the log's partition. The buckets have to exist. */
  static async open(log: Log, clock: Clock = systemClock): Promise<Registry> {
    const [hosts, claims] = [await log.buckets.open(buckets.hosts), await log.buckets.open(buckets.claims)];
    const registry = new Registry(hosts, claims, log.partition, clock);
    const { promise: filled, resolve, reject } = Promise.withResolvers<void>();
    registry.#following = registry.#follow(resolve).catch(reject);
    const late = new AbortController();
    try {
      await Promise.race([filled, clock.sleep(answerMilliseconds, late.signal)]);
    } finally {
      late.abort();
    }
    return registry;
  }

  /** The hosts of a tenant; of all when none is named. */
  list(tenant?: string): RegistryEntry[] {
    const all = [...this.#entries.values()];
    return tenant === undefined ? all : all.filter((entry) => entry.tenant === tenant);
  }

  get(tenant: string, host: string): RegistryEntry | undefined {
    return this.#entries.get(`${tenant}.${host}`);
  }

  /** Calls the listener after each change, with the tenant and the host; returns the way to end that. */
  onChange(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Takes what a host says of itself, unless something newer is known. */
  async describe(tenant: string, description: HostDescription): Promise<void> {
    const time = description.time_us / 1000;
    await this.#change(tenant, description.host, time, (entry) => {
      if (entry.description && entry.description.time_us >= description.time_us) return undefined;
      return { ...entry, firstSeen: Math.min(entry.firstSeen, time), description };
    });
  }

  /** Notes that a machine was refused a host's name. */
  async refuse(tenant: string, refusal: HostRefusal): Promise<void> {
    const machine = (one: HostRefusal) => one.machine_id === refusal.machine_id;
    await this.#change(tenant, refusal.host, refusal.time_us / 1000, (entry) => {
      if (entry.refusals.some((one) => machine(one) && one.time_us >= refusal.time_us)) return undefined;
      const refusals = [refusal, ...entry.refusals.filter((one) => !machine(one))];
      return { ...entry, refusals: refusals.sort((a, b) => b.time_us - a.time_us).slice(0, refusalsMax) };
    });
  }

  /** Forgets a host and frees its name. */
  async forget(tenant: string, host: string): Promise<void> {
    const key = `${tenant}.${host}`;
    await this.#claims.delete(key);
    await this.#hosts.delete(key);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    this.#watch?.stop();
    await this.#following?.catch(() => undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Reads, changes and writes an entry, again when another collector was faster. */
  async #change(
    tenant: string,
    host: string,
    seen: number,
    change: (entry: Stored) => Stored | undefined,
  ): Promise<void> {
    const key = `${tenant}.${token('host', host)}`;
    for (;;) {
      const found = await this.#hosts.get(key);
      const entry = found && stored(found);
      const wanted = change(entry ?? { firstSeen: seen, description: null, refusals: [] });
      if (wanted === undefined) return;
      const text = JSON.stringify(wanted);
      try {
        if (found) await this.#hosts.update(key, text, found.revision);
        else await this.#hosts.create(key, text);
        return;
      } catch (cause) {
        if (!(cause instanceof JetStreamApiError && cause.code === wrongRevision)) throw cause;
      }
    }
  }

  /** Keeps the entries in step with the bucket; a watch that ends is begun again. */
  async #follow(filled: () => void): Promise<void> {
    while (!this.#closed.signal.aborted) {
      try {
        const { values } = await this.#hosts.status();
        this.#watch = await this.#hosts.watch();
        let seen = 0;
        if (values === 0) filled();
        for await (const entry of this.#watch) {
          this.#take(entry);
          if (++seen >= values) filled();
        }
      } catch {
        // The connection is away: NATS says so itself, and the watch is begun again.
      }
      await this.#clock.sleep(retryMilliseconds.min, this.#closed.signal).catch(() => undefined);
    }
  }

  #take(entry: KvEntry): void {
    const [tenant = '', host = ''] = entry.key.split('.');
    if (!isIn(this.#partition, tenant, host)) return;
    const content = stored(entry);
    if (content) this.#entries.set(entry.key, { tenant, host, ...content });
    else this.#entries.delete(entry.key);
    for (const listener of this.#listeners) listener(tenant, host);
  }
}

/** The content of an entry; undefined when it is a deletion. */
function stored(entry: KvEntry): Stored | undefined {
  return entry.operation === 'PUT' ? entry.json<Stored>() : undefined;
}
