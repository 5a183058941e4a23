// The way of every message from the log into the store: fetch, decode, write, acknowledge. One loop.
import {
  decodeHostDescription,
  decodeHostRefusal,
  type Kind,
  namePattern,
  parseSubject,
  subject,
  token,
} from '@fleetreel/proto';
import type { Consumer, JsMsg } from '@nats-io/jetstream';
import type { Clock } from '#clock.ts';
import { auditRows, customRows } from '#ingest/custom.ts';
import { decode, latestRowTime } from '#ingest/decode.ts';
import { Versions } from '#ingest/versions.ts';
import {
  ackConfirmMilliseconds,
  batchMessagesMax,
  deadReasonCharactersMax,
  fetchBytesTarget,
  fetchMessagesMax,
  fetchMessagesMin,
  fetchMilliseconds,
  futureMilliseconds,
  readAgainMilliseconds,
  requestBytesMax,
  retryMilliseconds,
  rowVersionsMax,
  workingMilliseconds,
} from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { framesOf, holdsFrames, isFuture } from '#log/frames.ts';
import { isIn } from '#log/partition.ts';
import { type DeadKind, deadHeaders, publishDeadLetter } from '#log/publish.ts';
import type { Registry } from '#log/registry.ts';
import { consumerName, streamName } from '#log/stream.ts';
import type { Lines } from '#store/custom.ts';
import { Rows } from '#store/rows.ts';
import type { Writer } from '#store/writer.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

export type IngestParts = {
  log: Log;
  store: string;
  /** What is read from: the store's own consumer when undefined. */
  consumer?: string;
  /**
   * Told of what can't be stored, by its place in the log and of a frame of a batch its place there, instead of putting it into
   * the dead letters: that was done when it came.
   */
  aside?: (sequence: number, index: number | undefined) => void;
  /** Makes stream and consumer as they should be: tried when the log can't be read. */
  keepLog: () => Promise<void>;
  /** Frames older than this are put aside: the store would drop them without a word. */
  rawMilliseconds: number;
  writer: Writer;
  registry: Registry;
  /** Told of the times of the frames that were written, UTC in milliseconds, and of how many rows they have. */
  written: (times: readonly number[], rows: number) => void;
  telemetry: Telemetry;
  clock: Clock;
};

const nameRule = new RegExp(namePattern);

/** What one fetch brought, sorted. */
type Batch = {
  rows: Rows;
  /** What is in `rows`, by place: frames, and messages of what applications wrote and of the audit trail. */
  written: Part[];
  /** The times of the frames among them in microseconds, and how many rows the others have. */
  times_us: number[];
  /** Host descriptions and refusals: the message, and the way into the registry. */
  notes: { message: JsMsg; note: () => Promise<void> }[];
  dead: Dead[];
};

/** A message, or one frame of a batch: then with its place there. */
type Part = { message: JsMsg; bytes: Uint8Array; index: number | undefined };

const isOfFrames = (part: Part | undefined): boolean => {
  const address = parseSubject(part?.message.subject ?? '');
  return address !== undefined && holdsFrames(address.kind);
};

/** What is in a message whose rows are made all at once. */
const madeAtOnce = { custom: customRows, audit: auditRows } as const;

/** What will never be stored, and why. */
type Dead = { part: Part; kind: DeadKind; reason: string };

/** Reads the log into the store until it is stopped. */
export class Ingest {
  readonly #parts: IngestParts;
  /** Two buffers: while one is written, the next is filled. */
  readonly #buffers: [Rows, Rows];
  readonly #versions: Versions;
  /** Messages that are delivered and not acknowledged yet. */
  readonly #held = new Set<JsMsg>();
  /** Those of them that are not sorted yet: batches may unfold to more than one write takes. */
  #fetched: JsMsg[] = [];
  #isKeeping = false;
  /** Of the messages of late: nothing is known of them yet, so that the first pull is careful. */
  #largestBytes = fetchBytesTarget / 100;

  constructor(parts: IngestParts) {
    this.#parts = parts;
    const shortened = () => parts.telemetry.labelShortened();
    this.#buffers = [new Rows(shortened), new Rows(shortened)];
    this.#versions = new Versions(rowVersionsMax, () => parts.telemetry.rowVersionForgotten());
  }

