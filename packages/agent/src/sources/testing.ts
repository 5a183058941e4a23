import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import type { Clock } from '#clock.ts';
import type { Context, Roots } from '#source.ts';

// What the tests of the sources share: captured trees, trees that change from sample to sample, a clock that is moved.

const fixtures = join(import.meta.dirname, 'fixtures');

/** A file of a captured tree. */
export const captured = (tree: string, path: string): string => readFileSync(join(fixtures, tree, path), 'utf8');

/** A context that sees a captured tree. */
export const capturedContext = (tree: string): Context & { clock: TestClock } => context(join(fixtures, tree));

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
  return { roots, clock: testClock(), platform: 'linux' };
}

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
