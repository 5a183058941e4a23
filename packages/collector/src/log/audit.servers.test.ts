// Records of the audit trail that the log does not take at once: there is no stream yet, as where NATS comes back late.
import { decodeAuditRecord } from '@fleetreel/proto/custom';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { auditWaitingMax } from '#limits.ts';
import { Audit } from '#log/audit.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { keepLog, streamName } from '#log/stream.ts';
import { Telemetry } from '#telemetry.ts';

const closing = new AsyncDisposableStack();
const telemetry = new Telemetry('silent');
const bounds = { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 };
const ada = { tenant: 'default', kind: 'user', id: 'ada', name: 'ada' } as const;
const deed = (target: string) => ({ action: 'user.delete', target, address: '127.0.0.1' });
const until = (check: () => unknown) => expect.poll(check, { timeout: 30_000, interval: 20 });
let nats: NatsServer;
let log: Log;

beforeAll(async () => {
  nats = closing.use(await startNats());
  log = await connectLog(nats.url);
  closing.defer(() => log.connection.close());
});
afterAll(() => closing.disposeAsync());

beforeEach(async () => {
  await log.manager.streams.delete(streamName).catch(() => undefined);
});

async function metric(name: string): Promise<number> {
  const { values } = (await telemetry.registry.getSingleMetric(`fleetreel_collector_${name}`)?.get()) ?? { values: [] };
  return values[0]?.value ?? 0;
}

/** The targets of what the log has. */
async function recorded(): Promise<string[]> {
  const { state } = await log.manager.streams.info(streamName);
  const found: string[] = [];
  for (let seq = Math.max(1, state.first_seq); seq <= state.last_seq; seq++) {
    const message = await log.manager.streams.getMessage(streamName, { seq });
    if (message) found.push(decodeAuditRecord(message.data).target);
  }
  return found.sort();
}

test('what the log does not take is told, and repeated until it is there, once', async () => {
  const audit = new Audit(log, 'box', telemetry, systemClock);
  closing.defer(() => audit.close());
  for (const target of ['bea', 'cleo'])
    await expect(audit.record(ada, deed(target))).rejects.toMatchObject({ code: 'log_unavailable' });
  expect(await metric('audit_records_waiting')).toBe(2);
  await keepLog(log, bounds, undefined, telemetry);
  await until(recorded).toEqual(['bea', 'cleo']);
  await until(() => metric('audit_records_waiting')).toBe(0);
  await audit.record(ada, deed('dan'));
  expect(await recorded()).toEqual(['bea', 'cleo', 'dan']);
});

test('what waits when the collector stops is tried once more, and what the log does not take then is told', async () => {
  const still = { ...systemClock, sleep: (_: number, signal?: AbortSignal) => untilAborted(signal) };
  const [one, two] = [new Audit(log, 'box', telemetry, still), new Audit(log, 'box', telemetry, still)];
  await expect(one.record(ada, deed('eve'))).rejects.toThrow();
  await expect(two.record(ada, deed('fay'))).rejects.toThrow();
  await one.close();
  expect(await metric('audit_records_lost_total')).toBe(1);
  await keepLog(log, bounds, undefined, telemetry);
  await two.close();
  expect(await metric('audit_records_lost_total')).toBe(1);
  expect(await recorded()).toEqual(['fay']);
});

test('where too many wait, nothing more of that kind is begun', async () => {
  const still = { ...systemClock, sleep: (_: number, signal?: AbortSignal) => untilAborted(signal) };
  const audit = new Audit(log, 'box', telemetry, still);
  closing.defer(() => audit.close());
  audit.admit();
  await Promise.allSettled(Array.from({ length: auditWaitingMax }, (_, at) => audit.record(ada, deed(`${at}`))));
  expect(await metric('audit_records_waiting')).toBe(auditWaitingMax);
  expect(() => audit.admit()).toThrow('records of the audit trail wait for it');
});

const untilAborted = (signal?: AbortSignal): Promise<never> =>
  new Promise((_, reject) => signal?.addEventListener('abort', () => reject(signal.reason)));
