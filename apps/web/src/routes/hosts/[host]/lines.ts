// From a table's columns to the lines of one chart.
import type { Table } from '#lib/api.ts';
import { type Line, linesMost } from '#lib/chart/Chart.svelte';
import { colorCount } from '#lib/chart/scale.ts';
import { words } from '#lib/format.ts';
import type { Entity } from '#lib/history.svelte.ts';
import { visible } from '#lib/text.ts';
import type { ChartPlan } from './sections.ts';

export type Lines = { lines: Line[]; heat: boolean; note: string };

/** More rows than this are too thin to be seen in a heat map. */
const heatRowsMost = 128;

/** How an entity is called, by the value of the label that it is chosen by; undefined where that says enough. */
export type Names = (value: string) => string | undefined;

/**
 * The lines of a chart: one per entity and field, at most as many as can be told apart, those with the largest means.
 * `only` are the entities that were chosen: by name, or by the label that the plan says.
 */
export function linesOf(
  plan: ChartPlan,
  table: Table,
  entities: readonly Entity[],
  only: readonly string[],
  names: Names = () => undefined,
): Lines {
  const known = entities.filter(
    ({ name, labels }) =>
      !plan.without?.includes(name) &&
      Object.entries(plan.labels ?? {}).every(([label, values]) => values.includes(labels[label] ?? '')),
  );
  const chosen = plan.labels === undefined && only.length > 0;
  const keys = table.labels.filter((label) => label.key).map(({ name }) => name);
  const labels = distinct(plan.fields.map((name) => words(name, unitOf(table, name))));
  const fields = plan.fields.map((name, index) => ({ name, label: labels[index] as string }));
  const first = keys[0] ?? '';
  const all = known.flatMap((one, index) =>
    fields.flatMap((field, fieldIndex) => {
      const { columns } = one;
      if (chosen && !only.includes(plan.pick ? (one.labels[plan.pick] ?? '') : one.name)) return [];
      const values = columns[field.name];
      if (!values) return [];
      // What has no value on this machine is no line.
      if (!filled(values)) return [];
      // What was chosen alone needs not be named in each line.
      const parts = keys.flatMap((key) => {
        const value = one.labels[key] ?? '';
        if (key === plan.pick && only.length === 1) return [];
        return [(key === first ? names(value) : undefined) ?? entityName(value, key)];
      });
      const name = one.name;
      const entity = parts.join(' ');
      const label =
        entity === '' || plan.labels ? field.label : fields.length === 1 ? entity : `${entity} ${field.label}`;
      // An entity has its colour whether the others are drawn or not.
      const place = index * fields.length + fieldIndex;
      return [{ key: `${name}|${field.name}`, label, values, color: place % colorCount }];
    }),
  );
  const heat = plan.heat === true && all.length > linesMost - 2;
  const most = heat ? heatRowsMost : linesMost;
  if (all.length <= most) return { lines: all, heat, note: '' };
  const means = new Map(all.map((line) => [line.key, mean(line.values)]));
  const kept = new Set(
    [...all]
      .sort((a, b) => (means.get(b.key) ?? 0) - (means.get(a.key) ?? 0))
      .slice(0, most)
      .map(({ key }) => key),
  );
  return {
    lines: all.filter(({ key }) => kept.has(key)).map((line, index) => ({ ...line, color: index % colorCount })),
    heat,
    note: `${most} of ${all.length} shown: those with the largest mean.`,
  };
}

const filled = (values: readonly (number | null)[] = []): boolean => values.some((value) => value !== null);

/** The name of an entity as it is shown: a bare number gets the word for what it counts. */
export const entityName = (name: string, label = ''): string =>
  /^\d+$/.test(name) ? `${words(label)} ${name}`.trim() : visible(name);

/** The words in which the texts differ: what all begin or end with is said by the title. */
export function distinct(texts: readonly string[]): string[] {
  const lists = texts.map((text) => text.split(' '));
  if (lists.length < 2) return [...texts];
  const shortest = Math.min(...lists.map(({ length }) => length));
  const shared = (word: (list: string[], index: number) => string | undefined): number => {
    let count = 0;
    while (count < shortest - 1 && lists.every((list) => word(list, count) === word(lists[0] as string[], count)))
      count++;
    return count;
  };
  const before = shared((list, index) => list[index]);
  const after = before > 0 ? 0 : shared((list, index) => list.at(-1 - index));
  return lists.map((list) => list.slice(before, list.length - after).join(' '));
}

export const unitOf = (table: Table, name: string): string =>
  table.fields.find((field) => field.name === name)?.unit ?? '';

/** The help of a chart: what its fields mean. */
export const helpOf = (table: Table, { fields }: ChartPlan): string =>
  fields
    .map(
      (name) => `${words(name, unitOf(table, name))}: ${table.fields.find((field) => field.name === name)?.help ?? ''}`,
    )
    .join('\n');

function mean(values: readonly (number | null)[]): number {
  let sum = 0;
  let count = 0;
  for (const value of values) {
    if (value === null) continue;
    sum += value;
    count++;
  }
  return count > 0 ? sum / count : Number.NEGATIVE_INFINITY;
}
