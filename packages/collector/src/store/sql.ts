// The only place where the text of a SELECT is made. Identifiers come from the catalogue, never from a request; every
// value of a request is bound, and numbers that the text itself needs (strides, limits) are checked to be whole.
import { catalog, type Field, type Label, type Table } from '@fleetreel/proto';

/** A statement with its bound values. */
export type Statement = { text: string; values: readonly unknown[] };

/** Rows of a table: of these hosts (none means all) with these values of labels, from a time (inclusive) to a time (exclusive). */
export type Selection = {
  tenant: string;
  table: Table;
  hosts: readonly string[];
  labels: readonly { label: Label; values: readonly string[] }[];
  /** UTC, milliseconds since 1970. */
  from: number;
  to: number;
};

/** What SQL computes over the rows of a step. Percentiles are not among them: `query/series.ts` takes them from the rows. */
export type StepAggregation = 'avg' | 'min' | 'max' | 'sum' | 'last';

/** The widths of the roll-up tables. */
export const rollups = [
  { suffix: '1m', stepMs: 60_000 },
  { suffix: '1h', stepMs: 3_600_000 },
] as const;
export type Rollup = (typeof rollups)[number];

/** The tables that have roll-ups: those of samples. Of what happened at a moment of its own there is no mean. */
export const rolledUpTables: readonly Table[] = catalog.filter(({ rowTime }) => rowTime === undefined);

/** What a roll-up can answer: it has no order within a step and no distribution. */
export const rollupAggregations: readonly string[] = ['avg', 'min', 'max', 'sum'];

/** One row per step and entity, in no order: begin of the step, host, key labels, then one value per field. Steps begin at multiples of their width since 1970. */
export function stepsOfRows(
  selection: Selection,
  fields: readonly Field[],
  aggregation: StepAggregation,
  stepMs: number,
  limit: number,
): Statement {
  const values = fields.map(({ name }) =>
    // `last` alone takes a NULL for an answer: the last value is the last that was there.
    aggregation === 'last' ? `last_not_null(${quote(name)})` : `${aggregation}(${quote(name)})`,
  );
  return sampled(selection, quote(selection.table.name), values, stepMs, limit);
}

/** As `stepsOfRows`, from a roll-up: its averages are weighted by the values that they stand for. */
export function stepsOfRollup(
  selection: Selection,
  fields: readonly Field[],
  aggregation: Exclude<StepAggregation, 'last'>,
  rollup: Rollup,
  stepMs: number,
  limit: number,
): Statement {
  const values = fields.map(({ name }) => {
    const count = quote(`${name}_count`);
    const sum = `sum(${quote(`${name}_avg`)} * ${count})`;
    if (aggregation === 'sum') return sum;
    if (aggregation === 'avg') return `${sum} / sum(${count})`;
    return `${aggregation}(${quote(`${name}_${aggregation}`)})`;
  });
  return sampled(selection, quote(`${selection.table.name}_${rollup.suffix}`), values, stepMs, limit);
}

/** The rows themselves: ts, host, key labels, then one value per field. */
export function rows(selection: Selection, fields: readonly Field[], limit: number): Statement {
  const { where, values } = conditions(selection);
  const columns = [...entity(selection.table), ...fields.map(({ name }) => quote(name))];
  return {
    text: `SELECT ${columns.join(', ')} FROM ${quote(selection.table.name)} WHERE ${where} LIMIT ${whole(limit)}`,
    values,
  };
}

/** The newest rows of a selection: ts, host, labels, then fields, in the order of the catalogue; the newest first. */
export function newestFirst(selection: Selection, limit: number): Statement {
  const { where, values } = conditions(selection);
  const { name, labels, fields } = selection.table;
  const columns = ['ts', 'host', ...[...labels, ...fields].map((column) => quote(column.name))];
  return {
    text: `SELECT ${columns.join(', ')} FROM ${quote(name)} WHERE ${where} ORDER BY ts DESC LIMIT ${whole(limit)}`,
    values,
  };
}

/** How many rows a selection has. */
export function rowCount(selection: Selection): Statement {
  const { where, values } = conditions(selection);
  return { text: `SELECT count() FROM ${quote(selection.table.name)} WHERE ${where}`, values };
}

