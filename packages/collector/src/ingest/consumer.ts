// The way of every message from the log into the store: fetch, decode, write, acknowledge. One loop.
import { decodeHostDescription, decodeHostRefusal, FrameError, parseSubject, scanFrame } from '@fleetreel/proto';
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import type { Clock } from '#clock.ts';
import {
  ackConfirmMilliseconds,
  fetchMessagesMax,
  fetchMilliseconds,
  futureMilliseconds,
  retryMilliseconds,
  workingMilliseconds,
} from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { publishDeadLetter } from '#log/publish.ts';
import type { Registry } from '#log/registry.ts';
import { consumerName, streamName } from '#log/stream.ts';
import { RowBuffer, type Writer } from '#store/writer.ts';
import { type DeadReason, sentence, type Telemetry } from '#telemetry.ts';

export type IngestParts = {
  log: Log;
  store: string;
  /** Frames older than this are put aside: the store would drop them without a word. */
  rawMilliseconds: number;
  writer: Writer;
  registry: Registry;
  /** Told of every time range that was written, UTC in milliseconds. */
  written: (from: number, to: number) => void;
  telemetry: Telemetry;
  clock: Clock;
};

/** A message that will never be stored, and why. */
type Dead = { message: JsMsg; kind: DeadReason; reason: string };

/** What one fetch brought, sorted. */
type Batch = {
  /** The messages of the frames in the row buffer, by place. */
  frames: JsMsg[];
  /** Messages that are done once the batch is: host descriptions and refusals. */
  others: JsMsg[];
  dead: Dead[];
  oldest_us: number;
  newest_us: number;
};

/** Reads the log into the store until it is stopped. */
export class Ingest {
  readonly #parts: IngestParts;
  readonly #rows: RowBuffer;

  constructor(parts: IngestParts) {
    this.#parts = parts;
    this.#rows = new RowBuffer(parts.telemetry);
  }

  /** Runs until the signal; a batch that was fetched is finished as long as `abandon` allows. */
  async run(signal: AbortSignal, abandon: AbortSignal): Promise<void> {
    const { log, store, telemetry, clock } = this.#parts;
    let consumer: Consumer | undefined;
    let pause_ms: number = retryMilliseconds.min;
    while (!signal.aborted) {
      try {
        consumer ??= await log.jetstream.consumers.get(streamName, consumerName(store));
        const messages = await this.#fetch(consumer);
        telemetry.usable('ingest');
        if (messages.length > 0) await this.#store(messages, abandon);
        pause_ms = retryMilliseconds.min;
      } catch (cause) {
        if (abandon.aborted) return;
        telemetry.ingestFailed(cause);
        consumer = undefined;
        await clock.sleep(pause_ms, signal).catch(() => undefined);
        pause_ms = Math.min(pause_ms * 2, retryMilliseconds.max);
      }
    }
  }

