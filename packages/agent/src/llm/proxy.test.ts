import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Agent, createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, createServer as createTcpServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause, setImmediate } from 'node:timers/promises';
import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { proxy } from '#llm/proxy.ts';
import { type ProxyReading, readProxy } from '#llm/reading.ts';
import { llm } from '#sources/llm.ts';
import { defaultSettings, expectContract, rows, SteppedTree, systemContext } from '#sources/testing.ts';

const captured = (name: string): string =>
  readFileSync(join(import.meta.dirname, '../sources/fixtures-llm', name), 'utf8');

/** The proxy in this process, in front of an address. */
class Forwarding implements AsyncDisposable {
  readonly address: string;
  readonly #stop: AbortController;
  readonly #done: Promise<number>;

  private constructor(address: string, stop: AbortController, done: Promise<number>) {
    this.address = address;
    this.#stop = stop;
    this.#done = done;
  }

  static async start(upstream: string, more: Partial<typeof defaultSettings.llm.proxy> = {}): Promise<Forwarding> {
    const stop = new AbortController();
    const settings = {
      log: { level: 'error' },
      llm: { proxy: { ...defaultSettings.llm.proxy, upstream: `http://${upstream}`, listen: '127.0.0.1:0', ...more } },
    };
    const { promise: listening, resolve: onListening } = Promise.withResolvers<string>();
    const done = proxy({ settings, clock: systemClock, signal: stop.signal, onListening });
    return new Forwarding(await Promise.race([listening, done.then(() => '')]), stop, done);
  }

  get port(): number {
    return Number(this.address.split(':')[1]);
  }

  async says(): Promise<ProxyReading> {
    const { body } = await ask(this.address, 'GET', '/_fleetreel/llm');
    return readProxy(JSON.parse(body.toString())) as ProxyReading;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#done;
  }
}

type Listener = (incoming: IncomingMessage, response: ServerResponse) => unknown;

/** A real server of HTTP that stands in for one of language models. */
async function upstream(listener: Listener): Promise<AsyncDisposable & { address: string; server: Server }> {
  const server = createServer((incoming, response) => void listener(incoming, response));
  // A busy machine may leave a kept connection idle for longer than the 5 s after which it would be closed.
  server.keepAliveTimeout = 120_000;
  return { server, ...(await listening(server)) };
}

/** A server of bytes. */
async function bytesUpstream(listener: (socket: Socket) => void): Promise<AsyncDisposable & { address: string }> {
  const sockets = new Set<Socket>();
  const server = createTcpServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    listener(socket);
  });
  return listening(server, () => {
    for (const socket of sockets) socket.destroy();
  });
}

