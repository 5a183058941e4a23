import { chmodSync } from 'node:fs';
import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { deviceLimitsSamples } from '#limits.ts';
import { drawn, power } from '#sources/power.ts';
import { expectContract, rows, SteppedTree, unfilledColumns } from '#sources/testing.ts';

test('a counter that begins anew after its range is told from one that was reset', () => {
  expect(drawn(100, 350, 262_143, 10)).toBe(250);
  expect(drawn(262_000, 107, 262_143, 10)).toBe(250);
  // 162 kJ in 10 s would be 16 kW.
  expect(drawn(100_000, 0, 262_143, 10)).toBeNaN();
  expect(drawn(350, 100, Number.NaN, 10)).toBeNaN();
  expect(drawn(100, 350, 262_143, 0)).toBeNaN();
  expect(drawn(100, Number.NaN, 262_143, 10)).toBeNaN();
});

const folder = 'sys/class/powercap';

test('captured packages with a core inside, and one with a hexadecimal number', async () => {
  using tree = new SteppedTree().putListing('fixtures-sensors/procfs.txt');
  const source = power(tree.context);
  await source.open();
  const samples = [await source.sample()];
  tree
    .write(`${folder}/intel-rapl:0/energy_uj`, '240547366267\n')
    .write(`${folder}/intel-rapl:0:0/energy_uj`, '1000000\n');
  tree.context.clock.advance(10);
  samples.push(await source.sample());
  for (const sample of samples) expectContract(sample, source);
  expect(rows(samples[0]?.power, 'zone')['package-0']).toEqual({
    interface: 'intel-rapl',
    energy_joules: 0,
    limit_watts: 4090,
    short_term_limit_watts: 4090,
    limit_enabled_flag: 1,
  });
  const second = rows(samples[1]?.power, 'zone');
  expect(Object.keys(second)).toEqual(['package-0', 'package-0/core', 'package-10']);
  expect(second['package-0']).toMatchObject({ power_watts: 12.5, energy_joules: 125 });
  // It fell from 118.8 kJ to 1 J, which would have been 14 kW.
  expect(second['package-0/core']).toEqual({ interface: 'intel-rapl', energy_joules: 0, limit_enabled_flag: 0 });
  expect(second['package-10']).toMatchObject({ power_watts: 0, energy_joules: 0 });
  expect(source.limitations?.()).toEqual([]);
  expect(unfilledColumns(['power'], samples)).toEqual([]);
  await source.close();
});

/** Names the zones by their numbers. */
function zones(tree: SteppedTree, named: Record<string, string>, energy = '0'): SteppedTree {
  for (const [id, name] of Object.entries(named))
    tree
      .write(`${folder}/${id}/name`, `${name}\n`)
      .write(`${folder}/${id}/energy_uj`, `${energy}\n`)
      .write(`${folder}/${id}/max_energy_range_uj`, '65532610987\n');
  return tree;
}

test('core, uncore, memory, the platform, and the same package by another interface', async () => {
  using tree = zones(new SteppedTree(), {
    'intel-rapl:0': 'package-0',
    'intel-rapl:0:0': 'core',
    'intel-rapl:0:1': 'uncore',
    'intel-rapl:0:2': 'dram',
    'intel-rapl:1': 'psys',
    'intel-rapl-mmio:0': 'package-0',
  });
  tree.write(`${folder}/intel-rapl/enabled`, '1\n').write(`${folder}/dtpm:0/name`, 'cpu0\n');
  tree.write(`${folder}/dtpm:0/power_uw`, '3500000\n');
  const source = power(tree.context);
  await source.open();
  await source.sample();
  zones(tree, { 'intel-rapl:0:2': 'dram' }, '30000000').context.clock.advance(5);
  const { power: table } = await source.sample();
  expect(
    table?.interface.map((name, place) => `${name} ${table.zone[place]} ${table.power_watts[place]}`).sort(),
  ).toEqual([
    'dtpm cpu0 3.5',
    'intel-rapl package-0 0',
    'intel-rapl package-0/core 0',
    'intel-rapl package-0/dram 6',
    'intel-rapl package-0/uncore 0',
    'intel-rapl psys 0',
    'intel-rapl-mmio package-0 0',
  ]);
  expectContract({ power: table as Required<Tables>['power'] }, source);
  await source.close();
});

test('the energy goes on over a wrap of the counter, and over a zone that comes', async () => {
  using tree = zones(new SteppedTree(), { 'intel-rapl:0': 'package-0' }, '65532000000');
  const source = power(tree.context);
  await source.open();
  await source.sample();
  zones(tree, { 'intel-rapl:0': 'package-0' }, '699389013').context.clock.advance(7);
  expect(rows((await source.sample()).power, 'zone')['package-0']).toMatchObject({
    power_watts: 100,
    energy_joules: 700,
  });
  zones(tree, { 'intel-rapl:1': 'package-1' });
  zones(tree, { 'intel-rapl:0': 'package-0' }, '799389013').context.clock.advance(10);
  const both = rows((await source.sample()).power, 'zone');
  expect(both['package-0']).toMatchObject({ power_watts: 10, energy_joules: 800 });
  expect(both['package-1']).toEqual({ interface: 'intel-rapl', energy_joules: 0 });
  await source.close();
});

test('limits that somebody changes are seen after a while', async () => {
  using tree = zones(new SteppedTree(), { 'intel-rapl:0': 'package-0' });
  const limit = `${folder}/intel-rapl:0/constraint_0_power_limit_uw`;
  tree.write(`${folder}/intel-rapl:0/constraint_0_name`, 'long_term\n').write(limit, '15000000\n');
  const source = power(tree.context);
  await source.open();
  const seen = async () => (await source.sample()).power?.limit_watts;
  expect(await seen()).toEqual([15]);
  tree.write(limit, '25000000\n');
  for (let sample = 0; sample < deviceLimitsSamples; sample++) await seen();
  expect(await seen()).toEqual([25]);
  await source.close();
});

test.runIf(process.geteuid?.() === 0)('who may not read the energy is told who may', async () => {
  using tree = zones(new SteppedTree(), { 'intel-rapl:0': 'package-0', 'intel-rapl:0:0': 'dram' });
  for (const id of ['intel-rapl:0', 'intel-rapl:0:0']) chmodSync(tree.path(`${folder}/${id}/energy_uj`), 0o400);
  chmodSync(tree.path('.'), 0o755);
  const source = power(tree.context);
  await source.open();
  process.seteuid?.(65_534);
  try {
    expect(rows((await source.sample()).power, 'zone')).toEqual({
      'package-0': { interface: 'intel-rapl' },
      'package-0/dram': { interface: 'intel-rapl' },
    });
    expect(source.limitations?.()).toEqual([
      'The energy of package-0, package-0/dram may be read by root only since Linux 5.10 (it tells what is computed, ' +
        'CVE-2020-8694): run the agent as root or with CAP_DAC_READ_SEARCH, or let its group read energy_uj.',
    ]);
  } finally {
    process.seteuid?.(0);
  }
  await source.sample();
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('a machine that counts no energy says so, and what would help', () => {
  using tree = new SteppedTree();
  expect(() => power(tree.context).open()).toThrow(/powercap has no zones: virtual machines.*intel_rapl_msr/);
});
