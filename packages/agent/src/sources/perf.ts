import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Perf, Tables } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { singleRow } from '#columns.ts';
import { readOnce } from '#files.ts';
import {
  closeMilliseconds,
  perfAnswerMilliseconds,
  perfIntervalMilliseconds,
  perfOutputCharactersMax,
  perfQuietMilliseconds,
  perfSilentIntervals,
} from '#limits.ts';
import { percent } from '#rates.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

/** Counted by the kernel: on every machine. */
const ofKernel = [
  'cpu-clock',
  'context-switches',
  'cpu-migrations',
  'page-faults',
  'minor-faults',
  'major-faults',
] as const;

/**
 * Counted by the processors, where they have them. Those of a pair are counted at the same time, where a processor has fewer
 * counters than there are events and they take turns: what one is of the other is right then, too.
 */
const pairs = [
  ['cycles', 'instructions'],
  ['branches', 'branch-misses'],
  ['L1-dcache-loads', 'L1-dcache-load-misses'],
  ['L1-icache-loads', 'L1-icache-load-misses'],
  ['LLC-loads', 'LLC-load-misses'],
  ['dTLB-loads', 'dTLB-load-misses'],
  ['iTLB-loads', 'iTLB-load-misses'],
] as const;

export type PerfEvent = (typeof ofKernel)[number] | (typeof pairs)[number][number];
const ofProcessor: readonly PerfEvent[] = pairs.flat();
export const perfEvents: readonly PerfEvent[] = [...ofKernel, ...ofProcessor];

/** A line of what `perf stat -I` writes. */
export type PerfLine = {
  /** Seconds since perf began to count, at the end of the interval. */
  at_s: number;
  event: PerfEvent;
  /** Kind of processor that counted it, where a machine has several: cpu_core, cpu_atom. */
  unit: string;
  /** Scaled up to the whole interval where it did not run all the time; milliseconds for cpu-clock; NaN when absent. */
  count: number;
  /** Why it is absent. */
  absence: 'not supported' | 'not counted' | undefined;
  /** Share of the time that its counter ran. */
  running_percent: number;
};

const separator = ';';
const known = new Map<string, PerfEvent>(perfEvents.map((event) => [event, event]));

/**
 * A line of `perf stat -x`: time, count, unit, event, time that the counter ran, share of it, and what perf computes by itself.
 * Undefined for anything else: comments, lines of computed values only. An event's name may be in that of the unit that
 * counts it, and be followed by modifiers: cpu_core/cycles/, cycles:u. The field of the unit is missing before Linux 3.16.
 * JSON (-j) would say the same, but came with 6.0 only and was not valid JSON in several versions since.
 * @param timed with the time, as in interval mode
 * @see https://man7.org/linux/man-pages/man1/perf-stat.1.html "CSV FORMAT"
 */
export function parsePerfLine(line: string, timed = true): PerfLine | undefined {
  const fields = line.split(separator);
  const at_s = timed ? Number(fields.shift()?.trim() || Number.NaN) : 0;
  const [count = ''] = fields;
  for (const place of [2, 1]) {
    const [, unit = '', name = ''] = /^(?:([^/]+)\/)?([\w-]+)(?:\/\w*|:\w+)?$/.exec(fields[place] ?? '') ?? [];
    const event = known.get(name);
    if (!event) continue;
    const absent = /^<(not supported|not counted)>$/.exec(count.trim())?.[1];
    const running = fields[place + 2] ?? '';
    const value = Number(count.trim() || Number.NaN);
    if (Number.isNaN(at_s) || (absent === undefined && Number.isNaN(value))) return undefined;
    return {
      at_s,
      event,
      unit,
      count: absent === undefined ? value : Number.NaN,
      absence: absent as PerfLine['absence'],
      running_percent: absent === 'not counted' ? 0 : Number(running || 100),
    };
  }
  return undefined;
}

/** Events in the order of their columns. */
type Sum = { count: number; seconds: number };

