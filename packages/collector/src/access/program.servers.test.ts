// The collector as a program on all addresses of the machine: TLS, the first link, the command that makes another.
import { execFileSync } from 'node:child_process';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import { decodeAuditRecord } from '@fleetreel/proto/custom';
import { Query } from '@fleetreel/proto/services';
import { startNats } from '@fleetreel/test/servers/nats';
import { freePort, startProgram } from '@fleetreel/test/servers/program';
import { credentials, Metadata } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { Telemetry } from '#telemetry.ts';
import { startLog } from '#testing.ts';

const main = 'packages/collector/src/main.ts';
const password = 'correct horse battery';

test('the first admin comes by the link in the log, over TLS', { timeout: 300_000 }, async () => {
  await using closing = new AsyncDisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-tls-'));
  closing.defer(() => rmSync(folder, { recursive: true }));
  const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')];
  makeCertificate(key, certificate);
  const ca = readFileSync(certificate);
  const nats = closing.use(await startNats());
  const [http, grpc, nobody] = [await freePort(), await freePort(), await freePort()];
  const flags = ['--nats-url', nats.url, '--http-host', '0.0.0.0', '--http-allowed-hosts', 'fleet.example'];
  const proxy = ['--http-trusted-proxies', '127.0.0.2'];
  const ports = ['--http-port', `${http}`, '--grpc-host', '0.0.0.0', '--grpc-port', `${grpc}`];
  const tls = ['--tls-certificate', certificate, '--tls-key', key];
  const store = ['--questdb-http-url', `http://127.0.0.1:${nobody}`];
  const collector = closing.use(await startProgram(main, ['run', ...flags, ...ports, ...tls, ...store, ...proxy]));
  const line = await collector.line(/There is no user yet/, 60_000);
  const [, path = '', first = ''] = /(https:\/\/fleet\.example:\d+\/welcome)#(frl_\w+_[\w-]+)/.exec(line) ?? [];
  expect(path).toBe(`https://fleet.example:${http}/welcome`);
  expect(collector.lines.join('\n')).not.toContain('go over the network');

  const ask = (
    method: string,
    route: string,
    { host = 'fleet.example', bearer = '', from, forwarded, body }: Asked = {},
  ) =>
    new Promise<{ status: number; cookie: string; body: Record<string, unknown> }>((resolve, reject) => {
      const asked = request(
        {
          host: '127.0.0.1',
          port: http,
          method,
          path: `/api/v1/${route}`,
          ca,
          servername: 'fleet.example',
          localAddress: from,
          headers: {
            host: `${host}:${http}`,
            'content-type': 'application/json',
            ...(bearer && { authorization: `Bearer ${bearer}` }),
            ...(forwarded && { 'x-forwarded-for': forwarded }),
          },
        },
        (answer) => {
          let text = '';
          answer.setEncoding('utf8').on('data', (piece: string) => (text += piece));
          answer.on('end', () =>
            resolve({
              status: answer.statusCode ?? 0,
              cookie: answer.headers['set-cookie']?.[0] ?? '',
              body: JSON.parse(text || '{}') as Record<string, unknown>,
            }),
          );
        },
      );
      asked.on('error', reject);
      asked.end(body && JSON.stringify(body));
    });

  expect((await ask('GET', 'hosts', { host: 'evil.example' })).body.code).toBe('host_refused');
  expect((await ask('GET', 'hosts')).body.code).toBe('not_signed_in');
  // An operator makes another, and the one before is not valid any more.
  const command = await startProgram(main, ['link', ...flags, '--http-port', `${http}`, ...tls]);
  await command.exited;
  const printed = command.lines.find((each) => each.includes('#')) ?? '';
  expect(printed).toMatch(new RegExp(`^${path}#frl_`));
  expect(command.lines.join('\n')).toContain('makes an admin of the tenant default');
  const use = (code: string) => ask('POST', 'link', { body: { code, user: 'ada', password } });
  expect((await use(first)).body.code).toBe('link_not_valid');
  const used = await use(printed.split('#')[1] ?? '');
  expect(used.status).toBe(200);
  expect(used.cookie).toMatch(/; Secure$/);
  const signedIn = await ask('POST', 'login', { body: { user: 'ada', password, mode: 'token' } });
  const token = String(signedIn.body.token);
  expect((await ask('GET', 'hosts', { bearer: token })).status).toBe(200);
  // Of a proxy that is trusted the last address that it says is believed, of whoever else nothing.
  const again = { body: { user: 'ada', password } };
  await ask('POST', 'login', { ...again, forwarded: '203.0.113.9' });
  await ask('POST', 'login', { ...again, from: '127.0.0.2', forwarded: '203.0.113.9, 198.51.100.7' });
  const { sessions } = (await ask('GET', 'me/sessions', { bearer: token })).body as { sessions: { address: string }[] };
  expect(sessions.map(({ address }) => address).toSorted()).toEqual([
    '127.0.0.1',
    '127.0.0.1',
    '127.0.0.1',
    '198.51.100.7',
  ]);

  const query = new Query(`127.0.0.1:${grpc}`, credentials.createSsl(ca), {
    'grpc.ssl_target_name_override': 'fleet.example',
  });
  closing.defer(() => query.close());
  const metadata = new Metadata();
  metadata.set('authorization', `Bearer ${token}`);
  const call = (from?: Metadata) =>
    new Promise((resolve) => {
      query.ListHosts({}, from ?? new Metadata(), { deadline: Date.now() + 20_000 }, (error) =>
        resolve(error?.code ?? 0),
      );
    });
  expect([await call(metadata), await call()]).toEqual([0, 16]);

  // The command line, which is told by its environment who asks.
  const cli = async (environment: Record<string, string>, ...args: string[]) => {
    const trusted = { FLEETREEL_CA_FILE: certificate, FLEETREEL_ADDRESS: `127.0.0.1:${grpc}`, ...environment };
    const program = await startProgram('packages/cli/src/main.ts', args, trusted);
    return { code: (await program.exited).code, text: program.lines.join('\n') };
  };
  expect((await cli({}, 'hosts')).text).toContain('there are no credentials: set FLEETREEL_KEY');
  const made = await cli({ FLEETREEL_KEY: token }, 'keys', 'add', 'ci', '--scope', 'read');
  const [secret = ''] = /frk_\S+/.exec(made.text) ?? [];
  expect(secret, made.text).not.toBe('');
  const keyFile = join(folder, 'ci.key');
  writeFileSync(keyFile, `${secret}\n`);
  expect((await cli({}, 'hosts', '--key-file', keyFile)).code).toBe(0);
  const refused = await cli({ FLEETREEL_KEY_FILE: keyFile }, 'users', 'add', 'bea');
  expect([refused.code, refused.text]).toEqual([1, expect.stringContaining('needs the right "admin"')]);
  expect((await cli({ FLEETREEL_KEY: token }, 'users', 'add', 'bea')).text).toMatch(/\/welcome#frl_/);
  expect((await cli({ FLEETREEL_KEY: token }, 'users', 'list')).text).toMatch(/bea +viewer +0 +- +invited/);
  const listed = await cli({ FLEETREEL_KEY: token }, 'keys', 'list');
  expect(listed.text).toMatch(/ci +read/);
  expect(listed.text).not.toContain(secret.slice(-43));
  expect((await cli({ FLEETREEL_KEY: token }, 'keys', 'revoke', secret.split('_')[1] ?? '')).code).toBe(0);
  expect((await cli({}, 'hosts', '--key-file', keyFile)).text).toContain('does not know this API key');

  // A reset for somebody who is known; nobody else is invited.
  const reset = await startProgram(main, ['link', '--user', 'ada', '--nats-url', nats.url]);
  await reset.exited;
  expect(reset.lines.join('\n')).toContain('sets the password of ada');
  const unknown = await startProgram(main, ['link', '--user', 'bob', '--nats-url', nats.url]);
  expect((await unknown.exited).code).toBe(2);
  expect(unknown.lines.join('\n')).toContain('There is no user "bob"');
  // What the collector and its command did by themselves is in the audit trail as what is done through it.
  const { log } = await startLog(
    closing,
    nats.url,
    { age_ms: 3_600_000, bytes: 64 * 1024 ** 2 },
    new Telemetry('silent'),
  );
  const { state } = await log.manager.streams.info('FRAMES', { subjects_filter: 'fr.v1.default.audit.*' });
  const links: string[] = [];
  for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
    const message = await log.manager.streams.getMessage('FRAMES', { seq });
    if (!message?.subject.includes('.audit.')) continue;
    const { action, actor_kind, actor_name, target, after } = decodeAuditRecord(message.data);
    if (action === 'user.link') links.push(`${actor_kind} ${actor_name}: ${target} ${JSON.parse(after).purpose}`);
  }
  expect(links).toEqual(['system collector:  first', 'system collector:  first', 'system collector: ada reset']);
  for (const secret of [password, token, token.slice(-43)]) expect(collector.lines.join('\n')).not.toContain(secret);
});

