import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { Clock } from '#clock.ts';
import { meanOf, quantileOf } from '#llm/distribution.ts';
import { Measures, Observer, TopLevelText } from '#llm/measure.ts';
import { readProxy, type Work } from '#llm/reading.ts';

const captured = (name: string): string =>
  readFileSync(join(import.meta.dirname, '../sources/fixtures-llm', name), 'utf8');

/** A clock that goes on by a second whenever the monotonic time is asked. */
function steppingClock(): Clock {
  let now_s = 100;
  return { now_us: () => now_s * 1e6, monotonic_ms: () => now_s++ * 1000, sleep: async () => undefined };
}

const request = (path: string, body: string, more = ''): string =>
  `POST ${path} HTTP/1.1\r\nhost: x\r\n${more}content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;

/** A chunked answer, one chunk for each event of the stream. */
const streamed = (type: string, text: string, status = '200 OK'): string => {
  const events = text.split(/(?<=\n\n|\}\n)/);
  const chunks = events.map((event) => `${Buffer.byteLength(event).toString(16)}\r\n${event}\r\n`).join('');
  return `HTTP/1.1 ${status}\r\ncontent-type: ${type}\r\ntransfer-encoding: chunked\r\n\r\n${chunks}0\r\n\r\n`;
};
const whole = (text: string, status = '200 OK', type = 'application/json'): string =>
  `HTTP/1.1 ${status}\r\ncontent-type: ${type}\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;

type Seen = { works: ReadonlyMap<string, Work>; unreadable: number };

/** What is measured of a connection whose bytes come in pieces of this size. */
function measured(exchanges: readonly [string, string][], pieceBytes = 1 << 20, close?: 'client' | 'server'): Seen {
  const measures = new Measures(steppingClock());
  const observer = new Observer(measures);
  const pieces = (text: string, take: (bytes: Buffer) => void) => {
    const bytes = Buffer.from(text);
    for (let at = 0; at < bytes.length; at += pieceBytes) take(bytes.subarray(at, at + pieceBytes));
  };
  for (const [asked, answered] of exchanges) {
    pieces(asked, (bytes) => observer.fromClient(bytes));
    pieces(answered, (bytes) => observer.fromServer(bytes));
  }
  if (close) observer.closed(close);
  // As it goes over the wire.
  const works = readProxy(JSON.parse(JSON.stringify(measures.report('127.0.0.1:1'))))?.works ?? new Map();
  return { works, unreadable: measures.unreadable };
}

const chat = '{"messages":[{"role":"user","content":"the model\\" \\\\"}],"model":"asked"}';
const cases: readonly {
  what: string;
  path: string;
  answer: string;
  model: string;
  prompt: number;
  generated: number;
  /** Parts of the answer: one more than the times between them. */
  parts: number;
}[] = [
  {
    what: 'Ollama, generate',
    path: '/api/generate',
    answer: streamed('application/x-ndjson', captured('ollama-0.17.4-generate.ndjson')),
    model: 'tiny',
    prompt: 7,
    generated: 12,
    parts: 8,
  },
  {
    what: 'Ollama, chat',
    path: '/api/chat',
    answer: streamed('application/x-ndjson', captured('ollama-0.17.4-chat.ndjson')),
    model: 'tiny',
    prompt: 15,
    generated: 12,
    parts: 6,
  },
  {
    what: 'Ollama, not streamed',
    path: '/api/generate',
    answer: whole(captured('ollama-0.17.4-generate.json')),
    model: 'tiny',
    prompt: 7,
    generated: 12,
    parts: 0,
  },
  {
    what: 'Ollama, OpenAI chat with usage',
    path: '/v1/chat/completions',
    answer: streamed('text/event-stream', captured('ollama-0.17.4-openai-chat-usage.sse')),
    model: 'tiny',
    prompt: 15,
    generated: 6,
    parts: 3,
  },
  {
    what: 'Ollama, OpenAI chat without usage',
    path: '/v1/chat/completions',
    answer: streamed('text/event-stream', captured('ollama-0.17.4-openai-chat.sse')),
    model: 'tiny',
    prompt: 0,
    generated: 3,
    parts: 3,
  },
  {
    what: 'Ollama, OpenAI completions, not streamed',
    path: '/v1/completions',
    answer: whole(captured('ollama-0.17.4-openai-completions.json')),
    model: 'tiny',
    prompt: 4,
    generated: 6,
    parts: 0,
  },
  {
    what: 'Ollama, responses',
    path: '/v1/responses',
    answer: streamed('text/event-stream', captured('ollama-0.17.4-responses.sse')),
    model: 'tiny',
    prompt: 4,
    generated: 6,
    parts: 2,
  },
  {
    what: 'Ollama, messages',
    path: '/v1/messages',
    answer: streamed('text/event-stream', captured('ollama-0.17.4-messages.sse')),
    model: 'tiny',
    prompt: 15,
    generated: 6,
    parts: 4,
  },
  {
    what: 'llama.cpp, chat with its timings',
    path: '/v1/chat/completions',
    answer: streamed('text/event-stream', captured('llama.cpp-b11549-openai-chat.sse')),
    model: '/models/tiny.gguf',
    prompt: 65,
    generated: 6,
    parts: 4,
  },
  {
    what: 'llama.cpp, its own completion',
    path: '/completion',
    answer: streamed('text/event-stream', captured('llama.cpp-b11549-completion.sse')),
    model: 'asked',
    prompt: 7,
    generated: 6,
    parts: 5,
  },
  {
    what: 'llama.cpp, completions with usage',
    path: '/v1/completions',
    answer: streamed('text/event-stream', captured('llama.cpp-b11549-completions-usage.sse')),
    model: '/models/tiny.gguf',
    prompt: 7,
    generated: 6,
    parts: 6,
  },
];