  /** Runs until the signal; what was fetched is finished as long as `abandon` allows. */
  async run(signal: AbortSignal, abandon: AbortSignal): Promise<void> {
    const { telemetry, clock } = this.#parts;
    const working = setInterval(() => this.#reportWorking(), workingMilliseconds);
    let consumer: Consumer | undefined;
    let storing: Promise<void> | undefined;
    let [filled, free] = this.#buffers;
    let pause_ms: number = readAgainMilliseconds.min;
    while (!signal.aborted) {
      try {
        consumer ??= await this.#consumer();
        const batch = await this.#gather(consumer, free, () => storing !== undefined, signal);
        telemetry.usable('ingest');
        pause_ms = readAgainMilliseconds.min;
        // At most one batch waits for the store while it writes another: then nothing more is pulled.
        await storing;
        storing = this.#store(batch, abandon).finally(() => {
          storing = undefined;
        });
        [filled, free] = [free, filled];
      } catch (cause) {
        telemetry.ingestFailed(cause);
        this.#keepLog();
        await clock.sleep(pause_ms, signal).catch(() => undefined);
        pause_ms = Math.min(pause_ms * 2, readAgainMilliseconds.max);
      }
    }
    // Given back, so that another collector has them at once.
    for (const message of this.#fetched) message.nak();
    await storing;
    clearInterval(working);
  }

  /**
   * Somebody may have removed the consumer or the whole stream. Looked at beside the reading, which is what notices first that a
   * cluster has a leader again: until then it leaves such questions unanswered for seconds.
   */
  #keepLog(): void {
    if (this.#isKeeping) return;
    this.#isKeeping = true;
    void this.#parts
      .keepLog()
      .catch(() => undefined)
      .finally(() => {
        this.#isKeeping = false;
      });
  }

