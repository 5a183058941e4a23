// Hosts of a fleet in one process: each with its own connection, session, spool, and the publisher of the real agent; only what
// they sample was recorded before. A program of its own, so that it can be killed as an agent can.
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { type Clock, FrameTimes, systemClock } from '@fleetreel/agent/clock';
import { connectLog } from '@fleetreel/agent/connect';
import { Publisher } from '@fleetreel/agent/publisher';
import { Telemetry } from '@fleetreel/agent/telemetry';
import {
  decodeFrame,
  defaultTenant,
  encodeFrame,
  encodeHostDescription,
  type Frame,
  parseSubject,
  scanFrame,
  subject,
  tableNamed,
} from '@fleetreel/proto';
import { decodeBatch } from '@fleetreel/proto/batch';
import { NatsAccess } from '@fleetreel/proto/nats_access';
import { jetstream } from '@nats-io/jetstream';
import type { NatsConnection } from '@nats-io/transport-node';
import { frameOf, hostName } from '../bench/fleet.ts';
import { descriptionOf } from '../frames.ts';
import type { FleetProcessOptions } from './fleet.ts';
import { capturedAt, Ledger } from './ledger.ts';
import { settle } from './settle.ts';

/** Longest wait for the log to acknowledge everything at the end. */
const stop_ms = 30_000;
/** What an agent holds in memory by default. */
const queue = { frames: 1000, bytes: 16 * 1024 * 1024 };
/** What it holds on disk by default. */
const spool = { bytes: 256 * 1024 * 1024, age_ms: 24 * 3_600_000, sync_ms: 1000 };

const options = JSON.parse(process.argv[2] ?? '{}') as FleetProcessOptions;
/** Without what has times of its own: they would be those of the recording. */
const captured = decodeBatch(readFileSync(options.frames)).map((bytes) => {
  const { tables, ...header } = decodeFrame(bytes);
  const kept = Object.entries(tables).filter(([name]) => tableNamed(name)?.rowTime === undefined);
  return { ...header, tables: Object.fromEntries(kept) as unknown as Frame['tables'] };
});
const access = new NatsAccess({ url: options.natsUrl });
const stopping = new AbortController();
process.on('SIGTERM', () => stopping.abort());

/** The clock of all hosts of this process, as wrong as the file beside the ledger says. */
const clock: Clock = { ...systemClock, now_us: () => (Date.now() + offset_ms()) * 1000 };

function offset_ms(): number {
  return Number(readFileSync(options.clock, 'utf8'));
}

class Host {
  readonly #name: string;
  readonly #number: number;
  readonly #session = randomBytes(8).toString('hex');
  readonly #publisher: Publisher;
  readonly #ledger: Ledger;
  readonly #times = new FrameTimes();
  #sequence = 0;

  constructor(number: number, ledger: Ledger) {
    this.#number = number;
    this.#name = hostName(number);
    this.#ledger = ledger;
    this.#publisher = new Publisher({
      tenant: defaultTenant,
      host: this.#name,
      session: this.#session,
      queue,
      spool: { folder: join(options.spool, this.#name), ...spool },
      upload_interval_ms: 0,
      clock,
      telemetry: new Telemetry('warn'),
    });
  }

  /** Samples and publishes until this process is asked to end; then waits for the log. */
  async run(): Promise<void> {
    const connected = this.#connect();
    await this.#sample();
    const left = await settle(this.#publisher, stop_ms);
    if (left === 0) this.#ledger.ended(this.#name, this.#session);
    else process.stderr.write(`${this.#name}: stopped with ${left} frames that the log has not acknowledged\n`);
    await (await connected)?.close();
  }

  async #sample(): Promise<void> {
    const { interval_ms, hosts } = options;
    // Hosts of a fleet don't tick at the same moment.
    const phase_ms = ((this.#number % hosts) / hosts) * interval_ms;
    const now_ms = () => performance.timeOrigin + performance.now() - phase_ms;
    // A timer may come a little early: no tick comes twice.
    for (let tick = 0; !stopping.signal.aborted; ) {
      tick = Math.max(tick + 1, Math.ceil(now_ms() / interval_ms));
      const wait_ms = Math.max(0, tick * interval_ms - now_ms());
      await pause(wait_ms, undefined, { signal: stopping.signal }).catch(() => undefined);
      if (!stopping.signal.aborted) this.#tick();
    }
  }

  #tick(): void {
    const sequence = ++this.#sequence;
    const time_us = this.#times.next(clock.now_us());
    const { tables }: Frame = frameOf([capturedAt(captured, sequence)], this.#number, sequence, time_us);
    const lost = this.#publisher.losses.rows(sequence);
    if (lost) tables.frame_loss = lost;
    const { interval_ms } = options;
    const bytes = encodeFrame({ session: this.#session, sequence, time_us, interval_ms, tables });
    this.#ledger.sampled(this.#name, this.#session, sequence, time_us);
    this.#publisher.publish(sequence, time_us, bytes);
  }

  /** As the agent does it; undefined when this process ended before. */
  async #connect(): Promise<NatsConnection | undefined> {
    while (!stopping.signal.aborted) {
      const connection = await connectLog(access, { tenant: defaultTenant, host: this.#name }).catch(() => undefined);
      if (!connection) {
        await pause(250, undefined, { signal: stopping.signal }).catch(() => undefined);
        continue;
      }
      this.#witness(connection);
      this.#publisher.open(connection);
      void this.#follow(connection);
      void this.#describe(connection);
      return connection;
    }
    return undefined;
  }

  /** Writes down each acknowledgement as it comes over the wire, before the publisher hears of it. */
  #witness(connection: NatsConnection): void {
    const request = connection.request.bind(connection);
    connection.request = async (to, payload, requestOptions) => {
      const reply = await request(to, payload, requestOptions);
      const kind = parseSubject(to)?.kind;
      if (kind !== 'frame' && kind !== 'batch') return reply;
      const { error, stream } = reply.json<{ error?: unknown; stream?: string }>();
      if (error !== undefined || stream !== 'FRAMES') return reply;
      const bytes = payload as Uint8Array;
      await this.#ledger.acknowledged(this.#name, (kind === 'batch' ? decodeBatch(bytes) : [bytes]).map(scanFrame));
      return reply;
    };
  }

  async #follow(connection: NatsConnection): Promise<void> {
    for await (const status of connection.status())
      if (status.type === 'disconnect') this.#publisher.disconnected();
      else if (status.type === 'reconnect') this.#publisher.reconnected();
  }

  /** Tells the collector the interval, until the log has taken it. */
  async #describe(connection: NatsConnection): Promise<void> {
    const { interval_ms } = options;
    const bytes = encodeHostDescription(descriptionOf(this.#name, this.#session, { intervalMs: interval_ms }));
    const to = subject({ tenant: defaultTenant, host: this.#name, kind: 'host' });
    while (!stopping.signal.aborted) {
      const taken = await jetstream(connection)
        .publish(to, bytes, { msgID: `host-${this.#session}` })
        .catch(() => undefined);
      if (taken) return;
      await pause(1000, undefined, { signal: stopping.signal }).catch(() => undefined);
    }
  }
}

await using ledger = await Ledger.open(options.ledger, options.sync);
process.stdout.write('sampling\n');
await Promise.all(Array.from({ length: options.hosts }, (_, index) => new Host(options.first + index, ledger).run()));
