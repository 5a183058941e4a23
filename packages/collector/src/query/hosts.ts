// Hosts: what the registry knows of them, and what their newest frames say.
import { defaultTenant, type HostDescription, type HostRefusal } from '@fleetreel/proto';
import { ApiError, unknown } from '@fleetreel/proto/errors';
import type { Headline } from '@fleetreel/proto/http';
import type { Clock } from '#clock.ts';
import type { Newest, NewestFrame } from '#live/newest.ts';
import type { Registry } from '#log/registry.ts';
import { headline } from '#query/headline.ts';
import type { Reader } from '#store/reader.ts';
import { newestFrames } from '#store/sql.ts';
import type { Telemetry } from '#telemetry.ts';

/** A host as it is now. */
export type HostState = {
  host: string;
  status: 'online' | 'offline';
  /** Time of the newest frame: UTC, microseconds since 1970; null when there was none. */
  lastSeen_us: number | null;
  intervalMs: number | null;
  clockSkewSeconds: number | null;
  description: HostDescription | null;
  refusals: readonly HostRefusal[];
  headline: Headline;
};

/** A host is offline when it was not heard of for three intervals, of sampling or of upload, and at least this long, milliseconds. */
const offlineMillisecondsMin = 30_000;
/** Watchers are told of changes at most this often, milliseconds. */
const noticeMilliseconds = 1000;
/** Pause before the store is asked again when it did not answer, milliseconds. */
const storeRetryMilliseconds = 10_000;

/** Is told the names of hosts that changed, came or went. */
type Watcher = (changed: readonly string[]) => void;
type Seen = { time_us: number; intervalMs: number };
type Presence = { online: boolean } & Pick<HostState, 'lastSeen_us' | 'clockSkewSeconds'>;

export type HostsParts = {
  registry: Registry;
  newest: Newest;
  reader: Reader;
  clock: Clock;
  telemetry: Telemetry;
  rawMs: number;
};

export class Hosts {
  readonly #parts: HostsParts;
  readonly #watchers = new Map<string, Set<Watcher>>();
  /** Hosts that changed since watchers were told, by tenant. */
  readonly #changed = new Map<string, Set<string>>();
  /** Hosts whose newest frame the log has no more: what the store knows. */
  readonly #stored = new Map<string, Seen>();
  /** Hosts to look for in the store. */
  readonly #silent = new Set<string>();
  #reading = false;
  readonly #closed = new AbortController();
  readonly #ends: (() => void)[];
  #notice: NodeJS.Timeout | undefined;
  #transition: NodeJS.Timeout | undefined;
  /** When the first online host is due to go offline, and when that was looked at: milliseconds since 1970. */
  #due = Number.POSITIVE_INFINITY;
  #looked = 0;

  constructor(parts: HostsParts) {
    this.#parts = parts;
    this.#ends = [
      parts.newest.onFrame((frame) => {
        this.#change(frame.tenant, frame.host);
        if (this.#watchers.has(frame.tenant)) this.#expect(this.#offlineAt(frame));
      }),
      parts.registry.onChange((tenant, host) => {
        if (parts.registry.get(tenant, host) === undefined) this.#drop(tenant, host);
        else this.#miss(tenant, host);
        this.#change(tenant, host);
      }),
    ];
    for (const { tenant, host } of parts.registry.list(defaultTenant)) this.#miss(tenant, host);
  }

