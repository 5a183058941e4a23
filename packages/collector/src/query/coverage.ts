// Coverage: what of a range the store has of a host, and every hole with its cause. Computed from the table of frames at each
// question; nothing is kept.
import { tableNamed } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import type { DeadLetters } from '#log/dead.ts';
import { coveredPercent, type Edge, findHoles, findOvertaken, type Hole, type Loss } from '#query/holes.ts';
import type { Hosts } from '#query/hosts.ts';
import { findHosts } from '#query/names.ts';
import { parseRange } from '#query/time.ts';
import type { Cell, Reader } from '#store/reader.ts';
import * as sql from '#store/sql.ts';

/** What is asked, as it was written. */
export type CoverageQuestion = { hosts: readonly string[]; from?: string | undefined; to?: string | undefined };

export type HostCoverage = {
  host: string;
  /** Share of the range of which there are frames now, and of which there were in time. */
  percent: number;
  percentInTime: number;
  holes: Hole[];
  /** Whether there are more holes, later ones. */
  isTruncated: boolean;
};

/** UTC, milliseconds since 1970; `to` is exclusive and not after now. */
export type CoverageAnswer = { from: number; to: number; hosts: HostCoverage[] };

/** Holes that are listed of a host at most. */
export const holesMax = 1000;
/** Frames beside holes that one answer is made from at most, over all hosts. */
export const edgesMax = 50_000;
/** How far before and after the range the frame beside it is looked for, milliseconds. */
const nearestMs = 86_400_000;
/** New sessions of which is asked whether the machine was booted anew, at most. */
const bootsMax = 200;
/** Holes whose frames are looked for at other times, at most. */
const elsewhereMax = 200;
/** Questions after the dead letters of one host, at most: beyond, its later holes are not told to be of that kind. */
const lettersMax = 1000;
/** Hosts whose dead letters are asked for at once. */
const lettersHosts = 16;
/** From a frame's arrival to its being put aside, milliseconds. */
const ingestMs = 60_000;
/** A clock that is less behind is taken as right, seconds; one that is more is not asked. */
const skewSeconds = { min: 2, max: 600 };

export type CoverageParts = { reader: Reader; hosts: Hosts };

/** Answers a question. @throws ApiError */
export async function queryCoverage(
  parts: CoverageParts,
  letters: Pick<DeadLetters, 'next'>,
  tenant: string,
  question: CoverageQuestion,
  now: number,
): Promise<CoverageAnswer> {
  const named = findHosts(parts.hosts.names(tenant), question.hosts);
  const names = named.length > 0 ? named : [...parts.hosts.names(tenant)].sort();
  const asked = parseRange(question.from, question.to, now);
  const range = { from: Math.floor(asked.from), to: Math.floor(Math.min(asked.to, now)) };
  if (names.length === 0 || range.from >= range.to) return { from: asked.from, to: asked.to, hosts: [] };
  const allowances = new Map(
    names.flatMap((host) => {
      const ms = allowance(parts.hosts, tenant, host);
      return ms > 0 ? [[host, ms] as const] : [];
    }),
  );
  const edges = await readEdges(parts.reader, { tenant, hosts: names, ...range, allowances }, now);
  const losses = await readLosses(parts.reader, tenant, names, range);
  const found = names.map((host) => {
    const own = edges.get(host) ?? [];
    const interval = own.at(-1)?.interval_ms ?? 0;
    const holes = findHoles({
      edges: own,
      losses: losses.get(host) ?? [],
      from_us: range.from * 1000,
      to_us: range.to * 1000,
      now_us: now * 1000,
      patience_us: (Math.max(3 * interval, sql.lateMilliseconds) + (allowances.get(host) ?? 0)) * 1000,
    });
    return { host, holes };
  });
  await findBoots(parts.reader, tenant, found);
  await findElsewhere(parts.reader, tenant, found, range);
  const removed = await parts.reader.query(
    sql.logLosses(Math.max(0, range.from - nearestMs), range.to + nearestMs, edgesMax),
  );
  const lost = removed.map(([from, until]) => ({ from_us: Number(from), to_us: Number(until) }));
  for (const { holes } of found) findOvertaken(holes, lost);
  await findDead(letters, tenant, found);
  return {
    ...range,
    hosts: found.map(({ host, holes }) => ({
      host,
      percent: coveredPercent(
        holes.filter(({ healed_us }) => healed_us === null),
        range.from * 1000,
        range.to * 1000,
      ),
      percentInTime: coveredPercent(holes, range.from * 1000, range.to * 1000),
      holes: holes.slice(0, holesMax),
      isTruncated: holes.length > holesMax,
    })),
  };
}

/** What a host's frames may be later than others', milliseconds: it sends from time to time, or its clock is behind. */
function allowance(hosts: Hosts, tenant: string, host: string): number {
  const { online, clockSkewSeconds } = hosts.presence(tenant, host);
  const skew = online ? (clockSkewSeconds ?? 0) : 0;
  const behind = skew > skewSeconds.min && skew < skewSeconds.max ? skew * 1000 : 0;
  return Math.ceil(1.5 * hosts.uploadInterval(tenant, host) + behind);
}

