import { expect, test } from 'vitest';
import { catalog, firstTableId, tableNamed, tableNumbered, units } from '#catalog.ts';

test('a table is what its message says', () => {
  const cpu = tableNamed('cpu');
  expect(cpu).toMatchObject({ name: 'cpu', help: 'Time each core spent, in percent of the interval.' });
  expect(cpu?.labels).toEqual([
    {
      name: 'core',
      key: true,
      text: false,
      help: '"total" (all cores together, 100 when all are busy), or the core\'s number.',
    },
  ]);
  expect(cpu?.fields[0]).toEqual({
    name: 'used_percent',
    unit: 'percent',
    help: 'Doing anything: all but idle and iowait.',
  });
  expect(tableNumbered(cpu?.id ?? 0)).toBe(cpu);
  expect(tableNamed('constructor')).toBe(undefined);
});

test('a label that only describes is no key', () => {
  expect(tableNamed('filesystem')?.labels.map(({ name, key }) => [name, key])).toEqual([
    ['mount', true],
    ['device', false],
    ['type', false],
  ]);
});

test('every table has fields, and every column a help text and a name that can be one everywhere', () => {
  for (const table of catalog) {
    expect(table.id).toBeGreaterThanOrEqual(firstTableId);
    expect(table.fields.length).toBeGreaterThan(0);
    for (const column of [...table.labels, ...table.fields]) {
      expect(column.name).toMatch(/^[a-z][a-z0-9]*(_[a-z0-9]+)*$/);
      expect(column.help).toMatch(/^["A-Z0-9].*[.]$/);
      // What the store, the API's rows and the Prometheus page name themselves.
      expect(['ts', 'time', 'tenant', 'host', 'session', 'sequence']).not.toContain(column.name);
    }
    for (const field of table.fields) expect(units).toContain(field.unit);
  }
});

test('names of tables and of columns within a table are unique', () => {
  expect(new Set(catalog.map(({ name }) => name)).size).toBe(catalog.length);
  for (const { labels, fields } of catalog) {
    const names = [...labels, ...fields].map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
  }
});
