// The keys of `fleetreel replay` at a real terminal, and what becomes of standard input without one. What is played is a file.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { contractTexts, encodeFrame, type Frame } from '@fleetreel/proto';
import { ReelWriter } from '@fleetreel/reel/writer';
import { Terminal } from '@fleetreel/test/servers/terminal';
import { afterAll, beforeAll, expect, test } from 'vitest';

const folder = mkdtempSync(join(tmpdir(), 'fleetreel-replay-'));
const file = join(folder, 'an hour.reel');
const begin_us = Date.UTC(2026, 5, 1) * 1000;
/** One frame a second. */
const count = 3600;

beforeAll(async () => {
  await using writer = await ReelWriter.create(file, {
    product: '0.1.0',
    created: begin_us / 1000,
    tenant: 'default',
    range: { from_us: begin_us, to_us: begin_us + count * 1_000_000 },
    hosts: [],
    tables: [],
    contract: contractTexts(),
  });
  for (let index = 0; index < count; index++) {
    const time_us = begin_us + index * 1_000_000;
    const bytes = encodeFrame({
      session: '00000000000000ab',
      sequence: index + 1,
      time_us,
      interval_ms: 1000,
      tables: { memory: { used_percent: [50] } } as Frame['tables'],
    });
    await writer.add({ host: 'alder', time_us, logSequence: index + 1, stored_us: time_us, origin: 'log', bytes });
  }
});
afterAll(() => rmSync(folder, { recursive: true }));

const until = (check: () => unknown) => expect.poll(check, { timeout: 30_000, interval: 10 });
/** Sequences of the frames among some lines. */
const sequences = ({ lines }: { lines: readonly string[] }): number[] =>
  lines.flatMap((line) => (line.startsWith('{"time"') ? [(JSON.parse(line) as { sequence: number }).sequence] : []));
/** Numbers from one up to another. */
const upTo = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const [left, right, interrupt] = ['\x1b[D', '\x1b[C', '\x03'];
const replay = (...flags: string[]) =>
  [process.execPath, join(import.meta.dirname, '..', 'main.ts'), 'replay', file, ...flags]
    .map((word) => `'${word}'`)
    .join(' ');

/** At a terminal, which says how it is set before and after. */
const atTerminal = (...flags: string[]) =>
  new Terminal(`echo before $(stty -g); ${replay(...flags)}; code=$?; echo after $(stty -g); exit $code`, {
    TZ: 'UTC',
  });

/** Waits for the end. The terminal is as it was, and what was typed is not on it. */
async function expectEnd(terminal: Terminal): Promise<void> {
  expect(await terminal.exited, terminal.shown).toBe(0);
  const settings = (when: string) => terminal.lines.find((line) => line.startsWith(when))?.slice(when.length);
  expect(settings('before')).toMatch(/^ [0-9a-f:]{20,}$/);
  expect(settings('after')).toBe(settings('before'));
  for (const echo of ['\x1b', '^[']) expect(terminal.shown).not.toContain(echo);
}

test('it pauses, steps, goes on and back, changes its speed, and ends', async () => {
  using terminal = atTerminal();
  await until(() => sequences(terminal).length).toBeGreaterThan(0);
  terminal.type(' ');
  await until(() => terminal.shown).toMatch(/paused at/);
  const paused = sequences(terminal).length;
  // As fast as that the whole recording would come in some seconds, were it not paused.
  terminal.type('++++++++++');
  await until(() => terminal.shown).toMatch(/1000 times the pace at/);
  terminal.type('.');
  await until(() => sequences(terminal).length).toBe(paused + 1);
  // Keys that are held come together.
  terminal.type('...');
  const stepped = paused + 4;
  await until(() => sequences(terminal)).toEqual(upTo(1, stepped));
  terminal.type(right + right);
  terminal.type('.');
  await until(() => sequences(terminal)).toEqual([...upTo(1, stepped), stepped + 20]);
  terminal.type(left);
  terminal.type('..');
  const again = stepped + 10;
  await until(() => sequences(terminal)).toEqual([...upTo(1, stepped), stepped + 20, again, again + 1]);
  terminal.type(' ');
  await until(() => sequences(terminal).length).toBeGreaterThan(stepped + 100);
  terminal.type('-');
  await until(() => terminal.shown).toMatch(/500 times the pace at/);
  terminal.type('q');
  await expectEnd(terminal);
  const all = sequences(terminal);
  expect(all.length).toBeLessThan(count);
  expect(all.slice(stepped + 1)).toEqual(upTo(again, again + all.length - stepped - 2));
});

test('Ctrl-C ends it, and so does the end of the recording', async () => {
  using interrupted = atTerminal();
  using short = atTerminal('--to', '2026-06-01T00:00:03Z', '--speed', '1000');
  await until(() => sequences(interrupted).length).toBeGreaterThan(0);
  interrupted.type(interrupt);
  await expectEnd(interrupted);
  await expectEnd(short);
  expect(sequences(short)).toEqual([1, 2, 3]);
});

test('with times that are moved to now there is no way back or on', async () => {
  using terminal = atTerminal('--shift');
  await until(() => sequences(terminal).length).toBeGreaterThan(0);
  terminal.type(right);
  await until(() => terminal.shown).toMatch(/with --shift there is no way back or on/);
  terminal.type('q');
  await expectEnd(terminal);
  expect(sequences(terminal)).toEqual(upTo(1, sequences(terminal).length));
});

test('without a terminal nothing is read from standard input', () => {
  const [typed, rest] = [join(folder, 'typed'), join(folder, 'rest')];
  writeFileSync(typed, ' qqq\n');
  const shown = execFileSync('sh', ['-c', `${replay()} && cat > '${rest}'`], {
    stdio: [openSync(typed, 'r'), 'pipe', 'inherit'],
    encoding: 'utf8',
  });
  expect(sequences({ lines: shown.split('\n') })).toEqual(upTo(1, count));
  expect(readFileSync(rest, 'utf8')).toBe(' qqq\n');
});

test('nor is it where only the output is a terminal', async () => {
  using terminal = new Terminal(`printf ' q' | ( ${replay('--to', '2026-06-01T00:00:03Z')} && echo left: "$(cat)" )`);
  expect(await terminal.exited, terminal.shown).toBe(0);
  expect(sequences(terminal)).toEqual([1, 2, 3]);
  expect(terminal.lines.at(-1)).toBe('left:  q');
  expect(terminal.shown).not.toMatch(/space pauses/);
});
