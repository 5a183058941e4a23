import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Battery, Tables } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { emptyTable } from '#columns.ts';
import { type Device, DeviceFile, DeviceReader, wholeNumber } from '#devices.ts';
import { deviceAnswerAgeMilliseconds, deviceLimitsSamples, deviceSampleMilliseconds } from '#limits.ts';
import { percent } from '#rates.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

/** What is read one by one where the kernel does not give all of it at once. */
const attributes = [
  'status',
  'present',
  'online',
  'manufacturer',
  'model_name',
  'technology',
  'health',
  'capacity',
  'capacity_level',
  'energy_now',
  'energy_full',
  'energy_full_design',
  'charge_now',
  'charge_full',
  'charge_full_design',
  'power_now',
  'current_now',
  'voltage_now',
  'voltage_min_design',
  'temp',
  'cycle_count',
  'time_to_empty_now',
  'time_to_empty_avg',
  'time_to_full_now',
  'time_to_full_avg',
] as const;
type Attribute = (typeof attributes)[number] | 'type' | 'scope' | 'charge_control_end_threshold';

type Properties = ReadonlyMap<string, string>;

/** The properties in the text of a supply's `uevent`, under the names of its files. */
export function parseUevent(text: string): Map<string, string> {
  const properties = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [, name = '', value = ''] = /^POWER_SUPPLY_(\w+)=(.*)$/.exec(line) ?? [];
    if (name !== '') properties.set(name.toLowerCase(), value.trim());
  }
  return properties;
}

const hour_s = 3600;

/**
 * What a supply says, in base units. Drivers know energy or charge, power or current: what is missing comes from the
 * others by way of the voltage; for charge by the nominal one, since charge times the voltage of the moment would fall with it.
 * Whether current and power are negative while discharging depends on the driver, so that the state says it, not the sign.
 * @see https://docs.kernel.org/power/power_supply_class.html
 */
export function supplyRow(properties: Properties): Record<string, number> {
  const number = (name: Attribute): number => wholeNumber(properties.get(name) ?? '');
  const micro = (name: Attribute): number => number(name) / 1e6;
  const first = (...values: number[]): number => values.find((value) => !Number.isNaN(value)) ?? Number.NaN;
  const isBattery = properties.get('type') === 'Battery';
  const isPresent = properties.get('present') !== '0';

  const volts = micro('voltage_now');
  const nominal = first(micro('voltage_min_design') || Number.NaN, volts);
  const stored = (what: 'now' | 'full' | 'full_design'): number =>
    first(micro(`energy_${what}`) * hour_s, micro(`charge_${what}`) * hour_s * nominal);
  const energy = stored('now');
  const full = stored('full') || Number.NaN;
  const design = stored('full_design') || Number.NaN;

  const amperes = Math.abs(micro('current_now'));
  const watts = Math.abs(first(micro('power_now'), amperes * volts));
  const state = properties.get('status');
  const charge = first(number('capacity'), percent(energy, full));
  const given = (name: Attribute): number => (number(name) > 0 ? number(name) : Number.NaN);
  const lasting = (joules: number): number => (watts > 0 && joules >= 0 ? joules / watts : Number.NaN);
  if (isBattery && !isPresent) return { present_flag: 0 };
  return {
    charge_percent: isBattery ? clamped(charge) : Number.NaN,
    charge_limit_percent: clamped(number('charge_control_end_threshold')),
    // A new one may hold a little more than it was made for.
    health_percent: clamped(percent(full, design)),
    energy_joules: energy,
    energy_full_joules: full,
    energy_design_joules: design,
    power_watts: watts,
    current_amperes: amperes,
    voltage_volts: volts,
    temperature_celsius: number('temp') / 10,
    // Zero is what drivers say that do not count.
    cycles_total: given('cycle_count'),
    time_to_empty_seconds:
      state === 'Discharging'
        ? first(given('time_to_empty_now'), given('time_to_empty_avg'), lasting(energy))
        : Number.NaN,
    time_to_full_seconds:
      state === 'Charging'
        ? first(given('time_to_full_now'), given('time_to_full_avg'), lasting(full - energy))
        : Number.NaN,
    // Batteries of some drivers say "online" in a sense of their own.
    online_flag: isBattery ? Number.NaN : flag(number('online')),
    present_flag: isBattery ? flag(number('present')) : Number.NaN,
  };
}

const clamped = (value: number): number => Math.min(Math.max(value, 0), 100);
/** USB supplies say 2 for a power that was agreed on. */
const flag = (value: number): number => (value > 0 ? 1 : value);

