// Finds what was written, page by page.

import type { Metadata, Severity } from '#entry.ts';
import { ConfigurationError } from '#errors.ts';
import { pageCount } from '#limits.ts';
import type { Transport } from '#transport.ts';

/** What is looked for. */
export type Filter = {
  /** One of these names; `*` stands for any characters. All by default. */
  name?: string | readonly string[] | undefined;
  /** Begin of the range: a date, or text as `-1h` and RFC 3339, or milliseconds since 1970; the last hour by default. */
  from?: Date | string | number | undefined;
  /** End of the range, exclusive; now by default. */
  to?: Date | string | number | undefined;
  /** Metadata that are equal, or conditions, all of which hold: `['size>=10', 'host=web-*']`. */
  where?: Metadata | readonly string[] | undefined;
  /** At most so many; all of the range by default. */
  limit?: number | undefined;
};

export type EventFilter = Filter & { severity?: Severity | readonly Severity[] | undefined };

type Found = {
  /** Unique within its time. */
  id: string;
  /** Milliseconds since 1970, with up to three decimals. */
  time: number;
  name: string;
  metadata: Metadata;
  /** The id of the key that it was written with. */
  source: string;
};

/** A measure as it was stored: with a value or a text. */
export type Measure = Found & { value: number | null; text: string | null };

/** An event as it was stored. */
export type Event = Found & {
  text: string;
  severity: Severity;
  /** Milliseconds since 1970; null where it has no length. */
  end: number | null;
};

/** The newest first. @throws RequestError, ConnectionError */
export async function* find<Row extends Found>(
  transport: Transport,
  path: 'measure' | 'event',
  filter: EventFilter,
): AsyncGenerator<Row, void, undefined> {
  const { limit = Infinity } = filter;
  if (!(limit >= 0)) throw new ConfigurationError(`"limit" is a number of 0 or more, and not ${String(limit)}.`);
  const parameters = parametersOf(filter);
  let left = limit;
  while (left > 0) {
    parameters.set('limit', String(Math.min(left, pageCount)));
    const answer = await transport.request(`/api/v1/${path}?${parameters.toString()}`, { method: 'GET' });
    const page = await transport.json(answer, `${path}s`);
    const rows = page[`${path}s`] as Row[];
    yield* rows;
    left -= rows.length;
    if (page.before === null) return;
    parameters.set('before', page.before as string);
  }
}

function parametersOf({ name, from, to, where, severity }: EventFilter): URLSearchParams {
  const parameters = new URLSearchParams();
  for (const one of list(name)) parameters.append('name', one);
  for (const one of list(severity)) parameters.append('severity', one);
  if (from !== undefined) parameters.set('from', timeText(from));
  if (to !== undefined) parameters.set('to', timeText(to));
  for (const condition of conditionsOf(where)) parameters.append('where', condition);
  return parameters;
}

const list = <T extends string>(given: T | readonly T[] | undefined): readonly T[] =>
  given === undefined ? [] : typeof given === 'string' ? [given] : given;

const timeText = (time: Date | string | number): string =>
  time instanceof Date ? String(time.getTime()) : String(time);

function conditionsOf(where: Filter['where'] = []): readonly string[] {
  if (Array.isArray(where)) return where as readonly string[];
  // In quotes a text is itself: not a pattern, nor a number.
  return Object.entries(where).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
}
