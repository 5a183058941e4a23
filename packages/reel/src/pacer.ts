/** What a pacer needs of time. */
export interface PaceClock {
  /** Milliseconds from an arbitrary start, never set back. */
  monotonic_ms(): number;
  /** Resolves after so many milliseconds; rejects with the signal's reason when it is aborted. */
  sleep(milliseconds: number, signal?: AbortSignal): Promise<void>;
}

/** Times the original pace, or as fast as it is taken. */
export type Speed = number | 'max';
export const speedRange = { min: 0.1, max: 1000 } as const;

/** A reader that was this late is not made up for: what waited would come in a burst. */
const lateMillisecondsMax = 1000;
/** The longest that a timer takes, milliseconds. */
const timerMillisecondsMax = 2 ** 31 - 1;

/**
 * When frames are due. Each is scheduled from one fixed moment, so that errors don't add up; a change of speed, a pause or a reader
 * that was a second late begins anew from where it stands.
 */
export class Pacer {
  readonly #clock: PaceClock;
  #speed: Speed;
  #paused: boolean;
  #steps = 0;
  /** A time of the recording, and when it was due: monotonic milliseconds. */
  #anchor: { time_us: number; at_ms: number } | undefined;
  #changed = Promise.withResolvers<void>();

  constructor(clock: PaceClock, speed: Speed, isPaused = false) {
    this.#clock = clock;
    this.#speed = checked(speed);
    this.#paused = isPaused;
  }

  get speed(): Speed {
    return this.#speed;
  }

  get isPaused(): boolean {
    return this.#paused;
  }

  /** Where the recording stands, UTC in microseconds; undefined before the first frame. */
  get position_us(): number | undefined {
    if (this.#anchor === undefined) return undefined;
    const { time_us, at_ms } = this.#anchor;
    if (this.#paused || this.#speed === 'max') return time_us;
    return time_us + (this.#clock.monotonic_ms() - at_ms) * 1000 * this.#speed;
  }

  /** @throws RangeError */
  setSpeed(speed: Speed): void {
    const wanted = checked(speed);
    this.#stand();
    this.#speed = wanted;
    this.#change();
  }

  pause(): void {
    if (this.#paused) return;
    this.#stand();
    this.#paused = true;
    this.#steps = 0;
    this.#change();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#stand();
    this.#paused = false;
    this.#change();
  }

  /** Lets so many frames pass while it is paused. */
  step(frames = 1): void {
    if (!this.#paused) return;
    this.#steps += frames;
    this.#change();
  }

  /** The next frame is due at once, whatever its time: after a seek. */
  restart(): void {
    this.#anchor = undefined;
    this.#change();
  }

  /** Whether a frame of this time is due now. */
  isDue(time_us: number): boolean {
    if (this.#paused) return this.#steps > 0;
    return this.#speed === 'max' || this.#anchor === undefined || this.#left_ms(time_us, this.#speed) <= 0;
  }

  /**
   * Resolves when a frame of this time is due. To be called once for each frame, in their order.
   * @throws the signal's reason when it is aborted
   */
  async wait(time_us: number, signal: AbortSignal): Promise<void> {
    for (;;) {
      // First: what was said together with the abort is meant for what comes after it.
      signal.throwIfAborted();
      if (this.take(time_us)) return;
      const left = this.#paused || this.#speed === 'max' ? Infinity : this.#left_ms(time_us, this.#speed);
      const changed = this.#changed.promise;
      const late = new AbortController();
      const either = AbortSignal.any([signal, late.signal]);
      try {
        await Promise.race([this.#clock.sleep(Math.min(Math.max(left, 0), timerMillisecondsMax), either), changed]);
      } finally {
        late.abort();
      }
    }
  }

  /** Takes a frame that is due; false where it has to wait. */
  take(time_us: number): boolean {
    if (!this.isDue(time_us)) return false;
    if (this.#paused) {
      this.#steps--;
      this.#anchor = { time_us, at_ms: this.#clock.monotonic_ms() };
    } else if (this.#speed === 'max') this.#anchor = { time_us, at_ms: 0 };
    else if (this.#anchor === undefined || this.#left_ms(time_us, this.#speed) < -lateMillisecondsMax)
      this.#anchor = { time_us, at_ms: this.#clock.monotonic_ms() };
    return true;
  }

  #left_ms(time_us: number, speed: number): number {
    const { time_us: begin_us, at_ms } = this.#anchor as { time_us: number; at_ms: number };
    return at_ms + (time_us - begin_us) / 1000 / speed - this.#clock.monotonic_ms();
  }

  /** From now on time is counted from where it stands. */
  #stand(): void {
    const time_us = this.position_us;
    if (time_us !== undefined) this.#anchor = { time_us, at_ms: this.#clock.monotonic_ms() };
  }

  #change(): void {
    this.#changed.resolve();
    this.#changed = Promise.withResolvers();
  }
}

function checked(speed: Speed): Speed {
  if (speed !== 'max' && !(speed >= speedRange.min && speed <= speedRange.max))
    throw new RangeError(`the speed is ${speed}: give ${speedRange.min} to ${speedRange.max}, or max`);
  return speed;
}
