import { expect, test } from 'vitest';
import { ProcessStat } from '#process_stat.ts';

function parsed(line: string | Buffer): ProcessStat | undefined {
  const bytes = Buffer.from(line);
  const stat = new ProcessStat();
  return stat.parse(bytes, bytes.length) ? stat : undefined;
}

const behind =
  ' S 1 4711 4711 0 -1 4194560 500 600 7 8 1234 567 1 2 20 0 3 0 98765 12345678 4321 18446744073709551615 94000000000000 94000000001000 140726499200496 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n';

test('what is read of a process', () => {
  const stat = parsed(`4711 (bash)${behind}`);
  expect(stat).toMatchObject({
    name: 'bash',
    parent: 1,
    isKernelThread: false,
    majorFaults: 7,
    userTicks: 1234,
    systemTicks: 567,
    threads: 3,
    start: 98765,
    residentPages: 4321,
    startCode: 94000000000000,
    hasEnded: false,
  });
  expect(String.fromCharCode(stat!.state)).toBe('S');
});

test.each([
  'a b',
  ') R 1',
  '((a b ) ( c d) )',
  '(',
  ')',
  ') S 1 2 3',
  'a\nb',
  '\u001b[31mred',
  'größe',
  '',
  ' ',
  '$(reboot) `id`',
  '<script>1',
  'kworker/u256:12-events_freezable_power_-and-so-on-to-64-bytes-xx',
])('the name %j survives', (name) => {
  const stat = parsed(`7 (${name})${behind}`);
  expect(stat?.name).toBe(name);
  expect(stat?.parent).toBe(1);
  expect(stat?.start).toBe(98765);
});

test('names have numbers of their own', () => {
  const names = ['a', 'b', 'ab', 'ba', '', 'a ', 'sleep', 'sleeq', 'postgres', 'nginx'];
  expect(new Set(names.map((name) => parsed(`7 (${name})${behind}`)?.nameHash)).size).toBe(names.length);
});

// Lines as kernels have written them; Linux 2.6 had fewer fields behind.
test.each([
  [
    'Linux 3, prometheus/procfs',
    '26231 (vim) R 5392 7446 5392 34835 7446 4218880 32533 309516 26 82 1677 44 158 99 20 0 1 0 82375 56274944 1981 18446744073709551615 4194304 6294284 140736914091744 140736914087944 139965136429984 0 0 12288 1870679807 0 0 0 17 0 0 0 31 0 0 8391624 8481048 16420864 140736914093252 140736914093279 140736914093279 140736914096107 0\n',
    {
      name: 'vim',
      parent: 5392,
      userTicks: 1677,
      systemTicks: 44,
      start: 82375,
      residentPages: 1981,
      threads: 1,
      isKernelThread: false,
    },
  ],
  [
    'Linux 5 systemd, Amazon',
    '1 (systemd) S 0 1 1 0 -1 4194560 53787 457726 166 4255 112 260 761 548 20 0 1 0 30 184877056 2658 18446744073709551615 93937510957056 93937511789581 140726499200496 0 0 0 671173123 4096 1260 0 0 0 17 0 0 0 11 0 0 93937512175824 93937512476912 93937519890432 140726499204941 140726499204952 140726499204952 140726499205101 0\n',
    { name: 'systemd', parent: 0, userTicks: 112, systemTicks: 260, start: 30, residentPages: 2658 },
  ],
  [
    'a thread of the kernel',
    '2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 0 0 0 18446744073709551615 0 0 0 0 0 0 0 2147483647 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n',
    { name: 'kthreadd', isKernelThread: true, residentPages: 0 },
  ],
  [
    'with a negative nice value, and the largest process id',
    '4194304 (pipewire) S 1 77 77 0 -1 4194560 1 0 0 0 1 1 0 0 9 -11 3 0 500 1000 10 18446744073709551615 1 1 0 0 0 0 0 4096 16384 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n',
    { name: 'pipewire', threads: 3, start: 500, startCode: 1 },
  ],
])('%s', (_, line, expected) => {
  expect(parsed(line)).toMatchObject(expected);
});

const ended = (status: number, threads = 1): string =>
  `10411 (python3) Z 10367 10320 27959 0 -1 4227148 226 0 0 0 0 0 0 0 20 0 ${threads} 0 1410070 0 0 18446744073709551615 0 0 0 0 0 0 0 16781312 2 1 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 ${status}\n`;

test('how an ended process ended', () => {
  expect(parsed(ended(1792))?.hasEnded).toBe(true);
  expect(parsed(ended(1792))?.exitCode(false)).toBe(7);
  expect(parsed(ended(9))?.exitCode(true)).toBe(137);
  expect(parsed(ended(139))?.exitCode(true)).toBe(139);
  // Without the right to see it the kernel says 0.
  expect(parsed(ended(0))?.exitCode(true)).toBe(0);
  expect(parsed(ended(0))?.exitCode(false)).toBeNaN();
  // Its first thread has ended, others go on.
  expect(parsed(ended(0, 2))?.hasEnded).toBe(false);
});

test.each(['', 'x', '1', '1 (', '1 (a', '1 (a)', '1 (a) S', '1 (a) S 1 2 3\n', '1 (a) S 1 2 x', ')('])(
  'a torn line is none: %j',
  (line) => {
    expect(parsed(line)).toBeUndefined();
  },
);

test('of what is not there nothing is read', () => {
  const stat = new ProcessStat();
  expect(stat.read('/nowhere/stat')).toBe(false);
  expect(stat.readKept(1_000_000)).toBe(false);
});
