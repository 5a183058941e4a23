// Tables, rows and roll-ups against a real QuestDB.
import { setTimeout as pause } from 'node:timers/promises';
import { type Columns, catalog, encodeFrame, type Frame, type Table, type Tables, tableNamed } from '@fleetreel/proto';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { Sender } from '@questdb/nodejs-client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Clock, systemClock } from '#clock.ts';
import { decode } from '#ingest/decode.ts';
import { labelCharactersMax } from '#limits.ts';
import { type AdminSettings, execute, type Value } from '#store/admin.ts';
import { Reader } from '#store/reader.ts';
import { Rollups } from '#store/rollup.ts';
import { Rows } from '#store/rows.ts';
import { keepTables, storeTables } from '#store/schema.ts';
import { frameNearest, newestFrames, newestRows } from '#store/sql.ts';
import { Writer } from '#store/writer.ts';
import { sentence, Telemetry } from '#telemetry.ts';

const days = 30;
const minute = 60_000;
const hour = 60 * minute;
/** A full hour some hours ago. */
const begin = Math.floor(Date.now() / hour) * hour - 5 * hour;

let questdb: Questdb;
let settings: AdminSettings;
let telemetry: Telemetry;
let writer: Writer;

beforeAll(async () => {
  questdb = await startQuestdb();
  settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  telemetry = new Telemetry('silent');
  await keepTables(settings, days, telemetry);
  writer = new Writer(settings, () => keepTables(settings, days, telemetry), telemetry);
});

afterAll(async () => {
  await writer?.close();
  await questdb?.[Symbol.asyncDispose]();
});

const query = (statement: string): Promise<Value[][]> => execute(settings, statement);

/** Waits until a query's first cell is what it should be; written rows are visible some milliseconds later. */
async function becomes(statement: string, wanted: Value): Promise<void> {
  let found: Value | undefined;
  for (const end = performance.now() + 15_000; performance.now() < end; await pause(20)) {
    found = (await query(statement))[0]?.[0];
    if (found === wanted) return;
  }
  throw new Error(`${statement} gives ${found}, not ${wanted}`);
}

type Sent = Partial<Omit<Frame, 'tables'>> & { host?: string; tables: Record<string, Columns> };
let sequence = 0;

/** Frames as the writer takes them, through their wire form. */
function rowsOf(...frames: Sent[]): Rows {
  const rows = new Rows(() => undefined);
  for (const { host = 'web', tables, ...header } of frames) {
    const frame = {
      session: '00000000000000ab',
      sequence: ++sequence,
      time_us: begin * 1000,
      interval_ms: 1000,
      ...header,
    };
    const decoded = decode(encodeFrame({ ...frame, tables: tables as Tables }));
    rows.add({ ...decoded, tenant: 'default', host, received_us: frame.time_us + 7 });
  }
  return rows;
}

const cpu = (used: number, core = 'total') => ({ cpu: { core: [core], used_percent: [used] } });

/** Times of rows that have their own, seconds since 1970: to the microsecond, and before the frame's. */
const rowTimes = [begin / 1000 - 3 + 0.000_007, begin / 1000 - 2];

/** Two rows of every column of a table, with whole values and none. */
function twoRows({ labels, fields, rowTime }: Table): Columns {
  return Object.fromEntries([
    ...labels.map(({ name }) => [name, [`first ${name}`, `second ${name}`]]),
    ...fields.map(({ name }, index) => [name, index % 3 === 2 ? [Number.NaN, index] : [index + 0.1, -index / 3]]),
    ...(rowTime ? [[rowTime, rowTimes]] : []),
  ]) as Columns;
}

