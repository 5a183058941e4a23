import { expect, test } from 'vitest';
import {
  absences,
  eventList,
  Intervals,
  isStuck,
  kernelHasUnit,
  type PerfEvent,
  parsePerfLine,
  perf,
  perfEvents,
  perfPrograms,
  perfRow,
  permission,
} from '#sources/perf.ts';
import { expectContract, row, SteppedTree, unfilledColumns } from '#sources/testing.ts';

/** Captured for this project: perf 6.1.192 of Debian 12 on a virtual machine of two processors without counters of their own. */
const virtual = `# started on Sat Nov 21 09:16:40 2026

     0.500555524;1001.41;msec;cpu-clock;1001409596;100.00;2.003;CPUs utilized
     0.500555524;4199;;context-switches;1001409035;100.00;4.193;K/sec
     0.500555524;50;;cpu-migrations;1001408754;100.00;49.930;/sec
     0.500555524;9;;page-faults;1001407412;100.00;8.987;/sec
     0.500555524;9;;minor-faults;1001406129;100.00;8.987;/sec
     0.500555524;0;;major-faults;1001404927;100.00;0.000;/sec
     0.500555524;<not supported>;;cycles;0;100.00;;
     0.500555524;<not supported>;;instructions;0;100.00;;
     1.000955299;1000.77;msec;cpu-clock;1000767363;100.00;2.002;CPUs utilized
     1.000955299;1929;;context-switches;1000767113;100.00;1.928;K/sec
     1.000955299;21;;cpu-migrations;1000766581;100.00;20.984;/sec
     1.000955299;5;;page-faults;1000766430;100.00;4.996;/sec
     1.000955299;5;;minor-faults;1000766652;100.00;4.996;/sec
     1.000955299;0;;major-faults;1000766401;100.00;0.000;/sec
     1.000955299;<not supported>;;cycles;0;100.00;;
     1.000955299;<not supported>;;instructions;0;100.00;;
`;

/** The same of other versions on the same machine: 5.10.223 of Debian 11, 6.12.107 of Debian 13, 7.2.13 of Debian unstable. */
const versions = {
  '5.10': `     0.500696177;1001.55;msec;cpu-clock;1001557545;100.00;2.003;CPUs utilized
     0.500696177;4020;;context-switches;1001551825;100.00;0.004;M/sec
     0.500696177;32047;;page-faults;1001546726;100.00;0.032;M/sec
     0.500696177;<not supported>;;cycles;0;100.00;;
`,
  '6.12': `0.500536889;1001.46;msec;cpu-clock;1001471223;100.00;2.003;CPUs utilized
0.500536889;2731;;context-switches;1001466035;100.00;2.727;K/sec
0.500536889;22471;;page-faults;1001460262;100.00;22.438;K/sec
0.500536889;<not supported>;;cycles;0;100.00;;
`,
  '7.2': `0.500571395;1003.39;msec;cpu-clock;1003415566;100.00;;
0.500571395;5211;;context-switches;1003409765;100.00;;
0.500571395;15528;;page-faults;1003402031;100.00;;
0.500571395;<not supported>;;cycles;0;100.00;;
`,
};

/**
 * A processor of two kinds of cores, by perf 6.5: from the message "New metricgroup output in perf stat default mode" of 15 June
 * 2023 on the kernel's mailing list, with the time of an interval before each line.
 */
const hybrid = `32139.34,msec,cpu-clock,32139351409,100.00,32.001,CPUs utilized
225,,context-switches,32139342672,100.00,7.001,/sec
6766433,,cpu_core/cycles/,16067551558,100.00,0.000,GHz
256500230,,cpu_atom/cycles/,8695757391,54.00,0.008,GHz
4688595,,cpu_core/instructions/,16067558976,100.00,0.69,insn per cycle
37487490,,cpu_atom/instructions/,10165193856,63.00,5.54,insn per cycle
,16067494802,100.00,,,,TopdownL1 (cpu_core)
,,,,,13.6,%  tma_bad_speculation`
  .split('\n')
  .map((line) => `1.004244114;${line.replaceAll(',', ';')}`)
  .join('\n');

