// Holes in what a host sent, derived from the frames beside them. Nothing is remembered: the same rows give the same holes.
import type { HoleCause } from '@fleetreel/proto/http';

/** A frame beside a hole, or where late ones begin or end. Times are UTC, microseconds since 1970. */
export type Edge = {
  time_us: number;
  session: string;
  sequence: number;
  interval_ms: number;
  /** When the log stored it; null where that is not known. */
  received_us: number | null;
  late: boolean;
  /** Time of the frame before it in the store; null where none was looked at. */
  before_us: number | null;
};

/** Frames that an agent gave up, as it said. */
export type Loss = {
  session: string;
  cause: string;
  firstSequence: number;
  lastSequence: number;
  first_us: number;
  last_us: number;
};

/** A stretch of time without frames. Times are UTC, microseconds since 1970. */
export type Hole = {
  begin_us: number;
  /** Null while nothing came since. */
  end_us: number | null;
  cause: HoleCause;
  /** The session before the hole, and the first after it; null where there was none. */
  session: string | null;
  nextSession: string | null;
  /** Frames that were made and are not here, or were not when they should have been; null where nobody knows. */
  missing: number | null;
  /** When the frames arrived after all. */
  healed_us: number | null;
  /** Sequences of the frames beside it, where those between them are missing and nobody has said why. */
  between?: { after: number; before: number };
  /** When the log would have got missing frames of which nobody has said why they are: UTC, microseconds since 1970. */
  due?: Span;
};

/** UTC, microseconds since 1970. */
export type Span = { from_us: number; to_us: number };

export type HolesQuestion = {
  /** By time: the last frame before the range, those of the range, the first after it. */
  edges: readonly Edge[];
  losses: readonly Loss[];
  from_us: number;
  to_us: number;
  now_us: number;
  /** By when frames have arrived as a rule, after their own time. */
  patience_us: number;
};

const lossCauses: readonly string[] = ['spool_bytes', 'spool_age', 'queue', 'disk', 'corrupt', 'too_large'];

/** All holes of one host that touch the range, by begin. Their times reach beyond the range where the hole does. */
export function findHoles(question: HolesQuestion): Hole[] {
  const { edges, from_us, to_us } = question;
  const holes = [...gaps(question), ...lateRuns(question), ...ends(question)];
  if (edges.length === 0) holes.push(untold(from_us, to_us < question.now_us ? to_us : null, null, null));
  return holes
    .filter(({ begin_us, end_us }) => begin_us < to_us && (end_us ?? to_us) > from_us)
    .sort((a, b) => a.begin_us - b.begin_us || Number(a.end_us) - Number(b.end_us));
}

/** Where two frames that follow one another are further apart than one and a half intervals. */
function gaps({ edges, losses }: HolesQuestion): Hole[] {
  const holes: Hole[] = [];
  for (let index = 1; index < edges.length; index++) {
    const before = edges[index - 1] as Edge;
    const after = edges[index] as Edge;
    // Between the two are others, without a hole.
    if (after.before_us !== null && after.before_us !== before.time_us) continue;
    if (after.time_us - before.time_us <= 1500 * Math.max(before.interval_ms, after.interval_ms)) continue;
    holes.push({
      begin_us: before.time_us + before.interval_ms * 1000,
      end_us: after.time_us,
      session: before.session,
      nextSession: after.session,
      healed_us: null,
      ...explain(before, after, losses),
    });
  }
  return holes;
}

type Told = Pick<Hole, 'cause' | 'missing' | 'between' | 'due'>;

