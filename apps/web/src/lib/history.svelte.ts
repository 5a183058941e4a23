// Columns of one table over the range that is looked at: fetched once, then grown by what arrives live.
import { type Api, ApiError, type Series, sentence, type Table } from '#lib/api.ts';
import { compareLabels } from '#lib/format.ts';
import type { Live, LiveRows } from '#lib/live.svelte.ts';
import type { Scope, View } from '#lib/view.svelte.ts';

type Column = (number | null)[];

/** One row of the table over time: a core, a disk, or the host itself where the table has no key. */
export type Entity = {
  /** The host and the key labels. */
  labels: Readonly<Record<string, string>>;
  /** The values of the key labels, in the table's order; empty where the table has none. */
  name: string;
  /** One column per field, as long as `times`. */
  columns: Record<string, Column>;
};

export type Request = {
  table: Table;
  fields: readonly string[];
  hosts: readonly string[];
  /** Only rows with one of these values of a label. */
  labels: Readonly<Record<string, readonly string[]>>;
  /** The sampling interval of the host, where it is known before a frame says it. */
  intervalMs?: () => number | null;
  /** A duration, when it is not to be chosen by range and interval. */
  step?: string;
};

/** Where data comes from, and who is told how far time has come. */
export type Sources = {
  api: Pick<Api, 'series'>;
  live: Pick<Live, 'watch'> | null;
  view: Pick<View, 'advance' | 'now'>;
};

/** The newest step of a host: how many frames of it were seen here, and how many values its means are of. */
type Moment = { time: number; frames: number; counts: Map<string, number> };

type Run = { scope: Scope; signal: AbortSignal; later: (milliseconds: number, what: () => void) => void };

/** Live rows that wait for the history before them; more than this and the history is fetched again. */
const pendingMost = 2_000;
/** The store is this far behind the live data at most, as a rule, milliseconds. */
const storeDelay = 2_500;
/** Pauses between attempts after an error, milliseconds. */
const retries = [2_000, 5_000, 10_000];
/** Up to so many frames per series are fetched one by one. */
const framesMost = 1_000;
/** Older than this, rows may be kept as roll-ups only, milliseconds. */
const rawAge = 7 * 86_400_000;

export class History {
  readonly request: Request;
  /** `loading` until there is something to show, `error` when there is nothing because of one. */
  status = $state<'loading' | 'ready' | 'error'>('loading');
  /** Why the last request failed; null when it did not. */
  failure = $state<string | null>(null);
  /** The code of that failure in the collector's catalogue of errors, if it has one. */
  failureCode = $state('');
  /** Grows when there is something new in `times` and `entities`, which are no state by themselves. */
  version = $state(0);
  /** Milliseconds since 1970, ascending. */
  times: number[] = [];
  entities: Entity[] = [];
  stepMs = 0;

  readonly #api: Sources['api'];
  readonly #live: Sources['live'];
  readonly #view: Sources['view'];
  readonly #keys: readonly string[];
  #byName = new Map<string, Entity>();
  /** The scope that was fetched. */
  #loaded = '';
  /** The scope whose live rows are shown while its history can't be had. */
  #bridged = '';
  /** The sampling interval that the newest frame had. */
  #intervalMs: number | null = null;
  /** The newest time with a value in what was fetched. */
  #filled: number | null = null;
  #pending: LiveRows[] | null = null;
  /** Per host: the newest frame that was taken. */
  #newest = new Map<string, number>();
  /** How many frames are in the newest step, per host, for the mean of a step that is wider than the interval. */
  #moments = new Map<string, Moment>();
  #catchUpFrom = Number.POSITIVE_INFINITY;
  #run: Run | null = null;
  #frame = 0;
  #reached = 0;

  /** Without `live`, new rows come by `take`. */
  constructor(request: Request, { api, live, view }: Sources) {
    this.request = request;
    this.#api = api;
    this.#live = live;
    this.#view = view;
    this.#keys = request.table.labels.filter(({ key }) => key).map(({ name }) => name);
  }

