import type { Columns } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { inventoryAnswerMilliseconds } from '#limits.ts';
import { type Source, Unavailable } from '#source.ts';
import { sentence } from '#telemetry.ts';

/** Time between the two samples: enough for a rate. */
const betweenMilliseconds = 1000;

type Seen = {
  source: string;
  state: 'ok' | 'unavailable' | 'failed';
  /** Rows by table. */
  rows: Record<string, number>;
  /** Why it can't be read, or what it can't see. */
  reasons: string[];
};

/**
 * What can be seen on this host, what can't, and why: a page for people, or JSON. Everything is sampled twice, since
 * what is a rate has no value at first.
 */
export async function inventory(sources: readonly Source[], clock: Clock, json: boolean): Promise<string> {
  const seen = sources.map(({ name }): Seen => ({ source: name, state: 'ok', rows: {}, reasons: [] }));
  const each = (step: (source: Source, one: Seen) => unknown) =>
    Promise.all(
      sources.map(async (source, index) => {
        const one = seen[index] as Seen;
        if (one.state === 'ok') await attempt(one, () => step(source, one), clock);
      }),
    );
  await each((source) => source.open());
  await each(sample);
  await clock.sleep(betweenMilliseconds);
  await each(sample);
  await each((source, one) => {
    one.reasons.push(...(source.limitations?.() ?? []));
    return source.close();
  });
  return json ? JSON.stringify({ sources: seen }, null, 2) : page(seen);
}

async function sample(source: Source, seen: Seen): Promise<void> {
  for (const [table, columns] of Object.entries(await source.sample()))
    seen.rows[table] = Math.max(0, ...Object.values(columns as Columns).map(({ length }) => length));
}

async function attempt(seen: Seen, step: () => unknown, clock: Clock): Promise<void> {
  const answered = new AbortController();
  const tooLate = async () => {
    await clock.sleep(inventoryAnswerMilliseconds, answered.signal);
    throw new Error(`has not answered for ${inventoryAnswerMilliseconds / 1000} s`);
  };
  try {
    await Promise.race([(async () => step())(), tooLate()]);
  } catch (cause) {
    seen.state = cause instanceof Unavailable ? 'unavailable' : 'failed';
    seen.reasons.push(sentence(cause));
  } finally {
    answered.abort();
  }
}

function page(seen: readonly Seen[]): string {
  const width = Math.max(...seen.map(({ source }) => source.length));
  return seen
    .flatMap(({ source, state, rows, reasons }) => {
      const tables = Object.entries(rows).map(([table, count]) => `${table}: ${count} ${count === 1 ? 'row' : 'rows'}`);
      const head = `${source.padEnd(width)}  ${state.padEnd(11)}  ${tables.join(', ')}`.trimEnd();
      return [head, ...reasons.map((reason) => `${' '.repeat(width + 2)}${reason}`)];
    })
    .join('\n');
}
