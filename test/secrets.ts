// Looks for secrets where they may not be: in what programs and servers wrote, in answers that are errors, and in the list of processes.
import { type FileHandle, open, readdir, readFile, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';

/** Where a secret was found: a file, a line that a program wrote, or the arguments of a process. Never the secret itself. */
export type Leak = string;

/**
 * What is a secret by its form, whoever made it: keys, sessions and links (`access/secret.ts`), seeds of NATS, private keys of TLS.
 * A fixed text of each comes first, since that is found fast.
 */
const forms: readonly (readonly [begin: string, form: RegExp])[] = [
  ['frk_', /frk_[0-9a-f]{16}_[\w-]{43}/g],
  ['frs_', /frs_[0-9a-f]{16}_[\w-]{43}/g],
  ['frl_', /frl_[0-9a-f]{16}_[\w-]{43}/g],
  ...['SU', 'SA', 'SO'].map(
    (begin) => [begin, new RegExp(`(?<![A-Z0-9])${begin}[A-Z2-7]{56}(?![A-Z0-9])`, 'g')] as const,
  ),
  ['PRIVATE KEY-----', /-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+[\w+/=]{20,}/g],
];

/** Secrets by their form in a text. */
export const secretsIn = (text: string): string[] =>
  forms.flatMap(([begin, form]) => (text.includes(begin) ? [...text.matchAll(form)].map(([found]) => found) : []));

const isIn = (text: string, secrets: ReadonlySet<string>): boolean =>
  [...secrets].some((secret) => text.includes(secret)) || secretsIn(text).length > 0;

/**
 * Files below a folder that hold one of the secrets, in UTF-8, or what is one by its form. Such files as only their owner can read are left out where they are
 * there to hold a secret.
 * @param isMeant whether a file, by its path within the folder, is there for that
 */
export async function leaksInFolder(
  folder: string,
  secrets: ReadonlySet<string>,
  isMeant: (path: string) => boolean = () => false,
): Promise<Leak[]> {
  const leaks: Leak[] = [];
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => []);
  for (const entry of entries) {
    const path = join(entry.parentPath, entry.name);
    if (!entry.isFile()) continue;
    const own = relative(folder, path);
    if (isMeant(own)) {
      const { mode } = await stat(path);
      if ((mode & 0o077) !== 0) leaks.push(`${own} is there to hold a secret, and others can read it`);
    } else if (await holds(path, secrets)) leaks.push(`a secret is in the file ${own}`);
  }
  return leaks;
}

/** Programs that wrote one of the secrets, or what is one by its form. */
export function leaksInLines(
  programs: readonly { name: string; lines: readonly string[] }[],
  secrets: ReadonlySet<string>,
): Leak[] {
  return programs.flatMap(({ name, lines }) => {
    return isIn(lines.join('\n'), secrets) ? [`${name} has written a secret`] : [];
  });
}

/** Processes of this machine that have one of the secrets among their arguments. */
export async function leaksInProcesses(secrets: ReadonlySet<string>): Promise<Leak[]> {
  const leaks: Leak[] = [];
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    // It may end meanwhile.
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if ([...secrets].some((secret) => line.includes(secret)))
      leaks.push(`a secret is among the arguments of ${line.split('\0')[0]} (process ${pid})`);
  }
  return leaks;
}

/** What is read of a file at a time, bytes, and how much of the piece before is looked at again. */
const pieceBytes = 1024 ** 2;
const overlapBytes = 4096;
const zeros = Buffer.alloc(pieceBytes);

/** Whether a file has one of them: read in pieces that overlap. */
async function holds(path: string, secrets: ReadonlySet<string>): Promise<boolean> {
  let file: FileHandle | undefined;
  try {
    file = await open(path);
    const buffer = Buffer.allocUnsafe(overlapBytes + pieceBytes);
    let kept = 0;
    for (;;) {
      const { bytesRead } = await file.read(buffer, kept, pieceBytes, null);
      if (bytesRead === 0) return false;
      const end = kept + bytesRead;
      // Databases keep room in their files, and that is most of them.
      if (buffer.compare(zeros, 0, bytesRead, kept, end) === 0) kept = 0;
      else {
        // One character a byte, the secrets too.
        const text = buffer.toString('latin1', 0, end);
        for (const secret of secrets) if (text.includes(Buffer.from(secret).toString('latin1'))) return true;
        if (secretsIn(text).length > 0) return true;
        kept = Math.min(overlapBytes, end);
        buffer.copy(buffer, 0, end - kept, end);
      }
    }
  } catch (cause) {
    // Servers remove files of their own while they run.
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
    return false;
  } finally {
    await file?.close();
  }
}

