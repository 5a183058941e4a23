import { readdirSync, realpathSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Sensor, Tables } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { emptyTable } from '#columns.ts';
import { type Device, DeviceFile, DeviceReader, isGone } from '#devices.ts';
import { readOnce } from '#files.ts';
import { deviceAnswerAgeMilliseconds, deviceLimitsSamples, deviceSampleMilliseconds } from '#limits.ts';
import { rate } from '#rates.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

/** The columns of values. */
type Field = { [K in keyof Sensor]: Sensor[K] extends number[] ? K : never }[keyof Sensor];
type Row = { sensor: string; label: string; kind: string; values: Partial<Record<Field, number>> };

/** What kinds of sensors the kernel knows: their column, what of their files makes one unit, and the files of their limits. */
const kinds: Record<string, { kind: string; field?: Field; per: number; limits: Partial<Record<Field, string[]>> }> = {
  temp: {
    kind: 'temperature',
    field: 'temperature_celsius',
    per: 1e3,
    limits: { temperature_max_celsius: ['max'], temperature_critical_celsius: ['crit', 'emergency'] },
  },
  fan: {
    kind: 'fan',
    field: 'fan_revolutions_per_minute',
    per: 1,
    limits: { fan_min_revolutions_per_minute: ['min'] },
  },
  in: {
    kind: 'voltage',
    field: 'voltage_volts',
    per: 1e3,
    limits: { voltage_min_volts: ['min', 'lcrit'], voltage_max_volts: ['max', 'crit'] },
  },
  curr: {
    kind: 'current',
    field: 'current_amperes',
    per: 1e3,
    limits: { current_max_amperes: ['max', 'crit'] },
  },
  power: {
    kind: 'power',
    field: 'power_watts',
    per: 1e6,
    limits: { power_max_watts: ['cap', 'max', 'crit'] },
  },
  energy: { kind: 'energy', field: 'power_watts', per: 1e6, limits: {} },
  freq: { kind: 'frequency', field: 'frequency_hertz', per: 1, limits: {} },
  humidity: { kind: 'humidity', field: 'humidity_percent', per: 1e3, limits: {} },
  intrusion: { kind: 'intrusion', per: 1, limits: {} },
};
const attribute = /^((temp|fan|in|curr|power|energy|freq|humidity|intrusion)\d+)_(\w+)$/;

/** Drivers of the processors themselves: they read registers, and a large machine has hundreds of their files. */
const promptDrivers = new Set(['coretemp', 'k10temp', 'zenpower', 'amd_energy', 'fam15h_power']);

/** Colder or hotter is a driver's way to say that there is none: -273.15, 65261.85 and 127 °C above the sun have been seen. */
const isTemperature = (celsius: number): boolean => celsius > -150 && celsius < 1000;

const sane = (field: Field, value: number): number =>
  field.endsWith('_celsius') && !isTemperature(value) ? Number.NaN : value;

/**
 * The name that lm-sensors gives a chip: its driver's name, the bus, and the place on it. Numbers of hwmon change from boot
 * to boot, these do not. `device` is the path of the chip's device in /sys, resolved; empty where it has none.
 */
export function chipName(name: string, device: string): string {
  const parts = device.split('/');
  const hexadecimal = (value: number, digits: number) => value.toString(16).padStart(digits, '0');
  for (let at = parts.length - 1; at > 0; at--) {
    const part = parts[at] ?? '';
    const pci = /^([\da-f]{4,}):([\da-f]{2}):([\da-f]{2})\.([0-7])$/.exec(part);
    if (pci) {
      const [domain = 0, bus = 0, slot = 0, fn = 0] = pci.slice(1).map((digits) => Number.parseInt(digits, 16));
      return `${name}-pci-${hexadecimal(domain * 65_536 + bus * 256 + slot * 8 + fn, 4)}`;
    }
    const i2c = /^(\d+)-([\da-f]{4})$/.exec(part);
    if (i2c) return `${name}-i2c-${i2c[1]}-${hexadecimal(Number.parseInt(i2c[2] ?? '', 16), 2)}`;
    const spi = /^spi(\d+)\.(\d+)$/.exec(part);
    if (spi) return `${name}-spi-${spi[1]}-${hexadecimal(Number(spi[2]), 1)}`;
    const hid = /^([\dA-F]{4}):[\dA-F]{4}:[\dA-F]{4}\.([\dA-F]{4})$/.exec(part);
    if (hid)
      return `${name}-hid-${Number.parseInt(hid[1] ?? '', 16)}-${hexadecimal(Number.parseInt(hid[2] ?? '', 16), 1)}`;
    const scsi = /^(\d+):(\d+):\d+:([\da-f]+)$/.exec(part);
    if (scsi) return `${name}-scsi-${scsi[1]}-${scsi[3]}`;
    if (/^[A-Z\d]{7,8}:[\da-f]{2}$/.test(part)) return `${name}-acpi-0`;
    if (parts[at - 1] === 'platform') {
      const place = /\.(\d+)$/.exec(part);
      return `${name}-isa-${hexadecimal(Number(place?.[1] ?? 0), 4)}`;
    }
  }
  return `${name}-virtual-0`;
}

