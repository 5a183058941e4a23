import { describe, expect, test } from 'vitest';
import { frameHeader, keepTables, moveFrame } from '#bytes.ts';
import { tableNamed } from '#catalog.ts';
import { decodeFrame, encodeFrame, type Frame, FrameError, scanFrame } from '#frame.ts';

const header = { session: 'fedcba9876543210', sequence: 2 ** 40, time_us: 1_795_238_811_539_001, interval_ms: 5000 };
const bytes = encodeFrame({
  ...header,
  tables: {
    cpu: { core: ['total'], used_percent: [1] },
    load: { load_1m_count: [2] },
    event: { kind: ['process'], action: ['start'], entity: ['1'], timestamp_seconds: [1_795_238_810.5] },
    frame_loss: { timestamp_seconds: [10], frame_session: ['a'], cause: ['queue'], last_timestamp_seconds: [20] },
  } as unknown as Frame['tables'],
});
const tables = (...names: string[]) =>
  new Set(names.map((name) => tableNamed(name)).filter((table) => table !== undefined));

describe("a frame's header", () => {
  test('is read from its first bytes', () => {
    expect(frameHeader(bytes)).toEqual(header);
    expect(frameHeader(bytes.subarray(0, 40))).toEqual(header);
  });

  test('is found in another order too, and what is none is refused', () => {
    const reversed = Buffer.concat([bytes.subarray(9), bytes.subarray(0, 9)]);
    expect(frameHeader(reversed)).toEqual(header);
    for (let length = 0; length < 25; length++)
      expect(() => frameHeader(bytes.subarray(0, length))).toThrow(FrameError);
    expect(() => frameHeader(Buffer.from('no frame at all'))).toThrow(FrameError);
  });
});

test('tables are chosen without touching their bytes', () => {
  const kept = keepTables(bytes, tables('load'));
  if (!kept) throw new Error('the frame has load');
  const { slices, ...rest } = scanFrame(kept);
  expect(rest).toMatchObject(header);
  expect(slices.map(({ table, bytes: own }) => [table.name, Buffer.from(own).toString('hex')])).toEqual(
    scanFrame(bytes)
      .slices.filter(({ table }) => table.name === 'load')
      .map(({ table, bytes: own }) => [table.name, Buffer.from(own).toString('hex')]),
  );
  expect(keepTables(bytes, tables('gpu'))).toBeUndefined();
  expect(Buffer.compare(keepTables(bytes, tables('cpu', 'load', 'event', 'frame_loss')) ?? bytes, bytes)).toBe(0);
});

test('a frame moves to another time with the rows that have their own', () => {
  const moved = decodeFrame(moveFrame(bytes, header.time_us + 90_000_000));
  const before = decodeFrame(bytes);
  expect(moved).toMatchObject({ ...header, time_us: header.time_us + 90_000_000 });
  expect(moved.tables.cpu).toEqual(before.tables.cpu);
  expect(moved.tables.event?.timestamp_seconds).toEqual([1_795_238_900.5]);
  expect(moved.tables.frame_loss).toMatchObject({
    timestamp_seconds: [100],
    last_timestamp_seconds: [110],
    cause: ['queue'],
  });
});