/** Files that are there to hold secrets: QuestDB's configuration, credentials and keys. */
export const isForSecrets = (path: string): boolean =>
  /(?:^|\/)(?:server\.conf|issuer\.json|[^/]*\.(?:creds|nk|key|pem))$/.test(path);

/** Variables of the environment that are secrets: those of the settings that are marked so, and a client's key. */
const isSecretVariable = (name: string): boolean => /(?:PASSWORD|_KEY|_CODE|_TOKEN|^KEY)$/.test(name);

/** Characters of a secret that is looked for. */
const shortest = 10;

/**
 * What has come to be in one test file: its secrets, and where they may not be. Servers, programs and the whole stack tell it what they
 * start, write and keep; `watch_secrets.ts` lets the file fail by what is found.
 */
export class Watch {
  readonly #secrets = new Set<string>();
  readonly #leaks = new Set<Leak>();
  readonly #programs: { name: string; lines: readonly string[] }[] = [];

  /** Texts that are secrets. Those so short that they may be anywhere by chance are left out. */
  add(...secrets: readonly string[]): void {
    for (const secret of secrets) if (secret.length >= shortest) this.#secrets.add(secret);
  }

  /** The secrets by their form, the tokens of NATS users and the codes that are in a text. */
  learn(text: string): void {
    this.add(...secretsIn(text));
    for (const [, code = ''] of text.matchAll(/"code":"([\w.-]+:[\w-]{27})"/g)) this.add(code);
    for (const [jwt] of text.matchAll(/eyJ[\w-]{20,}\.[\w-]{100,}\.[\w-]{80,}/g)) this.add(jwt);
  }

  /**
   * A program begins: what it is started with is looked at, what it writes when it is over.
   * @param shows whether it is there to show a secret: a command that makes one
   */
  program(
    name: string,
    given: { args: readonly string[]; environment?: Readonly<Record<string, string | undefined>>; shows?: boolean },
    lines: readonly string[],
  ): void {
    const { args, environment = {}, shows = false } = given;
    for (const [variable, value = ''] of Object.entries(environment))
      if (isSecretVariable(variable) && !value.includes('/')) this.add(value);
    if (args.some((arg) => isIn(arg, this.#secrets))) this.#leaks.add(`a secret is among the arguments of ${name}`);
    if (!shows) this.#programs.push({ name: `${name} ${args.join(' ')}`.slice(0, 100), lines });
  }

  /** A folder is given up. */
  async folder(folder: string): Promise<void> {
    for (const leak of await leaksInFolder(folder, this.#secrets, isForSecrets)) this.#leaks.add(leak);
  }

  /** Something that is told to whoever asks, such as an answer that is an error. */
  told(what: string, text: string): void {
    if (isIn(text, this.#secrets)) this.#leaks.add(`a secret is in ${what}`);
  }

  async processes(): Promise<void> {
    for (const leak of await leaksInProcesses(this.#secrets)) this.#leaks.add(leak);
  }

  /** All that was found, at the end. */
  leaks(): Leak[] {
    // Where the first admin is told how to come in, the log is the place for it.
    const written = this.#programs.map(({ name, lines }) => ({
      name,
      lines: lines.map((line) => line.replace(/\/welcome#frl_[\w-]+/g, '')),
    }));
    return [...this.#leaks, ...leaksInLines(written, this.#secrets)];
  }
}

/** Answers that are a secret's one occasion to be seen. */
const making = /\/api\/v1\/(?:login|link|keys|users|enrol|me\b)/;

/** A `fetch` beside which somebody watches: what comes to be is learnt, and answers that are errors are looked through. */
export function watchedFetch(ask: typeof fetch, watch: Watch): typeof fetch {
  return async (input, init) => {
    const answer = await ask(input, init);
    const { pathname } = new URL(input instanceof Request ? input.url : input);
    const read = (take: (text: string) => void) => {
      // Who asked may leave it unread, and what breaks off is his to see.
      void answer
        .clone()
        .text()
        .then(take, () => undefined);
    };
    if (answer.status >= 400)
      read((text) => watch.told(`the answer ${answer.status} of ${init?.method ?? 'GET'} ${pathname}`, text));
    else if (making.test(pathname)) {
      watch.learn(answer.headers.getSetCookie().join('\n'));
      if (typeof init?.body === 'string')
        for (const [, given = ''] of init.body.matchAll(/"(?:password|newPassword)":"([^"\\]+)"/g)) watch.add(given);
      read((text) => watch.learn(text));
    }
    return answer;
  };
}

/** That of the test file that runs. */
export const watch = new Watch();