test('every table comes back as it was written, absent values as NULL', async () => {
  const tables = Object.fromEntries(catalog.map((table) => [table.name, twoRows(table)]));
  // Tables without a key have one row per frame.
  for (const { name, labels } of catalog)
    if (!labels.some(({ key }) => key))
      tables[name] = Object.fromEntries(
        Object.entries(tables[name] as Columns).map(([column, values]) => [column, values.slice(0, 1)]),
      ) as Columns;
  expect(await writer.send(rowsOf({ tables, host: 'every' }))).toEqual(new Map());
  for (const { name, labels, fields, rowTime } of catalog) {
    const columns = tables[name] as Columns;
    const count = Math.max(...Object.values(columns).map(({ length }) => length));
    await becomes(`SELECT count() FROM ${name} WHERE host = 'every'`, count);
    const names = [...labels, ...fields].map((column) => column.name);
    const order = labels[0] ? `ORDER BY "${labels[0].name}"` : '';
    const found = await query(
      `SELECT ts, tenant, ${names.map((one) => `"${one}"`).join()} FROM ${name} WHERE host = 'every' ${order}`,
    );
    const value = (column: string, row: number) => {
      const one = columns[column]?.[row] ?? null;
      return Number.isNaN(one) ? null : one;
    };
    const times = [begin - 3000, begin - 2000].map((time) => new Date(time).toISOString().slice(0, -1));
    const ts = (row: number) =>
      rowTime ? `${times[row]}${row === 0 ? '007' : '000'}Z` : `${new Date(begin).toISOString().slice(0, -1)}000Z`;
    const wanted = Array.from({ length: count }, (_, row) => [
      ts(row),
      'default',
      ...names.map((column) => value(column, row)),
    ]);
    expect(found, name).toEqual(wanted);
  }
});

test('labels of any text stay what they are', async () => {
  const hostile = [
    'a b',
    'a,b=c d',
    'line\nbreak\r',
    'q\'uo"te',
    'back\\slash\\',
    '\u0001\u001f\t',
    'Müller 北京 🚀',
    "'; DROP TABLE cpu; --",
    'x'.repeat(labelCharactersMax),
  ];
  const order = hostile.map((_, row) => row);
  // A text is a value to the line protocol, and escaped otherwise than a symbol.
  const event = {
    timestamp_seconds: order.map((row) => begin / 1000 + row),
    kind: order.map(() => 'process'),
    action: order.map(() => 'start'),
    entity: order.map(String),
    detail: hostile,
  };
  await writer.send(rowsOf({ host: 'hostile', tables: { cpu: { core: hostile, used_percent: order }, event } }));
  await becomes("SELECT count() FROM event WHERE host = 'hostile'", hostile.length);
  const texts = await query("SELECT detail FROM event WHERE host = 'hostile' ORDER BY ts");
  expect(texts.flat()).toEqual(hostile);
  await becomes("SELECT count() FROM cpu WHERE host = 'hostile'", hostile.length);
  const found = await query("SELECT core FROM cpu WHERE host = 'hostile' ORDER BY used_percent");
  expect(found.flat()).toEqual(hostile);
});

test('labels that the store would refuse are made such that it takes them', async () => {
  const mount = ['nul\0', `long${'y'.repeat(100_000)}`];
  await writer.send(rowsOf({ host: 'odd', tables: { filesystem: { mount, size_bytes: [1, 2] } } }));
  await becomes("SELECT count() FROM filesystem WHERE host = 'odd'", 2);
  const [[nul], [long]] = (await query("SELECT mount FROM filesystem WHERE host = 'odd' ORDER BY size_bytes")) as [
    [string],
    [string],
  ];
  expect(nul).toBe('nul\ufffd');
  expect(long).toMatch(/^longy+~[0-9a-f]{16}$/);
  expect(long).toHaveLength(labelCharactersMax);
});

test('a row of which nothing is available says that its entity was there', async () => {
  await writer.send(rowsOf({ host: 'absent', tables: { cpu: { core: ['0'], used_percent: [Number.NaN] } } }));
  await becomes("SELECT count() FROM cpu WHERE host = 'absent'", 1);
  expect(await query("SELECT core, used_percent FROM cpu WHERE host = 'absent'")).toEqual([['0', null]]);
});