/** What a chip or a zone was found as; `device` is a path, empty where it has none. */
type Found = { path: string; name: string; chip: string; device: string; isZone: boolean };

/** The chips of hwmon, and the thermal zones that none of them shows, each with a name of its own. */
export function findSensors(sys: string): Found[] {
  const chips = entries(join(sys, 'class/hwmon'), /^hwmon\d+$/).map((path) => {
    const device = resolved(join(path, 'device')) || deviceAbove(resolved(path));
    // Before Linux 3.x the attributes were the device's.
    const name = readOnce(join(path, 'name')).trim();
    const older = name === '' ? readOnce(join(path, 'device/name')).trim() : '';
    return { path: older === '' ? path : join(path, 'device'), name: name || older || basename(path), device };
  });
  const counts = new Map<string, number>();
  const named = chips.map(({ path, name, device }) => {
    const chip = chipName(name, device);
    counts.set(chip, (counts.get(chip) ?? 0) + 1);
    return { path, name, chip, device, isZone: false };
  });
  for (const found of named)
    if ((counts.get(found.chip) ?? 0) > 1)
      found.chip = `${found.chip}-${basename(found.path.replace(/\/device$/, ''))}`;

  // The kernel gives most zones a chip of the same name; coretemp shows that of the package, too.
  const shown = new Set(chips.map(({ name }) => name));
  if (shown.has('coretemp')) shown.add('x86_pkg_temp');
  const zones = entries(join(sys, 'class/thermal'), /^thermal_zone\d+$/).flatMap((path) => {
    const type = readOnce(join(path, 'type')).trim();
    if (shown.has(type.replaceAll('-', '_')) || shown.has(type)) return [];
    const chip = `${type || 'zone'}-${basename(path).replace('_zone', '-')}`;
    return [{ path, name: type, chip, device: path, isZone: true }];
  });
  return [...named, ...zones];
}

function entries(folder: string, pattern: RegExp): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => pattern.test(name))
      .sort((a, b) => Number(/\d+$/.exec(a)) - Number(/\d+$/.exec(b)))
      .map((name) => join(folder, name));
  } catch {
    return [];
  }
}

/** The device of a chip that has no link to it. */
const deviceAbove = (path: string): string => /^.*\/devices\/.*?(?=(?:\/hwmon)?\/hwmon\d+$)/.exec(path)?.[0] ?? '';

function resolved(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return '';
  }
}

/** One sensor of a chip. */
type Channel = {
  name: string;
  label: string;
  kind: string;
  field: Field | undefined;
  per: number;
  input: DeviceFile | undefined;
  alarms: DeviceFile[];
  fault: DeviceFile | undefined;
  limits: Partial<Record<Field, number>>;
  /** Of a counter of energy: joules, and when they were read. */
  before: { joules: number; at_ms: number } | undefined;
};

/** A chip of hwmon, or a thermal zone, with what it said last. */
class Chip implements Device {
  readonly found: Found;
  readonly #clock: Clock;
  readonly #isPrompt: boolean;
  #channels: Channel[] = [];
  #samples = 0;
  rows: readonly Row[] = [];
  answered_ms = Number.NEGATIVE_INFINITY;
  isGone = false;

