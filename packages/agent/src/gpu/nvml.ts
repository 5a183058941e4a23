import type { LibraryHandle } from 'koffi';
import type { Clock } from '#clock.ts';
import type { Events } from '#events.ts';
import {
  below,
  celsius,
  type GpuProcessRow,
  type GpuReading,
  type GpuRow,
  hertzMax,
  share,
  usedPercent,
  wattsMax,
} from '#gpu/model.ts';
import { gpuEventsPerRoundMax, gpuProcessesMax, gpuStaticRounds, gpusMax } from '#limits.ts';
import { loadKoffi, nativeCalls } from '#native.ts';
import { Rates } from '#rates.ts';

// NVIDIA's management library. Its functions differ by the driver's generation: newer ones have a number behind their name,
// and older ones go on with what they had. All layouts are of 64-bit systems.
// https://docs.nvidia.com/deploy/nvml-api/, nvml.h of CUDA 13.3

/** What the functions answer: nvmlReturn_t. */
export const nvmlReturns = {
  success: 0,
  uninitialized: 1,
  notSupported: 3,
  insufficientSize: 7,
  driverNotLoaded: 9,
  functionNotFound: 13,
  gpuIsLost: 15,
  resetRequired: 16,
  versionMismatch: 18,
  gpuNotFound: 28,
} as const;

const sentences: Record<number, string> = {
  1: 'the library is not initialized',
  3: 'the GPU does not support it',
  4: 'it is not permitted to this user',
  9: 'the driver is not loaded',
  12: 'a library of the driver is missing',
  15: 'the GPU is lost: it has fallen off the bus, or is not reachable',
  16: 'the GPU has to be reset',
  17: 'the operating system does not give access: is a device file missing in this container?',
  18: 'the driver was upgraded, and the running one is older than the library: reload it, or restart the machine',
  28: 'the GPU is gone',
  999: 'unknown error',
};

/** An answer that ends the work with a GPU, or with the library. */
export class NvmlError extends Error {
  override name = 'NvmlError';
  readonly code: number;

  constructor(code: number, during: string) {
    super(`NVML: ${sentences[code] ?? `error ${code}`} (${during})`);
    this.code = code;
  }
}

/** The library has to be initialized anew. */
const endsLibrary = new Set<number>([
  nvmlReturns.uninitialized,
  nvmlReturns.driverNotLoaded,
  nvmlReturns.versionMismatch,
]);
/** The GPU says nothing more. */
const endsGpu = new Set<number>([nvmlReturns.gpuIsLost, nvmlReturns.resetRequired, nvmlReturns.gpuNotFound]);

// A handle is a pointer, which is handed over as an integer of its size.
const handle = 'uint64';
const out = 'void *';
const u32 = 'uint32';
const gpuOut = [handle, out];
const gpuAndKind = [handle, u32, out];
const gpuTwoOut = [handle, out, out];
const processList = [handle, out, out];

