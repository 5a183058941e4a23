import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { catalog, type TableName, type Tables } from '@fleetreel/proto';
import { sourceNames } from '@fleetreel/proto/agent_settings';
import { describe, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { type Context, type Source, Unavailable } from '#source.ts';
import { sourcesFor } from '#sources/index.ts';
import { expectContract, SteppedTree, systemContext, unfilledColumns, withRealSleep } from '#sources/testing.ts';

const linux = sourcesFor('linux');

/** Not made by sources: the sampler reports on itself, and takes what happened from all of them; the publisher tells what was lost. */
const byAgent = ['source', 'agent', 'event', 'frame_loss'];
const sampled = catalog.filter(({ name }) => !byAgent.includes(name));

/** What the captured machines below have to fill; the tests of the other sources see to their own. */
const ofTheKernel: readonly TableName[] = [
  'cpu',
  'load',
  'memory',
  'pressure',
  'disk_io',
  'filesystem',
  'net_interface',
  'tcp',
  'tcp_connection',
  'udp',
  'network',
  'clock',
];

/** What none of the captured machines has, in the order of the sources: these have captured text of their own. */
const nowhere = ['sensor', 'power', 'battery', 'process', 'perf', 'container', 'vm', 'gpu', 'llm'];

test('every source can be switched by settings that are pushed', () => {
  const context = systemContext();
  expect(linux.map((make) => make(context).name)).toEqual(sourceNames);
  for (const make of sourcesFor('darwin')) expect(sourceNames).toContain(make(context).name);
});

const trees: Record<string, { steps: readonly string[]; unavailable: readonly string[] }> = {
  'ubuntu-4.13': {
    steps: ['ubuntu-4.13', 'ubuntu-4.13'],
    unavailable: ['pressure', 'disk_io', 'filesystem', 'net_interface', 'tcp', 'tcp_connection', 'udp', 'network'],
  },
  'fedora-5': {
    steps: ['fedora-5', 'fedora-5'],
    unavailable: ['memory', 'pressure', 'disk_io', 'filesystem', 'net_interface', 'tcp_connection', 'network'],
  },
  mixed: {
    steps: ['mixed', 'mixed'],
    unavailable: ['filesystem', 'net_interface', 'tcp_connection'],
  },
  'debian-5.10': { steps: [0, 1, 2, 3].map((step) => `debian-5.10/${step}`), unavailable: [] },
  'debian-6.1-arm64': { steps: [0, 1, 2, 3].map((step) => `debian-6.1-arm64/${step}`), unavailable: [] },
  'debian-6.18': { steps: ['debian-6.18', 'debian-6.18'], unavailable: ['filesystem'] },
  'container-6.18': { steps: ['container-6.18', 'container-6.18'], unavailable: ['pressure', 'disk_io'] },
};

async function opened(context: Context): Promise<{ sources: Source[]; unavailable: string[] }> {
  const sources: Source[] = [];
  const unavailable: string[] = [];
  for (const make of linux) {
    const source = make(context);
    try {
      await source.open();
      sources.push(source);
    } catch (error) {
      expect(error).toBeInstanceOf(Unavailable);
      unavailable.push(source.name);
    }
  }
  return { sources, unavailable };
}

describe.each(Object.entries(trees))('on the captured machine %s', (_, { steps, unavailable }) => {
  test('every source follows the contract, or is unavailable', async () => {
    using tree = new SteppedTree(steps[0]);
    const { context } = tree;
    const open = await opened(withRealSleep(context));
    // The clock is this machine's own.
    expect(open.unavailable.filter((source) => source !== 'clock')).toEqual([...unavailable, ...nowhere]);
    for (const step of steps) {
      tree.put(step).context.clock.advance(2.5);
      for (const source of open.sources) {
        expectContract(await source.sample(), source);
        for (const sentence of source.limitations?.() ?? []) expect(sentence).toMatch(/^\S.*\S$/);
      }
    }
    for (const source of open.sources) await source.close();
  });
});

test('all captured machines are tested', () => {
  const folders = readdirSync(join(import.meta.dirname, 'fixtures'), { withFileTypes: true });
  expect(Object.keys(trees).sort()).toEqual(
    folders
      .filter((folder) => folder.isDirectory())
      .map((folder) => folder.name)
      .sort(),
  );
});

test('the sources fill every table of the contract once, in its order, under their names', () => {
  using tree = new SteppedTree();
  const sources = linux.map((make) => make(tree.context));
  expect(sources.flatMap((source) => source.tables)).toEqual(sampled.map((table) => table.name));
  expect(new Set(sources.map((source) => source.name)).size).toBe(sources.length);
  for (const make of sourcesFor('darwin')) {
    const portable = make(tree.context);
    const direct = sources.find((source) => source.name === portable.name);
    expect(portable.tables).toEqual(direct?.tables);
  }
  expect(sourcesFor('win32')).toBe(sourcesFor('darwin'));
});

test('every column of the tables of the kernel itself is filled by something that a kernel says', async () => {
  const samples: Tables[] = [];
  for (const { steps } of Object.values(trees)) {
    using tree = new SteppedTree(steps[0]);
    const { sources } = await opened(withRealSleep(tree.context));
    for (const [moment, step] of steps.entries()) {
      tree.put(step).context.clock.advance(31);
      // What none of the captured machines has: a link with a speed, discards.
      tree.write('sys/class/net/eth0/speed', '1000\n');
      tree.write('proc/diskstats', ` 8 0 sda${` ${moment + 1}`.repeat(17)}\n`);
      for (const source of sources) samples.push(await source.sample());
    }
    for (const source of sources) await source.close();
  }
  expect(unfilledColumns(ofTheKernel, samples)).toEqual([]);
});

test.runIf(process.platform === 'linux')('this machine: every source follows the contract', async () => {
  const context: Context = systemContext();
  const { sources } = await opened(context);
  expect(sources.map((source) => source.name)).toEqual(
    expect.arrayContaining(['cpu', 'memory', 'net_interface', 'tcp']),
  );
  for (let sample = 0; sample < 3; sample++) {
    await systemClock.sleep(50);
    for (const source of sources) expectContract(await source.sample(), source);
  }
  for (const source of sources) await source.close();
});