function supplyLabels(name: string, properties: Properties): Record<string, string> {
  const known = (attribute: Attribute): string => {
    const text = properties.get(attribute) ?? '';
    return text === 'Unknown' ? '' : text;
  };
  const maker = known('manufacturer');
  const model = known('model_name');
  return {
    battery: name,
    kind: known('type'),
    scope: known('scope') || 'System',
    model: model.startsWith(maker) ? model : `${maker} ${model}`.trim(),
    technology: known('technology'),
    state: known('status'),
    health: known('health'),
    level: known('capacity_level'),
  };
}

/** A supply with what it said last. Some ask a controller, or a mouse by radio, for every answer. */
class Supply implements Device {
  readonly supply: string;
  readonly #folder: string;
  readonly #clock: Clock;
  readonly #uevent: DeviceFile;
  /** What no driver tells in its uevent, read seldom. */
  #seldom: [Attribute, string][] = [];
  #samples = 0;
  properties: Properties = new Map();
  answered_ms = Number.NEGATIVE_INFINITY;

  constructor(folder: string, supply: string, clock: Clock) {
    this.supply = supply;
    this.#folder = join(folder, supply);
    this.#clock = clock;
    this.#uevent = new DeviceFile(join(this.#folder, 'uevent'), 4096);
  }

  get name(): string {
    return `The power supply ${this.supply}`;
  }

  async read(): Promise<void> {
    if (this.#samples++ % deviceLimitsSamples === 0) {
      this.#seldom = [];
      for (const attribute of ['type', 'scope'] as const) this.#seldom.push([attribute, await this.#once(attribute)]);
      // The older name is that of ThinkPads.
      const limit = (await this.#once('charge_control_end_threshold')) || (await this.#once('charge_stop_threshold'));
      this.#seldom.push(['charge_control_end_threshold', limit]);
    }
    let properties = new Map<string, string>();
    try {
      properties = parseUevent(await this.#uevent.text());
    } catch {
      // One property that can't be read makes this file unreadable as a whole.
    }
    // There is always a name.
    if (properties.size <= 1)
      for (const attribute of attributes) {
        const value = await this.#once(attribute);
        if (value !== '') properties.set(attribute, value);
      }
    if (properties.size === 0) return;
    for (const [attribute, value] of this.#seldom) if (value !== '') properties.set(attribute, value);
    this.properties = properties;
    this.answered_ms = this.#clock.monotonic_ms();
  }

  async #once(attribute: string): Promise<string> {
    const file = new DeviceFile(join(this.#folder, attribute));
    try {
      return (await file.text()).trim();
    } catch {
      return '';
    } finally {
      file.close();
    }
  }

  close(): void {
    this.#uevent.close();
  }
}

/** Batteries and mains adapters of this machine, and batteries of what is connected to it. */
export function battery({ roots, clock }: Context): Source {
  const folder = join(roots.sys, 'class/power_supply');
  const reader = new DeviceReader(clock);
  let supplies = new Map<string, Supply>();

  const look = (): void => {
    const before = supplies;
    supplies = new Map(names(folder).map((name) => [name, before.get(name) ?? new Supply(folder, name, clock)]));
    for (const [name, supply] of before) if (!supplies.has(name)) supply.close();
  };

  return {
    name: 'battery',
    tables: ['battery'],
    every_ms: deviceSampleMilliseconds,
    open() {
      look();
      if (supplies.size === 0)
        throw new Unavailable(`${folder} has no batteries or adapters: servers and virtual machines have none`);
    },
    async sample(): Promise<Tables> {
      look();
      await reader.read([...supplies.values()]);
      const table = emptyTable('battery');
      const oldest_ms = clock.monotonic_ms() - deviceAnswerAgeMilliseconds;
      for (const supply of supplies.values()) if (supply.answered_ms >= oldest_ms) pushSupply(table, supply);
      return { battery: table };
    },
    close() {
      for (const supply of supplies.values()) supply.close();
      supplies.clear();
    },
    limitations: () => reader.hanging(),
  };
}

function pushSupply(table: Battery, { supply, properties }: Supply): void {
  const labels = supplyLabels(supply, properties);
  const values = supplyRow(properties);
  for (const [column, cells] of Object.entries(table) as [string, (string | number)[]][])
    cells.push(labels[column] ?? values[column] ?? Number.NaN);
}

function names(folder: string): string[] {
  try {
    return readdirSync(folder).sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  } catch {
    return [];
  }
}
