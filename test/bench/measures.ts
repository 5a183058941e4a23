// P11: measures that applications write, each alone and in bulk, until they are in the store.
import { cpuSeconds } from '../numbers/process.ts';
import { startProgram } from '../servers/program.ts';
import { endOf, eventually, Stack } from '../stack.ts';
import { type Figure, type Measured, measured, middle } from './figure.ts';
import { push } from './ilp.ts';
import { lines } from './measures_sent.ts';
import type { Written } from './writers.ts';

const rounds = 3;
/** How applications write: measures a call, and connections at a time. */
const ways = {
  single: { entries: 1, connections: 64, perSecond: 5000 },
  bulk: { entries: 1000, connections: 4, perSecond: 100_000 },
} as const;
type Way = (typeof ways)[keyof typeof ways];
/** For all of a round to be in the store, milliseconds. */
const storedWithin_ms = 300_000;

/** What a round took. */
type Round = Written & {
  /** Measures a second. */
  rate: number;
  /** CPU of the collector for one of them, microseconds. */
  collector_us: number;
  /** From the last answer until all can be found. */
  stored_s: number;
};

/** P11, with rounds of so many seconds. */
export async function measures(seconds: number): Promise<Figure[]> {
  // A key may write as fast as it can.
  await using stack = await Stack.start({ settings: { 'custom-rate': '10000000', 'custom-bytes': String(1024 ** 3) } });
  const { secret } = (await (
    await fetch(`${stack.address}/api/v1/keys`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ name: 'bench', scopes: ['write:measure'] }),
    })
  ).json()) as { secret: string };
  const empty = await startProgram('packages/collector/src/api/http/empty.bench.ts');
  await using _ = empty;
  const emptyPort = Number(await empty.line(/^\d+$/));
  const port = Number(new URL(stack.address).port);

  const figures: Figure[] = [];
  for (const [name, way] of Object.entries(ways)) {
    const own: Round[] = [];
    const yard: number[] = [];
    // The first warms up what is measured, and is not counted.
    for (let round = -1; round < rounds; round++) {
      const took = await writeAll(stack, port, secret, way, round < 0 ? 3 : seconds);
      const rate =
        way.entries === 1 ? await emptyRate(emptyPort, way, round < 0 ? 3 : seconds) : await rawRate(stack, way);
      if (round < 0) continue;
      own.push(took);
      yard.push(rate);
    }
    const of = (pick: (round: Round) => number): Measured => measured(own.map(pick));
    const [rate, raw] = [of(({ rate: one }) => one), measured(yard)];
    const text = (value: Measured) => `${Number(middle(value).toPrecision(3))}`;
    figures.push({
      id: 'P11',
      name: `measures: ${name}`,
      unit: 'measures/s',
      value: rate,
      yardstick: {
        what: way.entries === 1 ? 'a server with an empty handler' : 'the same as prepared lines',
        value: raw,
      },
      goal: { text: `>= ${way.perSecond.toLocaleString('en-US')}`, reached: rate.median >= way.perSecond },
      method:
        `${way.entries.toLocaleString('en-US')} a call (NDJSON, three metadata each), ${way.connections} connections that are kept, ${seconds} s, ${rounds} rounds; ` +
        `answered when the log has them: p50 ${text(of((one) => one.answer_p50_ms))}, p99 ${text(of((one) => one.answer_p99_ms))} ms; ` +
        `all in the store ${text(of((one) => one.stored_s))} s after the last answer; ${text(of((one) => one.collector_us))} us of the collector each, storing included`,
    });
  }
  return figures;
}

const storedCount = async ({ questdb }: Stack): Promise<number> =>
  Number((await questdb.query('SELECT count() FROM measure')).rows[0]?.[0]);

async function writeAll(stack: Stack, port: number, key: string, way: Way, seconds: number): Promise<Round> {
  await stack.questdb.query('TRUNCATE TABLE measure');
  const before = cpuSeconds(stack.collector.pid);
  const written = await write(port, way, seconds, key);
  const answered_ms = performance.now();
  const count = written.calls * way.entries;
  await eventually(`${count} measures in the store`, storedWithin_ms, async () => {
    const stored = await storedCount(stack);
    if (stored !== count) throw new Error(`there are ${stored}`);
    return true;
  });
  return {
    ...written,
    rate: count / written.seconds,
    stored_s: (performance.now() - answered_ms) / 1000,
    collector_us: ((cpuSeconds(stack.collector.pid) - before) * 1e6) / count,
  };
}

async function emptyRate(port: number, way: Way, seconds: number): Promise<number> {
  const { calls, seconds: took } = await write(port, way, seconds, '');
  return calls / took;
}

/** Measures a second that the store takes when nothing else is to be done. */
async function rawRate({ questdb }: Stack, { entries, connections }: Way): Promise<number> {
  const calls = 1000;
  const bodies = lines(calls, entries);
  await questdb.query('TRUNCATE TABLE measure');
  const begin_ms = performance.now();
  await push(questdb, bodies, connections);
  return (calls * entries) / ((performance.now() - begin_ms) / 1000);
}

async function write(port: number, { entries, connections }: Way, seconds: number, key: string): Promise<Written> {
  const args = Object.entries({ port, connections, entries, seconds }).flatMap(([name, value]) => [
    `--${name}`,
    String(value),
  ]);
  const writers = await startProgram('test/bench/writers.ts', args, { FLEETREEL_BENCH_KEY: key });
  const { code, output } = await endOf(writers, (seconds + 60) * 1000);
  if (code !== 0) throw new Error(`The writers failed: ${output}`);
  return JSON.parse(output) as Written;
}
