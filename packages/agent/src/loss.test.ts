import { expect, test } from 'vitest';
import { lossRowsMax } from '#limits.ts';
import { Losses } from '#loss.ts';

const own = '00000000000000ab';
const shown = (losses: Losses, sequence: number) => {
  const rows = losses.rows(sequence);
  return rows?.first_sequence.map((first, row) => [rows.cause[row], first, rows.last_sequence[row]]);
};

test('a run grows, another cause or session or a gap begins a new one', () => {
  const losses = new Losses();
  expect(losses.rows(1)).toBeUndefined();
  losses.add(own, 'queue', 1, 1, 1e6, 1e6);
  losses.add(own, 'queue', 2, 5, 2e6, 5e6);
  losses.add(own, 'disk', 6, 6, 6e6, 6e6);
  losses.add('other', 'queue', 6, 6, 6e6, 6e6);
  losses.add(own, 'queue', 8, 8, 8e6, 8e6);
  expect(losses.rows(9)).toEqual({
    timestamp_seconds: [1, 6, 6, 8],
    frame_session: [own, own, 'other', own],
    cause: ['queue', 'disk', 'queue', 'queue'],
    first_sequence: [1, 6, 6, 8],
    last_sequence: [5, 6, 6, 8],
    last_timestamp_seconds: [5, 6, 6, 8],
  });
});

test('what is lost is told until a frame that tells it as it is now has arrived', () => {
  const losses = new Losses();
  losses.add(own, 'queue', 1, 1, 1e6, 1e6);
  expect(shown(losses, 10)).toEqual([['queue', 1, 1]]);
  losses.add(own, 'queue', 2, 2, 2e6, 2e6);
  losses.add(own, 'disk', 7, 7, 7e6, 7e6);
  // This one told of less.
  losses.told(10);
  expect(shown(losses, 11)).toEqual([
    ['queue', 1, 2],
    ['disk', 7, 7],
  ]);
  losses.told(9);
  expect(shown(losses, 12)).toHaveLength(2);
  losses.told(12);
  expect(losses.rows(13)).toBeUndefined();
});

test('of too many runs those of one cause become one, and numbers that are given anew were never lost', () => {
  const losses = new Losses();
  for (let sequence = 1; sequence <= 1000; sequence += 2)
    losses.add(own, 'corrupt', sequence, sequence, sequence, sequence);
  expect(shown(losses, 2000)).toHaveLength(lossRowsMax);
  expect(shown(losses, 2000)?.at(-1)).toEqual(['corrupt', 2 * lossRowsMax - 1, 999]);
  losses.add('other', 'corrupt', 1, 1, 1, 1);
  losses.forget(own);
  expect(shown(losses, 1)).toEqual([['corrupt', 1, 1]]);
});
