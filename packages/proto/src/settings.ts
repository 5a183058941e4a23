// How a program's settings are read: one schema gives the values, the help, the errors and the reference page.
import { existsSync, readFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { closest, distance } from 'fastest-levenshtein';
import Type, { type Static, type TObject, type TSchema } from 'typebox';
import Value from 'typebox/value';
import { isNode, LineCounter, parseDocument } from 'yaml';
import { durationPattern } from '#duration.ts';

/** What a program is called, can do and can be told. */
export type Program<S extends TObject> = {
  name: string;
  version: string;
  summary: string;
  /** Commands with their help; the first is not assumed: a command has to be given. */
  commands: Readonly<Record<string, string>>;
  /** Of commands with settings of their own, what begins these settings' flags: it may be left out after the command. */
  own?: Readonly<Record<string, string>>;
  /** Nested objects of leaves; every leaf has a `description`. */
  settings: S;
  /** Flags that settle how a command runs rather than what the program is: not in the file or the environment. */
  switches?: Readonly<Record<string, string>>;
  /** Read when it exists and no other file is named. */
  defaultFile?: string;
};

export type Invocation<S extends TObject> =
  | { help: string }
  | { command: string; settings: Readonly<Static<S>>; switches: ReadonlySet<string>; file: string | undefined };

/** Settings that can't be used. The message is one sentence for the user: what is wrong, where, what to do. */
export class SettingsError extends Error {
  override name = 'SettingsError';
  /** What the program ends with. */
  readonly exitCode = 2;
}

type LeafOptions = { description: string; expects?: string; secret?: boolean; examples?: unknown[] };

/** A setting that is a length of time: `500ms`, `5s`, `1h30m`, `72h`. */
export const Duration = (fallback: string, options: LeafOptions) =>
  Type.String({
    pattern: durationPattern,
    default: fallback,
    expects: 'a duration such as 5s, 10m, 72h or 30d',
    ...options,
  });

const file = (description: string, example: string) =>
  Type.Optional(Type.String({ minLength: 1, description, examples: [example] }));

/** The settings by which a program gets into NATS, besides the address. Each is a file, read anew at every connection. */
export const natsAccessSettings = {
  credentials: file(
    'Credentials file by which NATS knows this program; absent: NATS asks nobody who it is',
    '/etc/fleetreel/nats.creds',
  ),
  tls: Type.Object({
    ca: file(
      "Certificates (PEM) of the authorities that may vouch for the NATS server; absent: the system's",
      '/etc/fleetreel/ca.pem',
    ),
    certificate: file(
      "This program's own certificate (PEM), for a NATS server that asks for one",
      '/etc/fleetreel/client.pem',
    ),
    key: file('Private key (PEM) of that certificate', '/etc/fleetreel/client.key'),
  }),
};

/** The candidate that is most like the text, or undefined when none is like it at all. */
export function nearest(text: string, candidates: readonly string[]): string | undefined {
  if (candidates.length === 0) return undefined;
  const found = closest(text, candidates);
  return distance(text, found) <= Math.max(3, Math.ceil(text.length / 2)) ? found : undefined;
}

/** `Did you mean "..."?`, or the list of what there is. */
export function suggestion(text: string, candidates: readonly string[]): string {
  const found = nearest(text, candidates);
  return found === undefined ? `There is: ${candidates.join(', ')}.` : `Did you mean "${found}"?`;
}

type Leaf = { path: readonly string[]; schema: TSchema & LeafSchema };
type LeafSchema = Partial<LeafOptions> & { default?: unknown; type?: string };

/**
 * Reads the command line, the environment and the file.
 * A flag comes before the environment, which comes before the file, which comes before the default.
 * @throws SettingsError
 */
export function readSettings<S extends TObject>(
  program: Program<S>,
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Invocation<S> {
  const leaves = leavesOf(program.settings);
  const line = commandLine(program, leaves, argv);
  if (line === undefined) return { help: help(program) };
  if (line === 'version') return { help: `${program.name} ${program.version}` };

  const settings = groupsOf(program.settings);
  for (const leaf of leaves) if (leaf.schema.default !== undefined) put(settings, leaf.path, leaf.schema.default);

  const named = line.flags.get('config') ?? environment.FLEETREEL_CONFIG;
  const file = named ?? (program.defaultFile && existsSync(program.defaultFile) ? program.defaultFile : undefined);
  if (file !== undefined) fromFile(program.settings, leaves, file, settings);

  for (const leaf of leaves) {
    const variable = variableOf(leaf);
    const text = environment[variable];
    if (text !== undefined) put(settings, leaf.path, fromText(leaf, text, `the environment variable ${variable}`));
    const flag = line.flags.get(flagOf(leaf));
    if (flag !== undefined) put(settings, leaf.path, fromText(leaf, flag, `the flag --${flagOf(leaf)}`));
  }
  return { command: line.command, settings: freeze(settings) as Static<S>, switches: line.switches, file };
}

/** What a YAML file says, and on which line: that of the value behind a path of keys and places, or of what holds it. */
export type Yaml = { value: unknown; line: (path: readonly (string | number)[]) => number };

/**
 * Reads a YAML file; `what` is what it is called in the errors: "settings file".
 * @throws SettingsError
 */
export function readYaml(file: string, what: string): Yaml {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'it does not exist' : String(cause);
    throw new SettingsError(`The ${what} ${file} can't be read: ${why}.`, { cause });
  }
  const lineCounter = new LineCounter();
  const document = parseDocument(text, { prettyErrors: false, lineCounter });
  const lineAt = (offset: number): number => lineCounter.linePos(offset).line;
  const [broken] = document.errors;
  if (broken)
    throw new SettingsError(
      `The ${what} ${file} is not YAML, line ${lineAt(broken.pos[0])}: ${broken.message.replace(/\.$/, '')}.`,
    );
  let value: unknown;
  try {
    value = document.toJS();
  } catch (cause) {
    // Aliases that would unfold without end.
    throw new SettingsError(`The ${what} ${file} can't be used: ${(cause as Error).message}.`, { cause });
  }
  return {
    value,
    line(path) {
      for (let length = path.length; length > 0; length--) {
        const node = document.getIn(path.slice(0, length), true);
        if (isNode(node) && node.range) return lineAt(node.range[0]);
      }
      return 1;
    },
  };
}

/** What `--help` prints. */
export function help<S extends TObject>(program: Program<S>): string {
  const leaves = leavesOf(program.settings);
  const rows = leaves.filter(isFlag).map((leaf) => {
    const { description = '', default: fallback } = leaf.schema;
    return [`--${flagOf(leaf)} VALUE`, fallback === undefined ? description : `${description} [${show(fallback)}]`];
  });
  const secrets = leaves
    .filter((leaf) => !isFlag(leaf))
    .map((leaf) => [
      variableOf(leaf),
      `${leaf.schema.description}, or ${leaf.path.join('.')} in the file; never a flag`,
    ]);
  const switches = Object.entries(program.switches ?? {}).map(([name, text]) => [`--${name}`, text]);
  const commands = Object.entries(program.commands);
  return [
    `${program.name} ${program.version}: ${program.summary}`,
    '',
    `Usage: ${program.name} COMMAND [FLAGS]`,
    '',
    'Commands:',
    ...columns(commands),
    '',
    'Flags; each is also a key of the file and a variable of the environment (--nats-url: nats.url, FLEETREEL_NATS_URL):',
    ...columns([
      ...rows,
      ...switches,
      ...secrets,
      ['--config FILE', `YAML file of settings${program.defaultFile ? ` [${program.defaultFile}, if it exists]` : ''}`],
      ['--help', 'This page'],
      ['--version', 'The version'],
    ]),
  ].join('\n');
}

/** The reference page of a program's settings, in Markdown. */
export function reference<S extends TObject>(program: Program<S>): string {
  const cell = (text: string) => text.replaceAll('|', '\\|');
  return [
    `# Settings of ${program.name}`,
    '',
    `${program.summary}. A flag comes before the environment, which comes before the YAML file, which comes before the default.`,
    '',
    '| key | flag | environment | default | meaning |',
    '| --- | --- | --- | --- | --- |',
    ...leavesOf(program.settings).map((leaf) => {
      const { description = '', default: fallback, examples } = leaf.schema;
      const example = examples?.length ? ` For example \`${show(examples[0])}\`.` : '';
      const flag = isFlag(leaf) ? `\`--${flagOf(leaf)}\`` : '';
      return `| \`${leaf.path.join('.')}\` | ${flag} | \`${variableOf(leaf)}\` | ${
        fallback === undefined ? '' : `\`${show(fallback)}\``
      } | ${cell(description)}.${example} |`;
    }),
    '',
    '| command | meaning |',
    '| --- | --- |',
    ...Object.entries(program.commands).map(([name, text]) => `| \`${program.name} ${name}\` | ${cell(text)}. |`),
    '',
  ].join('\n');
}

function commandLine<S extends TObject>(program: Program<S>, leaves: readonly Leaf[], argv: readonly string[]) {
  const long = [...leaves.filter(isFlag).map(flagOf), 'config'];
  const short = shortFlags(program, long, argv);
  const secrets = new Map(leaves.filter((leaf) => !isFlag(leaf)).map((leaf) => [flagOf(leaf), leaf]));
  const shortSecrets = shortFlags(program, [...secrets.keys()], argv);
  const names = [...long, ...short.keys()];
  const switchNames = [...Object.keys(program.switches ?? {}), 'help', 'version'];
  const options = Object.fromEntries([
    ...names.map((name) => [name, { type: 'string' as const }]),
    ...switchNames.map((name) => [name, { type: 'boolean' as const }]),
  ]);
  const { tokens } = parseArgs({ args: [...argv], options, strict: false, allowPositionals: true, tokens: true });
  const flags = new Map<string, string>();
  const switches = new Set<string>();
  const words: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value);
    if (token.kind !== 'option') continue;
    const secret = secrets.get(shortSecrets.get(token.name) ?? token.name);
    if (secret)
      throw new SettingsError(
        `${token.rawName} can't be given here, where whoever lists processes reads it: set ${variableOf(secret)}, or ${secret.path.join('.')} in the file.`,
      );
    if (switchNames.includes(token.name)) switches.add(token.name);
    else if (!names.includes(token.name))
      throw new SettingsError(
        `There is no flag ${token.rawName}. ${suggestion(
          token.rawName,
          [...names, ...switchNames].map((name) => `--${name}`),
        )}`,
      );
    else if (token.value === undefined) throw new SettingsError(`The flag --${token.name} needs a value.`);
    else flags.set(short.get(token.name) ?? token.name, token.value);
  }
  if (switches.has('help') || (argv.length === 1 && argv[0] === '-h')) return undefined;
  if (switches.has('version')) return 'version';
  const known = Object.keys(program.commands);
  const [command, extra] = words;
  if (command === undefined)
    throw new SettingsError(`${program.name} needs a command: ${known.join(', ')}. See ${program.name} --help.`);
  if (!known.includes(command))
    throw new SettingsError(`There is no command "${command}". ${suggestion(command, known)}`);
  if (extra !== undefined) throw new SettingsError(`"${extra}" after the command ${command} means nothing here.`);
  return { command, flags, switches };
}

