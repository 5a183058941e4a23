// Gives back the pages of programs and libraries that only the start needed.
import { readFileSync } from 'node:fs';
import type { LibraryHandle } from 'koffi';
import type { Clock } from '#clock.ts';
import { releasePagesMilliseconds } from '#limits.ts';
import { loadKoffi } from '#native.ts';

/** madvise(2): the pages are not needed; those of a file are read from it again when they are. */
const dontNeed = 4;

/** A mapping of a file: where it begins and its length, bytes. */
export type Mapping = { address: bigint; bytes: bigint };

/**
 * Mappings of files of which no page was changed, and which can't be changed: nothing is lost when their pages go. From
 * /proc/PID/smaps (https://www.kernel.org/doc/html/latest/filesystems/proc.html).
 */
export function cleanMappings(smaps: string): Mapping[] {
  const mappings: Mapping[] = [];
  for (const entry of smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) r-[x-]p \S+ \S+ [1-9]\d* +\//.exec(entry) ?? [];
    if (!from || !to || !/^Private_Dirty: +0 kB$/m.test(entry) || !/^Anonymous: +0 kB$/m.test(entry)) continue;
    const address = BigInt(`0x${from}`);
    mappings.push({ address, bytes: BigInt(`0x${to}`) - address });
  }
  return mappings;
}

/**
 * Node maps some 40 MiB of itself while it starts, and a tick needs a third of that: what is not needed leaves the resident memory,
 * once the start is over and then from time to time. The kernel keeps it in its cache as long as it likes, so that taking a page back
 * costs a microsecond. Free memory between what malloc has given out goes, too.
 */
export async function releasePages(clock: Clock, signal: AbortSignal): Promise<void> {
  if (process.platform !== 'linux') return;
  for (let wait_ms: number = releasePagesMilliseconds.first; ; wait_ms = releasePagesMilliseconds.again) {
    await clock.sleep(wait_ms, signal).catch(() => undefined);
    if (signal.aborted) return;
    const library = (await loadKoffi()).load(null);
    const madvise = library.func('int madvise(uintptr_t address, size_t bytes, int advice)');
    for (const { address, bytes } of cleanMappings(readFileSync('/proc/self/smaps', 'utf8')))
      madvise(address, bytes, dontNeed);
    trim(library);
  }
}

/** What malloc keeps for later goes back to the system; musl has no such call, and keeps little. */
function trim(library: LibraryHandle): void {
  let mallocTrim: (keep: number) => number;
  try {
    mallocTrim = library.func('int malloc_trim(size_t keep)');
  } catch {
    return;
  }
  mallocTrim(0);
}
