// An agent as people run it, and what it publishes: the frames themselves, before any collector or store.
import { EventEmitter, once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { anySubject, type Columns, catalog, decodeFrame, type Frame, prefix, type TableName } from '@fleetreel/proto';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { type NatsServer, startNats } from '../servers/nats.ts';
import { type Program, startProgram } from '../servers/program.ts';
import { machineIdOf, programs } from '../stack.ts';

/** Longest wait for a frame, milliseconds: the slowest source is sampled every 15 s. */
const frameWithin_ms = 90_000;

/** One row of a table: its labels and values by column, NaN where a value is absent. */
export type Row = { labels: Record<string, string>; values: Record<string, number> };

export class Watch implements AsyncDisposable {
  /** Everything that has arrived, oldest first. */
  readonly frames: readonly Frame[];
  /** The sizes of the same on the wire, bytes. */
  readonly sizes: readonly number[];
  readonly agent: Program;
  readonly #nats: NatsServer;
  readonly #connection: NatsConnection;
  readonly #folder: string;
  readonly #arrivals = new EventEmitter<{ frame: [] }>();

  private constructor(nats: NatsServer, connection: NatsConnection, agent: Program, folder: string) {
    const frames: Frame[] = [];
    const sizes: number[] = [];
    this.frames = frames;
    this.sizes = sizes;
    this.agent = agent;
    this.#nats = nats;
    this.#connection = connection;
    this.#folder = folder;
    connection.subscribe(anySubject('frame'), {
      callback: (error, message) => {
        if (error) throw error;
        frames.push(decodeFrame(message.data));
        sizes.push(message.data.length);
        this.#arrivals.emit('frame');
      },
    });
  }

  /** Starts a log and an agent that publishes into it every second. */
  static async start(entry: string = programs.agent): Promise<Watch> {
    const nats = await startNats();
    const connection = await connect({ servers: nats.url });
    const manager = await jetstreamManager(connection);
    await manager.streams.add({ name: 'FRAMES', subjects: [`${prefix}.>`], allow_direct: true });
    const folder = await mkdtemp(join(tmpdir(), 'fleetreel-numbers-'));
    const flags = { host: 'numbers', 'machine-id': machineIdOf('numbers'), interval: '1s', data: folder };
    const agent = await startProgram(entry, [
      'run',
      ...Object.entries({ ...flags, 'nats-url': nats.url }).flatMap(([name, value]) => [`--${name}`, value]),
    ]);
    return new Watch(nats, connection, agent, folder);
  }

  /** The first frame sampled after now, so that what was done before is in it; with rows of this table. */
  async next(table: TableName = 'cpu'): Promise<Frame> {
    return await this.first((frame) => frame.tables[table] !== undefined, Date.now() * 1000);
  }

  /** The first frame that is so and was sampled at this time or later. @throws Error when none comes. */
  async first(is: (frame: Frame) => boolean, from_us: number): Promise<Frame> {
    const signal = AbortSignal.timeout(frameWithin_ms);
    for (;;) {
      const found = this.frames.find((frame) => frame.time_us >= from_us && is(frame));
      if (found) return found;
      await once(this.#arrivals, 'frame', { signal }).catch((cause: unknown) => {
        const said = this.agent.lines.slice(-10).join('\n');
        throw new Error(`No such frame within ${frameWithin_ms / 1000} s. The agent said:\n${said}`, { cause });
      });
    }
  }

  /** The frames from one to another, both included. */
  between(from: Frame, to: Frame): Frame[] {
    return this.frames.filter(({ time_us }) => time_us >= from.time_us && time_us <= to.time_us);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.agent.stop();
    await this.#connection.close();
    await this.#nats[Symbol.asyncDispose]();
    await rm(this.#folder, { recursive: true, force: true });
  }
}

/** The rows of a table in a frame; none when the table is not in it. */
export function rowsOf(frame: Frame, name: TableName): Row[] {
  const table = catalog.find((one) => one.name === name);
  const columns = frame.tables[name] as Columns | undefined;
  if (!table || !columns) return [];
  const length = Math.max(...Object.values(columns).map((column) => column.length));
  return Array.from({ length }, (_, row) => ({
    labels: Object.fromEntries(table.labels.map((label) => [label.name, String(columns[label.name]?.[row] ?? '')])),
    values: Object.fromEntries(
      table.fields.map((field) => [field.name, Number(columns[field.name]?.[row] ?? Number.NaN)]),
    ),
  }));
}

/** The row with these labels; undefined when it is not in the frame. */
export function rowOf(frame: Frame, name: TableName, labels: Readonly<Record<string, string>> = {}): Row | undefined {
  return rowsOf(frame, name).find((row) => Object.entries(labels).every(([key, value]) => row.labels[key] === value));
}

/**
 * What flowed from the first of the frames to the last: rates times the time between the frames that carry them. A frame
 * without the rate (undefined: its source was not sampled then) adds its time to the next.
 */
export function integral(frames: readonly Frame[], rate: (frame: Frame) => number | undefined): number {
  let sum = 0;
  let since_us = frames[0]?.time_us ?? 0;
  for (const frame of frames.slice(1)) {
    const value = rate(frame);
    if (value === undefined) continue;
    sum += value * ((frame.time_us - since_us) / 1e6);
    since_us = frame.time_us;
  }
  return sum;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  return ((sorted[Math.ceil(middle) - 1] ?? Number.NaN) + (sorted[Math.floor(middle)] ?? Number.NaN)) / 2;
}