/** As perf 4.15 writes it: no unit of cpu-clock, percentages with modifiers in the names, lines of computed values only. */
const older = `     1.000149823;8008.478891;;cpu-clock;8008478891;100.00;;
     1.000149823;4702;;context-switches;8008474532;100.00;0.587;K/sec
     1.000149823;5109360888;;cycles:u;3080254612;38.46;0.638;GHz
     1.000149823;5574865332;;instructions:u;3695987214;46.15;0.53;insn per cycle
     1.000149823;;;;;;0.42;stalled cycles per insn
     1.000149823;<not counted>;;LLC-loads;0;0.00;;
`;

const lines = (text: string) => text.split('\n').flatMap((line) => parsePerfLine(line) ?? []);

function counted(text: string) {
  const intervals = new Intervals();
  for (const line of lines(text)) intervals.add(line);
  return intervals;
}

const rowOf = (text: string) => {
  const taken = counted(text).take(true);
  return taken ? row(perfRow(taken)) : {};
};

test('a line of each kind', () => {
  expect(parsePerfLine('     0.500555524;1001.41;msec;cpu-clock;1001409596;100.00;2.003;CPUs utilized')).toEqual({
    at_s: 0.500555524,
    event: 'cpu-clock',
    unit: '',
    count: 1001.41,
    absence: undefined,
    running_percent: 100,
  });
  expect(parsePerfLine('1.0;256500230;;cpu_atom/cycles/;8695757391;54.00;0.008;GHz')).toEqual({
    at_s: 1,
    event: 'cycles',
    unit: 'cpu_atom',
    count: 256_500_230,
    absence: undefined,
    running_percent: 54,
  });
  for (const name of [
    'cycles',
    'cycles:u',
    'cpu_core/cycles/',
    'cpu_core/cycles/u',
    'armv8_pmuv3_0/cycles/',
    'cpu/cycles/',
  ])
    expect(parsePerfLine(`1.0;5;;${name};1;100.00;;`), name).toMatchObject({ event: 'cycles', count: 5 });
  expect(parsePerfLine('1.0;<not supported>;;cycles;0;100.00;;')).toMatchObject({
    count: Number.NaN,
    absence: 'not supported',
  });
  expect(parsePerfLine('1.0;<not counted>;;cycles;0;100.00;;')).toMatchObject({
    running_percent: 0,
    absence: 'not counted',
  });
  // Before Linux 3.16 without a unit; when it is asked without intervals, without a time.
  expect(parsePerfLine('1.0;77;branches;2000;50.00')).toMatchObject({
    event: 'branches',
    count: 77,
    running_percent: 50,
  });
  expect(parsePerfLine('77;;branches;2000;50.00;;', false)).toMatchObject({ at_s: 0, event: 'branches', count: 77 });
});

test('what is no counter, or torn, or hostile is none', () => {
  for (const line of [
    '',
    '# started on Sat Nov 21 09:16:40 2026',
    '     1.000149823;;;;;;0.42;stalled cycles per insn',
    '1.0;16067494802;100.00;;;;TopdownL1 (cpu_core)',
    '1.0;5;;no-such-event;1;100.00;;',
    'x;5;;cycles;1;100.00;;',
    ';5;;cycles;1;100.00;;',
    '1.0;many;;cycles;1;100.00;;',
    '1.0;;;cycles;1;100.00;;',
    '1.0;5;;cycles',
    '1.0;1 234 567;;cycles;1;100.00;;',
    '1.0;5;;__proto__;1;100.00;;',
  ])
    expect(parsePerfLine(line)?.count, line).toBe(line === '1.0;5;;cycles' ? 5 : undefined);
});

test('intervals are summed until they are taken, over the time that really passed', () => {
  const intervals = new Intervals();
  expect(intervals.take(true)).toBeUndefined();
  const [first, second] = [0.500555524, 1.000955299].map((at_s) => lines(virtual).filter((line) => line.at_s === at_s));
  for (const line of first ?? []) intervals.add(line);
  // The rest of it may still be on its way.
  expect(intervals.take(false)).toBeUndefined();
  expect(row(perfRow(intervals.take(true) ?? expect.fail()))).toMatchObject({ interval_seconds: 0.500555524 });
  expect(intervals.take(true)).toBeUndefined();
  for (const line of second ?? []) intervals.add(line);
  const third = row(perfRow(intervals.take(true) ?? expect.fail()));
  expect(third.interval_seconds).toBeCloseTo(0.500399775, 9);
  expect(third.context_switches_per_second).toBeCloseTo(1929 / 0.500399775, 6);

  const both = rowOf(virtual);
  expect(both.interval_seconds).toBeCloseTo(1.000955299, 9);
  expect(both.context_switches_per_second).toBeCloseTo((4199 + 1929) / 1.000955299, 6);
  expect(both.cpu_clock_percent).toBeCloseTo(((1001.41 + 1000.77) / 1.000955299 / 1000) * 100, 6);
  expect(both.major_faults_per_second).toBe(0);
  for (const absent of ['cycles_per_second', 'instructions_per_cycle_ratio', 'running_percent'])
    expect(both).not.toHaveProperty(absent);
});

