import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { output, removeFolder, requireForEngine, rootFileSystem } from './container_image.ts';
import { image } from './docker.ts';

/** A Podman of its own: socket, data and state are in one folder, which is removed with it. Its containers have no network. */
export class PodmanEngine implements AsyncDisposable {
  readonly name = 'podman';
  readonly socket: string;
  /** What `run` needs here besides its own options: the default limits are above those that a container of tests may set. */
  readonly runOptions: readonly string[] = ['--ulimit', 'nofile=1024:1024', '--ulimit', 'nproc=1000:1000'];
  readonly #folder: string;
  readonly #options: readonly string[];
  #child: Child | undefined;

  constructor(folder: string) {
    this.#folder = folder;
    this.socket = join(folder, 'podman.sock');
    const folders = ['--root', join(folder, 'root'), '--runroot', join(folder, 'run'), '--tmpdir', join(folder, 'tmp')];
    const managers = ['--storage-driver', 'vfs', '--events-backend', 'file', '--cgroup-manager', 'cgroupfs'];
    // The default, crun, does not run where cgroups v1 and v2 are both mounted.
    this.#options = [...folders, ...managers, '--runtime', 'runc'];
  }

  get pid(): number {
    if (!this.#child || this.#child.ended) throw new Error('This Podman service does not run.');
    return this.#child.pid;
  }

  /** Runs the client; returns what it writes. @throws Error when it fails */
  async command(...args: string[]): Promise<string> {
    // A container that runs out of memory leaves a file in the folder from which it was started.
    return await output('podman', [...this.#options, ...args], { cwd: this.#folder });
  }

  /** Starts a container in the background; returns its id. */
  async run(options: readonly string[], ...command: string[]): Promise<string> {
    return await this.command('run', '--detach', ...this.runOptions, ...options, image, ...command);
  }

  /** Ends containers at once, and removes them. */
  async remove(...ids: string[]): Promise<void> {
    await this.command('rm', '--force', '--time', '0', ...ids);
  }

  async start(): Promise<void> {
    const service = ['system', 'service', '--time=0', `unix://${this.socket}`];
    this.#child = await Child.start({ name: 'podman', command: 'podman', args: [...this.#options, ...service] });
    await this.#child.untilReady(() => this.#answers(), 60_000);
  }

  /** Stops the service; containers go on without it. */
  async stop(): Promise<void> {
    await this.#child?.stop(20_000);
  }

  /** Ends the service as a crash would; containers go on without it. */
  async kill(): Promise<void> {
    await this.#child?.kill();
  }

  /** Stops it from answering while its connections stay open. */
  freeze(): void {
    process.kill(this.pid, 'SIGSTOP');
  }

  thaw(): void {
    process.kill(this.pid, 'SIGCONT');
  }

  async #answers(): Promise<boolean> {
    return await output('podman', ['--remote', '--url', `unix://${this.socket}`, 'version']).then(
      () => true,
      () => false,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.command('rm', '--force', '--all', '--time', '0');
    } finally {
      await this.stop();
      await removeFolder(this.#folder);
    }
  }
}

/** @throws Error that says what is missing on this machine */
export async function startPodman(): Promise<PodmanEngine> {
  requireForEngine('Podman', ['podman', 'conmon', 'runc', 'tar']);
  const folder = mkdtempSync(join(tmpdir(), 'fr-podman-'));
  const engine = new PodmanEngine(folder);
  try {
    await engine.start();
    await engine.command('import', await rootFileSystem(folder), image);
  } catch (error) {
    await engine[Symbol.asyncDispose]().catch(() => undefined);
    throw error;
  }
  return engine;
}
