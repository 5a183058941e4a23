import { expect, test } from 'vitest';
import { Queue, type QueuedFrame } from '#queue.ts';

const bytes = (size: number) => new Uint8Array(size);

function queueOf(sequences: readonly number[], bounds = { frames: 10, bytes: 1000 }): Queue {
  const queue = new Queue(bounds);
  for (const sequence of sequences) queue.append(sequence, 1, bytes(10), sequence);
  return queue;
}

const takeAll = (queue: Queue): QueuedFrame[] => {
  const taken: QueuedFrame[] = [];
  for (let frame = queue.take(0); frame; frame = queue.take(0)) taken.push(frame);
  return taken;
};
const sequences = (frames: readonly QueuedFrame[]) => frames.map(({ sequence }) => sequence);

test('frames leave in order, each once, and one that did not arrive goes before all newer ones', () => {
  const queue = queueOf([1, 2, 3, 4]);
  const [first, second] = [queue.take(0)!, queue.take(0)!];
  expect(sequences([first, second])).toEqual([1, 2]);
  queue.putBack(first);
  expect(sequences(takeAll(queue))).toEqual([1, 3, 4]);
  expect(queue.take(0)).toBe(undefined);
});

test('a frame is forgotten only some time after its acknowledgement; until then it is sent again with the rest', () => {
  const queue = queueOf([1, 2, 3]);
  const [first] = takeAll(queue);
  expect(queue.acknowledge(first!, 100)).toBe(true);
  expect(queue.waiting).toEqual({ frames: 2, bytes: 20, oldest_ms: 2 });
  queue.forget(100);
  queue.putAllBack();
  const again = takeAll(queue);
  expect(sequences(again)).toEqual([1, 2, 3]);
  // What the log had already said of it is not news.
  expect(queue.acknowledge(again[0]!, 200)).toBe(false);
  queue.forget(201);
  queue.putAllBack();
  expect(sequences(takeAll(queue))).toEqual([2, 3]);
});

test('an acknowledged frame behind one that waits is not forgotten before it', () => {
  const queue = queueOf([1, 2]);
  const [, second] = takeAll(queue);
  queue.acknowledge(second!, 0);
  queue.forget(1000);
  queue.putAllBack();
  expect(sequences(takeAll(queue))).toEqual([1, 2]);
});

test('at the bound of frames the oldest go, and only those count as dropped that were never acknowledged', () => {
  const queue = queueOf([1], { frames: 2, bytes: 1000 });
  queue.acknowledge(queue.take(0)!, 0);
  queue.append(2, 1, bytes(10), 0);
  expect(queue.append(3, 1, bytes(10), 0)).toEqual({ dropped: [], bound: 'frames' });
  expect(queue.append(4, 1, bytes(10), 0)).toMatchObject({ dropped: [{ sequence: 2 }], bound: 'frames' });
  expect(sequences(takeAll(queue))).toEqual([3, 4]);
});

test('a frame that was given up under way is not counted a second time when it arrives after all', () => {
  const queue = queueOf([1], { frames: 1, bytes: 1000 });
  const first = queue.take(0)!;
  expect(queue.append(2, 1, bytes(10), 0).dropped).toEqual([first]);
  expect(queue.acknowledge(first, 0)).toBe(false);
  queue.putBack(first);
  expect(sequences(takeAll(queue))).toEqual([2]);
});

test('at the bound of bytes the oldest go, but never the newest', () => {
  const queue = new Queue({ frames: 10, bytes: 100 });
  queue.append(1, 1, bytes(60), 0);
  expect(queue.append(2, 1, bytes(60), 0)).toMatchObject({ dropped: [{ sequence: 1 }], bound: 'bytes' });
  expect(queue.append(3, 1, bytes(500), 0)).toMatchObject({ dropped: [{ sequence: 2 }], bound: 'bytes' });
  expect(sequences(takeAll(queue))).toEqual([3]);
  expect(queue.clear()).toBe(1);
  expect(queue.waiting).toEqual({ frames: 0, bytes: 0, oldest_ms: undefined });
});
