import { readYaml, SettingsError, suggestion } from '@fleetreel/proto/settings';
import { classesMax, classPatternCharactersMax, classRulesMax } from '#limits.ts';

/** What the rules look at. */
export type Traits = {
  /** Names of the program. */
  names: readonly string[];
  /** The words of its command line, the program's first; none where it can't be read. */
  words: readonly string[];
  /** The systemd unit; empty outside of one. */
  unit: string;
};

/** The class of what no rule fits. */
export const otherClass = 'other';
/** The class of the kernel's own threads, which no rule gives. */
export const kernelClass = 'kernel';

/** Rules that are shipped: beside `src/` in the workspace, beside the folder of the bundle when shipped. */
const shippedFile = new URL('../classes.yaml', import.meta.url).pathname;

const conditions = ['name', 'argument', 'unit'] as const;
type Condition = (typeof conditions)[number];
type Rule = { class: string } & { [C in Condition]?: Patterns };

/** Says what class a process is of: by the first rule that fits. */
export type Classify = (traits: Traits) => string;

/** The rules of a file of the user's, if there is one, before those that are shipped. @throws SettingsError */
export function loadClasses(file?: string): Classify {
  const rules = [...(file === undefined ? [] : readRules(file)), ...readRules(shippedFile)];
  return ({ names, words, unit }) => {
    const fits = (rule: Rule): boolean =>
      (!rule.name || names.some((name) => rule.name?.fit(name))) &&
      (!rule.unit || rule.unit.fit(unit)) &&
      (!rule.argument || words.some((word) => rule.argument?.fit(word)));
    return rules.find(fits)?.class ?? otherClass;
  };
}

/** Patterns of one condition, one of which has to fit. Most have no wildcard: those are looked up. */
class Patterns {
  readonly #whole = new Set<string>();
  readonly #globs: string[] = [];

  constructor(patterns: readonly string[]) {
    for (const pattern of patterns)
      if (/[*?]/.test(pattern)) this.#globs.push(pattern.toLowerCase());
      else this.#whole.add(pattern.toLowerCase());
  }

  fit(text: string): boolean {
    const small = text.toLowerCase();
    return this.#whole.has(small) || this.#globs.some((pattern) => globMatches(pattern, small));
  }
}

const star = 42;
const question = 63;

/**
 * Whether the whole text fits a pattern in which "*" stands for any characters and "?" for one. Not a regular expression:
 * names and command lines are anybody's, and this takes at most their length times the pattern's.
 */
export function globMatches(pattern: string, text: string): boolean {
  let at = 0;
  let lastStar = -1;
  let resumeAt = 0;
  for (let position = 0; position < text.length; ) {
    const wanted = pattern.charCodeAt(at);
    if (wanted === star) {
      lastStar = at++;
      resumeAt = position;
    } else if (at < pattern.length && (wanted === question || wanted === text.charCodeAt(position))) {
      at++;
      position++;
    } else if (lastStar >= 0) {
      // The last star takes one character more.
      at = lastStar + 1;
      position = ++resumeAt;
    } else return false;
  }
  while (pattern.charCodeAt(at) === star) at++;
  return at === pattern.length;
}

/** Reads a file of rules. @throws SettingsError with the line, what is wrong there, and what is expected */
function readRules(file: string): Rule[] {
  const { value, line } = readYaml(file, 'file of rules');
  const wrong = (path: readonly (string | number)[], what: string): SettingsError =>
    new SettingsError(`The file of rules ${file}, line ${line(path)}: ${what}.`);
  if (value === null || value === undefined) return [];
  if (!Array.isArray(value)) throw wrong([], 'it has to be a list of rules, such as "- {class: game, name: [doom*]}"');
  if (value.length > classRulesMax) throw wrong([classRulesMax], `there are more than ${classRulesMax} rules`);
  const rules = value.map((rule: unknown, index) => readRule(rule, (path, what) => wrong([index, ...path], what)));
  const classes = new Set(rules.map((rule) => rule.class));
  if (classes.size > classesMax)
    throw wrong([], `it has ${classes.size} classes: more than ${classesMax} are too many`);
  return rules;
}

type Wrong = (path: readonly (string | number)[], what: string) => SettingsError;

function readRule(value: unknown, wrong: Wrong): Rule {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong([], `a rule is ${shown(value)}, and has to be a mapping with "class" and at least one of ${listed}`);
  const given = value as Record<string, unknown>;
  const keys = ['class', ...conditions];
  for (const key of Object.keys(given))
    if (!keys.includes(key)) throw wrong([key], `a rule has no "${key}". ${suggestion(key, keys).replace(/\.$/, '')}`);
  const name = given.class;
  if (typeof name !== 'string' || !/^[a-z][a-z0-9_]{0,31}$/.test(name))
    throw wrong(
      ['class'],
      `class is ${shown(name)}, and has to be a name of up to 32 small letters, digits and "_", the first a letter`,
    );
  if (name === kernelClass) throw wrong(['class'], `class "${kernelClass}" is for threads of the kernel only`);
  const rule: Rule = { class: name };
  for (const condition of conditions)
    if (given[condition] !== undefined) rule[condition] = readPatterns(given[condition], condition, wrong);
  if (!conditions.some((condition) => rule[condition])) throw wrong([], `a rule needs at least one of ${listed}`);
  return rule;
}

function readPatterns(value: unknown, condition: Condition, wrong: Wrong): Patterns {
  const list: unknown[] = Array.isArray(value) ? value : [value];
  if (list.length === 0) throw wrong([condition], `${condition} has no pattern, and would fit nothing`);
  for (const [index, pattern] of list.entries()) {
    const path = Array.isArray(value) ? [condition, index] : [condition];
    if (typeof pattern !== 'string' || pattern === '' || pattern.length > classPatternCharactersMax)
      throw wrong(
        path,
        `${condition} is ${shown(pattern)}, and has to be a pattern of 1 to ${classPatternCharactersMax} characters, or a list of them (in quotes where YAML takes it for something else)`,
      );
  }
  return new Patterns(list as string[]);
}

const listed = conditions.join(', ');

const shown = (value: unknown): string =>
  value === undefined ? 'missing' : (JSON.stringify(value) ?? '').slice(0, 100);
