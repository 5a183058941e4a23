// What the log's bounds removed before the store had it: told beside the frames, so that holes in them have a cause.
import { type AdminSettings, execute } from '#store/admin.ts';
import { frameTable, logLossTable } from '#store/schema.ts';

/** Messages that were lost, and between which times the log got them: UTC, microseconds since 1970. */
export type LogLoss = {
  /** Undefined: since the log got the newest frame that the store has of before. */
  from_us: number | undefined;
  to_us: number;
  messages: number;
};

/** How long after its own time a frame is stored as a rule, microseconds. */
const late_us = 3_600_000_000;

/** Notes a loss; one from the same time, which was shorter, is replaced. Returns from when it is. */
export async function noteLogLoss(settings: AdminSettings, { from_us, to_us, messages }: LogLoss): Promise<number> {
  const begin_us = from_us ?? (await newestBefore(settings, to_us));
  await execute(
    settings,
    `INSERT INTO ${logLossTable} (ts, until, messages) VALUES (${begin_us}, ${to_us}, ${messages})`,
  );
  return begin_us;
}

/** When the log got the newest frame that the store has of before a time; 0 where it has none. */
async function newestBefore(settings: AdminSettings, to_us: number): Promise<number> {
  const frames = `FROM ${frameTable} WHERE ts < ${to_us} AND received < ${to_us}`;
  const [newest] = await execute(settings, `SELECT cast(ts AS long) ${frames} ORDER BY ts DESC LIMIT 1`);
  if (newest === undefined) return 0;
  const [row] = await execute(
    settings,
    `SELECT cast(max(received) AS long) ${frames} AND ts > ${Number(newest[0]) - late_us}`,
  );
  return Number(row?.[0]);
}
