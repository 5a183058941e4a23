// Everything that is done through the faces by somebody is recorded in the log: by whom, from where, what was before and after.
import { decodeAuditRecord } from '@fleetreel/proto/custom';
import type { InvitedUser, Link, MadeKey, SignedIn } from '@fleetreel/proto/http';
import { Access, DeadLetters, Replay } from '@fleetreel/proto/services';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { credentials, Metadata } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Log } from '#log/connect.ts';
import { publishDeadLetter } from '#log/publish.ts';
import type { Registry } from '#log/registry.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const password = 'correct horse battery';
const secrets = new Set([password, 'another long password']);
type Recorded = { tenant: string } & ReturnType<typeof decodeAuditRecord>;
/** Those that were not asked for yet, and what all of them say. */
const records: Recorded[] = [];
const said: string[] = [];
let nats: NatsServer;
let url: string;
let grpc: string;
let admin: string;
let log: Log;
let registry: Registry;

/** What was recorded since it was asked last. */
async function recorded(count: number): Promise<Recorded[]> {
  await expect.poll(() => records.length, { timeout: 20_000 }).toBeGreaterThanOrEqual(count);
  return records.splice(0);
}

/** Who did what to what, as one line. */
const lineOf = ({ tenant, actor_kind, actor_name, action, target, before, after }: Recorded): string =>
  `${tenant} ${actor_kind} ${actor_name}: ${action} ${target} ${before} -> ${after}`;

async function ask<T>(
  method: string,
  path: string,
  body?: unknown,
  bearer = admin,
  of = url,
): Promise<{ status: number; body: T }> {
  const answer = await fetch(`${of}/api/v1/${path}`, {
    method,
    headers: {
      ...(bearer && { authorization: `Bearer ${bearer}` }),
      ...(body !== undefined && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body: JSON.stringify(body) }),
  });
  const text = await answer.text();
  return { status: answer.status, body: (text === '' ? undefined : JSON.parse(text)) as T };
}

beforeAll(async () => {
  nats = closing.use(await startNats());
  const { telemetry, faces } = await startFaces(closing, 'none', ['127.0.0.1', '192.0.2.0/24']);
  const bounds = { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 };
  const started = await startLog(closing, nats.url, bounds, telemetry);
  ({ log } = started);
  registry = started.registry;
  await serveRooms(closing, { telemetry, faces, log, registry });
  url = `http://127.0.0.1:${faces.http.port}`;
  grpc = `127.0.0.1:${faces.grpc.port}`;
  log.connection.subscribe('fr.v1.*.audit.*', {
    callback: (_, { subject, data }) => {
      said.push(`${subject} ${Buffer.from(data).toString('latin1')}`);
      records.push({ ...decodeAuditRecord(data), tenant: subject.split('.')[2] ?? '' });
    },
  });
  await log.connection.flush();
  const link = await faces.access.users.firstLink('default');
  secrets.add(link?.code ?? '');
  const { body } = await ask<SignedIn>('POST', 'link', { code: link?.code, user: 'ada', password, mode: 'token' }, '');
  admin = body.token ?? '';
  secrets.add(admin);
});

afterAll(() => closing.disposeAsync());

test('who comes in and goes, and who tried', async () => {
  expect((await recorded(1)).map(lineOf)).toEqual([
    'default user ada: link.use ada  -> {"purpose":"first","role":"admin"}',
  ]);
  await ask('POST', 'login', { user: 'ada', password: 'not the password' }, '');
  await ask('POST', 'login', { user: 'a password typed too early', password }, '');
  const { body } = await ask<SignedIn>('POST', 'login', { user: 'ada', password, mode: 'token' }, '');
  const session = body.token ?? '';
  secrets.add(session);
  await ask('POST', 'me/password', { password, newPassword: 'another long password' }, session);
  await ask('POST', 'logout', undefined, session);
  const found = await recorded(5);
  expect(found.map(lineOf)).toEqual([
    'default anonymous ada: sign_in.fail ada  -> ',
    'default anonymous : sign_in.fail   -> ',
    'default user ada: sign_in ada  -> ',
    'default user ada: password.change ada  -> ',
    'default user ada: sign_out ada  -> ',
  ]);
  for (const { address, time_us } of found) {
    expect(address).toBe('127.0.0.1');
    expect(Math.abs(time_us / 1000 - Date.now())).toBeLessThan(60_000);
  }
  // The password change has ended the session of before.
  const again = await ask<SignedIn>(
    'POST',
    'login',
    { user: 'ada', password: 'another long password', mode: 'token' },
    '',
  );
  admin = again.body.token ?? '';
  secrets.add(admin);
  await recorded(1);
  const { body: other } = await ask<SignedIn>(
    'POST',
    'login',
    { user: 'ada', password: 'another long password', mode: 'token' },
    '',
  );
  const [, id = ''] = (other.token ?? '').split('_');
  secrets.add(other.token ?? '');
  expect((await ask('DELETE', `me/sessions/${id}`)).status).toBe(204);
  const [, ended] = await recorded(2);
  expect(ended && lineOf(ended).replace(/"created":\d+/, '"created":0')).toBe(
    `default user ada: session.end ${id} {"user":"ada","address":"127.0.0.1","created":0} -> `,
  );
});

