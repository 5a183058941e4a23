// Both faces over real NATS and QuestDB: the same questions give the same answers, and bad ones the same sentence.
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { catalog, decodeFrame, encodeFrame, type Frame, subject, tableNamed } from '@fleetreel/proto';
import {
  Catalog,
  Host,
  Hosts,
  Latest,
  type LiveMessage,
  type LiveRequest,
  Problem,
  type ReplayMessage,
  type ReplayRequest,
  ReplaySession,
  Rows as RowsAnswer,
  Series,
} from '@fleetreel/proto/http';
import {
  Live,
  type PlayRequest,
  type PlayResponse__Output,
  type PlayStart,
  Query as QueryService,
  Replay,
} from '@fleetreel/proto/services';
import { startNats } from '@fleetreel/test/servers/nats';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { Client, credentials, type Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { service as healthService } from 'grpc-health-check';
import Value from 'typebox/value';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { rollupStatement } from '#store/rollup.ts';
import { keepTables } from '#store/schema.ts';
import { rollups } from '#store/sql.ts';
import type { Telemetry } from '#telemetry.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;
const retention = { raw: 30 * day, '1m': 180 * day, '1h': 3 * 365 * day };

/** Rows of `cpu` begin here: a full hour, well in the past. */
const begin = Math.floor(Date.now() / hour) * hour - 3 * hour;

const until = (check: () => unknown, timeout = 10_000) => expect.poll(check, { timeout, interval: 20 });

type Stack = Awaited<ReturnType<typeof startStack>>;
let stack: Stack;

async function startStack() {
  const closing = new AsyncDisposableStack();
  const [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  closing.use(nats);
  closing.use(questdb);
  const { telemetry, faces } = await startFaces(closing);
  const early = await fetch(`http://127.0.0.1:${faces.http.port}/api/v1/hosts`);
  const address = `127.0.0.1:${faces.grpc.port}`;
  const grpc = new QueryService(address, credentials.createInsecure());
  const live = new Live(address, credentials.createInsecure());
  closing.defer(() => grpc.close());
  closing.defer(() => live.close());
  const earlySocket = await raw(['GET /api/v1/live HTTP/1.1', 'host: 127.0.0.1', ...upgrade], faces.http.port);
  const earlyWatch = await new Promise<ServiceError>((resolve) =>
    live.Watch({ watches: [{ table: 'cpu' }] }).on('error', (cause) => resolve(cause as ServiceError)),
  );

  const { log, registry } = await startLog(closing, nats.url, { age_ms: hour, bytes: 64 * 1024 * 1024 }, telemetry);
  await fillStore(questdb, telemetry);
  await registry.describe('default', described('web-1'));
  await registry.describe('default', described('web-2'));
  // One frame is in the log before the collector comes, one arrives after.
  await log.jetstream.publish(frameSubject('web-1'), frame({ time: Date.now() - 2000, used: 11 }));
  const { newest, query } = await serveRooms(closing, { telemetry, faces, log, registry, questdb, retention });
  return {
    early,
    earlySocket,
    earlyWatch,
    nats,
    questdb,
    log,
    registry,
    newest,
    query,
    faces,
    grpc,
    live,
    port: faces.http.port,
    url: `http://127.0.0.1:${faces.http.port}`,
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

const frameSubject = (host: string): string => subject({ tenant: 'default', kind: 'frame', host });

function frame({ time = Date.now(), used = 1, interval = 1000 }): Uint8Array {
  return encodeFrame({
    session: '00000000000000ab',
    sequence: 1,
    time_us: time * 1000,
    interval_ms: interval,
    tables: {
      cpu: { core: ['total', '0'], used_percent: [used, Number.NaN], user_percent: [used / 2, 0] },
      memory: { used_percent: [50] },
    } as Frame['tables'],
  });
}

const described = (host: string) => describedHost(host, { addresses: ['10.0.0.1'], tags: { role: 'web' } });

/** The value of row `index` of a core; rows come every 5 seconds. */
const sample = (index: number): number => (index * 7) % 100;
const rowsPerCore = 720;
/** Rows that are missing: 10 minutes. */
const gap = { from: 240, to: 360 };

async function fillStore(questdb: Questdb, telemetry: Telemetry): Promise<void> {
  const settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  await keepTables(settings, 30, telemetry);
  const run = (sql: string) => questdb.query(sql);
  for (const [host, core] of [
    ['web-1', 'total'],
    ['web-1', '0'],
    ['web-1', '10'],
    ['web-1', '2'],
    ['web-2', 'total'],
  ])
    await run(
      `INSERT INTO cpu (ts, tenant, host, core, used_percent, user_percent) SELECT cast(${begin}000 + (x - 1) * 5000000 as timestamp), 'default', '${host}', '${core}', ((x - 1) * 7) % 100, null FROM long_sequence(${rowsPerCore}) WHERE x - 1 < ${gap.from} OR x - 1 >= ${gap.to}`,
    );
  await run(
    `INSERT INTO cpu (ts, tenant, host, core, used_percent) VALUES (cast(${begin}000 as timestamp), 'other', 'web-1', 'total', 99999)`,
  );
  await run(
    `INSERT INTO "clock" (ts, tenant, host, offset_seconds) SELECT cast(${begin}000 + (x - 1) * 5000000 as timestamp), 'default', 'web-1', (x - 360) / 1000.0 FROM long_sequence(${rowsPerCore})`,
  );
  // A host of which only the store knows anything: its frame is two days old.
  const old = begin - 2 * day;
  await run(
    `INSERT INTO frame (ts, tenant, host, session, sequence, interval_ms, size_bytes) VALUES (cast(${old}123 as timestamp), 'default', 'web-2', 's', 7, 5000, 10)`,
  );
  await run(
    `INSERT INTO memory (ts, tenant, host, used_percent) VALUES (cast(${old}123 as timestamp), 'default', 'web-2', 33)`,
  );
  for (const row of [0, 1, 2])
    await run(
      `INSERT INTO event (ts, tenant, host, kind, action, entity, detail, timestamp_seconds) VALUES (cast(${begin + row * 1000}001 as timestamp), 'default', 'web-1', '${row === 1 ? 'vm' : 'process'}', 'start', '${row}', 'it''s "${row}"', ${begin / 1000 + row}.000001)`,
    );
  // Minutes of ten days ago, of 12 rows each, the second with half of them.
  const ago = begin - 60 * day;
  await run(
    `INSERT INTO cpu_1m (ts, tenant, host, core, sample_count, used_percent_avg, used_percent_min, used_percent_max, used_percent_count) VALUES (cast(${ago}000 as timestamp), 'default', 'web-1', 'total', 12, 10, 0, 20, 12), (cast(${ago + minute}000 as timestamp), 'default', 'web-1', 'total', 6, 40, 30, 50, 6)`,
  );
  await applied(questdb);
  const [minutes] = rollups;
  const cpu = tableNamed('cpu');
  if (cpu) await run(rollupStatement(cpu, minutes, { from: begin, to: begin + hour }));
  await applied(questdb);
}

/** Waits until queries see everything that was written. */
async function applied(questdb: Questdb): Promise<void> {
  const waiting = 'SELECT count() FROM wal_tables() WHERE writerTxn < sequencerTxn';
  await vi.waitFor(async () => expect((await questdb.query(waiting)).rows).toEqual([[0]]), {
    timeout: 30_000,
    interval: 100,
  });
}

beforeAll(async () => {
  stack = await startStack();
});

afterAll(async () => {
  await stack?.[Symbol.asyncDispose]();
});

const get = (path: string, init?: RequestInit): Promise<Response> => fetch(`${stack.url}${path}`, init);

async function series(parameters: string): Promise<Series> {
  const response = await get(`/api/v1/series?${parameters}`);
  const body = await response.json();
  expect(body).toMatchObject({ series: expect.any(Array) });
  expect(Value.Check(Series, body)).toBe(true);
  return body as Series;
}

async function problem(path: string, init?: RequestInit): Promise<Problem> {
  const response = await get(path, init);
  expect(response.headers.get('content-type')).toMatch('application/problem+json');
  const body: unknown = await response.json();
  expect(Value.Check(Problem, body)).toBe(true);
  expect((body as Problem).status).toBe(response.status);
  return body as Problem;
}

const hourRange = `from=${begin}&to=${begin + hour}`;

describe('what is listed', () => {
  test('nothing before the log is reached, and that is said', async () => {
    expect(stack.early.status).toBe(503);
    expect(await stack.early.json()).toMatchObject({ code: 'log_unavailable' });
    // Refused, not opened and then of no use: whoever wants one tries again.
    expect(stack.earlySocket).toMatch(/^HTTP\/1\.1 503 /);
    expect(stack.earlyWatch.code).toBe(status.UNAVAILABLE);
  });

  test('the catalogue', async () => {
    const body: unknown = await (await get('/api/v1/catalog')).json();
    expect(Value.Check(Catalog, body)).toBe(true);
    expect((body as Catalog).tables.map(({ name }) => name)).toEqual(catalog.map(({ name }) => name));
  });

  test('hosts, with what their newest frames say', async () => {
    const list = async () => (await (await get('/api/v1/hosts')).json()) as Hosts;
    // The store is asked in the background.
    await until(async () => (await list()).hosts.at(-1)?.lastSeen).toBe(begin - 2 * day);
    const body = await list();
    expect(Value.Check(Hosts, body)).toBe(true);
    expect(body.hosts.map(({ host, status: state }) => [host, state])).toEqual([
      ['web-1', 'online'],
      ['web-2', 'offline'],
    ]);
    const [one, two] = body.hosts;
    expect(one?.headline).toMatchObject({ memoryUsedPercent: 50, diskUsedPercent: null });
    expect(one?.description).toMatchObject({ machineId: 'machine-web-1', tags: { role: 'web' } });
    expect(one?.clockSkewSeconds).toBeGreaterThan(0);
    expect(two).toMatchObject({ lastSeen: begin - 2 * day, intervalMs: 5000, headline: { cpuUsedPercent: null } });
  });

  test('one host, and one that there is not', async () => {
    expect(Value.Check(Host, await (await get('/api/v1/hosts/web-1')).json())).toBe(true);
    expect(await problem('/api/v1/hosts/web-3')).toMatchObject({
      status: 404,
      code: 'host_not_found',
      nearest: 'web-1',
    });
  });
});

describe('latest', () => {
  test('is the newest frame', async () => {
    const body = (await (await get('/api/v1/latest?table=cpu&host=web-1')).json()) as Latest;
    expect(Value.Check(Latest, body)).toBe(true);
    expect(body.rows).toMatchObject([
      { host: 'web-1', core: 'total', nice_percent: null },
      { host: 'web-1', core: '0', used_percent: null, user_percent: 0 },
    ]);
    expect(body.rows[0]?.user_percent).toBe(Number(body.rows[0]?.used_percent) / 2);
  });

  test('takes labels', async () => {
    const rows = async (labels: string) =>
      ((await (await get(`/api/v1/latest?table=cpu&${labels}`)).json()) as Latest).rows.map(({ core }) => core);
    expect(await rows('label.core=0')).toEqual(['0']);
    expect(await rows('label.core=0&label.core=total')).toEqual(['total', '0']);
    expect(await rows("label.core=0' OR '1'='1")).toEqual([]);
  });

  test('of a host that the log has forgotten comes from the store', async () => {
    const { rows } = (await (await get('/api/v1/latest?table=memory&host=web-2')).json()) as Latest;
    expect(rows).toMatchObject([{ time: begin - 2 * day, host: 'web-2', used_percent: 33, total_bytes: null }]);
  });
});

describe('rows', () => {
  const rows = async (parameters: string): Promise<RowsAnswer> => {
    const body: unknown = await (await get(`/api/v1/rows?${parameters}`)).json();
    expect(Value.Check(RowsAnswer, body)).toBe(true);
    return body as RowsAnswer;
  };

  test('are those of the range, the newest first, at their own times', async () => {
    const body = await rows(`table=event&${hourRange}`);
    expect(body).toMatchObject({
      rows: [
        { entity: '2' },
        { entity: '1' },
        { entity: '0', host: 'web-1', time: begin, detail: 'it\'s "0"', name: '' },
      ],
      truncated: false,
    });
    expect(body.rows[0]).toMatchObject({ duration_seconds: null, time: begin + 2000 });
    expect(await rows(`table=event&from=${begin + 1000}&to=${begin + 2000}`)).toMatchObject({
      rows: [{ entity: '1' }],
    });
  });

  test('say what a limit left out', async () => {
    const body = await rows(`table=event&${hourRange}&limit=2`);
    expect(body).toMatchObject({ rows: [{ entity: '2' }, { entity: '1' }], truncated: true });
    expect((await rows(`table=event&${hourRange}&limit=3`)).truncated).toBe(false);
    for (const limit of ['0', '10001', '-1', '1e3', 'x'])
      expect(await problem(`/api/v1/rows?table=event&limit=${limit}`)).toMatchObject({ code: 'bad_limit' });
  });

  test('take labels, and any table', async () => {
    expect((await rows(`table=event&${hourRange}&label.kind=vm`)).rows.map(({ entity }) => entity)).toEqual(['1']);
    expect((await rows(`table=event&${hourRange}&label.detail=it's "2"`)).rows.map(({ entity }) => entity)).toEqual([
      '2',
    ]);
    expect((await rows(`table=event&${hourRange}&label.kind=x' OR '1'='1`)).rows).toEqual([]);
    const [newest] = (await rows(`table=cpu&host=web-1&label.core=10&${hourRange}&limit=1`)).rows;
    expect(newest).toMatchObject({ core: '10', time: begin + hour - 5000, used_percent: sample(rowsPerCore - 1) });
  });

  test('over gRPC are the same', async () => {
    const answer = await new Promise((resolve, reject) =>
      stack.grpc.Rows(
        {
          table: 'event',
          labels: { kind: { values: ['vm'] } },
          from: String(begin),
          to: String(begin + hour),
          limit: 1,
        },
        (error, value) => (error ? reject(error) : resolve(value)),
      ),
    );
    expect(answer).toMatchObject({
      rows: [{ host: 'web-1', labels: { entity: '1' }, values: { timestamp_seconds: begin / 1000 + 1.000001 } }],
      truncated: false,
    });
  });

  test('have no mean over time: their series are read from the rows alone', async () => {
    const body = await series(`table=event&field=duration_seconds&host=web-1&${hourRange}&step=1m`);
    expect(body.series).toHaveLength(3);
    expect(await problem(`/api/v1/series?table=event&field=duration_seconds&from=-60d&step=1h`)).toMatchObject({
      code: 'raw_rows_gone',
    });
  });
});

describe('series', () => {
  const expected = (from: number, to: number): number => {
    let sum = 0;
    for (let index = from; index < to; index++) sum += sample(index);
    return sum / (to - from);
  };

  test('are averages by steps, with gaps where nothing was', async () => {
    const body = await series(`table=cpu&field=used_percent&host=web-1&label.core=total&${hourRange}&step=1m`);
    expect(body).toMatchObject({ from: begin, to: begin + hour, stepMs: minute });
    expect(body.times).toEqual(Array.from({ length: 60 }, (_, index) => begin + index * minute));
    expect(body.series).toHaveLength(1);
    const [{ values, ...rest } = { values: [] }] = body.series;
    expect(rest).toEqual({
      table: 'cpu',
      field: 'used_percent',
      unit: 'percent',
      agg: 'avg',
      labels: { host: 'web-1', core: 'total' },
    });
    for (let index = 0; index < 60; index++) {
      const row = index * 12;
      if (row >= gap.from && row < gap.to) expect(values[index]).toBeNull();
      else expect(values[index]).toBeCloseTo(expected(row, row + 12), 9);
    }
  });

  test('one for each field, host and entity, in an order that numbers keep', async () => {
    const body = await series(`table=cpu&field=used_percent,user_percent&${hourRange}&step=10m`);
    expect(body.series.map(({ field, labels }) => `${field} ${labels.host} ${labels.core}`)).toEqual(
      ['used_percent', 'user_percent'].flatMap((field) =>
        ['web-1 0', 'web-1 2', 'web-1 10', 'web-1 total', 'web-2 total'].map((entity) => `${field} ${entity}`),
      ),
    );
    expect(body.series.at(-1)?.values.every((value) => value === null)).toBe(true);
    expect(await series(`table=cpu&field=used_percent&field=user_percent&${hourRange}&step=10m`)).toEqual(body);
  });

  test.each([
    ['min', Math.min],
    ['max', Math.max],
    ['sum', (...values: number[]) => values.reduce((a, b) => a + b)],
    ['last', (...values: number[]) => values.at(-1)],
    ['p50', (...values: number[]) => values.sort((a, b) => a - b) && ((values[5] ?? 0) + (values[6] ?? 0)) / 2],
  ])('%s', async (agg, fold) => {
    const body = await series(
      `table=cpu&field=used_percent&host=web-1&label.core=total&from=${begin}&to=${begin + 10 * minute}&step=1m&agg=${agg}`,
    );
    const wanted = body.times.map((_, index) =>
      fold(...Array.from({ length: 12 }, (__, row) => sample(index * 12 + row))),
    );
    expect(body.series[0]?.values).toEqual(wanted);
  });

  test('percentiles of negative values are exact', async () => {
    const body = await series(`table=clock&field=offset_seconds&${hourRange}&step=1h&agg=p99`);
    const sorted = Array.from({ length: rowsPerCore }, (_, index) => (index + 1 - 360) / 1000);
    const rank = 0.99 * (rowsPerCore - 1);
    const below = sorted[Math.floor(rank)] ?? 0;
    const above = sorted[Math.ceil(rank)] ?? 0;
    expect(body.series[0]?.values[0]).toBeCloseTo(below + (above - below) * (rank % 1), 12);
    expect(body.series[0]?.labels).toEqual({ host: 'web-1' });
  });

  test('auto gives a few hundred points and none below the interval', async () => {
    const body = await series('table=cpu&field=used_percent&host=web-2&from=-1m');
    expect(body.stepMs).toBe(5000);
    const long = await series('table=cpu&field=used_percent&host=web-2&from=-7d');
    expect(long.times.length).toBeGreaterThan(200);
    expect(long.times.length).toBeLessThanOrEqual(401);
  });

  test('are the same whatever table they come from: a roll-up is weighted by its rows', async () => {
    const ago = begin - 60 * day;
    const body = await series(`table=cpu&field=used_percent&from=${ago}&to=${ago + 4 * minute}&step=2m`);
    expect(body.series.map(({ values }) => values)).toEqual([[20, null]]);
    const most = await series(`table=cpu&field=used_percent&from=${ago}&to=${ago + 4 * minute}&step=2m&agg=max`);
    expect(most.series.map(({ values }) => values)).toEqual([[50, null]]);
  });

  test.each(['avg', 'min', 'max', 'sum'])(
    'from a roll-up, and behind its end from the rows, are the same: %s',
    async (agg) => {
      const question = `table=cpu&field=used_percent&host=web-1&label.core=total&step=10m&agg=${agg}&to=${begin + hour}`;
      const rows = await series(`${question}&from=${begin}`);
      const rolled = await series(`${question}&from=${begin - 2 * day}`);
      const last = rolled.series[0]?.values.slice(-6) ?? [];
      expect(last).toHaveLength(6);
      for (const [index, value] of (rows.series[0]?.values ?? []).entries())
        if (value === null) expect(last[index]).toBeNull();
        else expect(last[index]).toBeCloseTo(value, 9);
      if (agg === 'avg') expect(last[0]).toBeCloseTo(expected(0, 120), 9);
    },
  );

  test('of another tenant are not seen', async () => {
    const body = await series(`table=cpu&field=used_percent&from=${begin}&to=${begin + 5000}&step=5s&agg=max`);
    expect(Math.max(...body.series.flatMap(({ values }) => values.map(Number)))).toBe(0);
  });

  test('over gRPC are the same numbers', async () => {
    for (const [step, aggregation] of [
      ['10s', 'avg'],
      ['1m', 'p95'],
      ['auto', ''],
      ['7m', 'sum'],
    ] as const) {
      const http = await series(
        `table=cpu&field=used_percent,user_percent&host=web-1&label.core=total&label.core=0&${hourRange}&step=${step}${aggregation && `&agg=${aggregation}`}`,
      );
      const answer = await new Promise<Series>((resolve, reject) =>
        stack.grpc.Series(
          {
            table: 'cpu',
            fields: ['used_percent', 'user_percent'],
            hosts: ['web-1'],
            labels: { core: { values: ['total', '0'] } },
            from: String(begin),
            to: String(begin + hour),
            step,
            aggregation,
          },
          (error, value) => {
            if (error || !value) return reject(error);
            resolve({
              from: Number(value.from_ms),
              to: Number(value.to_ms),
              stepMs: Number(value.step_ms),
              times: value.times_ms.map(Number),
              series: value.series.map(({ aggregation: agg, values, ...one }) => ({
                ...one,
                agg,
                values: values.map((each) => (Number.isNaN(each) ? null : each)),
              })),
            });
          },
        ),
      );
      expect(answer).toEqual(http);
    }
  });
});

describe('bad questions', () => {
  const base = 'table=cpu&field=used_percent';
  const cases: [string, string, Partial<Problem>, Record<string, unknown>][] = [
    [
      'table',
      'table=cpuu&field=used_percent',
      { code: 'unknown_table', parameter: 'table', nearest: 'cpu' },
      { table: 'cpuu' },
    ],
    [
      'field',
      'table=cpu&field=used_prcent',
      { code: 'unknown_field', nearest: 'used_percent' },
      { fields: ['used_prcent'] },
    ],
    [
      'label',
      `${base}&label.cor=0`,
      { code: 'unknown_label', nearest: 'core' },
      { labels: { cor: { values: ['0'] } } },
    ],
    ['host', `${base}&host=web-9`, { code: 'unknown_host', nearest: 'web-1' }, { hosts: ['web-9'] }],
    ['aggregation', `${base}&agg=p90`, { code: 'unknown_aggregation', nearest: 'p50' }, { aggregation: 'p90' }],
    ['from', `${base}&from=yesterday`, { code: 'bad_time', parameter: 'from' }, { from: 'yesterday' }],
    ['to', `${base}&to=1769860800`, { code: 'bad_time', parameter: 'to' }, { to: '1769860800' }],
    ['range', `${base}&from=now&to=-1h`, { code: 'bad_range' }, { from: 'now', to: '-1h' }],
    ['step', `${base}&step=5x`, { code: 'bad_step' }, { step: '5x' }],
    [
      'points',
      // Not until now: whether a full second more is in the range depends on the millisecond.
      `${base}&from=${begin - day}&to=${begin}&step=1s`,
      { code: 'too_many_points', nearest: '10s' },
      { from: `${begin - day}`, to: `${begin}`, step: '1s' },
    ],
    [
      'fine step',
      `${base}&from=-60d&to=-59d&step=10s`,
      { code: 'step_too_fine', nearest: '1m' },
      { from: '-60d', to: '-59d', step: '10s' },
    ],
    ['percentile', `${base}&from=-60d&agg=p95`, { code: 'raw_rows_gone' }, { from: '-60d', aggregation: 'p95' }],
    ['fields', 'table=cpu', { code: 'missing_parameter', parameter: 'field' }, { fields: [] }],
    ['no table', 'field=used_percent', { code: 'missing_parameter', parameter: 'table' }, { table: '' }],
  ];

  test.each(cases)('%s: over HTTP and gRPC the same sentence', async (_, parameters, wanted, request) => {
    const found = await problem(`/api/v1/series?${parameters}`);
    expect(found).toMatchObject({ status: 400, ...wanted });
    const error = await new Promise<ServiceError>((resolve, reject) =>
      stack.grpc.Series({ table: 'cpu', fields: ['used_percent'], ...request }, (failure) =>
        failure ? resolve(failure) : reject(new Error('it was answered')),
      ),
    );
    expect(error.code).toBe(status.INVALID_ARGUMENT);
    const sentence = (text: string) => text.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME');
    expect(sentence(error.details)).toBe(sentence(found.detail));
    expect((error.metadata as Metadata).get('fleetreel-code')).toEqual([found.code]);
  });

  test('of HTTP alone', async () => {
    expect(await problem('/api/v1/series?tabel=cpu')).toMatchObject({ code: 'unknown_parameter', nearest: 'table' });
    expect(await problem('/api/v1/hosts?x=1')).toMatchObject({ code: 'unknown_parameter' });
    expect(await problem(`/api/v1/series?${base}&step=1m&step=2m`)).toMatchObject({ code: 'repeated_parameter' });
    expect(await problem('/api/v1/hosts?__proto__=1')).toMatchObject({ status: 400 });
    expect(await problem('/api/v1/nothing')).toMatchObject({ status: 404, code: 'not_found' });
    expect((await get('/api/v1/hosts', { method: 'POST' })).headers.get('allow')).toBe('GET, HEAD');
    // Not what there is under /dead-letters/{sequence} besides.
    expect((await get('/api/v1/dead-letters/redrive', { method: 'PUT' })).headers.get('allow')).toBe('POST');
    expect(await problem('/api/v1/hosts', { method: 'POST' })).toMatchObject({
      status: 405,
      code: 'method_not_allowed',
    });
    expect(await problem('/%zz')).toMatchObject({ status: 400, code: 'bad_request' });
    expect(await problem(`/api/v1/hosts/${'x'.repeat(500)}`)).toMatchObject({ status: expect.any(Number) });
    expect(
      await problem('/api/v1/hosts/web-1', {
        method: 'DELETE',
        body: JSON.stringify('x'.repeat(70_000)),
        headers: { 'content-type': 'application/json' },
      }),
    ).toMatchObject({ status: 413, code: 'payload_too_large' });
    expect(await problem(`/api/v1/latest?table=${'x'.repeat(20_000)}`)).toMatchObject({ status: 431 });
  });

  test('that carry SQL change nothing', async () => {
    const before = await stack.questdb.query('SELECT count() FROM cpu');
    const hostile = [
      "'; DROP TABLE cpu; --",
      'cpu"; DROP TABLE cpu; --',
      "x' OR '1'='1",
      'used_percent) FROM cpu; TRUNCATE TABLE cpu; --',
      '1m ALIGN TO CALENDAR; DROP TABLE cpu',
      '$1',
      '\u0000',
      '\\',
      '%',
      '🦄'.repeat(50),
    ];
    const names = [
      'table',
      'field',
      'host',
      'from',
      'to',
      'step',
      'agg',
      'label.core',
      'label.x"; DROP TABLE cpu; --',
      'x',
    ];
    for (const name of names)
      for (const text of hostile) {
        const parameters = new URLSearchParams({
          table: 'cpu',
          field: 'used_percent',
          from: String(begin),
          to: String(begin + hour),
        });
        parameters.set(name, text);
        const response = await get(`/api/v1/series?${parameters.toString()}`);
        const expected = name === 'label.core' ? [200] : [400];
        expect(expected, `${name}=${text}`).toContain(response.status);
        if (response.status === 200) expect(((await response.json()) as Series).series).toEqual([]);
        expect(
          (await get(`/api/v1/latest?${new URLSearchParams({ table: 'cpu', [name]: text }).toString()}`)).status,
        ).toBeLessThan(500);
        expect((await get(`/api/v1/hosts/${encodeURIComponent(text)}`)).status).toBe(404);
      }
    expect(await stack.questdb.query('SELECT count() FROM cpu')).toEqual(before);
  });
});

const upgrade = [
  'upgrade: websocket',
  'connection: upgrade',
  'sec-websocket-version: 13',
  'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==',
];

/** `fetch` does not let a Host header be set. */
async function raw(lines: string[], port = stack.port): Promise<string> {
  const socket = connect(port, '127.0.0.1');
  socket.end(`${lines.join('\r\n')}\r\nconnection: close\r\n\r\n`);
  let text = '';
  for await (const chunk of socket) text += String(chunk);
  return text;
}

describe('who may ask', () => {
  test.each(['evil.example', 'evil.example:80', '127.0.0.1.evil.example', 'localhost.evil.example', '10.0.0.1', ''])(
    'not who calls this machine "%s"',
    async (host) => {
      expect(await raw(['GET /api/v1/hosts HTTP/1.1', `host: ${host}`])).toMatch(/^HTTP\/1\.1 421 /);
    },
  );

  test.each([
    'localhost',
    'localhost:7600',
    '127.0.0.1',
    '127.1.2.3:1',
    '[::1]:7600',
    'fleetreel.localhost',
    'LOCALHOST',
  ])('who calls it %s', async (host) => {
    expect(await raw(['GET /api/v1/hosts HTTP/1.1', `host: ${host}`])).toMatch(/^HTTP\/1\.1 200 /);
  });

  test.each(['http://evil.example', 'null', 'http://localhost:1', 'nonsense'])('not a page of %s', async (origin) => {
    const headers = [`host: 127.0.0.1:${stack.port}`, `origin: ${origin}`];
    expect(await raw(['DELETE /api/v1/hosts/web-1 HTTP/1.1', ...headers])).toMatch(/^HTTP\/1\.1 403 /);
    expect(await raw(['GET /api/v1/live HTTP/1.1', ...headers, ...upgrade])).toMatch(/^HTTP\/1\.1 403 /);
  });

  test('a page of the console', async () => {
    const socket = new WebSocket(`ws://127.0.0.1:${stack.port}/api/v1/live`, {
      headers: { origin: `http://127.0.0.1:${stack.port}` },
    } as unknown as string);
    await new Promise((resolve, reject) => {
      socket.addEventListener('open', resolve);
      socket.addEventListener('error', reject);
    });
    socket.close();
  });

  test('every answer has its security headers', async () => {
    for (const path of ['/', '/api/v1/hosts', '/docs/', '/docs/json', '/docs/errors', '/nothing', '/metrics']) {
      const { headers } = await get(path);
      expect(headers.get('x-content-type-options'), path).toBe('nosniff');
      expect(headers.get('content-security-policy'), path).toContain("frame-ancestors 'none'");
      expect(headers.has('access-control-allow-origin'), path).toBe(false);
    }
  });
});

describe('compression', () => {
  test.each(['zstd', 'br', 'gzip'])('%s when it is accepted', async (encoding) => {
    const path = `/api/v1/series?table=cpu&field=used_percent&${hourRange}&step=10s`;
    const response = await get(path, { headers: { 'accept-encoding': encoding } });
    expect(response.headers.get('content-encoding')).toBe(encoding);
    expect(response.headers.get('vary')).toBe('accept-encoding');
    const plain = await get(path, { headers: { 'accept-encoding': `${encoding};q=0` } });
    expect(plain.headers.has('content-encoding')).toBe(false);
    expect(await response.json()).toEqual(await plain.json());
  });
});

/** A reader of `GET live` and what it was sent. */
async function openLive(...requests: (LiveRequest | string)[]) {
  const socket = new WebSocket(`ws://127.0.0.1:${stack.port}/api/v1/live`);
  const messages: LiveMessage[] = [];
  socket.addEventListener('message', ({ data }) => messages.push(JSON.parse(String(data)) as LiveMessage));
  const closed = new Promise<number>((resolve) => socket.addEventListener('close', ({ code }) => resolve(code)));
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve);
    socket.addEventListener('error', reject);
  });
  const send = (request: LiveRequest | string) =>
    socket.send(typeof request === 'string' ? request : JSON.stringify(request));
  for (const request of requests) send(request);
  return { messages, send, closed, [Symbol.dispose]: () => socket.close() };
}

describe('live over a WebSocket', () => {
  test('the newest rows first, then those that arrive', async () => {
    using reader = await openLive({
      type: 'subscribe',
      id: 'a',
      table: 'cpu',
      fields: ['used_percent'],
      hosts: ['web-1'],
    });
    await until(() => reader.messages.length).toBe(1);
    expect(reader.messages[0]).toMatchObject({
      type: 'rows',
      id: 'a',
      host: 'web-1',
      intervalMs: 1000,
      labels: { core: ['total', '0'] },
      values: { used_percent: [expect.any(Number), null] },
      skipped: 0,
    });
    const began = performance.now();
    stack.log.connection.publish(frameSubject('web-1'), frame({ used: 77 }));
    stack.log.connection.publish(frameSubject('web-7'), frame({ used: 78 }));
    await until(() => reader.messages.length).toBe(2);
    expect(performance.now() - began).toBeLessThan(2000);
    expect(reader.messages[1]).toMatchObject({ host: 'web-1', values: { used_percent: [77, null] } });

    reader.send({ type: 'unsubscribe', id: 'a' });
    reader.send({ type: 'subscribe', id: 'b', table: 'tcp' });
    // Answered after what was sent before it.
    reader.send('nonsense');
    await until(() => reader.messages.length).toBe(3);
    stack.log.connection.publish(frameSubject('web-1'), frame({ used: 79 }));
    await pause(300);
    expect(reader.messages).toHaveLength(3);
  });

  test('every field of every host when none is named', async () => {
    using reader = await openLive({ type: 'subscribe', id: 'a', table: 'cpu' });
    await until(() => reader.messages.length).toBeGreaterThan(0);
    const [message] = reader.messages;
    expect(Object.keys((message as { values: object }).values)).toEqual(
      tableNamed('cpu')?.fields.map(({ name }) => name),
    );
    expect((message as { values: Record<string, unknown> }).values.nice_percent).toEqual([null, null]);
  });

  test('bad requests are answered with their problem, and the connection goes on', async () => {
    using reader = await openLive(
      'nonsense',
      '{"type":"dance","id":"x"}',
      { type: 'subscribe', id: 'a', table: 'cpuu' },
      { type: 'subscribe', id: 'b', table: 'cpu', fields: ['used'] },
      { type: 'subscribe', id: 'c', table: 'memory', hosts: ['web-1'] },
    );
    await until(() => reader.messages.length).toBe(5);
    expect(reader.messages).toMatchObject([
      { type: 'error', id: null, problem: { code: 'bad_message' } },
      { type: 'error', id: null, problem: { code: 'bad_message' } },
      { type: 'error', id: 'a', problem: { code: 'unknown_table', nearest: 'cpu' } },
      { type: 'error', id: 'b', problem: { code: 'unknown_field' } },
      { type: 'rows', id: 'c' },
    ]);
  });

  test('subscriptions are bounded', async () => {
    const many = Array.from(
      { length: 65 },
      (_, index): LiveRequest => ({ type: 'subscribe', id: `${index}`, table: 'tcp' }),
    );
    using reader = await openLive(...many);
    await until(() => reader.messages.length).toBe(1);
    expect(reader.messages[0]).toMatchObject({ type: 'error', id: '64', problem: { code: 'too_many_subscriptions' } });
  });

  test('hosts: all at first, then those that change, at most once a second', async () => {
    using reader = await openLive({ type: 'subscribe_hosts', id: 'h' });
    await until(() => reader.messages.length).toBe(1);
    expect(reader.messages[0]).toMatchObject({ type: 'hosts', id: 'h', removed: [] });
    const names = () =>
      reader.messages
        .slice(1)
        .flatMap((message) => (message.type === 'hosts' ? message.hosts.map(({ host }) => host) : []));
    const began = performance.now();
    for (let count = 0; count < 20; count++) {
      stack.log.connection.publish(frameSubject('web-1'), frame({ used: count }));
      await pause(100);
    }
    await until(() => reader.messages.length).toBeGreaterThan(2);
    expect(reader.messages.length).toBeLessThanOrEqual(2 + (performance.now() - began) / 1000);
    expect(new Set(names())).toEqual(new Set(['web-1']));
  });
});

/** Memory of this process that is in use, bytes, without what nobody holds any more. */
function held(): number {
  setFlagsFromString('--expose-gc');
  runInNewContext('gc')();
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

describe('a reader over a WebSocket that stops reading', () => {
  test('gets the newest state and the number of what it missed, and costs no memory meanwhile', async () => {
    const socket = connect(stack.port, '127.0.0.1');
    socket.write(`GET /api/v1/live HTTP/1.1\r\nhost: 127.0.0.1:${stack.port}\r\n${upgrade.join('\r\n')}\r\n\r\n`);
    let received = '';
    socket.on('data', (chunk: Buffer) => {
      received += chunk.toString('latin1');
    });
    await until(() => received).toContain('101 Switching Protocols');
    for (const message of [
      JSON.stringify({ type: 'subscribe', id: 'a', table: 'cpu', hosts: ['large'] }),
      'nonsense',
    ]) {
      // A client's message: final text frame, masked with zeros.
      const text = Buffer.from(message);
      socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), text]));
    }
    // Messages are taken one after the other: when the second is refused, the first is subscribed to.
    await until(() => received).toContain('bad_message');
    socket.pause();
    // 2,000 frames of 128 cores: 30 MB as JSON.
    const began = Date.now();
    const cores = Array.from({ length: 128 }, (_, index) => String(index));
    const values = cores.map(() => 12.5);
    const before = held();
    for (let count = 1; count <= 2000; count++) {
      const large = encodeFrame({
        session: '00000000000000ab',
        sequence: count,
        time_us: (began + count) * 1000,
        interval_ms: 1000,
        tables: { cpu: { core: cores, used_percent: values, user_percent: values } } as unknown as Frame['tables'],
      });
      stack.newest.take(frameSubject('large'), large, began);
      if (count % 100 === 0) await pause(1);
    }
    expect(held() - before).toBeLessThan(8 * 1024 * 1024);
    socket.resume();
    await until(() => received).toContain(`"time":${began + 2000},`);
    const skipped = [...received.matchAll(/"skipped":(\d+)/g)].map(([, number]) => Number(number));
    expect(skipped.length).toBeLessThan(2000);
    expect(skipped.reduce((sum, number) => sum + number + 1, 0)).toBe(2000);
    socket.destroy();
    stack.newest.forget('default', 'large');
  });
});

