// Measures, events and the audit trail as both faces ask for them: newest first, page by page, whatever arrives meanwhile.
import { decodeMetadata } from '@fleetreel/proto/custom';
import { ApiError, clip } from '@fleetreel/proto/errors';
import { type Metadata, metadataKeyPattern, type Severity, severities } from '@fleetreel/proto/http';
import { customPageBytesMax } from '#limits.ts';
import { parseRange } from '#query/time.ts';
import {
  auditTable,
  type Comparison,
  type Condition,
  type CustomSelection,
  customAt,
  eventTable,
  type Most,
  measureTable,
  newestCustom,
  type Position,
} from '#store/custom.ts';
import type { Cell, Reader } from '#store/reader.ts';

/** Rows of one page, when nothing else is asked for, and at most. */
export const customLimit = { default: 500, max: 5000 } as const;
/** Names, and conditions, of one question at most. */
const patternsMax = 100;
const conditionsMax = 20;

/** What is asked, as it was written. */
export type PageQuestion = {
  from?: string | undefined;
  to?: string | undefined;
  limit?: string | undefined;
  before?: string | undefined;
};
export type CustomQuestion = PageQuestion & { names: readonly string[]; where: readonly string[] };
export type EventQuestion = CustomQuestion & { severities: readonly string[] };
export type AuditQuestion = PageQuestion & Partial<Record<'actor' | 'action' | 'target', string | undefined>>;

/** What every row has: who wrote it, and when: UTC, microseconds since 1970. */
type Found = { id: string; time_us: number };
type FoundEntry = Found & { name: string; source: string; metadata: Metadata };
export type FoundMeasure = FoundEntry & { value: number | null; text: string | null };
export type FoundEvent = FoundEntry & { end_us: number | null; severity: Severity; text: string };
/** `before` and `after` are JSON; empty where there is nothing. */
export type FoundRecord = Found & {
  actor: { kind: string; id: string; name: string };
  action: string;
  target: string;
  before: string;
  after: string;
  address: string;
  collector: string;
};

/** Rows, the newest first; `before` continues the list, undefined at its end. */
export type Page<T> = { rows: T[]; before: string | undefined };

/** @throws ApiError */
export async function findMeasures(
  reader: Pick<Reader, 'query'>,
  tenant: string,
  question: CustomQuestion,
  now: number,
): Promise<Page<FoundMeasure>> {
  const asked: Asked = {
    tenant,
    table: measureTable,
    columns: [named(question.names)],
    conditions: conditionsOf(question.where),
  };
  return await page(reader, asked, question, now, (found, [name, source, value, text, metadata]) => ({
    ...found,
    name: String(name),
    source: String(source),
    value: value === null ? null : Number(value),
    text: value === null ? String(text ?? '') : null,
    metadata: decodeMetadata(String(metadata ?? '')),
  }));
}

/** @throws ApiError */
export async function findEvents(
  reader: Pick<Reader, 'query'>,
  tenant: string,
  question: EventQuestion,
  now: number,
): Promise<Page<FoundEvent>> {
  const known: readonly string[] = severities;
  const wrong = question.severities.find((one) => !known.includes(one));
  if (wrong !== undefined)
    throw new ApiError('bad_value', { parameter: 'severity', value: clip(wrong), expected: severities.join(', ') });
  const grave = { names: ['severity'], patterns: question.severities } as const;
  const columns = [named(question.names), grave];
  const asked: Asked = { tenant, table: eventTable, columns, conditions: conditionsOf(question.where) };
  return await page(reader, asked, question, now, (found, [name, source, until, severity, text, metadata]) => ({
    ...found,
    name: String(name),
    source: String(source),
    end_us: until === null ? null : Number(until),
    severity: String(severity) as Severity,
    text: String(text ?? ''),
    metadata: decodeMetadata(String(metadata ?? '')),
  }));
}

