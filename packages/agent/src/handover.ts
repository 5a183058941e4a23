// One process in two lives. What reads settings (schemas, YAML) takes 30 MiB that are needed once, and how V8 and malloc use memory can
// only be said at the start: so the process that has read its settings becomes, by execve, one that only samples. Same process id, same streams.
import { setFlagsFromString } from 'node:v8';
import type { Rule } from '#classes.ts';
import type { Clock } from '#clock.ts';
import type { Settings } from '#config.ts';
import type { Identity } from '#host.ts';
import { compileMilliseconds } from '#limits.ts';

/** What the sampling process is told. */
export type Orders = {
  settings: Settings;
  /** Rules by which processes are classified. */
  rules: readonly Rule[];
  identity: Identity;
  /** 16 hexadecimal digits, random for each start. */
  session: string;
};

const variable = 'FLEETREEL_AGENT_ORDERS';

const flags = [
  // Sampling makes little garbage, and all of it dies young: a small nursery is as good, and it is touched all the time.
  '--max-semi-space-size=1',
  '--optimize-for-size',
  // All of it is looked through after a fifth of what V8 would let it grow by: little lives for long, so that it is seldom, too.
  '--incremental-marking-hard-trigger=20',
  // What runs often in every tick is worth Maglev: a sixth of a tick's time for a megabyte. Turbofan gains nothing more, and takes 6.
  '--max-opt=2',
  '--invocation-count-for-maglev=4000',
  // Threads that compile and collect in the background: there is little to do for them.
  '--v8-pool-size=1',
  '--disable-warning=ExperimentalWarning',
];

/**
 * With one arena malloc gives freed memory back that each thread would keep for itself. What is as large as the pieces in which
 * V8's compiler takes memory is mapped apart, and gone when it is freed: among small ones it would leave holes.
 */
const environment = { MALLOC_ARENA_MAX: '1', MALLOC_MMAP_THRESHOLD_: String(32 * 1024) };

/** Becomes the sampling process; returns only where a process can't (Windows), and then this one has to sample. */
export function handOver(orders: Orders): void {
  const [executable = '', main = '', ...rest] = process.argv;
  if (process.platform === 'win32' || process.execve === undefined) return;
  process.execve(process.execPath, [executable, ...process.execArgv, ...flags, main, ...rest], {
    ...process.env,
    ...environment,
    [variable]: JSON.stringify(orders),
  });
}

/** The orders, in a process that was told to sample; they are gone from the environment afterwards. */
export function receive(): Orders | undefined {
  const text = process.env[variable];
  delete process.env[variable];
  return text === undefined ? undefined : (JSON.parse(text) as Orders);
}

/**
 * Ends what the flags above have begun: what runs often is compiled after some minutes. All that runs once in a tick would be after an
 * hour, at once: it would leave holes of 5 MiB in what malloc has, and save a tenth of a tick's time.
 */
export async function stopCompiling(clock: Clock, signal: AbortSignal): Promise<void> {
  await clock.sleep(compileMilliseconds, signal).catch(() => undefined);
  if (!signal.aborted) setFlagsFromString('--no-maglev');
}