/** The functions: names that are tried, the newest first, and parameters. */
const functions = {
  init: [['nvmlInit_v2', 'nvmlInit'], []],
  shutdown: [['nvmlShutdown'], []],
  driverVersion: [['nvmlSystemGetDriverVersion'], [out, u32]],
  cudaVersion: [['nvmlSystemGetCudaDriverVersion_v2', 'nvmlSystemGetCudaDriverVersion'], [out]],
  count: [['nvmlDeviceGetCount_v2', 'nvmlDeviceGetCount'], [out]],
  handleByIndex: [
    ['nvmlDeviceGetHandleByIndex_v2', 'nvmlDeviceGetHandleByIndex'],
    [u32, out],
  ],
  uuid: [['nvmlDeviceGetUUID'], [handle, out, u32]],
  name: [['nvmlDeviceGetName'], [handle, out, u32]],
  pci: [['nvmlDeviceGetPciInfo_v3', 'nvmlDeviceGetPciInfo_v2', 'nvmlDeviceGetPciInfo'], gpuOut],
  utilization: [['nvmlDeviceGetUtilizationRates'], gpuOut],
  encoder: [['nvmlDeviceGetEncoderUtilization'], gpuTwoOut],
  decoder: [['nvmlDeviceGetDecoderUtilization'], gpuTwoOut],
  memory2: [['nvmlDeviceGetMemoryInfo_v2'], gpuOut],
  memory: [['nvmlDeviceGetMemoryInfo'], gpuOut],
  temperatureV: [['nvmlDeviceGetTemperatureV'], gpuOut],
  temperature: [['nvmlDeviceGetTemperature'], gpuAndKind],
  threshold: [['nvmlDeviceGetTemperatureThreshold'], gpuAndKind],
  power: [['nvmlDeviceGetPowerUsage'], gpuOut],
  powerLimit: [['nvmlDeviceGetEnforcedPowerLimit', 'nvmlDeviceGetPowerManagementLimit'], gpuOut],
  powerLimits: [['nvmlDeviceGetPowerManagementLimitConstraints'], gpuTwoOut],
  clock: [['nvmlDeviceGetClockInfo'], gpuAndKind],
  clockMax: [['nvmlDeviceGetMaxClockInfo'], gpuAndKind],
  fan: [['nvmlDeviceGetFanSpeed'], gpuOut],
  fanRevolutions: [['nvmlDeviceGetFanSpeedRPM'], gpuOut],
  pcieThroughput: [['nvmlDeviceGetPcieThroughput'], gpuAndKind],
  pcieReplays: [['nvmlDeviceGetPcieReplayCounter'], gpuOut],
  pcieGeneration: [['nvmlDeviceGetCurrPcieLinkGeneration'], gpuOut],
  pcieGenerationMax: [['nvmlDeviceGetMaxPcieLinkGeneration'], gpuOut],
  pcieLanes: [['nvmlDeviceGetCurrPcieLinkWidth'], gpuOut],
  pcieLanesMax: [['nvmlDeviceGetMaxPcieLinkWidth'], gpuOut],
  throttleReasons: [['nvmlDeviceGetCurrentClocksEventReasons', 'nvmlDeviceGetCurrentClocksThrottleReasons'], gpuOut],
  performanceState: [['nvmlDeviceGetPerformanceState'], gpuOut],
  computeMode: [['nvmlDeviceGetComputeMode'], gpuOut],
  fieldValues: [['nvmlDeviceGetFieldValues'], [handle, u32, out]],
  nvlinkState: [['nvmlDeviceGetNvLinkState'], gpuAndKind],
  migMode: [['nvmlDeviceGetMigMode'], gpuTwoOut],
  migCount: [['nvmlDeviceGetMaxMigDeviceCount'], gpuOut],
  migHandle: [['nvmlDeviceGetMigDeviceHandleByIndex'], gpuAndKind],
  compute: [['nvmlDeviceGetComputeRunningProcesses_v3', 'nvmlDeviceGetComputeRunningProcesses_v2'], processList],
  compute1: [['nvmlDeviceGetComputeRunningProcesses'], processList],
  graphics: [['nvmlDeviceGetGraphicsRunningProcesses_v3', 'nvmlDeviceGetGraphicsRunningProcesses_v2'], processList],
  graphics1: [['nvmlDeviceGetGraphicsRunningProcesses'], processList],
  processUse: [['nvmlDeviceGetProcessUtilization'], [handle, out, out, handle]],
  processesUse: [['nvmlDeviceGetProcessesUtilizationInfo'], gpuOut],
  eventSet: [['nvmlEventSetCreate'], [out]],
  eventRegister: [['nvmlDeviceRegisterEvents'], [handle, 'uint64', handle]],
  eventWait: [
    ['nvmlEventSetWait_v2', 'nvmlEventSetWait'],
    [handle, out, u32],
  ],
} as const satisfies Record<string, readonly [readonly string[], readonly string[]]>;
type FunctionName = keyof typeof functions;

type Native = { async: (...parameters: unknown[]) => void };

/** The values that one call brings together: nvmlFieldValue_t, 40 bytes each. */
const fieldIds = {
  eccMode: 1,
  correctedVolatile: 3,
  uncorrectedVolatile: 4,
  correctedAggregate: 5,
  uncorrectedAggregate: 6,
  retiredCorrected: 29,
  retiredUncorrected: 30,
  retiredPending: 31,
  memoryTemperature: 82,
  energy: 83,
  nvlinks: 91,
  nvlinkSent: 138,
  nvlinkReceived: 139,
  remappedCorrected: 142,
  remappedUncorrected: 143,
  remappedPending: 144,
  remappedFailed: 145,
  pcieSent: 197,
  pcieReceived: 198,
} as const;
type FieldName = keyof typeof fieldIds;
const fieldNames = Object.keys(fieldIds) as FieldName[];
const fieldBytes = 40;
/** Values of all links together. */
const allLinks = 0xffff_ffff;

/** Bits of what lowers the clocks. */
const throttles: readonly [bit: number, reason: string, lowers: boolean][] = [
  [0x1, 'idle', false],
  [0x2, 'applications_clocks', false],
  [0x4, 'power_cap', true],
  [0x8, 'hardware', true],
  [0x10, 'sync_boost', false],
  [0x20, 'thermal', true],
  [0x40, 'hardware_thermal', true],
  [0x80, 'power_brake', true],
  [0x100, 'display_clocks', false],
];

/** The reasons as words, and whether one of them lowers the clocks. */
export function throttling(bits: number): Pick<GpuRow, 'throttle_reasons' | 'throttled_flag'> {
  if (Number.isNaN(bits)) return {};
  const active = throttles.filter(([bit]) => (bits & bit) !== 0);
  return {
    throttle_reasons: active.map(([, reason]) => reason).join(','),
    throttled_flag: active.some(([, , lowers]) => lowers) ? 1 : 0,
  };
}

