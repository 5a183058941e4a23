import { expect, test } from 'vitest';
import { absent, formatAge, formatSeconds, formatValue, unitOf } from '#format.ts';
import { type Column, cellWidth, Output, tableWidth } from '#output.ts';

function written(isTTY: boolean, environment: Record<string, string> = {}) {
  let text = '';
  const write = (part: string) => {
    text += part;
  };
  const stream = { write, isTTY, columns: 80 };
  return { output: new Output(stream, environment), text: () => text };
}

const columns: Column[] = [
  { title: 'HOST', align: 'left' },
  { title: 'CPU', align: 'right' },
  { title: 'OS', align: 'left' },
];

test('columns are aligned, also with wide characters, and no line ends with a space', () => {
  const { output, text } = written(false);
  output.table(columns, [
    [{ text: 'a' }, { text: '5.0 %', tone: 'good' }, { text: 'Debian' }],
    [{ text: '東京-1' }, { text: '100.0 %' }, { text: '' }],
  ]);
  expect(text()).toBe('HOST        CPU  OS\na         5.0 %  Debian\n東京-1  100.0 %\n');
  expect(cellWidth('東京-1')).toBe(6);
});

test('what others wrote can do nothing to the terminal', () => {
  const { output, text } = written(true);
  output.table([{ title: 'HOST', align: 'left' }], [[{ text: '\u001b]0;owned\u0007\u001b[2Jx\n\u202e' }]]);
  output.line('\u001b[31mred');
  expect(text()).toContain('\\x1b]0;owned\\x07\\x1b[2Jx\\n\\u202e\n');
  expect(text()).toContain('\\x1b[31mred\n');
});

test('JSON does nothing to the terminal either, and says the same', () => {
  const { output, text } = written(true);
  const value = { name: '\u001b[2J\u009b31m\u202e\u{e0041}\u2028é🦀' };
  output.json(value);
  expect(text()).toBe('{"name":"\\u001b[2J\\u009b31m\\u202e\\udb40\\udc41\\u2028é🦀"}\n');
  expect(JSON.parse(text())).toEqual(value);
});

test('a very long cell is cut and pushes its own line only', () => {
  const { output, text } = written(false);
  output.table(columns, [
    [{ text: 'x'.repeat(4096) }, { text: '1' }, { text: 'a' }],
    [{ text: 'y' }, { text: '2' }, { text: 'b' }],
  ]);
  const [head = '', long = '', short = ''] = text().split('\n');
  expect(long).toContain(`${'x'.repeat(500)}... (4096 characters)`);
  expect(head.length).toBeLessThan(140);
  expect(short.length).toBeLessThan(140);
});

test('colour is for terminals only, and not against the wish of the user', () => {
  const paint = (isTTY: boolean, environment: Record<string, string> = {}) => {
    const { output, text } = written(isTTY, environment);
    output.line('x', 'bad');
    return text();
  };
  expect(paint(true)).toBe('\u001b[31mx\u001b[39m\n');
  expect(paint(false)).toBe('x\n');
  expect(paint(true, { NO_COLOR: '1' })).toBe('x\n');
  expect(paint(true, { TERM: 'dumb' })).toBe('x\n');
});

test('without a terminal nothing is too wide', () => {
  expect(written(false).output.width).toBe(Number.POSITIVE_INFINITY);
  expect(written(true).output.width).toBe(80);
  expect(tableWidth(columns, [])).toBe('HOST  CPU  OS'.length);
});

test.each([
  [12.345, 'percent', '12.3 %'],
  [0, 'bytes', '0 B'],
  [1536, 'bytes', '1.5 KiB'],
  [1024 ** 3 * 15.6, 'bytes', '15.6 GiB'],
  [2_500_000, 'bytes_per_second', '2.4 MiB/s'],
  [1234, 'per_second', '1.2 k/s'],
  [0.5, 'per_second', '0.5/s'],
  [2.4e9, 'hertz', '2.4 GHz'],
  [1, 'flag', 'yes'],
  [42, 'count', '42'],
  [0.1234, 'count', '0.12'],
  [null, 'percent', absent],
  [undefined, 'bytes', absent],
  [Number.NaN, 'seconds', absent],
])('%s in %s is shown as %s', (value, unit, text) => {
  expect(formatValue(value, unit)).toBe(text);
});

test.each([
  [0.000_35, '350 us'],
  [0.012, '12 ms'],
  [1.5, '1.5 s'],
  [59.96, '60.0 s'],
  [200, '3 min 20 s'],
  [18_720, '5 h 12 min'],
  [273_600, '3 d 4 h'],
  [-90, '-1 min 30 s'],
])('%s seconds are shown as %s', (seconds, text) => {
  expect(formatSeconds(seconds)).toBe(text);
});

test('ages are told from now', () => {
  expect(formatAge(null, 1000)).toBe('never');
  expect(formatAge(1000, 4500)).toBe('3 s ago');
  expect(formatAge(0, 7_200_000)).toBe('2 h ago');
});

test('units come from the catalogue', () => {
  expect(unitOf('cpu', 'used_percent')).toBe('percent');
  expect(unitOf('cpu', 'unheard_of')).toBe('');
});
