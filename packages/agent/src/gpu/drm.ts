import { readdirSync, readFile, readlinkSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '#clock.ts';
import { DeviceFile, isGone, wholeNumber } from '#devices.ts';
import { readOnce } from '#files.ts';
import { readAmd } from '#gpu/amd.ts';
import { readIntel } from '#gpu/intel.ts';
import type { GpuDevice, GpuProcessRow, GpuReading, GpuRow } from '#gpu/model.ts';
import { drmClientsMax, gpuStaticRounds } from '#limits.ts';
import { increase, percent } from '#rates.ts';
import type { Context } from '#source.ts';

// What the kernel's own drivers say of GPUs: attributes in /sys/class/drm, and what each process uses in /proc/PID/fdinfo.
// https://docs.kernel.org/gpu/drm-usage-stats.html

/** The drivers that are known. */
const readers: Record<string, { vendor: string; read: (card: Attributes, row: GpuRow) => Promise<void> }> = {
  amdgpu: { vendor: 'amd', read: readAmd },
  i915: { vendor: 'intel', read: readIntel },
  xe: { vendor: 'intel', read: readIntel },
};

/** The attributes of a card that are read again and again. */
export class Attributes {
  readonly driver: string;
  readonly clock: Pick<Clock, 'monotonic_ms'>;
  readonly #path: string;
  readonly #files = new Map<string, DeviceFile>();
  /** What is not there, so that it is not looked for each time. */
  readonly #missing = new Set<string>();
  /** Counters of the reading before, for the drivers' own use. */
  counters: readonly number[] = [];
  counters_ms = Number.NaN;
  #hwmon: string | undefined;

  constructor(path: string, driver: string, clock: Pick<Clock, 'monotonic_ms'>) {
    this.#path = path;
    this.driver = driver;
    this.clock = clock;
  }

  /** What an attribute says; empty where there is none, or the driver has no answer now. */
  async text(name: string): Promise<string> {
    if (this.#missing.has(name)) return '';
    let file = this.#files.get(name);
    if (!file) {
      file = new DeviceFile(join(this.#path, name), 4096);
      this.#files.set(name, file);
    }
    try {
      return await file.text();
    } catch (cause) {
      if (isGone(cause) || (cause as NodeJS.ErrnoException).code === 'EACCES') this.#missing.add(name);
      return '';
    }
  }

  /** The whole number that it says, times a scale; NaN where it says none. */
  async number(name: string, scale = 1): Promise<number> {
    return wholeNumber(await this.text(name)) * scale;
  }

  /** The first of several that has a number. */
  async firstNumber(names: readonly string[], scale = 1): Promise<number> {
    for (const name of names) {
      const value = await this.number(name, scale);
      if (!Number.isNaN(value)) return value;
    }
    return Number.NaN;
  }

  /** An attribute that is no text; empty where there is none. */
  async bytes(name: string): Promise<Buffer> {
    if (this.#missing.has(name)) return Buffer.alloc(0);
    return new Promise((resolve) => {
      readFile(join(this.#path, name), (cause, content) => {
        if (cause && isGone(cause)) this.#missing.add(name);
        resolve(cause ? Buffer.alloc(0) : content);
      });
    });
  }

  /** The folder of the card's sensors, with a slash; undefined where it has none. */
  get hwmon(): string | undefined {
    this.#hwmon ??= names(join(this.#path, 'device/hwmon'), /^hwmon\d+$/)[0];
    return this.#hwmon === undefined ? undefined : `device/hwmon/${this.#hwmon}/`;
  }

  lookAgain(): void {
    this.#missing.clear();
    this.#hwmon = undefined;
  }

  close(): void {
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
  }
}

/** One GPU of a driver of the kernel. */
class Card implements GpuDevice {
  readonly trouble = undefined;
  readonly address: string;
  readonly #attributes: Attributes;
  readonly #driver: string;
  readonly #kernel: string;
  #row: GpuRow | undefined;
  #reading: GpuReading | undefined;
  #round = 0;
  #sleeps = false;

  constructor(path: string, address: string, driver: string, context: Pick<Context, 'clock' | 'roots'>) {
    this.address = address;
    this.#driver = driver;
    this.#attributes = new Attributes(path, driver, context.clock);
    this.#kernel = readOnce(join(context.roots.proc, 'sys/kernel/osrelease')).trim();
  }

  get name(): string {
    return `The GPU ${this.address}`;
  }

  /** What it is called in the tables. */
  get id(): string {
    return this.#row?.gpu ?? this.address;
  }

  take(): GpuReading | undefined {
    const reading = this.#reading;
    this.#reading = undefined;
    return reading;
  }

  limitations(): string[] {
    return this.#sleeps ? [`${this.name} is switched off to save power, and is not woken up to be read.`] : [];
  }

  async read(): Promise<void> {
    const attributes = this.#attributes;
    if (this.#round++ % gpuStaticRounds === 0) attributes.lookAgain();
    // Reading almost any attribute of a GPU that sleeps wakes it up.
    this.#sleeps = (await attributes.text('device/power/runtime_status')) === 'suspended';
    this.#row ??= await this.#identify();
    const row = { ...this.#row };
    if (!this.#sleeps) await readers[this.#driver]?.read(attributes, row);
    this.#reading = { gpus: [row], processes: [] };
  }

  close(): Promise<void> {
    this.#attributes.close();
    this.#reading = undefined;
    return Promise.resolve();
  }

  async #identify(): Promise<GpuRow> {
    const attributes = this.#attributes;
    const unique = await attributes.text('device/unique_id');
    const hexadecimal = async (name: string) => (await attributes.text(name)).replace(/^0x/, '');
    const product = await attributes.text('device/product_name');
    const model = `${await hexadecimal('device/vendor')}:${await hexadecimal('device/device')}`;
    return {
      gpu: /^(0x)?0*$/.test(unique) ? this.address : unique,
      // Only some boards have a name; others are known by their numbers.
      name: product === '' ? `${this.#driver} ${model}` : product,
      vendor: readers[this.#driver]?.vendor ?? '',
      pci_address: this.address,
      driver: `${this.#driver} ${this.#kernel}`.trim(),
    };
  }
}

/** The GPUs of amdgpu, i915 and xe, and the processes that use them. */
export class DrmDevices {
  readonly #context: Context;
  #cards = new Map<string, Card>();
  readonly #clients: DrmClients;

  constructor(context: Context) {
    this.#context = context;
    this.#clients = new DrmClients(context);
  }

  /** Those that are here now; they come and go. */
  look(): GpuDevice[] {
    const { roots } = this.#context;
    const folder = join(roots.sys, 'class/drm');
    const cards = new Map<string, Card>();
    for (const name of names(folder, /^card\d+$/)) {
      const path = join(folder, name);
      const driver = linked(join(path, 'device/driver'));
      if (!(driver in readers)) continue;
      const address = pciAddress(path);
      const key = `${name} ${address} ${driver}`;
      cards.set(key, this.#cards.get(key) ?? new Card(path, address, driver, this.#context));
    }
    for (const [key, card] of this.#cards) if (!cards.has(key)) void card.close();
    this.#cards = cards;
    return cards.size === 0 ? [] : [...cards.values(), this.#clients];
  }

  /** The processes that use them, and, where the driver does not say it itself, the use of each GPU, which is put into its row. */
  processes(rows: readonly GpuRow[]): GpuProcessRow[] {
    const use = this.#clients.takeUse();
    if (!use) return [];
    const { users, busy } = use;
    const { seesAll } = this.#clients;
    const ids = new Map(Array.from(this.#cards.values(), ({ address, id }) => [address, id]));
    for (const row of rows) {
      const { pci_address: address = '', used_percent: used = Number.NaN } = row;
      if (!ids.has(address)) continue;
      if (busy && Number.isNaN(used)) row.used_percent = busy.get(address) ?? (seesAll ? 0 : Number.NaN);
      if (seesAll) row.processes_count = users.filter(({ gpu: of }) => of === address).length;
    }
    return users.flatMap((user) => {
      const id = ids.get(user.gpu);
      return id === undefined ? [] : [{ ...user, gpu: id }];
    });
  }

  limitations(): string[] {
    return [];
  }

  close(): void {
    // They stay known: one that hangs is not asked anew.
    for (const card of this.#cards.values()) void card.close();
  }
}

/** What a file of /proc/PID/fdinfo says of a client of a GPU. */
export type DrmClient = {
  driver: string;
  /** Address on the PCI bus; empty where the driver gives none. */
  address: string;
  /** Number of the client; several descriptors may be of one. */
  client: string;
  /** Time that engines worked for it, by their kind: nanoseconds, or cycles of `totalCycles`. */
  engines: Map<string, { busy: number; total: number; capacity: number }>;
  memory_bytes: number;
  host_memory_bytes: number;
};

const unitBytes: Record<string, number> = { '': 1, KiB: 1024, MiB: 1024 ** 2 };

/** The client that this file describes; undefined where it is of something else. */
export function parseFdinfo(text: string): DrmClient | undefined {
  if (!text.includes('drm-driver:')) return undefined;
  const pairs = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [, key, value] = /^((?:drm|amd)-[\w-]+):\s*(.*)$/.exec(line) ?? [];
    if (key !== undefined && value !== undefined) pairs.set(key, value.trim());
  }
  const number = (key: string): number => Number(/^\d+/.exec(pairs.get(key) ?? '')?.[0] ?? Number.NaN);
  const engines: DrmClient['engines'] = new Map();
  const memory = new Map<string, Partial<Record<string, number>>>();
  for (const [key, value] of pairs) {
    const [, kind = '', name = ''] =
      /^drm-(engine|cycles|resident|memory|total)-(?!capacity-|cycles-)(.+)$/.exec(key) ?? [];
    if (kind === 'engine' || kind === 'cycles') {
      const capacity = number(`drm-engine-capacity-${name}`) || 1;
      const total = kind === 'cycles' ? number(`drm-total-cycles-${name}`) : Number.NaN;
      // Where a driver gives both, the time is simpler.
      if (kind === 'engine' || !engines.has(name)) engines.set(name, { busy: number(key), total, capacity });
    } else if (kind !== '') {
      const [, digits = '', unit = ''] = /^(\d+)\s*(\w*)$/.exec(value) ?? [];
      const scale = unitBytes[unit];
      if (digits !== '' && scale !== undefined)
        memory.set(name, { ...memory.get(name), [kind]: Number(digits) * scale });
    }
  }
  const held = (pattern: RegExp): number => {
    const regions = [...memory].filter(([name]) => pattern.test(name));
    if (regions.length === 0) return Number.NaN;
    return regions.reduce((sum, [, of]) => sum + (of.resident ?? of.memory ?? of.total ?? 0), 0);
  };
  return {
    driver: pairs.get('drm-driver') ?? '',
    address: pairs.get('drm-pdev') ?? '',
    client: pairs.get('drm-client-id') ?? '',
    engines,
    memory_bytes: held(/^(vram|local)\d*$/),
    host_memory_bytes: held(/^(gtt|system|cpu)\d*$/),
  };
}

/** Kinds of engines for video, as the drivers call them. */
const isEncoder = /^(enc(_\d)?|jpeg)$/;
const isDecoder = /^(dec|video|vcs|vcn.*)$/;

type ClientsUse = { users: GpuProcessRow[]; busy: Map<string, number> | undefined };

type Use = { user: GpuProcessRow; engines: Map<string, number> };

/** The processes that use GPUs of the kernel's drivers. */
class DrmClients implements GpuDevice {
  readonly name = 'The list of processes that use GPUs';
  readonly trouble = undefined;
  readonly #proc: string;
  readonly #clock: Pick<Clock, 'monotonic_ms'>;
  /** The descriptors of GPUs, by process. */
  readonly #descriptors = new Map<number, string[]>();
  #before = new Map<string, DrmClient>();
  #before_ms = Number.NaN;
  #round = 0;
  #denied = 0;
  #use: ClientsUse | undefined;

  constructor({ roots, clock }: Pick<Context, 'roots' | 'clock'>) {
    this.#proc = roots.proc;
    this.#clock = clock;
  }

  get seesAll(): boolean {
    return this.#denied === 0;
  }

  limitations(): string[] {
    if (this.seesAll) return [];
    return [
      `The use of GPUs by ${this.#denied} processes of other users can't be seen: run the agent as root, or give it CAP_SYS_PTRACE.`,
    ];
  }

  take(): undefined {
    return undefined;
  }

  /** Who uses GPUs, by their address, and, from the second round on, how much of each is used; undefined where no round has ended since. */
  takeUse(): ClientsUse | undefined {
    const use = this.#use;
    this.#use = undefined;
    return use;
  }

  async read(): Promise<void> {
    await this.#findDescriptors();
    const now_ms = this.#clock.monotonic_ms();
    const nanoseconds = (now_ms - this.#before_ms) * 1e6;
    const clients = new Map<string, DrmClient>();
    const uses = new Map<string, Use>();
    for (const [pid, descriptors] of this.#descriptors)
      for (const descriptor of descriptors) {
        if (clients.size >= drmClientsMax) break;
        const client = parseFdinfo(await contentOf(join(this.#proc, String(pid), 'fdinfo', descriptor)));
        if (!client) continue;
        const key = `${client.address} ${client.client || `${pid}/${descriptor}`}`;
        // A descriptor that was handed on: it counts once, for the oldest process.
        if (clients.has(key)) continue;
        clients.set(key, client);
        addClient(uses, pid, client, this.#before.get(key), nanoseconds);
      }
    const users = Array.from(uses.values(), ({ user, engines }) => withUse(user, engines));
    this.#use = { users, busy: Number.isNaN(nanoseconds) ? undefined : busyOf(uses.values()) };
    this.#before = clients;
    this.#before_ms = now_ms;
  }

  close(): Promise<void> {
    this.#descriptors.clear();
    this.#before.clear();
    this.#before_ms = Number.NaN;
    this.#round = 0;
    this.#use = undefined;
    return Promise.resolve();
  }

  /** Looks into processes that are new, and each minute into all of them. */
  async #findDescriptors(): Promise<void> {
    const slice = this.#round % gpuStaticRounds;
    if (slice === 0) this.#denied = 0;
    const isFirst = this.#round++ === 0;
    const pids = names(this.#proc, /^\d+$/)
      .map(Number)
      .sort((a, b) => a - b);
    const alive = new Set(pids);
    for (const pid of this.#seen) if (!alive.has(pid)) this.#forget(pid);
    let looked = 0;
    for (const pid of pids) {
      if (!isFirst && this.#seen.has(pid) && pid % gpuStaticRounds !== slice) continue;
      if (++looked % 50 === 0) await setImmediate();
      this.#seen.add(pid);
      this.#lookInto(pid);
    }
  }

  readonly #seen = new Set<number>();

  #forget(pid: number): void {
    this.#seen.delete(pid);
    this.#descriptors.delete(pid);
  }

  #lookInto(pid: number): void {
    const folder = join(this.#proc, String(pid), 'fd');
    const found: string[] = [];
    try {
      for (const descriptor of readdirSync(folder)) {
        try {
          if (readlinkSync(join(folder, descriptor)).startsWith('/dev/dri/')) found.push(descriptor);
        } catch {
          // Closed meanwhile.
        }
      }
    } catch (cause) {
      if (['EACCES', 'EPERM'].includes((cause as NodeJS.ErrnoException).code ?? '')) this.#denied++;
    }
    if (found.length > 0) this.#descriptors.set(pid, found);
    else this.#descriptors.delete(pid);
  }
}

/** Adds what a client used since the reading before to its process. */
function addClient(
  uses: Map<string, Use>,
  pid: number,
  client: DrmClient,
  before: DrmClient | undefined,
  nanoseconds: number,
): void {
  const key = `${client.address} ${pid}`;
  const use = uses.get(key) ?? { user: { gpu: client.address, pid, type: '' }, engines: new Map<string, number>() };
  uses.set(key, use);
  const { user, engines } = use;
  const sum = (value: number | undefined, more: number) =>
    Number.isNaN(more) ? (value ?? Number.NaN) : (Number.isNaN(value ?? Number.NaN) ? 0 : (value ?? 0)) + more;
  user.memory_used_bytes = sum(user.memory_used_bytes, client.memory_bytes);
  user.host_memory_used_bytes = sum(user.host_memory_used_bytes, client.host_memory_bytes);
  for (const [name, { busy, total, capacity }] of client.engines) {
    const old = before?.engines.get(name);
    if (!old) continue;
    // Values may fall back for a moment: they count again when they have caught up.
    const part = increase(old.busy, busy);
    const whole = Number.isNaN(total) ? nanoseconds : increase(old.total, total);
    const used = percent(part, whole) / capacity;
    if (!Number.isNaN(used)) engines.set(name, (engines.get(name) ?? 0) + used);
  }
}

/** The use of each GPU: that of its busiest kind of engine, by all processes together. */
function busyOf(uses: Iterable<Use>): Map<string, number> {
  const byGpu = new Map<string, Map<string, number>>();
  for (const { user, engines } of uses) {
    const all = byGpu.get(user.gpu) ?? new Map<string, number>();
    byGpu.set(user.gpu, all);
    for (const [name, used] of engines) all.set(name, (all.get(name) ?? 0) + used);
  }
  return new Map(Array.from(byGpu, ([gpu, all]) => [gpu, Math.min(Math.max(...all.values(), 0), 100)]));
}

/** The busiest kind of engine is the use of the whole. */
function withUse(user: GpuProcessRow, engines: ReadonlyMap<string, number>): GpuProcessRow {
  if (engines.size === 0) return user;
  const most = (pattern: RegExp): number => {
    const of = [...engines].filter(([name]) => pattern.test(name)).map(([, used]) => used);
    return of.length === 0 ? Number.NaN : Math.min(Math.max(...of), 100);
  };
  user.used_percent = most(/./);
  user.encoder_used_percent = most(isEncoder);
  user.decoder_used_percent = most(isDecoder);
  return user;
}

/** A file as it is now; empty where it can't be read. Read beside the tick, since a driver that hangs answers here, too. */
const contentOf = (path: string): Promise<string> =>
  new Promise((resolve) => {
    readFile(path, 'utf8', (cause, content) => resolve(cause ? '' : content));
  });

function names(folder: string, pattern: RegExp): string[] {
  try {
    return readdirSync(folder).filter((name) => pattern.test(name));
  } catch {
    return [];
  }
}

/** The name of what a link leads to; empty where there is none. */
function linked(path: string): string {
  try {
    return basename(readlinkSync(path));
  } catch {
    return '';
  }
}

/** The address of a card's device on the PCI bus. */
function pciAddress(card: string): string {
  const slot = /^PCI_SLOT_NAME=(.+)$/m.exec(readOnce(join(card, 'device/uevent')))?.[1];
  if (slot !== undefined) return slot;
  try {
    return basename(realpathSync(join(card, 'device')));
  } catch {
    return basename(card);
  }
}