describe('live over gRPC', () => {
  test('the newest rows first, then those that arrive', async () => {
    const call = stack.live.Watch({
      watches: [
        { table: 'cpu', fields: ['used_percent'], hosts: ['web-1'] },
        { table: 'memory', hosts: ['web-1'] },
      ],
    });
    const rows: { table: string; fields: { name: string; values: number[] }[] }[] = [];
    call.on('data', (row: (typeof rows)[number]) => rows.push(row));
    call.on('error', () => undefined);
    await until(() => rows.map(({ table }) => table)).toEqual(['cpu', 'memory']);
    stack.log.connection.publish(frameSubject('web-1'), frame({ used: 55 }));
    await until(() => rows.length).toBe(4);
    expect(rows[2]?.fields).toEqual([{ name: 'used_percent', values: [55, Number.NaN] }]);
    call.cancel();
  });

  test('a bad watch is refused whole', async () => {
    const call = stack.live.Watch({ watches: [{ table: 'memory' }, { table: 'memori' }] });
    const rows: unknown[] = [];
    call.on('data', (row) => rows.push(row));
    const error = await new Promise<ServiceError>((resolve) =>
      call.on('error', (cause) => resolve(cause as ServiceError)),
    );
    expect(error).toMatchObject({
      code: status.INVALID_ARGUMENT,
      details: 'There is no table "memori". Did you mean "memory"?',
    });
    expect(rows).toEqual([]);
  });

  test('a reader that stops reading gets the newest state and the number of what it missed', async () => {
    const call = stack.live.Watch({ watches: [{ table: 'cpu', hosts: ['slow'] }] });
    call.on('error', () => undefined);
    const rows: { skipped: number; time_us: number }[] = [];
    call.on('data', (row: (typeof rows)[number]) => rows.push(row));
    const began = Date.now();
    const take = (count: number) =>
      stack.newest.take(frameSubject('slow'), frame({ time: began + count, used: count }), began);
    take(1);
    // From then on it is watched.
    await until(() => rows.length).toBe(1);
    call.pause();
    for (let count = 2; count <= 5000; count++) take(count);
    await pause(500);
    call.resume();
    await until(() => rows.at(-1)?.time_us).toBe((began + 5000) * 1000);
    const skipped = rows.reduce((sum, row) => sum + row.skipped, 0);
    expect(skipped).toBeGreaterThan(0);
    expect(rows.length + skipped).toBe(5000);
    call.cancel();
    stack.newest.forget('default', 'slow');
  });

  test('health follows readiness', async () => {
    const client = new Client(`127.0.0.1:${stack.faces.grpc.port}`, credentials.createInsecure());
    const check = healthService.Check;
    if (!check) throw new Error('the health service has a method Check');
    const ask = (name: string) =>
      new Promise((resolve) =>
        client.makeUnaryRequest(
          check.path,
          check.requestSerialize,
          check.responseDeserialize,
          { service: name },
          (error, answer) => resolve(error ? status[error.code] : answer),
        ),
      );
    // Nothing fills the store here, so the collector as a whole is not ready.
    expect(await ask('fleetreel.v1.Query')).toEqual({ status: 'NOT_SERVING' });
    expect(await ask('nonsense')).toBe('NOT_FOUND');
    client.close();
  });

  test('reflection lists the services', async () => {
    const client = new Client(`127.0.0.1:${stack.faces.grpc.port}`, credentials.createInsecure());
    const same = (bytes: Buffer) => bytes;
    const call = client.makeBidiStreamRequest('/grpc.reflection.v1.ServerReflection/ServerReflectionInfo', same, same);
    const answer = new Promise<Buffer>((resolve, reject) => call.on('data', resolve).on('error', reject));
    // list_services = "*"
    call.write(Buffer.from([0x3a, 1, 0x2a]));
    expect((await answer).toString('latin1')).toMatch(/fleetreel\.v1\.Query[\s\S]*fleetreel\.v1\.Live/);
    call.end();
    client.close();
  });
});

