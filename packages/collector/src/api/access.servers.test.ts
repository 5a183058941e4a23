// Who may use what: every route and method of the running faces, from their own lists. And that no tenant sees another's.
import { encodeFrame, type Frame, subject } from '@fleetreel/proto';
import { scopes } from '@fleetreel/proto/http';
import { packageDefinition } from '@fleetreel/proto/services';
import { startNats } from '@fleetreel/test/servers/nats';
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import { Client, credentials, Metadata, type MethodDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Identity, Need } from '#access/identity.ts';
import { needs } from '#api/grpc/rights.ts';
import { keepTables } from '#store/schema.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

/** Requests of the generator; more are asked for by the environment. */
const requests = Number(process.env.FLEETREEL_TENANT_REQUESTS ?? 300);
const closing = new AsyncDisposableStack();
const password = 'correct horse battery';
/** What only the tenant acme has, and no request says. */
const marks = ['leaked-7f3a', '424242.125', '424242125'];
/** What the tenant default has of the same kind. */
const own = '171717.125';

let faces: Awaited<ReturnType<typeof startFaces>>['faces'];
let log: Awaited<ReturnType<typeof startLog>>['log'];
/** What each brings, and what it may do. */
let callers: { who: string; bearer: string | undefined; may: readonly string[] }[];
let acme: string;
let sequence = 0;

beforeAll(async () => {
  const [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  closing.use(nats);
  closing.use(questdb);
  const started = await startFaces(closing, 'none');
  ({ faces } = started);
  const { telemetry } = started;
  const opened = await startLog(closing, nats.url, { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 }, telemetry);
  ({ log } = opened);
  const { registry } = opened;
  await keepTables({ http_url: questdb.httpUrl, user: questdb.user, password: questdb.password }, 30, telemetry);
  for (const [tenant, host, core, value] of [
    ['default', 'web-1', 'total', own],
    ['acme', 'acme-1', 'leaked-7f3a', '424242.125'],
    ['acme', 'web-1', 'leaked-7f3a', '424242.125'],
  ] as const) {
    await registry.describe(
      tenant,
      describedHost(host, { os: core, ...(tenant === 'acme' && { machine_id: 'leaked-7f3a' }) }),
    );
    await log.jetstream.publish(subject({ tenant, kind: 'frame', host }), frame(core, Number(value)));
    await questdb.query(
      `INSERT INTO cpu (ts, tenant, host, core, used_percent) SELECT dateadd('s', cast(-x as int), now()), '${tenant}', '${host}', '${core}', ${value} FROM long_sequence(60)`,
    );
  }
  await serveRooms(closing, { telemetry, faces, log, registry, questdb });
  await setUpCallers();
}, 120_000);

async function setUpCallers(): Promise<void> {
  const { users, keys } = faces.access;
  const from = { address: '127.0.0.1', program: '' };
  const admin = async (tenant: string): Promise<Identity> => ({
    tenant,
    kind: 'user',
    id: '',
    name: `admin of ${tenant}`,
    scopes: new Set(['admin'] as const),
  });
  const viewer = async () => {
    const { link } = await users.create('default', { user: 'viewer', role: 'viewer' });
    return (await users.useLink({ code: link.code, password }, from)).secret;
  };
  const { code } = await users.adminLink('default');
  callers = [
    { who: 'nobody', bearer: undefined, may: [] },
    { who: 'viewer', bearer: await viewer(), may: ['known', 'read', 'replay'] },
    {
      who: 'admin',
      bearer: (await users.useLink({ code, user: 'ada', password }, from)).secret,
      may: ['known', ...scopes],
    },
  ];
  for (const scope of scopes) {
    const { secret } = await keys.create(await admin('default'), { name: scope, scopes: [scope] });
    const may = scope === 'admin' ? ['known', ...scopes] : ['known', scope];
    callers.push({ who: `the scope ${scope}`, bearer: secret, may });
  }
  acme = (await keys.create(await admin('acme'), { name: 'of acme', scopes: ['admin'] })).secret;
  callers.push({ who: 'an admin of another tenant', bearer: acme, may: ['known', ...scopes] });
}

afterAll(() => closing.disposeAsync());

function frame(core: string, value: number): Uint8Array {
  return encodeFrame({
    session: '00000000000000ab',
    sequence: ++sequence,
    time_us: Date.now() * 1000,
    interval_ms: 1000,
    tables: { cpu: { core: [core], used_percent: [value] } } as Frame['tables'],
  });
}

/** What a caller is answered where all that counts is whether it may. */
type Verdict = 'may' | 'not_signed_in' | 'not_permitted';
const expected = (need: Need, { bearer, may }: (typeof callers)[number]): Verdict => {
  if (need === 'public') return 'may';
  if (bearer === undefined) return 'not_signed_in';
  return may.includes(need) ? 'may' : 'not_permitted';
};
const verdictOf = (code: unknown): Verdict => (code === 'not_signed_in' || code === 'not_permitted' ? code : 'may');

async function ask(method: string, path: string, bearer: string | undefined, more: RequestInit = {}) {
  const answer = await fetch(`http://127.0.0.1:${faces.http.port}${path}`, {
    method,
    ...more,
    headers: { ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }), ...(more.headers as object) },
  });
  return { status: answer.status, text: await answer.text(), headers: answer.headers };
}

