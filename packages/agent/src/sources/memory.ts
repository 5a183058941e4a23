import { join } from 'node:path';
import type { Memory, Tables } from '@fleetreel/proto';
import { singleRow } from '#columns.ts';
import { KernelFile, numberAfter, OptionalFile, pageBytes } from '#files.ts';
import { CounterHistory, percent, Rates } from '#rates.ts';
import type { Context, Source } from '#source.ts';

/** What /proc/meminfo says now, all columns that are not rates. */
type MemoryNow = Omit<{ [K in keyof Memory]: number }, `${string}_per_second`>;

/** @see https://docs.kernel.org/filesystems/proc.html#meminfo */
export function parseMeminfo(text: string): MemoryNow {
  const bytes = (key: string): number => numberAfter(text, `${key}:`) * 1024;
  const total = bytes('MemTotal');
  const available = bytes('MemAvailable');
  const swapTotal = bytes('SwapTotal');
  const swapFree = bytes('SwapFree');
  const hugePage = bytes('Hugepagesize');
  return {
    total_bytes: total,
    available_bytes: available,
    used_bytes: total - available,
    used_percent: percent(total - available, total),
    free_bytes: bytes('MemFree'),
    buffers_bytes: bytes('Buffers'),
    cached_bytes: bytes('Cached'),
    slab_bytes: bytes('Slab'),
    slab_reclaimable_bytes: bytes('SReclaimable'),
    shared_bytes: bytes('Shmem'),
    anonymous_bytes: bytes('AnonPages'),
    mapped_bytes: bytes('Mapped'),
    page_tables_bytes: bytes('PageTables'),
    dirty_bytes: bytes('Dirty'),
    writeback_bytes: bytes('Writeback'),
    committed_bytes: bytes('Committed_AS'),
    commit_limit_bytes: bytes('CommitLimit'),
    swap_total_bytes: swapTotal,
    swap_used_bytes: swapTotal - swapFree,
    swap_free_bytes: swapFree,
    huge_pages_total_bytes: numberAfter(text, 'HugePages_Total:') * hugePage,
    huge_pages_free_bytes: numberAfter(text, 'HugePages_Free:') * hugePage,
    anonymous_huge_pages_bytes: bytes('AnonHugePages'),
  };
}

/** Counters of /proc/vmstat: pages in and out (KiB), swapped in and out (pages), faults, major faults, OOM kills. */
export function parseVmstat(text: string): number[] {
  return ['pgpgin ', 'pgpgout ', 'pswpin ', 'pswpout ', 'pgfault ', 'pgmajfault ', 'oom_kill '].map((key) =>
    numberAfter(text, key),
  );
}

/** Physical memory, swap, huge pages and the traffic between them and disk. */
export function memory({ roots, clock }: Context): Source {
  const meminfo = new KernelFile(join(roots.proc, 'meminfo'));
  const vmstat = new OptionalFile(join(roots.proc, 'vmstat'), clock);
  const history = new CounterHistory();
  let page_bytes = Number.NaN;
  return {
    name: 'memory',
    tables: ['memory'],
    open() {
      meminfo.open();
      page_bytes = pageBytes(roots.proc);
    },
    sample(): Tables {
      const now = parseMeminfo(meminfo.text());
      const counters = parseVmstat(vmstat.text());
      const seconds = history.begin(clock.monotonic_ms());
      const rates = new Rates(history.exchange('', counters), counters, seconds);
      return {
        memory: singleRow<Memory>({
          ...now,
          page_in_bytes_per_second: rates.perSecond(0, 1024),
          page_out_bytes_per_second: rates.perSecond(1, 1024),
          swap_in_bytes_per_second: rates.perSecond(2, page_bytes),
          swap_out_bytes_per_second: rates.perSecond(3, page_bytes),
          // The kernel's count of faults contains the major ones.
          minor_faults_per_second: rates.perSecond(4) - rates.perSecond(5),
          major_faults_per_second: rates.perSecond(5),
          oom_kills_per_second: rates.perSecond(6),
        }),
      };
    },
    close() {
      meminfo.close();
      vmstat.close();
    },
    limitations() {
      const sentences = vmstat.missing ? [vmstat.missing] : [];
      if (Number.isNaN(page_bytes))
        sentences.push(
          `The size of a page is not known, and swap traffic with it: ${roots.proc}/self/auxv can't be read`,
        );
      return sentences;
    },
  };
}
