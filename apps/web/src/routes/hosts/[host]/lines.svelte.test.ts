import { expect, test } from 'vitest';
import type { Table } from '#lib/api.ts';
import { linesMost } from '#lib/chart/Chart.svelte';
import type { Entity } from '#lib/history.svelte.ts';
import { distinct, linesOf } from './lines.ts';
import { sectionsFor } from './sections.ts';

const table: Table = {
  name: 'disk_io',
  help: 'Traffic of block devices.',
  rowTime: null,
  labels: [{ name: 'device', key: true, help: '' }],
  fields: [
    { name: 'read_bytes_per_second', unit: 'bytes_per_second', help: 'Read.' },
    { name: 'write_bytes_per_second', unit: 'bytes_per_second', help: 'Written.' },
    { name: 'queue_count', unit: 'count', help: 'Waiting.' },
  ],
};
const fields = ['read_bytes_per_second', 'write_bytes_per_second'];
const disk = (name: string, read: number | null, write: number | null): Entity => ({
  labels: { host: 'web-1', device: name },
  name,
  columns: { read_bytes_per_second: [read], write_bytes_per_second: [write] },
});
const plan = { id: 'disk_io.traffic', title: 'Traffic', table: 'disk_io', fields };

test('lines are named after entity and field; a field without values is none', () => {
  const { lines, note } = linesOf(plan, table, [disk('sda', 1, 2), disk('sdb', 3, null)], []);
  expect(lines.map(({ label }) => label)).toEqual(['sda read', 'sda write', 'sdb read']);
  expect(note).toBe('');
});

test('only what was chosen is drawn, in the colour it has among all', () => {
  const all = [disk('sda', 1, 2), disk('sdb', 3, 4)];
  const { lines } = linesOf({ ...plan, fields: fields.slice(0, 1) }, table, all, ['sdb']);
  expect(lines.map(({ label, color }) => [label, color])).toEqual([['sdb', 1]]);
});

test('of too many lines those with the largest means are drawn, and it is said', () => {
  const many = Array.from({ length: 30 }, (_, index) => disk(`sd${index}`, index, null));
  const { lines, note } = linesOf({ ...plan, fields: fields.slice(0, 1) }, table, many, []);
  expect(lines).toHaveLength(linesMost);
  expect(lines.map(({ label }) => label)).toContain('sd29');
  expect(lines.map(({ label }) => label)).not.toContain('sd0');
  expect(note).toBe('10 of 30 shown: those with the largest mean.');
});

test('labels leave out what all have in common', () => {
  expect(distinct(['receive packets', 'transmit packets'])).toEqual(['receive', 'transmit']);
  expect(distinct(['load 1m', 'load 5m'])).toEqual(['1m', '5m']);
  expect(distinct(['swap used', 'swap total'])).toEqual(['used', 'total']);
  expect(distinct(['committed', 'commit limit'])).toEqual(['committed', 'commit limit']);
  expect(distinct(['used'])).toEqual(['used']);
});

test('a table that the page does not know gets charts by itself, one per unit', () => {
  const unknown: Table = { ...table, name: 'tape_drive' };
  const [section] = sectionsFor([unknown]);
  expect(section).toMatchObject({
    id: 'tape_drive',
    title: 'Tape drive',
    entities: { table: 'tape_drive', label: 'device' },
  });
  expect(section?.charts.map(({ id, fields: drawn }) => [id, drawn])).toEqual([
    ['tape_drive.bytes_per_second', fields],
    ['tape_drive.count', ['queue_count']],
  ]);
});

test('of a known table only the fields that the collector has are asked for', () => {
  const [section] = sectionsFor([table]);
  expect(section?.charts.flatMap((chart) => chart.fields)).toEqual([
    'read_bytes_per_second',
    'write_bytes_per_second',
    'queue_count',
  ]);
});
