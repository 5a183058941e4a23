import type { TableName, Tables } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';

/** Where the kernel's files are: other folders in tests, and in a container that sees its host's. */
export type Roots = { proc: string; sys: string; etc: string; run: string };

/** What a source may use besides its own files. */
export type Context = { roots: Roots; clock: Clock; platform: NodeJS.Platform };

/**
 * Reads one thing. A source only returns or throws: the sampler times it, catches, counts, logs, and tries again with
 * a growing pause. It is never sampled again while its last sample is still running.
 */
export interface Source {
  readonly name: string;
  /** The tables that it fills. */
  readonly tables: readonly TableName[];
  /** Least time between two samples, milliseconds; absent: it is sampled at every tick. */
  readonly every_ms?: number;
  /**
   * Finds what it reads.
   * @throws Unavailable when that is not here or not permitted.
   */
  open(): void | Promise<void>;
  /** The tables' columns now; rates over the time since the sample before, NaN at the first. */
  sample(): Tables | Promise<Tables>;
  close(): void | Promise<void>;
  /** What it can't see here though it is open, and what would change that: one sentence each. */
  limitations?(): readonly string[];
}

export type MakeSource = (context: Context) => Source;

/** There is nothing to read here: a value with a reason, not a failure. */
export class Unavailable extends Error {
  override name = 'Unavailable';
}
