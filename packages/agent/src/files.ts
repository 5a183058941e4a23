import { closeSync, openSync, readFileSync, readSync } from 'node:fs';
import { endianness } from 'node:os';
import { join } from 'node:path';
import type { Clock } from '#clock.ts';
import { Unavailable } from '#source.ts';

/** A kernel file larger than this is refused: the largest known ones (interrupts of 1,000 cores) stay below 4 MiB. */
export const kernelFileBytesMax = 16 * 1024 * 1024;

/** How long a missing optional file is left alone before it is looked for again: a module may be loaded later. */
export const missingFileRetry_ms = 60_000;

// All files are read into this one buffer, one after the other, and decoded from it before the next is read.
let buffer = Buffer.allocUnsafeSlow(32 * 1024);

/** What is asked for of a file of which nothing is known yet. */
const firstReadBytes = 4096;

/**
 * The kernel gives a list in pieces of up to a page, cut between two entries. A shorter piece than this is the whole: no entry
 * of the files that are read each time is as long as what is left of the page.
 */
const wholeBytesMax = 2048;

/**
 * A text file of the kernel that is read again and again: opened once, read from its start each time. It is opened anew
 * when a read fails, as it does after a device has gone and another has come under its name.
 */
export class KernelFile {
  readonly path: string;
  readonly #wholeBytesMax: number;
  #descriptor: number | undefined;
  #length = 0;

  /** @param hasLongEntries single entries may fill a page, as mounts with their options do */
  constructor(path: string, hasLongEntries = false) {
    this.path = path;
    this.#wholeBytesMax = hasLongEntries ? 0 : wholeBytesMax;
  }

  /** @throws Unavailable when it is not here or may not be read; Error when reading it fails otherwise. */
  open(): void {
    let length: number;
    try {
      length = this.#read();
    } catch (error) {
      throw unavailable(this.path, error);
    }
    if (length === 0) throw masked(this.path);
  }

  /** Everything in it now. @throws the system's error */
  text(): string {
    // Reading may put a larger buffer in the place of this one.
    const length = this.#read();
    return buffer.toString('utf8', 0, length);
  }

  close(): void {
    if (this.#descriptor === undefined) return;
    closeSync(this.#descriptor);
    this.#descriptor = undefined;
  }

  #read(): number {
    if (this.#descriptor !== undefined) {
      try {
        return this.#readKept(this.#descriptor);
      } catch {
        // Once more with a new descriptor; what fails there is thrown.
        this.close();
      }
    }
    this.#descriptor = openSync(this.path, 'r');
    try {
      return this.#readKept(this.#descriptor);
    } catch (error) {
      this.close();
      throw error;
    }
  }

  #readKept(descriptor: number): number {
    // Settings of the kernel (/proc/sys) cost as many bytes as are asked for: it clears them first.
    const asked = this.#length === 0 ? firstReadBytes : Math.min(2 * this.#length + 256, buffer.length);
    const length = readSync(descriptor, buffer, 0, asked, 0);
    const isWhole = length < asked && length <= this.#wholeBytesMax;
    this.#length = isWhole ? length : readAll(descriptor, this.path, length);
    return this.#length;
  }
}

/** A file that may be missing without making its source unavailable. While it is, it is looked for once a minute. */
export class OptionalFile {
  readonly #file: KernelFile;
  readonly #clock: Clock;
  #missing: Error | undefined;
  #retryAt_ms = Number.NEGATIVE_INFINITY;

  constructor(path: string, clock: Clock) {
    this.#file = new KernelFile(path);
    this.#clock = clock;
  }

  /** Why it can't be read, as found when it was last tried. */
  get missing(): string | undefined {
    return this.#missing?.message;
  }

