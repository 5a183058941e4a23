// Every column that node_exporter also has agrees with it: both watch this machine at the same time. The exporter is asked
// shortly before and shortly after each of the agent's ticks, so that the true value lies between two of its own: a gauge
// of ours must be between them, and the growth of a counter between the least and the most that can have been.
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { catalog, type Frame, type Table, type TableName } from '@fleetreel/proto';
import { beforeAll, describe, expect, test } from 'vitest';
import { startProgram } from '../servers/program.ts';
import { apart, type Counter, counterparts, exporterFlags, type Gauge } from './counterparts.ts';
import { type Labels, NodeExporter, type Scrape } from './node_exporter.ts';
import { missing, need } from './requirements.ts';
import { integral, median, rowOf, rowsOf, Watch } from './watch.ts';

/** Ticks that are compared, and so many until there are those and each table had rows: connections are counted once a minute at the rarest. */
const ticks = 20;
const ticksMax = 75;
/** So long before a tick the exporter is asked: longer where its answer took longer of late, and at most so long. */
const ahead_ms = { min: 150, max: 700 };
/** A tick's time is the frame's, and its files are read some milliseconds later: up to 2 % of a second. */
const timing = 0.02;

/** A frame with what the exporter said before it was sampled and after. */
type Moment = { frame: Frame; before: Scrape; after: Scrape };

const moments: Moment[] = [];
let frames: Frame[] = [];

beforeAll(async () => {
  if (missing('linux', 'nodeExporter')) return;
  const file = join(tmpdir(), `fleetreel-stir-${process.pid}`);
  await using watch = await Watch.start();
  await using exporter = await NodeExporter.start(exporterFlags);
  await using _stir = await startProgram('test/numbers/stir.ts', [file]);
  let last = await watch.first((frame) => frame.sequence >= 3, 0);
  let took_ms = 0;
  for (let tick = 0; tick < ticksMax && (moments.length < ticks || !hadAllTables()); tick++) {
    const due_us = last.time_us + last.interval_ms * 1000;
    const early_ms = Math.min(Math.max(1.5 * took_ms, ahead_ms.min), ahead_ms.max);
    await pause(Math.max(due_us / 1000 - early_ms - Date.now(), 0));
    const before = await exporter.scrape();
    took_ms = (before.end_us - before.begin_us) / 1000;
    last = await watch.first(() => true, before.begin_us);
    const after = await exporter.scrape();
    // Where the machine was too slow for that, the tick is not compared.
    if (before.end_us <= last.time_us) moments.push({ frame: last, before, after });
  }
  const [first] = moments;
  if (first) frames = watch.between(first.frame, last);
  await rm(file, { force: true });
});

test('enough ticks could be compared', (context) => {
  need(context, 'linux', 'nodeExporter');
  expect(moments.length).toBeGreaterThan(ticks * 0.75);
});

test('every column has a counterpart in node_exporter, or a reason why not', () => {
  const decided = Object.entries(counterparts).flatMap(([table, columns]) =>
    Object.keys(columns).map((column) => `${table}.${column}`),
  );
  const columns = catalog
    .filter(({ name }) => apart[name] === undefined)
    .flatMap(({ name, fields }) => fields.map((field) => `${name}.${field.name}`));
  expect(decided.toSorted()).toEqual(columns.toSorted());
  expect(catalog.map(({ name }) => name)).toEqual(expect.arrayContaining(Object.keys(apart)));
});

describe('agrees with node_exporter', () => {
  test.for(catalog.filter(({ name }) => comparable(name).length > 0))('$name', (table, context) => {
    need(context, 'linux', 'nodeExporter');
    expect(disagreements(table)).toEqual([]);
  });
});

test('the same cores, devices, file systems and interfaces', (context) => {
  need(context, 'linux', 'nodeExporter');
  const same = (name: TableName, label: string, metric: string, theirs: string): void => {
    const settled = moments.find(({ frame, before, after }) => {
      const [one, other] = [before, after].map((scrape) => scrape.labels(metric, theirs).toSorted().join());
      return frame.tables[name] && one === other;
    });
    if (!settled) throw new Error(`At no tick were the rows of ${name} the same before and after.`);
    const ours = rowsOf(settled.frame, name).map(({ labels }) => labels[label] ?? '');
    expect(ours.filter((entity) => entity !== 'total').toSorted()).toEqual(
      settled.before.labels(metric, theirs).toSorted(),
    );
  };
  same('cpu', 'core', 'node_cpu_seconds_total', 'cpu');
  same('disk_io', 'device', 'node_disk_io_now', 'device');
  same('filesystem', 'mount', 'node_filesystem_device_error', 'mountpoint');
  same('net_interface', 'interface', 'node_network_receive_bytes_total', 'device');
});

