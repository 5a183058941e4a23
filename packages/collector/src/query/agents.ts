// Settings of agents, as they are asked for and changed: what is wanted and what is in effect, checked before anything is written.
import {
  parseTarget,
  pushable,
  pushableKeys,
  pushedBytesMax,
  pushedText,
  type AgentSettings as Settings,
  settingsDigest,
  settingsPerTargetMax,
  type Target,
  targetText,
  wrongSetting,
} from '@fleetreel/proto/agent_settings';
import { ApiError, clip, unknown } from '@fleetreel/proto/errors';
import type { AgentSetting, AgentSettingsChange, AgentState, AgentStateName, AgentTarget } from '@fleetreel/proto/http';
import { settingsTriesMax, targetsMax } from '#limits.ts';
import type { AgentSettings, TargetEntry } from '#log/agent_settings.ts';
import type { Registry, RegistryEntry } from '#log/registry.ts';
import { sentence } from '#telemetry.ts';

/** A change of what is wanted of a target. */
export type Change = {
  target: string;
  /** Settings that are wanted from now on. */
  set: Readonly<Record<string, string>>;
  /** Keys that are not wanted any more. */
  unset: readonly string[];
  /** Whether all that is not set is unset. */
  isWhole: boolean;
  /** Whether nothing is changed, and only said what would be. */
  isTrial: boolean;
  /** The revision that this is a change of; any when undefined. */
  revision: number | undefined;
};

export class Agents {
  readonly #registry: Registry;
  readonly #settings: AgentSettings;

  constructor(registry: Registry, settings: AgentSettings) {
    this.#registry = registry;
    this.#settings = settings;
  }

  /** Every host that has described itself, by name, with what is wanted of its agent and what is in effect. */
  list(tenant: string): AgentState[] {
    return this.#hosts(tenant).map((entry) => this.#state(entry));
  }

  /** What is wanted, by target. */
  targets(tenant: string): AgentTarget[] {
    const hosts = new Map<string, string[]>();
    for (const { host } of this.#hosts(tenant))
      for (const target of this.#settings.wantedOf(tenant, host).targets)
        hosts.set(target, [...(hosts.get(target) ?? []), host]);
    return this.#settings.targets(tenant).map((entry) => targetJson(entry, hosts.get(targetText(entry.target)) ?? []));
  }

  /**
   * Changes what is wanted of a target; says what is wanted of it then, what was before, and of which hosts something else is.
   * @throws ApiError, and then nothing is changed
   */
  async change(tenant: string, change: Change): Promise<AgentSettingsChange & { before: Settings }> {
    const target = targetOf(change.target);
    const text = targetText(target);
    for (const [key, value] of Object.entries(change.set)) check(key, value, target);
    for (let tries = 0; tries < settingsTriesMax; tries++) {
      const found = this.#settings.get(tenant, text);
      const { settings: before, revision } = found ?? { settings: {}, revision: 0 };
      if (change.revision !== undefined && change.revision !== revision)
        throw new ApiError('settings_changed', { value: text, revision });
      if (!found && Object.keys(change.set).length === 0) throw this.#notFound(tenant, text);
      const settings = changed(before, change);
      this.#checkCounts(tenant, text, settings, found);
      const effect = this.#effect(tenant, target, settings);
      const result = (entry: TargetEntry) => ({
        target: targetJson(entry, effect.hosts),
        changed: effect.changed,
        before,
      });
      if (change.isTrial) return result({ target, settings, revision, time: found?.time ?? 0 });
      if (found && isSame(before, settings)) return result(found);
      const written = await this.#put(tenant, target, settings, revision);
      if (written) return result(written);
      // Somebody else was faster, which is known here in a moment.
      await this.#settings.known(tenant, text, revision);
    }
    throw new ApiError('settings_changed', {
      value: text,
      revision: this.#settings.get(tenant, text)?.revision ?? 0,
    });
  }

  async #put(tenant: string, target: Target, settings: Settings, revision: number): Promise<TargetEntry | undefined> {
    try {
      return await this.#settings.put(tenant, target, settings, revision);
    } catch (cause) {
      throw new ApiError('log_unavailable', { reason: sentence(cause) }, { cause });
    }
  }

  #notFound(tenant: string, text: string): ApiError {
    const known = this.#settings.targets(tenant).map(({ target }) => targetText(target));
    return unknown('settings_not_found', text, known, { parameter: 'target' });
  }

