import { expect, test } from 'vitest';
import { coveredPercent, type Edge, findHoles, findOvertaken, type HolesQuestion, type Loss } from '#query/holes.ts';

const second = 1_000_000;
/** A frame of each second; times are seconds, and what is late has when it came. */
const edge = (at: number, sequence: number, more: Partial<Edge> & { came?: number } = {}): Edge => ({
  time_us: at * second,
  session: 'a',
  sequence,
  interval_ms: 1000,
  received_us: (more.came ?? at) * second,
  late: more.came !== undefined,
  before_us: (at - 1) * second,
  ...more,
});
const find = (edges: readonly Edge[], more: Partial<HolesQuestion> = {}) =>
  findHoles({
    edges,
    losses: [],
    from_us: 0,
    to_us: 100 * second,
    now_us: 1000 * second,
    patience_us: 10 * second,
    ...more,
  }).map(({ begin_us, end_us, cause, missing, healed_us }) => [
    begin_us / second,
    end_us === null ? null : end_us / second,
    cause,
    missing,
    healed_us === null ? null : healed_us / second,
  ]);
const loss = (cause: string, first: number, last: number, session = 'a'): Loss => ({
  session,
  cause,
  firstSequence: first,
  lastSequence: last,
  first_us: 0,
  last_us: 0,
});
const begin = edge(0, 1);
const end = (sequence: number, more: Partial<Edge> = {}) => edge(99, sequence, { before_us: 98 * second, ...more });

test('a host that sent all along has no hole', () => {
  expect(find([begin, end(100)])).toEqual([]);
  expect(find([begin, edge(1.4, 2, { before_us: 0 }), end(100)])).toEqual([]);
});

test('frames that are missing within a session', () => {
  expect(
    find([begin, edge(10, 11, { before_us: 9 * second }), edge(20, 21, { before_us: 10 * second }), end(100)]),
  ).toEqual([[11, 20, 'unknown', 9, null]]);
});

test('what an agent gave up says why; of several the greatest', () => {
  const edges = [edge(9, 10), edge(20, 21, { before_us: 9 * second }), end(100)];
  const causes = (...losses: Loss[]) => find(edges, { from_us: 9 * second, losses }).map(([, , cause]) => cause);
  expect(causes(loss('spool_bytes', 11, 20))).toEqual(['spool_bytes']);
  expect(causes(loss('disk', 1, 12), loss('queue', 13, 20))).toEqual(['queue']);
  expect(causes(loss('spool_age', 1, 10), loss('spool_age', 21, 30), loss('spool_age', 11, 20, 'b'))).toEqual([
    'unknown',
  ]);
  expect(causes(loss('of a newer version', 11, 20))).toEqual(['unknown']);
});

test('time without frames in which none was made: the host slept', () => {
  expect(find([begin, edge(10, 11), edge(50, 12, { before_us: 10 * second }), end(61)])).toEqual([
    [11, 50, 'skipped', 0, null],
  ]);
});

test('another session: the agent was down, and what it says it lost is counted', () => {
  const edges = [begin, edge(10, 11), edge(50, 1, { before_us: 10 * second, session: 'b' }), end(50, { session: 'b' })];
  expect(find(edges)).toEqual([[11, 50, 'agent_down', 0, null]]);
  expect(find(edges, { losses: [loss('corrupt', 12, 15)] })).toEqual([[11, 50, 'corrupt', 4, null]]);
});

test('a session that begins at once leaves no hole', () => {
  expect(
    find([begin, edge(10, 11), edge(11, 1, { before_us: 10 * second, session: 'b' }), end(89, { session: 'b' })]),
  ).toEqual([]);
});

test('frames that came late are a hole that was healed', () => {
  const late = [edge(20, 21, { before_us: 19 * second, came: 45 }), edge(34, 35, { before_us: 33 * second, came: 46 })];
  const around = [edge(19, 20, { before_us: 18 * second }), ...late, edge(35, 36, { before_us: 34 * second })];
  expect(find([begin, ...around, end(100)])).toEqual([[20, 45, 'link_down', 15, 46]]);
  // Where the link was back is between the last that was late and the first that was not.
  const slow = late.map((one) => ({ ...one, received_us: 90 * second }));
  expect(find([begin, around[0] as Edge, ...slow, around[3] as Edge, end(100)])).toEqual([
    [20, 45, 'link_down', 15, 90],
  ]);
});

