// Settings that are pushed to this agent: read where they change, kept for a start without NATS, and what is in effect by them.
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { open, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { agentsBucket, type HostDescription, hostKey } from '@fleetreel/proto';
import {
  labelList,
  type Pushed,
  pushedBytesMax,
  readPushed,
  settingsDigest,
  tagsIn,
} from '@fleetreel/proto/agent_settings';
import { milliseconds } from '@fleetreel/proto/duration';
import { jetstream } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import type { NatsConnection } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import type { Settings } from '#config.ts';
import { settingsAnswerMilliseconds } from '#limits.ts';
import { followKey } from '#own_key.ts';
import type { Telemetry } from '#telemetry.ts';

/** What is in effect of what can be pushed. */
export type Effect = {
  interval_ms: number;
  upload_interval_ms: number;
  /** Names of the sources that are not read. */
  off: ReadonlySet<string>;
  /** Labels of containers that are recorded. */
  labels: readonly string[];
  tags: Readonly<Record<string, string>>;
};

/** What is told of them in the host's description. */
export type Told = Pick<
  HostDescription,
  'settings' | 'settings_digest' | 'settings_refused' | 'own_tags' | 'tags' | 'interval_ms' | 'upload_interval_ms'
>;

export type PushedOptions = {
  settings: Settings;
  host: string;
  /** Names of the sources of this machine, those that are off included. */
  sources: readonly string[];
  clock: Clock;
  telemetry: Telemetry;
  /** Is called when something else is in effect. */
  changed: (effect: Effect) => void;
  /** Is called when there is something to tell: something else was read. */
  told: () => void;
};

const nothing: Pushed = { settings: {}, refused: {} };

/**
 * The settings of this host: its own, and before them those that were pushed, unless its own say that none are taken. What was pushed
 * last is kept in the data folder.
 */
export class PushedSettings {
  readonly #options: PushedOptions;
  /** Where the newest are kept. */
  readonly #file: string;
  #effect: Effect;
  #pushed: Pushed = nothing;
  #digest = '';

  /** Begins with what was kept. */
  constructor(options: PushedOptions) {
    const { settings, host } = options;
    this.#options = options;
    this.#file = join(settings.data, 'settings', `${hostKey(settings.tenant, host)}.json`);
    const kept = settings.settings.remote ? this.#kept() : undefined;
    if (kept !== undefined) this.#use(kept);
    this.#effect = this.#computed();
  }

  /** What is in effect now. */
  get effect(): Effect {
    return this.#effect;
  }

  /** What is told of that. */
  get told(): Told {
    const { settings, sources } = this.#options;
    const { interval_ms, upload_interval_ms, off, labels, tags } = this.#effect;
    const { interval, upload_interval } = { ...settings, ...this.#pushed.settings };
    const inEffect: Record<string, string> = {
      interval: interval ?? '',
      upload_interval: upload_interval ?? '',
      'container.labels': labels.join(','),
      'settings.remote': settings.settings.remote ? 'on' : 'off',
    };
    for (const source of sources) inEffect[`sources.${source}`] = off.has(source) ? 'off' : 'on';
    for (const [name, value] of Object.entries(tags)) inEffect[`tags.${name}`] = value;
    return {
      settings: inEffect,
      settings_digest: this.#digest,
      settings_refused: settings.settings.remote
        ? this.#pushed.refused
        : { '': 'settings.remote is off on this host.' },
      own_tags: settings.tags,
      tags,
      interval_ms,
      upload_interval_ms,
    };
  }

  /**
   * Takes what is pushed, over this connection, until the signal.
   * @throws the signal's reason
   */
  async follow(connection: NatsConnection, signal: AbortSignal): Promise<void> {
    const { settings, host, clock, telemetry } = this.#options;
    if (!settings.settings.remote) return;
    const key = hostKey(settings.tenant, host);
    // As it is, without asking what it is like: that is not for a host to know.
    const buckets = new Kvm(jetstream(connection, { checkAPI: false, timeout: settingsAnswerMilliseconds }));
    const kv = await buckets.open(agentsBucket, { allow_direct: true });
    // Those that were kept stay in effect.
    const failed = (cause: unknown) =>
      telemetry.failed('settings that are pushed can not be read; trying again', cause);
    for await (const entry of followKey({ connection, kv, bucket: agentsBucket, key, clock, failed }, signal))
      await this.#take(entry?.operation === 'PUT' ? entry.value : undefined);
  }

  async #take(pushed: Uint8Array | undefined): Promise<void> {
    const { telemetry } = this.#options;
    if (this.#digest === (pushed ? settingsDigest(pushed) : '')) return;
    this.#use(pushed);
    const refused = Object.entries(this.#pushed.refused).map(([key, why]) => (key === '' ? why : `${key}: ${why}`));
    telemetry.settingsTaken(this.#digest, this.#pushed.settings, refused);
    const effect = this.#computed();
    const differs = shown(effect) !== shown(this.#effect);
    this.#effect = effect;
    if (differs) this.#options.changed(effect);
    this.#options.told();
    try {
      // What can't be read at all is not kept: what was followed before is.
      if (pushed === undefined) rmSync(this.#file, { force: true });
      else if (this.#pushed.refused[''] === undefined) await this.#keep(pushed);
    } catch (cause) {
      telemetry.failed(
        `settings that were pushed can not be kept in ${this.#file}; they are in effect until the end`,
        cause,
      );
    }
  }

  /** Follows what was pushed; what can't be read at all changes nothing but what is told. */
  #use(pushed: Uint8Array | undefined): void {
    this.#digest = pushed ? settingsDigest(pushed) : '';
    const read = pushed ? readPushed(pushed) : nothing;
    this.#pushed = read.refused[''] === undefined ? read : { settings: this.#pushed.settings, refused: read.refused };
  }

  #computed(): Effect {
    const { settings, sources } = this.#options;
    const pushed = this.#pushed.settings;
    const isOff = (name: string) =>
      (pushed[`sources.${name}`] ?? (settings.sources.disable.includes(name) ? 'off' : 'on')) === 'off';
    const labels = pushed['container.labels'];
    return {
      interval_ms: milliseconds(pushed.interval ?? settings.interval),
      upload_interval_ms: milliseconds(pushed.upload_interval ?? settings.upload_interval),
      off: new Set(sources.filter(isOff)),
      labels: labels === undefined ? settings.container.labels : labelList(labels),
      tags: { ...settings.tags, ...tagsIn(pushed) },
    };
  }

  /** What was kept by a start before; undefined where there is nothing, or nothing that can be used. */
  #kept(): Uint8Array | undefined {
    const { telemetry } = this.#options;
    try {
      const bytes = readFileSync(this.#file);
      if (bytes.length <= pushedBytesMax && readPushed(bytes).refused[''] === undefined) return bytes;
      telemetry.failed(`${this.#file} has no settings: it is not used`, 'it is damaged');
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT')
        telemetry.failed(`settings that were pushed can not be read from ${this.#file}`, cause);
    }
    return undefined;
  }

  /** Writes beside it, and puts it in its place: there is always one that is whole. */
  async #keep(pushed: Uint8Array): Promise<void> {
    mkdirSync(dirname(this.#file), { recursive: true });
    const beside = `${this.#file}.new`;
    const file = await open(beside, 'w', 0o600);
    try {
      await file.writeFile(pushed);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(beside, this.#file);
  }
}

const shown = ({ off, ...effect }: Effect): string => JSON.stringify({ ...effect, off: [...off].sort() });
