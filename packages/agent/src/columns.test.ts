import { encodeFrame, type Frame, scanFrame } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { emptyTable, singleRow } from '#columns.ts';

test('a single row is one value in each column', () => {
  expect(singleRow<{ a: number[]; b: number[] }>({ a: 0, b: Number.NaN })).toEqual({ a: [0], b: [Number.NaN] });
});

test('an empty table has the columns of the contract and is not in the frame', () => {
  expect(emptyTable('tcp_connection')).toEqual({ state: [], connections_count: [] });
  const header = { session: '00000000000000ab', sequence: 1, time_us: 1, interval_ms: 1 };
  const tables = { tcp_connection: emptyTable('tcp_connection'), udp: emptyTable('udp') };
  expect(scanFrame(encodeFrame({ ...header, tables } as Frame)).slices).toEqual([]);
});
