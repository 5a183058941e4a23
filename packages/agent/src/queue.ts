/** A frame on its way to the log. Its state is the queue's. */
export type QueuedFrame = {
  readonly sequence: number;
  /** When it was sampled: UTC, microseconds since 1970. */
  readonly time_us: number;
  readonly bytes: Uint8Array;
  /** Monotonic milliseconds. */
  readonly queuedAt_ms: number;
  state: 'waiting' | 'taken' | 'acknowledged' | 'given up';
  /** Monotonic milliseconds at which it was sent last; undefined before the first time. */
  sentAt_ms: number | undefined;
  /** Whether it is on disk, too. */
  spooled: 'no' | 'writing' | 'yes';
  /** Monotonic milliseconds of the newest acknowledgement; undefined before the first. */
  acknowledgedAt_ms: number | undefined;
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
  /** No frame before this place waits: a long backlog is not searched from its beginning for each frame. */
  #searchFrom = 0;

  constructor(bounds: QueueBounds) {
    this.#bounds = bounds;
  }

  /** Frames that the log has not acknowledged, their bytes, and when the oldest was made. */
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

  /** Adds a frame; returns those neither acknowledged nor on their way to the disk that had to go, and for which bound. */
  append(
    sequence: number,
    time_us: number,
    bytes: Uint8Array,
    now_ms: number,
  ): { dropped: QueuedFrame[]; bound: 'frames' | 'bytes' } {
    this.#frames.push({
      sequence,
      time_us,
      bytes,
      queuedAt_ms: now_ms,
      state: 'waiting',
      sentAt_ms: undefined,
      spooled: 'no',
      acknowledgedAt_ms: undefined,
    });
    this.#bytes += bytes.length;
    const dropped: QueuedFrame[] = [];
    let bound: 'frames' | 'bytes' = 'frames';
    while (this.#frames.length > 1) {
      if (this.#frames.length > this.#bounds.frames) bound = 'frames';
      else if (this.#bytes > this.#bounds.bytes) bound = 'bytes';
      else break;
      const [oldest] = this.#removeFirst(1);
      if (oldest === undefined || oldest.acknowledgedAt_ms !== undefined) continue;
      oldest.state = 'given up';
      if (oldest.spooled === 'no') dropped.push(oldest);
    }
    return { dropped, bound };
  }

  /** The oldest frame that is to be sent: it counts as under way until it is acknowledged or put back. */
  take(now_ms: number): QueuedFrame | undefined {
    while (this.#searchFrom < this.#frames.length) {
      const frame = this.#frames[this.#searchFrom++];
      // One that was never sent, and is on its way to the disk, is sent from there.
      if (frame?.state !== 'waiting' || (frame.sentAt_ms === undefined && frame.spooled !== 'no')) continue;
      frame.state = 'taken';
      frame.sentAt_ms = now_ms;
      return frame;
    }
    return undefined;
  }

  /** The log has a frame; true when this is new of it, and it was not given up meanwhile. */
  acknowledge(frame: QueuedFrame, now_ms: number): boolean {
    if (frame.state === 'given up') return false;
    const isFirst = frame.acknowledgedAt_ms === undefined;
    frame.state = 'acknowledged';
    frame.acknowledgedAt_ms = now_ms;
    return isFirst;
  }

  /** A frame did not arrive: it is to be sent again. */
  putBack(frame: QueuedFrame): void {
    if (frame.state !== 'taken') return;
    frame.state = 'waiting';
    this.#searchFrom = 0;
  }

  /** Whether a frame waits for its acknowledgement that was made, or sent, before this time. */
  isOverdue(before_ms: number): boolean {
    return this.#frames.some(
      ({ state, sentAt_ms, queuedAt_ms }) => state !== 'acknowledged' && (sentAt_ms ?? queuedAt_ms) < before_ms,
    );
  }

  /** Whether a frame that is on disk may arrive without it: it was sent, and not acknowledged yet. */
  get isAmbiguous(): boolean {
    return this.#frames.some(
      ({ state, sentAt_ms, spooled }) => spooled !== 'no' && sentAt_ms !== undefined && state !== 'acknowledged',
    );
  }

  /** The frames that the log has not acknowledged and that are not on disk: they count as on their way there. */
  toSpool(): QueuedFrame[] {
    const frames = this.#frames.filter(({ state, spooled }) => state !== 'acknowledged' && spooled === 'no');
    for (const frame of frames) frame.spooled = 'writing';
    return frames;
  }

  /** Frames that neither the log nor the disk has. */
  get unsaved(): number {
    return this.#frames.filter(({ state, spooled }) => state !== 'acknowledged' && spooled !== 'yes').length;
  }

  /** Frames are on disk: those that were never sent are sent from there. */
  spooled(frames: readonly QueuedFrame[]): void {
    for (const frame of frames) frame.spooled = 'yes';
    this.#keep(({ sentAt_ms, spooled }) => sentAt_ms !== undefined || spooled !== 'yes');
  }

  /** The disk did not take them. */
  notSpooled(frames: readonly QueuedFrame[]): void {
    for (const frame of frames) frame.spooled = 'no';
    this.#searchFrom = 0;
  }

  /** Everything that is still here is to be sent again: the server may have lost what it had not synced. */
  putAllBack(): void {
    for (const frame of this.#frames) frame.state = 'waiting';
    this.#searchFrom = 0;
  }

  /** Forgets what was acknowledged before this time, as far as nothing older waits. */
  forget(before_ms: number): void {
    const kept = this.#frames.findIndex(
      ({ state, acknowledgedAt_ms }) => state !== 'acknowledged' || (acknowledgedAt_ms ?? before_ms) >= before_ms,
    );
    this.#removeFirst(kept < 0 ? this.#frames.length : kept);
  }

  /** Forgets everything; returns how many frames that was. */
  clear(): number {
    return this.#removeFirst(this.#frames.length).length;
  }

  #keep(isKept: (frame: QueuedFrame) => boolean): void {
    this.#frames = this.#frames.filter(isKept);
    this.#bytes = this.#frames.reduce((sum, { bytes }) => sum + bytes.length, 0);
    this.#searchFrom = 0;
  }

  #removeFirst(count: number): QueuedFrame[] {
    const removed = this.#frames.splice(0, count);
    for (const { bytes } of removed) this.#bytes -= bytes.length;
    this.#searchFrom = Math.max(0, this.#searchFrom - count);
    return removed;
  }
}
