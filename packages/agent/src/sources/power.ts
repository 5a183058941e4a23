import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Power, Tables } from '@fleetreel/proto';
import { emptyTable } from '#columns.ts';
import { wholeNumber } from '#devices.ts';
import { KernelFile, readOnce } from '#files.ts';
import { deviceLimitsSamples, zonePowerWattsMax } from '#limits.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

type Limits = { long_term: number; short_term: number; enabled: number };

type Zone = {
  interface: string;
  /** Its name with those around it. */
  name: string;
  path: string;
  /** Counts energy; undefined where the zone knows its power only. */
  energy: KernelFile | undefined;
  power: KernelFile | undefined;
  /** Energy at which the counter begins anew, joules. */
  range_joules: number;
  limits: Limits;
  before: { joules: number; at_ms: number } | undefined;
  drawn_joules: number;
  /** May not be read. */
  isDenied: boolean;
};

/** What the counter grew by, its beginning anew added; NaN when it was reset instead. */
export function drawn(before: number, now: number, range: number, seconds: number): number {
  const joules = now >= before ? now - before : now - before + range;
  return seconds > 0 && joules >= 0 && joules / seconds <= zonePowerWattsMax ? joules : Number.NaN;
}

/**
 * Power of the processors' packages, their cores, their memory and the whole platform, by the energy counters of powercap.
 * @see https://docs.kernel.org/power/powercap/powercap.html
 */
export function power({ roots, clock }: Context): Source {
  const folder = join(roots.sys, 'class/powercap');
  let zones: Zone[] = [];
  let listing = '';
  let samples = 0;

  const close = (): void => {
    for (const { energy, power: now } of zones) for (const file of [energy, now]) file?.close();
    zones = [];
    listing = '';
  };
  const look = (): void => {
    const names = zoneNames(folder);
    if (names.join(' ') === listing) return;
    const before = new Map(zones.map((zone) => [zone.path, zone]));
    close();
    listing = names.join(' ');
    zones = names.map((name) => {
      const zone = found(folder, name);
      const same = before.get(zone.path);
      return same?.name === zone.name ? { ...zone, before: same.before, drawn_joules: same.drawn_joules } : zone;
    });
  };

  return {
    name: 'power',
    tables: ['power'],
    open() {
      look();
      if (zones.length === 0)
        throw new Unavailable(
          `${folder} has no zones: virtual machines have none, and elsewhere they need the module intel_rapl_msr (Intel, and ` +
            'AMD since Linux 5.8)',
        );
    },
    sample(): Tables {
      look();
      if (++samples % deviceLimitsSamples === 0) for (const zone of zones) zone.limits = limitsOf(zone.path);
      const table = emptyTable('power');
      for (const zone of zones) pushZone(table, zone, clock.monotonic_ms());
      return { power: table };
    },
    close,
    limitations() {
      const denied = zones.filter(({ isDenied }) => isDenied).map(({ name }) => name);
      return denied.length === 0
        ? []
        : [
            `The energy of ${denied.join(', ')} may be read by root only since Linux 5.10 (it tells what is computed, ` +
              'CVE-2020-8694): run the agent as root or with CAP_DAC_READ_SEARCH, or let its group read energy_uj.',
          ];
    },
  };
}

/** Names of the zones, as intel-rapl:0 and in it intel-rapl:0:1; outer ones first. */
function zoneNames(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => /.:[\da-f]+$/.test(name))
      .sort((a, b) => a.localeCompare(b, 'en', { numeric: true }));
  } catch {
    return [];
  }
}

function found(folder: string, id: string): Zone {
  const [control = '', ...numbers] = id.split(':');
  const names = numbers.map((number, depth) => {
    const outer = [control, ...numbers.slice(0, depth + 1)].join(':');
    return readOnce(join(folder, outer, 'name')).trim() || number;
  });
  const path = join(folder, id);
  const has = new Set(filesOf(path));
  return {
    interface: control,
    name: names.join('/'),
    path,
    energy: has.has('energy_uj') ? new KernelFile(join(path, 'energy_uj')) : undefined,
    power: has.has('power_uw') ? new KernelFile(join(path, 'power_uw')) : undefined,
    range_joules: micro(readOnce(join(path, 'max_energy_range_uj'))),
    limits: limitsOf(path),
    before: undefined,
    drawn_joules: 0,
    isDenied: false,
  };
}

function filesOf(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

const micro = (text: string): number => wholeNumber(text.trim()) / 1e6;

function pushZone(table: Power, zone: Zone, now_ms: number): void {
  const joules = read(zone, zone.energy);
  const { before } = zone;
  const seconds = before ? (now_ms - before.at_ms) / 1000 : Number.NaN;
  const grown = before ? drawn(before.joules, joules, zone.range_joules, seconds) : Number.NaN;
  if (!Number.isNaN(joules)) zone.before = { joules, at_ms: now_ms };
  if (!Number.isNaN(grown)) zone.drawn_joules += grown;

  table.interface.push(zone.interface);
  table.zone.push(zone.name);
  table.power_watts.push(zone.energy ? grown / seconds : read(zone, zone.power));
  table.energy_joules.push(Number.isNaN(joules) ? Number.NaN : zone.drawn_joules);
  table.limit_watts.push(zone.limits.long_term);
  table.short_term_limit_watts.push(zone.limits.short_term);
  table.limit_enabled_flag.push(zone.limits.enabled);
}

/** In joules or watts; NaN where it can't be read now. */
function read(zone: Zone, file: KernelFile | undefined): number {
  if (!file) return Number.NaN;
  try {
    const value = micro(file.text());
    zone.isDenied = false;
    return value;
  } catch (cause) {
    zone.isDenied = ['EACCES', 'EPERM'].includes((cause as NodeJS.ErrnoException).code ?? '');
    return Number.NaN;
  }
}

/** A limit of zero is none. */
function limitsOf(path: string): Limits {
  const enabled = wholeNumber(readOnce(join(path, 'enabled')).trim());
  const limits = { long_term: Number.NaN, short_term: Number.NaN, enabled };
  for (const constraint of [0, 1]) {
    const name = readOnce(join(path, `constraint_${constraint}_name`)).trim();
    const watts = micro(readOnce(join(path, `constraint_${constraint}_power_limit_uw`)));
    if ((name === 'long_term' || name === 'short_term') && watts > 0) limits[name] = watts;
  }
  return limits;
}