async function listening(server: ReturnType<typeof createTcpServer>, onEnd = () => {}) {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    address: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    async [Symbol.asyncDispose]() {
      onEnd();
      if ('closeAllConnections' in server) (server as Server).closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

type Answer = { status: number; headers: string[]; body: Buffer };

async function ask(
  address: string,
  method: string,
  path: string,
  body?: string | Buffer,
  more: object = {},
): Promise<Answer> {
  const response = await begin(address, method, path, body, more);
  const pieces: Buffer[] = [];
  for await (const piece of response as AsyncIterable<Buffer>) pieces.push(piece);
  return { status: response.statusCode ?? 0, headers: response.rawHeaders, body: Buffer.concat(pieces) };
}

async function begin(
  address: string,
  method: string,
  path: string,
  body?: string | Buffer,
  more: object = {},
): Promise<IncomingMessage> {
  const [host, port] = address.split(':');
  const outgoing = request({ host, port, method, path, agent: false, ...more });
  // Told by the answer, too.
  outgoing.on('error', () => undefined);
  outgoing.end(body);
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  return response;
}

const chat = '{"model":"tiny","messages":[{"role":"user","content":"hello"}]}';
const generated = captured('ollama-0.17.4-generate.ndjson');
const events = captured('ollama-0.17.4-openai-chat-usage.sse');

/** Speaks as Ollama and OpenAI do, a stream for each number: the captured ones, in pieces and at a pace that differ. */
const models = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
  const pieces: Buffer[] = [];
  for await (const piece of incoming as AsyncIterable<Buffer>) pieces.push(piece);
  const asked = Buffer.concat(pieces);
  const number = Number(incoming.headers['x-number']);
  const isOllama = incoming.url?.startsWith('/api/') ?? false;
  const text = (isOllama ? generated : events).replaceAll(
    '"created',
    `"echo":"${createHash('sha256').update(asked).digest('hex')}","created`,
  );
  response.writeHead(200, {
    'Content-Type': isOllama ? 'application/x-ndjson' : 'text/event-stream',
    'X-Odd-CASE': `é${number}`,
    'Set-Cookie': ['a=1', 'b=2'],
    Date: 'Sat, 21 Nov 2026 09:00:00 GMT',
  });
  const bytes = Buffer.from(text);
  for (let at = 0, size = (number % 97) + 1; at < bytes.length; at += size, size = (size * 7 + 13) % 400 || 1) {
    response.write(bytes.subarray(at, at + size));
    if (size % 3 === 0) await setImmediate();
  }
  response.end();
};

test('1,000 streamed requests are byte-identical, headers too, and each is measured', async () => {
  await using server = await upstream(models);
  await using through = await Forwarding.start(server.address);
  const agent = new Agent({ keepAlive: true, maxSockets: 40 });
  let next = 0;
  let differing = 0;
  const work = async (): Promise<void> => {
    while (next < 1000) {
      const number = next++;
      const path = number % 2 === 0 ? '/api/generate' : '/v1/chat/completions?a=%20b';
      const body = number % 10 === 0 ? randomBytes(100_000).toString('base64') : chat;
      const headers = { 'X-Number': number, 'content-type': 'application/json', 'X-Mixed-Case': 'ü' };
      // Half of them on connections that are kept, half on their own.
      const more = { headers, ...(number % 4 < 2 && { agent }) };
      const [direct, forwarded] = await Promise.all([
        ask(server.address, 'POST', path, body, { headers }),
        ask(through.address, 'POST', path, body, more),
      ]);
      const withoutConnection = ({ headers: all }: Answer) =>
        all.join('\n').replace(/\n(Connection|Keep-Alive)\n[^\n]*/g, '');
      if (
        !direct.body.equals(forwarded.body) ||
        direct.status !== forwarded.status ||
        withoutConnection(direct) !== withoutConnection(forwarded)
      )
        differing++;
    }
  };
  await Promise.all(Array.from({ length: 40 }, work));
  agent.destroy();
  expect(differing).toBe(0);
  const { works, upstream: behind } = await through.says();
  expect(behind).toBe(server.address);
  expect(works.get('tiny')).toMatchObject({
    running: 0,
    counters: {
      ok: 1000,
      aborted: 0,
      error: 0,
      prompt_tokens: 500 * 7 + 500 * 15,
      generated_tokens: 500 * 12 + 500 * 6,
    },
  });
  expect(works.get('tiny')?.durations.time_to_first_token?.count).toBe(1000);
});

test('whatever two sides say to each other arrives as it was sent: 100 connections of random bytes, both ways', async () => {
  await using server = await bytesUpstream((socket) => socket.pipe(socket));
  await using through = await Forwarding.start(server.address);
  const echo = async (): Promise<boolean> => {
    const sent = randomBytes(1 + Math.floor(Math.random() * 300_000));
    const client = connect({ host: '127.0.0.1', port: through.port, allowHalfOpen: true });
    const pieces: Buffer[] = [];
    client.on('data', (piece: Buffer) => pieces.push(piece));
    for (let at = 0; at < sent.length; at += 40_000) client.write(sent.subarray(at, at + 40_000));
    // This side is closed, and the other goes on.
    client.end();
    await once(client, 'end');
    return Buffer.concat(pieces).equals(sent);
  };
  expect(await Promise.all(Array.from({ length: 100 }, echo))).not.toContain(false);
});

test('each part of an answer arrives before the next is sent', async () => {
  const { promise: arrived, resolve: arrive } = Promise.withResolvers<void>();
  const lines = generated.split(/(?<=\n)/);
  await using server = await upstream((_, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).write(lines[0]);
    void arrived.then(() => response.end(lines.slice(1).join('')));
  });
  await using through = await Forwarding.start(server.address);
  const response = await begin(through.address, 'POST', '/api/generate', chat);
  const [first] = (await once(response, 'data')) as [Buffer];
  expect(first.toString()).toBe(lines[0]);
  expect((await through.says()).works.get('tiny')).toMatchObject({
    running: 1,
    counters: { generated_tokens: 1, ok: 0 },
  });
  arrive();
  await once(response, 'end');
});

