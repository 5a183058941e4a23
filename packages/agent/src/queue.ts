/** A frame on its way to the log. */
export type QueuedFrame = {
  readonly sequence: number;
  readonly bytes: Uint8Array;
  /** Monotonic milliseconds. */
  readonly queuedAt_ms: number;
  state: 'waiting' | 'sent' | 'acknowledged';
  /** Monotonic milliseconds; set with the state. */
  acknowledgedAt_ms: number;
};

export type QueueBounds = { frames: number; bytes: number };

/**
 * Frames from their making until some time after the log has acknowledged them, oldest first, in memory. When a bound is
 * hit the oldest are given up.
 */
export class Queue {
  readonly #bounds: QueueBounds;
  #frames: QueuedFrame[] = [];
  #bytes = 0;

  constructor(bounds: QueueBounds) {
    this.#bounds = bounds;
  }

  /** Frames that the log has not acknowledged. */
  get waiting(): { frames: number; bytes: number; oldest_ms: number | undefined } {
    let frames = 0;
    let bytes = 0;
    let oldest_ms: number | undefined;
    for (const frame of this.#frames) {
      if (frame.state === 'acknowledged') continue;
      frames++;
      bytes += frame.bytes.length;
      oldest_ms ??= frame.queuedAt_ms;
    }
    return { frames, bytes, oldest_ms };
  }

  /** Adds a frame; returns how many unacknowledged ones had to go, and for which bound. */
  append(sequence: number, bytes: Uint8Array, now_ms: number): { dropped: number; bound: 'frames' | 'bytes' } {
    this.#frames.push({ sequence, bytes, queuedAt_ms: now_ms, state: 'waiting', acknowledgedAt_ms: 0 });
    this.#bytes += bytes.length;
    let dropped = 0;
    let bound: 'frames' | 'bytes' = 'frames';
    while (this.#frames.length > 1) {
      if (this.#frames.length > this.#bounds.frames) bound = 'frames';
      else if (this.#bytes > this.#bounds.bytes) bound = 'bytes';
      else break;
      const oldest = this.#frames.shift();
      if (!oldest) break;
      this.#bytes -= oldest.bytes.length;
      if (oldest.state !== 'acknowledged') dropped++;
    }
    return { dropped, bound };
  }

  /** The oldest frame that is to be sent. */
  nextWaiting(): QueuedFrame | undefined {
    return this.#frames.find(({ state }) => state === 'waiting');
  }

  /** Forgets what was acknowledged before this time. */
  forget(before_ms: number): void {
    let count = 0;
    for (const frame of this.#frames) {
      if (frame.state !== 'acknowledged' || frame.acknowledgedAt_ms >= before_ms) break;
      this.#bytes -= frame.bytes.length;
      count++;
    }
    if (count > 0) this.#frames.splice(0, count);
  }

  /** Everything that is still here is to be sent again: the server may have lost what it had not synced. */
  resend(): void {
    for (const frame of this.#frames) frame.state = 'waiting';
  }
}