/** The flags of the given command's own settings without what begins them: `upstream` -> `llm-proxy-upstream`. */
function shortFlags<S extends TObject>(program: Program<S>, long: readonly string[], argv: readonly string[]) {
  const [, prefix] = Object.entries(program.own ?? {}).find(([command]) => argv.includes(command)) ?? [];
  return new Map(
    long
      .filter((flag) => prefix !== undefined && flag.startsWith(prefix))
      .map((flag) => [flag.slice(prefix?.length), flag]),
  );
}

function fromFile(schema: TObject, leaves: readonly Leaf[], file: string, settings: Record<string, unknown>): void {
  const { value } = readYaml(file, 'settings file');
  const walk = (values: unknown, at: readonly string[], inside: TObject): void => {
    if (values === null || values === undefined) return;
    if (typeof values !== 'object' || Array.isArray(values))
      throw new SettingsError(
        `"${at.join('.') || 'the whole'}" in ${file} is ${show(values)}: it has to be a mapping of keys.`,
      );
    for (const [key, value] of Object.entries(values)) {
      const path = [...at, key];
      const child = Object.hasOwn(inside.properties, key) ? (inside.properties[key] as TSchema) : undefined;
      if (child === undefined)
        throw new SettingsError(`There is no setting "${path.join('.')}" (in ${file}). ${nearKey(path, leaves)}`);
      const leaf = leaves.find((one) => one.path.join('.') === path.join('.'));
      if (leaf) put(settings, path, checked(leaf, value, file));
      else walk(value, path, child as TObject);
    }
  };
  walk(value, [], schema);
}

