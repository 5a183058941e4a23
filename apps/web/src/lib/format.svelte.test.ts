import { expect, test } from 'vitest';
import {
  compareLabels,
  formatAgo,
  formatAxis,
  formatDuration,
  formatNumber,
  formatTime,
  formatValue,
  words,
} from '#lib/format.ts';

const plain = (text: string) => text.replaceAll('\u00a0', ' ');

test.each([
  [null, 'percent', 'N/A'],
  [undefined, 'bytes', 'N/A'],
  [Number.NaN, 'count', 'N/A'],
  [0, 'bytes', '0 B'],
  [0, 'percent', '0.0 %'],
  [34.216, 'percent', '34.2 %'],
  [1023, 'bytes', '1023 B'],
  [1023.9, 'bytes', '1.00 KiB'],
  [1024, 'bytes', '1.00 KiB'],
  [1.3e9, 'bytes', '1.21 GiB'],
  [-2048, 'bytes', '-2.00 KiB'],
  [5e6, 'bytes_per_second', '4.77 MiB/s'],
  [0.00042, 'seconds', '420 µs'],
  [0.0123, 'seconds', '12.3 ms'],
  [95, 'seconds', '95 s'],
  [2.4e9, 'hertz', '2.40 GHz'],
  [3, 'count', '3'],
  [9999, 'count', '9999'],
  [12_345, 'count', '12.3 k'],
  [0.42, 'count', '0.42'],
  [1234.5, 'per_second', '1235 /s'],
  [1.5e6, 'operations_per_second', '1.50 M/s'],
  [1, 'flag', 'yes'],
  [0, 'flag', 'no'],
  [61.25, 'celsius', '61.3 °C'],
])('%s %s is written %s', (value, unit, expected) => {
  expect(plain(formatValue(value, unit))).toBe(expected);
});

test('the labels of an axis share prefix and decimals', () => {
  expect(formatAxis([0, 256 * 2 ** 20, 512 * 2 ** 20, 768 * 2 ** 20, 2 ** 30], 'bytes').map(plain)).toEqual([
    '0',
    '0.25 GiB',
    '0.50 GiB',
    '0.75 GiB',
    '1.00 GiB',
  ]);
  expect(formatAxis([0, 50, 100], 'percent').map(plain)).toEqual(['0', '50 %', '100 %']);
  expect(formatAxis([0, 0.0005, 0.001], 'seconds').map(plain)).toEqual(['0', '0.5 ms', '1.0 ms']);
});

test('durations have two units at most, moments ago one', () => {
  expect(plain(formatDuration(0))).toBe('0 s');
  expect(plain(formatDuration(59.6))).toBe('1 min');
  expect(plain(formatDuration(3 * 86_400 + 4 * 3600 + 5))).toBe('3 d 4 h');
  expect(formatDuration(null)).toBe('N/A');
  expect(plain(formatAgo(1000))).toBe('just now');
  expect(plain(formatAgo(61_000))).toBe('61 s ago');
  expect(plain(formatAgo(26 * 3_600_000))).toBe('26 h ago');
});

test('times are shown in the clock asked for', () => {
  const moment = Date.UTC(2026, 10, 21, 14, 5, 9);
  expect(formatTime(moment, 'time', 'utc')).toBe('14:05:09');
  expect(formatTime(moment, 'full', 'utc')).toBe('21 Nov 2026, 14:05:09');
  const local = new Date(moment);
  expect(formatTime(moment, 'minute', 'local')).toBe(
    `${String(local.getHours()).padStart(2, '0')}:${String(local.getMinutes()).padStart(2, '0')}`,
  );
});

test('names of the contract become words, without their unit', () => {
  expect(words('receive_bytes_per_second', 'bytes_per_second')).toBe('receive');
  expect(words('load_1m_count', 'count')).toBe('load 1m');
  expect(words('disk_io')).toBe('disk io');
});

test('labels are sorted as people count', () => {
  expect(['10', '2', 'total', '1'].sort(compareLabels)).toEqual(['total', '1', '2', '10']);
});

test.each([
  [10, '10'],
  [1_795_324_309_852, '1795324309852'],
  [10.993346653975307, '10.9933'],
  [-123_456_789.123, '-123456789.12'],
  [0.000012345678, '0.0000123457'],
])('%f as a number', (value, text) => expect(formatNumber(value)).toBe(text));
