import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import {
  type Columns,
  columnNames,
  rowCount,
  type TableName,
  type Tables,
  tableNamed,
  type Unit,
} from '@fleetreel/proto';
import { readSettings } from '@fleetreel/proto/settings';
import { expect } from 'vitest';
import { parseCgroupMounts } from '#cgroup.ts';
import { classifier } from '#classes.ts';
import { type Clock, systemClock } from '#clock.ts';
import { program, type Settings } from '#config.ts';
import { Events } from '#events.ts';
import { ProcessIdentities } from '#processes.ts';
import { loadRules } from '#rules.ts';
import type { Context, Roots, Source } from '#source.ts';

// What the tests of the sources share: captured trees, trees that change from sample to sample, a clock that is moved.

const fixtures = join(import.meta.dirname, 'fixtures');

/** A file of a captured tree. */
export const captured = (tree: string, path: string): string => readFileSync(join(fixtures, tree, path), 'utf8');

/** A context that sees a captured tree. */
export const capturedContext = (tree: string): Context & { clock: TestClock } => context(join(fixtures, tree));

/** Classifies by the rules that are shipped. */
export const shippedClasses = classifier(loadRules());

/** What every setting is by default. */
export const defaultSettings: Settings = defaults();

function defaults(): Settings {
  const invocation = readSettings(program, ['run'], { FLEETREEL_CONFIG: '/dev/null' });
  if ('help' in invocation) throw new Error('the command line asks for help');
  return invocation.settings;
}

/** A clock that stands until it is moved. */
export type TestClock = Clock & { advance(seconds: number): void };

function testClock(): TestClock {
  let now_ms = 1_000;
  return {
    now_us: () => now_ms * 1000,
    monotonic_ms: () => now_ms,
    // Over as soon as nothing else is to be done.
    sleep: (_, signal) => setImmediate(undefined, signal ? { signal } : {}),
    advance(seconds) {
      now_ms += seconds * 1000;
    },
  };
}

function context(root: string): Context & { clock: TestClock } {
  const roots: Roots = {
    proc: join(root, 'proc'),
    sys: join(root, 'sys'),
    etc: join(root, 'etc'),
    run: join(root, 'run'),
  };
  const clock = testClock();
  return {
    roots,
    clock,
    platform: 'linux',
    settings: defaultSettings,
    events: new Events(clock),
    processes: new ProcessIdentities(roots, { classify: shippedClasses }),
  };
}

/**
 * Makes the kernel count, cgroup by cgroup, what is read from and written to the disk that a folder is on. Version 1 counts a disk from the
 * first limit on, and goes on when that is gone: one that is never reached, of a cgroup that is removed at once.
 */
export function countDiskOf(folder: string): void {
  const hierarchy = parseCgroupMounts(readFileSync('/proc/self/mountinfo', 'utf8'), { sys: '/sys' }).v1.get('blkio');
  const { dev } = statSync(folder);
  const device = `/sys/dev/block/${Math.floor(dev / 256)}:${dev % 256}`;
  if (hierarchy === undefined || !existsSync(device)) return;
  // Counted is the whole disk.
  const disk = existsSync(`${device}/partition`) ? `${device}/..` : device;
  const cgroup = mkdtempSync(join(hierarchy, 'fleetreel-test-'));
  try {
    const number = readFileSync(`${disk}/dev`, 'utf8').trim();
    writeFileSync(join(cgroup, 'blkio.throttle.write_bps_device'), `${number} 1000000000000`);
  } finally {
    rmdirSync(cgroup);
  }
}

/** A context that sees this machine. */
export function systemContext(): Context {
  const { roots } = defaultSettings;
  return {
    roots,
    clock: systemClock,
    platform: process.platform,
    settings: defaultSettings,
    events: new Events(systemClock),
    processes: new ProcessIdentities(roots, { classify: shippedClasses }),
  };
}

/** The same context with pauses that really pass: for sources that wait for files or programs. */
export const withRealSleep = <C extends Context>(of: C): C => ({
  ...of,
  clock: { ...of.clock, sleep: (milliseconds, signal) => systemClock.sleep(milliseconds, signal) },
});

