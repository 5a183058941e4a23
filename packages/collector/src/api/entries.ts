// Measures and events as they are posted: read strictly, all of a call or none. What is wrong is told by entry and field.
import { isUtf8 } from 'node:buffer';
import { encodeMetadata } from '@fleetreel/proto/custom';
import { ApiError, clip } from '@fleetreel/proto/errors';
import { customNamePattern, type Metadata, metadataKeyPattern, severities } from '@fleetreel/proto/http';
import { suggestion } from '@fleetreel/proto/settings';
import { readTime } from '@fleetreel/proto/time';
import {
  customEntriesMax,
  customRowBytes,
  customTextCharactersMax,
  futureMilliseconds,
  metadataCharactersMax,
  metadataKeysMax,
} from '#limits.ts';
import { type Entries, type EntryKind, noEntries } from '#log/custom.ts';

/** Entries that were checked, with the keys of their metadata, and how many bytes they are in the log at most. */
export type ReadEntries = { entries: Entries; names: string[]; keys: string[][]; bytes: number };

/** Which times are taken: UTC, milliseconds since 1970. */
export type TimeBounds = { now: number; rawMilliseconds: number };

const nameRule = new RegExp(customNamePattern);
const keyRule = new RegExp(metadataKeyPattern);
const fields = {
  measure: ['name', 'value', 'text', 'time', 'metadata'],
  event: ['name', 'text', 'time', 'end', 'severity', 'metadata'],
} as const;
const severityNames: readonly string[] = severities;

/**
 * The entries of a body: one object, an array, or an object that has an array as `measures` or `events`; of lines (NDJSON) one
 * object each.
 * @throws ApiError bad_request, bad_entry, too_many_entries
 */
export function readBody(kind: EntryKind, body: Uint8Array, isLines: boolean, times: TimeBounds): ReadEntries {
  if (!isUtf8(body)) throw new ApiError('bad_request', { reason: 'it is not UTF-8' });
  const text = Buffer.from(body.buffer, body.byteOffset, body.length).toString();
  return isLines ? readLines(kind, text, times) : readJson(kind, text, times);
}

/**
 * The entries of a call that came as objects already.
 * @throws ApiError bad_entry, too_many_entries
 */
export function readEntries(kind: EntryKind, entries: readonly unknown[], times: TimeBounds): ReadEntries {
  checkCount(entries.length);
  const reader = new Reader(kind, times);
  for (let index = 0; index < entries.length; index++) reader.add(entries[index], index, `Entry ${index + 1}`);
  return reader.read;
}

function readJson(kind: EntryKind, text: string, times: TimeBounds): ReadEntries {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new ApiError('bad_request', { reason: `it is no JSON: ${clip((cause as Error).message)}` });
  }
  const list = `${kind}s`;
  let entries: readonly unknown[] = [value];
  if (Array.isArray(value)) entries = value;
  else if (isObject(value) && Object.hasOwn(value, list)) {
    const others = Object.keys(value).filter((name) => name !== list);
    if (others.length > 0)
      throw new ApiError('bad_request', { reason: `beside "${list}" there is "${clip(others[0] ?? '')}"` });
    const many = (value as Record<string, unknown>)[list];
    if (!Array.isArray(many)) throw new ApiError('bad_request', { reason: `"${list}" is no array` });
    entries = many;
  }
  const read = readEntries(kind, entries, times);
  // Of two members of one name the reader above saw the second only.
  if (colonsOf(text) !== membersOf(value))
    throw new ApiError('bad_request', { reason: 'an object has two members of one name' });
  return read;
}

function readLines(kind: EntryKind, text: string, times: TimeBounds): ReadEntries {
  const reader = new Reader(kind, times);
  let index = 0;
  let line = 0;
  for (let begin = 0; begin < text.length; ) {
    const found = text.indexOf('\n', begin);
    const end = found < 0 ? text.length : found;
    const content = text.slice(begin, end);
    begin = end + 1;
    line++;
    if (content.trim() === '') continue;
    const place = `Line ${line}`;
    checkCount(index + 1);
    let value: unknown;
    try {
      value = JSON.parse(content);
    } catch (cause) {
      throw bad(
        { index, place },
        undefined,
        `it is no JSON (${clip((cause as Error).message)})`,
        'Give one object a line.',
      );
    }
    reader.add(value, index, place);
    if (colonsOf(content) !== membersOf(value))
      throw bad({ index, place }, undefined, 'it has two members of one name', 'Give each once.');
    index++;
  }
  return reader.read;
}

