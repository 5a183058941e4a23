// What a simulated host says of its frames, on disk: what it sampled, and what the log has acknowledged. One file for each
// start of a process, one line for each fact, and never changed: a killed process can't have said more than it knew.
import { createReadStream, openSync, writeSync } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

/** Frames of one session of a host, by sequence. */
export type Session = {
  host: string;
  session: string;
  /** When each was sampled by this machine's clock, UTC milliseconds, and the time that the frame says, microseconds. */
  sampled: Map<number, { at_ms: number; time_us: number }>;
  acknowledged: Set<number>;
  /** When the last thing was written that this process knew, UTC milliseconds. */
  last_ms: number;
  /** Whether the process has ended in order, with everything acknowledged. */
  ended: boolean;
};

/** The ledger of one process. */
export class Ledger implements AsyncDisposable {
  readonly #descriptor: number;
  readonly #file: FileHandle;
  readonly #sync: boolean;
  #waiting: string[] = [];
  #writing: Promise<void> | undefined;

  private constructor(descriptor: number, file: FileHandle, sync: boolean) {
    this.#descriptor = descriptor;
    this.#file = file;
    this.#sync = sync;
  }

  /** @param sync whether an acknowledgement has to be on the disk before it counts */
  static async open(path: string, sync: boolean): Promise<Ledger> {
    return new Ledger(openSync(path, 'a'), await open(path, 'a'), sync);
  }

  /** Before the frame is handed to the publisher; the line is the kernel's when this returns. */
  sampled(host: string, session: string, sequence: number, time_us: number): void {
    writeSync(this.#descriptor, `s ${host} ${session} ${sequence} ${Date.now()} ${time_us}\n`);
  }

  /** Settled when it is on the disk: only then the publisher hears of the acknowledgement. */
  async acknowledged(host: string, frames: readonly { session: string; sequence: number }[]): Promise<void> {
    for (const { session, sequence } of frames) this.#waiting.push(`a ${host} ${session} ${sequence} ${Date.now()}\n`);
    // Those that come while others are written go together in the next write.
    while (this.#writing) await this.#writing;
    if (this.#waiting.length === 0) return;
    this.#writing = this.#write();
    await this.#writing;
  }

  /** The process ends, and the log has everything of this session. */
  ended(host: string, session: string): void {
    writeSync(this.#descriptor, `e ${host} ${session} 0 ${Date.now()}\n`);
  }

  async #write(): Promise<void> {
    const text = this.#waiting.join('');
    this.#waiting = [];
    try {
      writeSync(this.#descriptor, text);
      if (this.#sync) await this.#file.datasync();
    } finally {
      this.#writing = undefined;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}

/** Everything that the ledgers of a folder say, by `<host> <session>`. */
export async function readLedgers(folder: string): Promise<Map<string, Session>> {
  const sessions = new Map<string, Session>();
  for (const name of (await readdir(folder)).filter((one) => one.endsWith('.ledger')))
    for await (const line of createInterface({ input: createReadStream(join(folder, name)) })) {
      const [what, host, session, sequence, at, time] = line.split(' ');
      // A line that a kill has cut says nothing.
      if (host === undefined || session === undefined || at === undefined || (what === 's' && time === undefined))
        continue;
      const key = `${host} ${session}`;
      let found = sessions.get(key);
      if (!found) {
        found = { host, session, sampled: new Map(), acknowledged: new Set(), last_ms: 0, ended: false };
        sessions.set(key, found);
      }
      const at_ms = Number(at);
      found.last_ms = Math.max(found.last_ms, at_ms);
      if (what === 's') found.sampled.set(Number(sequence), { at_ms, time_us: Number(time) });
      else if (what === 'a') found.acknowledged.add(Number(sequence));
      else found.ended = true;
    }
  return sessions;
}

/** Which of the recorded frames is that of a sequence: all hosts go round the same ones. */
export function capturedAt<T>(captured: readonly T[], sequence: number): T {
  const frame = captured[sequence % captured.length];
  if (frame === undefined) throw new Error('No frame was recorded.');
  return frame;
}