/** A tree of files that a test changes between two samples. */
export class SteppedTree implements Disposable {
  readonly #root = mkdtempSync(join(tmpdir(), 'fleetreel-source-'));
  readonly context = context(this.#root);

  /** Starts with a captured tree, or empty. */
  constructor(tree?: string) {
    if (tree !== undefined) this.put(tree);
  }

  /** Puts a captured tree over this one: the next moment of the same machine. */
  put(tree: string): this {
    cpSync(join(fixtures, tree), this.#root, { recursive: true });
    return this;
  }

  write(path: string, text: string): this {
    mkdirSync(dirname(join(this.#root, path)), { recursive: true });
    writeFileSync(join(this.#root, path), text);
    return this;
  }

  /** Puts a captured tree that is one file: `path = text`, with \n for a new line in it, or `path -> target of a link`. */
  putListing(listing: string): this {
    for (const line of readFileSync(join(import.meta.dirname, listing), 'utf8').split('\n')) {
      const [, path = '', kind, rest = ''] = /^(.*?) (=|->) ?(.*)$/.exec(line) ?? [];
      if (kind === '=') this.write(path, `${rest.replaceAll('\\n', '\n')}\n`);
      else if (kind === '->') this.link(path, rest);
    }
    return this;
  }

  link(path: string, target: string): this {
    mkdirSync(dirname(join(this.#root, path)), { recursive: true });
    symlinkSync(target, join(this.#root, path));
    return this;
  }

  remove(path: string): this {
    rmSync(join(this.#root, path), { recursive: true });
    return this;
  }

  path(path: string): string {
    return join(this.#root, path);
  }

  [Symbol.dispose](): void {
    rmSync(this.#root, { recursive: true, force: true });
  }
}

/** One row of a table: the values by column, `undefined` where an empty column makes them absent. */
export type Row = Record<string, string | number>;

/** A table as rows by key: how tests look at it. Absent values are left out. */
export function rows(table: object | undefined, key: string): Record<string, Row> {
  if (!table) return {};
  const columns = table as Record<string, (string | number)[]>;
  const byKey: Record<string, Row> = {};
  for (const [place, entity] of (columns[key] ?? []).entries()) {
    const row: Row = {};
    for (const [name, values] of Object.entries(columns)) {
      const value = values[place];
      if (name !== key && value !== undefined && !Number.isNaN(value)) row[name] = value;
    }
    byKey[String(entity)] = row;
  }
  return byKey;
}

/** The only row of a table without a key. Absent values are left out. */
export function row(table: object | undefined): Row {
  const only: Row = {};
  for (const [name, values] of Object.entries((table ?? {}) as Record<string, number[]>)) {
    const [value] = values;
    if (value !== undefined && !Number.isNaN(value)) only[name] = value;
  }
  return only;
}

const mayBeNegative = new Set<Unit>(['celsius', 'volts', 'amperes', 'code']);
/** In percent of one core, or of a limit that is a soft one. */
const ofOneCore = /^cpu_|_limit_percent$/;

/** What the contract asks of any table, and physics of its values. */
export function expectContract(tables: Tables, of: Source): void {
  for (const [name, columns] of Object.entries(tables) as [string, Columns][]) {
    expect(of.tables).toContain(name);
    const table = tableNamed(name);
    if (!table) throw new Error(`${name} is not in the contract`);
    expect(Object.keys(columns).sort()).toEqual(columnNames(table).toSorted());
    const count = rowCount(table, columns);
    const keys = table.labels.filter(({ key }) => key).map((label) => columns[label.name] ?? []);
    const entities = Array.from({ length: count }, (_, row) => JSON.stringify(keys.map((column) => column[row])));
    expect(new Set(entities).size, `${name}: entities`).toBe(keys.length > 0 ? count : Math.min(count, 1));
    for (const { name: field, unit } of table.fields)
      for (const value of columns[field] as number[]) {
        if (Number.isNaN(value)) continue;
        expect(Number.isFinite(value), `${name}.${field} is ${value}`).toBe(true);
        if (!mayBeNegative.has(unit) && field !== 'offset_seconds')
          expect(value, `${name}.${field}`).toBeGreaterThanOrEqual(0);
        if (unit === 'percent' && !ofOneCore.test(field))
          expect(value, `${name}.${field}`).toBeLessThanOrEqual(100.000001);
        if (unit === 'flag') expect([0, 1]).toContain(value);
      }
  }
}

/** The columns of these tables that none of the samples has a value in: a test of a source shows that there are none. */
export function unfilledColumns(names: readonly TableName[], samples: readonly Tables[]): string[] {
  const filled = new Set<string>();
  for (const sample of samples)
    for (const [table, columns] of Object.entries(sample))
      for (const [column, values] of Object.entries(columns as Columns))
        if (values.some((value) => value !== '' && !Number.isNaN(value))) filled.add(`${table}.${column}`);
  return names
    .map((name) => tableNamed(name))
    .flatMap((table) => (table ? columnNames(table).map((column) => `${table.name}.${column}`) : []))
    .filter((column) => !filled.has(column));
}
