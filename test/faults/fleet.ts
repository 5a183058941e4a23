// A fleet of simulated hosts that use the agent's own publisher and spool, in processes that can be killed.
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { encodeFrame } from '@fleetreel/proto';
import { encodeBatch } from '@fleetreel/proto/batch';
import { Watch } from '../numbers/watch.ts';
import type { Program } from '../servers/program.ts';
import { startWithin } from '../stack.ts';

const entry = 'test/faults/fleet_process.ts';

/** Rates have come by then. */
const capturedFrames = 10;

/** What a process of the fleet is told. */
export type FleetProcessOptions = {
  natsUrl: string;
  /** Number of its first host, and how many it has. */
  first: number;
  hosts: number;
  interval_ms: number;
  /** Recorded frames, made by `captureFrames`. */
  frames: string;
  /** Folder of the spools, one folder for each host. */
  spool: string;
  /** Its ledger (`ledger.ts`). */
  ledger: string;
  /** A file with the milliseconds by which the clock of its hosts is wrong. */
  clock: string;
  /** Whether an acknowledgement counts only when it is on the disk. */
  sync: boolean;
};

export type FleetOptions = {
  /** Ledgers, clocks and spools. */
  folder: string;
  natsUrl: string;
  /** Recorded frames, made by `captureFrames`. */
  frames: string;
  hosts?: number;
  processes?: number;
  interval_ms?: number;
  sync?: boolean;
  /** Folder of the spools; inside of `folder` by default. */
  spool?: string;
  /** A command that starts the processes, such as `ip netns exec NAME`. */
  within?: readonly string[];
};

/** Records frames of this machine with the real agent into a file. */
export async function captureFrames(path: string): Promise<string> {
  await using watch = await Watch.start();
  await watch.first(({ sequence }) => sequence >= capturedFrames, 0);
  writeFileSync(path, encodeBatch(watch.frames.slice(1).map(encodeFrame)));
  return path;
}

export class Fleet implements AsyncDisposable {
  /** Where the ledgers are. */
  readonly folder: string;
  readonly hosts: number;
  readonly processes: number;
  readonly #options: Required<FleetOptions>;
  readonly #running: (Program | undefined)[];
  #starts = 0;

  constructor(options: FleetOptions) {
    this.#options = {
      hosts: 50,
      processes: 5,
      interval_ms: 1000,
      sync: true,
      spool: join(options.folder, 'spool'),
      within: [],
      ...options,
    };
    const { folder, hosts, processes, spool } = this.#options;
    this.folder = folder;
    this.hosts = hosts;
    this.processes = processes;
    this.#running = Array.from({ length: processes }, () => undefined);
    mkdirSync(folder, { recursive: true });
    mkdirSync(spool, { recursive: true });
    for (let index = 0; index < processes; index++) this.setClock(index, 0);
  }

  /** Starts all of a fleet and waits until they sample. */
  static async start(options: FleetOptions): Promise<Fleet> {
    const fleet = new Fleet(options);
    await Promise.all(Array.from({ length: fleet.processes }, (_, index) => fleet.startProcess(index)));
    return fleet;
  }

  /** Starts a process, also one that was killed: with a new session, and what its spools hold. */
  async startProcess(index: number): Promise<void> {
    const { natsUrl, interval_ms, frames, spool, sync, folder, within } = this.#options;
    const first = Math.floor((index * this.hosts) / this.processes);
    const options: FleetProcessOptions = {
      natsUrl,
      first,
      hosts: Math.floor(((index + 1) * this.hosts) / this.processes) - first,
      interval_ms,
      frames,
      spool,
      ledger: join(folder, `${index}-${this.#starts++}.ledger`),
      clock: this.#clock(index),
      sync,
    };
    const program = await startWithin(within, entry, [JSON.stringify(options)]);
    this.#running[index] = program;
    await program.line(/^sampling$/);
  }

  /** Lets the clock of the hosts of one process be wrong by so many milliseconds from now on. */
  setClock(index: number, offset_ms: number): void {
    writeFileSync(this.#clock(index), String(offset_ms));
  }

  program(index: number): Program {
    const program = this.#running[index];
    if (!program) throw new Error(`Process ${index} of the fleet does not run.`);
    return program;
  }

  /** Ends a process as a crash would. */
  async kill(index: number): Promise<void> {
    await this.program(index).kill();
    this.#running[index] = undefined;
  }

  /** Lets all end in order: their frames are acknowledged, as far as the log can be reached. */
  async stop(): Promise<void> {
    await Promise.all(
      this.#running.map(async (program, index) => {
        this.#running[index] = undefined;
        if (!program) return;
        program.signal('SIGTERM');
        const { code, signal } = await program.exited;
        if (code !== 0)
          throw new Error(
            `A process of the fleet ended with ${signal ?? code}: ${program.lines.slice(-10).join('\n')}`,
          );
      }),
    );
  }

  #clock(index: number): string {
    return join(this.#options.folder, `${index}.clock`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#running.map(async (program) => await program?.kill()));
  }
}
