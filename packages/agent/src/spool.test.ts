import { execFileSync } from 'node:child_process';
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import type { Clock } from '#clock.ts';
import type { LossCause } from '#loss.ts';
import { encodeHeader, segmentVersion } from '#segment.ts';
import { Spool, type SpoolBounds, spoolFolder } from '#spool.ts';
import { Telemetry } from '#telemetry.ts';

const begin_us = 1_800_000_000_000_000;
const hour_ms = 3_600_000;
const sessions = ['00000000000000a1', '00000000000000a2', '00000000000000a3'] as const;

class TestClock implements Clock {
  now_ms = 0;
  now_us = () => begin_us + this.now_ms * 1000;
  monotonic_ms = () => this.now_ms;
  sleep = (_: number, signal?: AbortSignal) =>
    new Promise<void>((_resolve, reject) => signal?.addEventListener('abort', () => reject(signal.reason as Error)));
}

type Lost = [session: string, cause: LossCause, first: number, last: number];

function spoolOf(folder: string, more: Partial<SpoolBounds> = {}, session: string = sessions[0]) {
  const clock = new TestClock();
  const telemetry = new Telemetry('silent');
  const losses: Lost[] = [];
  const spool = new Spool({
    folder,
    session,
    bounds: { bytes: 64 * 1024 * 1024, age_ms: 24 * hour_ms, sync_ms: 0, ...more },
    clock,
    telemetry,
    lost: (...[of, cause, first, last]) => void losses.push([of, cause, first, last]),
  });
  onTestFinished(() => spool.close());
  return { spool, clock, telemetry, losses };
}

function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-spool-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

const frames = (from: number, to: number, bytes = 100) =>
  Array.from({ length: to - from + 1 }, (_, index) => ({
    sequence: from + index,
    time_us: begin_us + (from + index) * 1000,
    bytes: Buffer.alloc(bytes, from + index),
  }));

/** Everything that is to be sent, as if the log took it: sessions and sequences. */
async function drain(spool: Spool): Promise<[string, number][]> {
  const found: [string, number][] = [];
  for (let chunk = await spool.next(10_000, 50); chunk; chunk = await spool.next(10_000, 50)) {
    found.push(...chunk.frames.map(({ session, sequence }): [string, number] => [session, sequence]));
    spool.sent(chunk, chunk.frames.length);
  }
  return found;
}

const numbers = (from: number, to: number) => Array.from({ length: to - from + 1 }, (_, index) => from + index);
const sequencesOf = (found: readonly [string, number][]) => found.map(([, sequence]) => sequence);
/** As if the agent that wrote them had ended long ago. */
function makeQuiet(folder: string): void {
  for (const name of readdirSync(folder)) utimesSync(join(folder, name), 1, 1);
}

test('what was written comes back oldest first, by bytes and by count, and is gone some time after it was sent', async () => {
  const folder = join(temporaryFolder(), 'not/yet');
  const { spool, clock } = spoolOf(folder);
  await spool.write(frames(1, 30));
  await spool.write(frames(31, 120, 300));
  expect(spool.state).toMatchObject({ frames: 120, oldest_us: begin_us + 1000 });
  const chunk = await spool.next(1000, 50);
  expect(chunk?.frames.map(({ sequence }) => sequence)).toEqual(numbers(1, 10));
  expect(Buffer.from(chunk?.frames[4]?.bytes ?? []).equals(Buffer.alloc(100, 5))).toBe(true);
  // Not sent: the same again.
  expect((await spool.next(1000, 3))?.frames).toHaveLength(3);
  expect(spool.sent(chunk!, 10)).toBe(10);
  expect(spool.state.frames).toBe(110);
  expect(sequencesOf(await drain(spool))).toEqual(numbers(11, 120));
  expect(spool.isEmpty).toBe(true);
  expect(readdirSync(folder)).toHaveLength(1);
  expect(statSync(join(folder, readdirSync(folder)[0]!)).mode & 0o777).toBe(0o600);
  spool.forget(clock.now_ms);
  await spool.write(frames(121, 121));
  expect(readdirSync(folder)).toHaveLength(2);
  spool.forget(clock.now_ms + 1);
  expect(sequencesOf(await drain(spool))).toEqual([121]);
  expect(readdirSync(folder)).toHaveLength(1);
});

test('what was sent and not forgotten is sent again, and counted once; what arrived by another way is not sent', async () => {
  const { spool } = spoolOf(temporaryFolder());
  await spool.write(frames(1, 10));
  spool.arrived(2);
  spool.arrived(9);
  spool.arrived(10);
  const chunk = (await spool.next(1e6, 100))!;
  expect(chunk.frames.map(({ sequence }) => sequence)).toEqual([1, 3, 4, 5, 6, 7, 8]);
  expect(spool.sent(chunk, 7)).toBe(7);
  expect(spool.isEmpty).toBe(true);
  spool.rewind();
  const again = (await spool.next(1e6, 100))!;
  expect(again.frames).toHaveLength(7);
  expect(spool.sent(again, 7)).toBe(0);
  await spool.write(frames(11, 12));
  spool.arrived(11);
  spool.arrived(12);
  expect(await spool.next(1e6, 100)).toBeUndefined();
  expect(spool.isEmpty).toBe(true);
});

