// How long things took: sums and counts of ranges, which can be added, subtracted and asked for a quantile.
import { mean } from '#rates.ts';

/** How many lay above `from` and not above `to`. */
export type Bucket = { from: number; to: number; count: number };

/** Sum and number of what was measured; the buckets are in their order, and none at all where only the mean is known. */
export type Distribution = { sum: number; count: number; buckets: readonly Bucket[] };

export const nothing: Distribution = { sum: 0, count: 0, buckets: [] };

/** What was added since `before`; undefined where it was reset in between. */
export function growthOf(before: Distribution, now: Distribution): Distribution | undefined {
  const earlier = new Map(before.buckets.map(({ to, count }) => [to, count]));
  const buckets: Bucket[] = [];
  for (const { from, to, count } of now.buckets) {
    const more = count - (earlier.get(to) ?? 0);
    if (more < 0) return undefined;
    if (more > 0) buckets.push({ from, to, count: more });
  }
  const count = now.count - before.count;
  const sum = now.sum - before.sum;
  return count >= 0 && sum >= 0 ? { sum, count, buckets } : undefined;
}

/** Both together. */
export function together(one: Distribution, other: Distribution): Distribution {
  const all = new Map(one.buckets.map((bucket) => [bucket.to, bucket]));
  for (const bucket of other.buckets) {
    const same = all.get(bucket.to);
    all.set(bucket.to, same ? { ...same, count: same.count + bucket.count } : bucket);
  }
  const buckets = [...all.values()].sort((a, b) => a.to - b.to);
  return { sum: one.sum + other.sum, count: one.count + other.count, buckets };
}

/** NaN without anything measured. */
export const meanOf = (distribution: Distribution | undefined): number =>
  distribution ? mean(distribution.sum, distribution.count) : Number.NaN;

/**
 * The value that this share stayed within: straight between the ends of its bucket, as Prometheus does it; of a bucket
 * without an upper end, the lower one. NaN without buckets.
 */
export function quantileOf(distribution: Distribution | undefined, share: number): number {
  const buckets = distribution?.buckets ?? [];
  const all = buckets.reduce((sum, { count }) => sum + count, 0);
  if (all === 0) return Number.NaN;
  let below = 0;
  for (const { from, to, count } of buckets) {
    if (below + count >= all * share && count > 0)
      return to === Number.POSITIVE_INFINITY ? from : from + ((to - from) * (all * share - below)) / count;
    below += count;
  }
  return buckets.at(-1)?.to ?? Number.NaN;
}

/** Each bucket of a sketch ends so much above the one before: quantiles are right to 1 %. */
const step = 1.02;
const logStep = Math.log(step);
/** The first bucket holds all up to a microsecond, the last all from about a day: the number of buckets is bounded. */
const least_s = 1e-6;
const lastIndex = Math.ceil(Math.log(100_000 / least_s) / logStep);

/** The upper end of a bucket: five digits are enough, and short where they are written. */
const endOf = (index: number): number => Number((least_s * step ** index).toPrecision(5));

/** Gathers single durations in seconds. */
export class Sketch {
  readonly #counts = new Map<number, number>();
  #sum = 0;
  #count = 0;

  add(seconds: number): void {
    const index = seconds <= least_s ? 0 : Math.min(Math.ceil(Math.log(seconds / least_s) / logStep), lastIndex);
    this.#counts.set(index, (this.#counts.get(index) ?? 0) + 1);
    this.#sum += seconds;
    this.#count++;
  }

  /** Everything so far. */
  get distribution(): Distribution {
    const buckets = [...this.#counts]
      .sort(([a], [b]) => a - b)
      .map(([index, count]) => ({
        from: index === 0 ? 0 : endOf(index - 1),
        to: endOf(index),
        count,
      }));
    return { sum: this.#sum, count: this.#count, buckets };
  }
}
