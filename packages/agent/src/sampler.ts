import {
  type Agent,
  type Columns,
  rowCount,
  type Source as SourceTable,
  type Tables,
  tableNamed,
} from '@fleetreel/proto';
import { type Clock, FrameTimes } from '#clock.ts';
import type { Events } from '#events.ts';
import {
  changedTickMilliseconds,
  reasonCharactersMax,
  sourceAnswerMilliseconds,
  sourceRetryMilliseconds,
  statusMilliseconds,
  unavailableRetryMilliseconds,
} from '#limits.ts';
import { type Source, Unavailable } from '#source.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** What a source did last. */
type State = 'ok' | 'unavailable' | 'failed';

/** A source with how it stands. */
type Watched = {
  readonly source: Source;
  /** Whether it is read at all. */
  isOn: boolean;
  isOpen: boolean;
  /** Monotonic milliseconds at which the call under way began; undefined when none is. */
  runningSince_ms: number | undefined;
  /** Monotonic milliseconds before which it is left alone. */
  notBefore_ms: number;
  retry_ms: number;
  state: State;
  reason: string;
  duration_s: number;
};

/** What one tick gathered, and the interval in force. */
export type Sample = { time_us: number; interval_ms: number; tables: Tables };

/** What can be changed while it runs. */
export type SamplerSettings = {
  interval_ms: number;
  /** Names of the sources that are not read. */
  off: ReadonlySet<string>;
};

export type SamplerOptions = {
  sources: readonly Source[];
  interval_ms: number;
  /** Names of the sources that are not read; none when absent. */
  off?: ReadonlySet<string>;
  events: Events;
  clock: Clock;
  telemetry: Telemetry;
  /** The agent's own row. */
  self: (tick_s: number) => Agent;
};

/**
 * Samples all sources at ticks aligned to the wall clock. A source that throws, is not here or does not answer costs its
 * own rows and says why in the table `source`; it never delays the others by more than the time limit.
 */
export class Sampler {
  readonly #watched: readonly Watched[];
  #interval_ms: number;
  #limit_ms: number;
  readonly #events: Events;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #times = new FrameTimes();
  readonly #self: (tick_s: number) => Agent;
  #lastTick_s = Number.NaN;
  /** Ends the wait for the next tick: the end, or another interval. */
  #wake = new AbortController();
  /** The interval is another one than at the last tick, and than at the one before that. */
  #change: 'none' | 'now' | 'before' = 'none';
  /** Some source is not as the newest table of all said. */
  #hasChanged = true;
  /** Monotonic milliseconds of the newest table of all. */
  #told_ms = Number.NEGATIVE_INFINITY;

