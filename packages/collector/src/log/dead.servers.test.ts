// Dead letters over real servers: put aside by ingest, listed by both faces and the command line, published again, thrown away.
import { encodeFrame, encodeHostDescription, type Frame, prefix, subject } from '@fleetreel/proto';
import { DeadLetterBytes, DeadLetterOutcome, DeadLetters as Page } from '@fleetreel/proto/http';
import { startNats } from '@fleetreel/test/servers/nats';
import { startProgram } from '@fleetreel/test/servers/program';
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import Value from 'typebox/value';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { Ingest } from '#ingest/consumer.ts';
import { consumerName, keepLog, streamName } from '#log/stream.ts';
import { execute } from '#store/admin.ts';
import { keepTables } from '#store/schema.ts';
import { Writer } from '#store/writer.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

const hour = 3_600_000;
const day = 24 * hour;
const until = (check: () => unknown) => expect.poll(check, { timeout: 30_000, interval: 50 });

let parts: Awaited<ReturnType<typeof start>>;
beforeAll(async () => {
  parts = await start();
});
afterAll(() => parts?.[Symbol.asyncDispose]());

async function start() {
  const closing = new AsyncDisposableStack();
  const [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  closing.use(nats);
  closing.use(questdb);
  const bounds = { age_ms: day, bytes: 256 * 1024 * 1024 };
  const { telemetry, faces } = await startFaces(closing);
  const { log, registry } = await startLog(closing, nats.url, bounds, telemetry);
  const store = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  await keepTables(store, 30, telemetry);
  await serveRooms(closing, { telemetry, faces, log, registry, questdb });
  return {
    log,
    url: `http://127.0.0.1:${faces.http.port}/api/v1/dead-letters`,
    grpcAddress: `127.0.0.1:${faces.grpc.port}`,
    telemetry,
    query: (sql: string) => execute(store, sql),
    /** Stores what the log has, keeping frames so long, until that is done. */
    async ingest(rawMilliseconds: number): Promise<void> {
      const writer = new Writer(store, () => keepTables(store, 30, telemetry), telemetry);
      const ingest = new Ingest({
        log,
        store: 'main',
        keepLog: () => keepLog(log, bounds, 'main', telemetry),
        rawMilliseconds,
        writer,
        registry,
        telemetry,
        clock: systemClock,
        written: () => undefined,
      });
      const stopping = new AbortController();
      const running = ingest.run(stopping.signal, AbortSignal.any([]));
      await until(async () => {
        const { num_pending, num_ack_pending } = await log.manager.consumers.info(streamName, consumerName('main'));
        return num_pending + num_ack_pending;
      }).toBe(0);
      stopping.abort();
      await running;
      await writer.close();
    },
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

const publish = (to: string, bytes: Uint8Array) => parts.log.jetstream.publish(to, bytes);
const frameOf = (host: string) => subject({ tenant: 'default', kind: 'frame', host });
const frame = (sequence: number, time: number): Uint8Array =>
  encodeFrame({
    session: '00000000000000cd',
    sequence,
    time_us: time * 1000,
    interval_ms: 1000,
    tables: { memory: { used_percent: [50] } } as unknown as Frame['tables'],
  });

async function ask(question: string, method = 'GET'): Promise<unknown> {
  const answer = await fetch(`${parts.url}${question}`, { method });
  const text = await answer.text();
  expect(answer.status, text).toBe(200);
  return JSON.parse(text);
}
async function list(question = ''): Promise<Page> {
  const page = (await ask(question)) as Page;
  expect(Value.Check(Page, page)).toBe(true);
  return page;
}
async function change(question: string, method: 'POST' | 'DELETE'): Promise<DeadLetterOutcome> {
  const outcome = (await ask(question, method)) as DeadLetterOutcome;
  expect(Value.Check(DeadLetterOutcome, outcome)).toBe(true);
  return outcome;
}
async function refused(question: string, method = 'GET'): Promise<string> {
  const answer = await fetch(`${parts.url}${question}`, { method });
  const { code, detail } = (await answer.json()) as { code: string; detail: string };
  return `${answer.status} ${code}: ${detail}`;
}
const frames = async (host: string) =>
  (await parts.query(`SELECT sequence FROM frame WHERE host = '${host}' ORDER BY sequence`)).map(
    ([sequence]) => sequence,
  );

test('where there is none, the list is empty and nothing is to be done', async () => {
  expect(await list()).toEqual({ letters: [], before: null });
  expect(await change('/redrive?all=true', 'POST')).toEqual({ done: 0, failed: [], before: null });
  expect(await refused('/1')).toMatch(/^404 dead_letter_not_found: There is no dead letter 1\./);
});

test('each reason is told, and a filter finds its own', async () => {
  const garbage = Buffer.from('no frame');
  await publish(frameOf('reasons'), garbage);
  await publish(frameOf('reasons'), frame(1, Date.now() + 2 * hour));
  await publish(frameOf('reasons'), frame(2, Date.now() - 2 * day));
  await publish(`${prefix}.default.frame.-x-`, frame(3, Date.now()));
  await parts.ingest(day);
  const { letters } = await list();
  expect(letters.map(({ host, reason, tries, cut }) => [host, reason, tries, cut])).toEqual(
    expect.arrayContaining([
      ['-x-', 'unnamed', 0, false],
      ['reasons', 'expired', 0, false],
      ['reasons', 'future', 0, false],
      ['reasons', 'undecodable', 0, false],
    ]),
  );
  expect(letters).toHaveLength(4);
  const [undecodable] = (await list('?reason=undecodable')).letters;
  expect(undecodable).toMatchObject({ host: 'reasons', subject: frameOf('reasons'), sizeBytes: garbage.length });
  expect(undecodable?.detail).toMatch(/not a frame/);
  expect(undecodable?.originalSequence).toBeGreaterThan(0);
  const whole = (await ask(`/${undecodable?.sequence}`)) as DeadLetterBytes;
  expect(Value.Check(DeadLetterBytes, whole)).toBe(true);
  expect(Buffer.from(whole.base64, 'base64')).toEqual(garbage);
  expect((await list('?host=reasons')).letters).toHaveLength(3);
  expect((await list('?from=-1h&to=now')).letters).toHaveLength(4);
  expect((await list('?to=-1h')).letters).toEqual([]);
  expect((await list('?from=now')).letters).toEqual([]);
});

test('pages continue where the one before ended', async () => {
  const all = (await list()).letters.map(({ sequence }) => sequence);
  const paged: number[] = [];
  for (let before: number | null = Number.MAX_SAFE_INTEGER % 1e15; before !== null; ) {
    const page: Page = await list(`?limit=1&before=${before}`);
    paged.push(...page.letters.map(({ sequence }) => sequence));
    before = page.before;
  }
  expect(paged).toEqual(all);
});

test('a bad question is answered with what is wrong', async () => {
  expect(await refused('?reason=&host=web-1')).toMatch(/^400 bad_value/);
  expect(await refused('?reason=bad')).toMatch(/^400 bad_value: .*undecodable, unnamed, future, expired, refused/);
  expect(await refused('?limit=0')).toMatch(/^400 bad_limit/);
  expect(await refused('?before=-1')).toMatch(/^400 bad_value/);
  expect(await refused('?host=*')).toMatch(/^400 bad_value/);
  expect(await refused('?hots=a')).toMatch(/^400 unknown_parameter: .*"host"/);
  expect(await refused('/nothing')).toMatch(/^400 bad_value/);
  expect(await refused('/redrive', 'POST')).toMatch(/^400 missing_parameter: .*all=true/);
  expect(await refused('', 'DELETE')).toMatch(/^400 missing_parameter/);
  expect(await refused('?sequence=1&host=a', 'DELETE')).toMatch(/^400 bad_value: .*not both/);
});

test('what can be stored now is stored once, and is no dead letter any more', async () => {
  expect(await frames('reasons')).toEqual([]);
  expect(await change('/redrive?reason=expired', 'POST')).toEqual({ done: 1, failed: [], before: null });
  await parts.ingest(30 * day);
  await expect.poll(() => frames('reasons')).toEqual([2]);
  expect((await list('?reason=expired')).letters).toEqual([]);
});

test('what can not be stored this time either comes back, with its tries counted', async () => {
  for (const tries of [1, 2]) {
    const sequence = (await list('?reason=undecodable')).letters[0]?.sequence ?? 0;
    expect(await change(`/redrive?sequence=${sequence}`, 'POST')).toEqual({ done: 1, failed: [], before: null });
    await parts.ingest(day);
    const { letters } = await list('?reason=undecodable');
    expect(letters).toMatchObject([{ tries, subject: frameOf('reasons') }]);
    expect(letters[0]?.sequence).toBeGreaterThan(sequence);
  }

  expect((await change('/redrive?sequence=1,2', 'POST')).failed.map(({ sequence }) => sequence)).toEqual([1, 2]);
});

test('what is published again is not taken for what somebody else sent, whatever id that had', async () => {
  await publish(frameOf('foreseen'), frame(1, Date.now() - 2 * day));
  await parts.ingest(day);
  const [letter] = (await list('?host=foreseen')).letters;
  await parts.log.jetstream.publish(frameOf('other'), frame(1, Date.now()), { msgID: `redriven-${letter?.sequence}` });
  expect(await change('/redrive?host=foreseen', 'POST')).toEqual({ done: 1, failed: [], before: null });
  await parts.ingest(30 * day);
  expect(await frames('foreseen')).toEqual([1]);
});

test('a message of the greatest size, and one that says a name of 64 KB, are put aside too', async () => {
  const most = parts.log.connection.info?.max_payload ?? 0;
  await publish(frameOf('large'), Buffer.alloc(most, 0xff));
  const named = describedHost('x'.repeat(64 * 1024));
  await publish(subject({ tenant: 'default', kind: 'host', host: 'large' }), encodeHostDescription(named));
  await parts.ingest(day);
  const { letters } = await list('?host=large');
  expect(letters.map(({ reason, cut, sizeBytes }) => [reason, cut, sizeBytes > 64 * 1024])).toEqual(
    expect.arrayContaining([
      ['unnamed', false, true],
      ['undecodable', true, true],
    ]),
  );
  expect(letters).toHaveLength(2);
  expect(letters.find(({ cut }) => cut)?.sizeBytes).toBe(most);
  const { done, failed } = await change('/redrive?host=large&reason=undecodable', 'POST');
  expect([done, failed.length]).toEqual([0, 1]);
  expect(failed[0]?.reason).toMatch(/only its first \d+ of \d+ bytes were kept/);
});

test('the command line lists, shows, publishes again and throws away', async () => {
  const cli = async (...args: string[]) => {
    const program = await startProgram('packages/cli/src/main.ts', [
      'dead-letters',
      ...args,
      '--address',
      parts.grpcAddress,
    ]);
    const { code } = await program.exited;
    return { code, output: program.lines.join('\n') };
  };
  const sequence = (await list('?reason=undecodable&host=reasons')).letters[0]?.sequence ?? 0;
  const listed = await cli('list', '--host', 'reasons');
  expect(listed).toMatchObject({ code: 0 });
  expect(listed.output).toMatch(/SEQUENCE .*\n(.*\n)*.*reasons +undecodable +8 +2 +not a frame/);
  const shown = await cli('show', String(sequence));
  expect(shown.output).toContain('000000  6e 6f 20 66 72 61 6d 65                          no frame');
  expect(await cli('redrive', '--reason', 'strange')).toMatchObject({ code: 2 });
  expect((await cli('discard', String(sequence))).output).toBe('1 thrown away.');
  expect((await list('?reason=undecodable&host=reasons')).letters).toEqual([]);
  const redriven = JSON.parse((await cli('redrive', '--host', 'large', '--json')).output) as DeadLetterOutcome;
  expect(redriven).toMatchObject({ done: 1, before: null });
  await parts.ingest(day);
});

test('thousands are listed and thrown away page by page', { timeout: 120_000 }, async () => {
  await change('?all=true', 'DELETE');
  expect((await list()).letters).toEqual([]);
  const count = 1500;
  for (let sent = 0; sent < count; sent += 100) {
    await Promise.all(Array.from({ length: 100 }, () => publish(frameOf('many'), Buffer.from([0xff]))));
    // Among frames that are well, as they are in a log.
    await publish(frameOf('well'), frame(sent + 1, Date.now()));
  }
  await parts.ingest(day);
  const seen = new Set<number>();
  for (let before: number | null = null; ; ) {
    const page: Page = await list(`?limit=700${before === null ? '' : `&before=${before}`}`);
    for (const { sequence } of page.letters) seen.add(sequence);
    if (page.before === null) break;
    before = page.before;
  }
  expect(seen.size).toBe(count);
  let done = 0;
  for (let more = true; more; ) {
    const outcome = await change('?host=many', 'DELETE');
    done += outcome.done;
    more = outcome.before !== null;
  }
  expect(done).toBe(count);
  expect((await list()).letters).toEqual([]);
  await expect.poll(() => frames('well')).toHaveLength(count / 100);
});
