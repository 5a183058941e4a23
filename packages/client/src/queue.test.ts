import { expect, test } from 'vitest';
import { Queue, utf8Bytes } from '#queue.ts';

test('what was given first is taken first, also after it was moved', () => {
  const queue = new Queue();
  let given = 0;
  let next = 0;
  for (let round = 0; round < 200; round++) {
    for (let count = 0; count < 100; count++) queue.push({ text: String(given++), bytes: 2 });
    for (const { text } of queue.take(round % 3 === 0 ? 290 : 70, 500)) expect(text).toBe(String(next++));
    expect(queue.count).toBe(given - next);
    expect(queue.bytes).toBe(2 * (given - next));
  }
  while (queue.shift()?.text === String(next)) next++;
  expect([next, queue.count, queue.bytes, queue.oldestBytes]).toEqual([given, 0, 0, 0]);
});

test.each(['', 'plain', 'äöü', '€', '😀 and 😀', '\u07ff\u0800\uffff'])('bytes of %j', (text) => {
  expect(utf8Bytes(text)).toBe(Buffer.byteLength(text));
});
