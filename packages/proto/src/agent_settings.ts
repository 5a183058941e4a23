// What of an agent's settings can be pushed to it: keys, values, targets, and how they come together. The agent's own schema is made from
// this, and collector, command line and console go by it. Neither schemas nor YAML are needed for it: the process that samples reads it, too.
import { createHash } from 'node:crypto';
import { durationMilliseconds } from '#duration.ts';
import { namePattern, token } from '#subject.ts';

/** Settings by key, each a text: `interval` and `1s`, `sources.container` and `off`, `tags.rack` and `a3`. */
export type AgentSettings = Readonly<Record<string, string>>;

/** The sampling interval's bounds. */
export const intervalMilliseconds = { min: 1000, max: 300_000 } as const;
/** The longest interval at which frames are sent. */
export const uploadMillisecondsMax = 300_000;

/** Settings of one target: all sources, and twice as many tags as hosts have. */
export const settingsPerTargetMax = 100;
/** Bytes of all settings of one host, as they are pushed: those of some targets with the longest values. */
export const pushedBytesMax = 64 * 1024;
/** Characters of a list of labels: fifty names, with those who like them long. */
const labelsCharactersMax = 2000;
/** Characters of the value of a tag: with its name it is part of an address, as a target. */
const tagCharactersMax = 128;

/** What an agent can read, on any platform. Each is a file of the agent's `sources`. */
export const sourceNames = [
  'cpu',
  'memory',
  'pressure',
  'disk_io',
  'filesystem',
  'net_interface',
  'tcp',
  'tcp_connection',
  'udp',
  'network',
  'clock',
  'sensor',
  'power',
  'battery',
  'process',
  'perf',
  'container',
  'vm',
  'gpu',
  'llm',
] as const;

type Pushable = {
  description: string;
  /** What its value has to be. */
  expects: string;
  examples: readonly string[];
  /** Whether a value can be one; of one with a name, whether the name can be. */
  check: (value: string, name: string) => boolean;
  /** What may stand for the name, where only some may. */
  names?: readonly string[];
};

const between =
  (min_ms: number, max_ms: number) =>
  (text: string): boolean => {
    const value = text.length > 32 ? undefined : durationMilliseconds(text);
    return value !== undefined && value >= min_ms && value <= max_ms;
  };

const tagName = /^[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,62}[A-Za-z0-9])?$/;
const isTagValue = (text: string): boolean =>
  text !== '' && text.length <= tagCharactersMax && text.trim() === text && !/[\p{C}\u2028\u2029]/u.test(text);

/** All that can be pushed. A key with a part in capitals stands for all keys with a name in its place. */
export const pushable = {
  interval: {
    description: 'Time between two samples, from 1s to 300s',
    expects: 'a duration from 1s to 300s, such as 5s',
    examples: ['1s', '60s'],
    check: between(intervalMilliseconds.min, intervalMilliseconds.max),
  },
  upload_interval: {
    description:
      'Time between two uploads of all frames that were sampled since, up to 300s; 0s: each frame is sent at once',
    expects: 'a duration of at most 300s, such as 60s; 0s for each frame at once',
    examples: ['60s'],
    check: between(0, uploadMillisecondsMax),
  },
  'sources.NAME': {
    description: 'Whether a source is read',
    expects: 'on or off',
    examples: ['off'],
    names: sourceNames,
    check: (value) => value === 'on' || value === 'off',
  },
  'container.labels': {
    description: 'Labels of containers that are recorded besides the names of compose projects and pods',
    expects: `names with commas between them, at most ${labelsCharactersMax} characters, or nothing for no label`,
    examples: ['team,version'],
    check: (value) => value.length <= labelsCharactersMax && !/[\p{C}\u2028\u2029]/u.test(value),
  },
  'tags.NAME': {
    description: 'A tag of the host, besides its own; one of the same name comes before its own',
    expects: `a text of 1 to ${tagCharactersMax} characters, without spaces around it`,
    examples: ['a3'],
    check: isTagValue,
  },
} as const satisfies Record<string, Pushable>;

/** Keys as they are shown: `sources.NAME` stands for each source. */
export const pushableKeys = Object.keys(pushable) as (keyof typeof pushable)[];

/** What is wrong with a setting. */
export type WrongSetting =
  | { kind: 'unknown'; key: string; candidates: readonly string[] }
  | { kind: 'name'; key: string; expects: string }
  | { kind: 'value'; key: string; value: string; expects: string };

/** What is wrong with a setting, or undefined where it can be pushed. */
export function wrongSetting(key: string, value: string): WrongSetting | undefined {
  const [, group = '', name = ''] = /^(sources|tags)\.(.*)$/s.exec(key) ?? [];
  const shown = group === '' ? key : `${group}.NAME`;
  if (shown === 'tags.NAME' && !tagName.test(name))
    return {
      kind: 'name',
      key,
      expects: 'the name of a tag: up to 64 letters, digits, "-", "_", "." and "/", a letter or digit at both ends',
    };
  if (shown === 'sources.NAME' && !(sourceNames as readonly string[]).includes(name))
    return { kind: 'unknown', key, candidates: sourceNames.map((source) => `sources.${source}`) };
  if (!Object.hasOwn(pushable, shown) || key === 'sources.NAME')
    return { kind: 'unknown', key, candidates: [...pushableKeys] };
  const { check, expects }: Pushable = pushable[shown as keyof typeof pushable];
  return check(value, name) ? undefined : { kind: 'value', key, value, expects };
}

