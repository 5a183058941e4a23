// A source and a pace: what one reader is sent, and how it controls that.

import { moveFrame } from '@fleetreel/proto/bytes';
import { ApiError } from '@fleetreel/proto/errors';
import type { ReelFrame } from '@fleetreel/reel/format';
import { Pacer, type Speed } from '@fleetreel/reel/pacer';
import type { Clock } from '#clock.ts';
import { replayIdleMilliseconds, replayMessageBytes } from '#limits.ts';
import type { Source } from '#replay/source.ts';
import type { Telemetry } from '#telemetry.ts';

/** Where a replay stands; `time_us` is of the recording. */
export type Mark = { kind: 'begin' | 'seek' | 'hole' | 'end'; time_us: number; detail: string };

/** Who is played to. A promise holds the replay until it is settled: nothing is left out, and nothing piles up. */
export type Reader = {
  frames(frames: readonly ReelFrame[]): Promise<void> | undefined;
  mark(mark: Mark): Promise<void> | undefined;
};

export type PlayerOptions = { speed: Speed; isPaused: boolean; shift: boolean };

export class Player {
  readonly source: Source;
  readonly pacer: Pacer;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #reader: Reader;
  readonly #shift: boolean;
  #pass = new AbortController();
  #seek_us: number | undefined;
  #heard = Promise.withResolvers<void>();
  #batch: ReelFrame[] = [];
  #batchBytes = 0;
  /** Commands so far. */
  #told = 0;
  #isAtEnd = false;
  /** What the end of the range is moved to, where times are moved and there is no pace. */
  #end_us: number | undefined;

  constructor(source: Source, reader: Reader, options: PlayerOptions, clock: Clock, telemetry: Telemetry) {
    this.source = source;
    this.pacer = new Pacer(clock, options.speed, options.isPaused);
    this.#reader = reader;
    this.#shift = options.shift;
    this.#clock = clock;
    this.#telemetry = telemetry;
  }

  pause(): void {
    this.pacer.pause();
    this.#hear();
  }

  resume(): void {
    this.pacer.resume();
    this.#hear();
  }

  /** @throws RangeError */
  setSpeed(speed: Speed): void {
    this.pacer.setSpeed(speed);
    this.#hear();
  }

  step(frames: number): void {
    this.pacer.step(frames);
    this.#hear();
  }

  /** Goes on from a time of the recording; before the range is its begin, after it its end. */
  seek(time_us: number): void {
    this.#seek_us = Math.min(Math.max(time_us, this.source.from_us), this.source.to_us);
    this.#pass.abort();
    this.#hear();
  }

  /**
   * Plays until the signal; at the end it waits for a seek as long as `goesOn` says.
   * @throws ApiError, and the signal's reason when it is aborted
   */
  async run(signal: AbortSignal, goesOn: () => boolean): Promise<void> {
    const ended = new AbortController();
    const idle = new AbortController();
    void this.#watchIdle(idle, AbortSignal.any([signal, ended.signal]));
    try {
      await this.#runAll(AbortSignal.any([signal, idle.signal]), goesOn);
    } finally {
      ended.abort();
    }
  }

  /** The reader has gone or ended its side: what waits for it looks again. */
  wake(): void {
    this.#hear();
  }

  async #runAll(signal: AbortSignal, goesOn: () => boolean): Promise<void> {
    const { from_us, to_us } = this.source;
    await this.#reader.mark({ kind: 'begin', time_us: from_us, detail: '' });
    for (let at_us = from_us; ; ) {
      this.#pass = new AbortController();
      try {
        await this.#play(at_us, AbortSignal.any([signal, this.#pass.signal]));
        await this.#reader.mark({ kind: 'end', time_us: to_us, detail: '' });
        this.#isAtEnd = true;
        while (this.#seek_us === undefined) {
          if (!goesOn()) return;
          await this.#word(signal);
        }
      } catch (cause) {
        signal.throwIfAborted();
        if (this.#seek_us === undefined) throw cause;
      }
      this.#isAtEnd = false;
      at_us = this.#seek_us;
      this.#seek_us = undefined;
      this.#batch = [];
      this.#batchBytes = 0;
      this.pacer.restart();
      await this.#reader.mark({ kind: 'seek', time_us: at_us, detail: '' });
    }
  }

  async #play(at_us: number, signal: AbortSignal): Promise<void> {
    for await (const part of this.source.frames(at_us, signal)) {
      if ('to_us' in part) {
        await this.#flush();
        const until = new Date(part.to_us / 1000).toISOString();
        const detail = `The log has removed what comes next, up to ${until}: it is rebuilt from the store.`;
        await this.#reader.mark({ kind: 'hole', time_us: part.to_us, detail });
        continue;
      }
      for (const frame of part) {
        signal.throwIfAborted();
        if (!this.pacer.take(frame.time_us)) {
          await this.#flush();
          await this.pacer.wait(frame.time_us, signal);
        }
        this.#batch.push(this.#shift ? this.#shifted(frame) : frame);
        this.#batchBytes += frame.bytes.length;
        if (this.#batchBytes >= replayMessageBytes) await this.#flush();
      }
    }
    await this.#flush();
  }

  /** Resolves when something was said; rejects with the signal's reason. */
  async #word(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { promise: gone, reject } = Promise.withResolvers<never>();
    const abort = () => reject(signal.reason as Error);
    signal.addEventListener('abort', abort, { once: true });
    try {
      await Promise.race([this.#heard.promise, gone]);
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  /** Ends a replay that stands still and is told nothing. */
  async #watchIdle(idle: AbortController, signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      const told = this.#told;
      await this.#clock.sleep(replayIdleMilliseconds, signal).catch(() => undefined);
      if (told === this.#told && (this.pacer.isPaused || this.#isAtEnd)) idle.abort(new ApiError('replay_idle'));
    }
  }

  async #flush(): Promise<void> {
    const frames = this.#batch;
    if (frames.length === 0) return;
    this.#batch = [];
    this.#batchBytes = 0;
    this.#telemetry.replayed(frames.length);
    await this.#reader.frames(frames);
  }

  /** At the pace: now. As fast as possible: with the end of the range at the time of the start. */
  #shifted(frame: ReelFrame): ReelFrame {
    this.#end_us ??= this.#clock.now_us();
    const time_us =
      this.pacer.speed === 'max' ? frame.time_us - this.source.to_us + this.#end_us : this.#clock.now_us();
    return { ...frame, time_us, bytes: moveFrame(frame.bytes, time_us) };
  }

  #hear(): void {
    this.#told++;
    this.#heard.resolve();
    this.#heard = Promise.withResolvers();
  }
}
