// The dead letters: listed, looked into, published again, thrown away. They are messages of the log and of nothing else.
import { parseSubject } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import { AckPolicy, DeliverPolicy, type StoredMsg } from '@nats-io/jetstream';
import { type MsgHdrs, nanos } from '@nats-io/transport-node';
import { answerMilliseconds, deadLettersScannedMax, deadLettersWindow } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { type DeadKind, deadHeaders, deadKinds, deadSubject, republish } from '#log/publish.ts';
import { streamName } from '#log/stream.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** What is known of a dead letter without its bytes. */
export type DeadLetterHead = {
  /** Its place in the log, by which it is named. */
  sequence: number;
  /** When it was put aside: UTC, milliseconds since 1970. */
  time: number;
  host: string;
  kind: DeadKind | 'unknown';
  reason: string;
  /** The subject that it came by, and its place in the log there; 0 where that is not known. */
  subject: string;
  originalSequence: number;
  /** How often it was published again in vain. */
  tries: number;
  /** Size of the message that was put aside, bytes. */
  sizeBytes: number;
  /** Whether only its first bytes were kept: then it can't be published again. */
  cut: boolean;
};

/** Which dead letters are meant; what is undefined is not asked for. */
export type DeadFilter = {
  host?: string | undefined;
  kind?: DeadKind | undefined;
  /** When they were put aside: UTC, milliseconds since 1970; `to` is exclusive. */
  from?: number | undefined;
  to?: number | undefined;
  /** Only those before this place in the log. */
  before?: number | undefined;
};

/** The newest first. `before` continues the list; undefined at its end. */
export type DeadPage = { letters: DeadLetterHead[]; before: number | undefined };

export type DeadOutcome = {
  /** How many were published again or thrown away. */
  done: number;
  /** Those that were not, and why. */
  failed: { sequence: number; reason: string }[];
  /** As in a page: there are more that match. */
  before: number | undefined;
};

export class DeadLetters {
  readonly #log: Log;
  readonly #telemetry: Telemetry;

  constructor(log: Log, telemetry: Telemetry) {
    this.#log = log;
    this.#telemetry = telemetry;
  }

  /**
   * Dead letters, the newest first. It looks at so many at most: a page may have less than was asked for and still continue.
   * @throws ApiError
   */
  async list(tenant: string, filter: DeadFilter, limit: number): Promise<DeadPage> {
    return await reached(async () => {
      const subject = deadSubject(tenant, filter.host ?? '*');
      const { state } = await this.#log.manager.streams.info(streamName);
      // Of a log that never had a message it is 0.
      const first = Math.max(state.first_seq, 1);
      const letters: DeadLetterHead[] = [];
      let end = Math.min(filter.before ?? Number.POSITIVE_INFINITY, state.last_seq + 1);
      for (let scanned = 0; scanned < deadLettersScannedMax; ) {
        const window = await this.#window(subject, first, end);
        scanned += window.letters.length;
        for (const letter of window.letters.reverse()) {
          if (filter.from !== undefined && letter.time < filter.from) return { letters, before: undefined };
          if (!matches(letter, filter)) continue;
          if (letters.length === limit) return { letters, before: letters.at(-1)?.sequence ?? 0 };
          letters.push(letter);
        }
        if (window.start <= first) return { letters, before: undefined };
        end = window.start;
      }
      return { letters, before: end };
    });
  }

  /**
   * When the first dead letter of a host was put aside that is not before a time; undefined when there is none. Both are UTC,
   * milliseconds since 1970.
   * @throws ApiError
   */
  async next(tenant: string, host: string, from: number): Promise<number | undefined> {
    return await reached(async () => {
      const question = { next_by_subj: deadSubject(tenant, host), start_time: new Date(from) };
      const found = await this.#log.manager.direct.getMessage(streamName, question);
      return found?.time.getTime();
    });
  }

  /** One dead letter with its bytes. @throws ApiError */
  async get(tenant: string, sequence: number): Promise<DeadLetterHead & { bytes: Uint8Array }> {
    return await reached(async () => {
      const found = await this.#find(tenant, sequence);
      if (!found) throw new ApiError('dead_letter_not_found', { value: sequence });
      return {
        ...head(found.seq, found.subject, found.time.getTime(), found.header, found.data.length),
        bytes: found.data,
      };
    });
  }