function nearKey(path: readonly string[], leaves: readonly Leaf[]): string {
  return suggestion(
    path.join('.'),
    leaves.map((leaf) => leaf.path.join('.')),
  );
}

function fromText(leaf: Leaf, text: string, where: string): unknown {
  const { schema } = leaf;
  if (Type.IsNumber(schema) || Type.IsInteger(schema))
    return checked(leaf, text.trim() === '' ? text : Number(text), where, text);
  if (Type.IsBoolean(schema)) return checked(leaf, { true: true, false: false }[text] ?? text, where, text);
  const parts = text.split(',').flatMap((part) => part.trim() || []);
  if (Type.IsArray(schema)) return checked(leaf, parts, where, text);
  if (Type.IsRecord(schema))
    return checked(leaf, Object.fromEntries(parts.map((part) => part.split(/=(.*)/s, 2))), where, text);
  return checked(leaf, text, where);
}

function checked(leaf: Leaf, value: unknown, where: string, written: unknown = value): unknown {
  if (Value.Check(leaf.schema, value)) return value;
  const shown = leaf.schema.secret ? 'the value given' : show(written);
  throw new SettingsError(`${leaf.path.join('.')}: ${shown} (in ${where}) is not ${expectation(leaf.schema)}.`);
}

function expectation(schema: TSchema & LeafSchema & { minimum?: number; maximum?: number }): string {
  if (schema.expects) return schema.expects;
  const constants = (schema as { anyOf?: { const?: unknown }[] }).anyOf?.map((one) => one.const);
  if (constants) return `one of ${constants.join(', ')}`;
  if (Type.IsArray(schema)) return 'a list of texts';
  if (Type.IsRecord(schema)) return 'a mapping of texts to texts';
  const { minimum, maximum } = schema;
  const range =
    minimum === undefined ? '' : maximum === undefined ? ` of ${minimum} or more` : ` from ${minimum} to ${maximum}`;
  const kinds: Record<string, string> = {
    integer: 'a whole number',
    number: 'a number',
    boolean: 'true or false',
    string: 'a text',
  };
  return (kinds[schema.type ?? ''] ?? 'what it has to be') + range;
}

