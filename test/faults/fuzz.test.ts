// The short form of the fuzzer: a new seed each time, which a failure names. The long one is `node test/faults/fuzz.ts`.
import { expect, test } from 'vitest';
import { fuzz } from './fuzz.ts';

test('hostile frames: each in the dead letters or stored, every good one stored once', {
  timeout: 300_000,
}, async () => {
  const { good, dead, sent } = await fuzz({ milliseconds: 10_000, seed: Math.floor(Math.random() * 2 ** 31) });
  expect(good).toBeGreaterThan(20);
  expect(dead).toBeGreaterThan(20);
  expect(Object.keys(sent).length).toBeGreaterThan(10);
});
