// Rows into the store, as one request or none.
import { Pool } from 'undici';
import { answerMilliseconds, requestBytesMax, requestMilliseconds } from '#limits.ts';
import { type AdminSettings, authorization } from '#store/admin.ts';
import type { Rows } from '#store/rows.ts';
import type { Telemetry } from '#telemetry.ts';

/** The store refused rows: they will never be taken as they are. The message is the store's. */
export class RowsRefused extends Error {
  override name = 'RowsRefused';
}

/**
 * What QuestDB says, as of rows that it refuses, when the system has not let it write: EIO, ENOMEM, ENFILE, EMFILE, ENOSPC, EROFS,
 * EDQUOT. The table is named before anything that comes from a row.
 */
const systemFailure = /^[^:]*:[^:]*:write error: \w+, errno: (?:5|12|23|24|28|30|122), error: /;

/** Sends rows to the store. */
export class Writer {
  readonly #origin: string;
  #pool: Pool;
  readonly #headers: Record<string, string>;
  readonly #keepTables: () => Promise<void>;
  readonly #telemetry: Pick<Telemetry, 'storeRefused'>;

  /** @param keepTables makes the tables as they should be: tried once when rows are refused, before they are blamed */
  constructor(settings: AdminSettings, keepTables: () => Promise<void>, telemetry: Pick<Telemetry, 'storeRefused'>) {
    this.#origin = new URL(settings.http_url).origin;
    this.#pool = this.#connections();
    this.#headers = { authorization: authorization(settings) };
    this.#keepTables = keepTables;
    this.#telemetry = telemetry;
  }

  /**
   * Sends all frames of a buffer, in parts where they are many; returns the places of those that the store refused, with
   * its reason. When it throws some may be stored; they fall on the same rows when they are sent again.
   * @throws when the store can't be reached or used
   */
  async send(rows: Rows): Promise<Map<number, string>> {
    const refused = new Map<number, string>();
    let first = 0;
    while (first < rows.frameCount) {
      let end = first + 1;
      while (end < rows.frameCount && rows.lines(first, end + 1).length <= requestBytesMax) end++;
      await this.#sendPart(rows, first, end, refused);
      first = end;
    }
    return refused;
  }

  async close(): Promise<void> {
    await this.#pool.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #connections(): Pool {
    return new Pool(this.#origin, {
      connections: 2,
      headersTimeout: requestMilliseconds,
      bodyTimeout: requestMilliseconds,
      connect: { timeout: answerMilliseconds },
    });
  }

  async #sendPart(rows: Rows, first: number, end: number, refused: Map<number, string>): Promise<void> {
    try {
      await this.#post(rows.lines(first, end));
    } catch (cause) {
      if (!(cause instanceof RowsRefused)) throw cause;
      this.#telemetry.storeRefused(cause.message);
      // A table that somebody dropped, or a column, is not the rows' fault. QuestDB keeps what a connection knows of a table:
      // only new ones see what was made.
      await this.#keepTables();
      await this.#pool.destroy();
      this.#pool = this.#connections();
      await this.#isolate(rows, first, end, refused);
    }
  }

  /** One bad row rejects its whole request: the frames are halved until the bad one is alone. */
  async #isolate(rows: Rows, first: number, end: number, refused: Map<number, string>): Promise<void> {
    try {
      await this.#post(rows.lines(first, end));
    } catch (cause) {
      if (!(cause instanceof RowsRefused)) throw cause;
      if (end - first === 1) {
        refused.set(first, cause.message);
        return;
      }
      const middle = (first + end) >> 1;
      await this.#isolate(rows, first, middle, refused);
      await this.#isolate(rows, middle, end, refused);
    }
  }

  async #post(lines: Uint8Array): Promise<void> {
    const { statusCode, body } = await this.#pool.request({
      method: 'POST',
      path: '/write',
      headers: this.#headers,
      body: lines,
    });
    const text = await body.text();
    if (statusCode === 204) return;
    const said = message(text);
    // Nothing is wrong with the rows: they are taken when the system lets it write again.
    if (systemFailure.test(said)) throw new Error(`the store can't write: ${said}`);
    // A line that can't be read is answered 400, one whose text is not UTF-8 is answered 500.
    if (statusCode === 400 || said.includes('failed to parse line protocol')) throw new RowsRefused(said);
    if (statusCode === 401 || statusCode === 403)
      throw new Error('the store refuses the user: questdb.user and questdb.password are wrong');
    throw new Error(`the store answered ${statusCode}: ${said}`);
  }
}

function message(text: string): string {
  let said = text;
  try {
    said = (JSON.parse(text) as { message?: string }).message ?? text;
  } catch {
    // Not JSON: the text itself says it.
  }
  return said.replace(/\s+/g, ' ').trim().slice(0, 500);
}
