// Tables that QuestDB has suspended: told by the collector's own metrics, and ours resumed. Only in QuestDB's development mode can
// one be made so.
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import { afterEach, expect, test, vi } from 'vitest';
import { type Clock, systemClock } from '#clock.ts';
import { execute } from '#store/admin.ts';
import { frameTable } from '#store/schema.ts';
import { watchWal } from '#store/wal.ts';
import { Telemetry } from '#telemetry.ts';

afterEach(() => {
  vi.unstubAllEnvs();
});

/** Of which ten seconds are soon over. */
const hurried: Clock = {
  ...systemClock,
  sleep: (milliseconds, signal) => systemClock.sleep(milliseconds / 100, signal),
};

test('a table that the store has suspended, and what waits for it, are told; ours go on', {
  timeout: 180_000,
}, async () => {
  vi.stubEnv('QDB_DEV_MODE_ENABLED', 'true');
  await using questdb = await startQuestdb();
  const settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  const telemetry = new Telemetry('silent');
  const gauge = async (name: string) =>
    Number(new RegExp(`^fleetreel_collector_${name} (\\S+)$`, 'm').exec(await telemetry.registry.metrics())?.[1]);
  for (const table of ['halted', frameTable]) {
    await execute(settings, `CREATE TABLE ${table} (ts TIMESTAMP, value DOUBLE) TIMESTAMP(ts) PARTITION BY DAY WAL`);
    await execute(settings, `ALTER TABLE ${table} SUSPEND WAL`);
    await execute(settings, `INSERT INTO ${table} VALUES ('2026-01-01', 1)`);
  }
  const rows = async (table: string) => (await execute(settings, `SELECT count() FROM ${table}`))[0]?.[0];
  expect([await rows('halted'), await rows(frameTable)]).toEqual([0, 0]);
  const begin = Date.now();
  const again: (readonly number[])[] = [];
  const stopping = new AbortController();
  const parts = { telemetry, clock: hurried, written: (times: readonly number[]) => again.push(times) };
  const watching = watchWal(settings, parts, stopping.signal);
  // Somebody else's table stays as it is.
  await expect.poll(() => gauge('store_suspended_tables'), { timeout: 15_000 }).toBe(1);
  expect(await gauge('store_wal_waiting_transactions')).toBeGreaterThan(0);
  await expect.poll(() => rows(frameTable), { timeout: 15_000 }).toBe(1);
  await expect.poll(() => again.length, { timeout: 15_000 }).toBe(1);
  expect(again[0]?.[0]).toBeLessThan(begin);
  expect(again[0]?.at(-1)).toBeGreaterThanOrEqual(begin);
  expect(await rows('halted')).toBe(0);
  stopping.abort();
  await watching;
});
