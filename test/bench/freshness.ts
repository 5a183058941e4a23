// P6: how old a frame is when it is seen: in a WebSocket's message, drawn by the browser, and in an answer of the store.
import { existsSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import type { Frame } from '@fleetreel/proto';
import type { LiveMessage, LiveRequest } from '@fleetreel/proto/http';
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { chromium } from 'playwright';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { Stack } from '../stack.ts';
import { type Figure, quantile } from './figure.ts';
import { frameOf, hostName, publish } from './fleet.ts';

/** Hosts above this number sample every 5 s, as agents do by default; the others every second, for more samples. */
const hostsOfSeconds = 200;
/** What comes before this time is not counted: the first messages are old by design. */
const settle_ms = 5000;
/** How often the store is asked; the half of it is in the row's latency. */
const ask_ms = 20;
/** The hosts that the store is asked for, the real one among them. */
const asked = 10;
const realHost = 'this-machine';

type Latencies = { acknowledged: number[]; message: number[]; row: number[]; drawn: number[] };

/** One stack; so many hosts at a time, each group for some seconds. */
export async function freshness(
  captured: readonly Frame[],
  groups: readonly number[],
  seconds: number,
): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const hosts of groups) {
    // A fresh stack each time: the hosts of the group before would be in its overview, offline.
    await using stack = await Stack.start();
    figures.push(...figuresOf(await observe(stack, captured, hosts, seconds), hosts, seconds));
  }
  return figures;
}

async function observe(stack: Stack, captured: readonly Frame[], hosts: number, seconds: number): Promise<Latencies> {
  const latencies: Latencies = { acknowledged: [], message: [], row: [], drawn: [] };
  const ended = new AbortController();
  const counted = { from_ms: Number.POSITIVE_INFINITY };
  const count = (list: number[], time_ms: number) => {
    if (time_ms >= counted.from_ms) list.push(Date.now() - time_ms);
  };
  // One of the hosts is this machine, with its own agent: its frames' time is when sampling began.
  await stack.startAgent({ host: realHost, interval: '1s' });
  const publishing = publishAll(stack, captured, hosts, ended.signal, (time_ms) =>
    count(latencies.acknowledged, time_ms),
  );
  await pause(1000);
  const socket = await watchLive(stack, (time_ms) => count(latencies.message, time_ms));
  const asking = askStore(stack, ask_ms, ended.signal, (time_ms) => count(latencies.row, time_ms));
  await using page = await openPage(stack);
  await pause(settle_ms);
  counted.from_ms = Date.now();
  await pause(seconds * 1000);
  latencies.drawn = (await page?.drawn(counted.from_ms)) ?? [];
  ended.abort();
  socket.close();
  await Promise.all([publishing, asking]);
  return latencies;
}

/** Publishes a frame of each host in each interval, the hosts spread over it. */
async function publishAll(
  stack: Stack,
  captured: readonly Frame[],
  hosts: number,
  signal: AbortSignal,
  acknowledged: (time_ms: number) => void,
): Promise<void> {
  const connection = await connect({ servers: stack.nats.url, noAsyncTraces: true });
  const log = jetstream(connection);
  const interval_ms = intervalOf(hosts);
  const begin_ms = Date.now();
  const waiting: Promise<void>[] = [];
  for (let sent = 0; !signal.aborted; sent++) {
    const due_ms = begin_ms + (sent * interval_ms) / hosts;
    const early_ms = due_ms - Date.now();
    if (early_ms > 0) await pause(early_ms);
    const host = sent % hosts;
    const now_ms = Date.now();
    const frame = { ...frameOf(captured, host, Math.floor(sent / hosts), now_ms * 1000), interval_ms };
    const one = async () => {
      await publish(log, host, frame);
      acknowledged(now_ms);
    };
    waiting.push(one());
  }
  await Promise.all(waiting);
  await connection.close();
}

const intervalOf = (hosts: number): number => (hosts > hostsOfSeconds ? 5000 : 1000);

/** Subscribes to a field of all hosts, as the overview does. */
export async function watchLive(stack: Stack, arrived: (time_ms: number) => void): Promise<WebSocket> {
  const socket = new WebSocket(`${stack.address.replace('http', 'ws')}/api/v1/live`);
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve, { once: true });
    socket.addEventListener('error', () => reject(new Error('The WebSocket can not be opened.')), { once: true });
  });
  socket.addEventListener('message', ({ data }) => {
    const message = JSON.parse(String(data)) as LiveMessage;
    if (message.type === 'error') throw new Error(message.problem.detail);
    if (message.type === 'rows') arrived(message.time);
  });
  const request: LiveRequest = { type: 'subscribe', id: 'bench', table: 'cpu', fields: ['used_percent'] };
  socket.send(JSON.stringify(request));
  return socket;
}