test('the same rows as those of the official client', async () => {
  const table = tableNamed('filesystem') as Table;
  const columns = twoRows(table);
  const hosts = ['plain', 'odd, =name'];
  const sender = await Sender.fromConfig(
    `http::addr=${new URL(questdb.httpUrl).host};username=${questdb.user};password=${questdb.password};auto_flush=off;protocol_version=2;stdlib_http=on`,
  );
  for (const [index, host] of hosts.entries())
    for (const row of [0, 1]) {
      sender.table(table.name).symbol('tenant', 'client').symbol('host', host);
      for (const { name } of table.labels) sender.symbol(name, columns[name]?.[row] as string);
      for (const { name } of table.fields) {
        const value = columns[name]?.[row] as number;
        if (!Number.isNaN(value)) sender.floatColumn(name, value);
      }
      await sender.at(BigInt(begin * 1000 + index), 'us');
    }
  await sender.flush();
  await sender.close();
  const rows = new Rows(() => undefined);
  for (const [index, host] of hosts.entries()) {
    const frame = { session: '00000000000000ab', sequence: 1, time_us: begin * 1000 + index, interval_ms: 1000 };
    const bytes = encodeFrame({ ...frame, tables: { filesystem: columns } as unknown as Tables });
    rows.add({ ...decode(bytes), tenant: 'ours', host, received_us: frame.time_us });
  }
  await writer.send(rows);
  const names = ['ts', 'host', ...[...table.labels, ...table.fields].map(({ name }) => `"${name}"`)].join();
  const of = (tenant: string) => query(`SELECT ${names} FROM filesystem WHERE tenant = '${tenant}' ORDER BY ts, mount`);
  for (const tenant of ['client', 'ours'])
    await becomes(`SELECT count() FROM filesystem WHERE tenant = '${tenant}'`, 4);
  expect(await of('ours')).toEqual(await of('client'));
});

describe('rows that are refused', () => {
  test('are isolated: the frame is named with the reason, the others are stored', async () => {
    const frames = Array.from(
      { length: 9 },
      (_, index): Sent => ({
        host: 'isolated',
        tables: cpu(index),
        time_us: begin * 1000 + index,
      }),
    );
    // An interval that no agent has, and that the column can't hold.
    const bad = { ...frames[4], host: 'isolated', tables: cpu(4), interval_ms: 4_000_000_000 };
    const refused = await writer.send(rowsOf(...frames.with(4, bad)));
    expect([...refused.keys()]).toEqual([4]);
    expect(refused.get(4)).toMatch(/interval_ms.*4000000000/);
    await becomes("SELECT count() FROM frame WHERE host = 'isolated'", 8);
    await becomes("SELECT sum(used_percent) FROM cpu WHERE host = 'isolated'", 36 - 4);
  });

  test('are no fault of theirs when a column is gone: it is made again, and they are stored', async () => {
    await query('ALTER TABLE udp DROP COLUMN receive_errors_per_second');
    await becomes("SELECT count() FROM table_columns('udp') WHERE \"column\" = 'receive_errors_per_second'", 0);
    const rows = rowsOf({ host: 'healed', tables: { udp: { receive_errors_per_second: [3] } } });
    // QuestDB takes a value of a column that is gone, and forgets it, from a connection that wrote there before.
    await using fresh = new Writer(settings, () => keepTables(settings, days, telemetry), telemetry);
    expect(await fresh.send(rows)).toEqual(new Map());
    await becomes("SELECT receive_errors_per_second FROM udp WHERE host = 'healed'", 3);
  });

  test('or a table: a connection that wrote to it before it was dropped notices at the next write', async () => {
    await query('DROP TABLE network');
    const send = (time_us: number) =>
      writer.send(rowsOf({ host: 'healed', time_us, tables: { network: { sockets_used_count: [3] } } }));
    expect(await send(begin * 1000)).toEqual(new Map());
    expect(await send(begin * 1000 + 1)).toEqual(new Map());
    await becomes(
      "SELECT last(ts) = cast(%d as timestamp) FROM network WHERE host = 'healed'".replace(
        '%d',
        String(begin * 1000 + 1),
      ),
      true,
    );
  });
});

