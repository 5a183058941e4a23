// P8: what was recorded, played again.
import { rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import {
  type Columns,
  defaultTenant,
  encodeFrame,
  type Frame,
  messageId,
  subject,
  type Tables,
} from '@fleetreel/proto';
import { Replay } from '@fleetreel/proto/services';
import { credentials } from '@grpc/grpc-js';
import { type JetStreamClient, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { startProgram } from '../servers/program.ts';
import { eventually, Stack } from '../stack.ts';
import { type Figure, measured, quantile } from './figure.ts';
import { hostName } from './fleet.ts';

const hosts = 100;
/** Bytes of a frame: real tables of this machine, as many as go into it. */
const frameBytes = 2000;
/** Frames on their way to the log at a time. */
const window = 256;
/** Frames recorded in a second: more than ten times what 2,000 hosts send at 5 s. */
const perSecond = 5000;
/** Seeks that are measured. */
const seeks = 20;
/** Seconds of playing for each speed of which the spacing is measured; of one host, as somebody looks at it. */
const spacingSeconds = 10;
const rounds = 3;

/** P8, with a log of so many frames. */
export async function replay(captured: readonly Frame[], count: number): Promise<Figure[]> {
  await using stack = await Stack.start();
  const connection = await connect({ servers: stack.nats.url, noAsyncTraces: true });
  try {
    const from = Date.now();
    await record(jetstream(connection), captured, count);
    const to = Date.now() + 1;
    const manager = await jetstreamManager(connection);
    // The store gets the same frames: what it still has to do would be measured, too.
    await eventually('a collector without a backlog', 1_800_000, async () => {
      const { num_pending, num_ack_pending } = await manager.consumers.info('FRAMES', 'store-main');
      return num_pending + num_ack_pending === 0 || undefined;
    });
    const inside = { alone: [] as number[], nothing: [] as number[], intoFile: [] as number[] };
    const overGrpc: number[] = [];
    let bytes = 0;
    for (let round = 0; round < rounds; round++) {
      const file = join(stack.folder, `bench-${round}.reel`);
      const program = await startProgram('packages/collector/src/replay/source.bench.ts', [
        stack.nats.url,
        String(from),
        String(to),
        file,
      ]);
      const { code } = await program.exited;
      const line = program.lines.find((text) => text.startsWith('{'));
      if (code !== 0 || !line) throw new Error(`The replay without a face failed: ${program.lines.join('\n')}`);
      const found = JSON.parse(line) as Record<keyof typeof inside, number>;
      for (const name of ['alone', 'nothing', 'intoFile'] as const) inside[name].push(found[name]);
      bytes = statSync(file).size;
      rmSync(file);
      overGrpc.push(await playAll(stack.grpcAddress, from, to, count));
    }
    const waits = await seekAll(stack.grpcAddress, from, to);
    const spacing = [
      await spacingOf(stack.grpcAddress, from, to, 1),
      await spacingOf(stack.grpcAddress, from, to, 10),
    ] as const;
    const log = `${count.toLocaleString('en-US')} frames of ${hosts} hosts and ${frameBytes} bytes in the log, ${perSecond.toLocaleString('en-US')} stored in a second`;
    const yardstick = { what: 'ordered consumer alone', value: measured(inside.alone) };
    return [
      {
        id: 'P8',
        name: 'replay: into a file',
        unit: 'frames/s',
        value: measured(inside.intoFile),
        yardstick,
        goal: { text: '>= 60,000', reached: measured(inside.intoFile).median >= 60_000 },
        method: `${log}, as fast as possible in the collector's code into a .reel of ${bytes.toLocaleString('en-US')} bytes, ${rounds} rounds; into nothing: ${Math.round(measured(inside.nothing).median).toLocaleString('en-US')}`,
      },
      {
        id: 'P8',
        name: 'replay: over gRPC',
        unit: 'frames/s',
        value: measured(overGrpc),
        yardstick,
        goal: { text: '>= 30,000', reached: measured(overGrpc).median >= 30_000 },
        method: `${log}, Replay.Play as fast as possible from the running collector into this process, ${rounds} rounds`,
      },
      {
        id: 'P8',
        name: 'replay: seek',
        unit: 'ms',
        value: measured(waits),
        goal: { text: '< 300', reached: quantile(waits, 0.99) < 300 },
        method: `${log}: from the command to the first frame after it, over gRPC, ${seeks} places`,
      },
      ...spacing.map(({ speed, errors }) => ({
        id: 'P8',
        name: `replay: error of spacing at x${speed}, p99`,
        unit: 'ms',
        value: quantile(errors, 0.99),
        goal: { text: '< 20', reached: quantile(errors, 0.99) < 20 },
        method: `arrival over gRPC against the times of the ${errors.length} frames of one host, counted from the first; median ${quantile(errors, 0.5).toFixed(2)}`,
      })),
    ];
  } finally {
    await connection.close();
  }
}

/** Publishes frames with the time at which they are published. */
async function record(log: JetStreamClient, captured: readonly Frame[], count: number): Promise<void> {
  const tables = bodyOf(captured);
  // The tables follow the header in a frame: they are made once.
  const header = (sequence: number, host: number) => ({
    session: (0x2000_0000 + host).toString(16).padStart(16, '0'),
    sequence,
    time_us: Date.now() * 1000,
    interval_ms: 1000,
  });
  const empty = encodeFrame({ ...header(1, 1), tables: {} }).length;
  const body = encodeFrame({ ...header(1, 1), tables }).subarray(empty);
  let next = 0;
  const begin_ms = performance.now();
  const work = async () => {
    for (let index = next++; index < count; index = next++) {
      const early_ms = begin_ms + (index / perSecond) * 1000 - performance.now();
      if (early_ms > 1) await pause(early_ms);
      const host = index % hosts;
      const sequence = Math.floor(index / hosts) + 1;
      const own = header(sequence, host);
      const bytes = Buffer.concat([encodeFrame({ ...own, tables: {} }), body]);
      await log.publish(subject({ tenant: defaultTenant, kind: 'frame', host: hostName(host) }), bytes, {
        msgID: messageId(own.session, sequence),
      });
    }
  };
  await Promise.all(Array.from({ length: window }, work));
}

/** Tables of a captured frame, as many as fit. */
function bodyOf(captured: readonly Frame[]): Tables {
  const frame = captured.at(-1);
  if (!frame) throw new Error('No frame was captured.');
  let chosen: Record<string, Columns> = {};
  for (const [name, columns] of Object.entries(frame.tables) as [string, Columns][]) {
    const more = { ...chosen, [name]: columns };
    if (encodeFrame({ ...frame, tables: more as Tables }).length <= frameBytes) chosen = more;
  }
  return chosen as Tables;
}

const open = (address: string) =>
  new Replay(address, credentials.createInsecure(), { 'grpc.max_receive_message_length': -1 });

async function playAll(address: string, from: number, to: number, count: number): Promise<number> {
  const client = open(address);
  const call = client.Play();
  const begin_ms = performance.now();
  call.write({ start: { from: String(from), to: String(to), speed: 0 } });
  call.end();
  let frames = 0;
  for await (const message of call) frames += (message as { frames: unknown[] }).frames.length;
  client.close();
  if (frames !== count) throw new Error(`${frames} of ${count} frames were played`);
  return frames / ((performance.now() - begin_ms) / 1000);
}

async function seekAll(address: string, from: number, to: number): Promise<number[]> {
  const client = open(address);
  const call = client.Play();
  const waits: number[] = [];
  let asked_ms = 0;
  let isSought = false;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  call.on('error', reject);
  const seek = () => {
    if (waits.length === seeks) {
      resolve();
      return;
    }
    isSought = false;
    asked_ms = performance.now();
    const place = (waits.length * 0.618_034) % 1;
    call.write({ seek: { to: String(Math.round(from + (to - from) * 0.95 * place)) } });
  };
  call.on('data', ({ frames, mark }: { frames: unknown[]; mark: { kind: string } | null }) => {
    if (mark?.kind === 'PLAY_MARK_KIND_BEGIN') seek();
    else if (mark?.kind === 'PLAY_MARK_KIND_SEEK') isSought = true;
    else if (isSought && frames.length > 0) {
      waits.push(performance.now() - asked_ms);
      seek();
    }
  });
  call.write({ start: { from: String(from), to: String(to), speed: 1 } });
  await promise;
  call.removeAllListeners('error');
  call.on('error', () => undefined);
  call.cancel();
  client.close();
  return waits;
}

async function spacingOf(address: string, from: number, to: number, speed: number) {
  const client = open(address);
  const call = client.Play();
  const end = Math.min(to, from + spacingSeconds * 1000 * speed);
  call.write({ start: { from: String(from), to: String(end), hosts: [hostName(0)], speed } });
  call.end();
  let first: { at_ms: number; time_us: number } | undefined;
  const errors: number[] = [];
  for await (const message of call) {
    const at_ms = performance.now();
    for (const { time_us } of (message as { frames: { time_us: number }[] }).frames) {
      first ??= { at_ms, time_us };
      errors.push(Math.abs(at_ms - first.at_ms - (time_us - first.time_us) / 1000 / speed));
    }
  }
  client.close();
  return { speed, errors };
}
