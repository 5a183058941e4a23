// Names of containers, models and whatever else are what others chose: any text at all. They go through the log, the store,
// HTTP, WebSocket, gRPC, the CLI and the console as they are, and do nothing on their way: one test for each edge.
import { once } from 'node:events';
import { printable } from '@fleetreel/deploy/local/printable';
import type { Latest, LiveRows, Row, Rows, Series } from '@fleetreel/proto/http';
import { Query } from '@fleetreel/proto/services';
import { credentials } from '@grpc/grpc-js';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { type Browser, chromium, type Page } from 'playwright';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PublishedHost } from '../frames.ts';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { startProgram } from '../servers/program.ts';
import { endOf, eventually, programs, Stack } from '../stack.ts';

const host = 'hostile';
const second = 1000;

/** Texts as a kernel, an engine or a server may hand them over; what each of them is an attempt at. */
const names: Readonly<Record<string, string>> = {
  quotes: `a"b'c\`d"""`,
  lines: 'first\nsecond\r\nthird\ttab\v\f',
  'the end of a line': 'ends\n',
  script: '<script>alert("script")</script>',
  image: '"><img src=x onerror=alert(1)>',
  template: ['{alert(1)} $', '{alert(2)} {{3}} {@html x}'].join(''),
  entity: '&lt;b&gt;&amp;&#60;',
  'escape sequences': '\u001b[31mred\u001b[2J\u001b]0;owned\u0007\u009b31m',
  backspaces: 'good\b\b\b\bevil\u007f',
  shell: '$(touch /tmp/owned) `id` ; reboot & | > < * ? ~ !!',
  formula: "=cmd()|'/c calc'!A1",
  'another formula': '@SUM(1+1)*cmd|x',
  'a dash': '--help',
  emoji: '🦀👨‍👩‍👧👍🏽',
  'right to left': '\u202egnp.exe\u202c',
  Hebrew: 'שלום, עולם (1)',
  'zero width': 'pay\u200bpal\ufeff',
  'line protocol': 'a,b=c d\\ e=1i,f\\,g== "h" 1700000000000000000',
  'only a comma': ',',
  'only an equals sign': '=',
  'a backslash at the end': 'c:\\',
  SQL: "'; DROP TABLE container; --",
  'more SQL': "x' OR '1'='1' /* $1 %s ?",
  JSON: '{"a":[null]}\\u0000\\',
  prototype: '__proto__',
  constructor: 'constructor',
  null: 'null',
  'not a number': 'NaN',
  spaces: '  padded  ',
  path: '../../etc/passwd',
  percent: '%00%2e%2f%',
  'a label': 'name="x"} 1\nevil_metric{a="b"} 2',
  '4 KB': `${'x'.repeat(4093)}end`,
  '4 KB of three bytes each': '界'.repeat(1365),
  'combining marks': `Z${'\u0351\u036b\u0343'.repeat(40)}algo`,
};
const all = Object.values(names);
const cases = Object.entries(names);

/** What no text is in the store: bytes that are no UTF-8, and the character NUL, which it can't hold. */
const notUtf8 = { placeholder: 'BADBYTES', bytes: Buffer.from([0x66, 0xff, 0xfe, 0x80, 0xc3, 0x28, 0x6f, 0x6f]) };
const nul = 'nul\0nul';

let stack: Stack;
let connection: NatsConnection;
let browser: Browser;
let query: InstanceType<typeof Query>;

beforeAll(async () => {
  stack = await Stack.start();
  connection = await connect({ servers: stack.nats.url });
  query = new Query(stack.grpcAddress, credentials.createInsecure());
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  await publish();
  await eventually('rows in the store', 30 * second, async () => {
    const counts = ['event', 'container', 'llm_model'].map(
      async (table) => (await get<Rows>(`rows?table=${table}&host=${host}&from=-1h`)).rows.length,
    );
    const [event = 0, container, model] = await Promise.all(counts);
    return event === all.length + 2 && container === all.length && model === all.length ? true : undefined;
  });
});

afterAll(async () => {
  query?.close();
  await browser?.close();
  await connection?.close();
  await stack?.[Symbol.asyncDispose]();
});

