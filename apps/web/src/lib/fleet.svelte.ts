// What every page needs and only one place keeps: the list of hosts, and the catalogue.
import { type Api, type Host, isAbort, type Row, sentence, type Table } from '#lib/api.ts';
import type { Live, LiveRows } from '#lib/live.svelte.ts';

/** Pause before what failed is tried again, milliseconds. */
const retryAfter = 5_000;

/** All hosts, as the collector knows them now. */
export class Fleet {
  /** By name, in the order of names. */
  hosts = $state.raw<readonly Host[]>([]);
  status = $state<'loading' | 'ready' | 'error'>('loading');
  failure = $state('');
  /** When the list was last heard of, milliseconds since 1970. */
  heard = $state(0);

  readonly #byName = $derived(new Map(this.hosts.map((host) => [host.host, host])));
  readonly #api: Api;
  readonly #live: Live;
  readonly #listeners = new Set<(hosts: readonly Host[]) => void>();

  constructor(api: Api, live: Live) {
    this.#api = api;
    this.#live = live;
  }

  get(host: string): Host | undefined {
    return this.#byName.get(host);
  }

  /** Tells of hosts as they change, until the returned function is called. */
  listen(listener: (hosts: readonly Host[]) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Keeps the list, first by one request, then live, until the returned function is called. */
  start(): () => void {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let whole = false;
    const load = async (): Promise<void> => {
      try {
        const { hosts } = await this.#api.hosts(abort.signal);
        if (!whole) this.#replace(hosts);
      } catch (error) {
        if (abort.signal.aborted || isAbort(error)) return;
        if (this.status !== 'ready') {
          this.failure = sentence(error);
          this.status = 'error';
        }
        timer = setTimeout(() => void load(), retryAfter);
      }
    };
    void load();
    const release = this.#live.watchHosts({
      message: ({ hosts, removed }) => {
        // After subscribing all hosts come; afterwards those that changed.
        const known = new Map(this.hosts.map((host) => [host.host, host]));
        for (const name of removed) known.delete(name);
        for (const host of hosts) known.set(host.host, host);
        whole = true;
        this.#replace([...known.values()], hosts);
      },
      problem: ({ detail }) => {
        this.failure = detail;
      },
    });
    return () => {
      abort.abort();
      clearTimeout(timer);
      release();
    };
  }

  async forget(host: string): Promise<void> {
    await this.#api.forget(host);
    this.#replace(this.hosts.filter((other) => other.host !== host));
  }

  #replace(hosts: readonly Host[], changed = hosts): void {
    this.hosts = [...hosts].sort((a, b) => a.host.localeCompare(b.host, 'en', { numeric: true }));
    this.status = 'ready';
    this.failure = '';
    this.heard = Date.now();
    for (const listener of this.#listeners) listener(changed);
  }
}

/** The tables of the contract. */
export class Contract {
  tables = $state.raw<readonly Table[]>([]);
  status = $state<'loading' | 'ready' | 'error'>('loading');
  failure = $state('');

  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  table(name: string): Table | undefined {
    return this.tables.find((table) => table.name === name);
  }

  start(): () => void {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const load = async (): Promise<void> => {
      try {
        this.tables = (await this.#api.catalog(abort.signal)).tables;
        this.status = 'ready';
      } catch (error) {
        if (abort.signal.aborted || isAbort(error)) return;
        this.failure = sentence(error);
        this.status = 'error';
        timer = setTimeout(() => void load(), retryAfter);
      }
    };
    void load();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }
}

/** The newest rows of one table of one host, kept up to date. */
export class Newest {
  rows = $state.raw<readonly Row[]>([]);
  status = $state<'loading' | 'ready' | 'error'>('loading');
  failure = $state('');

  /** Of the rows, milliseconds since 1970; null while there are none. */
  readonly time = $derived(this.rows[0]?.time ?? null);

  readonly #table: string;
  readonly #host: string;
  readonly #api: Api;
  readonly #live: Live;

  constructor(table: string, host: string, { api, live }: { api: Api; live: Live }) {
    this.#table = table;
    this.#host = host;
    this.#api = api;
    this.#live = live;
  }

  start(): () => void {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let newest = 0;
    const load = async (): Promise<void> => {
      try {
        const { rows } = await this.#api.latest(this.#table, [this.#host], abort.signal);
        if (newest === 0) this.rows = rows;
        this.status = 'ready';
      } catch (error) {
        if (abort.signal.aborted || isAbort(error)) return;
        this.failure = sentence(error);
        if (newest === 0) this.status = 'error';
        timer = setTimeout(() => void load(), retryAfter);
      }
    };
    void load();
    const release = this.#live.watch(
      { table: this.#table, hosts: [this.#host] },
      {
        message: (rows) => {
          if (rows.time < newest) return;
          newest = rows.time;
          this.rows = rowsOf(rows);
          this.status = 'ready';
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

function rowsOf({ host, time, labels, values }: LiveRows): Row[] {
  const columns = [...Object.entries(labels), ...Object.entries(values)];
  const count = Math.max(0, ...columns.map(([, column]) => column.length));
  return Array.from({ length: count }, (_, index) => {
    const row: Row = { time, host };
    for (const [name, column] of columns) row[name] = column[index] ?? null;
    return row;
  });
}
