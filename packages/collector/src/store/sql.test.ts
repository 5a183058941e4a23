import { catalog, tableNamed } from '@fleetreel/proto';
import { describe, expect, test } from 'vitest';
import {
  newestFrames,
  newestOfRollup,
  newestRows,
  rollups,
  rowCount,
  rows,
  stepsOfRollup,
  stepsOfRows,
} from '#store/sql.ts';

const cpu = tableNamed('cpu');
if (!cpu) throw new Error('the catalogue has a table cpu');
const [core] = cpu.labels;
if (!core) throw new Error('cpu has a label');
const fields = cpu.fields.filter(({ name }) => ['used_percent', 'user_percent'].includes(name));
const hostile = `x'; DROP TABLE "cpu"; --`;
const select = {
  tenant: hostile,
  table: cpu,
  hosts: [hostile, '$1'],
  labels: [{ label: core, values: [hostile, 'total'] }],
  from: 0,
  to: 1000,
};

test('steps of rows', () => {
  expect(stepsOfRows(select, fields, 'avg', 10_000, 5)).toEqual({
    text:
      `SELECT timestamp_floor('10s', ts) AS step, host, "core", avg("used_percent") AS v0, avg("user_percent") AS v1 FROM "cpu"` +
      ' WHERE tenant = $1 AND ts >= $2 AND ts < $3 AND host IN $4 AND ("core" = $5 OR "core" = $6) LIMIT 5',
    values: [hostile, '1970-01-01T00:00:00.000000Z', '1970-01-01T00:00:01.000000Z', [hostile, '$1'], hostile, 'total'],
  });
});

test('steps of a roll-up are weighted by the values behind them', () => {
  const text = (aggregation: 'avg' | 'min' | 'sum') =>
    stepsOfRollup(select, fields.slice(0, 1), aggregation, rollups[0], 3_600_000, 5).text;
  expect(text('avg')).toContain(
    'sum("used_percent_avg" * "used_percent_count") / sum("used_percent_count") AS v0 FROM "cpu_1m"',
  );
  expect(text('sum')).toContain('sum("used_percent_avg" * "used_percent_count") AS v0');
  expect(text('min')).toContain('min("used_percent_min") AS v0');
  expect(text('min')).toContain("timestamp_floor('1h', ts)");
});

test.each([
  [1, '1T'],
  [250, '250T'],
  [1000, '1s'],
  [90_000, '90s'],
  [60_000, '1m'],
  [5_400_000, '90m'],
  [86_400_000, '1d'],
])('a step of %i ms is written %s', (stepMs, stride) => {
  expect(stepsOfRows(select, fields, 'max', stepMs, 5).text).toContain(`timestamp_floor('${stride}', ts)`);
});

describe('no text of a request is in a statement', () => {
  test.each([
    stepsOfRows(select, fields, 'last', 1000, 5),
    rows(select, fields, 5),
    rowCount(select),
    newestFrames(hostile, [hostile], 0),
    newestRows(hostile, cpu, [hostile], 1, 2),
    newestOfRollup(cpu, rollups[1]),
  ])('$text', ({ text }) => {
    expect(text).not.toContain('DROP');
    expect(text.replace("timestamp_floor('1s', ts)", '')).not.toContain("'");
  });

  test('an identifier that is not of the catalogue is refused', () => {
    const field = { name: 'a"; DROP TABLE cpu; --', unit: 'percent', help: '' } as const;
    expect(() => rows(select, [field], 5)).toThrow(RangeError);
    expect(() => rows({ ...select, table: { ...cpu, name: 'Cpu' } }, fields, 5)).toThrow(RangeError);
  });

  test('every name of the catalogue is an identifier', () => {
    for (const table of catalog) expect(() => rows({ ...select, labels: [], table }, table.fields, 5)).not.toThrow();
  });

  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('a limit or step of %d is refused', (number) => {
    expect(() => rows(select, fields, number)).toThrow(RangeError);
    expect(() => stepsOfRows(select, fields, 'avg', number, 5)).toThrow(RangeError);
  });
});

test('the time of a frame keeps its microseconds', () => {
  expect(newestRows('default', cpu, ['a'], 1_769_860_800_123_007, 1_769_860_800_123_007).values[2]).toBe(
    '2026-01-31T12:00:00.123007Z',
  );
});
