// P9: what more hosts cost. For each number of hosts a fresh stack of real programs, simulated publishers beside it, and
// for some time a look at every part: CPU, memory, lag, and how old frames are when they are seen.
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { serialize } from 'node:v8';
import type { Frame } from '@fleetreel/proto';
import { cpuSeconds, memoryOf } from '../numbers/process.ts';
import { type Program, startProgram } from '../servers/program.ts';
import { eventually, Stack } from '../stack.ts';
import { type Figure, quantile, text } from './figure.ts';
import { countRows, countValues, withRows } from './fleet.ts';
import { askStore, watchLive } from './freshness.ts';
import type { Second } from './publishers.ts';

export type Growth = {
  /** Numbers of hosts; the others are compared with the first. */
  sizes: readonly number[];
  /** How long each is watched, and what passes before: compilers and caches are warm by then. */
  seconds: number;
  warmUp_s: number;
  interval_ms: number;
  /** Rows of each frame, about. */
  rows: number;
  /** All hosts at once, as agents with good clocks do, not spread over the interval. */
  aligned: boolean;
};

/** Hosts of one publishing process. */
const hostsOfProcess = 1000;
/** How often the store is asked: seldom enough that its CPU is that of the frames. The half of it is in the latency of a row. */
const ask_ms = 100;
/** Longest wait for publishers to be connected, and for the last frames to be visible, milliseconds. */
const within_ms = 120_000;

const parts = ['publishers', 'nats', 'collector', 'questdb'] as const;
type Part = (typeof parts)[number];
const partNames: Record<Part, string> = {
  publishers: 'the publishers',
  nats: 'nats-server',
  collector: 'the collector',
  questdb: 'QuestDB',
};

/** What was seen of a number of hosts. */
export type Observed = {
  hosts: number;
  seconds: number;
  frames: number;
  rows: number;
  values: number;
  /** CPU seconds of each part within the time, and of everything else on this machine. */
  cpu: Record<Part, number>;
  others: number;
  /** Resident memory each second, bytes. */
  memory: Record<Part, number[]>;
  lag_s: number[];
  latencies: { acknowledged: number[]; message: number[]; row: number[] };
  published: number;
  failed: number;
  /** Frames of the publishers in the store at the end. */
  stored: number;
};

