// What the ledger of holes says of an agent that was cut off and of one that was killed: the same by HTTP, by gRPC and on the
// command line, and in the console as bands over the stretch of time that it is about.
import { setTimeout as pause } from 'node:timers/promises';
import type { Coverage, Hole, Series } from '@fleetreel/proto/http';
import { Query } from '@fleetreel/proto/services';
import { credentials } from '@grpc/grpc-js';
import { type Browser, chromium, type Locator, type Page } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Link } from '../faults/link.ts';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { startProgram } from '../servers/program.ts';
import { endOf, eventually, machineIdOf, programs, Stack } from '../stack.ts';

const second = 1000;
/** Longer than what is late: frames of the first two seconds are a hole until they come. */
const awayMilliseconds = 13 * second;
/** The frame before an event and the one under way. */
const aFewFrames = 4 * second;

type HostCoverage = Coverage['hosts'][number];

let stack: Stack;
let link: Link;
let browser: Browser;
/** When the frames of each host stopped to come, and came again, milliseconds. */
let stopped: number;
let cutUntil: number;
let killedUntil: number;
/** A range that both holes are in: there are frames before and after them. */
let range: { from: number; to: number };
/** What HTTP says of it. */
let coverage: Coverage;
let cut: HostCoverage;
let killed: HostCoverage;

beforeAll(async () => {
  stack = await Stack.start();
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  link = await Link.open({ host: '127.0.0.1', port: stack.nats.port });
  const [, agent] = await Promise.all([
    stack.startAgent({ host: 'cut', natsUrl: link.url }),
    stack.startAgent({ host: 'killed' }),
  ]);
  for (const host of ['cut', 'killed']) await stack.hostThat(host, ({ status }) => status === 'online', 60 * second);
  const from = Date.now();
  await pause(5 * second);
  stopped = Date.now();
  link.isOpen = false;
  link.release();
  await agent.kill();
  await pause(stopped + 5 * second - Date.now());
  killedUntil = Date.now();
  await stack.startAgent({ host: 'killed', machineId: machineIdOf('killed') });
  await pause(stopped + awayMilliseconds - Date.now());
  cutUntil = Date.now();
  link.isOpen = true;
  await eventually('holes that are over', 60 * second, async () => {
    range = { from, to: Date.now() };
    await look();
    const ends = [
      ...killed.holes.filter(({ cause }) => cause === 'agent_down'),
      ...cut.holes.filter(({ cause, healed }) => cause === 'link_down' && healed !== null),
    ].map(({ end }) => end ?? Number.POSITIVE_INFINITY);
    range.to = Math.ceil(Math.max(...ends)) + aFewFrames;
    return (ends.length === 2 && range.to < Date.now()) || undefined;
  });
  await eventually('frames of both hosts after the range, and all that the spool had', 60 * second, async () => {
    const { rows } = await stack.questdb.query(
      `SELECT host FROM frame WHERE ts > ${(range.to + aFewFrames) * 1000} GROUP BY host`,
    );
    await look();
    const isHealed = lost(cut.holes).every(({ cause }) => cause === 'skipped');
    return (rows.length === 2 && isHealed) || undefined;
  });
});

/** Asks what there is of the range. */
async function look(): Promise<void> {
  coverage = await ask<Coverage>('coverage', { from: String(range.from), to: String(range.to) });
  const of = (name: string) => coverage.hosts.find(({ host }) => host === name) as HostCoverage;
  [cut, killed] = [of('cut'), of('killed')];
}

afterAll(async () => {
  await browser?.close();
  await stack?.[Symbol.asyncDispose]();
  await link?.[Symbol.asyncDispose]();
});

async function ask<Answer>(path: string, parameters: Record<string, string>): Promise<Answer> {
  const answer = await fetch(`${stack.address}/api/v1/${path}?${new URLSearchParams(parameters).toString()}`);
  expect(answer.status, path).toBe(200);
  return (await answer.json()) as Answer;
}

const lost = (holes: readonly Hole[]) => holes.filter(({ healed }) => healed === null);

/** The one hole of this cause. A machine that is busy may have skipped a tick besides. */
function the({ holes }: HostCoverage, wanted: Hole['cause']): Hole & { end: number } {
  const [hole, ...others] = holes.filter(({ cause }) => cause === wanted);
  if (!hole || hole.end === null || others.length > 0)
    throw new Error(`There is not one hole ${wanted} that is over: ${JSON.stringify(holes)}`);
  return { ...hole, end: hole.end };
}

