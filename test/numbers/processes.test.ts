// What single processes use, made of a known size on this machine, is what the frames say of them; and what looking at many
// of them costs.
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import type { Frame } from '@fleetreel/proto';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { slowness } from '../slowness.ts';
import { eventually } from '../stack.ts';
import { cpuSeconds, memoryOf } from './process.ts';
import { RamDisk } from './ram_disk.ts';
import { missing, need } from './requirements.ts';
import { integral, median, type Row, rowOf, Watch } from './watch.ts';

const MiB = 1024 * 1024;

let watch: Watch;

beforeAll(async () => {
  if (missing('linux')) return;
  watch = await Watch.start();
  // Rates begin with the second scan.
  await watch.next('process');
});

afterAll(async () => {
  await watch?.[Symbol.asyncDispose]();
});

const rowOfProcess = (frame: Frame, pid: number): Row | undefined => rowOf(frame, 'process', { pid: String(pid) });

/** A program of Node's that says "ready", and does what it is to do at SIGUSR2, then says "done". */
async function worker(what: string): Promise<{ child: Child; work(): Promise<void> } & AsyncDisposable> {
  const script = `
    process.once('SIGUSR2', async () => { ${what}; console.log('done'); });
    setInterval(() => {}, 1000);
    console.log('ready');`;
  const lines: string[] = [];
  const says = (line: string) => eventually(`"${line}"`, 40_000, () => (lines.includes(line) ? true : undefined));
  const service = { name: 'worker', command: process.execPath, args: ['-e', script] };
  const child = await Child.start(service, (line) => lines.push(line));
  await says('ready');
  return {
    child,
    async work() {
      child.signal('SIGUSR2');
      await says('done');
    },
    async [Symbol.asyncDispose]() {
      await child.kill();
    },
  };
}

test('a busy loop is a process at 100 %, less what others had of its core (3 points)', async (context) => {
  need(context, 'linux');
  const loop = { name: 'busy loop', command: 'sh', args: ['-c', 'while :; do :; done'] };
  await using busy = await Child.start(loop);
  const began_us = Date.now() * 1000;
  await watch.next('process');
  const differences: number[] = [];
  let [at_s, own_s] = [performance.now() / 1000, cpuSeconds(busy.pid)];
  for (let round = 0; round < 4; round++) {
    const frame = await watch.next('process');
    const [now_s, used_s] = [performance.now() / 1000, cpuSeconds(busy.pid)];
    const ownPercent = ((used_s - own_s) / (now_s - at_s)) * 100;
    const row = rowOfProcess(frame, busy.pid);
    expect(row?.labels).toMatchObject({ name: 'sh', class: 'other', state: 'running' });
    // All of it in its own code.
    expect(row?.values.cpu_user_percent).toBeGreaterThan((row?.values.cpu_percent ?? 0) - 3);
    expect(row?.values.cpu_percent).toBeLessThan(103);
    differences.push((row?.values.cpu_percent ?? Number.NaN) - ownPercent);
    const sum = rowOf(frame, 'process_class', { class: 'other' });
    expect(sum?.values.cpu_percent).toBeGreaterThanOrEqual(row?.values.cpu_percent ?? Number.NaN);
    expect(row?.values.start_time_seconds).toBeCloseTo(began_us / 1e6, -0.5);
    [at_s, own_s] = [now_s, used_s];
  }
  expect(Math.abs(median(differences)), differences.join()).toBeLessThan(3);
});

// Two that disturb each other in nothing: they wait for the same scans.
test.concurrent('memory that a process takes is its resident and its anonymous memory (3 %)', async (context) => {
  need(context, 'linux');
  const size = 256 * MiB;
  await using taker = await worker(`globalThis.kept = Buffer.alloc(${size}, 1)`);
  const before = memoryOf(taker.child.pid);
  await taker.work();
  const row = rowOfProcess(await watch.next('process'), taker.child.pid);
  const after = memoryOf(taker.child.pid);
  expect(after.anonymous - before.anonymous).toBeGreaterThan(size * 0.97);
  expect(row?.values.resident_memory_bytes).toBeGreaterThan(after.resident * 0.97);
  expect(row?.values.resident_memory_bytes).toBeLessThan(after.resident * 1.03);
  expect(row?.values.anonymous_memory_bytes).toBeGreaterThan(after.anonymous * 0.97);
  expect(row?.values.anonymous_memory_bytes).toBeLessThan(after.anonymous * 1.03);
});

