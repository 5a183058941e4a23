// What the collector says of the coverage of a fleet, against what was counted in the store frame by frame.
import type { Coverage, HoleCause } from '@fleetreel/proto/http';
import type { Session } from './ledger.ts';

/** A stretch of time by this machine's clock: UTC milliseconds, `to` exclusive. */
export type Window = { from_ms: number; to_ms: number };

/** Counted frames of a fleet. */
export type Counted = {
  sessions: ReadonlyMap<string, Session>;
  /** How often each frame is stored: by host and session, by sequence. */
  stored: ReadonlyMap<string, ReadonlyMap<number, number>>;
};

type Answer = Coverage['hosts'][number];
type Hole = Answer['holes'][number];
/** A frame that was sampled: its own time, and when that was by this machine's clock. */
type Sampled = { session: string; sequence: number; time_ms: number; at_ms: number; isStored: boolean };

/** The interval of the fleets here, milliseconds. */
const interval_ms = 1000;
/** Two frames that are further apart have a hole between them. */
const gap_ms = 1.5 * interval_ms;
/** What a double and a text make of a time, milliseconds, and of a percentage. */
const rounding = { ms: 0.5, percent: 0.001 };

/** Causes of holes whose frames an agent says that it lost, or the collector that it put aside. */
const told: readonly HoleCause[] = ['spool_bytes', 'spool_age', 'queue', 'disk', 'corrupt', 'too_large', 'dead_letter'];

/** Asks for the coverage of hosts in a stretch of time. */
export async function coverageOf(address: string, hosts: readonly string[], { from_ms, to_ms }: Window) {
  const query = `host=${hosts.join(',')}&from=${Math.floor(from_ms)}&to=${Math.floor(to_ms)}`;
  const answer = await fetch(`${address}/api/v1/coverage?${query}`, { signal: AbortSignal.timeout(30_000) });
  if (!answer.ok) throw new Error(`coverage: ${answer.status} ${await answer.text()}`);
  return (await answer.json()) as Coverage;
}

/**
 * Where the coverage is not what was counted: its holes have to be where stored frames are too far apart, and nowhere else,
 * its percentage what they leave; each frame that was sampled and is not stored has to lie in a hole, and each hole has to
 * have a cause that fits it.
 */
export function coverageDifferences({ hosts, from, to }: Coverage, counted: Counted): string[] {
  return hosts.flatMap((answer) => {
    const frames = framesOf(counted, answer.host);
    const wrong = differencesOf(answer, { from_ms: from, to_ms: to }, frames);
    return wrong.map((what) => `${answer.host}: ${what}`);
  });
}

/** All frames of a host, by their own time. */
function framesOf({ sessions, stored }: Counted, host: string): Sampled[] {
  const frames: Sampled[] = [];
  for (const [key, one] of sessions) {
    if (one.host !== host) continue;
    const found = stored.get(key);
    for (const [sequence, { at_ms, time_us }] of one.sampled)
      frames.push({
        session: one.session,
        sequence,
        time_ms: time_us / 1000,
        at_ms,
        isStored: found?.has(sequence) ?? false,
      });
  }
  return frames.sort((a, b) => a.time_ms - b.time_ms);
}

function differencesOf(answer: Answer, window: Window, frames: readonly Sampled[]): string[] {
  const wrong: string[] = [];
  const gaps = gapsOf(frames, window);
  const open = answer.holes.filter(({ healed }) => healed === null);
  const left = new Set(open);
  for (const gap of gaps) {
    const hole = open.find(({ begin, end }) => isNear(begin, gap.begin_ms) && isNear(end ?? Number.NaN, gap.end_ms));
    if (!hole) {
      wrong.push(`no hole from ${time(gap.begin_ms)} to ${time(gap.end_ms)}`);
      continue;
    }
    left.delete(hole);
    const reason = misfit(hole, gap, frames);
    if (reason) wrong.push(`${describe(hole)} ${reason}`);
  }
  for (const hole of left) wrong.push(`${describe(hole)} is none`);
  const percent = coveredPercent(gaps, window);
  if (Math.abs(percent - answer.percent) > rounding.percent) wrong.push(`${answer.percent} %, and not ${percent} %`);
  if (answer.percentInTime > answer.percent) wrong.push(`${answer.percentInTime} % in time is more than all`);
  for (const { session, sequence, at_ms, isStored } of frames) {
    if (isStored || at_ms < window.from_ms || at_ms >= window.to_ms) continue;
    // A tick may come a little before the time that a hole begins at by the interval.
    const isIn = open.some(({ begin, end }) => begin - interval_ms / 2 <= at_ms && at_ms <= (end ?? at_ms));
    if (!isIn) wrong.push(`the missing frame ${session} ${sequence} of ${time(at_ms)} is in no hole`);
  }
  return wrong;
}

type Gap = { begin_ms: number; end_ms: number; before: Sampled; after: Sampled };

/** Where stored frames that follow one another are too far apart, as far as that touches the window. */
function gapsOf(frames: readonly Sampled[], { from_ms, to_ms }: Window): Gap[] {
  const gaps: Gap[] = [];
  const stored = frames.filter(({ isStored }) => isStored);
  for (const [index, after] of stored.entries()) {
    const before = stored[index - 1];
    if (!before || after.time_ms - before.time_ms <= gap_ms) continue;
    const gap = { begin_ms: before.time_ms + interval_ms, end_ms: after.time_ms, before, after };
    if (gap.begin_ms < to_ms && gap.end_ms > from_ms) gaps.push(gap);
  }
  return gaps;
}

/** What is wrong with the cause of a hole; undefined when it is right. */
function misfit(
  { cause, missingFrames }: Hole,
  { before, after }: Gap,
  frames: readonly Sampled[],
): string | undefined {
  if (before.session !== after.session)
    return cause === 'agent_down' || told.includes(cause) ? undefined : 'is between two sessions';
  const between = frames.filter(
    ({ session, sequence }) => session === before.session && before.sequence < sequence && sequence < after.sequence,
  );
  const missing = between.filter(({ isStored }) => !isStored).length;
  if (missingFrames !== missing) return `lacks ${missing} frames`;
  if (missing > 0) return told.includes(cause) ? undefined : 'has frames that somebody gave up or put aside';
  const wanted: HoleCause = between.length > 0 ? 'clock' : 'skipped';
  return cause === wanted ? undefined : `is of the cause ${wanted}`;
}

function coveredPercent(gaps: readonly Gap[], { from_ms, to_ms }: Window): number {
  const missing_ms = gaps.reduce(
    (sum, { begin_ms, end_ms }) => sum + Math.max(0, Math.min(end_ms, to_ms) - Math.max(begin_ms, from_ms)),
    0,
  );
  return 100 - (100 * missing_ms) / (to_ms - from_ms);
}

const isNear = (a: number, b: number): boolean => Math.abs(a - b) <= rounding.ms;
const time = (ms: number): string => new Date(ms).toISOString();
const describe = ({ cause, begin, end, missingFrames }: Hole): string =>
  `the hole ${cause} from ${time(begin)} to ${end === null ? 'now' : time(end)} with ${missingFrames} missing`;