  constructor(found: Found, clock: Clock) {
    this.found = found;
    this.#clock = clock;
    this.#isPrompt = promptDrivers.has(found.name) && !found.isZone;
  }

  get name(): string {
    return `The sensor chip ${this.found.chip}`;
  }

  /** Switched off to save power, as the second graphics card of a laptop: to ask its sensors would switch it on. */
  get isAsleep(): boolean {
    return this.found.device !== '' && readOnce(join(this.found.device, 'power/runtime_status')).trim() === 'suspended';
  }

  async read(): Promise<void> {
    if (this.#samples % deviceLimitsSamples === 0) {
      const channels = this.found.isZone ? [await zone(this.found.path)] : await channelsOf(this.found.path);
      this.close();
      this.#channels = channels;
    }
    this.#samples++;
    const rows: Row[] = [];
    for (const channel of this.#channels) rows.push(await this.#row(channel));
    this.rows = rows;
    this.answered_ms = this.#clock.monotonic_ms();
  }

  async #row(channel: Channel): Promise<Row> {
    const { name, label, kind, field, per, limits } = channel;
    const values: Row['values'] = { ...limits };
    const fault = await this.#number(channel.fault);
    if (!Number.isNaN(fault)) values.fault_flag = fault === 0 ? 0 : 1;
    const value = (await this.#number(channel.input)) / per;
    // A sensor that is not connected reads as anything.
    if (field && fault !== 1) values[field] = sane(field, kind === 'energy' ? this.#power(channel, value) : value);
    for (const file of channel.alarms) {
      const alarm = await this.#number(file);
      if (!Number.isNaN(alarm)) values.alarm_flag = Math.max(values.alarm_flag ?? 0, alarm === 0 ? 0 : 1);
    }
    return { sensor: name, label, kind, values };
  }

  #power(channel: Channel, joules: number): number {
    const at_ms = this.#clock.monotonic_ms();
    const { before } = channel;
    channel.before = { joules, at_ms };
    return before ? rate(before.joules, joules, (at_ms - before.at_ms) / 1000) : Number.NaN;
  }

  /** NaN where one value can't be read: the others may be fine. */
  async #number(file: DeviceFile | undefined): Promise<number> {
    if (!file) return Number.NaN;
    try {
      return this.#isPrompt ? file.numberNow() : await file.number();
    } catch (cause) {
      if (isGone(cause)) this.isGone = true;
      return Number.NaN;
    }
  }

  /** It went and came back, perhaps with other sensors. */
  lookAgain(): void {
    this.isGone = false;
    this.#samples = 0;
  }

  close(): void {
    for (const { input, alarms, fault } of this.#channels) for (const file of [input, fault, ...alarms]) file?.close();
  }
}

async function once(path: string): Promise<string> {
  const file = new DeviceFile(path);
  try {
    return await file.text();
  } catch {
    return '';
  } finally {
    file.close();
  }
}

const onceNumber = async (path: string): Promise<number> => {
  const text = await once(path);
  return text === '' ? Number.NaN : Number(text);
};

/** The sensors of a chip by the names of its files. @see https://docs.kernel.org/hwmon/sysfs-interface.html */
async function channelsOf(path: string): Promise<Channel[]> {
  const attributes = new Map<string, Set<string>>();
  for (const name of files(path)) {
    const [, channel = '', , what = ''] = attribute.exec(name) ?? [];
    if (channel !== '') attributes.set(channel, (attributes.get(channel) ?? new Set()).add(what));
  }
  const channels: Channel[] = [];
  for (const [name, has] of [...attributes].sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }))) {
    const {
      kind,
      field,
      per,
      limits: limitFiles,
    } = kinds[name.replace(/\d+$/, '')] ?? { kind: '', per: 1, limits: {} };
    const file = (what: string): string => join(path, `${name}_${what}`);
    const value = has.has('input') ? 'input' : has.has('average') ? 'average' : undefined;
    const alarms = [...has].filter((what) => what === 'alarm' || what.endsWith('_alarm'));
    if (value === undefined && alarms.length === 0) continue;
    const limits: Channel['limits'] = {};
    for (const [limit, candidates] of Object.entries(limitFiles) as [Field, string[]][]) {
      const what = candidates.find((candidate) => has.has(candidate));
      if (what) limits[limit] = sane(limit, (await onceNumber(file(what))) / per);
    }
    channels.push({
      name,
      label: has.has('label') ? await once(file('label')) : '',
      kind,
      field,
      per,
      input: value === undefined ? undefined : new DeviceFile(file(value)),
      alarms: alarms.map((what) => new DeviceFile(file(what))),
      fault: has.has('fault') ? new DeviceFile(file('fault')) : undefined,
      limits,
      before: undefined,
    });
  }
  return channels;
}