export async function growth(captured: readonly Frame[], options: Growth): Promise<Figure[]> {
  const folder = await mkdtemp(join(tmpdir(), 'fleetreel-growth-'));
  try {
    const frames = withRows(captured, options.rows);
    const path = join(folder, 'frames');
    await writeFile(path, serialize(frames));
    const figures: Figure[] = [];
    const seen: Observed[] = [];
    for (const hosts of options.sizes) {
      const observed = await observe(path, frames, hosts, options);
      seen.push(observed);
      figures.push(...figuresOf(observed, seen[0] ?? observed, options));
    }
    return [...figures, ...linearity(seen)];
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function observe(path: string, frames: readonly Frame[], hosts: number, options: Growth): Promise<Observed> {
  await using stack = await Stack.start();
  const publishers = await startPublishers(stack, path, hosts, options);
  try {
    const window = { from_ms: Number.POSITIVE_INFINITY, to_ms: Number.POSITIVE_INFINITY };
    const latencies: Observed['latencies'] = { acknowledged: [], message: [], row: [] };
    const within = (time_ms: number) => time_ms >= window.from_ms && time_ms < window.to_ms;
    const count = (list: number[]) => (time_ms: number) => {
      if (within(time_ms)) list.push(Date.now() - time_ms);
    };
    const socket = await watchLive(stack, count(latencies.message));
    const ended = new AbortController();
    const asking = askStore(stack, ask_ms, ended.signal, count(latencies.row));
    await pause(options.warmUp_s * 1000);

    const pids = pidsOf(stack, publishers);
    const before = { ...(await counted(stack)), cpu: cpuOf(pids), machine: machineSeconds() };
    window.from_ms = Date.now();
    const memory: Observed['memory'] = { publishers: [], nats: [], collector: [], questdb: [] };
    const lag_s: number[] = [];
    while (Date.now() < window.from_ms + options.seconds * 1000) {
      await pause(1000);
      for (const part of parts) memory[part].push(sum(pids[part].map((pid) => memoryOf(pid).resident)));
      lag_s.push((await counted(stack)).lag_s);
    }
    const after = { ...(await counted(stack)), cpu: cpuOf(pids), machine: machineSeconds() };
    window.to_ms = Date.now();
    const cpu = Object.fromEntries(parts.map((part) => [part, after.cpu[part] - before.cpu[part]])) as Observed['cpu'];
    const bench = after.cpu.bench - before.cpu.bench;
    // What is on its way in the last moments is still seen, or it would be the latest that is missing.
    await pause(2000);
    ended.abort();
    socket.close();
    await asking;

    await Promise.all(publishers.map((publisher) => publisher.stop()));
    const done = publishers.flatMap(secondsOf);
    const published = sum(done.map((second) => second.published));
    latencies.acknowledged = done.filter(({ time_ms }) => within(time_ms)).flatMap((second) => second.acknowledged_ms);
    const stored = await visible(stack, published);
    const rows = after.rows - before.rows;
    return {
      hosts,
      seconds: (window.to_ms - window.from_ms) / 1000,
      frames: after.frames - before.frames,
      rows,
      values: (rows * sum(frames.map(countValues))) / sum(frames.map(rowsOf)),
      cpu,
      others: after.machine - before.machine - bench - sum(Object.values(cpu)),
      memory,
      lag_s,
      latencies,
      published,
      failed: sum(done.map(({ failed }) => failed)),
      stored,
    };
  } finally {
    for (const publisher of publishers) await publisher.stop();
  }
}

/** Publishers of so many hosts; they publish when this is settled. */
async function startPublishers(stack: Stack, path: string, hosts: number, options: Growth): Promise<Program[]> {
  const started: Program[] = [];
  const common = ['--nats-url', stack.nats.url, '--frames', path, '--interval-ms', String(options.interval_ms)];
  if (options.aligned) common.push('--aligned');
  for (let first = 0; first < hosts; first += hostsOfProcess) {
    const range = ['--first', String(first), '--hosts', String(Math.min(hosts - first, hostsOfProcess))];
    started.push(await startProgram('test/bench/publishers.ts', [...common, ...range]));
  }
  await Promise.all(started.map((one) => one.line(/^running$/, within_ms)));
  return started;
}

const secondsOf = ({ lines }: Program): Second[] =>
  lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as Second);

/** Waits until the store has all frames; returns how many it has. */
async function visible({ questdb }: Stack, published: number): Promise<number> {
  let stored = 0;
  await eventually(`${published} frames in the store`, within_ms, async () => {
    const { rows } = await questdb.query(`SELECT count() FROM frame WHERE host LIKE 'host-%'`);
    stored = Number(rows[0]?.[0]);
    return stored >= published ? true : undefined;
  }).catch(() => undefined);
  return stored;
}

const pidsOf = ({ nats, collector, questdb }: Stack, publishers: readonly Program[]): Record<Part, number[]> => ({
  publishers: publishers.map(({ pid }) => pid),
  nats: [nats.pid],
  collector: [collector.pid],
  questdb: [questdb.pid],
});

/** CPU seconds so far, those of this process apart. */
function cpuOf(pids: Record<Part, number[]>): Record<Part | 'bench', number> {
  const { user, system } = process.cpuUsage();
  const ofParts = Object.fromEntries(parts.map((part) => [part, sum(pids[part].map(cpuSeconds))])) as Observed['cpu'];
  return { ...ofParts, bench: (user + system) / 1e6 };
}

/** CPU seconds of the whole machine so far, without what it idled. */
function machineSeconds(): number {
  const fields = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]?.trim().split(/\s+/).slice(1).map(Number) ?? [];
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] = fields;
  return (user + nice + system + irq + softirq) / 100;
}

