// Which table answers a question about history: the rows themselves, or a roll-up of them.
import { ApiError } from '@fleetreel/proto/errors';
import type { Aggregation } from '@fleetreel/proto/http';
import type { LabelFilter } from '#query/names.ts';
import { at, duration, type Range } from '#query/time.ts';
import { type Rollup, rollupAggregations, rollups } from '#store/sql.ts';

/** How long rows and roll-ups are kept, milliseconds. */
export type Retention = { raw: number; '1m': number; '1h': number };

/** Ranges up to this are read from the rows even where a roll-up could answer: a day of one host takes QuestDB 5 ms. */
const rowsRangeMax = 24 * 3_600_000;
/** The store drops whole days, so what is older than the retention by less may still be there. */
const graceMs = 86_400_000;

export type Question = {
  range: Range;
  stepMs: number;
  aggregation: Aggregation;
  labels: readonly LabelFilter[];
  /** Whether there are roll-ups of the table. */
  isRolledUp: boolean;
  now: number;
  retention: Retention;
};

/** The shortest step for which everything in the range is still kept. */
export function finestKept(from: number, now: number, retention: Retention): number {
  if (from >= now - retention.raw - graceMs) return 1;
  return from >= now - retention['1m'] - graceMs ? 60_000 : 3_600_000;
}

/**
 * The roll-up to read, or undefined for the rows.
 * @throws ApiError
 */
export function plan({ range, stepMs, aggregation, labels, isRolledUp, now, retention }: Question): Rollup | undefined {
  const kept = finestKept(range.from, now, retention);
  // Roll-ups keep the labels that identify a row, and no order or distribution within a step.
  const described = labels.find(({ label }) => !label.key);
  const needsRows = !isRolledUp || !rollupAggregations.includes(aggregation) || described !== undefined;
  if (kept === 1 && (needsRows || range.to - range.from <= rowsRangeMax)) return undefined;
  if (needsRows)
    throw new ApiError('raw_rows_gone', {
      parameter: described ? `label.${described.label.name}` : isRolledUp ? 'agg' : 'from',
      value: described ? `label.${described.label.name}` : isRolledUp ? aggregation : at(range.from),
      from: at(range.from),
      kept: at(now - retention.raw),
    });
  const usable = rollups.filter((rollup) => stepMs % rollup.stepMs === 0 && rollup.stepMs >= kept);
  if (usable.length === 0 && kept === 1) return undefined;
  if (usable.length === 0)
    throw new ApiError('step_too_fine', {
      parameter: 'step',
      value: duration(stepMs),
      kept: at(now - (kept === 60_000 ? retention.raw : retention['1m'])),
      nearest: duration(kept),
    });
  return usable.at(-1);
}
