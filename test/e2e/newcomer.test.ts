// What `npm start` promises to somebody who has just cloned this, but for the installing: one line with the address and one with the
// link that lets him in, a live point soon after it, a quick second start, nothing for anybody else, and nothing left behind after Ctrl-C.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { type Browser, chromium, type Page } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { leaksInFolder, leaksInLines, leaksInProcesses } from '../secrets.ts';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { freePort, Program, startProgram } from '../servers/program.ts';
import { slowness } from '../slowness.ts';
import { eventually, programs } from '../stack.ts';

const second = 1000;
const promised = { livePoint: 10 * second, secondStart: 20 * second, end: 10 * second };
const patience_ms = 60 * second;
const ready = /^Fleetreel is ready: (http:\/\/127\.0\.0\.1:\d+\/)$/;
const welcome = /(http:\/\/127\.0\.0\.1:\d+\/welcome)#(frl_\S+)$/;
const user = { name: 'grete', password: 'a reel of 12 tall pine trees' };
const launcher = join(import.meta.dirname, '../../deploy/run.mjs');
const folder = mkdtempSync(join(tmpdir(), 'fleetreel-newcomer-'));
/** In the environment of everything that is started, so that nothing of it is overlooked. */
const mark = `fleetreel-${randomUUID()}`;

/** Files that are there to hold secrets: the owner's key, and the keys of NATS. */
const isForSecrets = (path: string) => path === 'owner.key' || path.startsWith('nats-keys/');
/** What nobody may find where it is not meant to be. */
const secrets = new Set([user.password]);
const ownerKey = join(folder, 'owner.key');

let ports: string[];
let grpc: string;
let browser: Browser;
let started: Program | undefined;

beforeAll(async () => {
  for (const flag of ['http', 'grpc', 'nats', 'questdb-http', 'questdb-pg'])
    ports = [...(ports ?? []), `--${flag}-port`, String(await freePort())];
  grpc = `127.0.0.1:${ports[3]}`;
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
});

