// The console in a real browser, against the whole product. The tests follow one another as a visit does: nothing there
// yet, a host appears, its page is read, parts go away and come back, the agent ends.
import { setTimeout as pause } from 'node:timers/promises';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { type Browser, type BrowserContext, chromium, type Locator, type Page } from 'playwright';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { PublishedHost } from '../frames.ts';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import type { Program } from '../servers/program.ts';
import { eventually, Stack } from '../stack.ts';

const host = 'alder';
const second = 1000;
/** An agent is missed after three intervals, but not before 30 s; then a frame may have been under way. */
const offlineWithin = 40 * second;
const patience = { timeout: 30 * second };
const desktop = { width: 1440, height: 900 };
const widths = { phone: 360, tablet: 820, wall: 2560 };

let stack: Stack;
let agent: Program;
let connection: NatsConnection;
/** A host that has what this machine has not. */
let spruce: PublishedHost;
let browser: Browser;
let context: BrowserContext;
let page: Page;
/** What the browser complained of. A test that takes something away empties it. */
let complaints: string[] = [];

beforeAll(async () => {
  stack = await Stack.start();
  connection = await connect({ servers: stack.nats.url });
  spruce = new PublishedHost(connection, 'spruce');
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  context = await browser.newContext({ viewport: desktop, colorScheme: 'light', reducedMotion: 'reduce' });
  page = await context.newPage();
  listen(page);
});

afterAll(async () => {
  await browser?.close();
  await connection?.close();
  await stack?.[Symbol.asyncDispose]();
});

// The browser alone does not say why.
beforeEach(({ onTestFailed }) => {
  onTestFailed(() => {
    for (const part of [stack.collector, agent] as (Program | undefined)[])
      console.log(part?.lines.slice(-10).join('\n') ?? 'not started');
  });
});

test('before the first host the overview says how to start one', async () => {
  await page.goto(stack.address);
  await page.getByRole('heading', { name: 'No hosts yet' }).waitFor();
  await page.getByText(/fleetreel-agent run/).waitFor();
  expect(new URL(page.url()).pathname).toBe('/hosts');
});

