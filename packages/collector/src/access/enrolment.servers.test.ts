// Hosts are let in and shut out: over both faces, by the programs that people use, with the server that holds them to it.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type AddressInfo, connect as connectSocket, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { inboxPrefix } from '@fleetreel/proto';
import type { Credentials, Enrolled } from '@fleetreel/proto/http';
import { NatsAccess } from '@fleetreel/proto/nats_access';
import { KeyPair, readCredentials } from '@fleetreel/proto/nats_jwt';
import type { Issuer } from '@fleetreel/proto/nats_keys';
import { NatsInstallation } from '@fleetreel/test/servers/nats_installation';
import { startProgram } from '@fleetreel/test/servers/program';
import { jetstream } from '@nats-io/jetstream';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { Enrolment, readIssuer } from '#access/enrolment.ts';
import type { Clock } from '#clock.ts';
import { systemClock } from '#clock.ts';
import { codeFailures, codeMilliseconds, credentialsListedMilliseconds, revocationsMax } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { buckets } from '#log/stream.ts';
import type { Telemetry } from '#telemetry.ts';
import { serveRooms, startFaces, startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const folder = mkdtempSync(join(tmpdir(), 'fleetreel-enrolment-'));
let nats: NatsInstallation;
let log: Log;
let issuer: Issuer;
let telemetry: Telemetry;
let enrolment: Enrolment;
/** By which it reaches the accounts of NATS. */
let way: Way;
/** Where agents reach NATS, as the collector was told. */
const agentsUrl = 'tls://nats.example.org:4222';
let url: string;
let grpc: string;
/** What the clock of the collector is ahead, milliseconds. */
let ahead_ms = 0;
const clock: Clock = {
  ...systemClock,
  now_us: () => systemClock.now_us() + ahead_ms * 1000,
  monotonic_ms: () => systemClock.monotonic_ms() + ahead_ms,
};

beforeAll(async () => {
  nats = closing.use(await NatsInstallation.start());
  const { faces, ...started } = await startFaces(closing);
  ({ telemetry } = started);
  const made = await startLog(closing, nats.collector, { age_ms: 3_600_000, bytes: 64 * 1024 ** 2 }, telemetry);
  log = made.log;
  issuer = readIssuer(nats.write('issuer.json', JSON.stringify(nats.keys.issuer)));
  way = closing.use(await Way.open(nats.server.port));
  enrolment = await another({ url: way.url, agents_url: agentsUrl });
  await serveRooms(closing, { telemetry, faces, ...made, enrolment });
  url = `http://127.0.0.1:${faces.http.port}`;
  grpc = `127.0.0.1:${faces.grpc.port}`;
});
afterAll(async () => {
  await closing.disposeAsync();
  rmSync(folder, { recursive: true, force: true });
});

/** The enrolment of one more collector, that has told NATS what is revoked. */
async function another(to: { url?: string; agents_url?: string } = {}): Promise<Enrolment> {
  const { promise: told, resolve } = Promise.withResolvers<void>();
  const resting: Clock = {
    ...clock,
    sleep(milliseconds, signal) {
      resolve();
      return clock.sleep(milliseconds, signal);
    },
  };
  const made = await Enrolment.open({ log, issuer, nats: { ...nats.collector, ...to }, clock: resting, telemetry });
  closing.defer(() => made.close());
  await told;
  return made;
}

/** A way to NATS that can be closed, or hold what a client says. */
class Way implements AsyncDisposable {
  readonly url: string;
  /** Who comes while it is closed is sent away. */
  isOpen = true;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #held: { text: string; seen: () => void; pieces: (() => void)[] } | undefined;

  private constructor(server: Server) {
    this.#server = server;
    this.url = `nats://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async open(port: number): Promise<Way> {
    const server = createServer({ noDelay: true }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    const way = new Way(server);
    server.on('connection', (near) => {
      if (!way.isOpen) return near.destroy();
      const far = connectSocket({ host: '127.0.0.1', port, noDelay: true });
      for (const [one, two] of [
        [near, far],
        [far, near],
      ] as const) {
        way.#sockets.add(one);
        one.on('error', () => undefined).on('close', () => two.destroy());
      }
      near.on('data', (bytes) => way.#pass(bytes, () => far.write(bytes)));
      far.pipe(near);
    });
    return way;
  }

  /** Holds what is said from this text on; settled when it was said. */
  async hold(text: string): Promise<void> {
    await new Promise<void>((seen) => {
      this.#held = { text, seen, pieces: [] };
    });
  }

  release(): void {
    for (const pass of this.#held?.pieces ?? []) pass();
    this.#held = undefined;
  }

  #pass(bytes: Buffer, pass: () => void): void {
    const held = this.#held;
    if (held === undefined || (held.pieces.length === 0 && !bytes.includes(held.text))) pass();
    else {
      held.pieces.push(pass);
      held.seen();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

async function ask<T>(method: string, path: string, body?: unknown): Promise<{ status: number; body: T }> {
  const answer = await fetch(`${url}/api/v1/${path}`, {
    method,
    ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
  });
  return { status: answer.status, body: (await answer.json()) as T };
}

/** A client as an agent is one, with the content of a credentials file. */
async function client(text: string, tenant: string, host: string): Promise<NatsConnection> {
  const path = nats.write(`${tenant}-${host}.creds`, text);
  const connection = await connect({
    ...new NatsAccess({ url: nats.server.url, credentials: path }).options,
    inboxPrefix: inboxPrefix(tenant, host),
    reconnect: false,
    noAsyncTraces: true,
  });
  onTestFinished(() => connection.close());
  return connection;
}

/** Runs a program to its end. */
function ran(
  entry: string,
  args: readonly string[],
  input = '',
): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const path = join(import.meta.dirname, '../../../..', entry);
    const child = spawn(process.execPath, [path, ...args], { cwd: folder });
    let [out, err] = ['', ''];
    child.stdout.on('data', (part: Buffer) => {
      out += part.toString();
    });
    child.stderr.on('data', (part: Buffer) => {
      err += part.toString();
    });
    child.once('close', (code) => resolve({ code, out, err }));
    child.stdin.end(input);
  });
}
const cli = (...args: string[]) => ran('packages/cli/src/main.ts', [...args, '--address', grpc]);
const agent = (args: readonly string[], input?: string) => ran('packages/agent/src/main.ts', args, input);

/** The newest records of the audit trail, the oldest of them first. */
async function lastAudited(count = 1): Promise<string[]> {
  const newest = await log.manager.streams.getMessage('FRAMES', { last_by_subj: 'fr.v1.default.audit.test' });
  const trail: string[] = [];
  for (let seq = (newest?.seq ?? 0) - count + 1; seq <= (newest?.seq ?? 0); seq++) {
    const message = await log.manager.streams.getMessage('FRAMES', { seq });
    trail.push(Buffer.from(message?.data ?? []).toString('latin1'));
  }
  return trail;
}

const wish = (host: string, tenant = 'default') => ({ tenant, host, by: 'ann' });
const keyOf = () => KeyPair.create('user').publicKey;
const refusal = (code: string) => expect.objectContaining({ code });

test('credentials let a host publish as itself, and are cut off at once when they are revoked', async () => {
  const { status, body } = await ask<Enrolled>('POST', 'enrolments', {
    host: 'web.1',
    mode: 'credentials',
    ttl: '24h',
  });
  expect({ status, body }).toMatchObject({ status: 200, body: { tenant: 'default', host: 'web.1' } });
  expect(body.expires).toBeGreaterThan(Date.now() + 23 * 3_600_000);
  const connection = await client(body.credentials ?? '', 'default', 'web_1');
  await expect(jetstream(connection).publish('fr.v1.default.frame.web_1', 'x')).resolves.toMatchObject({
    stream: 'FRAMES',
  });
  await expect(jetstream(connection).publish('fr.v1.default.frame.other', 'x')).rejects.toThrow(
    /Permissions Violation/,
  );

  const listed = await ask<Credentials>('GET', 'credentials');
  expect(listed.body.natsUrl).toBe(agentsUrl);
  expect(listed.body.credentials).toMatchObject([
    { host: 'web.1', by: 'anonymous', byCode: false, expires: body.expires, revoked: null },
  ]);
  expect(JSON.stringify(listed.body)).not.toContain(readCredentials(body.credentials ?? '').key.seed);

  const began = performance.now();
  expect(await ask('DELETE', 'credentials/web.1')).toEqual({ status: 200, body: { revoked: 1 } });
  expect(await connection.closed()).toBeInstanceOf(Error);
  expect(performance.now() - began).toBeLessThan(5000);
  await expect(client(body.credentials ?? '', 'default', 'web_1')).rejects.toThrow(/authorization violation/i);
  expect((await ask<Credentials>('GET', 'credentials')).body.credentials).toMatchObject([
    { revoked: expect.any(Number) },
  ]);

  // It stays so when the server starts again, and new ones are as good.
  await nats.server.restart();
  await expect(client(body.credentials ?? '', 'default', 'web_1')).rejects.toThrow(/authorization violation/i);
  await expect.poll(() => log.connection.rtt().then(() => 'there', String), { timeout: 20_000 }).toBe('there');
  const { credentials } = await enrolment.credentials(wish('web.1'));
  await (await client(credentials ?? '', 'default', 'web_1')).flush();
});

test('of some who revoke at once, each is answered, and one counts', async () => {
  await enrolment.credentials(wish('at-once'));
  const answers = await Promise.all(Array.from({ length: 4 }, () => enrolment.revoke('default', 'at-once')));
  expect(answers.map(({ revoked }) => revoked).sort((a, b) => a - b)).toEqual([0, 0, 0, 1]);
});

test('credentials are taken back that were issued by a clock that is ahead', async () => {
  ahead_ms = 3_600_000;
  const { credentials = '' } = await enrolment.credentials(wish('ahead')).finally(() => {
    ahead_ms = 0;
  });
  await (await client(credentials, 'default', 'ahead')).flush();
  await enrolment.revoke('default', 'ahead');
  await expect(client(credentials, 'default', 'ahead')).rejects.toThrow(/authorization violation/i);
});

test('a code gives credentials once, whoever asks how often at the same time', async () => {
  const { code = '' } = await enrolment.code(wish('web-2'));
  const answers = await Promise.allSettled(
    Array.from({ length: 8 }, (_, index) => enrolment.claim({ code, publicKey: keyOf() }, `10.0.0.${index}`)),
  );
  expect(answers.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
  for (const answer of answers)
    if (answer.status === 'rejected') expect(answer.reason).toEqual(refusal('code_refused'));
  expect(await enrolment.list('default')).toContainEqual(expect.objectContaining({ host: 'web-2', byCode: true }));
  // Nothing in the bucket is the code.
  const bucket = await log.buckets.open(buckets.enrolment);
  for await (const key of await bucket.keys()) {
    expect(key).not.toContain(code);
    expect((await bucket.get(key))?.string()).not.toContain(code.split(':')[1]);
  }
});

test('a code is for its tenant alone, for an hour, and not to be guessed', async () => {
  const { code = '' } = await enrolment.code(wish('web-3', 'acme'));
  const publicKey = keyOf();
  const tries: string[] = [code.replace('acme', 'default'), `${code}A`, code.slice(0, -1), '', 'acme:', '*:*', 'a.>:x'];
  for (const wrong of tries)
    await expect(enrolment.claim({ code: wrong, publicKey }, '10.0.1.1')).rejects.toEqual(refusal('code_refused'));
  await expect(enrolment.claim({ code, publicKey: 'x' }, '10.0.1.1')).rejects.toEqual(refusal('bad_value'));
  for (let count = tries.length; count < codeFailures.count; count++)
    await expect(enrolment.claim({ code: 'x', publicKey }, '10.0.1.1')).rejects.toEqual(refusal('code_refused'));
  await expect(enrolment.claim({ code, publicKey }, '10.0.1.1')).rejects.toEqual(refusal('too_many_claims'));
  // Others are not in the way of whoever has the right one.
  expect(await enrolment.claim({ code, publicKey }, '10.0.1.2')).toMatchObject({ tenant: 'acme', host: 'web-3' });

  const late = await enrolment.code(wish('web-4', 'acme'));
  try {
    ahead_ms = codeMilliseconds + 1;
    const asked = enrolment.claim({ code: late.code ?? '', publicKey }, '10.0.1.1');
    await expect(asked).rejects.toEqual(refusal('code_refused'));
  } finally {
    ahead_ms = 0;
  }
});

test('codes that nobody has used are taken back with the credentials, and without any', async () => {
  await enrolment.credentials(wish('web.5'));
  const [first, second] = await Promise.all([enrolment.code(wish('web.5')), enrolment.code(wish('web-6'))]);
  const { code = '' } = await enrolment.code(wish('web-6', 'acme'));
  expect(await enrolment.revoke('default', 'web.5')).toEqual({ revoked: 2, untold: undefined });
  expect(await ask('DELETE', 'credentials/web-6')).toEqual({ status: 200, body: { revoked: 1 } });
  expect(await ask('DELETE', 'credentials/web-6')).toMatchObject({ status: 404 });
  for (const { code: taken = '' } of [first, second])
    await expect(enrolment.claim({ code: taken, publicKey: keyOf() }, '10.0.2.1')).rejects.toEqual(
      refusal('code_refused'),
    );
  await enrolment.claim({ code, publicKey: keyOf() }, '10.0.2.1');
});

test('nothing stays of a code that was used, nor of credentials that are over for long', async () => {
  const { code = '' } = await enrolment.code(wish('web-7'));
  await enrolment.claim({ code, publicKey: keyOf() }, '10.0.2.1');
  const [tenant, secret = ''] = code.split(':');
  const digest = createHash('sha256').update(secret).digest('hex');
  const left = async (key: string) =>
    await log.manager.streams.getMessage('KV_enrolment', { last_by_subj: `$KV.enrolment.${key}` });
  expect((await left(`code.${tenant}.${digest}`))?.header.get('Nats-TTL')).toBe(`${codeMilliseconds / 1000}s`);

  ahead_ms = -credentialsListedMilliseconds - 2 * 3_600_000;
  const { credentials = '' } = await enrolment.credentials({ ...wish('web-8'), ttl: '1h' }).finally(() => {
    ahead_ms = 0;
  });
  const key = `credentials.default.web-8.${readCredentials(credentials).key.publicKey}`;
  expect((await left(key))?.header.get('KV-Operation')).toBe('');
  await another();
  expect((await left(key))?.header.get('KV-Operation')).toBe('PURGE');
  expect((await left(key))?.header.get('Nats-TTL')).toBe(`${codeMilliseconds / 1000}s`);
});

test('a host whose credentials are taken back while NATS can not be told is cut off as soon as it can', async () => {
  const { credentials = '' } = await enrolment.credentials(wish('untold'));
  const connection = await client(credentials, 'default', 'untold');
  way.isOpen = false;
  const answer = await ask('DELETE', 'credentials/untold').finally(() => {
    way.isOpen = true;
  });
  expect(answer).toMatchObject({ status: 503, body: { code: 'log_unavailable' } });
  expect((await lastAudited())[0]).toContain('untold');
  expect(await connection.closed()).toBeInstanceOf(Error);
  await expect(client(credentials, 'default', 'untold')).rejects.toThrow(/authorization violation/i);
});

test('a server that has lost its accounts is told again by a collector that starts', async () => {
  const { credentials = '' } = await enrolment.credentials(wish('lost'));
  await enrolment.revoke('default', 'lost');
  await nats.server.stop();
  rmSync(join(nats.folder, 'accounts'), { recursive: true });
  await nats.server.restart();
  await expect.poll(() => log.connection.rtt().then(() => 'there', String), { timeout: 20_000 }).toBe('there');
  await (await client(credentials, 'default', 'lost')).flush();
  await another();
  await expect(client(credentials, 'default', 'lost')).rejects.toThrow(/authorization violation/i);
});

test("a tenant sees and revokes its own hosts' credentials alone", async () => {
  await enrolment.credentials(wish('db-1', 'acme'));
  const { credentials = '' } = await enrolment.credentials(wish('db-1', 'globex'));
  const connection = await client(credentials, 'globex', 'db-1');
  expect((await enrolment.list('globex')).map(({ host }) => host)).toEqual(['db-1']);
  await expect(enrolment.revoke('globex', 'web-3')).rejects.toEqual(refusal('credentials_not_found'));
  for (const wrong of ['*', '>', 'a b', '', '../x', 'x'.repeat(200)])
    await expect(enrolment.revoke('globex', wrong)).rejects.toEqual(refusal('bad_value'));
  expect(await enrolment.revoke('acme', 'db-1')).toEqual({ revoked: 1, untold: undefined });
  await connection.flush();
  await expect(jetstream(connection).publish('fr.v1.acme.frame.db-1', 'x')).rejects.toThrow(/Permissions Violation/);
});

test('revocations of several collectors at once are all kept', async () => {
  const others = await Promise.all(Array.from({ length: 3 }, () => another()));
  const hosts = others.map((_, index) => `many-${index}`);
  const made = await Promise.all(hosts.map((host) => enrolment.credentials(wish(host))));
  await Promise.all(others.map((other, index) => other.revoke('default', hosts[index] ?? '')));
  for (const [index, { credentials = '' }] of made.entries())
    await expect(client(credentials, 'default', hosts[index] ?? '')).rejects.toThrow(/authorization violation/i);
});

test('a revocation that comes late does not undo another', async () => {
  const [slow, fast] = await Promise.all(['slow', 'fast'].map((host) => enrolment.credentials(wish(host))));
  const other = await another();
  const held = way.hold('$SYS.REQ.CLAIMS.UPDATE');
  const revoked = enrolment.revoke('default', 'slow');
  await held;
  await other.revoke('default', 'fast');
  way.release();
  expect(await revoked).toEqual({ revoked: 1, untold: undefined });
  for (const [host, made] of Object.entries({ slow, fast }))
    await expect(client(made?.credentials ?? '', 'default', host)).rejects.toThrow(/authorization violation/i);
});

test('what can not be is said', async () => {
  for (const [body, words] of [
    [{ host: 'a b', mode: 'code' }, /host.*letters, digits/],
    [{ host: 'a', mode: 'code', ttl: '1s' }, /ttl.*1m to 3650d/],
    [{ host: 'a', mode: 'code', ttl: 'x' }, /ttl.*1m to 3650d/],
    [{ host: 'a', mode: 'other' }, /mode/],
    [{ mode: 'code' }, /host/],
    [[], /object/],
  ] as const) {
    const answer = await ask<{ detail: string }>('POST', 'enrolments', body);
    expect(answer).toMatchObject({ status: 400, body: { detail: expect.stringMatching(words) } });
  }
  expect(await ask('POST', 'enrolments/claim', { code: 'x', publicKey: keyOf() })).toMatchObject({ status: 403 });
  expect(await ask('DELETE', 'credentials/nobody')).toMatchObject({ status: 404 });
  const wrong = join(folder, 'wrong.json');
  writeFileSync(wrong, '{"agentsAccount": "A"}');
  expect(() => readIssuer(wrong)).toThrow(/wrong\.json has no keys to issue with: it has no agentsSeed/);
  expect(() => readIssuer(join(folder, 'none'))).toThrow(/none has no keys to issue with: ENOENT/);
});

test('fleetreel enroll and fleetreel-agent enroll bring a host in, and fleetreel credentials shuts it out', {
  timeout: 180_000,
}, async () => {
  writeFileSync(join(folder, 'box-0.creds'), 'mine');
  const [file, again, made] = await Promise.all([
    cli('enroll', 'box-1', '--ttl', '1h'),
    cli('enroll', 'box-0'),
    cli('enroll', 'box-2', '--code'),
  ]);
  expect(file).toMatchObject({
    code: 0,
    out: expect.stringMatching(/^box-1\.creds has the credentials of box-1 \(tenant default\), valid until 20/),
  });
  expect(statSync(join(folder, 'box-1.creds')).mode & 0o777).toBe(0o600);
  expect(readCredentials(readFileSync(join(folder, 'box-1.creds'), 'utf8')).claims.name).toBe('box-1');
  expect(again).toMatchObject({ code: 1, err: expect.stringContaining('is there already') });
  expect(made).toMatchObject({ code: 0, out: expect.stringMatching(/^default:[\w-]{27}\n$/) });

  const path = join(folder, 'box-2.creds');
  const fetched = await agent(['enroll', '--url', url, '--nats-credentials', path], made.out);
  expect(fetched).toMatchObject({
    code: 0,
    out: expect.stringMatching(
      /has the credentials of box-2 \(tenant default\), .* NATS is at tls:\/\/nats\.example\.org:4222 \(nats\.url\)\n$/,
    ),
  });
  expect(statSync(path).mode & 0o777).toBe(0o600);

  await using running = await startProgram(
    'packages/agent/src/main.ts',
    [
      'run',
      '--nats-url',
      nats.server.url,
      '--nats-credentials',
      path,
      '--interval',
      '1s',
      '--data',
      join(folder, 'data'),
    ],
    {},
  );
  const [twice] = await Promise.all([
    agent(['enroll', '--url', url, '--nats-credentials', join(folder, 'x.creds')], made.out),
    running.line(/"host":"box-2","msg":"the name is ours"/, 60_000),
  ]);
  expect(twice).toMatchObject({
    code: 1,
    err: expect.stringContaining('The code is wrong, was used, or has expired.'),
  });
  expect(readdirSync(folder).filter((name) => name.startsWith('x.creds'))).toEqual([]);
  const revoked = await cli('credentials', '--revoke', 'box-2');
  expect(revoked).toMatchObject({ code: 0, out: '1 credentials or codes of box-2 are revoked.\n' });
  await running.line(/they were revoked, or are of another installation.*NATS refuses this agent/, 60_000);
  const table = await cli('credentials');
  expect(table.out).toMatch(/box-2 +revoked .* anonymous \(code\)/);
  expect(table.out).toMatch(/box-1 +valid /);
  // It goes on sampling, and is back as soon as it has others.
  const { credentials = '' } = await enrolment.credentials(wish('box-2'));
  writeFileSync(path, credentials);
  await running.line(/connected again/, 60_000);
});

test('who let a host in or shut it out is in the audit trail, and nothing secret is', async () => {
  const given = await ask<Enrolled>('POST', 'enrolments', { host: 'seen-1', mode: 'credentials' });
  const made = await ask<Enrolled>('POST', 'enrolments', { host: 'seen-2', mode: 'code' });
  await ask('POST', 'enrolments/claim', { code: made.body.code, publicKey: keyOf() });
  await ask('DELETE', 'credentials/seen-1');
  const trail = await lastAudited(4);
  const actions = ['enrolment.create', 'enrolment.create', 'enrolment.claim', 'credentials.revoke'];
  const hosts = ['seen-1', 'seen-2', 'seen-2', 'seen-1'];
  for (const [index, record] of trail.entries()) {
    expect(record).toContain(actions[index]);
    expect(record).toContain(hosts[index]);
    expect(record).toContain('127.0.0.1');
  }
  const secrets = [readCredentials(given.body.credentials ?? '').key.seed, made.body.code?.split(':')[1] ?? '?'];
  for (const secret of secrets) expect(trail.join()).not.toContain(secret);
});

test('with thousands of revocations for ever, hosts get credentials that expire, and are shut out all the same', {
  timeout: 120_000,
}, async () => {
  const { credentials = '' } = await enrolment.credentials(wish('endless'));
  const bucket = await log.buckets.open(buckets.enrolment);
  const now = Date.now();
  const revoked = { host: 'gone', by: 'ann', byCode: false, issued: now, expires: null, revoked: now };
  // Public keys are random; these are put together of parts of one, since so many pairs take long to make.
  const key = keyOf();
  for (let first = 0; first < revocationsMax; first += 500)
    await Promise.all(
      Array.from({ length: 500 }, (_, index) =>
        bucket.put(`credentials.default.gone.${key.slice(0, -8)}${1e7 + first + index}`, JSON.stringify(revoked)),
      ),
    );
  const full = await another();
  await expect(full.credentials(wish('one-more'))).rejects.toEqual(refusal('too_many_revocations'));
  await expect(full.code(wish('one-more'))).rejects.toEqual(refusal('too_many_revocations'));
  const ending = await full.credentials({ ...wish('one-more'), ttl: '1h' });
  expect(await full.revoke('default', 'one-more')).toEqual({ revoked: 1, untold: undefined });
  expect(await full.revoke('default', 'endless')).toEqual({ revoked: 1, untold: undefined });
  for (const [host, text] of [
    ['one-more', ending.credentials ?? ''],
    ['endless', credentials],
  ] as const)
    await expect(client(text, 'default', host)).rejects.toThrow(/authorization violation/i);
});

test('without the log it is said that the log is away, and nothing else', { timeout: 120_000 }, async () => {
  await nats.server.stop();
  try {
    const answers = await Promise.all([
      ask('POST', 'enrolments', { host: 'away-1', mode: 'credentials' }),
      ask('POST', 'enrolments', { host: 'away-1', mode: 'code' }),
      ask('POST', 'enrolments/claim', { code: `default:${'x'.repeat(27)}`, publicKey: keyOf() }),
      ask('GET', 'credentials'),
      ask('DELETE', 'credentials/web.1'),
    ]);
    for (const { status, body } of answers)
      expect({ status, body }).toMatchObject({ status: 503, body: refusal('log_unavailable') });
  } finally {
    await nats.server.restart();
  }
});