describe('who may', () => {
  test('every method does what it asks for, for everybody', async () => {
    using client = openClient(faces.grpc.port);
    for (const [path, need] of faces.grpc.needs)
      for (const caller of callers) {
        const error = await client.call(path, caller.bearer);
        const code = error?.metadata.get('fleetreel-code')[0];
        expect.soft(verdictOf(code), `${path} for ${caller.who}: ${error?.message}`).toBe(expected(need, caller));
        if (verdictOf(code) !== 'may')
          expect.soft(error?.code).toBe(code === 'not_signed_in' ? status.UNAUTHENTICATED : status.PERMISSION_DENIED);
      }
  });

  test('every route does what it asks for, for everybody', async () => {
    const routes = [...faces.http.needs];
    expect(routes.length).toBeGreaterThan(40);
    // What ends the session that it is asked with comes last.
    routes.sort(([a], [b]) => Number(a.endsWith('/logout')) - Number(b.endsWith('/logout')));
    for (const [route, need] of routes) {
      const [method = '', pattern = ''] = route.split(' ');
      const path = pattern.replaceAll(/:\w+/g, 'none').replace('*', 'none');
      // It is what GET is, which files do not have, and its answers have no body that says why.
      if (method === 'HEAD') {
        expect(need).toBe(faces.http.needs.get(`GET ${pattern}`) ?? 'public');
        continue;
      }
      for (const caller of callers) {
        const { status: is, text, headers } = await ask(method, path, caller.bearer);
        const code = /"code":"(\w+)"/.exec(text)?.[1];
        expect.soft(verdictOf(code), `${route} for ${caller.who}: ${is} ${text}`).toBe(expected(need, caller));
        expect.soft(headers.has('www-authenticate'), route).toBe(is === 401);
      }
    }
  });

  test('the table of methods has none that is not served', () => {
    expect(Object.keys(needs).sort()).toEqual([...faces.grpc.needs.keys()].sort());
  });
});

