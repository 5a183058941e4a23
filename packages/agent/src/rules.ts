import { readYaml, SettingsError, suggestion } from '@fleetreel/proto/settings';
import { type Condition, conditions, kernelClass, type Rule } from '#classes.ts';
import { classesMax, classPatternCharactersMax, classRulesMax } from '#limits.ts';

/** Rules that are shipped: beside `src/` in the workspace, beside the folder of the bundle when shipped. */
const shippedFile = new URL('../classes.yaml', import.meta.url).pathname;

/** The rules of a file of the user's, if there is one, before those that are shipped. @throws SettingsError */
export const loadRules = (file?: string): Rule[] => [
  ...(file === undefined ? [] : readRules(file)),
  ...readRules(shippedFile),
];

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

function readPatterns(value: unknown, condition: Condition, wrong: Wrong): string[] {
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
  return list as string[];
}

const listed = conditions.join(', ');

const shown = (value: unknown): string =>
  value === undefined ? 'missing' : (JSON.stringify(value) ?? '').slice(0, 100);
