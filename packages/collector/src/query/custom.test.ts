import { expect, test } from 'vitest';
import { conditionOf } from '#query/custom.ts';

test.each([
  ['size>=10', { key: 'size', type: 'number', comparison: '>=', value: 10 }],
  ['a.b-c=-1.5e3', { key: 'a.b-c', type: 'number', comparison: '=', value: -1500 }],
  ['ok!=false', { key: 'ok', type: 'boolean', comparison: '!=', value: false }],
  ['host=web-*', { key: 'host', type: 'string', comparison: '=', value: 'web-*', isPattern: true }],
  ['version="10"', { key: 'version', type: 'string', comparison: '=', value: '10', isPattern: false }],
  ['empty=""', { key: 'empty', type: 'string', comparison: '=', value: '', isPattern: false }],
  ['equation=a=b', { key: 'equation', type: 'string', comparison: '=', value: 'a=b', isPattern: true }],
])('%s is a condition', (text, condition) => expect(conditionOf(text)).toEqual(condition));

test.each(['', '=1', 'a', 'a=', 'a<b', 'a>"1"', 'a<true', '1a=1', 'a="b', 'a="b"c', 'a=1e400', "a'=1"])(
  '%j is none',
  (text) => expect(() => conditionOf(text)).toThrow(/can't be used/),
);
