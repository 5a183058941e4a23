// Load of a known size, made on this machine, is what the frames say. The agent is the real program; the sizes are known
// beforehand or read from the kernel by another way.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Child } from '@fleetreel/deploy/local/child';
import type { Frame } from '@fleetreel/proto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually } from '../stack.ts';
import { cpuSeconds, memoryOf } from './process.ts';
import { RamDisk } from './ram_disk.ts';
import { missing, need } from './requirements.ts';
import { integral, median, rowOf, Watch } from './watch.ts';

const MiB = 1024 * 1024;
/** Load comes in so many equal parts with this pause between them: rates are then steady over several frames. */
const parts = 32;
const pause_ms = 250;
/** Frames whose median is taken where a value stays the same: other programs disturb single ones. */
const steadyFrames = 3;

let watch: Watch;
let disk: RamDisk | undefined;

beforeAll(async () => {
  if (missing('linux')) return;
  // Before the agent: its first frame then knows the file system.
  if (!missing('root', 'ramDisk')) disk = RamDisk.make(1024 * MiB);
  watch = await Watch.start();
  // Rates begin with the second frame.
  await watch.first((frame) => frame.sequence >= 2, 0);
});

afterAll(async () => {
  await watch?.[Symbol.asyncDispose]();
  disk?.remove();
});

test('a busy loop is one core at 100 % (3 points)', { timeout: 60_000 }, async (context) => {
  need(context, 'linux', 'taskset');
  const core = cpus().length - 1;
  const loop = ['--cpu-list', String(core), 'sh', '-c', 'while :; do :; done'];
  await using busy = await Child.start({ name: 'busy loop', command: 'taskset', args: loop });
  const before = await watch.next();
  const [began_s, own_s] = [performance.now() / 1000, cpuSeconds(busy.pid)];
  await pause(6000);
  const ownPercent = ((cpuSeconds(busy.pid) - own_s) / (performance.now() / 1000 - began_s)) * 100;
  const frames = watch.between(before, await watch.next()).slice(1, -1);
  expect(frames.length).toBeGreaterThanOrEqual(5);
  for (const frame of frames) {
    const row = rowOf(frame, 'cpu', { core: String(core) });
    expect(row?.values.used_percent).toBeGreaterThan(97);
    expect(row?.values.used_percent).toBeLessThan(103);
  }
  // Other programs may have had a part of the core; what the loop had by the kernel's own count is user time.
  const user = median(frames.map((frame) => rowOf(frame, 'cpu', { core: String(core) })?.values.user_percent ?? 0));
  expect(user).toBeGreaterThan(ownPercent - 3);
  // The total is the mean of the cores.
  for (const frame of frames) {
    const cores = cpus().map((_, index) => rowOf(frame, 'cpu', { core: String(index) })?.values.used_percent ?? 0);
    const mean = cores.reduce((sum, value) => sum + value, 0) / cores.length;
    expect(Math.abs((rowOf(frame, 'cpu', { core: 'total' })?.values.used_percent ?? 0) - mean)).toBeLessThan(3);
  }
});

test('a file written with fsync is that many bytes on its device and in its file system (2 %)', async (context) => {
  need(context, 'linux', 'root', 'ramDisk');
  if (!disk) throw new Error('There is no RAM disk.');
  const { device, folder } = disk;
  const size = 512 * MiB;
  const space = (frame: Frame) => {
    const row = rowOf(frame, 'filesystem', { mount: folder });
    return row && !Number.isNaN(row.values.used_bytes) ? row : undefined;
  };
  const empty = space(await watch.first((frame) => space(frame) !== undefined, 0));
  const before = await watch.next('disk_io');
  await writeSlowly(join(folder, 'file'), size);
  const after = await watch.next('disk_io');
  const written = integral(
    watch.between(before, after),
    (frame) => rowOf(frame, 'disk_io', { device })?.values.write_bytes_per_second,
  );
  expect(written).toBeGreaterThan(size * 0.98);
  expect(written).toBeLessThan(size * 1.02);
  const full = space(await watch.first((frame) => space(frame) !== undefined, after.time_us));
  const grown = (full?.values.used_bytes ?? 0) - (empty?.values.used_bytes ?? 0);
  expect(grown).toBeGreaterThan(size * 0.98);
  expect(grown).toBeLessThan(size * 1.02);
  expect(full?.labels.device).toBe(`/dev/${device}`);
  expect((empty?.values.free_bytes ?? 0) - (full?.values.free_bytes ?? 0)).toBe(grown);
});

