import { spawn } from 'node:child_process';
import { generateKeyPairSync } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KeyPair } from '@fleetreel/proto/nats_jwt';
import { describe, expect, onTestFinished, test } from 'vitest';
import { leaksInFolder, leaksInLines, leaksInProcesses, secretsIn, Watch, watchedFetch } from './secrets.ts';

const secrets = new Set(['correct horse battery', 'frk_id_0123456789']);

test('a secret is found in files, wherever it is in them, but for those that are there to hold it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-secrets-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'log'));
  writeFileSync(join(folder, 'log', 'clean.log'), 'frk_id_012345678, and correct horse');
  // Over the end of a piece that is read.
  writeFileSync(
    join(folder, 'torn.bin'),
    Buffer.concat([Buffer.alloc(4 * 1024 ** 2 - 5, 1), Buffer.from([...secrets][0] ?? '')]),
  );
  writeFileSync(join(folder, 'cli.key'), 'frk_id_0123456789', { mode: 0o600 });
  writeFileSync(join(folder, 'open.key'), 'frk_id_0123456789', { mode: 0o644 });
  expect((await leaksInFolder(folder, secrets, (path) => path.endsWith('.key'))).sort()).toEqual([
    'a secret is in the file torn.bin',
    'open.key is there to hold a secret, and others can read it',
  ]);
  expect(await leaksInFolder(folder, new Set())).toEqual([]);
});

test('a secret is found in what a program wrote, and is not repeated', () => {
  const programs = [
    { name: 'agent', lines: ['begins', 'the key frk_id_0123456789 is refused'] },
    { name: 'collector', lines: ['begins'] },
  ];
  expect(leaksInLines(programs, secrets)).toEqual(['agent has written a secret']);
});

test.runIf(process.platform === 'linux')('a secret is found among the arguments of a process', async () => {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)', 'frk_id_0123456789']);
  await once(child, 'spawn');
  try {
    expect(await leaksInProcesses(secrets)).toEqual([expect.stringContaining(`(process ${child.pid})`)]);
  } finally {
    child.kill();
    await once(child, 'exit');
  }
});

describe('a watch finds a secret', () => {
  const key = `frk_0123456789abcdef_${'aB3-_'.repeat(9).slice(0, 43)}`;
  const session = key.replace('frk', 'frs');
  const { seed } = KeyPair.create('user');
  const pem = generateKeyPairSync('ed25519', {
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
    publicKeyEncoding: { type: 'spki', format: 'pem' },
  });

  test('by its form, and nothing that only looks so', () => {
    for (const secret of [key, session, key.replace('frk', 'frl'), seed])
      expect(secretsIn(`{"a":"${secret}","b":1}`)).toEqual([secret]);
    expect(secretsIn(pem.privateKey)).toHaveLength(1);
    const { publicKey } = KeyPair.create('account');
    expect(
      secretsIn([key.slice(0, -1), publicKey, `X${seed}`, `${seed}A`, pem.publicKey, 'frk_...'].join('\n')),
    ).toEqual([]);
  });

  test.each([
    [
      'a line',
      (watch: Watch) => watch.program('agent', { args: ['run'] }, ['begins', `refused: ${key}`]),
      /^agent run has written/,
    ],
    [
      'the arguments',
      (watch: Watch) => watch.program('agent', { args: ['run', '--key', key] }, []),
      /among the arguments of agent/,
    ],
    [
      'an answer',
      (watch: Watch) => watch.told('the answer 400 of GET /', `{"detail":"${seed} is none"}`),
      /in the answer 400 of GET/,
    ],
  ])('in %s', (_, tell, leak) => {
    const watch = new Watch();
    tell(watch);
    expect(watch.leaks()).toEqual([expect.stringMatching(leak)]);
    expect(watch.leaks().join()).not.toContain(key);
  });

  test('that was given by the environment', () => {
    const watch = new Watch();
    const environment = {
      FLEETREEL_QUESTDB_PASSWORD: 'abcdef0123456789',
      FLEETREEL_TLS_KEY: '/etc/tls.key',
      OTHER: 'begins and ends',
    };
    watch.program('collector', { args: [], environment }, [
      'begins and ends with /etc/tls.key',
      'user:abcdef0123456789@host',
    ]);
    expect(watch.leaks()).toEqual([expect.stringMatching(/^collector .*has written/)]);
  });

  test('in files, also where nobody has named it', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'fleetreel-secrets-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    // Behind room that is kept, and over the end of a piece.
    const at = 3 * 1024 ** 2 - 20;
    writeFileSync(join(folder, 'row.d'), Buffer.concat([Buffer.alloc(at), Buffer.from(`ä${key}`), Buffer.alloc(100)]));
    writeFileSync(join(folder, 'name.d'), 'pässwörd of mine');
    writeFileSync(join(folder, 'agent.creds'), seed, { mode: 0o600 });
    const watch = new Watch();
    watch.add('pässwörd of mine');
    await watch.folder(folder);
    expect(watch.leaks().sort()).toEqual(['a secret is in the file name.d', 'a secret is in the file row.d']);
  });

  test('but not where it has its one occasion to be shown', () => {
    const watch = new Watch();
    watch.program('cli', { args: ['keys', 'create'], shows: true }, [key]);
    watch.program('collector', { args: [] }, [`Open http://127.0.0.1/welcome#${key.replace('frk', 'frl')} to begin`]);
    expect(watch.leaks()).toEqual([]);
  });

  test('that an answer has made, and that another repeats', async () => {
    const code = `acme:${'x'.repeat(27)}`;
    const server = createServer((request, response) => {
      if (request.url === '/api/v1/login')
        response.setHeader('set-cookie', `fleetreel_session=${session}; Path=/`).end('{}');
      else if (request.url === '/api/v1/enrolments') response.end(JSON.stringify({ code }));
      else response.writeHead(400).end(`this can't be: ${request.url}`);
    }).listen(0, '127.0.0.1');
    onTestFinished(() => void server.close());
    await once(server, 'listening');
    const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const watch = new Watch();
    const ask = watchedFetch(fetch, watch);
    const password = 'correct horse';
    const body = JSON.stringify({ user: 'ana', password });
    expect(await (await ask(`${address}/api/v1/login`, { method: 'POST', body })).text()).toBe('{}');
    await ask(`${address}/api/v1/enrolments`, { method: 'POST' });
    await ask(`${address}/harmless`);
    watch.program('collector', { args: ['run'] }, [`signed in: ${session}`]);
    watch.program('other', { args: ['run'] }, [`${password} is right`]);
    await ask(`${address}/${code}`);
    await expect
      .poll(() => watch.leaks())
      .toEqual([
        expect.stringMatching(/^a secret is in the answer 400 of GET/),
        'collector run has written a secret',
        'other run has written a secret',
      ]);
  });
});
