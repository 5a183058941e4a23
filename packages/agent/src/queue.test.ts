import { expect, test } from 'vitest';
import { Queue } from '#queue.ts';

const bytes = (size: number) => new Uint8Array(size);

test('frames leave in order and are forgotten only some time after their acknowledgement', () => {
  const queue = new Queue({ frames: 10, bytes: 1000 });
  for (const sequence of [1, 2, 3]) queue.append(sequence, bytes(10), sequence);
  const first = queue.nextWaiting()!;
  expect(first.sequence).toBe(1);
  Object.assign(first, { state: 'acknowledged', acknowledgedAt_ms: 100 });
  expect(queue.nextWaiting()?.sequence).toBe(2);
  expect(queue.waiting).toEqual({ frames: 2, bytes: 20, oldest_ms: 2 });
  queue.forget(100);
  queue.resend();
  expect(queue.nextWaiting()?.sequence).toBe(1);
  Object.assign(first, { state: 'acknowledged', acknowledgedAt_ms: 100 });
  queue.forget(101);
  queue.resend();
  expect(queue.nextWaiting()?.sequence).toBe(2);
});

test('at the bound of frames the oldest go, and only unacknowledged ones count as dropped', () => {
  const queue = new Queue({ frames: 2, bytes: 1000 });
  queue.append(1, bytes(10), 0);
  Object.assign(queue.nextWaiting()!, { state: 'acknowledged', acknowledgedAt_ms: 0 });
  queue.append(2, bytes(10), 0);
  expect(queue.append(3, bytes(10), 0)).toEqual({ dropped: 0, bound: 'frames' });
  expect(queue.append(4, bytes(10), 0)).toEqual({ dropped: 1, bound: 'frames' });
  expect(queue.nextWaiting()?.sequence).toBe(3);
});

test('at the bound of bytes the oldest go, but never the newest', () => {
  const queue = new Queue({ frames: 10, bytes: 100 });
  queue.append(1, bytes(60), 0);
  expect(queue.append(2, bytes(60), 0)).toEqual({ dropped: 1, bound: 'bytes' });
  expect(queue.append(3, bytes(500), 0)).toEqual({ dropped: 1, bound: 'bytes' });
  expect(queue.nextWaiting()?.sequence).toBe(3);
});
