import { expect, test } from 'vitest';
import { SnmpLines } from '#snmp.ts';
import { captured } from '#sources/testing.ts';

test('finds values under their names, wherever they stand', () => {
  const text = captured('fedora-5', 'proc/net/netstat');
  expect(new SnmpLines('TcpExt:', ['TW', 'SyncookiesFailed', 'NotCounted']).parse(text)).toEqual([934, 2, Number.NaN]);
  expect(new SnmpLines('IpExt:', ['InNoRoutes']).parse(text)).toEqual([expect.any(Number)]);
});

test('learns the names anew when they change', () => {
  const lines = new SnmpLines('Tcp:', ['A', 'B']);
  expect(lines.parse('Tcp: A B\nTcp: 1 -2\n')).toEqual([1, -2]);
  expect(lines.parse('Tcp: A B\nTcp: 3 4\n')).toEqual([3, 4]);
  expect(lines.parse('Ip: X\nIp: 9\nTcp: New B A\nTcp: 5 6 7\n')).toEqual([7, 6]);
});

test.each([
  ['no such protocol', 'Ip: A B\nIp: 1 2\n'],
  ['no line of values', 'Tcp: A B\n'],
  ['another protocol in its place', 'Tcp: A B\nUdp: 1 2\n'],
  ['a torn line of values', 'Tcp: A B\nTcp: 1 2'],
  ['nothing', ''],
])('%s: absent', (_, text) => {
  expect(new SnmpLines('Tcp:', ['A', 'B']).parse(text)).toEqual([Number.NaN, Number.NaN]);
});

test('too few values: the rest is absent', () => {
  expect(new SnmpLines('Tcp:', ['A', 'B']).parse('Tcp: A B\nTcp: 1\n')).toEqual([1, Number.NaN]);
});