test('a frame that is sent again changes nothing', async () => {
  const rows = rowsOf({ host: 'again', tables: { cpu: { core: ['0', '1'], used_percent: [1, 2] } } });
  for (let time = 0; time < 3; time++) await writer.send(rows);
  await becomes("SELECT count() FROM cpu WHERE host = 'again'", 2);
  await becomes("SELECT count() FROM frame WHERE host = 'again'", 1);
  // When the log stored it, seven microseconds after its own time.
  await becomes("SELECT cast(received AS long) - cast(ts AS long) FROM frame WHERE host = 'again'", 7);
});

test('the newest of several hosts are of each of them', async () => {
  const hosts = ['newest-1', 'newest-2', 'newest-3'];
  const times = [begin * 1000, begin * 1000 + 1_000_000];
  await writer.send(
    rowsOf(...times.flatMap((time_us) => hosts.map((host) => ({ host, time_us, tables: cpu(5, '0') })))),
  );
  await becomes("SELECT count() FROM cpu WHERE host LIKE 'newest-%'", 6);
  const { pgHost: pg_host, pgPort: pg_port, readUser: read_user, readPassword: read_password } = questdb;
  await using reader = new Reader({ pg_host, pg_port, read_user, read_password });
  const allowances = new Map<string, number>();
  const range = { tenant: 'default', hosts, from: begin, to: begin + minute, allowances };
  const [from_us, to_us] = [begin * 1000, begin * 1000 + 2_000_000];
  for (const [statement, place] of [
    [newestFrames('default', hosts, begin), 0],
    [newestRows('default', tableNamed('cpu') as Table, hosts, from_us, to_us), 1],
    [frameNearest('last', range), 0],
    [frameNearest('first', range), 0],
  ] as const)
    expect(new Set((await reader.query(statement)).map((row) => row[place])), statement.text).toEqual(new Set(hosts));
});

test('a wrong password is said to be that', async () => {
  await using wrong = new Writer({ ...settings, password: 'wrong' }, () => Promise.resolve(), telemetry);
  await expect(wrong.send(rowsOf({ tables: {} }))).rejects.toThrow('questdb.user and questdb.password are wrong');
});

