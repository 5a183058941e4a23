// A store whose disk is full, on a small disk of its own: no row is blamed for it, and none is lost.
import { join } from 'node:path';
import { encodeFrame, type Tables } from '@fleetreel/proto';
import { Disk } from '@fleetreel/test/servers/disk';
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import { expect, test, vi } from 'vitest';
import { type Clock, systemClock } from '#clock.ts';
import { decode } from '#ingest/decode.ts';
import { execute } from '#store/admin.ts';
import { Rows } from '#store/rows.ts';
import { keepTables } from '#store/schema.ts';
import { watchWal } from '#store/wal.ts';
import { Writer } from '#store/writer.ts';
import { Telemetry } from '#telemetry.ts';

const GiB = 1024 ** 3;
/** More rows than fit into what the store has allocated beforehand. */
const rowsOfFrame = 4000;
/** Of which ten seconds are soon over. */
const hurried: Clock = {
  ...systemClock,
  sleep: (milliseconds, signal) => systemClock.sleep(milliseconds / 100, signal),
};

test.runIf(process.getuid?.() === 0 && process.platform === 'linux')(
  'while its disk is full the store is away; then it takes everything, once',
  { timeout: 180_000 },
  async () => {
    using disk = Disk.make(GiB);
    await using questdb = await startQuestdb({ data: join(disk.folder, 'data') });
    const settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
    const telemetry = new Telemetry('silent');
    await keepTables(settings, 30, telemetry);
    await using writer = new Writer(settings, () => keepTables(settings, 30, telemetry), telemetry);
    const begin_us = Date.now() * 1000;
    let sequence = 0;
    const next = () => {
      const core = Array.from({ length: rowsOfFrame }, (_, index) => `${index}`);
      const tables = { cpu: { core, used_percent: core.map(Number) } } as unknown as Tables;
      const header = { session: '00000000000000ab', interval_ms: 1000 };
      const time_us = begin_us + ++sequence * 1000;
      const rows = new Rows(() => undefined);
      const frame = decode(encodeFrame({ ...header, sequence, time_us, tables }));
      rows.add({ ...frame, tenant: 'default', host: 'web', received_us: time_us });
      return rows;
    };
    expect(await writer.send(next())).toEqual(new Map());
    disk.fill();
    // What is allocated is written first; then a write fails, and none of its rows is refused.
    let failure: Error | undefined;
    let waiting = next();
    for (let count = 0; failure === undefined && count < 200; count++)
      try {
        expect(await writer.send(waiting)).toEqual(new Map());
        waiting = next();
      } catch (cause) {
        failure = cause as Error;
      }
    expect(failure?.message).toMatch(/^the store can't write: .*errno: 28|No space left/);

    disk.free();
    const stopping = new AbortController();
    const parts = { telemetry, clock: hurried, written: () => undefined };
    const watching = watchWal(settings, parts, stopping.signal);
    await vi.waitFor(async () => expect(await writer.send(waiting)).toEqual(new Map()), { timeout: 60_000 });
    await vi.waitFor(
      async () => {
        expect(await execute(settings, 'SELECT count(), count_distinct(sequence) FROM frame')).toEqual([
          [sequence, sequence],
        ]);
        expect(await execute(settings, 'SELECT count() FROM cpu')).toEqual([[sequence * rowsOfFrame]]);
      },
      { timeout: 60_000, interval: 200 },
    );
    stopping.abort();
    await watching;
  },
);
