// TLS to NATS, with certificates that are right and certificates that are not: what is wrong is said, and nothing is trusted unseen.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { NatsAccess, type NatsSettings } from '@fleetreel/proto/nats_access';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { NatsInstallation } from '@fleetreel/test/servers/nats_installation';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { connectOnce } from '#connect.ts';

const folder = mkdtempSync(join(tmpdir(), 'fleetreel-tls-'));
const file = (name: string) => join(folder, name);
const closing = new AsyncDisposableStack();
let plain: NatsServer;
let encrypted: NatsServer;
let otherName: NatsServer;
let mutual: NatsServer;

const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: folder, stdio: 'pipe' });
const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

function authority(name: string): void {
  const subject = ['-subj', `/CN=${name}`, '-days', '2'];
  openssl('req', '-x509', ...newKey, '-keyout', `${name}.key`, '-out', `${name}.pem`, ...subject);
}

/** A key and a certificate of that authority. @param names such as `IP:127.0.0.1` */
function certificate(name: string, by: string, names: string): void {
  openssl('req', ...newKey, '-keyout', `${name}.key`, '-out', `${name}.csr`, '-subj', `/CN=${name}`);
  writeFileSync(file(`${name}.ext`), `subjectAltName=${names}\n`);
  const from = ['-in', `${name}.csr`, '-CA', `${by}.pem`, '-CAkey', `${by}.key`, '-CAcreateserial'];
  openssl('x509', '-req', ...from, '-days', '2', '-extfile', `${name}.ext`, '-out', `${name}.pem`);
}

const serve = (name: string, more = '') =>
  startNats({
    configuration: [`tls { cert_file: "${file(`${name}.pem`)}", key_file: "${file(`${name}.key`)}" ${more} }`],
  });

beforeAll(async () => {
  for (const name of ['ours', 'theirs']) authority(name);
  certificate('server', 'ours', 'IP:127.0.0.1');
  certificate('elsewhere', 'ours', 'DNS:nats.example');
  certificate('client', 'ours', 'DNS:agent');
  certificate('stranger', 'theirs', 'DNS:agent');
  [plain, encrypted, otherName, mutual] = await Promise.all([
    startNats(),
    serve('server'),
    serve('elsewhere'),
    serve('server', `, ca_file: "${file('ours.pem')}", verify: true`),
  ]);
  for (const server of [plain, encrypted, otherName, mutual]) closing.use(server);
});
afterAll(async () => {
  await closing.disposeAsync();
  rmSync(folder, { recursive: true, force: true });
});

/** Whether a connection comes about, or why not. */
async function said(settings: NatsSettings): Promise<string> {
  const access = new NatsAccess(settings);
  try {
    const connection = await connectOnce(access, { tenant: 'default', host: 'web-1' });
    const isEncrypted = connection.info?.tls_required === true;
    await connection.close();
    return isEncrypted ? 'connected, encrypted' : 'connected';
  } catch (cause) {
    return await access.explain(cause, Date.now() / 1000);
  }
}
const client = { certificate: file('client.pem'), key: file('client.key') };

test('a server is trusted when its authority and its name are right', async () => {
  const ca = file('ours.pem');
  expect(await said({ url: encrypted.url, tls: { ca } })).toBe('connected, encrypted');
  expect(await said({ url: encrypted.url.replace('nats:', 'tls:'), tls: { ca } })).toBe('connected, encrypted');
  // The client encrypts by itself where the server wants it; whom it trusts is the system's matter then.
  for (const url of [encrypted.url, encrypted.url.replace('nats:', 'tls:')])
    expect(await said({ url })).toMatch(
      /^the certificate of \S+ is not trusted: its authority is not among the trusted ones \(nats\.tls\.ca names/,
    );
  expect(await said({ url: encrypted.url, tls: { ca: file('theirs.pem') } })).toMatch(
    /is not trusted: its authority is not among the trusted ones \(nats\.tls\.ca is \S+theirs\.pem\)$/,
  );
  expect(await said({ url: otherName.url, tls: { ca } })).toMatch(/it is for another name than the one in nats\.url/);
});

test('whoever was told to encrypt does not talk without', async () => {
  expect(await said({ url: plain.url })).toBe('connected');
  const wanted = [{ url: plain.url, tls: { ca: file('ours.pem') } }, { url: plain.url.replace('nats:', 'tls:') }];
  for (const settings of wanted)
    expect(await said(settings)).toMatch(/^the server does not encrypt, and this program was told to/);
});

test('files that are missing or no certificates are named', async () => {
  expect(await said({ url: encrypted.url, tls: { ca: file('none.pem') } })).toMatch(/none\.pem doesn't exist/);
  writeFileSync(file('text.pem'), 'no certificate');
  const wrong = { ca: file('ours.pem'), certificate: file('text.pem'), key: file('client.key') };
  expect(await said({ url: encrypted.url, tls: wrong })).toMatch(/nats\.tls/);
});

test('a server that asks for a certificate gets the right one, or it is said what is missing', async () => {
  const ca = file('ours.pem');
  expect(await said({ url: mutual.url, tls: { ca, ...client } })).toBe('connected, encrypted');
  expect(await said({ url: mutual.url, tls: { ca } })).toBe(
    'the server asks for a certificate of this program: give nats.tls.certificate and nats.tls.key',
  );
  const stranger = { certificate: file('stranger.pem'), key: file('stranger.key') };
  expect(await said({ url: mutual.url, tls: { ca, ...stranger } })).toMatch(
    /^the server does not accept the certificate \S+stranger\.pem \(nats\.tls\.certificate\)/,
  );
});

test('credentials and TLS go together', async () => {
  const [cert, key] = [file('server.pem'), file('server.key')];
  await using nats = await NatsInstallation.start([`tls { cert_file: "${cert}", key_file: "${key}" }`]);
  const credentials = nats.write('web-1.creds', nats.credentialsOf({ host: 'web-1' }).text);
  const tls = { ca: file('ours.pem') };
  expect(await said({ url: nats.server.url, tls, credentials })).toBe('connected, encrypted');
  expect(await said({ url: nats.server.url, tls })).toBe('the server asks for credentials: give nats.credentials');
  expect(await said({ url: nats.server.url, credentials })).toMatch(/is not trusted/);
});