/** What was counted in one or more intervals. */
export type Counted = {
  seconds: number;
  /** Of each event that was counted: how often, and over which time. */
  sums: ReadonlyMap<PerfEvent, Sum>;
  running_percent: number;
};

/** Adds up intervals until they are taken, so that none is lost or doubled whatever the pace of the samples is. */
export class Intervals {
  #before_s = 0;
  #open: { at_s: number; lines: PerfLine[] } | undefined;
  #seconds = 0;
  #sums = new Map<PerfEvent, Sum>();
  #running_percent = Number.NaN;
  /** Lines of the newest complete interval. */
  newest: readonly PerfLine[] = [];

  add(line: PerfLine): void {
    if (this.#open && line.at_s !== this.#open.at_s) this.#complete();
    this.#open ??= { at_s: line.at_s, lines: [] };
    this.#open.lines.push(line);
  }

  /** Everything since it was taken before; undefined when no interval has ended since. `isQuiet`: no line is on its way. */
  take(isQuiet: boolean): Counted | undefined {
    if (isQuiet) this.#complete();
    if (this.#seconds <= 0) return undefined;
    const counted = { seconds: this.#seconds, sums: this.#sums, running_percent: this.#running_percent };
    this.#seconds = 0;
    this.#sums = new Map();
    this.#running_percent = Number.NaN;
    return counted;
  }

  #complete(): void {
    if (!this.#open) return;
    const { at_s, lines } = this.#open;
    const seconds = at_s - this.#before_s;
    this.#before_s = at_s;
    this.#open = undefined;
    this.newest = lines;
    if (seconds <= 0) return;
    this.#seconds += seconds;
    // The kinds of a machine's processors count each for themselves.
    const counts = new Map<PerfEvent, number>();
    for (const { event, count } of lines) if (!Number.isNaN(count)) counts.set(event, (counts.get(event) ?? 0) + count);
    for (const [event, count] of counts) {
      const sum = this.#sums.get(event);
      this.#sums.set(event, { count: (sum?.count ?? 0) + count, seconds: (sum?.seconds ?? 0) + seconds });
    }
    for (const { event, absence, running_percent } of lines)
      if (ofProcessor.includes(event) && absence !== 'not supported')
        this.#running_percent = Math.min(
          running_percent,
          Number.isNaN(this.#running_percent) ? 100 : this.#running_percent,
        );
  }
}

/** The table's row from what was counted. */
export function perfRow({ seconds, sums, running_percent }: Counted): Perf {
  const perSecond = (event: PerfEvent): number => {
    const sum = sums.get(event);
    return sum ? sum.count / sum.seconds : Number.NaN;
  };
  // Some processors count as loads only what the next level answered, so that there are more misses than loads.
  const share = (misses: PerfEvent, loads: PerfEvent): number => {
    const value = percent(perSecond(misses), perSecond(loads));
    return value <= 100 ? value : Number.NaN;
  };
  const cycles = perSecond('cycles');
  return singleRow<Perf>({
    interval_seconds: seconds,
    cpu_clock_percent: perSecond('cpu-clock') / 10,
    context_switches_per_second: perSecond('context-switches'),
    cpu_migrations_per_second: perSecond('cpu-migrations'),
    page_faults_per_second: perSecond('page-faults'),
    minor_faults_per_second: perSecond('minor-faults'),
    major_faults_per_second: perSecond('major-faults'),
    cycles_per_second: cycles,
    instructions_per_second: perSecond('instructions'),
    instructions_per_cycle_ratio: cycles > 0 ? perSecond('instructions') / cycles : Number.NaN,
    branches_per_second: perSecond('branches'),
    branch_misses_per_second: perSecond('branch-misses'),
    branch_miss_percent: share('branch-misses', 'branches'),
    l1d_loads_per_second: perSecond('L1-dcache-loads'),
    l1d_load_misses_per_second: perSecond('L1-dcache-load-misses'),
    l1d_load_miss_percent: share('L1-dcache-load-misses', 'L1-dcache-loads'),
    l1i_loads_per_second: perSecond('L1-icache-loads'),
    l1i_load_misses_per_second: perSecond('L1-icache-load-misses'),
    l1i_load_miss_percent: share('L1-icache-load-misses', 'L1-icache-loads'),
    llc_loads_per_second: perSecond('LLC-loads'),
    llc_load_misses_per_second: perSecond('LLC-load-misses'),
    llc_load_miss_percent: share('LLC-load-misses', 'LLC-loads'),
    dtlb_loads_per_second: perSecond('dTLB-loads'),
    dtlb_load_misses_per_second: perSecond('dTLB-load-misses'),
    dtlb_load_miss_percent: share('dTLB-load-misses', 'dTLB-loads'),
    itlb_loads_per_second: perSecond('iTLB-loads'),
    itlb_load_misses_per_second: perSecond('iTLB-load-misses'),
    itlb_load_miss_percent: share('iTLB-load-misses', 'iTLB-loads'),
    running_percent,
  });
}

const searchPath = (): string => process.env.PATH || '/usr/bin:/bin';

/** Its own language and no settings of a user: what it writes is read by a program. */
const environment = () => ({ PATH: searchPath(), LC_ALL: 'C', PERF_CONFIG: '/dev/null' });

type Answer = { code: number | null; output: string; errors: string };

/** Runs it to its end. @throws Error where that takes too long, or it can't be run */
function ask(program: string, args: readonly string[]): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env: environment(), stdio: ['ignore', 'pipe', 'pipe'] });
    const late = setTimeout(() => {
      child.kill('SIGKILL');
      // What it started itself may hold the other ends.
      child.stdout.destroy();
      child.stderr.destroy();
      reject(new Error(`${program} ${args[0]} has not answered for ${perfAnswerMilliseconds / 1000} s`));
    }, perfAnswerMilliseconds);
    let output = '';
    let errors = '';
    const more = (before: string, text: string): string => (before + text).slice(0, perfOutputCharactersMax);
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output = more(output, text);
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors = more(errors, text);
    });
    child.on('error', (cause) => {
      clearTimeout(late);
      reject(cause);
    });
    child.on('close', (code) => {
      clearTimeout(late);
      resolve({ code, output, errors });
    });
  });
}

