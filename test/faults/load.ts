// A load of simulated hosts: the agent's real publisher with frames that a real agent sampled, many hosts in this process.
import { mkdtempSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { systemClock } from '@fleetreel/agent/clock';
import { Publisher } from '@fleetreel/agent/publisher';
import { Telemetry } from '@fleetreel/agent/telemetry';
import { anySubject, decodeFrame, defaultTenant, encodeFrame, type Frame } from '@fleetreel/proto';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { frameOf, hostName } from '../bench/fleet.ts';
import { settle } from './settle.ts';

/** Hosts that publish over one connection. */
const hostsPerConnection = 5;
/** Longest wait for the log after a fault. */
const faultMilliseconds = 60_000;
const bounds = { frames: 10_000, bytes: 64 * 1024 * 1024 };

/** The next frames that a real agent publishes. */
export async function capture(url: string, count: number): Promise<Frame[]> {
  const connection = await connect({ servers: url.split(',') });
  try {
    const frames: Frame[] = [];
    for await (const { data } of connection.subscribe(anySubject('frame'), { max: count }))
      frames.push(decodeFrame(data));
    return frames;
  } finally {
    await connection.close();
  }
}

type SimulatedHost = { index: number; publisher: Publisher; telemetry: Telemetry; sequence: number };

/** Notes when a number grew, and the longest time in which it did not: milliseconds of `performance.now()`. */
export class Watch {
  #count = Number.NaN;
  #last = performance.now();
  #longest = { from: 0, to: 0 };

  look(count: number): void {
    const now = performance.now();
    if (count === this.#count) return;
    if (now - this.#last > this.#longest.to - this.#longest.from) this.#longest = { from: this.#last, to: now };
    this.#last = now;
    this.#count = count;
  }

  /** When it grew last. */
  get last(): number {
    return this.#last;
  }

  /** Begins anew. */
  clear(): void {
    this.#longest = { from: 0, to: 0 };
  }

  /** How long after a moment the longest pause ended. */
  resumed(after: number): number {
    return this.#longest.to - Math.max(after, this.#longest.from);
  }
}

/** Hosts that publish a frame every second, one after the other within it, until it is stopped. */
export class Load implements AsyncDisposable {
  readonly #captured: readonly Frame[];
  /** Where the hosts keep what the log does not take. */
  readonly #folder = mkdtempSync(join(tmpdir(), 'fleetreel-load-'));
  readonly #hosts: SimulatedHost[] = [];
  readonly #connections: NatsConnection[] = [];
  readonly #stopping = new AbortController();
  readonly #all = new Watch();
  readonly #each: Watch[] = [];
  #running: Promise<unknown> = Promise.resolve();

  private constructor(captured: readonly Frame[]) {
    this.#captured = captured;
  }

  static async start(url: string, count: number, captured: readonly Frame[]): Promise<Load> {
    const load = new Load(captured);
    for (let first = 0; first < count; first += hostsPerConnection) {
      const publishers: Publisher[] = [];
      const connection = await connect({
        servers: url.split(','),
        maxReconnectAttempts: -1,
        reconnectTimeWait: 250,
        reconnectJitter: 250,
        ignoreAuthErrorAbort: true,
        noAsyncTraces: true,
      });
      load.#connections.push(connection);
      for (let index = first; index < Math.min(first + hostsPerConnection, count); index++) {
        const telemetry = new Telemetry('silent');
        const publisher = new Publisher({
          tenant: defaultTenant,
          host: hostName(index),
          session: frameOf(captured, index, 0, 0).session,
          queue: bounds,
          spool: {
            folder: join(load.#folder, hostName(index)),
            bytes: 256 * 1024 * 1024,
            age_ms: 86_400_000,
            sync_ms: 1000,
          },
          upload_interval_ms: 0,
          clock: systemClock,
          telemetry,
        });
        publisher.open(connection);
        publishers.push(publisher);
        load.#hosts.push({ index, publisher, telemetry, sequence: 0 });
        load.#each.push(new Watch());
      }
      void follow(connection, publishers);
    }
    load.#running = Promise.all([load.#publish(), load.#look()]);
    return load;
  }

  /** How many frames each host has published, by its name; the log has taken them when the load has stopped. */
  get published(): Map<string, number> {
    return new Map(this.#hosts.map(({ index, sequence }) => [hostName(index), sequence]));
  }

  /**
   * Makes a fault, and waits until the log has taken a frame of every host that was made after it. Returns how long it took
   * none of any host, and of the one that waited longest: milliseconds from the fault.
   */
  async during(fault: () => Promise<void>): Promise<{ any_ms: number; each_ms: number }> {
    for (const watch of [this.#all, ...this.#each]) watch.clear();
    const begin = performance.now();
    await fault();
    const made = performance.now();
    while (this.#each.some(({ last }) => last < made)) {
      if (performance.now() - made > faultMilliseconds)
        throw new Error(`The log took no frame of some host within ${faultMilliseconds / 1000} s.`);
      await pause(10);
    }
    return {
      any_ms: this.#all.resumed(begin),
      each_ms: Math.max(...this.#each.map((watch) => watch.resumed(begin))),
    };
  }

  /** Ends the load once the log has all; returns how many frames it has not. */
  async stop(): Promise<number> {
    this.#stopping.abort();
    await this.#running;
    const left = await Promise.all(this.#hosts.map(({ publisher }) => settle(publisher, 30_000)));
    for (const connection of this.#connections) await connection.close();
    return left.reduce((a, b) => a + b, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stopping.abort();
    await this.#running;
    await Promise.all(this.#hosts.map(({ publisher }) => publisher.stop(0)));
    for (const connection of this.#connections) await connection.close();
    await rm(this.#folder, { recursive: true, force: true });
  }

  async #publish(): Promise<void> {
    for (let due = performance.now(); !this.#stopping.signal.aborted; ) {
      for (const host of this.#hosts) {
        due += 1000 / this.#hosts.length;
        await pause(Math.max(0, due - performance.now()));
        if (this.#stopping.signal.aborted) return;
        const frame = frameOf(this.#captured, host.index, host.sequence++, Date.now() * 1000);
        host.publisher.publish(frame.sequence, frame.time_us, encodeFrame(frame));
      }
    }
  }

  async #look(): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      for (const [place, { telemetry }] of this.#hosts.entries()) this.#each[place]?.look(telemetry.framesPublished);
      this.#all.look(this.#hosts.reduce((sum, { telemetry }) => sum + telemetry.framesPublished, 0));
      await pause(10);
    }
  }
}

async function follow(connection: NatsConnection, publishers: readonly Publisher[]): Promise<void> {
  for await (const { type } of connection.status())
    for (const publisher of publishers)
      if (type === 'disconnect') publisher.disconnected();
      else if (type === 'reconnect') publisher.reconnected();
}
