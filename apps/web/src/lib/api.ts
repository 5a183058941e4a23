// The only place that asks the collector over HTTP. Types come from the contract, nothing else does.
import type {
  Aggregation,
  Catalog,
  Coverage,
  DeadLetters,
  Host,
  Hosts,
  Latest,
  Problem,
  Rows,
  Series,
} from '@fleetreel/proto/http';

export type { Aggregation, Catalog, Coverage, Host, Latest, Problem, Rows, Series };
export type Table = Catalog['tables'][number];
export type Field = Table['fields'][number];
export type Hole = Coverage['hosts'][number]['holes'][number];
export type Row = Latest['rows'][number];

/** What `series` is asked: times are milliseconds since 1970 or relative (`-15m`, `now`). */
export type SeriesQuery = {
  table: string;
  fields: readonly string[];
  hosts: readonly string[];
  labels: Readonly<Record<string, readonly string[]>>;
  from: number | string;
  to: number | string;
  /** A duration such as `15s`, or `auto`. */
  step: string;
  agg: Aggregation;
};

/** What `rows` is asked. */
export type RowsQuery = Pick<SeriesQuery, 'table' | 'hosts' | 'labels' | 'from' | 'to'> & { limit: number };

/** What `dead-letters` is asked: an empty host means all. */
export type DeadLettersQuery = { host: string; from: number | string; to: number | string; limit: number };

/** Who is told how many requests are under way, and what time it is at the collector (to the second). */
export type Observer = { pending?: (count: number) => void; clock?: (now: number) => void };

/** A request that was not answered as hoped: the message is the collector's own sentence where it gave one. */
export class ApiError extends Error {
  override name = 'ApiError';
  /** HTTP status, 0 when the collector could not be reached. */
  readonly status: number;
  readonly problem: Problem | null;

  constructor(message: string, status: number, problem: Problem | null, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
    this.problem = problem;
  }
}

/** Longest that any request may take, milliseconds: the store gives up before. */
const patience = 60_000;

export class Api {
  readonly #base: string;
  readonly #observer: Observer;
  #pending = 0;

  constructor(observer: Observer = {}, base = '/api/v1') {
    this.#observer = observer;
    this.#base = base;
  }

  catalog(signal?: AbortSignal): Promise<Catalog> {
    return this.#ask('GET', 'catalog', {}, signal);
  }

  hosts(signal?: AbortSignal): Promise<Hosts> {
    return this.#ask('GET', 'hosts', {}, signal);
  }

  /** Forgets a host: its claim of the name and its entry in the list, not its history. */
  forget(host: string, signal?: AbortSignal): Promise<void> {
    return this.#ask('DELETE', `hosts/${encodeURIComponent(host)}`, {}, signal);
  }

  latest(table: string, hosts: readonly string[], signal?: AbortSignal): Promise<Latest> {
    return this.#ask('GET', 'latest', { table, host: hosts }, signal);
  }

  series(query: SeriesQuery, signal?: AbortSignal): Promise<Series> {
    const { table, fields, hosts, labels, from, to, step, agg } = query;
    return this.#ask(
      'GET',
      'series',
      { table, field: fields, host: hosts, from, to, step, agg, ...named(labels) },
      signal,
    );
  }

  /** What of a range is stored of hosts, and every hole with its cause. */
  coverage(
    hosts: readonly string[],
    from: number | string,
    to: number | string,
    signal?: AbortSignal,
  ): Promise<Coverage> {
    return this.#ask('GET', 'coverage', { host: hosts, from, to }, signal);
  }

  /** Rows of a range, the newest first. */
  rows({ table, hosts, labels, from, to, limit }: RowsQuery, signal?: AbortSignal): Promise<Rows> {
    return this.#ask('GET', 'rows', { table, host: hosts, from, to, limit, ...named(labels) }, signal);
  }

  /** Messages that could not be stored, the newest first. */
  deadLetters(query: DeadLettersQuery, signal?: AbortSignal): Promise<DeadLetters> {
    return this.#ask('GET', 'dead-letters', query, signal);
  }

  async #ask<T>(method: string, path: string, parameters: Parameters, signal?: AbortSignal): Promise<T> {
    const limit = AbortSignal.timeout(patience);
    let response: Response;
    try {
      this.#observer.pending?.(++this.#pending);
      response = await fetch(`${this.#base}/${path}${search(parameters)}`, {
        method,
        headers: { accept: 'application/json' },
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      });
    } catch (cause) {
      if (signal?.aborted) throw cause;
      const message = limit.aborted
        ? `The collector did not answer within ${patience / 1000} s. Try a shorter range, or again later.`
        : 'The collector can’t be reached. Check that it runs and that the network is up.';
      throw new ApiError(message, 0, null, { cause });
    } finally {
      this.#observer.pending?.(--this.#pending);
    }
    const date = Date.parse(response.headers.get('date') ?? '');
    if (Number.isFinite(date)) this.#observer.clock?.(date);
    if (!response.ok) throw await refusal(response);
    if (response.status === 204) return undefined as T;
    return (await response.json()) as T;
  }
}

/** True for the error of a request that was given up on purpose. */
export const isAbort = (error: unknown): boolean =>
  error instanceof DOMException && (error.name === 'AbortError' || error.name === 'TimeoutError');

/** The sentence to show for whatever was thrown. */
export const sentence = (error: unknown): string => (error instanceof Error ? error.message : String(error));

type Parameters = Record<string, string | number | readonly string[]>;

/** The parameters that labels are asked for by. */
const named = (labels: SeriesQuery['labels']): Parameters =>
  Object.fromEntries(Object.entries(labels).map(([label, values]) => [`label.${label}`, values]));

/** Of several values each is a parameter of its own: a label's may have commas. */
function search(parameters: Parameters): string {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters))
    for (const text of Array.isArray(value) ? value : [String(value)]) if (text !== '') pairs.append(name, text);
  return pairs.size > 0 ? `?${pairs}` : '';
}

async function refusal(response: Response): Promise<ApiError> {
  const fallback = `The collector answered ${response.status} ${response.statusText}`.trim();
  try {
    const problem = (await response.json()) as Problem;
    return new ApiError(problem.detail || problem.title || fallback, response.status, problem);
  } catch {
    return new ApiError(`${fallback}.`, response.status, null);
  }
}
