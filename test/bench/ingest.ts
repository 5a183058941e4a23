// P3 to P5: frames in the log, and from the log into the store.
import { globSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { catalog, defaultTenant, encodeFrame, everything } from '@fleetreel/proto';
import { AckPolicy, type JetStreamManager, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { decode } from '../../packages/collector/src/ingest/decode.ts';
import { Rows } from '../../packages/collector/src/store/rows.ts';
import { cpuSeconds } from '../numbers/process.ts';
import { eventually, Stack } from '../stack.ts';
import { type Figure, measured, middle, quantile } from './figure.ts';
import { countRows, countValues, type Fleet, fill, history, hostName } from './fleet.ts';
import { framesPerWrite, prepared, push } from './ilp.ts';

const rounds = 3;
/** As many as the collector has to the store. */
const connections = 1;
/** Longest wait for all rows to be visible, milliseconds. */
const visibleWithin_ms = 120_000;
const stream = 'FRAMES';
const durable = 'store-main';

/** What a fleet's frames are made of. */
type Content = { frames: number; rows: number; values: number; byTable: Map<string, number>; bytes: number };

function contentOf(fleet: Fleet): Content {
  const content: Content = { frames: 0, rows: 0, values: 0, byTable: new Map(), bytes: 0 };
  const add = (table: string, rows: number) => {
    content.byTable.set(table, (content.byTable.get(table) ?? 0) + rows);
    content.rows += rows;
  };
  for (const { frame } of history(fleet)) {
    content.frames++;
    content.values += countValues(frame);
    content.bytes += encodeFrame(frame).length;
    add('frame', 1);
    for (const [table, rows] of countRows(frame)) add(table, rows);
  }
  return content;
}

/** P3 (second half), P4 and P5, with one filled log. */
export async function ingest(fleet: Fleet): Promise<Figure[]> {
  const content = contentOf(fleet);
  // The collector makes the stream and the tables, and is then stopped until the log is full.
  await using stack = await Stack.start();
  await stack.collector.stop();
  const connection = await connect({ servers: stack.nats.url, noAsyncTraces: true });
  try {
    await fill(jetstream(connection), history(fleet));
    const manager = await jetstreamManager(connection);
    return [
      inLog(stack, content),
      ...(await fromLog(stack, manager, fleet, content)),
      await decoding(manager, fleet, content),
    ];
  } finally {
    await connection.close();
  }
}

function inLog(stack: Stack, { frames, values, bytes }: Content): Figure {
  const blocks = globSync(join(stack.nats.data, 'jetstream', '*', 'streams', stream, 'msgs', '*.blk'));
  const stored = blocks.reduce((sum, path) => sum + statSync(path).size, 0);
  return {
    id: 'P3',
    name: 'frame: bytes per value, in the log',
    unit: 'bytes',
    value: stored / values,
    yardstick: { what: 'as published', value: bytes / values },
    goal: { text: '<= 4', reached: stored / values <= 4 },
    method:
      `size of the ${blocks.length} block files of the stream (s2) with ${frames.toLocaleString('en-US')} frames, subjects, ` +
      'message ids and the uncompressed last block included, divided by the values',
  };
}

/** One passage of all frames into the store: seconds, and CPU seconds of the parts. */
type Passage = { seconds: number; rows: number; collector: number; nats: number; questdb: number };

async function fromLog(stack: Stack, manager: JetStreamManager, fleet: Fleet, content: Content): Promise<Figure[]> {
  const collected: Passage[] = [];
  const pushed: Passage[] = [];
  const bodies = prepared(history(fleet));
  // In turn, so that a machine that is busy for a while is so for both.
  for (let round = 0; round < rounds; round++) {
    await emptyStore(stack);
    // A new consumer begins with the first frame of the log.
    await manager.consumers.delete(stream, durable);
    collected.push(await collect(stack, content));
    await stack.collector.stop();
    await emptyStore(stack);
    pushed.push(await pushAll(stack, bodies, content));
  }
  const rates = (passages: readonly Passage[]) => measured(passages.map(({ rows, seconds }) => rows / seconds));
  const perRow = (passages: readonly Passage[], part: 'collector' | 'nats' | 'questdb') =>
    measured(passages.map((passage) => (passage[part] * 1e6) / passage.rows));
  const [own, raw] = [rates(collected), rates(pushed)];
  const perValue = content.values / content.rows;
  const scale = ({ median, min, max }: typeof own) => ({
    median: median * perValue,
    min: min * perValue,
    max: max * perValue,
  });
  const how =
    `${content.frames.toLocaleString('en-US')} frames of ${fleet.hosts} hosts (real frames of this machine, scaled for each ` +
    `host; ${content.rows.toLocaleString('en-US')} rows of ${perValue.toFixed(1)} values) in the log before the collector ` +
    `starts; from the first visible rows until all are, ${rounds} rounds`;
  const raws = `the same rows as prepared binary lines, ${bodies.length} writes over ${connections} connection, until all are visible`;
  const reached = own.median >= raw.median * 0.6;
  return [
    {
      id: 'P4',
      name: 'ingest: rows',
      unit: 'rows/s',
      value: own,
      yardstick: { what: 'prepared binary lines into the same QuestDB', value: raw },
      goal: { text: '>= 0.6 of the yardstick', reached },
      method: `${how}; yardstick: ${raws}`,
    },
    {
      id: 'P4',
      name: 'ingest: values',
      unit: 'values/s',
      value: scale(own),
      yardstick: { what: 'prepared binary lines into the same QuestDB', value: scale(raw) },
      method: 'as the row above',
    },
    ...(['collector', 'nats', 'questdb'] as const).map((part) => ({
      id: 'P4',
      name: `ingest: CPU of ${{ collector: 'the collector', nats: 'nats-server', questdb: 'QuestDB' }[part]}`,
      unit: 'us/row',
      value: perRow(collected, part),
      ...(part === 'questdb' ? { yardstick: { what: 'with prepared lines', value: perRow(pushed, part) } } : {}),
      method: 'CPU of all its threads between the same moments',
    })),
  ];
}

async function emptyStore({ questdb }: Stack): Promise<void> {
  for (const table of ['frame', ...catalog.map(({ name }) => name)]) await questdb.query(`TRUNCATE TABLE ${table}`);
}

const visibleFrames = async ({ questdb }: Stack): Promise<number> =>
  Number((await questdb.query('SELECT count() FROM frame')).rows[0]?.[0]);

/** Waits until every table has all its rows. */
async function allVisible(stack: Stack, { byTable, frames }: Content): Promise<void> {
  await eventually(`${frames} visible frames`, visibleWithin_ms, async () => {
    const count = await visibleFrames(stack);
    if (count !== frames) throw new Error(`there are ${count}; the collector said: ${stack.collector.lines.at(-1)}`);
    return true;
  });
  for (const [table, rows] of byTable)
    await eventually(`${rows} visible rows of ${table}`, visibleWithin_ms, async () => {
      const count = Number((await stack.questdb.query(`SELECT count() FROM ${table}`)).rows[0]?.[0]);
      if (count !== rows) throw new Error(`there are ${count}`);
      return true;
    });
}

async function collect(stack: Stack, content: Content): Promise<Passage> {
  const started = stack.startCollector();
  const first = await eventually(
    'rows of the collector',
    visibleWithin_ms,
    async () => (await visibleFrames(stack)) || undefined,
  );
  const [begin_ms, before] = [performance.now(), cpuOf(stack, stack.collector.pid)];
  await allVisible(stack, content);
  const seconds = (performance.now() - begin_ms) / 1000;
  const after = cpuOf(stack, stack.collector.pid);
  await started;
  return passage(seconds, content.rows * (1 - first / content.frames), before, after);
}

async function pushAll(stack: Stack, bodies: readonly Buffer[], content: Content): Promise<Passage> {
  const [begin_ms, before] = [performance.now(), cpuOf(stack)];
  await push(stack.questdb, bodies, connections);
  await allVisible(stack, content);
  return passage((performance.now() - begin_ms) / 1000, content.rows, before, cpuOf(stack));
}

type Cpu = { collector: number; nats: number; questdb: number };

const cpuOf = ({ nats, questdb }: Stack, collector?: number): Cpu => ({
  collector: collector === undefined ? 0 : cpuSeconds(collector),
  nats: cpuSeconds(nats.pid),
  questdb: cpuSeconds(questdb.pid),
});

const passage = (seconds: number, rows: number, before: Cpu, after: Cpu): Passage => ({
  seconds,
  rows,
  collector: after.collector - before.collector,
  nats: after.nats - before.nats,
  questdb: after.questdb - before.questdb,
});

/** P5: frames decoded to rows as the store wants them, without a store. */
async function decoding(manager: JetStreamManager, fleet: Fleet, content: Content): Promise<Figure> {
  const alone: number[] = [];
  const decoded: number[] = [];
  const messages: Uint8Array[] = [];
  const rows = new Rows(() => undefined);
  const repetitions = Math.ceil(10_000 / (fleet.hosts * fleet.ticks));
  for (const { frame } of history({ ...fleet, ticks: Math.min(fleet.ticks, Math.ceil(10_000 / fleet.hosts)) }))
    messages.push(encodeFrame(frame));
  for (let round = 0; round < rounds; round++) {
    alone.push(content.frames / (await cpuWhile(() => fetchAll(manager, content.frames))));
    const decodeAll = () => {
      for (let again = 0; again < repetitions; again++)
        for (const [index, bytes] of messages.entries()) {
          if (index % framesPerWrite === 0) rows.clear();
          const host = hostName(index % fleet.hosts);
          rows.add({ ...decode(bytes), tenant: defaultTenant, host, received_us: fleet.begin_us });
        }
    };
    // Not to measure the compiler.
    if (round === 0) decodeAll();
    decoded.push((repetitions * messages.length) / (await cpuWhile(decodeAll)));
  }
  const size = quantile(
    messages.map(({ length }) => length),
    0.5,
  );
  const equivalent = (middle(measured(decoded)) * size) / 2000;
  return {
    id: 'P5',
    name: `decode to rows: frames of ${size} bytes`,
    unit: 'frames/s of CPU',
    value: measured(decoded),
    yardstick: { what: 'fetch alone', value: measured(alone) },
    goal: { text: '>= 30,000 of 2 kB', reached: equivalent >= 30_000 },
    method:
      `the collector's way from bytes to lines of QuestDB on ${messages.length.toLocaleString('en-US')} frames in memory, per second of CPU of the process, ${rounds} ` +
      `rounds: as many bytes as ${Math.round(equivalent).toLocaleString('en-US')} frames of 2 kB; yardstick: the whole log ` +
      'fetched by 1,000 messages, each acknowledged, the last with confirmation',
  };
}

/** CPU seconds of this process while something is done. */
async function cpuWhile(work: () => void | Promise<void>): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** Fetches and acknowledges so many frames with a consumer of its own. */
async function fetchAll(manager: JetStreamManager, frames: number): Promise<void> {
  const { name } = await manager.consumers.add(stream, {
    ack_policy: AckPolicy.Explicit,
    filter_subject: everything,
    max_ack_pending: 16_000,
  });
  const consumer = await manager.jetstream().consumers.get(stream, name);
  for (let fetched = 0; fetched < frames; ) {
    let last: { ackAck(): Promise<boolean> } | undefined;
    for await (const message of await consumer.fetch({ max_messages: 1000, expires: 1000 })) {
      message.ack();
      last = message;
      fetched++;
    }
    await last?.ackAck();
  }
  await manager.consumers.delete(stream, name);
}