/** nvmlComputeMode_t */
export const computeModes = ['default', 'exclusive_thread', 'prohibited', 'exclusive_process'] as const;

/** What the commoner errors mean. https://docs.nvidia.com/deploy/xid-errors/ */
const xidMeanings: Record<number, string> = {
  13: 'graphics engine exception',
  31: 'memory page fault',
  43: 'the GPU stopped processing',
  45: 'preemptive cleanup after earlier errors',
  48: 'double bit ECC error',
  61: 'internal micro-controller breakpoint',
  62: 'internal micro-controller halt',
  63: 'page retirement or row remapping recorded',
  64: 'page retirement or row remapping failed',
  74: 'NVLink error',
  79: 'the GPU has fallen off the bus',
  92: 'high rate of single bit ECC errors',
  94: 'contained ECC error',
  95: 'uncontained ECC error',
  119: 'timeout of the GSP firmware',
  120: 'error of the GSP firmware',
};

/** Blank values of 32 bits, as several functions give them where they succeed without knowing: 0x7ffffff0 and up, and -1. */
export const known32 = (value: number): number => (value >= 0x7fff_fff0 ? Number.NaN : value);
/** The same of 64 bits. */
export const known64 = (value: bigint): number => (value >= 0x7fff_ffff_ffff_fff0n ? Number.NaN : Number(value));
/** The same of floating-point numbers: 2^47 and some. */
const knownDouble = (value: number): number => (Math.abs(value) < 2 ** 47 ? value : Number.NaN);

/** One entry of nvmlFieldValue_t; NaN where it has no value. */
function fieldValue(values: Buffer, at: number): number {
  if (values.readInt32LE(at + 28) !== 0) return Number.NaN;
  const value = at + 32;
  switch (values.readUInt32LE(at + 24)) {
    case 0:
      return knownDouble(values.readDoubleLE(value));
    case 1:
      return known32(values.readUInt32LE(value));
    case 2:
    case 3:
      return known64(values.readBigUInt64LE(value));
    case 4:
      return values.readBigInt64LE(value) < 0n ? Number.NaN : known64(values.readBigUInt64LE(value));
    case 5:
      return known32(values.readInt32LE(value));
    case 6:
      return values.readUInt16LE(value);
    default:
      return Number.NaN;
  }
}

/** The text in a buffer of C. */
const text = (buffer: Buffer): string => {
  const end = buffer.indexOf(0);
  return buffer.toString('utf8', 0, end < 0 ? buffer.length : end);
};

/** Its functions, each called on a thread beside the program's: no call holds up anything else. */
class Library {
  readonly #natives = new Map<FunctionName, Native>();

  /** @throws Error where the library can't be loaded */
  static async load(path: string): Promise<Library> {
    const koffi = await loadKoffi();
    try {
      return new Library(koffi.load(path), (buffer) => koffi.address(buffer));
    } catch (cause) {
      throw new Error(`${path} can't be loaded: ${(cause as Error).message}`, { cause });
    }
  }

  readonly address: (buffer: Buffer) => bigint;

  private constructor(handles: LibraryHandle, address: (buffer: Buffer) => bigint) {
    this.address = address;
    for (const [name, [symbols, parameters]] of Object.entries(functions))
      for (const symbol of symbols) {
        try {
          this.#natives.set(name as FunctionName, handles.func(symbol, 'int', [...parameters]));
          break;
        } catch {
          // An older driver's library: the next name is that of an older version.
        }
      }
  }

  has(name: FunctionName): boolean {
    return this.#natives.has(name);
  }

  /** What the function returns; it is not called where the library has none. */
  call(name: FunctionName, ...parameters: unknown[]): Promise<number> {
    const native = this.#natives.get(name);
    if (!native) return Promise.resolve(nvmlReturns.functionNotFound);
    return new Promise((resolve, reject) => {
      native.async(...parameters, (cause: Error | null, result: number) => {
        nativeCalls.underWay--;
        if (cause) reject(cause);
        else resolve(result);
      });
      nativeCalls.underWay++;
    });
  }
}

/** What changes seldom, of a GPU or an instance. */
type Known = {
  handle: bigint;
  row: GpuRow;
  /** What it said when it was lost; it says nothing then. */
  lost: NvmlError | undefined;
  instances: Known[];
  /** Counters of the reading before. */
  counters: readonly number[];
  counters_ms: number;
  /** Time stamp of the newest sample of what processes use. */
  usesSince: bigint;
};

export type NvmlOptions = { library: string; clock: Pick<Clock, 'monotonic_ms'>; events: Events };