  /** Fetches what the scope asks for and follows it; the returned function stops both. What was fetched stays. */
  run(scope: Scope): () => void {
    const abort = new AbortController();
    const timers = new Set<ReturnType<typeof setTimeout>>();
    const run: Run = {
      scope,
      signal: abort.signal,
      later: (milliseconds, what) => {
        const timer = setTimeout(() => {
          timers.delete(timer);
          what();
        }, milliseconds);
        timers.add(timer);
      },
    };
    let release = () => {};
    if (scope.liveRange !== null && this.#live) {
      const { table, fields, hosts } = this.request;
      this.#pending = [];
      release = this.#live.watch(
        { table: table.name, fields, hosts },
        {
          message: (rows) => this.#arrive(rows, run),
          problem: ({ detail }) => {
            this.failure = detail;
          },
        },
      );
    }
    this.#run = run;
    void this.#load(run, 0);
    return () => {
      this.#run = null;
      abort.abort();
      release();
      for (const timer of timers) clearTimeout(timer);
      cancelAnimationFrame(this.#frame);
      this.#frame = 0;
      this.#catchUpFrom = Number.POSITIVE_INFINITY;
      this.#pending = null;
    };
  }

  /** One row of live data, when it does not come by a subscription of its own. */
  take(rows: LiveRows): void {
    if (this.#run && this.stepMs > 0) this.#arrive(rows, this.#run);
  }

  async #load(run: Run, attempt: number): Promise<void> {
    const { scope, signal } = run;
    const live = scope.liveRange !== null;
    // After a pause (the section was out of sight) only what is missing is asked for.
    const missing = live && this.#loaded === scope.key && this.times.length > 0;
    try {
      const answer = await (missing ? this.#askPart(run, this.#lastComplete()) : this.#askAll(run));
      if (signal.aborted) return;
      // Live rows that came while the history could not be had are kept.
      if (!missing && !(live && this.#bridged === scope.key && answer.stepMs === this.stepMs)) this.#clear();
      this.stepMs = answer.stepMs;
      // Steps before the first value are not kept: they would only be looked through.
      this.#merge(answer, missing ? 0 : firstFilled(answer.series));
      this.#loaded = scope.key;
      this.#bridged = '';
      this.failure = null;
      this.#resume(run);
    } catch (error) {
      if (signal.aborted) return;
      this.failure = sentence(error);
      this.failureCode = error instanceof ApiError ? (error.problem?.code ?? '') : '';
      if (!missing && this.#bridged !== scope.key) this.#clear();
      if (live && retryable(error)) {
        // The history is away, live data goes on.
        if (!missing) this.#bridged = scope.key;
        run.later(retries[Math.min(attempt, retries.length - 1)] as number, () => void this.#load(run, attempt + 1));
        this.#resume(run);
      } else {
        this.status = 'error';
        this.version++;
      }
    }
  }

  #askAll({ scope, signal }: Run): Promise<Series> {
    const { liveRange, from, to } = scope;
    return this.#ask(scope, liveRange === null ? from : `-${liveRange}ms`, to, this.#step(scope), signal);
  }

  /** What is newer than this, in the steps that are there. */
  #askPart({ scope, signal }: Run, from: number): Promise<Series> {
    return this.#ask(scope, from, 0, `${this.stepMs}ms`, signal);
  }

  #ask(scope: Scope, from: number | string, to: number, step: string, signal: AbortSignal): Promise<Series> {
    const { table, fields, hosts, labels } = this.request;
    return this.#api.series(
      {
        table: table.name,
        fields,
        hosts,
        labels,
        from,
        to: scope.liveRange === null ? to : 'now',
        step,
        agg: scope.agg,
      },
      signal,
    );
  }

  /** Every frame a point while that is not too many; else what the collector thinks fit. */
  #step({ liveRange, from, to }: Scope): string {
    const { step, intervalMs: known } = this.request;
    if (step) return step;
    const intervalMs = this.#intervalMs ?? known?.() ?? null;
    const length = liveRange ?? to - from;
    const recent = liveRange !== null || this.#view.now - from < rawAge;
    return intervalMs !== null && recent && length / intervalMs <= framesMost ? `${intervalMs}ms` : 'auto';
  }

