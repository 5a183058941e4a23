// Replays and cursors over a real log and a real store: every frame once, in order, the same bytes each time.
import { setTimeout as pause } from 'node:timers/promises';
import { decodeFrame, encodeFrame, type Frame, messageId, prefix, subject, tableNamed } from '@fleetreel/proto';
import { encodeBatch } from '@fleetreel/proto/batch';
import { frameHeader } from '@fleetreel/proto/bytes';
import type { ReelFrame } from '@fleetreel/reel/format';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import { systemClock } from '#clock.ts';
import { decode } from '#ingest/decode.ts';
import { replaySessionsMax } from '#limits.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { isIn } from '#log/partition.ts';
import { keepLog, streamName } from '#log/stream.ts';
import { decodeToken, encodeToken, type Followed } from '#replay/follow.ts';
import { readLog } from '#replay/log.ts';
import type { Mark } from '#replay/player.ts';
import { Replays } from '#replay/replays.ts';
import { Source, type SourceQuestion } from '#replay/source.ts';
import { Reader } from '#store/reader.ts';
import { Rows } from '#store/rows.ts';
import { keepTables } from '#store/schema.ts';
import { Writer } from '#store/writer.ts';
import { Telemetry } from '#telemetry.ts';

const tenant = 'default';
const second_us = 1_000_000;
const hour_us = 3600 * second_us;
const day_us = 24 * hour_us;
const clock = systemClock;
const signal = new AbortController().signal;

let nats: NatsServer;
let questdb: Questdb;
let log: Log;
let reader: Reader;
let telemetry: Telemetry;
let begin_us: number;

const session = (host: string) => Buffer.from(host.padEnd(8, '-').slice(0, 8)).toString('hex');

/** A frame of a host; what it holds follows from who it is. */
function frame(host: string, sequence: number, time_us: number): Uint8Array {
  return encodeFrame({
    session: session(host),
    sequence,
    time_us,
    interval_ms: 1000,
    tables: {
      cpu: { core: ['total', '0'], used_percent: [sequence, sequence / 7] },
      memory: { used_percent: [sequence % 100] },
      event: {
        kind: ['process'],
        action: ['start'],
        entity: [String(sequence)],
        name: [''],
        detail: ['x "y"'],
        timestamp_seconds: [(time_us - 300_000) / 1e6],
        duration_seconds: [Number.NaN],
      },
    } as unknown as Frame['tables'],
  });
}

const publishFrame = (host: string, bytes: Uint8Array, msgID?: string) =>
  log.jetstream.publish(subject({ tenant, kind: 'frame', host }), bytes, msgID ? { msgID } : {});
const publishBatch = (host: string, frames: Uint8Array[]) =>
  log.jetstream.publish(subject({ tenant, kind: 'batch', host }), encodeBatch(frames));

async function store(frames: readonly [host: string, bytes: Uint8Array][]): Promise<void> {
  const settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  await keepTables(settings, 30, telemetry);
  await using writer = new Writer(settings, async () => undefined, telemetry);
  const rows = new Rows(() => undefined);
  for (const [host, bytes] of frames) rows.add({ ...decode(bytes), tenant, host, received_us: begin_us });
  expect(await writer.send(rows)).toEqual(new Map());
  const waiting = 'SELECT count() FROM wal_tables() WHERE writerTxn < sequencerTxn';
  await vi.waitFor(async () => expect((await questdb.query(waiting)).rows).toEqual([[0]]), { timeout: 30_000 });
}

/** Two days ago, known to the store alone. */
const old = { host: 'old', count: 1200 };

