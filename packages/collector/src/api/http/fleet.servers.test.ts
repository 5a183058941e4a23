// The page for Prometheus: checked by its own tool, and read by a real one.
import { type Columns, catalog, encodeFrame, type Frame, subject } from '@fleetreel/proto';
import { startNats } from '@fleetreel/test/servers/nats';
import { Prometheus, promtool, type Sample } from '@fleetreel/test/servers/prometheus';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Clock, systemClock } from '#clock.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

const day = 86_400_000;
const until = (check: () => unknown) => expect.poll(check, { timeout: 30_000, interval: 50 });

/** How far the collector's clock is ahead of the machine's. */
let ahead_us = 0;
const clock: Clock = { ...systemClock, now_us: () => systemClock.now_us() + ahead_us };

const described = (host: string) => describedHost(host, { time_us: Math.round(clock.now_us()) });

let parts: Awaited<ReturnType<typeof start>>;
beforeAll(async () => {
  parts = await start();
});
afterAll(() => parts?.[Symbol.asyncDispose]());

async function start() {
  const closing = new AsyncDisposableStack();
  const nats = closing.use(await startNats());
  const { telemetry, faces } = await startFaces(closing);
  const { log, registry } = await startLog(closing, nats.url, { age_ms: day, bytes: 64 * 1024 * 1024 }, telemetry);
  // No host here is older than the log, so that the store is not asked.
  const { newest } = await serveRooms(closing, { telemetry, faces, log, registry, clock });
  const address = `127.0.0.1:${faces.http.port}`;
  return {
    log,
    registry,
    newest,
    telemetry,
    address,
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

let sequence = 0;
/** Publishes a frame of these tables and waits until the collector has it. */
async function publish(host: string, tables: Record<string, Columns>): Promise<void> {
  const time_us = Math.round(clock.now_us());
  const frame = { session: '00000000000000ab', sequence: ++sequence, time_us, interval_ms: 1000, tables };
  const { log, newest } = parts;
  await log.jetstream.publish(
    subject({ tenant: 'default', kind: 'frame', host }),
    encodeFrame(frame as unknown as Frame),
  );
  await until(() => newest.get('default', host)?.header.time_us).toBe(time_us);
}

const page = async (question = ''): Promise<string> => {
  const answer = await fetch(`http://${parts.address}/metrics/fleet${question}`);
  expect(answer.status).toBe(200);
  return await answer.text();
};

/** Rows of every table of the contract, with a value in every column. */
const everything = (rows: number): Record<string, Columns> =>
  Object.fromEntries(
    catalog.map(({ name, labels, fields }) => [
      name,
      Object.fromEntries([
        ...labels.map((label) => [label.name, Array.from({ length: rows }, (_, row) => `${label.name}-${row}`)]),
        ...fields.map((field) => [field.name, Array.from({ length: rows }, (_, row) => row + 0.5)]),
      ]),
    ]),
  );

const memory = (bytes: number): Record<string, Columns> => ({
  memory: { total_bytes: [bytes], free_bytes: [Number.NaN], used_percent: [25] },
});

test('promtool finds no fault with a page that has every table', async () => {
  await publish('full', everything(3));
  const text = await page('?host=full');
  expect(await promtool(text)).toBe('');
  expect(text).toContain('\nfleetreel_cpu_used_ratio{host="full",core="core-1"} 0.015\n');
  expect(text).toContain('\n# TYPE fleetreel_agent_frames_dropped_total counter\n');
  expect(text).toContain(
    '\nfleetreel_filesystem_info{host="full",mount="mount-0",device="device-0",type="type-0"} 1\n',
  );
  expect(text).toMatch(/\nfleetreel_host_up\{host="full"\} 1\n/);
  for (const { name, rowTime, labels } of catalog) {
    const alone = rowTime !== undefined || labels.some((label) => label.key && label.name === 'pid');
    expect(new RegExp(`\\nfleetreel_${name}_(?!state|class|vcpu|block|net)`).test(text), name).toBe(!alone);
  }
  const processes = await page('?table=process');
  expect(processes).toContain('fleetreel_process_cpu_ratio{host="full",pid="pid-0"}');
  expect(await promtool(processes)).toBe('');
});

test('the metrics of the collector itself have no fault either', async () => {
  const answer = await fetch(`http://${parts.address}/metrics`);
  expect(await promtool(await answer.text())).toBe('');
});

test('labels of any text, two rows of one entity, infinite and absent values', async () => {
  const odd = 'a"b\\c\nd\u0000\u{1F600}';
  await publish('odd', {
    filesystem: {
      mount: [odd, '/', '/', '', 'x'.repeat(64 * 1024)],
      device: ['{}', '#', '#', '', ''],
      size_bytes: [1, 2, 3, Number.POSITIVE_INFINITY, Number.NaN],
    },
  });
  const text = await page('?host=odd&table=filesystem');
  expect(await promtool(text)).toBe('');
  const sizes = text.split('\n').filter((line) => line.startsWith('fleetreel_filesystem_size_bytes'));
  expect(sizes).toEqual([
    'fleetreel_filesystem_size_bytes{host="odd",mount="a\\"b\\\\c\\nd\u0000\u{1F600}"} 1',
    'fleetreel_filesystem_size_bytes{host="odd",mount="/"} 3',
    'fleetreel_filesystem_size_bytes{host="odd"} +Inf',
  ]);
});

test('only what is asked for, and a name that there is not is answered with the nearest', async () => {
  await publish('a', memory(1));
  await publish('b', memory(2));
  const text = await page('?host=a&table=memory,load');
  expect(text).toContain('fleetreel_memory_total_bytes{host="a"} 1');
  expect(text).not.toContain('host="b"');
  expect(text).not.toContain('fleetreel_memory_free_bytes');
  for (const [question, said] of [
    ['?table=memroy', /Did you mean "memory"/],
    ['?table=event', /newest values/],
    ['?host=zz', /no host "zz"/],
    ['?hots=a', /Did you mean "host"/],
  ] as const) {
    const answer = await fetch(`http://${parts.address}/metrics/fleet${question}`);
    expect(answer.status).toBe(400);
    expect(((await answer.json()) as { detail: string }).detail).toMatch(said);
  }
});

test('a thousand hosts: in pieces, compressed, and nothing of it is kept', { timeout: 120_000 }, async () => {
  const hosts = 1000;
  const rows = { core: Array.from({ length: 20 }, (_, core) => String(core)) };
  const cpu = catalog.find(({ name }) => name === 'cpu');
  const values = Object.fromEntries(
    (cpu?.fields ?? []).map(({ name }) => [name, rows.core.map((_, core) => core + 0.25)]),
  );
  const bytes = (time_us: number) =>
    encodeFrame({
      session: '00000000000000ab',
      sequence: 1,
      time_us,
      interval_ms: 60_000,
      tables: { cpu: { ...rows, ...values } } as unknown as Frame['tables'],
    });
  for (let host = 0; host < hosts; host++) {
    const name = subject({ tenant: 'default', kind: 'frame', host: `many-${host}` });
    parts.newest.take(name, bytes(Math.round(clock.now_us())), clock.now_us() / 1000);
  }
  const wanted = hosts * 20 * (cpu?.fields.length ?? 0);
  const count = (text: string) => text.match(/^fleetreel_cpu_\w+\{host="many-/gm)?.length;
  expect(count(await page('?table=cpu'))).toBe(wanted);
  const answer = await fetch(`http://${parts.address}/metrics/fleet?table=cpu`, {
    headers: { 'accept-encoding': 'gzip' },
  });
  expect(answer.headers.get('content-encoding')).toBe('gzip');
  expect(count(await answer.text())).toBe(wanted);
  expect(parts.newest.get('default', 'many-0')?.peek(cpu as NonNullable<typeof cpu>)).not.toBe(
    parts.newest.get('default', 'many-0')?.peek(cpu as NonNullable<typeof cpu>),
  );
  for (let host = 0; host < hosts; host++) parts.newest.forget('default', `many-${host}`);
});

test('Prometheus reads it, and a host that is silent disappears', { timeout: 120_000 }, async () => {
  await using prometheus = await Prometheus.start({
    job_name: 'fleetreel',
    metrics_path: '/metrics/fleet',
    static_configs: [{ targets: [parts.address] }],
  });
  await parts.registry.describe('default', described('web-1'));
  await publish('web-1', memory(1024));
  await publish('web-2', memory(2048));
  const values = async (expression: string) =>
    Object.fromEntries((await prometheus.query(expression)).map(({ labels, value }: Sample) => [labels.host, value]));
  const ours = '{host=~"web-.*"}';
  await until(() => values(`fleetreel_memory_total_bytes${ours}`)).toEqual({ 'web-1': 1024, 'web-2': 2048 });
  expect(await values(`fleetreel_memory_used_ratio${ours}`)).toEqual({ 'web-1': 0.25, 'web-2': 0.25 });
  expect(await prometheus.query('fleetreel_host_info{host="web-1"}')).toMatchObject([{ labels: { os: 'Debian 12' } }]);
  expect(await prometheus.query('up')).toMatchObject([{ value: 1 }]);

  // Time passes, and only one of them is heard of again.
  ahead_us = 3_600_000_000;
  await parts.registry.describe('default', described('web-2'));
  await publish('web-1', memory(4096));
  await until(() => values(`fleetreel_memory_total_bytes${ours}`)).toEqual({ 'web-1': 4096 });
  await until(() => values(`fleetreel_host_up${ours}`)).toEqual({ 'web-1': 1, 'web-2': 0 });
  expect(Object.keys(await values(`fleetreel_host_last_seen_timestamp_seconds${ours}`))).toHaveLength(2);
});