  /** Hosts that would be of a target, and those of which something else would be wanted. @throws ApiError */
  #effect(tenant: string, target: Target, settings: Settings): { hosts: string[]; changed: string[] } {
    const instead = { target: targetText(target), settings: isEmpty(settings) ? undefined : settings };
    const effect: { hosts: string[]; changed: string[] } = { hosts: [], changed: [] };
    for (const { host } of this.#hosts(tenant)) {
      if (target.kind === 'host' && target.host !== host) continue;
      const now = this.#settings.wantedOf(tenant, host);
      const then = this.#settings.wantedOf(tenant, host, instead);
      if (then.targets.includes(instead.target)) effect.hosts.push(host);
      if (then.text === now.text) continue;
      const bytes = Buffer.byteLength(then.text ?? '');
      if (bytes > pushedBytesMax)
        throw new ApiError('too_many_settings', {
          what: `The host ${host}`,
          count: `${bytes} bytes`,
          most: pushedBytesMax,
        });
      effect.changed.push(host);
    }
    return effect;
  }

  /** @throws ApiError */
  #checkCounts(tenant: string, target: string, settings: Settings, found: TargetEntry | undefined): void {
    const count = Object.keys(settings).length;
    if (count > settingsPerTargetMax)
      throw new ApiError('too_many_settings', { what: target, count: `${count} settings`, most: settingsPerTargetMax });
    if (!found && this.#settings.targets(tenant).length >= targetsMax)
      throw new ApiError('too_many_settings', {
        what: 'This tenant',
        count: `${targetsMax + 1} targets`,
        most: targetsMax,
      });
  }

  #hosts(tenant: string): RegistryEntry[] {
    return this.#registry
      .list(tenant)
      .filter(({ description }) => description !== null)
      .sort((a, b) => (a.host < b.host ? -1 : 1));
  }

  #state({ tenant, host, description }: RegistryEntry): AgentState {
    const { settings: wanted, targets, text } = this.#settings.wantedOf(tenant, host);
    const { settings: inEffect = {}, settings_digest: digest = '', settings_refused: refused = {} } = description ?? {};
    return { host, state: stateOf(text, inEffect, digest, refused), wanted, inEffect, refused, targets };
  }
}

const targetJson = ({ target, settings, revision, time }: TargetEntry, hosts: string[]): AgentTarget => ({
  target: targetText(target),
  settings,
  revision,
  time: time === 0 ? null : time,
  hosts,
});

/** What can be pushed, with what its values are. */
export const settingsThatThereAre: readonly AgentSetting[] = pushableKeys.map((key) => {
  const { description, expects, examples } = pushable[key];
  const names: readonly string[] = key === 'sources.NAME' ? pushable[key].names : [];
  return { key, help: description, expects, examples: [...examples], names: [...names] };
});

function stateOf(
  text: string | undefined,
  inEffect: Settings,
  digest: string,
  refused: Readonly<Record<string, string>>,
): AgentStateName {
  const isKnowing = !isEmpty(inEffect);
  if (!isKnowing) return text === undefined ? 'own' : 'unsupported';
  if (inEffect['settings.remote'] === 'off') return text === undefined ? 'own' : 'refused';
  if (digest !== (text === undefined ? '' : settingsDigest(text))) return 'pending';
  if (text === undefined) return 'own';
  return isEmpty(refused) ? 'in_effect' : 'refused';
}

const isSame = (one: Settings, other: Settings): boolean => pushedText(one) === pushedText(other);

const isEmpty = (settings: Settings | undefined): boolean => Object.keys(settings ?? {}).length === 0;

const changed = (before: Settings, { set, unset, isWhole }: Change): Settings =>
  Object.fromEntries(
    Object.entries({ ...(isWhole ? {} : before), ...set }).filter(
      ([key]) => Object.hasOwn(set, key) || !unset.includes(key),
    ),
  );

/** @throws ApiError */
function targetOf(text: string): Target {
  const target = parseTarget(text);
  if (!target) throw new ApiError('bad_target', { parameter: 'target', value: clip(text) });
  return target;
}

/** @throws ApiError where a setting can't be wanted of a target */
function check(key: string, value: unknown, target: Target): void {
  if (typeof value !== 'string')
    throw new ApiError('bad_setting', {
      parameter: clip(key),
      value: clip(JSON.stringify(value) ?? ''),
      expected: 'a text',
    });
  if (target.kind === 'tag' && key.startsWith('tags.'))
    throw new ApiError('bad_setting', {
      parameter: clip(key),
      value: clip(value),
      expected: 'tags to all or to a host: of a tag they would decide themselves whom they are for',
    });
  const wrong = wrongSetting(key, value);
  if (wrong?.kind === 'unknown') throw unknown('unknown_setting', key, wrong.candidates, { parameter: clip(key) });
  if (wrong)
    throw new ApiError('bad_setting', {
      parameter: clip(key),
      value: clip(wrong.kind === 'value' ? value : key),
      expected: wrong.expects,
    });
}
