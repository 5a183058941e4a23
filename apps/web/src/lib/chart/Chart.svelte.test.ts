import { expect, test, vi } from 'vitest';
import { userEvent } from 'vitest/browser';
import { render } from 'vitest-browser-svelte';
import '../../app.css';
import Chart, { type Line } from '#lib/chart/Chart.svelte';
import { bridge, heatImage, paceOf, stack, timeLabels, valueAt, valueRange } from '#lib/chart/scale.ts';

const start = Date.UTC(2026, 10, 21, 6);
const times = Array.from({ length: 61 }, (_, index) => start + index * 1000);
const line = (values: (number | null)[], label = 'used', color = 0): Line => ({ key: label, label, values, color });
const flat = (value: number | null) => times.map(() => value);

const base = {
  id: 'cpu.mode',
  title: 'CPU',
  unit: 'percent',
  times,
  from: start,
  to: start + 60_000,
  zone: 'utc' as const,
  dark: false,
  most: 100,
};

/** Columns of the plot, in CSS pixels, that have ink of the first series' colour. */
function inked(container: Element): Set<number> {
  const canvas = container.querySelector('canvas') as HTMLCanvasElement;
  const { data, width } = (canvas.getContext('2d') as CanvasRenderingContext2D).getImageData(
    0,
    0,
    canvas.width,
    canvas.height,
  );
  const columns = new Set<number>();
  for (let index = 0; index < data.length; index += 4)
    if (
      near(data[index], 0) &&
      near(data[index + 1], 114) &&
      near(data[index + 2], 178) &&
      (data[index + 3] as number) > 200
    )
      columns.add(Math.floor(((index / 4) % width) / devicePixelRatio));
  return columns;
}
const near = (value: number | undefined, wanted: number) => Math.abs((value ?? 0) - wanted) < 12;

test('a chart draws its lines, follows new values and shows holes as holes', async () => {
  document.documentElement.dataset.theme = 'light';
  const screen = await render(Chart, { ...base, lines: [line(flat(50))] });
  await expect.poll(() => inked(screen.container).size).toBeGreaterThan(100);
  const full = inked(screen.container).size;
  const holed = times.map((_, index) => (index > 20 && index < 40 ? null : 50));
  await screen.rerender({ lines: [line(holed)] });
  await expect.poll(() => inked(screen.container).size).toBeLessThan(full * 0.75);
  expect(inked(screen.container).size).toBeGreaterThan(full * 0.5);
  await screen.rerender({ lines: [line(flat(null))] });
  await expect.poll(() => inked(screen.container).size).toBe(0);
  await expect.element(screen.getByText('No data in this range')).toBeVisible();
  await expect.element(screen.getByTestId('chart')).toHaveAttribute('data-points', '61');
});

test('new values do not make a new plot, other lines do', async () => {
  const screen = await render(Chart, { ...base, lines: [line(flat(50))] });
  await expect.poll(() => screen.container.querySelector('canvas')).not.toBe(null);
  const canvas = screen.container.querySelector('canvas');
  await screen.rerender({ lines: [line(flat(20))], from: start - 1000, to: start + 61_000 });
  expect(screen.container.querySelector('canvas')).toBe(canvas);
  await screen.rerender({ lines: [line(flat(20)), line(flat(30), 'other', 1)] });
  await expect.poll(() => screen.container.querySelector('canvas')).not.toBe(canvas);
  expect(screen.container.querySelectorAll('canvas')).toHaveLength(1);
});

test('the legend has the last values, and N/A where there is none', async () => {
  const values = times.map((_, index) => index);
  const screen = await render(Chart, {
    ...base,
    lines: [line(values), line(flat(null), 'frequency', 1)],
  });
  const legend = [...screen.container.querySelectorAll('li')].map((item) =>
    item.textContent?.replace(/\s+/g, ' ').trim(),
  );
  expect(legend).toEqual(['used 60.0 %', 'frequency N/A']);
});

test('a click in the legend shows one line alone, another all again', async () => {
  const screen = await render(Chart, { ...base, lines: [line(flat(50)), line(flat(20), 'other', 1)] });
  const other = screen.getByRole('button', { name: /other/ });
  const used = screen.getByRole('button', { name: /used/ });
  await expect.poll(() => inked(screen.container).size).toBeGreaterThan(100);
  await other.click();
  await expect.element(used).toHaveAttribute('aria-pressed', 'false');
  await expect.poll(() => inked(screen.container).size).toBe(0);
  await other.click();
  await expect.element(used).toHaveAttribute('aria-pressed', 'true');
  await expect.poll(() => inked(screen.container).size).toBeGreaterThan(100);
});

