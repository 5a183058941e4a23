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