test('users, links, sessions and keys, over HTTP and gRPC', async () => {
  const { body: invited } = await ask<InvitedUser>('POST', 'users', { user: 'bea', role: 'viewer' });
  secrets.add(invited.link.code);
  await ask('PATCH', 'users/bea', { role: 'admin' });
  const { body: link } = await ask<Link>('POST', 'users/bea/link');
  secrets.add(link.code);
  await ask('DELETE', 'users/bea/sessions');
  const { body: made } = await ask<MadeKey>('POST', 'keys', { name: 'ci', scopes: ['read'] });
  secrets.add(made.secret);
  await ask('DELETE', `keys/${made.key.id}`);
  await ask('DELETE', 'users/bea');
  // What was refused has changed nothing.
  expect((await ask('DELETE', 'users/bea')).status).toBe(404);
  const found = (await recorded(7)).map(lineOf);
  expect(found.map((line) => line.replaceAll(/"expires":\d+/g, '"expires":0'))).toEqual([
    'default user ada: user.create bea  -> {"role":"viewer"}',
    'default user ada: user.change bea {"role":"viewer"} -> {"role":"admin"}',
    'default user ada: user.link bea  -> {"purpose":"invite","expires":0}',
    'default user ada: user.end_sessions bea {"sessions":0} -> ',
    `default user ada: key.create ${made.key.id}  -> {"name":"ci","scopes":["read"],"expires":null}`,
    `default user ada: key.revoke ${made.key.id} {"name":"ci","scopes":["read"],"expires":null} -> `,
    'default user ada: user.delete bea {"role":"admin"} -> ',
  ]);

  const client = new Access(grpc, credentials.createInsecure());
  closing.defer(() => client.close());
  const who = new Metadata();
  who.set('authorization', `Bearer ${admin}`);
  const { key, secret } = await new Promise<{ key: { id: string } | null; secret: string }>((resolve, reject) =>
    client.CreateKey({ name: 'over gRPC', scopes: ['write:event'], ttl: '' }, who, (error, answer) =>
      error || !answer ? reject(error) : resolve(answer),
    ),
  );
  secrets.add(secret);
  const [one] = await recorded(1);
  expect(one && lineOf(one)).toBe(
    `default user ada: key.create ${key?.id}  -> {"name":"over gRPC","scopes":["write:event"],"expires":null}`,
  );
  expect(one?.address).toBe('127.0.0.1');

  // Through two proxies, of which the one before them said something, too.
  who.set('x-forwarded-for', '203.0.113.9, 198.51.100.7, 192.0.2.1');
  await new Promise<void>((resolve, reject) =>
    client.RevokeKey({ id: key?.id ?? '' }, who, (error) => (error ? reject(error) : resolve())),
  );
  expect((await recorded(1)).map(({ action, address }) => [action, address])).toEqual([['key.revoke', '198.51.100.7']]);
});

