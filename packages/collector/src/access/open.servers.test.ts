// What is open ends with the right to it: on the collector where that was taken, and on another that hears of it by the log.
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { encodeFrame, type Frame, subject } from '@fleetreel/proto';
import type { InvitedUser, MadeKey, ReplaySession, SignedIn } from '@fleetreel/proto/http';
import {
  Live,
  type LiveClient,
  type PlayRequest,
  type PlayStart,
  Replay,
  type ReplayClient,
} from '@fleetreel/proto/services';
import { ReelReader } from '@fleetreel/reel/reader';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { startProgram } from '@fleetreel/test/servers/program';
import { credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { serveRooms, startFaces, startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const password = 'correct horse battery';
/** How long the key of those lives that end with its time: long enough to open all of it on a busy machine. */
const keySeconds = 15;

let nats: NatsServer;
let collectors: Collector[];
let admin: string;
/** Opened with a key that ends by itself. */
let expiring: { open: Open[]; expires: number };
/** Begin of what is played: the log has all of it, and no store is asked. */
let from: string;
let sequence = 0;
let users = 0;

type Collector = Awaited<ReturnType<typeof startCollector>>;

async function startCollector() {
  const { telemetry, faces } = await startFaces(closing, 'none');
  const bounds = { age_ms: 3_600_000, bytes: 256 * 1024 * 1024 };
  const { log, registry } = await startLog(closing, nats.url, bounds, telemetry);
  await serveRooms(closing, { telemetry, faces, log, registry });
  const [url, address] = [`http://127.0.0.1:${faces.http.port}`, `127.0.0.1:${faces.grpc.port}`];
  return {
    faces,
    log,
    url,
    address,
    live: closing.adopt(new Live(address, credentials.createInsecure()), (client) => client.close()) as LiveClient,
    replay: closing.adopt(new Replay(address, credentials.createInsecure()), (client) =>
      client.close(),
    ) as ReplayClient,
    /** What a gauge or counter of it says. */
    async metric(name: string): Promise<number> {
      const { values } = (await telemetry.registry.getSingleMetric(name)?.get()) ?? { values: [] };
      return values.reduce((sum, { value }) => sum + value, 0);
    },
  };
}

beforeAll(async () => {
  nats = closing.use(await startNats());
  collectors = [await startCollector(), await startCollector()];
  const { code } = await first().faces.access.users.adminLink('default');
  admin = (await ask<SignedIn>('POST', 'link', { body: { code, user: 'ada', password, mode: 'token' } })).token ?? '';
  await publish(1);
  await pause(50);
  from = String(Date.now());
  await publish(20);
});

afterAll(() => closing.disposeAsync());

const first = () => collectors[0] as Collector;
const until = (check: () => unknown) => expect.poll(check, { timeout: 30_000, interval: 20 });

async function ask<T>(
  method: string,
  path: string,
  { bearer, body, of = first() }: { bearer?: string; body?: object; of?: Collector } = {},
): Promise<T> {
  const answer = await fetch(`${of.url}/api/v1/${path}`, {
    method,
    headers: {
      ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return (text === '' ? undefined : JSON.parse(text)) as T;
}

/** Frames of one host, with so much text. */
async function publish(count: number, characters = 5): Promise<void> {
  for (let each = 0; each < count; each++) {
    const bytes = encodeFrame({
      session: '00000000000000ab',
      sequence: ++sequence,
      time_us: Date.now() * 1000,
      interval_ms: 1000,
      tables: { cpu: { core: ['x'.repeat(characters)], used_percent: [sequence] } } as Frame['tables'],
    });
    await first().log.jetstream.publish(subject({ tenant: 'default', kind: 'frame', host: 'web-1' }), bytes);
  }
}

/** A user with a password, signed in. */
async function signedIn(role: 'viewer' | 'admin' = 'viewer'): Promise<{ name: string; bearer: string }> {
  const name = `user-${++users}`;
  const { link } = await ask<InvitedUser>('POST', 'users', { bearer: admin, body: { user: name, role } });
  const body = { code: link.code, password, mode: 'token' };
  const { token = '' } = await ask<SignedIn>('POST', 'link', { body });
  return { name, bearer: token };
}

const makeKey = (ttl?: string) =>
  ask<MadeKey>('POST', 'keys', { bearer: admin, body: { name: 'open', scopes: ['read', 'replay'], ttl } });

/** Something open: what it was told at its end, and how often it heard something before. */
type Open = {
  what: string;
  begun: Promise<void>;
  ended: Promise<{ how: string; time: number }>;
  heard: () => number;
  close: () => void;
};

/** How a stream over gRPC and a socket say that the right is gone. */
const endOf = { gRPC: `${status.UNAUTHENTICATED} not_signed_in`, WebSocket: '1008 not_signed_in' };

function openSocket(what: string, url: string, bearer: string, messages: readonly object[]): Open {
  const socket = new WebSocket(url.replace('http', 'ws'), {
    headers: { authorization: `Bearer ${bearer}` },
  } as unknown as string[]);
  const [begun, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<{ how: string; time: number }>()];
  let heard = 0;
  socket.addEventListener('open', () => {
    for (const message of messages) socket.send(JSON.stringify(message));
  });
  socket.addEventListener('message', () => {
    heard++;
    begun.resolve();
  });
  socket.addEventListener('close', ({ code, reason }) => ended.resolve({ how: `${code} ${reason}`, time: Date.now() }));
  return { what, begun: begun.promise, ended: ended.promise, heard: () => heard, close: () => socket.close() };
}

type Call = {
  on(event: 'data' | 'end', listener: () => void): void;
  on(event: 'error', listener: (error: ServiceError) => void): void;
  cancel(): void;
};

function openCall(what: string, call: Call): Open {
  const [begun, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<{ how: string; time: number }>()];
  let heard = 0;
  call.on('data', () => {
    heard++;
    begun.resolve();
  });
  call.on('end', () => ended.resolve({ how: 'ended without an error', time: Date.now() }));
  call.on('error', ({ code, metadata }) =>
    ended.resolve({ how: `${code} ${metadata.get('fleetreel-code')[0]?.toString()}`, time: Date.now() }),
  );
  return { what, begun: begun.promise, ended: ended.promise, heard: () => heard, close: () => call.cancel() };
}

function metadataOf(bearer: string): Metadata {
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${bearer}`);
  return metadata;
}

/** A replay that goes on for as long as the test. */
function play({ replay }: Collector, bearer: string, start: PlayStart) {
  const call = replay.Play(metadataOf(bearer));
  call.write({ start } satisfies PlayRequest);
  return call;
}

/** One of everything that stays open, at each collector, after each has sent something. */
async function openAll(bearer: string): Promise<Open[]> {
  // Another collector knows of it by the log.
  for (const of of collectors) await until(() => ask('GET', 'me', { bearer, of }).then(() => true, String)).toBe(true);
  const all = await Promise.all(
    collectors.map(async (collector, index): Promise<Open[]> => {
      const { url, live } = collector;
      const subscribe = { type: 'subscribe', id: 'a', table: 'cpu', hosts: [] };
      const session = (more: string) =>
        ask<ReplaySession>('POST', `replays?from=${from}&to=now&${more}`, { bearer, of: collector });
      const [paused, slow] = [await session('speed=0&paused=true'), await session('speed=0.1')];
      const at = `collector ${index + 1}`;
      return [
        openSocket(`WebSocket live, ${at}`, `${url}/api/v1/live`, bearer, [subscribe]),
        openSocket(`WebSocket hosts, ${at}`, `${url}/api/v1/live`, bearer, [{ type: 'subscribe_hosts', id: 'a' }]),
        openSocket(`WebSocket paused replay, ${at}`, `${url}/api/v1/replays/${paused.id}`, bearer, [subscribe]),
        openSocket(`WebSocket replay, ${at}`, `${url}/api/v1/replays/${slow.id}`, bearer, [subscribe]),
        openCall(`gRPC Watch, ${at}`, live.Watch({ watches: [{ table: 'cpu' }] }, metadataOf(bearer))),
        openCall(`gRPC Follow, ${at}`, live.Follow({ from }, metadataOf(bearer))),
        openCall(`gRPC Play, ${at}`, play(collector, bearer, { from, to: 'now', speed: 0.1 })),
        openCall(`gRPC paused Play, ${at}`, play(collector, bearer, { from, to: 'now', paused: true })),
        openCall(`gRPC Play at its end, ${at}`, play(collector, bearer, { from, to: 'now', tables: ['memory'] })),
      ];
    }),
  );
  const open = all.flat();
  closing.defer(() => {
    for (const each of open) each.close();
  });
  for (const { what, begun, ended } of open) {
    const early = await Promise.race([begun, ended]);
    if (early) throw new Error(`${what} was over before it began: ${early.how}`);
  }
  return open;
}

/** All of it is told that the right is gone, at once; here the machine may have much else to do. */
async function allEnd(open: readonly Open[], since: number): Promise<void> {
  const told = await Promise.all(open.map(async ({ what, ended }) => ({ what, ...(await ended) })));
  for (const { what, how } of told) expect.soft(how, what).toBe(what.startsWith('gRPC') ? endOf.gRPC : endOf.WebSocket);
  expect(Math.max(...told.map(({ time }) => time)) - since).toBeLessThan(10_000);
}

/** What takes the right away from who has it. */
const takings: Readonly<Record<string, () => Promise<{ bearer: string; take: () => Promise<unknown> }>>> = {
  'a key is revoked': async () => {
    const { key, secret } = await makeKey();
    return { bearer: secret, take: () => ask('DELETE', `keys/${key.id}`, { bearer: admin }) };
  },
  'the user is removed': async () => {
    const { name, bearer } = await signedIn();
    return { bearer, take: () => ask('DELETE', `users/${name}`, { bearer: admin }) };
  },
  'an admin ends the sessions': async () => {
    const { name, bearer } = await signedIn();
    return { bearer, take: () => ask('DELETE', `users/${name}/sessions`, { bearer: admin }) };
  },
  'the session is ended from another': async () => {
    const { name, bearer } = await signedIn();
    const other = await ask<SignedIn>('POST', 'login', { body: { user: name, password, mode: 'token' } });
    const id = bearer.split('_')[1];
    return { bearer, take: () => ask('DELETE', `me/sessions/${id}`, { bearer: other.token ?? '' }) };
  },
  'the user signs out': async () => {
    const { bearer } = await signedIn();
    return { bearer, take: () => ask('POST', 'logout', { bearer }) };
  },
  'the password is set anew by a link': async () => {
    const { name, bearer } = await signedIn();
    const { code } = await ask<{ code: string }>('POST', `users/${name}/link`, { bearer: admin });
    const body = { code, password: 'another long password', mode: 'token' };
    return { bearer, take: () => ask('POST', 'link', { body }) };
  },
};

test('all that stays open opens with the right to it', async () => {
  const { key, secret } = await makeKey(`${keySeconds}s`);
  expiring = { open: await openAll(secret), expires: key.expires ?? 0 };
});

describe('what is open ends at every collector when', () => {
  for (const [what, prepare] of Object.entries(takings))
    test(what, async () => {
      const { bearer, take } = await prepare();
      const open = await openAll(bearer);
      const since = Date.now();
      await take();
      await allEnd(open, since);
    });
});

test('what is open goes on where another role gives the right to it, too', async () => {
  const { name, bearer } = await signedIn('admin');
  const open = await openAll(bearer);
  const over: string[] = [];
  for (const { what, ended } of open) void ended.then(({ how }) => over.push(`${what}: ${how}`));
  await ask('PATCH', `users/${name}`, { bearer: admin, body: { role: 'viewer' } });
  for (const of of collectors)
    await until(() => ask('GET', 'users', { bearer, of }).then(() => 'may', String)).toContain('not_permitted');
  const live = open.filter(({ what }) => /live|Watch|Follow/.test(what));
  const before = live.map(({ heard }) => heard());
  await publish(1);
  await until(() => live.every(({ heard }, index) => heard() > (before[index] ?? 0))).toBe(true);
  expect(over).toEqual([]);
  for (const { close } of open) close();
});

test('a recording by the command line ends with a reason, and keeps what it has', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-open-'));
  closing.defer(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'open.reel');
  const { key, secret } = await makeKey();
  const environment = { FLEETREEL_KEY: secret, FLEETREEL_ADDRESS: first().address };
  const program = await startProgram('packages/cli/src/main.ts', ['record', path, '--from', from], environment);
  await until(() => existsSync(path)).toBe(true);
  await ask('DELETE', `keys/${key.id}`, { bearer: admin });
  expect((await program.exited).code).toBe(1);
  expect(program.lines.join('\n')).toContain('does not know this API key: it is another');
  await using reel = await ReelReader.open(path);
  await reel.verify();
  expect(reel.frameCount).toBeGreaterThan(0);
});

// Late, since it has to wait.
test('what is open ends when the time of its key is over', async () => {
  await allEnd(expiring.open, expiring.expires);
  for (const { ended } of expiring.open) expect((await ended).time).toBeGreaterThanOrEqual(expiring.expires);
});

test('a reader that does not read holds nothing once its right is gone', async () => {
  const readers = () => Promise.all(collectors.map((of) => of.metric('fleetreel_collector_live_readers')));
  const none = collectors.map(() => 0);
  await until(readers).toEqual(none);
  // Few of them fit on the way to a reader.
  await publish(200, 60_000);
  const { key, secret } = await makeKey();
  const [one, two] = collectors as [Collector, Collector];
  for (const of of collectors)
    await until(() => ask('GET', 'me', { bearer: secret, of }).then(() => true, String)).toBe(true);
  const calls = [one, two].flatMap((collector) => [
    collector.live.Follow({ from }, metadataOf(secret)),
    play(collector, secret, { from, to: 'now' }),
  ]);
  closing.defer(() => {
    for (const call of calls) call.cancel();
  });
  for (const call of calls) call.pause().on('error', () => undefined);
  await until(readers).toEqual([2, 2]);
  await ask('DELETE', `keys/${key.id}`, { bearer: admin });
  await until(readers).toEqual(none);
});