test('sessions of before are sent first, each under its own; another agent that may still write is waited for', async () => {
  const folder = temporaryFolder();
  for (const session of sessions.slice(0, 2)) {
    const { spool } = spoolOf(folder, {}, session);
    await spool.look();
    await spool.write(frames(1, 3));
    await spool.close();
  }
  const last = readdirSync(folder).at(-1)!;
  const { spool, clock } = spoolOf(folder, {}, sessions[2]);
  await spool.look();
  await spool.look();
  expect(spool.state.frames).toBe(6);
  await spool.write(frames(7, 8));
  const now = () => utimesSync(join(folder, last), clock.now_us() / 1e6, clock.now_us() / 1e6);
  makeQuiet(folder);
  now();
  const own: [string, number][] = [7, 8].map((sequence) => [sessions[2], sequence]);
  expect(await drain(spool)).toEqual([...[1, 2, 3].map((sequence) => [sessions[0], sequence]), ...own]);
  clock.now_ms += 5001;
  expect(await drain(spool)).toEqual([1, 2, 3].map((sequence) => [sessions[1], sequence]));
});

test('what somebody else has sent is no loss; what can not be read any more is one, and stops nothing', async () => {
  const folder = temporaryFolder();
  for (const session of sessions.slice(0, 2)) {
    const { spool } = spoolOf(folder, {}, session);
    await spool.look();
    await spool.write(frames(1, 3));
    await spool.close();
  }
  makeQuiet(folder);
  const { spool, losses, telemetry } = spoolOf(folder, {}, sessions[2]);
  await spool.look();
  await spool.write(frames(4, 5));
  await spool.mark();
  await spool.write(frames(6, 7));
  const [other, , own] = readdirSync(folder).toSorted();
  rmSync(join(folder, other!));
  rmSync(join(folder, own!));
  expect(await drain(spool)).toEqual([
    ...[1, 2, 3].map((sequence) => [sessions[1], sequence]),
    ...[6, 7].map((sequence) => [sessions[2], sequence]),
  ]);
  expect(losses).toEqual([[sessions[2], 'corrupt', 4, 5]]);
  expect(telemetry.spoolRecordsCorrupt).toBe(1);
});

test('files of before: a torn end, a damaged record, one that is damaged as a whole, one that is newer, one that is not ours', async () => {
  const folder = temporaryFolder();
  const before = spoolOf(folder, { bytes: 16_000 });
  await before.spool.write(frames(1, 60));
  await before.spool.close();
  const [first, second, third] = readdirSync(folder).toSorted();
  const firstBytes = readFileSync(join(folder, first!));
  firstBytes[32 + 2 * 136 + 50]! ^= 1;
  writeFileSync(join(folder, first!), firstBytes);
  truncateSync(join(folder, second!), statSync(join(folder, second!)).size - 1);
  writeFileSync(join(folder, third!), Buffer.alloc(500, 1));
  const newer = encodeHeader(sessions[0], 1);
  newer.writeUInt32LE(segmentVersion + 1, 8);
  newer.writeUInt32LE(process.getBuiltinModule('node:zlib').crc32(newer.subarray(0, 28)), 28);
  writeFileSync(join(folder, `0000000099-${sessions[0]}.spool`), newer);
  writeFileSync(join(folder, 'notes.txt'), 'mine');
  makeQuiet(folder);
  const { spool, losses, telemetry } = spoolOf(folder, {}, sessions[1]);
  const unreadable: string[] = [];
  telemetry.spoolUnreadable = (path) => void unreadable.push(path);
  await spool.look();
  const perFile = Math.floor((2000 - 32) / 136);
  const lost = [3, 2 * perFile, ...numbers(2 * perFile + 1, 3 * perFile)];
  expect(sequencesOf(await drain(spool))).toEqual(numbers(1, 60).filter((sequence) => !lost.includes(sequence)));
  expect(losses).toEqual([[sessions[0], 'corrupt', 3, 3]]);
  // The record, and the file of which nothing is left.
  expect(telemetry.spoolRecordsCorrupt).toBe(2);
  expect(unreadable).toEqual([expect.stringContaining('0000000099')]);
  expect(readdirSync(folder)).toContain('notes.txt');
});

test('beyond the bound of bytes the oldest go, counted and told; the newest never', async () => {
  const folder = temporaryFolder();
  const { spool, losses, telemetry } = spoolOf(folder, { bytes: 64_000 });
  for (let sequence = 1; sequence <= 1000; sequence += 10) await spool.write(frames(sequence, sequence + 9));
  const { bytes } = spool.state;
  expect(bytes).toBeLessThanOrEqual(64_000);
  expect(bytes).toBeGreaterThan(64_000 - 9000);
  const kept = sequencesOf(await drain(spool));
  expect(kept).toEqual(numbers(1000 - kept.length + 1, 1000));
  const dropped = 1000 - kept.length;
  expect(telemetry.spoolFramesDropped).toBe(dropped);
  expect(losses.map(([, cause]) => cause)).toEqual(losses.map(() => 'spool_bytes'));
  expect(losses[0]?.[2]).toBe(1);
  expect(losses.at(-1)?.[3]).toBe(dropped);
  expect(readdirSync(folder).length).toBeLessThan(10);
});

