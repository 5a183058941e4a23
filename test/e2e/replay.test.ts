// Recorded and played again by the commands, over the whole product.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { subject } from '@fleetreel/proto';
import { frameHeader } from '@fleetreel/proto/bytes';
import { connect } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Program, startProgram } from '../servers/program.ts';
import { Terminal } from '../servers/terminal.ts';
import { endOf, eventually, programs, Stack } from '../stack.ts';

const root = join(import.meta.dirname, '../..');
let stack: Stack;
let agent: Program;
/** A range of the recording that is over, milliseconds. */
let range: { from: number; to: number };

beforeAll(async () => {
  stack = await Stack.start();
  agent = await stack.startAgent({ host: 'film.star', interval: '1s' });
  await stack.startAgent({ host: 'extra', interval: '1s' });
  const from = Date.now();
  await eventually('ten frames in the store', 60_000, async () => {
    const { rows } = await stack.questdb.query(`SELECT count() FROM frame WHERE host = 'film_star'`);
    return Number(rows[0]?.[0]) >= 10 || undefined;
  });
  range = { from, to: Date.now() - 1000 };
});

afterAll(async () => {
  await stack?.[Symbol.asyncDispose]();
});

const cli = (...args: string[]) => startProgram(programs.cli, args, { FLEETREEL_ADDRESS: stack.grpcAddress });

async function ran(...args: string[]) {
  const program = await cli(...args);
  const ended = await endOf(program);
  return { ...ended, lines: program.lines };
}

const path = (name: string) => join(stack.folder, name);
const times = () => ['--from', String(range.from), '--to', String(range.to)];

type Line = { time: number; host: string; session: string; sequence: number; origin: string; tables: object };
const parsed = (lines: readonly string[]) => lines.map((line) => JSON.parse(line) as Line);

/** Sequences follow each other in each session of a host. */
function expectWhole(frames: readonly { host: string; session: string; sequence: number }[]): void {
  for (const own of Map.groupBy(frames, ({ host, session }) => `${host} ${session}`).values())
    expect(own.map(({ sequence }) => sequence)).toEqual(own.map((_, index) => (own[0]?.sequence ?? 0) + index));
}

test('a range is played, twice the same, frame by frame', async () => {
  const [one, two] = [await ran('replay', ...times()), await ran('replay', ...times())];
  expect(one.code, one.output).toBe(0);
  expect(two.lines).toEqual(one.lines);
  const frames = parsed(one.lines);
  expect(new Set(frames.map(({ host }) => host))).toEqual(new Set(['film_star', 'extra']));
  expect(frames.length).toBeGreaterThanOrEqual(15);
  expectWhole(frames);
  expect(frames.every(({ origin }) => origin === 'log')).toBe(true);
  expect(frames.map(({ time }) => time)).toEqual(frames.map(({ time }) => time).sort((a, b) => a - b));
});

test('a recording plays without a server as the collector played it', async () => {
  const file = path('range.reel');
  const recorded = await ran('record', file, ...times());
  expect(recorded.code, recorded.output).toBe(0);
  const [direct, filed] = [
    await ran('replay', ...times()),
    await ran('replay', file, '--address', '127.0.0.1:1', '--speed', 'max'),
  ];
  expect(filed.code, filed.output).toBe(0);
  expect(filed.lines).toEqual(direct.lines);
  const again = path('again.reel');
  expect((await ran('replay', ...times(), '--output', again)).code).toBe(0);
  const about = await ran('reel', file);
  expect(about.code, about.output).toBe(0);
  expect(about.output).toMatch(/good to its end/);
  expect(about.output).toMatch(/extra, film_star|film_star, extra/);
  const some = await ran('replay', file, '--host', 'extra', '--table', 'memory');
  expect(
    parsed(some.lines).every(({ host, tables }) => host === 'extra' && Object.keys(tables).join() === 'memory'),
  ).toBe(true);
  expect((await ran('record', file, ...times())).output).toMatch(/range\.reel is there already/);
});

test('keys at a terminal are heard by the collector', async () => {
  const words = [process.execPath, join(root, programs.cli), 'replay', ...times(), '--host', 'film.star'];
  using terminal = new Terminal(words.map((word) => `'${word}'`).join(' '), { FLEETREEL_ADDRESS: stack.grpcAddress });
  const sequences = () => parsed(terminal.lines.filter((line) => line.startsWith('{'))).map(({ sequence }) => sequence);
  await eventually('a frame', 30_000, () => sequences().length > 0 || undefined);
  terminal.type(' ');
  await eventually('the pause', 30_000, () => /paused at/.test(terminal.shown) || undefined);
  const [first = 0] = sequences();
  // Ten seconds back is the begin: the first frames come again, as many as are stepped.
  terminal.type('\x1b[D..');
  await eventually('two steps', 30_000, () => sequences().lastIndexOf(first) === sequences().length - 2 || undefined);
  const again = sequences().length - 2;
  expect(again).toBeGreaterThan(0);
  expect(sequences()).toEqual([
    ...sequences()
      .slice(0, again)
      .map((_, index) => first + index),
    first,
    first + 1,
  ]);
  terminal.type('++++++ ');
  expect(await terminal.exited, terminal.shown).toBe(0);
  // To the end, and so to the command's.
  const rest = sequences().slice(again);
  expect(rest.length).toBeGreaterThanOrEqual(8);
  expect(rest).toEqual(rest.map((_, index) => first + index));
});

