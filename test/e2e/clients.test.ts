// The clients and the whole product: what applications give is stored once, whatever is killed in between, and found again.
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client, type KindStats, RequestError } from '@fleetreel/client';
import type { MadeKey } from '@fleetreel/proto/http';
import { chromium } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { eventually, Stack } from '../stack.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '..', '..');
const second = 1000;
/** How long the collector is away in the test of an application that goes on: a minute is what is promised, a part of it what is tried each time. */
const awaySeconds = Number(process.env.FLEETREEL_CLIENT_AWAY_SECONDS ?? 4);

/** A Python that the client is for. */
const python =
  ['python3', 'python'].find(
    (name) => spawnSync(name, ['-c', 'import sys; sys.exit(sys.version_info < (3, 9))']).status === 0,
  ) ?? '';

let stack: Stack;
let key: string;
/** Of the programs that the tests start. */
let env: Record<string, string | undefined>;

beforeAll(async () => {
  stack = await Stack.start();
  key = await makeKey(['write:measure', 'write:event', 'read']);
  env = {
    ...process.env,
    ADDRESS: stack.address,
    KEY: key,
    FLEETREEL_KEY: key,
    PYTHONPATH: join(root, 'clients/python/src'),
    PYTHONDONTWRITEBYTECODE: '1',
  };
});

afterAll(async () => {
  await stack?.[Symbol.asyncDispose]();
});

/** A key that may do these alone. */
async function makeKey(scopes: readonly string[]): Promise<string> {
  const answer = await fetch(`${stack.address}/api/v1/keys`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name: `clients ${scopes.join(' ')}`, scopes }),
  });
  expect(answer.ok, await answer.clone().text()).toBe(true);
  const { secret } = (await answer.json()) as MadeKey;
  stack.secrets.add(secret);
  return secret;
}

const clientOf = (options: object = {}) => new Client({ url: stack.address, key, flushMilliseconds: 100, ...options });

/** All values of measures of this name, once there are so many. */
async function valuesOf(name: string, count: number): Promise<(number | null)[]> {
  const client = clientOf();
  try {
    return await eventually(`${count} measures ${name}`, 60 * second, async () => {
      const values: (number | null)[] = [];
      for await (const { value } of client.measures({ name })) values.push(value);
      if (values.length < count) throw new Error(`there are ${values.length}`);
      return values;
    });
  } finally {
    await client.close();
  }
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index);
const ascending = (values: readonly (number | null)[]) => values.map(Number).sort((one, other) => one - other);

test('what was written is found, by name, range, metadata and page after page', async () => {
  const began = Date.now();
  await using client = clientOf();
  for (const value of upTo(2500))
    client.measure(
      'found.measure',
      value,
      { shard: value % 2 ? 'a' : 'b*', hot: value === 7 },
      { time: began + value },
    );
  client.measure('found.state', 'open', { text: 'with "quotes", and more' });
  client.event('found.event', 'it happened', { by: 'ana' }, { severity: 'error', time: began, end: began + 5 });
  expect(await client.flush()).toBe(true);
  expect(client.stats().measure).toMatchObject({ given: 2501, acknowledged: 2501, waiting: 0 });
  // Two pages and a half: all of them, the newest first.
  expect(await valuesOf('found.mea*', 2500)).toEqual(upTo(2500).reverse());

  const collect = async <T>(rows: AsyncIterable<T>) => await Array.fromAsync(rows);
  const hot = await collect(client.measures({ name: 'found.measure', where: { hot: true } }));
  expect(hot).toEqual([
    expect.objectContaining({ value: 7, text: null, time: began + 7, metadata: { shard: 'a', hot: true } }),
  ]);
  expect(await collect(client.measures({ where: { shard: 'b*' }, limit: 1200 }))).toHaveLength(1200);
  const range = { name: 'found.measure', from: new Date(began + 10), to: began + 20 };
  expect((await collect(client.measures(range))).map(({ value }) => value)).toEqual(upTo(20).slice(10).reverse());
  expect(await collect(client.measures({ where: ['text=with*'] }))).toMatchObject([
    { name: 'found.state', text: 'open' },
  ]);
  expect(await collect(client.measures({ where: { text: 'with "quotes", and more' } }))).toHaveLength(1);
  const events = await eventually('the event', 30 * second, async () => {
    const found = await collect(client.events({ name: ['found.event', 'none'], severity: 'error' }));
    return found.length > 0 ? found : undefined;
  });
  expect(events).toEqual([
    expect.objectContaining({
      text: 'it happened',
      severity: 'error',
      time: began,
      end: began + 5,
      metadata: { by: 'ana' },
      source: expect.stringMatching(/./),
    }),
  ]);
  await expect(collect(client.measures({ where: ['nonsense'] }))).rejects.toThrow(RequestError);
  await expect(collect(client.measures({ where: ['nonsense'] }))).rejects.toMatchObject({
    code: 'bad_condition',
    status: 400,
  });
});

/** What a program writes, line by line, once it has ended well. */
function linesOf(child: ChildProcess): () => Promise<string[]> {
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr])
    if (stream) createInterface({ input: stream }).on('line', (line) => lines.push(line));
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return async () => {
    const timer = setTimeout(() => child.kill('SIGKILL'), 120 * second);
    const code = await ended;
    clearTimeout(timer);
    expect(code, lines.join('\n')).toBe(0);
    return lines;
  };
}

/** What both programs of `away` say. */
type Away = {
  away: KindStats;
  lateMilliseconds: number;
  rssBytesMax: number;
  waitingMax: number;
  isClosed: boolean;
  end: KindStats;
  drops: { reason: string; count: number }[];
  errors: string[];
};

