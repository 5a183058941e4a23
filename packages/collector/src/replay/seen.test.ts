import { expect, test } from 'vitest';
import { Seen } from '#replay/seen.ts';

test('each frame is new once, in whatever order it comes', () => {
  const seen = new Seen();
  const reference = new Set<string>();
  let state = 7;
  const random = (most: number) => {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    return state % most;
  };
  for (let round = 0; round < 20_000; round++) {
    const [host, session, sequence] = [`h${random(3)}`, `s${random(2)}`, 1 + random(900)] as const;
    const key = `${host} ${session} ${sequence}`;
    expect(seen.add(host, session, sequence), key).toBe(!reference.has(key));
    reference.add(key);
  }
});