  #resume(run: Run): void {
    const pending = this.#pending ?? [];
    this.#pending = null;
    this.status = 'ready';
    for (const rows of pending) this.#arrive(rows, run);
    this.version++;
  }

  #arrive(rows: LiveRows, run: Run): void {
    if (this.#pending) {
      if (this.#pending.length >= pendingMost) this.#pending.shift();
      this.#pending.push(rows);
      return;
    }
    const slower = this.#intervalMs !== null && rows.intervalMs > this.#intervalMs && rows.intervalMs > this.stepMs;
    this.#intervalMs = rows.intervalMs;
    if (slower && !this.request.step) {
      // The agent samples more rarely now: steps as narrow as before would have a hole after each frame.
      this.#loaded = '';
      this.#pending = [rows];
      void this.#load(run, 0);
      return;
    }
    const before = this.#newest.get(rows.host) ?? this.#filled;
    const moment = this.#moments.get(rows.host);
    this.#put(rows, run.scope);
    this.#changed(rows.time);
    if (before === null) return;
    // A hole (a lost connection, a sleeping tab, a slow reader, a store that is a moment behind), or a wide step of
    // which not all frames were seen here: the store is asked.
    const hole = rows.time - before > Math.max(this.stepMs, rows.intervalMs) * 1.5;
    const finished = moment !== undefined && moment !== this.#moments.get(rows.host);
    const partial = finished && moment.frames < Math.floor(this.stepMs / rows.intervalMs);
    if (hole || partial) this.#catchUp(this.#bucket(before), run);
  }

  #catchUp(from: number, run: Run): void {
    const waiting = Number.isFinite(this.#catchUpFrom);
    this.#catchUpFrom = Math.min(this.#catchUpFrom, from);
    if (waiting) return;
    run.later(storeDelay, () => {
      const start = Math.max(this.#catchUpFrom, this.times[0] ?? 0);
      this.#catchUpFrom = Number.POSITIVE_INFINITY;
      this.#askPart(run, start).then(
        (answer) => {
          if (run.signal.aborted || answer.stepMs !== this.stepMs) return;
          this.#merge(answer);
          this.failure = null;
          this.version++;
        },
        (error: unknown) => {
          if (run.signal.aborted) return;
          this.failure = sentence(error);
          run.later(retries[1] as number, () => this.#catchUp(start, run));
        },
      );
    });
  }

  /** Draws once per animation frame at most, and not at all while the tab is hidden. */
  #changed(time: number): void {
    this.#reached = Math.max(this.#reached, time);
    if (this.#frame !== 0) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.#view.advance(this.#reached);
      this.version++;
    });
  }

  #bucket(time: number): number {
    return this.stepMs > 0 ? Math.floor(time / this.stepMs) * this.stepMs : time;
  }

  /** The newest step but one: the newest may have been fetched or averaged before it was over. */
  #lastComplete(): number {
    return this.times.at(-2) ?? (this.times.at(-1) as number);
  }

  #clear(): void {
    this.times = [];
    this.entities = [];
    this.stepMs = 0;
    this.#loaded = '';
    this.#bridged = '';
    this.#filled = null;
    this.#byName.clear();
    this.#newest.clear();
    this.#moments.clear();
  }

  /** Puts an answer into the columns, from this step of it on. */
  #merge({ times, series }: Series, first = 0): void {
    const rows = times.map((time, index) => (index < first ? -1 : this.#row(time)));
    // The newest step is better known here: the store may be a moment behind.
    const newest = this.#bucket(Math.max(0, ...this.#newest.values()));
    for (const { labels, field, values } of series) {
      const entity = this.#entity(labels);
      const column = this.#column(entity, field);
      for (let index = first; index < values.length; index++) {
        const value = values[index] ?? null;
        if (value === null) continue;
        const row = rows[index] as number;
        const time = times[index] as number;
        if (time !== newest || column[row] === null) column[row] = value;
        if (this.#filled === null || time > this.#filled) this.#filled = time;
      }
    }
  }

  #put(rows: LiveRows, scope: Scope): void {
    if (this.stepMs === 0) this.stepMs = rows.intervalMs;
    const wide = this.stepMs > rows.intervalMs;
    const newest = this.#newest.get(rows.host) ?? 0;
    // The newest state comes again with every subscription: counted once.
    if (rows.time < newest || (wide && rows.time === newest)) return;
    // The newest state of a host that is offline may be older than what is shown.
    if (scope.liveRange !== null && rows.time < this.#view.now - scope.liveRange) return;
    this.#newest.set(rows.host, rows.time);
    const bucket = this.#bucket(rows.time);
    const row = this.#row(bucket);
    let moment = this.#moments.get(rows.host);
    if (moment?.time !== bucket) {
      moment = { time: bucket, frames: 0, counts: new Map() };
      this.#moments.set(rows.host, moment);
    }
    moment.frames++;
    const count = this.#keys.length > 0 ? (rows.labels[this.#keys[0] as string]?.length ?? 0) : 1;
    for (let index = 0; index < count; index++) {
      const labels: Record<string, string> = { host: rows.host };
      for (const key of this.#keys) labels[key] = rows.labels[key]?.[index] ?? '';
      if (!this.#wanted(labels)) continue;
      const entity = this.#entity(labels);
      for (const field of this.request.fields) {
        const value = rows.values[field]?.[index] ?? null;
        const column = this.#column(entity, field);
        const old = column[row] ?? null;
        column[row] =
          wide && old !== null ? this.#join(old, value, `${entity.name}|${field}`, moment, rows, scope) : value;
      }
    }
    this.#trim(scope, rows.time);
  }

  /** One more value in a step: the larger, or the mean with those before. */
  #join(old: number, value: number | null, key: string, moment: Moment, rows: LiveRows, scope: Scope): number {
    if (value === null) return old;
    if (scope.agg === 'max') return Math.max(old, value);
    const before = moment.counts.get(key) ?? Math.max(1, Math.round((rows.time - moment.time) / rows.intervalMs));
    moment.counts.set(key, before + 1);
    return old + (value - old) / (before + 1);
  }

  #wanted(labels: Record<string, string>): boolean {
    return Object.entries(this.request.labels).every(
      ([label, values]) => values.length === 0 || values.includes(labels[label] ?? ''),
    );
  }

  #entity(labels: Readonly<Record<string, string>>): Entity {
    const name = this.#keys.map((key) => labels[key] ?? '').join(' ');
    const id = `${labels.host ?? ''}|${name}`;
    let entity = this.#byName.get(id);
    if (!entity) {
      entity = { labels, name, columns: {} };
      this.#byName.set(id, entity);
      this.entities.push(entity);
      this.entities.sort((a, b) => compareLabels(a.name, b.name));
    }
    return entity;
  }

  #column(entity: Entity, field: string): Column {
    let column = entity.columns[field];
    if (!column) {
      column = new Array<number | null>(this.times.length).fill(null);
      entity.columns[field] = column;
    }
    return column;
  }

  /** The row of a time, made when it is new. A hole before it gets a row of its own, so that it is drawn as one. */
  #row(time: number): number {
    const { times } = this;
    let index = times.length;
    while (index > 0 && (times[index - 1] as number) > time) index--;
    if (times[index - 1] === time) return index - 1;
    const before = times[index - 1];
    if (before !== undefined && time - before > this.stepMs * 1.5) this.#insert(index++, before + this.stepMs);
    this.#insert(index, time);
    const after = times[index + 1];
    if (after !== undefined && after - time > this.stepMs * 1.5) this.#insert(index + 1, time + this.stepMs);
    return index;
  }

  /** All columns stay as long as `times`. */
  #insert(index: number, time: number): void {
    this.times.splice(index, 0, time);
    for (const { columns } of this.entities) for (const column of Object.values(columns)) column.splice(index, 0, null);
  }

  /** Lets go of what has left the live range. */
  #trim(scope: Scope, now: number): void {
    if (scope.liveRange === null) return;
    const oldest = now - scope.liveRange - this.stepMs;
    let count = 0;
    while (count < this.times.length && (this.times[count] as number) < oldest) count++;
    if (count === 0) return;
    this.times.splice(0, count);
    for (const { columns } of this.entities) for (const column of Object.values(columns)) column.splice(0, count);
  }
}

/** The first step in which any series has a value; as many as there are when none has. */
function firstFilled(series: Series['series']): number {
  let first = Number.POSITIVE_INFINITY;
  for (const { values } of series) {
    const index = values.findIndex((value) => value !== null);
    if (index >= 0) first = Math.min(first, index);
  }
  return first;
}

/** What is wrong with the request itself does not become right by waiting. */
const retryable = (error: unknown): boolean =>
  !(error instanceof ApiError) || error.status === 0 || error.status === 429 || error.status >= 500;
