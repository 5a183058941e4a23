// Writes an application's measures and events to the collector without ever standing in its way, and finds them again.
import {
  type EventOptions,
  eventLine,
  type MeasureOptions,
  type Metadata,
  measureLine,
  type Severity,
  severities,
} from '#entry.ts';
import { ConfigurationError, ConnectionError, FleetreelError, InvalidEntryError, RequestError } from '#errors.ts';
import { watchExit } from '#exit.ts';
import { type Event, type EventFilter, type Filter, find, type Measure } from '#find.ts';
import { type Bounds, type DropReason, type Kind, type KindStats, Lane, type Report } from '#lane.ts';
import * as limits from '#limits.ts';
import { Teller } from '#teller.ts';
import { Transport } from '#transport.ts';

export type {
  DropReason,
  Event,
  EventFilter,
  EventOptions,
  Filter,
  Kind,
  KindStats,
  Measure,
  MeasureOptions,
  Metadata,
  Severity,
};
export { ConfigurationError, ConnectionError, FleetreelError, InvalidEntryError, RequestError, severities };

/** Entries that will not be stored. */
export type Drop = {
  kind: Kind;
  reason: DropReason;
  /** How many since this was told of last. */
  count: number;
  /** What the collector answered, where it refused them. */
  error: FleetreelError | undefined;
};

export type Options = {
  /** Where the collector is: `https://fleetreel.example.org`, `http://127.0.0.1:7600`. */
  url: string;
  /** With the right to write (`write:measure`, `write:event`) or to find (`read`). */
  key: string;
  /** Entries of a request; 1000 by default. */
  batchCount?: number;
  /** Bytes of a request; 256 KiB by default. */
  batchBytes?: number;
  /** How long an entry waits for others at most; 1000 by default. */
  flushMilliseconds?: number;
  /** Entries of a kind in memory, beyond which the oldest are dropped; 100,000 by default. */
  queueCount?: number;
  /** Bytes of entries of a kind in memory, beyond which the oldest are dropped; 16 MiB by default. */
  queueBytes?: number;
  /** How long the collector has to answer; 10,000 by default. */
  requestMilliseconds?: number;
  /** How long `close`, and the end of the process, wait for what is not acknowledged; 5000 by default. */
  closeMilliseconds?: number;
  /**
   * Is told what went wrong: an entry that can't be, and what is tried again. One kind of trouble at once, and then once a minute, with
   * how often it came. The console by default.
   */
  onError?: (error: FleetreelError, count: number) => unknown;
  /** Is told of entries that will not be stored, as often. The console by default. */
  onDrop?: (drop: Drop) => unknown;
};

/** What the client counted, by kind. */
export type Stats = Record<Kind, KindStats>;

/** A connection of an application to one collector. Make one, and keep it. */
export class Client implements AsyncDisposable {
  readonly #transport: Transport;
  readonly #lanes: Record<Kind, Lane>;
  readonly #teller = new Teller();
  readonly #closeMilliseconds: number;
  readonly #unwatch: () => void;
  #closing: Promise<boolean> | undefined;

