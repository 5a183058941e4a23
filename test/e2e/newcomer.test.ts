// What `npm start` promises to somebody who has just cloned this, but for the installing: one line with the address, a live
// point soon after it, a quick second start, and nothing left behind after Ctrl-C.
import { randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { type Browser, chromium } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { freePort, Program } from '../servers/program.ts';
import { eventually } from '../stack.ts';

const second = 1000;
const promised = { livePoint: 10 * second, secondStart: 20 * second, end: 10 * second };
const ready = /^Fleetreel is ready: (http:\/\/127\.0\.0\.1:\d+\/)$/;
const launcher = join(import.meta.dirname, '../../deploy/run.mjs');
const folder = mkdtempSync(join(tmpdir(), 'fleetreel-newcomer-'));
/** In the environment of everything that is started, so that nothing of it is overlooked. */
const mark = `fleetreel-${randomUUID()}`;

let ports: string[];
let browser: Browser;
let started: Program | undefined;

beforeAll(async () => {
  for (const flag of ['http', 'grpc', 'nats', 'questdb-http', 'questdb-pg'])
    ports = [...(ports ?? []), `--${flag}-port`, String(await freePort())];
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
});

afterAll(async () => {
  await browser?.close();
  await started?.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('the first start ends with the address, and a live point is drawn within 10 s of it', async () => {
  started = await start();
  const line = await started.line(ready, 120 * second);
  const from = performance.now();
  const page = await browser.newPage();
  await page.goto(ready.exec(line)?.[1] ?? '');
  await page.locator('[data-testid="host-card"][data-status="online"]').click();
  const chart = page.locator('[data-testid="chart"][data-chart="cpu.mode"]');
  await eventually('a point', promised.livePoint, async () =>
    Number(await chart.getAttribute('data-points')) > 0 ? true : undefined,
  );
  expect(performance.now() - from).toBeLessThan(promised.livePoint);
  const points = Number(await chart.getAttribute('data-points'));
  await eventually('a second, live point', promised.livePoint, async () =>
    Number(await chart.getAttribute('data-points')) > points ? true : undefined,
  );
  expect(started.lines.at(-1)).toMatch(ready);
  await page.close();
});

test('Ctrl-C ends everything within 10 s', async () => {
  await expectEnd();
});

test('the second start is ready in under 20 s, with what the first has recorded', async () => {
  const from = performance.now();
  started = await start();
  const line = await started.line(ready, promised.secondStart);
  expect(performance.now() - from).toBeLessThan(promised.secondStart);
  const address = ready.exec(line)?.[1] ?? '';
  const answer = await fetch(`${address}api/v1/series?table=load&field=load_1m_count&from=-10m&step=5s`);
  const { times } = (await answer.json()) as { times: number[] };
  expect(times[0]).toBeLessThan(Date.now() - (performance.now() - from));
  await expectEnd();
});

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

/** Presses Ctrl-C: a terminal sends it to the whole foreground group. */
async function expectEnd(): Promise<void> {
  const from = performance.now();
  expect(marked().length).toBeGreaterThanOrEqual(5);
  started?.signal('SIGINT');
  await started?.exited;
  await eventually('the end of all processes', promised.end, () => (marked().length === 0 ? true : undefined));
  expect(performance.now() - from).toBeLessThan(promised.end);
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