test('a drag zooms into its range, a double click zooms out, and the cursor is shared', async () => {
  const onzoom = vi.fn<(from: number, to: number) => void>();
  const onzoomout = vi.fn();
  const values = times.map((_, index) => index);
  const screen = await render(Chart, { ...base, lines: [line(values)], onzoom, onzoomout });
  const second = await render(Chart, { ...base, id: 'cpu.core', title: 'Other', lines: [line(values, 'second')] });
  await expect.poll(() => screen.container.querySelector('.u-over')).not.toBe(null);
  const over = screen.container.querySelector('.u-over') as HTMLElement;
  await expect.poll(() => over.clientWidth).toBeGreaterThan(100);
  const { left, top, width } = over.getBoundingClientRect();
  const mouse = (type: string, share: number) =>
    over.dispatchEvent(
      new MouseEvent(type, {
        clientX: left + width * share,
        clientY: top + 20,
        movementX: 9,
        button: 0,
        bubbles: true,
      }),
    );
  mouse('mouseenter', 0.25);
  await expect
    .poll(() => {
      mouse('mousemove', 0.25);
      return second.container.textContent?.replaceAll('\u00a0', ' ');
    })
    .toMatch(/06:00:15.*second\s+15\.0 %/s);
  mouse('mousedown', 0.25);
  mouse('mousemove', 0.75);
  mouse('mouseup', 0.75);
  await expect.poll(() => onzoom.mock.calls.length).toBe(1);
  const [from, to] = onzoom.mock.calls[0] as [number, number];
  expect(from).toBeGreaterThan(start + 14_000);
  expect(from).toBeLessThan(start + 16_000);
  expect(to).toBeGreaterThan(start + 44_000);
  expect(to).toBeLessThan(start + 46_000);
  await userEvent.dblClick(over);
  expect(onzoomout).toHaveBeenCalledTimes(1);
});

test('an error shows its sentence and a way to try again', async () => {
  const onretry = vi.fn();
  const failure = 'QuestDB can not be reached.';
  const screen = await render(Chart, { ...base, times: [], lines: [], status: 'error', failure, onretry });
  await expect.element(screen.getByRole('alert')).toHaveTextContent(`${failure} Retry`);
  await screen.getByRole('button', { name: 'Retry' }).click();
  expect(onretry).toHaveBeenCalledTimes(1);
});

test('a stack adds up what is there', () => {
  expect(
    stack(
      [
        [1, null, 3],
        [1, 2, null],
      ],
      3,
    ),
  ).toEqual([
    [1, null, 3],
    [2, 2, null],
  ]);
});

test('axes begin at zero and leave room above', () => {
  expect(valueRange(3, 50, null)).toEqual([0, 54]);
  expect(valueRange(null, null, null)).toEqual([0, 1]);
  expect(valueRange(0, 30, 100)).toEqual([0, 100]);
  expect(valueRange(0, 130, 100)).toEqual([0, 130]);
});

test('the time axis names the day where it begins', () => {
  const midnight = Date.UTC(2026, 10, 22);
  expect(timeLabels([midnight - 300_000, midnight, midnight + 300_000], 300_000, 'utc')).toEqual([
    '23:55',
    '00:00\n22 Nov',
    '00:05',
  ]);
});

test('a heat map has one pixel per step and row, none where there is no value', () => {
  const heat = Uint32Array.of(10, 20, 30);
  const { width, pixels } = heatImage(
    [1000, 2000, 4000],
    [
      [0, 50, 100],
      [null, 150, -5],
    ],
    1000,
    100,
    heat,
  );
  expect(width).toBe(4);
  expect([...pixels]).toEqual([10, 20, 0, 30, 0, 30, 0, 10]);
});

test('a source that is slower than the others is one line, and its holes are holes', async () => {
  const slow = times.map((_, index) => (index % 2 === 0 && (index < 20 || index > 40) ? 50 : null));
  expect(paceOf(slow)).toBe(2);
  expect(paceOf(flat(1))).toBe(1);
  expect(paceOf(flat(null))).toBe(1);
  expect(bridge([1, null, 2, null, 3, null, null, null, null, 4], 'nothing')).toEqual([
    ...[1, undefined, 2, undefined, 3],
    ...[null, null, null, null, 4],
  ]);
  expect(bridge([1, null, 2, null, 3], 'before')).toEqual([1, 1, 2, 2, 3]);
  // A value that is missing among others is a gap.
  expect(bridge([1, 2, null, 4, 5], 'nothing')).toEqual([1, 2, null, 4, 5]);
  expect([valueAt(slow, 3), valueAt(slow, 30)]).toEqual([50, null]);

  const screen = await render(Chart, { ...base, lines: [line(slow)] });
  await expect.poll(() => inked(screen.container).size).toBeGreaterThan(100);
  const columns = [...inked(screen.container)].sort((a, b) => a - b);
  const jumps = columns.slice(1).map((column, index) => column - (columns[index] as number));
  expect(jumps.filter((jump) => jump > 5)).toHaveLength(1);
});

test('no line goes over a hole that is known, even of a source that is too slow to miss anything in it', async () => {
  const slow = times.map((_, index) => (index % 10 === 0 ? 50 : null));
  const hole = { from: start + 32_000, to: start + 37_000, healed: false, text: 'No data' };
  const isLost = (index: number) => index === 3;
  expect(bridge([1, null, 2, null, 3], 'nothing', isLost)).toEqual([1, undefined, 2, null, 3]);
  expect(bridge([1, null, 2, null, 3], 'before', isLost)).toEqual([1, 1, 2, null, 3]);
  const screen = await render(Chart, { ...base, lines: [line(slow)] });
  const jumps = () => {
    const columns = [...inked(screen.container)].sort((a, b) => a - b);
    return columns.slice(1).filter((column, index) => column - (columns[index] as number) > 5).length;
  };
  await expect.poll(() => inked(screen.container).size).toBeGreaterThan(100);
  expect(jumps()).toBe(0);
  await screen.rerender({ bands: [hole] });
  await expect.poll(jumps).toBe(1);
  expect(screen.container.querySelectorAll('.hole')).toHaveLength(1);
  // What came late is drawn.
  await screen.rerender({ bands: [{ ...hole, healed: true }] });
  await expect.poll(jumps).toBe(0);
});