describe('the store', () => {
  test('has each name as it was: as a symbol, as a key, as text', async () => {
    expect(await stored('container', 'name')).toEqual(sorted(all));
    expect(await stored('llm_model', 'model')).toEqual(sorted(all));
    expect(await stored('event', 'detail')).toEqual(sorted(all));
  });

  test('has something readable of what it can’t have', async () => {
    const odd = (await column('event', 'entity')).filter((text) => !all.includes(text));
    expect(sorted(odd)).toEqual(sorted(['nul\ufffdnul', notUtf8.bytes.toString('utf8')]));
  });

  test('has no table, column or row that nobody asked for', async () => {
    const { rows } = await stack.questdb.query('SELECT table_name FROM tables()');
    const unknown = rows.map(([name]) => String(name)).filter((name) => /evil|owned/.test(name));
    expect(unknown).toEqual([]);
    expect((await stack.questdb.query('SELECT count() FROM container')).rows).toEqual([[all.length]]);
  });
});

describe('HTTP', () => {
  test('newest rows have the names as they were', async () => {
    const { rows } = await get<Latest>(`latest?table=container&host=${host}`);
    expect(sorted(rows.map(({ name }) => String(name)))).toEqual(sorted(all));
  });

  test.each(cases)('a series, and rows, of the one entity with this name: %s', async (_, name) => {
    const value = numberOf(name);
    const label = encodeURIComponent(name);
    const series = await get<Series>(
      `series?table=llm_model&field=vram_bytes&host=${host}&from=-1h&step=1m&label.model=${label}`,
    );
    expect(series.series.map(({ labels }) => labels.model)).toEqual([name]);
    expect(series.series[0]?.values.filter((one) => one !== null)).toEqual([value]);

    const found = await get<Rows>(`rows?table=container&host=${host}&from=-1h&label.name=${label}`);
    expect(found.rows.map((row) => [row.name, row.cpu_percent])).toEqual([[name, value]]);
    const happened = await get<Rows>(`rows?table=event&host=${host}&from=-1h&label.detail=${label}`);
    expect(happened.rows.map((row) => [row.name, row.detail, row.entity])).toEqual([[name, name, name]]);
    const latest = await get<Latest>(`latest?table=llm_model&host=${host}&label.model=${label}`);
    expect(latest.rows.map(({ vram_bytes }) => vram_bytes)).toEqual([value]);
  });

  test('a name that can’t be stored is asked for without harm', async () => {
    const label = encodeURIComponent(nul);
    for (const path of [
      `series?table=llm_model&field=vram_bytes&from=-1h&label.model=${label}`,
      `rows?table=event&from=-1h&label.name=${label}`,
      `latest?table=event&label.name=${label}`,
    ]) {
      const answer = await fetch(`${stack.address}/api/v1/${path}`);
      expect(answer.status, `${path}: ${await answer.clone().text()}`).toBeLessThan(500);
    }
  });

  test('the page of the collector’s own metrics has well-formed lines only', async () => {
    const answer = await fetch(`${stack.address}/metrics`);
    expect(answer.status).toBe(200);
    const lines = (await answer.text()).split('\n').filter((line) => line !== '');
    const sample =
      /^[a-zA-Z_:][\w:]*(\{([a-zA-Z_]\w*="([^"\\\n]|\\["\\n])*",?)*\})? (NaN|[-+]?(Inf|[\d.e+-]+))( \d+)?$/;
    for (const line of lines) expect(line).toMatch(line.startsWith('#') ? /^# / : sample);
    expect(lines.some((line) => line.startsWith('evil_metric'))).toBe(false);
  });
});

test('WebSocket: the names come as they are', async () => {
  const socket = new WebSocket(`${stack.address.replace('http', 'ws')}/api/v1/live`);
  await once(socket, 'open');
  socket.send(JSON.stringify({ type: 'subscribe', id: '1', table: 'container', hosts: [host] }));
  const [message] = await once(socket, 'message');
  const { labels } = JSON.parse(String((message as MessageEvent).data)) as LiveRows;
  socket.close();
  expect(sorted(labels.name ?? [])).toEqual(sorted(all));
});

describe('gRPC', () => {
  test('newest rows, rows and series of each name', async () => {
    const latest = await call('Latest', { table: 'container', hosts: [host] });
    expect(sorted(latest.rows.map(({ labels }) => labels.name ?? ''))).toEqual(sorted(all));
    for (const name of all) {
      const labels = { model: { values: [name] } };
      const range = { hosts: [host], from: '-1h', to: 'now' };
      const { rows } = await call('Rows', { table: 'llm_model', labels, ...range });
      expect(rows.map((row) => [row.labels.model, row.values.vram_bytes])).toEqual([[name, numberOf(name)]]);
      const { series } = await call('Series', { table: 'llm_model', fields: ['vram_bytes'], labels, ...range });
      expect(series.map((one) => one.labels.model)).toEqual([name]);
    }
  });
});

describe('CLI', () => {
  test('people see no character that does anything to their terminal', async () => {
    for (const args of [
      ['latest', 'container'],
      ['rows', 'event', '--since', '1h'],
      ['series', 'llm_model', 'vram_bytes', '--from', '-1h', '--step', '1h'],
    ]) {
      const lines = await cli(args);
      const text = lines.join('\n');
      // Line by line: a name makes no line of its own.
      expect(text).not.toMatch(/[^\P{Cc}\n]|[\p{Cf}\p{Zl}\p{Zp}]/u);
      for (const name of all) expect(text, name).toContain(printable(name).slice(0, 400).trimEnd());
      expect(lines.filter((line) => line.startsWith('second') || line.startsWith('evil_metric'))).toEqual([]);
    }
  });

  test('programs get the names as they are, in JSON that is harmless itself', async () => {
    const [line = ''] = await cli(['latest', 'container', '--json']);
    expect(line).not.toMatch(/[\p{Cc}\p{Cf}]/u);
    expect(sorted((JSON.parse(line) as Latest).rows.map(({ name }) => String(name)))).toEqual(sorted(all));
  });

  test('labels are asked for by these names', async () => {
    const labels = all.flatMap((name) => ['--label', `name=${name}`]);
    const [line = ''] = await cli(['rows', 'event', '--host', host, ...labels, '--json']);
    const found = (JSON.parse(line) as Rows).rows.map((row: Row) => JSON.stringify([row.name, row.detail]));
    expect(sorted(found)).toEqual(sorted(all.map((name) => JSON.stringify([name, name]))));
  });
});

describe('console', () => {
  let page: Page;
  const complaints: string[] = [];

  beforeAll(async () => {
    page = await browser.newPage({ viewport: { width: 1440, height: 1000 }, reducedMotion: 'reduce' });
    page.on('dialog', (dialog) => {
      complaints.push(`a dialog: ${dialog.message()}`);
      void dialog.dismiss();
    });
    page.on('pageerror', (error) => complaints.push(String(error)));
    page.on('console', (message) => {
      if (message.type() === 'error') complaints.push(message.text());
    });
  });

  test('the table of containers has every name as text, and nothing else came of it', async () => {
    await page.goto(`${stack.address}/hosts/${host}`);
    const table = page.locator('[data-testid="entity-table"][data-table="container"]');
    await page.getByRole('link', { name: 'Containers' }).click();
    await expect.poll(() => table.locator('tbody tr').count(), { timeout: 20 * second }).toBe(all.length);
    const shown = await table.locator('tbody th').allTextContents();
    expect(shown.map((text) => text.trim()).sort()).toEqual(all.map((name) => readable(name).trim()).sort());
    await harmless(page);
    await page.setViewportSize({ width: 360, height: 800 });
    await harmless(page);
    await page.setViewportSize({ width: 1440, height: 1000 });
    expect(complaints).toEqual([]);
  });

  test('a row is chosen: its name in the heading, its values, its charts', async () => {
    for (const name of [names.script, names.image, names['escape sequences'], names['4 KB'], names['right to left']]) {
      await page.goto(`${stack.address}/hosts/${host}?only.container=${idOf(name as string)}#container`);
      const facts = page.locator('[data-testid="facts"][data-table="container"]');
      await page.locator('#container').scrollIntoViewIfNeeded();
      expect(await facts.locator('h3').textContent({ timeout: 20 * second })).toBe(readable(name as string));
      await page.locator('[data-chart="container.cpu"]').waitFor();
      await harmless(page);
    }
    expect(complaints).toEqual([]);
  });

  test('models are told apart in the legends of charts by names that are only text', async () => {
    await page.goto(`${stack.address}/hosts/${host}?only.llm_server=here#llm_server`);
    const table = page.locator('[data-testid="entity-table"][data-table="llm_model"]');
    await page.locator('#llm_server').scrollIntoViewIfNeeded();
    await expect.poll(() => table.locator('tbody tr').count(), { timeout: 20 * second }).toBe(all.length);
    await harmless(page);
    expect(complaints).toEqual([]);
  });

  test('events have every name as text', async () => {
    await page.goto(`${stack.address}/events`);
    const shown = page.getByTestId('events').locator('strong');
    await expect.poll(() => shown.count(), { timeout: 20 * second }).toBe(all.length + 2);
    const texts = await shown.allTextContents();
    for (const name of all) expect(texts).toContain(readable(name));
    await harmless(page);
    await page.setViewportSize({ width: 360, height: 800 });
    await harmless(page);
    expect(complaints).toEqual([]);
  });

  test('what can’t be stored is shown as something readable', async () => {
    const texts = await page.getByTestId('events').locator('strong').allTextContents();
    expect(texts.filter((text) => text.includes('\ufffd'))).toHaveLength(2);
  });
});

/** As the console shows it: what can't be seen is written out, but for the joiners within an emoji. */
const readable = (name: string): string => (name === names.emoji ? name : printable(name));

/** No element was made of a name, and nothing is wider than the page. */
async function harmless(page: Page): Promise<void> {
  const found = await page.locator('html').evaluate((html) => ({
    made: html.querySelectorAll('main script, main img, main b > img, main iframe, main [onerror]').length,
    scroll: html.scrollWidth,
    client: html.clientWidth,
  }));
  expect(found.made).toBe(0);
  expect(found.scroll).toBeLessThanOrEqual(found.client);
}

/** One frame that has each name as a label, as a key and as text, with a value that says which one it is. */
async function publish(): Promise<void> {
  const time = Math.floor((Date.now() - 5 * second) / second) * second;
  const values = all.map(numberOf);
  const events = (texts: readonly string[]) => ({
    timestamp_seconds: texts.map((_, index) => time / second - index / 100),
    kind: texts.map(() => 'container'),
    action: texts.map(() => 'start'),
    entity: texts,
    name: texts,
    detail: texts,
  });
  const published = new PublishedHost(connection, host);
  await published.describe();
  await published.publish({ event: events([nul, notUtf8.placeholder]) }, time, (bytes) => {
    for (let at = bytes.indexOf(notUtf8.placeholder); at >= 0; at = bytes.indexOf(notUtf8.placeholder))
      notUtf8.bytes.copy(bytes, at);
    return bytes;
  });
  await published.publish(
    {
      source: { source: ['container', 'llm_server'], state: ['ok', 'ok'], reason: [names.script ?? '', ''] },
      container: { container: all.map(idOf), name: all, cpu_percent: values },
      llm_server: { server: ['here'], requests_running_count: [1] },
      llm_model: { server: all.map(() => 'here'), model: all, vram_bytes: values },
      event: events(all),
    },
    time + 1,
  );
}

/** Which name it is, as a number that says so. */
const numberOf = (name: string): number => all.indexOf(name) + 1;
const idOf = (name: string): string => numberOf(name).toString(16).padStart(12, '0');

const sorted = (texts: readonly string[]): string[] => [...texts].sort();

async function column(table: string, name: string): Promise<string[]> {
  const { rows: found } = await stack.questdb.query(`SELECT DISTINCT ${name} FROM ${table} WHERE host = '${host}'`);
  return found.map(([text]) => String(text));
}

const stored = async (table: string, name: string): Promise<string[]> =>
  sorted((await column(table, name)).filter((text) => !text.includes('\ufffd')));

async function get<T>(path: string): Promise<T> {
  const answer = await fetch(`${stack.address}/api/v1/${path}`);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as T;
}

type Answer = {
  rows: { labels: Record<string, string>; values: Record<string, number> }[];
  series: { labels: Record<string, string> }[];
};

function call(method: 'Latest' | 'Rows' | 'Series', question: object): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const done = (error: Error | null, answer?: unknown) => (error ? reject(error) : resolve(answer as Answer));
    (query[method] as (question: object, done: (error: Error | null, answer?: unknown) => void) => void)(
      question,
      done,
    );
  });
}

/** What the CLI prints. */
async function cli(args: readonly string[]): Promise<readonly string[]> {
  const program = await startProgram(programs.cli, [...args, '--address', stack.grpcAddress]);
  const { code, output } = await endOf(program);
  expect(code, output).toBe(0);
  return program.lines;
}
