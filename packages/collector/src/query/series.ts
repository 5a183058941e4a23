// Series over time: the values of fields by steps, from the rows or a roll-up of them, with gaps where nothing was.
import type { Field, Table } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import type { Aggregation } from '@fleetreel/proto/http';
import type { Hosts } from '#query/hosts.ts';
import { findAggregation, findFields, findHosts, findLabels, findTable } from '#query/names.ts';
import { finestKept, plan, type Retention } from '#query/plan.ts';
import { align, floor, parseRange, parseStep } from '#query/time.ts';
import type { Cell, Reader } from '#store/reader.ts';
import * as sql from '#store/sql.ts';

/** What is asked, as it was written. */
export type SeriesQuestion = {
  table: string | undefined;
  fields: readonly string[];
  hosts: readonly string[];
  labels: Readonly<Record<string, readonly string[]>>;
  from?: string | undefined;
  to?: string | undefined;
  step?: string | undefined;
  aggregation?: string | undefined;
};

/** Values of one field of one entity: one per time, NaN where there is none. */
export type OneSeries = { field: Field; labels: Record<string, string>; values: number[] };

export type SeriesAnswer = {
  table: Table;
  aggregation: Aggregation;
  /** UTC, milliseconds since 1970; `to` exclusive. */
  from: number;
  to: number;
  stepMs: number;
  times: number[];
  series: OneSeries[];
};

/** Series of one answer at most. */
export const seriesMax = 1000;
/** Values of one answer at most: 8 MB in memory, about 20 MB as JSON before compression. */
export const valuesMax = 1_000_000;
/** Rows from which percentiles are computed at most. */
export const percentileRowsMax = 500_000;
/** A roll-up whose newest row is older than this has all that there was, milliseconds. */
const rollupSettledMs = 86_400_000;
/** The interval of hosts of which nothing is known, milliseconds. */
const intervalMsDefault = 5000;

const percentiles: Partial<Record<Aggregation, number>> = { p50: 0.5, p95: 0.95, p99: 0.99 };

export type SeriesParts = { reader: Reader; hosts: Hosts; retention: Retention };

/** Answers a question. @throws ApiError */
export async function querySeries(
  { reader, hosts, retention }: SeriesParts,
  tenant: string,
  question: SeriesQuestion,
  now: number,
): Promise<SeriesAnswer> {
  const table = findTable(question.table);
  if (question.fields.length === 0)
    throw new ApiError('missing_parameter', { parameter: 'field', expected: 'the name of at least one field' });
  const fields = findFields(table, question.fields);
  const labels = findLabels(table, question.labels);
  const aggregation = findAggregation(question.aggregation);
  const named = findHosts(hosts.names(tenant), question.hosts);
  const asked = parseRange(question.from, question.to, now);
  const finest = Math.max(interval(hosts, tenant, named), finestKept(asked.from, now, retention));
  const stepMs = parseStep(question.step, asked, finest);
  const { times, ...range } = align(asked, stepMs);
  const rollup = plan({
    range: asked,
    stepMs,
    aggregation,
    labels,
    isRolledUp: sql.rolledUpTables.includes(table),
    now,
    retention,
  });

  const grid = new Grid(table, fields, range.from, stepMs, times.length);
  const select = { tenant, table, hosts: named, labels };
  const probability = percentiles[aggregation];
  if (probability !== undefined) await fillPercentiles(reader, { ...select, ...range }, fields, probability, grid);
  else if (rollup) await fillFromRollup(reader, { ...select, ...range }, aggregation as 'avg', rollup, grid, now);
  else await fillFromRows(reader, { ...select, ...range }, aggregation as sql.StepAggregation, grid);
  return { table, aggregation, ...range, stepMs, times, series: grid.series() };
}

async function fillFromRows(reader: Reader, select: sql.Selection, aggregation: sql.StepAggregation, grid: Grid) {
  if (select.from >= select.to) return;
  grid.add(await reader.query(sql.stepsOfRows(select, grid.fields, aggregation, grid.stepMs, grid.rowsMax + 1)));
}

/** The roll-up as far as it reaches, then the rows: what was just measured is not rolled up yet. */
async function fillFromRollup(
  reader: Reader,
  select: sql.Selection,
  aggregation: 'avg' | 'min' | 'max' | 'sum',
  rollup: sql.Rollup,
  grid: Grid,
  now: number,
) {
  const [[newest] = []] = await reader.query(sql.newestOfRollup(select.table, rollup));
  const complete = typeof newest === 'number' ? endOfRollup(newest / 1000, grid.stepMs, now) : select.from;
  const boundary = Math.min(Math.max(complete, select.from), select.to);
  const rolled = { ...select, to: boundary };
  if (rolled.from < rolled.to)
    grid.add(
      await reader.query(sql.stepsOfRollup(rolled, grid.fields, aggregation, rollup, grid.stepMs, grid.rowsMax + 1)),
    );
  await fillFromRows(reader, { ...select, from: boundary }, aggregation, grid);
}