/** Asks for the newest frames of some hosts again and again: a frame is visible when an answer has it. */
export async function askStore(
  { questdb }: Stack,
  every_ms: number,
  signal: AbortSignal,
  visible: (time_ms: number) => void,
): Promise<void> {
  const seen = new Set<string>();
  const names = [realHost, ...Array.from({ length: asked - 1 }, (_, host) => hostName(host))];
  const hosts = names.map((name) => `'${name}'`).join(',');
  while (!signal.aborted) {
    const since = new Date(Date.now() - 10_000).toISOString();
    const { rows } = await questdb.query(`SELECT host, ts FROM frame WHERE ts > '${since}' AND host IN (${hosts})`);
    for (const [host, time] of rows as [string, string][]) {
      const key = `${host} ${time}`;
      if (seen.has(key)) continue;
      seen.add(key);
      visible(Date.parse(time));
    }
    await pause(every_ms);
  }
}

/** The real host's page in real Chromium, with a look at when live values are drawn; undefined where there is no Chromium. */
async function openPage(stack: Stack) {
  if (!existsSync(chromiumPath)) return undefined;
  const browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  await page.addInitScript(listenForDraws);
  await page.goto(`${stack.address}/hosts/${realHost}`);
  return {
    drawn: async (from_ms: number) =>
      (await page.evaluate(() => (globalThis as unknown as Drawing).draws))
        .filter(([time_ms]) => time_ms >= from_ms)
        .map(([time_ms, drawn_ms]) => drawn_ms - time_ms),
    [Symbol.asyncDispose]: () => browser.close(),
  };
}

/** Times of frames with the time at which the first canvas was drawn after their message, milliseconds since 1970. */
type Drawing = { draws: [time_ms: number, drawn_ms: number][] };

/** Runs in the page, before its own code. */
function listenForDraws(): void {
  const draws: Drawing['draws'] = [];
  (globalThis as unknown as Drawing).draws = draws;
  let undrawn = new Set<number>();
  let last = 0;
  const { WebSocket: Original } = globalThis;
  globalThis.WebSocket = class extends Original {
    constructor(url: string | URL) {
      super(url);
      this.addEventListener('message', ({ data }) => {
        const message = JSON.parse(data as string) as LiveMessage;
        if (message.type === 'rows' && message.time > last) undrawn.add(message.time);
      });
    }
  };
  const context = (
    globalThis as unknown as { CanvasRenderingContext2D: { prototype: { stroke: (...path: unknown[]) => void } } }
  ).CanvasRenderingContext2D.prototype;
  const { stroke } = context;
  context.stroke = function (...path: unknown[]) {
    stroke.apply(this, path);
    const drawn = undrawn;
    undrawn = new Set();
    // One frame brings several messages, and several charts are drawn: the first counts.
    for (const time of drawn) {
      if (time <= last) continue;
      last = time;
      draws.push([time, Date.now()]);
    }
  };
}

function figuresOf({ acknowledged, message, row, drawn }: Latencies, hosts: number, seconds: number): Figure[] {
  const every = `every ${intervalOf(hosts) / 1000} s for ${seconds} s, those of a real agent among them`;
  const figure = (
    name: string,
    values: readonly number[],
    share: 0.5 | 0.99,
    most_ms: number,
    method: string,
  ): Figure => {
    const value = quantile(values, share);
    return {
      id: 'P6',
      name: `freshness, ${hosts} hosts: ${name}, p${share * 100}`,
      unit: 'ms',
      value,
      yardstick: { what: `acknowledged by NATS, p${share * 100}`, value: quantile(acknowledged, share) },
      ...(share === 0.99 ? { goal: { text: `<= ${most_ms} ms`, reached: value <= most_ms } } : {}),
      method: `${method}; frames published ${every}, ${values.length.toLocaleString('en-US')} measured`,
    };
  };
  const both = (name: string, values: readonly number[], most_ms: number, method: string) =>
    ([0.5, 0.99] as const).map((share) => figure(name, values, share, most_ms, method));
  return [
    ...both('in a WebSocket message', message, 100, "from the frame's time to the message of the collector"),
    ...both(
      'drawn by Chromium',
      drawn,
      100,
      "from the begin of the real agent's sampling to the first chart of its host's page drawn with it",
    ),
    ...both(
      'in an answer of the store',
      row,
      1500,
      `from the frame's time to an answer of QuestDB that has it, asked every ${ask_ms} ms for ${asked} hosts`,
    ),
  ].filter(({ value }) => !Number.isNaN(value));
}