describe('a host that is silent', () => {
  test('goes offline by itself, and its watchers are told', { timeout: 60_000 }, async () => {
    // Heard of 22 seconds ago: eight more, and it is offline.
    stack.newest.take(frameSubject('quiet'), frame({ time: Date.now() - 22_000 }), Date.now() - 22_000);
    await stack.registry.describe('default', described('quiet'));
    using reader = await openLive({ type: 'subscribe_hosts', id: 'h' });
    const states = () =>
      reader.messages
        .flatMap((message) => (message.type === 'hosts' ? message.hosts : []))
        .filter(({ host }) => host === 'quiet')
        .map((host) => host.status);
    await until(() => states().at(0)).toBe('online');
    await until(() => states().at(-1), 30_000).toBe('offline');
    expect(await (await get('/api/v1/hosts/quiet')).json()).toMatchObject({ status: 'offline' });

    const gone = await get('/api/v1/hosts/quiet', { method: 'DELETE' });
    expect(gone.status).toBe(204);
    await until(() => reader.messages.flatMap((message) => (message.type === 'hosts' ? message.removed : []))).toEqual([
      'quiet',
    ]);
    expect(await problem('/api/v1/hosts/quiet', { method: 'DELETE' })).toMatchObject({ status: 404 });
  });

  test('is online for three of its upload intervals when it sends that rarely', async () => {
    const heard = { slow: 100_000, slower: 181_000 };
    for (const [host, ago] of Object.entries(heard)) {
      await stack.registry.describe('default', { ...described(host), upload_interval_ms: 60_000 });
      stack.newest.take(frameSubject(host), frame({ time: Date.now() - ago }), Date.now() - ago);
      const state = async () => ((await (await get(`/api/v1/hosts/${host}`)).json()) as { status: string }).status;
      await until(state).toBe(host === 'slow' ? 'online' : 'offline');
      await stack.registry.forget('default', host);
      stack.newest.forget('default', host);
    }
  });
});