test('a client that vanishes in the middle ends the request at the server, and is counted', async () => {
  const { promise: ended, resolve: end } = Promise.withResolvers<void>();
  await using server = await upstream((_, response) => {
    const timer = setInterval(() => response.write('{"model":"tiny","response":"a","done":false}\n'), 5);
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).once('close', () => {
      clearInterval(timer);
      end();
    });
  });
  await using through = await Forwarding.start(server.address);
  const response = await begin(through.address, 'POST', '/api/generate', chat);
  await once(response, 'data');
  response.socket.resetAndDestroy();
  await ended;
  await expect
    .poll(async () => (await through.says()).works.get('tiny'))
    .toMatchObject({ running: 0, counters: { ok: 0, aborted: 1, error: 0 } });
});

for (const [how, vanish] of [
  ['resets its connection', (socket: Socket) => socket.resetAndDestroy()],
  ['closes its connection', (socket: Socket) => socket.destroy()],
] as const)
  test(`a server that ${how} in the middle breaks the stream of the client, and the next request is served`, async () => {
    let requests = 0;
    await using server = await upstream((_, response) => {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      if (requests++ > 0) response.end(generated);
      else response.write('{"model":"tiny","response":"a","done":false}\n', () => vanish(response.socket as Socket));
    });
    await using through = await Forwarding.start(server.address);
    await expect(ask(through.address, 'POST', '/api/generate', chat)).rejects.toThrow(/aborted|hang up|ECONNRESET/);
    expect((await ask(through.address, 'POST', '/api/generate', chat)).body.toString()).toBe(generated);
    expect((await through.says()).works.get('tiny')).toMatchObject({
      running: 0,
      counters: { ok: 1, aborted: 0, error: 1, generated_tokens: 13 },
    });
  });

test('a server that is away: an error that says so, as the client expects it; then it is back', async () => {
  const gone = await upstream(models);
  const { address } = gone;
  await gone[Symbol.asyncDispose]();
  await using through = await Forwarding.start(address);
  const sentence = `The server of language models at ${address} can't be reached: connect ECONNREFUSED ${address}`;
  const [ollama, openAi] = await Promise.all([
    ask(through.address, 'POST', '/api/chat', chat),
    // Much is still on its way when the answer comes.
    ask(through.address, 'POST', '/v1/chat/completions', randomBytes(3_000_000)),
  ]);
  expect([ollama.status, JSON.parse(ollama.body.toString())]).toEqual([502, { error: sentence }]);
  expect(openAi.status).toBe(502);
  expect(JSON.parse(openAi.body.toString())).toEqual({ error: { message: sentence, type: 'bad_gateway', code: 502 } });
  expect([...(await through.says()).works.values()].map(({ counters }) => counters.error)).toEqual([2]);
  const server = createServer((incoming, response) => void models(incoming, response)).listen(
    Number(address.split(':')[1]),
    '127.0.0.1',
  );
  await once(server, 'listening');
  expect((await ask(through.address, 'POST', '/api/generate', chat)).status).toBe(200);
  server.closeAllConnections();
  server.close();
});

