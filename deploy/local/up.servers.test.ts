// `fleetreel up` as a user sees it: the ready line, a child that dies, a second one, Ctrl-C, and a hard kill.
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { startNats } from '../../test/servers/nats.ts';
import { freePort, type Program, startProgram } from '../../test/servers/program.ts';
import { startQuestdb } from '../../test/servers/questdb.ts';

const entry = 'packages/cli/src/main.ts';
/** The first start may have to build the console. */
const firstStart = 110_000;

let folder: string;
let flags: string[];
let url: string;
let address: string;
/** Of the link that the first start printed. */
let first: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'fleetreel-up-'));
  const [http, grpc, nats, questdb, pg] = await Promise.all([
    freePort(),
    freePort(),
    freePort(),
    freePort(),
    freePort(),
  ]);
  url = `http://127.0.0.1:${http}/`;
  address = `127.0.0.1:${grpc}`;
  flags = Object.entries({
    data: folder,
    'http-port': http,
    'grpc-port': grpc,
    'nats-port': nats,
    'questdb-http-port': questdb,
    'questdb-pg-port': pg,
  }).flatMap(([name, value]) => [`--${name}`, String(value)]);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const start = (...more: string[]) => startProgram(entry, ['up', ...flags, ...more], { FLEETREEL_INTERVAL: '1s' });
const linkLine = (program: Program) => program.line(/\/welcome#frl_/, firstStart);
const codeIn = (line: string) => line.split('#')[1] ?? '';
/** What the console is told of a link. */
const statusOf = async (code: string) => {
  const headers = { 'content-type': 'application/json' };
  return (await fetch(`${url}api/v1/link/check`, { method: 'POST', headers, body: JSON.stringify({ code }) })).status;
};
const readyLine = (program: Program) => program.line(/^Fleetreel is ready/, firstStart);

/** Processes that were started for the folder or its ports: what Fleetreel has left behind, or runs. */
function processes(): string[] {
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid) && Number(pid) !== process.pid)
    .flatMap((pid) => {
      try {
        if (/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))) return [];
        const environment = readFileSync(`/proc/${pid}/environ`, 'utf8');
        const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' ');
        const own = environment.includes(url.slice(0, -1).split(':').at(-1) ?? '') || environment.includes(folder);
        return own || line.includes(folder) ? [`${pid} ${readlinkSync(`/proc/${pid}/exe`)} ${line}`] : [];
      } catch {
        // It has ended meanwhile.
        return [];
      }
    });
}

function run(args: readonly string[]): Promise<{ code: number | null; out: string; err: string }> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, [join(import.meta.dirname, '..', '..', entry), ...args]);
    let out = '';
    let err = '';
    child.stdout.on('data', (part: Buffer) => {
      out += part.toString();
    });
    child.stderr.on('data', (part: Buffer) => {
      err += part.toString();
    });
    child.once('close', (code) => resolve({ code, out, err }));
  });
}

test('everything starts, heals, is asked, and ends with Ctrl-C', { timeout: 200_000 }, async () => {
  await using up = await start();
  expect(await readyLine(up)).toBe(`Fleetreel is ready: ${url}`);
  expect(up.lines.filter((line) => line.startsWith('Fleetreel is ready'))).toHaveLength(1);
  expect(up.lines.join('\n')).toMatch(/^NATS: .*\nQuestDB: /);
  expect((await fetch(`${url}readyz`)).status).toBe(200);
  expect((await fetch(`${url}api/v1/hosts`)).status).toBe(401);
  first = codeIn(await linkLine(up));
  for (const name of ['questdb.json', 'owner.key']) expect(statSync(join(folder, name)).mode & 0o777, name).toBe(0o600);
  for (const name of ['installation.json', 'collector.creds', 'agent.creds'])
    expect(statSync(join(folder, 'nats-keys', name)).mode & 0o777, name).toBe(0o600);

  // What the clients say of it.
  const hosts = JSON.parse((await run(['hosts', '--json', '--address', address])).out);
  expect(hosts.hosts).toMatchObject([{ status: 'online', lastSeen: expect.any(Number) }]);
  const table = await run(['hosts', '--address', address]);
  expect(table.out).toMatch(/^HOST +STATUS +LAST SEEN/);
  const latest = JSON.parse(
    (await run(['latest', 'cpu', '--label', 'core=total', '--json', '--address', address])).out,
  );
  expect(latest.rows).toMatchObject([{ core: 'total', used_percent: expect.anything() }]);
  await expect
    .poll(
      async () => {
        const asked = await run([
          'series',
          'memory',
          'used_percent',
          '--from',
          '-1m',
          '--step',
          '1s',
          '--json',
          '--address',
          address,
        ]);
        return JSON.parse(asked.out).series[0]?.values.some((value: number | null) => value !== null);
      },
      { timeout: 20_000, interval: 1000 },
    )
    .toBe(true);
  const wrong = await run(['latest', 'memry', '--address', address]);
  expect(wrong).toMatchObject({ code: 2, out: '', err: expect.stringContaining('"memory"') });
  {
    await using tail = await startProgram(entry, [
      'tail',
      'cpu',
      '--field',
      'used_percent',
      '--json',
      '--address',
      address,
    ]);
    expect(JSON.parse(await tail.line(/"core":"total"/))).toMatchObject({ core: 'total', host: hosts.hosts[0].host });
    tail.signal('SIGINT');
    expect(await tail.exited).toEqual({ code: 0, signal: null });
  }

  // A second one is refused, with one sentence.
  const second = await run(['up', ...flags]);
  expect(second.code).toBe(2);
  expect(second.err).toBe(
    `Fleetreel already runs on ${folder} (process ${up.pid}): stop it, or name another folder with --data and other ports.\n`,
  );

  // A killed child comes back, and so does the service.
  const [pid] = processes()
    .filter((line) => line.includes('collector/src/main.ts'))
    .map((line) => Number(line.split(' ', 1)[0]));
  process.kill(pid ?? 0, 'SIGKILL');
  await up.line(/^collector runs again\.$/, 40_000);
  expect(up.lines).toContain('collector ended (SIGKILL): it is started again in 0.5 s.');
  expect((await fetch(`${url}readyz`)).status).toBe(200);
  // With the same key and the same link.
  expect((await run(['hosts', '--address', address])).code).toBe(0);
  expect(await statusOf(first)).toBe(200);
  expect(up.lines.filter((line) => line.includes('/welcome#'))).toHaveLength(1);

  const begun = performance.now();
  up.signal('SIGINT');
  expect(await up.exited).toEqual({ code: 0, signal: null });
  expect(performance.now() - begun).toBeLessThan(10_000);
  await expect.poll(processes).toEqual([]);
});