/**
 * Where a perf is, best first. What is called perf may be a script that looks for the version of the running kernel only, while any
 * other works as well: Debian kept them as perf_<version> until 11, Ubuntu has a folder for each.
 */
export function perfPrograms(usr: string, path = searchPath()): string[] {
  const inside = (folder: string, pattern: RegExp): string[] => {
    try {
      return readdirSync(folder)
        .filter((name) => pattern.test(name))
        .sort((a, b) => b.localeCompare(a, 'en', { numeric: true }))
        .map((name) => join(folder, name));
    } catch {
      return [];
    }
  };
  return [
    ...path.split(':').map((folder) => join(folder, 'perf')),
    ...inside(join(usr, 'bin'), /^perf_\d/),
    ...inside(join(usr, 'lib'), /^linux-tools-\d/).map((folder) => join(folder, 'perf')),
    ...inside(join(usr, 'lib/linux-tools'), /^\d/).map((folder) => join(folder, 'perf')),
  ].filter((program) => existsSync(program));
}

/** The first that works. @throws Unavailable */
async function findPerf(programs: readonly string[]): Promise<string> {
  for (const program of programs) {
    try {
      const { code, output } = await ask(program, ['--version']);
      if (code === 0 && output.startsWith('perf version')) return program;
    } catch {
      // Not there, or not a program.
    }
  }
  throw new Unavailable(
    'there is no perf here: install linux-perf (Debian), linux-tools-generic (Ubuntu) or perf (Fedora, RHEL, SUSE, Arch)',
  );
}

const stat = (events: string): string[] => ['stat', '-a', '-x', separator, '--log-fd', '1', '-e', events];

