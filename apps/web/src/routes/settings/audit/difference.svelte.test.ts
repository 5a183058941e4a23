import { expect, test } from 'vitest';
import { difference } from './difference.ts';

test('of objects the members that differ', () => {
  expect(difference({ role: 'viewer', tenant: 'a' }, { role: 'admin', tenant: 'a', scopes: ['read'] })).toEqual([
    { key: 'role', before: 'viewer', after: 'admin' },
    { key: 'scopes', before: null, after: '["read"]' },
  ]);
});

test('what came new or went away, and what is no object', () => {
  expect(difference(null, { role: 'viewer' })).toEqual([{ key: 'role', before: null, after: 'viewer' }]);
  expect(difference({ role: 'viewer' }, null)).toEqual([{ key: 'role', before: 'viewer', after: null }]);
  expect(difference('30d', 7)).toEqual([{ key: '', before: '30d', after: '7' }]);
  expect(difference(null, null)).toEqual([]);
});
