// The newest state of every host: the newest frame, its tables decoded only when somebody asks for them.
import {
  type Address,
  type Columns,
  decodeTable,
  type FrameHeader,
  parseSubject,
  rowCount,
  scanFrame,
  type Table,
  type TableSlice,
} from '@fleetreel/proto';
import { DeliverPolicy } from '@nats-io/jetstream';
import type { Msg, Subscription } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import type { Log } from '#log/connect.ts';
import { frameSubjects, framesOf, holdsFrames, isFuture } from '#log/frames.ts';
import { isIn, type Partition, whole } from '#log/partition.ts';
import { streamName } from '#log/stream.ts';

/** Rows of one table that one frame brought. */
export type Rows = {
  table: Table;
  /** The frame's time: UTC, microseconds since 1970. */
  time_us: number;
  count: number;
  columns: Columns;
};

/** A table that is not in every frame, since its source has a slower clock, is kept so long: twenty of the slowest. */
export const slowTableMicroseconds = 300_000_000;

type Slice = TableSlice & { time_us: number };

/** The newest frame of a host, with the newest rows of the tables that it does not bring itself. */
export class NewestFrame {
  readonly tenant: string;
  readonly host: string;
  readonly header: FrameHeader;
  /** When it arrived, by this machine's clock: UTC, milliseconds since 1970. */
  readonly arrived: number;
  /** The tables that this frame brought. */
  readonly tables: readonly Table[];
  /** This machine's clock less the host's when the frame arrived, seconds, its way here included; null for one that was sent later. */
  readonly clockSkewSeconds: number | null;
  readonly #slices = new Map<Table, Slice>();
  readonly #rows = new Map<Table, Rows | undefined>();

