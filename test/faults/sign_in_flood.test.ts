// A hundred wrong passwords a second: who has the right one signs in from elsewhere all the same, and live data come as before.
import { request } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';
import { encodeFrame, type Frame, subject } from '@fleetreel/proto';
import type { InvitedUser, LiveMessage } from '@fleetreel/proto/http';
import { jetstream } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually, logOf, Stack } from '../stack.ts';

/** How long each attack takes; a minute is asked for by the environment. */
const seconds = Number(process.env.FLEETREEL_FLOOD_SECONDS ?? 2);
const isReported = process.env.FLEETREEL_FLOOD_SECONDS !== undefined;
/** Wrong passwords a second. */
const rate = 100;
/** Frames a second, of which the delay is measured. */
const frameRate = 20;
/** How often who is right signs in during an attack, milliseconds. */
const signInMilliseconds = 1000;
const password = 'correct horse battery';
const host = 'probe';

let stack: Stack;
let nats: NatsConnection;
let live: Live;
let sequence = 0;
/** How all wrong passwords were answered. */
const total: Record<number, number> = {};

beforeAll(async () => {
  stack = await Stack.start();
  stack.secrets.add(password);
  await stack.startAgent({ host: 'web-1' });
  nats = await connect({ servers: stack.nats.url, noAsyncTraces: true });
  const invited = (await post('users', '127.0.0.1', { user: 'ada', role: 'viewer' })).body as InvitedUser;
  stack.secrets.add(invited.link.code);
  expect((await post('link', '127.0.7.1', { code: invited.link.code, password })).status).toBe(200);
  live = await Live.open();
});

afterAll(async () => {
  live?.close();
  await nats?.close();
  await stack?.[Symbol.asyncDispose]();
});

/** Posts from an address of this machine. */
function post(path: string, localAddress: string, body: object): Promise<Answer> {
  const { hostname, port } = new URL(stack.address);
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const began_ms = performance.now();
  const headers = { 'content-type': 'application/json' };
  // A connection each, as of as many programs.
  const asked = request(
    { hostname, port, path: `/api/v1/${path}`, method: 'POST', headers, localAddress, agent: false },
    (answer) => {
      const parts: Buffer[] = [];
      answer.on('data', (part: Buffer) => parts.push(part));
      answer.on('error', reject);
      answer.on('end', () => {
        const text = Buffer.concat(parts).toString();
        resolve({
          status: answer.statusCode ?? 0,
          retryAfter: Number(answer.headers['retry-after'] ?? 0),
          milliseconds: performance.now() - began_ms,
          body: text === '' ? undefined : JSON.parse(text),
        });
      });
    },
  );
  asked.on('error', reject);
  asked.end(JSON.stringify(body));
  return promise;
}

type Answer = { status: number; retryAfter: number; milliseconds: number; body: unknown };

const signIn = (user: string, given: string, address: string): Promise<Answer> =>
  post('login', address, { user, password: given, mode: 'token' });

