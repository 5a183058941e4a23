// From a table's newest rows to a table on the page: which columns, how each is written, in which order the rows stand.
import type { Field, Row, Table } from '#lib/api.ts';
import { compareLabels, formatDuration, formatValue, unavailable, words } from '#lib/format.ts';
import { visible } from '#lib/text.ts';

/** A column as a page asks for it; what the catalogue does not have is left out. */
export type ColumnPlan = {
  /** A label or field of the table. */
  name: string;
  title?: string;
  /** The field that this one is a part of: shown as a bar, and as text where it is known. */
  of?: string;
  /** Fields of which the first that is known is shown: each of a row's kind alone has a value. */
  any?: readonly string[];
  /** A bar of 100 percent, or of this many. */
  most?: number;
  /** Whether near all of `of` is nothing to worry about. */
  calm?: boolean;
  /** What words mean here; other words are written as they are. */
  tones?: Readonly<Record<string, Tone>>;
  /** Values from which on a number is worth a look. */
  warn?: number;
};

export type Tone = 'good' | 'warn' | 'bad' | 'muted';

export type Cell = {
  text: string;
  /** A share of 100, or null where it is not known; no bar when undefined. */
  share?: number | null;
  tone?: Tone;
  href?: string;
};

export type Column = {
  id: string;
  title: string;
  help: string;
  /** Numbers stand at the right, and the first click sorts the largest to the top. */
  numeric: boolean;
  /** Whether a share near 100 is bad news: of a limit, not of a processor that is used well. */
  alarm: boolean;
  by: (row: Row) => number | string | null;
  cell: (row: Row) => Cell;
};

/** Of a label that says nothing: not in a container, no health check. */
const nothing = '–';

export const numberOf = (row: Row, name: string): number | null => {
  const value = row[name];
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
};
export const textOf = (row: Row, name: string): string => String(row[name] ?? '');

/** The names of a table's key labels. */
export const keysOf = ({ labels }: Table): string[] => labels.filter(({ key }) => key).map(({ name }) => name);

/** What tells a row from the others of its host: the values of the key labels, as `Entity.name` has them. */
export const entityOf = (row: Row, keys: readonly string[]): string => keys.map((key) => textOf(row, key)).join(' ');

/** The columns that were planned, as far as the catalogue has them, and all others of the table after them. */
export function columnsOf(table: Table, plans: readonly ColumnPlan[]): { chosen: Column[]; others: Column[] } {
  const chosen = plans.flatMap((plan) => columnOf(table, plan) ?? []);
  const named = new Set(plans.flatMap(({ name, of, any = [] }) => [name, ...(of ? [of] : []), ...any]));
  const rest = [...table.labels, ...table.fields].filter(({ name }) => !named.has(name) && name !== table.rowTime);
  const others = rest.flatMap(({ name }) => columnOf(table, { name }) ?? []);
  // A rate and its total, a part in percent and as a ratio: the unit tells them apart.
  const titles = [...chosen, ...others].map(({ title }) => title);
  for (const column of others) {
    const unit = table.fields.find(({ name }) => name === column.id)?.unit;
    if (unit && titles.filter((title) => title === column.title).length > 1) column.title += `, ${words(unit)}`;
  }
  return { chosen, others };
}

function columnOf(table: Table, { name, title, of, any, most, calm = false, tones, warn }: ColumnPlan): Column | null {
  if (any) return firstOf(table, name, title, any);
  const label = table.labels.find((entry) => entry.name === name);
  if (label)
    return {
      id: name,
      title: title ?? capital(words(name)),
      help: label.help,
      numeric: false,
      alarm: false,
      by: (row) => textOf(row, name) || null,
      cell: (row) => {
        const text = textOf(row, name);
        const tone = tones?.[text.toLowerCase()] ?? (text === '' ? 'muted' : undefined);
        return { text: text === '' ? nothing : visible(text), ...(tone ? { tone } : {}) };
      },
    };
  const field = table.fields.find((entry) => entry.name === name);
  if (!field) return null;
  const { help } = field;
  if (name.endsWith('start_time_seconds')) return startedAt(field, title ?? 'Started');
  const unit = unitOf(field);
  const whole = of !== undefined && table.fields.some((entry) => entry.name === of) ? of : undefined;
  return {
    id: name,
    title: title ?? capital(words(name, field.unit)),
    help,
    numeric: true,
    alarm: whole !== undefined && !calm,
    by: (row) => numberOf(row, name),
    cell: (row) => {
      const value = numberOf(row, name);
      const limit = whole ? numberOf(row, whole) : null;
      const text = formatValue(value, unit);
      const tone: Tone | undefined =
        value === null ? 'muted' : warn !== undefined && value >= warn ? 'warn' : undefined;
      const share = whole
        ? value !== null && limit !== null && limit > 0
          ? (value / limit) * 100
          : null
        : most !== undefined
          ? value === null
            ? null
            : (value / most) * 100
          : undefined;
      return {
        text: limit === null ? text : `${text} / ${formatValue(limit, unit)}`,
        ...(tone ? { tone } : {}),
        ...(share === undefined ? {} : { share }),
      };
    },
  };
}

