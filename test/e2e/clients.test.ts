// The clients and the whole product: what applications give is stored once, whatever is killed in between, and found again.
import { execFile, spawn, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Client, type Drop, type KindStats, RequestError } from '@fleetreel/client';
import type { MadeKey } from '@fleetreel/proto/http';
import { chromium } from 'playwright';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { eventually, Stack } from '../stack.ts';

const run = promisify(execFile);
const root = join(import.meta.dirname, '..', '..');
const second = 1000;
/** How long the collector is away in the test of an application that goes on: a minute is what is promised, a part of it what is tried each time. */
const awaySeconds = Number(process.env.FLEETREEL_CLIENT_AWAY_SECONDS ?? 2);
/** How much an application keeps meanwhile: a minute overflows the queue as it is by default, less a smaller one. */
const awayQueue = awaySeconds < 20 ? 10_000 : 100_000;

/** A Python that the client is for. */
const python =
  ['python3', 'python'].find(
    (name) => spawnSync(name, ['-c', 'import sys; sys.exit(sys.version_info < (3, 9))']).status === 0,
  ) ?? '';

let stack: Stack;
let key: string;
let awayKeys: string[];
/** Of the programs that the tests start. */
let env: Record<string, string | undefined>;

beforeAll(async () => {
  stack = await Stack.start();
  key = await makeKey(['write:measure', 'write:event', 'read']);
  awayKeys = [await makeKey(['write:measure']), await makeKey(['write:measure'])];
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

describe.concurrent('with all that it needs', () => {
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
        const examples = [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\``, 'gms'))].map(
          ([, one]) => one,
        );
        expect(examples).toHaveLength(4);
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
        expect(outputs[3], readme).toBe('');
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
});

/** What a client counted, under the names of Python. */
type PythonStats = Omit<KindStats, 'waitingBytes'> & { waiting_bytes: number };

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

describe('while the collector is killed and comes back, and then the log', () => {
  const told: string[] = [];
  /** Of what this process wrote. */
  let kept: { isClosed: boolean; given: number; stats: KindStats };
  let keptByPython: { closed: boolean; found: number; measure: PythonStats; event: PythonStats };
  const away = new Map<string, Away>();

  beforeAll(
    async () => {
      const client = clientOf({
        batchCount: 100,
        onError: ({ code }: { code: string }) => told.push(code),
        onDrop: ({ reason, error }: Drop) => told.push(`dropped: ${reason} ${error?.message}`),
      });
      const other = start(python, 'fixtures/kill.py', env);
      let value = 0;
      const writing = setInterval(() => {
        for (let count = 0; count < 20; count++) client.measure('kill.javascript', value++);
      }, 20);
      /** Both go on to write, and what they write is acknowledged. */
      const goesOn = async (more: number) => {
        const { acknowledged } = client.stats().measure;
        await eventually('writing that goes on', 60 * second, () =>
          client.stats().measure.acknowledged >= acknowledged + more ? true : undefined,
        );
      };
      try {
        await goesOn(500);
        await other.line(/writing/);
        await stack.collector.kill();
        const settings = { SECONDS: String(awaySeconds), QUEUE: String(awayQueue) };
        // Each with a key of its own, and so with as much as a key may write.
        const programs = [
          ['away.javascript', process.execPath, 'fixtures/away.ts'] as const,
          ['away.python', python, 'fixtures/away.py'] as const,
        ].map(([name, command, file], index) => ({
          name,
          program: start(command, file, { ...env, ...settings, KEY: awayKeys[index] }),
        }));
        // They have given all while it was away.
        for (const { program } of programs) await program.line(/"away":/, (awaySeconds + 60) * second);
        await stack.startCollector();
        await goesOn(500);
        await stack.nats.kill();
        await pause(second / 2);
        await stack.nats.restart();
        await goesOn(500);
        clearInterval(writing);
        other.end();
        const isClosed = await client.close(60 * second);
        kept = { isClosed, given: value, stats: client.stats().measure };
        keptByPython = JSON.parse((await other.ended()).at(-1) ?? '') as typeof keptByPython;
        for (const { name, program } of programs)
          away.set(
            name,
            Object.assign({}, ...(await program.ended()).map((line) => JSON.parse(line) as object)) as Away,
          );
      } finally {
        clearInterval(writing);
        other.end();
      }
    },
    240_000 + awaySeconds * second,
  );

  test('nothing acknowledged is lost, and nothing is doubled', async () => {
    expect(told.filter((one) => one.startsWith('dropped'))).toEqual([]);
    expect(kept.isClosed, told.join(', ')).toBe(true);
    expect(kept.stats).toMatchObject({ given: kept.given, acknowledged: kept.given, waiting: 0 });
    expect(kept.stats.retries).toBeGreaterThan(0);
    expect(ascending(await valuesOf('kill.javascript', kept.given))).toEqual(upTo(kept.given));

    const { closed, found, measure, event } = keptByPython;
    expect({ closed, found }).toEqual({ closed: true, found: 10 });
    for (const { given, acknowledged } of [measure, event]) expect(acknowledged).toBe(given);
    expect(measure.retries).toBeGreaterThan(0);
    expect(ascending(await valuesOf('kill.python', measure.given))).toEqual(upTo(measure.given));
  });

  test('an application at 10,000 measures a second goes on, within its memory, and says what it dropped', async () => {
    const given = awaySeconds * 10_000;
    expect([...away.keys()]).toEqual(['away.javascript', 'away.python']);
    for (const [name, said] of away) {
      expect(said.waitingMax, name).toBeLessThanOrEqual(awayQueue);
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
      expect(stored.slice(-awayQueue / 2)).toEqual(upTo(given).slice(-awayQueue / 2));
    }
  });
});

/** A program of the fixtures: a line of it, the end of its input, and all of its lines once it has ended well. */
function start(command: string, file: string, environment: Record<string, string | undefined>) {
  const child = spawn(command, [join(import.meta.dirname, file)], { env: environment });
  const lines: string[] = [];
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream }).on('line', (line) => lines.push(line));
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return {
    line: async (pattern: RegExp, milliseconds = 60 * second) =>
      await eventually(`a line of ${file} as ${pattern.source}`, milliseconds, () => {
        if (child.exitCode !== null) throw new Error(lines.join('\n'));
        return lines.find((line) => pattern.test(line));
      }),
    end: () => child.stdin.end(),
    ended: async () => {
      const timer = setTimeout(() => child.kill('SIGKILL'), 120 * second);
      const code = await ended;
      clearTimeout(timer);
      expect(code, lines.join('\n')).toBe(0);
      return lines;
    },
  };
}
