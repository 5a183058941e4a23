// The console in a real browser, against the whole product. The tests follow one another as a visit does: nothing there
// yet, a host appears, its page is read, parts go away and come back, the agent ends.
import { setTimeout as pause } from 'node:timers/promises';
import { type Browser, type BrowserContext, chromium, type Locator, type Page } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import type { Program } from '../servers/program.ts';
import { eventually, Stack } from '../stack.ts';

const host = 'alder';
const second = 1000;
/** An agent is missed after three intervals, but not before 30 s; then a frame may have been under way. */
const offlineWithin = 40 * second;
const patience = { timeout: 10 * second };
const desktop = { width: 1440, height: 900 };
const widths = { phone: 360, tablet: 820, wall: 2560 };

let stack: Stack;
let agent: Program;
let browser: Browser;
let context: BrowserContext;
let page: Page;
/** What the browser complained of. A test that takes something away empties it. */
let complaints: string[] = [];

beforeAll(async () => {
  stack = await Stack.start();
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  context = await browser.newContext({ viewport: desktop, colorScheme: 'light', reducedMotion: 'reduce' });
  page = await context.newPage();
  listen(page);
});

afterAll(async () => {
  await browser?.close();
  await stack?.[Symbol.asyncDispose]();
});

test('before the first host the overview says how to start one', async () => {
  await page.goto(stack.address);
  await page.getByRole('heading', { name: 'No hosts yet' }).waitFor();
  await page.getByText(/fleetreel-agent run/).waitFor();
  expect(new URL(page.url()).pathname).toBe('/hosts');
});

test('a host appears by itself, online, and its values move', async () => {
  agent = await stack.startAgent({ host, interval: '1s', flags: ['--tags', 'rack=a3'] });
  await card()
    .and(page.locator('[data-status="online"]'))
    .waitFor({ timeout: 10 * second });
  await card().getByText(/load/).waitFor();
  const text = await card().textContent();
  await eventually(
    'other values on the card',
    10 * second,
    async () => (await card().textContent()) !== text || undefined,
  );
});

test('the overview as a table: sorted and searched by the URL', async () => {
  await page.getByRole('button', { name: 'Table' }).click();
  await page.getByRole('columnheader', { name: 'CPU' }).first().getByRole('button').click();
  // Going to another address takes the page a moment.
  await expect.poll(() => new URL(page.url()).search).toContain('layout=table');
  await expect.poll(() => new URL(page.url()).search).toContain('sort=-cpu');
  await page.getByRole('searchbox', { name: 'Search hosts' }).fill('no such host');
  await page.getByText(/No host matches/).waitFor();
  await page.reload();
  await page.getByText(/No host matches/).waitFor();
  await page.getByRole('searchbox', { name: 'Search hosts' }).fill('rack:a3');
  await card().waitFor();
  await page.goto(`${stack.address}/hosts`);
  await card().waitFor();
});

test('live points arrive without a request and without a new chart', async () => {
  await card().click();
  await page.waitForURL(`${stack.address}/hosts/${host}`);
  const before = await eventually('points', 10 * second, async () => (await points('cpu.mode')) || undefined);
  // The same canvas is drawn on all the time.
  const canvas = chart('cpu.mode').locator('canvas');
  await canvas.evaluate((element) => element.setAttribute('data-kept', 'yes'));
  const requests: string[] = [];
  const note = (request: { url(): string }) => requests.push(request.url());
  page.on('request', note);
  await eventually('5 more points', 15 * second, async () => (await points('cpu.mode')) >= before + 5 || undefined);
  page.off('request', note);
  expect(requests).toEqual([]);
  expect(await canvas.getAttribute('data-kept')).toBe('yes');
  const [first, newest] = await range('cpu.mode');
  expect(Date.now() - newest).toBeLessThan(5 * second);
  expect(newest - first).toBe(15 * 60 * second);
});

test('every chart of the page draws data or says that there is none', async () => {
  const charts = await page.getByTestId('chart').all();
  expect(charts.length).toBeGreaterThan(30);
  for (const chart of charts) {
    await chart.scrollIntoViewIfNeeded();
    await eventually(`points in ${await chart.getAttribute('data-chart')}`, 10 * second, async () =>
      Number(await chart.getAttribute('data-points')) > 0 ? true : undefined,
    );
    expect(await chart.getByRole('alert').count(), (await chart.getAttribute('data-chart')) ?? '').toBe(0);
  }
});

