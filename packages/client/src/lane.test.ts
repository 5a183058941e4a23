import { expect, test, vi } from 'vitest';
import { Lane } from '#lane.ts';
import { ScriptedServer, taken } from '#scripted.ts';
import { Transport } from '#transport.ts';

const soon = { timeout: 20_000, interval: 20 };

test('what failed while a page was left is sent when it is left again', async () => {
  const away = { status: 503, headers: { 'retry-after': '300' } };
  const values: unknown[] = [];
  await using server = await ScriptedServer.start(({ entries }) => {
    values.push(entries[0]?.value);
    return values.filter((value) => value === 2).length < 2 ? away : taken;
  });
  const bounds = { batchCount: 1, batchBytes: 1000, flushMilliseconds: 1, queueCount: 10, queueBytes: 10_000 };
  const lane = new Lane('measure', new Transport(server.url, 'frk_k1_s', 10_000), bounds, {
    drop: () => {},
    trouble: () => {},
  });
  lane.put('{"value":1}');
  await vi.waitFor(() => expect(lane.stats.retries).toBe(1), soon);
  lane.put('{"value":2}');
  // The first rests until it may be sent again, and the second goes beside it.
  lane.leave(1000);
  await vi.waitFor(() => expect(lane.stats.retries).toBe(2), soon);
  lane.leave(1000);
  await vi.waitFor(() => expect(values.filter((value) => value === 2)).toHaveLength(2), soon);
  lane.abandon();
});
