// What the launcher is made of, without servers: ports, lines, the lock of the folder, the supervisor.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { credentials, FolderLock, identify } from '#local/folder.ts';
import { freePort, isFree, portHolder } from '#local/port.ts';
import { printable } from '#local/printable.ts';
import { type Supervised, Supervisor } from '#local/supervisor.ts';
import { notableRecord } from '#local/up.ts';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fleetreel-local-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

test('a free port is below the range of outgoing connections, and can be listened on', async () => {
  const port = await freePort();
  expect(port).toBeLessThan(32_768);
  expect(await isFree(port)).toBe(true);
});

test('test workers look for free ports in parts of their own', async () => {
  const ports = async (worker: string) => {
    vi.stubEnv('VITEST_POOL_ID', worker);
    return await Promise.all(Array.from({ length: 40 }, () => freePort()));
  };
  const [one, two] = [await ports('1'), await ports('2')];
  vi.unstubAllEnvs();
  expect(Math.max(...one)).toBeLessThan(Math.min(...two));
});

test.runIf(process.platform === 'linux')('the holder of a port is named', async () => {
  const server = createServer().listen(await freePort(), '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  expect(await isFree(port)).toBe(false);
  expect(portHolder(port)?.pid).toBe(process.pid);
  server.close();
  await once(server, 'close');
  expect(portHolder(port)).toBeUndefined();
});

test('text of others can do nothing to a terminal', () => {
  expect(printable('a\u001b[31mb\u009b\r\n\u202e\u2028\u0007ü日')).toBe('a\\x1b[31mb\\x9b\\r\\n\\u202e\\u2028\\x07ü日');
});

test('of a log line only warnings and errors are shown', () => {
  expect(notableRecord('{"level":30,"msg":"ready"}')).toBeUndefined();
  expect(notableRecord('{"level":40,"msg":"late"}')).toBe('late');
  expect(notableRecord('{"level":50,"msg":"failed","err":{"message":"no space"}}')).toBe('failed (no space)');
  expect(notableRecord('There is no setting "x".')).toBe('There is no setting "x".');
});

test('one launcher uses a folder at a time, and a lock left behind by a killed one is no obstacle', async () => {
  const first = await FolderLock.take(folder);
  await expect(FolderLock.take(folder)).rejects.toThrow(`already runs on ${folder} (process ${process.pid})`);
  first[Symbol.dispose]();
  // A process that has ended, and one that got the number of another.
  const ended = spawn('true');
  await once(ended, 'exit');
  for (const holder of [
    { pid: ended.pid, started: '1' },
    { pid: process.pid, started: '1' },
  ]) {
    writeFileSync(join(folder, 'lock'), JSON.stringify(holder));
    const lock = await FolderLock.take(folder);
    lock[Symbol.dispose]();
  }
});

test('of two launchers that wait for the guard of a killed one, one has the folder', async () => {
  const guard = spawn('sleep', ['60']);
  const ended = spawn('true');
  await once(ended, 'exit');
  const left = { pid: ended.pid, started: '1', guard: identify(guard.pid ?? 0) };
  writeFileSync(join(folder, 'lock'), JSON.stringify(left));
  const script = `
    import { FolderLock } from ${JSON.stringify(new URL('folder.ts', import.meta.url).href)};
    setInterval(() => {}, 1000);
    try { await FolderLock.take(${JSON.stringify(folder)}); console.log('taken'); } catch (error) { console.log(error.message); }`;
  const launchers = [1, 2].map(() => spawn(process.execPath, ['--input-type=module', '--eval', script]));
  try {
    const said = launchers.map(async ({ stdout }) => String((await once(stdout, 'data'))[0]));
    // Each has a file of its own as soon as it tries.
    await expect.poll(() => readdirSync(folder).length, { timeout: 30_000 }).toBe(3);
    guard.kill();
    const [one = '', two = ''] = (await Promise.all(said)).sort();
    expect(one).toMatch(/already runs on/);
    expect(two.trim()).toBe('taken');
  } finally {
    for (const each of [...launchers, guard]) each.kill('SIGKILL');
  }
});

test('passwords are random, kept, and readable by their user only', () => {
  const made = credentials(folder);
  expect(made.password).toMatch(/^[0-9a-f]{48}$/);
  expect(made.readPassword).not.toBe(made.password);
  expect(credentials(folder)).toEqual(made);
  expect(statSync(join(folder, 'questdb.json')).mode & 0o777).toBe(0o600);
});

const service = (name: string, script: string): Supervised => ({
  name,
  command: '/bin/sh',
  args: ['-c', script],
  ready: () => Promise.resolve(true),
  readyWithin: 5000,
  stopWithin: 500,
  notable: (line) => (line.startsWith('warning') ? line : undefined),
});

test('a service that dies is started again, and its lines are kept', async () => {
  const said: string[] = [];
  const supervisor = new Supervisor(folder, (line) => said.push(line));
  await supervisor.start(service('sleeper', 'echo hello; echo "warning: \\033[1mbold"; exec sleep 60'));
  const first = supervisor.pid('sleeper');
  expect(first).toBeDefined();
  process.kill(first ?? 0, 'SIGKILL');
  while (!said.includes('sleeper runs again.')) await pause(20);
  expect(supervisor.pid('sleeper')).not.toBe(first);
  expect(said).toContain('sleeper ended (SIGKILL): it is started again in 0.5 s.');
  while (said.filter((line) => line === 'sleeper: warning: \\x1b[1mbold').length < 2) await pause(20);
  await supervisor.stop(['sleeper']);
  expect(supervisor.pid('sleeper')).toBeUndefined();
  expect(readFileSync(join(folder, 'sleeper.log'), 'utf8').match(/hello/g)).toHaveLength(2);
});

test('a service that does not listen to a signal is killed after its time', async () => {
  const supervisor = new Supervisor(folder, () => {});
  await supervisor.start(service('deaf', "trap '' TERM; echo deaf now; while :; do sleep 0.1; done"));
  while (!readFileSync(join(folder, 'deaf.log'), 'utf8').includes('deaf now')) await pause(20);
  const begun = performance.now();
  await supervisor.stop(['deaf']);
  expect(performance.now() - begun).toBeGreaterThan(400);
  expect(performance.now() - begun).toBeLessThan(4000);
});

test('a service that ends before it is ready is an error that names its log', async () => {
  const supervisor = new Supervisor(folder, () => {});
  const never = { ...service('broken', 'echo no; exit 3'), ready: () => Promise.resolve(false) };
  await expect(supervisor.start(never)).rejects.toThrow(
    `broken ended (code 3) before it was ready. What it said is in ${join(folder, 'broken.log')}.`,
  );
});
