import type { ApiError } from '@fleetreel/proto/errors';
import { describe, expect, test } from 'vitest';
import { finestKept, plan } from '#query/plan.ts';

const day = 86_400_000;
const hour = 3_600_000;
const minute = 60_000;
const now = Date.UTC(2026, 5, 1);
const retention = { raw: 30 * day, '1m': 180 * day, '1h': 1095 * day };
const ask =
  (ago: number, stepMs: number, aggregation: 'avg' | 'p95' | 'last' = 'avg', length = ago) =>
  () =>
    plan({
      range: { from: now - ago, to: now - ago + length },
      stepMs,
      aggregation,
      labels: [],
      isRolledUp: true,
      now,
      retention,
    })?.suffix;

describe('what is read', () => {
  test.each([
    ['a short range', ask(hour, 10_000), undefined],
    ['a day by minutes', ask(day, minute), undefined],
    ['a week by minutes', ask(7 * day, 10 * minute), '1m'],
    ['a week by steps that minutes do not fill', ask(7 * day, 90_000), undefined],
    ['a month by hours', ask(30 * day, 2 * hour), '1h'],
    ['a month of percentiles', ask(30 * day, 2 * hour, 'p95'), undefined],
    ['an hour of two months ago', ask(60 * day, minute, 'avg', hour), '1m'],
    ['an hour of a year ago', ask(365 * day, hour, 'avg', hour), '1h'],
  ])('%s', (_, answer, table) => {
    expect(answer()).toBe(table);
  });
});

const codeOf = (attempt: () => unknown) => {
  try {
    attempt();
  } catch (error) {
    return (error as ApiError).code;
  }
  return undefined;
};

describe('what is kept no more', () => {
  test('percentiles and last say that raw rows are gone', () => {
    expect(codeOf(ask(60 * day, hour, 'p95', hour))).toBe('raw_rows_gone');
    expect(codeOf(ask(60 * day, hour, 'last', hour))).toBe('raw_rows_gone');
    expect(ask(60 * day, hour, 'p95', hour)).toThrow('p95 needs raw rows, which are kept since 2026-05-02T00:00:00Z');
  });

  test('labels that only describe are not in roll-ups', () => {
    const labels = [{ label: { name: 'type', key: false, text: false, help: '' }, values: ['ext4'] }];
    const question = {
      isRolledUp: true,
      stepMs: hour,
      aggregation: 'avg',
      labels,
      now,
      retention,
    } as const;
    expect(plan({ ...question, range: { from: now - 7 * day, to: now } })).toBeUndefined();
    expect(() => plan({ ...question, range: { from: now - 60 * day, to: now } })).toThrow('label.type needs raw rows');
  });

  test('what has no roll-ups is read from the rows', () => {
    const question = { isRolledUp: false, stepMs: hour, aggregation: 'avg', labels: [], now, retention } as const;
    expect(plan({ ...question, range: { from: now - 7 * day, to: now } })).toBeUndefined();
    expect(() => plan({ ...question, range: { from: now - 60 * day, to: now } })).toThrow('needs raw rows');
  });

  test('a step that is too fine names the finest', () => {
    expect(ask(60 * day, 10_000, 'avg', hour)).toThrow('Give a step that is a multiple of 1m');
    expect(ask(60 * day, 90_000, 'avg', hour)).toThrow('Give a step that is a multiple of 1m');
    expect(ask(365 * day, minute, 'avg', hour)).toThrow('Give a step that is a multiple of 1h');
  });

  test('auto never asks for it', () => {
    expect([1, 60, 365].map((days) => finestKept(now - days * day, now, retention))).toEqual([1, minute, hour]);
  });
});
