// The door of the room: replays and cursors, as many as a tenant may have.
import { ApiError } from '@fleetreel/proto/errors';
import { replaySessionsMax } from '#limits.ts';
import { type Followed, type FollowQuestion, follow } from '#replay/follow.ts';
import { Player, type PlayerOptions, type Reader } from '#replay/player.ts';
import { Source, type SourceParts, type SourceQuestion } from '#replay/source.ts';
import type { Telemetry } from '#telemetry.ts';

export class Replays {
  readonly #parts: SourceParts & { telemetry: Telemetry };
  /** How many each tenant has open. */
  readonly #open = new Map<string, number>();

  constructor(parts: SourceParts & { telemetry: Telemetry }) {
    this.#parts = parts;
  }

  /** Replays and cursors that are open. */
  get size(): number {
    return [...this.#open.values()].reduce((sum, count) => sum + count, 0);
  }

  /**
   * Opens a replay; it holds one of the places until it is disposed of.
   * @throws ApiError
   */
  async open(question: SourceQuestion, reader: Reader, options: PlayerOptions): Promise<Player & Disposable> {
    const release = this.#take('replay', question.tenant);
    try {
      const source = await Source.open(this.#parts, question);
      const player = new Player(source, reader, options, this.#parts.clock, this.#parts.telemetry);
      return Object.assign(player, { [Symbol.dispose]: release });
    } catch (cause) {
      release();
      throw cause;
    }
  }

  /** @throws ApiError, and the signal's reason when it is aborted */
  async *follow(question: FollowQuestion, signal: AbortSignal): AsyncGenerator<Followed> {
    const release = this.#take('cursor', question.tenant);
    try {
      for await (const part of follow(this.#parts, question, signal)) {
        this.#parts.telemetry.replayed(part.frames.length);
        yield part;
      }
    } finally {
      release();
    }
  }

  #take(kind: 'replay' | 'cursor', tenant: string): () => void {
    const count = this.#open.get(tenant) ?? 0;
    if (count >= replaySessionsMax)
      throw new ApiError('too_many_replays', { most: replaySessionsMax, what: 'open replays and cursors' });
    this.#open.set(tenant, count + 1);
    const ended = this.#parts.telemetry.replaying(kind);
    let isHeld = true;
    return () => {
      if (!isHeld) return;
      isHeld = false;
      const left = (this.#open.get(tenant) ?? 0) - 1;
      if (left > 0) this.#open.set(tenant, left);
      else this.#open.delete(tenant);
      ended();
    };
  }
}
