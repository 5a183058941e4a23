// P1 to P3: what the agent costs, and how large its frames are.
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { Child } from '@fleetreel/deploy/local/child';
import type { Frame } from '@fleetreel/proto';
import { NodeExporter } from '../numbers/node_exporter.ts';
import { cpuSeconds, memoryOf } from '../numbers/process.ts';
import { Watch } from '../numbers/watch.ts';
import { type Figure, measured, middle, quantile } from './figure.ts';
import { countValues, prometheusText } from './fleet.ts';

const MiB = 1024 * 1024;
/** The measurement is cut into so many equal parts: the median is quoted. */
const parts = 6;
const scrapes = 200;
/** Rates, and what is read seldom, have come by then, and most of the code is compiled. */
const warmUpMost_s = 60;

/** Half of the time of measuring, so that a short look stays short. */
const warmUp_s = (seconds: number): number => Math.min(seconds / 2, warmUpMost_s);

export type AgentRun = {
  /** Frames with all rates, as published. */
  frames: Frame[];
  /** Their sizes on the wire, bytes. */
  sizes: number[];
  /** CPU of the agent per tick in each part, milliseconds. */
  tick_ms: number[];
  /** Resident and private memory after the warm-up and at the end, bytes. */
  memory: { before: ReturnType<typeof memoryOf>; after: ReturnType<typeof memoryOf> };
};

/** Runs the agent as it is shipped, every second with all sources, into a real nats-server. */
export async function runAgent(seconds: number): Promise<AgentRun> {
  await using watch = await Watch.start('dist/agent/main.js');
  const { pid } = watch.agent;
  await watch.first(({ sequence }) => sequence >= 2, 0);
  await pause(warmUp_s(seconds) * 1000);
  const before = memoryOf(pid);
  const tick_ms: number[] = [];
  for (let part = 0; part < parts; part++) {
    const [ticks, cpu] = [watch.frames.length, cpuSeconds(pid)];
    await pause((seconds * 1000) / parts);
    tick_ms.push(((cpuSeconds(pid) - cpu) * 1000) / (watch.frames.length - ticks));
  }
  return {
    frames: watch.frames.slice(1),
    sizes: watch.sizes.slice(1),
    tick_ms,
    memory: { before, after: memoryOf(pid) },
  };
}

/** P1: CPU per tick. */
export async function cost({ frames, tick_ms }: AgentRun, seconds: number): Promise<Figure[]> {
  const exporter = await scrapeCost();
  const tick = measured(tick_ms);
  const values = quantile(frames.map(countValues), 0.5);
  const perValue = (cost: typeof tick, count: number) => ({
    median: (cost.median * 1000) / count,
    min: (cost.min * 1000) / count,
    max: (cost.max * 1000) / count,
  });
  const [ownPerValue, otherPerValue] = [perValue(tick, values), perValue(exporter.scrape, exporter.samples)];
  return [
    {
      id: 'P1',
      name: 'agent: CPU per tick',
      unit: 'ms',
      value: tick,
      yardstick: { what: 'node_exporter, per scrape', value: exporter.scrape },
      goal: {
        text: '<= 4 ms and <= 1/3',
        reached: tick.median <= 4 && tick.median <= exporter.scrape.median / 3,
      },
      method:
        `the bundle under Node ${process.versions.node}, interval 1 s, all sources, publishing into nats-server: CPU of all ` +
        `its threads and children over ${seconds} s after ${warmUp_s(seconds)} s, in ${parts} parts; node_exporter with its ` +
        `default collectors, ${scrapes} scrapes without compression, in ${parts} parts`,
    },
    {
      id: 'P1',
      name: 'agent: values per frame',
      unit: 'values',
      value: values,
      yardstick: { what: 'node_exporter, samples per scrape', value: exporter.samples },
      goal: { text: '>= yardstick', reached: values >= exporter.samples },
      method: 'values that are there (not NaN), median of the frames; lines of the scrape that are no comment',
    },
    {
      id: 'P1',
      name: 'agent: values kept current',
      unit: 'values',
      value: countValues(newest(frames)),
      yardstick: { what: 'node_exporter, samples per scrape', value: exporter.samples },
      method:
        'the newest rows of every table: what is sampled every 5 s or more seldom is in some frames only, a scrape reads it each time',
    },
    {
      id: 'P1',
      name: 'agent: CPU per value',
      unit: 'us',
      value: ownPerValue,
      yardstick: { what: 'node_exporter, per sample', value: otherPerValue },
      goal: { text: '<= 1/3', reached: middle(ownPerValue) <= middle(otherPerValue) / 3 },
      method: 'the two rows above, divided',
    },
  ];
}

