// Columns of one table over the range that is looked at: fetched once, then grown by what arrives live.
import { type Api, type ApiError, isAbort, type Problem, type Series, sentence, type Table } from '#lib/api.ts';
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
  /** A duration, or `auto`: the collector chooses. */
  step?: string;
};

/** Where data comes from, and who is told how far time has come. */
export type Sources = {
  api: Pick<Api, 'series'>;
  live: Pick<Live, 'watch'> | null;
  view: Pick<View, 'advance' | 'synchronize'>;
};

type Moment = { time: number; counts: Map<string, number> };

/** Live rows that wait for the history before them; more than this and the history is fetched again. */
const pendingMost = 2_000;
/** The store is this far behind the live data at most, as a rule, milliseconds. */
const storeDelay = 2_500;
/** Pauses between attempts after an error, milliseconds. */
const retries = [3_000, 10_000, 30_000];

export class History {
  readonly request: Request;
  /** `loading` until there is something to show, `error` when there is nothing because of one. */
  status = $state<'loading' | 'ready' | 'error'>('loading');
  /** A request is under way. */
  busy = $state(false);
  /** Why the last request failed; null when it did not. */
  failure = $state<string | null>(null);
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
  #loaded = '';
  #pending: LiveRows[] | null = null;
  /** Per host: the newest frame that was taken. */
  #newest = new Map<string, number>();
  /** How many frames are in the newest step, per host, for the mean of a step that is wider than the interval. */
  #moments = new Map<string, Moment>();
  #catchUpFrom = Number.POSITIVE_INFINITY;
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
    const later = (milliseconds: number, what: () => void) => {
      const timer = setTimeout(() => {
        timers.delete(timer);
        what();
      }, milliseconds);
      timers.add(timer);
    };
    let release = () => {};
    if (scope.liveRange !== null && this.#live) {
      this.#pending = [];
      release = this.#live.watch(
        { table: this.request.table.name, fields: this.request.fields, hosts: this.request.hosts },
        {
          message: (rows) => this.#arrive(rows, scope, later, abort.signal),
          problem: (problem: Problem) => {
            this.failure = problem.detail;
          },
        },
      );
    }
    void this.#load(scope, abort.signal, later, 0);
    return () => {
      abort.abort();
      release();
      for (const timer of timers) clearTimeout(timer);
      cancelAnimationFrame(this.#frame);
      this.#frame = 0;
      this.#catchUpFrom = Number.POSITIVE_INFINITY;
      this.#pending = null;
      this.busy = false;
    };
  }

  /** One row of live data, when it does not come by a subscription of its own. */
  take(rows: LiveRows, scope: Scope): void {
    if (this.#loaded !== scope.key) return;
    this.#put(rows, scope);
    this.#changed(rows.time);
  }

  async #load(scope: Scope, signal: AbortSignal, later: Later, attempt: number): Promise<void> {
    // After a pause (the section was out of sight) only what is missing is asked for.
    const again = this.#loaded === scope.key && scope.liveRange !== null && this.times.length > 0;
    const from = again ? this.#lastComplete() : scope.liveRange !== null ? `-${scope.liveRange / 1000}s` : scope.from;
    this.busy = true;
    try {
      const answer = await this.#ask(scope, from, signal);
      if (signal.aborted) return;
      if (again && answer.stepMs === this.stepMs) this.#merge(answer);
      else if (again) return await this.#reload(scope, signal, later);
      else this.#replace(answer);
      this.#loaded = scope.key;
      this.failure = null;
      this.#resume(scope, later, signal);
    } catch (error) {
      if (signal.aborted || (isAbort(error) && signal.aborted)) return;
      this.failure = sentence(error);
      if (scope.liveRange === null) {
        this.#clear();
        this.status = 'error';
      } else {
        // History is away, live data goes on.
        if (this.#loaded !== scope.key) this.#clear();
        this.#loaded = scope.key;
        if (this.times.length === 0) this.status = 'error';
        this.#resume(scope, later, signal);
        if (retryable(error as ApiError))
          later(retries[Math.min(attempt, retries.length - 1)] as number, () => {
            if (this.times.length === 0) this.#loaded = '';
            void this.#load(scope, signal, later, attempt + 1);
          });
      }
      this.version++;
    } finally {
      if (!signal.aborted) this.busy = false;
    }
  }

  async #reload(scope: Scope, signal: AbortSignal, later: Later): Promise<void> {
    this.#loaded = '';
    await this.#load(scope, signal, later, 0);
  }

  #ask(scope: Scope, from: number | string, signal: AbortSignal): Promise<Series> {
    const { table, fields, hosts, labels, step = 'auto' } = this.request;
    return this.#api.series(
      {
        table: table.name,
        fields,
        hosts,
        labels,
        from,
        to: scope.liveRange !== null ? 'now' : scope.to,
        // A part is asked for in the steps of the whole.
        step: typeof from === 'number' && scope.liveRange !== null ? `${this.stepMs / 1000}s` : step,
        agg: scope.agg,
      },
      signal,
    );
  }

  #resume(scope: Scope, later: Later, signal: AbortSignal): void {
    const pending = this.#pending ?? [];
    this.#pending = null;
    this.status = 'ready';
    for (const rows of pending) this.#arrive(rows, scope, later, signal);
    this.version++;
  }

  #arrive(rows: LiveRows, scope: Scope, later: Later, signal: AbortSignal): void {
    if (this.#pending) {
      if (this.#pending.length >= pendingMost) this.#pending.shift();
      this.#pending.push(rows);
      return;
    }
    const before = this.#newest.get(rows.host) ?? this.times.at(-1);
    const bucket = this.stepMs > 0 ? this.#bucket(rows.time) : rows.time;
    const jump = before !== undefined && rows.time - before > Math.max(this.stepMs, rows.intervalMs) * 1.5;
    const finished = this.stepMs > rows.intervalMs && before !== undefined && bucket > this.#bucket(before);
    this.#put(rows, scope);
    this.#changed(rows.time);
    // A hole (a lost connection, a sleeping tab, a slow reader) or a finished step that was averaged here: ask the store.
    if ((jump || finished) && before !== undefined) this.#catchUp(this.#bucket(before), scope, later, signal);
  }

  #catchUp(from: number, scope: Scope, later: Later, signal: AbortSignal): void {
    const waiting = Number.isFinite(this.#catchUpFrom);
    this.#catchUpFrom = Math.min(this.#catchUpFrom, from);
    if (waiting) return;
    later(storeDelay, () => {
      const start = Math.max(this.#catchUpFrom, (this.times[0] ?? 0) - this.stepMs);
      this.#catchUpFrom = Number.POSITIVE_INFINITY;
      this.#ask(scope, start, signal).then(
        (answer) => {
          if (signal.aborted || answer.stepMs !== this.stepMs) return;
          this.#merge(answer);
          this.failure = null;
          this.version++;
        },
        (error: unknown) => {
          if (signal.aborted) return;
          this.failure = sentence(error);
          later(retries[1] as number, () => this.#catchUp(start, scope, later, signal));
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
    this.#byName.clear();
    this.#newest.clear();
    this.#moments.clear();
  }

  #replace(answer: Series): void {
    this.#clear();
    this.stepMs = answer.stepMs;
    this.#view.synchronize(answer.to);
    this.#merge(answer);
  }

  #merge(answer: Series): void {
    const rows = answer.times.map((time) => this.#row(time));
    for (const { labels, field, values } of answer.series) {
      const entity = this.#entity(labels);
      const column = this.#column(entity, field);
      for (let index = 0; index < values.length; index++) {
        const value = values[index] ?? null;
        const row = rows[index] as number;
        // What came live and is not stored yet stays.
        if (value !== null) column[row] = value;
      }
    }
  }

  #put(rows: LiveRows, scope: Scope): void {
    if (this.stepMs === 0) this.stepMs = rows.intervalMs;
    const wide = this.stepMs > rows.intervalMs;
    const newest = this.#newest.get(rows.host) ?? 0;
    // The newest state comes again with every subscription: counted once.
    if (rows.time < newest || (wide && rows.time === newest)) return;
    this.#newest.set(rows.host, rows.time);
    const bucket = this.#bucket(rows.time);
    const row = this.#row(bucket);
    let moment = this.#moments.get(rows.host);
    if (moment?.time !== bucket) {
      moment = { time: bucket, counts: new Map() };
      this.#moments.set(rows.host, moment);
    }
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

type Later = (milliseconds: number, what: () => void) => void;

/** What is wrong with the request itself does not become right by waiting. */
const retryable = ({ status }: ApiError): boolean => status === 0 || status === 429 || status >= 500;
