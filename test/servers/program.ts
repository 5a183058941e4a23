import { join } from 'node:path';
import { Child, type Exit } from '@fleetreel/deploy/local/child';
import { watch } from '../secrets.ts';

export { freePort } from '@fleetreel/deploy/local/port';

const root = join(import.meta.dirname, '..', '..');

/** A program of ours, as a user starts it. */
export class Program implements AsyncDisposable {
  readonly pid: number;
  /** What it has written so far, to stdout and stderr, line by line. */
  readonly lines: readonly string[];
  readonly exited: Promise<Exit>;
  readonly #child: Child;

  constructor(child: Child, lines: readonly string[]) {
    this.#child = child;
    this.pid = child.pid;
    this.exited = child.exited;
    this.lines = lines;
  }

  /** Waits for a line that matches. @throws Error when it ends before, or takes longer. */
  async line(pattern: RegExp, milliseconds = 30_000): Promise<string> {
    const found = () => this.lines.find((line) => pattern.test(line));
    await this.#child.untilReady(async () => found() !== undefined, milliseconds);
    return found() ?? '';
  }

  /** Asks it to end, and kills it when it hasn't after 10 s. */
  async stop(): Promise<Exit> {
    return await this.#child.stop(10_000);
  }

  /** Ends it as a crash would. */
  async kill(): Promise<Exit> {
    return await this.#child.kill();
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.signal(signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/**
 * Starts a program of ours under this Node.
 * @param entry its file, from the project's root: `packages/agent/src/main.ts`
 * @param environment added to this process's
 */
export async function startProgram(
  entry: string,
  args: readonly string[] = [],
  environment: Readonly<Record<string, string>> = {},
): Promise<Program> {
  const lines: string[] = [];
  watch.program(entry, { args, environment, shows: shows(args) }, lines);
  const child = await Child.start(
    { name: entry, command: process.execPath, args: [join(root, entry), ...args], env: environment },
    (line) => lines.push(line),
  );
  return new Program(child, lines);
}

/** Whether a program is there to show a secret that it makes. */
export const shows = ([command = '']: readonly string[]): boolean =>
  ['keys', 'users', 'link', 'enroll', 'nats-keys', 'up'].includes(command);
