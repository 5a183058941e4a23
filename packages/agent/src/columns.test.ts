import type { Clock, Cpu } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { singleRow, withoutAbsent } from '#columns.ts';

test('a single row: what is absent is an empty column', () => {
  const values = {
    offset_seconds: 0,
    maximum_error_seconds: Number.NaN,
    estimated_error_seconds: 2,
    synchronized_flag: 1,
  };
  expect(singleRow<Clock>(values)).toEqual({
    offset_seconds: [0],
    maximum_error_seconds: [],
    estimated_error_seconds: [2],
    synchronized_flag: [1],
  });
});

test('columns without any value are emptied, labels and zeros are not', () => {
  const table = { core: ['total', '0'], used_percent: [Number.NaN, 0], frequency_hertz: [Number.NaN, Number.NaN] };
  expect(withoutAbsent(table as unknown as Cpu)).toEqual({
    core: ['total', '0'],
    used_percent: [Number.NaN, 0],
    frequency_hertz: [],
  });
});