  async #fetch(consumer: Consumer): Promise<JsMsg[]> {
    const messages: JsMsg[] = [];
    const batch = await consumer.fetch({ max_messages: fetchMessagesMax, expires: fetchMilliseconds });
    for await (const message of batch) messages.push(message);
    this.#parts.telemetry.pending(messages.at(-1)?.info.pending ?? 0);
    return messages;
  }

  async #store(messages: readonly JsMsg[], abandon: AbortSignal): Promise<void> {
    const { telemetry, clock, written } = this.#parts;
    this.#rows.clear();
    const batch: Batch = { frames: [], others: [], dead: [], oldest_us: Number.POSITIVE_INFINITY, newest_us: 0 };
    for (const message of messages) await this.#take(message, batch);
    if (batch.frames.length > 0) {
      const begin_ms = clock.monotonic_ms();
      const refused = await this.#write(messages, abandon);
      for (const [place, reason] of refused)
        batch.dead.push({ message: batch.frames[place] as JsMsg, kind: 'refused', reason });
      telemetry.stored(
        batch.frames.length - refused.size,
        this.#rows.rows,
        this.#rows.length,
        (clock.monotonic_ms() - begin_ms) / 1000,
      );
      telemetry.lag((clock.now_us() - batch.oldest_us) / 1e6);
      written(batch.oldest_us / 1000, batch.newest_us / 1000);
    }
    await this.#acknowledge(batch);
  }

  /** Puts a message where it belongs: rows, the registry, or the dead letters. */
  async #take(message: JsMsg, batch: Batch): Promise<void> {
    const { registry, telemetry, clock, rawMilliseconds } = this.#parts;
    const address = parseSubject(message.subject);
    if (!address) {
      batch.dead.push({ message, kind: 'unnamed', reason: `the subject ${message.subject} names no host` });
      return;
    }
    try {
      if (address.kind === 'host') await registry.describe(address.tenant, decodeHostDescription(message.data));
      else if (address.kind === 'refusal') await registry.refuse(address.tenant, decodeHostRefusal(message.data));
      if (address.kind !== 'frame') {
        batch.others.push(message);
        return;
      }
      const frame = scanFrame(message.data);
      const ahead_ms = (frame.time_us - clock.now_us()) / 1000;
      if (ahead_ms > futureMilliseconds || -ahead_ms > rawMilliseconds) {
        batch.dead.push({
          message,
          kind: ahead_ms > 0 ? 'future' : 'expired',
          reason: `the frame's time ${new Date(frame.time_us / 1000).toISOString()} is ${ahead_ms > 0 ? 'in the future: the host has a wrong clock' : 'older than what the store keeps'}`,
        });
        return;
      }
      if (frame.unknownFields > 0) telemetry.unknownFields(frame.unknownFields);
      this.#rows.add(address.tenant, address.host, { ...frame, size_bytes: message.data.length });
      batch.frames.push(message);
      batch.oldest_us = Math.min(batch.oldest_us, frame.time_us);
      batch.newest_us = Math.max(batch.newest_us, frame.time_us);
    } catch (cause) {
      if (!(cause instanceof FrameError)) throw cause;
      batch.dead.push({ message, kind: 'undecodable', reason: cause.message });
    }
  }

  /** Writes until the store has it; while it does not answer, the log is told that the messages are in work. */
  async #write(messages: readonly JsMsg[], abandon: AbortSignal): Promise<Map<number, string>> {
    const { writer, telemetry, clock } = this.#parts;
    const working = setInterval(() => {
      for (const message of messages) message.working();
    }, workingMilliseconds);
    try {
      for (let pause_ms: number = retryMilliseconds.min; ; pause_ms = Math.min(pause_ms * 2, retryMilliseconds.max)) {
        abandon.throwIfAborted();
        try {
          const refused = await writer.sendAll(this.#rows);
          telemetry.usable('questdb');
          return refused;
        } catch (cause) {
          telemetry.storeFailed(sentence(cause));
        }
        await clock.sleep(pause_ms, abandon);
      }
    } finally {
      clearInterval(working);
    }
  }

  /** Acknowledges everything, and waits for the log to confirm the last one. */
  async #acknowledge({ frames, others, dead }: Batch): Promise<void> {
    const { log, telemetry } = this.#parts;
    const lost = new Set<JsMsg>();
    for (const { message, kind, reason } of dead) {
      const address = parseSubject(message.subject);
      await publishDeadLetter(log, {
        tenant: address?.tenant ?? 'unknown',
        host: address?.host ?? 'unknown',
        subject: message.subject,
        sequence: message.seq,
        reason,
        bytes: message.data,
      });
      telemetry.deadLetter(kind, message.subject, reason);
      message.term(reason);
      lost.add(message);
    }
    const done = [...others, ...frames].filter((message) => !lost.has(message));
    const last = done.pop();
    for (const message of done) message.ack();
    if (last && !(await last.ackAck({ timeout: ackConfirmMilliseconds })))
      throw new Error('the log did not confirm an acknowledgement; it sends those messages again');
  }
}
