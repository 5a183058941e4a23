import { describe, expect, test } from 'vitest';
import { Outbox } from '#live/outbox.ts';

/** A reader that takes so many items, then waits to be resumed. */
function reader(room: number) {
  const taken: [string, number][] = [];
  const state = { room };
  const outbox = new Outbox<string>((item, skipped) => {
    taken.push([item, skipped]);
    return --state.room > 0;
  });
  return { taken, state, outbox };
}

describe('an outbox', () => {
  test('passes everything to a reader that keeps up', () => {
    const { taken, outbox } = reader(100);
    for (let index = 0; index < 10; index++) outbox.push('a', `${index}`);
    expect(taken).toEqual(Array.from({ length: 10 }, (_, index) => [`${index}`, 0]));
    expect(outbox.size).toBe(0);
  });

  test('keeps the newest of each key for a slow one and counts the others', () => {
    const { taken, state, outbox } = reader(1);
    outbox.push('a', 'a1');
    for (let index = 2; index <= 1000; index++) {
      outbox.push('a', `a${index}`);
      outbox.push('b', `b${index}`);
    }
    expect(taken).toEqual([['a1', 0]]);
    expect(outbox.size).toBe(2);
    expect(outbox.skippedTotal).toBe(998 + 998);
    state.room = 100;
    outbox.resume();
    expect(taken.slice(1)).toEqual([
      ['a1000', 998],
      ['b1000', 998],
    ]);
    outbox.push('a', 'a1001');
    expect(taken.at(-1)).toEqual(['a1001', 0]);
  });

  test('lets no key starve when the reader takes one at a time', () => {
    const { taken, state, outbox } = reader(1);
    outbox.push('first', '0');
    for (const key of ['a', 'b', 'c']) outbox.push(key, key);
    for (let round = 0; round < 3; round++) {
      outbox.push('a', 'a');
      state.room = 1;
      outbox.resume();
    }
    expect(taken.slice(1).map(([item]) => item)).toEqual(['a', 'b', 'c']);
  });

  test('drops what nobody wants any more', () => {
    const { taken, state, outbox } = reader(1);
    outbox.push('1\0a', 'x');
    outbox.push('1\0a', 'old');
    outbox.push('2\0a', 'kept');
    outbox.drop((key) => key.startsWith('1\0'));
    state.room = 10;
    outbox.resume();
    expect(taken.map(([item]) => item)).toEqual(['x', 'kept']);
  });
});
