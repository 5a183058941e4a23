// Frames of many hosts, made of the real ones of this machine.
import {
  type Columns,
  catalog,
  defaultTenant,
  encodeFrame,
  type Frame,
  messageId,
  subject,
  type Tables,
} from '@fleetreel/proto';
import type { JetStreamClient } from '@nats-io/jetstream';

/** Frames on their way to the log at a time. */
const window = 256;

const units = new Map(
  catalog.map(({ name, fields }) => [name, new Map(fields.map((field) => [field.name, field.unit]))]),
);

/** Numbers that are there: the values of a frame. */
export function countValues({ tables }: Frame): number {
  let values = 0;
  for (const columns of Object.values(tables) as Columns[])
    for (const column of Object.values(columns))
      for (const value of column) if (typeof value === 'number' && !Number.isNaN(value)) values++;
  return values;
}

/** Rows by table. */
export function countRows({ tables }: Frame): Map<string, number> {
  return new Map(
    Object.entries(tables).map(([name, columns]) => [
      name,
      Math.max(...Object.values(columns as Columns).map((column) => column.length)),
    ]),
  );
}

/** What a scraper would be sent for the same values, without the help texts. */
export function prometheusText({ tables }: Frame): { text: string; samples: number } {
  const lines: string[] = [];
  for (const table of catalog) {
    const columns = tables[table.name as keyof Tables] as Columns | undefined;
    for (const { name } of columns ? table.fields : [])
      for (const [row, value] of (columns?.[name] ?? []).entries()) {
        if (Number.isNaN(value)) continue;
        const labels = table.labels.map(
          (label) => `${label.name}=${JSON.stringify(columns?.[label.name]?.[row] ?? '')}`,
        );
        lines.push(`fleetreel_${table.name}_${name}${labels.length > 0 ? `{${labels.join(',')}}` : ''} ${value}\n`);
      }
  }
  return { text: lines.join(''), samples: lines.length };
}

export const hostName = (host: number): string => `host-${String(host).padStart(4, '0')}`;

/** Tables whose rows have times of their own: repeated, they would fall on the same rows. */
const ownTimes = new Set(catalog.filter(({ rowTime }) => rowTime !== undefined).map(({ name }) => name));

/**
 * The frame of a host at a tick: a captured one, another for each host, with all values multiplied by the host's own
 * factor. Zeros stay zeros, flags flags, whole numbers whole and multiples of a page multiples of a page, so that frames
 * compress as real ones do. Without the tables of what happens between ticks.
 */
export function frameOf(captured: readonly Frame[], host: number, tick: number, time_us: number): Frame {
  const frame = captured[(tick + host * 7) % captured.length];
  if (!frame) throw new Error('No frame was captured.');
  const factor = 0.5 + ((host * 0.618_034) % 1);
  const tables: Record<string, Columns> = {};
  for (const [name, columns] of Object.entries(frame.tables) as [string, Columns][]) {
    if (ownTimes.has(name)) continue;
    const ofTable = units.get(name);
    tables[name] = Object.fromEntries(
      Object.entries(columns).map(([column, values]) => [
        column,
        ofTable?.get(column) === 'flag'
          ? values
          : values.map((value) => (typeof value === 'number' ? scaled(value, factor) : value)),
      ]),
    );
  }
  const session = (0x1000_0000 + host).toString(16).padStart(16, '0');
  return { session, sequence: tick + 1, time_us, interval_ms: frame.interval_ms, tables: tables as Tables };
}

function scaled(value: number, factor: number): number {
  if (!Number.isInteger(value) || value === 0) return value * factor;
  const grain = value % 4096 === 0 ? 4096 : 1;
  return Math.round((value * factor) / grain) * grain;
}

/** The frames with about so many rows each: those of tables with a key come again, as of more cores, disks and processes, or are fewer. */
export function withRows(captured: readonly Frame[], rows: number): Frame[] {
  const keyOf = new Map(catalog.map(({ name, labels }) => [name, labels.find(({ key }) => key)?.name]));
  const mean = (keyed: boolean) => {
    const counts = captured.flatMap((frame) => [...countRows(frame)]);
    const counted = counts.filter(([name]) => !ownTimes.has(name) && (keyOf.get(name) !== undefined) === keyed);
    return counted.reduce((sum, [, count]) => sum + count, 0) / captured.length;
  };
  const factor = Math.max(rows - mean(false), 0) / mean(true);
  return captured.map((frame) => ({
    ...frame,
    tables: Object.fromEntries(
      Object.entries(frame.tables).map(([name, columns]) => [
        name,
        repeated(columns as Columns, ownTimes.has(name) ? undefined : keyOf.get(name), factor),
      ]),
    ) as Tables,
  }));
}

/** So many times the rows of a table, each repetition under keys of its own. */
function repeated(columns: Columns, key: string | undefined, factor: number): Columns {
  if (key === undefined) return columns;
  const present = Math.max(...Object.values(columns).map((column) => column.length));
  const wanted = Math.max(Math.round(present * factor), 1);
  const named = (value: string | number, round: number) => (round === 0 ? value : `${value}.${round}`);
  return Object.fromEntries(
    Object.entries(columns).map(([name, values]) => [
      name,
      values.length === 0
        ? values
        : Array.from({ length: wanted }, (_, row) => {
            const value = values[row % present] as string | number;
            return name === key ? named(value, Math.floor(row / present)) : value;
          }),
    ]),
  );
}

/** One frame as the agent publishes it; settled when the log has it. */
export async function publish(log: JetStreamClient, host: number, frame: Frame): Promise<void> {
  const to = subject({ tenant: defaultTenant, kind: 'frame', host: hostName(host) });
  await log.publish(to, encodeFrame(frame), { msgID: messageId(frame.session, frame.sequence) });
}

/** Frames of many hosts over many ticks. */
export type Fleet = { captured: readonly Frame[]; hosts: number; ticks: number; interval_s: number; begin_us: number };

/** A fleet whose last tick is now. */
export function fleet(captured: readonly Frame[], hosts: number, ticks: number, interval_s = 1): Fleet {
  const begin_us = (Math.floor(Date.now() / 1000) - ticks * interval_s) * 1_000_000;
  return { captured, hosts, ticks, interval_s, begin_us };
}

/** All its frames, oldest first. */
export function* history({
  captured,
  hosts,
  ticks,
  interval_s,
  begin_us,
}: Fleet): Generator<{ host: number; frame: Frame }> {
  for (let tick = 0; tick < ticks; tick++)
    for (let host = 0; host < hosts; host++)
      yield { host, frame: frameOf(captured, host, tick, begin_us + tick * interval_s * 1_000_000) };
}

/** Publishes frames in their order, many at a time; settled when the log has them all. */
export async function fill(log: JetStreamClient, frames: Iterable<{ host: number; frame: Frame }>): Promise<void> {
  const source = frames[Symbol.iterator]();
  const worker = async () => {
    for (let next = source.next(); !next.done; next = source.next())
      await publish(log, next.value.host, next.value.frame);
  };
  await Promise.all(Array.from({ length: window }, worker));
}
