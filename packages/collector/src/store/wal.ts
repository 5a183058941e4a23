// The store's write-ahead logs: what it has taken and not applied yet waits there, kept and not to be seen. Told, and set going again.
import type { Clock } from '#clock.ts';
import { watchMilliseconds } from '#limits.ts';
import { type AdminSettings, execute, type Value } from '#store/admin.ts';
import { storeTables } from '#store/schema.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

const minute = 60_000;
const ours = new Set(storeTables(1).map(({ name }) => name));

export type WalParts = {
  telemetry: Telemetry;
  clock: Clock;
  /** Told of the times during which a table stood still, UTC in milliseconds: what was computed from it then has to be computed again. */
  written: (times: readonly number[]) => void;
};

/**
 * Looks at the store's write-ahead logs until the signal. When QuestDB can't write a table (its disk is full), it goes on to take
 * rows for it into its own log, and suspends the table: nothing becomes visible, nor is anything lost, until somebody resumes it.
 * Our own tables are resumed; others are somebody else's, and only counted.
 */
export async function watchWal(settings: AdminSettings, parts: WalParts, signal: AbortSignal): Promise<void> {
  const { telemetry, clock } = parts;
  const halt = new Halt(parts);
  while (!signal.aborted) {
    try {
      const tables = await execute(
        settings,
        'SELECT name, suspended, sequencerTxn - writerTxn, errorMessage FROM wal_tables()',
      );
      const waiting = tables.reduce((sum, [, , transactions]) => sum + Number(transactions), 0);
      const suspended = tables.filter(([, isSuspended]) => isSuspended === true);
      telemetry.wal(waiting, suspended.length);
      const own = suspended.filter(([name]) => ours.has(String(name)));
      halt.look(own);
      for (const [name] of own) await execute(settings, `ALTER TABLE "${String(name)}" RESUME WAL`);
    } catch (cause) {
      // That the store is away is told by readiness, and by whoever writes.
      telemetry.log.debug({ reason: sentence(cause) }, "the store's write-ahead logs could not be looked at");
    }
    await clock.sleep(watchMilliseconds, signal).catch(() => undefined);
  }
}

/** For how long any of our tables stands still. */
class Halt {
  readonly #parts: WalParts;
  /** Since when, and when it was looked at: UTC milliseconds. */
  #since_ms: number | undefined;
  #looked_ms: number;

  constructor(parts: WalParts) {
    this.#parts = parts;
    this.#looked_ms = parts.clock.now_us() / 1000;
  }

  /** Takes the tables that are suspended now. */
  look(suspended: readonly Value[][]): void {
    const { telemetry, clock, written } = this.#parts;
    const now_ms = clock.now_us() / 1000;
    if (suspended.length > 0) {
      if (this.#since_ms === undefined)
        telemetry.tablesSuspended(
          suspended.length,
          suspended.map(([name, , , reason]) => `${String(name)}: ${String(reason)}`).join('; '),
        );
      this.#since_ms ??= this.#looked_ms;
    } else if (this.#since_ms !== undefined) {
      telemetry.tablesResumed();
      const times: number[] = [];
      for (let time_ms = this.#since_ms - minute; time_ms <= now_ms; time_ms += minute) times.push(time_ms);
      written([...times, now_ms]);
      this.#since_ms = undefined;
    }
    this.#looked_ms = now_ms;
  }
}
