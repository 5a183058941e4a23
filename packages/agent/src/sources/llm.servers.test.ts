// A real server of llama.cpp and the proxy as a user starts it: what is measured is what the server itself counts.
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import type { Tables } from '@fleetreel/proto';
import { type LlamaServer, startLlama } from '@fleetreel/test/servers/llama';
import { freePort, startProgram } from '@fleetreel/test/servers/program';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { parsePage } from '#llm/prometheus.ts';
import { readProxy } from '#llm/reading.ts';
import { llm } from '#sources/llm.ts';
import { expectContract, type Row, rows, systemContext } from '#sources/testing.ts';

let server: LlamaServer;
let forwarding: Awaited<ReturnType<typeof startProgram>>;
let through: string;

beforeAll(async () => {
  server = await startLlama();
  through = `127.0.0.1:${await freePort()}`;
  const flags = ['--upstream', `http://${server.address}`, '--listen', through];
  forwarding = await startProgram('packages/agent/src/main.ts', ['llm-proxy', ...flags]);
  await forwarding.line(/forwarding/);
});

afterAll(async () => {
  await forwarding?.[Symbol.asyncDispose]();
  await server?.[Symbol.asyncDispose]();
});

/** A streamed answer: its events. */
async function generate(address: string, tokens: number, path = '/v1/chat/completions'): Promise<string> {
  const [host, port] = address.split(':');
  const question = { messages: [{ role: 'user', content: 'hello' }], prompt: 'hello' };
  const body = { model: 'any', ...question, stream: true, max_tokens: tokens, n_predict: tokens, ignore_eos: true };
  const outgoing = request({
    host,
    port,
    method: 'POST',
    path,
    agent: false,
    headers: { 'content-type': 'application/json' },
  });
  outgoing.on('error', () => undefined);
  outgoing.end(JSON.stringify(body));
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  const pieces: Buffer[] = [];
  for await (const piece of response as AsyncIterable<Buffer>) pieces.push(piece);
  return Buffer.concat(pieces).toString();
}

/** What the server counts. */
async function counted(name: string): Promise<number> {
  const page = await (await fetch(`http://${server.address}/metrics`)).text();
  return parsePage(page, name)[0]?.value ?? Number.NaN;
}

/** What the proxy counts: under the name that the server gives its model, or the client does where the server gives none. */
async function measured() {
  const answer = await (await fetch(`http://${through}/_fleetreel/llm`)).json();
  const works = [...(readProxy(answer)?.works.values() ?? [])];
  const sum = (part: (work: (typeof works)[number]) => number) => works.reduce((all, work) => all + part(work), 0);
  return {
    running: sum(({ running }) => running),
    ok: sum(({ counters }) => counters.ok),
    failed: sum(({ counters }) => counters.aborted + counters.error),
    generated: sum(({ counters }) => counters.generated_tokens),
    firstTokens: sum(({ durations }) => durations.time_to_first_token?.count ?? 0),
  };
}

test('tokens, times and a session: the proxy counts what the server counts, and the rows hold it once', async () => {
  // Both are found by their programs.
  const source = llm(systemContext());
  await source.open();
  const samples: Tables[] = [];
  const sample = async (): Promise<Row | undefined> => {
    const tables = await source.sample();
    expectContract(tables, source);
    samples.push(tables);
    return rows(tables.llm_server, 'server')[server.address];
  };
  await expect.poll(sample, { timeout: 60_000, interval: 500 }).toMatchObject({ kind: 'llama.cpp', proxy: through });

  const before = await counted('llamacpp:tokens_predicted_total');
  const answers: string[] = [];
  const ask = async (address: string, first: number, last: number, path?: string): Promise<void> => {
    for (let tokens = first; tokens <= last; tokens++) answers.push(await generate(address, tokens, path));
  };
  await Promise.all([ask(through, 5, 14), ask(through, 15, 24), ask(through, 3, 7, '/completion')]);
  const forwarded = [...Array(20).keys()].reduce((sum, at) => sum + at + 5, 0) + 3 + 4 + 5 + 6 + 7;
  expect(
    answers.filter((answer) => answer.includes('"finish_reason":"length"') || answer.includes('"stop":true')),
  ).toHaveLength(25);
  expect((await counted('llamacpp:tokens_predicted_total')) - before).toBe(forwarded);
  // A model of random weights may make some tokens that have no text: where all of an answer's do, nothing has come first.
  const withText = answers.filter((answer) => /"content":"[^"]/.test(answer)).length;
  expect(withText).toBeGreaterThan(15);
  expect(await measured()).toEqual({ running: 0, ok: 25, failed: 0, generated: forwarded, firstTokens: withText });

  // What does not come through the proxy is in the server's own counts alone.
  await ask(server.address, 30, 31);
  await expect
    .poll(async () => (await sample())?.generated_tokens_total, { timeout: 60_000, interval: 500 })
    .toBe(before + forwarded + 61);
  const last = rows(samples.at(-1)?.llm_server, 'server')[server.address];
  expect(last).toMatchObject({ requests_total: 25, requests_running_count: 0, requests_waiting_count: 0 });
  expect(rows(samples.at(-1)?.llm_model, 'model')[server.model]).toMatchObject({
    server: server.address,
    quantization: 'all F32',
  });
  const timed = samples
    .map((one) => rows(one.llm_server, 'server')[server.address])
    .find((row) => row?.time_to_first_token_seconds);
  expect(timed?.time_to_first_token_p95_seconds).toBeGreaterThan(0);
  expect(timed?.inter_token_latency_p95_seconds).toBeGreaterThan(0);

  const sessions = samples.flatMap((one) =>
    Object.values(rows(one.llm_session, 'server')).filter((row) => row.model === server.model),
  );
  expect(new Set(sessions.map((row) => row.timestamp_seconds)).size).toBe(1);
  expect(sessions.at(-1)).toMatchObject({ active_flag: 1, requests_count: 25, generated_tokens_count: forwarded + 61 });
  await source.close();
});

test('a server that is killed in the middle breaks the stream, and the proxy tells the next client that it is away', async () => {
  const context = systemContext();
  const source = llm({
    ...context,
    settings: { ...context.settings, llm: { ...context.settings.llm, servers: [server.address] } },
  });
  await source.open();
  await expect
    .poll(async () => (await source.sample()).llm_server?.server, { timeout: 30_000 })
    .toContain(server.address);
  const cut = generate(through, 1_000_000, '/completion').then(
    () => 'whole',
    () => 'broken',
  );
  await expect.poll(async () => (await measured()).running, { timeout: 30_000 }).toBe(1);
  await server.kill();
  expect(await cut).toBe('broken');
  const answer = await fetch(`http://${through}/v1/chat/completions`, { method: 'POST', body: '{"model":"any"}' });
  expect([answer.status, await answer.json()]).toEqual([
    502,
    { error: expect.objectContaining({ message: expect.stringContaining("can't be reached: connect ECONNREFUSED") }) },
  ]);
  await expect
    .poll(
      async () => {
        await source.sample();
        await systemClock.sleep(100);
        return rows(context.events.take(), 'entity')[server.address];
      },
      { timeout: 30_000 },
    )
    .toMatchObject({ kind: 'llm_server', action: 'stop', name: 'llama.cpp' });
  expect((await measured()).running).toBe(0);
  await source.close();
});
