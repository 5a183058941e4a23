import { ApiError } from '@fleetreel/proto/errors';
import pg from 'pg';
import type { Statement } from '#store/sql.ts';

/** Where history is read from. */
export type ReaderSettings = { pg_host: string; pg_port: number; read_user: string; read_password: string };

/** A cell: symbols are text, doubles and whole numbers are numbers, timestamps are microseconds since 1970. */
export type Cell = string | number | null;

/** Connections to QuestDB at most; it takes 64 from everybody. */
export const connectionsMax = 12;
/** Queries that may wait for a connection; beyond, the API answers "busy". */
export const waitingQueriesMax = 256;
/** Longest wait for an answer: a query that takes longer is given up, and its connection closed, which cancels it in the server. */
export const queryMilliseconds = 15_000;
const connectMilliseconds = 5000;
const idleMilliseconds = 60_000;

/** Object identifiers of PostgreSQL's types, as QuestDB uses them. */
const oid = { timestamp: 1114, int8: 20, int4: 23, int2: 21, float8: 701, float4: 700 } as const;

const numbers: ReadonlySet<number> = new Set([oid.int8, oid.int4, oid.int2, oid.float8, oid.float4]);
const types = {
  // Timestamps come without a zone and are UTC; pg would read them in this machine's zone.
  getTypeParser(type: number) {
    if (type === oid.timestamp) return timestampMicroseconds;
    return numbers.has(type) ? Number : String;
  },
};

/** Microseconds since 1970 of `2026-01-31 12:00:00.123456`, which is UTC; also with `T` and `Z`. */
export function timestampMicroseconds(text: string): number {
  const [, seconds = '', fraction = ''] = /^(.*?)(?:\.(\d+))?Z?$/.exec(text.replace(' ', 'T')) ?? [];
  return Date.parse(`${seconds}Z`) * 1000 + Number(fraction.slice(0, 6).padEnd(6, '0'));
}

/**
 * Reads QuestDB over the PostgreSQL wire as the user that may only read, with bound values.
 * @throws ApiError of `query`: store_unavailable, store_timeout, busy; other errors are faults of the statement.
 */
export class Reader {
  readonly #pool: pg.Pool;

  constructor({ pg_host, pg_port, read_user, read_password }: ReaderSettings) {
    this.#pool = new pg.Pool({
      host: pg_host,
      port: pg_port,
      user: read_user,
      password: read_password,
      database: 'qdb',
      application_name: 'fleetreel-collector',
      max: connectionsMax,
      connectionTimeoutMillis: connectMilliseconds,
      idleTimeoutMillis: idleMilliseconds,
      query_timeout: queryMilliseconds,
      keepAlive: true,
      allowExitOnIdle: true,
    });
    // An idle connection that the server closed: the pool has removed it, and the next query opens another.
    this.#pool.on('error', () => undefined);
  }

  /** The rows of a statement, each an array in the order of its columns. */
  async query({ text, values }: Statement): Promise<Cell[][]> {
    if (this.#pool.waitingCount >= waitingQueriesMax) throw new ApiError('busy', { most: waitingQueriesMax });
    try {
      const query = { text, values: [...values], rowMode: 'array' as const, types };
      return (await this.#pool.query<Cell[]>(query)).rows;
    } catch (cause) {
      throw explain(cause);
    }
  }

  /** Resolves when the store answers. */
  async check(): Promise<void> {
    await this.query({ text: 'SELECT 1', values: [] });
  }

  async close(): Promise<void> {
    await this.#pool.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function explain(cause: unknown): unknown {
  if (!(cause instanceof Error)) return cause;
  const { message } = cause;
  if (message === 'Query read timeout' || /timeout, query aborted/.test(message))
    return new ApiError('store_timeout', { most: queryMilliseconds / 1000 }, { cause });
  const missing = /table does not exist \[table=(\w+)\]|Invalid column: (\w+)/.exec(message);
  if (missing)
    return new ApiError(
      'store_unavailable',
      {
        reason: `the collector has not made ${missing[1] ? 'the table' : 'the column'} ${missing[1] ?? missing[2]} yet`,
      },
      { cause },
    );
  const code = (cause as NodeJS.ErrnoException).code ?? (cause as AggregateError).errors?.[0]?.code;
  if (/^E[A-Z]+$/.test(String(code)) || /connection|terminated|timeout/i.test(message))
    return new ApiError(
      'store_unavailable',
      { reason: code === 'ECONNREFUSED' ? 'it refuses connections' : message.toLowerCase() || String(code) },
      { cause },
    );
  return cause;
}
