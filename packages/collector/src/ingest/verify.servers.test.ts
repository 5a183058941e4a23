// A store is filled from the log, and then holds what the log holds: frames, what applications wrote, the audit trail. What it does not
// hold, or holds otherwise, is found out.
import { encodeFrame, subject, type Tables } from '@fleetreel/proto';
import { type CustomBatch, decodeCustomBatch, encodeCustomBatch } from '@fleetreel/proto/custom';
import { startNats } from '@fleetreel/test/servers/nats';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Clock, systemClock } from '#clock.ts';
import { rebuild } from '#ingest/rebuild.ts';
import { LogContent } from '#ingest/verify.ts';
import { Audit } from '#log/audit.ts';
import type { Log } from '#log/connect.ts';
import { CustomLog, type Measures } from '#log/custom.ts';
import type { Registry } from '#log/registry.ts';
import { streamName } from '#log/stream.ts';
import { storeContent } from '#store/content.ts';
import { Rollups } from '#store/rollup.ts';
import { keepTables } from '#store/schema.ts';
import { Writer } from '#store/writer.ts';
import { Telemetry } from '#telemetry.ts';
import { startLog } from '#testing.ts';

const minute_us = 60_000_000;
const day_us = 1440 * minute_us;
const telemetry = new Telemetry('silent');
const closing = new AsyncDisposableStack();
const never = new AbortController().signal;
/** Rows of the last minute are not compared: they may still come. */
const behind: Clock = { ...systemClock, now_us: () => systemClock.now_us() - 10 * minute_us };
const shop = { tenant: 'default', source: 'shop' };
const till = { tenant: 'default', source: 'till' };
let log: Log;
let registry: Registry;
let questdb: Questdb;

beforeAll(async () => {
  const [nats, started] = await Promise.all([startNats(), startQuestdb()]);
  closing.use(nats);
  questdb = closing.use(started);
  ({ log, registry } = await startLog(closing, nats.url, { age_ms: 86_400_000, bytes: 64 * 1024 ** 2 }, telemetry));
});

afterAll(() => closing.disposeAsync());

const settings = () => ({ http_url: questdb.httpUrl, user: questdb.user, password: questdb.password });

/** Measures of one name; without a time they are of when they came. */
const measures = (name: string, values: readonly number[], time_us?: (index: number) => number): Measures => ({
  time_us: values.map((_, index) => time_us?.(index) ?? Number.NaN),
  name: values.map(() => name),
  value: [...values],
  text: values.map(() => ''),
  metadata: values.map(() => ''),
});

/** The newest batch of the till in the log, as it is repeated when its duplicate window is over. */
async function again(change: (batch: CustomBatch) => CustomBatch): Promise<void> {
  const to = subject({ tenant: till.tenant, kind: 'custom', host: till.source });
  const newest = await log.manager.streams.getMessage(streamName, { last_by_subj: to });
  const batch = decodeCustomBatch(newest?.data ?? new Uint8Array());
  await log.jetstream.publish(to, encodeCustomBatch(change(batch)));
}

async function differences(): Promise<string[]> {
  const { state } = await log.manager.streams.info(streamName);
  const before_us = systemClock.now_us();
  const content = new LogContent(before_us);
  const passage = { from: undefined, lastSequence: state.last_seq, before_us, after_us: 0, isAside: () => false };
  await content.read(log, passage, () => undefined, never);
  return content.differences(await storeContent(settings(), content.earliest_us, before_us));
}

test('a store that is rebuilt holds every measure, event and record, and those that were repeated once', {
  timeout: 60_000,
}, async () => {
  const now_us = behind.now_us();
  const custom = new CustomLog(log, telemetry, behind);
  await custom.put(shop, { measures: measures('depth', [1, 2, 3]) }, undefined);
  await custom.put(till, { measures: measures('size', [4.5, 5], (index) => now_us - index * day_us) }, 'once');
  // The same message again, and one that came at another time: the rows of a time that was said are the same.
  await again((batch) => batch);
  await again((batch) => ({ ...batch, received_us: batch.received_us + 1 }));
  const events = { time_us: [Number.NaN], name: ['deploy'], end_us: [Number.NaN], severity: ['info'] };
  await custom.put({ ...shop, tenant: 'acme' }, { events: { ...events, text: ['4.2'], metadata: [''] } }, undefined);
  await new Audit(log, 'box', telemetry, behind).record(
    { tenant: 'default', kind: 'user', id: 'ada', name: 'ada' },
    { action: 'user.create', target: 'ben', address: '127.0.0.1' },
  );
  const cpu = { core: ['total'], used_percent: [17] };
  const frame = { session: '00000000000000aa', sequence: 1, time_us: now_us, interval_ms: 1000 };
  await log.jetstream.publish(
    subject({ tenant: 'default', kind: 'frame', host: 'web-1' }),
    encodeFrame({ ...frame, tables: { cpu } as unknown as Tables }),
  );

  const tables = () => keepTables(settings(), 30, telemetry);
  await tables();
  await using writer = new Writer(settings(), tables, telemetry);
  const said: string[] = [];
  const parts = { log, store: 'copy', from: undefined, settings: settings(), rawMilliseconds: 30 * 86_400_000 };
  const rollups = new Rollups(settings(), telemetry, systemClock);
  const say = (line: string) => said.push(line);
  const holds = await rebuild({ ...parts, writer, rollups, registry, telemetry, clock: systemClock, say }, never);
  expect(holds, said.join('\n')).toBe(true);
  // Five measures, an event, a record; a frame and its one row.
  expect(said.at(-1)).toMatch(/holds what the log holds: 9 rows before/);
  expect(await differences()).toEqual([]);
});

test('what is not in the store, or otherwise, is said', { timeout: 60_000 }, async () => {
  const found = (...patterns: RegExp[]) =>
    expect.poll(differences, { timeout: 20_000 }).toEqual(patterns.map((pattern) => expect.stringMatching(pattern)));
  await questdb.query(`UPDATE measure SET value = 7 WHERE name = 'depth' AND value = 2`);
  await found(/^measure of shop \(default\) on [\d-]+: sum of value: the log has [\d.]+, the store [\d.]+$/);
  await questdb.query('TRUNCATE TABLE audit');
  await questdb.query('TRUNCATE TABLE custom_event');
  await found(
    /^measure of shop/,
    /^custom_event of shop \(acme\) on [\d-]+: rows: the log has 1, the store 0$/,
    /^audit of box \(default\) on [\d-]+: rows: the log has 1, the store 0$/,
  );
});