/** The edges of each host: of the range, and the frames before and after it. */
async function readEdges(reader: Reader, range: sql.Edges, now: number): Promise<Map<string, Edge[]>> {
  const { from, to } = range;
  const [before, inside] = await Promise.all([
    reader.query(sql.frameNearest('last', { ...range, from: Math.max(0, from - nearestMs), to: from })),
    reader.query(sql.frameEdges(range, edgesMax + 1)),
  ]);
  if (inside.length > edgesMax) throw new ApiError('too_many_values', { most: edgesMax });
  const edges = new Map<string, Edge[]>();
  const add = (rows: readonly (readonly Cell[])[]) => {
    for (const row of rows) {
      const host = String(row[0]);
      const own = edges.get(host) ?? [];
      own.push(edgeOf(row));
      edges.set(host, own);
    }
  };
  add(before);
  add(inside);
  // Of a host that went on until the end of the range nothing else is needed.
  const silent = range.hosts.filter((host) => {
    const last = edges.get(host)?.at(-1);
    return last === undefined || to * 1000 - last.time_us > 1500 * last.interval_ms;
  });
  if (to < now && silent.length > 0)
    add(
      await reader.query(
        sql.frameNearest('first', { ...range, hosts: silent, from: to, to: Math.min(to + nearestMs, Math.ceil(now)) }),
      ),
    );
  return edges;
}

const edgeOf = ([, time, session, sequence, interval, received, late, before]: readonly Cell[]): Edge => ({
  time_us: Number(time),
  session: String(session),
  sequence: Number(sequence),
  interval_ms: Number(interval),
  received_us: typeof received === 'number' ? received : null,
  late: Number(late) === 1,
  before_us: typeof before === 'number' ? before : null,
});

/** What agents say that they gave up. */
async function readLosses(
  reader: Reader,
  tenant: string,
  hosts: readonly string[],
  range: { from: number; to: number },
): Promise<Map<string, Loss[]>> {
  const table = tableNamed('frame_loss');
  if (!table) return new Map();
  const select = { tenant, table, hosts, labels: [], from: Math.max(0, range.from - nearestMs), to: range.to };
  const rows = await reader.query(sql.newestFirst(select, edgesMax));
  const names = [...table.labels, ...table.fields].map(({ name }) => name);
  const losses = new Map<string, Loss[]>();
  for (const [time, host, ...cells] of rows) {
    const of = (name: string) => cells[names.indexOf(name)];
    const own = losses.get(String(host)) ?? [];
    own.push({
      session: String(of('frame_session')),
      cause: String(of('cause')),
      firstSequence: Number(of('first_sequence')),
      lastSequence: Number(of('last_sequence')),
      first_us: Number(time),
      last_us: Number(of('last_timestamp_seconds') ?? Number.NaN) * 1e6,
    });
    losses.set(String(host), own);
  }
  return losses;
}

/** Tells those holes after which the machine had just been booted. */
async function findBoots(
  reader: Reader,
  tenant: string,
  found: readonly { host: string; holes: readonly Hole[] }[],
): Promise<void> {
  const restarts = found
    .flatMap(({ host, holes }) =>
      holes.flatMap((hole) =>
        hole.cause === 'agent_down' && hole.end_us !== null ? [{ host, time_us: hole.end_us, hole }] : [],
      ),
    )
    .slice(-bootsMax);
  if (restarts.length === 0) return;
  const rows = await reader.query(sql.uptimes(tenant, restarts));
  const boots = new Map(rows.map(([host, time, uptime]) => [`${host} ${time}`, Number(time) - Number(uptime) * 1e6]));
  for (const { host, time_us, hole } of restarts)
    if ((boots.get(`${host} ${time_us}`) ?? 0) > hole.begin_us) hole.cause = 'reboot';
}

/** Tells those holes whose frames are stored at another time: the host's clock was wrong. */
async function findElsewhere(
  reader: Reader,
  tenant: string,
  found: readonly { host: string; holes: readonly Hole[] }[],
  { from, to }: { from: number; to: number },
): Promise<void> {
  const asked = found
    .flatMap(({ host, holes }) =>
      holes.flatMap((hole) =>
        hole.between && hole.session !== null ? [{ hole, host, session: hole.session, ...hole.between }] : [],
      ),
    )
    .slice(-elsewhereMax);
  if (asked.length === 0) return;
  const around = { from: Math.max(0, from - nearestMs), to: to + nearestMs };
  const rows = await reader.query(sql.framesBetween(tenant, asked, around, edgesMax));
  for (const { hole, host, session, after, before } of asked) {
    const there = rows.filter(
      ([own, of, sequence]) => own === host && of === session && Number(sequence) > after && Number(sequence) < before,
    ).length;
    hole.missing = (hole.missing ?? 0) - there;
    if (there > 0 && hole.missing === 0) hole.cause = 'clock';
  }
}

/** Tells those holes whose frames may be among the dead letters: put aside while they were due. */
async function findDead(
  letters: Pick<DeadLetters, 'next'>,
  tenant: string,
  found: readonly { host: string; holes: readonly Hole[] }[],
): Promise<void> {
  const waiting = found.values();
  const work = async () => {
    try {
      for (const { host, holes } of waiting) await findDeadOf(letters, tenant, host, holes);
    } catch (cause) {
      // Without the log the holes are still known, only this cause is not: nothing more is asked.
      if (!(cause instanceof ApiError)) throw cause;
      while (!waiting.next().done);
    }
  };
  await Promise.all(Array.from({ length: lettersHosts }, work));
}

async function findDeadOf(
  letters: Pick<DeadLetters, 'next'>,
  tenant: string,
  host: string,
  holes: readonly Hole[],
): Promise<void> {
  let asked = 0;
  /** When the first dead letter that is not before the hole was put aside. */
  let letter = Number.NEGATIVE_INFINITY;
  for (const hole of holes) {
    if (hole.cause !== 'unknown') continue;
    const begin = Math.ceil(hole.begin_us / 1000);
    if (letter < begin) {
      if (++asked > lettersMax) return;
      letter = (await letters.next(tenant, host, begin)) ?? Number.POSITIVE_INFINITY;
    }
    if (letter <= (hole.end_us ?? 0) / 1000 + ingestMs) hole.cause = 'dead_letter';
  }
}
