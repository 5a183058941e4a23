import { expect, test } from 'vitest';
import { lifetimeOf } from '#access/lifetime.ts';

test('what is valid has an end within ten years, or none', () => {
  expect(lifetimeOf(undefined, '1s')).toBeNull();
  expect(lifetimeOf('', '1m')).toBeNull();
  expect(lifetimeOf('1m', '1m')).toBe(60_000);
  expect(lifetimeOf('3650d', '1s')).toBe(3650 * 86_400_000);
  for (const ttl of ['0s', '999ms', 'soon', '-1d', '3651d', '100000000d', `${'9'.repeat(400)}d`])
    expect(() => lifetimeOf(ttl, '1s')).toThrow(/"ttl".*Give a duration of 1s to 3650d/);
  expect(() => lifetimeOf('59s', '1m')).toThrow(/1m to 3650d/);
});
