// The catalogue in the words of Prometheus: which metric a field becomes, and how a line is written.
// https://prometheus.io/docs/practices/naming/, https://prometheus.io/docs/instrumenting/exposition_formats/
import type { Field, Label, Table } from '@fleetreel/proto';
import { exportedLabelCharactersMax } from '#limits.ts';
import { shortened } from '#store/rows.ts';

/** The metric that a field of a table becomes. */
export type Metric = {
  name: string;
  type: 'counter' | 'gauge';
  help: string;
  field: Field;
  /** What a value is divided by: percent become a ratio. */
  divisor: number;
};

const prefix = 'fleetreel';

/**
 * The metric of a field: `fleetreel_<table>_<field>`, with the endings that Prometheus asks for. Percent become a ratio of 0 to 1,
 * its base unit, unless the table has a ratio of that name; `_count` goes, since it is kept for histograms; what ends in `_total`
 * is a counter, everything else a gauge.
 */
export function metricOf(table: Table, field: Field): Metric {
  const { name, unit, help } = field;
  const ratio = name.replace(/_percent$/, '_ratio');
  const scaled = unit === 'percent' && !table.fields.some((other) => other.name === ratio);
  const own = scaled ? ratio : name.replace(/_count$/, '');
  return {
    name: `${prefix}_${table.name}_${own}`,
    type: unit === 'total' ? 'counter' : 'gauge',
    help: scaled ? `${help} (1 is 100 %)` : help,
    field,
    divisor: scaled ? 100 : 1,
  };
}

/** The name of the metric whose labels describe the entities of a table; its value is always 1. */
export const infoName = (table: Table): string => `${prefix}_${table.name}_info`;

/** The labels that describe an entity and are not part of its identity; texts that change with every row are none. */
export const describing = (table: Table): Label[] => table.labels.filter(({ key, text }) => !key && !text);

/** The lines before the samples of a metric. */
export const heading = (name: string, type: 'counter' | 'gauge', help: string): string =>
  `# HELP ${name} ${help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')}\n# TYPE ${name} ${type}\n`;

/** Labels as they stand in a line; one without a value is left out, which is the same to Prometheus. */
export function labelText(labels: readonly (readonly [name: string, value: string])[]): string {
  const parts = labels.filter(([, value]) => value !== '').map(([name, value]) => `${name}="${escaped(value)}"`);
  return `{${parts.join(',')}}`;
}

/** A value as Prometheus writes it. */
export function valueText(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf';
  return value === Number.NEGATIVE_INFINITY ? '-Inf' : String(value);
}

function escaped(value: string): string {
  const short = shortened(value, exportedLabelCharactersMax);
  return /[\\"\n]/.test(short) ? short.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n') : short;
}
