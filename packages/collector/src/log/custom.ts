// Measures and events into the log: in columns, some thousands a message, all of a call or an error.
import { createHash, randomBytes } from 'node:crypto';
import { subject } from '@fleetreel/proto';
import { type CustomColumns, type EventColumns, encodeCustomBatch, type MeasureColumns } from '@fleetreel/proto/custom';
import { ApiError } from '@fleetreel/proto/errors';
import type { Accepted } from '@fleetreel/proto/http';
import type { Clock } from '#clock.ts';
import { customMessageBytes, customMessageEntriesMax, customPendingBytesMax } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** Entries in columns, checked; metadata as the log has them. Numbers are UTC microseconds since 1970, NaN where absent. */
export type Measures = { time_us: number[]; name: string[]; value: number[]; text: string[]; metadata: string[] };
export type Events = {
  time_us: number[];
  name: string[];
  end_us: number[];
  severity: string[];
  text: string[];
  metadata: string[];
};
export type Entries = { measures: Measures; events?: undefined } | { measures?: undefined; events: Events };

/** Who writes: the tenant, and the id of the key as a token of a subject. */
export type Writing = { tenant: string; source: string };

/** Writes what applications post. */
export class CustomLog {
  readonly #log: Log;
  readonly #telemetry: Pick<Telemetry, 'customWritten'>;
  readonly #clock: Clock;
  #pendingBytes = 0;

  constructor(log: Log, telemetry: Pick<Telemetry, 'customWritten'>, clock: Clock) {
    this.#log = log;
    this.#telemetry = telemetry;
    this.#clock = clock;
  }

  /**
   * Writes all entries of a call; resolves when the log has them. With the same idempotency key, kind and entries, what the log has
   * is not written again: for as long as its duplicate window; later the rows are the same where a time was given.
   * @throws ApiError when the log can't take all of them: it may have some
   */
  async put({ tenant, source }: Writing, entries: Entries, idempotencyKey: string | undefined): Promise<Accepted> {
    const [kind, count] = entries.measures
      ? ['measure', entries.measures.name.length]
      : ['event', entries.events.name.length];
    const identity =
      idempotencyKey === undefined
        ? randomBytes(16)
        : createHash('sha256')
            .update(JSON.stringify([tenant, source, kind, idempotencyKey]))
            .digest();
    // 63 bits: the store has signed numbers, and none for the least of them.
    identity[0] = (identity[0] as number) & 0x7f;
    const call = identity.toString('hex', 0, 8);
    const messages = batches(entries, count, call, Math.round(this.#clock.now_us()));
    const to = subject({ tenant, kind: 'custom', host: source });
    const bytes = messages.reduce((sum, { data }) => sum + data.length, 0);
    if (this.#pendingBytes > 0 && this.#pendingBytes + bytes > customPendingBytesMax)
      throw new ApiError('log_unavailable', { reason: `${customPendingBytesMax} bytes wait for it` });
    this.#pendingBytes += bytes;
    try {
      const known = await Promise.all(
        messages.map(async ({ first, data }) => {
          // The whole digest: message ids are of all tenants.
          const msgID = `custom-${identity.toString('hex', 0, 16)}-${first}`;
          const { duplicate } = await this.#log.jetstream.publish(to, data, { msgID });
          return duplicate;
        }),
      );
      this.#telemetry.customWritten(kind as 'measure' | 'event', count, bytes);
      return { accepted: count, duplicate: known.length > 0 && known.every((one) => one) };
    } catch (cause) {
      throw new ApiError('log_unavailable', { reason: sentence(cause) }, { cause });
    } finally {
      this.#pendingBytes -= bytes;
    }
  }
}

/** The entries as messages, in their order. */
function batches(
  entries: Entries,
  count: number,
  call: string,
  received_us: number,
): { first: number; data: Uint8Array }[] {
  const messages: { first: number; data: Uint8Array }[] = [];
  for (let first = 0; first < count; ) {
    const words = new Words();
    const [end, batch] = entries.measures
      ? measuresFrom(entries.measures, first, words)
      : eventsFrom(entries.events, first, words);
    messages.push({ first, data: encodeCustomBatch({ call, first, received_us, words: words.list, ...batch }) });
    first = end;
  }
  return messages;
}

function measuresFrom(entries: Measures, first: number, words: Words): [end: number, CustomColumns] {
  const columns: MeasureColumns = { time_us: [], name: [], value: [], text: [], metadata: [] };
  let row = first;
  for (; row < entries.name.length && words.hasRoom(row - first); row++) {
    columns.time_us.push(entries.time_us[row] as number);
    columns.name.push(words.place(entries.name[row] as string));
    columns.value.push(entries.value[row] as number);
    columns.text.push(words.place(entries.text[row] as string));
    columns.metadata.push(words.place(entries.metadata[row] as string));
  }
  return [row, { measures: columns }];
}

function eventsFrom(entries: Events, first: number, words: Words): [end: number, CustomColumns] {
  const columns: EventColumns = { time_us: [], name: [], end_us: [], severity: [], text: [], metadata: [] };
  let row = first;
  for (; row < entries.name.length && words.hasRoom(row - first); row++) {
    columns.time_us.push(entries.time_us[row] as number);
    columns.name.push(words.place(entries.name[row] as string));
    columns.end_us.push(entries.end_us[row] as number);
    columns.severity.push(words.place(entries.severity[row] as string));
    columns.text.push(words.place(entries.text[row] as string));
    columns.metadata.push(words.place(entries.metadata[row] as string));
  }
  return [row, { events: columns }];
}

/** Bytes of the columns of a row at most: two doubles and four places. */
const rowBytes = 28;

/** Texts of a message, each once. */
class Words {
  readonly list: string[] = [''];
  readonly #places = new Map<string, number>([['', 0]]);
  #bytes = 0;

  hasRoom(rows: number): boolean {
    return rows < customMessageEntriesMax && this.#bytes + rows * rowBytes < customMessageBytes;
  }

  place(word: string): number {
    let place = this.#places.get(word);
    if (place === undefined) {
      place = this.list.push(word) - 1;
      this.#places.set(word, place);
      // With the tag and the length before it.
      this.#bytes += 4 + Buffer.byteLength(word);
    }
    return place;
  }
}