/** The GPUs of NVIDIA as their driver knows them. Nothing is asked while the answer before is missing. */
export class Nvml {
  readonly #path: string;
  readonly #clock: Pick<Clock, 'monotonic_ms'>;
  readonly #events: Events;
  readonly #buffer = Buffer.alloc(128);
  readonly #second = Buffer.alloc(8);
  readonly #fields = Buffer.alloc(fieldNames.length * fieldBytes);
  readonly #event = Buffer.alloc(32);
  #list = Buffer.alloc(64 * 40);
  #library: Library | undefined;
  #isInitialized = false;
  /** What a GPU does not support, so that it is not asked for before the next look: a call costs 20 us. */
  readonly #unsupported = new Set<string>();
  #gpus: Known[] = [];
  #round = 0;
  #driver = '';
  #cuda = '';
  #eventSet: bigint | undefined;
  /** Errors counted over initializations. */
  readonly #xidErrors = new Map<string, number>();

  constructor({ library, clock, events }: NvmlOptions) {
    this.#path = library;
    this.#clock = clock;
    this.#events = events;
  }

  /** What the GPUs that are not readable said, one sentence each. */
  lost(): string[] {
    return this.#gpus.flatMap(({ row, lost }) => (lost ? [`${row.name} ${row.gpu}: ${lost.message}.`] : []));
  }

  /** GPUs that it found, also those that are lost. */
  get count(): number {
    return this.#gpus.length;
  }

