// Measures, events and the audit trail as applications see them: a collector as a program, over real NATS and QuestDB.
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { subject } from '@fleetreel/proto';
import { encodeCustomBatch } from '@fleetreel/proto/custom';
import type {
  Accepted,
  AuditRecords,
  CustomEvents,
  Measures,
  NewEvent,
  NewMeasure,
  Problem,
} from '@fleetreel/proto/http';
import { Custom } from '@fleetreel/proto/services';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { freePort, type Program, startProgram } from '@fleetreel/test/servers/program';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { credentials, type ServiceError, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { systemClock } from '#clock.ts';
import { customPageBytesMax, customTextCharactersMax } from '#limits.ts';
import { Audit } from '#log/audit.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { CustomLog } from '#log/custom.ts';
import { Telemetry } from '#telemetry.ts';

let nats: NatsServer;
let questdb: Questdb;
let log: Log;
let collector: Program;
let ports: { http: number; grpc: number };

/** Asks until it holds; also before a test. */
function until(ask: () => unknown) {
  const poll = async (holds: (found: unknown) => void) =>
    await vi.waitFor(async () => holds(await ask()), { timeout: 30_000, interval: 50 });
  return {
    toBe: (wanted: unknown) => poll((found) => expect(found).toBe(wanted)),
    toEqual: (wanted: unknown) => poll((found) => expect(found).toEqual(wanted)),
    toMatchObject: (wanted: object) => poll((found) => expect(found).toMatchObject(wanted)),
    toBeAbove: (least: number) => poll((found) => expect(found).toBeGreaterThan(least)),
  };
}

async function startCollector(): Promise<void> {
  collector = await startProgram(
    'packages/collector/src/main.ts',
    [
      'run',
      ...Object.entries({
        'nats-url': nats.url,
        'http-port': ports.http,
        'grpc-port': ports.grpc,
        'access-anonymous': 'admin',
        'logging-level': 'warn',
        'custom-names': 200,
      }).flatMap(([name, value]) => [`--${name}`, String(value)]),
    ],
    questdb.environment,
  );
  await until(async () => (await fetch(`http://127.0.0.1:${ports.http}/readyz`).catch(() => undefined))?.status).toBe(
    200,
  );
}

beforeAll(async () => {
  [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  ports = { http: await freePort(), grpc: await freePort() };
  await startCollector();
  log = await connectLog(nats.url);
});

afterAll(async () => {
  await log?.connection.close();
  await collector?.stop();
  await questdb?.[Symbol.asyncDispose]();
  await nats?.[Symbol.asyncDispose]();
});

const address = () => `http://127.0.0.1:${ports.http}/api/v1`;

async function post(
  path: string,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<{ status: number; answer: Accepted & Problem; retryAfter: string | null }> {
  const text = typeof body === 'string' || body instanceof Uint8Array ? body : JSON.stringify(body);
  const answer = await fetch(`${address()}/${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', ...headers },
    body: text as string,
  });
  const retryAfter = answer.headers.get('retry-after');
  return { status: answer.status, answer: (await answer.json()) as Accepted & Problem, retryAfter };
}

/** Writes entries; all of them are accepted. */
async function write(path: 'measure' | 'event', entries: readonly (NewMeasure | NewEvent)[], key?: string) {
  const lines = entries.map((entry) => JSON.stringify(entry)).join('\n');
  const headers = { 'content-type': 'application/x-ndjson', ...(key && { 'idempotency-key': key }) };
  const { status: code, answer } = await post(path, lines, headers);
  expect(answer).toMatchObject({ accepted: entries.length });
  expect(code).toBe(200);
  return answer;
}

async function get<T>(path: string): Promise<T> {
  const answer = await fetch(`${address()}/${path}`);
  if (answer.status !== 200) throw new Error(await answer.text());
  return (await answer.json()) as T;
}

const query = (parameters: Record<string, string | string[]>) =>
  new URLSearchParams(
    Object.entries(parameters).flatMap(([name, value]) => [value].flat().map((one): [string, string] => [name, one])),
  ).toString();
const measures = async (parameters: Record<string, string | string[]>) =>
  await get<Measures>(`measure?${query(parameters)}`);
const countOf = async (name: string) => (await measures({ name, limit: '5000' })).measures.length;
/** Waits until so many measures of a name are found. */
const stored = (name: string, count: number) => until(() => countOf(name).catch(String)).toBe(count);

/** Calls that were sent until they were accepted, while all that stores them was killed. */
let sent = 0;

// First: what a killed collector held is delivered again after some seconds, and is looked for at the end.
test('whatever is killed, a client is answered once the log has what it sends', async () => {
  let failures = 0;
  let isOver = false;
  const send = async (index: number) => {
    const body = JSON.stringify([{ name: 'kill', value: index, time: Date.now() }]);
    for (;;) {
      try {
        const { status: code } = await post('measure', body, { 'idempotency-key': `kill ${index}` });
        if (code === 200) return;
      } catch {
        failures++;
      }
      await pause(20);
    }
  };
  const sending = (async () => {
    while (!isOver) {
      await send(sent++);
      await pause(5);
    }
  })();
  await until(() => countOf('kill')).toBeAbove(0);
  await questdb.kill();
  // The store is not needed to be answered.
  const before = sent;
  await until(() => sent).toBeAbove(before + 10);
  expect(failures).toBe(0);
  await collector.kill();
  await questdb.restart();
  await startCollector();
  isOver = true;
  await sending;
  expect(failures).toBeGreaterThan(0);
});

test.concurrent('one or many, in each form, are found as they were written', async () => {
  const time = Date.now() - 60_000;
  const one = {
    name: 'form.one',
    value: 0.1,
    time,
    metadata: { host: 'web-1', size: 10, ok: true, 'os.name': 'a"b\\\n' },
  };
  for (const body of [one, [{ ...one, name: 'form.array' }], { measures: [{ ...one, name: 'form.object' }] }])
    expect(await post('measure', body)).toMatchObject({ status: 200, answer: { accepted: 1, duplicate: false } });
  const text = 'a text\twith "quotes", \\, and more: \u{1f600}';
  await write('measure', [
    { ...one, name: 'form.lines' },
    { name: 'form.text', text, time: new Date(time).toISOString().replace('Z', '123Z') },
    { name: 'form.now', value: -1e300 },
  ]);
  await stored('form.*', 6);
  const found = await measures({ name: 'form.*' });
  expect(found.before).toBeNull();
  // The newest first; of one time the order is any, but always the same.
  expect(found.measures.map(({ name }) => name).slice(0, 2)).toEqual(['form.now', 'form.text']);
  expect(found.measures.find(({ name }) => name === 'form.text')).toEqual({
    id: expect.stringMatching(/^[0-9a-f]{16}-1$/) as string,
    time: time + 0.123,
    name: 'form.text',
    source: 'anonymous',
    value: null,
    text,
    metadata: {},
  });
  for (const name of ['form.one', 'form.array', 'form.object', 'form.lines'])
    expect(found.measures.find((each) => each.name === name)).toMatchObject({ ...one, name, text: null });
  expect((await measures({ name: 'form.*' })).measures).toEqual(found.measures);
  // A time that was found can be asked for: the range has its begin and not its end.
  const at = String(time + 0.123);
  expect((await measures({ name: 'form.text', from: at })).measures).toHaveLength(1);
  expect((await measures({ name: 'form.text', from: '-1h', to: at })).measures).toHaveLength(0);
});

test.concurrent('events have an end and a severity, and are found by it', async () => {
  const time = Date.now() - 5000;
  await write('event', [
    { name: 'deploy', text: 'v1', time, end: time + 2000.5, severity: 'warning', metadata: { by: 'ana' } },
    { name: 'deploy', text: 'v2', time: time + 1 },
    { name: 'outage', severity: 'critical', time: time + 2 },
  ]);
  const events = async (more: string) => await get<CustomEvents>(`event?name=deploy,outage${more}`);
  await until(async () => (await events('')).events.length).toBe(3);
  expect((await events('&severity=warning&severity=critical')).events).toMatchObject([
    { name: 'outage', text: '', end: null, severity: 'critical' },
    { name: 'deploy', text: 'v1', time, end: time + 2000.5, severity: 'warning', metadata: { by: 'ana' } },
  ]);
  expect((await events('&where=by=ana')).events).toHaveLength(1);
  expect((await events('&severity=info')).events).toMatchObject([{ text: 'v2', severity: 'info' }]);
});

describe('conditions', () => {
  beforeAll(async () => {
    await write('measure', [
      { name: 'where.a', value: 1, metadata: { size: 10, host: 'web-1', ok: true } },
      { name: 'where.b', value: 2, metadata: { size: '10', host: 'web_2', ok: false } },
      { name: 'where.c', value: 3, metadata: { size: 9.5, host: "x' OR 1=1 --", ok: 'true' } },
      { name: 'where.d', value: 4, metadata: { 'a.b-c': 'x,y', host: 'w%b-1', host_name: '*' } },
      { name: 'where.e', value: 5 },
    ]);
    await stored('where.*', 5);
  });

  test.each([
    [['size>=10'], 'a'],
    [['size>=9.5'], 'ac'],
    [['size=10'], 'a'],
    [['size!=10'], 'c'],
    [['size<1e1'], 'c'],
    [['size="10"'], 'b'],
    [['size>-1', 'size<=9.5'], 'c'],
    [['ok=true'], 'a'],
    [['ok!=true'], 'b'],
    [['ok="true"'], 'c'],
    [['host=web-1'], 'a'],
    [['host=web*'], 'ab'],
    [['host=web_*'], 'b'],
    [['host=w%*'], 'd'],
    [['host=*-1'], 'ad'],
    [['host!=web*'], 'cd'],
    [['host="web*"'], ''],
    [['host_name="*"'], 'd'],
    [["host=x' OR 1=1 --"], 'c'],
    [['a.b-c=x,y'], 'd'],
    [['a.b-c=x,y', 'host=nothing'], ''],
    [['no.such=1'], ''],
    [[], 'abcde'],
  ])('%j hold for %s', async (where, names) => {
    const found = await measures({ name: 'where.*', where });
    expect(
      found.measures
        .map(({ name }) => name.slice(-1))
        .sort()
        .join(''),
    ).toBe(names);
  });

  test.each([
    ['where=size', /no key, comparison and value/],
    ['where=size%3E%3Dbig', /only numbers are compared/],
    ['where=a%00b=1', /no key, comparison and value/],
    ['where=host=%22web', /quotes/],
    ['where=size=1e999', /too large/],
    ['where=host=', /no value/],
    [`${'where=a=1&'.repeat(21)}`, /names 21 values/],
    ['name=a%27b', /can't be/],
    ['limit=5001', /1 to 5000/],
    ['before=x', /not one of this list/],
    ['before=1-2-9223372036854775808-0', /not one of this list/],
    ['before=9999999999999999-1-1-1', /not one of this list/],
    ['wher=a', /Did you mean "where"/],
    ['from=now', /range is empty/],
  ])('%s is refused', async (parameters, reason) => {
    const answer = await fetch(`${address()}/measure?${parameters}`);
    expect([answer.status, ((await answer.json()) as Problem).detail]).toEqual([400, expect.stringMatching(reason)]);
  });
});

test.concurrent('names are found by patterns', async () => {
  await write(
    'measure',
    ['cpu.load', 'cpu.load_1', 'cpu-load', 'mem/used:x'].map((name) => ({ name: `n.${name}`, value: 1 })),
  );
  await stored('n.*', 4);
  const names = async (name: string) => (await measures({ name })).measures.map((one) => one.name.slice(2)).sort();
  expect(await names('n.cpu.*')).toEqual(['cpu.load', 'cpu.load_1']);
  expect(await names('n.cpu_*')).toEqual([]);
  expect(await names('n.*:x,n.cpu-load')).toEqual(['cpu-load', 'mem/used:x']);
});

test.concurrent('pages stay as they are while others are written, also where many have one time', async () => {
  const time = Date.now() - 30_000;
  const entries = Array.from({ length: 300 }, (_, index) => ({
    name: 'page.row',
    value: index,
    // 100 of one time, in several calls, and 200 of others.
    time: index % 3 === 0 ? time : time + index,
  }));
  for (let first = 0; first < 300; first += 50) await write('measure', entries.slice(first, first + 50));
  await stored('page.row', 300);
  const whole = (await measures({ name: 'page.row', limit: '5000' })).measures;
  const given: Measures['measures'] = [];
  let before: string | null = '';
  let pages = 0;
  for (; before !== null; pages++) {
    const page: Measures = await measures({ name: 'page.row', limit: '37', from: '-1h', ...(before && { before }) });
    given.push(...page.measures);
    before = page.before;
    // Newer ones, and one that is late.
    await write('measure', [
      { name: 'page.row', value: -1 },
      { name: 'page.row', value: -2, time: time + 299.5 },
    ]);
  }
  expect(pages).toBeGreaterThan(7);
  const old = given.filter(({ value }) => Number(value) >= 0);
  expect(old).toEqual(whole);
  expect(new Set(given.map(({ id, time: at }) => `${at} ${id}`)).size).toBe(given.length);
});

test('pages of long texts end before they are too large, and have all', async () => {
  const time = Date.now() - 30_000;
  // What is six times as long in JSON; 200 of one time, in several calls, and 400 of others.
  const text = '\u0001'.repeat(customTextCharactersMax);
  const entries = Array.from({ length: 600 }, (_, index) => ({
    name: 'page.long',
    text,
    time: index % 3 === 0 ? time : time + index,
  }));
  for (let first = 0; first < 600; first += 75) await write('measure', entries.slice(first, first + 75));
  await until(async () => {
    const found = await questdb.query("SELECT count() FROM measure WHERE name = 'page.long'").catch(() => undefined);
    return Number(found?.rows[0]?.[0]);
  }).toBe(600);
  for (const limit of ['5000', '350']) {
    const given: string[] = [];
    const times: number[] = [];
    let before: string | null = '';
    for (let pages = 0; before !== null; pages++) {
      const page: Measures = await measures({ name: 'page.long', limit, ...(before && { before }) });
      expect(page.measures.length * text.length).toBeLessThan(customPageBytesMax);
      expect(page.measures.every((one) => one.text === text)).toBe(true);
      given.push(...page.measures.map(({ id, time: at }) => `${at} ${id}`));
      times.push(...page.measures.map(({ time: at }) => at));
      before = page.before;
      expect(pages).toBeLessThan(2);
    }
    expect(new Set(given).size).toBe(600);
    expect(times).toEqual([...times].sort((a, b) => b - a));
  }
});

test.concurrent('a call that is sent again with its key is stored once', async () => {
  const entries = [
    { name: 'again', value: 1, time: Date.now() },
    { name: 'again', value: 1, time: Date.now() },
  ];
  expect(await write('measure', entries, 'key 1')).toEqual({ accepted: 2, duplicate: false });
  expect(await write('measure', entries, 'key 1')).toEqual({ accepted: 2, duplicate: true });
  expect(await write('measure', entries, 'key 2')).toEqual({ accepted: 2, duplicate: false });
  expect(await write('event', [{ name: 'again' }], 'key 1')).toEqual({ accepted: 1, duplicate: false });
  // Other entries are never taken for what came before, whatever differs.
  for (const other of [{ value: 2 }, { name: 'again.other' }, { metadata: { a: 1 } }]) {
    const changed = [entries[0] as NewMeasure, { ...(entries[1] as NewMeasure), ...other }];
    expect(await write('measure', changed, 'key 1')).toEqual({ accepted: 2, duplicate: false });
    expect(await write('measure', changed, 'key 1')).toEqual({ accepted: 2, duplicate: true });
  }
  // Without a key each is a call of its own.
  await write('measure', entries);
  await stored('again', 11);
  await stored('again.other', 1);
  // After the log's duplicate window the rows are the same: here it is passed by another id.
  const { jetstream } = log;
  const { stream, seq } = await jetstream.publish(
    subject({ tenant: 'default', kind: 'custom', host: 'k' }),
    batch('again.late'),
  );
  expect(seq).toBeGreaterThan(0);
  expect(stream).toBe('FRAMES');
  await jetstream.publish(subject({ tenant: 'default', kind: 'custom', host: 'k' }), batch('again.late'));
  await write('measure', [{ name: 'again.end', value: 1 }]);
  await stored('again.end', 1);
  expect(await countOf('again.late')).toBe(1);
  for (const key of ['', 'x'.repeat(129)])
    expect((await post('measure', entries, { 'idempotency-key': key })).status).toBe(400);
});

const late_us = (Date.now() - 1000) * 1000;
const batch = (name: string) =>
  encodeCustomBatch({
    call: '0000000000000007',
    first: 0,
    received_us: Date.now() * 1000,
    words: ['', name],
    measures: { time_us: [late_us], name: [1], value: [1], text: [0], metadata: [0] },
  });

describe('a bad entry', () => {
  const good = { name: 'bad.good', value: 1 };
  const now = Date.now();

  test.each<[string, unknown, string | undefined, RegExp]>([
    ['no object', [good, 1], undefined, /^Entry 2: it is no object/],
    ['null', [good, null], undefined, /no object/],
    ['no name', [good, { value: 1 }], 'name', /"name" is missing/],
    ['a name that is none', [good, { name: 'a b', value: 1 }], 'name', /"name" can't be "a b"/],
    ['a huge name', [good, { name: 'a'.repeat(10_000), value: 1 }], 'name', /a string of 10000 characters/],
    ['neither value nor text', [good, { name: 'a' }], 'value', /neither "value" nor "text"/],
    ['both', [good, { name: 'a', value: 1, text: 'b' }], 'value', /both "value" and "text"/],
    ['a value in quotes', [good, { name: 'a', value: '1' }], 'value', /"value" is "1"/],
    ['no number', [good, { name: 'a', value: null }], 'value', /"value" is null/],
    ['a text too long', [good, { name: 'a', text: 'b'.repeat(8193) }], 'text', /at most 8192/],
    ['another field', [good, { name: 'a', valu: 1 }], 'valu', /Did you mean "value"/],
    ['1970', [good, { ...good, time: 0 }], 'time', /longer ago/],
    ['seconds', [good, { ...good, time: Math.floor(now / 1000) }], 'time', /If this is in seconds/],
    ['2100', [good, { ...good, time: '2100-01-01T00:00:00Z' }], 'time', /in the future/],
    ['after 2200', [good, { ...good, time: 1e15 }], 'time', /after the year 2200/],
    ['a day that is none', [good, { ...good, time: '2026-02-30T00:00:00Z' }], 'time', /no such day/],
    ['a relative time', [good, { ...good, time: '-1h' }], 'time', /no time/],
    ['a negative time', [good, { ...good, time: -1 }], 'time', /no time/],
    ['a time that is true', [good, { ...good, time: true }], 'time', /"time" is true/],
    ['metadata that are none', [good, { ...good, metadata: [] }], 'metadata', /"metadata" is an array/],
    ['deep metadata', [good, { ...good, metadata: { a: { b: 1 } } }], 'metadata.a', /"metadata.a" is an object/],
    ['null in metadata', [good, { ...good, metadata: { a: null } }], 'metadata.a', /is null/],
    ['a key that is none', [good, { ...good, metadata: { 'a b': 1 } }], 'metadata.a b', /can't have the key/],
    ['a prototype', '[{"name":"a","value":1,"metadata":{"__proto__":1}}]', 'metadata.__proto__', /can't have the key/],
    [
      'many keys',
      [good, { ...good, metadata: Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`k${index}`, 1])) }],
      'metadata',
      /33 keys/,
    ],
    ['long metadata', [good, { ...good, metadata: { a: 'b'.repeat(1025) } }], 'metadata.a', /1025 characters/],
  ])('%s refuses the whole call', async (_, body, parameter, detail) => {
    const { status: code, answer } = await post('measure', body);
    expect([code, answer.code]).toEqual([400, 'bad_entry']);
    expect(answer.detail).toMatch(detail);
    expect(answer.detail).toContain('Nothing of this call was stored.');
    expect(answer.parameter).toBe(parameter);
    expect(answer.index).toBe(typeof body === 'string' ? 0 : 1);
  });

  test.each<[string, string, Record<string, string>, RegExp]>([
    ['NaN', '{"name":"a","value":NaN}', {}, /no JSON/],
    ['1e999', '{"name":"a","value":1e999}', {}, /"value" is Infinity/],
    ['no body', '', {}, /no JSON/],
    ['two members of one name', '{"name":"a","value":1,"value":2}', {}, /two members of one name/],
    ['the same in metadata', '[{"name":"a","value":1,"metadata":{"a":1,"b":":\\":","a":2}}]', {}, /two members/],
    ['no array', '{"measures":1}', {}, /"measures" is no array/],
    ['more beside it', '{"measures":[],"name":"a"}', {}, /beside "measures"/],
    ['a line that is none', '{"name":"a","value":1}\n\n{', lines(), /^Line 3: it is no JSON/],
    ['a line twice', '{"name":"a","value":1,"name":"a"}', lines(), /^Line 1: it has two members/],
    ['text that is no UTF-8', '\u00ff', { 'x-latin': '1' }, /not UTF-8/],
    ['deep arrays', `${'['.repeat(100_000)}${']'.repeat(100_000)}`, {}, /^Entry 1: it is no object/],
  ])('%s is refused', async (_, body, headers, detail) => {
    const { status: code, answer } = await post(
      'measure',
      headers['x-latin'] ? Buffer.from(body, 'latin1') : body,
      headers,
    );
    expect(code).toBe(400);
    expect(answer.detail).toMatch(detail);
  });

  test('so are bodies that are too large, of too many entries, or of another type', async () => {
    const many = Array.from({ length: 10_001 }, () => ({ name: 'a', value: 1 }));
    expect(await post('measure', many)).toMatchObject({ status: 413, answer: { code: 'too_many_entries' } });
    // Refused by what it says of itself: the body is not even sent.
    const socket = connect(ports.http, '127.0.0.1');
    socket.write(
      `POST /api/v1/measure HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: ${4 * 1024 * 1024 + 1}\r\n\r\n`,
    );
    const [said] = (await once(socket, 'data')) as [Buffer];
    socket.destroy();
    expect(String(said)).toMatch(/^HTTP\/1.1 413 .*larger than 4194304 bytes/s);
    expect((await post('measure', 'a', { 'content-type': 'text/plain' })).status).toBe(415);
    expect((await post('event', [{ name: 'a', severity: 'bad' }])).answer.parameter).toBe('severity');
    expect((await post('event', [{ name: 'a', time: now, end: now - 1 }])).answer.parameter).toBe('end');
  });

  test('nothing of it was stored', async () => {
    await write('measure', [{ name: 'bad.end', value: 1 }]);
    await stored('bad.end', 1);
    expect(await countOf('bad.good')).toBe(0);
    expect(await post('measure', [])).toMatchObject({ status: 200, answer: { accepted: 0, duplicate: false } });
  });
});

function lines() {
  return { 'content-type': 'application/x-ndjson' };
}

test('a key that invents names is stopped, and told when to try again', async () => {
  const invented = Array.from({ length: 260 }, (_, index) => ({ name: `invented.${index}`, value: 1 }));
  const { status: code, answer, retryAfter } = await post('measure', invented);
  expect([code, answer.code]).toEqual([429, 'too_many_custom_names']);
  expect(Number(retryAfter)).toBeGreaterThan(0);
  expect(Number(retryAfter)).toBeLessThanOrEqual(3600);
  const metrics = await (await fetch(`http://127.0.0.1:${ports.http}/metrics`)).text();
  expect(metrics).toContain('fleetreel_collector_custom_calls_refused_total{bound="names"} 1');
});

test('ten thousand in one call pass through several messages of the log', async () => {
  const time = Date.now() - 1000;
  const many = Array.from({ length: 10_000 }, (_, index) => ({
    name: 'bulk',
    value: index,
    time,
    metadata: { request: `id-${index}` },
  }));
  await write('measure', many, 'bulk');
  expect(await write('measure', many, 'bulk')).toMatchObject({ duplicate: true });
  const count = async () =>
    (await questdb.query("SELECT count(), sum(value) FROM measure WHERE name = 'bulk'")).rows[0];
  await until(count).toEqual([10_000, (10_000 * 9999) / 2]);
  const found = await measures({ name: 'bulk', where: 'request=id-9876' });
  expect(found.measures).toMatchObject([{ value: 9876 }]);
});

test('what the log had is not counted as taken', async () => {
  const telemetry = new Telemetry('silent');
  const custom = new CustomLog(log, telemetry, systemClock);
  const column = <T>(value: T) => Array.from({ length: 10_000 }, () => value);
  const entries = {
    events: {
      time_us: column(Number.NaN),
      name: column('counted'),
      end_us: column(Number.NaN),
      severity: column('info'),
      text: column(''),
      metadata: column(''),
    },
  };
  const counters = async () => (await telemetry.registry.metrics()).match(/^fleetreel_collector_custom_\w+_total.*$/gm);
  const put = async () => await custom.put({ tenant: 'acme', source: 'counted' }, entries, 'counted');
  expect(await put()).toEqual({ accepted: 10_000, duplicate: false });
  const taken = await counters();
  expect(taken).toContain('fleetreel_collector_custom_entries_total{kind="event"} 10000');
  expect(await put()).toEqual({ accepted: 10_000, duplicate: true });
  expect(await counters()).toEqual(taken);
});

test('small calls that come at once keep their own entries and times', async () => {
  const began = Date.now();
  const calls = Array.from({ length: 300 }, (_, index) => index);
  await Promise.all([
    ...calls.map((index) =>
      index % 3 === 0
        ? write('measure', [{ name: 'small.text', text: `t${index}`, metadata: { index } }])
        : write('measure', [
            { name: 'small.value', value: index, time: began - index },
            { name: 'small.value', value: -index, metadata: { index } },
          ]),
    ),
    write('event', [{ name: 'small.event', text: 'at the same time' }]),
  ]);
  const ended = Date.now();
  await stored('small.*', 500);
  const found = (await measures({ name: 'small.*', limit: '5000' })).measures;
  for (const index of calls) {
    const own = found.filter((one) => Math.abs(one.value ?? 0) === index || one.text === `t${index}`);
    if (index === 0) continue;
    const timed = own.filter(({ value }) => value === index);
    const untimed = own.filter(({ value, text }) => value === -index || text === `t${index}`);
    expect(timed.map(({ time }) => time)).toEqual(index % 3 === 0 ? [] : [began - index]);
    expect(untimed.map(({ metadata }) => metadata)).toEqual([{ index }]);
    expect(untimed[0]?.time).toBeGreaterThanOrEqual(began);
    expect(untimed[0]?.time).toBeLessThanOrEqual(ended);
  }
});

test('calls that come while another is on its way into the log follow it together, in one message', async () => {
  const custom = new CustomLog(log, new Telemetry('silent'), systemClock);
  const to = subject({ tenant: 'default', kind: 'custom', host: 'together' });
  const call = (index: number) => ({
    measures: {
      time_us: [Number.NaN],
      name: ['together'],
      value: [index],
      text: [''],
      metadata: [''],
    },
  });
  await Promise.all(
    Array.from({ length: 300 }, (_, index) =>
      custom.put({ tenant: 'default', source: 'together' }, call(index), undefined),
    ),
  );
  const { state } = await log.manager.streams.info('FRAMES', { subjects_filter: to });
  expect(state.subjects).toEqual({ [to]: 2 });
  await stored('together', 300);
});

test.concurrent('over gRPC it is the same', async () => {
  const client = new Custom(`127.0.0.1:${ports.grpc}`, credentials.createInsecure());
  try {
    const call = <T>(send: (done: (error: ServiceError | null, answer?: T) => void) => void) =>
      new Promise<T>((resolve, reject) => send((error, answer) => (error ? reject(error) : resolve(answer as T))));
    const time_us = Date.now() * 1000 + 1;
    const put = {
      name: 'rpc',
      value: 0,
      time_us,
      metadata: { a: { text: 'b' }, n: { number: 0 }, f: { flag: false } },
    };
    const sent = { measures: [put, { name: 'rpc', text: '', metadata: {} }], idempotency_key: 'rpc' };
    expect(await call((done) => client.PutMeasures(sent, done))).toEqual({ accepted: 2, duplicate: false });
    expect(await call((done) => client.PutMeasures(sent, done))).toEqual({ accepted: 2, duplicate: true });
    await stored('rpc', 2);
    const { measures: found } = await call<{ measures: { metadata: unknown }[] }>((done) =>
      client.FindMeasures({ names: ['rpc'], where: ['a=b'] }, done),
    );
    expect(found).toMatchObject([{ name: 'rpc', content: 'value', value: 0, time_us, source: 'anonymous' }]);
    expect(found[0]?.metadata).toMatchObject({ a: { text: 'b' }, n: { number: 0 }, f: { flag: false } });
    const page = await call<{ measures: unknown[]; before: string }>((done) =>
      client.FindMeasures({ names: ['rpc'], limit: 1 }, done),
    );
    expect(page.measures).toHaveLength(1);
    const rest = await call<typeof page>((done) => client.FindMeasures({ names: ['rpc'], before: page.before }, done));
    expect(rest).toMatchObject({ before: '' });
    expect(rest.measures).toHaveLength(1);
    await call((done) =>
      client.PutEvents({ events: [{ name: 'rpc.event', severity: 'error', end_us: time_us }] }, done),
    ).then(
      () => expect.unreachable('its end is before its time'),
      ({ code, metadata }: ServiceError) => {
        expect(code).toBe(status.INVALID_ARGUMENT);
        expect(metadata.get('fleetreel-code')).toEqual(['bad_entry']);
        expect(metadata.get('fleetreel-index')).toEqual(['0']);
      },
    );
    await call((done) => client.PutEvents({ events: [{ name: 'rpc.event', time_us, end_us: time_us }] }, done));
    await until(
      async () => await call((done) => client.FindEvents({ names: ['rpc.event'], severities: ['info'] }, done)),
    ).toMatchObject({ events: [{ name: 'rpc.event', time_us, end_us: time_us, severity: 'info' }] });
    await expect(
      call((done) => client.PutMeasures({ measures: [{ name: 'a', value: Number.NaN }] }, done)),
    ).rejects.toThrow(/"value" is NaN/);
    await expect(
      call((done) => client.PutMeasures({ measures: [{ name: 'a', value: 1, metadata: { a: {} } }] }, done)),
    ).rejects.toThrow(/"metadata.a" is null/);
  } finally {
    client.close();
  }
});

test.concurrent('what another tenant writes is not found', async () => {
  const others = new CustomLog(log, new Telemetry('silent'), systemClock);
  const entries = { time_us: [Number.NaN], name: ['foreign'], value: [1], text: [''], metadata: [''] };
  await others.put({ tenant: 'acme', source: 'k1' }, { measures: entries }, undefined);
  await others.put({ tenant: 'default', source: 'k1' }, { measures: entries }, undefined);
  await until(async () => (await questdb.query("SELECT count() FROM measure WHERE name = 'foreign'")).rows[0]).toEqual([
    2,
  ]);
  expect(await countOf('*oreign')).toBe(1);
  expect((await measures({ name: 'foreign' })).measures).toMatchObject([{ source: 'k1' }]);
});

test.concurrent('the audit trail says who did what, to its tenant alone', async () => {
  const audit = new Audit(log, 'host.of (tests)', new Telemetry('silent'), systemClock);
  const ana = { tenant: 'default', kind: 'user', id: 'ana', name: 'Ana "A"' } as const;
  const address = '192.0.2.1';
  const after = { role: 'viewer', tags: ['a\n"b"'] };
  await audit.record(ana, { action: 'user.create', target: 'ben', after, address });
  await audit.record(ana, { action: 'user.delete', target: 'ben', before: after, address });
  await audit.record({ ...ana, tenant: 'acme' }, { action: 'user.create', target: 'eve', address });
  await audit.record({ ...ana, kind: 'anonymous', id: '', name: 'eve' }, { action: 'sign_in', target: 'eve', address });
  await expect(audit.record(ana, { action: 'Sign in', target: '', address })).rejects.toThrow(/no action/);
  await until(async () => (await questdb.query('SELECT count() FROM audit')).rows[0]).toEqual([4]);
  const records = async (more: string) => (await get<AuditRecords>(`audit?${more}`)).records;
  expect(await records('')).toMatchObject([
    { action: 'sign_in' },
    { action: 'user.delete' },
    { action: 'user.create' },
  ]);
  expect(await records('action=user.*&target=b*')).toMatchObject([
    { action: 'user.delete', before: after, after: null },
    {
      action: 'user.create',
      target: 'ben',
      actor: { kind: 'user', id: 'ana', name: 'Ana "A"' },
      before: null,
      after,
      address,
      collector: 'host_of--tests',
    },
  ]);
  expect(await records('actor=eve')).toMatchObject([{ action: 'sign_in', actor: { kind: 'anonymous', id: '' } }]);
  const first = await get<AuditRecords>('audit?limit=1');
  const rest = await get<AuditRecords>(`audit?before=${first.before}`);
  expect([...first.records, ...rest.records]).toEqual(await records(''));
  for (const method of ['POST', 'PUT', 'DELETE'])
    expect((await fetch(`http://127.0.0.1:${ports.http}/api/v1/audit`, { method })).status).toBe(405);
});

test.concurrent('what can not be read goes to the dead letters, and stops nothing', async () => {
  const to = subject({ tenant: 'default', kind: 'custom', host: 'broken' });
  await log.jetstream.publish(to, Uint8Array.of(1, 2, 3));
  await write('measure', [{ name: 'after.dead', value: 1 }]);
  await stored('after.dead', 1);
  await until(async () => (await get<{ letters: object[] }>('dead-letters?host=broken')).letters).toMatchObject([
    { reason: 'undecodable', subject: to, host: 'broken' },
  ]);
});

test('with the log away a call is refused at once or soon, and says so', async () => {
  await nats.stop();
  const { status: code, answer, retryAfter } = await post('measure', { name: 'away', value: 1 });
  expect([code, answer.code]).toEqual([503, 'log_unavailable']);
  expect(answer.detail).toContain('sent again, the same under the same Idempotency-Key, it is stored once');
  expect(retryAfter).toBe('5');
  await nats.restart();
  await until(async () => (await post('measure', { name: 'away.then', value: 1 })).status).toBe(200);
  await until(() => countOf('away.then').catch(() => 0)).toBeAbove(0);
});

test('what a client sent until it was accepted is stored, once, whatever was killed', async () => {
  const values = async () =>
    (await questdb.query("SELECT value FROM measure WHERE name = 'kill' ORDER BY value")).rows.flat();
  await until(values).toEqual(Array.from({ length: sent }, (_, index) => index));
});
