// Coverage over real servers: frames written as ingest writes them, at chosen times, asked for by both faces and the command line.
import { encodeFrame, type Frame, type Tables } from '@fleetreel/proto';
import { Coverage, type Hole } from '@fleetreel/proto/http';
import { Query as QueryService } from '@fleetreel/proto/services';
import { startNats } from '@fleetreel/test/servers/nats';
import { startProgram } from '@fleetreel/test/servers/program';
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import { credentials } from '@grpc/grpc-js';
import Value from 'typebox/value';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { decode } from '#ingest/decode.ts';
import { publishDeadLetter } from '#log/publish.ts';
import { Rows } from '#store/rows.ts';
import { keepTables } from '#store/schema.ts';
import { Writer } from '#store/writer.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;
/** All frames are of this hour, well in the past; times of the tests are seconds from here. */
const begin = Math.floor(Date.now() / hour) * hour - 3 * hour;
const sessions = { a: '00000000000000aa', b: '00000000000000bb' } as const;

type Sent = { host: string; at: number; session?: 'a' | 'b'; sequence: number; came?: number; tables?: object };

/** One frame every ten seconds, from a second to another, numbered on. */
function run(host: string, from: number, to: number, more: Partial<Sent> & { came?: number } = {}): Sent[] {
  const { sequence = from / 10 + 1, ...rest } = more;
  return Array.from({ length: (to - from) / 10 }, (_, index) => ({
    host,
    at: from + index * 10,
    sequence: sequence + index,
    ...rest,
  }));
}

const load = (uptime: number) => ({ load: { uptime_seconds: [uptime] } });
const lost = (cause: string, first: number, last: number) => ({
  frame_loss: {
    timestamp_seconds: [begin / second + (first - 1) * 10],
    frame_session: [sessions.a],
    cause: [cause],
    first_sequence: [first],
    last_sequence: [last],
    last_timestamp_seconds: [begin / second + (last - 1) * 10],
  },
});