/** A frame of the newest tables of all. */
const newest = (frames: readonly Frame[]): Frame => ({
  ...(frames.at(-1) as Frame),
  tables: Object.assign({}, ...frames.map(({ tables }) => tables)),
});

async function scrapeCost() {
  await using exporter = await NodeExporter.start();
  // The first ones compile and fill caches.
  for (let scrape = 0; scrape < 10; scrape++) await exporter.scrape();
  const scrape_ms: number[] = [];
  let samples = 0;
  for (let part = 0; part < parts; part++) {
    const count = Math.ceil(scrapes / parts);
    const cpu = cpuSeconds(exporter.pid);
    for (let scrape = 0; scrape < count; scrape++) {
      samples = (await exporter.scrape()).samples;
      await pause(20);
    }
    scrape_ms.push(((cpuSeconds(exporter.pid) - cpu) * 1000) / count);
  }
  return { scrape: measured(scrape_ms), samples };
}

/** P2: memory, in its short form. */
export async function memory({ frames, memory: { before, after } }: AgentRun): Promise<Figure[]> {
  const service = { name: 'idle Node', command: process.execPath, args: ['-e', 'setInterval(() => {}, 1e9)'] };
  await using idle = await Child.start(service);
  await pause(3000);
  const bare = memoryOf(idle.pid);
  const ticks = frames.length;
  const row = (name: string, part: 'resident' | 'private', most: number): Figure => ({
    id: 'P2',
    name: `agent: ${name} memory`,
    unit: 'MiB',
    value: after[part] / MiB,
    yardstick: { what: 'the same Node, idle', value: bare[part] / MiB },
    goal: { text: `<= ${most} MiB`, reached: after[part] / MiB <= most },
    method:
      `the agent of P1 after ${ticks} ticks (of the 86,400 that the figure asks for); ` +
      `${((after[part] - before[part]) / MiB).toFixed(1)} MiB more than after its warm-up; /proc/PID/smaps_rollup`,
  });
  return [row('resident', 'resident', 64), row('private', 'private', 25)];
}

/** P3, first half: bytes per value of a frame as published. */
export function size({ frames, sizes }: AgentRun): Figure[] {
  const perValue = frames.map((frame, index) => (sizes[index] ?? Number.NaN) / countValues(frame));
  const asText = frames.map((frame) => {
    const { text, samples } = prometheusText(frame);
    return Buffer.byteLength(text) / samples;
  });
  return [
    {
      id: 'P3',
      name: 'frame: bytes per value, as published',
      unit: 'bytes',
      value: measured(perValue),
      yardstick: { what: 'the same values as Prometheus text', value: measured(asText) },
      goal: { text: '<= 10', reached: middle(measured(perValue)) <= 10 },
      method:
        `payload of ${frames.length} frames of this machine (median ${quantile(sizes, 0.5)} bytes) divided by their values ` +
        'that are not NaN; the text is lines with labels and without help',
    },
  ];
}

/** The machine, in one line. */
export function machine(): string {
  const model = readFileSync('/proc/cpuinfo', 'utf8').match(/^model name\s*:\s*(.*)$/m)?.[1] ?? process.arch;
  const cores = readFileSync('/proc/cpuinfo', 'utf8').match(/^processor/gm)?.length ?? 0;
  const release = readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim();
  return `${cores} cores of ${model}, Linux ${release}, Node ${process.versions.node}`;
}