beforeAll(async () => {
  [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  telemetry = new Telemetry('silent');
  log = await connectLog(nats.url);
  await keepLog(log, { age_ms: day_us / 1000, bytes: 256 * 1024 * 1024 }, 'main', telemetry);
  reader = new Reader({
    pg_host: questdb.pgHost,
    pg_port: questdb.pgPort,
    read_user: questdb.readUser,
    read_password: questdb.readPassword,
  });
  begin_us = Math.floor(Date.now() / 1000) * second_us;
  const before_us = begin_us - 2 * day_us;
  await store(
    Array.from({ length: old.count }, (_, index) => [
      old.host,
      frame(old.host, index + 1, before_us + index * second_us),
    ]),
  );
  await fillLog();
});

afterAll(async () => {
  await reader?.close();
  await log?.connection.close();
  await questdb?.[Symbol.asyncDispose]();
  await nats?.[Symbol.asyncDispose]();
});

/** Frames of each kind; all but the late ones are stored within a few seconds of their time. */
const kinds = { live: 300, upload: 100, late: 500, wrong: 20 };
let late_us: number;

async function fillLog(): Promise<void> {
  const start_us = Date.now() * 1000;
  const live = Array.from({ length: kinds.live }, (_, index) => index);
  // Not in their order: neighbours are exchanged, as hosts that are near and far are.
  live.sort((a, b) => ((a * 7919) % 40) - ((b * 7919) % 40));
  await Promise.all(
    live.flatMap((index) =>
      ['live-1', 'live-2'].map((host) =>
        publishFrame(host, frame(host, index + 1, start_us + index * 1000), messageId(session(host), index + 1)),
      ),
    ),
  );
  await publishFrame('live-1', Buffer.from('no frame'));
  // Of another tenant, put aside, and of a kind that this version does not know.
  const others = [
    subject({ tenant: 'other', kind: 'frame', host: 'live-1' }),
    subject({ tenant, kind: 'dead', host: 'live-1' }),
    `${prefix}.${tenant}.later.live-1`,
  ];
  for (const other of others) await log.jetstream.publish(other, frame('live-1', 1000, start_us + 500));
  await publishBatch(
    'upload',
    Array.from({ length: kinds.upload }, (_, index) => frame('upload', index + 1, start_us + index * 2500)),
  );
  // An hour late, in two batches that overlap: what they share is played once.
  late_us = start_us - hour_us;
  const lates = Array.from({ length: kinds.late }, (_, index) => frame('late', index + 1, late_us + index * second_us));
  await publishBatch('late', lates.slice(0, 300));
  await publishBatch('late', lates.slice(200));
  // Sent live by a host whose clock is an hour behind.
  for (let index = 0; index < kinds.wrong; index++)
    await publishFrame('wrong', frame('wrong', index + 1, start_us - hour_us + index * 1000));
  // Sent again after the duplicate window, and in a batch as well.
  await publishFrame('live-1', frame('live-1', 5, start_us + 4000));
  await publishBatch('live-2', [frame('live-2', 7, start_us + 6000), frame('live-2', 8, start_us + 7000)]);
}

const question = (more: Partial<SourceQuestion> = {}): SourceQuestion => ({
  tenant,
  hosts: [],
  tables: [],
  range: { from_us: begin_us - 3 * hour_us, to_us: Date.now() * 1000 + 60 * second_us },
  ...more,
});

async function played(more: Partial<SourceQuestion> = {}, from_us = 0): Promise<ReelFrame[]> {
  const source = await Source.open({ log, reader, clock }, question(more));
  const frames: ReelFrame[] = [];
  for await (const part of source.frames(from_us, signal)) if (!('to_us' in part)) frames.push(...part);
  return frames;
}

const plain = (one: ReelFrame) => ({ ...one, bytes: Buffer.from(one.bytes).toString('base64') });
const identity = ({ host, bytes }: ReelFrame) => {
  const { session: own, sequence } = frameHeader(bytes);
  return `${host} ${own} ${sequence}`;
};

describe('what is played', () => {
  test('is every frame once, in the order of its time, and the same byte for byte each time', async () => {
    const one = await played();
    const two = await played();
    expect(one.length).toBe(2 * kinds.live + kinds.upload + kinds.late + kinds.wrong);
    expect(new Set(one.map(identity)).size).toBe(one.length);
    for (const [index, { time_us }] of one.entries())
      expect(time_us).toBeGreaterThanOrEqual(one[index - 1]?.time_us ?? 0);
    expect(two.map(plain)).toEqual(one.map(plain));
    for (const { host, bytes, time_us } of one) {
      const own = frameHeader(bytes);
      expect(Buffer.compare(bytes, frame(host, own.sequence, own.time_us))).toBe(0);
      // A host whose clock is wrong is played when it was heard.
      if (host === 'wrong') expect(time_us - own.time_us).toBeGreaterThan(hour_us / 2);
      else expect(time_us).toBe(own.time_us);
    }
  });

  test('of parts of a range is what is played of the whole', async () => {
    const middle = late_us + 250 * second_us;
    const { from_us, to_us } = question().range as { from_us: number; to_us: number };
    const parts = [
      ...(await played({ range: { from_us, to_us: middle } })),
      ...(await played({ range: { from_us: middle, to_us } })),
    ];
    expect(parts.map(identity)).toEqual((await played({ range: { from_us, to_us } })).map(identity));
    // And so it is from a place within it.
    const rest = await played({}, middle);
    expect(rest.map(identity)).toEqual(parts.slice(250).map(identity));
  });

  test('is of the hosts and tables that were asked for', async () => {
    const cpu = tableNamed('cpu');
    if (!cpu) throw new Error('the contract has cpu');
    const some = await played({ hosts: ['upload', 'late'], tables: [cpu] });
    expect(new Set(some.map(({ host }) => host))).toEqual(new Set(['upload', 'late']));
    expect(some.length).toBe(kinds.upload + kinds.late);
    for (const { bytes } of some) expect(Object.keys(decodeFrame(bytes).tables)).toEqual(['cpu']);
    expect(await played({ hosts: ['nobody'] })).toEqual([]);
    const gpu = tableNamed('gpu');
    expect(gpu && (await played({ tables: [gpu] }))).toEqual([]);
  });

  test('is read once, of a partition too, and however slowly', async () => {
    const add = vi.spyOn(log.manager.consumers, 'add');
    onTestFinished(() => add.mockRestore());
    const hosts = new Set((await played()).map(({ host }) => host));
    const part = { ...log, partition: { number: 1, of: 2 } };
    const mine = [...hosts].filter((host) => isIn(part.partition, tenant, host));
    expect(mine.length).toBeGreaterThan(0);
    expect(mine.length).toBeLessThan(hosts.size);
    add.mockClear();
    const read: string[] = [];
    const asked = { tenant, hosts: [], kinds: ['frame', 'batch'] as const, from: { sequence: 1 }, last: 1_000_000 };
    for await (const messages of readLog(part, asked, clock, signal)) {
      // Longer than the server waits for who asked: what was asked for ahead is here by then.
      if (read.length === 0) await pause(7000);
      read.push(...messages.map(({ host }) => host));
    }
    expect(new Set(read)).toEqual(new Set(mine));
    expect(add).toHaveBeenCalledTimes(1);
  });

  test('ends where nothing is: an empty range does not wait', async () => {
    const later = Date.now() * 1000 + day_us;
    expect(await played({ range: { from_us: later, to_us: later + second_us } })).toEqual([]);
  });

  test('by sequences of the log is what those messages hold', async () => {
    const all = await played({ range: { first: 1, last: 100_000 } });
    expect(new Set(all.map(identity)).size).toBe(2 * kinds.live + kinds.upload + kinds.late + kinds.wrong);
    const some = await played({ range: { first: 11, last: 30 } });
    expect(some.map(({ logSequence }) => logSequence).sort((a, b) => a - b)).toEqual(
      Array.from({ length: 20 }, (_, index) => index + 11),
    );
    await expect(played({ range: { first: 1_000_000, last: 1_000_001 } })).rejects.toMatchObject({
      code: 'sequence_gone',
    });
  });
});

describe('frames older than the log', () => {
  const range = () => ({ from_us: begin_us - 2 * day_us, to_us: begin_us - 2 * day_us + 1100 * second_us });

  test('are rebuilt from the store, marked as such, the same each time', async () => {
    const frames = await played({ range: range() });
    expect(frames.length).toBe(1100);
    expect((await played({ range: range() })).map(plain)).toEqual(frames.map(plain));
    for (const [index, { host, origin, time_us, bytes }] of frames.entries()) {
      expect({ host, origin, time_us }).toEqual({
        host: old.host,
        origin: 'store',
        time_us: range().from_us + index * second_us,
      });
      const rebuilt = decodeFrame(bytes);
      const sent = decodeFrame(frame(old.host, index + 1, time_us));
      expect({ ...rebuilt, tables: {} }).toEqual({ ...sent, tables: {} });
      // Rows come in the order of their labels.
      expect(rebuilt.tables.cpu).toMatchObject({ core: ['0', 'total'], used_percent: [(index + 1) / 7, index + 1] });
      expect(rebuilt.tables.memory?.used_percent).toEqual(sent.tables.memory?.used_percent);
      // A row with a time of its own is in the next frame of its host; that of the first is before the range.
      if (index === 0) continue;
      expect(rebuilt.tables.event?.entity).toEqual([String(index + 1)]);
      expect(rebuilt.tables.event?.timestamp_seconds[0]).toBeCloseTo(sent.tables.event?.timestamp_seconds[0] ?? 0, 5);
    }
  });

  test('join those of the log', async () => {
    const { from_us } = range();
    const all = await played({ range: { from_us, to_us: Date.now() * 1000 } });
    expect(new Set(all.map(identity)).size).toBe(all.length);
    expect(all.filter(({ origin }) => origin === 'store').length).toBe(old.count);
    expect(all.filter(({ origin }) => origin === 'log').length).toBe(
      2 * kinds.live + kinds.upload + kinds.late + kinds.wrong,
    );
    for (const [index, { time_us }] of all.entries())
      expect(time_us).toBeGreaterThanOrEqual(all[index - 1]?.time_us ?? 0);
  });
});

/** Plays in the background; what came, and the way to control it. */
async function playing(
  replays: Replays,
  options: { speed: number | 'max'; isPaused?: boolean; shift?: boolean },
  more: Partial<SourceQuestion> = {},
) {
  const frames: (ReelFrame & { at: number })[] = [];
  const marks: Mark[] = [];
  const stop = new AbortController();
  let goesOn = true;
  let hold: Promise<void> | undefined;
  const player = await replays.open(
    question({ hosts: ['upload'], ...more }),
    {
      frames(part) {
        frames.push(...part.map((one) => ({ ...one, at: performance.now() })));
        return hold;
      },
      mark: (mark) => void marks.push(mark),
    },
    { shift: false, isPaused: false, ...options },
  );
  const done = player.run(stop.signal, () => goesOn).finally(() => player[Symbol.dispose]());
  done.catch(() => undefined);
  return {
    player,
    frames,
    marks,
    done,
    stop,
    finish: () => {
      goesOn = false;
      player.wake();
    },
    holdUntil: (promise: Promise<void>) => {
      hold = promise;
    },
  };
}

const until = (check: () => unknown) => expect.poll(check, { timeout: 20_000, interval: 5 });

describe('a player', () => {
  let replays: Replays;
  beforeAll(() => {
    replays = new Replays({ log, reader, clock, telemetry });
  });

  test('keeps the spacing at ten times the pace, and ends', async () => {
    const play = await playing(replays, { speed: 10 });
    play.finish();
    await play.done;
    expect(play.marks.map(({ kind }) => kind)).toEqual(['begin', 'end']);
    expect(play.frames.length).toBe(kinds.upload);
    const [first] = play.frames;
    // 100 frames over a quarter of a second of recording: never early, however late a busy machine makes them.
    for (const { at, time_us } of play.frames)
      expect(at - (first?.at ?? 0)).toBeGreaterThanOrEqual((time_us - (first?.time_us ?? 0)) / 10_000 - 5);
  });

  test('pauses, steps, seeks and goes on', async () => {
    const play = await playing(replays, { speed: 'max', isPaused: true });
    await until(() => play.marks.length).toBe(1);
    play.player.step(1);
    await until(() => play.frames.length).toBe(1);
    play.player.step(3);
    await until(() => play.frames.length).toBe(4);
    const to_us = (play.frames[0]?.time_us ?? 0) + 50 * 2500;
    play.player.seek(to_us);
    await until(() => play.marks.at(-1)?.kind).toBe('seek');
    play.player.step(1);
    await until(() => play.frames.length).toBe(5);
    expect(play.frames[4]?.time_us).toBe(to_us);
    play.player.resume();
    await until(() => play.marks.at(-1)?.kind).toBe('end');
    expect(play.frames.length).toBe(4 + 50);
    // At the end it waits; a seek begins again.
    play.player.seek(0);
    await until(() => play.frames.length).toBe(54 + 100);
    play.finish();
    await play.done;
    expect(replays.size).toBe(0);
  });

  test('waits for a slow reader and leaves nothing out', async () => {
    const play = await playing(replays, { speed: 'max' });
    const { promise, resolve } = Promise.withResolvers<void>();
    play.holdUntil(promise);
    await until(() => play.frames.length).toBeGreaterThan(0);
    const held = play.frames.length;
    await pause(300);
    expect(play.frames.length).toBe(held);
    resolve();
    play.finish();
    await play.done;
    expect(play.frames.length).toBe(kinds.upload);
  });

  test('moves times to now', async () => {
    const play = await playing(replays, { speed: 1, shift: true });
    play.finish();
    await play.done;
    for (const { time_us, bytes } of play.frames) {
      expect(frameHeader(bytes).time_us).toBe(time_us);
      expect(Math.abs(time_us / 1000 - Date.now())).toBeLessThan(30_000);
    }
  });

  test('there are so many of a tenant at most', async () => {
    const plays = [];
    for (let index = 0; index < replaySessionsMax; index++)
      plays.push(await playing(replays, { speed: 1, isPaused: true }));
    await expect(playing(replays, { speed: 1 })).rejects.toMatchObject({ code: 'too_many_replays' });
    // Another tenant's are counted by themselves.
    plays.push(await playing(replays, { speed: 1, isPaused: true }, { tenant: 'other' }));
    for (const { stop, done } of plays) {
      stop.abort(new Error('enough'));
      await expect(done).rejects.toThrow('enough');
    }
    expect(replays.size).toBe(0);
  });
});

describe('a cursor', () => {
  /** Follows in the background; what came, by who sent it. */
  function following(from: { time_us: number } | { token: string }, hosts: string[] = []) {
    const replays = new Replays({ log, reader, clock, telemetry });
    const stop = new AbortController();
    const got: Followed[] = [];
    const done = (async () => {
      for await (const part of replays.follow({ tenant, hosts, tables: [], from }, stop.signal)) got.push(part);
    })();
    done.catch(() => undefined);
    const frames = () => got.flatMap((part) => part.frames.map(identity));
    return {
      got,
      frames,
      done,
      end: async () => {
        stop.abort(new Error('enough'));
        await expect(done).rejects.toThrow('enough');
      },
    };
  }

  test('gives history, goes on with what arrives, and resumes after its token, over a restart of the log', async () => {
    const history = following({ time_us: begin_us }, ['follow', 'live-1']);
    await until(() => history.frames().length).toBe(kinds.live);
    const sent: string[] = [];
    let sequence = 0;
    const send = async () => {
      sequence++;
      const bytes = frame('follow', sequence, Date.now() * 1000);
      // As an agent: until the log has it.
      for (;;)
        try {
          await publishFrame('follow', bytes, messageId(session('follow'), sequence));
          break;
        } catch {
          await pause(100);
        }
      sent.push(`follow ${session('follow')} ${sequence}`);
    };
    for (let index = 0; index < 20; index++) await send();
    await until(() => history.frames().length).toBe(kinds.live + 20);
    await nats.restart();
    for (let index = 0; index < 20; index++) await send();
    await until(() => history.frames().length).toBe(kinds.live + 40);
    expect(history.frames().slice(kinds.live)).toEqual(sent);
    await history.end();
    // From each token the rest, whole and once; a frame that the log got twice is not given again either.
    await log.jetstream.publish(
      subject({ tenant, kind: 'batch', host: 'follow' }),
      encodeBatch([frame('follow', 40, 1)]),
    );
    const [early] = history.got.filter((part) => part.frames.some(({ host }) => host === 'follow'));
    const given = history
      .frames()
      .slice(
        0,
        history.got.slice(0, history.got.indexOf(early as Followed) + 1).flatMap(({ frames }) => frames).length,
      );
    const rest = following({ token: early?.token ?? '' }, ['follow', 'live-1']);
    await until(() => rest.frames().length).toBe(kinds.live + 40 - given.length);
    for (let index = 0; index < 5; index++) await send();
    await until(() => rest.frames().length).toBe(kinds.live + 45 - given.length);
    expect([...given, ...rest.frames()].slice(kinds.live)).toEqual(sent);
    await rest.end();
  });

  test('from a time older than the log has the frames of the store first', async () => {
    const all = following({ time_us: begin_us - 3 * day_us }, [old.host, 'late']);
    await until(() => all.frames().length).toBe(old.count + kinds.late);
    await all.end();
    const frames = all.got.flatMap((part) => part.frames);
    expect(new Set(all.frames()).size).toBe(frames.length);
    expect(frames.slice(0, old.count).every(({ origin }) => origin === 'store')).toBe(true);
  });

  test.each([
    ['', 'it has not the form of one'],
    ['x', 'it has not the form of one'],
    [Buffer.from('9 1 1 now').toString('base64url'), 'it is of version 9'],
    [encodeToken({ created: 'long-ago', sequence: 1, stored_us: 1 }), 'the log was made anew'],
  ])('refuses the token %j', async (token, reason) => {
    await expect(following({ token }).done).rejects.toThrow(reason);
  });

  test('says that what comes after a token is gone', async () => {
    const first = following({ time_us: begin_us });
    await until(() => first.got.length).toBeGreaterThan(0);
    await first.end();
    const place = decodeToken(first.got[0]?.token ?? '');
    await log.manager.streams.purge(streamName, { seq: place.sequence + 10 });
    const token = encodeToken({ ...place, sequence: place.sequence });
    await expect(following({ token }).done).rejects.toMatchObject({ code: 'token_gone' });
    await expect(following({ token: encodeToken({ ...place, sequence: 10_000_000 }) }).done).rejects.toThrow(
      'the log has not come so far',
    );
  });
});