test('a second start is quick, and nothing outlives a launcher that is killed hard', { timeout: 120_000 }, async () => {
  await using up = await start();
  await readyLine(up);
  expect(processes().length).toBeGreaterThanOrEqual(5);
  await up.kill();
  await expect.poll(processes, { timeout: 10_000 }).toEqual([]);

  // The lock that it left is no obstacle.
  await using again = await start();
  await readyLine(again);
  // Nobody has used the link of before: there is another.
  expect(await statusOf(codeIn(await linkLine(again)))).toBe(200);
  expect(await statusOf(first)).toBe(410);
  again.signal('SIGTERM');
  expect(await again.exited).toEqual({ code: 0, signal: null });
  await expect.poll(processes).toEqual([]);
});

test('servers that run already are used and left running', { timeout: 120_000 }, async () => {
  await using nats = await startNats();
  await using questdb = await startQuestdb();
  await using up = await startProgram(entry, ['up', ...flags, '--nats-url', nats.url], {
    FLEETREEL_INTERVAL: '1s',
    ...questdb.environment,
  });
  await readyLine(up);
  // That log knows none of the keys of before.
  expect((await run(['hosts', '--address', address])).code).toBe(0);
  expect(up.lines).toContain(`QuestDB: the server at ${questdb.httpUrl}`);
  expect(processes().filter((line) => /ServerMain|nats-server/.test(line))).toEqual([]);
  await expect
    .poll(async () => (await questdb.query('SELECT count() FROM cpu')).rows[0]?.[0], { timeout: 20_000 })
    .toBeGreaterThan(0);
  await up.stop();
  expect((await questdb.query('SELECT 1')).rows).toEqual([[1]]);
});

test('a port in use is named with its holder and the flag', async () => {
  const port = await freePort();
  await using _ = createServer().listen(port, '127.0.0.1');
  const refused = await run(['up', ...flags, '--grpc-port', String(port)]);
  expect(refused.code).toBe(2);
  expect(refused.err).toMatch(
    new RegExp(
      `^Port ${port}, meant for gRPC, is in use by .+ \\(process ${process.pid}\\): stop it, or give another port with --grpc-port\\.\n$`,
    ),
  );
});

test.each([
  [
    ['--data', '/proc/nowhere'],
    /^The data folder \/proc\/nowhere can't be made \(ENOENT\): name another with --data\.\n$/,
  ],
  [['--nats-url', 'nats://127.0.0.1:1'], /^No NATS server answers at nats:\/\/127\.0\.0\.1:1 \(--nats-url\)\.\n$/],
  [['--http-prt', '1'], /^There is no flag --http-prt\. Did you mean "--http-port"\?\n$/],
  [['--http-port', 'x'], /^http\.port: x \(in the flag --http-port\) is not a whole number/],
])('%j is refused with one sentence', async (more, message) => {
  const refused = await run(['up', ...flags, ...more]);
  expect(refused).toMatchObject({ code: 2, err: expect.stringMatching(message) });
});
