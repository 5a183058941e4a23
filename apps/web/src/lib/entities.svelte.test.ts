import { expect, test } from 'vitest';
import type { Row, Table } from '#lib/api.ts';
import { arrangeRows, capital, columnsOf } from '#lib/entities.ts';
import { titleOf, visible } from '#lib/text.ts';

const table: Table = {
  name: 'container',
  help: '',
  rowTime: null,
  labels: [
    { name: 'container', key: true, help: 'Id.' },
    { name: 'name', key: false, help: 'Name.' },
    { name: 'health', key: false, help: 'Health.' },
  ],
  fields: [
    { name: 'cpu_percent', unit: 'percent', help: 'CPU.' },
    { name: 'memory_used_bytes', unit: 'bytes', help: 'Memory.' },
    { name: 'memory_limit_bytes', unit: 'bytes', help: 'Limit.' },
    { name: 'read_operations_per_second', unit: 'per_second', help: 'Reads.' },
    { name: 'read_operations_total', unit: 'total', help: 'Reads since the start.' },
    { name: 'read_bytes_total', unit: 'total', help: 'Read since the start.' },
    { name: 'start_time_seconds', unit: 'seconds', help: 'Start.' },
  ],
};
const row = (name: string, values: Record<string, string | number | null> = {}): Row => ({
  time: 1_000_000,
  host: 'a',
  container: `id-${name}`,
  name,
  health: '',
  ...values,
});
const plans = [
  { name: 'name' },
  { name: 'health', tones: { unhealthy: 'bad' } },
  { name: 'cpu_percent', title: 'CPU', most: 200, warn: 150 },
  { name: 'memory_used_bytes', of: 'memory_limit_bytes' },
  { name: 'no_such_column' },
] as const;

test('columns are those that were planned and that the catalogue has; all others follow', () => {
  const { chosen, others } = columnsOf(table, plans);
  expect(chosen.map(({ title }) => title)).toEqual(['Name', 'Health', 'CPU', 'Memory used']);
  expect(others.map(({ title }) => title)).toEqual([
    'Container',
    'Read operations, per second',
    'Read operations, total',
    'Read bytes',
    'Started',
  ]);
});

test('cells say what is known, and what is not', () => {
  const { chosen, others } = columnsOf(table, plans);
  const cells = (values: Record<string, string | number | null>) =>
    Object.fromEntries([...chosen, ...others].map(({ id, cell }) => [id, cell(row('x', values))]));
  expect(
    cells({
      health: 'unhealthy',
      cpu_percent: 150,
      memory_used_bytes: 512,
      memory_limit_bytes: 1024,
      read_bytes_total: 2048,
      start_time_seconds: 940,
    }),
  ).toMatchObject({
    health: { text: 'unhealthy', tone: 'bad' },
    cpu_percent: { text: '150.0\u00a0%', share: 75, tone: 'warn' },
    memory_used_bytes: { text: '512\u00a0B / 1.00\u00a0KiB', share: 50 },
    read_bytes_total: { text: '2.00\u00a0KiB' },
    start_time_seconds: { text: '1\u00a0min ago' },
  });
  expect(cells({ cpu_percent: null, memory_used_bytes: 512, memory_limit_bytes: null })).toMatchObject({
    health: { text: '–', tone: 'muted' },
    cpu_percent: { text: 'N/A', share: null, tone: 'muted' },
    memory_used_bytes: { text: '512\u00a0B', share: null },
  });
});

test('of several fields the first that a row has', () => {
  const { chosen, others } = columnsOf(table, [{ name: 'reading', any: ['memory_used_bytes', 'cpu_percent', 'gone'] }]);
  expect(chosen[0]?.cell(row('x', { memory_used_bytes: null, cpu_percent: 5 })).text).toBe('5.0\u00a0%');
  expect(chosen[0]?.cell(row('x')).text).toBe('N/A');
  expect(others.map(({ id }) => id)).not.toContain('cpu_percent');
});

test('rows are sorted with what is not known last either way, and found by words of any label', () => {
  const { chosen } = columnsOf(table, plans);
  const rows = [row('b', { cpu_percent: null }), row('a10', { cpu_percent: 1 }), row('a2', { cpu_percent: 5 })];
  const names = (search: string, sort: string) =>
    arrangeRows(rows, chosen, ['name', 'container'], search, sort).map(({ name }) => name);
  expect(names('', 'cpu_percent')).toEqual(['a10', 'a2', 'b']);
  expect(names('', '-cpu_percent')).toEqual(['a2', 'a10', 'b']);
  expect(names('', 'name')).toEqual(['a2', 'a10', 'b']);
  expect(names('', 'no_such_column')).toEqual(['a2', 'a10', 'b']);
  expect(names('ID-A 2', 'name')).toEqual(['a2']);
});

test('titles are spelled as their words are', () => {
  expect(['cpu limit', 'oom kills', 'dtlb loads', 'read bytes', 'kv cache'].map(capital)).toEqual([
    'CPU limit',
    'OOM kills',
    'dTLB loads',
    'Read bytes',
    'KV cache',
  ]);
});

test('what can’t be seen in a text is written out; the joiners of an emoji are not', () => {
  expect(
    visible(`\u001b[31mred\u0000\n\t${String.fromCodePoint(0x202e)}gnp.exe\u200b\ufeff\u009b\u{e0041}\ud800`),
  ).toBe('\\x1b[31mred\\x00\\n\\t\\u202egnp.exe\\u200b\\ufeff\\x9b\\u{e0041}\\ud800');
  for (const text of ['👨‍👩‍👧', '👍🏽', '❤️‍🔥', 'é ü 東京 שלום', '<b>&amp;']) expect(visible(text)).toBe(text);
  expect(visible('a\u200db')).toBe('a\\u200db');
  expect(titleOf('x'.repeat(5000))).toHaveLength(4097);
});