test('bytes over a veth pair are that many on the interface, both ways (2 %)', async (context) => {
  need(context, 'linux', 'root', 'ip');
  const size = 256 * MiB;
  await using cable = await Cable.make();
  // The interface is in two frames before its rates can be known.
  await watch.next('net_interface');
  const before = await watch.next('net_interface');
  const counted = await cable.counters();
  await cable.echo(size);
  const after = await watch.next('net_interface');
  const passed = await cable.counters();
  for (const direction of ['receive', 'transmit'] as const) {
    const bytes = integral(
      watch.between(before, after),
      (frame) => rowOf(frame, 'net_interface', { interface: cable.name })?.values[`${direction}_bytes_per_second`],
    );
    expect(bytes).toBeGreaterThan(size * 0.98);
    expect(bytes).toBeLessThan(size * 1.02);
    // The interface's own count, headers and acknowledgements included.
    const kernel = passed[direction] - counted[direction];
    expect(Math.abs(bytes - kernel)).toBeLessThan(kernel * 0.02);
  }
});

test('memory that is allocated and touched is used memory (2 %)', { timeout: 120_000 }, async (context) => {
  need(context, 'linux');
  const size = 1024 * MiB;
  const grown: { used: number; anonymous: number; own: number }[] = [];
  // What other programs took and gave back meanwhile is subtracted by the kernel's count of each of them; what else
  // happens in one of the rounds is not in the median. Nothing is given back before the end: the kernel keeps freed pages
  // aside for each core, hundreds of MiB, and counts them as used for some seconds.
  await using takers = new AsyncDisposableStack();
  for (let round = 0; round < 3; round++) {
    const taker = takers.use(await Taker.start(size));
    const [before, ownBefore] = [await usedMemory(), memoryOf(taker.pid).anonymous];
    const othersBefore = anonymousOfOthers(taker.pid);
    await taker.take();
    const [after, ownAfter] = [await usedMemory(), memoryOf(taker.pid).anonymous];
    const others = anonymousOfOthers(taker.pid) - othersBefore;
    const used = after.used - before.used - others;
    grown.push({ used, anonymous: after.anonymous - before.anonymous - others, own: ownAfter - ownBefore });
  }
  for (const reading of ['own', 'used', 'anonymous'] as const) {
    const growth = median(grown.map((round) => round[reading]));
    expect(Math.abs(growth - size), `${reading}: ${grown.map((round) => round[reading]).join()}`).toBeLessThan(
      size * 0.02,
    );
  }
});

/** Medians of some frames from now on: used and anonymous memory, bytes. */
async function usedMemory(): Promise<{ used: number; anonymous: number }> {
  const first = await watch.next('memory');
  const last = await watch.first((frame) => frame.sequence >= first.sequence + steadyFrames - 1, first.time_us);
  const rows = watch.between(first, last).flatMap((frame) => rowOf(frame, 'memory') ?? []);
  const of = (column: string) => median(rows.map(({ values }) => values[column] ?? Number.NaN));
  return { used: of('used_bytes'), anonymous: of('anonymous_bytes') };
}

/** Anonymous memory of all processes but one, bytes. */
function anonymousOfOthers(pid: number): number {
  let kilobytes = 0;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === pid) continue;
    try {
      kilobytes += Number(readFileSync(`/proc/${name}/status`, 'utf8').match(/^RssAnon:\s+(\d+) kB/m)?.[1] ?? 0);
    } catch {
      // It has ended since it was listed.
    }
  }
  return kilobytes * 1024;
}

/** A program that takes memory and touches it when it is told to. */
class Taker implements AsyncDisposable {
  readonly #child: Child;
  readonly #lines: readonly string[];

  private constructor(child: Child, lines: readonly string[]) {
    this.#child = child;
    this.#lines = lines;
  }

