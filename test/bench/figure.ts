// One figure: what was measured, beside its yardstick of the same run, and what it is to reach.

/** Several measurements of the same: the median is quoted, with the least and the most. */
export type Measured = { median: number; min: number; max: number };

export type Figure = {
  /** Its number in the list of figures, and a name. */
  id: string;
  name: string;
  unit: string;
  value: Measured | number;
  /** Measured in the same run. */
  yardstick?: { what: string; value: Measured | number };
  /** In words, and whether it is reached. */
  goal?: { text: string; reached: boolean };
  /** How it was measured. */
  method: string;
};

/** @param share 0.5 is the median, 0.99 the 99th percentile: the least value that so many are not above */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(Math.ceil(sorted.length * share) - 1, 0)] ?? Number.NaN;
}

export function measured(values: readonly number[]): Measured {
  return { median: quantile(values, 0.5), min: Math.min(...values), max: Math.max(...values) };
}

/** The one number that is compared. */
export const middle = (value: Measured | number): number => (typeof value === 'number' ? value : value.median);

/** Three digits, or a whole number with commas. */
export const text = (value: number): string =>
  Math.abs(value) >= 1000 ? Math.round(value).toLocaleString('en-US') : Number(value.toPrecision(3)).toString();

const quoted = (value: Measured | number): string =>
  typeof value === 'number' ? text(value) : `${text(value.median)} (${text(value.min)} - ${text(value.max)})`;

const headings = ['figure', 'name', 'value', 'yardstick', 'ratio', 'goal', 'reached'];

/** The table of figures, each with its method in the line below. */
export function table(figures: readonly Figure[]): string {
  const rows = figures.map(({ id, name, unit, value, yardstick, goal }) => [
    id,
    name,
    `${quoted(value)} ${unit}`,
    yardstick ? `${quoted(yardstick.value)} ${unit}: ${yardstick.what}` : '-',
    yardstick ? text(middle(value) / middle(yardstick.value)) : '-',
    goal?.text ?? '-',
    goal ? (goal.reached ? 'yes' : 'NO') : '-',
  ]);
  const widths = headings.map((heading, column) =>
    Math.max(...[headings, ...rows].map((row) => row[column]?.length ?? 0), heading.length),
  );
  const line = (row: readonly string[]) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return [line(headings), ...rows.flatMap((row, index) => [line(row), `        how: ${figures[index]?.method}`])].join(
    '\n',
  );
}
