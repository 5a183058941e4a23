// The data folder of a local Fleetreel: one launcher at a time, and the passwords of its QuestDB.
import { randomBytes } from 'node:crypto';
import { existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';

/** Something that the user has to settle. The message is one sentence. */
export class LaunchError extends Error {
  override name = 'LaunchError';
  /** What the program ends with. */
  readonly exitCode = 2;
}

/** A process, told from a later one that got its number. */
export type ProcessId = { pid: number; started: string };
type Holder = ProcessId & { guard?: ProcessId };

/** How long a guard of a killed launcher is waited for, milliseconds: it gives its processes five seconds. */
const guardWait = 15_000;

/** The right to use a data folder, until it is given back or this process ends. */
export class FolderLock implements Disposable {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /** @throws LaunchError when another process uses the folder */
  static async take(folder: string): Promise<FolderLock> {
    try {
      makeFolder(folder);
    } catch (cause) {
      throw new LaunchError(`The data folder ${folder} can't be made (${code(cause)}): name another with --data.`, {
        cause,
      });
    }
    const path = join(folder, 'lock');
    const own = `${path}.${process.pid}`;
    try {
      writeFileSync(own, JSON.stringify(identify(process.pid)), { mode: 0o600 });
    } catch (cause) {
      throw new LaunchError(`The data folder ${folder} can't be written (${code(cause)}): name another with --data.`, {
        cause,
      });
    }
    const until = performance.now() + guardWait;
    try {
      for (;;) {
        try {
          // Only one of several can make the link, and the file is whole when it appears.
          linkSync(own, path);
          return new FolderLock(path);
        } catch (error) {
          if (code(error) !== 'EEXIST') throw error;
        }
        const holder = read(path);
        if (holder === 'gone') continue;
        if (holder && lives(holder))
          throw new LaunchError(
            `Fleetreel already runs on ${folder} (process ${holder.pid}): stop it, or name another folder with --data and other ports.`,
          );
        // After each pause it is read again: another who waited may have the folder by now.
        if (holder?.guard && lives(holder.guard) && performance.now() < until) await pause(100);
        else rmSync(path, { force: true });
      }
    } finally {
      rmSync(own, { force: true });
    }
  }

  /** Names the process that ends the others if this one is killed: whoever comes next waits for it. */
  guardedBy(pid: number): void {
    const holder: Holder = { ...identify(process.pid), guard: identify(pid) };
    writeFileSync(`${this.#path}.new`, JSON.stringify(holder), { mode: 0o600 });
    renameSync(`${this.#path}.new`, this.#path);
  }

  [Symbol.dispose](): void {
    rmSync(this.#path, { force: true });
  }
}

export type Credentials = { user: string; password: string; readUser: string; readPassword: string };

/** QuestDB's users with passwords of their own, made at the first start and kept in a file that only this user can read. */
export function credentials(folder: string): Credentials {
  const path = join(folder, 'questdb.json');
  if (existsSync(path)) return JSON.parse(readFileSync(path, 'utf8')) as Credentials;
  const password = () => randomBytes(24).toString('hex');
  const made = { user: 'fleetreel', password: password(), readUser: 'fleetreel_reader', readPassword: password() };
  writeFileSync(path, `${JSON.stringify(made, null, 2)}\n`, { mode: 0o600 });
  return made;
}

function read(path: string): Holder | 'gone' | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as Holder;
  } catch (error) {
    // Cut off by a crash: then nobody holds it.
    return code(error) === 'ENOENT' ? 'gone' : undefined;
  }
}

/** Makes a folder and those above it. Node's own recursive form never ends where a file system refuses with ENOENT. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  try {
    mkdirSync(path, { mode: 0o700 });
  } catch (error) {
    if (code(error) !== 'EEXIST') throw error;
  }
}

export const identify = (pid: number): ProcessId => ({ pid, started: startOf(pid) });

export function lives({ pid, started }: ProcessId): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if (code(error) !== 'EPERM') return false;
  }
  return startOf(pid) === started;
}

/** When a process was started, in the kernel's own count; empty where the kernel doesn't say. */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    // A zombie has ended, though its number is still taken.
    return fields[0] === 'Z' ? 'ended' : (fields[19] ?? '');
  } catch {
    return '';
  }
}

const code = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);