/** The time of the newest row of a roll-up, of any host: before its step the roll-up is complete. */
export function newestOfRollup(table: Table, rollup: Rollup): Statement {
  return { text: `SELECT ts FROM ${quote(`${table.name}_${rollup.suffix}`)} LIMIT -1`, values: [] };
}

/** The newest frame of each of these hosts: host, ts, interval_ms. Bounded in time, or it would read every partition. */
export function newestFrames(tenant: string, hosts: readonly string[], from: number): Statement {
  const values: unknown[] = [tenant, time(from)];
  const where = `tenant = $1 AND ts >= $2 AND ${eachHost(hosts, values)}`;
  return {
    text: `SELECT host, ts, interval_ms FROM "frame" WHERE ${where} LATEST ON ts PARTITION BY tenant, host`,
    values,
  };
}

/** For LATEST ON, which finds rows of only one of the hosts where they are bound as one list. */
const eachHost = (hosts: readonly string[], values: unknown[]): string =>
  `host IN (${hosts.map((host) => `$${values.push(host)}`).join(', ')})`;

/** The newest row of every entity of some hosts within a time: ts, host, labels, then fields, in the order of the catalogue. */
export function newestRows(
  tenant: string,
  table: Table,
  hosts: readonly string[],
  from_us: number,
  to_us: number,
): Statement {
  const columns = ['ts', 'host', ...[...table.labels, ...table.fields].map(({ name }) => quote(name))];
  const values: unknown[] = [tenant, microseconds(from_us), microseconds(to_us)];
  const where = `tenant = $1 AND ts >= $2 AND ts <= $3 AND ${eachHost(hosts, values)}`;
  const keys = ['tenant', 'host', ...table.labels.filter(({ key }) => key).map(({ name }) => quote(name))];
  return {
    text:
      `SELECT ${columns.join(', ')} FROM ${quote(table.name)} WHERE ${where}` +
      ` LATEST ON ts PARTITION BY ${keys.join(', ')}`,
    values,
  };
}

/** Hosts (none means all) and a range of time, microseconds, the end exclusive. */
type Span = { tenant: string; hosts: readonly string[]; from_us: number; to_us: number };

/** The first frames of a span in the order of time: ts, host, session, sequence, interval_ms. */
export function frameHeads(span: Span, limit: number): Statement {
  const { where, values } = within(span);
  return {
    text: `SELECT ts, host, session, sequence, interval_ms FROM "frame" WHERE ${where} ORDER BY ts, host, session, sequence LIMIT ${whole(limit)}`,
    values,
  };
}

/** All rows of a table in a span: ts, host, labels, then fields, in the order of the catalogue. */
export function rowsOf(table: Table, span: Span): Statement {
  const { where, values } = within(span);
  const columns = ['ts', 'host', ...[...table.labels, ...table.fields].map(({ name }) => quote(name))];
  return { text: `SELECT ${columns.join(', ')} FROM ${quote(table.name)} WHERE ${where}`, values };
}

function within({ tenant, hosts, from_us, to_us }: Span): { where: string; values: unknown[] } {
  const times = 'tenant = $1 AND ts >= $2 AND ts < $3';
  const values = [tenant, microseconds(from_us), microseconds(to_us)];
  return hosts.length > 0 ? { where: `${times} AND host IN $4`, values: [...values, hosts] } : { where: times, values };
}

/** What comes so much later than its own time is late, milliseconds, or three intervals where those are longer. */
export const lateMilliseconds = 10_000;

/** Frames at which something begins or ends; what a host needs beyond `lateMilliseconds` is given by host, milliseconds. */
export type Edges = {
  tenant: string;
  hosts: readonly string[];
  from: number;
  to: number;
  allowances: ReadonlyMap<string, number>;
};

/**
 * The first and the last frame of each host, those beside a hole in time, and those where late ones begin or end: host, ts,
 * session, sequence, interval_ms, received, whether it is late, ts of the frame before it. By host and ts.
 */