test('what is older than the bound of age goes, also of sessions before', async () => {
  const folder = temporaryFolder();
  const { spool, clock, losses } = spoolOf(folder, { age_ms: hour_ms });
  await spool.write(frames(1, 5));
  await spool.mark();
  clock.now_ms += hour_ms / 2;
  await spool.write(frames(1_800_006, 1_800_007));
  await spool.mark();
  clock.now_ms += hour_ms / 2 + 1000;
  await spool.write(frames(3_601_008, 3_601_008));
  expect(losses).toEqual([[sessions[0], 'spool_age', 1, 5]]);
  await spool.close();
  makeQuiet(folder);
  const next = spoolOf(folder, { age_ms: hour_ms }, sessions[1]);
  next.clock.now_ms = clock.now_ms + hour_ms / 2 + 1000;
  await next.spool.look();
  expect(next.losses).toEqual([[sessions[0], 'spool_age', 1_800_006, 1_800_007]]);
  expect(sequencesOf(await drain(next.spool))).toEqual([3_601_008]);
});

test('what this process wrote is discarded when its name is another machine’s; what was there before stays', async () => {
  const folder = temporaryFolder();
  const before = spoolOf(folder);
  await before.spool.write(frames(1, 2));
  await before.spool.close();
  makeQuiet(folder);
  const { spool } = spoolOf(folder, {}, sessions[1]);
  await spool.look();
  await spool.write(frames(1, 5));
  expect(spool.ownFrames).toBe(5);
  await spool.discard();
  await spool.write(frames(1, 1));
  expect(await drain(spool)).toEqual([
    [sessions[0], 1],
    [sessions[0], 2],
    [sessions[1], 1],
  ]);
});

test.runIf(process.getuid?.() === 0 && process.platform === 'linux')(
  'a full disk is said with its path, leaves no half record, and is tried again',
  async () => {
    const mount = temporaryFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', mount]);
    onTestFinished(() => void execFileSync('umount', [mount]));
    const folder = join(mount, 'spool');
    const { spool, telemetry } = spoolOf(folder);
    const said: string[] = [];
    telemetry.spoolFailed = (path, reason) => void said.push(`${path}: ${reason}`);
    telemetry.spoolHealed = (path) => void said.push(`${path}: healed`);
    await spool.write(frames(1, 10, 2000));
    writeFileSync(join(mount, 'other'), Buffer.alloc(24_000));
    expect(await spool.write(frames(11, 40, 2000))).toBe(0);
    expect(await spool.write(frames(11, 40, 2000))).toBe(0);
    expect(spool.isFailing).toBe(true);
    expect(said).toEqual([`${folder}: ENOSPC: no space left on device, write`]);
    expect(spool.state.frames).toBe(10);
    rmSync(join(mount, 'other'));
    expect(await spool.write(frames(11, 14, 2000))).toBe(4);
    expect(said.at(-1)).toBe(`${folder}: healed`);
    expect(sequencesOf(await drain(spool))).toEqual(numbers(1, 14));
    expect(telemetry.spoolRecordsCorrupt).toBe(0);
  },
);

test.runIf(process.getuid?.() === 0 && process.platform === 'linux')(
  'of a write that fails on its way, what is on disk counts as written, and is not written again',
  async () => {
    const mount = temporaryFolder();
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', mount]);
    onTestFinished(() => void execFileSync('umount', [mount]));
    // Files of 64 kB: the fourth or fifth does not fit.
    const { spool } = spoolOf(join(mount, 'spool'), { bytes: 8 * 64 * 1024 });
    const written = await spool.write(frames(1, 200, 2000));
    expect(written).toBeGreaterThan(31);
    expect(written).toBeLessThan(200);
    expect(spool.state.frames).toBe(written);
    expect(await spool.write(frames(written + 1, 200, 2000))).toBe(0);
    expect(sequencesOf(await drain(spool))).toEqual(numbers(1, written));
  },
);

test('a folder that can not be made is an error, and nothing else happens', async () => {
  const file = join(temporaryFolder(), 'file');
  writeFileSync(file, '');
  const { spool } = spoolOf(join(file, 'spool'));
  await spool.look();
  expect(await spool.write(frames(1, 1))).toBe(0);
  expect(spool.isFailing).toBe(true);
  expect(spool.state).toEqual({ frames: 0, bytes: 0, oldest_us: undefined });
});

test('each name has a folder of its own', () => {
  expect(spoolFolder({ data: '/d', tenant: 'default' }, 'web-1.example')).toBe('/d/spool/default.web-1_example');
});