describe('tables', () => {
  const changes = async (kept = days) => {
    const made: string[] = [];
    await keepTables(
      settings,
      kept,
      Object.assign(new Telemetry('silent'), { configured: (what: string) => made.push(what) }),
    );
    return made;
  };

  test('are those of the catalogue, with their keys; repeating changes nothing', async () => {
    expect(await changes()).toEqual([]);
    for (const table of storeTables(days)) {
      const found = await query(`SELECT "column", type, upsertKey FROM table_columns('${table.name}')`);
      // A column that was added stands at the end.
      expect(new Set(found.map((column) => column.join(' '))), table.name).toEqual(
        new Set(table.columns.map(({ name, type, key }) => `${name} ${type} ${key}`)),
      );
    }
  });

  test('are widened by columns that they lack', async () => {
    await query('ALTER TABLE load DROP COLUMN forks_per_second');
    await query('ALTER TABLE cpu_1m DROP COLUMN idle_percent_count');
    await query('ALTER TABLE frame DROP COLUMN received');
    await becomes(`SELECT count() FROM table_columns('load') WHERE "column" = 'forks_per_second'`, 0);
    await becomes(`SELECT count() FROM table_columns('cpu_1m') WHERE "column" = 'idle_percent_count'`, 0);
    await becomes(`SELECT count() FROM table_columns('frame') WHERE "column" = 'received'`, 0);
    expect(new Set(await changes())).toEqual(
      new Set([
        'the column load.forks_per_second',
        'the column cpu_1m.idle_percent_count',
        'the column frame.received',
      ]),
    );
    // A collector that starts has connections of its own: QuestDB keeps the columns that an older one knows.
    await using fresh = new Writer(settings, () => Promise.resolve(), telemetry);
    await fresh.send(rowsOf({ host: 'wider', tables: { load: { forks_per_second: [5] } } }));
    await becomes("SELECT forks_per_second FROM load WHERE host = 'wider'", 5);
  });

  test('are made and widened by two collectors at once', async () => {
    await query('DROP TABLE tcp');
    await query('ALTER TABLE network DROP COLUMN tcp_orphans_count');
    await becomes("SELECT count() FROM tables() WHERE table_name = 'tcp'", 0);
    await becomes(`SELECT count() FROM table_columns('network') WHERE "column" = 'tcp_orphans_count'`, 0);
    await Promise.all([keepTables(settings, days, telemetry), keepTables(settings, days, telemetry)]);
    // QuestDB shows a column a moment after it was added.
    await becomes(`SELECT count() FROM table_columns('network') WHERE "column" = 'tcp_orphans_count'`, 1);
    expect(await changes()).toEqual([]);
  });

  test('are kept as long as the settings say', async () => {
    await keepTables(settings, 7, telemetry);
    // Those of the catalogue, the frames, what the log lost, and what applications write.
    await becomes("SELECT count() FROM tables() WHERE concat(ttlValue, ttlUnit) = '1WEEK'", catalog.length + 4);
    expect(await changes(7)).toEqual([]);
    await keepTables(settings, days, telemetry);
    await becomes("SELECT concat(ttlValue, ttlUnit) FROM tables() WHERE table_name = 'cpu'", '30DAY');
  });

  test.each([
    [
      'ts TIMESTAMP, tenant SYMBOL, host SYMBOL',
      'DAY',
      'ts, tenant',
      'has the column host as SYMBOL, not SYMBOL and a key',
    ],
    ['ts TIMESTAMP, tenant SYMBOL', 'DAY', 'ts, tenant', 'lacks the key host'],
    [
      'ts TIMESTAMP, tenant SYMBOL, host SYMBOL, used_bytes LONG',
      'DAY',
      'ts, tenant, host',
      'has the column used_bytes as LONG, not DOUBLE',
    ],
    [
      'ts TIMESTAMP, tenant SYMBOL, host SYMBOL, rack SYMBOL',
      'DAY',
      'ts, tenant, host, rack',
      'has the key rack, which is none here',
    ],
    ['ts TIMESTAMP, tenant SYMBOL, host SYMBOL', 'MONTH', 'ts, tenant, host', 'is cut by MONTH, not by DAY'],
  ])('that do not fit are named: %s', async (columns, partition, key, reason) => {
    await query('DROP TABLE memory');
    await query(
      `CREATE TABLE memory (${columns}) TIMESTAMP(ts) PARTITION BY ${partition} WAL DEDUP UPSERT KEYS(${key})`,
    );
    await expect(keepTables(settings, days, telemetry)).rejects.toThrow(
      `the table memory in QuestDB ${reason}: rename it (RENAME TABLE memory TO memory_old), and it is made anew`,
    );
    await query('DROP TABLE memory');
    await keepTables(settings, days, telemetry);
  });
});