test('dragging over a chart chooses the range: URL, data of all charts, reload, back', async () => {
  await page.locator('html').evaluate((html) => html.scrollTo(0, 0));
  await page.getByRole('button', { name: '5m', exact: true }).click();
  await expect.poll(() => new URL(page.url()).search, patience).toContain('range=5m');
  await eventually('enough points to choose from', 30 * second, async () =>
    (await points('cpu.mode')) >= 20 ? true : undefined,
  );
  const live = await range('cpu.mode');
  const before = page.url();
  await drag(chart('cpu.mode'), 0.9, 0.98);
  await page.waitForURL(/from=.*to=/);
  const chosen = await range('cpu.mode');
  expect(chosen[1] - chosen[0]).toBeLessThan((live[1] - live[0]) / 5);
  expect(chosen[0]).toBeGreaterThan(live[0]);
  expect(await range('load.average')).toEqual(chosen);
  await eventually('points of the chosen range', 10 * second, async () => {
    const count = await points('cpu.mode');
    return count > 0 && count <= (chosen[1] - chosen[0]) / second + 3 ? count : undefined;
  });
  // What was chosen stands still.
  await pause(3 * second);
  expect(await range('cpu.mode')).toEqual(chosen);

  const { search } = new URL(page.url());
  await page.reload();
  await eventually('the same after a reload', 10 * second, async () => (await points('cpu.mode')) > 0 || undefined);
  expect(new URL(page.url()).search).toBe(search);
  expect(await range('cpu.mode')).toEqual(chosen);

  await page.goBack();
  await expect.poll(() => page.url(), patience).toBe(before);
  await expect.poll(async () => (await range('cpu.mode'))[1], patience).toBeGreaterThan(chosen[1]);
  await page.goForward();
  await expect.poll(() => range('cpu.mode'), patience).toEqual(chosen);
});

test('everything is reached by keyboard, and where the focus is can be seen', async () => {
  await page.goto(`${stack.address}/hosts`);
  await card().waitFor();
  const names: string[] = [];
  for (let step = 0; step < 60; step++) {
    await page.keyboard.press('Tab');
    const focused = page.locator(':focus');
    if ((await focused.count()) === 0) break;
    const focus = await focused.evaluate((element) => {
      const { outlineStyle, outlineWidth, boxShadow } = element.ownerDocument.defaultView.getComputedStyle(element);
      const { width, height } = element.getBoundingClientRect();
      return {
        name: String(element.dataset.host ?? element.getAttribute('aria-label') ?? element.textContent).trim(),
        tag: String(element.tagName),
        seen: (outlineStyle !== 'none' && Number.parseFloat(outlineWidth) > 0) || boxShadow !== 'none',
        shown: width > 0 && height > 0,
      };
    });
    expect(focus.seen, `a visible focus on ${focus.tag} "${focus.name}"`).toBe(true);
    expect(focus.shown, `${focus.tag} "${focus.name}" is shown`).toBe(true);
    names.push(focus.name);
    if (focus.name === host && names.length > 5) break;
  }
  expect(names[0]).toMatch(/content/i);
  expect(names).toContain('Search hosts');
  expect(names.at(-1)).toBe(host);
  await page.keyboard.press('Enter');
  await page.waitForURL(`${stack.address}/hosts/${host}`);
  await page.keyboard.press('?');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
});

test('phone, tablet and wall: nothing is wider than the screen, in either theme', async () => {
  for (const colorScheme of ['light', 'dark'] as const) {
    await page.emulateMedia({ colorScheme });
    for (const [name, width] of Object.entries(widths))
      for (const path of ['/hosts', '/hosts?layout=table', `/hosts/${host}`]) {
        await page.setViewportSize({ width, height: 900 });
        await page.goto(stack.address + path);
        await (path.startsWith(`/hosts/${host}`) ? chart('cpu.mode') : card()).waitFor();
        const { scroll, client } = await page
          .locator('html')
          .evaluate((html) => ({ scroll: html.scrollWidth, client: html.clientWidth }));
        expect(scroll, `${path} on ${name}, ${colorScheme}`).toBeLessThanOrEqual(client);
        expect(await outside(), `${path} on ${name}, ${colorScheme}`).toEqual([]);
      }
  }
  await page.setViewportSize(desktop);
});

test('both themes differ, and the choice stays', async () => {
  await page.emulateMedia({ colorScheme: 'light' });
  await page.goto(`${stack.address}/hosts`);
  const light = await background();
  await page.getByRole('button', { name: 'Dark' }).click();
  const dark = await background();
  expect(brightness(light)).toBeGreaterThan(200);
  expect(brightness(dark)).toBeLessThan(60);
  await page.reload();
  expect(await background()).toBe(dark);
  await page.getByRole('button', { name: 'As the system' }).click();
  expect(await background()).toBe(light);
});

test('a host that does not exist, and an address that does not exist', async () => {
  await page.goto(`${stack.address}/hosts/nobody`);
  await page.getByText(/There is no host .nobody./).waitFor();
  await page.goto(`${stack.address}/no/such/page`);
  await page.getByRole('main').getByRole('link').first().waitFor();
  // An answer of 404 is the browser's to mention.
  complaints = complaints.filter((text) => !/404/.test(text));
});

test('so far the browser had nothing to complain of', () => {
  expect(complaints).toEqual([]);
});

