// `node container.bench.ts [busy share in percent]`: CPU time that a sample of 200 containers takes, from captured cgroups of
// each version and, as root on a system with version 1, from cgroups of the kernel itself.
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '#clock.ts';
import { noEngines } from '#engine.ts';
import { Events } from '#events.ts';
import type { Context, Roots } from '#source.ts';
import { container } from '#sources/container.ts';

const count = 200;
const warmUp = 60;
const ticks = 150;
const busyShare = Number(process.argv[2] ?? 100) / 100;
const ids = Array.from({ length: count }, (_, index) => `${index}`.padStart(4, '0').repeat(16));
const busy = ids.slice(0, Math.round(count * busyShare));

/** Milliseconds of CPU of each sample; `change` makes the next moment, and is not counted. */
async function measure(roots: Roots, change: (tick: number) => void): Promise<number[]> {
  const context: Pick<Context, 'roots' | 'clock' | 'platform' | 'events' | 'processes'> & { settings: object } = {
    roots,
    clock: systemClock,
    platform: 'linux',
    settings: { container: { labels: [], sockets: [] } },
    events: new Events(systemClock),
    processes: { identity: () => undefined },
  };
  const source = container(context as Context, noEngines);
  await source.open();
  const costs: number[] = [];
  for (let tick = 0; tick < warmUp + ticks; tick++) {
    change(tick);
    await systemClock.sleep(10);
    const before = process.cpuUsage();
    const { container: table } = await source.sample();
    const { user, system } = process.cpuUsage(before);
    // Others may run on this machine.
    if ((table?.container.length ?? 0) < count) throw new Error(`${table?.container.length} containers were seen`);
    if (tick >= warmUp) costs.push((user + system) / 1000);
  }
  await source.close();
  return costs.toSorted((a, b) => a - b);
}

function print(name: string, costs: readonly number[]): void {
  const at = (share: number) => costs[Math.floor(costs.length * share)]?.toFixed(2);
  process.stdout.write(`${name}: median ${at(0.5)} ms, 95 % below ${at(0.95)} ms\n`);
}

/** 200 copies of a captured container. */
async function captured(tree: string, hot: string, text: (tick: number) => string): Promise<void> {
  const root = mkdtempSync(join(tmpdir(), 'fleetreel-bench-'));
  try {
    const from = join(import.meta.dirname, 'fixtures-container', tree);
    cpSync(join(from, 'proc'), join(root, 'proc'), { recursive: true });
    writeFileSync(
      join(root, 'proc/self/limits'),
      'Max open files            20000                20000                files\n',
    );
    const files: string[] = [];
    const copy = (folder: string): void => {
      for (const entry of readdirSync(join(from, folder), { withFileTypes: true })) {
        if (!entry.isDirectory()) continue;
        const original = /[0-9a-f]{64}/.exec(entry.name)?.[0];
        if (original === undefined) copy(join(folder, entry.name));
        else
          for (const id of ids) {
            const target = join(root, folder, entry.name.replace(original, id));
            cpSync(join(from, folder, entry.name), target, { recursive: true });
            if (busy.includes(id) && existsSync(join(target, hot))) files.push(join(target, hot));
          }
      }
    };
    copy('sys');
    const roots = { proc: join(root, 'proc'), sys: join(root, 'sys'), etc: '/nonexistent', run: '/nonexistent' };
    const costs = await measure(roots, (tick) => {
      for (const file of files) writeFileSync(file, text(tick));
    });
    print(`${count} containers, ${busy.length} busy, captured, ${tree}`, costs);
  } finally {
    rmSync(root, { recursive: true });
  }
}

/** 200 cgroups of the kernel; they are empty, and those that are idle are read like the others. */
async function live(): Promise<void> {
  const parents = ['memory', 'cpu', 'cpuacct', 'blkio', 'pids'].map((name) => `/sys/fs/cgroup/${name}`);
  if (process.getuid?.() !== 0 || !parents.every((parent) => existsSync(`${parent}/cgroup.procs`))) return;
  const folders = parents.map((parent) => `${parent}/fleetreel-bench`);
  try {
    for (const folder of folders) for (const id of ids) mkdirSync(`${folder}/${id}`, { recursive: true });
    const roots = { proc: '/proc', sys: '/sys', etc: '/nonexistent', run: '/nonexistent' };
    print(`${count} containers, idle, of this kernel, version 1`, await measure(roots, () => {}));
  } finally {
    for (const folder of folders) {
      for (const id of ids) if (existsSync(`${folder}/${id}`)) rmdirSync(`${folder}/${id}`);
      if (existsSync(folder)) rmdirSync(folder);
    }
  }
}

const usage_us = (tick: number): number => 26_772_130_245 + tick * 100_000;
await captured('kubernetes-v1', 'cpuacct.usage', (tick) => `${usage_us(tick) * 1000}\n`);
await captured(
  'docker-v2',
  'cpu.stat',
  (tick) =>
    `usage_usec ${usage_us(tick)}\nuser_usec 1\nsystem_usec 2\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n`,
);
await live();
