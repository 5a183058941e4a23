import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';

/** A program at a terminal of its own (a pseudo-terminal of util-linux' `script`): what is typed, and what it shows. */
export class Terminal implements Disposable {
  /** Everything that was shown so far. */
  shown = '';
  /** Settled with the exit code when the program has ended. */
  readonly exited: Promise<number | null>;
  readonly #script: ChildProcessWithoutNullStreams;

  /** @param command a line for the shell */
  constructor(command: string, environment: Readonly<Record<string, string>> = {}) {
    this.#script = spawn('script', ['--quiet', '--flush', '--return', '--command', command, '/dev/null'], {
      env: { ...process.env, ...environment },
    });
    for (const stream of [this.#script.stdout, this.#script.stderr])
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.shown += text;
      });
    this.exited = new Promise((resolve, reject) => {
      this.#script.once('error', reject);
      this.#script.once('close', resolve);
    });
  }

  /** Whole lines that were shown. */
  get lines(): string[] {
    return this.shown
      .split('\n')
      .slice(0, -1)
      .map((line) => line.replace(/\r$/, ''));
  }

  type(keys: string): void {
    this.#script.stdin.write(keys);
  }

  /** Ends what still runs, with its terminal. */
  [Symbol.dispose](): void {
    this.#script.kill('SIGKILL');
  }
}
