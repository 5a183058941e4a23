// Hosts that only their frames make, many in one process: each has a connection of its own, as an agent has, and publishes
// recorded frames, one in each interval, acknowledged by the log. A program, so that its CPU is told apart.
//
// Writes `running` when all are connected, and then each second a line of what was done in it (`Second`).
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { deserialize } from 'node:v8';
import { defaultTenant, encodeFrame, type Frame, messageId, subject, token } from '@fleetreel/proto';
import { type JetStreamClient, jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { frameOf, hostName } from './fleet.ts';

/** What was done within about a second. */
export type Second = {
  /** Its end: UTC, milliseconds since 1970. */
  time_ms: number;
  published: number;
  /** Frames that the log did not acknowledge. */
  failed: number;
  /** From the frame's time to its acknowledgement. */
  acknowledged_ms: number[];
};

/** Hosts whose values differ: more would only take memory. */
const variants = 40;
/** Connections that are made at a time. */
const connecting = 32;

const { values } = parseArgs({
  options: {
    'nats-url': { type: 'string', default: '' },
    frames: { type: 'string', default: '' },
    first: { type: 'string', default: '0' },
    hosts: { type: 'string', default: '1' },
    'interval-ms': { type: 'string', default: '5000' },
    aligned: { type: 'boolean', default: false },
  },
});
const [first, hosts, interval_ms] = [Number(values.first), Number(values.hosts), Number(values['interval-ms'])];

const stopping = new AbortController();
process.on('SIGTERM', () => stopping.abort());

/** A frame's tables as bytes, of each variant at each tick: the header is put before them when they are published. */
function bodies(captured: readonly Frame[]): Uint8Array[][] {
  return Array.from({ length: Math.min(variants, hosts) }, (_, variant) =>
    captured.map((_, tick) => {
      const frame = frameOf(captured, variant, tick, 1);
      return encodeFrame(frame).subarray(encodeFrame({ ...frame, tables: {} }).length);
    }),
  );
}

const fresh = (): Second => ({ time_ms: 0, published: 0, failed: 0, acknowledged_ms: [] });
let second = fresh();
let inFlight = 0;
function report(): void {
  process.stdout.write(`${JSON.stringify({ ...second, time_ms: Date.now() })}\n`);
  second = fresh();
}

/** One of the hosts: where its frames go, and how many it has published. */
type Host = { log: JetStreamClient; close: () => Promise<void>; subject: string; session: string; sequence: number };

async function open(host: number): Promise<Host> {
  const name = hostName(host);
  const connection = await connect({
    servers: values['nats-url'],
    name,
    inboxPrefix: `_INBOX_${token('host', name)}`,
    noAsyncTraces: true,
  });
  return {
    log: jetstream(connection, { timeout: 30_000 }),
    close: () => connection.close(),
    subject: subject({ tenant: defaultTenant, kind: 'frame', host: name }),
    session: (0x1000_0000 + host).toString(16).padStart(16, '0'),
    sequence: 0,
  };
}

async function openAll(): Promise<Host[]> {
  const opened: Host[] = [];
  let next = 0;
  const worker = async () => {
    for (let place = next++; place < hosts; place = next++) opened[place] = await open(first + place);
  };
  await Promise.all(Array.from({ length: connecting }, worker));
  return opened;
}

async function publish(host: Host, tables: Uint8Array): Promise<void> {
  const now_ms = Date.now();
  const header = { session: host.session, sequence: ++host.sequence, time_us: now_ms * 1000, interval_ms };
  const bytes = Buffer.concat([encodeFrame({ ...header, tables: {} }), tables]);
  second.published++;
  inFlight++;
  try {
    await host.log.publish(host.subject, bytes, { msgID: messageId(header.session, header.sequence) });
    second.acknowledged_ms.push(Date.now() - now_ms);
  } catch {
    second.failed++;
  }
  inFlight--;
}

async function main(): Promise<void> {
  const tables = bodies(deserialize(readFileSync(values.frames)) as Frame[]);
  const opened = await openAll();
  process.stdout.write('running\n');
  const reporting = setInterval(report, 1000);
  // Agents tick when the wall clock's seconds are a multiple of their interval.
  const begin_ms = Math.ceil(Date.now() / interval_ms) * interval_ms;
  const apart_ms = values.aligned ? 0 : interval_ms / hosts;
  for (let sent = 0; !stopping.signal.aborted; sent++) {
    const place = sent % hosts;
    const tick = Math.floor(sent / hosts);
    const early_ms = begin_ms + tick * interval_ms + place * apart_ms - Date.now();
    if (early_ms > 0) await pause(early_ms, undefined, { signal: stopping.signal }).catch(() => undefined);
    if (stopping.signal.aborted) break;
    const ofVariant = tables[place % tables.length] ?? [];
    void publish(opened[place] as Host, ofVariant[tick % ofVariant.length] as Uint8Array);
  }
  while (inFlight > 0) await pause(10);
  clearInterval(reporting);
  report();
  await Promise.all(opened.map(({ close }) => close()));
}

await main();
