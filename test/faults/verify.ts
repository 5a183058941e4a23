// Counts a fleet's frames one by one: what its ledgers say, against what is in the store, in the dead letters, in the table of
// losses, and in the coverage that the collector tells.
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import { catalog, decodeFrame, prefix, scanFrame } from '@fleetreel/proto';
import { decodeBatch } from '@fleetreel/proto/batch';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { countRows } from '../bench/fleet.ts';
import type { Stack } from '../stack.ts';
import { type Counted, coverageDifferences, coverageOf, type Window } from './coverage.ts';
import { capturedAt, readLedgers, type Session } from './ledger.ts';

/** What was sampled so shortly before a kill was nowhere but in the killed process, milliseconds. */
const inProgress_ms = 2000;
/** Pause between two counts, milliseconds: each reads the whole table of frames. */
const again_ms = 500;
/** Tables that are not the fleet's alone, or whose rows have times of their own. */
const uncounted = new Set(['frame_loss', ...catalog.filter((table) => table.rowTime).map(({ name }) => name)]);

/** Frames by what became of them, as `<host> <session> <sequence>`. */
export type Verdict = {
  sampled: number;
  acknowledged: number;
  stored: number;
  /** Acknowledged, and neither stored nor put aside with a reason. */
  lost: string[];
  /** Stored more than once. */
  doubled: string[];
  /** Tables that have more or fewer rows than the stored frames. */
  uneven: string[];
  /** Stored, though nobody sampled them. */
  foreign: string[];
  /** Sampled, never acknowledged, and nobody says why they are not stored. */
  unexplained: string[];
  /** Where the coverage that the collector tells is not what was counted. */
  uncovered: string[];
  /** Not stored, and explained so. */
  explained: { loss: number; dead: number; killed: number };
};

export type VerifyOptions = {
  stack: Pick<Stack, 'questdb' | 'nats' | 'address'>;
  /** Folder of the ledgers. */
  ledgers: string;
  /** The recorded frames of the fleet. */
  frames: string;
  /** Reasons for which frames may be put aside; by default none. */
  mayDie?: RegExp;
  /** Only frames that were sampled then, while the fleet goes on; by default all, of a fleet that has ended. */
  window?: Window;
  /** Longest wait for what is still under way. */
  within_ms?: number;
};

/** Waits until nothing is missing any more, or the time is over; returns what was found last. */
export async function verify(options: VerifyOptions): Promise<Verdict> {
  const end_ms = performance.now() + (options.within_ms ?? 120_000);
  for (;;) {
    let verdict: Verdict | undefined;
    try {
      verdict = await count(options);
    } catch (cause) {
      // A part may still be coming back.
      if (performance.now() > end_ms) throw cause;
    }
    if (verdict && (isClean(verdict) || performance.now() > end_ms)) return verdict;
    await pause(again_ms);
  }
}

export const isClean = ({ lost, doubled, uneven, foreign, unexplained, uncovered }: Verdict): boolean =>
  lost.length + doubled.length + uneven.length + foreign.length + unexplained.length + uncovered.length === 0;

/** A verdict in some lines. */
export function describeVerdict(verdict: Verdict): string {
  const { sampled, acknowledged, stored, explained } = verdict;
  const few = (what: string, list: readonly string[]) =>
    list.length === 0 ? [] : [`${what}: ${list.length}, such as ${list.slice(0, 5).join(', ')}`];
  return [
    `${sampled} frames sampled, ${acknowledged} acknowledged, ${stored} stored; not stored and explained: ` +
      `${explained.loss} by the table of losses, ${explained.dead} by dead letters, ${explained.killed} within a killed process`,
    ...few('LOST', verdict.lost),
    ...few('DOUBLED', verdict.doubled),
    ...few('UNEVEN', verdict.uneven),
    ...few('FOREIGN', verdict.foreign),
    ...few('UNEXPLAINED', verdict.unexplained),
    ...few('COVERAGE', verdict.uncovered),
  ].join('\n');
}

async function count({ stack, ledgers, frames, mayDie = /^\b$/, window }: VerifyOptions): Promise<Verdict> {
  const sessions = await readLedgers(ledgers);
  const stored = await storedFrames(stack);
  const dead = await deadFrames(stack.nats.url);
  const losses = await lossesOf(stack);
  const verdict: Verdict = {
    sampled: 0,
    acknowledged: 0,
    stored: 0,
    lost: [],
    doubled: [],
    uneven: [],
    foreign: [],
    unexplained: [],
    uncovered: [],
    explained: { loss: 0, dead: 0, killed: 0 },
  };
  for (const one of sessions.values()) judge(one, verdict, { stored, dead, mayDie, losses, window });
  if (window === undefined) {
    verdict.foreign.push(...foreignFrames(sessions, stored));
    verdict.uneven.push(...(await unevenTables(stack, frames, sessions, stored)));
  } else verdict.uncovered.push(...(await uncoveredFrames(stack, window, { sessions, stored })));
  return verdict;
}

/** Stored frames that no ledger knows. */
function foreignFrames(sessions: ReadonlyMap<string, Session>, stored: Known['stored']): string[] {
  const hosts = hostsOf(sessions);
  const foreign: string[] = [];
  for (const [key, found] of stored) {
    const [host, session] = key.split(' ');
    // Hosts that are none of the fleet's may be there, too.
    if (!hosts.has(host ?? '')) continue;
    const own = sessions.get(`${host} ${session}`);
    for (const sequence of found.keys()) if (!own?.sampled.has(sequence)) foreign.push(`${key} ${sequence}`);
  }
  return foreign;
}

