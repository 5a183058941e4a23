import type { Columns } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
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
  const look = () => Promise.all(seen.map((one, index) => sample(sources[index] as Source, one)));
  for (const [index, source] of sources.entries()) await attempt(seen[index] as Seen, () => source.open());
  await look();
  await clock.sleep(betweenMilliseconds);
  await look();
  for (const [index, source] of sources.entries()) {
    const one = seen[index] as Seen;
    if (one.state !== 'ok') continue;
    one.reasons.push(...(source.limitations?.() ?? []));
    await attempt(one, () => source.close());
  }
  return json ? JSON.stringify({ sources: seen }, null, 2) : page(seen);
}

async function sample(source: Source, seen: Seen): Promise<void> {
  if (seen.state !== 'ok') return;
  await attempt(seen, async () => {
    for (const [table, columns] of Object.entries(await source.sample()))
      seen.rows[table] = Math.max(0, ...Object.values(columns as Columns).map(({ length }) => length));
  });
}

async function attempt(seen: Seen, step: () => unknown): Promise<void> {
  try {
    await step();
  } catch (cause) {
    seen.state = cause instanceof Unavailable ? 'unavailable' : 'failed';
    seen.reasons.push(sentence(cause));
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