describe('roll-ups', () => {
  /** A clock that stands still. */
  const at = (ms: number): Clock => ({ ...systemClock, now_us: () => ms * 1000 });
  const failures: string[] = [];
  const reports = {
    rolledUp: () => undefined,
    rollupFailed: (table: string, cause: unknown) => failures.push(`${table}: ${sentence(cause)}`),
  };
  const never = new AbortController().signal;
  /** Writes one value of `host` at so many milliseconds after `begin`. */
  const write = async (host: string, after: number, used: number, idle = Number.NaN) =>
    writer.send(
      rowsOf({
        host,
        time_us: (begin + after) * 1000,
        tables: { cpu: { core: ['total'], used_percent: [used], idle_percent: [idle] } },
      }),
    );
  const columns = ['avg', 'min', 'max', 'count'].map((aggregate) => `used_percent_${aggregate}`).join();
  const rolled = (table: string, host: string) =>
    query(
      `SELECT ts, sample_count, ${columns}, idle_percent_avg, idle_percent_count FROM ${table} WHERE host = '${host}'`,
    );
  const time = (after: number) => `${new Date(begin + after).toISOString().slice(0, -1)}000Z`;

  test('hold average, least, greatest and the number of values of every step that is over', async () => {
    await write('rolled', 1000, 10, 50);
    await write('rolled', 2000, 20);
    await write('rolled', 3000, Number.NaN);
    await write('rolled', minute, 40);
    await write('rolled', 3 * minute, 99);
    await becomes("SELECT count() FROM cpu WHERE host = 'rolled'", 5);
    const rollups = new Rollups(settings, reports, at(begin + 3 * minute + 20_000));
    rollups.written([1000, 2000, 3000, minute, 3 * minute].map((after) => begin + after));
    await rollups.fill(never);
    await becomes("SELECT count() FROM cpu_1m WHERE host = 'rolled'", 2);
    expect(await rolled('cpu_1m', 'rolled')).toEqual([
      [time(0), 3, 15, 10, 20, 2, 50, 1],
      [time(minute), 1, 40, 40, 40, 1, null, 0],
    ]);
    expect(await rolled('cpu_1h', 'rolled')).toEqual([]);
    // The minute that was running is filled once it is over, and so is the hour.
    const later = new Rollups(settings, reports, at(begin + hour + 20_000));
    later.written([begin + 3 * minute]);
    await later.fill(never);
    await becomes("SELECT count() FROM cpu_1m WHERE host = 'rolled'", 3);
    await becomes("SELECT count() FROM cpu_1h WHERE host = 'rolled'", 1);
    expect(await rolled('cpu_1h', 'rolled')).toEqual([[time(0), 5, 42.25, 10, 99, 4, 50, 1]]);
    expect(failures).toEqual([]);
  });

  test('are filled again where late rows arrive, without doubling', async () => {
    const rollups = new Rollups(settings, reports, at(begin + 10 * minute));
    await write('late', 5 * minute, 1);
    await becomes("SELECT count() FROM cpu WHERE host = 'late'", 1);
    rollups.written([begin + 5 * minute]);
    await rollups.fill(never);
    await becomes("SELECT sample_count FROM cpu_1m WHERE host = 'late'", 1);
    await write('late', 5 * minute + 1, 3);
    await becomes("SELECT count() FROM cpu WHERE host = 'late'", 2);
    rollups.written([begin + 5 * minute + 1]);
    await rollups.fill(never);
    await becomes("SELECT sample_count FROM cpu_1m WHERE host = 'late'", 2);
    expect(await rolled('cpu_1m', 'late')).toEqual([[time(5 * minute), 2, 2, 1, 3, 2, null, 0]]);
  });

  test('are caught up by a collector that starts, from the newest that there is', async () => {
    await write('before', 30 * minute, 7);
    await becomes("SELECT count() FROM cpu WHERE host = 'before'", 1);
    const rollups = new Rollups(settings, reports, at(begin + 2 * hour));
    await rollups.catchUp();
    await rollups.fill(never);
    await becomes("SELECT used_percent_avg FROM cpu_1m WHERE host = 'before'", 7);
    await becomes("SELECT used_percent_avg FROM cpu_1h WHERE host = 'before'", 7);
  });

  test('of one table that fail leave those of the others, and are tried again', async () => {
    await query('DROP TABLE cpu_1m');
    await write('mended', 40 * minute, 8);
    await becomes("SELECT count() FROM cpu WHERE host = 'mended'", 1);
    const rollups = new Rollups(settings, reports, at(begin + 2 * hour));
    rollups.written([begin + 40 * minute]);
    await rollups.fill(never);
    expect(failures).toEqual([expect.stringMatching(/^cpu_1m: .*table does not exist/)]);
    await becomes("SELECT used_percent_avg FROM cpu_1h WHERE host = 'mended'", 8);
    await keepTables(settings, days, telemetry);
    await rollups.fill(never);
    await becomes("SELECT used_percent_avg FROM cpu_1m WHERE host = 'mended'", 8);
  });
});