function checkCount(count: number): void {
  if (count > customEntriesMax) throw new ApiError('too_many_entries', { count, most: customEntriesMax });
}

/** Where an entry is. */
type Where = { index: number; place: string };

function bad({ index, place }: Where, parameter: string | undefined, reason: string, hint: string): ApiError {
  return new ApiError('bad_entry', { place, reason, hint, index, ...(parameter !== undefined && { parameter }) });
}

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** A text as the store can have it: well-formed, and without NUL. */
const stored = (text: string): string =>
  text.isWellFormed() && !text.includes('\0') ? text : text.toWellFormed().replaceAll('\0', '\ufffd');

const noMetadata: string[] = [];

/** Checks entry by entry and puts them into columns. */
class Reader {
  readonly read: ReadEntries;
  readonly #kind: EntryKind;
  readonly #times: TimeBounds;

  constructor(kind: EntryKind, times: TimeBounds) {
    this.#kind = kind;
    this.#times = times;
    const entries = noEntries(kind);
    const { name } = entries.measures ?? entries.events;
    this.read = { entries, names: name, keys: [], bytes: 0 };
  }

  /** @throws ApiError bad_entry */
  add(entry: unknown, index: number, place: string): void {
    const where = { index, place };
    if (!isObject(entry)) throw bad(where, undefined, 'it is no object', 'Give objects with a "name".');
    const known: readonly string[] = fields[this.#kind];
    for (const field in entry)
      if (!known.includes(field))
        throw bad(where, clip(field), `there is no field "${clip(field)}"`, suggestion(field, known));
    const { name, text, time, metadata } = entry;
    if (typeof name !== 'string' || !nameRule.test(name))
      throw bad(
        where,
        'name',
        name === undefined ? '"name" is missing' : `"name" can't be ${shown(name)}`,
        'Give a letter, then letters, digits, "_", "-", ".", ":" and "/", at most 128 characters.',
      );
    if (text !== undefined && (typeof text !== 'string' || text.length > customTextCharactersMax))
      throw bad(
        where,
        'text',
        `"text" is ${shown(text)}`,
        `Give a string of at most ${customTextCharactersMax} characters.`,
      );
    const time_us = time === undefined ? Number.NaN : this.#time(time, 'time', where);
    const { measures, events } = this.read.entries;
    if (measures) {
      const value = numberOf(entry, where);
      measures.value.push(value);
    } else {
      events.severity.push(severityOf(entry, where));
      events.end_us.push(this.#end(entry, time_us, where));
    }
    const columns = measures ?? events;
    const keys = metadata === undefined ? noMetadata : checkMetadata(metadata, where);
    columns.time_us.push(time_us);
    columns.name.push(name);
    const kept = text === undefined ? '' : stored(text);
    const encoded = keys.length === 0 ? '' : encodeMetadata(metadata as Metadata);
    columns.text.push(kept);
    columns.metadata.push(encoded);
    this.read.keys.push(keys);
    // Names are of ASCII.
    this.read.bytes += customRowBytes + name.length + Buffer.byteLength(kept) + Buffer.byteLength(encoded);
  }

  /** Microseconds since 1970. */
  #time(time: unknown, field: string, where: Where): number {
    const { now, rawMilliseconds } = this.#times;
    const time_us = microseconds(time, field, where);
    if (time_us / 1000 > now + futureMilliseconds)
      throw bad(
        where,
        field,
        `"${field}" is more than ${futureMilliseconds / 60_000} minutes in the future`,
        'Give a time that has come, or set the clock of what sends it right.',
      );
    if (time_us / 1000 < now - rawMilliseconds)
      throw bad(
        where,
        field,
        `"${field}" is longer ago than the store keeps rows`,
        `Give a time within ${rawMilliseconds / 86_400_000} days.`,
      );
    return time_us;
  }

  #end({ end }: Record<string, unknown>, time_us: number, where: Where): number {
    if (end === undefined) return Number.NaN;
    const end_us = microseconds(end, 'end', where);
    if (end_us < (Number.isNaN(time_us) ? this.#times.now * 1000 : time_us))
      throw bad(where, 'end', '"end" is before "time"', 'Give when it began and when it ended.');
    return end_us;
  }
}

function numberOf({ value, text }: Record<string, unknown>, where: Where): number {
  if (value === undefined) {
    if (text === undefined)
      throw bad(where, 'value', 'there is neither "value" nor "text"', 'Give a number or a text.');
    return Number.NaN;
  }
  if (text !== undefined) throw bad(where, 'value', 'there are both "value" and "text"', 'Give either of them.');
  if (typeof value !== 'number' || !Number.isFinite(value))
    throw bad(where, 'value', `"value" is ${shown(value)}`, 'Give a finite number, or a "text".');
  return value;
}

function severityOf({ severity = 'info' }: Record<string, unknown>, where: Where): string {
  if (typeof severity === 'string' && severityNames.includes(severity)) return severity;
  throw bad(where, 'severity', `"severity" is ${shown(severity)}`, `Give ${severities.join(', ')}.`);
}

/** A time as it is posted, microseconds since 1970. */
function microseconds(time: unknown, field: string, where: Where): number {
  let hint = '';
  if (typeof time === 'number' && time >= 0 && Number.isFinite(time)) {
    const ms = readTime(String(Math.floor(time)), 0);
    if (typeof ms === 'number') return Math.round(time * 1000);
    hint = ` ${ms.hint}`;
  } else if (typeof time === 'string' && /^\d/.test(time)) {
    const ms = readTime(time, 0);
    if (typeof ms === 'number') return Math.round(ms * 1000);
    hint = ` ${ms.hint}`;
  }
  throw bad(
    where,
    field,
    `"${field}" is ${shown(time)}, which is no time`,
    `Give RFC 3339 (2026-01-31T12:00:00Z) or milliseconds since 1970.${hint.trimEnd()}`,
  );
}

/** The keys of metadata, which are as they should be. */
function checkMetadata(metadata: unknown, where: Where): string[] {
  if (!isObject(metadata))
    throw bad(
      where,
      'metadata',
      `"metadata" is ${shown(metadata)}`,
      'Give an object of strings, numbers and booleans.',
    );
  const keys = Object.keys(metadata);
  if (keys.length > metadataKeysMax)
    throw bad(where, 'metadata', `"metadata" has ${keys.length} keys`, `Give at most ${metadataKeysMax}.`);
  for (const key of keys) {
    if (!keyRule.test(key))
      throw bad(
        where,
        fieldOf(key),
        `"metadata" can't have the key "${clip(key)}"`,
        'Give a letter, then letters, digits, "_", "-" and ".", at most 64 characters.',
      );
    const value = metadata[key];
    if (typeof value === 'string') {
      if (value.length > metadataCharactersMax)
        throw bad(
          where,
          fieldOf(key),
          `"${fieldOf(key)}" has ${value.length} characters`,
          `Give at most ${metadataCharactersMax}; what is longer belongs into "text".`,
        );
      metadata[key] = stored(value);
    } else if (!(typeof value === 'boolean' || (typeof value === 'number' && Number.isFinite(value))))
      throw bad(
        where,
        fieldOf(key),
        `"${fieldOf(key)}" is ${shown(value)}`,
        'Give a string, a finite number or a boolean.',
      );
  }
  return keys;
}

const fieldOf = (key: string): string => `metadata.${clip(key)}`;

/** A value as an error shows it. */
function shown(value: unknown): string {
  if (typeof value === 'string')
    return value.length > 100 ? `a string of ${value.length} characters` : `"${clip(value)}"`;
  if (Array.isArray(value)) return 'an array';
  return typeof value === 'object' && value !== null ? 'an object' : String(value);
}

const quote = 0x22;
const backslash = 0x5c;
const colon = 0x3a;

/** How many members the objects of a JSON text have, all together: colons outside of strings. */
function colonsOf(text: string): number {
  let count = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code === colon) count++;
    else if (code === quote)
      for (at++; text.charCodeAt(at) !== quote; at++) if (text.charCodeAt(at) === backslash) at++;
  }
  return count;
}

/** As many as a value has. */
function membersOf(value: unknown): number {
  if (typeof value !== 'object' || value === null) return 0;
  if (Array.isArray(value)) return value.reduce<number>((sum, one) => sum + membersOf(one), 0);
  let count = 0;
  for (const key in value) count += 1 + membersOf((value as Record<string, unknown>)[key]);
  return count;
}
