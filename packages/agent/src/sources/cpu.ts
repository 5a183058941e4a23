import { join } from 'node:path';
import type { Cpu, Load, Tables } from '@fleetreel/proto';
import { emptyTable, singleRow } from '#columns.ts';
import { Cursor, KernelFile, numberAfter, OptionalFile, readOnce } from '#files.ts';
import { CounterHistory, percent, Rates } from '#rates.ts';
import type { Context, Source } from '#source.ts';

/** Least time between two readings of the clock frequency: one file for each core. */
const frequencyEvery_ms = 5_000;

/** The same where only cpuinfo tells: a large text, in a virtual machine with a constant in it. */
const cpuinfoEvery_ms = 60_000;

/** Time in /proc/stat is counted in ticks, in these states, each from the start. */
const ticks = ['user', 'nice', 'system', 'idle', 'iowait', 'irq', 'softirq', 'steal', 'guest', 'guest_nice'] as const;
type Ticks = Record<(typeof ticks)[number], number>;

/** /proc/stat. Counters are since boot, in ticks for the cores. */
export type Stat = {
  /** The cores' counters in the order of `ticks`, by number; the sum of all cores by the empty name. */
  cores: Map<string, readonly number[]>;
  interrupts: number;
  contextSwitches: number;
  forks: number;
  runnable: number;
  blocked: number;
  softirqs: number;
};

/** @see https://docs.kernel.org/filesystems/proc.html#miscellaneous-kernel-statistics-in-proc-stat */
export function parseStat(text: string): Stat {
  const cores: Stat['cores'] = new Map();
  const cursor = new Cursor(text);
  for (; !cursor.atEnd && text.startsWith('cpu', cursor.position); cursor.nextLine()) {
    const name = cursor.word().slice(3);
    const counters: number[] = [];
    // Kernels before 2.6.33 have fewer states than ten.
    for (let state = 0; state < ticks.length; state++) counters.push(cursor.atLineEnd ? 0 : cursor.number());
    cores.set(name, counters);
  }
  return {
    cores,
    interrupts: numberAfter(text, 'intr '),
    contextSwitches: numberAfter(text, 'ctxt '),
    forks: numberAfter(text, 'processes '),
    runnable: numberAfter(text, 'procs_running '),
    blocked: numberAfter(text, 'procs_blocked '),
    softirqs: numberAfter(text, 'softirq '),
  };
}

/** /proc/loadavg: the three averages and the number of all tasks. */
export function parseLoadavg(text: string): [one: number, five: number, fifteen: number, tasks: number] {
  const cursor = new Cursor(text);
  const averages = [cursor.number(), cursor.number(), cursor.number()] as const;
  const tasks = cursor.word().split('/')[1];
  return [...averages, tasks ? Number(tasks) : Number.NaN];
}

/** Clock frequencies from /proc/cpuinfo in hertz, by core; empty where it does not tell them (arm64). */
export function parseCpuinfo(text: string): Map<string, number> {
  const frequencies = new Map<string, number>();
  let core = '';
  for (const line of text.split('\n')) {
    if (line.startsWith('processor')) core = line.slice(line.indexOf(':') + 1).trim();
    else if (line.startsWith('cpu MHz')) frequencies.set(core, Number(line.slice(line.indexOf(':') + 1)) * 1e6);
  }
  return frequencies;
}

/**
 * Ticks that passed in each state, guests apart from user and nice, which contain them; undefined when a counter was
 * reset. Idle and iowait may go backwards by themselves (proc(5) warns of it) when the kernel moves time from one to the
 * other: their sum counts then.
 */
export function elapsedTicks(before: readonly number[], now: readonly number[]): Ticks | undefined {
  if (before.length === 0) return undefined;
  const passed = {} as Ticks;
  // By place: what iterates makes two objects for each step, here hundreds in a tick.
  for (let place = 0; place < ticks.length; place++) {
    const state = ticks[place]!;
    passed[state] = (now[place] ?? Number.NaN) - (before[place] ?? Number.NaN);
    if (!(passed[state] >= 0) && state !== 'idle' && state !== 'iowait') return undefined;
  }
  const waiting = passed.idle + passed.iowait;
  if (!(waiting >= 0)) return undefined;
  passed.idle = Math.min(Math.max(passed.idle, 0), waiting);
  passed.iowait = waiting - passed.idle;
  passed.user = Math.max(passed.user - passed.guest, 0);
  passed.nice = Math.max(passed.nice - passed.guest_nice, 0);
  return passed;
}

/** Appends a core's row: its states in percent of their sum. */
function pushCore(table: Cpu, core: string, passed: Ticks | undefined, frequency_hertz: number): void {
  let sum = 0;
  if (passed) for (const state of ticks) sum += passed[state];
  const share = (passedTicks: number | undefined): number => percent(passedTicks ?? Number.NaN, sum);
  table.core.push(core);
  table.used_percent.push(share(passed && sum - passed.idle - passed.iowait));
  table.user_percent.push(share(passed?.user));
  table.nice_percent.push(share(passed?.nice));
  table.system_percent.push(share(passed?.system));
  table.idle_percent.push(share(passed?.idle));
  table.iowait_percent.push(share(passed?.iowait));
  table.irq_percent.push(share(passed?.irq));
  table.softirq_percent.push(share(passed?.softirq));
  table.steal_percent.push(share(passed?.steal));
  table.guest_percent.push(share(passed && passed.guest + passed.guest_nice));
  table.frequency_hertz.push(frequency_hertz);
}

