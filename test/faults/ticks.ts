import type { Questdb } from '../servers/questdb.ts';

/** The stored frames of a host from one time to another, milliseconds since 1970, and the ticks in it that its agent says it left out. */
export async function ticksOf(questdb: Questdb, host: string, from: number, to: number) {
  const [counted, before, after] = await Promise.all(
    [
      `SELECT count() FROM frame WHERE host = '${host}' AND ts >= ${from * 1000} AND ts < ${to * 1000}`,
      `SELECT max(ticks_skipped_total) FROM agent WHERE host = '${host}' AND ts < ${from * 1000}`,
      `SELECT min(ticks_skipped_total) FROM agent WHERE host = '${host}' AND ts >= ${to * 1000}`,
    ].map(async (sql) => (await questdb.query(sql)).rows[0]?.[0] ?? undefined),
  );
  // What was left out at the end is told by the frame after it.
  if (after === undefined)
    throw new Error(`There is no frame of ${host} yet from after ${new Date(to).toISOString()}.`);
  return { frames: Number(counted), leftOut: Number(after) - Number(before ?? 0) };
}