const sent: Sent[] = [
  ...run('steady', 0, 3600),
  // Sent again, it is the same row.
  ...run('steady', 600, 700),
  ...run('killed', 0, 1000),
  ...run('killed', 1150, 3600, { session: 'b', sequence: 1 }),
  ...run('booted', 0, 1000),
  ...run('booted', 1150, 1160, { session: 'b', sequence: 1, tables: load(60) }),
  ...run('booted', 1160, 3600, { session: 'b', sequence: 2 }),
  ...run('cut', 0, 1000),
  ...run('cut', 1000, 2000, { came: 2010 }),
  ...run('cut', 2000, 3600),
  ...run('full', 0, 1000),
  ...run('full', 1500, 3000, { sequence: 151 }),
  ...run('full', 3000, 3010, { sequence: 301, tables: lost('spool_bytes', 101, 150) }),
  ...run('full', 3010, 3600, { sequence: 302 }),
  ...run('slept', 0, 1000),
  ...run('slept', 2000, 3600, { sequence: 101 }),
  ...run('refused', 0, 1000),
  ...run('refused', 1020, 2000),
  ...run('refused', 2020, 3600),
  ...run('misled', 0, 1000),
  ...run('misled', -2000, -1950, { sequence: 101 }),
  ...run('misled', 1050, 3600, { sequence: 106 }),
  ...run('silent', 0, 1800),
  ...run('batches', 0, 3600).map((one) => ({ ...one, came: Math.ceil((one.at + 1) / 60) * 60 })),
];

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
  const { telemetry, faces } = await startFaces(closing);
  const { log, registry } = await startLog(closing, nats.url, { age_ms: day, bytes: 64 * 1024 * 1024 }, telemetry);
  const settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  await keepTables(settings, 30, telemetry);
  const writer = closing.use(new Writer(settings, () => keepTables(settings, 30, telemetry), telemetry));
  await writer.send(rowsOf(sent));
  // A row of before there was the column.
  await questdb.query(
    `INSERT INTO frame (ts, tenant, host, session, sequence, interval_ms) SELECT dateadd('s', cast(10 * (x - 1) AS int), cast(${begin}000 AS timestamp)), 'default', 'old', 's', x, 10000 FROM long_sequence(360)`,
  );
  for (const host of new Set([...sent.map((one) => one.host), 'old', 'never']))
    await registry.describe('default', described(host, host === 'batches' ? minute : 0));
  const retention = { raw: 30 * day, '1m': 180 * day, '1h': 1000 * day };
  const { query } = await serveRooms(closing, { telemetry, faces, log, registry, questdb, retention });
  const grpcAddress = `127.0.0.1:${faces.grpc.port}`;
  const grpc = new QueryService(grpcAddress, credentials.createInsecure());
  closing.defer(() => grpc.close());
  const stored = new Set(sent.map(({ host, at, session = 'a' }) => `${host} ${at} ${session}`)).size;
  await vi.waitFor(
    async () => {
      expect((await questdb.query("SELECT count() FROM frame WHERE host <> 'old'")).rows).toEqual([[stored]]);
      expect(query.hosts.names('default').size).toBe(12);
    },
    { timeout: 30_000, interval: 50 },
  );
  return {
    log,
    writer,
    registry,
    grpc,
    grpcAddress,
    port: faces.http.port,
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

function rowsOf(frames: readonly Sent[]): Rows {
  const rows = new Rows(() => undefined);
  for (const { host, at, session = 'a', sequence, came = at, tables = {} } of frames) {
    const time_us = (begin + at * second) * 1000;
    const frame: Frame = {
      session: sessions[session],
      sequence,
      time_us,
      interval_ms: 10 * second,
      tables: tables as Tables,
    };
    const received_us = (begin + Math.max(came, at) * second) * 1000 + 3000;
    rows.add({ ...decode(encodeFrame(frame)), tenant: 'default', host, received_us });
  }
  return rows;
}

const described = (host: string, upload_interval_ms: number) =>
  describedHost(host, { session: sessions.a, time_us: begin * 1000, interval_ms: 10_000, upload_interval_ms });

const all = { from: String(begin), to: String(begin + hour) };

async function ask(question: Record<string, string>): Promise<Coverage> {
  const answer = await fetch(
    `http://127.0.0.1:${parts.port}/api/v1/coverage?${new URLSearchParams(question).toString()}`,
  );
  const text = await answer.text();
  expect(answer.status, text).toBe(200);
  const coverage = JSON.parse(text) as Coverage;
  expect([...Value.Errors(Coverage, coverage)]).toEqual([]);
  return coverage;
}

/** Seconds from the hour's begin. */
const at = (time: number | null) => (time === null ? null : (time - begin) / second);
const short = ({ begin: from, end, cause, missingFrames, healed }: Hole) => [
  at(from),
  at(end),
  cause,
  missingFrames,
  at(healed),
];
async function of(host: string, range: { from: string; to: string } = all) {
  const { hosts } = await ask({ host, ...range });
  const [one] = hosts;
  if (!one || hosts.length > 1) throw new Error(`${hosts.length} hosts, not ${host} alone`);
  return [Math.round(one.percent * 100) / 100, Math.round(one.percentInTime * 100) / 100, one.holes.map(short)];
}

test('a host that sent all along, what is sent again, what came in batches, rows of before the column', async () => {
  for (const host of ['steady', 'batches', 'old']) expect(await of(host), host).toEqual([100, 100, []]);
});

test('the agent was down; the machine was booted', async () => {
  expect(await of('killed')).toEqual([95.83, 95.83, [[1000, 1150, 'agent_down', 0, null]]]);
  expect(await of('booted')).toEqual([95.83, 95.83, [[1000, 1150, 'reboot', 0, null]]]);
});

test('the link was down, and all of it came later', async () => {
  expect(await of('cut')).toEqual([100, 71.94, [[1000, 2010.003, 'link_down', 99, 2010.003]]]);
});

test('what the agent gave up, and the host that slept', async () => {
  expect(await of('full')).toEqual([86.11, 86.11, [[1000, 1500, 'spool_bytes', 50, null]]]);
  expect(await of('slept')).toEqual([72.22, 72.22, [[1000, 2000, 'skipped', 0, null]]]);
});

test('frames that are there at another time: the clock was wrong', async () => {
  expect(await of('misled')).toEqual([98.61, 98.61, [[1000, 1050, 'clock', 0, null]]]);
});

test('nothing since, and nothing ever', async () => {
  expect(await of('silent')).toEqual([50, 50, [[1800, null, 'no_contact', null, null]]]);
  expect(await of('never')).toEqual([0, 0, [[0, 3600, 'no_contact', null, null]]]);
});

test('frames that were put aside; while the log has no dead letter, nobody knows', async () => {
  const holes = (cause: string) => [1000, 2000].map((from) => [from, from + 20, cause, 2, null]);
  expect(await of('refused')).toEqual([98.89, 98.89, holes('unknown')]);
  // A dead letter has the log's time, which is now: it is of a frame that was due now.
  const now = Math.floor(Date.now() / 10_000) * 10 - begin / second;
  await parts.writer.send(
    rowsOf([
      ...run('dead', now - 500, now - 400),
      ...run('dead', now - 200, now - 60),
      ...run('dead', now - 20, now + 10),
    ]),
  );
  await parts.registry.describe('default', described('dead', 0));
  const letter = {
    subject: 'fr.v1.default.frame.dead',
    sequence: 1,
    stored: '1',
    index: undefined,
    tries: 0,
    kind: 'refused' as const,
  };
  await publishDeadLetter(parts.log, {
    ...letter,
    tenant: 'default',
    host: 'dead',
    reason: 'no',
    bytes: Buffer.from('x'),
  });
  const range = { from: String(begin + (now - 200) * second), to: String(begin + now * second) };
  await vi.waitFor(
    async () => expect(await of('dead', range)).toEqual([80, 80, [[now - 60, now - 20, 'dead_letter', 4, null]]]),
    {
      timeout: 20_000,
    },
  );
  // What was missing long before it was put aside is not of it.
  expect(await of('dead', { ...range, from: String(begin + (now - 500) * second) })).toEqual([
    52,
    52,
    [
      [now - 400, now - 200, 'unknown', 20, null],
      [now - 60, now - 20, 'dead_letter', 4, null],
    ],
  ]);
});

test('a hole over an end of the range has its true times, and what is after the range tells its cause', async () => {
  const range = (from: number, to: number) => ({
    from: String(begin + from * second),
    to: String(begin + to * second),
  });
  const hole = [1000, 1150, 'agent_down', 0, null];
  expect(await of('killed', range(0, 1100))).toEqual([90.91, 90.91, [hole]]);
  expect(await of('killed', range(1100, 2100))).toEqual([95, 95, [hole]]);
  expect(await of('killed', range(1050, 1100))).toEqual([0, 0, [hole]]);
  expect(await of('killed', range(0, 1000))).toEqual([100, 100, []]);
  // Of several hosts each has its frame before the range.
  const hosts = ['killed', 'booted', 'silent'];
  const together = await ask({ host: hosts.join(','), ...range(1050, 1100) });
  const alone = await Promise.all(hosts.map(async (host) => (await ask({ host, ...range(1050, 1100) })).hosts[0]));
  expect(together.hosts).toEqual(alone);
});

test('all hosts at once, by the same answer over gRPC', async () => {
  const http = await ask(all);
  const alone = await ask({ ...all, host: 'killed' });
  expect(http.hosts.find(({ host }) => host === 'killed')).toEqual(alone.hosts[0]);
  const grpc = await new Promise((resolve, reject) =>
    parts.grpc.Coverage(all, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
  expect(grpc).toMatchObject({
    from_ms: http.from,
    to_ms: http.to,
    hosts: http.hosts.map(({ host, percent, percentInTime, holes }) => ({
      host,
      percent,
      percent_in_time: percentInTime,
      holes: holes.map(({ begin: begin_ms, cause, session }) => ({ begin_ms, cause, session: session ?? '' })),
    })),
  });
});

test('the command line shows both tables, and JSON as HTTP has it', async () => {
  const cli = async (...words: string[]) => {
    const program = await startProgram('packages/cli/src/main.ts', [
      'coverage',
      ...words,
      '--from',
      all.from,
      '--to',
      all.to,
      '--address',
      parts.grpcAddress,
    ]);
    const { code } = await program.exited;
    return `${code}\n${program.lines.join('\n')}`;
  };
  const shown = await cli('cut', 'killed');
  expect(shown).toMatch(
    /^0\nHOST +COVERED +IN TIME +HOLES\ncut +100 % +71\.944 % +1\nkilled +95\.833 % +95\.833 % +1\n/,
  );
  expect(shown).toMatch(/\nkilled .* 2 min 30 s +0 +agent down +no/);
  const json = await cli('cut', '--json');
  expect(JSON.parse(json.slice(2))).toEqual(await ask({ ...all, host: 'cut' }));
  expect(await cli('nobody')).toMatch(/^2\n.*There is no host "nobody"/);
});

test('a bad question is answered with what is wrong', async () => {
  const refused = async (question: string) => {
    const answer = await fetch(`http://127.0.0.1:${parts.port}/api/v1/coverage?${question}`);
    const { code } = (await answer.json()) as { code: string };
    return `${answer.status} ${code}`;
  };
  expect(await refused('host=nobody')).toBe('400 unknown_host');
  expect(await refused('from=now&to=-1h')).toBe('400 bad_range');
  expect(await refused('from=yesterday')).toBe('400 bad_time');
  expect(await refused('hots=a')).toBe('400 unknown_parameter');
});
