import { closeSync, openSync, readSync } from 'node:fs';

/** Clock ticks per second in what the kernel shows to programs (USER_HZ), on all architectures that Node runs on. */
export const ticksPerSecond = 100;

/** PF_KTHREAD among the flags: a thread of the kernel. */
const kernelThread = 0x0020_0000;

/** Longest name that the kernel puts in parentheses: those of its workers; programs have 15 bytes. */
const nameBytesMax = 64;

/** The last field that is read of most processes, and of those that have ended. */
const startCodeField = 26;
const exitCodeField = 52;

const openParenthesis = 40;
const closeParenthesis = 41;
const space = 32;
const minus = 45;
const zero = 48;
const nine = 57;
const zombie = 90;

/**
 * /proc/<pid>/stat, read again and again into the same place without making texts: the values are those of the process
 * that was read last.
 * @see https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html
 */
export class ProcessStat {
  readonly #buffer = Buffer.allocUnsafeSlow(4096);
  readonly #fields = new Float64Array(exitCodeField + 1);
  #nameEnd = 0;
  #nameStart = 0;

  /** Reads a process; false where there is none or it may not be seen. */
  read(path: string): boolean {
    let descriptor: number;
    try {
      descriptor = openSync(path, 'r');
    } catch {
      return false;
    }
    try {
      return this.readKept(descriptor);
    } finally {
      closeSync(descriptor);
    }
  }

  /** The same from an open descriptor, at half the cost; false, too, when the process that it was opened for is gone. */
  readKept(descriptor: number): boolean {
    try {
      return this.parse(this.#buffer, readSync(descriptor, this.#buffer, 0, this.#buffer.length, 0));
    } catch {
      return false;
    }
  }

  /** Takes the values from the first `length` bytes; false where that is no such line. */
  parse(bytes: Buffer, length: number): boolean {
    if (bytes !== this.#buffer) bytes.copy(this.#buffer, 0, 0, length);
    const buffer = this.#buffer;
    let start = 0;
    while (start < length && buffer[start] !== openParenthesis) start++;
    // A name may hold parentheses and spaces; behind it there are none but the last parenthesis.
    let end = Math.min(start + 1 + nameBytesMax, length - 1);
    while (end > start && buffer[end] !== closeParenthesis) end--;
    if (end <= start || end + 3 >= length) return false;
    this.#nameStart = start + 1;
    this.#nameEnd = end;
    return this.#numbers(end + 4, length, buffer[end + 2] === zombie ? exitCodeField : startCodeField);
  }

  /** The fields from the fourth on: decimal numbers, separated by one space each. */
  #numbers(from: number, length: number, last: number): boolean {
    const buffer = this.#buffer;
    let field = 4;
    let value = 0;
    let isNegative = false;
    for (let at = from; at < length; at++) {
      const code = buffer[at]!;
      if (code >= zero && code <= nine) value = value * 10 + (code - zero);
      else if (code === minus) isNegative = true;
      else {
        this.#fields[field] = isNegative ? -value : value;
        if (field === last || code !== space) break;
        field++;
        value = 0;
        isNegative = false;
      }
    }
    return field >= startCodeField;
  }

  /** Name of the program: 15 bytes at most, and of any kind. */
  get name(): string {
    return this.#buffer.toString('utf8', this.#nameStart, this.#nameEnd);
  }

  /** A number that is another one when the name is: so that most names need not be read. FNV-1a, 32 bits. */
  get nameHash(): number {
    let hash = 0x811c_9dc5;
    for (let at = this.#nameStart; at < this.#nameEnd; at++) hash = Math.imul(hash ^ this.#buffer[at]!, 0x0100_0193);
    return hash;
  }

  /** The letter of the state, as its code. */
  get state(): number {
    return this.#buffer[this.#nameEnd + 2]!;
  }

  get parent(): number {
    return this.#fields[4]!;
  }

  get isKernelThread(): boolean {
    return (this.#fields[9]! & kernelThread) !== 0;
  }

  get majorFaults(): number {
    return this.#fields[12]!;
  }

  /** CPU time in clock ticks, of all its threads, those that have ended too. */
  get userTicks(): number {
    return this.#fields[14]!;
  }

  get systemTicks(): number {
    return this.#fields[15]!;
  }

  get threads(): number {
    return this.#fields[20]!;
  }

  /** When it was started, in clock ticks since boot. */
  get start(): number {
    return this.#fields[22]!;
  }

  get residentPages(): number {
    return this.#fields[24]!;
  }

  /** Address of its program, another one after each exec; 0 or 1 without the right to see it. */
  get startCode(): number {
    return this.#fields[startCodeField]!;
  }

  /** It has ended, its threads too, and waits for its parent to take note. */
  get hasEnded(): boolean {
    return this.state === zombie && this.threads <= 1;
  }

  /**
   * What an ended process ended with: exit code, or signal number above 128. Without the right to see it the kernel says 0: that is
   * taken for true only of who has the right for sure.
   */
  exitCode(hasRight: boolean): number {
    const status = this.#fields[exitCodeField]!;
    if (status === 0 && !hasRight) return Number.NaN;
    const signal = status & 0x7f;
    return signal === 0 ? (status >> 8) & 0xff : 128 + signal;
  }
}
