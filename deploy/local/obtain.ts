// Finding programs on this machine, and the folder where fetched ones are kept.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { accessSync, chmodSync, constants, createReadStream, mkdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import { extract } from 'tar';
import { Child, describeExit } from '#local/child.ts';

export { cacheFolder } from '#local/running.ts';

/** What is looked at on this machine; a test gives its own. */
export type Machine = {
  env: Readonly<Record<string, string | undefined>>;
  home: string;
  /** Whether this process may install packages. */
  root: boolean;
  /** Says something to the user, in one line. */
  report: (line: string) => void;
  /** Fetches from elsewhere; absent means `fetch`. */
  download?: (url: string, signal: AbortSignal) => Promise<Response>;
  /** Breaks off what takes long. */
  signal?: AbortSignal | undefined;
};

export const thisMachine = (report: Machine['report'] = () => {}, signal?: AbortSignal): Machine => ({
  env: process.env,
  home: homedir(),
  root: process.getuid?.() === 0,
  report,
  signal,
});

/** Something needed is not on this machine and can't be got. The message is for the user: what was tried, what helps. */
export class Missing extends Error {
  override name = 'Missing';
  /** What the program ends with. */
  readonly exitCode = 2;
  /** The packages of Debian and Ubuntu that would bring it; none where they are too old. */
  readonly packages: readonly string[];

  constructor(message: string, packages: readonly string[]) {
    super(message);
    this.packages = packages;
  }
}

/** A program that was run for a step has failed. The message ends with its last lines. */
export class StepFailed extends Error {
  override name = 'StepFailed';
  /** What the program ends with. */
  readonly exitCode = 1;
}

/** The first executable of this name on PATH or in one of the other folders. */
export function findProgram(name: string, machine: Machine, otherFolders: readonly string[] = []): string | undefined {
  const folders = [...(machine.env.PATH ?? '').split(delimiter).filter(Boolean), ...otherFolders];
  return folders.map((folder) => join(folder, process.platform === 'win32' ? `${name}.exe` : name)).find(isExecutable);
}

export function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return statSync(path).isFile();
  } catch {
    return false;
  }
}

/** The first version number that a program prints, as numbers; undefined when it prints none or can't be run. */
export async function versionOf(path: string, argument: string): Promise<readonly number[] | undefined> {
  try {
    const { stdout, stderr } = await promisify(execFile)(path, [argument], { timeout: 20_000 });
    const found = /(\d+)(?:\.(\d+))?(?:\.(\d+))?/.exec(stdout + stderr);
    return found?.slice(1).map((part) => Number(part ?? 0));
  } catch {
    return undefined;
  }
}

export function isAtLeast(version: readonly number[], oldest: readonly number[]): boolean {
  for (const [index, part] of oldest.entries()) {
    const own = version[index] ?? 0;
    if (own !== part) return own > part;
  }
  return true;
}

/** Runs a long step, saying now and then that it still runs. @throws StepFailed */
export async function longStep(
  what: string,
  [command, ...args]: readonly [string, ...string[]],
  machine: Machine,
  { env, cwd }: { env?: Readonly<Record<string, string>>; cwd?: string } = {},
): Promise<void> {
  const begun = performance.now();
  const seconds = () => Math.round((performance.now() - begun) / 1000);
  machine.signal?.throwIfAborted();
  machine.report(`${what} ...`);
  const child = await Child.start({ name: command, command, args, cwd, env: { ...machine.env, ...env } });
  const stop = () => void child.stop();
  machine.signal?.addEventListener('abort', stop, { once: true });
  const timer = setInterval(() => machine.report(`${what} ... ${seconds()} s`), 10_000);
  try {
    const exit = await child.exited;
    machine.signal?.throwIfAborted();
    if (exit.code !== 0) throw new StepFailed(`${what} failed (${describeExit(exit)}):\n${child.lastLines.join('\n')}`);
    machine.report(`${what}: done in ${seconds()} s`);
  } finally {
    clearInterval(timer);
    machine.signal?.removeEventListener('abort', stop);
  }
}

/**
 * Finds something. As root on Debian or Ubuntu the packages that are missing for it are installed, after saying so;
 * for other users the message names the command.
 * @throws Missing
 */
export async function withRemedy<T>(
  find: () => Promise<T>,
  machine: Machine,
  installed: readonly string[] = [],
): Promise<T> {
  try {
    return await find();
  } catch (error) {
    const apt = findProgram('apt-get', machine);
    if (!(error instanceof Missing) || apt === undefined) throw error;
    const packages = error.packages.filter((name) => !installed.includes(name));
    if (packages.length === 0) throw error;
    const command = `apt-get install -y ${packages.join(' ')}`;
    if (!machine.root) throw new Missing(`${error.message} This helps: sudo ${command}`, packages);
    machine.report(`${error.message} Installing it: ${command}`);
    const quiet = { env: { DEBIAN_FRONTEND: 'noninteractive' } };
    await longStep('Reading the list of packages', [apt, 'update', '-qq'], machine, quiet);
    await longStep(`Installing ${packages.join(', ')}`, [apt, 'install', '-y', '-qq', ...packages], machine, quiet);
    return await withRemedy(find, machine, [...installed, ...packages]);
  }
}

/** How long a download may take, milliseconds. */
const downloadTime = 300_000;

/**
 * Fetches an archive, checks it, and puts one file of it in place, executable.
 * @throws Error when it can't be fetched or is not what it has to be; nothing is kept then
 */
export async function fetchArchive(
  { url, checksum, member }: { url: string; checksum: string; member: string },
  target: string,
  machine: Machine,
): Promise<void> {
  const limit = AbortSignal.timeout(downloadTime);
  const signal = machine.signal ? AbortSignal.any([machine.signal, limit]) : limit;
  machine.report(`Fetching ${url} ...`);
  const response = await (machine.download ?? ((address, until) => fetch(address, { signal: until })))(url, signal);
  if (!response.ok) throw new Error(`${url} answered ${response.status}`);
  const archive = Buffer.from(await response.arrayBuffer());
  const found = createHash('sha256').update(archive).digest('hex');
  if (found !== checksum) throw new Error(`it has the SHA-256 ${found} and not ${checksum}`);
  const folder = `${target}.${process.pid}`;
  mkdirSync(folder, { recursive: true });
  try {
    await pipeline(Readable.from([archive]), extract({ cwd: folder, strict: true }, [member]));
    chmodSync(join(folder, member), 0o755);
    renameSync(join(folder, member), target);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** SHA-256 of a file, in hexadecimal. */
export async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}
