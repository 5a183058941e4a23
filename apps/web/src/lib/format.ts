// Numbers and times as people read them. Units are those of the catalogue; what is not available is "N/A", never 0.

export const unavailable = 'N/A';
/** Between a number and its unit: they stay on one line. */
const space = '\u00a0';

const binary = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
const decimal = ['', 'k', 'M', 'G', 'T'];

type Scaled = { divisor: number; suffix: string };

/** How a unit is written at this magnitude: what to divide by, and what follows the number. */
function scaled(magnitude: number, unit: string): Scaled {
  switch (unit) {
    case 'bytes':
    case 'bytes_per_second': {
      const power = exponent(magnitude, 1024, binary.length);
      return { divisor: 1024 ** power, suffix: `${space}${binary[power]}${unit === 'bytes' ? '' : '/s'}` };
    }
    case 'percent':
      return { divisor: 1, suffix: `${space}%` };
    case 'seconds':
      return secondsScale(magnitude);
    case 'hertz': {
      const power = exponent(magnitude, 1000, decimal.length);
      return { divisor: 1000 ** power, suffix: `${space}${decimal[power]}Hz` };
    }
    case 'celsius':
      return { divisor: 1, suffix: `${space}°C` };
    case 'watts':
      return { divisor: 1, suffix: `${space}W` };
    case 'volts':
      return { divisor: 1, suffix: `${space}V` };
    case 'amperes':
      return { divisor: 1, suffix: `${space}A` };
    case 'joules': {
      const power = exponent(magnitude, 1000, decimal.length);
      return { divisor: 1000 ** power, suffix: `${space}${decimal[power]}J` };
    }
    case 'code':
      return { divisor: 1, suffix: '' };
    case 'ratio':
      return { divisor: 1, suffix: '' };
    default: {
      // Counts of four digits are read faster in full.
      const power = magnitude < 10_000 ? 0 : exponent(magnitude, 1000, decimal.length);
      const prefix = decimal[power];
      const rate = unit.endsWith('per_second') ? '/s' : unit.endsWith('per_minute') ? '/min' : '';
      return { divisor: 1000 ** power, suffix: prefix || rate ? `${space}${prefix}${rate}` : '' };
    }
  }
}

function secondsScale(magnitude: number): Scaled {
  if (magnitude === 0) return { divisor: 1, suffix: `${space}s` };
  if (magnitude < 1e-6) return { divisor: 1e-9, suffix: `${space}ns` };
  if (magnitude < 1e-3) return { divisor: 1e-6, suffix: `${space}µs` };
  if (magnitude < 1) return { divisor: 1e-3, suffix: `${space}ms` };
  if (magnitude < 180) return { divisor: 1, suffix: `${space}s` };
  if (magnitude < 7200) return { divisor: 60, suffix: `${space}min` };
  if (magnitude < 172_800) return { divisor: 3600, suffix: `${space}h` };
  return { divisor: 86_400, suffix: `${space}d` };
}

function exponent(magnitude: number, base: number, steps: number): number {
  let power = 0;
  // 999.95 would be written 1000: the next prefix reads better.
  while (power < steps - 1 && magnitude >= base * 0.9995) {
    magnitude /= base;
    power++;
  }
  return power;
}

/** A value with its unit, three digits or so: `1.21 GiB`, `34.2 %`, `N/A`. */
export function formatValue(value: number | null | undefined, unit: string): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return unavailable;
  if (unit === 'flag') return value === 0 ? 'no' : 'yes';
  const { divisor, suffix } = scaled(Math.abs(value), unit);
  const number = value / divisor;
  if (unit === 'percent') return `${number.toFixed(1)}${suffix}`;
  return `${digits(number, Number.isInteger(value) && divisor === 1)}${suffix}`;
}

function digits(value: number, whole: boolean): string {
  const magnitude = Math.abs(value);
  if (whole) return String(value);
  return value.toFixed(magnitude < 9.995 ? 2 : magnitude < 99.95 ? 1 : 0);
}

/** A number that has no unit: whole ones as they are, others to six digits, and two behind the point at least. */
export function formatNumber(value: number): string {
  if (Number.isInteger(value)) return String(value);
  const whole = String(Math.trunc(Math.abs(value))).length;
  return String(Number(value.toPrecision(Math.min(Math.max(6, whole + 2), 100))));
}

/** The labels of an axis: one prefix and one number of decimals for all of them. */
export function formatAxis(ticks: readonly number[], unit: string): string[] {
  const magnitude = Math.max(0, ...ticks.map(Math.abs));
  const { divisor, suffix } = scaled(magnitude, unit);
  const step = ticks.length > 1 ? Math.abs((ticks[1] as number) - (ticks[0] as number)) / divisor : 0;
  let decimals = 0;
  while (decimals < 4 && Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6) decimals++;
  return ticks.map((tick) => (tick === 0 ? '0' : `${(tick / divisor).toFixed(decimals)}${suffix}`));
}

/** A stretch of time in its two largest units: `3 d 4 h`, `12 min 5 s`, `4 s`. */
export function formatDuration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return unavailable;
  const whole = Math.max(0, Math.round(seconds));
  const parts: [number, string][] = [
    [Math.floor(whole / 86_400), 'd'],
    [Math.floor(whole / 3600) % 24, 'h'],
    [Math.floor(whole / 60) % 60, 'min'],
    [whole % 60, 's'],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return `0${space}s`;
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count}${space}${unit}`)
    .join(' ');
}

/** How long ago, in one unit: `just now`, `12 s ago`, `3 h ago`. */
export function formatAgo(milliseconds: number): string {
  const seconds = Math.max(0, milliseconds / 1000);
  if (seconds < 2) return 'just now';
  if (seconds < 120) return `${Math.floor(seconds)}${space}s ago`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}${space}min ago`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)}${space}h ago`;
  return `${Math.floor(seconds / 86_400)}${space}d ago`;
}

/** Which clock times are shown in: the reader's, or UTC. */
export type Zone = 'local' | 'utc';

const formatters = new Map<string, Intl.DateTimeFormat>();
const shapes = {
  time: { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' },
  minute: { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' },
  day: { day: 'numeric', month: 'short' },
  full: {
    day: 'numeric',
    month: 'short',
    year: 'numeric',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    hourCycle: 'h23',
  },
} satisfies Record<string, Intl.DateTimeFormatOptions>;

/** A moment (milliseconds since 1970): `time` 14:05:09, `minute` 14:05, `day` 21 Nov, `full` 21 Nov 2026, 14:05:09. */
export function formatTime(milliseconds: number, shape: keyof typeof shapes, zone: Zone): string {
  const key = `${shape} ${zone}`;
  let formatter = formatters.get(key);
  if (!formatter) {
    formatter = new Intl.DateTimeFormat('en-GB', { ...shapes[shape], ...(zone === 'utc' ? { timeZone: 'UTC' } : {}) });
    formatters.set(key, formatter);
  }
  return formatter.format(milliseconds);
}

/** A name of the contract in words: `receive_bytes_per_second` of unit `bytes_per_second` is `receive`. */
export function words(name: string, unit = ''): string {
  const stem = unit && name.endsWith(`_${unit}`) ? name.slice(0, -unit.length - 1) : name;
  return stem.replaceAll('_', ' ');
}

/** The order of labels: numbers by size, `total` first, the rest by the alphabet. */
export function compareLabels(a: string, b: string): number {
  if (a === b) return 0;
  if (a === 'total') return -1;
  if (b === 'total') return 1;
  return a.localeCompare(b, 'en', { numeric: true });
}