function explain(before: Edge, after: Edge, losses: readonly Loss[]): Told {
  const same = before.session === after.session;
  const told = losses.flatMap(({ session, cause, firstSequence, lastSequence }) => {
    const first = session === before.session ? Math.max(firstSequence, before.sequence + 1) : firstSequence;
    const last = session === after.session ? Math.min(lastSequence, after.sequence - 1) : lastSequence;
    const concerns = session === before.session || session === after.session;
    return concerns && last >= first && lossCauses.includes(cause) ? [{ cause, count: last - first + 1 }] : [];
  });
  const [most] = told.toSorted((a, b) => b.count - a.count);
  // Of a session that ended nobody knows what it had not sent, but for what is told of it.
  const missing = same
    ? Math.max(0, after.sequence - before.sequence - 1)
    : Math.max(
        after.sequence - 1,
        told.reduce((sum, { count }) => sum + count, 0),
      );
  if (most) return { cause: most.cause as HoleCause, missing };
  if (missing === 0) return { cause: same ? 'skipped' : 'agent_down', missing };
  const came = [before, after].map(({ received_us, time_us }) => received_us ?? time_us);
  const due = { from_us: Math.min(...came), to_us: Math.max(...came) };
  if (!same) return { cause: 'agent_down', missing, due };
  return { cause: 'unknown', missing, between: { after: before.sequence, before: after.sequence }, due };
}

/** Tells those holes whose frames were due while the log lost what the store did not have yet. */
export function findOvertaken(holes: readonly Hole[], lost: readonly Span[]): void {
  for (const hole of holes) {
    const { due, cause } = hole;
    if (due === undefined || (cause !== 'unknown' && cause !== 'agent_down')) continue;
    if (lost.some(({ from_us, to_us }) => from_us < due.to_us && to_us > due.from_us)) hole.cause = 'log_bound';
  }
}

/** Frames that came well after their time: a hole until then. */
function lateRuns({ edges, patience_us }: HolesQuestion): Hole[] {
  const holes: Hole[] = [];
  let first: Edge | undefined;
  let last: Edge | undefined;
  const close = () => {
    if (first && last) {
      const least = last.time_us + last.interval_ms * 1000;
      holes.push({
        begin_us: first.time_us,
        // What was made shortly before the link was back came in time, but nothing did while it was away.
        end_us: Math.max(least, Math.min(first.received_us ?? least, least + patience_us)),
        cause: 'link_down',
        session: first.session,
        nextSession: last.session,
        missing: first.session === last.session ? last.sequence - first.sequence + 1 : null,
        healed_us: Math.max(first.received_us ?? 0, last.received_us ?? 0),
      });
    }
    first = undefined;
  };
  for (const edge of edges) {
    if (edge.late) {
      first ??= edge;
      last = edge;
    } else close();
  }
  close();
  return holes;
}

/** What is before the first frame and after the last. */
function ends({ edges, from_us, to_us, now_us, patience_us }: HolesQuestion): Hole[] {
  const first = edges[0];
  const last = edges.at(-1);
  if (!first || !last) return [];
  const holes: Hole[] = [];
  if (first.time_us - from_us > 1500 * first.interval_ms)
    holes.push(untold(from_us, first.time_us, null, first.session));
  // What was made just now is on its way.
  const known_us = Math.min(to_us, now_us - patience_us);
  if (known_us - last.time_us > 1500 * last.interval_ms)
    holes.push(untold(last.time_us + last.interval_ms * 1000, null, last.session, null));
  return holes;
}

const untold = (begin_us: number, end_us: number | null, session: string | null, nextSession: string | null): Hole => ({
  begin_us,
  end_us,
  cause: 'no_contact',
  session,
  nextSession,
  missing: null,
  healed_us: null,
});

/** How much of a range, in percent, is not in these holes. They may overlap. */
export function coveredPercent(
  holes: readonly Pick<Hole, 'begin_us' | 'end_us'>[],
  from_us: number,
  to_us: number,
): number {
  let covered_us = 0;
  let at_us = from_us;
  for (const { begin_us, end_us } of holes.toSorted((a, b) => a.begin_us - b.begin_us)) {
    covered_us += Math.max(0, Math.min(begin_us, to_us) - at_us);
    at_us = Math.max(at_us, Math.min(end_us ?? to_us, to_us));
  }
  covered_us += Math.max(0, to_us - at_us);
  return to_us > from_us ? (100 * covered_us) / (to_us - from_us) : 100;
}
