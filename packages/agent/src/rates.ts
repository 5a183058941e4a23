/**
 * How much a counter grew; NaN when either reading is absent, or when it went backwards: it was reset, or it wrapped.
 * One interval is given up then, since what it counted can't be known.
 */
export function increase(before: number, now: number): number {
  const difference = now - before;
  return difference >= 0 ? difference : Number.NaN;
}

/** Growth of a counter per second; NaN when it is not known, or no time has passed. */
export function rate(before: number, now: number, seconds: number): number {
  return seconds > 0 ? increase(before, now) / seconds : Number.NaN;
}

/** The share of one growth in another, in percent; NaN when the whole did not grow. */
export function percent(part: number, whole: number): number {
  return whole > 0 ? (part / whole) * 100 : Number.NaN;
}

/** The mean of something per event, as latency per operation; NaN when nothing happened. */
export function mean(sum: number, count: number): number {
  return count > 0 ? sum / count : Number.NaN;
}

const none: readonly number[] = [];

/**
 * The counters of a table's entities, kept from one sample to the next. An entity that is missing in a sample is
 * forgotten: when it comes back, it begins anew.
 */
export class CounterHistory {
  #now = new Map<string, readonly number[]>();
  #before = new Map<string, readonly number[]>();
  #at_ms = Number.NaN;

  /** Begins a sample taken at this monotonic time; returns the seconds since the one before, NaN at the first. */
  begin(monotonic_ms: number): number {
    const seconds = (monotonic_ms - this.#at_ms) / 1000;
    this.#at_ms = monotonic_ms;
    this.#before = this.#now;
    this.#now = new Map();
    return seconds;
  }

  /** Keeps an entity's counters, and returns those of the sample before: empty when there are none. */
  exchange(entity: string, counters: readonly number[]): readonly number[] {
    this.#now.set(entity, counters);
    return this.#before.get(entity) ?? none;
  }
}

/** The rates of one entity: reads a counter by its place, before and now. */
export class Rates {
  readonly #before: readonly number[];
  readonly #now: readonly number[];
  readonly #seconds: number;

  constructor(before: readonly number[], now: readonly number[], seconds: number) {
    this.#before = before;
    this.#now = now;
    this.#seconds = seconds;
  }

  /** Growth since the sample before. */
  increase(place: number): number {
    return increase(this.#before[place] ?? Number.NaN, this.#now[place] ?? Number.NaN);
  }

  /** Growth per second, times `scale`. */
  perSecond(place: number, scale = 1): number {
    return this.#seconds > 0 ? (this.increase(place) * scale) / this.#seconds : Number.NaN;
  }
}