/** How a value is written: totals of bytes and seconds are bytes and seconds. */
const unitOf = ({ name, unit }: Field): string =>
  unit === 'total' ? (/_(bytes|seconds)_total$/.exec(name)?.[1] ?? unit) : unit;

/** A moment in seconds since 1970: how long it was ago when the row was taken. */
const startedAt = ({ name, help }: Field, title: string): Column => ({
  id: name,
  title,
  help,
  numeric: true,
  alarm: false,
  by: (row) => numberOf(row, name),
  cell: (row) => {
    const start = numberOf(row, name);
    if (start === null) return { text: unavailable, tone: 'muted' };
    return { text: `${formatDuration(row.time / 1000 - start)} ago` };
  },
});

/** The first of these fields that a row has. */
function firstOf(table: Table, id: string, title: string | undefined, names: readonly string[]): Column | null {
  const fields = names.flatMap((name) => table.fields.find((field) => field.name === name) ?? []);
  if (fields.length === 0) return null;
  const known = (row: Row) => fields.find(({ name }) => numberOf(row, name) !== null);
  return {
    id,
    title: title ?? capital(id),
    help: fields.map(({ help }) => help).join('\n'),
    numeric: true,
    alarm: false,
    by: (row) => numberOf(row, known(row)?.name ?? ''),
    cell: (row) => {
      const field = known(row);
      if (!field) return { text: unavailable, tone: 'muted' };
      return { text: formatValue(numberOf(row, field.name), unitOf(field)) };
    },
  };
}

/** Rows that match the search, in the order asked for: a column's id, with `-` in front for descending. */
export function arrangeRows(
  rows: readonly Row[],
  columns: readonly Column[],
  labels: readonly string[],
  search: string,
  sort: string,
): Row[] {
  const wanted = search.trim().toLowerCase().split(/\s+/);
  const found = search.trim()
    ? rows.filter((row) => {
        const text = [row.host, ...labels.map((name) => textOf(row, name))].join(' ').toLowerCase();
        return wanted.every((word) => text.includes(word));
      })
    : [...rows];
  const descending = sort.startsWith('-');
  const column = columns.find(({ id }) => id === sort.replace(/^-/, ''));
  const names = (row: Row) => labels.map((name) => textOf(row, name)).join(' ');
  return found.sort(
    (a, b) => (column ? compare(column.by(a), column.by(b), descending) : 0) || compareLabels(names(a), names(b)),
  );
}

/** What is not known comes last either way. */
function compare(a: number | string | null, b: number | string | null, descending: boolean): number {
  if (a === null || b === null) return Number(a === null) - Number(b === null);
  const order = typeof a === 'number' && typeof b === 'number' ? a - b : compareLabels(String(a), String(b));
  return descending ? -order : order;
}

/** Words that are written in a way of their own. */
const spelled: Readonly<Record<string, string>> = Object.fromEntries(
  'CPU I/O GPU VM vCPU LLM OOM PID PIDs UUID UID IPC L1d L1i LLC dTLB iTLB KV VRAM ECC NVLink PCIe MIG XID TCP UDP SM'
    .split(' ')
    .map((word) => [word.toLowerCase().replace('/', ''), word]),
);

/** A title of words: the first with a capital letter, and those that have a spelling with theirs. */
export function capital(text: string): string {
  const written = text.replace(/[a-z0-9]+/g, (word) => spelled[word] ?? word);
  return /^[a-z]+[A-Z]/.test(written) ? written : written.charAt(0).toUpperCase() + written.slice(1);
}