test('an application at 10,000 measures a second goes on without the collector, within its memory, and says what it dropped', {
  timeout: 180_000 + awaySeconds * second,
}, async () => {
  await stack.collector.kill();
  // A minute overflows the queue as it is by default; less a smaller one.
  const queue = awaySeconds < 20 ? 20_000 : 100_000;
  const given = awaySeconds * 10_000;
  const programs: [name: string, command: string, file: string][] = [
    ['away.javascript', process.execPath, 'fixtures/away.ts'],
    ['away.python', python, 'fixtures/away.py'],
  ];
  const started = programs.map(([name, command, file]) => {
    const child = spawn(command, [join(import.meta.dirname, file)], {
      env: { ...env, SECONDS: String(awaySeconds), QUEUE: String(queue) },
    });
    return { name, lines: linesOf(child) };
  });
  await pause(awaySeconds * second);
  await stack.startCollector();
  for (const { name, lines } of started) {
    const said = Object.assign({}, ...(await lines()).map((line) => JSON.parse(line) as object)) as Away;
    expect(said.waitingMax, name).toBeLessThanOrEqual(queue);
    // The program, and some times the bytes of what waits.
    expect(said.rssBytesMax / 2 ** 20, name).toBeLessThan(awaySeconds < 20 ? 250 : 400);
    expect(said.isClosed, name).toBe(true);
    const { acknowledged, dropped } = said.end;
    expect([said.end.given, acknowledged + dropped.full], name).toEqual([given, given]);
    expect(dropped.full, name).toBeGreaterThan(0);
    expect(said.drops.every(({ reason }) => reason === 'full')).toBe(true);
    expect(
      said.drops.reduce((sum, { count }) => sum + count, 0),
      name,
    ).toBe(dropped.full);
    expect(said.errors, name).toContain('connection');
    const stored = ascending(await valuesOf(name, acknowledged));
    expect(stored).toHaveLength(acknowledged);
    expect(new Set(stored).size, name).toBe(acknowledged);
    // The oldest went first.
    expect(stored.at(-1)).toBe(given - 1);
    expect(stored.slice(-queue / 2)).toEqual(upTo(given).slice(-queue / 2));
  }
});

test('a page writes, also with its last breath', async () => {
  const built = join(root, 'packages/client');
  await run(process.execPath, [join(built, 'build.ts')]);
  const script = readFileSync(join(built, 'dist/client.js'), 'utf8');
  const browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  try {
    const page = await browser.newPage();
    const complaints: string[] = [];
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    // From the collector's own address, as a page is that its server passes on.
    await page.route('**/client.js', (route) => route.fulfill({ body: script, contentType: 'text/javascript' }));
    await page.route('**/page', (route) =>
      route.fulfill({
        contentType: 'text/html',
        body: '<!doctype html><title>Page</title><link rel="icon" href="data:,">',
      }),
    );
    await page.goto(`${stack.address}/page`);
    const options = JSON.stringify({ url: stack.address, key, flushMilliseconds: 60_000 });
    // As text: what is compiled for the test has names that a page does not know.
    await page.evaluate(`(async () => {
      const { Client } = await import('/client.js');
      const client = new Client(${options});
      for (let value = 0; value < 10; value++) client.measure('page.measure', value);
      await client.flush();
      // Not due for a minute: only leaving sends it.
      for (let value = 10; value < 60; value++) client.measure('page.measure', value, { when: 'leaving' });
      client.event('page.left', 'gone');
    })()`);
    expect(ascending(await valuesOf('page.measure', 10))).toEqual(upTo(10));
    await page.goto('about:blank');
    expect(ascending(await valuesOf('page.measure', 60))).toEqual(upTo(60));
    await using client = clientOf();
    await eventually('the event', 30 * second, async () =>
      (await Array.fromAsync(client.events({ name: 'page.left' }))).length > 0 ? true : undefined,
    );
    expect(complaints).toEqual([]);
  } finally {
    await browser.close();
  }
});

test('the examples of the READMEs do what they say', async () => {
  const folder = await mkdtemp(join(import.meta.dirname, 'fixtures', 'example-'));
  try {
    for (const [readme, language, command, end] of [
      ['packages/client/README.md', 'js', process.execPath, 'mjs'],
      ['clients/python/README.md', 'python', python, 'py'],
    ] as const) {
      const text = readFileSync(join(root, readme), 'utf8');
      const examples = [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(([, one]) => one);
      expect(examples).toHaveLength(3);
      const outputs: string[] = [];
      for (const [index, example = ''] of examples.entries()) {
        const file = join(folder, `example${index}.${end}`);
        await writeFile(file, example.replaceAll('http://127.0.0.1:7600', stack.address));
        // The second finds what the first wrote.
        outputs.push(
          await eventually(`${readme}, example ${index + 1}`, 30 * second, async () => {
            const { stdout, stderr } = await run(command, [file], { env, timeout: 30_000 });
            expect(stderr).toBe('');
            return index === 1 && !stdout.includes('deployed') ? undefined : stdout;
          }),
        );
      }
      expect(outputs[0], readme).toBe('');
      expect(outputs[1], readme).toMatch(/ 12(?:\.0)? (?:true|True)\n(?:.*\n)*deployed version 3\n/);
      expect(outputs[2], readme).toBe('1\n');
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test('a key that may not write is told so once, and appears nowhere', async () => {
  const other = await makeKey(['read']);
  const told: string[] = [];
  const client = new Client({
    url: stack.address,
    key: other,
    onDrop: ({ count, error }) => told.push(`${count} ${error?.code}: ${error?.message}`),
  });
  for (const value of upTo(10)) client.measure('refused', value);
  await client.close();
  expect(told).toEqual([expect.stringMatching(/^10 not_permitted: /)]);
  expect(told.join()).not.toContain(other);
});