test('the kinds of cores are added up, and the least share of the time is shown', () => {
  const row = rowOf(hybrid);
  expect(row.cycles_per_second).toBeCloseTo((6766433 + 256500230) / 1.004244114, 3);
  expect(row.instructions_per_cycle_ratio).toBeCloseTo((4688595 + 37487490) / (6766433 + 256500230), 9);
  expect(row.running_percent).toBe(54);
});

test.each(Object.entries(versions))('perf %s', (_, text) => {
  const [first] = lines(text);
  const row = rowOf(text);
  expect(row.interval_seconds).toBe(first?.at_s);
  expect(row.cpu_clock_percent).toBeCloseTo(200, -1);
  expect(row.page_faults_per_second).toBeGreaterThan(20_000);
  expect(row.context_switches_per_second).toBeGreaterThan(5000);
  expect(row).not.toHaveProperty('cycles_per_second');
});

test('an older perf', () => {
  const row = rowOf(older);
  expect(row.cpu_clock_percent).toBeCloseTo(800.847889 / 1.000149823, 6);
  expect(row.instructions_per_cycle_ratio).toBeCloseTo(5574865332 / 5109360888, 9);
  expect(row).not.toHaveProperty('llc_loads_per_second');
  // LLC-loads did not run at all.
  expect(row.running_percent).toBe(0);
});

test('an event that was counted in some of the intervals has the rate of those', () => {
  const row = rowOf(
    '2.0;<not counted>;;cycles;0;0.00;;\n2.0;10;;branches;1;100.00;;\n3.0;50;;cycles;1;25.00;;\n3.0;20;;branches;1;100.00;;',
  );
  expect(row).toMatchObject({
    interval_seconds: 3,
    cycles_per_second: 50,
    branches_per_second: 10,
    running_percent: 0,
  });
});

test('every column is filled by a machine that counts everything; a share above 100 percent is none', () => {
  using tree = new SteppedTree();
  const text = perfEvents.map((event, place) => `1.0;${1000 - place};;${event};1;100.00;;`).join('\n');
  const taken = counted(text).take(true) ?? expect.fail();
  const tables = { perf: perfRow(taken) };
  expectContract(tables, perf(tree.context));
  expect(unfilledColumns(['perf'], [tables])).toEqual([]);
  const itlb = rowOf(
    '1.0;100;;iTLB-loads;1;100.00;;\n1.0;150;;iTLB-load-misses;1;100.00;;\n1.0;0;;branches;1;100.00;;',
  );
  expect(itlb).toEqual({
    interval_seconds: 1,
    itlb_loads_per_second: 100,
    itlb_load_misses_per_second: 150,
    branches_per_second: 0,
    running_percent: 100,
  });
});

test('pairs are counted together where both can be counted', () => {
  const supported: PerfEvent[] = ['cpu-clock', 'cycles', 'instructions', 'L1-icache-load-misses'];
  expect(eventList(supported, true)).toBe('cpu-clock,{cycles,instructions}:W,L1-icache-load-misses');
  expect(eventList(supported, false)).toBe('cpu-clock,cycles,instructions,L1-icache-load-misses');
  expect(eventList(perfEvents, false).split(',').sort()).toEqual([...perfEvents].sort());
});

test('a pair that gets no counters together is noticed', () => {
  const pair = (cycles: string, instructions: string) =>
    lines(
      `1.0;${cycles};;cycles;0;0.00;;\n1.0;${instructions};;instructions;0;0.00;;\n1.0;<not counted>;;branches;0;0.00;;`,
    );
  expect(isStuck(pair('<not counted>', '<not counted>'))).toBe(true);
  expect(isStuck(pair('5', '<not counted>'))).toBe(false);
  expect(isStuck(pair('<not supported>', '<not supported>'))).toBe(false);
  expect(isStuck([])).toBe(false);
});

