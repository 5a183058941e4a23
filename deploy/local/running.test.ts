import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { freePort } from '#local/port.ts';
import { keyFileOf, tellRunning } from '#local/running.ts';

const server = createServer();
let home: string;
let key: string;
let port: number;
let address: string;
const user = () => ({ env: {}, home });

beforeAll(async () => {
  home = mkdtempSync(join(tmpdir(), 'fleetreel-running-'));
  key = join(home, 'owner.key');
  writeFileSync(key, 'a key', { mode: 0o600 });
  port = await freePort();
  address = `127.0.0.1:${port}`;
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
});
afterAll(() => {
  server.close();
  rmSync(home, { recursive: true });
});

/** What is said of this process, as a file. */
const told = () => join(home, '.cache', 'fleetreel', 'running', `${port}.json`);

test('the key of what runs at an address is found, and of nothing else', () => {
  expect(keyFileOf(address, user())).toBeUndefined();
  using _ = tellRunning(user(), port, key);
  expect(keyFileOf(address, user())).toBe(key);
  for (const other of [
    `localhost:${port}`,
    `[::1]:${port}`,
    `127.0.0.2:${port}`,
    `192.0.2.1:${port}`,
    `0.0.0.0:${port}`,
  ])
    expect(keyFileOf(other, user()), other).toBeUndefined();
  expect(keyFileOf(`127.0.0.1:${port + 1}`, user())).toBeUndefined();
  expect(keyFileOf(address, { env: { XDG_CACHE_HOME: join(home, 'other') }, home })).toBeUndefined();
});

test('it is taken back, and nothing is left beside it', () => {
  tellRunning(user(), port, key)[Symbol.dispose]();
  expect(keyFileOf(address, user())).toBeUndefined();
  expect(readdirSync(join(told(), '..'))).toEqual([]);
});

test('it holds no key, and is for this user alone', () => {
  using _ = tellRunning(user(), port, key);
  expect(readFileSync(told(), 'utf8')).not.toContain('a key');
  expect(statSync(told()).mode & 0o777).toBe(0o600);
});

test('of a launcher that was killed there is none', async () => {
  using _ = tellRunning(user(), port, key);
  const gone = spawn(process.execPath, ['--version'], { stdio: 'ignore' });
  await once(gone, 'exit');
  writeFileSync(told(), readFileSync(told(), 'utf8').replace(/"pid":\d+/, `"pid":${gone.pid}`));
  expect(keyFileOf(address, user())).toBeUndefined();
});

test('while nobody listens, or somebody else does, there is none', { skip: process.platform !== 'linux' }, async () => {
  const free = await freePort();
  using _ = tellRunning(user(), free, key);
  expect(keyFileOf(`127.0.0.1:${free}`, user())).toBeUndefined();
});

// Only root can give a file to another user.
test('where the file is of another user than who listens, there is none', { skip: process.getuid?.() !== 0 }, () => {
  using _ = tellRunning(user(), port, key);
  chownSync(key, 65_534, 65_534);
  expect(keyFileOf(address, user())).toBeUndefined();
  chownSync(key, 0, 0);
  expect(keyFileOf(address, user())).toBe(key);
});
