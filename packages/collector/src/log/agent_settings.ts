// Settings of agents: what is wanted of each target, kept in one bucket, and what follows for each host, put into another, of which an
// agent may read its own key. Every collector does so for the hosts of its partition, and all come to the same.
import { agentsBucket } from '@fleetreel/proto';
import {
  parseTarget,
  pushedBytesMax,
  pushedText,
  type AgentSettings as Settings,
  type Target,
  targetText,
  wantedOf,
} from '@fleetreel/proto/agent_settings';
import type { KV, KvEntry } from '@nats-io/kv';
import { type Clock, systemClock } from '#clock.ts';
import {
  answerMilliseconds,
  pushedRepairMilliseconds,
  pushedWritesMax,
  retryMilliseconds,
  settingsKnownMilliseconds,
  settingsTriesMax,
  targetBytesMax,
} from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { Follower } from '#log/follow.ts';
import { isIn, type Partition } from '#log/partition.ts';
import type { Registry } from '#log/registry.ts';
import { buckets, isOvertaken } from '#log/stream.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** What is wanted of a target. */
export type TargetEntry = {
  target: Target;
  settings: Settings;
  revision: number;
  /** When it was changed last: UTC, milliseconds since 1970. */
  time: number;
};

/** What is wanted of a host: with the text by which its agent is told; none where nothing is. */
export type HostWanted = { settings: Settings; targets: string[]; text: string | undefined };

export type AgentSettingsParts = { log: Log; registry: Registry; telemetry: Telemetry; clock?: Clock };

export class AgentSettings {
  readonly #registry: Registry;
  readonly #telemetry: Telemetry;
  readonly #clock: Clock;
  readonly #partition: Partition;
  /** What is wanted, by tenant and target. */
  readonly #targets: KV;
  /** What agents are told. */
  readonly #pushed: KV;
  readonly #wanted = new Map<string, Map<string, TargetEntry>>();
  /** What is in the bucket of agents, by key: the text, none where it was removed, and its revision. */
  readonly #written = new Map<string, { text: string | undefined; revision: number }>();
  /** Keys of hosts to look at, and when: monotonic milliseconds. */
  readonly #due = new Map<string, number>();
  /** When what others wrote was looked at last, by key: monotonic milliseconds. */
  readonly #repaired = new Map<string, number>();
  readonly #closed = new AbortController();
  readonly #followers: Follower[] = [];
  /** Buckets that are not read to their end: what follows from a part of them is not what is wanted. */
  readonly #unread = new Set<string>([buckets.settings, agentsBucket, buckets.hosts]);
  #keeping: Promise<void> | undefined;
  #wake = new AbortController();
  readonly #end: () => void;

