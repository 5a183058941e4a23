import { expect, test } from 'vitest';
import { nextLink } from '#lib/links.ts';

const origin = 'https://fleet.example.org';

test('after signing in it goes on to pages of the console only', () => {
  expect(nextLink('/hosts/web-1?range=1h&zone=utc', origin)).toBe('/hosts/web-1?range=1h&zone=utc');
  for (const next of [
    null,
    '',
    'https://example.org/',
    '//example.org/',
    '/\\example.org',
    '/\t/example.org',
    'javascript:alert(1)',
    '/login',
    '/welcome#code',
  ])
    expect(nextLink(next, origin), String(next)).toBe('/hosts');
});