test('what was compared has moved', (context) => {
  need(context, 'linux', 'nodeExporter');
  const still = (table: TableName, labels: Labels, ...columns: string[]): string[] =>
    columns.filter((column) => !(integral(frames, (frame) => rowOf(frame, table, labels)?.values[column]) > 0));
  expect(still('cpu', { core: 'total' }, 'used_percent', 'user_percent', 'system_percent', 'idle_percent')).toEqual([]);
  expect(still('load', {}, 'context_switches_per_second', 'interrupts_per_second', 'softirqs_per_second')).toEqual([]);
  expect(still('load', {}, 'forks_per_second')).toEqual([]);
  expect(still('memory', {}, 'page_out_bytes_per_second', 'minor_faults_per_second')).toEqual([]);
  expect(still('pressure', { resource: 'cpu' }, 'some_percent')).toEqual([]);
  const loopback = ['receive_bytes', 'transmit_bytes', 'receive_packets', 'transmit_packets'];
  expect(still('net_interface', { interface: 'lo' }, ...loopback.map((name) => `${name}_per_second`))).toEqual([]);
  const segments = ['active_opens', 'passive_opens', 'receive_segments', 'transmit_segments'];
  expect(still('tcp', {}, ...segments.map((name) => `${name}_per_second`))).toEqual([]);
  const datagrams = ['receive_datagrams', 'transmit_datagrams', 'no_ports'];
  expect(still('udp', {}, ...datagrams.map((name) => `${name}_per_second`))).toEqual([]);
  expect(still('network', {}, 'softnet_processed_per_second')).toEqual([]);
  const disks = rowsOf(frames[0] as Frame, 'disk_io').map(({ labels }) => labels.device ?? '');
  const written = disks.filter(
    (device) => still('disk_io', { device }, 'write_bytes_per_second', 'write_operations_per_second').length === 0,
  );
  expect(written).not.toEqual([]);
});

/** Each table that is compared was in a frame. */
const hadAllTables = (): boolean =>
  catalog.every(
    ({ name }) =>
      comparable(name).length === 0 || moments.some(({ frame }) => frame.tables[name as TableName] !== undefined),
  );

/** Columns of a table that have a counterpart. */
function comparable(table: string): [column: string, counterpart: Gauge | Counter][] {
  return Object.entries(counterparts[table] ?? {}).flatMap(([column, counterpart]) =>
    counterpart.kind === 'none' ? [] : [[column, counterpart]],
  );
}

/** One line for each column of each row that does not agree. */
function disagreements(table: Table): string[] {
  const name = table.name as TableName;
  const present = moments.filter(({ frame }) => frame.tables[name] !== undefined);
  const [first] = present;
  if (!first) return [`No frame had rows of ${name}.`];
  // Rows that were there all the time, by their key.
  const rows = rowsOf(first.frame, name).filter(({ labels }) =>
    present.every(({ frame }) => rowOf(frame, name, labels) !== undefined),
  );
  return rows.flatMap(({ labels }) =>
    comparable(name).flatMap(([column, counterpart]) => {
      const found =
        counterpart.kind === 'gauge'
          ? gaugeDiffers(present, name, labels, column, counterpart)
          : counterDiffers(present, name, labels, column, counterpart);
      return found ? `${name}.${column} ${Object.values(labels).join(' ')}: ${found}` : [];
    }),
  );
}

/** At most of the ticks a gauge is between the exporter's two values. What changes by the moment may miss a few. */
function gaugeDiffers(present: readonly Moment[], table: TableName, labels: Labels, column: string, gauge: Gauge) {
  const distances = present.map(({ frame, before, after }) => {
    const ours = rowOf(frame, table, labels)?.values[column] ?? Number.NaN;
    const theirs = [gauge.expression(before, labels), gauge.expression(after, labels)];
    const slack = typeof gauge.slack === 'function' ? gauge.slack(before, labels) : (gauge.slack ?? 0);
    // A sum of numbers with a fraction differs in its last digits.
    const rounding = 1e-9 * Math.max(...theirs.map(Math.abs));
    const outside = Math.max(Math.min(...theirs) - ours, ours - Math.max(...theirs)) - slack - rounding;
    return { ours, theirs, outside: bothAbsent(ours, theirs, gauge.untold) ? 0 : outside };
  });
  const typical = median(distances.map(({ outside }) => (Number.isNaN(outside) ? Number.POSITIVE_INFINITY : outside)));
  if (typical <= 0) return undefined;
  const worst = distances.find(({ outside }) => !(outside <= 0));
  return `${worst?.ours}, node_exporter ${worst?.theirs.join(' and ')}`;
}

/** A few events in one tick are spread over a spacing of frames that differs from that of the readings by some ms. */
const partOfEvent = 0.5;

/** The growth of a counter is at least what the exporter saw between the inner two of its readings, at most the outer. */
function counterDiffers(
  present: readonly Moment[],
  table: TableName,
  labels: Labels,
  column: string,
  counter: Counter,
) {
  const [first, last] = [present[0], present.at(-1)];
  if (!first || !last || first === last) return 'only one tick';
  const range = frames.filter(({ time_us }) => time_us >= first.frame.time_us && time_us <= last.frame.time_us);
  const rate = counter.rate ?? ((values: Record<string, number>) => values[column] ?? Number.NaN);
  const ours = integral(range, (frame) => {
    const row = rowOf(frame, table, labels);
    return row && rate(row.values);
  });
  const at = (scrape: Scrape) => counter.expression(scrape, labels);
  const [least, most] = [at(last.before) - at(first.after), at(last.after) - at(first.before)];
  if (bothAbsent(ours, [least, most], counter.untold)) return undefined;
  const slack =
    typeof counter.slack === 'function' ? counter.slack(first.before, labels) : (counter.slack ?? partOfEvent);
  const fits = ours >= least * (1 - timing) - slack && ours <= most * (1 + timing) + slack;
  return fits ? undefined : `grew by ${ours}, node_exporter by ${least} to ${most}`;
}

/** Where we have no value, the exporter must have none; it may have none of its own where that is said. */
const bothAbsent = (ours: number, theirs: readonly number[], untold: string | undefined): boolean =>
  theirs.some(Number.isNaN) && (Number.isNaN(ours) || untold !== undefined);