/** Where the last step that a roll-up has begins; where it ends when nothing was measured since, since it grows no more. */
function endOfRollup(newest: number, stepMs: number, now: number): number {
  return floor(newest, stepMs) + (newest < now - rollupSettledMs ? stepMs : 0);
}

/** Percentiles are exact: computed here from all rows, since those of the store are estimates that take no negative values. */
async function fillPercentiles(
  reader: Reader,
  select: sql.Selection,
  fields: readonly Field[],
  probability: number,
  grid: Grid,
) {
  const [[count] = []] = await reader.query(sql.rowCount(select));
  if (Number(count) > percentileRowsMax)
    throw new ApiError('too_many_values', { parameter: 'agg', most: percentileRowsMax });
  const steps = Map.groupBy(await reader.query(sql.rows(select, fields, percentileRowsMax)), (row) =>
    // Time and entity: the row up to its values.
    [floor(Number(row[0]) / 1000, grid.stepMs), ...row.slice(1, grid.entityColumns)].join('\0'),
  );
  const folded: Cell[][] = [];
  for (const rows of steps.values()) {
    const [first = []] = rows;
    const values = fields.map((_, index) => {
      const cells = rows.map((row) => row[grid.entityColumns + index]).filter((cell) => typeof cell === 'number');
      return quantile(cells, probability);
    });
    folded.push([...first.slice(0, grid.entityColumns), ...values]);
  }
  grid.add(folded);
}

/** A quantile with linear interpolation between the nearest ranks, as Prometheus computes it; NaN of nothing. */
export function quantile(values: readonly number[], probability: number): number {
  if (values.length === 0) return Number.NaN;
  const sorted = Float64Array.from(values).sort();
  const rank = probability * (sorted.length - 1);
  const below = sorted[Math.floor(rank)] ?? Number.NaN;
  const above = sorted[Math.ceil(rank)] ?? below;
  return below + (above - below) * (rank - Math.floor(rank));
}

/** Rows of the store by entity and step. */
class Grid {
  readonly fields: readonly Field[];
  readonly stepMs: number;
  /** Columns before the values: ts, host, key labels. */
  readonly entityColumns: number;
  /** Rows of an answer at most. */
  readonly rowsMax: number;
  readonly #from: number;
  readonly #points: number;
  readonly #names: readonly string[];
  readonly #entities = new Map<string, { labels: Record<string, string>; values: number[][] }>();

  constructor(table: Table, fields: readonly Field[], from: number, stepMs: number, points: number) {
    this.fields = fields;
    this.stepMs = stepMs;
    this.#from = from;
    this.#points = points;
    this.#names = ['host', ...table.labels.filter(({ key }) => key).map(({ name }) => name)];
    this.entityColumns = 1 + this.#names.length;
    this.rowsMax = Math.floor(valuesMax / fields.length);
  }

  /** Rows of ts, host, key labels, one value per field; each entity and step once. */
  add(rows: readonly (readonly Cell[])[]): void {
    if (rows.length > this.rowsMax) throw new ApiError('too_many_values', { most: valuesMax });
    for (const row of rows) {
      const names = row.slice(1, this.entityColumns);
      const key = names.join('\0');
      let entity = this.#entities.get(key);
      if (!entity) {
        entity = {
          labels: Object.fromEntries(this.#names.map((name, index) => [name, String(names[index] ?? '')])),
          values: this.fields.map(() => Array.from({ length: this.#points }, () => Number.NaN)),
        };
        this.#entities.set(key, entity);
        this.#check();
      }
      const index = Math.floor((Number(row[0]) / 1000 - this.#from) / this.stepMs);
      for (let field = 0; field < this.fields.length; field++) {
        const cell = row[this.entityColumns + field];
        const values = entity.values[field];
        if (values && typeof cell === 'number') values[index] = cell;
      }
    }
  }

  /** All series: by field as they were asked for, then by host and labels, numbers in their order. */
  series(): OneSeries[] {
    const entities = [...this.#entities].sort(([a], [b]) => natural.compare(a, b)).map(([, entity]) => entity);
    return this.fields.flatMap((field, index) =>
      entities.map(({ labels, values }) => ({ field, labels: { ...labels }, values: values[index] ?? [] })),
    );
  }

  #check(): void {
    const count = this.#entities.size * this.fields.length;
    if (count > seriesMax) throw new ApiError('too_many_series', { most: seriesMax });
    if (count * this.#points > valuesMax) throw new ApiError('too_many_values', { most: valuesMax });
  }
}

const natural = new Intl.Collator('en', { numeric: true });

/** The longest interval of the hosts: a shorter step would have holes. */
function interval(hosts: Hosts, tenant: string, named: readonly string[]): number {
  const wanted = named.length > 0 ? named : [...hosts.names(tenant)];
  const known = wanted.flatMap((host) => hosts.interval(tenant, host) ?? []);
  return known.length > 0 ? Math.max(...known) : intervalMsDefault;
}
