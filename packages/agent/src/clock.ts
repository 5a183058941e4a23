import { setTimeout } from 'node:timers/promises';

/** Time as a value, so that a test can move it. */
export interface Clock {
  /** UTC, microseconds since 1970. */
  now_us(): number;
  /** Milliseconds from an arbitrary start, never set back: what durations and rates are computed from. */
  monotonic_ms(): number;
  /** Resolves after so many milliseconds; rejects with the signal's reason when it is aborted. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
}

/** The machine's clocks. */
export const systemClock: Clock = {
  now_us: () => Date.now() * 1000,
  monotonic_ms: () => performance.now(),
  sleep: (milliseconds, signal) => setTimeout(milliseconds, undefined, signal ? { signal } : {}),
};

/**
 * Times of the frames of one session: no two alike. A clock that was set back shows times again at which there are frames already,
 * whose rows the new ones would replace. They differ by microseconds, which the clock does not show.
 */
export class FrameTimes {
  #shown_us = Number.NEGATIVE_INFINITY;
  #more_us = 0;

  /** @param now_us what the clock shows, in whole milliseconds */
  next(now_us: number): number {
    // After a thousand times nothing of then is near.
    if (now_us <= this.#shown_us) this.#more_us = (this.#more_us + 1) % 1000;
    this.#shown_us = now_us;
    return now_us + this.#more_us;
  }
}
