// Where faults are made: the whole product under the load of a fleet that is at the other end of a cable. Log, store and spools are
// each on a disk of their own.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Cable } from '../cable.ts';
import { Disk } from '../servers/disk.ts';
import { eventually, Stack } from '../stack.ts';
import type { Window } from './coverage.ts';
import { captureFrames, Fleet } from './fleet.ts';
import { Link } from './link.ts';
import { type Verdict, verify } from './verify.ts';

const GiB = 1024 ** 3;
const MiB = 1024 ** 2;
/** Longest wait for a fleet's frames to be stored again after a fault, milliseconds. */
const flowing_ms = 120_000;

/** Numbers that are the same for the same seed (mulberry32): a fault that was found can be made again. */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** From 0 to below 1. */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  between(from: number, to: number): number {
    return from + this.next() * (to - from);
  }

  /** A whole number from 0 to below this. */
  below(count: number): number {
    return Math.floor(this.next() * count);
  }
}

type Disks = { nats: Disk; questdb: Disk; spool: Disk };

export class Ground implements AsyncDisposable {
  readonly stack: Stack;
  readonly fleet: Fleet;
  readonly cable: Cable;
  /** The fleet's way to the log. */
  readonly link: Link;
  readonly disks: Disks;
  readonly random: Random;
  readonly #frames: string;
  readonly #undo: AsyncDisposableStack;

  private constructor(
    parts: Pick<Ground, 'stack' | 'fleet' | 'cable' | 'link' | 'disks' | 'random'> & {
      frames: string;
      undo: AsyncDisposableStack;
    },
  ) {
    this.stack = parts.stack;
    this.fleet = parts.fleet;
    this.cable = parts.cable;
    this.link = parts.link;
    this.disks = parts.disks;
    this.random = parts.random;
    this.#frames = parts.frames;
    this.#undo = parts.undo;
  }

  static async start(seed: number, hosts = 50): Promise<Ground> {
    await using undo = new AsyncDisposableStack();
    const folder = mkdtempSync(join(tmpdir(), 'fleetreel-faults-'));
    undo.defer(() => rmSync(folder, { recursive: true, force: true }));
    const disks = {
      nats: undo.use(Disk.make(GiB)),
      questdb: undo.use(Disk.make(8 * GiB)),
      spool: undo.use(Disk.make(256 * MiB)),
    };
    const cable = undo.use(new Cable());
    const [stack, frames] = await Promise.all([
      Stack.start({ nats: join(disks.nats.folder, 'data'), questdb: join(disks.questdb.folder, 'data') }),
      captureFrames(join(folder, 'frames')),
    ]);
    undo.use(stack);
    // The configuration was there long before any power loss.
    disks.nats.sync();
    const link = undo.use(await Link.open({ host: '127.0.0.1', port: stack.nats.port }, cable.address.here));
    const fleet = await Fleet.start({
      folder: join(folder, 'fleet'),
      spool: disks.spool.folder,
      natsUrl: link.url,
      // In the network of the other end alone: its disks are this machine's.
      within: ['nsenter', `--net=/run/netns/${cable.namespace}`],
      frames,
      hosts,
    });
    undo.use(fleet);
    const random = new Random(seed);
    const ground = new Ground({ stack, fleet, cable, link, disks, random, frames, undo: undo.move() });
    try {
      await ground.flowing();
    } catch (error) {
      await ground[Symbol.asyncDispose]();
      throw error;
    }
    return ground;
  }

  /** Waits until frames of all hosts that were sampled from now on are stored. */
  async flowing(): Promise<void> {
    const from_us = Date.now() * 1000;
    const { fleet, stack } = this;
    await eventually(`new frames of ${fleet.hosts} hosts in the store`, flowing_ms, async () => {
      const { rows } = await stack.questdb.query(
        `SELECT count_distinct(host) FROM frame WHERE ts >= ${from_us} AND ts < ${from_us + 1_000_000_000}`,
      );
      const hosts = Number(rows[0]?.[0]);
      if (hosts < fleet.hosts) throw new Error(`there were those of ${hosts}`);
      return true;
    });
  }

  /** Cuts the fleet from the log, without a word to either. */
  cut(): void {
    execFileSync('ip', ['link', 'set', this.cable.interface.here, 'down']);
  }

  join(): void {
    execFileSync('ip', ['link', 'set', this.cable.interface.here, 'up']);
  }

  /** Lets the fleet's way lose this share of its packets, each way. */
  losePackets(share: number): void {
    for (const chain of ['INPUT', 'OUTPUT'])
      this.#iptables('-A', chain, '-m', 'statistic', '--mode', 'random', '--probability', String(share), '-j', 'DROP');
  }

  losePacketsNoMore(): void {
    this.#iptables('-F');
  }

  #iptables(...args: string[]): void {
    execFileSync('ip', ['netns', 'exec', this.cable.namespace, 'iptables', ...args]);
  }

  /**
   * Counts the frames that were sampled in a stretch of time, while the fleet goes on.
   * @param mayDie reasons for which frames may be put aside
   */
  async count(window: Window, mayDie: RegExp): Promise<Verdict> {
    return await verify({ ...this.#verify, mayDie, window });
  }

  /** Ends the fleet in order, and counts all its frames. */
  async verify(mayDie: RegExp): Promise<Verdict> {
    await this.fleet.stop();
    return await verify({ ...this.#verify, mayDie });
  }

  get #verify() {
    return { stack: this.stack, ledgers: this.fleet.folder, frames: this.#frames };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#undo.disposeAsync();
  }
}
