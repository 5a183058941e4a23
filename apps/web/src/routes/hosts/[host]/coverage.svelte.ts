// Where a host has no data, and why: asked of the collector for the range that the page shows.
import { type Api, ApiError, type Hole, isAbort, sentence } from '#lib/api.ts';
import type { Band } from '#lib/chart/chart.ts';
import { formatTime, formatValue, type Zone } from '#lib/format.ts';
import type { Scope } from '#lib/view.svelte.ts';

/** A live range moves on: after so long its coverage is asked for again, milliseconds. */
const refreshAfter = 30_000;
/** Pause before what failed is tried again, milliseconds. */
const retryAfter = 10_000;

export const causes: Readonly<Record<Hole['cause'], string>> = {
  agent_down: 'the agent was not running',
  reboot: 'the machine was booted',
  skipped: 'nothing was sampled: the host slept or was too busy',
  link_down: 'the collector could not be reached',
  spool_bytes: 'the spool was full, its oldest frames were given up',
  spool_age: 'the spool gave up what was too old',
  queue: 'the agent’s queue was full',
  disk: 'the spool could not be written',
  corrupt: 'the spool could not be read',
  too_large: 'the frames were too large',
  log_bound: 'the log was full, its oldest frames were given up',
  dead_letter: 'the frames are among the dead letters',
  clock: 'the host’s clock was wrong: the frames are at another time',
  no_contact: 'no frame was received',
  unknown: 'the cause is not known',
};

export class Coverage {
  readonly #host: string;
  readonly #api: Pick<Api, 'coverage'>;
  holes = $state.raw<readonly Hole[]>([]);
  percent = $state<number | null>(null);
  truncated = $state(false);
  failure = $state<string | null>(null);
  /** End of what was asked for, milliseconds since 1970. */
  to = $state(0);

  constructor(host: string, api: Pick<Api, 'coverage'>) {
    this.#host = host;
    this.#api = api;
  }

  /** Fetches what the scope asks for and follows it, until the returned function is called. */
  run(scope: Scope): () => void {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const { liveRange } = scope;
    const load = async (): Promise<void> => {
      try {
        const range = liveRange === null ? scope : { from: `-${liveRange}ms`, to: 'now' };
        const { hosts, to } = await this.#api.coverage([this.#host], range.from, range.to, abort.signal);
        this.holes = hosts[0]?.holes ?? [];
        this.percent = hosts[0]?.percent ?? null;
        this.truncated = hosts[0]?.truncated ?? false;
        this.to = to;
        this.failure = null;
        if (liveRange !== null) timer = setTimeout(() => void load(), refreshAfter);
      } catch (error) {
        if (abort.signal.aborted || isAbort(error)) return;
        this.holes = [];
        this.percent = null;
        this.failure = sentence(error);
        const final = error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429;
        if (!final) timer = setTimeout(() => void load(), retryAfter);
      }
    };
    void load();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }
}

/** When it was, as short as it can be said. */
export function spanOf({ begin, end }: Hole, zone: Zone): string {
  if (end === null) return `since ${formatTime(begin, 'full', zone)}`;
  return `${formatTime(begin, 'full', zone)} – ${formatTime(end, 'time', zone)}, ${formatValue((end - begin) / 1000, 'seconds')}`;
}

/** A hole in a sentence. */
export function describe(hole: Hole, zone: Zone): string {
  const healed = hole.healed === null ? '' : `; the frames came at ${formatTime(hole.healed, 'time', zone)}`;
  return `${hole.healed === null ? 'No data' : 'Late data'}: ${causes[hole.cause]}, ${spanOf(hole, zone)}${healed}`;
}

/** What charts draw of holes. An open one lasts until something comes. */
export const bandsOf = (holes: readonly Hole[], zone: Zone): Band[] =>
  holes.map((hole) => ({
    from: hole.begin,
    to: hole.end ?? Number.POSITIVE_INFINITY,
    healed: hole.healed !== null,
    text: describe(hole, zone),
  }));

/** Percent, never rounded up to all. */
export function percentText(percent: number): string {
  return percent >= 100 ? '100 %' : `${Math.min(percent, 99.99).toFixed(percent < 99 ? 1 : 2)} %`;
}
