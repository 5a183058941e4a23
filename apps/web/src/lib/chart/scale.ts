// What a chart's axes and colours are made of.
import uPlot from 'uplot';
import { formatTime, type Zone } from '#lib/format.ts';

/** How many colours the tokens `--series-1` ... have. */
export const colorCount = 10;

/** Steps of an axis of bytes: powers of two, so that its labels are round. */
export const byteIncrements: number[] = Array.from({ length: 60 }, (_, power) => 2 ** (power - 4));

/** Steps of any other axis: 1, 2 and 5 times powers of ten. */
export const increments: number[] = Array.from({ length: 27 }, (_, power) =>
  [1, 2, 5].map((n) => n * 10 ** (power - 9)),
)
  .flat()
  // 1e-9 * 5 and the like are not exact: as written is.
  .map((n) => Number(n.toPrecision(1)));

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** Labels of a time axis: the time, and the day where it begins or where the axis does. */
export function timeLabels(ticks: readonly number[], step: number, zone: Zone): string[] {
  let shown = '';
  return ticks.map((tick) => {
    const date = formatTime(tick, 'day', zone);
    if (step >= day) return date;
    const time = formatTime(tick, step >= minute ? 'minute' : 'time', zone);
    const first = shown === '';
    const changed = date !== shown;
    shown = date;
    return changed && (!first || step >= hour) ? `${time}\n${date}` : time;
  });
}

/** The range of a value axis: from 0 (or below, when there are such values) to the largest value and some room. */
export function valueRange(low: number | null, high: number | null, most: number | null): [number, number] {
  const bottom = Math.min(0, low ?? 0);
  if (most !== null) return [bottom, Math.max(most, high ?? 0)];
  const top = high ?? 0;
  if (top <= 0 && bottom === 0) return [0, 1];
  const room = (top - bottom) * 0.08;
  return [bottom === 0 ? 0 : bottom - room, top + room];
}

/** The sums from the first series up; null where all are. The topmost comes last. */
export function stack(columns: readonly (readonly (number | null)[])[], length: number): (number | null)[][] {
  const sums = new Float64Array(length);
  return columns.map((column) => {
    const sum: (number | null)[] = new Array(length);
    for (let index = 0; index < length; index++) {
      const value = column[index] ?? null;
      if (value !== null) sums[index] = (sums[index] as number) + value;
      sum[index] = value === null ? null : (sums[index] as number);
    }
    return sum;
  });
}

/** The colours of the theme in force, resolved, as a canvas needs them. */
export type Palette = { series: string[]; text: string; grid: string; panel: string; heat: Uint32Array };

/** Reads the tokens where this element is. */
export function readPalette(element: HTMLElement): Palette {
  const probe = document.createElement('i');
  element.append(probe);
  const resolve = (token: string): string => {
    probe.style.color = `var(${token})`;
    return getComputedStyle(probe).color;
  };
  const palette = {
    series: Array.from({ length: colorCount }, (_, index) => resolve(`--series-${index + 1}`)),
    text: resolve('--muted'),
    grid: resolve('--grid'),
    panel: resolve('--panel'),
    heat: heatScale(['--heat-0', '--heat-1', '--heat-2', '--heat-3'].map(resolve)),
  };
  probe.remove();
  return palette;
}

/** How many shades a heat map has. */
const shades = 64;

/** The shades from the least to the most, as the pixels of a canvas (ABGR). */
function heatScale(stops: readonly string[]): Uint32Array {
  const colors = stops.map((stop) => (stop.match(/[\d.]+/g) ?? ['0', '0', '0']).slice(0, 3).map(Number));
  return Uint32Array.from({ length: shades }, (_, index) => {
    const place = (index / (shades - 1)) * (colors.length - 1);
    const left = Math.min(colors.length - 2, Math.floor(place));
    const share = place - left;
    const [red = 0, green = 0, blue = 0] = [0, 1, 2].map((channel) => {
      const a = colors[left]?.[channel] ?? 0;
      const b = colors[left + 1]?.[channel] ?? 0;
      return Math.round(a + (b - a) * share);
    });
    return (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0;
  });
}

/**
 * A heat map as an image of one pixel per step and row: `width` steps from the first time on, one row per column of
 * values; transparent where there is none.
 */
export function heatImage(
  times: ArrayLike<number>,
  columns: readonly ArrayLike<number | null | undefined>[],
  step: number,
  most: number,
  heat: Uint32Array,
): { width: number; pixels: Uint32Array<ArrayBuffer> } {
  const first = times[0] ?? 0;
  const width = Math.round(((times[times.length - 1] ?? first) - first) / step) + 1;
  const pixels = new Uint32Array(width * columns.length);
  for (let row = 0; row < columns.length; row++) {
    const values = columns[row] as ArrayLike<number | null | undefined>;
    for (let index = 0; index < times.length; index++) {
      const value = values[index];
      if (value == null) continue;
      const shade = Math.round((Math.min(most, Math.max(0, value)) / most) * (heat.length - 1));
      pixels[row * width + Math.round(((times[index] as number) - first) / step)] = heat[shade] as number;
    }
  }
  return { width, pixels };
}

/** Shows times in the reader's clock or in UTC on uPlot's axis. */
export const zoneDate =
  (zone: Zone) =>
  (milliseconds: number): Date =>
    zone === 'utc' ? uPlot.tzDate(new Date(milliseconds), 'Etc/UTC') : new Date(milliseconds);

/** How many steps it is from one value to the next as a rule: a source may be slower than the others of its host. */
export function paceOf(values: readonly (number | null)[]): number {
  const counts: number[] = [];
  let before = -1;
  let total = 0;
  for (let index = 0; index < values.length; index++) {
    if (values[index] === null) continue;
    if (before >= 0) {
      const distance = index - before;
      counts[distance] = (counts[distance] ?? 0) + 1;
      total++;
    }
    before = index;
  }
  // The median: a hole says nothing of the pace.
  let seen = 0;
  for (const [distance, count = 0] of counts.entries()) {
    seen += count;
    if (seen * 2 > total) return distance;
  }
  return 1;
}

/**
 * The values with nothing to be drawn, not even a gap, where the pace leaves a step out; or with the value before.
 * @param isLost whether nothing is known of a step: there a gap stays one
 */
export function bridge(
  values: readonly (number | null)[],
  filler: 'nothing' | 'before',
  isLost: (index: number) => boolean = () => false,
): readonly (number | null | undefined)[] {
  const pace = paceOf(values);
  if (pace <= 1) return values;
  const bridged: (number | null | undefined)[] = [...values];
  const most = Math.ceil(pace * 1.5);
  let before = -1;
  for (let index = 0; index < values.length; index++) {
    if (values[index] === null) continue;
    if (before >= 0 && index - before <= most)
      for (let between = before + 1; between < index; between++)
        if (!isLost(between)) bridged[between] = filler === 'nothing' ? undefined : values[before];
    before = index;
  }
  return bridged;
}

/** The value at a step, or the one before that still holds by the pace. */
export function valueAt(values: readonly (number | null)[], index: number): number | null {
  const value = values[index] ?? null;
  if (value !== null) return value;
  const pace = paceOf(values);
  for (let back = 1; back < pace; back++) {
    const earlier = values[index - back] ?? null;
    if (earlier !== null) return earlier;
  }
  return null;
}
