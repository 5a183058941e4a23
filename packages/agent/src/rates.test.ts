import { describe, expect, test } from 'vitest';
import { CounterHistory, increase, mean, percent, Rates, rate } from '#rates.ts';

describe('a counter', () => {
  test('grows', () => expect(increase(10, 15)).toBe(5));
  test('stands still', () => expect(increase(10, 10)).toBe(0));
  test('that went backwards (reset or wrapped) has no growth', () => {
    expect(increase(10, 9)).toBeNaN();
    expect(increase(2 ** 32 - 1, 4)).toBeNaN();
  });
  test('that is absent has no growth', () => {
    expect(increase(Number.NaN, 9)).toBeNaN();
    expect(increase(9, Number.NaN)).toBeNaN();
  });
});

test('a rate needs time', () => {
  expect(rate(10, 30, 4)).toBe(5);
  expect(rate(10, 30, 0)).toBeNaN();
  expect(rate(10, 30, Number.NaN)).toBeNaN();
  expect(rate(30, 10, 4)).toBeNaN();
});

test('shares and means of nothing are absent', () => {
  expect(percent(1, 4)).toBe(25);
  expect(percent(0, 0)).toBeNaN();
  expect(mean(6, 3)).toBe(2);
  expect(mean(0, 0)).toBeNaN();
});

describe('the history', () => {
  test('has no rates at the first sample and for a new entity, and really passed time between two', () => {
    const history = new CounterHistory();
    expect(history.begin(1_000)).toBeNaN();
    expect(history.exchange('a', [1])).toEqual([]);
    expect(history.begin(3_500)).toBe(2.5);
    expect(history.exchange('a', [6])).toEqual([1]);
    expect(history.exchange('b', [7])).toEqual([]);
    expect(new Rates([1], [6], 2.5).perSecond(0)).toBe(2);
    expect(new Rates([1], [6], 2.5).perSecond(0, 512)).toBe(1024);
    expect(new Rates([], [6], 2.5).perSecond(0)).toBeNaN();
    expect(new Rates([1], [6], 0).perSecond(0)).toBeNaN();
    expect(new Rates([1], [6], 1).perSecond(1)).toBeNaN();
  });

  test('forgets an entity that was missing in one sample', () => {
    const history = new CounterHistory();
    history.begin(0);
    history.exchange('a', [1]);
    history.begin(1_000);
    history.begin(2_000);
    expect(history.exchange('a', [5])).toEqual([]);
  });
});