export function frameEdges({ tenant, hosts, from, to, allowances }: Edges, limit: number): Statement {
  // Of one host the order of the table is enough: several times as fast as parts by host.
  const over = hosts.length === 1 ? 'OVER (ORDER BY ts)' : 'OVER (PARTITION BY host ORDER BY ts)';
  const values: unknown[] = [tenant, hosts, time(from), time(to)];
  const frames =
    `SELECT host, ts, session, sequence, interval_ms, received, ${late(allowances, values)} AS late` +
    ' FROM "frame" WHERE tenant = $1 AND host IN $2 AND ts >= $3 AND ts < $4';
  const beside = (function_: 'lag' | 'lead', name: string) =>
    ['ts', 'interval_ms', 'late'].map((column) => `${function_}(${column}) ${over} AS ${name}_${column}`).join(', ');
  const gap = (earlier: string, later: string, interval: string) =>
    `${long(later)} - ${long(earlier)} > 1500 * CASE WHEN ${interval} > interval_ms THEN ${interval} ELSE interval_ms END`;
  return {
    text:
      `SELECT host, ts, session, sequence, interval_ms, received, late, before_ts FROM (SELECT *, ${beside('lag', 'before')}, ${beside('lead', 'after')}` +
      ` FROM (${frames})) WHERE before_ts IS NULL OR after_ts IS NULL OR late <> before_late OR late <> after_late` +
      ` OR ${gap('before_ts', 'ts', 'before_interval_ms')} OR ${gap('ts', 'after_ts', 'after_interval_ms')}` +
      ` ORDER BY host, ts LIMIT ${whole(limit)}`,
    values,
  };
}

/** The last frame of each of these hosts before a time, or the first from it on: as `frameEdges`, within a range. */
export function frameNearest(which: 'last' | 'first', { tenant, hosts, from, to, allowances }: Edges): Statement {
  const values: unknown[] = [tenant, time(from), time(to)];
  const where = `"frame" WHERE tenant = $1 AND ts >= $2 AND ts < $3 AND ${eachHost(hosts, values)}`;
  const columns = `${late(allowances, values)} AS late`;
  const all = 'host, ts, session, sequence, interval_ms, received';
  if (which === 'last')
    return {
      text: `SELECT ${all}, late, NULL FROM (SELECT ${all}, ${columns} FROM (SELECT tenant, ${all} FROM ${where} LATEST ON ts PARTITION BY tenant, host))`,
      values,
    };
  const first = ['ts', 'session', 'sequence', 'interval_ms', 'received'].map((name) => `first(${name}) AS ${name}`);
  return {
    text: `SELECT ${all}, ${columns}, NULL FROM (SELECT host, ${first.join(', ')} FROM ${where})`,
    values,
  };
}

/** Sequences of frames of a host's session: those between two, exclusive. */
export type Between = { host: string; session: string; after: number; before: number };

/** Which of these frames are there, at whatever time of a range: host, session, sequence. */
export function framesBetween(
  tenant: string,
  stretches: readonly Between[],
  { from, to }: { from: number; to: number },
  limit: number,
): Statement {
  const values: unknown[] = [tenant, time(from), time(to)];
  const bind = (value: unknown) => `$${values.push(value)}`;
  const each = stretches.map(
    ({ host, session, after, before }) =>
      `(host = ${bind(host)} AND session = ${bind(session)} AND sequence > ${whole(after)} AND sequence < ${whole(before)})`,
  );
  return {
    text: `SELECT host, session, sequence FROM "frame" WHERE tenant = $1 AND ts >= $2 AND ts < $3 AND (${each.join(' OR ')}) LIMIT ${whole(limit)}`,
    values,
  };
}

/** Whether a frame is late, as 0 or 1. */
function late(allowances: ReadonlyMap<string, number>, values: unknown[]): string {
  const cases = [...allowances].map(([host, ms]) => `WHEN host = $${values.push(host)} THEN ${whole(ms) * 1000}`);
  const allowance = cases.length > 0 ? ` + CASE ${cases.join(' ')} ELSE 0 END` : '';
  const most = `(CASE WHEN 3 * interval_ms > ${lateMilliseconds} THEN 3000 * interval_ms ELSE ${lateMilliseconds * 1000} END${allowance})`;
  // Rows of before the column are taken to be in time.
  return `CASE WHEN received IS NULL THEN 0 WHEN ${long('received')} - ${long('ts')} > ${most} THEN 1 ELSE 0 END`;
}

