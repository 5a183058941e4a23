import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '@fleetreel/deploy/local/port';
import { tellRunning } from '@fleetreel/deploy/local/running';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import { expect, test, vi } from 'vitest';
import { accessOf, refusedBy } from '#access.ts';
import { Collector } from '#client.ts';
import { UsageError } from '#command.ts';

test('the key of the own Fleetreel is taken where none is named, and for its address only', async () => {
  using closing = new DisposableStack();
  const home = mkdtempSync(join(tmpdir(), 'fleetreel-access-'));
  closing.defer(() => rmSync(home, { recursive: true }));
  const [own, other] = [join(home, 'owner.key'), join(home, 'other.key')];
  writeFileSync(own, 'frk_own\n');
  writeFileSync(other, 'frk_other\n');
  const port = await freePort();
  const server = createServer().listen(port, '127.0.0.1');
  closing.defer(() => server.close());
  await once(server, 'listening');
  const address = `127.0.0.1:${port}`;
  expect(accessOf(address, {}, home)).toMatchObject({ key: undefined, ownFile: undefined });
  closing.use(tellRunning({ env: {}, home }, port, own));
  expect(accessOf(address, {}, home)).toMatchObject({ key: 'frk_own', ownFile: own });
  expect(accessOf(`fleet.example:${port}`, {}, home).key).toBeUndefined();
  expect(accessOf(address, { FLEETREEL_KEY: 'frk_given' }, home).key).toBe('frk_given');
  expect(accessOf(address, { FLEETREEL_KEY_FILE: other }, home)).toMatchObject({
    key: 'frk_other',
    ownFile: undefined,
  });
  expect(() => accessOf(address, { FLEETREEL_KEY_FILE: join(home, 'none.key') }, home)).toThrow(UsageError);
});

test.each([
  [{ key: undefined, ownFile: undefined }, /there are no credentials: set FLEETREEL_KEY, .* --key-file\. Sign in/],
  [{ key: 'frk_x', ownFile: undefined }, /does not know this API key/],
  [{ key: 'frk_x', ownFile: '/data/owner.key' }, /does not know the API key in \/data\/owner\.key, .* `fleetreel up`/],
])('who is not known is told what to do', (who, sentence) => {
  const told = refusedBy('127.0.0.1:7601', { ...who, tls: false, ca: null });
  expect(told).toMatch(sentence);
  expect(told).not.toContain('frk_x');
});

test('why there is no connection is said, and what to do', async () => {
  using closing = new DisposableStack();
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-tls-'));
  closing.defer(() => rmSync(folder, { recursive: true }));
  closing.defer(() => vi.unstubAllEnvs());
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', '/CN=test'];
  const made = (name: string, of: string) => {
    const [key, certificate] = [join(folder, `${name}.key`), join(folder, `${name}.pem`)];
    const files = ['-keyout', key, '-out', certificate, '-addext', `subjectAltName=${of}`];
    execFileSync('openssl', ['req', '-x509', ...kind, ...files], { stdio: 'pipe' });
    return { certificate, pair: { private_key: readFileSync(key), cert_chain: readFileSync(certificate) } };
  };
  const started = async (how: ServerCredentials) => {
    const server = new Server();
    closing.defer(() => server.forceShutdown());
    return await new Promise<number>((resolve, reject) =>
      server.bindAsync('127.0.0.1:0', how, (error, port) => (error ? reject(error) : resolve(port))),
    );
  };
  const [own, other] = [made('own', 'DNS:localhost'), made('other', 'DNS:localhost')];
  const secure = await started(ServerCredentials.createSsl(null, [own.pair]));
  const plain = await started(ServerCredentials.createInsecure());
  const said = async (address: string, authority = '', tls = '') => {
    vi.stubEnv('FLEETREEL_CA_FILE', authority);
    vi.stubEnv('FLEETREEL_TLS', tls);
    using collector = new Collector(address);
    return await collector.hosts().then(
      () => 'answered',
      (error: Error) => error.message,
    );
  };
  expect(await said(`localhost:${secure}`, own.certificate)).toMatch(/does not implement/);
  expect(await said(`localhost:${secure}`)).toMatch(
    /if it speaks TLS, name its authority with --ca-file, or set FLEETREEL_TLS=true/,
  );
  expect(await said(`localhost:${secure}`, other.certificate)).toMatch(
    /not trusted \(self-signed certificate\): .*--ca-file/,
  );
  expect(await said(`localhost:${secure}`, '', 'true')).toMatch(/not trusted .*--ca-file/);
  expect(await said(`127.0.0.1:${secure}`, own.certificate)).toMatch(/of another name .*127\.0\.0\.1/);
  expect(await said(`localhost:${plain}`, own.certificate)).toMatch(/does not speak TLS: leave --ca-file/);
  for (const nobody of [`localhost:${await freePort()}`, 'nobody.invalid:7601'])
    expect(await said(nobody, own.certificate)).toMatch(`No collector answers at ${nobody}`);
});
