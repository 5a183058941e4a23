// What is known of each host, kept in a bucket and, by a watch, in the memory of every collector.
import type { HostDescription, HostRefusal } from '@fleetreel/proto';
import { token } from '@fleetreel/proto';
import type { KV, KvEntry } from '@nats-io/kv';
import { systemClock } from '#clock.ts';
import { answerMilliseconds, refusalsMax } from '#limits.ts';
import { Follower, type FollowerParts } from '#log/follow.ts';
import { isIn, type Partition } from '#log/partition.ts';
import { buckets, isOvertaken } from '#log/stream.ts';

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

export class Registry {
  readonly #hosts: KV;
  readonly #claims: KV;
  readonly #partition: Partition;
  readonly #entries = new Map<string, RegistryEntry>();
  readonly #listeners = new Set<Listener>();
  readonly #whole = Promise.withResolvers<void>();
  #follower: Follower | undefined;

  private constructor(hosts: KV, claims: KV, partition: Partition) {
    this.#hosts = hosts;
    this.#claims = claims;
    this.#partition = partition;
  }

  /** Opens the registry; resolves when it knows every host of the log's partition, or after a moment. The buckets have to exist. */
  static async open(parts: FollowerParts): Promise<Registry> {
    const { log, clock = systemClock } = parts;
    const [hosts, claims] = [await log.buckets.open(buckets.hosts), await log.buckets.open(buckets.claims)];
    const registry = new Registry(hosts, claims, log.partition);
    registry.#follower = new Follower(parts, buckets.hosts, {
      take: (entry) => registry.#take(entry),
      known: () => registry.#entries.keys(),
      forget: (key) => registry.#forget(key),
      filled: registry.#whole.resolve,
    });
    const late = new AbortController();
    try {
      await Promise.race([registry.whole, clock.sleep(answerMilliseconds, late.signal)]);
    } finally {
      late.abort();
    }
    return registry;
  }

  /** Resolves when every host is known. */
  get whole(): Promise<void> {
    return this.#whole.promise;
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
    await this.#follower?.close();
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
      const entry = found && readable(found);
      const wanted = change(entry ?? { firstSeen: seen, description: null, refusals: [] });
      if (wanted === undefined) return;
      const text = JSON.stringify(wanted);
      try {
        if (found) await this.#hosts.update(key, text, found.revision);
        else await this.#hosts.create(key, text);
        return;
      } catch (cause) {
        if (!isOvertaken(cause)) throw cause;
      }
    }
  }

  #take(entry: KvEntry): void {
    const [tenant = '', host = ''] = entry.key.split('.');
    if (!isIn(this.#partition, tenant, host)) return;
    const content = stored(entry);
    if (content) this.#entries.set(entry.key, { tenant, host, ...content });
    else this.#entries.delete(entry.key);
    this.#tell(tenant, host);
  }

  #forget(key: string): void {
    const [tenant = '', host = ''] = key.split('.');
    this.#entries.delete(key);
    this.#tell(tenant, host);
  }

  #tell(tenant: string, host: string): void {
    for (const listener of this.#listeners) listener(tenant, host);
  }
}

/** The content of an entry; undefined when it is a deletion. @throws where it is none of ours */
function stored(entry: KvEntry): Stored | undefined {
  if (entry.operation !== 'PUT') return undefined;
  const content = entry.json<Partial<Stored> | null>();
  const { firstSeen, description, refusals } = content ?? {};
  if (typeof firstSeen !== 'number' || typeof description !== 'object' || !Array.isArray(refusals))
    throw new TypeError('it is none of ours');
  return { firstSeen, description, refusals };
}

/** As `stored`; what is none of ours is written over. */
function readable(entry: KvEntry): Stored | undefined {
  try {
    return stored(entry);
  } catch {
    return undefined;
  }
}