/** The labels in the value of `container.labels`. */
export const labelList = (value: string): string[] => value.split(',').flatMap((label) => label.trim() || []);

/** To whom settings are pushed. A host's name is as it is in subjects. */
export type Target = { kind: 'all' } | { kind: 'tag'; name: string; value: string } | { kind: 'host'; host: string };

/** A target as it is written: `all`, `tag:role=web`, `host:web-1`; undefined where it is none. */
export function parseTarget(text: string): Target | undefined {
  if (text === 'all') return { kind: 'all' };
  const [, kind, rest = ''] = /^(tag|host):(.+)$/s.exec(text) ?? [];
  if (kind === 'host') return new RegExp(namePattern).test(rest) ? { kind, host: token('host', rest) } : undefined;
  const [, name = '', value = ''] = /^([^=]+)=(.*)$/s.exec(rest) ?? [];
  return kind === 'tag' && tagName.test(name) && isTagValue(value) ? { kind, name, value } : undefined;
}

/** What `parseTarget` reads. */
export function targetText(target: Target): string {
  if (target.kind === 'all') return 'all';
  return target.kind === 'tag' ? `tag:${target.name}=${target.value}` : `host:${target.host}`;
}

/** What is wanted of a target. */
export type Wanted = { target: Target; settings: AgentSettings };

/**
 * What is wanted of a host, and of which targets that is. Those of all come first, then those of its tags in the order of their names,
 * then the host's own; of two settings with one key the later counts. A host's tags are its own and those of `all` and of the host: a
 * target of a tag sets none, so that it does not matter where one begins.
 */
export function wantedOf(
  host: string,
  ownTags: Readonly<Record<string, string>>,
  find: (target: string) => AgentSettings | undefined,
): { settings: AgentSettings; targets: string[] } {
  const own = `host:${host}`;
  const tags = { ...ownTags, ...tagsIn(find('all') ?? {}), ...tagsIn(find(own) ?? {}) };
  const ofTags = Object.keys(tags)
    .sort()
    .map((name) => `tag:${name}=${tags[name]}`);
  const targets = ['all', ...ofTags, own].filter((target) => find(target) !== undefined);
  const merged = Object.assign({}, ...targets.map(find)) as AgentSettings;
  return { settings: sorted(merged), targets };
}

/** The tags among settings, by name. */
export const tagsIn = (settings: AgentSettings): Record<string, string> =>
  Object.fromEntries(
    Object.entries(settings).flatMap(([key, value]) => (key.startsWith('tags.') ? [[key.slice(5), value]] : [])),
  );

const sorted = (settings: AgentSettings): AgentSettings =>
  Object.fromEntries(Object.entries(settings).sort(([a], [b]) => (a < b ? -1 : 1)));

/** What is put into the bucket for an agent: the same text for the same settings, whoever writes it. */
export const pushedText = (settings: AgentSettings): string => JSON.stringify({ settings: sorted(settings) });

/** By which an agent says what it has read. */
export const settingsDigest = (pushed: string | Uint8Array): string =>
  createHash('sha256').update(pushed).digest('hex').slice(0, 16);

/** What can be used of what was pushed. */
export type Pushed = {
  settings: AgentSettings;
  /** Why a setting is not followed, by key; under the empty key, why none is. */
  refused: Readonly<Record<string, string>>;
};

/**
 * Reads what is in the bucket: each setting that can be followed is, whatever stands beside it, since an agent may be older than the
 * collector. Nothing of a text that is none of settings.
 */
export function readPushed(pushed: Uint8Array): Pushed {
  if (pushed.length > pushedBytesMax) return none(`They are larger than ${pushedBytesMax / 1024} KiB.`);
  let given: unknown;
  try {
    given = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(pushed));
  } catch {
    return none('They are no JSON.');
  }
  const settings = isMapping(given) ? given.settings : undefined;
  if (!isMapping(settings)) return none('They are no settings.');
  const taken: [string, string][] = [];
  const refused: [string, string][] = [];
  for (const [key, value] of Object.entries(settings)) {
    const why =
      key === '' || key.length > 200 || typeof value !== 'string'
        ? 'This is no setting.'
        : whyNot(wrongSetting(key, value));
    if (why === undefined) taken.push([key, value as string]);
    // Bounded: it is told to everybody.
    else if (refused.length < settingsPerTargetMax) refused.push([clean(key), why]);
  }
  return { settings: Object.fromEntries(taken), refused: Object.fromEntries(refused) };
}

const none = (why: string): Pushed => ({ settings: {}, refused: { '': why } });

const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const clean = (key: string): string => key.replace(/\p{C}/gu, '\uFFFD').slice(0, 100) || '?';

function whyNot(wrong: WrongSetting | undefined): string | undefined {
  if (wrong === undefined) return undefined;
  return wrong.kind === 'unknown' ? 'This version of the agent does not know it.' : `It has to be ${wrong.expects}.`;
}
