import { encodeFrame, type Frame, tableNamed } from '@fleetreel/proto';
import { encodeBatch } from '@fleetreel/proto/batch';
import { describe, expect, test } from 'vitest';
import type { Clock } from '#clock.ts';
import { Hub } from '#live/hub.ts';
import { Newest } from '#live/newest.ts';

const now_us = Date.UTC(2026, 0, 31) * 1000;
const clock: Clock = { now_us: () => now_us, monotonic_ms: () => 0, sleep: () => new Promise(() => undefined) };
const cpu = tableNamed('cpu');
const load = tableNamed('load');
if (!cpu || !load) throw new Error('the catalogue has cpu and load');

const frame = (time_us: number, used: number): Uint8Array =>
  encodeFrame({
    session: '00000000000000ab',
    sequence: 1,
    time_us,
    interval_ms: 5000,
    tables: { cpu: { core: ['total'], used_percent: [used] } } as Frame['tables'],
  });
const subject = 'fr.v1.default.frame.a';
const batchSubject = 'fr.v1.default.batch.a';
const arrived = now_us / 1000 + 250;

describe('the newest state', () => {
  test('is the frame of the greatest time, whatever arrives later', () => {
    const newest = new Newest(clock);
    newest.take(subject, frame(now_us, 1), arrived);
    newest.take(subject, frame(now_us - 1, 2), arrived);
    newest.take(subject, frame(now_us, 3), arrived);
    expect(newest.get('default', 'a')?.rows(cpu)?.columns.used_percent).toEqual([1]);
    expect(newest.get('default', 'a')?.clockSkewSeconds).toBeCloseTo(0.25);
    expect(newest.get('default', 'a')?.rows(load)).toBeUndefined();
    expect(newest.get('other', 'a')).toBeUndefined();
  });

  test('is not taken from garbage, other subjects or the far future', () => {
    const newest = new Newest(clock);
    newest.take(subject, new Uint8Array([1, 2, 3]), arrived);
    newest.take('fr.v1.default.host.a', frame(now_us, 1), arrived);
    newest.take(batchSubject, frame(now_us, 1), arrived);
    newest.take(subject, frame(now_us + 3_600_000_000, 1), arrived);
    expect(newest.list('default')).toEqual([]);
  });

  test('does not change when the bytes that it was read from do', () => {
    const newest = new Newest(clock);
    const bytes = frame(now_us, 42);
    newest.take(subject, bytes, arrived);
    bytes.fill(0);
    expect(newest.get('default', 'a')?.rows(cpu)?.columns.used_percent).toEqual([42]);
  });
});

describe('a batch', () => {
  const second = 1_000_000;

  test('of late frames leaves the newest as it is, and tells watchers nothing', () => {
    const newest = new Newest(clock);
    const hub = new Hub(newest);
    newest.take(subject, frame(now_us, 1), arrived);
    const seen: number[] = [];
    hub.watch({ tenant: 'default', table: cpu, hosts: [] }, ({ rows }) => seen.push(rows.time_us));
    newest.take(batchSubject, encodeBatch([frame(now_us - 2 * second, 2), frame(now_us - second, 3)]), arrived);
    expect(newest.get('default', 'a')?.rows(cpu)?.columns.used_percent).toEqual([1]);
    expect(newest.get('default', 'a')?.clockSkewSeconds).toBeCloseTo(0.25);
    expect(seen).toEqual([now_us]);
  });

  test('of an upload interval brings each of its frames that is news, and says nothing of the clock', () => {
    const newest = new Newest(clock);
    const hub = new Hub(newest);
    newest.take(batchSubject, encodeBatch([frame(now_us - 4 * second, 1)]), arrived);
    const seen: number[] = [];
    hub.watch({ tenant: 'default', table: cpu, hosts: [] }, ({ rows }) => seen.push(rows.time_us));
    const frames = [4, 3, 2].map((ago) => frame(now_us - ago * second, ago));
    newest.take(batchSubject, encodeBatch([...frames, Buffer.from('damaged')]), arrived);
    expect(seen).toEqual([4, 3, 2].map((ago) => now_us - ago * second));
    expect(newest.get('default', 'a')?.clockSkewSeconds).toBeNull();
  });
});

describe('watching', () => {
  test('begins with what is known and goes on with what is new, decoded once', () => {
    const newest = new Newest(clock);
    const hub = new Hub(newest);
    newest.take(subject, frame(now_us - 10, 1), arrived);
    const seen: unknown[][] = [[], [], []];
    const watch = (index: number, hosts: string[], tenant = 'default') =>
      hub.watch({ tenant, table: cpu, hosts }, ({ rows }) => seen[index]?.push(rows));
    const end = watch(0, []);
    watch(1, ['a']);
    watch(2, ['b']);
    watch(2, [], 'other');
    newest.take(subject, frame(now_us, 2), arrived);
    expect(seen.map((rows) => rows.length)).toEqual([2, 2, 0]);
    expect(seen[0]?.[1]).toBe(seen[1]?.[1]);
    end();
    newest.take(subject, frame(now_us + 1, 3), arrived);
    expect(seen.map((rows) => rows.length)).toEqual([2, 3, 0]);
    expect(hub.size).toBe(3);
  });
});

test('a table that is not in every frame is kept with its own time, for some minutes, and is no update', () => {
  const newest = new Newest(clock);
  const hub = new Hub(newest);
  const both = encodeFrame({
    session: '00000000000000ab',
    sequence: 1,
    time_us: now_us - 600_000_000,
    interval_ms: 5000,
    tables: { cpu: { core: ['total'], used_percent: [1] }, load: { load_1m_count: [2] } } as unknown as Frame['tables'],
  });
  newest.take(subject, both, arrived);
  newest.take(subject, frame(now_us - 599_000_000, 3), arrived);
  expect(newest.get('default', 'a')?.rows(load)).toMatchObject({ time_us: now_us - 600_000_000, count: 1 });
  let updates = 0;
  hub.watch({ tenant: 'default', table: load, hosts: [] }, () => updates++);
  expect(updates).toBe(1);
  newest.take(subject, frame(now_us - 598_000_000, 4), arrived);
  expect(updates).toBe(1);
  newest.take(subject, frame(now_us, 5), arrived);
  expect(newest.get('default', 'a')?.rows(load)).toBeUndefined();
});