const long = (column: string): string => `cast(${column} AS long)`;

/** In which times the log lost what the store did not have, where they touch a range: ts, until. */
export function logLosses(from: number, to: number, limit: number): Statement {
  return {
    text: `SELECT ts, until FROM "log_loss" WHERE ts < $1 AND until > $2 LIMIT ${whole(limit)}`,
    values: [time(to), time(from)],
  };
}

/** When the machine was booted, by frames of some hosts: host, ts, uptime_seconds. */
export function uptimes(tenant: string, frames: readonly { host: string; time_us: number }[]): Statement {
  const values: unknown[] = [tenant];
  const bind = (value: unknown) => `$${values.push(value)}`;
  const times = frames.map(({ time_us }) => time_us);
  const from = bind(microseconds(Math.min(...times)));
  const to = bind(microseconds(Math.max(...times)));
  const each = frames.map(({ host, time_us }) => `(host = ${bind(host)} AND ts = ${bind(microseconds(time_us))})`);
  return {
    text: `SELECT host, ts, uptime_seconds FROM "load" WHERE tenant = $1 AND ts >= ${from} AND ts <= ${to} AND (${each.join(' OR ')})`,
    values,
  };
}

function sampled(selection: Selection, from: string, columns: string[], stepMs: number, limit: number): Statement {
  const { where, values } = conditions(selection);
  const [ts, ...names] = entity(selection.table);
  const step = `timestamp_floor('${stride(stepMs)}', ${ts}) AS step`;
  const list = [step, ...names, ...columns.map((column, index) => `${column} AS v${index}`)];
  // Not SAMPLE BY, which does the same in order: with a LIMIT it sorts by insertion, 50 times as slow at 3,600 steps.
  return { text: `SELECT ${list.join(', ')} FROM ${from} WHERE ${where} LIMIT ${whole(limit)}`, values };
}

function entity(table: Table): string[] {
  return ['ts', 'host', ...table.labels.filter(({ key }) => key).map(({ name }) => quote(name))];
}

function conditions({ tenant, hosts, labels, from, to }: Selection): { where: string; values: unknown[] } {
  const values: unknown[] = [];
  const bind = (value: unknown) => `$${values.push(value)}`;
  const where = [
    `tenant = ${bind(tenant)}`,
    `ts >= ${bind(microseconds(Math.round(from * 1000)))}`,
    `ts < ${bind(microseconds(Math.round(to * 1000)))}`,
  ];
  if (hosts.length > 0) where.push(`host IN ${bind(hosts)}`);
  // Each value is compared by itself: a list is read as text, where quotes, backslashes, braces and "null" mean something else.
  for (const { label, values: wanted } of labels)
    where.push(`(${wanted.map((one) => `${quote(label.name)} = ${bind(one)}`).join(' OR ') || 'false'})`);
  return { where: where.join(' AND '), values };
}

const units = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['T', 1],
] as const;

function stride(stepMs: number): string {
  const [unit, width] = units.find(([, each]) => whole(stepMs) % each === 0) ?? ['T', 1];
  return `${stepMs / width}${unit}`;
}

function quote(identifier: string): string {
  if (!/^[a-z][a-z0-9_]*$/.test(identifier)) throw new RangeError(`"${identifier}" is no identifier of the catalogue`);
  return `"${identifier}"`;
}

function whole(number: number): number {
  if (!Number.isSafeInteger(number) || number <= 0) throw new RangeError(`${number} is no whole number above 0`);
  return number;
}

const time = (ms: number): string => new Date(ms).toISOString();

/** A time as it is bound: UTC, microseconds since 1970. */
export function microseconds(us: number): string {
  const ms = Math.floor(us / 1000);
  return `${time(ms).slice(0, -1)}${String(us - ms * 1000).padStart(3, '0')}Z`;
}
