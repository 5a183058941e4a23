// What had to be given up: kept until a frame that tells of it has arrived.
import type { FrameLoss } from '@fleetreel/proto';
import { lossRowsMax } from '#limits.ts';

/** Why frames were given up; the table `frame_loss` says what each means. */
export type LossCause = 'spool_bytes' | 'spool_age' | 'queue' | 'disk' | 'corrupt' | 'too_large';

/** A run of frames of one session that were given up for one cause. */
type Loss = {
  readonly session: string;
  readonly cause: LossCause;
  readonly first: number;
  readonly first_us: number;
  last: number;
  last_us: number;
  /** Number of the first frame of our own session that tells of it as it is now; undefined before there is one. */
  toldBy: number | undefined;
};

/** Frames given up that the collector has not learned of yet. */
export class Losses {
  #losses: Loss[] = [];

  /** Frames with these numbers, sampled from one time to another (UTC, microseconds since 1970), will never arrive. */
  add(session: string, cause: LossCause, first: number, last: number, first_us: number, last_us: number): void {
    const before = this.#losses.findLast((loss) => loss.session === session && loss.cause === cause);
    // When there are too many, runs become one: which of its frames are there after all, the collector sees.
    const full = this.#losses.length >= lossRowsMax;
    if (before && first > before.last && (full || first === before.last + 1)) {
      before.last = last;
      before.last_us = last_us;
      before.toldBy = undefined;
      return;
    }
    if (full) this.#losses.shift();
    this.#losses.push({ session, cause, first, first_us, last, last_us, toldBy: undefined });
  }

  /** What the frame with this number tells; undefined when there is nothing to tell. */
  rows(sequence: number): FrameLoss | undefined {
    if (this.#losses.length === 0) return undefined;
    for (const loss of this.#losses) loss.toldBy ??= sequence;
    return {
      timestamp_seconds: this.#losses.map(({ first_us }) => first_us / 1e6),
      frame_session: this.#losses.map(({ session }) => session),
      cause: this.#losses.map(({ cause }) => cause),
      first_sequence: this.#losses.map(({ first }) => first),
      last_sequence: this.#losses.map(({ last }) => last),
      last_timestamp_seconds: this.#losses.map(({ last_us }) => last_us / 1e6),
    };
  }

  /** The log has the frame with this number of our own session: what it told is known. */
  told(sequence: number): void {
    if (this.#losses.length === 0) return;
    this.#losses = this.#losses.filter(({ toldBy }) => toldBy === undefined || toldBy > sequence);
  }

  /** Frames of this session never were: their numbers are given anew. */
  forget(session: string): void {
    this.#losses = this.#losses.filter((loss) => loss.session !== session);
    for (const loss of this.#losses) loss.toldBy = undefined;
  }
}
