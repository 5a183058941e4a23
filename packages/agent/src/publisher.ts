import { createHash } from 'node:crypto';
import { frameBytesMax, messageId, subject } from '@fleetreel/proto';
import { batchFramesMax, encodeBatch } from '@fleetreel/proto/batch';
import { type JetStreamClient, jetstream } from '@nats-io/jetstream';
import { errors, type NatsConnection } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import {
  acknowledgeMilliseconds,
  drainAnswerMilliseconds,
  drainBatchBytes,
  drainBytesPerSecond,
  keepAcknowledgedMilliseconds,
  overdueMilliseconds,
  probeMilliseconds,
  publishAgainMilliseconds,
  publishWindowFrames,
  segmentQuietMilliseconds,
  stopSpoolMilliseconds,
} from '#limits.ts';
import { Losses } from '#loss.ts';
import { Queue, type QueueBounds, type QueuedFrame } from '#queue.ts';
import type { SpooledFrame } from '#segment.ts';
import { type Chunk, Spool, type SpoolBounds } from '#spool.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

export type PublisherOptions = {
  tenant: string;
  host: string;
  /** 16 hexadecimal digits, random for each start. */
  session: string;
  /** Of what is kept in memory. */
  queue: QueueBounds;
  /** Of what is kept on disk, and the folder, which is this host's alone. */
  spool: SpoolBounds & { folder: string };
  /** Frames are sent together at multiples of this; 0: each at once. */
  upload_interval_ms: number;
  clock: Clock;
  telemetry: Telemetry;
};

/**
 * Brings frames to the log, at least once. A frame is sent at once and forgotten some seconds after its acknowledgement; until
 * then it is sent again after the connection was lost, and the log drops what it had. What the log does not take goes to the
 * spool, and from there, oldest first and in batches, beside live frames.
 */
export class Publisher {
  /** What had to be given up: for the frames that are still to come. */
  readonly losses = new Losses();
  readonly #options: PublisherOptions;
  readonly #subjects: { frame: string; batch: string };
  readonly #queue: Queue;
  readonly #spool: Spool;
  readonly #stopping = new AbortController();
  /** Frames are sent together at multiples of this; 0: each at once. */
  #upload_interval_ms: number;
  /** Ends the wait for the next upload: the end, or another interval. */
  #uploading = new AbortController();
  #client: JetStreamClient | undefined;
  /** Counts connections: an acknowledgement for an earlier one says nothing about what is sent again. */
  #connectionNumber = 0;
  #inFlight = 0;
  #connected = false;
  #failing = false;
  #pause_ms: number = publishAgainMilliseconds.min;
  #probe_ms: number = probeMilliseconds;
  #pausing = false;
  #spooling = false;
  #watching = false;
  #draining = false;
  /** Something has come while the end of the spool was being reached. */
  #drainAgain = false;
  #drainBytes: number = drainBatchBytes.min;
  /** With an upload interval: the newest file of the spool that is to be sent now; undefined until its time has come. */
  #uploadTo: number | undefined;
  #idle = Promise.withResolvers<void>();

