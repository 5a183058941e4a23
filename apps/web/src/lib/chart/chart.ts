// uPlot behind four verbs: create, resize (by itself), update, destroy. It knows nothing of Svelte.
import uPlot from 'uplot';
import {
  bridge,
  byteIncrements,
  heatImage,
  increments,
  type Palette,
  stack,
  timeLabels,
  valueRange,
  zoneDate,
} from '#lib/chart/scale.ts';
import { formatAxis, type Zone } from '#lib/format.ts';

/** What does not change while a plot lives: with another shape another plot is made. */
export type PlotShape = {
  /** One entry per series: its colour's index; heat maps take none. */
  colors: readonly number[];
  labels: readonly string[];
  unit: string;
  /** Drawn one upon the other. */
  stacked: boolean;
  /** One row of shades per series instead of lines. */
  heat: boolean;
  /** The top of the axis when the values have a natural most, such as 100 percent. */
  most: number | null;
  zone: Zone;
  height: number;
  palette: Palette;
};

export type PlotData = {
  /** Milliseconds since 1970. */
  times: readonly number[];
  columns: readonly (readonly (number | null)[])[];
  /** Where there is no data: no line goes over it, however slow its source is. */
  bands: readonly Band[];
  from: number;
  to: number;
};

/** A stretch of time, milliseconds since 1970, with what is to be said of it; one that was healed has data. */
export type Band = { from: number; to: number; healed: boolean; text: string };

export type PlotEvents = {
  /** The reader points at this row, or at none. */
  cursor: (index: number | null) => void;
  zoom: (from: number, to: number) => void;
  zoomOut: () => void;
};

/** All charts of a page share one cursor. */
const syncKey = 'fleetreel';
/** A drag shorter than this is a click, pixels. */
const dragShortest = 6;
/** More holes than this can't be told apart in a chart. */
const bandsMost = 200;
const axisFont = '11px system-ui, sans-serif';
const axisWidth = 68;

export class Plot {
  readonly #plot: uPlot;
  readonly #observer: ResizeObserver;
  readonly #shape: PlotShape;
  #marks: readonly HTMLElement[] = [];

