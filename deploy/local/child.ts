// A started program: its lines, its end, and when it is ready.
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { protect, release } from '#local/guard.ts';

/** How a program is started, and how one sees that it can be used. */
export type Service = {
  name: string;
  command: string;
  args: readonly string[];
  /** Added to this process's environment. */
  env?: Readonly<Record<string, string | undefined>>;
  /** Where it runs; this process's folder when undefined. */
  cwd?: string | undefined;
  /** Whether it can be used now. Never throws. */
  ready: (signal: AbortSignal) => Promise<boolean>;
};

export type Exit = { code: number | null; signal: NodeJS.Signals | null };

/** How many of its last lines are kept for the message when a program doesn't start. */
const keptLines = 20;

export class Child implements AsyncDisposable {
  readonly pid: number;
  /** Settled when the process has ended and its output is read. */
  readonly exited: Promise<Exit>;
  readonly #name: string;
  readonly #process: ChildProcess;
  readonly #last: string[] = [];
  #exit: Exit | undefined;

  private constructor(name: string, started: ChildProcess, pid: number, onLine: (line: string) => void) {
    this.#name = name;
    this.#process = started;
    this.pid = pid;
    protect(pid);
    for (const stream of [started.stdout, started.stderr])
      if (stream)
        createInterface({ input: stream }).on('line', (line) => {
          this.#last.push(line);
          if (this.#last.length > keptLines) this.#last.shift();
          onLine(line);
        });
    this.exited = new Promise((resolve) => {
      started.once('exit', () => {
        this.#endGroup();
        release(pid);
      });
      started.once('close', (code, signal) => {
        this.#exit = { code, signal };
        resolve(this.#exit);
      });
    });
  }

  /** @throws Error when the program can't be started at all. */
  static async start(
    { name, command, args, env, cwd }: Omit<Service, 'ready'>,
    onLine: (line: string) => void = () => {},
  ): Promise<Child> {
    // A process group of its own: a Ctrl-C at the terminal reaches only the launcher, which ends things in order.
    const started = spawn(command, args, {
      detached: process.platform !== 'win32',
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, ...env },
      cwd,
    });
    if (started.pid === undefined)
      return await new Promise((_, reject) => {
        started.once('error', (cause) => reject(new Error(`${name} (${command}) can't be started.`, { cause })));
      });
    return new Child(name, started, started.pid, onLine);
  }

  /** Whether the process has ended. */
  get ended(): boolean {
    return this.#exit !== undefined;
  }

  /** The last lines that it wrote. */
  get lastLines(): readonly string[] {
    return this.#last;
  }

  /** Waits until the service can be used. @throws Error when it ends before, or takes too long. */
  async untilReady(ready: Service['ready'], milliseconds: number): Promise<void> {
    const signal = AbortSignal.timeout(milliseconds);
    for (;;) {
      if (this.#exit)
        throw new Error(`${this.#name} ended (${describeExit(this.#exit)}) before it was ready.${this.#said()}`);
      if (await ready(signal)) return;
      if (signal.aborted)
        throw new Error(`${this.#name} was not ready within ${milliseconds / 1000} s.${this.#said()}`);
      await Promise.race([this.exited, pause(50)]);
    }
  }

  /** Asks the process to end; kills it when it hasn't after `milliseconds`. */
  async stop(milliseconds = 5000): Promise<Exit> {
    this.signal('SIGTERM');
    // A frozen process would not hear it.
    this.signal('SIGCONT');
    const timer = setTimeout(() => this.signal('SIGKILL'), milliseconds);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends the process at once, as a crash would. */
  async kill(): Promise<Exit> {
    this.signal('SIGKILL');
    return await this.exited;
  }

  /** Sends a signal to the process and to what it has started; nothing when it has ended. */
  signal(signal: NodeJS.Signals): void {
    if (this.#process.exitCode !== null || this.#process.signalCode !== null) return;
    if (process.platform === 'win32') this.#process.kill(signal);
    else process.kill(-this.pid, signal);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  /** Ends what the ended process has left behind. */
  #endGroup(): void {
    if (process.platform === 'win32') return;
    try {
      process.kill(-this.pid, 'SIGKILL');
    } catch (error) {
      // The usual case: nothing was left.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }

  #said(): string {
    return this.#last.map((line) => `\n${line}`).join('');
  }
}

/** `code 1`, or the signal that ended it. */
export const describeExit = ({ code, signal }: Exit): string => signal ?? `code ${code}`;