/** What can be counted here, and what not. */
export type Countable = {
  supported: readonly PerfEvent[];
  unsupported: readonly PerfEvent[];
  /** This version of perf does not know them, or fails with them. */
  unknown: readonly PerfEvent[];
};

/**
 * Counts all events for a moment: one that it does not know makes perf refuse them all, and one that the processor does not
 * count must not lead a group.
 * @throws Unavailable where it is not permitted
 */
export async function countable(program: string, events: readonly string[], paranoid: string): Promise<Countable> {
  const answer = await ask(program, [...stat(events.join(',')), '--', 'true']);
  const denied = permission(answer, paranoid);
  if (denied) throw new Unavailable(denied);
  if (answer.code === 0) {
    const lines = answer.output.split('\n').flatMap((line) => parsePerfLine(line, false) ?? []);
    const supported = new Set(lines.filter(({ absence }) => absence !== 'not supported').map(({ event }) => event));
    const all = events as PerfEvent[];
    return {
      supported: all.filter((event) => supported.has(event)),
      unsupported: all.filter((event) => !supported.has(event)),
      unknown: [],
    };
  }
  const taken: string[] = [];
  for (const event of events) {
    // Since 7.0 it fails when there is nothing at all that it can count.
    const { code } = await ask(program, [...stat(`cpu-clock,${event}`), '--', 'true']);
    if (code === 0) taken.push(event);
  }
  if (taken.length === 0 || taken.length === events.length)
    throw new Error(`perf can't count here: ${firstLine(answer.errors) || `it ended with ${answer.code}`}`);
  const rest = await countable(program, taken, paranoid);
  return { ...rest, unknown: events.filter((event) => !taken.includes(event)) as PerfEvent[] };
}

const firstLine = (text: string): string =>
  text
    .split('\n')
    .map((line) => line.trim())
    .find((line) => line !== '' && line !== 'Error:') ?? '';

/** Why it may not count, and what would change that; undefined where it may. */
export function permission({ code, errors }: Pick<Answer, 'code' | 'errors'>, paranoid: string): string | undefined {
  if (code === 0 || !/paranoid|permission|not permitted|access to performance/i.test(errors)) return undefined;
  const level = Number(paranoid.trim() || Number.NaN);
  const change =
    'give the agent the capability CAP_PERFMON as an ambient one (AmbientCapabilities of systemd; CAP_SYS_ADMIN before Linux ' +
    '5.8; a container needs a seccomp profile that allows perf_event_open besides)';
  if (!(level >= 1))
    return `the kernel does not permit to count events, by a security module or a container's rules: ${change}`;
  const means =
    level >= 3
      ? 'nobody without privileges may count anything'
      : level === 2
        ? 'others may count what their own programs do outside of the kernel only'
        : 'others may count what their own programs do only';
  return `kernel.perf_event_paranoid is ${level}, so that ${means}: ${change}, or set kernel.perf_event_paranoid to 0 by sysctl`;
}

/** The events in perf's language: pairs as groups, taken apart by perf itself (:W) where a processor can't count both at once. */
export function eventList(supported: readonly PerfEvent[], grouped: boolean): string {
  const has = (event: PerfEvent): boolean => supported.includes(event);
  return [
    ...ofKernel.filter(has),
    ...pairs.flatMap((pair) =>
      grouped && pair.every(has) ? [`{${pair.join(',')}}:W`] : (pair as readonly PerfEvent[]).filter(has),
    ),
  ].join(',');
}

/**
 * A perf that goes on counting. It measures as long as a `cat` runs that waits for this process to close a pipe: when this
 * process ends, however that happens, the pipe is closed, cat ends, and perf with it.
 */
class Counting {
  readonly #child: ChildProcess;
  readonly #clock: Clock;
  readonly #ended: Promise<void>;
  readonly intervals = new Intervals();
  #torn = '';
  #errors = '';
  heard_ms: number;
  /** Why it has ended. */
  failure: string | undefined;