for (const { what, path, answer, model, prompt, generated, parts } of cases)
  test(`${what}: measured exactly, however its bytes come`, () => {
    for (const pieceBytes of [1, 7, 100, 1 << 20]) {
      const { works, unreadable } = measured([[request(path, chat), answer]], pieceBytes);
      expect(unreadable).toBe(0);
      expect([...works.keys()]).toEqual([model]);
      const work = works.get(model) as Work;
      expect(work.running).toBe(0);
      expect(work.counters).toMatchObject({
        ok: 1,
        aborted: 0,
        error: 0,
        prompt_tokens: prompt,
        generated_tokens: generated,
      });
      expect(work.durations.time_to_first_token?.count).toBe(parts > 0 ? 1 : 0);
      expect(work.durations.inter_token_latency?.count).toBe(Math.max(parts - 1, 0));
      expect(work.durations.request_duration?.count).toBe(1);
      // Each look at the clock is a second.
      if (parts > 1) {
        expect(meanOf(work.durations.inter_token_latency)).toBe(1);
        expect(quantileOf(work.durations.inter_token_latency, 0.95)).toBeCloseTo(1, 1);
      }
    }
  });

test('several requests on one connection, one of them not measured', () => {
  const generate = streamed('application/x-ndjson', captured('ollama-0.17.4-generate.ndjson'));
  const { works } = measured([
    [request('/api/generate', chat), generate],
    ['GET /api/tags HTTP/1.1\r\n\r\n', whole('{"models":[]}')],
    ['HEAD / HTTP/1.1\r\n\r\n', 'HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n'],
    [request('/api/generate', chat, 'expect: 100-continue\r\n'), `HTTP/1.1 100 Continue\r\n\r\n${generate}`],
  ]);
  expect(works.get('tiny')?.counters).toMatchObject({ ok: 2, prompt_tokens: 14, generated_tokens: 24 });
});

test('an answer that ends in the middle has failed when the server went, and was given up when the client did', () => {
  const cut = streamed('application/x-ndjson', captured('ollama-0.17.4-generate.ndjson')).slice(0, 400);
  const [server, client] = (['server', 'client'] as const).map((by) =>
    measured([[request('/api/generate', chat), cut]], 50, by).works.get('tiny'),
  );
  expect(server).toMatchObject({ running: 0, counters: { ok: 0, aborted: 0, error: 1, generated_tokens: 3 } });
  expect(client).toMatchObject({ running: 0, counters: { ok: 0, aborted: 1, error: 0, generated_tokens: 3 } });
  // While it runs its parts are counted, too.
  expect(measured([[request('/api/generate', chat), cut]]).works.get('tiny')).toMatchObject({
    running: 1,
    counters: { ok: 0, generated_tokens: 3 },
  });
});