  static async start(size: number): Promise<Taker> {
    const script = `
      process.once('SIGUSR2', () => { globalThis.kept = Buffer.alloc(${size}, 1); console.log('taken'); });
      setInterval(() => {}, 1000);
      console.log('ready');`;
    const lines: string[] = [];
    const service = { name: 'memory', command: process.execPath, args: ['-e', script] };
    const taker = new Taker(await Child.start(service, (line) => lines.push(line)), lines);
    await taker.#says('ready');
    return taker;
  }

  get pid(): number {
    return this.#child.pid;
  }

  async take(): Promise<void> {
    this.#child.signal('SIGUSR2');
    await this.#says('taken');
  }

  async #says(line: string): Promise<void> {
    await eventually(`"${line}"`, 20_000, () => (this.#lines.includes(line) ? true : undefined));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child.kill();
  }
}

async function writeSlowly(path: string, size: number): Promise<void> {
  const part = Buffer.alloc(size / parts, 'Fleetreel');
  const file = await open(path, 'wx');
  try {
    for (let left = parts; left > 0; left--) {
      await file.write(part);
      await file.sync();
      await pause(pause_ms);
    }
  } finally {
    await file.close();
  }
}

/** A veth pair into a network namespace, at whose other end a program sends back what it gets. */
class Cable implements AsyncDisposable {
  readonly name: string;
  readonly #namespace: string;
  readonly #address: string;
  readonly #echo: Child;

  private constructor(name: string, namespace: string, address: string, echo: Child) {
    this.name = name;
    this.#namespace = namespace;
    this.#address = address;
    this.#echo = echo;
  }

  static async make(): Promise<Cable> {
    // Numbered by this process, so that two runs on one machine don't meet; 198.18.0.0/15 is meant for measurements.
    const number = process.pid % 16_384;
    const [namespace, name, peer] = [`numbers-${number}`, `nu${number}a`, `nu${number}b`];
    const address = (end: number) => `198.18.${number >> 6}.${(number & 63) * 4 + end}`;
    // The largest packets there are: headers are then 0.1 % of the bytes.
    const mtu = ['mtu', '65535'];
    ip('netns', 'add', namespace);
    ip('link', 'add', name, ...mtu, 'type', 'veth', 'peer', 'name', peer, ...mtu, 'netns', namespace);
    ip('address', 'add', `${address(1)}/30`, 'dev', name);
    ip('-n', namespace, 'address', 'add', `${address(2)}/30`, 'dev', peer);
    ip('link', 'set', name, 'up');
    ip('-n', namespace, 'link', 'set', peer, 'up');
    const script = `require('net').createServer((s) => s.pipe(s)).listen(7, '${address(2)}', () => console.log('ready'))`;
    const args = ['netns', 'exec', namespace, process.execPath, '-e', script];
    let ready = false;
    const echo = await Child.start({ name: 'echo', command: 'ip', args }, () => {
      ready = true;
    });
    await echo.untilReady(async () => ready, 10_000);
    return new Cable(name, namespace, address(2), echo);
  }

  /** Sends so many bytes in equal parts, and waits until all have come back. */
  async echo(size: number): Promise<void> {
    const socket: Socket = connect(7, this.#address);
    let received = 0;
    socket.on('data', (data) => {
      received += data.length;
    });
    const failed = new Promise<never>((_, reject) => socket.once('error', reject));
    const part = Buffer.alloc(size / parts, 'Fleetreel');
    const sent = async () => {
      for (let left = parts; left > 0; left--) {
        socket.write(part);
        await pause(pause_ms);
      }
      await eventually('all bytes back', 10_000, () => (received === size ? true : undefined));
    };
    await Promise.race([sent(), failed]);
    socket.destroy();
  }

  /** Bytes that the interface itself has counted. */
  async counters(): Promise<{ receive: number; transmit: number }> {
    const read = async (name: string) =>
      Number(await readFile(`/sys/class/net/${this.name}/statistics/${name}`, 'utf8'));
    return { receive: await read('rx_bytes'), transmit: await read('tx_bytes') };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#echo.stop();
    // The pair goes with it.
    ip('netns', 'delete', this.#namespace);
  }
}

const ip = (...args: string[]) => execFileSync('ip', args);