  /** Everything now. @throws Error where the library can't be had or the driver is gone; the next call begins anew */
  async read(): Promise<GpuReading> {
    try {
      await this.#open();
      if (this.#round++ % gpuStaticRounds === 0) await this.#look();
      await this.#takeEvents();
      const reading: GpuReading = { gpus: [], processes: [] };
      for (const gpu of this.#gpus) await this.#readGpu(gpu, reading);
      return reading;
    } catch (cause) {
      await this.close();
      throw cause;
    }
  }

  async close(): Promise<void> {
    this.#gpus = [];
    this.#round = 0;
    this.#eventSet = undefined;
    if (!this.#isInitialized) return;
    this.#isInitialized = false;
    await this.#library?.call('shutdown');
  }

  async #open(): Promise<void> {
    if (this.#isInitialized) return;
    this.#library ??= await Library.load(this.#path);
    const code = await this.#library.call('init');
    if (code !== nvmlReturns.success) throw new NvmlError(code, 'nvmlInit');
    this.#isInitialized = true;
    const { status, buffer } = await this.#ask('driverVersion', 80, this.#buffer, 80);
    this.#driver = status ? `nvidia ${text(buffer)}` : 'nvidia';
    const cuda = (await this.#ask('cudaVersion', 4, this.#buffer)).status ? this.#buffer.readInt32LE(0) : 0;
    this.#cuda = cuda > 0 ? `${Math.floor(cuda / 1000)}.${Math.floor((cuda % 1000) / 10)}` : '';
    if ((await this.#ask('eventSet', 8, this.#buffer)).status) this.#eventSet = this.#buffer.readBigUInt64LE(0);
  }

  /** Calls with a zeroed buffer. @throws NvmlError where library or GPU are at an end */
  async #ask(
    name: FunctionName,
    bytes: number,
    ...parameters: unknown[]
  ): Promise<{ status: boolean; buffer: Buffer; code: number }> {
    this.#buffer.fill(0, 0, bytes);
    const code = await this.#call(name, ...parameters);
    return { status: code === nvmlReturns.success, buffer: this.#buffer, code };
  }

  async #call(name: FunctionName, ...parameters: unknown[]): Promise<number> {
    const [gpu, kind] = parameters;
    const what = typeof gpu === 'bigint' ? `${name} ${gpu} ${typeof kind === 'number' ? kind : ''}` : '';
    if (this.#unsupported.has(what)) return nvmlReturns.notSupported;
    const code = (await this.#library?.call(name, ...parameters)) ?? nvmlReturns.uninitialized;
    if (code === nvmlReturns.notSupported && what !== '') this.#unsupported.add(what);
    if (endsLibrary.has(code) || endsGpu.has(code)) throw new NvmlError(code, functions[name][0][0]);
    return code;
  }

  /** A number of 32 bits; NaN where there is none. */
  async #number(name: FunctionName, gpu: bigint, ...kind: number[]): Promise<number> {
    const { status, buffer } = await this.#ask(name, 4, gpu, ...kind, this.#buffer);
    return status ? known32(buffer.readUInt32LE(0)) : Number.NaN;
  }

  /** The first of two numbers that a function gives. */
  async #first(name: FunctionName, gpu: bigint): Promise<number> {
    const { status, buffer } = await this.#ask(name, 4, gpu, this.#buffer, this.#second);
    return status ? known32(buffer.readUInt32LE(0)) : Number.NaN;
  }

  async #text(name: FunctionName, gpu: bigint, bytes = 96): Promise<string> {
    const { status, buffer } = await this.#ask(name, bytes, gpu, this.#buffer, bytes);
    return status ? text(buffer) : '';
  }

  /** Finds the GPUs and their instances, and what of them changes seldom. */
  async #look(): Promise<void> {
    this.#unsupported.clear();
    const { status, code } = await this.#ask('count', 4, this.#buffer);
    if (!status) throw new NvmlError(code, 'nvmlDeviceGetCount');
    const count = Math.min(this.#buffer.readUInt32LE(0), gpusMax);
    const before = new Map(this.#gpus.map((gpu) => [gpu.row.gpu, gpu]));
    const found: Known[] = [];
    for (let index = 0; index < count; index++) {
      try {
        if (!(await this.#ask('handleByIndex', 8, index, this.#buffer)).status) continue;
        const gpu = this.#buffer.readBigUInt64LE(0);
        const uuid = await this.#text('uuid', gpu);
        if (uuid === '') continue;
        const known = before.get(uuid);
        found.push(await this.#learn(gpu, uuid, known));
        if (!known && this.#eventSet !== undefined) await this.#call('eventRegister', gpu, 8n, this.#eventSet);
      } catch (cause) {
        if (!(cause instanceof NvmlError) || endsLibrary.has(cause.code)) throw cause;
        // The others are still there; this one keeps its name if it had one.
        const known = this.#gpus[index];
        if (known && !found.includes(known)) found.push(this.#lose(known, cause));
      }
    }
    this.#gpus = found;
  }

  async #learn(gpu: bigint, uuid: string, before: Known | undefined): Promise<Known> {
    const mega = async (name: FunctionName, kind: number) =>
      below((await this.#number(name, gpu, kind)) * 1e6, hertzMax);
    const row: GpuRow = {
      gpu: uuid,
      name: await this.#text('name', gpu),
      vendor: 'nvidia',
      driver: this.#driver,
      cuda_version: this.#cuda,
      pci_address: (await this.#ask('pci', 68, gpu, this.#buffer)).status ? pciAddress(this.#buffer) : '',
      compute_mode: computeModes[await this.#number('computeMode', gpu)] ?? '',
      temperature_shutdown_celsius: celsius(await this.#number('threshold', gpu, 0)),
      temperature_slowdown_celsius: celsius(await this.#number('threshold', gpu, 1)),
      clock_max_hertz: await mega('clockMax', 1),
      memory_clock_max_hertz: await mega('clockMax', 2),
      pcie_generation_max_code: await this.#number('pcieGenerationMax', gpu),
      pcie_lanes_max_count: await this.#number('pcieLanesMax', gpu),
      mig_enabled_flag: below(await this.#first('migMode', gpu), 2),
    };
    const { status } = await this.#ask('powerLimits', 4, gpu, this.#second, this.#buffer);
    if (status) row.power_limit_max_watts = below(known32(this.#buffer.readUInt32LE(0)) / 1000, wattsMax);
    const links = await this.#links(gpu);
    if (links !== undefined) row.nvlinks_count = links;
    const known = { ...(before ?? nothingKnown()), handle: gpu, row, lost: undefined };
    known.instances = row.mig_enabled_flag === 1 ? await this.#instances(gpu, row) : [];
    return known;
  }

  /** NVLinks that are up; undefined where the GPU has none. */
  async #links(gpu: bigint): Promise<number | undefined> {
    let links: number | undefined;
    for (let link = 0; link < 18; link++) {
      const active = await this.#number('nvlinkState', gpu, link);
      if (Number.isNaN(active)) break;
      links = (links ?? 0) + (active === 1 ? 1 : 0);
    }
    return links;
  }

  async #instances(gpu: bigint, parent: GpuRow): Promise<Known[]> {
    const count = await this.#number('migCount', gpu);
    const instances: Known[] = [];
    for (let index = 0; index < Math.min(count, 16); index++) {
      if (!(await this.#ask('migHandle', 8, gpu, index, this.#buffer)).status) continue;
      const instance = this.#buffer.readBigUInt64LE(0);
      const uuid = await this.#text('uuid', instance);
      if (uuid === '') continue;
      const row: GpuRow = {
        gpu: uuid,
        name: await this.#text('name', instance),
        vendor: 'nvidia',
        parent: parent.gpu,
        ...(parent.pci_address ? { pci_address: parent.pci_address } : {}),
        driver: this.#driver,
        cuda_version: this.#cuda,
      };
      instances.push({ ...nothingKnown(), handle: instance, row });
    }
    return instances;
  }

  /** A GPU that answers no more: said once, and tried again with the next look. */
  #lose(gpu: Known, cause: NvmlError): Known {
    if (!gpu.lost) {
      const { gpu: entity, name = '' } = gpu.row;
      this.#events.record({ kind: 'gpu', action: 'error', entity, name, class: name, detail: cause.message });
    }
    gpu.lost = cause;
    return gpu;
  }

  async #readGpu(gpu: Known, reading: GpuReading): Promise<void> {
    if (gpu.lost) return;
    try {
      const row = { ...gpu.row };
      await this.#readMemory(gpu.handle, row);
      await this.#readUse(gpu.handle, row);
      await this.#readPower(gpu.handle, row);
      await this.#readFields(gpu, row);
      if (this.#eventSet !== undefined) row.xid_errors_total = this.#xidErrors.get(row.gpu) ?? 0;
      const processes = await this.#processes(gpu, gpu.instances.length === 0);
      if (gpu.instances.length === 0) row.processes_count = processes.length;
      reading.gpus.push(row);
      reading.processes.push(...(gpu.instances.length === 0 ? processes : []));
      for (const instance of gpu.instances) await this.#readInstance(instance, reading);
    } catch (cause) {
      if (!(cause instanceof NvmlError) || endsLibrary.has(cause.code)) throw cause;
      this.#lose(gpu, cause);
    }
  }

  async #readInstance(instance: Known, reading: GpuReading): Promise<void> {
    const row = { ...instance.row };
    // An instance that was destroyed has no memory any more; which there are is looked up with the next reading.
    if (!(await this.#readMemory(instance.handle, row))) {
      this.#round = 0;
      return;
    }
    const processes = await this.#processes(instance, false);
    row.processes_count = processes.length;
    reading.gpus.push(row);
    reading.processes.push(...processes);
  }

  async #readMemory(gpu: bigint, row: GpuRow): Promise<boolean> {
    const buffer = this.#buffer;
    const value = (at: number): number => known64(buffer.readBigUInt64LE(at));
    // nvmlMemory_v2_t: the version is its size and a 2 in the highest byte.
    buffer.fill(0, 0, 40);
    buffer.writeUInt32LE(0x0200_0028, 0);
    if ((await this.#call('memory2', gpu, buffer)) === nvmlReturns.success) {
      row.memory_total_bytes = value(8);
      row.memory_reserved_bytes = value(16);
      row.memory_free_bytes = value(24);
      row.memory_used_bytes = value(32);
    } else {
      if (!(await this.#ask('memory', 24, gpu, buffer)).status) return false;
      row.memory_total_bytes = value(0);
      row.memory_free_bytes = value(8);
      row.memory_used_bytes = value(16);
    }
    row.memory_used_percent = usedPercent(row.memory_used_bytes, row.memory_total_bytes);
    return true;
  }

  async #readUse(gpu: bigint, row: GpuRow): Promise<void> {
    const { status, buffer } = await this.#ask('utilization', 8, gpu, this.#buffer);
    if (status) {
      row.used_percent = share(buffer.readUInt32LE(0));
      row.memory_controller_used_percent = share(buffer.readUInt32LE(4));
    }
    row.encoder_used_percent = share(await this.#first('encoder', gpu));
    row.decoder_used_percent = share(await this.#first('decoder', gpu));
    row.clock_hertz = below((await this.#number('clock', gpu, 1)) * 1e6, hertzMax);
    row.memory_clock_hertz = below((await this.#number('clock', gpu, 2)) * 1e6, hertzMax);
    row.video_clock_hertz = below((await this.#number('clock', gpu, 3)) * 1e6, hertzMax);
    const state = await this.#number('performanceState', gpu);
    // 32 is "unknown".
    row.performance_state_code = below(state, 16);
    const reasons = await this.#ask('throttleReasons', 8, gpu, this.#buffer);
    if (reasons.status) Object.assign(row, throttling(known64(reasons.buffer.readBigUInt64LE(0))));
  }

  async #readPower(gpu: bigint, row: GpuRow): Promise<void> {
    row.temperature_celsius = celsius(await this.#temperature(gpu));
    row.power_watts = below((await this.#number('power', gpu)) / 1000, wattsMax);
    row.power_limit_watts = below((await this.#number('powerLimit', gpu)) / 1000, wattsMax);
    row.fan_percent = share(await this.#number('fan', gpu));
    const buffer = this.#buffer;
    // nvmlFanSpeedInfo_v1_t: version, fan, speed
    buffer.fill(0, 0, 12);
    buffer.writeUInt32LE(0x0100_000c, 0);
    if ((await this.#call('fanRevolutions', gpu, buffer)) === nvmlReturns.success)
      row.fan_revolutions_per_minute = below(known32(buffer.readUInt32LE(8)), 100_000);
    row.pcie_generation_code = await this.#number('pcieGeneration', gpu);
    row.pcie_lanes_count = await this.#number('pcieLanes', gpu);
    row.pcie_replays_total = await this.#number('pcieReplays', gpu);
  }

  async #temperature(gpu: bigint): Promise<number> {
    const buffer = this.#buffer;
    // nvmlTemperature_v1_t: version, sensor, temperature
    buffer.fill(0, 0, 12);
    buffer.writeUInt32LE(0x0100_000c, 0);
    if ((await this.#call('temperatureV', gpu, buffer)) === nvmlReturns.success) {
      const degrees = buffer.readInt32LE(8);
      return degrees === -1 ? Number.NaN : degrees;
    }
    return this.#number('temperature', gpu, 0);
  }

  async #readFields(gpu: Known, row: GpuRow): Promise<void> {
    const values = this.#fields;
    values.fill(0);
    for (const [place, name] of fieldNames.entries()) {
      values.writeUInt32LE(fieldIds[name], place * fieldBytes);
      if (name.startsWith('nvlink')) values.writeUInt32LE(allLinks, place * fieldBytes + 4);
      // What the library does not fill in has no value.
      values.writeInt32LE(nvmlReturns.functionNotFound, place * fieldBytes + 28);
    }
    const status = await this.#call('fieldValues', gpu.handle, fieldNames.length, values);
    const of = (name: FieldName): number =>
      status === nvmlReturns.success ? fieldValue(values, fieldNames.indexOf(name) * fieldBytes) : Number.NaN;
    row.memory_temperature_celsius = celsius(of('memoryTemperature') || Number.NaN);
    row.energy_joules = of('energy') / 1000;
    row.ecc_enabled_flag = below(of('eccMode'), 2);
    row.ecc_corrected_volatile_total = of('correctedVolatile');
    row.ecc_uncorrected_volatile_total = of('uncorrectedVolatile');
    row.ecc_corrected_aggregate_total = of('correctedAggregate');
    row.ecc_uncorrected_aggregate_total = of('uncorrectedAggregate');
    row.retired_pages_corrected_total = of('retiredCorrected');
    row.retired_pages_uncorrected_total = of('retiredUncorrected');
    row.retired_pages_pending_flag = below(of('retiredPending'), 2);
    row.remapped_rows_corrected_total = of('remappedCorrected');
    row.remapped_rows_uncorrected_total = of('remappedUncorrected');
    row.remapped_rows_pending_flag = below(of('remappedPending'), 2);
    row.remapped_rows_failed_flag = below(of('remappedFailed'), 2);
    // Counters of 32 bits would wrap several times between two readings.
    const isWide = (name: FieldName) => values.readUInt32LE(fieldNames.indexOf(name) * fieldBytes + 24) >= 2;
    const wide = (name: FieldName) => (isWide(name) ? of(name) : Number.NaN);
    const now_ms = this.#clock.monotonic_ms();
    const counters = [wide('pcieSent'), wide('pcieReceived'), of('nvlinkSent'), of('nvlinkReceived')];
    const rates = new Rates(gpu.counters, counters, (now_ms - gpu.counters_ms) / 1000);
    gpu.counters = counters;
    gpu.counters_ms = now_ms;
    row.nvlink_sent_bytes_per_second = rates.perSecond(2, 1024);
    row.nvlink_received_bytes_per_second = rates.perSecond(3, 1024);
    row.pcie_sent_bytes_per_second = rates.perSecond(0);
    row.pcie_received_bytes_per_second = rates.perSecond(1);
    if (!Number.isNaN(counters[0] ?? Number.NaN)) return;
    // What older GPUs have instead: each of the two calls takes 20 ms, in which the driver counts. KB/s.
    row.pcie_sent_bytes_per_second = below((await this.#number('pcieThroughput', gpu.handle, 0)) * 1000, 1e12);
    row.pcie_received_bytes_per_second = below((await this.#number('pcieThroughput', gpu.handle, 1)) * 1000, 1e12);
  }

  async #processes(gpu: Known, hasUse: boolean): Promise<GpuProcessRow[]> {
    const rows = new Map<number, GpuProcessRow>();
    for (const type of ['compute', 'graphics'] as const) {
      const isNew = this.#library?.has(type) ?? false;
      const size = isNew ? 24 : 16;
      const count = await this.#fill(isNew ? type : `${type}1`, gpu.handle, size);
      for (let place = 0; place < count; place++) {
        const pid = this.#list.readUInt32LE(place * size);
        const memory = known64(this.#list.readBigUInt64LE(place * size + 8));
        const row = rows.get(pid);
        // One process may be in both lists, with the same memory.
        if (row) row.type = row.type === type ? type : `${row.type},${type}`;
        else rows.set(pid, { gpu: gpu.row.gpu, pid, type, memory_used_bytes: memory });
      }
    }
    if (hasUse && rows.size > 0) await this.#processUse(gpu, rows);
    return [...rows.values()];
  }

  /** Fills the list, which grows where it is too short; returns the number of entries. */
  async #fill(name: FunctionName, gpu: bigint, size: number, ...more: unknown[]): Promise<number> {
    for (let attempt = 0; attempt < 3; attempt++) {
      const room = Math.floor(this.#list.length / size);
      this.#second.writeUInt32LE(room, 0);
      this.#list.fill(0);
      const parameters = name === 'processUse' ? [this.#list, this.#second] : [this.#second, this.#list];
      const code = await this.#call(name, gpu, ...parameters, ...more);
      const count = this.#second.readUInt32LE(0);
      if (code === nvmlReturns.success) return Math.min(count, room);
      if (code !== nvmlReturns.insufficientSize || count > gpuProcessesMax) return 0;
      // Some more: others may start meanwhile.
      this.#list = Buffer.alloc(Math.max(count + 16, room * 2) * size);
    }
    return 0;
  }

  /** What processes used since the reading before: the mean of the driver's samples. */
  async #processUse(gpu: Known, rows: Map<number, GpuProcessRow>): Promise<void> {
    const old = this.#library?.has('processUse') ?? false;
    const size = old ? 32 : 40;
    const count = old
      ? await this.#fill('processUse', gpu.handle, size, gpu.usesSince)
      : await this.#processesUse(gpu.handle, gpu.usesSince);
    const sums = new Map<number, number[]>();
    for (let place = 0; place < count; place++) {
      const at = place * size;
      const pid = this.#list.readUInt32LE(old ? at : at + 8);
      const time = this.#list.readBigUInt64LE(old ? at + 8 : at);
      if (time > gpu.usesSince) gpu.usesSince = time;
      const first = old ? at + 16 : at + 12;
      const sum = sums.get(pid) ?? [0, 0, 0, 0, 0];
      for (let kind = 0; kind < 4; kind++)
        sum[kind] = (sum[kind] ?? 0) + share(this.#list.readUInt32LE(first + kind * 4));
      sum[4] = (sum[4] ?? 0) + 1;
      sums.set(pid, sum);
    }
    for (const [pid, [used = 0, memory = 0, encoder = 0, decoder = 0, samples = 1]] of sums) {
      const row = rows.get(pid);
      if (!row) continue;
      row.used_percent = used / samples;
      row.memory_controller_used_percent = memory / samples;
      row.encoder_used_percent = encoder / samples;
      row.decoder_used_percent = decoder / samples;
    }
  }

  /** nvmlProcessesUtilizationInfo_v1_t: version, number, time stamp, pointer to the list. */
  async #processesUse(gpu: bigint, since: bigint): Promise<number> {
    const { address } = this.#library ?? {};
    if (!address) return 0;
    const room = Math.floor(this.#list.length / 40);
    const buffer = this.#buffer;
    buffer.writeUInt32LE(0x0100_0018, 0);
    buffer.writeUInt32LE(room, 4);
    buffer.writeBigUInt64LE(since, 8);
    buffer.writeBigUInt64LE(address(this.#list), 16);
    const code = await this.#call('processesUse', gpu, buffer);
    return code === nvmlReturns.success ? Math.min(buffer.readUInt32LE(4), room) : 0;
  }

  /**
   * Takes what the driver has put into the set of events since the reading before. They wait there: a call that waits for
   * them would keep one of the process's four threads for ever, and a driver that hangs a second one.
   */
  async #takeEvents(): Promise<void> {
    if (this.#eventSet === undefined) return;
    for (let taken = 0; taken < gpuEventsPerRoundMax; taken++) {
      const event = this.#event.fill(0);
      if ((await this.#library?.call('eventWait', this.#eventSet, event, 1)) !== nvmlReturns.success) return;
      const gpu = this.#gpus.find(({ handle: of }) => of === event.readBigUInt64LE(0));
      if (event.readBigUInt64LE(8) !== 8n || !gpu) continue;
      const xid = Number(event.readBigUInt64LE(16));
      const { gpu: entity, name = '' } = gpu.row;
      this.#xidErrors.set(entity, (this.#xidErrors.get(entity) ?? 0) + 1);
      const meaning = xidMeanings[xid];
      const detail = `XID ${xid}${meaning ? `: ${meaning}` : ''}`;
      this.#events.record({ kind: 'gpu', action: 'error', entity, name, class: name, detail, code: xid });
    }
  }
}

const nothingKnown = (): Known => ({
  handle: 0n,
  row: { gpu: '' },
  lost: undefined,
  instances: [],
  counters: [],
  counters_ms: Number.NaN,
  usesSince: 0n,
});

/** The address in nvmlPciInfo_t: domain, bus and device follow 16 bytes of text. */
function pciAddress(pci: Buffer): string {
  const part = (at: number, digits: number): string => pci.readUInt32LE(at).toString(16).padStart(digits, '0');
  return `${part(16, 4)}:${part(20, 2)}:${part(24, 2)}.0`;
}