test('a damaged recording is played up to where it is good, and that is said', async () => {
  const file = path('damaged.reel');
  const bytes = readFileSync(path('range.reel'));
  bytes[bytes.length >> 1]! ^= 4;
  writeFileSync(file, bytes);
  for (const command of ['replay', 'reel']) {
    const { code, output } = await ran(command, file);
    expect(code).toBe(1);
    expect(output).toMatch(/has a wrong checksum\. It is good up to byte \d+: \d+ frames/);
  }
  writeFileSync(file, bytes.subarray(0, 1000));
  expect((await ran('replay', file)).output).toMatch(/was cut/);
});

test('what is recorded until Ctrl-C is whole', async () => {
  const file = path('live.reel');
  const recording = await cli('record', file, '--from', String(range.from));
  await eventually('some seconds in the file', 60_000, async () => {
    try {
      return readFileSync(file).length > 40_000 || undefined;
    } catch {
      return undefined;
    }
  });
  recording.signal('SIGINT');
  const { code, output } = await endOf(recording);
  expect(code, output).toBe(0);
  expect(output).toMatch(/live\.reel: \d+ frames/);
  const { lines, code: read } = await ran('replay', file, '--host', 'film_star');
  expect(read).toBe(0);
  expectWhole(parsed(lines));
  expect(lines.length).toBeGreaterThanOrEqual(8);
});

test('frames are played to a subject, and as frames of another tenant into the store', async () => {
  const connection = await connect({ servers: stack.nats.url });
  try {
    const heard: string[] = [];
    connection.subscribe('cinema.>', {
      callback: (_, message) => void heard.push(`${message.subject} ${frameHeader(message.data).sequence}`),
    });
    await connection.flush();
    const { lines } = await ran('replay', ...times(), '--host', 'extra');
    const toNats = ['--to-nats', stack.nats.url];
    const to = await ran(
      'replay',
      ...times(),
      '--host',
      'extra',
      '--speed',
      'max',
      ...toNats,
      '--subject',
      'cinema.one',
    );
    expect(to.code, to.output).toBe(0);
    await eventually('all frames', 10_000, () => heard.length >= lines.length || undefined);
    expect(heard).toEqual(parsed(lines).map(({ sequence }) => `cinema.one.extra ${sequence}`));
    expect(
      (await ran('replay', ...toNats, '--subject', subject({ tenant: 'x', kind: 'frame', host: 'y' }))).output,
    ).toMatch(/is the log's own/);
    const tenant = await ran(
      'replay',
      ...times(),
      '--host',
      'extra',
      '--speed',
      'max',
      '--shift',
      ...toNats,
      '--tenant',
      'other',
    );
    expect(tenant.code, tenant.output).toBe(0);
    await eventually('frames of the other tenant', 30_000, async () => {
      const { rows } = await stack.questdb.query(`SELECT count() FROM frame WHERE tenant = 'other'`);
      return Number(rows[0]?.[0]) === lines.length || undefined;
    });
  } finally {
    await connection.close();
  }
});

test('a cursor goes on after its token over a restart of the log and of the collector: each row once', async () => {
  const token = path('token');
  const tail = ['tail', 'memory', '--host', 'film_star', '--from', String(range.from), '--resume', token, '--json'];
  const seen: number[] = [];
  const times = ({ lines }: Program) => lines.map((line) => (JSON.parse(line) as { time: number }).time);
  const more = async (program: Program, count: number) =>
    await eventually(`${count} rows`, 60_000, () => times(program).length >= count || undefined);
  const end = async (program: Program) => {
    program.signal('SIGINT');
    const { code, output } = await endOf(program);
    expect(code, output).toBe(0);
    seen.push(...times(program));
  };
  const first = await cli(...tail);
  await more(first, 12);
  await stack.nats.restart();
  await more(first, first.lines.length + 5);
  await end(first);
  await stack.collector.stop();
  await stack.startCollector();
  const second = await cli(...tail);
  await more(second, 3);
  await end(second);
  await agent.stop();
  const last = seen.at(-1) ?? 0;
  const { rows } = await eventually('the same rows in the store', 60_000, async () => {
    const answer = await stack.questdb.query(
      `SELECT cast(ts as long) FROM frame WHERE host = 'film_star' AND ts >= ${Math.floor((seen[0] ?? 0) * 1000)} AND ts <= ${Math.ceil(last * 1000)} ORDER BY ts`,
    );
    return answer.rows.length >= seen.length ? answer : undefined;
  });
  // In the order of the log: what waited for its restart came later.
  expect([...seen].sort((a, b) => a - b)).toEqual(rows.map(([time]) => Number(time) / 1000));
  await second[Symbol.asyncDispose]();
});