test('a host appears by itself, online, and its values move', async () => {
  agent = await stack.startAgent({ host, interval: '1s', flags: ['--tags', 'rack=a3'] });
  await card().and(page.locator('[data-status="online"]')).waitFor();
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
  // What is missing is asked for twice a minute: nobody can push what did not come. Events are asked for when one has come: programs
  // start and stop on this machine all the time.
  expect(requests.filter((url) => !/\/api\/v1\/(?:coverage\?|rows\?table=event&)/.test(url))).toEqual([]);
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

test('processes of this machine: sorted, found, chosen and charted, all of it in the URL', async () => {
  await page.goto(`${stack.address}/hosts/${host}`);
  await page.getByRole('link', { name: 'Processes' }).click();
  const processes = table('process');
  await expect.poll(() => processes.locator('tbody tr').count(), patience).toBeGreaterThan(3);
  await processes.getByRole('columnheader', { name: 'Memory' }).getByRole('button').click();
  await processes.getByRole('searchbox').fill('node');
  await expect.poll(() => parameter('find.process'), patience).toBe('node');
  expect(parameter('sort.process')).toBe('-resident_memory_bytes');
  // The agent and the collector are such processes.
  await expect.poll(() => processes.locator('tbody tr').count(), patience).toBeGreaterThanOrEqual(2);
  for (const text of await processes.locator('tbody tr').allTextContents()) expect(text).toMatch(/node/i);

  const pid = (await processes.locator('tbody tr').first().getAttribute('data-entity')) ?? '';
  const row = processes.locator(`tr[data-entity="${pid}"]`);
  await row.getByRole('button').click();
  await expect.poll(() => parameter('only.process'), patience).toBe(pid);
  const chosen = async () => {
    await page.locator('#process').scrollIntoViewIfNeeded();
    await page.locator('[data-testid="facts"][data-table="process"]').waitFor();
    expect(await row.getByRole('button').getAttribute('aria-pressed')).toBe('true');
    await chart('process.memory').scrollIntoViewIfNeeded();
    await eventually(
      'points of one process',
      10 * second,
      async () => (await points('process.memory')) > 3 || undefined,
    );
    expect(
      await chart('process.memory')
        .getByText(/[KMG]iB/)
        .count(),
    ).toBeGreaterThan(0);
  };
  await chosen();
  await page.reload();
  await chosen();
  await page.getByRole('button', { name: 'choose none' }).click();
  await chart('process.memory').waitFor({ state: 'detached' });
});

test('counters that the processor lacks are N/A with the reason, those of the kernel count', async () => {
  await page.goto(`${stack.address}/hosts/${host}`);
  await page.getByRole('link', { name: 'Hardware counters' }).click();
  const facts = page.locator('[data-testid="facts"][data-table="perf"]');
  const value = (name: string) => facts.locator(`[data-field="${name}"]`);
  await expect
    .poll(() => value('context_switches_per_second').textContent(), { timeout: 30 * second })
    .toMatch(/\d.*\/s/);
  if ((await value('cycles_per_second').textContent()) === 'N/A')
    await page
      .locator('#perf')
      .getByText(/counters .*not available/)
      .waitFor();
});

test('what this host has not is one line with its reason, and no empty charts', async () => {
  const line = page.getByTestId('absent').locator('[data-section="battery"]');
  expect((await line.locator('dd').textContent())?.trim().length).toBeGreaterThan(20);
  expect(await page.locator('#battery').count()).toBe(0);
  expect(await page.getByRole('link', { name: 'Batteries' }).count()).toBe(0);
});

test('200 containers in one table: states, limits, a chosen one in charts; new values without a request', async () => {
  await spruce.describe();
  await spruce.publish(containers(0));
  await page.goto(`${stack.address}/hosts/spruce`);
  await page.getByRole('link', { name: 'Containers' }).click();
  const all = table('container');
  await expect.poll(() => all.locator('tbody tr').count(), patience).toBe(200);
  const sick = all.locator('tr[data-entity="00000000000c"]');
  expect(await sick.getByText('unhealthy').getAttribute('class')).toContain('bad');
  await sick.getByText('512 MiB / 1.00 GiB').waitFor();
  await sick.getByText('137', { exact: true }).waitFor();
  await sick.getByRole('button').click();
  await chart('container.memory').scrollIntoViewIfNeeded();
  await eventually('points', 10 * second, async () => (await points('container.memory')) > 0 || undefined);

  const requests: string[] = [];
  const note = (request: { url(): string }) => requests.push(request.url());
  page.on('request', note);
  await spruce.publish(containers(1));
  await page.locator('[data-testid="facts"] [data-field="cpu_percent"]').getByText('13.0').waitFor();
  page.off('request', note);
  expect(requests.filter((url) => url.includes('latest'))).toEqual([]);
});

test('a virtual machine leads to the host whose agent runs inside of it', async () => {
  const uuid = '0c6f2f0a-0000-4000-8000-00000000beef';
  const inside = new PublishedHost(connection, 'inside');
  await inside.describe({ dmiUuid: uuid.toUpperCase() });
  await inside.publish({ load: { load_1m_count: [1] } });
  const uuids = [uuid, '1c6f2f0a-0000-4000-8000-00000000beef'];
  await spruce.publish({
    source: ok('vm'),
    vm: { uuid: uuids, name: ['first', 'second'], cpu_percent: [5, 1] },
    vm_vcpu: { uuid: uuids, vcpu: ['0', '0'], cpu_percent: [5, 1] },
    vm_block: { uuid: uuids, device: ['vda', 'vda'], read_bytes_per_second: [1024, 2048] },
    vm_net: { uuid: uuids, interface: ['vnet0', 'vnet1'], receive_bytes_per_second: [1, 2] },
  });
  await page.goto(`${stack.address}/hosts/spruce`);
  await page.getByRole('link', { name: 'Virtual machines' }).click();
  const machines = table('vm');
  await machines.getByRole('button', { name: 'first' }).click();
  // Its parts alone, and their charts.
  for (const part of ['vm_vcpu', 'vm_block', 'vm_net'])
    await expect.poll(() => table(part).locator('tbody tr').count(), { ...patience, message: part }).toBe(1);
  await chart('vm.cpu').waitFor();
  await machines.getByRole('link', { name: 'inside' }).click();
  await page.waitForURL(`${stack.address}/hosts/inside`);
});

test('GPUs of one name are told apart; their processes have class and container', async () => {
  await spruce.publish({
    source: ok('gpu'),
    gpu: { gpu: ['GPU-aaaa', 'GPU-bbbb'], name: ['H100', 'H100'], used_percent: [90, 10] },
    gpu_process: {
      gpu: ['GPU-aaaa'],
      pid: ['4711'],
      name: ['python3'],
      class: ['ml_training'],
      container: ['00000000000c'],
      memory_used_bytes: [2 ** 30],
    },
  });
  await page.goto(`${stack.address}/hosts/spruce`);
  await page.getByRole('link', { name: 'GPUs' }).click();
  await expect.poll(() => table('gpu').locator('tbody tr').count(), patience).toBe(2);
  const row = table('gpu_process').locator('tbody tr');
  for (const text of ['python3', '4711', 'ml_training', '00000000000c', '1.00 GiB', 'H100 …aaaa'])
    await row.getByText(text, { exact: true }).waitFor();
  await chart('gpu.used').getByText('H100 …bbbb').waitFor();
});

test('model servers, their models and sessions', async () => {
  const server = ['http://127.0.0.1:11434'];
  await spruce.publish({
    source: ok('llm'),
    llm_server: { server, kind: ['ollama'], generated_tokens_per_second: [42], requests_running_count: [2] },
    llm_model: { server, model: ['qwen3:32b'], vram_bytes: [2 ** 30] },
    llm_session: {
      timestamp_seconds: [Date.now() / second - 60],
      server,
      model: ['qwen3:32b'],
      duration_seconds: [30],
    },
  });
  await page.goto(`${stack.address}/hosts/spruce`);
  await page.getByRole('link', { name: 'Model servers' }).click();
  await table('llm_server').getByText('42.0').or(table('llm_server').getByText('42 /s')).waitFor();
  await table('llm_model').getByText('qwen3:32b').waitFor();
  await table('llm_session').getByText('30.0 s').or(table('llm_session').getByText('30 s')).waitFor();
});

test('a source that sees a part only is limited, and says why', async () => {
  const reason = 'The I/O of other users can’t be read: run the agent as root.';
  await spruce.publish({
    source: { source: ['process', 'cpu'], state: ['ok', 'failed'], reason: [reason, 'EIO'], duration_seconds: [0, 0] },
    process: { pid: ['1'], name: ['init'], cpu_percent: [1] },
  });
  await page.goto(`${stack.address}/hosts/spruce`);
  const sources = page.getByTestId('sources');
  await sources.getByText('1 limited').waitFor();
  await sources.getByRole('button').click();
  await sources.locator('[data-source="process"][data-state="limited"]').getByText(reason).waitFor();
  await page.locator('#process').getByText(reason).waitFor();
});

test('events: newest first, by kind, host and word, in the URL; new ones come by themselves', async () => {
  const event = (kind: string, name: string, ago: number) => ({
    event: {
      timestamp_seconds: [Date.now() / second - ago],
      kind: [kind],
      action: ['start'],
      entity: [name],
      name: [name],
      detail: ['by hand'],
    },
  });
  await spruce.publish(event('gpu', 'older', 20));
  await spruce.publish(event('vm', 'newer', 10));
  await page.goto(`${stack.address}/events?host=spruce`);
  const names = () => page.getByTestId('events').locator('strong').allTextContents();
  await expect.poll(names, { timeout: 20 * second }).toEqual(['newer', 'older']);
  await page.getByRole('button', { name: 'gpu', exact: true }).click();
  await expect.poll(names, patience).toEqual(['older']);
  expect(parameter('kind')).toBe('gpu');
  await page.reload();
  await expect.poll(names, patience).toEqual(['older']);
  await page.getByRole('button', { name: 'show all' }).click();
  await page.getByRole('searchbox', { name: 'Find in events' }).fill('HAND newer');
  await expect.poll(names, patience).toEqual(['newer']);
  await page.getByRole('searchbox', { name: 'Find in events' }).fill('');
  await spruce.publish(event('container', 'newest', 0));
  await expect.poll(names, { timeout: 20 * second }).toEqual(['newest', 'newer', 'older']);
  await page.getByRole('link', { name: 'spruce' }).last().click();
  await page.waitForURL(`${stack.address}/hosts/spruce`);
  await expect.poll(names, { timeout: 20 * second }).toEqual(['newest', 'newer', 'older']);
});

test('what could not be stored is said on the page of events, with the reason', async () => {
  await spruce.publish({}, Date.now(), () => Buffer.from('no frame'));
  await page.goto(`${stack.address}/events?host=spruce`);
  const letters = page.getByTestId('dead-letters');
  await eventually('a dead letter', 60 * second, async () => {
    await page.reload();
    return await letters
      .locator('summary')
      .waitFor({ timeout: 3 * second })
      .then(() => true);
  });
  await letters.locator('summary').click();
  await letters.getByText('spruce: undecodable, not a frame').waitFor();
});

test('the first load of the console is light', async () => {
  const fresh = await browser.newContext();
  const visit = await fresh.newPage();
  const sizes: Promise<number>[] = [];
  visit.on('requestfinished', (request) => {
    if (!request.url().includes('/api/')) sizes.push(request.sizes().then(({ responseBodySize }) => responseBodySize));
  });
  await visit.goto(`${stack.address}/hosts/${host}`, { waitUntil: 'networkidle' });
  const bytes = (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
  await fresh.close();
  expect(bytes).toBeGreaterThan(20_000);
  expect(bytes).toBeLessThan(120_000);
});

test('dragging over a chart chooses the range: URL, data of all charts, reload, back', async () => {
  await page.goto(`${stack.address}/hosts/${host}`);
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

test('phone, tablet and wall: nothing is wider than the screen, in either theme', {
  timeout: 120 * second,
}, async () => {
  // Of two days, which are written with the times.
  const midnight = new Date(Date.now() - 24 * 3600 * second).setHours(0, 0, 0, 0);
  const overMidnight = `/events?from=${midnight - 900 * second}&to=${midnight + 900 * second}`;
  /** Each page, and what is there once it is drawn. */
  const pages = [
    ['/hosts', card()],
    ['/hosts?layout=table', card()],
    [`/hosts/${host}`, chart('cpu.mode')],
    ['/hosts/spruce', chart('cpu.mode')],
    ['/events', page.getByTestId('events')],
    [overMidnight, page.getByRole('button', { name: /\d+ \w+ 23:45.* – \d+ \w+ 00:15/ })],
  ] as const;
  for (const [path, shown] of pages) {
    await page.goto(stack.address + path);
    await shown.waitFor();
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      for (const [name, width] of Object.entries(widths)) {
        await page.setViewportSize({ width, height: 900 });
        await shown.waitFor();
        // Charts follow a moment later.
        const beyond = async () => [
          ...(await page
            .locator('html')
            .evaluate((html) => (html.scrollWidth > html.clientWidth ? [`${html.scrollWidth} pixels`] : []))),
          ...(await outside()),
        ];
        await expect.poll(beyond, { ...patience, message: `${path} on ${name}, ${colorScheme}` }).toEqual([]);
      }
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
  // Refused requests are the browser's to mention.
  using _ = forgiving(/503/);
  await stack.questdb.kill();
  await page.goto(`${stack.address}/hosts/${host}`);
  await page
    .getByText(/No history/)
    .first()
    .waitFor();
  const before = await points('cpu.mode');
  await eventually('live points', 30 * second, async () => (await points('cpu.mode')) > before + 2 || undefined);
  await stack.questdb.restart();
  await stack.ready();
  await page
    .getByText(/No history/)
    .first()
    .waitFor({ state: 'detached', timeout: 45 * second });
  await eventually('history', 30 * second, async () => (await points('cpu.mode')) > 30 || undefined);
});

test('collector away: "no live data", and it heals without a reload', async () => {
  using _ = forgiving(/ERR_CONNECTION|WebSocket|Failed to load resource/);
  await stack.collector.stop();
  await page.getByText(/No live data since/).waitFor();
  await pause(2 * second);
  const before = await points('cpu.mode');
  await stack.startCollector();
  // It tries again after 20 s at the longest.
  await page.getByText(/No live data since/).waitFor({ state: 'detached', timeout: 60 * second });
  await eventually('live points', 60 * second, async () => (await points('cpu.mode')) > before + 3 || undefined);
});

test('nor did it complain of anything else when parts were away', () => {
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

const table = (name: string) => page.locator(`[data-testid="entity-table"][data-table="${name}"]`);
/** What the URL says. */
const parameter = (name: string) => new URL(page.url()).searchParams.get(name);

/** A source that sees all that it is for. */
const ok = (name: string) => ({ source: [name], state: ['ok'], reason: [''], duration_seconds: [0.001] });

/** Containers of which each uses as much CPU as its number says, and the twelfth is not well. */
function containers(more: number) {
  const numbers = Array.from({ length: 200 }, (_, index) => index);
  return {
    source: ok('container'),
    container: {
      container: numbers.map((number) => number.toString(16).padStart(12, '0')),
      name: numbers.map((number) => `app-${number}`),
      state: numbers.map((number) => (number === 12 ? 'exited' : 'running')),
      health: numbers.map((number) => (number === 12 ? 'unhealthy' : 'healthy')),
      cpu_percent: numbers.map((number) => number + more),
      memory_used_bytes: numbers.map(() => 2 ** 29),
      memory_limit_bytes: numbers.map(() => 2 ** 30),
      exit_code: numbers.map((number) => (number === 12 ? 137 : Number.NaN)),
    },
  };
}

async function points(id: string): Promise<number> {
  return Number(await chart(id).getAttribute('data-points'));
}

/** The stretch of time that a chart shows. */
async function range(id: string): Promise<[from: number, to: number]> {
  // Of one moment: a live range goes on.
  return await chart(id).evaluate(({ dataset }) => [Number(dataset.from), Number(dataset.to)]);
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

/** What the browser says of what a test takes away is forgotten at its end, however that comes. */
const forgiving = (pattern: RegExp): Disposable => ({
  [Symbol.dispose]() {
    complaints = complaints.filter((text) => !pattern.test(text));
  },
});

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
