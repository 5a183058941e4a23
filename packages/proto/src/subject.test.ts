import { expect, test } from 'vitest';
import { anySubject, messageId, parseSubject, subject } from '#subject.ts';

test('a subject says what, whose and from whom', () => {
  const text = subject({ tenant: 'default', kind: 'frame', host: 'web-1.example.org' });
  expect(text).toBe('fr.v1.default.frame.web-1_example_org');
  expect(parseSubject(text)).toEqual({ tenant: 'default', kind: 'frame', host: 'web-1_example_org' });
  expect(anySubject('frame')).toBe('fr.v1.*.frame.*');
  expect(messageId('00ff', 7)).toBe('00ff-7');
});

test.each(['', '*', '>', 'a b', 'a.*', '.a', 'a.', '-a', 'ä', 'a\n', 'a'.repeat(129)])('%j is no host', (host) => {
  expect(() => subject({ tenant: 'default', kind: 'frame', host })).toThrow(RangeError);
});

test.each(['', 'fr.v1.default.frame', 'fr.v1.default.frame.a.b', 'fr.v2.default.frame.a', 'fr.v1.default.other.a'])(
  '%j is none of our subjects',
  (text) => expect(parseSubject(text)).toBe(undefined),
);