  constructor({ tenant, host, kind }: Address, arrived: number, bytes: Uint8Array, before?: NewestFrame) {
    // A copy: what NATS hands over is part of a larger buffer that must not live as long as this.
    const { slices, unknownFields: _, ...header } = scanFrame(new Uint8Array(bytes));
    this.tenant = tenant;
    this.host = host;
    this.header = header;
    this.arrived = arrived;
    const { time_us } = header;
    this.clockSkewSeconds = kind === 'frame' ? (arrived * 1000 - time_us) / 1_000_000 : null;
    for (const slice of slices) this.#slices.set(slice.table, { ...slice, time_us });
    if (before)
      for (const [table, slice] of before.#slices)
        if (!this.#slices.has(table) && time_us - slice.time_us <= slowTableMicroseconds)
          this.#slices.set(table, alone(slice));
    this.tables = slices.map(({ table }) => table);
  }

  /** The newest rows of a table, decoded at the first call; undefined when there are none that can be read. */
  rows(table: Table): Rows | undefined {
    if (!this.#rows.has(table)) this.#rows.set(table, decode(this.#slices.get(table)));
    return this.#rows.get(table);
  }

  /** As `rows`, for somebody who looks once: what has to be decoded for it is not kept. */
  peek(table: Table): Rows | undefined {
    return this.#rows.has(table) ? this.#rows.get(table) : decode(this.#slices.get(table));
  }
}

/** A table that outlives its frame, as a copy: a part of the frame would keep all of it. */
function alone(slice: Slice): Slice {
  const { bytes } = slice;
  return bytes.length === bytes.buffer.byteLength ? slice : { ...slice, bytes: new Uint8Array(bytes) };
}

function decode(slice: Slice | undefined): Rows | undefined {
  if (slice === undefined) return undefined;
  try {
    const columns = decodeTable(slice);
    return { table: slice.table, time_us: slice.time_us, count: rowCount(slice.table, columns), columns };
  } catch {
    // Ingest reads the same frame from the log and puts it aside with the reason.
    return undefined;
  }
}

type Listener = (frame: NewestFrame) => void;

/** Keeps the newest frame of every host, of all tenants: filled from the log, then by one subscription. */
export class Newest {
  readonly #frames = new Map<string, NewestFrame>();
  readonly #listeners = new Set<Listener>();
  readonly #partition: Partition;
  readonly #clock: Clock;
  readonly #opened_us: number;
  #subscriptions: readonly Subscription[] = [];

  constructor(clock: Clock, partition = whole) {
    this.#partition = partition;
    this.#clock = clock;
    this.#opened_us = clock.now_us();
  }

  /** Whether every table of a host would be here by now if it had rows: it was followed for long enough. */
  isComplete({ header }: NewestFrame): boolean {
    return header.time_us - this.#opened_us > slowTableMicroseconds;
  }

  /** Subscribes, then fills in the newest frames of the log. The stream has to exist. */
  static async open(log: Log, clock: Clock): Promise<Newest> {
    const newest = new Newest(clock, log.partition);
    const now = () => clock.now_us() / 1000;
    const callback = (error: Error | null, message: Msg) => {
      // A subscription reports an error only when the connection is closed, and then there is nothing to take.
      if (!error) newest.take(message.subject, message.data, now());
    };
    newest.#subscriptions = frameSubjects.map((subject) => log.connection.subscribe(subject, { callback }));
    await newest.#fill(log);
    return newest;
  }

  /** Takes a message that arrived at a time (milliseconds since 1970); frames older than the newest known leave no trace. */
  take(subject: string, data: Uint8Array, arrived: number): void {
    const address = parseSubject(subject);
    if (!address || !holdsFrames(address.kind) || !isIn(this.#partition, address.tenant, address.host)) return;
    let frames: Uint8Array[];
    try {
      frames = framesOf(address.kind, data);
    } catch {
      // Ingest reads the same batch from the log, counts it and puts it aside with the reason.
      return;
    }
    for (const bytes of frames) this.#takeFrame(address, bytes, arrived);
  }

  #takeFrame(address: Address, bytes: Uint8Array, arrived: number): void {
    const key = `${address.tenant}.${address.host}`;
    const known = this.#frames.get(key);
    let frame: NewestFrame;
    try {
      // Most frames of a batch are late: looked at, and no more.
      if (known && address.kind === 'batch' && scanFrame(bytes).time_us <= known.header.time_us) return;
      frame = new NewestFrame(address, arrived, bytes, known);
    } catch {
      // Ingest reads the same frame from the log, counts it and puts it aside with the reason.
      return;
    }
    // A clock that is far ahead would hide every later frame; ingest puts such frames aside.
    if (isFuture(frame.header.time_us, this.#clock.now_us())) return;
    if (known && known.header.time_us >= frame.header.time_us) return;
    this.#frames.set(key, frame);
    for (const listener of this.#listeners) listener(frame);
  }

  get(tenant: string, host: string): NewestFrame | undefined {
    return this.#frames.get(`${tenant}.${host}`);
  }

  list(tenant: string): NewestFrame[] {
    return [...this.#frames.values()].filter((frame) => frame.tenant === tenant);
  }

  /** Forgets a host, until a frame of it arrives. */
  forget(tenant: string, host: string): void {
    this.#frames.delete(`${tenant}.${host}`);
  }

  /** Calls the listener with each frame that is newer than what was known; returns the way to end that. */
  onFrame(listener: Listener): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  close(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  /** The newest frame of every host that the log has, however many hosts there are. */
  async #fill({ jetstream }: Log): Promise<void> {
    const consumer = await jetstream.consumers.get(streamName, {
      filter_subjects: frameSubjects,
      deliver_policy: DeliverPolicy.LastPerSubject,
    });
    // Where nothing waits, waiting for a message would never end.
    if ((await consumer.info(true)).num_pending > 0)
      for await (const message of await consumer.consume()) {
        this.take(message.subject, message.data, Number(message.timestampNanos / 1_000_000n));
        if (message.info.pending === 0) break;
      }
    await consumer.delete();
  }
}
