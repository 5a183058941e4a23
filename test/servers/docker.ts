import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { output, removeFolder, requireForEngine, rootFileSystem } from './container_image.ts';

/** An image that every engine of the tests has: a busybox and nothing else. */
export const image = 'fleetreel/box:1';

/**
 * A Docker Engine of its own: socket, data and state are in one folder, which is removed with it. Its containers have the
 * host's network or none.
 */
export class DockerEngine implements AsyncDisposable {
  readonly name = 'docker';
  readonly socket: string;
  /** What `run` needs here besides its own options. */
  readonly runOptions: readonly string[] = [];
  readonly #folder: string;
  #child: Child | undefined;

  constructor(folder: string) {
    this.#folder = folder;
    this.socket = join(folder, 'docker.sock');
  }

  /** Where its own containerd listens. */
  get containerdSocket(): string {
    return join(this.#folder, 'exec', 'containerd', 'containerd.sock');
  }

  get pid(): number {
    if (!this.#child || this.#child.ended) throw new Error('This Docker Engine does not run.');
    return this.#child.pid;
  }

  /** Runs the client; returns what it writes. @throws Error when it fails */
  async command(...args: string[]): Promise<string> {
    return await output('docker', ['--host', `unix://${this.socket}`, ...args]);
  }

  /** Starts a container in the background; returns its id. */
  async run(options: readonly string[], ...command: string[]): Promise<string> {
    return await this.command('run', '--detach', ...this.runOptions, ...options, image, ...command);
  }

  /** Ends containers at once, and removes them. */
  async remove(...ids: string[]): Promise<void> {
    await this.command('rm', '--force', ...ids);
  }

  async start(): Promise<void> {
    const folder = this.#folder;
    const folders = ['--data-root', join(folder, 'data'), '--exec-root', join(folder, 'exec')];
    const state = ['--host', `unix://${this.socket}`, '--pidfile', join(folder, 'pid'), ...folders];
    this.#child = await Child.start({
      name: 'dockerd',
      command: 'dockerd',
      args: [...state, '--iptables=false', '--bridge=none', '--storage-driver=vfs'],
    });
    await this.#child.untilReady(() => this.#answers(), 60_000);
  }

  /** Stops the engine, and with it its containers. */
  async stop(): Promise<void> {
    await this.#child?.stop(20_000);
  }

  /** Ends the engine as a crash would; its containers go on until it is started again. */
  async kill(): Promise<void> {
    await this.#child?.kill();
    // Its containerd has died with it. Where nobody takes note of that, its number still looks alive to the next engine, which
    // would wait for it.
    rmSync(join(this.#folder, 'exec', 'containerd', 'containerd.pid'), { force: true });
  }

  /** Stops it from answering while its connections stay open. */
  freeze(): void {
    process.kill(this.pid, 'SIGSTOP');
  }

  thaw(): void {
    process.kill(this.pid, 'SIGCONT');
  }

  async #answers(): Promise<boolean> {
    return await this.command('version').then(
      () => true,
      () => false,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#child?.ended) await this.start();
      const ids = (await this.command('ps', '--all', '--quiet')).split('\n').filter((id) => id !== '');
      if (ids.length > 0) await this.command('rm', '--force', ...ids);
    } finally {
      await this.stop();
      await removeFolder(this.#folder);
    }
  }
}

/** @throws Error that says what is missing on this machine */
export async function startDocker(): Promise<DockerEngine> {
  requireForEngine('Docker Engine', ['dockerd', 'docker', 'containerd', 'runc', 'tar']);
  // Sockets are below it, and their paths must be short.
  const folder = mkdtempSync(join(tmpdir(), 'fr-docker-'));
  const engine = new DockerEngine(folder);
  try {
    await engine.start();
    await engine.command('import', await rootFileSystem(folder), image);
  } catch (error) {
    await engine[Symbol.asyncDispose]().catch(() => undefined);
    throw error;
  }
  return engine;
}
