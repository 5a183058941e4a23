import { closeSync, existsSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';
import type { CgroupMounts } from '#cgroup.ts';
import { readOnce } from '#files.ts';
import { cgroupDescriptorsMax } from '#limits.ts';

// What the kernel counts of a cgroup, read from its files into an array of numbers. Hundreds of cgroups are read in every
// tick: files stay open, and their bytes are parsed where they lie, without a text or an object being made.

/** Places of the numbers of a cgroup. Counters come first: those that rates are made of. */
export const at = {
  usage_s: 0,
  user_s: 1,
  system_s: 2,
  periods: 3,
  throttledPeriods: 4,
  throttled_s: 5,
  oomKills: 6,
  cpuSome_s: 7,
  cpuFull_s: 8,
  memorySome_s: 9,
  memoryFull_s: 10,
  ioSome_s: 11,
  ioFull_s: 12,
  readBytes: 13,
  writeBytes: 14,
  reads: 15,
  writes: 16,
  receiveBytes: 17,
  receivePackets: 18,
  receiveErrors: 19,
  receiveDrops: 20,
  transmitBytes: 21,
  transmitPackets: 22,
  transmitErrors: 23,
  transmitDrops: 24,
  memory: 25,
  inactiveFile: 26,
  anonymous: 27,
  cache: 28,
  kernel: 29,
  swap: 30,
  peak: 31,
  pids: 32,
  cpuLimit_cores: 33,
  memoryLimit: 34,
  pidsLimit: 35,
} as const;
export const counterPlaces = 25;
const places = 36;

const newline = 10;
const space = 32;
const zero = 48;
const nine = 57;
const colon = 58;
const equals = 61;

// A newline stands before what was read, so that each key is found behind one.
const buffer = Buffer.allocUnsafeSlow(64 * 1024);
buffer[0] = newline;
const begin = 1;

const isDigit = (byte: number): boolean => byte >= zero && byte <= nine;

/** Where the last number ended. */
let numberEnd = begin;

/** The digits from here as a number; NaN when there are none, as in "max" and "-1". */
function numberAt(from: number, end: number): number {
  let value = 0;
  let position = from;
  for (; position < end; position++) {
    const byte = buffer[position]!;
    if (!isDigit(byte)) break;
    value = value * 10 + (byte - zero);
  }
  numberEnd = position;
  return position === from ? Number.NaN : value;
}

/** Puts what is in the first `end` bytes of the buffer to its places. */
type Parse = (into: Float64Array, end: number) => void;

const single =
  (place: number, divisor = 1): Parse =>
  (into, end) => {
    into[place] = numberAt(begin, end) / divisor;
  };

/** A limit as a number; none, in version 1 the largest number of pages that there is, is absent. */
const limit =
  (place: number): Parse =>
  (into, end) => {
    const value = numberAt(begin, end);
    into[place] = value < 2 ** 60 ? value : Number.NaN;
  };

const hashOf = (key: string): number => {
  let hash = 0;
  for (let index = 0; index < key.length; index++) hash = (hash * 31 + key.charCodeAt(index)) | 0;
  return hash;
};

/** Lines of `key number`, by the key's place and divisor. What is absent from the file keeps its value. */
function keyed(keys: Readonly<Record<string, readonly [place: number, divisor: number]>>): Parse {
  // By hash: no two keys of these files have the same.
  const byHash = new Map(Object.entries(keys).map(([key, value]) => [hashOf(key), value]));
  return (into, end) => {
    let left = byHash.size;
    for (let position = begin; position < end && left > 0; position++) {
      let hash = 0;
      let byte = buffer[position]!;
      while (byte !== space && byte !== newline && position < end) {
        hash = (hash * 31 + byte) | 0;
        byte = buffer[++position]!;
      }
      const key = byte === space ? byHash.get(hash) : undefined;
      if (key !== undefined) {
        into[key[0]] = numberAt(position + 1, end) / key[1];
        position = numberEnd;
        left--;
      }
      while (position < end && buffer[position] !== newline) position++;
    }
  };
}

const kernelParts = Float64Array.from({ length: 5 }, () => Number.NaN);
const kernelKeys = keyed({ kernel: [0, 1], kernel_stack: [1, 1], pagetables: [2, 1], percpu: [3, 1], slab: [4, 1] });
const memoryKeys2 = keyed({ anon: [at.anonymous, 1], file: [at.cache, 1], inactive_file: [at.inactiveFile, 1] });

/** "kernel" came with Linux 5.18; before, its parts are listed. */
const memoryStat2: Parse = (into, end) => {
  memoryKeys2(into, end);
  kernelParts.fill(Number.NaN);
  kernelKeys(kernelParts, end);
  const [kernel, ...parts] = kernelParts;
  const sum = parts.reduce((whole, part) => (Number.isNaN(part) ? whole : whole + part), 0);
  into[at.kernel] = kernel !== undefined && !Number.isNaN(kernel) ? kernel : sum;
};

/** `quota period`, microseconds, the quota "max" without a limit. */
const cpuMax: Parse = (into, end) => {
  const quota = numberAt(begin, end);
  if (Number.isNaN(quota)) into[at.cpuLimit_cores] = Number.NaN;
  else into[at.cpuLimit_cores] = quota / numberAt(numberEnd + 1, end);
};

/** Version 1 has quota and period in two files: the first is kept here until the second is read, at once after it. */
let quota_us = Number.NaN;
const cpuQuota: Parse = (_, end) => {
  quota_us = numberAt(begin, end);
};
const cpuPeriod: Parse = (into, end) => {
  into[at.cpuLimit_cores] = quota_us / numberAt(begin, end);
};

/** The totals of both lines of a pressure file, each the last number of its line. */
const pressure =
  (some: number, full: number): Parse =>
  (into, end) => {
    for (let position = begin; position < end; position++) {
      const place = buffer[position] === 0x73 ? some : full;
      let value = position;
      for (; position < end && buffer[position] !== newline; position++)
        if (buffer[position] === equals) value = position + 1;
      into[place] = numberAt(value, end) / 1e6;
    }
  };

/** Interfaces of a network namespace without loopback, summed. */
const netDev: Parse = (into, end) => {
  into.fill(0, at.receiveBytes, at.transmitDrops + 1);
  for (let position = begin; position < end; position++) {
    while (buffer[position] === space) position++;
    const name = position;
    while (position < end && buffer[position] !== colon && buffer[position] !== newline) position++;
    // The two lines of headings have no colon.
    const isLoopback = position - name === 2 && buffer[name] === 0x6c && buffer[name + 1] === 0x6f;
    if (buffer[position] === colon && !isLoopback) {
      position++;
      for (let column = 0; column < 12; column++) {
        while (buffer[position] === space) position++;
        const value = numberAt(position, end);
        position = numberEnd;
        // receive: bytes packets errs drop fifo frame compressed multicast; transmit: bytes packets errs drop ...
        if (column < 4) into[at.receiveBytes + column]! += value;
        else if (column >= 8) into[at.transmitBytes + column - 8]! += value;
      }
    }
    while (position < end && buffer[position] !== newline) position++;
  }
};

/** Which block devices are made of others, whose traffic is counted at those, too; and whether any is counted. */
export class BlockDevices {
  readonly #folder: string;
  readonly #isStacked = new Map<number, boolean>();
  /** Version 1: files of the root of its hierarchy, one of which has a line for each device that is counted. */
  #rootFiles: readonly string[] = [];
  /**
   * Since Linux 6.10 version 1 begins to count a device when a limit is set on it for the first time, and an empty file means
   * nothing.
   */
  isCounting = true;

  constructor(sys: string) {
    this.#folder = join(sys, 'dev/block');
  }

  /** What may have changed is looked at again: numbers are used again for other devices. */
  forget(): void {
    this.#isStacked.clear();
    this.isCounting = this.#rootFiles.length === 0 || this.#rootFiles.some(hasDevice);
  }

  /** Which of these names of counters in version 1 devices are counted under: those of throttling, else those of the scheduler BFQ. */
  namesIn(root: string, names: readonly string[]): readonly string[] {
    this.#rootFiles = names.map((name) => join(root, name)).filter((file) => existsSync(file));
    this.forget();
    const counting = names.filter((name) => hasDevice(join(root, name)));
    return counting.length > 0 ? counting : names;
  }

  /** Device mapper and RAID devices, which have slaves; loop devices, whose traffic is that of their file. */
  isStacked(major: number, minor: number): boolean {
    if (major === loopMajor) return true;
    const key = major * 2 ** 20 + minor;
    let answer = this.#isStacked.get(key);
    if (answer === undefined) {
      try {
        answer = readdirSync(join(this.#folder, `${major}:${minor}`, 'slaves')).length > 0;
      } catch {
        answer = false;
      }
      this.#isStacked.set(key, answer);
    }
    return answer;
  }
}
const loopMajor = 7;

const hasDevice = (file: string): boolean => /^\d/.test(readOnce(file));

/** `8:0 Read 4096`, and the same for Write, Sync, Async, Discard, Total of each device; at the end `Total 4096`. */
const blkio =
  (devices: BlockDevices, read: number, write: number): Parse =>
  (into, end) => {
    const nothing = isDigit(buffer[begin]!) || devices.isCounting ? 0 : Number.NaN;
    into[read] = nothing;
    into[write] = nothing;
    for (let position = begin; position < end; position++) {
      const major = numberAt(position, end);
      const minor = numberAt(numberEnd + 1, end);
      position = numberEnd + 1;
      const kind = buffer[position];
      const place = kind === 0x52 ? read : kind === 0x57 ? write : -1;
      while (position < end && buffer[position] !== space && buffer[position] !== newline) position++;
      if (place >= 0 && !Number.isNaN(minor) && !devices.isStacked(major, minor)) {
        const value = numberAt(position + 1, end);
        if (!Number.isNaN(value)) into[place]! += value;
      }
      while (position < end && buffer[position] !== newline) position++;
    }
  };

/** `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`; some kernels leave out the newline after a device without numbers. */
const ioStat =
  (devices: BlockDevices): Parse =>
  (into, end) => {
    into.fill(0, at.readBytes, at.writes + 1);
    let isCounted = false;
    for (let position = begin; position < end; position++) {
      const start = position;
      while (position < end && buffer[position]! > space && buffer[position] !== equals) position++;
      if (buffer[position] !== equals) {
        const major = numberAt(start, end);
        isCounted = !Number.isNaN(major) && !devices.isStacked(major, numberAt(numberEnd + 1, end));
        continue;
      }
      const isRead = buffer[start] === 0x72;
      const isBytes = buffer[start + 1] === 0x62;
      const value = numberAt(position + 1, end);
      position = numberEnd;
      if (!isCounted || (!isRead && buffer[start] !== 0x77) || Number.isNaN(value)) continue;
      into[(isRead ? at.readBytes : at.writeBytes) + (isBytes ? 0 : 2)]! += value;
    }
  };

/** A file that numbers of every cgroup are in. */
type CountFile = {
  /** Its hierarchy; empty: the file belongs to a process. */
  root: string;
  /** By the kernel's age; the first that is there is taken. */
  names: readonly string[];
  /** Counters in it. */
  counters: readonly number[];
  /** What reading it takes, in readings of a file with one number. */
  cost: number;
  parse: Parse;
};

/** The files of every cgroup on a host. */
export type CgroupLayout = {
  /** Read in every tick. */
  hot: readonly number[];
  /** Read in turns. */
  warm: readonly number[];
  /** What is left of a cgroup when it has ended: totals and the peak of its memory. */
  lasting: readonly number[];
  /** Index of the file with the details of the memory, the dearest; -1 without. */
  memoryStat: number;
  /** Index of the file with the throttling, where that has its own; -1 else. */
  throttling: number;
  /** Index of the network's file. */
  network: number;
  files: readonly CountFile[];
  /** Limits: read seldom, never kept open. */
  limits: readonly Pick<CountFile, 'root' | 'names' | 'parse'>[];
};

const range = (from: number, to: number): number[] => Array.from({ length: to - from + 1 }, (_, index) => from + index);

/**
 * Which files hold what, by the versions of the controllers.
 * @see https://docs.kernel.org/admin-guide/cgroup-v2.html
 * @see https://docs.kernel.org/admin-guide/cgroup-v1/
 */
export function cgroupLayout({ v1, v2 }: CgroupMounts, devices: BlockDevices): CgroupLayout {
  const files: CountFile[] = [];
  const limits: Pick<CountFile, 'root' | 'names' | 'parse'>[] = [];
  const hot: number[] = [];
  const add = (
    root: string,
    name: string | readonly string[],
    parse: Parse,
    counters: readonly number[] = [],
    cost = 1,
  ) => files.push({ root, names: typeof name === 'string' ? [name] : name, counters, cost, parse }) - 1;
  const addLimit = (root: string, name: string, parse: Parse) => limits.push({ root, names: [name], parse });
  let throttling = -1;
  let memoryStat = -1;
  let peak = -1;

  const cpuacct = v1.get('cpuacct');
  const cpu = v1.get('cpu');
  if (cpuacct !== undefined) {
    hot.push(add(cpuacct, 'cpuacct.usage', single(at.usage_s, 1e9), [at.usage_s]));
    // In ticks of the kernel's interface, which are a hundred a second on every architecture that Node runs on.
    add(
      cpuacct,
      'cpuacct.stat',
      keyed({ user: [at.user_s, 100], system: [at.system_s, 100] }),
      [at.user_s, at.system_s],
      2,
    );
  }
  if (cpu !== undefined) {
    throttling = add(cpu, 'cpu.stat', throttle1, [at.periods, at.throttledPeriods, at.throttled_s]);
    addLimit(cpu, 'cpu.cfs_quota_us', cpuQuota);
    addLimit(cpu, 'cpu.cfs_period_us', cpuPeriod);
  }
  if (v2 !== '' && cpuacct === undefined) {
    hot.push(add(v2, 'cpu.stat', cpuStat2, range(at.usage_s, at.throttled_s)));
    addLimit(v2, 'cpu.max', cpuMax);
  }

  const memory = v1.get('memory');
  if (memory !== undefined) {
    hot.push(add(memory, 'memory.usage_in_bytes', single(at.memory)));
    memoryStat = add(memory, 'memory.stat', memoryStat1, [], 6);
    add(memory, 'memory.oom_control', keyed({ oom_kill: [at.oomKills, 1] }), [at.oomKills]);
    peak = add(memory, 'memory.max_usage_in_bytes', single(at.peak));
    add(memory, 'memory.kmem.usage_in_bytes', single(at.kernel));
    addLimit(memory, 'memory.limit_in_bytes', limit(at.memoryLimit));
  } else if (v2 !== '') {
    hot.push(add(v2, 'memory.current', single(at.memory)));
    memoryStat = add(v2, 'memory.stat', memoryStat2, [], 4);
    add(v2, 'memory.events', keyed({ oom_kill: [at.oomKills, 1] }), [at.oomKills]);
    peak = add(v2, 'memory.peak', single(at.peak));
    add(v2, 'memory.swap.current', single(at.swap));
    addLimit(v2, 'memory.max', limit(at.memoryLimit));
  }

  const io = v1.get('blkio');
  if (io !== undefined) {
    // The counters of throttling see everything; those without "recursive" (before Linux 5.6) are of the cgroup alone.
    const named = (what: string) =>
      devices.namesIn(
        io,
        ['throttle', 'bfq'].flatMap((by) => [`blkio.${by}.${what}_recursive`, `blkio.${by}.${what}`]),
      );
    add(io, named('io_service_bytes'), blkio(devices, at.readBytes, at.writeBytes), [at.readBytes, at.writeBytes]);
    add(io, named('io_serviced'), blkio(devices, at.reads, at.writes), [at.reads, at.writes]);
  } else if (v2 !== '') add(v2, 'io.stat', ioStat(devices), range(at.readBytes, at.writes));

  const pids = v1.get('pids') ?? v2;
  if (pids !== '') {
    add(pids, 'pids.current', single(at.pids));
    addLimit(pids, 'pids.max', limit(at.pidsLimit));
  }

  if (v2 !== '') {
    add(v2, 'cpu.pressure', pressure(at.cpuSome_s, at.cpuFull_s), [at.cpuSome_s, at.cpuFull_s]);
    add(v2, 'memory.pressure', pressure(at.memorySome_s, at.memoryFull_s), [at.memorySome_s, at.memoryFull_s]);
    add(v2, 'io.pressure', pressure(at.ioSome_s, at.ioFull_s), [at.ioSome_s, at.ioFull_s]);
  }
  const network = add('', 'net/dev', netDev, range(at.receiveBytes, at.transmitDrops), 2);
  const warm = files.map((_, index) => index).filter((index) => !hot.includes(index));
  const lasting = files.flatMap(({ counters }, index) => (counters.length > 0 || index === peak ? [index] : []));
  return { hot, warm, lasting, memoryStat, throttling, network, files, limits };
}

const cpuStat2 = keyed({
  usage_usec: [at.usage_s, 1e6],
  user_usec: [at.user_s, 1e6],
  system_usec: [at.system_s, 1e6],
  nr_periods: [at.periods, 1],
  nr_throttled: [at.throttledPeriods, 1],
  throttled_usec: [at.throttled_s, 1e6],
});
const throttle1 = keyed({
  nr_periods: [at.periods, 1],
  nr_throttled: [at.throttledPeriods, 1],
  throttled_time: [at.throttled_s, 1e9],
});
/** Of the cgroup and those below it. */
const memoryStat1 = keyed({
  total_cache: [at.cache, 1],
  total_rss: [at.anonymous, 1],
  total_swap: [at.swap, 1],
  total_inactive_file: [at.inactiveFile, 1],
});

/** How many files of cgroups are kept open, together. */
export class Descriptors {
  readonly #max: number;
  open = 0;

  /** @param limits text of /proc/self/limits */
  constructor(limits: string) {
    const most = Number(/^Max open files\s+(\d+)/m.exec(limits)?.[1] ?? 1024);
    // Half of what the agent may have is left to its other parts.
    this.#max = Math.min(cgroupDescriptorsMax, Math.floor(most / 2));
  }

  get isFree(): boolean {
    return this.open < this.#max;
  }
}

/** Not opened yet, or closed. */
const notOpen = -1;
/** Not there: not tried again until it is asked for. */
const isMissing = -2;

/** The numbers of one cgroup. */
export class CgroupFiles {
  /** What was read last, by the places of `at`; NaN where nothing was. */
  readonly now = new Float64Array(places).fill(Number.NaN);
  /** Growth per second between the last two settlements, of counters. */
  readonly rates = new Float64Array(counterPlaces).fill(Number.NaN);
  readonly path: string;
  readonly #layout: CgroupLayout;
  readonly #descriptors: Descriptors;
  readonly #open: Int32Array;
  readonly #before = new Float64Array(counterPlaces).fill(Number.NaN);
  readonly #beforeAt_ms: Float64Array;
  /** Where the network's file is, when this cgroup has a network of its own. */
  #networkFile = '';

  /** @param path of the cgroup below the root of its hierarchies */
  constructor(path: string, layout: CgroupLayout, descriptors: Descriptors) {
    this.path = path;
    this.#layout = layout;
    this.#descriptors = descriptors;
    this.#open = new Int32Array(layout.files.length).fill(notOpen);
    this.#open[layout.network] = isMissing;
    this.#beforeAt_ms = new Float64Array(layout.files.length).fill(Number.NaN);
  }

  /**
   * All counters were zero at this time: it was made later.
   * @param predecessor the same container before it was started again: what its rates did not tell yet is taken over
   */
  bornAfter(monotonic_ms: number, predecessor?: CgroupFiles): void {
    this.#beforeAt_ms.fill(monotonic_ms);
    for (let place = 0; place < counterPlaces; place++) {
      const untold = predecessor ? predecessor.now[place]! - predecessor.#before[place]! : 0;
      this.#before[place] = untold > 0 ? -untold : 0;
    }
  }

  /** The network that is read. */
  get networkFile(): string {
    return this.#networkFile;
  }

  /**
   * Reads this network from now on, none when it is empty.
   * @param isNew it came with the cgroup: its counters began when those of the cgroup did
   */
  setNetwork(file: string, isNew: boolean): void {
    if (file === this.#networkFile) return;
    this.#networkFile = file;
    const index = this.#layout.network;
    this.#closeFile(index);
    this.#open[index] = file === '' ? isMissing : notOpen;
    this.now.fill(Number.NaN, at.receiveBytes, at.transmitDrops + 1);
    this.rates.fill(Number.NaN, at.receiveBytes, at.transmitDrops + 1);
    if (!isNew) this.#before.fill(Number.NaN, at.receiveBytes, at.transmitDrops + 1);
  }

  /** Forgets which files are missing: they may have come. */
  retryMissing(): void {
    const { network } = this.#layout;
    for (let index = 0; index < this.#open.length; index++)
      if (this.#open[index] === isMissing && index !== network) this.#open[index] = notOpen;
  }

  /** Reads a file into `now`; false when it is missing. @throws the system's error ENODEV when the cgroup is gone */
  read(index: number): boolean {
    let descriptor = this.#open[index]!;
    if (descriptor === isMissing) return false;
    const file = this.#layout.files[index]!;
    const isNetwork = index === this.#layout.network;
    let isKept = true;
    if (descriptor === notOpen) {
      descriptor = this.#openFile(index, file);
      if (descriptor < 0) return false;
      isKept = this.#descriptors.isFree;
      if (isKept) {
        this.#open[index] = descriptor;
        this.#descriptors.open++;
      }
    }
    try {
      file.parse(this.now, begin + readWhole(descriptor, isNetwork));
      return true;
    } catch (error) {
      if (!isNetwork && (error as NodeJS.ErrnoException).code === 'ENODEV') throw error;
      // Pressure is switched off, or the process whose network it was has left: the cgroup is still there.
      if (isKept) this.#closeFile(index);
      this.#open[index] = isMissing;
      if (isNetwork) this.#networkFile = '';
      return false;
    } finally {
      if (!isKept) closeSync(descriptor);
    }
  }

  /** Reads these files, or all; false when the cgroup is gone. */
  readMany(indexes?: readonly number[]): boolean {
    try {
      if (indexes) for (const index of indexes) this.read(index);
      else for (let index = 0; index < this.#open.length; index++) this.read(index);
      return true;
    } catch {
      return false;
    }
  }

  readLimits(): void {
    quota_us = Number.NaN;
    for (const { root, names, parse } of this.#layout.limits) {
      let descriptor: number;
      try {
        descriptor = openSync(`${root}${this.path}/${names[0]}`, 'r');
      } catch {
        continue;
      }
      try {
        parse(this.now, begin + readSync(descriptor, buffer, begin, buffer.length - begin, 0));
      } catch {
        // Gone in between: those that are read in every tick tell.
      } finally {
        closeSync(descriptor);
      }
    }
  }

  /** The rates of a file's counters from the settlement before until now. */
  settle(index: number, monotonic_ms: number): void {
    const { counters } = this.#layout.files[index]!;
    // Not read yet: what is known of its beginning stays.
    if (counters.length === 0 || Number.isNaN(this.now[counters[0]!]!)) return;
    const seconds = (monotonic_ms - this.#beforeAt_ms[index]!) / 1000;
    for (const place of counters) {
      const now = this.now[place]!;
      const increase = now - this.#before[place]!;
      this.rates[place] = increase >= 0 && seconds > 0 ? increase / seconds : Number.NaN;
      this.#before[place] = now;
    }
    this.#beforeAt_ms[index] = monotonic_ms;
  }

  settleAll(monotonic_ms: number): void {
    for (let index = 0; index < this.#open.length; index++) this.settle(index, monotonic_ms);
  }

  close(): void {
    for (let index = 0; index < this.#open.length; index++) this.#closeFile(index);
  }

  #openFile(index: number, file: CountFile): number {
    const network = index === this.#layout.network;
    for (const name of network ? [''] : file.names) {
      try {
        return openSync(network ? this.#networkFile : `${file.root}${this.path}/${name}`, 'r');
      } catch {
        // The next name, or missing.
      }
    }
    this.#open[index] = isMissing;
    return notOpen;
  }

  #closeFile(index: number): void {
    const descriptor = this.#open[index]!;
    if (descriptor < 0) return;
    this.#open[index] = notOpen;
    this.#descriptors.open--;
    closeSync(descriptor);
  }
}

/** Reads into the buffer, behind its newline, and returns how much. */
function readWhole(descriptor: number, isLong: boolean): number {
  let length = readSync(descriptor, buffer, begin, buffer.length - begin, 0);
  // Files of cgroups come in one piece; lists of the network in pieces of a page.
  if (isLong && length > 2048)
    for (let more = length; more > 0 && begin + length < buffer.length; length += more)
      more = readSync(descriptor, buffer, begin + length, buffer.length - begin - length, length);
  return length;
}