  /** @throws ConfigurationError */
  constructor(options: Options) {
    const { url, key, requestMilliseconds, closeMilliseconds, onError, onDrop, ...bounds } = checked(options);
    const transport = new Transport(url, key, requestMilliseconds);
    this.#transport = transport;
    const report = this.#reportTo(onError, onDrop);
    this.#lanes = {
      measure: new Lane('measure', transport, bounds, report),
      event: new Lane('event', transport, bounds, report),
    };
    this.#closeMilliseconds = closeMilliseconds;
    this.#unwatch = watchExit(
      () => this.#leave(),
      // Node has nothing more to do, and asks again after what this does: whoever writes when told of a drop would go on forever.
      () => void this.close(),
    );
  }

  /**
   * Takes a measure: a number, or a text that is a state. Returns at once and never throws; what can't be is told to `onError`.
   * @param name a letter, then letters, digits, `_`, `-`, `.`, `:` and `/`
   */
  measure(name: string, value: number | string, metadata?: Metadata, options: MeasureOptions = {}): void {
    this.#put('measure', () => measureLine(name, value, metadata, options ?? {}));
  }

  /**
   * Takes an event: something that happened. Returns at once and never throws; what can't be is told to `onError`.
   * @param name as of a measure
   */
  event(name: string, text: string, metadata?: Metadata, options: EventOptions = {}): void {
    this.#put('event', () => eventLine(name, text, metadata, options ?? {}));
  }

  /**
   * Measures that were stored, the newest first, fetched as they are asked for.
   * @throws RequestError, ConnectionError while iterating
   */
  measures(filter: Filter = {}): AsyncGenerator<Measure, void, undefined> {
    return find<Measure>(this.#transport, 'measure', filter);
  }

  /** Events that were stored, as `measures`. */
  events(filter: EventFilter = {}): AsyncGenerator<Event, void, undefined> {
    return find<Event>(this.#transport, 'event', filter);
  }

  /** Counts since the client was made. */
  stats(): Stats {
    return { measure: this.#lanes.measure.stats, event: this.#lanes.event.stats };
  }

  /**
   * Sends what there is now, without waiting for more.
   * @returns whether all of it was settled (acknowledged, or dropped and counted) within the time
   */
  async flush(milliseconds: number = this.#closeMilliseconds): Promise<boolean> {
    const { measure, event } = this.#lanes;
    const given = Number.isNaN(milliseconds) ? this.#closeMilliseconds : milliseconds;
    const most = Math.min(Math.max(given, 0), limits.timerMillisecondsMax);
    const settled = await Promise.all([measure.flush(most), event.flush(most)]);
    return settled.every(Boolean);
  }

  /**
   * Sends what there is and ends; what is not acknowledged within the time is dropped and counted. What is given afterwards is, too.
   * @returns whether nothing was left
   */
  close(milliseconds: number = this.#closeMilliseconds): Promise<boolean> {
    this.#closing ??= this.#close(milliseconds);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #put(kind: Kind, line: () => string): void {
    const lane = this.#lanes[kind];
    try {
      lane.put(line());
    } catch (error) {
      // A getter of the application's object may throw anything.
      lane.refuse(
        error instanceof FleetreelError ? error : new InvalidEntryError(`A ${kind} can't be read: ${String(error)}.`),
      );
    }
  }

  async #close(milliseconds: number): Promise<boolean> {
    this.#unwatch();
    const lanes = Object.values(this.#lanes);
    for (const lane of lanes) lane.close();
    const inTime = await this.flush(milliseconds);
    for (const lane of lanes) lane.abandon();
    this.#teller.close();
    return inTime;
  }

  #leave(): void {
    this.#lanes.measure.leave(this.#lanes.event.leave(limits.leavingBytes));
  }

  #reportTo(onError: Options['onError'], onDrop: Options['onDrop']): Report {
    const tellError = onError ?? ((error, count) => console.warn(`fleetreel: ${error.message}${times(count)}`));
    const tellDrop = onDrop ?? ((drop) => console.warn(`fleetreel: ${sentence(drop)}`));
    const trouble = (error: FleetreelError) =>
      this.#teller.add(`error ${error.code}`, 1, (count) => tellError(error, count));
    return {
      trouble,
      drop: (kind, reason, count, error) => {
        if (reason === 'invalid' && error !== undefined) return trouble(error);
        this.#teller.add(`drop ${kind} ${reason} ${error?.code}`, count, (sum) =>
          tellDrop({ kind, reason, count: sum, error }),
        );
      },
    };
  }
}

const times = (count: number) => (count > 1 ? ` (${count} times)` : '');

const why: Record<DropReason, string> = {
  invalid: "can't be",
  full: 'were dropped, the oldest first: the queue is full',
  rejected: 'were dropped: the collector refused them',
  closed: 'were dropped: they were not acknowledged when the client ended',
};

function sentence({ kind, reason, count, error }: Drop): string {
  return `${count} ${kind}s ${why[reason]}${error === undefined ? '.' : `. ${error.message}`}`;
}

type Checked = Required<Omit<Options, 'onError' | 'onDrop'>> & Pick<Options, 'onError' | 'onDrop'> & Bounds;

const numbers = {
  batchCount: limits.batchCount,
  batchBytes: limits.batchBytes,
  flushMilliseconds: limits.flushMilliseconds,
  queueCount: limits.queueCount,
  queueBytes: limits.queueBytes,
  requestMilliseconds: limits.requestMilliseconds,
  closeMilliseconds: limits.closeMilliseconds,
} as const;

/** With defaults. @throws ConfigurationError */
function checked(options: Options): Checked {
  if (typeof options !== 'object' || options === null)
    throw new ConfigurationError('The client is made with an object: { url, key }.');
  const names = ['url', 'key', 'onError', 'onDrop', ...Object.keys(numbers)];
  for (const name of Object.keys(options))
    if (!names.includes(name))
      throw new ConfigurationError(`There is no option ${JSON.stringify(name)}: there are ${names.join(', ')}.`);
  for (const name of ['onError', 'onDrop'] as const)
    if (options[name] !== undefined && typeof options[name] !== 'function')
      throw new ConfigurationError(`"${name}" is no function.`);
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const all = { ...numbers, ...given } as Checked;
  for (const name of Object.keys(numbers) as (keyof typeof numbers)[])
    if (!Number.isInteger(all[name]) || all[name] < 1 || all[name] > limits.timerMillisecondsMax)
      throw new ConfigurationError(`"${name}" is a whole number of 1 or more, and not ${String(all[name])}.`);
  if (all.batchCount > all.queueCount || all.batchBytes > all.queueBytes)
    throw new ConfigurationError(
      'A request can hold no more than the queue: "batchCount" or "batchBytes" is too large.',
    );
  return all;
}