/** @throws ApiError */
export async function findAuditRecords(
  reader: Pick<Reader, 'query'>,
  tenant: string,
  { actor, action, target, ...question }: AuditQuestion,
  now: number,
): Promise<Page<FoundRecord>> {
  const given = (value: string | undefined) => (value ? [value] : []);
  const columns = [
    { names: ['actor_id', 'actor_name'], patterns: given(actor) },
    { names: ['action'], patterns: given(action) },
    { names: ['target'], patterns: given(target) },
  ] as const;
  const asked: Asked = { tenant, table: auditTable, columns, conditions: [] };
  const within = { ...question, from: question.from || '-1d' };
  return await page(reader, asked, within, now, (found, cells) => {
    const [collector = '', kind = '', id = '', name = '', did = '', to = '', before = '', after = '', address = ''] =
      cells.map((cell) => String(cell ?? ''));
    return { ...found, actor: { kind, id, name }, action: did, target: to, before, after, address, collector };
  });
}

/** @throws ApiError bad_value */
function named(names: readonly string[]) {
  if (names.length > patternsMax)
    throw new ApiError('too_many_names', { parameter: 'name', count: names.length, most: patternsMax });
  for (const name of names)
    if (!/^[A-Za-z0-9_.:/*-]{1,128}$/.test(name))
      throw new ApiError('bad_value', {
        parameter: 'name',
        value: clip(name),
        expected: 'a name of letters, digits, "_", "-", ".", ":" and "/", where "*" stands for any characters',
      });
  return { names: ['name'], patterns: names } as const;
}

const conditionRule = new RegExp(`^(${metadataKeyPattern.slice(1, -1)})(<=|>=|!=|=|<|>)(.*)$`, 's');

/** @throws ApiError bad_condition */
function conditionsOf(where: readonly string[]): Condition[] {
  if (where.length > conditionsMax)
    throw new ApiError('too_many_names', { parameter: 'where', count: where.length, most: conditionsMax });
  return where.map(conditionOf);
}

/**
 * A condition as it is written: a number, a boolean or a string is compared with metadata of that type alone.
 * @throws ApiError bad_condition
 */
export function conditionOf(text: string): Condition {
  const wrong = (reason: string) => new ApiError('bad_condition', { parameter: 'where', value: clip(text), reason });
  const [, key, operator, literal] = conditionRule.exec(text) ?? [];
  if (key === undefined || literal === undefined) throw wrong('it is no key, comparison and value');
  const comparison = operator as Comparison;
  if (/^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?$/.test(literal)) {
    const value = Number(literal);
    if (!Number.isFinite(value)) throw wrong('its number is too large');
    return { key, type: 'number', comparison, value };
  }
  if (comparison !== '=' && comparison !== '!=')
    throw wrong(`only numbers are compared by ${comparison}, and ${clip(literal) || 'nothing'} is none`);
  if (literal === 'true' || literal === 'false') return { key, type: 'boolean', comparison, value: literal === 'true' };
  if (literal === '') throw wrong('there is no value; the empty string is ""');
  if (!literal.startsWith('"')) return { key, type: 'string', comparison, value: literal, isPattern: true };
  const value = quotedText(literal);
  if (value === undefined) throw wrong('its quotes are not those of a JSON string');
  return { key, type: 'string', comparison, value, isPattern: false };
}

function quotedText(literal: string): string | undefined {
  try {
    const value: unknown = JSON.parse(literal);
    return typeof value === 'string' ? value : undefined;
  } catch {
    return undefined;
  }
}

/** What is asked for but for the range. */
type Asked = Omit<CustomSelection, 'from_us' | 'to_us'>;

/** Where a list continues: the row that was given last, and where its range begins, microseconds since 1970. */
type Cursor = Position & { from_us: number };

/** One page. @throws ApiError */
async function page<T>(
  reader: Pick<Reader, 'query'>,
  asked: Asked,
  question: PageQuestion,
  now: number,
  read: (found: Found, cells: readonly Cell[]) => T,
): Promise<Page<T>> {
  const limit = limitOf(question.limit);
  const range = parseRange(question.from, question.to, now);
  const cursor = question.before ? cursorOf(question.before) : undefined;
  const selection: CustomSelection = {
    ...asked,
    from_us: cursor?.from_us ?? Math.round(range.from * 1000),
    to_us: cursor?.time_us ?? Math.round(range.to * 1000),
  };
  const found = await newest(reader, selection, cursor, limit + 1);
  let count = 0;
  for (let bytes = 0; count < Math.min(limit, found.length); count++) {
    bytes += (found[count] as Row).bytes;
    if (bytes >= customPageBytesMax && count > 0) break;
  }
  const last = found.length > count ? found[count - 1] : undefined;
  return {
    rows: found
      .slice(0, count)
      .map(({ cells, ...position }) => read({ id: idOf(position), time_us: position.time_us }, cells)),
    before: last && cursorText({ ...last, from_us: selection.from_us }),
  };
}

type Row = Position & { bytes: number; cells: readonly Cell[] };

/**
 * Rows by time, call and entry, all descending, so that a row has one place in the list, for ever. The store finds the newest by time
 * alone, which it has in order; of those that share the time at which it ended, and the one at which the page before ended, the order
 * is asked for by itself. It ends with the row that makes a page too many bytes.
 */
async function newest(
  reader: Pick<Reader, 'query'>,
  selection: CustomSelection,
  cursor: Cursor | undefined,
  limit: number,
): Promise<Row[]> {
  const rows = async (statement: Parameters<Reader['query']>[0]) => (await reader.query(statement)).map(rowOf);
  const most = { rows: limit, bytes: customPageBytesMax };
  const found = cursor ? await rows(customAt(selection, cursor.time_us, cursor, most)) : [];
  if (isAll(found, most) || selection.from_us >= selection.to_us) return found;
  const left = without(most, found);
  const later = await rows(newestCustom(selection, left));
  const end_us = isAll(later, left) ? later.at(-1)?.time_us : undefined;
  const whole = later.filter(({ time_us }) => time_us !== end_us).sort(newestFirst);
  found.push(...whole);
  if (end_us !== undefined) found.push(...(await rows(customAt(selection, end_us, undefined, without(left, whole)))));
  return found;
}

const bytesOf = (rows: readonly Row[]): number => rows.reduce((sum, { bytes }) => sum + bytes, 0);

/** Whether there are as many as were asked for at most: there may be more. */
const isAll = (rows: readonly Row[], { rows: count, bytes }: Most): boolean =>
  rows.length === count || bytesOf(rows) >= bytes;

const without = ({ rows: count, bytes }: Most, rows: readonly Row[]): Most => ({
  rows: count - rows.length,
  bytes: bytes - bytesOf(rows),
});

function rowOf([time_us, call, entry, bytes, ...cells]: readonly Cell[]): Row {
  return { time_us: Number(time_us), call: BigInt(String(call)), entry: Number(entry), bytes: Number(bytes), cells };
}

const newestFirst = (a: Row, b: Row): number =>
  b.time_us - a.time_us || (a.call === b.call ? b.entry - a.entry : a.call < b.call ? 1 : -1);

const idOf = ({ call, entry }: Omit<Position, 'time_us'>): string => `${call.toString(16).padStart(16, '0')}-${entry}`;

const cursorText = ({ from_us, time_us, call, entry }: Cursor): string => `${from_us}-${time_us}-${call}-${entry}`;

/** @throws ApiError bad_cursor */
function cursorOf(text: string): Cursor {
  const [, from_us, time_us, call, entry] = /^(\d{1,16})-(\d{1,16})-(\d{1,19})-(\d{1,9})$/.exec(text) ?? [];
  const cursor = { from_us: Number(from_us), time_us: Number(time_us), call: BigInt(call ?? 0), entry: Number(entry) };
  if (entry === undefined || cursor.call >= 2n ** 63n || cursor.time_us > timeMax_us || cursor.from_us > timeMax_us)
    throw new ApiError('bad_cursor', { parameter: 'before', value: clip(text) });
  return cursor;
}

/** 2200-01-01, as of all times in questions. */
const timeMax_us = Date.UTC(2200, 0) * 1000;

function limitOf(text: string | undefined): number {
  if (!text) return customLimit.default;
  const limit = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= customLimit.max) return limit;
  throw new ApiError('bad_limit', { parameter: 'limit', value: clip(text), most: customLimit.max });
}
