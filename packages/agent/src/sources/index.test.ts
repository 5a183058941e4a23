import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { type Columns, catalog, rowCount, type Tables, tableNamed } from '@fleetreel/proto';
import { describe, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { type Context, type Source, Unavailable } from '#source.ts';
import { sourcesFor } from '#sources/index.ts';
import { SteppedTree } from '#sources/testing.ts';

const linux = sourcesFor('linux');

/** Not made by sources: the sampler reports on itself. */
const sampled = catalog.filter(({ name }) => name !== 'source' && name !== 'agent');

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

/** What the contract asks of any table, and physics of its values. */
function check(tables: Tables, of: Source): void {
  for (const [name, columns] of Object.entries(tables) as [string, Columns][]) {
    expect(of.tables).toContain(name);
    const table = tableNamed(name);
    if (!table) throw new Error(`${name} is not in the contract`);
    expect(Object.keys(columns).sort()).toEqual([...table.labels, ...table.fields].map((column) => column.name).sort());
    const count = rowCount(table, columns);
    const keys = table.labels.filter(({ key }) => key).map((label) => columns[label.name] ?? []);
    if (keys.length > 0) expect(new Set(keys[0]).size).toBe(count);
    for (const { name: field, unit } of table.fields)
      for (const value of columns[field] as number[]) {
        if (Number.isNaN(value)) continue;
        expect(Number.isFinite(value), `${name}.${field} is ${value}`).toBe(true);
        if (field !== 'offset_seconds') expect(value, `${name}.${field}`).toBeGreaterThanOrEqual(0);
        if (unit === 'percent') expect(value, `${name}.${field}`).toBeLessThanOrEqual(100.000001);
        if (unit === 'flag') expect([0, 1]).toContain(value);
      }
  }
}

/** Real file systems are asked: they may take their time. */
const withRealSleep = (context: Context): Context => ({
  ...context,
  clock: { ...context.clock, sleep: (milliseconds, signal) => systemClock.sleep(milliseconds, signal) },
});

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
    expect(open.unavailable.filter((source) => source !== 'clock')).toEqual(unavailable);
    for (const step of steps) {
      tree.put(step).context.clock.advance(2.5);
      for (const source of open.sources) {
        check(await source.sample(), source);
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

test('every column is filled by something that a kernel says', async () => {
  const filled = new Set<string>();
  for (const { steps } of Object.values(trees)) {
    using tree = new SteppedTree(steps[0]);
    const { sources } = await opened(withRealSleep(tree.context));
    for (const [moment, step] of steps.entries()) {
      tree.put(step).context.clock.advance(31);
      // What none of the captured machines has: a link with a speed, discards.
      tree.write('sys/class/net/eth0/speed', '1000\n');
      tree.write('proc/diskstats', ` 8 0 sda${` ${moment + 1}`.repeat(17)}\n`);
      for (const source of sources)
        for (const [table, columns] of Object.entries(await source.sample()))
          for (const [column, values] of Object.entries(columns))
            if (values.some((value) => !Number.isNaN(value))) filled.add(`${table}.${column}`);
    }
    for (const source of sources) await source.close();
  }
  const columns = sampled.flatMap((table) =>
    [...table.labels, ...table.fields].map((column) => `${table.name}.${column.name}`),
  );
  expect(columns.filter((column) => !filled.has(column))).toEqual([]);
});

test.runIf(process.platform === 'linux')('this machine: every source follows the contract', async () => {
  const context: Context = {
    roots: { proc: '/proc', sys: '/sys', etc: '/etc', run: '/run' },
    clock: systemClock,
    platform: 'linux',
  };
  const { sources } = await opened(context);
  expect(sources.map((source) => source.name)).toEqual(
    expect.arrayContaining(['cpu', 'memory', 'net_interface', 'tcp']),
  );
  for (let sample = 0; sample < 3; sample++) {
    await systemClock.sleep(50);
    for (const source of sources) check(await source.sample(), source);
  }
  for (const source of sources) await source.close();
});
