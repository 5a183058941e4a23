// The newest values of the whole fleet as one page for Prometheus, made piece by piece.
import { setImmediate as others } from 'node:timers/promises';
import { type Columns, catalog, type HostDescription, type Table } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import { exportPieceCharacters } from '#limits.ts';
import type { Newest, NewestFrame } from '#live/newest.ts';
import type { Registry } from '#log/registry.ts';
import { describing, heading, infoName, labelText, metricOf, valueText } from '#query/exposition.ts';
import type { Hosts } from '#query/hosts.ts';
import { findHosts, findTable } from '#query/names.ts';

export type FleetQuestion = { hosts: readonly string[]; tables: readonly string[] };
export type FleetParts = { newest: Newest; hosts: Hosts; registry: Registry };

/** Events and sessions have no newest value. */
export const exportable: readonly Table[] = catalog.filter(({ rowTime }) => rowTime === undefined);

/**
 * What is exported when no table is named. Processes come and go, and each would be new series in Prometheus: tables of single
 * processes are exported when they are asked for.
 */
export const exportedByDefault: readonly Table[] = exportable.filter(
  ({ labels }) => !labels.some(({ name, key }) => key && name === 'pid'),
);

/** What is told of a machine itself: members of its description. */
const told = [
  'platform',
  'os',
  'kernel',
  'architecture',
  'cpu_model',
  'virtualization',
  'agent_version',
  'machine_id',
] as const satisfies readonly (keyof HostDescription)[];

/** The rows of one table of one host: the labels of each entity, and in which row its values are. */
type Exported = { rows: Map<string, number>; columns: Columns; host: string };

/**
 * The page in pieces. The question is checked before the first is made.
 * @throws ApiError
 */
export function queryFleet(parts: FleetParts, tenant: string, question: FleetQuestion): AsyncGenerator<string> {
  const known = parts.hosts.names(tenant);
  const named = findHosts(known, question.hosts);
  const hosts = named.length > 0 ? named : [...known].sort();
  const wanted = new Set(question.tables.map(findTable));
  for (const table of wanted)
    if (!exportable.includes(table))
      throw new ApiError('bad_value', {
        parameter: 'table',
        value: table.name,
        expected: 'tables that have newest values: what happened is under /api/v1/rows',
      });
  const tables = wanted.size > 0 ? exportable.filter((table) => wanted.has(table)) : exportedByDefault;
  return pieces(lines(parts, tenant, hosts, tables));
}

/** Lines gathered into pieces; between two of them, whatever else the collector has to do is done. */
async function* pieces(all: Iterable<string>): AsyncGenerator<string> {
  let piece = '';
  for (const line of all) {
    piece += line;
    if (piece.length < exportPieceCharacters) continue;
    yield piece;
    piece = '';
    await others();
  }
  yield piece;
}

/** The page, metric by metric, as the format wants it: so it goes through the hosts once for each. */
function* lines(
  { newest, hosts, registry }: FleetParts,
  tenant: string,
  names: readonly string[],
  tables: readonly Table[],
) {
  const presence = names.map((host) => ({ host, ...hosts.presence(tenant, host) }));
  yield heading('fleetreel_host_up', 'gauge', 'Whether the host is heard of: 1 when it is online, else 0.');
  for (const { host, online } of presence) yield `fleetreel_host_up${labelText([['host', host]])} ${online ? 1 : 0}\n`;
  yield heading('fleetreel_host_last_seen_timestamp_seconds', 'gauge', "Time of the host's newest frame.");
  for (const { host, lastSeen_us } of presence)
    if (lastSeen_us !== null)
      yield `fleetreel_host_last_seen_timestamp_seconds${labelText([['host', host]])} ${lastSeen_us / 1e6}\n`;
  yield heading('fleetreel_host_info', 'gauge', 'What the machine is; always 1.');
  for (const { host, online } of presence) {
    const description = registry.get(tenant, host)?.description;
    if (!online || !description) continue;
    const labels = told.map((name) => [name, String(description[name])] as const);
    yield `fleetreel_host_info${labelText([['host', host], ...labels])} 1\n`;
  }
  const frames = presence.flatMap(({ host, online }) => {
    const frame = online ? newest.get(tenant, host) : undefined;
    return frame ? [frame] : [];
  });
  for (const table of tables) yield* tableLines(table, frames);
}

function* tableLines(table: Table, frames: readonly NewestFrame[]) {
  const keys = table.labels.filter(({ key }) => key).map(({ name }) => name);
  const exported: Exported[] = [];
  for (const frame of frames) {
    // Not kept: a page of the whole fleet must not leave all of its tables decoded in memory.
    const found = frame.peek(table);
    if (!found) continue;
    const { columns, count } = found;
    const rows = new Map<string, number>();
    // Of two rows of one entity the later one counts, as in the store.
    for (let row = 0; row < count; row++)
      rows.set(
        labelText([['host', frame.host], ...keys.map((name) => [name, cell(columns, name, row)] as const)]),
        row,
      );
    exported.push({ rows, columns, host: frame.host });
  }
  if (exported.length === 0) return;
  const described = describing(table);
  if (described.length > 0) {
    const name = infoName(table);
    yield heading(name, 'gauge', `${table.help} What describes them; always 1.`);
    for (const { rows, columns } of exported)
      for (const [labels, row] of rows) {
        const more = labelText(described.map((label) => [label.name, cell(columns, label.name, row)] as const));
        yield `${name}${joined(labels, more)} 1\n`;
      }
  }
  for (const field of table.fields) {
    const { name, type, help, divisor } = metricOf(table, field);
    let headed = false;
    for (const { rows, columns } of exported) {
      const column = columns[field.name] ?? [];
      if (column.length === 0) continue;
      for (const [labels, row] of rows) {
        const value = Number(column[row]);
        if (Number.isNaN(value)) continue;
        if (!headed) yield heading(name, type, help);
        headed = true;
        yield `${name}${labels} ${valueText(value / divisor)}\n`;
      }
    }
  }
}

/** An empty column means that all its values are absent. */
const cell = (columns: Columns, name: string, row: number): string => String(columns[name]?.[row] ?? '');

const joined = (labels: string, more: string): string =>
  more === '{}' ? labels : `${labels.slice(0, -1)},${more.slice(1)}`;
