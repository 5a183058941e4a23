import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import type { Clock } from '#clock.ts';
import { inventory } from '#inventory.ts';
import { type Source, Unavailable } from '#source.ts';

/** Time that passes as soon as nothing else is to be done. */
const hasty: Clock = {
  now_us: () => 0,
  monotonic_ms: () => 0,
  sleep: () => new Promise((done) => setTimeout(done, 20)),
};

const source = (name: string, more: Partial<Source> = {}): Source => ({
  name,
  tables: ['udp'],
  open() {},
  sample: () => ({ udp: { receive_datagrams_per_second: [1] } }) as unknown as Tables,
  close() {},
  ...more,
});

const sources = [
  source('good', { limitations: () => ['the cards are not seen: run the agent as root'] }),
  source('absent', {
    open() {
      throw new Unavailable('there is no card');
    },
  }),
  source('broken', { sample: () => Promise.reject(new Error('torn line 3')) }),
  source('hanging', { open: () => new Promise(() => {}) }),
];

test('what can be seen, what not, and why: for people', async () => {
  expect(await inventory(sources, hasty, false)).toBe(
    [
      'good     ok           udp: 1 row',
      '         the cards are not seen: run the agent as root',
      'absent   unavailable',
      '         there is no card',
      'broken   failed',
      '         torn line 3',
      'hanging  failed',
      '         has not answered for 5 s',
    ].join('\n'),
  );
});

test('and for programs', async () => {
  expect(JSON.parse(await inventory(sources.slice(0, 2), hasty, true))).toEqual({
    sources: [
      { source: 'good', state: 'ok', rows: { udp: 1 }, reasons: ['the cards are not seen: run the agent as root'] },
      { source: 'absent', state: 'unavailable', rows: {}, reasons: ['there is no card'] },
    ],
  });
});
