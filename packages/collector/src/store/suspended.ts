// Sets tables going again that the store has stopped by itself.
import type { Clock } from '#clock.ts';
import { suspendedMilliseconds } from '#limits.ts';
import { type AdminSettings, execute } from '#store/admin.ts';
import { storeTables } from '#store/schema.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

const minute = 60_000;
const names = new Set(storeTables(1).map(({ name }) => name));

/**
 * Looks for suspended tables until the signal. When QuestDB can't write a table (its disk is full), it goes on to take rows for
 * it into its own log, and suspends the table: nothing becomes visible, nor is anything lost, until somebody resumes it.
 * @param written told of the times during which a table stood still: what was computed from it then has to be computed again
 */
export async function resumeSuspended(
  settings: AdminSettings,
  { telemetry, clock, written }: { telemetry: Telemetry; clock: Clock; written: (times: readonly number[]) => void },
  signal: AbortSignal,
): Promise<void> {
  /** Since when tables stand still, UTC milliseconds. */
  let since_ms: number | undefined;
  let looked_ms = clock.now_us() / 1000;
  while (!signal.aborted) {
    try {
      const rows = await execute(settings, 'SELECT name, errorMessage FROM wal_tables() WHERE suspended');
      const suspended = rows.filter(([name]) => names.has(String(name)));
      const now_ms = clock.now_us() / 1000;
      if (suspended.length > 0) {
        if (since_ms === undefined)
          telemetry.tablesSuspended(
            suspended.length,
            suspended.map(([name, reason]) => `${String(name)}: ${String(reason)}`).join('; '),
          );
        since_ms ??= looked_ms;
        for (const [name] of suspended) await execute(settings, `ALTER TABLE "${String(name)}" RESUME WAL`);
      } else if (since_ms !== undefined) {
        telemetry.tablesResumed();
        const times: number[] = [];
        for (let time_ms = since_ms - minute; time_ms <= now_ms; time_ms += minute) times.push(time_ms);
        written([...times, now_ms]);
        since_ms = undefined;
      }
      looked_ms = now_ms;
    } catch (cause) {
      // Whoever writes says that the store is away.
      telemetry.log.debug({ reason: sentence(cause) }, 'it could not be seen which tables are suspended');
    }
    await clock.sleep(suspendedMilliseconds, signal).catch(() => undefined);
  }
}