test('what was lost of what came late is a hole of its own', () => {
  const edges = [
    begin,
    edge(20, 21, { came: 60 }),
    edge(29, 30, { before_us: 28 * second, came: 60 }),
    edge(40, 41, { before_us: 29 * second, came: 61 }),
    edge(55, 56, { before_us: 54 * second }),
    end(100),
  ];
  expect(find(edges, { losses: [loss('spool_bytes', 31, 40)] })).toEqual([
    [20, 51, 'link_down', 21, 61],
    [30, 40, 'spool_bytes', 10, null],
  ]);
});

test('the ends of a range: before the first frame and after the last', () => {
  expect(find([])).toEqual([[0, 100, 'no_contact', null, null]]);
  expect(find([], { now_us: 100 * second })).toEqual([[0, null, 'no_contact', null, null]]);
  expect(find([edge(40, 1), end(60)])).toEqual([[0, 40, 'no_contact', null, null]]);
  expect(find([begin, edge(30, 31)])).toEqual([[31, null, 'no_contact', null, null]]);
});

test('what was made just now is on its way', () => {
  expect(find([begin, edge(95, 96)], { now_us: 100 * second })).toEqual([]);
  expect(find([begin, edge(85, 86)], { now_us: 100 * second })).toEqual([[86, null, 'no_contact', null, null]]);
});

test('a hole over an end of the range has its true times; one beside it is none of it', () => {
  // The first of a range knows none before it, nor does the one that was looked for after it.
  const edges = [edge(-50, 1), edge(10, 61, { before_us: null }), edge(90, 141), edge(130, 142, { before_us: null })];
  expect(find(edges)).toEqual([
    [-49, 10, 'unknown', 59, null],
    [91, 130, 'skipped', 0, null],
  ]);
  expect(find(edges, { from_us: 20 * second, to_us: 80 * second })).toEqual([]);
});

test('a clock that was put back leaves two runs among each other, and no hole', () => {
  expect(find([begin, edge(30, 31), edge(30.4, 61, { before_us: 30 * second }), end(100)])).toEqual([]);
});

test('the interval is that of the frames themselves', () => {
  const slow = (at: number, sequence: number, before: number) =>
    edge(at, sequence, { interval_ms: 60_000, before_us: before * second });
  expect(find([begin, edge(9, 10), slow(10, 11, 9), slow(70, 12, 10)])).toEqual([]);
});

test('coverage counts time once, within the range', () => {
  const hole = (from: number, to: number | null) => ({ begin_us: from, end_us: to });
  expect(coveredPercent([], 0, 100)).toBe(100);
  expect(coveredPercent([hole(-50, 10), hole(20, 30), hole(25, 40)], 0, 100)).toBe(70);
  expect(coveredPercent([hole(90, null)], 0, 100)).toBe(90);
  expect(coveredPercent([hole(0, null)], 0, 100)).toBe(0);
  expect(coveredPercent([hole(95, 120), hole(10, 60), hole(20, 30)], 0, 100)).toBe(45);
});

test('what the log lost before it was stored explains frames that were due then, and no others', () => {
  const cause = (edges: readonly Edge[], from: number, to: number, losses: readonly Loss[] = []) => {
    const holes = findHoles({ edges, losses, from_us: 0, to_us: 100 * second, now_us: 1000 * second, patience_us: 0 });
    findOvertaken(holes, [{ from_us: from * second, to_us: to * second }]);
    return holes.map((hole) => hole.cause);
  };
  // The clock of the host is 50 seconds behind that of the log.
  const missing = [edge(0, 1, { received_us: 50 * second }), end(91, { before_us: 0, received_us: 149 * second })];
  expect(cause(missing, 60, 140)).toEqual(['log_bound']);
  expect(cause(missing, 148, 200)).toEqual(['log_bound']);
  expect(cause(missing, 0, 50)).toEqual(['unknown']);
  expect(cause(missing, 149, 200)).toEqual(['unknown']);
  const around = [0, 1000] as const;
  expect(cause([begin, end(2, { before_us: 0 })], ...around)).toEqual(['skipped']);
  expect(cause([begin, end(91, { before_us: 0 })], ...around, [loss('queue', 2, 90)])).toEqual(['queue']);
  expect(cause([begin, end(1, { before_us: 0, session: 'b' })], ...around)).toEqual(['agent_down']);
  // The first frames of the new session were made, and are not here.
  expect(cause([begin, end(9, { before_us: 0, session: 'b' })], ...around)).toEqual(['log_bound']);
});
