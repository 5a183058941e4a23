import { expect, test } from 'vitest';
import { difference, shownIn } from './difference.ts';

test('of objects the members that differ', () => {
  expect(difference({ role: 'viewer', tenant: 'a' }, { role: 'admin', tenant: 'a', scopes: ['read'] })).toEqual([
    { key: 'role', before: 'viewer', after: 'admin' },
    { key: 'scopes', before: null, after: ['read'] },
  ]);
});

test('what came new or went away, and what is no object', () => {
  expect(difference(null, { role: 'viewer' })).toEqual([{ key: 'role', before: null, after: 'viewer' }]);
  expect(difference({ role: 'viewer' }, null)).toEqual([{ key: 'role', before: 'viewer', after: null }]);
  expect(difference('30d', 7)).toEqual([{ key: '', before: '30d', after: 7 }]);
  expect(difference(null, null)).toEqual([]);
});

test('lists are read as such, and moments as times', () => {
  const shown = (key: string, after: unknown) => shownIn('utc', { key, before: null, after });
  expect(shown('scopes', ['read', 'replay'])).toEqual({ key: 'scopes', before: null, after: 'read, replay' });
  expect(shown('expires', Date.UTC(2026, 10, 23, 5, 11, 50)).after).toMatch(/23 Nov 2026, 05:11:50/);
  expect(shown('sessions', 3).after).toBe('3');
});
