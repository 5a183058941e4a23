import { closeSync, opendirSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Process, ProcessClass, ProcessState, Tables } from '@fleetreel/proto';
import { kernelClass, otherClass } from '#classes.ts';
import { emptyTable } from '#columns.ts';
import { numberAfter, pageBytes, readOnce } from '#files.ts';
import {
  processDescriptorsMax,
  processDescriptorsShareMax,
  processEventsPerScanMax,
  processesMax,
  processesPerTurn,
  processScanCoreShareMax,
  processScanMilliseconds,
  processScanSavedMilliseconds,
} from '#limits.ts';
import { ProcessStat, ticksPerSecond } from '#process_stat.ts';
import { increase } from '#rates.ts';
import { type Context, type ProcessIdentity, type Source, Unavailable } from '#source.ts';
import { Users } from '#users.ts';

/** All processes are read each time. */
const every_ms = 5000;

/**
 * I/O counters are read of processes that used CPU time since they were last read, of which I/O takes some, and of the others in
 * turns: a process that is not read has used less than 10 ms, and its I/O comes with the next reading, at the latest after so many scans.
 */
const scansPerIoRound = 12;

/** What its status says is asked again when it has used CPU time or its memory has changed, and in turns: it can't have done much else. */
const scansPerStatusRound = 12;

/** Whether a process is still who it was is asked in turns, too: a changed name or program is seen at once. */
const scansPerIdentityRound = 64;

/** Classes whose processes are not recorded when they start and stop. */
const quietClasses = new Set([otherClass, 'system', kernelClass]);

/** So far up the parents of a process are looked at. */
const ancestorsMax = 32;

/** Descriptors that are counted one by one where the kernel does not say how many there are. */
const descriptorsCountedMax = 4096;

/** The states in the order of the table. Letters that kernels have used for them: proc(5). */
const states = {
  running: 'R',
  sleeping: 'S',
  disk_sleep: 'D',
  stopped: 'T',
  traced: 't',
  zombie: 'Z',
  dead: 'Xx',
  parked: 'P',
  idle: 'I',
  // Between two others: "wakekill", "waking" of Linux 2.6.33 to 3.13, and what a later kernel may have.
  unknown: 'KW',
} as const;
const stateNames = Object.keys(states);
/** For each code of a letter the place of its state among the names. */
const placeOfCode = new Uint8Array(256).fill(stateNames.indexOf('unknown'));
for (const [place, letters] of Object.values(states).entries())
  for (const letter of letters) placeOfCode[letter.charCodeAt(0)] = place;
const stateOf = (code: number): string => stateNames[placeOfCode[code]!]!;

/** A process as it was seen last. */
class Seen {
  readonly pid: number;
  /** Clock ticks since boot. */
  readonly start: number;
  identity: ProcessIdentity;
  nameHash = 0;
  startCode = 0;
  /** The scan that saw it last. */
  scan = 0;
  at_ms = Number.NaN;
  state = 0;
  parent = 0;
  isKernelThread = false;
  threads = 0;
  residentPages = 0;
  userTicks = Number.NaN;
  systemTicks = Number.NaN;
  majorFaults = Number.NaN;
  /** Percent of one core, and faults per second, since the scan before. */
  cpuUser = Number.NaN;
  cpuSystem = Number.NaN;
  faults = Number.NaN;
  /** Its counters of I/O, when and after how much CPU time they were read, and by which scan. */
  readBytes = Number.NaN;
  writeBytes = Number.NaN;
  io_ms = Number.NaN;
  ioTicks = Number.NaN;
  ioScan = 0;
  mayReadIo = true;
  /** Bytes per second between the last two readings. */
  reads = Number.NaN;
  writes = Number.NaN;
  /** What children that have ended since are known to have read and written: the kernel adds it to what their parent did. */
  childrenReadBytes = 0;
  childrenWriteBytes = 0;
  /** When it was started: seconds since 1970. */
  startTime_s = Number.NaN;
  /** Its class when events were last thought of; empty before. */
  class = '';
  /** Seconds since boot since when it has that class. */
  since_s = Number.NaN;
  /** As what its start was recorded, or would have been had the agent run then: as that its stop will be. */
  recorded: ProcessIdentity | undefined;
  hasEnded = false;
  /** What its file status said last. */
  status: Status | undefined;
  /** Its file stat, kept open. */
  descriptor: number | undefined;