/** Makes a certificate that signs itself, and its key. */
function makeCertificate(key: string, certificate: string): void {
  const subject = ['-subj', '/CN=fleet.example', '-addext', 'subjectAltName=DNS:fleet.example,IP:127.0.0.1'];
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-days', '2', '-nodes'];
  execFileSync('openssl', ['req', '-x509', ...kind, '-keyout', key, '-out', certificate, ...subject], {
    stdio: 'pipe',
  });
}

test('a renewed certificate is taken without a restart, and one that is none is not', {
  timeout: 120_000,
}, async () => {
  await using closing = new AsyncDisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-tls-'));
  closing.defer(() => rmSync(folder, { recursive: true }));
  const [key, certificate] = [join(folder, 'key.pem'), join(folder, 'certificate.pem')];
  makeCertificate(key, certificate);
  const [http, grpc, nobody] = [await freePort(), await freePort(), await freePort()];
  const ports = ['--http-port', `${http}`, '--grpc-port', `${grpc}`, '--nats-url', `nats://127.0.0.1:${nobody}`];
  const tls = ['--tls-certificate', certificate, '--tls-key', key];
  const collector = closing.use(await startProgram(main, ['run', ...ports, ...tls]));
  await collector.line(/the certificate of HTTP and gRPC was read/, 60_000);
  const shown = async (port: number) => {
    const socket = connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ALPNProtocols: ['h2', 'http/1.1'] });
    try {
      await once(socket, 'secureConnect');
      return socket.getPeerX509Certificate()?.fingerprint256;
    } finally {
      socket.destroy();
    }
  };
  const expected = () => new X509Certificate(readFileSync(certificate)).fingerprint256;
  const first = expected();
  const both = async () => await Promise.all([http, grpc].map(shown));
  await expect.poll(() => both().catch(() => []), { timeout: 30_000 }).toEqual([first, first]);

  writeFileSync(key, 'half a key');
  await collector.line(/can not be used; the one before stays in use/, 60_000);
  expect(await both()).toEqual([first, first]);

  makeCertificate(key, certificate);
  const second = expected();
  expect(second).not.toBe(first);
  await expect.poll(both, { timeout: 30_000 }).toEqual([second, second]);
});

