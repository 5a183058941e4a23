import { once } from 'node:events';
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { Discovery, parseListening } from '#llm/discovery.ts';
import type { Context } from '#source.ts';
import { llm } from '#sources/llm.ts';
import { expectContract, type Row, rows, SteppedTree, type TestClock, unfilledColumns } from '#sources/testing.ts';

const capturedPage = (name: string): string => readFileSync(join(import.meta.dirname, 'fixtures-llm', name), 'utf8');

/** A server that answers with captured pages: path -> answer. Another path is not found. */
class Pages implements AsyncDisposable {
  readonly #server: Server;
  answers: Readonly<Record<string, string>>;

  private constructor(server: Server, answers: Readonly<Record<string, string>>) {
    this.#server = server;
    this.answers = answers;
  }

  static async serve(answers: Readonly<Record<string, string>>, port = 0): Promise<Pages> {
    const server = createServer((request, response) => {
      const answer = pages.answers[request.url ?? ''];
      // A hanging server: it takes the request, and never answers.
      if (answer === 'hang') return;
      response.writeHead(answer === undefined ? 404 : 200).end(answer);
    });
    const pages = new Pages(server, answers);
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return pages;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

/** A context whose clock is moved, and whose waits are real. */
function contextOf(tree: SteppedTree, servers: readonly string[]): Context & { clock: TestClock } {
  const { context } = tree;
  const clock: TestClock = {
    ...context.clock,
    sleep: (milliseconds, signal) => systemClock.sleep(Math.max(milliseconds, 5000), signal),
  };
  return {
    ...context,
    clock,
    settings: { ...context.settings, llm: { ...context.settings.llm, servers: [...servers] } },
  };
}

const llamaIdle = {
  '/metrics': capturedPage('llama.cpp-b11549-idle.txt'),
  '/props': capturedPage('llama.cpp-b11549-props.json'),
  '/v1/models': capturedPage('llama.cpp-b11549-models.json'),
};
const llamaServed = { ...llamaIdle, '/metrics': capturedPage('llama.cpp-b11549-served.txt') };

const ollama = {
  '/api/version': capturedPage('ollama-0.17.4-version.json'),
  '/api/ps': capturedPage('ollama-0.17.4-ps.json'),
};

test('llama.cpp: tokens, the model and a session from its metrics', async () => {
  await using server = await Pages.serve(llamaIdle);
  using tree = new SteppedTree();
  const context = contextOf(tree, [`http://${server.address}`]);
  const source = llm(context);
  await source.open();
  const samples: Tables[] = [await source.sample()];
  server.answers = llamaServed;
  context.clock.advance(5);
  samples.push(await source.sample());
  for (const sample of samples) expectContract(sample, source);
  filled.push(...samples);
  const server1 = rows(samples[1]?.llm_server, 'server')[server.address];
  expect(server1).toMatchObject({
    kind: 'llama.cpp',
    requests_running_count: 0,
    requests_waiting_count: 0,
    prompt_tokens_per_second: 71 / 5,
    generated_tokens_per_second: 18 / 5,
    generated_tokens_total: 18,
    models_count: 1,
  });
  expect(server1?.inter_token_latency_seconds).toBeCloseTo(0.00316 / 18, 8);
  expect(server1?.prefix_cache_hit_percent).toBeCloseTo((8 / 79) * 100, 6);
  expect(rows(samples[1]?.llm_model, 'model')['tiny.gguf']).toMatchObject({
    quantization: 'all F32',
    parameters: '28.6K',
    context_tokens_count: 256,
    size_bytes: 114_560,
  });
  expect(samples[0]?.llm_session).toBeUndefined();
  expect(rows(samples[1]?.llm_session, 'model')['tiny.gguf']).toMatchObject({
    timestamp_seconds: 1,
    duration_seconds: 5,
    active_flag: 1,
    prompt_tokens_count: 71,
    generated_tokens_count: 18,
  });
  // The pause ends it: a last row, and none after it.
  context.clock.advance(301);
  expect(rows((await source.sample()).llm_session, 'model')['tiny.gguf']).toMatchObject({
    timestamp_seconds: 1,
    duration_seconds: 5,
    active_flag: 0,
  });
  context.clock.advance(5);
  expect((await source.sample()).llm_session).toBeUndefined();
  await source.close();
});

const model = 'Qwen/Qwen2.5-0.5B-Instruct';
const models = JSON.stringify({ object: 'list', data: [{ id: model, object: 'model', max_model_len: 2048 }] });

/** Ten requests between two pages of vLLM and SGLang, 1145 tokens of prompts and 410 generated; 10 s apart. */
const ten = {
  requests_running_count: 3,
  requests_waiting_count: 2,
  prompt_tokens_per_second: 104.5,
  generated_tokens_per_second: 41,
  prompt_tokens_total: 2090,
  generated_tokens_total: 820,
  kv_cache_percent: 25,
  models_count: 1,
};
const outcomes = {
  requests_ok_per_second: 0.6,
  requests_aborted_per_second: 0.2,
  requests_error_per_second: 0.2,
  requests_total: 20,
};
const pages: readonly { page: string; more?: Record<string, string>; row: Row; without?: readonly string[] }[] = [
  {
    page: 'vllm-0.5.5',
    more: { '/version': '{"version":"0.5.5"}', '/v1/models': models },
    row: {
      ...ten,
      kind: 'vllm',
      version: '0.5.5',
      requests_ok_per_second: 0.8,
      requests_aborted_per_second: 0.2,
      requests_error_per_second: 0,
      requests_total: 20,
      prefix_cache_hit_percent: 40,
      preemptions_per_second: 0.5,
    },
  },
  {
    page: 'vllm-0.8.5',
    more: { '/version': '{"version":"0.8.5"}', '/v1/models': models },
    row: {
      ...ten,
      kind: 'vllm',
      requests_ok_per_second: 0.8,
      requests_aborted_per_second: 0.2,
      requests_total: 20,
      prefix_cache_hit_percent: 45,
      preemptions_per_second: 0.5,
    },
  },
  {
    page: 'vllm-0.33.0',
    more: { '/version': '{"version":"0.33.0"}', '/v1/models': models },
    row: { ...ten, ...outcomes, kind: 'vllm', prefix_cache_hit_percent: 45, preemptions_per_second: 0.5 },
  },
  {
    page: 'sglang-0.4.1',
    more: { '/v1/models': models },
    row: { ...ten, kind: 'sglang', prefix_cache_hit_percent: 40 },
    without: ['requests_total', 'preemptions_per_second'],
  },
  {
    page: 'sglang-0.5.23',
    more: { '/v1/models': models, '/server_info': '{"version":"0.5.23","api_key":"secret"}' },
    row: {
      ...ten,
      kind: 'sglang',
      version: '0.5.23',
      requests_ok_per_second: 1,
      requests_aborted_per_second: 0.2,
      preemptions_per_second: 0.5,
    },
  },
  {
    page: 'tgi-3',
    more: { '/info': capturedPage('tgi-3-info.json') },
    row: {
      kind: 'tgi',
      version: '3.3.5',
      requests_running_count: 2,
      requests_waiting_count: 3,
      requests_ok_per_second: 2,
      requests_error_per_second: 0.4,
      prompt_tokens_per_second: 79,
      generated_tokens_per_second: 99,
      models_count: 1,
    },
    without: ['time_to_first_token_seconds', 'kv_cache_percent', 'preemptions_per_second'],
  },
];
const filled: Tables[] = [];

for (const { page, more, row, without = [] } of pages)
  test(`${page}: rates between two pages, means and 95 % from the histograms' growth, a session`, async () => {
    const answers = (step: number) => ({ '/metrics': capturedPage(`${page}-${step}.txt`), ...more });
    await using server = await Pages.serve(answers(1));
    using tree = new SteppedTree();
    const context = contextOf(tree, [server.address]);
    const source = llm(context);
    await source.open();
    const first = await source.sample();
    server.answers = answers(2);
    context.clock.advance(10);
    const second = await source.sample();
    for (const sample of [first, second]) expectContract(sample, source);
    filled.push(first, second);
    const found = rows(second.llm_server, 'server')[server.address] as Row;
    for (const [column, value] of Object.entries(row))
      if (typeof value === 'number') expect(found[column], column).toBeCloseTo(value, 6);
      else expect(found[column]).toBe(value);
    for (const column of without) expect(found).not.toHaveProperty(column);
    // Means are between what was put in, and 95 % are above the mean: 8 to 18 ms, 30 to 80 ms, 0.6 to 0.9 s.
    if (page !== 'tgi-3') {
      for (const [column, least, most] of [
        ['inter_token_latency', 0.008, 0.018],
        ['time_to_first_token', 0.03, 0.08],
        ['request_duration', 0.6, 0.9],
      ] as const) {
        const mean = Number(found[`${column}_seconds`]);
        expect(mean, column).toBeGreaterThan(least);
        expect(mean, column).toBeLessThan(most);
        expect(Number(found[`${column}_p95_seconds`]), column).toBeGreaterThan(mean);
        expect(Number(found[`${column}_p95_seconds`]), column).toBeLessThan(most * 1.6);
      }
    } else
      expect(found.inter_token_latency_seconds).toBeCloseTo(
        (0.0129 * 30 - 0.0109 * 10 + (0.01 * 30 - 0.01 * 10)) / 40,
        2,
      );
    expect(rows(second.llm_model, 'model')).toHaveProperty([model]);
    const session = rows(second.llm_session, 'model')[model];
    expect(session).toMatchObject({ active_flag: 1, duration_seconds: 10 });
    expect(session?.generated_tokens_count).toBeCloseTo(Number(row.generated_tokens_per_second) * 10, 6);
    await source.close();
  });

test('Ollama: what is loaded, and for how long', async () => {
  await using server = await Pages.serve(ollama);
  using tree = new SteppedTree();
  const context = contextOf(tree, [server.address]);
  const source = llm(context);
  await source.open();
  const sample = await source.sample();
  expectContract(sample, source);
  filled.push(sample);
  expect(source.limitations?.()).toEqual([expect.stringMatching(/\(ollama\) publishes no metrics: .* llm-proxy/)]);
  expect(rows(sample.llm_server, 'server')).toEqual({
    [server.address]: { kind: 'ollama', version: '0.0.0', proxy: '', models_count: 1 },
  });
  expect(rows(sample.llm_model, 'model')['tiny:latest']).toMatchObject({
    parameters: '29K',
    quantization: '',
    size_bytes: 143_488,
    vram_bytes: 0,
    context_tokens_count: 512,
  });
  await source.close();
});

test('every column is filled by something that a server says; the column of the proxy by its own test', () => {
  expect(unfilledColumns(['llm_server', 'llm_model', 'llm_session'], filled)).toEqual(['llm_server.proxy']);
});

test('a server that hangs costs its own rows, and is named', async () => {
  await using hanging = await Pages.serve({ '/_fleetreel/llm': 'hang' });
  await using server = await Pages.serve(llamaServed);
  using tree = new SteppedTree();
  const context = contextOf(tree, [hanging.address, server.address]);
  const source = llm({ ...context, clock: { ...context.clock, sleep: (ms, signal) => systemClock.sleep(ms, signal) } });
  await source.open();
  const begin_ms = systemClock.monotonic_ms();
  const found = await source.sample();
  expect(systemClock.monotonic_ms() - begin_ms).toBeLessThan(2000);
  const again = await source.sample();
  expect([...(found.llm_server?.server ?? []), ...(again.llm_server?.server ?? [])]).toContain(server.address);
  await expect
    .poll(() => source.limitations?.() ?? [], { timeout: 20_000 })
    .toEqual([expect.stringContaining(`${hanging.address} (unknown) does not answer`)]);
  await source.close();
});

test('a server that ends and comes back is told by events, and so is one that is found later', async () => {
  using tree = new SteppedTree();
  const first = await Pages.serve(ollama);
  const { port, address } = first;
  const context = contextOf(tree, [address]);
  const source = llm(context);
  await source.open();
  await source.sample();
  expect(context.events.take()).toBeUndefined();
  await first[Symbol.asyncDispose]();
  context.clock.advance(5);
  await source.sample();
  expect(rows(context.events.take(), 'entity')[address]).toMatchObject({
    kind: 'llm_server',
    action: 'stop',
    name: 'ollama',
    duration_seconds: 5,
  });
  await using second = await Pages.serve(ollama, port);
  context.clock.advance(65);
  const sample = await source.sample();
  expect(sample.llm_server?.server).toEqual([second.address]);
  expect(rows(context.events.take(), 'entity')[address]).toMatchObject({ action: 'start', name: 'ollama' });
  await source.close();
});

test('hostile answers: endless, broken, of another kind, with names of 4 KB and control characters', async () => {
  const name = `<script>"'\n\u001b[31m$(x)=cmd()${'x'.repeat(5000)}`;
  const answers = {
    ...ollama,
    '/api/ps': JSON.stringify({
      models: [{ name, size: -5, size_vram: 'much', context_length: '512', details: null, expires_at: 7 }, null, 3, []],
    }),
  };
  await using named = await Pages.serve(answers);
  await using endless = await Pages.serve({ '/metrics': `vllm:x 1\n${'#'.repeat(5 * 1024 * 1024)}` });
  await using broken = await Pages.serve({ ...ollama, '/api/ps': '{"models":' });
  using tree = new SteppedTree();
  const context = contextOf(tree, [named.address, endless.address, broken.address]);
  const source = llm(context);
  await source.open();
  const sample = await source.sample();
  expect(sample.llm_server?.server).toEqual([named.address]);
  expect(sample.llm_model?.model[0]).toBe(name.slice(0, 4096));
  expect(rows(sample.llm_model, 'server')[named.address]).not.toHaveProperty('size_bytes');
  expect(source.limitations?.()).toEqual(
    expect.arrayContaining([expect.stringMatching(/does not answer: an answer has more than \d+ bytes/)]),
  );
  await source.close();
});

test('without any server it is unavailable, and says what would change that', () => {
  using tree = new SteppedTree();
  expect(() => llm(tree.context).open()).toThrow(/no server of language models .* llm\.servers/);
});

const heading = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n';
const socket = (address: string, state: string, inode: number): string =>
  `   0: ${address} 00000000:0000 ${state} 00000000:00000000 00:00000000 00000000  1000        0 ${inode} 1 0 100 0 0 10 0\n`;

test('listening sockets with addresses that can be reached from here', () => {
  const tcp =
    heading + socket('0100007F:2CAA', '0A', 1) + socket('0100007F:2CAA', '01', 2) + socket('00000000:1F90', '0A', 3);
  const tcp6 =
    heading +
    socket(`${'0'.repeat(32)}:2CAA`, '0A', 4) +
    socket('00000000000000000000000001000000:1F90', '0A', 5) +
    socket('0000000000000000FFFF00000100007F:1F91', '0A', 6) +
    socket('B80D0120000000000000000001000000:1F92', '0A', 7);
  expect([...parseListening(tcp), ...parseListening(tcp6)]).toEqual([
    { host: '127.0.0.1', port: 11_434, inode: '1' },
    { host: '127.0.0.1', port: 8080, inode: '3' },
    { host: '127.0.0.1', port: 11_434, inode: '4' },
    { host: '[::1]', port: 8080, inode: '5' },
    { host: '127.0.0.1', port: 8081, inode: '6' },
    { host: '[2001:db8:0:0:0:0:0:1]', port: 8082, inode: '7' },
  ]);
});

/** A process with its name, command line, parent and sockets; without sockets they are hidden. */
function putProcess(
  tree: SteppedTree,
  pid: number,
  name: string,
  command: readonly string[],
  inodes?: readonly number[],
  parent = 1,
) {
  tree
    .write(`proc/${pid}/comm`, `${name}\n`)
    .write(`proc/${pid}/cmdline`, `${command.join('\0')}\0`)
    .write(`proc/${pid}/stat`, `${pid} (${name}) S ${parent} 0 0\n`);
  if (!inodes) return;
  mkdirSync(tree.path(`proc/${pid}/fd`));
  for (const [number, inode] of inodes.entries())
    symlinkSync(`socket:[${inode}]`, tree.path(`proc/${pid}/fd/${number}`));
}

test('servers are found by programs and their sockets; what is none is never asked', () => {
  using tree = new SteppedTree();
  const listening = [
    [8000, 10],
    [8080, 11],
    [9001, 12],
    [30_001, 13],
    [41_000, 14],
    [5432, 15],
    [11_435, 16],
    [8001, 17],
  ] as const;
  const hex = (port: number): string => port.toString(16).toUpperCase().padStart(4, '0');
  tree.write(
    'proc/net/tcp',
    heading + listening.map(([port, inode]) => socket(`0100007F:${hex(port)}`, '0A', inode)).join(''),
  );
  putProcess(tree, 10, 'nginx', ['nginx'], [11]);
  putProcess(tree, 11, 'postgres', ['postgres', '-D', 'ollama'], [15]);
  putProcess(tree, 12, 'llama-server', ['llama-server', '--port', '9001'], [12]);
  putProcess(tree, 13, 'python3', ['python3', '-m', 'sglang.launch_server', '--port=30001'], [13, 14]);
  putProcess(tree, 14, 'python3', ['python3', '-m', 'http.server', '8000'], [10]);
  putProcess(tree, 15, 'vllm', ['/usr/bin/python3', '/usr/bin/vllm', 'serve', '--port', '8001']);
  putProcess(tree, 16, 'ollama', ['ollama', 'runner', '--port', '41000'], [14], 17);
  // A client, which listens nowhere.
  putProcess(tree, 17, 'ollama', ['ollama', 'run'], [99]);
  const discovery = new Discovery(tree.context.roots, tree.context.processes);
  const expected = ['127.0.0.1:11435', '127.0.0.1:30001', '127.0.0.1:8001', '127.0.0.1:9001'];
  expect(discovery.addresses()).toEqual(expected);
  expect(discovery.unseen).toEqual([]);
  tree.remove('proc/12');
  putProcess(tree, 18, 'ollama', ['ollama', 'serve']);
  putProcess(tree, 19, 'llama-server', ['llama-server', '--port', '9009']);
  tree.write('proc/net/tcp', `${heading}${socket('00000000:2CAA', '0A', 30)}${socket('0100007F:7531', '0A', 13)}`);
  expect(discovery.addresses()).toEqual(['127.0.0.1:11434', '127.0.0.1:30001']);
  expect(discovery.unseen).toEqual(['vllm (15)', 'llama-server (19)']);
});
