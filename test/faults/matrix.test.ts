// Each fault once, under one running load; `node test/faults/matrix.ts` makes each moment many times, and lets the rest last.
import { expect, test } from 'vitest';
import { matrix } from './matrix.ts';
import { isClean } from './verify.ts';

test('every fault: nothing acknowledged is lost, nothing is doubled, every loss is explained', {
  timeout: 600_000,
}, async () => {
  const said: string[] = [];
  const options = { only: [], times: 1, seed: 1, length: 'short', say: (line: string) => said.push(line) } as const;
  const { verdict, failed } = await matrix(options);
  expect(failed, said.join('\n')).toEqual([]);
  expect(isClean(verdict), said.join('\n')).toBe(true);
  // The load went on the whole time.
  expect(verdict.stored).toBeGreaterThan(0.5 * verdict.sampled);
});
