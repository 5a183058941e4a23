import { expect, test } from 'vitest';
import { memory, parseMeminfo, parseVmstat } from '#sources/memory.ts';
import { captured, row, SteppedTree } from '#sources/testing.ts';

const kib = 1024;

test('parses /proc/meminfo of Linux 4.13', () => {
  expect(parseMeminfo(captured('ubuntu-4.13', 'proc/meminfo'))).toMatchObject({
    total_bytes: 4042048 * kib,
    available_bytes: 3651940 * kib,
    used_bytes: (4042048 - 3651940) * kib,
    used_percent: ((4042048 - 3651940) / 4042048) * 100,
    free_bytes: 2551468 * kib,
    buffers_bytes: 33316 * kib,
    cached_bytes: 1248984 * kib,
  });
});

test('huge pages count with their size, swap in use is what is not free', () => {
  const now = parseMeminfo(
    'SwapTotal: 1000 kB\nSwapFree: 400 kB\nHugePages_Total:      8\nHugePages_Free:       3\nHugepagesize:       2048 kB\n',
  );
  expect(now.swap_used_bytes).toBe(600 * kib);
  expect(now.huge_pages_total_bytes).toBe(16 * 1024 * kib);
  expect(now.huge_pages_free_bytes).toBe(6 * 1024 * kib);
});

test('what this kernel does not tell, or a torn line, is absent', () => {
  const now = parseMeminfo('MemTotal: 1000 kB\nMemFree: 10');
  expect(now.total_bytes).toBe(1000 * kib);
  expect(now.free_bytes).toBeNaN();
  expect(now.used_bytes).toBeNaN();
  expect(now.used_percent).toBeNaN();
  expect(now.swap_used_bytes).toBeNaN();
  expect(parseVmstat('pgpgin 1\noom_kill 7')).toEqual([1, ...Array.from({ length: 6 }, () => Number.NaN)]);
});

const auxv = (page: bigint): string => Buffer.from(new BigUint64Array([6n, page, 0n, 0n]).buffer).toString('latin1');

const vmstat = (...values: number[]): string =>
  ['pgpgin', 'pgpgout', 'pswpin', 'pswpout', 'pgfault', 'pgmajfault', 'oom_kill']
    .map((name, place) => `${name} ${values[place]}\n`)
    .join('');

test('traffic is computed from counters of KiB, pages and faults, over the time that passed', async () => {
  using tree = new SteppedTree()
    .write('proc/meminfo', captured('debian-6.18', 'proc/meminfo'))
    .write('proc/self/auxv', auxv(16_384n))
    .write('proc/vmstat', vmstat(100, 200, 10, 20, 1000, 50, 3));
  const source = memory(tree.context);
  await source.open();
  expect(row((await source.sample()).memory)).not.toHaveProperty('page_in_bytes_per_second');
  tree.write('proc/vmstat', vmstat(300, 250, 12, 24, 3000, 150, 4)).context.clock.advance(2);
  expect(row((await source.sample()).memory)).toMatchObject({
    page_in_bytes_per_second: 100 * kib,
    page_out_bytes_per_second: 25 * kib,
    swap_in_bytes_per_second: 16_384,
    swap_out_bytes_per_second: 2 * 16_384,
    minor_faults_per_second: 950,
    major_faults_per_second: 50,
    oom_kills_per_second: 0.5,
  });
  // Backwards: no rate for one interval, none of the others harmed.
  tree.write('proc/vmstat', vmstat(10, 350, 12, 24, 3000, 150, 4)).context.clock.advance(1);
  const reset = row((await source.sample()).memory);
  expect(reset).not.toHaveProperty('page_in_bytes_per_second');
  expect(reset.page_out_bytes_per_second).toBe(100 * kib);
  tree.write('proc/vmstat', vmstat(11, 350, 12, 24, 3000, 150, 4)).context.clock.advance(1);
  expect(row((await source.sample()).memory).page_in_bytes_per_second).toBe(kib);
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('without vmstat and the size of a page it still tells the memory, and says what it lacks', async () => {
  using tree = new SteppedTree().write('proc/meminfo', captured('debian-6.18', 'proc/meminfo'));
  const source = memory(tree.context);
  await source.open();
  await source.sample();
  tree.context.clock.advance(1);
  const now = row((await source.sample()).memory);
  expect(now.total_bytes).toBeGreaterThan(0);
  expect(Object.keys(now).filter((name) => name.endsWith('per_second'))).toEqual([]);
  expect(source.limitations?.()).toEqual([
    expect.stringMatching(/vmstat does not exist here$/),
    expect.stringMatching(/^The size of a page is not known/),
  ]);
  await source.close();
});

test('without /proc/meminfo it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => memory(tree.context).open()).toThrow('proc/meminfo does not exist here');
});