  constructor(options: PublisherOptions) {
    const { tenant, host, session, queue, spool, upload_interval_ms, clock, telemetry } = options;
    this.#options = options;
    this.#upload_interval_ms = upload_interval_ms;
    this.#subjects = {
      frame: subject({ tenant, host, kind: 'frame' }),
      batch: subject({ tenant, host, kind: 'batch' }),
    };
    this.#queue = new Queue(queue);
    const lost = this.losses.add.bind(this.losses);
    this.#spool = new Spool({ folder: spool.folder, session, bounds: spool, clock, telemetry, lost });
    void this.#look();
  }

  /** Frames in memory that the log has not acknowledged, their bytes, and the age of the oldest. */
  get waiting(): { frames: number; bytes: number; age_ms: number } {
    const { frames, bytes, oldest_ms } = this.#queue.waiting;
    return { frames, bytes, age_ms: oldest_ms === undefined ? 0 : this.#options.clock.monotonic_ms() - oldest_ms };
  }

  /** Frames on disk that the log has not acknowledged, the bytes of all files, and the age of the oldest frame. */
  get spooled(): { frames: number; bytes: number; age_ms: number } {
    const { frames, bytes, oldest_us } = this.#spool.state;
    return { frames, bytes, age_ms: oldest_us === undefined ? 0 : (this.#options.clock.now_us() - oldest_us) / 1000 };
  }

  /** Begins to send over this connection. */
  open(connection: NatsConnection): void {
    this.#client = jetstream(connection, { timeout: acknowledgeMilliseconds });
    this.reconnected();
    void this.#lookLater();
    void this.#upload();
  }

  /** Sends by another upload interval from now on; what waits is sent first. */
  setUploadInterval(upload_interval_ms: number): void {
    if (upload_interval_ms === this.#upload_interval_ms) return;
    const before_ms = this.#upload_interval_ms;
    this.#upload_interval_ms = upload_interval_ms;
    this.#uploading.abort();
    if (!this.#client) return;
    if (upload_interval_ms === 0) {
      this.#uploadTo = undefined;
      this.#pump();
      this.#wakeDrain();
    } else if (before_ms > 0) void this.#beginUpload();
    void this.#upload();
  }

  /** Takes a frame, sampled at a time (UTC, microseconds since 1970); it is sent as soon as the window and the connection allow. */
  publish(sequence: number, time_us: number, bytes: Uint8Array): void {
    const { session, clock, telemetry } = this.#options;
    if (bytes.length > frameBytesMax) {
      telemetry.frameTooLarge(bytes.length, frameBytesMax);
      this.losses.add(session, 'too_large', sequence, sequence, time_us, time_us);
      return;
    }
    const { dropped, bound } = this.#queue.append(sequence, time_us, bytes, clock.monotonic_ms());
    this.#giveUp(dropped, bound);
    if (this.#mustSpool()) this.#spoolAll();
    else this.#pump();
  }

  /** Forgets what was never sent; returns how many frames that was. */
  discard(): number {
    const frames = this.#queue.clear() + this.#spool.ownFrames;
    this.losses.forget(this.#options.session);
    void this.#spool.discard().catch((cause: unknown) => this.#spoolFailed(cause));
    return frames;
  }

  /** The connection is gone: what is under way is not waited for. */
  disconnected(): void {
    this.#connected = false;
    this.#spoolAll();
  }

  /** There is a connection again: what was not forgotten is sent again. */
  reconnected(): void {
    this.#connected = true;
    this.#connectionNumber++;
    this.#inFlight = 0;
    this.#queue.putAllBack();
    this.#spool.rewind();
    this.#pump();
    this.#wakeDrain();
  }

  /**
   * Waits until everything in memory is acknowledged or the time is over, and sends nothing from then on. What is left goes to
   * the spool; returns how many frames that did not, and are lost.
   */
  async stop(limit_ms: number): Promise<number> {
    const { clock, telemetry } = this.#options;
    this.#idle = Promise.withResolvers();
    const limit = new AbortController();
    if (this.#upload_interval_ms > 0) await this.#beginUpload();
    if (this.#client && this.#connected && limit_ms > 0 && !this.#isDone)
      await Promise.race([this.#idle.promise, clock.sleep(limit_ms, limit.signal).catch(() => undefined)]);
    limit.abort();
    this.#stopping.abort();
    this.#uploading.abort();
    await Promise.race([this.#leave(), clock.sleep(stopSpoolMilliseconds)]);
    const { frames } = this.#spool.state;
    if (frames > 0) telemetry.keptInSpool(frames);
    return this.#queue.unsaved;
  }

  /** Nothing waits that stopping would wait for. */
  get #isDone(): boolean {
    return this.#queue.waiting.frames === 0 && (this.#upload_interval_ms === 0 || this.#spool.isEmpty);
  }

  async #leave(): Promise<void> {
    try {
      await this.#writeToSpool();
      await this.#spool.close();
    } catch (cause) {
      this.#spoolFailed(cause);
    }
  }

  /** Whether frames can't go to the log at once. */
  #mustSpool(): boolean {
    const { clock } = this.#options;
    return (
      this.#upload_interval_ms > 0 ||
      !this.#client ||
      !this.#connected ||
      this.#failing ||
      this.#queue.isOverdue(clock.monotonic_ms() - overdueMilliseconds)
    );
  }

  /** Sends what may be sent; with an upload interval that is what the disk did not take. */
  #pump(): void {
    const { clock } = this.#options;
    const client = this.#client;
    while (client && this.#connected && !this.#pausing && this.#inFlight < publishWindowFrames) {
      if (this.#stopping.signal.aborted || (this.#upload_interval_ms > 0 && this.#uploadTo === undefined)) return;
      const frame = this.#queue.take(clock.monotonic_ms());
      if (!frame) return;
      this.#inFlight++;
      void this.#send(client, frame, this.#connectionNumber);
      // While the log takes nothing, one frame finds out when it does again.
      if (this.#failing) return;
    }
  }

  async #send(client: JetStreamClient, frame: QueuedFrame, connectionNumber: number): Promise<void> {
    const { session, clock, telemetry } = this.#options;
    void this.#watch();
    const begin_ms = clock.monotonic_ms();
    const timeout = this.#failing ? this.#probe_ms : acknowledgeMilliseconds;
    let failure: unknown;
    try {
      const msgID = messageId(session, frame.sequence);
      await client.publish(this.#subjects.frame, frame.bytes, { msgID, timeout });
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
      const now_ms = clock.monotonic_ms();
      if (this.#queue.acknowledge(frame, now_ms)) telemetry.framePublished(now_ms - begin_ms);
      if (frame.spooled === 'yes') this.#spool.arrived(frame.sequence);
      this.losses.told(frame.sequence);
      this.#answered(begin_ms);
    }
    this.#pump();
    this.#wakeDrain();
  }

  /** The log has taken what was sent at this time: it lived then, and has synced what it had acknowledged some seconds before. */
  #answered(begin_ms: number): void {
    this.#pause_ms = publishAgainMilliseconds.min;
    this.#probe_ms = probeMilliseconds;
    this.#queue.forget(begin_ms - keepAcknowledgedMilliseconds);
    this.#spool.forget(begin_ms - keepAcknowledgedMilliseconds);
    if (this.#failing) {
      this.#failing = false;
      this.#options.telemetry.publishHealed(this.#queue.waiting.frames + this.#spool.state.frames);
    }
    if (this.#inFlight === 0) this.#whenDone();
  }

  #whenDone(): void {
    if (!this.#isDone) return;
    this.#uploadTo = undefined;
    this.#idle.resolve();
  }

  /** No stream yet, no leader, a timeout: one pause for all that failed together, longer each time. */
  async #afterFailure(cause: unknown): Promise<void> {
    const { clock, telemetry } = this.#options;
    const isFirst = !this.#failing;
    if (isFirst) {
      this.#failing = true;
      telemetry.publishFailed(whyNotTaken(cause), this.#queue.waiting.frames);
    }
    this.#spoolAll();
    if (this.#pausing || this.#stopping.signal.aborted) return;
    this.#pausing = true;
    if (!isFirst) this.#probe_ms = Math.min(this.#probe_ms * 2, acknowledgeMilliseconds);
    await clock.sleep(this.#pause_ms, this.#stopping.signal).catch(() => undefined);
    this.#pause_ms = Math.min(this.#pause_ms * 2, publishAgainMilliseconds.max);
    this.#pausing = false;
  }

  /** Sees that what is not acknowledged for long goes to the spool: one timer for all that is under way. */
  async #watch(): Promise<void> {
    if (this.#watching) return;
    this.#watching = true;
    const { clock } = this.#options;
    while (this.#inFlight > 0 && !this.#stopping.signal.aborted) {
      await clock.sleep(overdueMilliseconds, this.#stopping.signal).catch(() => undefined);
      if (this.#queue.isOverdue(clock.monotonic_ms() - overdueMilliseconds)) this.#spoolAll();
    }
    this.#watching = false;
  }

  /** Begins to write what is only in memory; what comes meanwhile follows. */
  #spoolAll(): void {
    if (this.#spooling || this.#stopping.signal.aborted) return;
    this.#writeToSpool().catch((cause: unknown) => this.#spoolFailed(cause));
  }

  async #writeToSpool(): Promise<void> {
    this.#spooling = true;
    try {
      for (let frames = this.#queue.toSpool(); frames.length > 0; frames = this.#queue.toSpool()) {
        const written = await this.#spool.write(frames);
        const onDisk = frames.slice(0, written);
        this.#queue.spooled(onDisk);
        for (const { state, sequence } of onDisk) if (state === 'acknowledged') this.#spool.arrived(sequence);
        if (written === frames.length) continue;
        // They stay in memory, and the next frame comes with another attempt.
        const left = frames.slice(written);
        this.#queue.notSpooled(left);
        this.#giveUp(
          left.filter(({ state }) => state === 'given up'),
          'bytes',
        );
        return;
      }
    } finally {
      this.#spooling = false;
      this.#pump();
      this.#wakeDrain();
    }
  }

  #giveUp(frames: readonly QueuedFrame[], bound: 'frames' | 'bytes'): void {
    if (frames.length === 0) return;
    const cause = this.#spool.isFailing ? 'disk' : 'queue';
    this.#options.telemetry.framesGivenUp(frames.length, bound);
    for (const { sequence, time_us } of frames)
      this.losses.add(this.#options.session, cause, sequence, sequence, time_us, time_us);
  }

  #spoolFailed(cause: unknown): void {
    this.#options.telemetry.spoolFailed(this.#options.spool.folder, sentence(cause));
  }

  /** Finds what sessions before have left. */
  async #look(): Promise<void> {
    try {
      const before = this.#spool.state.frames;
      await this.#spool.look();
      const { frames, bytes } = this.#spool.state;
      if (frames > before) this.#options.telemetry.spoolFound(frames, bytes);
    } catch (cause) {
      this.#spoolFailed(cause);
    }
    this.#wakeDrain();
  }

  /** Once more when an agent that this one has displaced has ended. */
  async #lookLater(): Promise<void> {
    const { clock } = this.#options;
    for (const times of [1, 2]) {
      await clock.sleep(times * segmentQuietMilliseconds, this.#stopping.signal).catch(() => undefined);
      if (!this.#stopping.signal.aborted) await this.#look();
    }
  }

  /** Lets frames go at multiples of the upload interval, each host at a time of its own within it. */
  async #upload(): Promise<void> {
    const { host, clock } = this.#options;
    const upload_interval_ms = this.#upload_interval_ms;
    if (upload_interval_ms === 0 || this.#stopping.signal.aborted) return;
    this.#uploading = new AbortController();
    const { signal } = this.#uploading;
    const offset_ms = createHash('sha256').update(host).digest().readUInt32LE() % upload_interval_ms;
    while (!signal.aborted) {
      const now_ms = clock.now_us() / 1000;
      const next_ms = (Math.floor((now_ms - offset_ms) / upload_interval_ms) + 1) * upload_interval_ms + offset_ms;
      await clock.sleep(Math.ceil(next_ms - now_ms), signal).catch(() => undefined);
      if (!signal.aborted) await this.#beginUpload();
    }
  }

  /** What is there now is to be sent; what comes later is not. */
  async #beginUpload(): Promise<void> {
    try {
      await this.#writeToSpool();
      this.#uploadTo = await this.#spool.mark();
    } catch (cause) {
      this.#spoolFailed(cause);
      this.#uploadTo = 0;
    }
    this.#pump();
    this.#wakeDrain();
    this.#whenDone();
  }

  #mayDrain(): boolean {
    return (
      this.#client !== undefined &&
      this.#connected &&
      !this.#stopping.signal.aborted &&
      (this.#upload_interval_ms === 0 || this.#uploadTo !== undefined) &&
      // What is in memory and on disk is sent from memory: the log knows its message id.
      !this.#queue.isAmbiguous
    );
  }

  #wakeDrain(): void {
    if (this.#draining) this.#drainAgain = true;
    else if (this.#mayDrain() && !this.#spool.isEmpty) void this.#drain();
  }

  /** Sends what is in the spool, one batch at a time: live frames go beside it, and wait behind one at most. */
  async #drain(): Promise<void> {
    const { clock } = this.#options;
    this.#draining = true;
    this.#drainAgain = false;
    try {
      while (this.#mayDrain()) {
        const to = this.#upload_interval_ms > 0 ? this.#uploadTo : undefined;
        const chunk = await this.#spool.next(this.#batchBytes, batchFramesMax, to);
        if (!this.#mayDrain()) break;
        if (!chunk) {
          // What the disk did not take goes from memory.
          if (this.#queue.waiting.frames === 0) this.#uploadTo = undefined;
          break;
        }
        await this.#sendChunk(chunk);
      }
    } catch (cause) {
      this.#spoolFailed(cause);
      await clock.sleep(publishAgainMilliseconds.max, this.#stopping.signal).catch(() => undefined);
    } finally {
      this.#draining = false;
    }
    this.#whenDone();
    if (this.#drainAgain) this.#wakeDrain();
  }

  /** An upload is one batch, if it fits; a backlog is as many as leave room for live frames. */
  get #batchBytes(): number {
    return this.#upload_interval_ms > 0 ? drainBatchBytes.max : this.#drainBytes;
  }

  async #sendChunk(chunk: Chunk): Promise<void> {
    const { session, clock, telemetry } = this.#options;
    const client = this.#client as JetStreamClient;
    const connectionNumber = this.#connectionNumber;
    const { to, bytes, msgID, frames } = this.#message(chunk.frames);
    const begin_ms = clock.monotonic_ms();
    let failure: unknown;
    try {
      await client.publish(to, bytes, { msgID });
    } catch (cause) {
      failure = cause;
    }
    // Everything is being sent again.
    if (connectionNumber !== this.#connectionNumber) return;
    const took_ms = clock.monotonic_ms() - begin_ms;
    if (took_ms > drainAnswerMilliseconds.slow) this.#drainBytes = Math.max(this.#drainBytes / 2, drainBatchBytes.min);
    if (failure !== undefined) {
      await this.#afterFailure(failure);
      // Somebody else has begun the pause.
      if (this.#pausing) await clock.sleep(this.#pause_ms, this.#stopping.signal).catch(() => undefined);
      this.#pump();
      return;
    }
    if (took_ms < drainAnswerMilliseconds.quick) this.#drainBytes = Math.min(this.#drainBytes * 2, drainBatchBytes.max);
    telemetry.framesDrained(this.#spool.sent(chunk, frames.length));
    for (const frame of frames) if (frame.session === session) this.losses.told(frame.sequence);
    this.#answered(begin_ms);
    const size = frames.reduce((sum, frame) => sum + frame.bytes.length, 0);
    const pause_ms = Math.max(took_ms, (size / drainBytesPerSecond) * 1000);
    await clock.sleep(pause_ms, this.#stopping.signal).catch(() => undefined);
  }

  /** As many of these frames as fit into one message; the only one of a message is sent as it would have been. */
  #message(frames: readonly SpooledFrame[]): {
    to: string;
    bytes: Uint8Array;
    msgID: string;
    frames: readonly SpooledFrame[];
  } {
    for (let count = frames.length; count > 1; count = Math.ceil(count / 2)) {
      const some = frames.slice(0, count);
      const bytes = encodeBatch(some.map((frame) => frame.bytes));
      if (bytes.length > frameBytesMax) continue;
      const digest = createHash('sha256');
      for (const { session, sequence } of some) digest.update(`${messageId(session, sequence)} `);
      return { to: this.#subjects.batch, bytes, msgID: digest.digest('hex').slice(0, 32), frames: some };
    }
    const [frame] = frames as [SpooledFrame];
    const { session, sequence, bytes } = frame;
    return { to: this.#subjects.frame, bytes, msgID: messageId(session, sequence), frames: [frame] };
  }
}

/** The reason of a failure. That nobody answers is no fault of JetStream: no collector has made the stream yet. */
export function whyNotTaken(cause: unknown): string {
  const inner = cause instanceof Error ? cause.cause : undefined;
  if (inner instanceof errors.RequestError && inner.isNoResponders())
    return 'no stream takes this subject yet: a collector makes it when it starts';
  return sentence(cause);
}
