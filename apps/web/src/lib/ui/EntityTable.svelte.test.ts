import { expect, test, vi } from 'vitest';
import { userEvent } from 'vitest/browser';
import { render } from 'vitest-browser-svelte';
import '../../app.css';
import type { Row, Table } from '#lib/api.ts';
import { columnsOf } from '#lib/entities.ts';
import EntityTable from '#lib/ui/EntityTable.svelte';

const table: Table = {
  name: 'process',
  help: '',
  rowTime: null,
  labels: [
    { name: 'pid', key: true, help: '' },
    { name: 'name', key: false, help: 'Name of the program.' },
  ],
  fields: [{ name: 'cpu_percent', unit: 'percent', help: 'CPU time.' }],
};
const process = (pid: string, name: string, cpu: number): Row => ({
  time: 0,
  host: 'a',
  pid,
  name,
  cpu_percent: cpu,
});
const many = Array.from({ length: 12 }, (_, index) => process(`${index}`, `p${index}`, index));
const base = {
  id: 'process',
  title: 'Top processes',
  columns: columnsOf(table, [{ name: 'name' }, { name: 'cpu_percent', title: 'CPU', most: 100 }]).chosen,
  labels: ['pid', 'name'],
  keyOf: (row: Row) => String(row.pid),
  sort: '-cpu_percent',
  onsort: () => {},
};
const names = (container: Element) =>
  [...container.querySelectorAll('tbody th')].map((cell) => cell.textContent?.trim());

test('rows in their order, with a share as a bar, sorted by a click', async () => {
  const onsort = vi.fn();
  const screen = await render(EntityTable, { ...base, rows: many.slice(0, 3), onsort });
  expect(names(screen.container)).toEqual(['p2', 'p1', 'p0']);
  await expect.element(screen.getByRole('columnheader', { name: 'CPU' })).toHaveAttribute('aria-sort', 'descending');
  await screen.getByRole('button', { name: 'CPU' }).click();
  await screen.getByRole('button', { name: 'Name' }).click();
  expect(onsort.mock.calls).toEqual([['cpu_percent'], ['name']]);
  expect(screen.container.querySelectorAll('svg[role="img"]')).toHaveLength(3);
});

test('a row is chosen by click and by keyboard, and several with Shift', async () => {
  const onchoose = vi.fn();
  const screen = await render(EntityTable, { ...base, rows: many.slice(0, 3), chosen: ['1'], onchoose });
  await expect.element(screen.getByRole('button', { name: 'p1' })).toHaveAttribute('aria-pressed', 'true');
  await screen.getByRole('cell', { name: /2\.0/ }).click();
  await screen.getByRole('button', { name: 'p2' }).element().focus();
  await userEvent.keyboard('{ArrowDown}{ArrowDown}{Enter}');
  await screen.getByRole('button', { name: 'p0' }).click({ modifiers: ['Shift'] });
  expect(onchoose.mock.calls).toEqual([
    ['2', false],
    ['0', false],
    ['0', true],
  ]);
});

test('while the pointer is over the rows they keep their places', async () => {
  const screen = await render(EntityTable, { ...base, rows: many.slice(0, 3) });
  await screen.getByRole('rowheader', { name: 'p2' }).hover();
  const swapped = [process('0', 'p0', 90), process('1', 'p1', 1), process('2', 'p2', 2), process('3', 'p3', 99)];
  await screen.rerender({ rows: swapped });
  expect(names(screen.container)).toEqual(['p2', 'p1', 'p0', 'p3']);
  await screen.getByRole('heading', { name: 'Top processes' }).hover();
  await expect.poll(() => names(screen.container)).toEqual(['p3', 'p0', 'p2', 'p1']);
});

test('nothing, nothing found, loading, and rows that are not of now', async () => {
  const onsearch = vi.fn();
  const screen = await render(EntityTable, { ...base, rows: [], nothing: 'No process was reported.' });
  await expect.element(screen.getByText('No process was reported.')).toBeVisible();
  await screen.rerender({ loading: true });
  await expect.element(screen.getByRole('status', { name: 'Loading' })).toBeVisible();
  await screen.rerender({ loading: false, rows: many, search: 'nobody', onsearch });
  await expect.element(screen.getByText(/No row matches/)).toBeVisible();
  await screen.getByRole('button', { name: 'Show all' }).click();
  await screen.getByRole('searchbox', { name: 'Find in Top processes' }).fill('p1');
  expect(onsearch.mock.calls.at(0)).toEqual(['']);
  expect(onsearch.mock.calls.at(-1)).toEqual(['p1']);
  await screen.rerender({ search: 'p1', stale: 'as of 14:05:09' });
  expect(names(screen.container)).toEqual(['p11', 'p10', 'p1']);
  await expect.element(screen.getByText('3 of 12')).toBeVisible();
  await expect.element(screen.getByText('as of 14:05:09')).toBeVisible();
});

test('a name is only text: cut where it is too long, with the whole of it in its title', async () => {
  const long = `<img src=x onerror=alert(1)>\u001b[31m${'x'.repeat(4000)}`;
  const screen = await render(EntityTable, { ...base, rows: [process('1', long, 1)] });
  const cell = screen.getByRole('rowheader').element() as HTMLElement;
  expect(cell.textContent?.trim().startsWith('<img src=x onerror=alert(1)>\\x1b[31mxxx')).toBe(true);
  expect(cell.title).toContain('\\x1b[31m');
  expect(cell.getBoundingClientRect().width).toBeLessThan(screen.container.getBoundingClientRect().width);
  expect(screen.container.querySelector('img')).toBeNull();
});
