import { closeSync, openSync, read } from 'node:fs';
import { join } from 'node:path';
import { commandBytesMax, commandMilliseconds, commandReadsMax } from '#limits.ts';

/**
 * Reads command lines from /proc/<pid>/cmdline. For that the kernel waits until the process's memory is not being changed,
 * which is forever where one of its threads hangs meanwhile: so this is done away from the main thread, by few at a time,
 * and given up where it does not answer.
 */
export class CommandReader {
  readonly #proc: string;
  /** Reads under way, those that hang among them: each takes a thread of Node's pool, of which there are four. */
  #underWay = 0;
  readonly #waiting: (() => void)[] = [];
  /** Reads that have been given up and not come back. */
  hanging = 0;

  constructor(proc: string) {
    this.#proc = proc;
  }

  /** The words of a process's command line; none where it has none or it can't be read, undefined where that hangs. */
  async words(pid: number): Promise<string[] | undefined> {
    while (this.#underWay >= commandReadsMax) {
      if (this.hanging >= commandReadsMax) return undefined;
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#underWay++;
    let isOver = false;
    const reading = this.#read(pid).finally(() => {
      this.#underWay--;
      if (isOver) this.hanging--;
      this.#next();
    });
    const words = await withinTime(reading, commandMilliseconds);
    if (words !== undefined) return words;
    isOver = true;
    this.hanging++;
    // Whoever waits for a turn that does not come learns so.
    if (this.hanging >= commandReadsMax) for (const wake of this.#waiting.splice(0)) wake();
    return undefined;
  }

  #next(): void {
    this.#waiting.shift()?.();
  }

  #read(pid: number): Promise<string[]> {
    return new Promise((resolve) => {
      let descriptor: number;
      try {
        descriptor = openSync(join(this.#proc, String(pid), 'cmdline'), 'r');
      } catch {
        resolve([]);
        return;
      }
      // A buffer of its own: a read that was given up may still come back.
      const buffer = Buffer.allocUnsafe(commandBytesMax);
      read(descriptor, buffer, 0, buffer.length, null, (error, length) => {
        closeSync(descriptor);
        resolve(error ? [] : splitCommand(buffer.toString('utf8', 0, length)));
      });
    });
  }
}

/** What the work gives, or undefined when it takes longer. */
function withinTime<T>(work: Promise<T>, milliseconds: number): Promise<T | undefined> {
  return new Promise((resolve, reject) => {
    const deadline = setTimeout(() => resolve(undefined), milliseconds);
    work.then(resolve, reject).finally(() => clearTimeout(deadline));
  });
}

/** The words of a command line as the kernel gives it: each ends with NUL; what a program has written over it may not. */
export function splitCommand(text: string): string[] {
  if (text === '') return [];
  return (text.endsWith('\0') ? text.slice(0, -1) : text).split('\0');
}

/** What stands for a secret. */
const hidden = '***';

/** Words in the names of options and variables whose value is a secret. */
const secretWord =
  /pass(?!ive|enger|through)|pwd|secret|token|api.?key|access.?key|private.?key|(?:^|[-_.])key$|(?:^|[-_.])auth$|authorization|credential|cookie|bearer|jwt|signature|connection.?string/i;

/** Programs that take a secret by a short option: that option, with its value attached or behind it. */
const shortOptions: Readonly<Record<string, readonly string[]>> = {
  '7z': ['-p'],
  '7za': ['-p'],
  curl: ['-u', '-U', '-E', '-b'],
  docker: ['-p'],
  helm: ['-p'],
  ldapadd: ['-w'],
  ldapmodify: ['-w'],
  ldapsearch: ['-w'],
  mariadb: ['-p'],
  'mariadb-admin': ['-p'],
  'mariadb-dump': ['-p'],
  mongo: ['-p'],
  mongodump: ['-p'],
  mongoexport: ['-p'],
  mongorestore: ['-p'],
  mongosh: ['-p'],
  mosquitto_pub: ['-P'],
  mosquitto_sub: ['-P'],
  mysql: ['-p'],
  mysqladmin: ['-p'],
  mysqldump: ['-p'],
  nerdctl: ['-p'],
  podman: ['-p'],
  rar: ['-p', '-hp'],
  'redis-cli': ['-a'],
  rabbitmqadmin: ['-p'],
  rpcclient: ['-U'],
  smbclient: ['-U'],
  snmpget: ['-c', '-A', '-X'],
  snmpwalk: ['-c', '-A', '-X'],
  sqlcmd: ['-P'],
  sshpass: ['-p'],
  unrar: ['-p'],
  unzip: ['-P'],
  'valkey-cli': ['-a'],
  xfreerdp: ['/p'],
  zip: ['-P'],
};

/** Of `docker` and the like only `login` has a password there; elsewhere it is a port. */
const onlyAtLogin = new Set(['docker', 'podman', 'nerdctl', 'helm']);