  constructor(pid: number, start: number, identity: ProcessIdentity) {
    this.pid = pid;
    this.start = start;
    this.identity = identity;
  }

  get cpu(): number {
    return this.cpuUser + this.cpuSystem;
  }

  get io(): number {
    return this.reads + this.writes;
  }
}

/** Of /proc/<pid>/status, and the number of its descriptors; with its CPU time and memory when they were read. */
type Status = {
  ticks: number;
  pages: number;
  uid: string;
  resident_bytes: number;
  anonymous_bytes: number;
  swap_bytes: number;
  descriptors: number;
};

/** Processes: those that use most, how many are in which state, what each class uses, and when they start and stop. */
export function process(context: Context): Source {
  const { roots, clock } = context;
  let scan = new Scanner(context);
  let scanning: Promise<void> | undefined;
  let result: { tables: Tables } | { cause: unknown } | undefined;
  return {
    name: 'process',
    tables: ['process', 'process_state', 'process_class'],
    every_ms,
    open() {
      let entries: string[];
      try {
        entries = firstEntries(roots.proc);
      } catch (cause) {
        throw new Unavailable(`${roots.proc} can't be read: ${(cause as Error).message}`, { cause });
      }
      const stat = new ProcessStat();
      if (!entries.some((name) => isPid(name) && stat.read(join(roots.proc, name, 'stat'))))
        throw new Unavailable(`${roots.proc} shows no processes: is the proc file system mounted there?`);
      scan = new Scanner(context);
    },
    async sample(): Promise<Tables> {
      if (scanning === undefined && clock.monotonic_ms() >= scan.notBefore_ms)
        scanning = scan
          .run()
          .then((tables) => {
            result = { tables };
          })
          .catch((cause: unknown) => {
            result = { cause };
          })
          .finally(() => {
            scanning = undefined;
          });
      if (scanning) {
        const answered = new AbortController();
        const over = clock.sleep(processScanMilliseconds, answered.signal).catch(() => undefined);
        await Promise.race([scanning, over]);
        answered.abort();
      }
      const got = result;
      result = undefined;
      if (got && 'cause' in got) throw got.cause;
      return got?.tables ?? {};
    },
    async close() {
      scan.stop();
      await scanning;
      scan.close();
    },
    limitations: () => scan.limitations(),
  };
}

/** Looks at all processes, again and again. */
class Scanner {
  readonly #context: Context;
  readonly #proc: string;
  readonly #stat = new ProcessStat();
  readonly #users: Users;
  readonly #pageBytes: number;
  readonly #hides: string | undefined;
  readonly #ioMayHang: boolean;
  readonly #seen = new Map<number, Seen>();
  readonly #classes = new Set<string>();
  #scan = 0;
  #isStopped = false;
  #busy_us = 0;
  /** CPU time that scans may still take, milliseconds. */
  #saved_ms: number = processScanSavedMilliseconds;
  #slice: NodeJS.CpuUsage | undefined;
  /** Seconds since boot, now and at the scan before. */
  #uptime_s = Number.NaN;
  #before_s = Number.NaN;
  #at_ms = Number.NaN;
  #eventsLeft = 0;
  #areEventsLost = false;
  #isIoDenied = false;
  #kernelThreads = 0;
  #tooMany = false;
  #descriptorsLeft: number;
  /** Monotonic milliseconds before which there is no further scan. */
  notBefore_ms = Number.NEGATIVE_INFINITY;

  constructor(context: Context) {
    this.#context = context;
    this.#proc = context.roots.proc;
    this.#users = new Users(context.roots.etc);
    this.#pageBytes = pageBytes(this.#proc);
    this.#descriptorsLeft = descriptorsToKeep(this.#proc);
    this.#hides = hidepid(this.#proc);
    this.#ioMayHang = ioMayHang(readOnce(join(this.#proc, 'sys/kernel/osrelease')).trim() || release());
  }

  /** Makes a scan that is under way end soon. */
  stop(): void {
    this.#isStopped = true;
  }

