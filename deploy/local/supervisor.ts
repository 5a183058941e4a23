// Keeps services running: their lines go to files, what matters of them to the user; a service that ends is started again.
import { closeSync, fstatSync, mkdirSync, openSync, renameSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Child, describeExit, type Service } from '#local/child.ts';
import { LaunchError } from '#local/folder.ts';
import { printable } from '#local/printable.ts';

/** A service that is kept running. */
export type Supervised = Service & {
  /** How long a start may take, milliseconds. */
  readyWithin: number;
  /** How long it may take to end before it is killed, milliseconds. */
  stopWithin: number;
  /** Why it has to be started again though it runs; undefined while it need not. Never throws. */
  illness?: (signal: AbortSignal) => Promise<string | undefined>;
  /** What the user should see of a line that it wrote: a warning or an error; undefined for all others. */
  notable: (line: string) => string | undefined;
};

/** A log file is renamed to `.1` at this size, bytes; with the one before it takes twice as much. */
const logSize = 5 * 1024 ** 2;
/** At most this many lines of one service are shown in `shownWithin` milliseconds; all are in its log. */
const shownLines = 5;
const shownWithin = 10_000;
/** Pause before a service is started again, milliseconds: doubled each time, up to the longest. */
const firstPause = 500;
const longestPause = 30_000;
/** Pause between two looks at whether a running service has to be started again, milliseconds. */
const lookPause = 5000;
/** Longest wait for what it says of itself, milliseconds. */
const lookWithin = 5000;
/** Shortest time between two starts for that reason, milliseconds. */
const illnessPause = 60_000;
/** A service that ran so long, milliseconds, starts with the first pause again. */
const settledAfter = 60_000;

export class Supervisor {
  readonly #folder: string;
  readonly #report: (line: string) => void;
  readonly #stopping = new AbortController();
  readonly #running = new Map<string, { service: Supervised; child: Child; watch: Promise<void> }>();

  /** @param folder where the logs go @param report says something to the user, in one line */
  constructor(folder: string, report: (line: string) => void) {
    mkdirSync(folder, { recursive: true });
    this.#folder = folder;
    this.#report = report;
  }

  /** Starts a service and waits until it is ready; from then on it is kept running. @throws Error */
  async start(service: Supervised): Promise<void> {
    const path = join(this.#folder, `${service.name}.log`);
    const log = new Log(path);
    const shown = new Shown(service, (line) => {
      if (!this.#stopping.signal.aborted) this.#report(line);
    });
    const begin = async () => {
      this.#stopping.signal.throwIfAborted();
      return await Child.start(service, (line) => {
        log.write(line);
        shown.line(line);
      });
    };
    const child = await begin();
    const entry = { service, child, watch: Promise.resolve() };
    this.#running.set(service.name, entry);
    try {
      await child.untilReady(service.ready, service.readyWithin);
    } catch (cause) {
      throw new LaunchError(`${firstLine(cause)} What it said is in ${path}.`, { cause });
    }
    const { illness } = service;
    entry.watch = Promise.all([
      this.#keep(entry, begin),
      illness ? this.#look(entry, illness) : Promise.resolve(),
    ]).then(() => undefined);
  }

  /** Ends a service that runs and can't do its work any more: it is started again then. */
  async #look(
    entry: { service: Supervised; child: Child },
    illness: NonNullable<Supervised['illness']>,
  ): Promise<void> {
    const { signal } = this.#stopping;
    const { name, stopWithin } = entry.service;
    for (;;) {
      await pause(lookPause, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      const { child } = entry;
      const reason = await illness(AbortSignal.any([signal, AbortSignal.timeout(lookWithin)]));
      if (reason === undefined || signal.aborted || child.ended) continue;
      this.#report(`${name} has to be started again: ${printable(reason)}`);
      await child.stop(stopWithin);
      await pause(illnessPause, undefined, { signal }).catch(() => {});
    }
  }

  /** The process of a service, while it runs. */
  pid(name: string): number | undefined {
    const child = this.#running.get(name)?.child;
    return child === undefined || child.ended ? undefined : child.pid;
  }

  /** Ends all services one after the other, in the order of the names. */
  async stop(order: readonly string[]): Promise<void> {
    this.#stopping.abort();
    for (const name of order) {
      const entry = this.#running.get(name);
      if (entry === undefined) continue;
      await entry.child.stop(entry.service.stopWithin);
      await entry.watch;
    }
  }

  /** Ends all services at once. */
  async kill(): Promise<void> {
    this.#stopping.abort();
    await Promise.all([...this.#running.values()].map(({ child }) => child.kill()));
  }

  async #keep(entry: { service: Supervised; child: Child }, begin: () => Promise<Child>): Promise<void> {
    const { signal } = this.#stopping;
    const { name, ready, readyWithin } = entry.service;
    let wait = firstPause;
    let begun = performance.now();
    for (;;) {
      const exit = await entry.child.exited;
      if (signal.aborted) return;
      if (performance.now() - begun > settledAfter) wait = firstPause;
      this.#report(`${name} ended (${describeExit(exit)}): it is started again in ${wait / 1000} s.`);
      await pause(wait, undefined, { signal }).catch(() => {});
      if (signal.aborted) return;
      wait = Math.min(wait * 2, longestPause);
      begun = performance.now();
      try {
        entry.child = await begin();
        await entry.child.untilReady(ready, readyWithin);
        this.#report(`${name} runs again.`);
      } catch (error) {
        if (signal.aborted) return;
        this.#report(`${name} did not come back: ${printable(firstLine(error))}`);
        await entry.child.kill();
      }
    }
  }
}

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n', 1)[0] ?? '';

/** A log file of bounded size. Its lines are kept as they came. */
class Log {
  readonly #path: string;
  #descriptor: number;
  #size: number;

  constructor(path: string) {
    this.#path = path;
    this.#descriptor = openSync(path, 'a', 0o600);
    this.#size = fstatSync(this.#descriptor).size;
  }

  write(line: string): void {
    try {
      this.#size += writeSync(this.#descriptor, `${line}\n`);
      if (this.#size < logSize) return;
      closeSync(this.#descriptor);
      renameSync(this.#path, `${this.#path}.1`);
      this.#descriptor = openSync(this.#path, 'a', 0o600);
      this.#size = 0;
    } catch (cause) {
      throw new Error(`The log ${this.#path} can't be written: ${firstLine(cause)}`, { cause });
    }
  }
}

/** Passes on what matters of a service's lines, a few at a time. */
class Shown {
  readonly #service: Supervised;
  readonly #report: (line: string) => void;
  #count = 0;
  #until = 0;

  constructor(service: Supervised, report: (line: string) => void) {
    this.#service = service;
    this.#report = report;
  }

  line(line: string): void {
    const text = this.#service.notable(line);
    if (text === undefined) return;
    const now = performance.now();
    if (now > this.#until) {
      this.#count = 0;
      this.#until = now + shownWithin;
    }
    this.#count++;
    if (this.#count <= shownLines) this.#report(`${this.#service.name}: ${printable(text)}`);
    else if (this.#count === shownLines + 1) this.#report(`${this.#service.name}: more such lines are in its log.`);
  }
}
