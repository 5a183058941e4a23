import { expect, test } from 'vitest';
import { Events } from '#events.ts';
import { eventsWaitingMax } from '#limits.ts';

const clock = { now_us: () => 1_795_238_811_539_123 };
const started = { kind: 'process', action: 'start', entity: '1', name: 'nginx' } as const;

test('what happened is taken once, oldest first, with its own time to the microsecond', () => {
  const events = new Events(clock);
  expect(events.take()).toBeUndefined();
  events.record(started);
  events.record({ ...started, action: 'stop', time_us: 1_795_238_811_539_001, duration_s: 2, code: 137 });
  const table = events.take();
  expect(table?.timestamp_seconds.map((seconds) => Math.round(seconds * 1e6))).toEqual([
    1_795_238_811_539_123, 1_795_238_811_539_001,
  ]);
  expect(table).toMatchObject({
    action: ['start', 'stop'],
    detail: ['', ''],
    duration_seconds: [Number.NaN, 2],
    status_code: [Number.NaN, 137],
  });
  expect(events.take()).toBeUndefined();
});

test('more than a frame should carry waits for the next', () => {
  const events = new Events(clock);
  for (let entity = 0; entity < 100; entity++)
    events.record({ ...started, entity: String(entity), name: 'x'.repeat(4096) });
  const taken: string[] = [];
  let frames = 0;
  for (let table = events.take(); table; table = events.take()) {
    frames++;
    taken.push(...table.entity);
  }
  expect(taken).toEqual(Array.from({ length: 100 }, (_, entity) => String(entity)));
  expect(frames).toBeGreaterThan(3);
});

test('the oldest go first when too many wait, and are counted', () => {
  const events = new Events(clock);
  for (let entity = 0; entity < eventsWaitingMax + 3; entity++) events.record({ ...started, entity: String(entity) });
  expect(events.dropped).toBe(3);
  expect(events.take()?.entity[0]).toBe('3');
});
