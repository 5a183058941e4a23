// Roll-ups: own tables by minute and by hour, filled again for every range that was written, however late.
import { catalog, type Table } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { rollupMilliseconds, rollupRangesMax, rollupRecentMilliseconds, rollupStepsMax } from '#limits.ts';
import { type AdminSettings, execute } from '#store/admin.ts';
import { rollupAggregates } from '#store/schema.ts';
import { type Rollup, rollups } from '#store/sql.ts';
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

  add(range: TimeRange): void {
    const all = [...this.#ranges, range].sort((a, b) => a.from - b.from);
    const joined: TimeRange[] = [];
    for (const { from, to } of all) {
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

  /** Takes out everything, cut into whole steps of at most so many each. */
  take(stepMs: number, stepsMax: number): TimeRange[] {
    const pieces: TimeRange[] = [];
    for (const { from, to } of this.#ranges) {
      const end = Math.ceil(to / stepMs) * stepMs;
      for (let start = Math.floor(from / stepMs) * stepMs; start < end; start += stepMs * stepsMax)
        pieces.push({ from: start, to: Math.min(start + stepMs * stepsMax, end) });
    }
    this.#ranges = [];
    return pieces;
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

/** Fills the roll-ups once a minute for what was written since. */
export class Rollups {
  readonly #settings: AdminSettings;
  readonly #telemetry: Telemetry;
  readonly #clock: Clock;
  readonly #pending = new Map(rollups.map((rollup) => [rollup, new Ranges(rollupRangesMax)]));

  constructor(settings: AdminSettings, telemetry: Telemetry, clock: Clock) {
    this.#settings = settings;
    this.#telemetry = telemetry;
    this.#clock = clock;
    const now = clock.now_us() / 1000;
    // What the collector before this one had written and not rolled up.
    this.written(now - rollupRecentMilliseconds, now);
  }

  /** Rows of this range were written. */
  written(from: number, to: number): void {
    for (const ranges of this.#pending.values()) ranges.add({ from, to: to + 1 });
  }

  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      await this.#clock.sleep(rollupMilliseconds, signal).catch(() => undefined);
      if (!signal.aborted) await this.fill(signal);
    }
  }

  /** Fills what is pending now; what fails is tried the next time. */
  async fill(signal: AbortSignal): Promise<void> {
    const begin_ms = this.#clock.monotonic_ms();
    let statements = 0;
    for (const [rollup, ranges] of this.#pending)
      for (const range of ranges.take(rollup.stepMs, rollupStepsMax[rollup.suffix]))
        for (const table of catalog) {
          if (signal.aborted) return;
          try {
            await execute(this.#settings, rollupStatement(table, rollup, range), rollupMilliseconds);
            statements++;
          } catch (cause) {
            this.#telemetry.rollupFailed(`${table.name}_${rollup.suffix}`, cause);
            ranges.add(range);
            // The store is away: the others would fail the same way.
            return;
          }
        }
    this.#telemetry.rolledUp(statements, (this.#clock.monotonic_ms() - begin_ms) / 1000);
  }
}