  constructor({ sources, events, interval_ms, off = new Set(), clock, telemetry, self }: SamplerOptions) {
    this.#interval_ms = interval_ms;
    this.#limit_ms = limitOf(interval_ms);
    this.#events = events;
    this.#clock = clock;
    this.#telemetry = telemetry;
    this.#self = self;
    this.#watched = sources.map((source) => ({
      source,
      isOn: !off.has(source.name),
      isOpen: false,
      runningSince_ms: undefined,
      notBefore_ms: Number.NEGATIVE_INFINITY,
      retry_ms: sourceRetryMilliseconds.min,
      state: 'unavailable',
      reason: 'not read yet',
      duration_s: 0,
    }));
  }

  /** Ticks until the signal; every sample goes to `take`. */
  async run(take: (sample: Sample) => void, signal: AbortSignal): Promise<void> {
    let before_ms = Number.NaN;
    const stop = () => this.#wake.abort();
    signal.addEventListener('abort', stop, { once: true });
    while (await this.#nextTick(before_ms, signal)) {
      const begin_ms = this.#clock.monotonic_ms();
      // By the monotonic clock: a wall clock that was set is no missed tick.
      const missed = Math.round((begin_ms - before_ms) / this.#interval_ms) - 1;
      // Ticks were not missed by an interval that was another one.
      if (missed > 0 && this.#change !== 'now') this.#telemetry.tickSkipped(missed);
      this.#change = this.#change === 'now' ? 'before' : 'none';
      before_ms = begin_ms;
      take(await this.sample());
    }
    signal.removeEventListener('abort', stop);
  }

  /**
   * Goes on in another way. With another interval the next tick is now, so that nobody waits for a frame by the one before; those after it
   * are aligned. A source that is not to be read any more is closed.
   */
  change({ interval_ms, off }: SamplerSettings): void {
    for (const watched of this.#watched) {
      const isOn = !off.has(watched.source.name);
      if (watched.isOn === isOn) continue;
      watched.isOn = isOn;
      this.#hasChanged = true;
      // As if it had not been read yet.
      Object.assign(watched, { state: 'unavailable', reason: 'not read yet', duration_s: 0 });
      watched.notBefore_ms = Number.NEGATIVE_INFINITY;
      watched.retry_ms = sourceRetryMilliseconds.min;
      if (!isOn) void this.#closeOff(watched);
    }
    if (interval_ms === this.#interval_ms) return;
    this.#interval_ms = interval_ms;
    this.#limit_ms = limitOf(interval_ms);
    this.#change = 'now';
    const wake = this.#wake;
    this.#wake = new AbortController();
    wake.abort();
  }

  /** Reads every source that is due, once. */
  async sample(): Promise<Sample> {
    const time_us = this.#times.next(this.#clock.now_us());
    const interval_ms = this.#interval_ms;
    const begin_ms = this.#clock.monotonic_ms();
    const tables: Tables = {};
    let isOver = false;
    const take = (rows: Tables): boolean => {
      if (!isOver) Object.assign(tables, rows);
      return !isOver;
    };
    const pending: Promise<void>[] = [];
    for (const watched of this.#watched) {
      if (!watched.isOn || !this.#isDue(watched, begin_ms)) continue;
      const done = this.#read(watched, take);
      if (done) pending.push(done);
    }
    if (pending.length > 0) await this.#within(Promise.all(pending), this.#limit_ms);
    isOver = true;

    const tick_s = (this.#clock.monotonic_ms() - begin_ms) / 1000;
    const events = this.#events.take();
    if (events) tables.event = events;
    tables.agent = this.#self(this.#lastTick_s);
    const status = this.#status(begin_ms);
    if (status) tables.source = status;
    this.#lastTick_s = tick_s;
    return { time_us, interval_ms, tables };
  }

  async close(): Promise<void> {
    for (const watched of this.#watched) {
      // A call that hangs would hang here, too; the process ends without it.
      if (watched.runningSince_ms === undefined) await this.#close(watched);
    }
  }

  #isDue(watched: Watched, now_ms: number): boolean {
    if (watched.runningSince_ms !== undefined) {
      const seconds = Math.round((now_ms - watched.runningSince_ms) / 1000);
      this.#become(watched, 'failed', `has not answered for ${seconds} s`);
      return false;
    }
    // Ticks come some milliseconds early or late: what is due within half of an interval is due now.
    return watched.notBefore_ms <= now_ms + this.#interval_ms / 2;
  }

  /** Opens and samples; returns a promise only when the source needs one, so that most of a tick is one straight run. */
  #read(watched: Watched, take: (rows: Tables) => boolean): Promise<void> | undefined {
    const begin_ms = this.#clock.monotonic_ms();
    watched.runningSince_ms = begin_ms;
    const succeed = (rows: Tables): void => this.#succeed(watched, begin_ms, checked(rows), take);
    const fail = (cause: unknown): Promise<void> => this.#fail(watched, begin_ms, cause);
    try {
      const opened = watched.isOpen ? undefined : watched.source.open();
      if (opened)
        return opened
          .then(() => this.#sampleOpen(watched))
          .then(succeed)
          .catch(fail);
      const rows = this.#sampleOpen(watched);
      if (rows instanceof Promise) return rows.then(succeed).catch(fail);
      succeed(rows);
      return undefined;
    } catch (cause) {
      return fail(cause);
    }
  }

  /** Closes a source that is not to be read any more; one that is being read when that is done. */
  async #closeOff(watched: Watched): Promise<void> {
    if (watched.runningSince_ms !== undefined || !watched.isOpen) return;
    // Should it be read again meanwhile, it is not opened while it is still being closed.
    watched.runningSince_ms = this.#clock.monotonic_ms();
    await this.#close(watched);
    watched.runningSince_ms = undefined;
  }

  async #close(watched: Watched): Promise<void> {
    if (!watched.isOpen) return;
    watched.isOpen = false;
    try {
      await watched.source.close();
    } catch (cause) {
      this.#telemetry.failed(`closing the source ${watched.source.name} failed`, cause);
    }
  }

  #sampleOpen(watched: Watched): Tables | Promise<Tables> {
    watched.isOpen = true;
    return watched.source.sample();
  }

  #succeed(watched: Watched, begin_ms: number, rows: Tables, take: (rows: Tables) => boolean): void {
    const now_ms = this.#clock.monotonic_ms();
    watched.runningSince_ms = undefined;
    if (!watched.isOn) {
      void this.#closeOff(watched);
      return;
    }
    watched.duration_s = (now_ms - begin_ms) / 1000;
    if (take(rows)) {
      watched.notBefore_ms = begin_ms + (watched.source.every_ms ?? 0);
      watched.retry_ms = sourceRetryMilliseconds.min;
      this.#become(watched, 'ok', (watched.source.limitations?.() ?? []).join(' '));
      return;
    }
    // Its frame is gone, and in a later one these rows would carry a wrong time.
    this.#retryLater(watched, now_ms);
    this.#become(watched, 'failed', `answered after ${watched.duration_s.toFixed(1)} s, when its tick was over`);
  }

  async #fail(watched: Watched, begin_ms: number, cause: unknown): Promise<void> {
    const now_ms = this.#clock.monotonic_ms();
    watched.duration_s = (now_ms - begin_ms) / 1000;
    if (!watched.isOn) {
      // Nobody asks any more.
    } else if (cause instanceof Unavailable) {
      watched.notBefore_ms = now_ms + unavailableRetryMilliseconds;
      this.#become(watched, 'unavailable', cause.message);
    } else {
      this.#retryLater(watched, now_ms);
      this.#become(watched, 'failed', sentence(cause));
    }
    await this.#close(watched);
    // Only now: a source is not opened while it is still being closed.
    watched.runningSince_ms = undefined;
  }

  #retryLater(watched: Watched, now_ms: number): void {
    watched.notBefore_ms = now_ms + watched.retry_ms;
    watched.retry_ms = Math.min(watched.retry_ms * 2, sourceRetryMilliseconds.max);
  }

  #become(watched: Watched, state: State, reason: string): void {
    const changed = watched.state !== state || (state === 'unavailable' && watched.reason !== reason);
    watched.state = state;
    watched.reason = reason.slice(0, reasonCharactersMax);
    if (!changed) return;
    this.#hasChanged = true;
    this.#telemetry.sourceChanged(watched.source.name, state, watched.reason);
  }

  /** How all sources stand, when one has changed and from time to time: with its reasons it is nearly half of a frame. */
  #status(begin_ms: number): SourceTable | undefined {
    const now_ms = this.#clock.monotonic_ms();
    for (const watched of this.#watched)
      if (watched.isOn && watched.runningSince_ms !== undefined && watched.state !== 'failed')
        this.#become(
          watched,
          'failed',
          `has not answered for ${Math.round((now_ms - watched.runningSince_ms) / 100) / 10} s`,
        );
    // Ticks come some milliseconds early or late.
    const isDue = begin_ms - this.#told_ms >= statusMilliseconds - this.#interval_ms / 2;
    if (!this.#hasChanged && !isDue) return undefined;
    this.#hasChanged = false;
    this.#told_ms = begin_ms;
    const table: SourceTable = { source: [], state: [], reason: [], duration_seconds: [] };
    for (const watched of this.#watched) {
      if (!watched.isOn) continue;
      table.source.push(watched.source.name);
      table.state.push(watched.state);
      table.reason.push(watched.reason);
      table.duration_seconds.push(
        watched.runningSince_ms === undefined ? watched.duration_s : (now_ms - watched.runningSince_ms) / 1000,
      );
    }
    return table.source.length === 0 ? undefined : table;
  }

  /** Sleeps until the wall clock is at a multiple of the interval, or the interval changes; false when the signal came first. */
  async #nextTick(before_ms: number, signal: AbortSignal): Promise<boolean> {
    let next_us = Number.NaN;
    while (!signal.aborted) {
      if (this.#change === 'now') next_us = this.#afterChange_us(before_ms);
      else if (Number.isNaN(next_us)) next_us = this.#next_us(before_ms);
      const left_ms = (next_us - this.#clock.now_us()) / 1000;
      // A clock that was set back would make this wait long: one and a half intervals are the most.
      if (left_ms <= 0 || left_ms > this.#interval_ms * 1.5) return true;
      const { signal: woken } = this.#wake;
      try {
        await this.#clock.sleep(Math.ceil(left_ms), woken);
      } catch (cause) {
        if (!woken.aborted) throw cause;
      }
    }
    return false;
  }

  /** When the wall clock is at a multiple of the interval. */
  #next_us(before_ms: number): number {
    const interval_us = this.#interval_ms * 1000;
    const now_us = this.#clock.now_us();
    const next_us = (Math.floor(now_us / interval_us) + 1) * interval_us;
    // A clock that was set back by a little must not bring the same tick twice; after a change, the one before was not aligned.
    const least_ms = this.#interval_ms / (this.#change === 'before' ? 4 : 2);
    const isTooSoon = this.#clock.monotonic_ms() - before_ms + (next_us - now_us) / 1000 < least_ms;
    return isTooSoon ? next_us + interval_us : next_us;
  }

  /** Now, or as soon as rates since the tick before mean something. */
  #afterChange_us(before_ms: number): number {
    const since_ms = this.#clock.monotonic_ms() - before_ms;
    return this.#clock.now_us() + Math.max(0, changedTickMilliseconds - since_ms || 0) * 1000;
  }

  async #within(work: Promise<unknown>, limit_ms: number): Promise<void> {
    const limit = new AbortController();
    const over = this.#clock.sleep(limit_ms, limit.signal).catch(() => undefined);
    await Promise.race([work, over]);
    limit.abort();
  }
}

/** What a source gave, if it can be part of a frame: otherwise the whole frame would be refused for it. @throws Error */
function checked(rows: Tables): Tables {
  for (const [name, columns] of Object.entries(rows)) {
    const table = tableNamed(name);
    if (!table) throw new Error(`gave a table "${name}", which the contract does not know`);
    rowCount(table, columns as Columns);
  }
  return rows;
}

const limitOf = (interval_ms: number): number => Math.min(interval_ms / 2, sourceAnswerMilliseconds);