  /** All hosts of a tenant by name. A host that is not in the registry counts while its frames arrive. */
  list(tenant: string): HostState[] {
    return [...this.names(tenant)].sort().map((host) => this.#state(tenant, host));
  }

  names(tenant: string): Set<string> {
    const { registry, newest } = this.#parts;
    const unregistered = newest.list(tenant).filter((frame) => this.#online(frame));
    return new Set([...registry.list(tenant), ...unregistered].map(({ host }) => host));
  }

  get(tenant: string, host: string): HostState | undefined {
    return this.#known(tenant, host) ? this.#state(tenant, host) : undefined;
  }

  /** Whether a host is online, when it was last seen and how far its clock is behind: what of its state costs nothing. */
  presence(tenant: string, host: string): Presence {
    const frame = this.#parts.newest.get(tenant, host);
    const lastSeen_us = frame?.header.time_us ?? this.stored(tenant, host)?.time_us ?? null;
    const clockSkewSeconds = frame?.clockSkewSeconds ?? null;
    return { online: frame !== undefined && this.#online(frame), lastSeen_us, clockSkewSeconds };
  }

  /** The sampling interval of a host, milliseconds. */
  interval(tenant: string, host: string): number | undefined {
    const frame = this.#parts.newest.get(tenant, host);
    const stored = this.stored(tenant, host);
    const described = this.#parts.registry.get(tenant, host)?.description?.interval_ms;
    return frame?.header.interval_ms ?? stored?.intervalMs ?? described;
  }

  /** How often a host sends what it samples, milliseconds; 0 when it does so at once. */
  uploadInterval(tenant: string, host: string): number {
    return this.#parts.registry.get(tenant, host)?.description?.upload_interval_ms ?? 0;
  }

  /** Time of a host's newest frame as the store knows it, for a host whose frames the log has no more. */
  stored(tenant: string, host: string): Seen | undefined {
    return this.#stored.get(`${tenant}.${host}`);
  }

  /**
   * Forgets a host and frees its name; what is stored of it stays until its retention ends.
   * @throws ApiError
   */
  async forget(tenant: string, host: string): Promise<void> {
    if (!this.#known(tenant, host))
      throw unknown('host_not_found', host, [...this.names(tenant)], { parameter: 'host' });
    await this.#parts.registry.forget(tenant, host);
    this.#drop(tenant, host);
    this.#change(tenant, host);
  }

  /** Tells of changes, many at once, at most once a second; returns the way to end that. */
  watch(tenant: string, watcher: Watcher): () => void {
    const watchers = this.#watchers.get(tenant) ?? new Set();
    this.#watchers.set(tenant, watchers.add(watcher));
    this.#transit();
    return () => {
      watchers.delete(watcher);
      if (watchers.size === 0) this.#watchers.delete(tenant);
    };
  }

  close(): void {
    this.#closed.abort();
    clearTimeout(this.#notice);
    clearTimeout(this.#transition);
    for (const end of this.#ends) end();
  }

  #known(tenant: string, host: string): boolean {
    const frame = this.#parts.newest.get(tenant, host);
    return this.#parts.registry.get(tenant, host) !== undefined || (frame !== undefined && this.#online(frame));
  }

  /** Looks for a host in the store when the log has no frame of it. */
  #miss(tenant: string, host: string): void {
    if (this.#parts.newest.get(tenant, host) || this.#stored.has(`${tenant}.${host}`)) return;
    this.#silent.add(host);
    void this.#readStored();
  }

  #drop(tenant: string, host: string): void {
    this.#parts.newest.forget(tenant, host);
    this.#stored.delete(`${tenant}.${host}`);
  }

  #state(tenant: string, host: string): HostState {
    const entry = this.#parts.registry.get(tenant, host);
    const frame = this.#parts.newest.get(tenant, host);
    const { online, ...presence } = this.presence(tenant, host);
    return {
      host,
      status: online ? 'online' : 'offline',
      ...presence,
      intervalMs: this.interval(tenant, host) ?? null,
      description: entry?.description ?? null,
      refusals: entry?.refusals ?? [],
      headline: headline(frame),
    };
  }

  #now(): number {
    return this.#parts.clock.now_us() / 1000;
  }

  #online(frame: NewestFrame): boolean {
    return this.#now() < this.#offlineAt(frame);
  }

  /** When a host counts as offline unless it is heard of: UTC, milliseconds since 1970. */
  #offlineAt({ tenant, host, arrived, header }: NewestFrame): number {
    const interval_ms = Math.max(header.interval_ms, this.uploadInterval(tenant, host));
    return arrived + Math.max(3 * interval_ms, offlineMillisecondsMin);
  }

  #change(tenant: string, host: string): void {
    if (!this.#watchers.has(tenant)) return;
    const changed = this.#changed.get(tenant) ?? new Set();
    this.#changed.set(tenant, changed.add(host));
    this.#notice ??= setTimeout(() => this.#tell(), noticeMilliseconds);
  }

  #tell(): void {
    this.#notice = undefined;
    for (const [tenant, changed] of this.#changed) {
      for (const watcher of this.#watchers.get(tenant) ?? []) watcher([...changed]);
    }
    this.#changed.clear();
  }

  /** Makes sure that the clock is looked at when a host is due to go offline. */
  #expect(due: number): void {
    if (due >= this.#due) return;
    clearTimeout(this.#transition);
    this.#due = due;
    this.#transition = setTimeout(() => this.#transit(), Math.max(0, due - this.#now()) + 1);
  }

  /** Tells of the hosts that went offline since the last look, and expects the next one. */
  #transit(): void {
    this.#due = Number.POSITIVE_INFINITY;
    const now = this.#now();
    for (const tenant of this.#watchers.keys())
      for (const frame of this.#parts.newest.list(tenant)) {
        const due = this.#offlineAt(frame);
        if (due > now) this.#expect(due);
        else if (due > this.#looked) this.#change(tenant, frame.host);
      }
    this.#looked = now;
  }

  /** Asks the store for hosts that the log knows nothing of any more; again while it does not answer. */
  async #readStored(): Promise<void> {
    const { newest, reader, clock, rawMs, telemetry } = this.#parts;
    const { signal } = this.#closed;
    if (this.#reading) return;
    this.#reading = true;
    while (this.#silent.size > 0 && !signal.aborted) {
      // One tenant until there are more.
      const hosts = [...this.#silent].filter((host) => !newest.get(defaultTenant, host));
      try {
        const newestOf = newestFrames(defaultTenant, hosts, this.#now() - rawMs);
        for (const [host, time, interval] of hosts.length > 0 ? await reader.query(newestOf) : [])
          this.#stored.set(`${defaultTenant}.${host}`, { time_us: Number(time), intervalMs: Number(interval) });
        this.#silent.clear();
        for (const host of hosts) this.#change(defaultTenant, host);
      } catch (cause) {
        // That the store is away is told by readiness; hosts are listed without "last seen" until it answers.
        if (!(cause instanceof ApiError)) telemetry.log.error({ err: cause }, 'the newest frames could not be read');
        await clock.sleep(storeRetryMilliseconds, signal).catch(() => undefined);
      }
    }
    this.#reading = false;
  }
}
