// Rows of a table whose rows have a time of their own: events, sessions. The store is asked for a range; when live rows tell
// that there is something new, it is asked again for what is newest.
import { type Api, ApiError, isAbort, type Row, sentence, type Table } from '#lib/api.ts';
import { entityOf, keysOf } from '#lib/entities.ts';
import type { Live } from '#lib/live.svelte.ts';
import type { Scope, View } from '#lib/view.svelte.ts';

export type LogRequest = {
  table: Table;
  hosts: readonly string[];
  labels: Readonly<Record<string, readonly string[]>>;
  /** Rows at most, the newest. */
  limit: number;
};

export type LogSources = {
  api: Pick<Api, 'rows'>;
  live: Pick<Live, 'watch'>;
  view: Pick<View, 'now'>;
};

/** The store is this far behind the live data at most, as a rule, milliseconds. */
const storeDelay = 2_500;
/** What is older than this is in the store, milliseconds. */
const settledAfter = 15_000;
/** Pause before what failed is tried again, milliseconds. */
const retryAfter = 5_000;

export class RowLog {
  readonly request: LogRequest;
  /** The newest first. */
  rows = $state.raw<readonly Row[]>([]);
  /** Whether the range has older rows than those. */
  truncated = $state(false);
  status = $state<'loading' | 'ready' | 'error'>('loading');
  failure = $state<string | null>(null);

  readonly #sources: LogSources;
  readonly #keys: readonly string[];

  constructor(request: LogRequest, sources: LogSources) {
    this.request = request;
    this.#sources = sources;
    this.#keys = keysOf(request.table);
  }

  /** What tells a row from all others. */
  keyOf(row: Row): string {
    return `${row.time} ${row.host} ${entityOf(row, this.#keys)}`;
  }

  /** Fetches what the scope asks for and follows it, until the returned function is called. */
  run(scope: Scope): () => void {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const { table, hosts, labels, limit } = this.request;
    const { api, live, view } = this.#sources;
    const load = async (): Promise<void> => {
      timer = undefined;
      const { liveRange } = scope;
      try {
        const { rows, truncated } = await api.rows(
          {
            table: table.name,
            hosts,
            labels,
            from: liveRange === null ? scope.from : `-${liveRange}ms`,
            to: liveRange === null ? scope.to : 'now',
            limit,
          },
          abort.signal,
        );
        this.rows = rows;
        this.truncated = truncated;
        this.status = 'ready';
        this.failure = null;
      } catch (error) {
        if (abort.signal.aborted || isAbort(error)) return;
        this.failure = sentence(error);
        this.status = this.rows.length > 0 ? 'ready' : 'error';
        const final = error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
        if (!final) timer = setTimeout(() => void load(), retryAfter);
      }
    };
    void load();
    const known = new Set<string>();
    const release =
      scope.liveRange === null
        ? () => {}
        : live.watch(
            { table: table.name, fields: [], hosts },
            {
              message: ({ host, time }) => {
                // What comes with the subscription is the newest that is known of each host: if it is old, it is stored already.
                const isNews = known.has(host) || time > view.now - settledAfter;
                known.add(host);
                if (isNews) timer ??= setTimeout(() => void load(), storeDelay);
              },
            },
          );
    return () => {
      abort.abort();
      clearTimeout(timer);
      release();
    };
  }
}
