// Names in a request, looked up: what is not there is answered with the nearest that is.
import { catalog, type Field, type Label, type Table, tableNamed } from '@fleetreel/proto';
import { ApiError, unknown } from '@fleetreel/proto/errors';
import { type Aggregation, aggregations } from '@fleetreel/proto/http';

/** Names or values that one parameter takes at most. */
export const namesMax = 500;

/** @throws ApiError */
export function findTable(name: string | undefined): Table {
  if (!name) throw new ApiError('missing_parameter', { parameter: 'table', expected: 'the name of a table' });
  const table = tableNamed(name);
  if (table) return table;
  const names = catalog.map((one) => one.name);
  throw unknown('unknown_table', name, names, { parameter: 'table' });
}

/**
 * The fields of these names, each once, in this order.
 * @throws ApiError
 */
export function findFields(table: Table, names: readonly string[]): Field[] {
  return bounded('field', names).map((name) => {
    const field = table.fields.find((one) => one.name === name);
    if (field) return field;
    const known = table.fields.map((one) => one.name);
    throw unknown('unknown_field', name, known, { parameter: 'field', table: table.name });
  });
}

/** Labels that must have one of the values. */
export type LabelFilter = { label: Label; values: readonly string[] };

/** @throws ApiError */
export function findLabels(table: Table, wanted: Readonly<Record<string, readonly string[]>>): LabelFilter[] {
  return Object.entries(wanted).map(([name, values]) => {
    const label = table.labels.find((one) => one.name === name);
    const parameter = `label.${name}`;
    if (label) return { label, values: bounded(parameter, values) };
    const known = table.labels.map((one) => one.name);
    throw unknown('unknown_label', name, known, { parameter, table: table.name });
  });
}

/** @throws ApiError */
export function findAggregation(name: string | undefined): Aggregation {
  const found = aggregations.find((one) => one === (name || 'avg'));
  if (found) return found;
  throw unknown('unknown_aggregation', name ?? '', aggregations, { parameter: 'agg' });
}

/**
 * The hosts of these names, each once.
 * @throws ApiError
 */
export function findHosts(known: ReadonlySet<string>, names: readonly string[]): string[] {
  return bounded('host', names).map((name) => {
    if (known.has(name)) return name;
    throw unknown('unknown_host', name, [...known], { parameter: 'host' });
  });
}

function bounded(parameter: string, names: readonly string[]): string[] {
  if (names.length > namesMax) throw new ApiError('too_many_names', { parameter, count: names.length, most: namesMax });
  return [...new Set(names)];
}