test('a client that closes its side while it is answered has given up, though the server ends its answer with an error', () => {
  const measures = new Measures(steppingClock());
  const observer = new Observer(measures);
  observer.fromClient(Buffer.from(request('/api/generate', chat)));
  const [part, error] = ['{"model":"tiny","response":"a","done":false}\n', '{"error":"context canceled"}\n'];
  const answer = streamed('application/x-ndjson', part + error);
  observer.fromServer(Buffer.from(answer.slice(0, 150)));
  observer.clientEnded();
  observer.fromServer(Buffer.from(answer.slice(150)));
  expect(measures.report('').models).toEqual([
    expect.objectContaining({
      model: 'tiny',
      counters: { ok: 0, aborted: 1, error: 0, prompt_tokens: 0, generated_tokens: 1 },
    }),
  ]);
});

test('whoever asks for a model that is not there makes none; an error in a stream is one', () => {
  const absent = whole(captured('ollama-0.17.4-not-found.json'), '404 Not Found');
  const { works } = measured([[request('/api/generate', '{"model":"absent"}'), absent]]);
  expect([...works]).toEqual([
    ['', expect.objectContaining({ counters: expect.objectContaining({ error: 1, ok: 0 }) })],
  ]);
  const failing = streamed(
    'application/x-ndjson',
    '{"model":"m","response":"a","done":false}\n{"error":"out of memory"}\n',
  );
  expect(measured([[request('/api/generate', chat), failing]]).works.get('m')?.counters).toMatchObject({
    error: 1,
    ok: 0,
  });
});

test('what can not be read costs only the measure, and is counted', () => {
  const long = streamed(
    'application/x-ndjson',
    `{"response":"${'x'.repeat(2 << 20)}","done":false}\n{"model":"m","done":true,"eval_count":3}\n`,
  );
  const first = measured([[request('/api/generate', chat), long]], 5000);
  expect([first.unreadable, first.works.get('m')?.counters.generated_tokens]).toEqual([1, 3]);
  const compressed = `HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc`;
  const second = measured([[request('/api/chat', chat), compressed]]);
  expect([second.unreadable, second.works.get('asked')?.counters.ok]).toEqual([1, 1]);
  for (const nonsense of [
    'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n',
    'no HTTP at all\r\n\r\n',
    'x'.repeat(100_000),
  ]) {
    const third = measured([[request('/api/chat', chat), nonsense]], 1000);
    expect([third.unreadable, third.works.get('asked')?.running]).toEqual([1, 0]);
  }
});

test('many names of models take no more than a bound', () => {
  const exchanges = Array.from({ length: 300 }, (_, at): [string, string] => [
    request('/api/generate', `{"model":"m${at}"}`),
    whole(`{"model":"m${at}","done":true,"eval_count":1}`),
  ]);
  const { works } = measured(exchanges);
  expect(works.size).toBeLessThanOrEqual(101);
  expect([...works.values()].reduce((sum, { counters }) => sum + counters.generated_tokens, 0)).toBe(300);
});

test('the name of a model is found at the outermost level only, in pieces of any size', () => {
  const texts = {
    '{"model":"a\\"b\\u00e9"}': 'a"bé',
    '{"messages":[{"content":"\\"model\\":\\"no\\"","model":"no"}],"x":{"model":"no"},"model":"yes"}': 'yes',
    '{"options":{"model":"no"},"prompt":"model","text":"\\\\","model" : "ü"}': 'ü',
    '{"model":5,"y":"model"}': undefined,
    '["model","no"]': undefined,
  };
  for (const [text, model] of Object.entries(texts)) {
    const bytes = Buffer.from(text);
    for (let size = 1; size <= bytes.length; size++) {
      const found = new TopLevelText('model');
      for (let at = 0; at < bytes.length; at += size) found.feed(bytes.subarray(at, at + size));
      expect(found.text).toBe(model);
    }
  }
});
