import type { TableName, Tables } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import type { Settings } from '#config.ts';
import type { Events } from '#events.ts';

/** Where the kernel's files are: other folders in tests, and in a container that sees its host's. */
export type Roots = { proc: string; sys: string; etc: string; run: string };

/** Who a process is; a text is empty where nothing is known. */
export type ProcessIdentity = {
  /** Name of the program. */
  name: string;
  /** Its class by the rules. */
  class: string;
  /** Id of the container that it runs in, as in the table `container`. */
  container: string;
  /** Its command line with what looks like a secret left out; absent where it is not known, or not to be recorded. */
  command?: string;
};

/** Who the processes of this host are: for every source that learns of one by its number. */
export interface Processes {
  /** Undefined where there is no such process, or none that may be seen. */
  identity(pid: number): ProcessIdentity | undefined;
  /** Resolves when those that were asked for are known in full: name and class may depend on the command line, which comes later. */
  settled?(): Promise<void>;
  /** What can't be known of them, one sentence each. */
  limitations?(): readonly string[];
}

/** What a source may use besides its own files. */
export type Context = {
  roots: Roots;
  clock: Clock;
  platform: NodeJS.Platform;
  settings: SourceSettings;
  /** Takes what happens between two samples. */
  events: Events;
  processes: Processes;
};

/** The settings of single sources. */
export type SourceSettings = Pick<Settings, 'process' | 'container' | 'vm' | 'gpu' | 'llm'>;

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
  /**
   * What it can't see here though it is open, and which right, group or setting would change that: one sentence each. The
   * table `source` shows them as the reason of a source that is "ok".
   */
  limitations?(): readonly string[];
}

export type MakeSource = (context: Context) => Source;

/** There is nothing to read here: a value with a reason, not a failure. */
export class Unavailable extends Error {
  override name = 'Unavailable';
}