test('why counters are absent', () => {
  using tree = new SteppedTree();
  const can = { supported: perfEvents.slice(0, 6), unsupported: perfEvents.slice(6), unknown: [] };
  expect(absences(can, [], kernelHasUnit(tree.path('sys')))).toEqual([
    expect.stringMatching(
      /^The processors' own counters .* no performance monitoring unit, as in most virtual machines/,
    ),
  ]);
  tree.write('sys/bus/event_source/devices/cpu/type', '4\n');
  const amd = {
    supported: perfEvents,
    unsupported: ['LLC-loads', 'LLC-load-misses'] as PerfEvent[],
    unknown: ['minor-faults'] as PerfEvent[],
  };
  expect(absences(amd, [], kernelHasUnit(tree.path('sys')))).toEqual([
    'This processor, or its driver, does not count LLC-loads, LLC-load-misses.',
    'This version of perf does not count minor-faults: a newer one may.',
  ]);
  const all = { supported: perfEvents, unsupported: [], unknown: [] };
  const newest = lines(`${older}1.0;<not supported>;;cpu_atom/L1-icache-loads/;0;100.00;;
1.0;5;;cpu_core/L1-icache-loads/;0;100.00;;
1.0;7;;iTLB-load-misses;0;100.00;;
1.0;5;;iTLB-loads;0;100.00;;`);
  expect(absences(all, newest, kernelHasUnit(tree.path('sys')))).toEqual([
    expect.stringMatching(
      /^In the last interval LLC-loads got no counter: another program, or the kernel's NMI watchdog/,
    ),
    'The processors of cpu_atom do not count L1-icache-loads.',
    'This processor counts more iTLB-load-misses than iTLB-loads, so that there is no share of them.',
  ]);
  expect(absences(all, lines(virtual), kernelHasUnit(tree.path('sys')))).toEqual([]);
});

test('what is not permitted is told from other failures, with the level and what would help', () => {
  const limited = {
    code: 255,
    errors: 'Error:\nAccess to performance monitoring and observability operations is limited.\n',
  };
  expect(permission(limited, '2\n')).toMatch(
    /^kernel.perf_event_paranoid is 2, so that others may count what their own programs do outside of the kernel only: give the agent the capability CAP_PERFMON .* or set kernel.perf_event_paranoid to 0 by sysctl$/,
  );
  // As Debian and Ubuntu have it.
  expect(permission(limited, '4\n')).toMatch(/paranoid is 4, so that nobody without privileges may count anything/);
  expect(permission(limited, '1\n')).toMatch(/paranoid is 1, so that others may count what their own programs do only/);
  expect(permission(limited, '-1\n')).toMatch(/a security module or a container's rules: give .* seccomp profile/);
  // As perf 4.4 says it.
  const older =
    'You may not have permission to collect stats.\n\nConsider tweaking /proc/sys/kernel/perf_event_paranoid';
  expect(permission({ code: 255, errors: older }, '3\n')).toMatch(/paranoid is 3/);
  expect(permission({ code: 129, errors: "event syntax error: 'nonsense'" }, '2\n')).toBeUndefined();
  expect(permission({ code: 0, errors: '' }, '2\n')).toBeUndefined();
});

test('perf is looked for where distributions keep the versions of it, newest first', () => {
  using tree = new SteppedTree();
  for (const path of ['bin/perf_5.9', 'bin/perf_5.10', 'bin/perf_event', 'bin/perf', 'lib/linux-tools-5.15.0-91/perf'])
    tree.write(`usr/${path}`, '');
  tree.write('usr/lib/linux-tools/6.8.0-31-generic/perf', '').write('usr/lib/linux-tools/5.15.0-1-generic/none', '');
  const usr = tree.path('usr');
  expect(perfPrograms(usr, `${tree.path('nowhere')}:${usr}/bin`)).toEqual([
    `${usr}/bin/perf`,
    `${usr}/bin/perf_5.10`,
    `${usr}/bin/perf_5.9`,
    `${usr}/lib/linux-tools-5.15.0-91/perf`,
    `${usr}/lib/linux-tools/6.8.0-31-generic/perf`,
  ]);
  expect(perfPrograms(tree.path('nowhere'), '')).toEqual([]);
});

test('a kernel without events makes it unavailable', async () => {
  using tree = new SteppedTree();
  await expect(async () => perf(tree.context).open()).rejects.toThrow(/this kernel counts no events/);
});
