// What the store has taken and not applied yet: rows that wait there are kept, and not to be seen.
import type { Clock } from '#clock.ts';
import { watchMilliseconds } from '#limits.ts';
import { type AdminSettings, execute } from '#store/admin.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** Looks at the store's write-ahead logs until the signal. */
export async function watchWal(
  settings: AdminSettings,
  telemetry: Telemetry,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  while (!signal.aborted) {
    try {
      const tables = await execute(settings, 'SELECT name, suspended, sequencerTxn - writerTxn FROM wal_tables()');
      const waiting = tables.reduce((sum, [, , transactions]) => sum + Number(transactions), 0);
      telemetry.wal(waiting, tables.filter(([, suspended]) => suspended === true).length);
    } catch (cause) {
      // That the store is away is told by readiness.
      telemetry.log.debug({ reason: sentence(cause) }, "the store's write-ahead logs could not be looked at");
    }
    await clock.sleep(watchMilliseconds, signal).catch(() => undefined);
  }
}
