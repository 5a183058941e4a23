/** A table with one row, from its values. What is absent (NaN) becomes an empty column. */
export function singleRow<T extends { [K in keyof T]: number[] }>(values: { [K in keyof T]: number }): T {
  const columns: Record<string, number[]> = {};
  for (const name in values) {
    const value = values[name];
    columns[name] = Number.isNaN(value) ? [] : [value];
  }
  return columns as T;
}

/** Empties the columns in which no row has a value, as the contract says it: they cost nothing in the frame. */
export function withoutAbsent<T extends { [K in keyof T]: string[] | number[] }>(table: T): T {
  for (const name in table) {
    const column: readonly (string | number)[] = table[name];
    if (column.length > 0 && column.every(Number.isNaN)) table[name].length = 0;
  }
  return table;
}