/**
 * The table of all cores, "total" first. The total is the sum of the cores that are in both samples, so that a core that
 * comes or goes does not look like load; the kernel's own sum is used where it shows no single cores.
 */
export function cpuTable(cores: Stat['cores'], history: CounterHistory, frequencies: ReadonlyMap<string, number>): Cpu {
  const table = emptyTable('cpu');
  const passed = new Map<string, Ticks | undefined>();
  let total: Ticks | undefined;
  for (const [core, counters] of cores) {
    const own = elapsedTicks(history.exchange(core, counters), counters);
    passed.set(core, own);
    if (own && core !== '') total = total ? addTicks(total, own) : { ...own };
  }
  if (cores.size === 1) total = passed.get('');
  let frequencySum = 0;
  for (const frequency of frequencies.values()) frequencySum += frequency;
  pushCore(table, 'total', total, frequencySum / frequencies.size);
  for (const [core, own] of passed) if (core !== '') pushCore(table, core, own, frequencies.get(core) ?? Number.NaN);
  return table;
}

function addTicks(sum: Ticks, more: Ticks): Ticks {
  for (const state of ticks) sum[state] += more[state];
  return sum;
}

/** Clock frequencies, read seldom: from cpufreq in sysfs, or else from /proc/cpuinfo. */
class Frequencies {
  readonly #context: Context;
  #hertz: ReadonlyMap<string, number> = new Map();
  #readAgainAt_ms = Number.NEGATIVE_INFINITY;

  constructor(context: Context) {
    this.#context = context;
  }

  get missing(): boolean {
    return this.#hertz.size === 0;
  }

  of(cores: Iterable<string>): ReadonlyMap<string, number> {
    const now = this.#context.clock.monotonic_ms();
    if (now < this.#readAgainAt_ms) return this.#hertz;
    const { proc, sys } = this.#context.roots;
    const hertz = new Map<string, number>();
    for (const core of cores) {
      if (core === '') continue;
      const kilohertz = readOnce(join(sys, `devices/system/cpu/cpu${core}/cpufreq/scaling_cur_freq`));
      if (kilohertz !== '') hertz.set(core, Number(kilohertz) * 1000);
      // A machine that can't tell it for its first core can't for the others.
      else if (hertz.size === 0) break;
    }
    this.#hertz = hertz.size > 0 ? hertz : parseCpuinfo(readOnce(join(proc, 'cpuinfo')));
    this.#readAgainAt_ms = now + (hertz.size > 0 ? frequencyEvery_ms : cpuinfoEvery_ms);
    return this.#hertz;
  }
}

/** What the cores do, and how much there is to run. */
export function cpu(context: Context): Source {
  const { roots, clock } = context;
  const stat = new KernelFile(join(roots.proc, 'stat'));
  const loadavg = new OptionalFile(join(roots.proc, 'loadavg'), clock);
  const uptime = new OptionalFile(join(roots.proc, 'uptime'), clock);
  const fileNr = new OptionalFile(join(roots.proc, 'sys/fs/file-nr'), clock);
  const frequencies = new Frequencies(context);
  const history = new CounterHistory();
  return {
    name: 'cpu',
    tables: ['cpu', 'load'],
    open: () => stat.open(),
    sample(): Tables {
      const now = parseStat(stat.text());
      const seconds = history.begin(clock.monotonic_ms());
      const counters = [now.contextSwitches, now.interrupts, now.softirqs, now.forks];
      const rates = new Rates(history.exchange('load', counters), counters, seconds);
      const [load_1m_count, load_5m_count, load_15m_count, tasks_count] = parseLoadavg(loadavg.text());
      // Allocated, allocated but unused (always 0 since Linux 2.6), limit.
      const descriptors = new Cursor(fileNr.text());
      const file_descriptors_count = descriptors.number();
      descriptors.skip(1);
      const load = singleRow<Load>({
        load_1m_count,
        load_5m_count,
        load_15m_count,
        tasks_runnable_count: now.runnable,
        tasks_blocked_count: now.blocked,
        tasks_count,
        context_switches_per_second: rates.perSecond(0),
        interrupts_per_second: rates.perSecond(1),
        softirqs_per_second: rates.perSecond(2),
        forks_per_second: rates.perSecond(3),
        file_descriptors_count,
        file_descriptors_limit_count: descriptors.number(),
        uptime_seconds: new Cursor(uptime.text()).number(),
      });
      return { cpu: cpuTable(now.cores, history, frequencies.of(now.cores.keys())), load };
    },
    close() {
      for (const file of [stat, loadavg, uptime, fileNr]) file.close();
    },
    limitations() {
      const sentences = [loadavg, uptime, fileNr].flatMap((file) => file.missing ?? []);
      if (frequencies.missing)
        sentences.push('Clock frequencies are not known: neither cpufreq in sysfs nor /proc/cpuinfo tells them');
      return sentences;
    },
  };
}
