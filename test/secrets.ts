// Looks for secrets where they may not be: in what programs wrote, and in the list of processes.
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join, relative } from 'node:path';

/** Where a secret was found: a file, a line that a program wrote, or the arguments of a process. Never the secret itself. */
export type Leak = string;

/**
 * Files below a folder that hold one of the secrets, in UTF-8. Such files as only their owner can read are left out where they are
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

/** Programs that wrote one of the secrets. */
export function leaksInLines(
  programs: readonly { name: string; lines: readonly string[] }[],
  secrets: ReadonlySet<string>,
): Leak[] {
  return programs.flatMap(({ name, lines }) => {
    const text = lines.join('\n');
    return [...secrets].some((secret) => text.includes(secret)) ? [`${name} has written a secret`] : [];
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

/** What is read of a file at a time, bytes. */
const pieceBytes = 4 * 1024 ** 2;

/** Whether a file has one of them: read in pieces that overlap. */
async function holds(path: string, secrets: ReadonlySet<string>): Promise<boolean> {
  const wanted = [...secrets].map((secret) => Buffer.from(secret));
  const overlap = Math.max(0, ...wanted.map(({ length }) => length - 1));
  let before: Buffer = Buffer.alloc(0);
  try {
    if ((await stat(path)).size <= pieceBytes) {
      const text = await readFile(path);
      return wanted.some((secret) => text.includes(secret));
    }
    for await (const piece of createReadStream(path, { highWaterMark: pieceBytes }) as AsyncIterable<Buffer>) {
      const text = Buffer.concat([before, piece]);
      if (wanted.some((secret) => text.includes(secret))) return true;
      before = text.subarray(Math.max(0, text.length - overlap));
    }
  } catch (cause) {
    // Servers remove files of their own while they run.
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
  }
  return false;
}
