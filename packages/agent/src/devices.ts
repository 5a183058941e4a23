import { close, open, openSync, read, readSync } from 'node:fs';
import type { Clock } from '#clock.ts';
import { deviceAnswerMilliseconds, devicePatienceMilliseconds, devicesUnderWayMax } from '#limits.ts';

// Attributes of devices in /sys. Most come out of the kernel's memory, but some drivers ask the hardware for each of
// them, over a slow bus that may hang: they are never read on the way of the tick.

/** An attribute of a device that is read again and again, beside the tick: opened once, read from its start each time. */
export class DeviceFile {
  readonly path: string;
  // Its own, since a read that hangs keeps it.
  readonly #buffer: Buffer;
  #descriptor: number | undefined;
  #isReading = false;
  #isClosed = false;

  /** What is longer than `bytesMax` is cut: numbers and names are short, the kernel gives 4096 at most. */
  constructor(path: string, bytesMax = 64) {
    this.path = path;
    this.#buffer = Buffer.allocUnsafe(bytesMax);
  }

  /** What it says now. @throws the system's error, as EIO or ENODATA of a sensor that can't be read */
  async text(): Promise<string> {
    this.#isReading = true;
    try {
      this.#descriptor ??= await opened(this.path);
      const length = await readFrom(this.#descriptor, this.#buffer);
      return this.#buffer.toString('utf8', 0, length).trimEnd();
    } catch (cause) {
      this.#release();
      throw cause;
    } finally {
      this.#isReading = false;
      if (this.#isClosed) this.#release();
    }
  }

  /** The whole number that it says now; NaN when it says something else. @throws the system's error */
  async number(): Promise<number> {
    return wholeNumber(await this.text());
  }

  /** The same at once, for what the kernel knows without asking slow hardware: a tenth of the cost. @throws the system's error */
  numberNow(): number {
    try {
      this.#descriptor ??= openSync(this.path, 'r');
      const length = readSync(this.#descriptor, this.#buffer, 0, this.#buffer.length, 0);
      return wholeNumber(this.#buffer.toString('utf8', 0, length).trimEnd());
    } catch (cause) {
      this.#release();
      throw cause;
    }
  }

  /** A read under way is waited for: its descriptor may not become another file's. */
  close(): void {
    this.#isClosed = true;
    if (!this.#isReading) this.#release();
  }

  #release(): void {
    if (this.#descriptor !== undefined) close(this.#descriptor, () => {});
    this.#descriptor = undefined;
  }
}

/** A whole number in decimal digits; NaN for anything else. */
export const wholeNumber = (text: string): number => (/^-?\d+$/.test(text) ? Number(text) : Number.NaN);

/** A read that failed because the device is not there any more, rather than that it has no value now. */
export const isGone = (cause: unknown): boolean =>
  ['ENOENT', 'ENODEV', 'ENOTDIR'].includes((cause as NodeJS.ErrnoException).code ?? '');

const opened = (path: string): Promise<number> =>
  new Promise((resolve, reject) => {
    open(path, 'r', (cause, descriptor) => (cause ? reject(cause) : resolve(descriptor)));
  });

const readFrom = (descriptor: number, buffer: Buffer): Promise<number> =>
  new Promise((resolve, reject) => {
    read(descriptor, buffer, 0, buffer.length, 0, (cause, length) => (cause ? reject(cause) : resolve(length)));
  });

/** Something that answers after a while, or never. It keeps its newest answer by itself. */
export interface Device {
  /** What a person knows it by. */
  readonly name: string;
  /** Asks for everything; does not throw. */
  read(): Promise<void>;
}

/**
 * Reads devices one after another. One that does not answer soon is left alone, still asked, while the others are read,
 * and is not asked again until it has answered. At most two are asked at once, since each of them may keep one of the
 * process's few threads for files.
 */
export class DeviceReader {
  readonly #clock: Clock;
  readonly #underWay = new Map<Device, { since_ms: number; done: Promise<void> }>();
  #round: Promise<void> | undefined;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Begins to read all, unless that is still under way. Resolves when all have answered, or after a third of a second. */
  async read(devices: readonly Device[]): Promise<void> {
    this.#round ??= this.#readAll(devices).finally(() => {
      this.#round = undefined;
    });
    await this.#within(this.#round, devicePatienceMilliseconds);
  }

  /** Devices that have been asked for longer than is usual, one sentence each. */
  hanging(): string[] {
    const now_ms = this.#clock.monotonic_ms();
    return [...this.#underWay]
      .filter(([, { since_ms }]) => now_ms - since_ms > deviceAnswerMilliseconds)
      .map(([{ name }, { since_ms }]) => {
        const seconds = ((now_ms - since_ms) / 1000).toFixed(0);
        return `${name} has not answered for ${seconds} s: its driver waits for the hardware.`;
      });
  }

  async #readAll(devices: readonly Device[]): Promise<void> {
    for (const device of devices) {
      if (this.#underWay.has(device)) continue;
      while (this.#underWay.size >= devicesUnderWayMax)
        await Promise.race(Array.from(this.#underWay.values(), ({ done }) => done));
      const done = device.read().finally(() => this.#underWay.delete(device));
      this.#underWay.set(device, { since_ms: this.#clock.monotonic_ms(), done });
      await this.#within(done, deviceAnswerMilliseconds);
    }
  }

  async #within(work: Promise<void>, limit_ms: number): Promise<void> {
    const limit = new AbortController();
    const over = this.#clock.sleep(limit_ms, limit.signal).catch(() => {});
    await Promise.race([work, over]);
    limit.abort();
  }
}