test.concurrent('bytes that a process writes with fsync are that many (3 %)', async (context) => {
  need(context, 'linux', 'root', 'ramDisk');
  const size = 128 * MiB;
  const disk = RamDisk.make(512 * MiB);
  try {
    const path = JSON.stringify(join(disk.folder, 'file'));
    await using writer = await worker(`
      const { open } = require('node:fs/promises');
      const file = await open(${path}, 'wx');
      for (let part = 0; part < 32; part++) {
        await file.write(Buffer.alloc(${size / 32}, 'Fleetreel'));
        await file.sync();
        await new Promise((resolve) => setTimeout(resolve, 250));
      }
      await file.close()`);
    const before = await watch.next('process');
    await writer.work();
    const after = await watch.next('process');
    const frames = watch.between(before, after);
    const written = integral(
      frames,
      (frame) => rowOfProcess(frame, writer.child.pid)?.values.write_bytes_per_second || undefined,
    );
    const own = Number(/^write_bytes: (\d+)/m.exec(readFileSync(`/proc/${writer.child.pid}/io`, 'utf8'))?.[1]);
    expect(own).toBeGreaterThanOrEqual(size);
    expect(written).toBeGreaterThan(size * 0.97);
    expect(written).toBeLessThan(size * 1.03);
  } finally {
    disk.remove();
  }
});

test('2,000 processes more cost about half a percent of a core', { timeout: 240_000 }, async (context) => {
  need(context, 'linux');
  const slowBefore = slowness();
  const count = 2000;
  const folder = await mkdtemp(join(tmpdir(), 'fleetreel-many-'));
  try {
    const before = await watch.next('process');
    const alone = await meanCpu(before, 4);
    const script = `for i in $(seq ${count}); do sleep 400 & done; wait`;
    await using many = await Child.start({ name: 'many', command: 'sh', args: ['-c', script], cwd: folder });
    expect(many.pid).toBeGreaterThan(0);
    const sleeping = (frame: Frame) =>
      rowOf(frame, 'process_state', { state: 'sleeping' })?.values.processes_count ?? 0;
    const began = sleeping(before);
    await watch.first((frame) => sleeping(frame) >= began + count, before.time_us);
    // Who they are has been asked once.
    await watch.next('process');
    const together = await meanCpu(await watch.next('process'), 4);
    const duration = median(
      together.frames.flatMap((frame) => rowOf(frame, 'source', { source: 'process' })?.values.duration_seconds ?? []),
    );
    console.log(
      `${count} processes more: ${(together.percent - alone.percent).toFixed(2)} % of a core (${alone.percent.toFixed(2)} % -> ${together.percent.toFixed(2)} %), scan ${(duration * 1000).toFixed(0)} ms`,
    );
    // Printed is the figure; on a machine that does much else the caches are cold, and it is up to twice as much.
    expect(together.percent - alone.percent).toBeLessThan(2 * Math.max(slowBefore, slowness()));
  } finally {
    await rm(folder, { recursive: true });
  }
});

/** The agent's own CPU time over so many scans of processes after one, in percent of one core. */
async function meanCpu(from: Frame, scans: number): Promise<{ percent: number; frames: Frame[] }> {
  let to = from;
  for (let scan = 0; scan < scans; scan++) to = await watch.next('process');
  const frames = watch.between(from, to).slice(1);
  const used = integral([from, ...frames], (frame) => rowOf(frame, 'agent')?.values.cpu_percent);
  return {
    percent: used / ((to.time_us - from.time_us) / 1e6),
    frames: frames.filter((frame) => frame.tables.process),
  };
}