  async #consumer(): Promise<Consumer> {
    const { log, store, consumer = consumerName(store) } = this.#parts;
    return await log.jetstream.consumers.get(streamName, consumer);
  }

  /**
   * What the log has: under light load what arrives within a second; of a backlog, pull after pull for as long, and for as
   * long as the store is busy with the batch before, since it takes few large writes more cheaply than many small ones.
   */
  async #gather(consumer: Consumer, rows: Rows, isStoring: () => boolean, signal: AbortSignal): Promise<Batch> {
    const { clock } = this.#parts;
    rows.clear();
    const batch: Batch = { rows, written: [], times_us: [], notes: [], dead: [] };
    const end_ms = clock.monotonic_ms() + fetchMilliseconds;
    let taken = this.#sortFetched(batch);
    for (let backlog = this.#fetched.length === 0; backlog && taken < batchMessagesMax; ) {
      const asked = Math.min(
        Math.max(Math.floor(fetchBytesTarget / this.#largestBytes), fetchMessagesMin),
        fetchMessagesMax,
      );
      let fetched = 0;
      try {
        fetched = await this.#fetch(consumer, asked);
      } catch (cause) {
        taken += this.#sortFetched(batch);
        // What came before is stored; that the log can't be read shows at the next pull.
        if (taken === 0) throw cause;
        return batch;
      }
      taken += this.#sortFetched(batch);
      backlog =
        fetched === asked &&
        this.#fetched.length === 0 &&
        (clock.monotonic_ms() < end_ms || isStoring()) &&
        rows.byteLength < requestBytesMax / 2 &&
        !signal.aborted;
    }
    return batch;
  }

  /** One pull; returns the number of messages that it brought. */
  async #fetch(consumer: Consumer, count: number): Promise<number> {
    const messages = await consumer.fetch({ max_messages: count, expires: fetchMilliseconds });
    let fetched = 0;
    let largest = 0;
    for await (const message of messages) {
      fetched++;
      this.#held.add(message);
      largest = Math.max(largest, message.data.length);
      this.#fetched.push(message);
    }
    if (fetched > 0) this.#largestBytes = Math.max(largest, this.#largestBytes / 2);
    return fetched;
  }

  /** Sorts what was fetched, as far as one write takes it; returns the number of messages. */
  #sortFetched(batch: Batch): number {
    let sorted = 0;
    for (const message of this.#fetched) {
      if (batch.rows.byteLength >= requestBytesMax) break;
      this.#sort(message, batch);
      sorted++;
    }
    this.#fetched = this.#fetched.slice(sorted);
    return sorted;
  }

  /** Puts a message where it belongs: rows, the registry, or the dead letters. What is not for this store is done with. */
  #sort(message: JsMsg, batch: Batch): void {
    const { data } = message;
    const whole: Part = { message, bytes: data, index: undefined };
    const address = parseSubject(message.subject);
    const isOurs = address && address.kind !== 'dead' && isIn(this.#parts.log.partition, address.tenant, address.host);
    if (!isOurs) {
      message.ack();
      this.#held.delete(message);
      return;
    }
    if (!nameRule.test(address.host) || !nameRule.test(address.tenant)) {
      const reason = `the subject ${message.subject} has no tenant and host that can be names`;
      batch.dead.push({ part: whole, kind: 'unnamed', reason });
      return;
    }
    const { tenant, host, kind } = address;
    try {
      if (holdsFrames(kind)) {
        for (const [index, bytes] of framesOf(kind, data).entries())
          this.#sortFrame(tenant, host, kind === 'frame' ? whole : { message, bytes, index }, batch);
        return;
      }
      if (kind === 'custom' || kind === 'audit') {
        this.#sortRows(madeAtOnce[kind](tenant, host, data), whole, batch);
        return;
      }
      const [said, note] = this.#notice(kind, tenant, data);
      if (nameRule.test(said) && token('host', said) === host) batch.notes.push({ message, note });
      else {
        const reason = `it is about the host "${said}", but came as ${message.subject}`;
        batch.dead.push({ part: whole, kind: 'unnamed', reason });
      }
    } catch (cause) {
      // Whatever it is, it is this message's: it must not stop the others.
      batch.dead.push({ part: whole, kind: 'undecodable', reason: sentence(cause) });
    }
  }

  /** Puts a frame, alone or of a batch, into the rows or the dead letters. */
  #sortFrame(tenant: string, host: string, part: Part, batch: Batch): void {
    try {
      const frame = decode(part.bytes);
      const late = this.#outOfTime(frame.time_us, latestRowTime(frame));
      if (late) {
        batch.dead.push({ part, kind: late[0], reason: late[1] });
        return;
      }
      if (frame.unknownFields > 0) this.#parts.telemetry.unknownFields(frame.unknownFields);
      const { tables, older } = this.#versions.newest({ tenant, host }, frame);
      if (older > 0) this.#parts.telemetry.olderRows(older);
      batch.rows.add({ ...frame, tables, tenant, host, received_us: Number(part.message.timestampNanos / 1000n) });
      batch.written.push(part);
      batch.times_us.push(frame.time_us);
    } catch (cause) {
      batch.dead.push({ part, kind: 'undecodable', reason: sentence(cause) });
    }
  }

  /** Puts rows that are made, the latest of which has a time, where they belong. */
  #sortRows({ lines, latest_us }: { lines: Lines; latest_us: number }, part: Part, batch: Batch): void {
    if (isFuture(latest_us, this.#parts.clock.now_us())) {
      const reason = `a row has a time that is more than ${futureMilliseconds / 60_000} minutes in the future`;
      batch.dead.push({ part, kind: 'future', reason });
      return;
    }
    batch.rows.addLines(lines);
    batch.written.push(part);
  }

  /** What a host's description or refusal is about, and the way to note it. */
  #notice(kind: Kind, tenant: string, data: Uint8Array): [host: string, note: () => Promise<void>] {
    const { registry } = this.#parts;
    if (kind === 'host') {
      const description = decodeHostDescription(data);
      return [description.host, () => registry.describe(tenant, description)];
    }
    const refusal = decodeHostRefusal(data);
    return [refusal.host, () => registry.refuse(tenant, refusal)];
  }

  /** Why a frame of this time, with rows up to another, is not taken; undefined when it is. */
  #outOfTime(time_us: number, rows_us: number): [DeadKind, string] | undefined {
    const { clock, rawMilliseconds } = this.#parts;
    const now_us = clock.now_us();
    if (isFuture(rows_us, now_us))
      return [
        'future',
        `a row of the frame has a time that is more than ${futureMilliseconds / 60_000} minutes in the future`,
      ];
    const ahead_ms = (time_us - now_us) / 1000;
    const early = isFuture(time_us, now_us);
    if (!early && -ahead_ms <= rawMilliseconds) return undefined;
    const minutes = `${Math.round(Math.abs(ahead_ms) / 60_000)} minutes`;
    return early
      ? ['future', `the frame's time is ${minutes} in the future: the host's clock is wrong`]
      : ['expired', `the frame's time is ${minutes} in the past: older than the store keeps rows`];
  }

  /** Writes a batch and acknowledges it. What fails is left to the log, which delivers it again. */
  async #store(batch: Batch, abandon: AbortSignal): Promise<void> {
    const { telemetry } = this.#parts;
    const messages = new Set(
      [...batch.written, ...batch.notes, ...batch.dead.map(({ part }) => part)].map(({ message }) => message),
    );
    try {
      const refused = await this.#write(batch, abandon);
      for (const [place, reason] of refused)
        batch.dead.push({ part: batch.written[place] as Part, kind: 'refused', reason });
      const dead = Map.groupBy(batch.dead, ({ part }) => part.message);
      const stored = new Set(batch.written.map(({ message }) => message).filter((message) => !dead.has(message)));
      await Promise.all([
        this.#acknowledge([...stored]),
        ...batch.notes.map(({ message, note }) => this.#note(message, note)),
        ...[...dead].map(([message, letters]) => this.#bury(message, letters)),
      ]);
    } catch (cause) {
      if (!abandon.aborted) telemetry.ingestFailed(cause);
      // Given back, so that another collector has them at once.
      else for (const message of messages) message.nak();
    } finally {
      for (const message of messages) this.#held.delete(message);
    }
  }

  /**
   * Writes until the store has all; returns the places of those that it refused, with its reason.
   * @throws when `abandon` is aborted
   */
  async #write({ rows, written: parts, times_us }: Batch, abandon: AbortSignal): Promise<Map<number, string>> {
    if (rows.byteLength === 0) return new Map();
    const { writer, telemetry, clock, written } = this.#parts;
    for (let pause_ms: number = retryMilliseconds.min; ; pause_ms = Math.min(pause_ms * 2, retryMilliseconds.max)) {
      abandon.throwIfAborted();
      try {
        const begin_ms = clock.monotonic_ms();
        const refused = await writer.send(rows);
        const seconds = (clock.monotonic_ms() - begin_ms) / 1000;
        telemetry.usable('questdb');
        const refusedFrames = [...refused.keys()].filter((place) => isOfFrames(parts[place]));
        telemetry.stored(times_us.length - refusedFrames.length, rows.rowCount, rows.byteLength, seconds);
        if (times_us.length > 0) telemetry.lag((clock.now_us() - times_us.reduce((a, b) => Math.min(a, b))) / 1e6);
        written(
          times_us.map((time_us) => time_us / 1000),
          rows.rowCount,
        );
        return refused;
      } catch (cause) {
        telemetry.storeFailed(sentence(cause));
      }
      await clock.sleep(pause_ms, abandon);
    }
  }

  /** Acknowledges each, and waits for the log to confirm the last, and with it those before. */
  async #acknowledge(messages: readonly JsMsg[]): Promise<void> {
    const last = messages.at(-1);
    for (const message of messages) if (message !== last) message.ack();
    if (last && !(await last.ackAck({ timeout: ackConfirmMilliseconds })))
      throw new Error('the log did not confirm an acknowledgement; it delivers those messages again');
  }

  async #note(message: JsMsg, note: () => Promise<void>): Promise<void> {
    try {
      await note();
      message.ack();
    } catch (cause) {
      this.#parts.telemetry.ingestFailed(cause);
      message.nak(retryMilliseconds.max);
    }
  }

  /** Puts aside what of a message can't be stored; only then is it done with, also for its other frames. */
  async #bury(message: JsMsg, letters: readonly Dead[]): Promise<void> {
    const { log, telemetry, aside } = this.#parts;
    if (aside) {
      for (const { part } of letters) aside(message.seq, part.index);
      message.ack();
      return;
    }
    const [, , tenant = '', , host = ''] = message.subject.split('.');
    try {
      await Promise.all(
        letters.map(({ part: { bytes, index }, kind, reason }) =>
          publishDeadLetter(log, {
            tenant,
            host,
            subject: index === undefined ? message.subject : subject({ tenant, host, kind: 'frame' }),
            sequence: message.seq,
            stored: String(message.timestampNanos),
            index,
            kind,
            reason,
            tries: Number(message.headers?.get(deadHeaders.tries)) || 0,
            bytes,
          }),
        ),
      );
      if (letters.some(({ part }) => part.index !== undefined)) message.ack();
      else message.term(letters[0]?.reason.slice(0, deadReasonCharactersMax));
      for (const { kind, reason } of letters)
        telemetry.deadLetter(kind, message.subject, reason.slice(0, deadReasonCharactersMax));
    } catch (cause) {
      telemetry.ingestFailed(cause);
      message.nak(retryMilliseconds.max);
    }
  }

  #reportWorking(): void {
    // While the connection is away this says nothing, and the messages come again.
    if (!this.#parts.log.connection.isClosed()) for (const message of this.#held) message.working();
  }
}