/** A reader of live rows, which notes when each frame came. */
class Live {
  readonly #socket: WebSocket;
  readonly #came = new Map<number, number>();

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(String(data)) as LiveMessage;
      if (message.type === 'rows') this.#came.set(Number(message.values.used_percent?.[0]), performance.now());
    });
  }

  static async open(): Promise<Live> {
    const socket = new WebSocket(`${stack.address.replace('http', 'ws')}/api/v1/live`);
    await new Promise((resolve) => socket.addEventListener('open', resolve));
    socket.send(JSON.stringify({ type: 'subscribe', id: 'a', table: 'cpu', fields: ['used_percent'], hosts: [host] }));
    return new Live(socket);
  }

  /** Publishes frames until the signal, and waits until all have come: how long each took, milliseconds, sorted. */
  async delays(signal: AbortSignal): Promise<number[]> {
    const sent = new Map<number, number>();
    while (!signal.aborted) {
      const value = ++sequence;
      const tables = { cpu: { core: ['total'], used_percent: [value] } } as Frame['tables'];
      const time_us = Date.now() * 1000;
      const frame = { session: '00000000000000ab', sequence: value, time_us, interval_ms: 1000, tables };
      sent.set(value, performance.now());
      await jetstream(nats).publish(subject({ tenant: 'default', kind: 'frame', host }), encodeFrame(frame));
      await pause(1000 / frameRate, undefined, { signal }).catch(() => undefined);
    }
    // None may be missing: a reader that keeps up gets all.
    return await eventually('all live frames', 60_000, () => {
      const taken = [...sent].map(([value, sent_ms]) => (this.#came.get(value) ?? Number.NaN) - sent_ms);
      return taken.some(Number.isNaN) ? undefined : taken.sort((a, b) => a - b);
    });
  }

  close(): void {
    this.#socket.close();
  }
}

/** Delays of some seconds, with something going on meanwhile. */
async function measured<T>(doing: () => Promise<T>): Promise<{ found: T; delays: number[] }> {
  const over = new AbortController();
  const measuring = live.delays(over.signal);
  measuring.catch(() => undefined);
  try {
    const found = await doing();
    over.abort();
    return { found, delays: await measuring };
  } finally {
    over.abort();
  }
}

const quantile = (sorted: readonly number[], share: number): number =>
  Math.round((sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? 0) * 10) / 10;

/** Tries wrong passwords at the rate, for as long as an attack takes; how they were answered. */
async function attack(next: (count: number) => { user: string; address: string }): Promise<Record<number, number>> {
  const statuses: Record<number, number> = {};
  const began_ms = performance.now();
  const tries: Promise<void>[] = [];
  for (let count = 0; count < rate * seconds; count++) {
    // A machine that is busy catches up.
    const due_ms = began_ms + (count * 1000) / rate - performance.now();
    if (due_ms > 0) await pause(due_ms);
    const { user, address } = next(count);
    tries.push(
      signIn(user, `wrong ${count}`, address).then(({ status }) => {
        statuses[status] = (statuses[status] ?? 0) + 1;
      }),
    );
  }
  await Promise.all(tries);
  return statuses;
}

/** Signs in again and again during something: how long each took, milliseconds, sorted, and how often it had to be tried again. */
async function rightDuring(
  attacking: Promise<unknown>,
  addressOf: (count: number) => string,
): Promise<{ taken: number[]; refused: number }> {
  const over = new AbortController();
  const end = () => over.abort();
  void attacking.then(end, end);
  const taken: number[] = [];
  let refused = 0;
  for (let count = 0; !over.signal.aborted || count === 0; count++) {
    const began_ms = performance.now();
    await eventually('a right sign-in', 60_000, async () => {
      const { status, retryAfter } = await signIn('ada', password, addressOf(count));
      if (status === 200) return true;
      expect(status).toBe(429);
      refused++;
      // As it is told to.
      await pause(retryAfter * 1000);
      return undefined;
    });
    taken.push(performance.now() - began_ms);
    await pause(signInMilliseconds, undefined, { signal: over.signal }).catch(() => undefined);
  }
  return { taken: taken.sort((a, b) => a - b), refused };
}

/** An attack, with right sign-ins and live frames meanwhile. */
async function survives(
  what: string,
  next: (count: number) => { user: string; address: string },
  addressOf: (count: number) => string,
): Promise<{ statuses: Record<number, number>; right: { taken: number[]; refused: number } }> {
  const { delays: before } = isReported ? await measured(() => pause(10_000)) : { delays: [] };
  const { found, delays } = await measured(async () => {
    const attacking = attack(next);
    const [statuses, right] = await Promise.all([attacking, rightDuring(attacking, addressOf)]);
    return { statuses, right };
  });
  for (const [code, count] of Object.entries(found.statuses)) total[Number(code)] = (total[Number(code)] ?? 0) + count;
  const of = (sorted: readonly number[]) => `${quantile(sorted, 0.5)}/${quantile(sorted, 0.99)} ms`;
  if (isReported)
    console.info(
      `${what}, wrong passwords ${JSON.stringify(found.statuses)}: live p50/p99 ${of(before)} before, ${of(delays)} during; ${found.right.taken.length} right sign-ins ${of(found.right.taken)}, ${found.right.refused} tried again`,
    );
  // What is live is live: with room for a machine that does much else.
  expect(quantile(delays, 0.5)).toBeLessThan(5000);
  // Each was answered as a wrong one, at once or after the pause.
  expect(Object.keys(found.statuses).filter((code) => code !== '401' && code !== '429')).toEqual([]);
  expect(Object.values(found.statuses).reduce((sum, count) => sum + count, 0)).toBe(rate * seconds);
  return found;
}

const timeout = 240_000 + 4000 * seconds;

test('from some addresses, for the user and others: the right one comes in from elsewhere at the first try', {
  timeout,
}, async () => {
  const { statuses, right } = await survives(
    'From 5 addresses',
    (count) => ({ user: count % 2 === 0 ? 'ada' : `user-${count % 50}`, address: `127.0.1.${1 + (count % 5)}` }),
    (count) => `127.0.2.${1 + (count % 250)}`,
  );
  expect(statuses[429]).toBeGreaterThan(0);
  expect(right.refused).toBe(0);
  expect(right.taken.at(-1)).toBeLessThan(20_000);
});

test('from the address of the user, for others: who signed in from there before comes in', { timeout }, async () => {
  const { right } = await survives(
    'From the address of the user',
    (count) => ({ user: `user-${count}`, address: '127.0.7.1' }),
    () => '127.0.7.1',
  );
  expect(right.refused).toBe(0);
  expect(right.taken.at(-1)).toBeLessThan(20_000);
});

test('from a hundred addresses, for the user: the right one comes in from where it never was', {
  timeout,
}, async () => {
  await survives(
    'From 100 addresses',
    (count) => ({ user: 'ada', address: `127.0.3.${1 + (count % 100)}` }),
    (count) => `127.0.4.${1 + (count % 250)}`,
  );
});

test('from a new address for each try: who signed in from there before comes in', { timeout }, async () => {
  const { right } = await survives(
    'From a new address each',
    (count) => ({ user: 'ada', address: `127.1.${Math.floor(count / 250)}.${1 + (count % 250)}` }),
    () => '127.0.7.1',
  );
  expect(right.refused).toBe(0);
  expect(right.taken.at(-1)).toBeLessThan(20_000);
});

test('what was tried is in the log of the collector, what was refused is counted alone', async () => {
  const tried = () => logOf(stack.collector).filter(({ msg }) => msg === 'a sign-in failed').length;
  await expect.poll(tried, { timeout: 20_000 }).toBe(total[401]);
  const metrics = await (await fetch(`${stack.address}/metrics`)).text();
  const [, refused] = /^fleetreel_collector_sign_ins_total\{result="throttled"\} (\d+)$/m.exec(metrics) ?? [];
  expect(Number(refused)).toBeGreaterThanOrEqual(total[429] ?? 0);
});
