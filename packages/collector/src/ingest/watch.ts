// Says when a bound of the log removed messages that no collector had stored.
import { anySubject } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { watchMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { consumerName, streamName } from '#log/stream.ts';
import type { AdminSettings } from '#store/admin.ts';
import { type LogLoss, noteLogLoss } from '#store/log_loss.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

export type BoundsParts = {
  log: Log;
  store: string;
  settings: AdminSettings;
  telemetry: Telemetry;
  clock: Clock;
};

/** Compares the log's first message with the last that was acknowledged; what was lost between them is counted, and told to the store. */
export class Bounds {
  readonly #parts: BoundsParts;
  #counted = 0;
  /** How many messages of this store were in the log and not stored at the look before. */
  #unstored = Number.POSITIVE_INFINITY;
  /** When the log got its first message at the look before, UTC in microseconds: what was removed since came later. */
  #begin_us: number | undefined;
  /** What is being lost, or was and the store has not been told yet. */
  #loss: LogLoss | undefined;
  #isTold = true;

  constructor(parts: BoundsParts) {
    this.#parts = parts;
  }

  /** Looks once. The first look is before anything is read: then it shows what was lost while no collector ran. */
  async look(): Promise<void> {
    const { log, store, telemetry, clock } = this.#parts;
    const { ack_floor, num_pending, num_ack_pending } = await log.manager.consumers.info(
      streamName,
      consumerName(store),
    );
    const { state } = await log.manager.streams.info(streamName, { subjects_filter: anySubject('dead') });
    telemetry.deadLettersKept(Object.values(state.subjects ?? {}).reduce((sum, count) => sum + count, 0));
    telemetry.pending(num_pending + num_ack_pending);
    // Of what was removed behind the oldest message that waited, some was stored: no more than what waited was lost. Sequences
    // are never used again.
    const removed = state.first_seq - 1 - Math.max(ack_floor.stream_seq, this.#counted);
    const lost = Math.min(removed, this.#unstored);
    const begin_us = state.messages === 0 ? clock.now_us() : Date.parse(state.first_ts) * 1000;
    if (lost > 0) {
      telemetry.overtaken(lost);
      // What goes on is one loss that grows.
      const { from_us, messages } = this.#loss ?? { from_us: this.#begin_us, messages: 0 };
      // A time of the log is finer than a millisecond.
      this.#loss = { from_us, to_us: begin_us + 1000, messages: messages + lost };
      this.#isTold = false;
    } else if (this.#isTold) this.#loss = undefined;
    this.#begin_us = begin_us;
    this.#counted = Math.max(this.#counted, state.first_seq - 1);
    this.#unstored = num_pending + num_ack_pending;
  }

  /** Looks until the signal. */
  async run(signal: AbortSignal): Promise<void> {
    const { telemetry, clock } = this.#parts;
    while (!signal.aborted) {
      try {
        await this.look();
        await this.#tell();
      } catch (cause) {
        telemetry.log.debug(
          { reason: sentence(cause) },
          'the bounds of the log could not be read, or what they lost not be told',
        );
      }
      await clock.sleep(watchMilliseconds, signal).catch(() => undefined);
    }
  }

  async #tell(): Promise<void> {
    const loss = this.#loss;
    if (loss === undefined || this.#isTold) return;
    this.#loss = { ...loss, from_us: await noteLogLoss(this.#parts.settings, loss) };
    this.#isTold = true;
  }
}