test('a slow reader slows the sender, in both directions: nothing is gathered in between', async () => {
  const much = Buffer.alloc(1 << 20, 'x');
  let written = 0;
  let sink: Socket | undefined;
  await using server = await bytesUpstream((socket) => {
    sink = socket;
    socket.pause();
    const more = (): void => {
      while (written < 400 && socket.write(much, () => undefined)) written++;
    };
    socket.on('drain', () => {
      written++;
      more();
    });
    more();
  });
  await using through = await Forwarding.start(server.address);
  const client = connect({ host: '127.0.0.1', port: through.port });
  client.on('error', () => undefined);
  client.pause();
  let sent = 0;
  const more = (): void => {
    while (sent < 400 && client.write(much)) sent++;
  };
  client.on('drain', () => {
    sent++;
    more();
  });
  more();
  // Until neither moves any more: the kernel's buffers are full.
  let before = -1;
  while (before !== written + sent) {
    before = written + sent;
    await pause(300);
  }
  expect(written).toBeLessThan(60);
  expect(sent).toBeLessThan(60);
  client.destroy();
  sink?.destroy();
});

test('a large upload that waits for "100 Continue", an upgrade, requests sent ahead', async () => {
  await using server = await upstream(async (incoming, response) => {
    const hash = createHash('sha256');
    for await (const piece of incoming as AsyncIterable<Buffer>) hash.update(piece);
    response.end(`${incoming.url} ${hash.digest('hex')}`);
  });
  server.server.on('upgrade', (_, socket: Socket) => {
    socket.write('HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: odd\r\n\r\n');
    socket.pipe(socket);
  });
  await using through = await Forwarding.start(server.address);
  const large = randomBytes(30 << 20);
  const [host, port] = through.address.split(':');
  const outgoing = request({
    host,
    port,
    method: 'POST',
    path: '/api/chat',
    agent: false,
    headers: { expect: '100-continue' },
  });
  outgoing.flushHeaders();
  await once(outgoing, 'continue');
  outgoing.end(large);
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  const [answer] = (await once(response, 'data')) as [Buffer];
  expect(answer.toString()).toBe(`/api/chat ${createHash('sha256').update(large).digest('hex')}`);

  const upgrading = request({
    host,
    port,
    path: '/',
    agent: false,
    headers: { connection: 'upgrade', upgrade: 'odd' },
  }).end();
  const [, socket] = (await once(upgrading, 'upgrade')) as [IncomingMessage, Socket];
  socket.write('not HTTP at all');
  expect(String((await once(socket, 'data'))[0])).toBe('not HTTP at all');
  socket.destroy();

  const ahead = connect(Number(port), host);
  ahead.write('GET /one HTTP/1.1\r\nhost: x\r\n\r\nGET /two HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
  const pieces: Buffer[] = [];
  for await (const piece of ahead as AsyncIterable<Buffer>) pieces.push(piece);
  expect(Buffer.concat(pieces).toString()).toMatch(/\/one [\s\S]*\/two /);
});

test('its own page: on this host only, however its request comes; all else below that name is not forwarded', async () => {
  await using server = await upstream((incoming, response) => response.end(`forwarded ${incoming.url}`));
  await using through = await Forwarding.start(server.address);
  const rebound = await ask(through.address, 'GET', '/_fleetreel/llm', undefined, {
    headers: { host: 'evil.example' },
  });
  expect(rebound.status).toBe(403);
  expect((await ask(through.address, 'GET', '/_fleetreel/other')).status).toBe(404);
  expect((await ask(through.address, 'GET', '/_fleet')).body.toString()).toBe('forwarded /_fleet');
  const slow = connect(through.port, '127.0.0.1');
  for (const character of 'GET /_fleetreel/llm HTTP/1.1\r\nhost: localhost\r\n\r\n') {
    slow.write(character);
    await setImmediate();
  }
  const pieces: Buffer[] = [];
  for await (const piece of slow as AsyncIterable<Buffer>) pieces.push(piece);
  expect(Buffer.concat(pieces).toString()).toMatch(/^HTTP\/1\.1 200 OK\r\n[\s\S]*"proxy":"fleetreel"/);
});

test('it listens beyond loopback only when that is meant, and never in front of itself', async () => {
  await expect(Forwarding.start('127.0.0.1:11434', { listen: '0.0.0.0:0' })).rejects.toThrow(
    /0\.0\.0\.0:0 is not a loopback address\. Nobody is asked for a password.*allow_remote/,
  );
  await expect(Forwarding.start('localhost:11435', { listen: '127.0.0.1:11435' })).rejects.toThrow(
    /where llm-proxy itself/,
  );
  await expect(Forwarding.start('127.0.0.1:99999')).rejects.toThrow(/llm\.proxy\.upstream: .*99999 is no address/);
  await using taken = await upstream(models);
  await expect(Forwarding.start('127.0.0.1:1', { listen: taken.address })).rejects.toThrow(/is in use\. Give another/);
  await using open = await Forwarding.start(taken.address, { listen: '0.0.0.0:0', allow_remote: true });
  expect(open.address).toMatch(/^0\.0\.0\.0:\d+$/);
});

test('when it is stopped, an answer that is coming comes to its end, and idle connections go at once', async () => {
  const { promise: asked, resolve: finish } = Promise.withResolvers<() => void>();
  await using server = await upstream((_, response) => {
    response.writeHead(200, { 'content-type': 'application/x-ndjson' }).write(generated.slice(0, 100));
    finish(() => response.end(generated.slice(100)));
  });
  const through = await Forwarding.start(server.address);
  const idle = connect(through.port, '127.0.0.1');
  await once(idle, 'connect');
  const answer = ask(through.address, 'POST', '/api/generate', chat);
  const end = await asked;
  const stopped = through[Symbol.asyncDispose]();
  await once(idle.resume(), 'close');
  end();
  expect((await answer).body.toString()).toBe(generated);
  await stopped;
});

test('the source takes from the proxy what Ollama does not say: one row, every request in it, and its session', async () => {
  await using server = await upstream(async (incoming, response) => {
    if (incoming.url === '/api/version') response.end(captured('ollama-0.17.4-version.json'));
    else if (incoming.url === '/api/ps') response.end(captured('ollama-0.17.4-ps.json'));
    else if (incoming.method === 'POST') await models(incoming, response);
    else response.writeHead(404).end();
  });
  await using through = await Forwarding.start(server.address);
  using tree = new SteppedTree();
  const context = systemContext();
  const source = llm({
    ...context,
    roots: tree.context.roots,
    settings: { ...context.settings, llm: { ...context.settings.llm, servers: [server.address, through.address] } },
  });
  await source.open();
  const samples: Tables[] = [await source.sample()];
  const begin_s = systemClock.now_us() / 1e6;
  for (let number = 0; number < 5; number++)
    await ask(through.address, 'POST', '/api/generate', chat, { headers: { 'x-number': number } });
  await ask(through.address, 'POST', '/v1/chat/completions', chat, { headers: { 'x-number': 7 } });
  const end_s = systemClock.now_us() / 1e6;
  samples.push(await source.sample());
  for (const sample of samples) expectContract(sample, source);
  const after = samples[1];
  expect(after?.llm_server?.server).toEqual([server.address]);
  expect(rows(after?.llm_server, 'server')[server.address]).toMatchObject({
    kind: 'ollama',
    proxy: through.address,
    requests_total: 6,
    requests_running_count: 0,
    requests_error_per_second: 0,
    prompt_tokens_total: 5 * 7 + 15,
    generated_tokens_total: 5 * 12 + 6,
    models_count: 1,
  });
  expect(after?.llm_model?.model).toEqual(['tiny:latest']);
  const session = rows(after?.llm_session, 'model')['tiny:latest'];
  expect(session).toMatchObject({
    server: server.address,
    active_flag: 1,
    requests_count: 6,
    prompt_tokens_count: 50,
    generated_tokens_count: 66,
  });
  // Begin and end are those of the requests, not of the samples.
  const { timestamp_seconds: from = 0, duration_seconds: long = 0 } = session as Record<string, number>;
  expect(from).toBeGreaterThanOrEqual(begin_s - 0.005);
  expect(from + long).toBeLessThanOrEqual(end_s + 0.005);
  for (const column of ['time_to_first_token', 'inter_token_latency', 'request_duration'] as const) {
    const row = rows(after?.llm_server, 'server')[server.address];
    expect(row?.[`${column}_seconds`]).toBeGreaterThan(0);
    expect(row?.[`${column}_p95_seconds`]).toBeGreaterThan(0);
  }
  await source.close();
});