type Asked = { host?: string; bearer?: string; from?: string; forwarded?: string; body?: object };

test('without TLS beyond loopback it says what that means', { timeout: 120_000 }, async () => {
  await using closing = new AsyncDisposableStack();
  const nats = closing.use(await startNats());
  const flags = ['run', '--nats-url', nats.url, '--http-port', '0', '--grpc-port', '0', '--grpc-host', '0.0.0.0'];
  const collector = closing.use(await startProgram(main, flags));
  expect(await collector.line(/go over the network/, 60_000)).toContain('"grpc.host"');
  await collector.line(/There is no user yet/, 60_000);
});

test('whoever runs the machine has a key in a file, and asks for the first link with it', {
  timeout: 120_000,
}, async () => {
  await using closing = new AsyncDisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-owner-'));
  closing.defer(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'owner.key');
  const [nats, http, nobody] = [closing.use(await startNats()), await freePort(), await freePort()];
  const flags = ['--nats-url', nats.url, '--http-port', `${http}`, '--grpc-port', '0', '--access-owner-key', file];
  const start = async () => {
    const collector = await startProgram(main, ['run', ...flags, '--questdb-http-url', `http://127.0.0.1:${nobody}`]);
    // The store is away: the first that it says when it serves.
    await collector.line(/"dependency":"questdb"/, 60_000);
    return collector;
  };
  const ask = async (method: string, route: string, key: string, body?: object) => {
    const answer = await fetch(`http://127.0.0.1:${http}/api/v1/${route}`, {
      method,
      headers: { ...(key && { 'x-api-key': key }), ...(body && { 'content-type': 'application/json' }) },
      body: body ? JSON.stringify(body) : null,
    });
    const text = await answer.text();
    return { status: answer.status, body: JSON.parse(text || '{}') as Record<string, unknown> };
  };
  const collector = closing.use(await start());
  const key = readFileSync(file, 'utf8').trim();
  expect((await ask('GET', 'me', '')).status).toBe(401);
  expect((await ask('GET', 'me', key)).body).toMatchObject({ kind: 'key', tenant: 'default', scopes: ['admin'] });
  // While no admin has a password there is a link, and only the last one is valid.
  const links = [await ask('POST', 'link/first', key), await ask('POST', 'link/first', key)];
  expect(links.map(({ status }) => status)).toEqual([201, 201]);
  const [first = '', second = ''] = links.map(({ body }) => String(body.code));
  const use = (code: string) => ask('POST', 'link', '', { code, user: 'ada', password });
  expect((await use(first)).body.code).toBe('link_not_valid');
  expect((await use(second)).status).toBe(200);
  expect((await ask('POST', 'link/first', key)).body.code).toBe('has_admin');
  await collector.stop();
  const written = collector.lines.join('\n');
  expect(written).not.toContain('There is no user yet');
  for (const secret of [key, first, second]) expect(written).not.toContain(secret);

  closing.use(await start());
  expect(readFileSync(file, 'utf8').trim()).toBe(key);
  expect((await ask('GET', 'keys', key)).body.keys).toMatchObject([{ createdBy: 'collector', expires: null }]);
  expect((await ask('DELETE', `keys/${key.split('_')[1]}`, key)).status).toBe(204);
  expect((await ask('GET', 'me', key)).status).toBe(401);
});