  close(): void {
    for (const seen of this.#seen.values()) this.#forgetDescriptor(seen);
    this.#seen.clear();
  }

  /** Without numbers that change: a reason is a label. */
  limitations(): string[] {
    const found = [...(this.#context.processes.limitations?.() ?? [])];
    if (this.#tooMany)
      found.push(
        `There are more than ${processesMax} processes: those with higher numbers than the first ${processesMax} are not looked at.`,
      );
    if (this.#scan > 0 && this.#kernelThreads === 0)
      found.push(
        this.#hides === undefined
          ? "Only processes of this container are seen: run the agent with the host's process namespace (--pid=host), or give it the host's proc file system with roots.proc."
          : `${this.#proc} is mounted with hidepid=${this.#hides}: other users' processes are not seen; run the agent as root, or as a member of the group that the mount's option gid= names.`,
      );
    if (this.#isIoDenied)
      found.push(
        "The I/O of some processes can't be read: run the agent as root, or with the capabilities CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.",
      );
    if (this.#areEventsLost)
      found.push(
        `Some starts and stops of processes were not recorded: there were more than ${processEventsPerScanMax} at once.`,
      );
    return found;
  }

  async run(): Promise<Tables> {
    const begin_ms = this.#context.clock.monotonic_ms();
    this.#busy_us = 0;
    this.#beginSlice();
    const seconds = (begin_ms - this.#at_ms) / 1000;
    this.#at_ms = begin_ms;
    this.#scan++;
    this.#before_s = this.#uptime_s;
    this.#uptime_s = Number.parseFloat(readOnce(join(this.#proc, 'uptime')));
    this.#eventsLeft = processEventsPerScanMax;
    const now = await this.#lookAtAll(seconds);
    this.#endSlice();
    await this.#context.processes.settled?.();
    this.#beginSlice();
    this.#thinkOfEvents(now);
    await this.#readIoInTurns(now);
    const tables = this.#tables(now, seconds);
    this.#endSlice();
    this.#spend(begin_ms, seconds);
    return tables;
  }

  /** What this scan took comes off what may be taken; where that is gone, the next waits until it has come again. */
  #spend(begin_ms: number, seconds: number): void {
    // Who all processes are was asked by the first: that does not make the second wait.
    if (this.#scan === 1) return;
    const earned_ms = seconds * 1000 * processScanCoreShareMax;
    this.#saved_ms = Math.min(this.#saved_ms + earned_ms, processScanSavedMilliseconds) - this.#busy_us / 1000;
    this.notBefore_ms = begin_ms + Math.max(-this.#saved_ms, 0) / processScanCoreShareMax;
  }

  #beginSlice(): void {
    this.#slice = globalThis.process.cpuUsage();
  }

  #endSlice(): void {
    const { user, system } = globalThis.process.cpuUsage(this.#slice);
    this.#busy_us += user + system;
  }

  /** The rest of the agent has its turn. */
  async #yield(): Promise<void> {
    this.#endSlice();
    await setImmediate();
    this.#beginSlice();
    if (this.#isStopped) throw new Error('the scan was stopped');
  }

  /** All processes that there are now; those that are gone are forgotten. */
  async #lookAtAll(seconds: number): Promise<Seen[]> {
    const now: Seen[] = [];
    let tooMany = false;
    using folder = opendirSync(this.#proc, { bufferSize: 256 });
    for (let entry = folder.readSync(); entry; entry = folder.readSync()) {
      if (!isPid(entry.name)) continue;
      if (now.length >= processesMax) {
        tooMany = true;
        break;
      }
      const seen = this.#look(Number(entry.name), seconds);
      if (!seen) continue;
      now.push(seen);
      if (now.length % processesPerTurn === 0) await this.#yield();
    }
    // Only now: what is said of the scan before stands until this one is done.
    this.#tooMany = tooMany;
    for (const seen of this.#seen.values()) {
      if (seen.scan === this.#scan) continue;
      this.#seen.delete(seen.pid);
      this.#gone(seen);
    }
    return now;
  }

  #look(pid: number, seconds: number): Seen | undefined {
    const stat = this.#stat;
    let seen = this.#seen.get(pid);
    if (!this.#read(pid, seen)) return undefined;
    const { start, nameHash, startCode } = stat;
    if (seen && seen.start !== start) {
      // Another one has its number.
      this.#gone(seen);
      seen = undefined;
    }
    const isNew = seen === undefined;
    const hasChanged = seen?.nameHash !== nameHash || seen.startCode !== startCode;
    // Workers of the kernel put what they work on into their names, and are asked for them when they are shown.
    const mayHaveChanged = (hasChanged && !stat.isKernelThread) || (this.#scan + pid) % scansPerIdentityRound === 0;
    // An ended one has lost its program, and what it was stays true.
    if (!seen || (mayHaveChanged && !stat.hasEnded)) {
      const identity = this.#context.processes.identity(pid);
      if (!identity) return undefined;
      seen ??= new Seen(pid, start, identity);
      seen.identity = identity;
      seen.nameHash = nameHash;
      seen.startCode = startCode;
    }
    if (isNew) this.#begin(seen);
    this.#update(seen, isNew ? seconds : Number.NaN);
    return seen;
  }

  /** Reads a process that has been seen before through the descriptor that is kept of it, or opens one to keep. */
  #read(pid: number, seen: Seen | undefined): boolean {
    const path = `${this.#proc}/${pid}/stat`;
    if (seen?.descriptor !== undefined) {
      if (this.#stat.readKept(seen.descriptor)) return true;
      this.#forgetDescriptor(seen);
    } else if (seen && this.#descriptorsLeft > 0)
      try {
        seen.descriptor = openSync(path, 'r');
        this.#descriptorsLeft--;
        return this.#stat.readKept(seen.descriptor);
      } catch {
        // It is gone, or there are no descriptors left.
      }
    return this.#stat.read(path);
  }

  #forgetDescriptor(seen: Seen): void {
    if (seen.descriptor === undefined) return;
    closeSync(seen.descriptor);
    seen.descriptor = undefined;
    this.#descriptorsLeft++;
  }

  /** A process that was not there at the scan before. */
  #begin(seen: Seen): void {
    this.#seen.set(seen.pid, seen);
    const age_s = this.#uptime_s - seen.start / ticksPerSecond;
    // A container may be told a shorter uptime than that of its kernel: then nothing is known.
    if (age_s > -1) seen.startTime_s = this.#context.clock.now_us() / 1e6 - Math.max(age_s, 0);
    seen.since_s = seen.start / ticksPerSecond;
    // Started since: all that it did was in this interval.
    if (!(seen.since_s >= this.#before_s - 1 / ticksPerSecond)) return;
    seen.userTicks = 0;
    seen.systemTicks = 0;
    seen.majorFaults = 0;
    seen.readBytes = 0;
    seen.writeBytes = 0;
  }

  /** Takes what was just read; `interval_s` for a new process, which has no time of its own before. */
  #update(seen: Seen, interval_s: number): void {
    const stat = this.#stat;
    const now_ms = this.#context.clock.monotonic_ms();
    if (interval_s > 0) {
      seen.at_ms = now_ms - interval_s * 1000;
      seen.io_ms = seen.at_ms;
    }
    const seconds = (now_ms - seen.at_ms) / 1000;
    const perSecond = (before: number, now: number): number =>
      seconds > 0 ? increase(before, now) / seconds : Number.NaN;
    seen.cpuUser = perSecond(seen.userTicks, stat.userTicks) * (100 / ticksPerSecond);
    seen.cpuSystem = perSecond(seen.systemTicks, stat.systemTicks) * (100 / ticksPerSecond);
    seen.faults = perSecond(seen.majorFaults, stat.majorFaults);
    seen.userTicks = stat.userTicks;
    seen.systemTicks = stat.systemTicks;
    seen.majorFaults = stat.majorFaults;
    seen.at_ms = now_ms;
    seen.scan = this.#scan;
    seen.state = stat.state;
    seen.parent = stat.parent;
    seen.isKernelThread = stat.isKernelThread;
    seen.threads = stat.threads;
    seen.residentPages = stat.residentPages;
    if (stat.hasEnded && !seen.hasEnded) {
      seen.hasEnded = true;
      this.#stopped(seen, stat.exitCode(globalThis.process.geteuid?.() === 0));
    }
  }

  #gone(seen: Seen): void {
    this.#forgetDescriptor(seen);
    const parent = this.#seen.get(seen.parent);
    if (parent) {
      parent.childrenReadBytes += seen.readBytes || 0;
      parent.childrenWriteBytes += seen.writeBytes || 0;
    }
    this.#stopped(seen, Number.NaN);
  }

  /** Records starts and stops of classified processes; those that ran before the agent did have no start. */
  #thinkOfEvents(now: readonly Seen[]): void {
    for (const seen of now) {
      const { identity } = seen;
      if (seen.class === identity.class || seen.hasEnded) continue;
      const isFirst = seen.class === '';
      if (!isFirst) {
        // Another program runs in it now.
        this.#stopped(seen, Number.NaN);
        seen.since_s = this.#uptime_s;
      }
      seen.class = identity.class;
      // The workers of a program, as of a web server or a compiler, are part of it: only the outermost process is recorded.
      if (quietClasses.has(seen.class) || this.#isWorker(seen)) continue;
      seen.recorded = { ...identity };
      if (this.#scan === 1) continue;
      const isNow = !isFirst || Number.isNaN(seen.startTime_s);
      this.#record(seen.pid, seen.recorded, 'start', isNow ? {} : { time_us: Math.round(seen.startTime_s * 1e6) });
    }
  }

  #isWorker(seen: Seen): boolean {
    let parent = this.#seen.get(seen.parent);
    for (let steps = 0; parent && steps < ancestorsMax; steps++) {
      if (parent.identity.class === seen.class) return true;
      parent = this.#seen.get(parent.parent);
    }
    return false;
  }

  #stopped(seen: Seen, code: number): void {
    const { recorded } = seen;
    if (!recorded) return;
    seen.recorded = undefined;
    const duration_s = this.#uptime_s - seen.since_s;
    this.#record(seen.pid, recorded, 'stop', { code, duration_s: duration_s >= 0 ? duration_s : Number.NaN });
  }

  #record(
    pid: number,
    { name, class: className, container, command = '' }: ProcessIdentity,
    action: string,
    more: { time_us?: number; duration_s?: number; code?: number },
  ): void {
    if (this.#eventsLeft === 0) {
      this.#areEventsLost = true;
      return;
    }
    this.#eventsLeft--;
    const event = { kind: 'process' as const, action, entity: String(pid), name, class: className, container };
    this.#context.events.record({ ...event, detail: command, ...more });
  }

  async #readIoInTurns(now: readonly Seen[]): Promise<void> {
    let isDenied = false;
    let reads = 0;
    for (const seen of now) {
      const isTurn = (this.#scan + seen.pid) % scansPerIoRound === 0;
      if (!seen.mayReadIo && !isTurn) isDenied = true;
      else if (isTurn || seen.ioTicks !== seen.userTicks + seen.systemTicks) {
        this.#readIo(seen);
        if (!seen.mayReadIo) isDenied = true;
        if (++reads % processesPerTurn === 0) await this.#yield();
      }
    }
    this.#isIoDenied = isDenied;
  }

  #readIo(seen: Seen): void {
    if (seen.ioScan === this.#scan || seen.hasEnded) return;
    if (this.#ioMayHang && stateOf(seen.state) === 'disk_sleep') return;
    const text = readUnlessDenied(`${this.#proc}/${seen.pid}/io`);
    const now_ms = this.#context.clock.monotonic_ms();
    seen.mayReadIo = text !== undefined;
    seen.ioScan = this.#scan;
    seen.reads = Number.NaN;
    seen.writes = Number.NaN;
    if (!text) return;
    const readBytes = numberAfter(text, 'read_bytes:');
    const writeBytes = numberAfter(text, 'write_bytes:');
    const seconds = (now_ms - seen.io_ms) / 1000;
    const perSecond = (before: number, now: number, ofChildren: number): number =>
      seconds > 0 ? Math.max(increase(before, now) - ofChildren, 0) / seconds : Number.NaN;
    seen.reads = perSecond(seen.readBytes, readBytes, seen.childrenReadBytes);
    seen.writes = perSecond(seen.writeBytes, writeBytes, seen.childrenWriteBytes);
    seen.childrenReadBytes = 0;
    seen.childrenWriteBytes = 0;
    seen.readBytes = readBytes;
    seen.writeBytes = writeBytes;
    seen.io_ms = now_ms;
    seen.ioTicks = seen.userTicks + seen.systemTicks;
  }

  #tables(now: readonly Seen[], seconds: number): Tables {
    const { top } = this.#context.settings.process;
    const byCpu = new Top(top);
    const byMemory = new Top(top);
    for (const seen of now) {
      byCpu.offer(seen.cpu, seen);
      byMemory.offer(seen.residentPages, seen);
    }
    const chosen = new Set([...byCpu.chosen, ...byMemory.chosen]);
    // Whoever is shown is shown with its I/O.
    for (const seen of chosen) this.#readIo(seen);
    const byIo = new Top(top);
    for (const seen of now) if (seen.ioScan === this.#scan) byIo.offer(seen.io, seen);
    for (const seen of byIo.chosen) chosen.add(seen);
    const table = emptyTable('process');
    for (const seen of chosen) this.#addRow(table, seen);
    return {
      ...(chosen.size > 0 ? { process: table } : {}),
      process_state: this.#stateTable(now),
      process_class: this.#classTable(now, seconds),
    };
  }

  #addRow(table: Process, seen: Seen): void {
    if (seen.isKernelThread) seen.identity = this.#context.processes.identity(seen.pid) ?? seen.identity;
    const { identity } = seen;
    const { uid, resident_bytes, anonymous_bytes, swap_bytes, descriptors } = this.#status(seen);
    const isIoRead = seen.ioScan === this.#scan;
    table.pid.push(String(seen.pid));
    table.name.push(identity.name);
    table.class.push(identity.class);
    table.container.push(identity.container);
    table.user.push(identity.container === '' ? this.#users.name(uid) : uid);
    table.state.push(stateOf(seen.state));
    table.parent_pid.push(String(seen.parent));
    table.command.push(identity.command ?? '');
    table.cpu_percent.push(seen.cpu);
    table.cpu_user_percent.push(seen.cpuUser);
    table.cpu_system_percent.push(seen.cpuSystem);
    table.cpu_time_seconds.push((seen.userTicks + seen.systemTicks) / ticksPerSecond);
    table.resident_memory_bytes.push(
      Number.isNaN(resident_bytes) ? seen.residentPages * this.#pageBytes : resident_bytes,
    );
    table.anonymous_memory_bytes.push(anonymous_bytes);
    table.swap_bytes.push(swap_bytes);
    table.threads_count.push(seen.threads);
    table.file_descriptors_count.push(descriptors);
    table.read_bytes_per_second.push(isIoRead ? seen.reads : Number.NaN);
    table.write_bytes_per_second.push(isIoRead ? seen.writes : Number.NaN);
    table.major_faults_per_second.push(seen.faults);
    table.start_time_seconds.push(seen.startTime_s);
  }

  #status(seen: Seen): Status {
    const ticks = seen.userTicks + seen.systemTicks;
    const isTurn = (this.#scan + seen.pid) % scansPerStatusRound === 0;
    const { status: before, residentPages: pages } = seen;
    if (before && !isTurn && before.ticks === ticks && before.pages === pages) return before;
    const text = readOnce(`${this.#proc}/${seen.pid}/status`);
    seen.status = {
      ticks,
      pages,
      // Of the numbers behind it the second is the one whose rights count.
      uid: /^Uid:\s+\d+\s+(\d+)/m.exec(text)?.[1] ?? '',
      resident_bytes: numberAfter(text, 'VmRSS:') * 1024,
      anonymous_bytes: numberAfter(text, 'RssAnon:') * 1024,
      swap_bytes: numberAfter(text, 'VmSwap:') * 1024,
      descriptors: this.#descriptors(seen.pid, numberAfter(text, 'FDSize:')),
    };
    return seen.status;
  }

  /** Since Linux 6.2 the folder's size is their number; before, they are counted where they are not too many. */
  #descriptors(pid: number, slots: number): number {
    const folder = `${this.#proc}/${pid}/fd`;
    try {
      const { size } = statSync(folder);
      if (size > 0) return size;
      return slots <= descriptorsCountedMax ? readdirSync(folder).length : Number.NaN;
    } catch {
      return Number.NaN;
    }
  }

  #stateTable(now: readonly Seen[]): ProcessState {
    const table: ProcessState = {
      state: [...stateNames],
      processes_count: stateNames.map(() => 0),
      kernel_threads_count: stateNames.map(() => 0),
    };
    this.#kernelThreads = 0;
    for (const { state, isKernelThread } of now) {
      const place = placeOfCode[state]!;
      table.processes_count[place]!++;
      if (!isKernelThread) continue;
      table.kernel_threads_count[place]!++;
      this.#kernelThreads++;
    }
    return table;
  }

  /** A row for each class that has been seen: one that has no processes any more has 0, not a gap. */
  #classTable(now: readonly Seen[], seconds: number): ProcessClass {
    const sums = new Map<string, Sums>();
    for (const seen of now) {
      this.#classes.add(seen.identity.class);
      const sum = sums.get(seen.identity.class) ?? new Sums();
      sums.set(seen.identity.class, sum);
      sum.add(seen, this.#pageBytes, this.#scan);
    }
    const table = emptyTable('process_class');
    for (const name of this.#classes) {
      const sum = sums.get(name) ?? new Sums();
      const isKnown = seconds > 0;
      table.class.push(name);
      table.processes_count.push(sum.processes);
      table.threads_count.push(sum.threads);
      table.resident_memory_bytes.push(sum.residentBytes);
      table.cpu_percent.push(isKnown ? sum.cpu : Number.NaN);
      const isIoKnown = isKnown && (sum.processes === 0 || sum.withIo > 0);
      table.read_bytes_per_second.push(isIoKnown ? sum.reads : Number.NaN);
      table.write_bytes_per_second.push(isIoKnown ? sum.writes : Number.NaN);
    }
    return table;
  }
}

/** What the processes of a class use. */
class Sums {
  processes = 0;
  threads = 0;
  cpu = 0;
  residentBytes = 0;
  reads = 0;
  writes = 0;
  /** Processes whose I/O may be read. */
  withIo = 0;

  add(seen: Seen, pageBytes: number, scan: number): void {
    this.processes++;
    this.threads += seen.threads;
    this.cpu += seen.cpu || 0;
    this.residentBytes += seen.residentPages * pageBytes;
    if (seen.mayReadIo) this.withIo++;
    if (seen.ioScan !== scan) return;
    this.reads += seen.reads || 0;
    this.writes += seen.writes || 0;
  }
}

/** The greatest of many, the greatest first. */
class Top {
  readonly #size: number;
  readonly #values: number[] = [];
  readonly chosen: Seen[] = [];

  constructor(size: number) {
    this.#size = size;
  }

  /** What is 0 or not known is not among the greatest. */
  offer(value: number, seen: Seen): void {
    if (!(value > 0) || (this.chosen.length === this.#size && value <= this.#values.at(-1)!)) return;
    let place = this.chosen.length;
    while (place > 0 && this.#values[place - 1]! < value) place--;
    this.#values.splice(place, 0, value);
    this.chosen.splice(place, 0, seen);
    if (this.chosen.length <= this.#size) return;
    this.#values.pop();
    this.chosen.pop();
  }
}

const isPid = (name: string): boolean => {
  const first = name.charCodeAt(0);
  return first >= 49 && first <= 57;
};

/** A small file of a process: empty when that is gone, undefined when it may not be read. */
function readUnlessDenied(path: string): string | undefined {
  let descriptor: number | undefined;
  try {
    descriptor = openSync(path, 'r');
    return ioBuffer.toString('latin1', 0, readSync(descriptor, ioBuffer, 0, ioBuffer.length, null));
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return code === 'EACCES' || code === 'EPERM' ? undefined : '';
  } finally {
    if (descriptor !== undefined) closeSync(descriptor);
  }
}

const ioBuffer = Buffer.allocUnsafeSlow(1024);

/** So many that a process would be among them: those with digits come behind the others. */
function firstEntries(folder: string): string[] {
  using entries = opendirSync(folder);
  const names: string[] = [];
  for (let entry = entries.readSync(); entry && names.length < 4096; entry = entries.readSync()) names.push(entry.name);
  return names;
}

/** How many descriptors may be kept: a share of what this process may have; Node has raised its limit as far as it may. */
function descriptorsToKeep(proc: string): number {
  const limit = /^Max open files +(\d+)/m.exec(readOnce(join(proc, 'self/limits')))?.[1];
  return Math.min(Math.floor(Number(limit ?? 0) * processDescriptorsShareMax), processDescriptorsMax);
}

/** Whose processes a proc file system hides, as its option says; undefined when it hides none, or that is not known. */
function hidepid(proc: string): string | undefined {
  let found: string | undefined;
  for (const line of readOnce(join(proc, 'self/mounts')).split('\n')) {
    const [, folder, kind, options = ''] = line.split(' ');
    if (kind === 'proc' && folder === proc) found = /(?:^|,)hidepid=(\w+)/.exec(options)?.[1];
  }
  return found === '0' || found === 'off' ? undefined : found;
}

/**
 * Before Linux 5.7 reading a process's I/O waits for its exec to end, which is forever where its program is on a file server that
 * does not answer: there, what sleeps for a disk is not asked.
 */
function ioMayHang(kernel: string): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map(Number);
  return major < 5 || (major === 5 && minor < 7);
}
