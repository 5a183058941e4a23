// Each fault once, under one running load; `node test/faults/matrix.ts` makes each moment many times, and lets the rest last.
import { expect, test } from 'vitest';
import { matrix } from './matrix.ts';

test('every fault: nothing acknowledged is lost, nothing is doubled, every loss is explained', {
  timeout: 600_000,
}, async () => {
  const said: string[] = [];
  const options = { only: [], times: 1, seed: 1, length: 'short', say: (line: string) => said.push(line) } as const;
  const { lost, doubled, uneven, foreign, unexplained, sampled, stored } = await matrix(options);
  expect({ lost, doubled, uneven, foreign, unexplained }, said.join('\n')).toEqual({
    lost: [],
    doubled: [],
    uneven: [],
    foreign: [],
    unexplained: [],
  });
  // The load went on the whole time.
  expect(stored).toBeGreaterThan(0.5 * sampled);
});
