import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startProgram } from '@fleetreel/test/servers/program';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { Spool } from '#spool.ts';
import { spoolReport } from '#spool_report.ts';
import { Telemetry } from '#telemetry.ts';

const session = '00000000000000a1';
const time_us = Date.UTC(2026, 0, 31) * 1000;

/** A data folder whose spool has six frames in two files. */
async function spooled(): Promise<{ data: string; files: string[]; spool: Spool }> {
  const data = mkdtempSync(join(tmpdir(), 'fleetreel-report-'));
  onTestFinished(() => rmSync(data, { recursive: true }));
  const folder = join(data, 'spool', 'default.web');
  const bounds = { bytes: 1e6, age_ms: 1e15, sync_ms: 0 };
  const telemetry = new Telemetry('silent');
  const spool = new Spool({ folder, session, bounds, clock: systemClock, telemetry, lost: () => undefined });
  onTestFinished(() => spool.close());
  const frame = (sequence: number) => ({ sequence, time_us: time_us + sequence * 1e6, bytes: Buffer.alloc(100) });
  await spool.write([1, 2, 3].map(frame));
  await spool.mark();
  await spool.write([4, 5, 6].map(frame));
  return { data, files: readdirSync(folder).map((name) => join(folder, name)), spool };
}

test('a spool that is good is shown with its files, frames, bytes, times and sessions, also while it is written', async () => {
  const { data, files } = await spooled();
  const { text, code } = await spoolReport(data, false);
  expect(code).toBe(0);
  expect(text.split('\n')).toEqual([
    `${join(data, 'spool')}: 2 files, 6 frames, 880 bytes, 1 sessions`,
    'from 2026-01-31T00:00:01.000Z to 2026-01-31T00:00:06.000Z',
    `${files[0]}: 3 frames, 440 bytes, 2026-01-31T00:00:01.000Z to 2026-01-31T00:00:03.000Z, ${session}`,
    `${files[1]}: 3 frames, 440 bytes, 2026-01-31T00:00:04.000Z to 2026-01-31T00:00:06.000Z, ${session}`,
  ]);
  truncateSync(files[1]!, 439);
  const torn = await spoolReport(data, false);
  expect(torn.code).toBe(0);
  expect(torn.text).toContain('the last frame is incomplete from byte 304: cut off, or being written now');
});

test('what is damaged is shown with its place, its frames, and how far it is good; the command ends with 1', async () => {
  const { data, files } = await spooled();
  const bytes = readFileSync(files[0]!);
  bytes[32 + 136 + 60]! ^= 4;
  writeFileSync(files[0]!, bytes);
  const { text, code } = await spoolReport(data, false);
  expect(code).toBe(1);
  expect(text).toContain(`damaged: bytes 168 to 304, frames 2 to 2 of ${session}\n  good up to byte 168;`);
  const program = await startProgram('packages/agent/src/main.ts', ['spool', '--data', data, '--json'], {});
  expect(await program.exited).toEqual({ code: 1, signal: null });
  expect(JSON.parse(program.lines.join('\n'))).toMatchObject({
    folder: join(data, 'spool'),
    errors: [],
    files: [
      {
        path: files[0],
        frames: 2,
        goodBytes: 168,
        tornAt: null,
        damages: [{ offset: 168, end: 304, first: 2, last: 2 }],
      },
      { path: files[1], frames: 3, goodBytes: 440, damages: [], error: null },
    ],
  });
});

test('without frames all is good; what can not be read is said, with 2', async () => {
  const data = mkdtempSync(join(tmpdir(), 'fleetreel-report-'));
  onTestFinished(() => rmSync(data, { recursive: true }));
  expect(await spoolReport(join(data, 'nowhere'), false)).toEqual({
    text: `${join(data, 'nowhere', 'spool')}: no frames wait here`,
    code: 0,
  });
  mkdirSync(join(data, 'spool', 'default.web', `0000000001-${session}.spool`), { recursive: true });
  const { text, code } = await spoolReport(data, false);
  expect(code).toBe(2);
  expect(text).toContain("can't be read: EISDIR");
});
