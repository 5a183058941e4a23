import { columnNames, type TableName, type Tables, tableNamed } from '@fleetreel/proto';

/** A table with one row, from its values. */
export function singleRow<T extends { [K in keyof T]: number[] }>(values: { [K in keyof T]: number }): T {
  const columns: Record<string, number[]> = {};
  for (const name in values) columns[name] = [values[name]];
  return columns as T;
}

/** A table without rows: an empty column for each label and field of the contract. */
export function emptyTable<N extends TableName>(name: N): Required<Tables>[N] {
  const table = tableNamed(name);
  const columns: Record<string, unknown[]> = {};
  const names = table ? columnNames(table) : [];
  for (let place = 0; place < names.length; place++) columns[names[place]!] = [];
  return columns as unknown as Required<Tables>[N];
}
