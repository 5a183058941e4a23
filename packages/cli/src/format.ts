// Values as people read them, by the unit that the catalogue gives.
import { catalog } from '@fleetreel/proto';

/** What is shown for a value that is not available. */
export const absent = '-';

/** A value in a unit of the catalogue, for example `12.3 %` or `1.5 GiB/s`. */
export function formatValue(value: number | null | undefined, unit: string): string {
  if (value === null || value === undefined || !Number.isFinite(value)) return absent;
  switch (unit) {
    case 'percent':
      return `${value.toFixed(1)} %`;
    case 'bytes':
      return scaled(value, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']);
    case 'bytes_per_second':
      return `${scaled(value, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB'])}/s`;
    case 'per_second':
      return `${scaled(value, 1000, ['', 'k', 'M', 'G'])}/s`;
    case 'seconds':
      return formatSeconds(value);
    case 'celsius':
      return `${value.toFixed(1)} °C`;
    case 'watts':
      return `${value.toFixed(1)} W`;
    case 'hertz':
      return scaled(value, 1000, ['Hz', 'kHz', 'MHz', 'GHz']);
    case 'ratio':
      return value.toFixed(3);
    case 'flag':
      return value === 0 ? 'no' : 'yes';
    default:
      return Number.isInteger(value) ? String(value) : value.toFixed(2);
  }
}

/** Seconds as `350 us`, `12 ms`, `1.5 s`, `3 min 20 s`, `5 h 12 min`, `3 d 4 h`. */
export function formatSeconds(seconds: number): string {
  const size = Math.abs(seconds);
  if (size === 0) return '0 s';
  if (size < 0.001) return `${rounded(seconds * 1e6)} us`;
  if (size < 1) return `${rounded(seconds * 1000)} ms`;
  if (size < 60) return `${rounded(seconds)} s`;
  const sign = seconds < 0 ? '-' : '';
  const whole = Math.round(size);
  const parts: [unit: string, seconds: number][] = [
    ['d', 86_400],
    ['h', 3600],
    ['min', 60],
    ['s', 1],
  ];
  const first = parts.findIndex(([, length]) => whole >= length);
  const [unit, length] = parts[first] ?? ['s', 1];
  const [smaller, smallerLength] = parts[first + 1] ?? ['', 1];
  const rest = Math.floor((whole % length) / smallerLength);
  return `${sign}${Math.floor(whole / length)} ${unit}${rest > 0 ? ` ${rest} ${smaller}` : ''}`;
}

/** How long ago a time was, ms since 1970. */
export function formatAge(time: number | null, now: number): string {
  if (time === null) return 'never';
  const seconds = Math.max(0, (now - time) / 1000);
  return seconds < 60 ? `${Math.floor(seconds)} s ago` : `${formatSeconds(seconds)} ago`;
}

/** A time as date and time of day of this machine's time zone. */
export function formatTime(time: number): string {
  const date = new Date(time);
  const two = (part: number) => String(part).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

/** Unit of a field: from this program's catalogue, or from its name where a newer collector knows more. */
export function unitOf(table: string, field: string): string {
  const known = catalog.find(({ name }) => name === table)?.fields.find(({ name }) => name === field);
  return known?.unit ?? '';
}

function scaled(value: number, base: number, units: readonly string[]): string {
  let size = value;
  let step = 0;
  while (Math.abs(size) >= base && step < units.length - 1) {
    size /= base;
    step++;
  }
  const unit = units[step] ?? '';
  return `${step === 0 ? rounded(size) : size.toFixed(1)}${unit === '' ? '' : ` ${unit}`}`;
}

const rounded = (value: number): string => (Number.isInteger(value) ? String(value) : value.toFixed(1));
