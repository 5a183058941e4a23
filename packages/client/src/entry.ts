// What an application gives, as the line that is sent: checked as the collector does, which refuses a whole request for one bad entry.
import { InvalidEntryError } from '#errors.ts';
import { metadataCount, metadataTextCharacters, textCharacters } from '#limits.ts';

/** What an entry is about, by key: a letter, then letters, digits, `_`, `-` and `.`, at most 64 characters. */
export type Metadata = Readonly<Record<string, string | number | boolean>>;

export type MeasureOptions = {
  /** When it was: now by default. A number is milliseconds since 1970. */
  time?: Date | number | undefined;
};

export const severities = ['debug', 'info', 'warning', 'error', 'critical'] as const;
export type Severity = (typeof severities)[number];

export type EventOptions = {
  /** When it happened or began: now by default. A number is milliseconds since 1970. */
  time?: Date | number | undefined;
  /** When it ended, where it has a length. A number is milliseconds since 1970. */
  end?: Date | number | undefined;
  /** `info` by default. */
  severity?: Severity | undefined;
};

const namePattern = /^[A-Za-z][A-Za-z0-9_\-.:/]{0,127}$/;
const keyPattern = /^[A-Za-z][A-Za-z0-9_\-.]{0,63}$/;

/** A measure as a line. @throws InvalidEntryError */
export function measureLine(name: string, value: number | string, metadata: unknown, options: MeasureOptions): string {
  checkName('measure', name);
  const where = `The measure "${name}"`;
  const content = typeof value === 'string' ? { text: checkText(where, value) } : { value };
  if (typeof value !== 'string' && !(typeof value === 'number' && Number.isFinite(value)))
    throw new InvalidEntryError(`${where} has a value that is no finite number and no text: ${shown(value)}.`);
  return JSON.stringify({
    name,
    ...content,
    time: timeOf(where, 'time', options.time ?? Date.now()),
    ...checkMetadata(where, metadata),
  });
}

/** An event as a line. @throws InvalidEntryError */
export function eventLine(name: string, text: string, metadata: unknown, options: EventOptions): string {
  checkName('event', name);
  const where = `The event "${name}"`;
  const { severity, end } = options;
  if (typeof text !== 'string') throw new InvalidEntryError(`${where} has a text that is none: ${shown(text)}.`);
  if (severity !== undefined && !severities.includes(severity))
    throw new InvalidEntryError(`${where} has the severity ${shown(severity)}: give ${severities.join(', ')}.`);
  const time = timeOf(where, 'time', options.time ?? Date.now());
  const endTime = end === undefined ? undefined : timeOf(where, 'end', end);
  if (endTime !== undefined && endTime < time) throw new InvalidEntryError(`${where} ends before it begins.`);
  return JSON.stringify({
    name,
    text: checkText(where, text),
    time,
    ...(endTime !== undefined && { end: endTime }),
    ...(severity !== undefined && { severity }),
    ...checkMetadata(where, metadata),
  });
}

function checkName(kind: string, name: unknown): void {
  if (typeof name !== 'string' || !namePattern.test(name))
    throw new InvalidEntryError(
      `The name of a ${kind} is a letter, then letters, digits, "_", "-", ".", ":" and "/", at most 128 characters, and not ${shown(name)}.`,
    );
}

function checkText(where: string, text: string): string {
  if (text.length > textCharacters)
    throw new InvalidEntryError(`${where} has a text of ${text.length} characters; ${textCharacters} is the most.`);
  return text;
}

function timeOf(where: string, what: string, given: unknown): number {
  const milliseconds = given instanceof Date ? given.getTime() : given;
  if (typeof milliseconds !== 'number' || !Number.isFinite(milliseconds))
    throw new InvalidEntryError(
      `${where} has a ${what} that is no date and no number of milliseconds: ${shown(given)}.`,
    );
  return milliseconds;
}

function checkMetadata(where: string, metadata: unknown): { metadata?: Metadata } {
  if (metadata === undefined || metadata === null) return {};
  if (typeof metadata !== 'object' || Array.isArray(metadata))
    throw new InvalidEntryError(`${where} has metadata that are no object: ${shown(metadata)}.`);
  const entries = Object.entries(metadata).filter(([, value]) => value !== undefined);
  if (entries.length > metadataCount)
    throw new InvalidEntryError(`${where} has ${entries.length} metadata; ${metadataCount} is the most.`);
  for (const [key, value] of entries) {
    if (!keyPattern.test(key))
      throw new InvalidEntryError(
        `${where} has metadata under ${shown(key)}: a key is a letter, then letters, digits, "_", "-" and ".", at most 64 characters.`,
      );
    if (typeof value === 'string' && value.length > metadataTextCharacters)
      throw new InvalidEntryError(
        `${where} has a text of ${value.length} characters under "${key}"; ${metadataTextCharacters} is the most.`,
      );
    if (typeof value !== 'string' && typeof value !== 'boolean' && !Number.isFinite(value))
      throw new InvalidEntryError(
        `${where} has a value under "${key}" that is no text, no finite number, no true or false: ${shown(value)}.`,
      );
  }
  return { metadata: Object.fromEntries(entries) as Metadata };
}

/** A value as an error may repeat it: what it is, and a short one itself. */
function shown(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}...` : value);
  if (typeof value === 'number' || typeof value === 'boolean' || value === null || value === undefined)
    return String(value);
  return `a value of the type ${typeof value}`;
}