function files(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** A thermal zone, with the trip points that matter. @see https://docs.kernel.org/driver-api/thermal/sysfs-api.html */
async function zone(path: string): Promise<Channel> {
  const limits: Channel['limits'] = {};
  for (const name of files(path)) {
    const [point] = /^trip_point_\d+(?=_type$)/.exec(name) ?? [];
    if (!point) continue;
    const type = await once(join(path, name));
    const celsius = (await onceNumber(join(path, `${point}_temp`))) / 1e3;
    // A trip point that is switched off is at or below zero.
    if (!(celsius > 0 && isTemperature(celsius))) continue;
    if (type === 'critical') limits.temperature_critical_celsius = celsius;
    if (type === 'hot' || type === 'passive')
      limits.temperature_max_celsius = Math.min(celsius, limits.temperature_max_celsius ?? celsius);
  }
  return {
    name: 'temp1',
    label: await once(join(path, 'type')),
    kind: 'temperature',
    field: 'temperature_celsius',
    per: 1e3,
    input: new DeviceFile(join(path, 'temp')),
    alarms: [],
    fault: undefined,
    limits,
    before: undefined,
  };
}

/** Temperatures, fans, voltages, currents and power, by the kernel's drivers of sensors and its thermal zones. */
export function sensor({ roots, clock }: Context): Source {
  const reader = new DeviceReader(clock);
  let chips: Chip[] = [];
  let listing = '';

  const look = (): void => {
    const names = [
      ...entries(join(roots.sys, 'class/hwmon'), /^hwmon/),
      ...entries(join(roots.sys, 'class/thermal'), /^thermal_zone/),
    ].join(' ');
    if (names === listing && !chips.some((chip) => chip.isGone)) return;
    listing = names;
    const before = new Map(chips.map((chip) => [JSON.stringify(chip.found), chip]));
    chips = findSensors(roots.sys).map((found) => {
      const key = JSON.stringify(found);
      const same = before.get(key);
      before.delete(key);
      if (same?.isGone) same.lookAgain();
      return same ?? new Chip(found, clock);
    });
    for (const gone of before.values()) gone.close();
  };

  return {
    name: 'sensor',
    tables: ['sensor'],
    every_ms: deviceSampleMilliseconds,
    open() {
      look();
      if (chips.length === 0)
        throw new Unavailable(
          'no sensors in /sys/class/hwmon or /sys/class/thermal: virtual machines have none, elsewhere their drivers are ' +
            'not loaded (sensors-detect of lm-sensors finds which)',
        );
    },
    async sample(): Promise<Tables> {
      look();
      const awake = chips.filter((chip) => !chip.isAsleep);
      await reader.read(awake);
      const table = emptyTable('sensor');
      const oldest_ms = clock.monotonic_ms() - deviceAnswerAgeMilliseconds;
      for (const chip of awake) if (chip.answered_ms >= oldest_ms) pushChip(table, chip);
      return { sensor: table };
    },
    close() {
      for (const chip of chips) chip.close();
      chips = [];
      listing = '';
    },
    limitations() {
      const asleep = chips.filter((chip) => chip.isAsleep).map(({ found }) => found.chip);
      return [
        ...reader.hanging(),
        ...(asleep.length > 0 ? [`${asleep.join(', ')}: switched off to save power, and not woken to be asked.`] : []),
      ];
    },
  };
}

function pushChip(table: Sensor, { found, rows }: Chip): void {
  for (const { sensor, label, kind, values } of rows) {
    const labels: Record<string, string> = { chip: found.chip, sensor, label, kind, device: basename(found.device) };
    for (const [column, cells] of Object.entries(table) as [string, (string | number)[]][])
      cells.push(labels[column] ?? values[column as Field] ?? Number.NaN);
  }
}