  /** Everything in it now, or an empty text when it can't be read. */
  text(): string {
    if (this.#missing && this.#clock.monotonic_ms() < this.#retryAt_ms) return '';
    try {
      const text = this.#file.text();
      this.#missing = text === '' ? masked(this.#file.path) : undefined;
      if (!this.#missing) return text;
    } catch (error) {
      this.#missing = unavailable(this.#file.path, error);
    }
    this.#retryAt_ms = this.#clock.monotonic_ms() + missingFileRetry_ms;
    return '';
  }

  close(): void {
    this.#file.close();
  }
}

/** Reads a small file that is too seldom needed to be kept open; empty when it can't be read. */
export function readOnce(path: string): string {
  let descriptor: number;
  try {
    descriptor = openSync(path, 'r');
  } catch {
    return '';
  }
  try {
    const first = readSync(descriptor, buffer, 0, buffer.length, 0);
    const length = first <= wholeBytesMax ? first : readAll(descriptor, path, first);
    return buffer.toString('utf8', 0, length);
  } catch {
    // Attributes of a device answer with an error where they have no meaning (the speed of a link that is down).
    return '';
  } finally {
    closeSync(descriptor);
  }
}

/** Size of a memory page in bytes: 4 KiB on x86-64, up to 64 KiB on arm64. NaN when it can't be found. */
export function pageBytes(proc: string): number {
  try {
    return parsePageBytes(readFileSync(join(proc, 'self/auxv')));
  } catch {
    return Number.NaN;
  }
}

/** The same from the vector of pairs of words that the kernel hands to each process: the entry AT_PAGESZ. */
export function parsePageBytes(auxiliaryVector: Buffer): number {
  const word = (at: number): bigint =>
    endianness() === 'LE' ? auxiliaryVector.readBigUInt64LE(at) : auxiliaryVector.readBigUInt64BE(at);
  for (let at = 0; at + 16 <= auxiliaryVector.length; at += 16) if (word(at) === 6n) return Number(word(at + 8));
  return Number.NaN;
}

/**
 * Why a file can't be read, with what would help: `Unavailable` where it is not here or not permitted, else an error that is
 * worth another try soon.
 */
export function unavailable(path: string, error: unknown): Error {
  const cause = error as NodeJS.ErrnoException;
  const reason =
    cause.code === 'ENOENT' || cause.code === 'ENOTDIR'
      ? 'does not exist here'
      : cause.code === 'EACCES' || cause.code === 'EPERM'
        ? 'may not be read: run the agent as root, or lift the restriction (mask, security module) on this file'
        : cause.code === 'EOPNOTSUPP' || cause.code === 'ENOTSUP'
          ? 'is switched off in this kernel'
          : undefined;
  return reason === undefined
    ? new Error(`${path} can't be read: ${cause.message}`, { cause })
    : new Unavailable(`${path} ${reason}`, { cause });
}

/** The reason why a file is empty: containers hide a file by putting /dev/null over it. */
const masked = (path: string): Unavailable =>
  new Unavailable(`${path} is empty here: it is masked in this container, or there is nothing to tell`);

/** Fills the buffer with the whole file, of which it has `from` bytes, and returns its length. The kernel may give it in pieces. */
function readAll(descriptor: number, path: string, from = 0): number {
  let length = from;
  for (;;) {
    if (length === buffer.length) {
      if (length >= kernelFileBytesMax) throw new Error(`${path} is larger than ${kernelFileBytesMax} bytes`);
      const larger = Buffer.allocUnsafeSlow(Math.min(buffer.length * 4, kernelFileBytesMax));
      buffer.copy(larger, 0, 0, length);
      buffer = larger;
    }
    const read = readSync(descriptor, buffer, length, buffer.length - length, length);
    if (read === 0) return length;
    length += read;
  }
}

const newline = 10;
const tab = 9;
const space = 32;
const minus = 45;
const point = 46;
const zero = 48;
const nine = 57;

/**
 * Walks through a text of lines and columns without splitting it. What follows the last newline is a torn line and not
 * seen.
 */
export class Cursor {
  readonly text: string;
  position = 0;
  readonly #end: number;

  constructor(text: string) {
    this.text = text;
    this.#end = text.lastIndexOf('\n') + 1;
  }

  /** No further line. */
  get atEnd(): boolean {
    return this.position >= this.#end;
  }

  /** No further word on this line. */
  get atLineEnd(): boolean {
    this.#skipBlanks();
    return this.atEnd || this.text.charCodeAt(this.position) === newline;
  }

  /** To the start of the next line. */
  nextLine(): void {
    this.position = this.atEnd ? this.#end : this.text.indexOf('\n', this.position) + 1;
  }

  /** The next word of this line; empty when there is none. */
  word(): string {
    this.#skipBlanks();
    const start = this.position;
    this.#skipWord();
    return this.text.slice(start, this.position);
  }

  /** Leaves out words of this line. */
  skip(words: number): void {
    for (let left = words; left > 0; left--) {
      this.#skipBlanks();
      this.#skipWord();
    }
  }

  /** The next word of this line as a decimal number; NaN when there is none or it is something else. */
  number(): number {
    this.#skipBlanks();
    const start = this.position;
    this.#skipWord();
    return decimal(this.text, start, this.position);
  }

  /** The next word of this line as a hexadecimal number; NaN when there is none or it is something else. */
  hexadecimal(): number {
    const word = this.word();
    return word === '' ? Number.NaN : Number(`0x${word}`);
  }

  #skipBlanks(): void {
    for (; this.position < this.#end; this.position++) {
      const code = this.text.charCodeAt(this.position);
      if (code !== space && code !== tab) return;
    }
  }

  #skipWord(): void {
    for (; this.position < this.#end; this.position++) {
      const code = this.text.charCodeAt(this.position);
      if (code === space || code === tab || code === newline) return;
    }
  }
}

/**
 * The number behind a key at the beginning of a line, as in `pgpgin 2803813` and `MemFree:   8120 kB`; NaN when there is
 * no such line, or it is torn. `key` includes its delimiter.
 */
export function numberAfter(text: string, key: string): number {
  const found = text.startsWith(key) ? 0 : text.indexOf(`\n${key}`) + 1;
  if (found === 0 && !text.startsWith(key)) return Number.NaN;
  let start = found + key.length;
  while (text.charCodeAt(start) === space || text.charCodeAt(start) === tab) start++;
  let end = start;
  for (; end < text.length; end++) {
    const code = text.charCodeAt(end);
    if (code === space || code === tab || code === newline) break;
  }
  return text.indexOf('\n', end) < 0 ? Number.NaN : decimal(text, start, end);
}

/** A decimal number, whole or with a fraction. Counters above 2^53 lose their last digits. */
function decimal(text: string, from: number, to: number): number {
  const negative = text.charCodeAt(from) === minus;
  let value = 0;
  let scale = 0;
  let position = negative ? from + 1 : from;
  if (position === to) return Number.NaN;
  for (; position < to; position++) {
    const code = text.charCodeAt(position);
    if (code >= zero && code <= nine) {
      value = value * 10 + (code - zero);
      scale *= 10;
    } else if (code === point && scale === 0) scale = 1;
    else return Number.NaN;
  }
  if (scale > 1) value /= scale;
  return negative ? -value : value;
}
