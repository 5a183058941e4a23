import type { Clock, Tables } from '@fleetreel/proto';
import { singleRow } from '#columns.ts';
import { loadKoffi } from '#native.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

/** A clock drifts slowly: parts of a million. */
const every_ms = 10_000;

/** What adjtimex returns when the clock is not synchronized. */
const timeError = 5;

/** Flag of the status: the offset is in nanoseconds instead of microseconds. */
const statusNano = 0x2000;

/** Size of `struct timex` on 64-bit Linux. */
export const timexBytes = 208;

/**
 * `struct timex` as the kernel filled it in, with the call's result. The layout is the same on all 64-bit Linux
 * systems: words of 8 bytes, each `int` (modes, status) padded to one.
 * @see https://man7.org/linux/man-pages/man2/adjtimex.2.html
 */
export function parseTimex(timex: Buffer, result: number): { [K in keyof Clock]: number } {
  const word = (place: number): number => Number(timex.readBigInt64LE(place * 8));
  const status = timex.readInt32LE(5 * 8);
  return {
    offset_seconds: word(1) / ((status & statusNano) === 0 ? 1e6 : 1e9),
    maximum_error_seconds: word(3) / 1e6,
    estimated_error_seconds: word(4) / 1e6,
    synchronized_flag: result === timeError ? 0 : 1,
  };
}

/** Fills a zeroed `struct timex` (modes 0: nothing is changed); returns the clock's state. @throws Unavailable */
export type Adjtimex = (timex: Buffer) => number;

async function systemAdjtimex(): Promise<Adjtimex> {
  const koffi = await loadKoffi().catch((cause: unknown) => {
    throw new Unavailable(`The module koffi can't be loaded: ${(cause as Error).message}`, { cause });
  });
  const adjtimex = koffi.load(null).func('int adjtimex(void *timex)');
  return (timex) => {
    const result: number = adjtimex(timex);
    if (result >= 0) return result;
    const code = koffi.errno();
    throw new Unavailable(
      code === koffi.os.errno.EPERM
        ? 'Reading the clock (adjtimex) is not permitted: allow the call in the seccomp profile of the container'
        : `Reading the clock (adjtimex) failed with error number ${code}`,
    );
  };
}

/** The machine's clock, as the kernel disciplines it. */
export function clock({ platform }: Context, load: () => Promise<Adjtimex> = systemAdjtimex): Source {
  const timex = Buffer.alloc(timexBytes);
  let adjtimex: Adjtimex | undefined;
  const read = (): Tables => {
    if (!adjtimex) throw new Unavailable('The clock was not opened');
    timex.fill(0);
    return { clock: singleRow<Clock>(parseTimex(timex, adjtimex(timex))) };
  };
  return {
    name: 'clock',
    tables: ['clock'],
    every_ms,
    async open() {
      if (platform !== 'linux') throw new Unavailable(`The clock is read on Linux only, not on ${platform}`);
      if (process.arch !== 'x64' && process.arch !== 'arm64')
        throw new Unavailable(`The clock is read on x86-64 and arm64 only, not on ${process.arch}`);
      adjtimex = await load();
      read();
    },
    sample: read,
    close() {
      adjtimex = undefined;
    },
  };
}