/** Where the coverage is not what was counted. */
async function uncoveredFrames(
  { address }: VerifyOptions['stack'],
  window: Window,
  counted: Counted,
): Promise<string[]> {
  const hosts = [...hostsOf(counted.sessions)].sort();
  const coverage = await coverageOf(address, hosts, window);
  const told = coverage.hosts.map(({ host }) => host);
  if (told.join() !== hosts.join()) return [`it is of the hosts ${told.join()}, and not of ${hosts.join()}`];
  return coverageDifferences(coverage, counted);
}

type Known = {
  stored: ReadonlyMap<string, ReadonlyMap<number, number>>;
  dead: ReadonlyMap<string, string>;
  mayDie: RegExp;
  losses: readonly Loss[];
  window: Window | undefined;
};

function judge(one: Session, verdict: Verdict, { stored, dead, mayDie, losses, window }: Known): void {
  const key = `${one.host} ${one.session}`;
  const found = stored.get(key);
  for (const [sequence, { at_ms }] of one.sampled) {
    if (window && (at_ms < window.from_ms || at_ms >= window.to_ms)) continue;
    const name = `${key} ${sequence}`;
    const isAcknowledged = one.acknowledged.has(sequence);
    verdict.sampled++;
    if (isAcknowledged) verdict.acknowledged++;
    const times = found?.get(sequence) ?? 0;
    if (times > 0) verdict.stored++;
    if (times > 1) verdict.doubled.push(name);
    if (times > 0) continue;
    const reason = dead.get(name);
    if (reason !== undefined && mayDie.test(reason)) verdict.explained.dead++;
    else if (isAcknowledged) verdict.lost.push(name);
    else if (losses.some((loss) => loss.key === key && loss.first <= sequence && sequence <= loss.last))
      verdict.explained.loss++;
    else if (!one.ended && at_ms > one.last_ms - inProgress_ms) verdict.explained.killed++;
    else verdict.unexplained.push(name);
  }
}

const hostsOf = (sessions: ReadonlyMap<string, Session>): Set<string> =>
  new Set([...sessions.values()].map(({ host }) => host));

/** How often each frame is stored: by host and session, by sequence. */
async function storedFrames({ questdb }: VerifyOptions['stack']): Promise<Map<string, Map<number, number>>> {
  const { rows } = await questdb.query('SELECT host, session, sequence, count() FROM frame');
  const stored = new Map<string, Map<number, number>>();
  for (const [host, session, sequence, times] of rows) {
    const key = `${String(host)} ${String(session)}`;
    let found = stored.get(key);
    if (!found) {
      found = new Map();
      stored.set(key, found);
    }
    found.set(Number(sequence), Number(times));
  }
  return stored;
}

/** Frames that were put aside, as in `Verdict`, with the reason. */
async function deadFrames(natsUrl: string): Promise<Map<string, string>> {
  const filter = `${prefix}.*.dead.*`;
  const dead = new Map<string, string>();
  const connection = await connect({ servers: natsUrl });
  try {
    const manager = await jetstreamManager(connection);
    const { state } = await manager.streams.info('FRAMES', { subjects_filter: filter });
    let left = Object.values(state.subjects ?? {}).reduce((sum, messages) => sum + messages, 0);
    if (left === 0) return dead;
    const consumer = await jetstream(connection).consumers.get('FRAMES', { filter_subjects: filter });
    for await (const { subject, data, headers } of await consumer.fetch({ max_messages: left, expires: 10_000 })) {
      const { session, sequence } = scanFrame(data);
      dead.set(`${subject.split('.')[4]} ${session} ${sequence}`, headers?.get('Fleetreel-Reason') ?? '');
      if (--left === 0) break;
    }
    return dead;
  } finally {
    await connection.close();
  }
}

/** Frames that an agent says it had to give up: of `<host> <session>`, from one sequence to another. */
type Loss = { key: string; first: number; last: number };

async function lossesOf({ questdb }: VerifyOptions['stack']): Promise<Loss[]> {
  const { rows } = await questdb.query('SELECT host, frame_session, first_sequence, last_sequence FROM frame_loss');
  return rows.map(([host, session, first, last]) => ({
    key: `${String(host)} ${String(session)}`,
    first: Number(first),
    last: Number(last),
  }));
}

/** Tables that have not exactly the rows of the stored frames. */
async function unevenTables(
  { questdb }: VerifyOptions['stack'],
  frames: string,
  sessions: ReadonlyMap<string, Session>,
  stored: ReadonlyMap<string, ReadonlyMap<number, number>>,
): Promise<string[]> {
  const rows = decodeBatch(readFileSync(frames)).map((bytes) => countRows(decodeFrame(bytes)));
  const expected = new Map<string, number>();
  for (const key of sessions.keys())
    for (const sequence of stored.get(key)?.keys() ?? [])
      for (const [table, more] of capturedAt(rows, sequence))
        if (!uncounted.has(table)) expected.set(table, (expected.get(table) ?? 0) + more);
  const wrong: string[] = [];
  for (const [table, want] of expected) {
    const { rows: found } = await questdb.query(`SELECT count() FROM ${table} WHERE host ~ '^host-[0-9]+$'`);
    const have = Number(found[0]?.[0]);
    if (have !== want) wrong.push(`${table} has ${have} rows and not ${want}`);
  }
  return wrong;
}