test('hosts that are forgotten, settings of agents, dead letters and replays', async () => {
  await registry.describe('default', describedHost('web-1', { addresses: ['192.0.2.7'] }));
  const letter = {
    tenant: 'default',
    host: 'web-2',
    subject: 'fr.v1.default.frame.web-2',
    sequence: 7,
    stored: '1',
    index: undefined,
  };
  await publishDeadLetter(log, { ...letter, kind: 'future', reason: 'a test', tries: 0, bytes: Uint8Array.of(1) });
  const deadSequence = (await log.manager.streams.info('FRAMES')).state.last_seq;
  await expect.poll(() => registry.get('default', 'web-1'), { timeout: 20_000 }).toBeDefined();
  const settings = { interval: '1s' };
  const answers = [
    await ask('PUT', 'agents/settings/host:web-1', { settings }),
    await ask('DELETE', 'hosts/web-1'),
    await ask('PUT', 'agents/settings/all?dryRun=true', { settings }),
    await ask('PUT', 'agents/settings/all', { settings }),
    await ask('DELETE', 'agents/settings/all'),
    await ask('DELETE', 'dead-letters?all=true'),
    await ask('POST', 'replays?from=-1h&host=web-1,web-2&table=cpu'),
  ];
  expect(answers.map(({ status, body }) => (status < 300 ? status : body))).toEqual([
    200, 204, 200, 200, 200, 200, 201,
  ]);
  expect((await recorded(7)).map((each) => lineOf(each).replace(/"lastSeen":(?:\d+|null)/, '"lastSeen":0'))).toEqual([
    'default user ada: agent_settings.change host:web-1 {} -> {"interval":"1s"}',
    'default user ada: host.forget web-1 {"machineId":"machine-web-1","os":"Debian 12","addresses":["192.0.2.7"],"lastSeen":0} -> ',
    // What was wanted of it by its name is not kept for another of that name.
    'default user ada: agent_settings.change host:web-1 {"interval":"1s"} -> {}',
    'default user ada: agent_settings.change all {} -> {"interval":"1s"}',
    'default user ada: agent_settings.change all {"interval":"1s"} -> {}',
    `default user ada: dead_letter.discard  {"count":1,"sequences":[${deadSequence}]} -> {"done":1,"failed":0}`,
    'default user ada: replay.play web-1, web-2  -> {"from":"-1h","to":"","hosts":2,"tables":["cpu"]}',
  ]);

  const who = new Metadata();
  who.set('authorization', `Bearer ${admin}`);
  const dead = new DeadLetters(grpc, credentials.createInsecure());
  closing.defer(() => dead.close());
  await new Promise<void>((resolve, reject) =>
    dead.RedriveDeadLetters({ choice: { all: true } }, who, (error) => (error ? reject(error) : resolve())),
  );
  const replay = new Replay(grpc, credentials.createInsecure());
  closing.defer(() => replay.close());
  const call = replay.Play(who);
  // What is in the log, so that the store is not asked.
  call.write({ start: { from_sequence: 1 } });
  call.end();
  for await (const _ of call);
  expect((await recorded(2)).map(lineOf)).toEqual([
    'default user ada: dead_letter.redrive   -> {"done":0,"failed":0}',
    'default user ada: replay.play   -> {"fromSequence":1,"toSequence":0,"hosts":0,"tables":[]}',
  ]);
});

test('what could not be recorded yet is not done', async () => {
  const { body: gus } = await ask<InvitedUser>('POST', 'users', { user: 'gus', role: 'viewer' });
  const { body: made } = await ask<MadeKey>('POST', 'keys', { name: 'early', scopes: ['read'] });
  for (const secret of [gus.link.code, made.secret]) secrets.add(secret);
  await recorded(2);
  // A collector that knows the users, and has nothing else of the log yet.
  const early = await startFaces(closing, 'none');
  const bounds = { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 };
  const { log } = await startLog(closing, nats.url, bounds, early.telemetry);
  await early.faces.access.open(log);
  closing.defer(() => early.faces.access.close());
  const changes: readonly [method: string, path: string, body?: object][] = [
    ['POST', 'users', { user: 'hal', role: 'viewer' }],
    ['PATCH', 'users/gus', { role: 'admin' }],
    ['POST', 'users/gus/link'],
    ['DELETE', 'users/gus/sessions'],
    ['DELETE', 'users/gus'],
    ['POST', 'keys', { name: 'earlier', scopes: ['admin'] }],
    ['DELETE', `keys/${made.key.id}`],
    ['POST', 'link', { code: gus.link.code, password }],
    ['POST', 'login', { user: 'ada', password: 'another long password' }],
    ['POST', 'me/password', { password: 'another long password', newPassword: password }],
    ['DELETE', `me/sessions/${admin.split('_')[1]}`],
    ['POST', 'logout'],
  ];
  const kept = async () => {
    const bucket = await log.buckets.open('access');
    const entries: string[] = [];
    for await (const key of await bucket.keys(['user.*', 'session.*', 'link.*', 'key.*']))
      entries.push(`${key} ${(await bucket.get(key))?.string()}`);
    return entries.sort();
  };
  const before = await kept();
  for (const [method, path, body] of changes) {
    const answer = await ask<{ code: string }>(method, path, body, admin, `http://127.0.0.1:${early.faces.http.port}`);
    expect.soft([answer.status, answer.body?.code], `${method} ${path}`).toEqual([503, 'log_unavailable']);
  }
  expect(await kept()).toEqual(before);
  expect(records).toEqual([]);
});

test('no secret is in any record', () => {
  expect(said.length).toBeGreaterThan(15);
  expect(secrets.size).toBeGreaterThan(6);
  for (const secret of secrets) {
    expect(secret.length).toBeGreaterThan(8);
    expect(said.filter((text) => text.includes(secret))).toEqual([]);
  }
});
