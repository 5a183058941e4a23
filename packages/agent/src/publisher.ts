import { frameBytesMax, messageId } from '@fleetreel/proto';
import { type JetStreamClient, jetstream } from '@nats-io/jetstream';
import { errors, type NatsConnection } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import {
  acknowledgeMilliseconds,
  keepAcknowledgedMilliseconds,
  publishAgainMilliseconds,
  publishWindowFrames,
} from '#limits.ts';
import { Losses } from '#loss.ts';
import { Queue, type QueueBounds, type QueuedFrame } from '#queue.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/**
 * Brings frames to the log: at least once, oldest first, so many at a time. A frame is forgotten some seconds after its
 * acknowledgement; until then it is sent again after the connection was lost, and the log drops what it had.
 * Before there is a connection, frames are kept.
 */
export class Publisher {
  #client: JetStreamClient | undefined;
  readonly #subject: string;
  readonly #session: string;
  readonly #queue: Queue;
  /** What had to be given up: for the frames that are still to come. */
  readonly losses = new Losses();
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #stopping = new AbortController();
  /** Counts connections: an acknowledgement for an earlier one says nothing about what is sent again. */
  #connectionNumber = 0;
  #inFlight = 0;
  #connected = false;
  #failing = false;
  #pause_ms: number = publishAgainMilliseconds.min;
  #pausing = false;
  #idle = Promise.withResolvers<void>();

  constructor(options: {
    subject: string;
    session: string;
    bounds: QueueBounds;
    clock: Clock;
    telemetry: Telemetry;
  }) {
    this.#subject = options.subject;
    this.#session = options.session;
    this.#queue = new Queue(options.bounds);
    this.#clock = options.clock;
    this.#telemetry = options.telemetry;
  }

  /** Frames that the log has not acknowledged, their bytes, and the age of the oldest. */
  get waiting(): { frames: number; bytes: number; age_ms: number } {
    const { frames, bytes, oldest_ms } = this.#queue.waiting;
    return { frames, bytes, age_ms: oldest_ms === undefined ? 0 : this.#clock.monotonic_ms() - oldest_ms };
  }

  /** Begins to send over this connection. */
  open(connection: NatsConnection): void {
    this.#client = jetstream(connection, { timeout: acknowledgeMilliseconds });
    this.reconnected();
  }

  /** Takes a frame, sampled at a time (UTC, microseconds since 1970); it is sent as soon as the window and the connection allow. */
  publish(sequence: number, time_us: number, bytes: Uint8Array): void {
    if (bytes.length > frameBytesMax) {
      this.#telemetry.frameTooLarge(bytes.length, frameBytesMax);
      this.losses.add(this.#session, 'too_large', sequence, sequence, time_us, time_us);
      return;
    }
    const now_ms = this.#clock.monotonic_ms();
    this.#queue.forget(now_ms - keepAcknowledgedMilliseconds);
    const { dropped, bound } = this.#queue.append(sequence, time_us, bytes, now_ms);
    if (dropped.length > 0) this.#telemetry.framesGivenUp(dropped.length, bound);
    for (const frame of dropped)
      this.losses.add(this.#session, 'queue', frame.sequence, frame.sequence, frame.time_us, frame.time_us);
    this.#pump();
  }

  /** Forgets what was never sent; returns how many frames that was. */
  discard(): number {
    this.losses.forget(this.#session);
    return this.#queue.clear();
  }

  /** The connection is gone: what is under way is not waited for. */
  disconnected(): void {
    this.#connected = false;
  }

  /** There is a connection again: what was not forgotten is sent again. */
  reconnected(): void {
    this.#connected = true;
    this.#connectionNumber++;
    this.#inFlight = 0;
    this.#queue.forget(this.#clock.monotonic_ms() - keepAcknowledgedMilliseconds);
    this.#queue.putAllBack();
    this.#pump();
  }

  /**
   * Waits until everything is acknowledged or the time is over, and sends nothing from then on; returns how many frames
   * were left. What was never connected has nobody to wait for.
   */
  async stop(limit_ms: number): Promise<number> {
    this.#idle = Promise.withResolvers();
    const limit = new AbortController();
    if (this.#client && limit_ms > 0 && this.#queue.waiting.frames > 0)
      await Promise.race([this.#idle.promise, this.#clock.sleep(limit_ms, limit.signal).catch(() => undefined)]);
    limit.abort();
    this.#stopping.abort();
    return this.#queue.waiting.frames;
  }

  #pump(): void {
    const client = this.#client;
    while (client && this.#connected && !this.#pausing && this.#inFlight < publishWindowFrames) {
      if (this.#stopping.signal.aborted) return;
      const frame = this.#queue.take();
      if (!frame) return;
      this.#inFlight++;
      void this.#send(client, frame, this.#connectionNumber);
      // While the log takes nothing, one frame finds out when it does again.
      if (this.#failing) return;
    }
  }

  async #send(client: JetStreamClient, frame: QueuedFrame, connectionNumber: number): Promise<void> {
    const begin_ms = this.#clock.monotonic_ms();
    let failure: unknown;
    try {
      await client.publish(this.#subject, frame.bytes, { msgID: messageId(this.#session, frame.sequence) });
    } catch (cause) {
      failure = cause;
    }
    // Another connection has begun since: the frame is already being sent again.
    if (connectionNumber !== this.#connectionNumber) return;
    this.#inFlight--;
    if (failure !== undefined) {
      this.#queue.putBack(frame);
      await this.#afterFailure(failure);
    } else {
      const now_ms = this.#clock.monotonic_ms();
      if (this.#queue.acknowledge(frame, now_ms)) this.#telemetry.framePublished(now_ms - begin_ms);
      this.losses.told(frame.sequence);
      this.#pause_ms = publishAgainMilliseconds.min;
      if (this.#failing) {
        this.#failing = false;
        this.#telemetry.publishHealed(this.#queue.waiting.frames);
      }
      if (this.#inFlight === 0 && this.#queue.waiting.frames === 0) this.#idle.resolve();
    }
    this.#pump();
  }

  /** No stream yet, no leader, a timeout: one pause for all that failed together, longer each time. */
  async #afterFailure(cause: unknown): Promise<void> {
    if (!this.#failing) {
      this.#failing = true;
      this.#telemetry.publishFailed(whyNotTaken(cause), this.#queue.waiting.frames);
    }
    if (this.#pausing || this.#stopping.signal.aborted) return;
    this.#pausing = true;
    await this.#clock.sleep(this.#pause_ms, this.#stopping.signal).catch(() => undefined);
    this.#pause_ms = Math.min(this.#pause_ms * 2, publishAgainMilliseconds.max);
    this.#pausing = false;
  }
}

/** The reason of a failure. That nobody answers is no fault of JetStream: no collector has made the stream yet. */
export function whyNotTaken(cause: unknown): string {
  const inner = cause instanceof Error ? cause.cause : undefined;
  if (inner instanceof errors.RequestError && inner.isNoResponders())
    return 'no stream takes this subject yet: a collector makes it when it starts';
  return sentence(cause);
}
