// Roll-ups: own tables by minute and by hour, filled when a step is over, and again for every step that late rows touched.
import type { Table } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import {
  rollupGraceMilliseconds,
  rollupMilliseconds,
  rollupRangesMax,
  rollupRecentMilliseconds,
  rollupStepsMax,
} from '#limits.ts';
import { type AdminSettings, execute, StatementError } from '#store/admin.ts';
import { frameTable, rollupAggregates } from '#store/schema.ts';
import { type Rollup, rolledUpTables, rollups } from '#store/sql.ts';
import type { Telemetry } from '#telemetry.ts';

/** A time range, UTC in milliseconds: from inclusive, to exclusive. */
export type TimeRange = { from: number; to: number };

/** Time ranges in order and apart from each other; beyond a number of them the nearest become one. */
export class Ranges {
  readonly #most: number;
  #ranges: TimeRange[] = [];

  constructor(most: number) {
    this.#most = most;
  }

  get all(): readonly TimeRange[] {
    return this.#ranges;
  }

  add(range: TimeRange): void {
    if (this.#ranges.some(({ from, to }) => from <= range.from && range.to <= to)) return;
    const joined: TimeRange[] = [];
    for (const { from, to } of [...this.#ranges, range].sort((a, b) => a.from - b.from)) {
      const last = joined.at(-1);
      if (last && from <= last.to) last.to = Math.max(last.to, to);
      else joined.push({ from, to });
    }
    while (joined.length > this.#most) {
      let nearest = 1;
      const gap = (place: number) => (joined[place]?.from ?? 0) - (joined[place - 1]?.to ?? 0);
      for (let place = 2; place < joined.length; place++) if (gap(place) < gap(nearest)) nearest = place;
      const [later] = joined.splice(nearest, 1);
      const earlier = joined[nearest - 1];
      if (earlier && later) earlier.to = later.to;
    }
    this.#ranges = joined;
  }

  /** Takes out the first range before a time, at most so long; undefined when there is none. */
  take(before: number, longest: number): TimeRange | undefined {
    const [first] = this.#ranges;
    if (first === undefined || first.from >= before) return undefined;
    const to = Math.min(first.to, before, first.from + longest);
    if (to === first.to) this.#ranges.shift();
    else this.#ranges[0] = { from: to, to: first.to };
    return { from: first.from, to };
  }
}

/** The statement that fills a roll-up for a range of whole steps. Repeating it changes nothing. */
export function rollupStatement(table: Table, { suffix }: Rollup, { from, to }: TimeRange): string {
  const keys = ['tenant', 'host', ...table.labels.filter(({ key }) => key).map(({ name }) => name)].map(
    (name) => `"${name}"`,
  );
  const values = table.fields.flatMap(({ name }) => rollupAggregates.map((aggregate) => `${aggregate}("${name}")`));
  const columns = table.fields.flatMap(({ name }) => rollupAggregates.map((aggregate) => `"${name}_${aggregate}"`));
  const time = (ms: number) => `'${new Date(ms).toISOString()}'`;
  return (
    `INSERT INTO "${table.name}_${suffix}" (ts, ${keys.join(', ')}, sample_count, ${columns.join(', ')})` +
    ` SELECT ts, ${keys.join(', ')}, count(), ${values.join(', ')} FROM "${table.name}"` +
    ` WHERE ts >= ${time(from)} AND ts < ${time(to)} SAMPLE BY ${suffix} ALIGN TO CALENDAR`
  );
}

type Work = { table: Table; rollup: Rollup; pending: Ranges };

/** Fills the roll-ups once a minute for what was written since. Each collector does it for what it wrote itself. */
export class Rollups {
  readonly #settings: AdminSettings;
  readonly #telemetry: Pick<Telemetry, 'rolledUp' | 'rollupFailed'>;
  readonly #clock: Clock;
  readonly #work: readonly Work[] = rollups.flatMap((rollup) =>
    rolledUpTables.map((table) => ({ table, rollup, pending: new Ranges(rollupRangesMax) })),
  );

  constructor(settings: AdminSettings, telemetry: Pick<Telemetry, 'rolledUp' | 'rollupFailed'>, clock: Clock) {
    this.#settings = settings;
    this.#telemetry = telemetry;
    this.#clock = clock;
  }

  /** Rows of these times were written: UTC, milliseconds since 1970. */
  written(times: readonly number[]): void {
    for (const rollup of rollups) {
      const steps = new Set(times.map((time) => Math.floor(time / rollup.stepMs)));
      for (const work of this.#work)
        if (work.rollup === rollup)
          for (const step of steps) work.pending.add({ from: step * rollup.stepMs, to: (step + 1) * rollup.stepMs });
    }
  }

  /** Fills what is over, once a minute, until the signal; at first after a minute, when a backlog may have been read. */
  async run(signal: AbortSignal): Promise<void> {
    let caughtUp = false;
    for (;;) {
      await this.#clock.sleep(rollupMilliseconds, signal).catch(() => undefined);
      if (signal.aborted) return;
      try {
        if (!caughtUp) await this.catchUp();
        caughtUp = true;
        await this.fill(signal);
      } catch (cause) {
        this.#telemetry.rollupFailed('all tables', cause);
      }
    }
  }

  /** Notes what the collectors before this one had written and perhaps not rolled up. */
  async catchUp(): Promise<void> {
    const oldest = await this.#time(`SELECT min(ts) FROM "${frameTable}"`);
    if (oldest === undefined) return;
    const now = this.#clock.now_us() / 1000;
    for (const rollup of rollups) {
      const newest: number[] = [];
      for (const table of rolledUpTables)
        newest.push((await this.#time(`SELECT max(ts) FROM "${table.name}_${rollup.suffix}"`)) ?? oldest);
      const recent =
        Math.min(
          newest.reduce((a, b) => Math.max(a, b)),
          now,
        ) - rollupRecentMilliseconds;
      const from = Math.floor(Math.max(oldest, recent) / rollup.stepMs) * rollup.stepMs;
      const to = Math.ceil(now / rollup.stepMs) * rollup.stepMs;
      for (const work of this.#work) if (work.rollup === rollup && from < to) work.pending.add({ from, to });
    }
  }

  /**
   * Fills what is pending and over; what the store refuses is tried the next time.
   * @throws when the store can't be reached
   */
  async fill(signal: AbortSignal): Promise<void> {
    const begin_ms = this.#clock.monotonic_ms();
    let statements = 0;
    for (const { table, rollup, pending } of this.#work) {
      const over = Math.floor((this.#clock.now_us() / 1000 - rollupGraceMilliseconds) / rollup.stepMs) * rollup.stepMs;
      const longest = rollupStepsMax[rollup.suffix] * rollup.stepMs;
      for (let range = pending.take(over, longest); range && !signal.aborted; range = pending.take(over, longest)) {
        try {
          await execute(this.#settings, rollupStatement(table, rollup, range), rollupMilliseconds);
          statements++;
        } catch (cause) {
          pending.add(range);
          if (!(cause instanceof StatementError)) throw cause;
          this.#telemetry.rollupFailed(`${table.name}_${rollup.suffix}`, cause);
          break;
        }
      }
      if (signal.aborted) return;
    }
    if (statements > 0) this.#telemetry.rolledUp(statements, (this.#clock.monotonic_ms() - begin_ms) / 1000);
  }

  async #time(statement: string): Promise<number | undefined> {
    const [[time] = []] = await execute(this.#settings, statement);
    return typeof time === 'string' ? Date.parse(time) : undefined;
  }
}