function leavesOf(schema: TObject, at: readonly string[] = []): Leaf[] {
  return Object.entries(schema.properties).flatMap(([key, child]) => {
    const path = [...at, key];
    return Type.IsObject(child) ? leavesOf(child, path) : [{ path, schema: child as Leaf['schema'] }];
  });
}

/** A secret is no flag: every user of a machine can list what its programs were started with. */
const isFlag = ({ schema }: Leaf): boolean => schema.secret !== true;
/** The groups of settings, also those in which nothing is set. */
function groupsOf(schema: TObject): Record<string, unknown> {
  const groups = Object.entries(schema.properties).filter(([, child]) => Type.IsObject(child));
  return Object.fromEntries(groups.map(([key, child]) => [key, groupsOf(child as TObject)]));
}

const flagOf = (leaf: Leaf): string => leaf.path.join('-').replaceAll('_', '-');
const variableOf = (leaf: Leaf): string => `FLEETREEL_${leaf.path.join('_').toUpperCase()}`;
const show = (value: unknown): string => (typeof value === 'string' ? value : JSON.stringify(value));

function columns(rows: readonly (readonly string[])[]): string[] {
  const width = Math.max(...rows.map(([first = '']) => first.length)) + 2;
  return rows.map(([first = '', second = '']) => `  ${first.padEnd(width)}${second}`);
}

function put(target: Record<string, unknown>, path: readonly string[], value: unknown): void {
  const [key = '', ...rest] = path;
  if (rest.length === 0) target[key] = value;
  else {
    target[key] ??= {};
    put(target[key] as Record<string, unknown>, rest, value);
  }
}

function freeze(value: unknown): unknown {
  if (typeof value === 'object' && value !== null) {
    for (const child of Object.values(value)) freeze(child);
    Object.freeze(value);
  }
  return value;
}
