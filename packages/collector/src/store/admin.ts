import { request } from 'undici';
import { answerMilliseconds } from '#limits.ts';

/** Where the store is written and its tables are made. */
export type AdminSettings = { http_url: string; user: string; password: string };

/** The header that names the user who may write. */
export const authorization = ({ user, password }: AdminSettings): string =>
  `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`;

/** A cell of an answer: timestamps are RFC 3339. */
export type Value = string | number | boolean | null;

/** The store answered that a statement can't be carried out. */
export class StatementError extends Error {
  override name = 'StatementError';
}

/**
 * Runs one statement as the user who may change tables; returns its rows.
 * @throws StatementError when the store refuses it, other errors when it can't be reached
 */
export async function execute(
  settings: AdminSettings,
  statement: string,
  timeout_ms = answerMilliseconds,
): Promise<Value[][]> {
  const url = new URL('/exec', settings.http_url);
  url.searchParams.set('query', statement);
  const { statusCode, body } = await request(url, {
    headers: { authorization: authorization(settings) },
    headersTimeout: timeout_ms,
    bodyTimeout: timeout_ms,
  });
  const text = await body.text();
  if (statusCode === 401 || statusCode === 403)
    throw new StatementError('the store refuses the user: questdb.user and questdb.password are wrong');
  const answer = parse(text);
  if (statusCode !== 200 || answer.error !== undefined)
    throw new StatementError(`${answer.error ?? `status ${statusCode}`} (${statement.slice(0, 120)})`);
  return answer.dataset ?? [];
}

function parse(text: string): { error?: string; dataset?: Value[][] } {
  try {
    return JSON.parse(text) as { error?: string; dataset?: Value[][] };
  } catch {
    return { error: text.slice(0, 200) };
  }
}