test('the document describes every route', async () => {
  const document = (await (await get('/docs/json')).json()) as {
    openapi: string;
    paths: Record<string, Record<string, { summary?: string; responses: object; security?: object[] }>>;
  };
  expect(document.openapi).toBe('3.1.0');
  const served = [...stack.faces.http.needs.keys()].map((route) =>
    (route.split(' ')[1] ?? '').replace(/:(\w+)/g, '{$1}'),
  );
  const described = served.filter((path) => !/^\/(?:docs|\*)/.test(path));
  expect(described).toContain('/api/v1/hosts/{host}');
  expect(Object.keys(document.paths).sort()).toEqual([...new Set(described)].sort());
  for (const operations of Object.values(document.paths))
    for (const { summary, responses, security } of Object.values(operations)) {
      expect(summary).toBeTruthy();
      // Whoever brings nothing may do all here, and that is said.
      if (security?.length !== 0) expect(security?.[0]).toEqual({});
      expect(Object.keys(responses)).not.toEqual([]);
    }
});

/** A replay session: what came, and what it is told. */
const replaySession = async (parameters: string) => await openSession(await makeSession(parameters));

async function makeSession(parameters: string): Promise<string> {
  const answer = await get(`/api/v1/replays?${parameters}`, { method: 'POST' });
  expect(answer.status).toBe(201);
  const session: unknown = await answer.json();
  expect(Value.Check(ReplaySession, session)).toBe(true);
  return (session as ReplaySession).id;
}

