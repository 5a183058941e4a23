import { expect, test } from 'vitest';
import { type Strength, strengthOf, strengthText } from '#lib/password.ts';

test.each<[string, Strength]>([
  ['', 'short'],
  ['elevenchars', 'short'],
  // Eleven characters for whoever reads, though not for whoever counts code units.
  ['🐎🐎🐎🐎🐎🐎🐎🐎🐎🐎🐎', 'short'],
  ['aaaaaaaaaaaaaaaaaaaaaaaa', 'weak'],
  ['abababababababababababab', 'weak'],
  ['abcdefghijklmnopqrst', 'weak'],
  ['123456789012', 'weak'],
  ['passwordpassword', 'weak'],
  ['MargareteMargarete', 'weak'],
  ['Fleetreel-Admin1', 'weak'],
  ['tkw8 zqvb 3mx', 'fair'],
  ['correct horse battery', 'good'],
  ['correct horse battery staple', 'strong'],
  ['gZ4-pQ7_vX1!mK9#tR3w', 'strong'],
])('%j is %s', (password, expected) => {
  expect(strengthOf(password, 'margarete')).toBe(expected);
});

test('what is missing is counted', () => {
  expect(strengthText('', 'short')).toBe('12 more characters, please');
  expect(strengthText('elevenchars', 'short')).toBe('1 more character, please');
});
