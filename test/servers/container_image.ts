import { execFile } from 'node:child_process';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';

/** Runs a program and returns what it writes, without the end of the last line. */
export async function output(
  command: string,
  args: readonly string[],
  { cwd }: { cwd?: string } = {},
): Promise<string> {
  const { stdout } = await promisify(execFile)(command, args, {
    timeout: 60_000,
    cwd,
    maxBuffer: 16 * 1024 * 1024,
    encoding: 'utf8',
    env: { ...process.env, LC_ALL: 'C' },
  });
  return stdout.trimEnd();
}

/** Whatever has to be here before an engine can be started. @throws Error that says what is missing */
export function requireForEngine(engine: string, programs: readonly string[]): void {
  if (process.getuid?.() !== 0) throw new Error(`${engine} is started by these tests as root only.`);
  const folders = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
  const missing = programs.filter((program) => !folders.some((folder) => existsSync(join(folder, program))));
  if (missing.length > 0)
    throw new Error(`${engine} can't be started: ${missing.join(', ')} is missing (see the packages in .ci/run).`);
}

/** Makes the archive of a root file system with nothing but a static busybox, which engines import as an image. */
export async function rootFileSystem(folder: string): Promise<string> {
  const busybox = ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path));
  if (busybox === undefined) throw new Error('busybox is missing: install the package busybox-static.');
  const root = join(folder, 'rootfs');
  for (const name of ['bin', 'dev', 'etc', 'proc', 'sys', 'tmp']) mkdirSync(join(root, name), { recursive: true });
  copyFileSync(busybox, join(root, 'bin', 'busybox'));
  chmodSync(join(root, 'bin', 'busybox'), 0o755);
  for (const name of [
    'sh',
    'sleep',
    'echo',
    'cat',
    'dd',
    'true',
    'false',
    'head',
    'tail',
    'nc',
    'ip',
    'ls',
    'rm',
    'sync',
  ])
    symlinkSync('busybox', join(root, 'bin', name));
  const archive = join(folder, 'image.tar');
  await output('tar', ['-C', root, '-cf', archive, '.']);
  rmSync(root, { recursive: true });
  return archive;
}

/** Removes a folder of an engine that has ended, with what is still mounted below it. */
export async function removeFolder(folder: string): Promise<void> {
  const mounted = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '')
    .filter((path) => path.startsWith(`${folder}/`))
    .reverse();
  for (const path of mounted) await output('umount', ['-l', path]).catch(() => undefined);
  rmSync(folder, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
}