/** Share of the range that is in none of these holes, percent, counted millisecond by millisecond. */
function shareBeside(holes: readonly Hole[]): number {
  let beside = 0;
  for (let time = range.from; time < range.to; time++)
    if (!holes.some(({ begin, end }) => begin <= time && time < (end ?? range.to))) beside++;
  return (100 * beside) / (range.to - range.from);
}

test('who was killed has a hole that stays, with the sessions beside it', () => {
  const hole = the(killed, 'agent_down');
  expect(hole.begin).toBeGreaterThan(stopped - aFewFrames);
  expect(hole.begin).toBeLessThan(stopped + aFewFrames);
  expect(hole.end).toBeGreaterThan(killedUntil);
  expect(hole.healed).toBeNull();
  expect(hole.session).toMatch(/^[0-9a-f]{16}$/);
  expect(hole.nextSession).toMatch(/^[0-9a-f]{16}$/);
  expect(hole.session).not.toBe(hole.nextSession);
  expect(killed.percent).toBeLessThan(100 - (100 * (hole.end - hole.begin - 2)) / (range.to - range.from));
});

test('who was cut off has a hole that has healed from the spool', () => {
  const hole = the(cut, 'link_down');
  expect(hole.begin).toBeGreaterThan(stopped - aFewFrames);
  expect(hole.begin).toBeLessThan(cutUntil);
  expect(hole.healed).toBeGreaterThan(cutUntil);
  expect(hole.missingFrames).toBeGreaterThan(0);
  expect(hole.nextSession).toBe(hole.session);
  expect(lost(cut.holes).every(({ cause }) => cause === 'skipped')).toBe(true);
  expect(cut.percentInTime).toBeLessThan(cut.percent);
});

test('the percentages are what the holes leave', () => {
  for (const { percent, percentInTime, holes } of [cut, killed]) {
    expect(percent).toBeCloseTo(shareBeside(lost(holes)), 1);
    expect(percentInTime).toBeCloseTo(shareBeside(holes), 1);
  }
});

test('HTTP, gRPC and the command line say the same', async () => {
  const [from, to] = [String(range.from), String(range.to)];
  const times = ['--from', from, '--to', to];
  const [answer, json, text] = await Promise.all([
    overGrpc(from, to),
    ran('coverage', ...times, '--json'),
    ran('coverage', 'killed', 'cut', ...times),
  ]);
  expect(answer).toEqual(coverage.hosts.map(({ host, percent, percentInTime }) => [host, percent, percentInTime]));
  expect(JSON.parse(json)).toEqual(coverage);
  const percent = (value: number) => `${value >= 100 ? '100' : Math.min(value, 99.999).toFixed(3)} %`;
  for (const { host, percent: now, percentInTime } of [cut, killed])
    expect(text.replaceAll(/ +/g, ' ')).toContain(`${host} ${percent(now)} ${percent(percentInTime)}`);
  expect(text).toMatch(/^killed .* agent down +no$/m);
  expect(text).toMatch(/^cut .* link down +\d\S+/m);
});

async function overGrpc(from: string, to: string): Promise<[string, number, number][]> {
  const query = new Query(stack.grpcAddress, credentials.createInsecure());
  try {
    return await new Promise((resolve, reject) => {
      query.Coverage({ from, to }, (error, answer) => {
        if (error || !answer) return reject(error ?? new Error('There is no answer.'));
        resolve(answer.hosts.map(({ host, percent, percent_in_time }) => [host, percent, percent_in_time]));
      });
    });
  } finally {
    query.close();
  }
}

/** What the command writes. */
async function ran(...args: string[]): Promise<string> {
  const { code, output } = await endOf(
    await startProgram(programs.cli, args, { FLEETREEL_ADDRESS: stack.grpcAddress }),
  );
  expect(code, output).toBe(0);
  return output;
}

test('no value is made up: a series has nulls in the hole that stays, and values where it healed', async () => {
  const values = async ({ host }: HostCoverage, { begin, end }: Hole & { end: number }) => {
    const [from, to] = [Math.ceil(begin / second) * second, Math.floor(end / second) * second - second];
    const question = { table: 'memory', field: 'used_percent', host, step: '1s', from: String(from), to: String(to) };
    const { series, times } = await ask<Series>('series', question);
    expect(series.length).toBeLessThanOrEqual(1);
    return series[0]?.values ?? times.map(() => null);
  };
  expect(new Set(await values(killed, the(killed, 'agent_down')))).toEqual(new Set([null]));
  const healed = await values(cut, the(cut, 'link_down'));
  const skipped = lost(cut.holes).length > 0;
  expect(healed.filter((value) => typeof value === 'number').length).toBeGreaterThan(skipped ? 0 : healed.length - 3);
});