describe('a tenant', () => {
  const admin = () => callers.find(({ who }) => who === 'the scope admin')?.bearer ?? '';

  test('sees its own, so that what follows could find it', async () => {
    for (const path of ['hosts', 'latest?table=cpu', 'rows?table=cpu', 'series?table=cpu&field=used_percent&step=1m']) {
      const theirs = (await ask('GET', `/api/v1/${path}`, acme)).text;
      expect(
        marks.some((mark) => theirs.includes(mark)),
        path,
      ).toBe(true);
      const mine = (await ask('GET', `/api/v1/${path}`, admin())).text;
      expect(
        marks.filter((mark) => mine.includes(mark)),
        path,
      ).toEqual([]);
    }
    expect((await ask('GET', '/metrics/fleet', acme)).text).toContain('leaked-7f3a');
  });

  test(`sees nothing of another by ${requests} hostile requests`, { timeout: 60_000 + requests * 100 }, async () => {
    const seed = Number(process.env.FLEETREEL_TENANT_SEED ?? 20_261_122);
    const random = generator(seed);
    const document = JSON.parse((await ask('GET', '/docs/json', undefined)).text) as Document;
    const operations = Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, { parameters = [] }]) => ({
        path,
        method: method.toUpperCase(),
        parameters,
      })),
    );
    const before = await theirs();
    const answered = new Map<number, number>();
    const batch = 8;
    for (let done = 0; done < requests; done += batch) {
      const asked = Array.from({ length: batch }, () => hostile(random, operations));
      await Promise.all(
        asked.map(async ({ method, path, more }) => {
          const answer = await ask(method, path, admin(), more);
          answered.set(answer.status, (answered.get(answer.status) ?? 0) + 1);
          expect(answer.status, `${method} ${path} (seed ${seed}): ${answer.text}`).not.toBe(500);
          for (const mark of marks)
            expect(answer.text.includes(mark), `${method} ${path} (seed ${seed}): ${answer.text}`).toBe(false);
        }),
      );
    }
    // Enough of them were answered with rows for it to mean something.
    expect(answered.get(200) ?? 0).toBeGreaterThan(requests / 10);
    expect(await theirs()).toEqual(before);
  });

  test('sees nothing of another live', async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${faces.http.port}/api/v1/live?`, {
      headers: { authorization: `Bearer ${admin()}` },
    } as unknown as string[]);
    const texts: string[] = [];
    socket.addEventListener('message', ({ data }) => texts.push(String(data)));
    await new Promise((resolve) => socket.addEventListener('open', resolve));
    for (const [id, hosts] of [[], ['acme-1'], ['*'], ['>'], ['acme.acme-1'], ['web-1']].entries())
      socket.send(JSON.stringify({ type: 'subscribe', id: `${id}`, table: 'cpu', hosts, tenant: 'acme' }));
    socket.send(JSON.stringify({ type: 'subscribe_hosts', id: 'hosts', tenant: 'acme' }));
    const last = 181818.125;
    for (const [tenant, host, core, value] of [
      ['acme', 'acme-1', 'leaked-7f3a', 424242.125],
      ['acme', 'web-1', 'leaked-7f3a', 424242.125],
      ['default', 'web-1', 'total', last],
    ] as const)
      await log.jetstream.publish(subject({ tenant, kind: 'frame', host }), frame(core, value));
    // Of all, and by its name.
    await expect.poll(() => texts.filter((text) => text.includes(String(last))).length, { timeout: 20_000 }).toBe(2);
    for (const text of texts) for (const mark of marks) expect(text).not.toContain(mark);
    socket.close();
  });

  test('sees nothing of another in a replay', async () => {
    const made = await ask('POST', '/api/v1/replays?from=-1h&to=now&speed=0', acme);
    const { id } = JSON.parse(made.text) as { id: string };
    const foreign = await play(id, admin());
    expect(foreign.join()).toContain('replay_not_found');
    // It waits for its own reader still.
    expect((await play(id, acme)).join()).toContain('leaked-7f3a');
    const mine = await ask('POST', '/api/v1/replays?from=-1h&to=now&speed=0', admin());
    const texts = await play((JSON.parse(mine.text) as { id: string }).id, admin());
    expect(texts.join()).toContain(own);
    for (const mark of marks) expect(texts.join()).not.toContain(mark);
  });

  /** What the other tenant has, which no request of this one may change. */
  async function theirs() {
    const [hosts, users, keys] = await Promise.all(
      ['hosts', 'users', 'keys'].map(async (path) => JSON.parse((await ask('GET', `/api/v1/${path}`, acme)).text)),
    );
    return {
      hosts: (hosts as { hosts: { host: string }[] }).hosts.map(({ host }) => host),
      users,
      keys: (keys as { keys: { id: string }[] }).keys.map(({ id }) => id),
    };
  }

  /** All messages of a replay until its end. */
  async function play(id: string, bearer: string): Promise<string[]> {
    const socket = new WebSocket(`ws://127.0.0.1:${faces.http.port}/api/v1/replays/${id}`, {
      headers: { authorization: `Bearer ${bearer}` },
    } as unknown as string[]);
    const texts: string[] = [];
    const ended = Promise.withResolvers<void>();
    socket.addEventListener('message', ({ data }) => {
      texts.push(String(data));
      if (String(data).includes('"state":"ended"')) ended.resolve();
    });
    socket.addEventListener('close', () => ended.resolve());
    socket.addEventListener('open', () =>
      socket.send(JSON.stringify({ type: 'subscribe', id: 'a', table: 'cpu', hosts: [] })),
    );
    await ended.promise;
    socket.close();
    return texts;
  }
});