test('QuestDB away: the page says that there is no history, live data goes on, and it heals', async () => {
  await stack.questdb.kill();
  await page.goto(`${stack.address}/hosts/${host}`);
  await page
    .getByText(/No history/)
    .first()
    .waitFor();
  const before = await points('cpu.mode');
  await eventually('live points', 10 * second, async () => (await points('cpu.mode')) > before + 2 || undefined);
  await stack.questdb.restart();
  await stack.ready();
  await page
    .getByText(/No history/)
    .first()
    .waitFor({ state: 'detached', timeout: 45 * second });
  await eventually('history', 15 * second, async () => (await points('cpu.mode')) > 30 || undefined);
  // Refused requests are the browser's to mention.
  complaints = complaints.filter((text) => !/503/.test(text));
  expect(complaints).toEqual([]);
});

test('collector away: "no live data", and it heals without a reload', async () => {
  await stack.collector.stop();
  await page.getByText(/No live data since/).waitFor();
  await pause(2 * second);
  const before = await points('cpu.mode');
  await stack.startCollector();
  await page.getByText(/No live data since/).waitFor({ state: 'detached', timeout: 30 * second });
  await eventually('live points', 30 * second, async () => (await points('cpu.mode')) > before + 3 || undefined);
  // What happened meanwhile was read from the history: at one second's steps, no point is missing.
  complaints = complaints.filter((text) => !/ERR_CONNECTION|WebSocket|Failed to load resource/.test(text));
  expect(complaints).toEqual([]);
});

test('the agent ends: the host goes offline on screen', { timeout: 120 * second }, async () => {
  await page.goto(`${stack.address}/hosts`);
  await card().and(page.locator('[data-status="online"]')).waitFor();
  await agent.stop();
  await card().and(page.locator('[data-status="offline"]')).waitFor({ timeout: offlineWithin });
  await card()
    .getByText(/last seen/)
    .waitFor();
  await card().click();
  await page.getByText(/This host is offline: no live data since/).waitFor();
  await page.getByRole('button', { name: /last 15 minutes/ }).click();
  await page.waitForURL(/from=.*to=/);
  await eventually('what was stored', 10 * second, async () => (await points('cpu.mode')) > 30 || undefined);
  expect(complaints).toEqual([]);
});

const card = () => page.locator(`[data-testid="host-card"][data-host="${host}"]`);
const chart = (id: string) => page.locator(`[data-testid="chart"][data-chart="${id}"]`);

async function points(id: string): Promise<number> {
  return Number(await chart(id).getAttribute('data-points'));
}

/** The stretch of time that a chart shows. */
async function range(id: string): Promise<[from: number, to: number]> {
  const shown = chart(id);
  return [Number(await shown.getAttribute('data-from')), Number(await shown.getAttribute('data-to'))];
}

/** Drags over the plot, from one share of its width to another. */
async function drag(target: Locator, from: number, to: number): Promise<void> {
  const area = target.locator('.u-over');
  await area.scrollIntoViewIfNeeded();
  const box = await area.boundingBox();
  if (!box) throw new Error('The chart has no plot to drag over.');
  const y = box.y + box.height / 2;
  await page.mouse.move(box.x + box.width * from, y);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * ((from + to) / 2), y);
  await page.mouse.move(box.x + box.width * to, y);
  await page.mouse.up();
}

/** Errors on the console, exceptions, and what the content security policy forbade. */
function listen(page: Page): void {
  page.on('console', (message) => {
    if (message.type() === 'error' || /Content.Security.Policy/i.test(message.text())) complaints.push(message.text());
  });
  page.on('pageerror', (error) => complaints.push(String(error)));
}

/** Elements that reach over the edge of the screen, but for those that scroll within another. */
async function outside(): Promise<string[]> {
  return await page.locator('main *').evaluateAll((elements) => {
    const view = elements[0].ownerDocument.defaultView;
    const scrolls = (element: (typeof elements)[number]): boolean => {
      for (let parent = element.parentElement; parent; parent = parent.parentElement)
        if (/auto|scroll|hidden|clip/.test(view.getComputedStyle(parent).overflowX)) return true;
      return false;
    };
    return elements
      .filter((element) => {
        const { right, width } = element.getBoundingClientRect();
        return width > 0 && right > view.innerWidth + 1 && !scrolls(element);
      })
      .map((element) => `${element.tagName} ${element.getAttribute('class')}`);
  });
}

const background = (): Promise<string> =>
  page.locator('body').evaluate((body) => body.ownerDocument.defaultView.getComputedStyle(body).backgroundColor);

/** Mean of a colour's channels, 0 to 255. */
function brightness(color: string): number {
  const channels = (color.match(/[\d.]+/g) ?? []).slice(0, 3).map(Number);
  return channels.reduce((sum, channel) => sum + channel, 0) / channels.length;
}
