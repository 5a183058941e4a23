// Who watches which rows. A frame's table is decoded once for all of its watchers, and not at all when there is none.
import type { Table } from '@fleetreel/proto';
import type { Newest, NewestFrame, Rows } from '#live/newest.ts';

/** What somebody watches. */
export type Watch = {
  tenant: string;
  table: Table;
  /** None means all. */
  hosts: readonly string[];
};

/** Rows of one table that one frame of one host brought. */
export type Update = { frame: NewestFrame; rows: Rows };

type Listener = (update: Update) => void;
type Watcher = { hosts: ReadonlySet<string> | undefined; listener: Listener };

export class Hub {
  readonly #newest: Newest;
  readonly #watchers = new Map<string, Map<Table, Set<Watcher>>>();
  readonly #end: () => void;

  constructor(newest: Newest) {
    this.#newest = newest;
    this.#end = newest.onFrame((frame) => this.#deliver(frame));
  }

  /** Calls the listener with the newest known rows at once, then with new ones; returns the way to end that. */
  watch({ tenant, table, hosts }: Watch, listener: Listener): () => void {
    const watcher: Watcher = { hosts: hosts.length > 0 ? new Set(hosts) : undefined, listener };
    const tables = this.#watchers.get(tenant) ?? new Map<Table, Set<Watcher>>();
    const watchers = tables.get(table) ?? new Set<Watcher>();
    this.#watchers.set(tenant, tables.set(table, watchers.add(watcher)));
    for (const frame of this.#newest.list(tenant)) send(frame, table, watcher);
    return () => watchers.delete(watcher);
  }

  /** Watches that are open. */
  get size(): number {
    let count = 0;
    for (const tables of this.#watchers.values()) for (const watchers of tables.values()) count += watchers.size;
    return count;
  }

  close(): void {
    this.#end();
    this.#watchers.clear();
  }

  #deliver(frame: NewestFrame): void {
    const tables = this.#watchers.get(frame.tenant);
    if (!tables) return;
    for (const table of frame.tables) for (const watcher of tables.get(table) ?? []) send(frame, table, watcher);
  }
}

function send(frame: NewestFrame, table: Table, { hosts, listener }: Watcher): void {
  if (hosts && !hosts.has(frame.host)) return;
  const rows = frame.rows(table);
  if (rows) listener({ frame, rows });
}
