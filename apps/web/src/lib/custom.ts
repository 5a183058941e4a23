// Measures as lines of a chart, and what metadata is asked by.
import type { Line } from '#lib/chart/Chart.svelte';

type Point = {
  time: number;
  value: number | null;
  metadata: Readonly<Record<string, string | number | boolean>>;
};

/** The condition that holds for this value: text is quoted, so that it is not taken for a number or a pattern. */
export const condition = (key: string, value: string | number | boolean): string =>
  `${key}=${typeof value === 'string' ? JSON.stringify(value) : value}`;

/**
 * Numeric measures of one name, one line for each of their metadata: those with the newest values, at most `most`.
 * @param measures the newest first
 */
export function linesOf(measures: readonly Point[], most: number): { times: number[]; lines: Line[]; left: number } {
  const byLabel = new Map<string, Point[]>();
  for (const measure of measures) {
    if (measure.value === null) continue;
    const label = labelOf(measure.metadata);
    const points = byLabel.get(label);
    if (points) points.push(measure);
    else byLabel.set(label, [measure]);
  }
  const chosen = [...byLabel].slice(0, most);
  const times = [...new Set(chosen.flatMap(([, points]) => points.map(({ time }) => time)))].sort((a, b) => a - b);
  const places = new Map(times.map((time, index) => [time, index]));
  const lines = chosen
    .sort(([a], [b]) => a.localeCompare(b, 'en', { numeric: true }))
    .map(([label, points], color): Line => {
      const values: (number | null)[] = Array.from({ length: times.length }, () => null);
      // Of several at one time the newest, which came first, stays.
      for (const { time, value } of points.toReversed()) values[places.get(time) ?? 0] = value;
      return { key: label, label: label || 'value', values, color };
    });
  return { times, lines, left: byLabel.size - chosen.length };
}

const labelOf = (metadata: Point['metadata']): string =>
  Object.entries(metadata)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${value}`)
    .join(' ');