/** What the collector says of itself. */
async function counted({ address }: Stack): Promise<{ frames: number; rows: number; lag_s: number }> {
  const text = await (await fetch(`${address}/metrics`)).text();
  const value = (name: string) => {
    const found = text.match(new RegExp(`^fleetreel_collector_${name} (.*)$`, 'm'))?.[1];
    if (found === undefined) throw new Error(`The collector's metrics have no ${name}.`);
    return Number(found);
  };
  return {
    frames: value('frames_stored_total'),
    rows: value('rows_stored_total'),
    lag_s: value('ingest_lag_seconds'),
  };
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const rowsOf = (frame: Frame): number => sum([...countRows(frame).values()]);
const MiB = 1024 * 1024;

function figuresOf(seen: Observed, least: Observed, options: Growth): Figure[] {
  const { hosts, seconds, latencies } = seen;
  const times = hosts / least.hosts;
  const figure = (name: string, rest: Omit<Figure, 'id' | 'name'>): Figure => ({
    id: 'P9',
    name: `${hosts.toLocaleString('en-US')} hosts: ${name}`,
    ...rest,
  });
  /** Beside what it would be when it grew from the smallest number of hosts in proportion. */
  const linear = (value: number, ofLeast: number): Pick<Figure, 'value' | 'yardstick' | 'goal'> =>
    seen === least
      ? { value }
      : {
          value,
          yardstick: { what: `${times} x that of ${least.hosts} hosts`, value: ofLeast * times },
          goal: { text: '<= 1.2 of the yardstick', reached: value <= ofLeast * times * 1.2 },
        };
  const perSecond = (name: string, unit: string, count: number, due: number, method: string) =>
    figure(name, { unit, value: count / seconds, yardstick: { what: 'as published', value: due }, method });
  const due = (hosts * 1000) / options.interval_ms;
  const latency = (name: string, values: readonly number[], most_ms: number, method: string) =>
    ([0.5, 0.99] as const).map((share) => {
      const value = quantile(values, share);
      return figure(`${name}, p${share * 100}`, {
        unit: 'ms',
        value,
        yardstick: { what: `acknowledged by NATS, p${share * 100}`, value: quantile(latencies.acknowledged, share) },
        ...(share === 0.99 ? { goal: { text: `<= ${most_ms} ms`, reached: value <= most_ms } } : {}),
        method: `${method}, ${values.length.toLocaleString('en-US')} measured`,
      });
    });
  const lag_s = Math.max(...seen.lag_s);
  const how =
    `${hosts} connections publish a frame of about ${options.rows} rows every ${options.interval_ms / 1000} s, ` +
    `${options.aligned ? 'all at once' : 'spread over the interval'}; watched for ${seconds.toFixed(0)} s after ` +
    `${options.warmUp_s} s; meanwhile other programs took ${((100 * seen.others) / seconds).toFixed(0)} % of a core`;
  const perRow = seen.rows / seen.frames;
  return [
    perSecond('rows', 'rows/s', seen.rows, due * perRow, `counted by the collector; ${how}`),
    perSecond('values', 'values/s', seen.values, (due * perRow * seen.values) / seen.rows, 'values that are not NaN'),
    ...parts.map((part) =>
      figure(`CPU of ${partNames[part]}`, {
        unit: '% of a core',
        ...linear((100 * seen.cpu[part]) / seconds, (100 * least.cpu[part]) / least.seconds),
        method: `${((seen.cpu[part] * 1e6) / seen.frames).toFixed(0)} us of all its threads per frame, ${((seen.cpu[part] * 1e6) / seen.rows).toFixed(2)} us per row`,
      }),
    ),
    ...parts.map((part) => {
      const memory = seen.memory[part];
      const [early, late] = [memory.slice(0, memory.length / 2), memory.slice(memory.length / 2)];
      return figure(`memory of ${partNames[part]}`, {
        unit: 'MiB',
        ...linear(Math.max(...memory) / MiB, Math.max(...least.memory[part]) / MiB),
        method: `resident at most; median of the first half ${(quantile(early, 0.5) / MiB).toFixed(0)}, of the second ${(quantile(late, 0.5) / MiB).toFixed(0)}`,
      });
    }),
    figure('lag', {
      unit: 's',
      value: lag_s,
      goal: { text: '< 5 s', reached: lag_s < 5 },
      method: 'age of the oldest frame of a write when the store had it, at most',
    }),
    figure('frames in the store at the end', {
      unit: 'frames',
      value: seen.stored,
      yardstick: { what: 'published', value: seen.published },
      goal: { text: 'all', reached: seen.stored === seen.published - seen.failed },
      method: `${seen.failed} were not acknowledged`,
    }),
    ...latency(
      'in a WebSocket message',
      latencies.message,
      100,
      "from the frame's time to the message of the collector, which sends one field of all hosts",
    ),
    ...latency(
      'in an answer of the store',
      latencies.row,
      1500,
      "from the frame's time to an answer of QuestDB that has it",
    ),
  ];
}

/** All numbers of hosts side by side, with what each is of what was expected from the first. */
export function linearity(seen: readonly Observed[]): Figure[] {
  const [least, ...others] = seen;
  const last = others.at(-1);
  if (least === undefined || last === undefined) return [];
  const growth = (name: string, unit: string, of: (one: Observed) => number, isLinear: boolean): Figure => {
    const expected = ({ hosts }: Observed) => of(least) * (isLinear ? hosts / least.hosts : 1);
    const ratio = (one: Observed) => of(one) / expected(one);
    const list = seen.map(
      (one) => `${text(of(one))} ${unit} (${text(ratio(one))}) with ${one.hosts.toLocaleString('en-US')}`,
    );
    return {
      id: 'P9',
      name: `growth: ${name}`,
      unit: isLinear ? `x linear from ${least.hosts} hosts` : `x that of ${least.hosts} hosts`,
      value: ratio(last),
      ...(isLinear ? { goal: { text: '<= 1.2', reached: others.every((one) => ratio(one) <= 1.2) } } : {}),
      method: list.join(', '),
    };
  };
  const percentile = (name: 'message' | 'row') => (one: Observed) => quantile(one.latencies[name], 0.99);
  return [
    ...parts.map((part) =>
      growth(`CPU of ${partNames[part]}`, '% of a core', ({ cpu, seconds }) => (100 * cpu[part]) / seconds, true),
    ),
    ...parts.map((part) =>
      growth(`memory of ${partNames[part]}`, 'MiB', ({ memory }) => Math.max(...memory[part]) / MiB, true),
    ),
    growth('lag', 's', ({ lag_s }) => Math.max(...lag_s), false),
    growth('in a WebSocket message, p99', 'ms', percentile('message'), false),
    growth('in an answer of the store, p99', 'ms', percentile('row'), false),
  ];
}
