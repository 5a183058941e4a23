import { expect, test } from 'vitest';
import type { Row } from '#lib/api.ts';
import { absenceOf, limitsOf, sentencesOf, stateOf } from './sources.ts';

const source = (name: string, state: string, reason = ''): Row => ({ time: 0, host: 'a', source: name, state, reason });

test('a source that is well but says why it does not see everything is limited', () => {
  expect(stateOf(source('perf', 'ok'))).toBe('ok');
  expect(stateOf(source('perf', 'ok', 'No LLC loads.'))).toBe('limited');
  expect(stateOf(source('perf', 'failed', 'EIO'))).toBe('failed');
  expect(stateOf(source('perf', 'something new'))).toBe('unavailable');
});

test('sentences stand for themselves, each once', () => {
  expect(sentencesOf('Version 2.4 is old. Run it as root. Run it as root.')).toEqual([
    'Version 2.4 is old.',
    'Run it as root.',
  ]);
});

test('what all sources of a kind lack is not on the host', () => {
  const rows = [source('gpu_nvidia', 'unavailable', 'No driver.'), source('gpu_amd', 'unavailable', 'No card.')];
  expect(absenceOf(rows, ['gpu'], false)).toBe('No driver. No card.');
  expect(absenceOf([...rows, source('gpu_intel', 'ok')], ['gpu'], false)).toBeNull();
  expect(absenceOf([...rows, source('gpu_intel', 'failed', 'EIO')], ['gpu'], false)).toBeNull();
  // An agent that is older than the console, and one of which nothing is known yet.
  expect(absenceOf(rows, ['container'], false)).toContain('no source');
  expect(absenceOf(rows, ['load'], true)).toBeNull();
  expect(absenceOf([], ['gpu'], false)).toBeNull();
});

test('what a source can’t see is said', () => {
  const rows = [
    source('perf', 'ok', 'No LLC loads. No branches.'),
    source('process', 'failed', 'EIO'),
    source('cpu', 'ok'),
  ];
  expect(limitsOf(rows, ['perf', 'cpu'])).toEqual(['No LLC loads.', 'No branches.']);
  expect(limitsOf(rows, ['process'])).toEqual(['EIO']);
});