test('the console hatches the hole that stays, where it is, and draws nothing under it', async () => {
  const { page, chart } = await chartOf('killed');
  const hole = the(killed, 'agent_down');
  const band = await bandOver(chart, hole, '.hole:not(.healed)');
  expect(band.title).toMatch(/^No data: the agent was not running, /);
  expect(band.height).toBeGreaterThan(100);
  expect(band.image).toMatch(/gradient/);
  // The first value after it is drawn from the begin of its step on, a second long.
  expect(await painted(chart, { begin: hole.begin, end: hole.end - second })).toBe(0);
  // Beside it the same chart draws its areas.
  expect(await painted(chart, { begin: hole.begin - 3 * second, end: hole.begin - second })).toBeGreaterThan(0.9);

  await page.getByTestId('coverage').click();
  const list = page.locator('#holes');
  await list.getByText(/the agent was not running/i).waitFor();
  expect(await list.getByRole('heading').textContent()).toContain(`${killed.percent.toFixed(1)} %`);
});

test('what has healed is drawn, with a line at the foot of the chart', async () => {
  const { chart } = await chartOf('cut');
  const hole = the(cut, 'link_down');
  const band = await bandOver(chart, hole, '.hole.healed');
  expect(band.title).toMatch(/^Late data: the collector could not be reached, .*; the frames came at /);
  expect(band.height).toBeLessThan(10);
  expect(await painted(chart, hole)).toBeGreaterThan(lost(cut.holes).length === 0 ? 0.9 : 0);
});

/** The host's page over the range, where one of its charts is. */
async function chartOf(host: string): Promise<{ page: Page; chart: Locator }> {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  const times = new URLSearchParams({ from: String(range.from), to: String(range.to) });
  await page.goto(`${stack.address}/hosts/${host}?${times.toString()}`);
  const chart = page.locator('[data-chart="cpu.mode"]:not([data-points="0"])');
  // What is out of sight is not drawn.
  await chart.scrollIntoViewIfNeeded();
  await chart.locator('.hole').first().waitFor({ state: 'attached' });
  return { page, chart };
}

type Stretch = { begin: number; end: number };

/** Where a stretch of time is in a chart, in pixels of the page; and where its plot is, without the axes. */
async function placeOf(chart: Locator, { begin, end }: Stretch) {
  const range = async (name: string) => Number(await chart.getAttribute(name));
  const [from, to] = [await range('data-from'), await range('data-to')];
  const over = await chart.locator('.u-over').boundingBox();
  if (!over) throw new Error('The chart is not shown.');
  const x = (time: number) => over.x + ((time - from) / (to - from)) * over.width;
  return { left: x(begin), right: x(end), bottom: over.y + over.height };
}

/** What is drawn over exactly this stretch of time. */
async function bandOver(chart: Locator, stretch: Stretch, selector: string) {
  const { left, right } = await placeOf(chart, stretch);
  const found: unknown[] = [];
  for (const band of await chart.locator(selector).all()) {
    const box = await band.boundingBox();
    found.push(box);
    if (!box || Math.abs(box.x - left) > 1.5 || Math.abs(box.x + box.width - right) > 1.5) continue;
    const image = await band.evaluate(
      (element) => element.ownerDocument.defaultView.getComputedStyle(element).backgroundImage,
    );
    return { height: box.height, image, title: await band.getAttribute('title') };
  }
  throw new Error(`No band is at ${left} to ${right}: ${JSON.stringify(found)}`);
}

/** In how much of a stretch of time, but for its edges, the chart has a colour, 0 to 1. Axes and grid are grey. */
async function painted(chart: Locator, stretch: Stretch): Promise<number> {
  const place = await placeOf(chart, stretch);
  return await chart.locator('canvas').evaluate((canvas, { left, right, bottom }) => {
    const box = canvas.getBoundingClientRect();
    const scale: number = canvas.width / box.width;
    const first = Math.round((left - box.x) * scale) + 2;
    const width = Math.round((right - box.x) * scale) - 2 - first;
    const plot = canvas.getContext('2d').getImageData(first, 0, width, Math.round((bottom - box.y) * scale));
    const data: Uint8ClampedArray = plot.data;
    const colored = new Set<number>();
    for (let at = 0; at < data.length; at += 4) {
      const channels = data.subarray(at, at + 3);
      if (Math.max(...channels) - Math.min(...channels) > 40) colored.add((at / 4) % width);
    }
    return colored.size / width;
  }, place);
}
