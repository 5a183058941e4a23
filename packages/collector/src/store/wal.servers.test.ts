// A table that QuestDB has suspended: told by the collector's own metrics. Only in QuestDB's development mode can one be made so.
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import { afterEach, expect, test, vi } from 'vitest';
import { systemClock } from '#clock.ts';
import { execute } from '#store/admin.ts';
import { watchWal } from '#store/wal.ts';
import { Telemetry } from '#telemetry.ts';

afterEach(() => {
  vi.unstubAllEnvs();
});

test('a table that the store has suspended, and what waits for it, are told', { timeout: 180_000 }, async () => {
  vi.stubEnv('QDB_DEV_MODE_ENABLED', 'true');
  await using questdb = await startQuestdb();
  const settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  const telemetry = new Telemetry('silent');
  const gauge = async (name: string) =>
    Number(new RegExp(`^fleetreel_collector_${name} (\\S+)$`, 'm').exec(await telemetry.registry.metrics())?.[1]);
  await execute(settings, 'CREATE TABLE halted (ts TIMESTAMP, value DOUBLE) TIMESTAMP(ts) PARTITION BY DAY WAL');
  await execute(settings, 'ALTER TABLE halted SUSPEND WAL');
  await execute(settings, "INSERT INTO halted VALUES ('2026-01-01', 1)");
  const stopping = new AbortController();
  const watching = watchWal(settings, telemetry, systemClock, stopping.signal);
  await expect.poll(() => gauge('store_suspended_tables'), { timeout: 15_000 }).toBe(1);
  expect(await gauge('store_wal_waiting_transactions')).toBeGreaterThan(0);
  stopping.abort();
  await watching;
});