/** Secrets that are known by their look. */
const looks =
  /\b(?:gh[opsur]_[A-Za-z0-9]{20,255}|github_pat_\w{20,255}|glpat-[\w-]{16,255}|sk-[\w-]{16,255}|hf_[A-Za-z0-9]{16,255}|xox[a-z]-[\w-]{10,255}|A[KS]IA[A-Z0-9]{12,32}|AIza[\w-]{30,64}|npm_[A-Za-z0-9]{20,255}|ey[JK][\w-]{8,2000}\.[\w-]{4,2000}(?:\.[\w-]{0,2000})?)/g;

/** User and password, or a token, in an address. */
const inAddress = /([a-z][a-z0-9+.-]{0,30}:\/\/)[^\s/?#'"]{1,4096}@/gi;

/** A name and its value in one word: `--token=x`, `PASSWORD=x`, `"secret":"x"`, `password:x`, `?api_key=x`. */
const assigned = /(["']?)([A-Za-z][\w.-]{0,63})\1([=:]{1,2}) ?(["'])?/g;

/**
 * A command line for people, its words separated by spaces, with what looks like a secret left out: passwords, tokens and
 * keys by the names of their options, variables and headers, by short options of programs that are known for them, in
 * addresses, and by their look. A secret that nothing gives away stays.
 */
export const redacted = (words: readonly string[]): string => withoutSecretWords(words, false);

function withoutSecretWords(words: readonly string[], isNested: boolean): string {
  const shown: string[] = [];
  let short: readonly string[] = [];
  let hideNext = false;
  for (const [index, word] of words.entries()) {
    // An option that turned out to be a switch is followed by the next option.
    const hide = hideNext && !/^--?[a-z]/i.test(word);
    hideNext = false;
    if (hide) {
      shown.push(hidden);
      continue;
    }
    // A command within a word, as of a shell: the same once more.
    if (index > 0 && !isNested && /\s/.test(word) && !isHeader(word)) {
      shown.push(withoutSecretWords(shellWords(word), true));
      continue;
    }
    const attached = short.find((option) => word.startsWith(option));
    if (attached !== undefined) {
      hideNext = word === attached;
      shown.push(hideNext ? word : attached + hidden);
      continue;
    }
    // Also behind sudo, env and the like.
    short = shortOptionsOf(word, words) ?? short;
    hideNext =
      (/^(?:--?|\/)[a-z][\w.-]*$/i.test(word) && secretWord.test(word)) ||
      /^(?:bearer|basic)$/i.test(word) ||
      (/^[^\w-]{0,3}[\w.-]+["']?[:=]$/.test(word) && secretWord.test(word.replace(/[^\w.-]/g, '')));
    shown.push(withoutSecrets(word));
  }
  return shown.join(' ');
}

/** The options of a program; undefined where the word is none that is known. */
function shortOptionsOf(word: string, words: readonly string[]): readonly string[] | undefined {
  const program = word.slice(Math.max(word.lastIndexOf('/'), word.lastIndexOf('\\')) + 1);
  if (!Object.hasOwn(shortOptions, program)) return undefined;
  return onlyAtLogin.has(program) && !words.includes('login') ? [] : shortOptions[program];
}

/** A header of HTTP in one word, such as `Authorization: Bearer x`. */
const isHeader = (word: string): boolean => {
  const name = /^([A-Za-z][\w-]{0,63}):\s/.exec(word)?.[1];
  return name !== undefined && secretWord.test(name);
};

function withoutSecrets(word: string): string {
  if (isHeader(word)) return `${word.slice(0, word.indexOf(':') + 1)} ${hidden}`;
  const text = word.replace(inAddress, `$1${hidden}@`).replace(looks, hidden);
  let result = '';
  let from = 0;
  assigned.lastIndex = 0;
  for (let found = assigned.exec(text); found; found = assigned.exec(text)) {
    const [all, , name = '', , quote] = found;
    if (!secretWord.test(name)) {
      // What follows may be a name, too: {"a":{"token":"x"}}.
      continue;
    }
    const start = found.index + all.length;
    const end = endOfValue(text, start, quote);
    // An address has no secret behind its colon: `token://`.
    if (text.startsWith('//', start)) continue;
    result += `${text.slice(from, start)}${end > start ? hidden : ''}`;
    from = end;
    assigned.lastIndex = Math.max(end, start);
  }
  return result + text.slice(from);
}

/** Where a value ends: at its closing quote, or without quotes where the next one of an address or an object begins. */
function endOfValue(text: string, start: number, quote: string | undefined): number {
  if (quote !== undefined) {
    const end = text.indexOf(quote, start);
    return end < 0 ? text.length : end;
  }
  const rest = text.slice(start).search(/[&;"'}]/);
  return rest < 0 ? text.length : start + rest;
}

/** Splits a text as a shell would, but keeps quoted spaces within their word, with the quotes. */
function shellWords(text: string): string[] {
  const words: string[] = [];
  let word = '';
  let quote = '';
  for (const character of text) {
    if (quote !== '') {
      if (character === quote) quote = '';
      word += character;
    } else if (/\s/.test(character)) {
      if (word !== '') words.push(word);
      word = '';
    } else {
      if (character === '"' || character === "'") quote = character;
      word += character;
    }
  }
  if (word !== '') words.push(word);
  return words;
}
