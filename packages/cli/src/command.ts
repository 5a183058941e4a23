// What a command is, and how its arguments are read.
import { parseArgs } from 'node:util';
import { suggestion } from '@fleetreel/proto/settings';
import type { Output } from '#output.ts';

/** The command line can't be understood. The message is one sentence: what is wrong, and what there is. */
export class UsageError extends Error {
  override name = 'UsageError';
  readonly exitCode = 2;
}

export type Flag = {
  help: string;
  /** What stands for the value in the help; absent for a switch. */
  value?: string;
  /** Whether it may be given several times. */
  many?: boolean;
};

export type Command = {
  /** How it is called, without the flags: `latest TABLE`. */
  usage: string;
  summary: string;
  /** Names of the arguments. All have to be given. */
  arguments: readonly string[];
  /** What stands for further arguments, of which there may be any number; absent where there are none. */
  rest?: string;
  flags: Readonly<Record<string, Flag>>;
  /** @throws UsageError, CallError */
  run(invocation: Invocation, output: Output, signal: AbortSignal): Promise<void>;
};

export type Invocation = {
  /** One value per name of the command's arguments, then the further ones. */
  arguments: readonly string[];
  /** All values that were given for a flag; `['true']` for a switch. */
  flags: ReadonlyMap<string, readonly string[]>;
  /** Where the collector's gRPC face is, as `host:port`. */
  address: string;
  json: boolean;
};

/** Flags of every command. */
const common: Readonly<Record<string, Flag>> = {
  address: { value: 'HOST:PORT', help: 'The collector, also FLEETREEL_ADDRESS [127.0.0.1:7601]' },
  'key-file': {
    value: 'FILE',
    help: 'File of the API key, also FLEETREEL_KEY_FILE; the key itself may be in FLEETREEL_KEY, and is never an argument. None is needed for a Fleetreel that you started on this machine',
  },
  'ca-file': {
    value: 'FILE',
    help: "Speak TLS, with a collector whose certificate this one signed, also FLEETREEL_CA_FILE; FLEETREEL_TLS=true trusts the system's",
  },
  json: { help: 'JSON for programs; times in milliseconds since 1970, null for what is not available' },
  help: { help: 'This page' },
};

/** Flags that several commands share. */
export const hostFlag: Flag = { value: 'HOST', help: 'Only this host; may be given several times', many: true };
export const fieldFlag: Flag = { value: 'FIELD', help: 'Only this field; may be given several times', many: true };
export const labelFlag: Flag = {
  value: 'NAME=VALUE',
  help: 'Only rows with this label; may be given several times',
  many: true,
};

/** Reads a command's arguments; undefined when help was asked for. @throws UsageError */
export function parse(
  command: Command,
  argv: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): Invocation | undefined {
  const known = { ...command.flags, ...common };
  const options = Object.fromEntries(
    Object.entries(known).map(([name, { value }]) => [
      name,
      { type: value ? ('string' as const) : ('boolean' as const) },
    ]),
  );
  const { tokens } = parseArgs({
    args: withValues(argv, known),
    options,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const flags = new Map<string, string[]>();
  const words: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value);
    if (token.kind !== 'option') continue;
    const flag = Object.hasOwn(known, token.name) ? known[token.name] : undefined;
    if (token.rawName === '-h') return undefined;
    if (flag === undefined)
      throw new UsageError(
        `There is no flag ${token.rawName}. ${suggestion(
          token.rawName,
          Object.keys(known).map((name) => `--${name}`),
        )}`,
      );
    if (flag.value !== undefined && (!token.value || (!token.inlineValue && token.value.startsWith('--'))))
      throw new UsageError(`The flag ${token.rawName} needs a value: ${token.rawName} ${flag.value}.`);
    if (flag.value === undefined && token.value !== undefined)
      throw new UsageError(`The flag ${token.rawName} takes no value.`);
    const values = flags.get(token.name) ?? [];
    if (values.length > 0 && !flag.many) throw new UsageError(`The flag ${token.rawName} is given twice.`);
    flags.set(token.name, [...values, token.value ?? 'true']);
  }
  if (flags.has('help')) return undefined;
  const missing = command.arguments[words.length];
  if (missing !== undefined) throw new UsageError(`${missing} is missing: fleetreel ${command.usage}.`);
  const extra = command.rest === undefined ? words[command.arguments.length] : undefined;
  if (extra !== undefined) throw new UsageError(`"${extra}" is one argument too many: fleetreel ${command.usage}.`);
  const address = flags.get('address')?.[0] ?? (environment.FLEETREEL_ADDRESS || '127.0.0.1:7601');
  if (!/^(?:\[[^\]]+\]|[^:/\s]+):\d{1,5}$/.test(address))
    throw new UsageError(
      `"${address}" is no address of a collector: write it as HOST:PORT, for example 127.0.0.1:7601.`,
    );
  return { arguments: words, flags, address, json: flags.has('json') };
}

/** `--from -1h` as `--from=-1h`: a value may begin with a dash where the flag needs one. */
function withValues(argv: readonly string[], known: Readonly<Record<string, Flag>>): string[] {
  const joined: string[] = [];
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? '';
    const next = argv[index + 1];
    const flag = word.startsWith('--') && Object.hasOwn(known, word.slice(2)) ? known[word.slice(2)] : undefined;
    if (flag?.value !== undefined && next !== undefined && /^-(?!-)/.test(next)) {
      joined.push(`${word}=${next}`);
      index++;
    } else joined.push(word);
  }
  return joined;
}

/** `NAME=VALUE` flags by name. @throws UsageError */
export function labelsOf({ flags }: Invocation): Map<string, string[]> {
  const labels = new Map<string, string[]>();
  for (const text of flags.get('label') ?? []) {
    const [, name, value] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
    if (name === undefined || value === undefined)
      throw new UsageError(`--label ${text} can't be read: write it as NAME=VALUE, for example --label core=total.`);
    labels.set(name, [...(labels.get(name) ?? []), value]);
  }
  return labels;
}

/** What `fleetreel COMMAND --help` prints. */
export function helpOf({ usage, summary, flags }: Command): string {
  const rows = Object.entries({ ...flags, ...common }).map(([name, { value, help }]) => [
    `--${name}${value ? ` ${value}` : ''}`,
    help,
  ]);
  const width = Math.max(...rows.map(([first = '']) => first.length)) + 2;
  return [
    `${summary}.`,
    '',
    `Usage: fleetreel ${usage} [FLAGS]`,
    '',
    ...rows.map(([first = '', second]) => `  ${first.padEnd(width)}${second}`),
  ].join('\n');
}