afterAll(async () => {
  await browser?.close();
  await started?.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('the first start ends with the address and a link, and who opens it sees a live point within 10 s', async () => {
  started = await start();
  await started.line(ready, 120 * second);
  const slowBefore = slowness();
  const from = performance.now();
  const [link = '', path, code = ''] = welcome.exec(await started.line(welcome, 5 * second)) ?? [];
  secrets.add(code);
  const page = await browser.newPage();
  await page.goto(link);
  await page.getByText('Choose the name and the password of its first admin').waitFor();
  expect(page.url()).toBe(path);
  await page.getByRole('textbox', { name: 'User' }).fill(user.name);
  await page.getByLabel('Password', { exact: true }).fill(user.password);
  await page.getByLabel('Password, once more', { exact: true }).fill(user.password);
  await page.getByRole('button', { name: 'Set password and sign in' }).click();
  await page.locator('[data-testid="host-card"][data-status="online"]').click();
  const chart = page.locator('[data-testid="chart"][data-chart="cpu.mode"]');
  await eventually('a point', patience_ms, async () =>
    Number(await chart.getAttribute('data-points')) > 0 ? true : undefined,
  );
  expectWithin(promised.livePoint, performance.now() - from, slowBefore);
  const points = Number(await chart.getAttribute('data-points'));
  await eventually('a second, live point', patience_ms, async () =>
    Number(await chart.getAttribute('data-points')) > points ? true : undefined,
  );
  const at = started.lines.findIndex((each) => ready.test(each));
  expect(started.lines[at + 1]).toMatch(welcome);
  await keepSession(page);
  await page.close();
});

test('who does not sign in gets nothing', async () => {
  const address = addressOf(started);
  for (const path of ['hosts', 'catalog', 'series?table=load&field=load_1m_count', 'users', 'me'])
    expect((await fetch(`${address}api/v1/${path}`)).status, path).toBe(401);
  const page = await browser.newPage();
  await page.goto(`${address}hosts`);
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await page.close();
});

test('a command of the same user needs no key to be named, and another key is not replaced by it', async () => {
  secrets.add(readFileSync(ownerKey, 'utf8').trim());
  expect(statSync(ownerKey).mode & 0o777).toBe(0o600);
  const hosts = async (environment: Record<string, string> = {}) => {
    const command = await startProgram(programs.cli, ['hosts', '--json', '--address', grpc], environment);
    const { code } = await command.exited;
    return { code, text: command.lines.join('\n') };
  };
  expect(await hosts()).toEqual({ code: 0, text: expect.stringContaining('"status":"online"') });
  expect(await hosts({ FLEETREEL_KEY: 'frk_0123456789abcdef_none' })).toEqual({
    code: 1,
    text: expect.stringContaining('does not know this API key'),
  });
});

test('Ctrl-C ends everything within 10 s', async () => {
  await expectEnd();
});

test('the second start is ready in under 20 s, with what the first has recorded, for who signs in', async () => {
  const slowBefore = slowness();
  const from = performance.now();
  started = await start();
  await started.line(ready, 120 * second);
  expectWithin(promised.secondStart, performance.now() - from, slowBefore);
  const address = addressOf(started);
  const page = await browser.newPage();
  await page.goto(address);
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await page.getByLabel('User').fill(user.name);
  await page.getByLabel('Password', { exact: true }).fill(user.password);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.locator('[data-testid="host-card"][data-status="online"]').waitFor();
  await keepSession(page);
  const answer = await page.request.get(`${address}api/v1/series?table=load&field=load_1m_count&from=-10m&step=5s`);
  const { times } = (await answer.json()) as { times: number[] };
  expect(times[0]).toBeLessThan(Date.now() - (performance.now() - from));
  await page.close();
  const { lines } = started;
  await expectEnd();
  expect(lines.filter((line) => line.includes('/welcome'))).toEqual([]);
  // Of both starts.
  expect(await leaksInFolder(folder, secrets, isForSecrets)).toEqual([]);
});

/** It took no longer than was promised, or on a machine that is slow before or after it, than that is there. */
function expectWithin(promised_ms: number, took_ms: number, slowBefore: number): void {
  const slow = Math.max(slowBefore, slowness());
  console.log(`${Math.round(took_ms)} ms of ${promised_ms} ms, on a machine ${slow.toFixed(1)} times as slow`);
  expect(took_ms).toBeLessThan(promised_ms * slow);
}

/** Where a start says that the console is. */
const addressOf = (program: Program | undefined): string =>
  ready.exec(program?.lines.find((line) => ready.test(line)) ?? '')?.[1] ?? '';

/** The secret of a browser's session is one, too. */
async function keepSession(page: Page): Promise<void> {
  const cookies = await page.context().cookies();
  expect(cookies).toHaveLength(1);
  for (const { value } of cookies) secrets.add(value);
}

/** As `npm start -- --data ...` does. */
async function start(): Promise<Program> {
  const lines: string[] = [];
  const child = await Child.start(
    {
      name: 'npm start',
      command: process.execPath,
      args: [launcher, 'up', '--data', folder, ...ports],
      env: { NEWCOMER: mark },
    },
    (line) => lines.push(line),
  );
  return new Program(child, lines);
}

/** Presses Ctrl-C: a terminal sends it to the whole foreground group. No process is left, and none has written a secret. */
async function expectEnd(): Promise<void> {
  expect(await leaksInProcesses(secrets)).toEqual([]);
  expect(marked().length).toBeGreaterThanOrEqual(5);
  const slowBefore = slowness();
  const from = performance.now();
  started?.signal('SIGINT');
  await started?.exited;
  await eventually('the end of all processes', patience_ms, () => (marked().length === 0 ? true : undefined));
  expectWithin(promised.end, performance.now() - from, slowBefore);
  expect(secrets.size).toBeGreaterThan(3);
  // The link is there to be shown, once.
  const lines = started?.lines.filter((line) => !welcome.test(line)) ?? [];
  expect(leaksInLines([{ name: 'npm start', lines }], secrets)).toEqual([]);
  started = undefined;
}

/** Processes that carry the mark: their numbers and names. */
function marked(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const carries = readFileSync(`/proc/${pid}/environ`, 'utf8').includes(mark);
        return carries ? [`${pid} ${readFileSync(`/proc/${pid}/comm`, 'utf8').trim()}`] : [];
      } catch {
        // It has ended meanwhile, or is another user's.
        return [];
      }
    });
}