type Parameter = { name: string; in: string };
type Document = { paths: Record<string, Record<string, { parameters?: Parameter[] }>> };
type Random = { next: () => number; pick: <T>(of: readonly T[]) => T };

/** Always the same numbers for a seed (mulberry32). */
function generator(seed: number): Random {
  let state = seed;
  const next = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { next, pick: (of) => of[Math.floor(next() * of.length)] as (typeof of)[number] };
}

const names = [
  'acme',
  'acme-1',
  'acme.acme-1',
  'acme/acme-1',
  '../acme/hosts',
  'default.acme-1',
  '*',
  '>',
  'fr.v1.acme.frame.acme-1',
  "web-1' OR tenant = 'acme",
  "') OR 1=1 --",
  'web-1","tenant":"acme',
  'web-1\u0000acme',
  'acme\0acme-1',
  '%',
  '{acme}',
];
const plausible: Readonly<Record<string, readonly string[]>> = {
  table: ['cpu', 'memory', 'frame'],
  field: ['used_percent'],
  host: ['web-1'],
  from: ['-1h', '-10m', '1'],
  to: ['now'],
  step: ['1m', 'auto', '5s'],
  agg: ['avg', 'max', 'last', 'p95'],
  limit: ['1000'],
  'label.core': ['total', 'leaked'],
  sequence: ['1', '2', '3'],
  speed: ['0', '100'],
  all: ['true'],
};

/** A request that could make a mistake of ours tell of another tenant. */
function hostile(random: Random, operations: readonly { path: string; method: string; parameters: Parameter[] }[]) {
  const { path, method, parameters } = random.pick(operations);
  const value = (name: string) => random.pick(random.next() < 0.5 ? names : (plausible[name] ?? names));
  const query = new URLSearchParams();
  for (const { name, in: where } of parameters) {
    const isNeeded = name === 'table' || name === 'field';
    if (where === 'query' && (isNeeded || random.next() < 0.3))
      query.append(name, isNeeded && random.next() < 0.9 ? random.pick(plausible[name] ?? names) : value(name));
  }
  if (random.next() < 0.1) query.append(random.pick(['tenant', 'Tenant', 'label.tenant', 'host', '__proto__']), 'acme');
  const filled = path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(value(name)));
  const headers: Record<string, string> = {};
  if (random.next() < 0.2) headers[random.pick(['x-tenant', 'x-forwarded-host', 'x-scope-orgid', 'tenant'])] = 'acme';
  const body = JSON.stringify({
    tenant: 'acme',
    user: random.pick(['acme-1', 'zoe', "zoe' OR 1=1"]),
    name: random.pick(names),
    host: random.pick(names),
    code: 'frl_0123456789abcdef_x',
    password: 'a password of a test',
    role: 'viewer',
    scopes: ['read'],
  });
  const takesBody = !['GET', 'HEAD', 'DELETE'].includes(method) && random.next() < 0.8;
  return {
    method,
    path: `${filled}?${query.toString()}`.replace(/\?$/, ''),
    more: {
      headers: { ...headers, ...(takesBody && { 'content-type': 'application/json' }) },
      ...(takesBody && { body }),
    },
  };
}

/** Calls methods by their paths, with one message that is empty, but where that would wait for data. */
function openClient(port: number) {
  const client = new Client(`127.0.0.1:${port}`, credentials.createInsecure());
  const { Follow } = packageDefinition['fleetreel.v1.Live'] as unknown as Record<
    string,
    MethodDefinition<object, object>
  >;
  const messages: Readonly<Record<string, Buffer | undefined>> = {
    '/fleetreel.v1.Live/Follow': Follow?.requestSerialize({ token: 'none' }),
  };
  return {
    call(path: string, bearer: string | undefined): Promise<ServiceError | undefined> {
      const metadata = new Metadata();
      if (bearer !== undefined) metadata.set('authorization', `Bearer ${bearer}`);
      return new Promise((resolve) => {
        const bytes = () => messages[path] ?? Buffer.alloc(0);
        const options = { deadline: Date.now() + 20_000 };
        const call = client.makeServerStreamRequest(path, bytes, (answer: Buffer) => answer, {}, metadata, options);
        call.on('data', () => call.cancel());
        call.on('error', (error: ServiceError) => resolve(error));
        call.on('end', () => resolve(undefined));
      });
    },
    [Symbol.dispose]: () => client.close(),
  };
}