  private constructor({ log, registry, telemetry, clock = systemClock }: AgentSettingsParts, targets: KV, pushed: KV) {
    this.#registry = registry;
    this.#telemetry = telemetry;
    this.#clock = clock;
    this.#partition = log.partition;
    this.#targets = targets;
    this.#pushed = pushed;
    this.#end = registry.onChange((tenant, host) => {
      if (registry.get(tenant, host)) this.#look(`${tenant}.${host}`);
    });
  }

  /** Opens both buckets, which have to exist; resolves when what is wanted is known, or after a moment. */
  static async open(parts: AgentSettingsParts): Promise<AgentSettings> {
    const { buckets: open } = parts.log;
    const opened = new AgentSettings(parts, await open.open(buckets.settings), await open.open(agentsBucket));
    void parts.registry.whole.then(() => opened.#read(buckets.hosts));
    const late = new AbortController();
    try {
      const filled = Promise.all([
        opened.#follow(parts, buckets.settings, opened.#wanted, (entry) => opened.#takeTarget(entry)),
        opened.#follow(parts, agentsBucket, opened.#written, (entry) => opened.#takePushed(entry)),
      ]);
      await Promise.race([filled, opened.#clock.sleep(answerMilliseconds, late.signal)]);
    } finally {
      late.abort();
    }
    opened.#keeping = opened.#keep();
    return opened;
  }

  /** All targets of which something is wanted: all, then tags, then hosts. */
  targets(tenant: string): TargetEntry[] {
    const order = { all: 0, tag: 1, host: 2 };
    const text = (entry: TargetEntry) => `${order[entry.target.kind]} ${targetText(entry.target)}`;
    return [...this.#of(tenant).values()].sort((a, b) => (text(a) < text(b) ? -1 : 1));
  }

  get(tenant: string, target: string): TargetEntry | undefined {
    return this.#of(tenant).get(target);
  }

  /** What is wanted of a host; as it would be if something else were wanted of a target. */
  wantedOf(tenant: string, host: string, instead?: { target: string; settings: Settings | undefined }): HostWanted {
    const targets = this.#of(tenant);
    const { settings, targets: from } = wantedOf(host, this.ownTags(tenant, host), (target) =>
      target === instead?.target ? instead.settings : targets.get(target)?.settings,
    );
    return { settings, targets: from, text: from.length === 0 ? undefined : pushedText(settings) };
  }

  /** The tags that a host has by its own settings. */
  ownTags(tenant: string, host: string): Readonly<Record<string, string>> {
    const description = this.#registry.get(tenant, host)?.description;
    if (!description) return {};
    // An agent of a version before tells only all of its tags, which are its own.
    return description.settings && Object.keys(description.settings).length > 0
      ? description.own_tags
      : description.tags;
  }

  /**
   * Wants something else of a target from now on, and none where `settings` is empty; by compare-and-set.
   * @param revision that this is a change of; 0: there is none
   * @returns what is wanted then; undefined when somebody else was faster
   */
  async put(tenant: string, target: Target, settings: Settings, revision: number): Promise<TargetEntry | undefined> {
    const key = keyOf(tenant, target);
    const time = Math.round(this.#clock.now_us() / 1000);
    try {
      if (Object.keys(settings).length === 0) {
        await this.#targets.delete(key, { previousSeq: revision });
        this.#of(tenant).delete(targetText(target));
        this.#lookAtAll(tenant, target);
        return { target, settings, revision: 0, time };
      }
      const text = JSON.stringify({ target: targetText(target), settings, time });
      const written =
        revision === 0 ? await this.#targets.create(key, text) : await this.#targets.update(key, text, revision);
      const entry: TargetEntry = { target, settings, revision: written, time };
      this.#of(tenant).set(targetText(target), entry);
      this.#lookAtAll(tenant, target);
      return entry;
    } catch (cause) {
      if (isOvertaken(cause)) return undefined;
      throw cause;
    }
  }

  /** Resolves when another revision of a target is known than this one, or after a moment. */
  async known(tenant: string, target: string, revision: number): Promise<void> {
    for (let tries = 0; tries < settingsTriesMax; tries++) {
      if ((this.get(tenant, target)?.revision ?? 0) !== revision) return;
      await this.#clock.sleep(settingsKnownMilliseconds, this.#closed.signal);
    }
  }

  async close(): Promise<void> {
    this.#end();
    this.#closed.abort();
    this.#wake.abort();
    await Promise.all([this.#keeping, ...this.#followers.map((follower) => follower.close())]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #of(tenant: string): Map<string, TargetEntry> {
    const found = this.#wanted.get(tenant) ?? new Map<string, TargetEntry>();
    this.#wanted.set(tenant, found);
    return found;
  }

  #takeTarget(entry: KvEntry): void {
    const named = targetIn(entry.key);
    if (!named) throw new TypeError('it is no target');
    const { tenant, target } = named;
    const text = targetText(target);
    const before = this.#of(tenant).get(text);
    // What this collector has written itself is known already.
    if (before && before.revision >= entry.revision) return;
    const content = entry.operation === 'PUT' ? contentOf(entry) : undefined;
    if (content) this.#of(tenant).set(text, { target, revision: entry.revision, ...content });
    else this.#of(tenant).delete(text);
    this.#lookAtAll(tenant, target);
    if (content === undefined && entry.operation === 'PUT') throw new TypeError('it is none of ours');
  }

  #takePushed(entry: KvEntry): void {
    const [tenant = '', host = ''] = entry.key.split('.');
    if (!isIn(this.#partition, tenant, host)) return;
    const before = this.#written.get(entry.key);
    if (before && before.revision >= entry.revision) return;
    const text = entry.operation === 'PUT' ? entry.string() : undefined;
    this.#written.set(entry.key, { text, revision: entry.revision });
    // Another collector may know already what this one learns in a moment; and whoever does this for ever is not followed at once each time.
    const now_ms = this.#clock.monotonic_ms();
    const last_ms = this.#repaired.get(entry.key) ?? Number.NEGATIVE_INFINITY;
    this.#look(entry.key, Math.max(now_ms + pushedRepairMilliseconds.first, last_ms + pushedRepairMilliseconds.again));
  }

  /** Looks at the hosts of a target; of a tag at all, since some may have lost it. */
  #lookAtAll(tenant: string, target: Target): void {
    if (target.kind === 'host') {
      if (isIn(this.#partition, tenant, target.host)) this.#look(`${tenant}.${target.host}`);
    } else for (const { host } of this.#registry.list(tenant)) this.#look(`${tenant}.${host}`);
  }

  #look(key: string, at_ms = 0): void {
    this.#due.set(key, Math.min(at_ms, this.#due.get(key) ?? Number.POSITIVE_INFINITY));
    this.#wake.abort();
  }

  #read(bucket: string): void {
    this.#unread.delete(bucket);
    for (const { tenant, host } of this.#registry.list()) this.#look(`${tenant}.${host}`);
    this.#wake.abort();
  }

  /** Writes what is due, once all is known, some at a time, for as long as it lasts. */
  async #keep(): Promise<void> {
    const { signal } = this.#closed;
    let retry_ms: number = retryMilliseconds.min;
    while (!signal.aborted) {
      this.#wake = new AbortController();
      const now_ms = this.#clock.monotonic_ms();
      if (this.#unread.size > 0) {
        await untilAborted(this.#wake.signal);
        continue;
      }
      const keys = [...this.#due].filter(([, at_ms]) => at_ms <= now_ms).map(([key]) => key);
      for (const key of keys) this.#due.delete(key);
      try {
        while (keys.length > 0) await Promise.all(keys.splice(0, pushedWritesMax).map((key) => this.#write(key)));
        retry_ms = retryMilliseconds.min;
      } catch (cause) {
        if (signal.aborted) return;
        this.#telemetry.agentSettingsFailed(sentence(cause));
        // Those that were done are found to be right.
        for (const { tenant, host } of this.#registry.list()) this.#look(`${tenant}.${host}`, now_ms + retry_ms);
        for (const key of keys) this.#look(key, now_ms + retry_ms);
        retry_ms = Math.min(retry_ms * 2, retryMilliseconds.max);
      }
      let next_ms = Number.POSITIVE_INFINITY;
      for (const at_ms of this.#due.values()) next_ms = Math.min(next_ms, at_ms - this.#clock.monotonic_ms());
      if (next_ms <= 0) continue;
      const pause_ms = Math.min(Math.ceil(next_ms), 2 ** 31 - 1);
      await this.#clock.sleep(pause_ms, this.#wake.signal).catch(() => undefined);
    }
  }

  /** Puts into the bucket what is wanted of a host, unless it is there. */
  async #write(key: string): Promise<void> {
    const [tenant = '', host = ''] = key.split('.');
    for (let tries = 1; tries <= settingsTriesMax; tries++) {
      if (this.#unread.size > 0) return this.#look(key);
      const { text } = this.wantedOf(tenant, host);
      const found = this.#written.get(key);
      if (found?.text === text) return;
      if (text !== undefined && Buffer.byteLength(text) > pushedBytesMax)
        return this.#telemetry.agentSettingsFailed(`those of ${host} are larger than ${pushedBytesMax} bytes`);
      this.#repaired.set(key, this.#clock.monotonic_ms());
      try {
        const revision = found?.revision ?? 0;
        if (text === undefined) {
          await this.#pushed.delete(key, { previousSeq: revision });
          this.#written.delete(key);
        } else {
          // A key that was removed is made anew: its mark counts as one that is not there.
          const isNew = found?.text === undefined;
          const written = await (isNew ? this.#pushed.create(key, text) : this.#pushed.update(key, text, revision));
          this.#written.set(key, { text, revision: written });
        }
        this.#telemetry.agentSettingsPushed();
        return;
      } catch (cause) {
        if (!isOvertaken(cause)) throw cause;
        const entry = await this.#pushed.get(key);
        if (entry)
          this.#written.set(key, {
            text: entry.operation === 'PUT' ? entry.string() : undefined,
            revision: entry.revision,
          });
        else this.#written.delete(key);
      }
    }
    // Somebody is faster each time: it is looked at again when that is known.
    this.#look(key, this.#clock.monotonic_ms() + pushedRepairMilliseconds.again);
  }

  /** Keeps what is known in step with a bucket; resolves when all of it was taken. */
  #follow(
    parts: AgentSettingsParts,
    bucket: string,
    known: { clear(): void },
    take: (entry: KvEntry) => void,
  ): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const anew = () => {
      this.#unread.add(bucket);
      known.clear();
    };
    const filled = () => {
      this.#read(bucket);
      resolve();
    };
    this.#followers.push(new Follower(parts, bucket, { take, anew, filled }));
    return promise;
  }
}

const untilAborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));

/** The key of a target: the values of tags may be of any characters. */
function keyOf(tenant: string, target: Target): string {
  if (target.kind === 'all') return `${tenant}.all`;
  if (target.kind === 'host') return `${tenant}.host.${target.host}`;
  return `${tenant}.tag.${Buffer.from(`${target.name}=${target.value}`).toString('base64url')}`;
}

/** What `keyOf` made. */
function targetIn(key: string): { tenant: string; target: Target } | undefined {
  const [tenant = '', kind = '', name] = key.split('.');
  const rest = kind === 'tag' ? Buffer.from(name ?? '', 'base64url').toString() : name;
  const target = parseTarget(rest === undefined ? kind : `${kind}:${rest}`);
  return target && keyOf(tenant, target) === key ? { tenant, target } : undefined;
}

/** What is in an entry of a target; undefined where it is none of ours. */
function contentOf(entry: KvEntry): Pick<TargetEntry, 'settings' | 'time'> | undefined {
  if (entry.length > targetBytesMax) return undefined;
  let content: { settings?: unknown; time?: unknown } | null;
  try {
    content = entry.json();
  } catch {
    return undefined;
  }
  const { settings, time } = content ?? {};
  if (typeof settings !== 'object' || settings === null || Array.isArray(settings)) return undefined;
  if (Object.values(settings).some((value) => typeof value !== 'string')) return undefined;
  return { settings: settings as Settings, time: typeof time === 'number' && Number.isFinite(time) ? time : 0 };
}
