// Users, sessions, links and keys over a real log, as the faces of two collectors see them.
import type { InvitedUser, MadeKey, Me, Session, SignedIn, Users } from '@fleetreel/proto/http';
import { Access as AccessService, Query as QueryService } from '@fleetreel/proto/services';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { credentials, Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Access } from '#access/access.ts';
import { systemClock } from '#clock.ts';
import { signInFailuresFree, usedMilliseconds } from '#limits.ts';
import { Telemetry } from '#telemetry.ts';
import { serveRooms, startFaces, startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const bounds = { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 };
const password = 'correct horse battery';
let nats: NatsServer;
let one: Collector;
let two: Collector;
/** Credentials of the first admin. */
let admin: string;

type Collector = Awaited<ReturnType<typeof startCollector>>;

async function startCollector() {
  const { telemetry, faces } = await startFaces(closing, 'none');
  const { log, registry } = await startLog(closing, nats.url, bounds, telemetry);
  await serveRooms(closing, { telemetry, faces, log, registry });
  const url = `http://127.0.0.1:${faces.http.port}`;
  return {
    faces,
    log,
    /** Asks a route; `bearer` is what it brings. */
    async ask<T = { code: string }>(
      method: string,
      path: string,
      { bearer, body, headers = {} }: { bearer?: string; body?: unknown; headers?: Record<string, string> } = {},
    ) {
      const answer = await fetch(`${url}/api/v1/${path}`, {
        method,
        headers: {
          ...(bearer !== undefined && { authorization: `Bearer ${bearer}` }),
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      });
      const text = await answer.text();
      return {
        status: answer.status,
        headers: answer.headers,
        body: (text === '' ? undefined : JSON.parse(text)) as T,
      };
    },
    async signIn(user: string, secret = password): Promise<string> {
      const { status: is, body } = await this.ask<SignedIn>('POST', 'login', {
        body: { user, password: secret, mode: 'token' },
      });
      expect(is).toBe(200);
      return body.token ?? '';
    },
    socket: (path: string, bearer: string) =>
      new WebSocket(`${url.replace('http', 'ws')}/api/v1/${path}`, {
        headers: { authorization: `Bearer ${bearer}` },
      } as unknown as string[]),
  };
}

/** Makes a user of the first admin's tenant, with a password. */
async function makeUser(name: string, role: 'viewer' | 'admin'): Promise<void> {
  const { status: is, body } = await one.ask<InvitedUser>('POST', 'users', {
    bearer: admin,
    body: { user: name, role },
  });
  expect(is).toBe(201);
  const used = await one.ask('POST', 'link', { body: { code: body.link.code, password, mode: 'token' } });
  expect(used.status).toBe(200);
}

async function makeKey(scopes: readonly string[], ttl?: string): Promise<MadeKey> {
  const { status: is, body } = await one.ask<MadeKey>('POST', 'keys', {
    bearer: admin,
    body: { name: 'of a test', scopes, ...(ttl !== undefined && { ttl }) },
  });
  expect(is).toBe(201);
  return body;
}

const until = (check: () => unknown) => expect.poll(check, { timeout: 20_000, interval: 20 });

beforeAll(async () => {
  nats = closing.use(await startNats());
  one = await startCollector();
  two = await startCollector();
});

afterAll(() => closing.disposeAsync());

test('the first admin comes by a link that is made once and used once', async () => {
  const { users } = one.faces.access;
  const link = await users.firstLink('default');
  expect(link?.path).toMatch(/^\/welcome#frl_/);
  expect(await users.firstLink('default')).toBeUndefined();
  expect(await two.faces.access.users.firstLink('default')).toBeUndefined();
  const { code = '' } = link ?? {};

  const wrong = await one.ask('POST', 'link/check', {
    body: { code: `${code.slice(0, -1)}${code.endsWith('A') ? 'B' : 'A'}` },
  });
  expect([wrong.status, wrong.body.code]).toEqual([410, 'link_not_valid']);
  const checked = await one.ask('POST', 'link/check', { body: { code } });
  expect(checked.body).toEqual({ user: null, tenant: 'default', role: 'admin', purpose: 'first' });
  const short = await one.ask('POST', 'link', { body: { code, user: 'ada', password: 'short' } });
  expect([short.status, short.body.code]).toEqual([400, 'bad_body']);
  expect(JSON.stringify(short.body)).not.toContain('"short"');

  const tries = await Promise.all(
    Array.from({ length: 3 }, (_, index) =>
      one.ask<SignedIn>('POST', 'link', { body: { code, user: `ada${index || ''}`, password, mode: 'token' } }),
    ),
  );
  expect(tries.map(({ status: is }) => is).sort((a, b) => a - b)).toEqual([200, 410, 410]);
  const right = tries.find(({ status: is }) => is === 200)?.body;
  admin = right?.token ?? '';
  expect(right).toMatchObject({ tenant: 'default', role: 'admin' });
  const { body: me } = await one.ask<Me>('GET', 'me', { bearer: admin });
  expect(me).toMatchObject({ kind: 'user', name: right?.user, tenant: 'default', role: 'admin', scopes: ['admin'] });
  expect(await users.firstLink('default')).toBeUndefined();
  // What one collector was told, the other knows.
  await until(async () => (await two.ask('GET', 'me', { bearer: admin })).status).toBe(200);
});

test('a browser signs in by a cookie, changes only from our pages, and signs out', async () => {
  await makeUser('bea', 'viewer');
  const { headers, body } = await one.ask<SignedIn>('POST', 'login', { body: { user: ' Bea ', password } });
  expect(body).not.toHaveProperty('token');
  const [set = ''] = headers.getSetCookie();
  expect(set).toMatch(/^fleetreel_session=frs_[^;]+; Path=\/; Max-Age=\d+; HttpOnly; SameSite=Strict$/);
  const cookie = `other=1; ${set.split(';')[0]}`;
  expect((await one.ask('GET', 'hosts', { headers: { cookie } })).status).toBe(200);
  expect(
    (await one.ask('DELETE', 'hosts/web-1', { headers: { cookie, 'sec-fetch-site': 'same-origin' } })).body.code,
  ).toBe('not_permitted');
  const elsewhere = await one.ask('POST', 'logout', { headers: { cookie } });
  expect([elsewhere.status, elsewhere.body.code]).toEqual([403, 'origin_refused']);
  const foreign = { cookie, origin: 'http://evil.example', 'sec-fetch-site': 'cross-site' };
  expect((await one.ask('POST', 'logout', { headers: foreign })).body.code).toBe('origin_refused');
  const out = await one.ask('POST', 'logout', { headers: { cookie, 'sec-fetch-site': 'same-origin' } });
  expect(out.status).toBe(204);
  expect(out.headers.getSetCookie()[0]).toMatch(/^fleetreel_session=; .*Max-Age=0/);
  expect((await one.ask('GET', 'hosts', { headers: { cookie } })).body.code).toBe('not_signed_in');
});

test('a wrong password and a user that there is not are answered alike', async () => {
  const answers = [
    await one.ask('POST', 'login', { body: { user: 'bea', password: 'not the password' } }),
    await one.ask('POST', 'login', { body: { user: 'nobody', password: 'not the password' } }),
  ];
  expect(answers.map(({ status: is, body }) => [is, body])).toEqual([
    [401, answers[0]?.body],
    [401, answers[0]?.body],
  ]);
  expect(answers[0]?.body.code).toBe('sign_in_failed');
});

test('after some failures the next has to wait', async () => {
  await makeUser('cleo', 'viewer');
  // All at once: one after the other, a slow machine would wait for long enough meanwhile.
  const tries = Array.from(
    { length: signInFailuresFree.pair + 2 },
    async () =>
      (await two.ask('POST', 'login', { body: { user: 'cleo', password: 'not the password' } })).body.code as string,
  );
  await Promise.any(tries.map(async (code) => expect(await code).toBe('too_many_sign_ins')));
  const late = await two.ask('POST', 'login', { body: { user: 'cleo', password } });
  const codes = await Promise.all(tries);
  expect(codes.filter((code) => code === 'sign_in_failed')).toHaveLength(signInFailuresFree.pair);
  expect([late.status, late.body.code]).toEqual([429, 'too_many_sign_ins']);
  expect(Number(late.headers.get('retry-after'))).toBeGreaterThan(0);
  // Another collector counts for itself; another user is not stopped.
  await two.signIn('bea');
});

test('a new password ends other sessions, and what they have open', async () => {
  await makeUser('dan', 'viewer');
  const [mine, other] = [await one.signIn('dan'), await two.signIn('dan')];
  await until(async () => (await one.ask('GET', 'me', { bearer: other })).status).toBe(200);
  const live = [one.socket('live', mine), two.socket('live', other)];
  const closed = live.map(() => Promise.withResolvers<CloseEvent>());
  for (const [index, socket] of live.entries())
    socket.addEventListener('close', (event) => closed[index]?.resolve(event));
  await Promise.all(live.map((socket) => new Promise((resolve) => socket.addEventListener('open', resolve))));

  const change = { password, newPassword: 'another long password' };
  const wrong = await one.ask('POST', 'me/password', {
    bearer: mine,
    body: { ...change, password: 'not the password' },
  });
  expect(wrong.body.code).toBe('wrong_password');
  expect((await one.ask('POST', 'me/password', { bearer: mine, body: change })).status).toBe(204);
  const { code, reason } = (await closed[1]?.promise) ?? {};
  expect([code, reason]).toEqual([1008, 'not_signed_in']);
  expect((await one.ask('GET', 'me', { bearer: mine })).status).toBe(200);
  expect((await one.ask('GET', 'me', { bearer: other })).status).toBe(401);
  expect(live[0]?.readyState).toBe(WebSocket.OPEN);
  live[0]?.close();
  expect((await one.ask('POST', 'login', { body: { user: 'dan', password } })).status).toBe(401);
  await one.signIn('dan', 'another long password');
});

test('sessions are listed, and ended one by one or all', async () => {
  await makeUser('eve', 'viewer');
  const [first, second] = [await one.signIn('eve'), await one.signIn('eve')];
  const list = async () =>
    (await one.ask<{ sessions: Session[] }>('GET', 'me/sessions', { bearer: first })).body.sessions;
  const sessions = await list();
  expect(sessions.filter(({ current }) => current)).toHaveLength(1);
  expect(JSON.stringify(sessions)).not.toContain(first.slice(-43));
  expect(sessions.some(({ id }) => id === second.split('_')[1])).toBe(true);
  const foreign = admin.split('_')[1];
  expect((await one.ask('DELETE', `me/sessions/${foreign}`, { bearer: first })).body.code).toBe('session_not_found');
  expect((await one.ask('DELETE', `me/sessions/${second.split('_')[1]}`, { bearer: first })).status).toBe(204);
  expect((await one.ask('GET', 'me', { bearer: second })).status).toBe(401);
  expect((await one.ask('DELETE', 'users/eve/sessions', { bearer: admin })).status).toBe(204);
  expect((await one.ask('GET', 'me', { bearer: first })).status).toBe(401);
});

test('a role is changed at once, and the last admin stays', async () => {
  await makeUser('fay', 'admin');
  const fay = await one.signIn('fay');
  expect((await one.ask('GET', 'keys', { bearer: fay })).status).toBe(200);
  await one.ask('PATCH', 'users/fay', { bearer: admin, body: { role: 'viewer' } });
  expect((await one.ask('GET', 'keys', { bearer: fay })).status).toBe(403);
  const { name } = (await one.ask<Me>('GET', 'me', { bearer: admin })).body;
  for (const [method, body] of [['PATCH', { role: 'viewer' }], ['DELETE']] as const)
    expect((await one.ask(method, `users/${name}`, { bearer: admin, body })).body.code).toBe('last_admin');
  expect((await one.ask('DELETE', 'users/fay', { bearer: admin })).status).toBe(204);
  expect((await one.ask('GET', 'me', { bearer: fay })).status).toBe(401);
  const { users } = (await one.ask<Users>('GET', 'users', { bearer: admin })).body;
  expect(users.map((user) => user.name)).not.toContain('fay');
});

test.each<[string, (of: Collector, name: string) => Promise<unknown>]>([
  ['take each other the role', (of, name) => of.faces.access.users.change('duo', name, { role: 'viewer' })],
  ['remove each other', (of, name) => of.faces.access.users.remove('duo', name)],
])('of two admins who %s at once, one stays, at one collector and at two', async (_, act) => {
  const from = { address: '127.0.0.1', program: '' };
  const { users } = one.faces.access;
  const roles = () => users.list('duo').map(({ name, role }) => `${name} ${role}`);
  for (const other of [one, two]) {
    for (const name of ['max', 'moe'])
      if (!roles().includes(`${name} admin`)) {
        if (roles().some((each) => each.startsWith(name))) await users.remove('duo', name);
        await users.useLink({ code: (await users.adminLink('duo')).code, user: name, password }, from);
      }
    await until(() => other.faces.access.users.list('duo').filter(({ role }) => role === 'admin')).toHaveLength(2);
    const done = await Promise.allSettled([act(one, 'max'), act(other, 'moe')]);
    expect(
      done
        .map((each) => (each.status === 'rejected' ? each.reason.code : 'done'))
        .toSorted((a, b) => a.localeCompare(b)),
    ).toEqual(['done', 'last_admin']);
    await until(() => roles().filter((each) => each.endsWith(' admin'))).toHaveLength(1);
  }
});

test('a session of a user who is gone is not one of another who gets the name', async () => {
  await makeUser('ivy', 'admin');
  const ivy = await one.signIn('ivy');
  const bucket = await one.log.buckets.open('access');
  const session = `session.${ivy.split('_')[1]}`;
  const kept = (await bucket.get(session))?.string() ?? '';
  expect(kept).toContain('"ivy"');
  expect((await one.ask('DELETE', 'users/ivy', { bearer: admin })).status).toBe(204);
  // As where the collector was stopped between removing the user and the sessions.
  await bucket.put(session, kept);
  await makeUser('ivy', 'viewer');
  await one.signIn('ivy');
  for (const collector of [one, two])
    expect((await collector.ask('GET', 'me', { bearer: ivy })).body.code).toBe('not_signed_in');
});

test('a user is the same however the name is written', async () => {
  const made = await one.ask<InvitedUser>('POST', 'users', { bearer: admin, body: { user: 'Uma', role: 'viewer' } });
  expect(made).toMatchObject({ status: 201, body: { user: { name: 'uma' } } });
  expect((await one.ask('PATCH', 'users/UMA', { bearer: admin, body: { role: 'admin' } })).body).toMatchObject({
    name: 'uma',
    role: 'admin',
  });
  expect((await one.ask('POST', 'users/Uma/link', { bearer: admin })).status).toBe(201);
  expect((await one.ask('DELETE', 'users/uMa/sessions', { bearer: admin })).status).toBe(204);
  expect((await one.ask('DELETE', 'users/Uma', { bearer: admin })).status).toBe(204);
  expect((await one.ask('DELETE', 'users/uma', { bearer: admin })).body.code).toBe('user_not_found');
});

test('a link sets a new password once, and an older one is not valid any more', async () => {
  await makeUser('gus', 'viewer');
  const make = async () => (await one.ask<{ code: string }>('POST', 'users/gus/link', { bearer: admin })).body.code;
  const [older, newer] = [await make(), await make()];
  const use = (code: string, mode = 'token') =>
    one.ask('POST', 'link', { body: { code, password: 'a reset password', mode } });
  expect((await use(older)).body.code).toBe('link_not_valid');
  expect((await use(newer)).status).toBe(200);
  expect((await use(newer)).body.code).toBe('link_not_valid');
  await one.signIn('gus', 'a reset password');
});

test('a user of another tenant is as if there were none, but for the name', async () => {
  const { code } = await one.faces.access.users.adminLink('acme');
  const { body } = await one.ask<SignedIn>('POST', 'link', { body: { code, user: 'zoe', password, mode: 'token' } });
  const zoe = body.token ?? '';
  expect(body.tenant).toBe('acme');
  expect((await one.ask<Users>('GET', 'users', { bearer: zoe })).body.users.map(({ name }) => name)).toEqual(['zoe']);
  for (const path of ['users/bea', 'users/bea/sessions'])
    expect((await one.ask('DELETE', path, { bearer: zoe })).body.code).toBe('user_not_found');
  expect((await one.ask('POST', 'users/bea/link', { bearer: zoe })).body.code).toBe('user_not_found');
  const taken = await one.ask('POST', 'users', { bearer: zoe, body: { user: 'bea', role: 'viewer' } });
  expect([taken.status, taken.body.code]).toEqual([409, 'user_exists']);
  const { key } = await makeKey(['read']);
  expect((await one.ask('DELETE', `keys/${key.id}`, { bearer: zoe })).body.code).toBe('key_not_found');
});

test('a key does what its scopes say over HTTP and gRPC, until it is revoked', async () => {
  const { key, secret } = await makeKey(['read']);
  expect(JSON.stringify((await one.ask('GET', 'keys', { bearer: admin })).body)).not.toContain(secret.slice(-43));
  expect((await one.ask('GET', 'hosts', { bearer: secret })).status).toBe(200);
  expect((await one.ask('GET', 'hosts', { headers: { 'x-api-key': secret } })).status).toBe(200);
  expect((await one.ask('GET', 'users', { bearer: secret })).body.code).toBe('not_permitted');
  expect(
    (await one.ask('POST', 'me/password', { bearer: secret, body: { password, newPassword: password } })).body.code,
  ).toBe('not_a_user');
  // A session is no API key, and a key no cookie.
  expect((await one.ask('GET', 'hosts', { headers: { 'x-api-key': admin } })).status).toBe(401);
  expect((await one.ask('GET', 'hosts', { headers: { cookie: `fleetreel_session=${secret}` } })).status).toBe(401);

  const address = `127.0.0.1:${two.faces.grpc.port}`;
  using query = closeable(new QueryService(address, credentials.createInsecure()));
  using access = closeable(new AccessService(address, credentials.createInsecure()));
  const call = (name: string, value: string) =>
    new Promise<number>((resolve) => {
      const metadata = new Metadata();
      metadata.set(name, value);
      query.client.ListHosts({}, metadata, { deadline: Date.now() + 20_000 }, (error) => resolve(error?.code ?? 0));
    });
  await until(() => call('authorization', `Bearer ${secret}`)).toBe(status.OK);
  expect(await call('x-api-key', secret)).toBe(status.OK);
  expect(await call('x-api-key', `${secret}x`)).toBe(status.UNAUTHENTICATED);
  const metadata = new Metadata();
  metadata.set('x-api-key', secret);
  const refused = await new Promise<ServiceError | null>((resolve) =>
    access.client.ListKeys({}, metadata, { deadline: Date.now() + 20_000 }, resolve),
  );
  expect(refused?.code).toBe(status.PERMISSION_DENIED);

  const socket = two.socket('live', secret);
  const closed = Promise.withResolvers<CloseEvent>();
  socket.addEventListener('close', closed.resolve);
  await new Promise((resolve) => socket.addEventListener('open', resolve));
  expect((await one.ask('DELETE', `keys/${key.id}`, { bearer: admin })).status).toBe(204);
  expect((await closed.promise).code).toBe(1008);
  expect((await one.ask('GET', 'hosts', { bearer: secret })).status).toBe(401);
  await until(() => call('x-api-key', secret)).toBe(status.UNAUTHENTICATED);
});

test('a key ends when its time is over', async () => {
  const hosts = (bearer: string) => one.ask('GET', 'hosts', { bearer });
  expect((await hosts((await makeKey(['read'], '1h')).secret)).status).toBe(200);
  const { key, secret } = await makeKey(['read'], '1s');
  await until(async () => (await hosts(secret)).status).toBe(401);
  expect(Date.now()).toBeGreaterThanOrEqual(key.expires ?? Number.POSITIVE_INFINITY);
  expect((await hosts(secret)).body.code).toBe('not_signed_in');
  for (const ttl of ['soon', '0s', '100000000d', `${'9'.repeat(400)}d`]) {
    const bad = await one.ask('POST', 'keys', { bearer: admin, body: { name: 'x', scopes: ['read'], ttl } });
    expect(bad.body.code).toBe('bad_value');
  }
});

test('what nobody has to sign in for is not for whom a proxy brings from elsewhere', async () => {
  const { faces } = await startFaces(closing, 'admin', ['127.0.0.1']);
  const url = `http://127.0.0.1:${faces.http.port}/api/v1/catalog`;
  using query = closeable(new QueryService(`127.0.0.1:${faces.grpc.port}`, credentials.createInsecure()));
  const ask = async (from?: string) => {
    const metadata = new Metadata();
    if (from !== undefined) metadata.set('x-forwarded-for', from);
    const headers: Record<string, string> = from === undefined ? {} : { 'x-forwarded-for': from };
    const { status: http } = await fetch(url, { headers });
    const grpc = await new Promise<number>((resolve) =>
      query.client.Catalog({}, metadata, { deadline: Date.now() + 20_000 }, (error) => resolve(error?.code ?? 0)),
    );
    return [http, grpc];
  };
  expect(await ask()).toEqual([200, status.OK]);
  expect(await ask('127.0.0.3')).toEqual([200, status.OK]);
  for (const from of ['203.0.113.9', '::ffff:203.0.113.9', 'not an address'])
    expect(await ask(from), from).toEqual([401, status.UNAUTHENTICATED]);
});

test('what could not be written of the last use is written later, and when the collector stops', async () => {
  const bucket = await one.log.buckets.open('access');
  const limit = async (max_msg_size: number) => {
    await one.log.manager.streams.update('KV_access', { max_msg_size });
  };
  closing.defer(() => limit(-1).catch(() => undefined));
  // It goes on when the test says so.
  let steps = 0;
  let step = Promise.withResolvers<void>();
  const sleep = async (milliseconds: number, signal?: AbortSignal) => {
    if (milliseconds !== usedMilliseconds) return await systemClock.sleep(milliseconds, signal);
    steps++;
    step = Promise.withResolvers();
    signal?.addEventListener('abort', () => step.resolve());
    await step.promise;
  };
  const access = new Access({
    anonymous: 'none',
    telemetry: new Telemetry('silent'),
    clock: { ...systemClock, sleep },
  });
  await access.open(one.log);
  const keys = [await makeKey(['read']), await makeKey(['read']), await makeKey(['read'])];
  await until(() => keys.every(({ key }) => access.keys.list('default').some(({ id }) => id === key.id))).toBe(true);
  const use = (made: readonly MadeKey[]) => {
    for (const { secret } of made) access.identify({ apiKey: secret, address: '192.0.2.1' }, 'read');
  };
  const written = async () => {
    const found = await Promise.all(keys.map(({ key }) => bucket.get(`used.${key.id}`)));
    return found.map((entry) => entry !== null);
  };
  use(keys.slice(0, 2));
  await limit(1);
  step.resolve();
  await until(() => steps).toBe(2);
  expect(await written()).toEqual([false, false, false]);
  await limit(-1);
  step.resolve();
  await until(() => steps).toBe(3);
  expect(await written()).toEqual([true, true, false]);
  use(keys.slice(2));
  await access.close();
  expect(await written()).toEqual([true, true, true]);
});

test('what is kept has no secret', async () => {
  const bucket = await one.log.buckets.open('access');
  const kept: string[] = [];
  for await (const key of await bucket.keys()) kept.push((await bucket.get(key))?.string() ?? '');
  const all = kept.join('\n');
  expect(all).toContain('argon2id');
  for (const secret of [password, 'another long password', admin, admin.slice(-43)]) expect(all).not.toContain(secret);
});

const closeable = <C extends { close(): void }>(client: C) => ({ client, [Symbol.dispose]: () => client.close() });