  /** Publishes each again as it came, and forgets it when the log has it. @throws ApiError */
  async redrive(tenant: string, sequences: readonly number[]): Promise<Omit<DeadOutcome, 'before'>> {
    return await this.#each(tenant, sequences, async (letter, { data: bytes, timestamp: stored }) => {
      if (letter.cut) return `only its first ${bytes.length} of ${letter.sizeBytes} bytes were kept`;
      if (parseSubject(letter.subject) === undefined) return 'the subject that it came by is not known';
      await republish(this.#log, { ...letter, stored, bytes });
      this.#telemetry.redriven();
      return undefined;
    });
  }

  /** Throws each away. @throws ApiError */
  async discard(tenant: string, sequences: readonly number[]): Promise<Omit<DeadOutcome, 'before'>> {
    return await this.#each(tenant, sequences, async () => {
      this.#telemetry.discarded();
      return undefined;
    });
  }

  /** Does something with each, one after the other, and deletes those of which it says nothing. */
  async #each(
    tenant: string,
    sequences: readonly number[],
    act: (letter: DeadLetterHead, found: StoredMsg) => Promise<string | undefined>,
  ): Promise<Omit<DeadOutcome, 'before'>> {
    return await reached(async () => {
      let done = 0;
      const failed: DeadOutcome['failed'] = [];
      for (const sequence of sequences) {
        const found = await this.#find(tenant, sequence);
        const reason = found
          ? await act(head(found.seq, found.subject, found.time.getTime(), found.header, found.data.length), found)
          : 'there is no such dead letter';
        if (reason !== undefined) failed.push({ sequence, reason });
        else {
          await this.#log.manager.streams.deleteMessage(streamName, sequence, false);
          done++;
        }
      }
      return { done, failed };
    });
  }

  /** The message at a place of the log, when it is a dead letter of this tenant. */
  async #find(tenant: string, sequence: number): Promise<StoredMsg | undefined> {
    const found = await this.#log.manager.direct.getMessage(streamName, { seq: sequence });
    const address = found ? parseSubject(found.subject) : undefined;
    return found && address?.kind === 'dead' && address.tenant === tenant ? found : undefined;
  }

  /** The last dead letters before a place of the log, oldest first, and the place where they begin. */
  async #window(subject: string, first: number, end: number): Promise<{ letters: DeadLetterHead[]; start: number }> {
    const after = await this.#count(subject, end);
    let start = first;
    let inside = (await this.#count(subject, start)) - after;
    // The log knows how many there are from a place on, not where the last hundred begin: that is searched for.
    for (let step = Math.floor((end - start) / 2); inside > deadLettersWindow && step > 0; ) {
      const count = (await this.#count(subject, start + step)) - after;
      if (count > 0) {
        start += step;
        inside = count;
        step = Math.floor((end - start) / 2);
      } else step = Math.floor(step / 2);
    }
    if (inside <= 0) return { letters: [], start: first };
    return { letters: await this.#heads(subject, start, end), start };
  }

  /** Dead letters at and after a place of the log. */
  async #count(subject: string, start: number): Promise<number> {
    const { name, num_pending } = await this.#log.manager.consumers.add(streamName, {
      ack_policy: AckPolicy.None,
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: start,
      filter_subject: subject,
      mem_storage: true,
      inactive_threshold: nanos(answerMilliseconds),
    });
    await this.#log.manager.consumers.delete(streamName, name);
    return num_pending;
  }

  async #heads(subject: string, start: number, end: number): Promise<DeadLetterHead[]> {
    const consumer = await this.#log.jetstream.consumers.get(streamName, {
      filter_subjects: subject,
      deliver_policy: DeliverPolicy.StartSequence,
      opt_start_seq: start,
      headers_only: true,
    });
    const heads: DeadLetterHead[] = [];
    try {
      // Where nothing waits any more, waiting for a message would only take time.
      if ((await consumer.info(true)).num_pending === 0) return heads;
      const messages = await consumer.fetch({ max_messages: 2 * deadLettersWindow, expires: answerMilliseconds });
      for await (const { seq, subject: own, timestampNanos, headers, info } of messages) {
        if (seq >= end) break;
        const size = Number(headers?.get('Nats-Msg-Size') ?? 0);
        heads.push(head(seq, own, Number(timestampNanos / 1_000_000n), headers, size));
        if (info.pending === 0) break;
      }
    } finally {
      await consumer.delete();
    }
    return heads;
  }
}

function head(sequence: number, own: string, time: number, headers: MsgHdrs | undefined, kept: number): DeadLetterHead {
  const text = (name: string) => headers?.get(name) ?? '';
  const known = deadKinds.find((kind) => kind === text(deadHeaders.kind));
  const sizeBytes = Number(text(deadHeaders.bytes)) || kept;
  return {
    sequence,
    time,
    host: parseSubject(own)?.host ?? '',
    // Dead letters of an earlier version have only the sentence.
    kind: known ?? 'unknown',
    reason: text(deadHeaders.reason),
    subject: text(deadHeaders.subject),
    originalSequence: Number(text(deadHeaders.sequence)) || 0,
    tries: Number(text(deadHeaders.tries)) || 0,
    sizeBytes,
    cut: sizeBytes > kept,
  };
}

const matches = ({ kind, time }: DeadLetterHead, filter: DeadFilter): boolean =>
  (filter.kind === undefined || kind === filter.kind) && (filter.to === undefined || time < filter.to);

/** An answer, or the error that says that the log does not give one. */
async function reached<T>(ask: () => Promise<T>): Promise<T> {
  try {
    return await ask();
  } catch (cause) {
    if (cause instanceof ApiError) throw cause;
    throw new ApiError('log_unavailable', { reason: sentence(cause) }, { cause });
  }
}