  constructor(element: HTMLElement, shape: PlotShape, events: PlotEvents) {
    this.#shape = shape;
    const width = Math.max(1, element.clientWidth);
    const empty = [[], ...shape.labels.map(() => [])] as unknown as uPlot.AlignedData;
    this.#plot = new uPlot({ ...options(shape, events), width, height: shape.height }, empty, element);
    this.#plot.over.addEventListener('dblclick', events.zoomOut);
    this.#observer = new ResizeObserver(() => {
      const next = element.clientWidth;
      if (next > 0 && next !== this.#plot.width) this.#plot.setSize({ width: next, height: shape.height });
    });
    this.#observer.observe(element);
  }

  /** Draws these columns within this range of time. */
  update({ times, columns, bands, from, to }: PlotData): void {
    const { stacked, heat } = this.#shape;
    const lost = bands.filter((band) => !band.healed && band.from < to && band.to > from);
    const isLost = (index: number) => {
      const time = times[index] as number;
      return lost.some((band) => band.from <= time && time < band.to);
    };
    const paced = columns.map((column) => bridge(column, stacked || heat ? 'before' : 'nothing', isLost));
    const drawn = stacked ? stack(paced as (number | null)[][], times.length).reverse() : paced;
    this.#plot.batch(() => {
      this.#plot.setData([times, ...drawn] as unknown as uPlot.AlignedData, false);
      this.#plot.setScale('x', { min: from, max: to });
    });
  }

  /** Hatches stretches without data; those that have some after all get a line at the foot. */
  mark(bands: readonly Band[], from: number, to: number): void {
    const { over } = this.#plot;
    for (const old of this.#marks) old.remove();
    const share = (time: number) => (100 * (Math.min(Math.max(time, from), to) - from)) / (to - from);
    this.#marks = bands
      .filter((band) => band.from < to && band.to > from)
      .slice(0, bandsMost)
      .map(({ from: begin, to: end, healed, text }) => {
        const mark = document.createElement('div');
        mark.className = healed ? 'hole healed' : 'hole';
        mark.style.left = `${share(begin)}%`;
        mark.style.width = `${share(end) - share(begin)}%`;
        mark.title = text;
        mark.role = 'img';
        mark.ariaLabel = text;
        return mark;
      });
    // Under the cursor, which is drawn over them.
    over.prepend(...this.#marks);
  }

  /** Brings one series to the front; null all. */
  highlight(index: number | null): void {
    const { stacked, labels } = this.#shape;
    const position = index === null ? null : stacked ? labels.length - index : index + 1;
    this.#plot.setSeries(position, { focus: index !== null });
  }

  destroy(): void {
    this.#observer.disconnect();
    this.#plot.destroy();
  }
}

function options(shape: PlotShape, events: PlotEvents): Omit<uPlot.Options, 'width' | 'height'> {
  const { unit, heat, most, zone, palette, stacked } = shape;
  const grid: uPlot.Axis.Grid = { stroke: palette.grid, width: 1 };
  return {
    ms: 1,
    tzDate: zoneDate(zone),
    legend: { show: false },
    padding: [8, 18, 0, 0],
    focus: { alpha: 0.25 },
    cursor: {
      y: false,
      points: { show: !heat && !stacked, size: 6 },
      drag: { x: true, y: false, setScale: false, dist: dragShortest },
      // Only where the reader points is shared: a drag belongs to the chart it is made in.
      sync: {
        key: syncKey,
        scales: ['x', null],
        setSeries: false,
        filters: { pub: (type) => type === 'mousemove' || type === 'mouseleave' },
      },
      focus: { prox: -1 },
    },
    scales: {
      x: { time: true },
      y: heat
        ? { range: () => [0, Math.max(1, shape.labels.length)] }
        : { range: (_, low, high) => valueRange(low, high, most) },
    },
    axes: [
      {
        stroke: palette.text,
        font: axisFont,
        // A second line holds the date, where there is one.
        size: (_, labels) => (labels?.some((label) => label.includes('\n')) ? 38 : 24),
        gap: 4,
        space: 64,
        grid,
        ticks: { stroke: palette.grid, width: 1, size: 4 },
        values: (_, ticks, __, ___, step) => timeLabels(ticks, step, zone),
      },
      {
        stroke: palette.text,
        font: axisFont,
        size: axisWidth,
        gap: 6,
        space: heat ? 14 : 30,
        grid: heat ? { show: false } : grid,
        ticks: { show: false },
        incrs: heat ? [1, 2, 4, 8, 16, 32, 64, 128, 256] : unit.startsWith('bytes') ? byteIncrements : increments,
        values: (plot, ticks) =>
          heat
            ? ticks.map((tick) => shape.labels[shape.labels.length - tick] ?? '')
            : filled(plot)
              ? formatAxis(ticks, unit)
              : ticks.map(() => ''),
      },
    ],
    series: [{}, ...seriesOptions(shape)],
    hooks: {
      setCursor: [({ cursor }) => events.cursor(cursor.idx ?? null)],
      setSelect: [
        (plot) => {
          const { left, width } = plot.select;
          if (width < dragShortest) return;
          plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          events.zoom(plot.posToVal(left, 'x'), plot.posToVal(left + width, 'x'));
        },
      ],
      draw: heat ? [(plot) => drawHeat(plot, shape)] : [],
    },
  };
}

function seriesOptions({ colors, labels, stacked, heat, palette }: PlotShape): uPlot.Series[] {
  const made = labels.map((label, index): uPlot.Series => {
    const stroke = palette.series[colors[index] as number] as string;
    if (heat) return { label, paths: () => null, points: { show: false } };
    return {
      label,
      stroke,
      width: stacked ? 1 : 1.5,
      spanGaps: false,
      // The area of a stack is opaque: what lies behind is the next series.
      ...(stacked
        ? { fill: mix(stroke, palette.panel, 0.62) }
        : labels.length === 1
          ? { fill: fade(stroke, 0.12) }
          : {}),
      points: { show: lonely, size: 4 },
    };
  });
  return stacked ? made.reverse() : made;
}

/** Whether there is any value: an axis of nothing has no labels. */
const filled = ({ data }: uPlot): boolean =>
  data.some((column, index) => index > 0 && column.some((value) => value != null));

/** Points are drawn only where a value has no neighbours: a line could not show it. */
function lonely(plot: uPlot, seriesIndex: number, from: number, to: number): boolean | undefined {
  const column = plot.data[seriesIndex];
  if (!column) return false;
  let count = 0;
  for (let index = from; index <= to; index++)
    if (column[index] != null && isGap(column, index - 1) && isGap(column, index + 1)) count++;
  return count > 0 && count <= 200 && count * 3 > to - from ? true : undefined;
}

/** Undefined is no gap: the line goes on over it. */
const isGap = (column: ArrayLike<number | null | undefined>, index: number): boolean =>
  index < 0 || index >= column.length || column[index] === null;

function drawHeat(plot: uPlot, { labels, most, palette }: PlotShape): void {
  const { ctx, bbox, data } = plot;
  const [times, ...columns] = data as [number[], ...(number | null)[][]];
  const step = smallestStep(times);
  if (times.length === 0 || !Number.isFinite(step)) return;
  const { width, pixels } = heatImage(times, columns, step, most ?? 100, palette.heat);
  const image = new OffscreenCanvas(width, labels.length);
  const pixelBytes = new Uint8ClampedArray(pixels.buffer);
  image.getContext('2d')?.putImageData(new ImageData(pixelBytes, width, labels.length), 0, 0);
  const left = plot.valToPos(times[0] as number, 'x', true);
  const right = plot.valToPos((times[0] as number) + width * step, 'x', true);
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  ctx.imageSmoothingEnabled = false;
  ctx.drawImage(image, left, bbox.top, right - left, bbox.height);
  ctx.restore();
}

function smallestStep(times: ArrayLike<number>): number {
  let step = Number.POSITIVE_INFINITY;
  for (let index = 1; index < times.length; index++)
    step = Math.min(step, (times[index] as number) - (times[index - 1] as number));
  return step;
}

const channels = (color: string): number[] => (color.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);

const fade = (color: string, alpha: number): string => `rgb(${channels(color).join(' ')} / ${alpha})`;

const mix = (color: string, behind: string, share: number): string => {
  const other = channels(behind);
  return `rgb(${channels(color)
    .map((channel, index) => Math.round(channel * share + (other[index] ?? 0) * (1 - share)))
    .join(' ')})`;
};
