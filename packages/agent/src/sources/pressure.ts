import { join } from 'node:path';
import type { Tables } from '@fleetreel/proto';
import { emptyTable } from '#columns.ts';
import { numberAfter, OptionalFile } from '#files.ts';
import { CounterHistory, Rates } from '#rates.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

const resources = ['cpu', 'memory', 'io', 'irq'] as const;

/** One line of a pressure file: averages in percent, total in microseconds since boot. */
export type Stall = { average_10s: number; average_60s: number; average_300s: number; total_us: number };

/**
 * One line, "some" or "full", of a file in /proc/pressure; all absent where the kernel has no such line (cpu had no
 * "full" before 5.13, irq has no "some").
 * @see https://docs.kernel.org/accounting/psi.html
 */
export function parseStall(text: string, kind: 'some' | 'full'): Stall {
  const start = text.startsWith(kind) ? 0 : text.indexOf(`\n${kind} `) + 1;
  const end = text.indexOf('\n', start);
  const line = text.startsWith(`${kind} `, start) && end > 0 ? text.slice(start, end) : '';
  const value = (key: string): number => {
    const at = line.indexOf(` ${key}=`);
    return at < 0 ? Number.NaN : numberAfter(`${line.slice(at + 1)}\n`, `${key}=`);
  };
  return {
    average_10s: value('avg10'),
    average_60s: value('avg60'),
    average_300s: value('avg300'),
    total_us: value('total'),
  };
}

/** The share of time in which work waited for a resource. */
export function pressure({ roots, clock }: Context): Source {
  const files = resources.map((resource) => new OptionalFile(join(roots.proc, 'pressure', resource), clock));
  const history = new CounterHistory();
  return {
    name: 'pressure',
    tables: ['pressure'],
    open() {
      if (files.some((file) => file.text() !== '')) return;
      const [first] = files;
      throw new Unavailable(
        `${first?.missing}: pressure needs Linux 4.20 or newer, booted with psi=1 where it is off by default`,
      );
    },
    sample(): Tables {
      const table = emptyTable('pressure');
      const seconds = history.begin(clock.monotonic_ms());
      for (const [index, resource] of resources.entries()) {
        const text = files[index]?.text() ?? '';
        if (text === '') continue;
        const some = parseStall(text, 'some');
        const full = parseStall(text, 'full');
        const counters = [some.total_us, full.total_us];
        const rates = new Rates(history.exchange(resource, counters), counters, seconds);
        table.resource.push(resource);
        // Above 100 only by what passes between reading the clock and reading the file.
        table.some_percent.push(Math.min(rates.perSecond(0, 1e-4), 100));
        table.full_percent.push(Math.min(rates.perSecond(1, 1e-4), 100));
        table.some_10s_percent.push(some.average_10s);
        table.some_60s_percent.push(some.average_60s);
        table.some_300s_percent.push(some.average_300s);
        table.full_10s_percent.push(full.average_10s);
        table.full_60s_percent.push(full.average_60s);
        table.full_300s_percent.push(full.average_300s);
      }
      return { pressure: table };
    },
    close() {
      for (const file of files) file.close();
    },
    limitations: () => files.flatMap((file) => file.missing ?? []),
  };
}