async function openSession(id: string) {
  const socket = new WebSocket(`ws://127.0.0.1:${stack.port}/api/v1/replays/${id}`);
  const messages: ReplayMessage[] = [];
  socket.addEventListener('message', ({ data }) => messages.push(JSON.parse(String(data)) as ReplayMessage));
  const closed = new Promise<number>((resolve) => socket.addEventListener('close', ({ code }) => resolve(code)));
  await new Promise((resolve, reject) => {
    socket.addEventListener('open', resolve);
    socket.addEventListener('error', reject);
  });
  const of = <Kind extends ReplayMessage['type']>(type: Kind) =>
    messages.filter((message): message is Extract<ReplayMessage, { type: Kind }> => message.type === type);
  return {
    id,
    messages,
    of,
    closed,
    send: (request: ReplayRequest | string) =>
      socket.send(typeof request === 'string' ? request : JSON.stringify(request)),
    [Symbol.dispose]: () => socket.close(),
  };
}

/** A recording of 20 frames, the nth with the value n, 10 ms apart. */
describe('a replay', () => {
  let first: number;
  let range: string;
  beforeAll(async () => {
    first = Date.now();
    for (let index = 0; index < 20; index++) {
      const bytes = encodeFrame({
        session: '00000000000000cd',
        sequence: index + 1,
        time_us: (first + index * 10) * 1000,
        interval_ms: 1000,
        tables: { memory: { used_percent: [index] } } as Frame['tables'],
      });
      await stack.log.jetstream.publish(frameSubject('actor'), bytes);
    }
    range = `from=${first}&to=${first + 60_000}&host=actor`;
  });

  test('session plays what is watched, and is controlled', async () => {
    using session = await replaySession(`${range}&speed=0&paused=true`);
    session.send({ type: 'subscribe', id: 'm', table: 'memory', fields: ['used_percent'] });
    const values = () => session.of('rows').map((rows) => rows.values.used_percent?.[0]);
    await until(() => session.of('clock').at(-1)).toMatchObject({ state: 'paused', speed: 0 });
    session.send({ type: 'step' });
    await until(values).toEqual([0]);
    expect(session.of('rows')[0]).toMatchObject({ id: 'm', host: 'actor', intervalMs: 1000, skipped: 0 });
    const time = session.of('rows')[0]?.time ?? 0;
    session.send({ type: 'seek', to: String(time + 100) });
    session.send({ type: 'step', frames: 2 });
    await until(values).toEqual([0, 10, 11]);
    session.send({ type: 'speed', speed: 1000 });
    session.send({ type: 'resume' });
    await until(() => session.of('clock').at(-1)?.state).toBe('ended');
    expect(values()).toEqual([0, ...Array.from({ length: 10 }, (_, index) => 10 + index)]);
    session.send({ type: 'speed', speed: 5000 });
    session.send('x');
    await until(() => session.of('error').map(({ problem: { code } }) => code)).toEqual(['bad_speed', 'bad_command']);
  });

  test('session is opened once, by its id', async () => {
    using session = await replaySession(range);
    const again = new WebSocket(`ws://127.0.0.1:${stack.port}/api/v1/replays/${session.id}`);
    const [code, text] = await new Promise<[number, string]>((resolve) => {
      let said = '';
      again.addEventListener('message', ({ data }) => {
        said = String(data);
      });
      again.addEventListener('close', (event) => resolve([event.code, said]));
    });
    expect(code).toBe(1008);
    expect(text).toContain('replay_not_found');
  });

  test.each([
    ['from=2&to=1', 'bad_time'],
    ['speed=0.01', 'bad_speed'],
    ['speed=x', 'bad_speed'],
    ['table=nothing', 'unknown_table'],
    ['host=*', 'bad_value'],
    ['host=', 'bad_value'],
    ['table=cpu,', 'bad_value'],
    ['hots=a', 'unknown_parameter'],
  ])('session is not made of %s', async (parameters, code) => {
    expect(await problem(`/api/v1/replays?${parameters}`, { method: 'POST' })).toMatchObject({ code, status: 400 });
  });

  test('session whose reader goes before the log has answered harms nobody', async () => {
    const id = await makeSession(range);
    process.kill(stack.nats.pid, 'SIGSTOP');
    try {
      const session = await openSession(id);
      session[Symbol.dispose]();
      // A rejection that nobody hears would end the collector, and here the run.
      await session.closed;
    } finally {
      process.kill(stack.nats.pid, 'SIGCONT');
    }
    using session = await replaySession(`${range}&speed=0`);
    session.send({ type: 'subscribe', id: 'm', table: 'memory' });
    await until(() => session.of('clock').at(-1)?.state).toBe('ended');
  });

  test('session is a WebSocket', async () => {
    expect(await problem('/api/v1/replays/x')).toMatchObject({ code: 'upgrade_required' });
  });

  /** A call of Replay.Play: what came, and what it is told. */
  function play(...requests: PlayRequest[]) {
    const client = new Replay(`127.0.0.1:${stack.faces.grpc.port}`, credentials.createInsecure());
    const call = client.Play();
    const messages: PlayResponse__Output[] = [];
    call.on('data', (message: PlayResponse__Output) => messages.push(message));
    const ended = new Promise<ServiceError | undefined>((resolve) => {
      call.on('error', (cause) => resolve(cause as ServiceError));
      call.on('end', () => resolve(undefined));
    });
    const send = (...more: PlayRequest[]) => {
      for (const request of more) call.write(request);
    };
    send(...requests);
    return {
      send,
      finish: () => call.end(),
      ended,
      /** The values of the frames that came. */
      values: () =>
        messages.flatMap(({ frames }) =>
          frames.map(({ frame: bytes }) => decodeFrame(bytes).tables.memory?.used_percent?.[0]),
        ),
      /** The marks, each with the number of frames before it. */
      marks: () =>
        messages.flatMap(({ mark }) => (mark ? [[mark.kind.replace('PLAY_MARK_KIND_', ''), mark.frames]] : [])),
      [Symbol.dispose]() {
        call.cancel();
        client.close();
      },
    };
  }
  const start = (more: PlayStart = {}): PlayRequest => ({
    start: { from: String(first), to: String(first + 60_000), hosts: ['actor'], ...more },
  });
  /** Numbers from one up to another. */
  const upTo = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);

  test('over gRPC is paused, stepped, sought, resumed, and ends with its reader', async () => {
    // What is said before the recording is found is heard, too.
    using call = play(start({ paused: true }), { step: {} }, { step: { frames: 2 } });
    await until(call.values).toEqual([0, 1, 2]);
    expect(call.marks()).toEqual([['BEGIN', 0]]);
    call.send({ seek: { to: String(first + 100) } }, { step: { frames: 2 } });
    await until(call.values).toEqual([0, 1, 2, 10, 11]);
    call.send({ seek: { to: String(first + 50) } }, { resume: {} });
    await until(() => call.marks().at(-1)).toEqual(['END', 20]);
    expect(call.values()).toEqual([0, 1, 2, 10, 11, ...upTo(5, 19)]);
    // At the end it waits: a seek begins again, before the range is its begin.
    call.send({ seek: { to: String(first - 60_000) } });
    await until(() => call.marks().at(-1)).toEqual(['END', 40]);
    expect(call.marks().map(([kind]) => kind)).toEqual(['BEGIN', 'SEEK', 'SEEK', 'END', 'SEEK', 'END']);
    expect(call.values().slice(20)).toEqual(upTo(0, 19));
    call.finish();
    expect(await call.ended).toBeUndefined();
  });

  test('over gRPC holds a pause at any speed', async () => {
    // At this speed the recording takes two seconds.
    using call = play(start({ speed: 0.1 }));
    await until(() => call.values().length).toBeGreaterThan(2);
    call.send({ pause: {} }, { speed: { speed: 0 } }, { seek: { to: String(first) } }, { step: {} });
    await until(() => call.marks().at(-1)?.[0]).toBe('SEEK');
    await until(() => call.values().at(-1)).toBe(0);
    const played = Number(call.marks().at(-1)?.[1]);
    expect(played).toBeLessThan(20);
    // Not one came between the pause and the step, nor after it: as fast as possible would have been all of them.
    call.send({ step: { frames: 2 } });
    await until(() => call.values().at(-1)).toBe(2);
    expect(call.values()).toEqual([...upTo(0, played - 1), 0, 1, 2]);
    call.send({ speed: { speed: 1000 } }, { resume: {} });
    call.finish();
    expect(await call.ended).toBeUndefined();
    expect(call.values()).toEqual([...upTo(0, played - 1), ...upTo(0, 19)]);
  });

  test('over gRPC is not what nobody can play', async () => {
    const refused = async (details: RegExp, ...requests: PlayRequest[]) => {
      using call = play(...requests);
      const error = await call.ended;
      expect(error?.code).toBe(status.INVALID_ARGUMENT);
      expect(error?.details).toMatch(details);
    };
    await refused(/has to begin with a start/, { pause: {} });
    await refused(/a second start/, start({ paused: true }), start());
    await refused(/speed.*0\.1 to 1000/, start({ speed: 5000 }));
    await refused(/speed.*0\.1 to 1000/, start({ paused: true }), { speed: { speed: 0.01 } });
    await refused(/seek/, start({ paused: true }), { seek: { to: 'tomorrow' } });
    await refused(/memori/, start({ tables: ['memori'] }));
    await refused(/by times or by sequences/, start({ from_sequence: 1 }));
    using call = play();
    call.finish();
    expect((await call.ended)?.details).toMatch(/there was no start/);
  });
});