  constructor(program: string, events: string, interval_ms: number, clock: Clock) {
    this.#clock = clock;
    this.heard_ms = clock.monotonic_ms();
    const args = [...stat(events), '-I', String(interval_ms), '--', 'cat'];
    const child = spawn(program, args, { env: environment(), stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child = child;
    child.stdin.on('error', () => {});
    child.stdout.setEncoding('utf8').on('data', (text: string) => this.#take(text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.#errors = (this.#errors + text).slice(-4096);
    });
    this.#ended = new Promise((resolve) => {
      const ended = (how: string): void => {
        // Its cat would wait for ever otherwise.
        child.stdin.destroy();
        this.failure ??= `perf has ended (${how})${this.#errors === '' ? '' : `: ${firstLine(this.#errors)}`}`;
        resolve();
      };
      child.on('error', (cause) => ended(cause.message));
      child.on('exit', (code, signal) => ended(signal ?? `code ${code}`));
    });
  }

  get pid(): number | undefined {
    return this.#child.pid;
  }

  #take(text: string): void {
    this.heard_ms = this.#clock.monotonic_ms();
    const lines = (this.#torn + text).split('\n');
    this.#torn = lines.pop() ?? '';
    if (this.#torn.length > perfOutputCharactersMax) this.#torn = '';
    for (const line of lines) {
      const parsed = parsePerfLine(line);
      if (parsed) this.intervals.add(parsed);
    }
  }

  /** Resolves when it is gone. */
  async stop(): Promise<void> {
    this.#child.stdin?.destroy();
    if (this.failure === undefined) this.#child.kill('SIGTERM');
    const late = setTimeout(() => this.#child.kill('SIGKILL'), closeMilliseconds / 2);
    await this.#ended;
    clearTimeout(late);
  }
}

/** Counters of the processors and the kernel over the whole machine, by one perf that runs as long as the source is open. */
export function perf(
  { roots, clock }: Context,
  interval_ms = perfIntervalMilliseconds,
  programs = () => perfPrograms('/usr'),
): Source & { readonly pid: number | undefined } {
  let counting: Counting | undefined;
  let can: Countable | undefined;
  let hasUnit = false;
  let said: { can?: Countable; newest: readonly PerfLine[]; sentences: string[] } = { newest: [], sentences: [] };
  let processors = '';
  let events = '';
  let start: ((isStuckInGroups: boolean) => void) | undefined;
  const online = (): string => readOnce(join(roots.sys, 'devices/system/cpu/online'));
  const beginAgain = async (isStuckInGroups: boolean): Promise<void> => {
    await counting?.stop();
    start?.(isStuckInGroups);
  };

  return {
    name: 'perf',
    tables: ['perf'],
    get pid() {
      return counting?.pid;
    },
    async open() {
      const paranoid = readOnce(join(roots.proc, 'sys/kernel/perf_event_paranoid'));
      if (paranoid === '')
        throw new Unavailable('this kernel counts no events (it was built without CONFIG_PERF_EVENTS)');
      const program = await findPerf(programs());
      can = await countable(program, perfEvents, paranoid);
      // Here, and not each time that somebody asks why counters are absent.
      hasUnit = kernelHasUnit(roots.sys);
      const flat = eventList(can.supported, false);
      events = await takenList(program, can);
      start = (isStuckInGroups) => {
        processors = online();
        if (isStuckInGroups) events = flat;
        counting = new Counting(program, events, interval_ms, clock);
      };
      start(false);
    },
    sample(): Tables | Promise<Tables> {
      if (!counting) throw new Error('perf is not running');
      if (counting.failure !== undefined) throw new Error(counting.failure);
      const silent_ms = clock.monotonic_ms() - counting.heard_ms;
      if (silent_ms > perfSilentIntervals * interval_ms)
        throw new Error(`perf has said nothing for ${Math.round(silent_ms / 1000)} s`);
      const counted = counting.intervals.take(silent_ms >= perfQuietMilliseconds);
      if (!counted) return {};
      // It counts the processors that were there when it began.
      const isStuckInGroups = events.includes('{') && isStuck(counting.intervals.newest);
      const rows = { perf: perfRow(counted) };
      return isStuckInGroups || online() !== processors ? beginAgain(isStuckInGroups).then(() => rows) : rows;
    },
    async close() {
      await counting?.stop();
      counting = undefined;
    },
    limitations() {
      const newest = counting?.intervals.newest ?? [];
      // They are asked for at every tick, and there are new numbers once in ten.
      if (can && (said.can !== can || said.newest !== newest))
        said = { can, newest, sentences: absences(can, newest, hasUnit) };
      return can ? said.sentences : [];
    },
  };
}

/** The list of events with groups, or without where this perf or this machine does not take them. */
async function takenList(program: string, { supported }: Countable): Promise<string> {
  const grouped = eventList(supported, true);
  const flat = eventList(supported, false);
  if (grouped === flat) return flat;
  const { code, output } = await ask(program, [...stat(grouped), '--', 'true']);
  const lines = output.split('\n').flatMap((line) => parsePerfLine(line, false) ?? []);
  const counted = new Set(lines.filter(({ absence }) => absence !== 'not supported').map(({ event }) => event));
  return code === 0 && supported.every((event) => counted.has(event)) ? grouped : flat;
}

/** A pair got no counters together, and may get them one at a time. */
export const isStuck = (newest: readonly PerfLine[]): boolean =>
  pairs.some((pair) =>
    pair.every((event) => newest.some((line) => line.event === event && line.absence === 'not counted')),
  );

/** Why counters are absent: one sentence for each reason. `hasUnit` as `kernelHasUnit` says. */
export function absences(can: Countable, newest: readonly PerfLine[], hasUnit: boolean): string[] {
  const sentences: string[] = [];
  const unsupported = can.unsupported;
  if (unsupported.length > 0)
    sentences.push(
      !hasUnit && ofProcessor.every((event) => unsupported.includes(event) || can.unknown.includes(event))
        ? "The processors' own counters (cycles, instructions, branches, caches, TLBs) are not available: the kernel sees no " +
            'performance monitoring unit, as in most virtual machines, whose host may pass one on (in libvirt: host-passthrough ' +
            'and pmu on).'
        : `This processor, or its driver, does not count ${unsupported.join(', ')}.`,
    );
  if (can.unknown.length > 0)
    sentences.push(`This version of perf does not count ${can.unknown.join(', ')}: a newer one may.`);
  const waiting = newest.filter(({ absence }) => absence === 'not counted').map(({ event }) => event);
  if (waiting.length > 0)
    sentences.push(
      `In the last interval ${[...new Set(waiting)].join(', ')} got no counter: another program, or the kernel's NMI watchdog ` +
        '(sysctl kernel.nmi_watchdog), holds them.',
    );
  const counted = new Set(newest.filter(({ absence }) => absence === undefined).map(({ event }) => event));
  const partly = newest.filter(({ event, absence }) => absence === 'not supported' && counted.has(event));
  for (const unit of new Set(partly.map((line) => line.unit))) {
    const events = partly.filter((line) => line.unit === unit).map(({ event }) => event);
    sentences.push(`The processors of ${unit} do not count ${events.join(', ')}.`);
  }
  for (const [all, misses] of pairs.slice(1)) {
    const total = (wanted: PerfEvent): number =>
      newest.reduce((sum, { event, count }) => (event === wanted ? sum + count : sum), 0);
    if (total(misses) > total(all) && total(all) >= 0)
      sentences.push(`This processor counts more ${misses} than ${all}, so that there is no share of them.`);
  }
  return sentences;
}

/** The kernel drives a unit that counts for the processors. */
export function kernelHasUnit(sys: string): boolean {
  try {
    return readdirSync(join(sys, 'bus/event_source/devices')).some((name) => /^(?:cpu|arm|riscv|apple|dsu)/.test(name));
  } catch {
    return false;
  }
}