describe('when QuestDB is away', () => {
  test('that hangs is not waited for without end', { timeout: 60_000 }, async () => {
    stack.questdb.freeze();
    try {
      const began = performance.now();
      const found = await problem(`/api/v1/series?table=cpu&field=used_percent&${hourRange}&step=1m`);
      expect(['store_timeout', 'store_unavailable']).toContain(found.code);
      expect(performance.now() - began).toBeLessThan(25_000);
    } finally {
      stack.questdb.thaw();
    }
    await until(
      async () => (await get(`/api/v1/series?table=cpu&field=used_percent&${hourRange}&step=1m`)).status,
    ).toBe(200);
  });

  test('history says so, live goes on, and it heals', { timeout: 120_000 }, async () => {
    await stack.questdb.kill();
    const path = `/api/v1/series?table=cpu&field=used_percent&${hourRange}&step=1m`;
    expect(await problem(path)).toMatchObject({ status: 503, code: 'store_unavailable' });
    expect((await get('/api/v1/latest?table=cpu&host=web-1')).status).toBe(200);
    await stack.questdb.restart();
    expect((await get(path)).status).toBe(200);
  });
});

describe('stopping', () => {
  test('sockets are closed with their reason, and calls end', async () => {
    using reader = await openLive({ type: 'subscribe_hosts', id: 'h' });
    const call = stack.live.Watch({ watches: [{ table: 'memory' }] });
    call.on('data', () => undefined);
    const ended = new Promise<ServiceError>((resolve) => call.on('error', (cause) => resolve(cause as ServiceError)));
    await Promise.all([once(call, 'data'), until(() => reader.messages.length).toBeGreaterThan(0)]);
    const began = performance.now();
    await stack.faces.close();
    expect(performance.now() - began).toBeLessThan(5000);
    expect(await reader.closed).toBe(1001);
    expect(await ended).toMatchObject({ code: status.UNAVAILABLE });
  });
});
