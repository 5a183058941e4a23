// Every fault under the load of a fleet; after each, and in the end, its frames are counted one by one. Prints what it does, and a
// table of what became of the frames.
//
//   node test/faults/matrix.ts [--only NAME[,NAME]] [--times 10] [--seed 1] [--short]
import { parseArgs } from 'node:util';
import { type Fault, faults, type Length, mayDie } from './faults.ts';
import { Ground } from './ground.ts';
import { type Fate, Tally } from './tally.ts';
import { describeVerdict, isClean, type Verdict } from './verify.ts';

export type MatrixOptions = {
  only: readonly string[];
  /** How often each moment is tried. */
  times: number;
  seed: number;
  length: Length;
  say: (line: string) => void;
};

/**
 * Makes faults, one after the other; frames have to flow again after each. Returns what became of all frames, and the first
 * counts after a fault that were not as they should be.
 */
export async function matrix({ only, times, seed, length, say }: MatrixOptions): Promise<Outcome> {
  for (const name of only)
    if (!(name in faults)) throw new Error(`There is no fault "${name}": there are ${Object.keys(faults).join(', ')}.`);
  await using ground = await Ground.start(seed);
  say(`${ground.fleet.hosts} hosts publish every second; seed ${seed}`);
  const tally = new Tally();
  const failed: string[] = [];
  for (const [name, fault] of Object.entries(faults)) {
    if (only.length > 0 && !only.includes(name)) continue;
    const rounds = fault.isMoment ? times : 1;
    for (let round = 1; round <= rounds; round++) {
      const verdict = await makeFault(ground, name, fault, length, (line) => say(`${line} (${round} of ${rounds})`));
      tally.add(name, fateOf(verdict));
      if (!isClean(verdict)) failed.push(`After ${name}: ${describeVerdict(verdict)}`);
    }
  }
  say('the fleet stops, and its frames are counted');
  const verdict = await ground.verify(mayDie);
  say(describeVerdict(verdict));
  for (const line of [...tally.lines, ...failed]) say(line);
  return { verdict, failed };
}

export type Outcome = { verdict: Verdict; failed: readonly string[] };

/** A verdict as a row of the table. */
export const fateOf = ({ sampled, stored, lost, doubled, explained: { loss, dead, killed } }: Verdict): Fate => ({
  sent: sampled,
  stored,
  lost: lost.length,
  doubled: doubled.length,
  inLedger: loss + dead + killed,
});

/** One fault, until frames are stored again, and what became of those that were sampled meanwhile. @throws Error that names it */
export async function makeFault(
  ground: Ground,
  name: string,
  fault: Fault,
  length: Length,
  say: (line: string) => void,
): Promise<Verdict> {
  const begin_ms = performance.now();
  const from_ms = Date.now();
  const seconds = () => ((performance.now() - begin_ms) / 1000).toFixed(1);
  try {
    await fault.make(ground, length);
    const made = seconds();
    await ground.flowing();
    const flowing = seconds();
    const verdict = await ground.count({ from_ms, to_ms: Date.now() }, mayDie);
    const clean = isClean(verdict) ? '' : `\n${describeVerdict(verdict)}`;
    say(`${name}: mended after ${made} s, new frames are stored after ${flowing} s, all after ${seconds()} s${clean}`);
    return verdict;
  } catch (cause) {
    const said = ground.stack.collector.lines.slice(-10).join('\n');
    throw new Error(`After ${name}: ${(cause as Error).message}\nThe collector said:\n${said}`, { cause });
  }
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      only: { type: 'string', default: '' },
      times: { type: 'string', default: '10' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      short: { type: 'boolean', default: false },
    },
  });
  const begin_ms = performance.now();
  const { verdict, failed } = await matrix({
    only: values.only.split(',').filter(Boolean),
    times: Number(values.times),
    seed: Number(values.seed),
    length: values.short ? 'short' : 'long',
    say: (line) =>
      process.stdout.write(`${((performance.now() - begin_ms) / 1000).toFixed(0).padStart(5)} s  ${line}\n`),
  });
  process.exitCode = isClean(verdict) && failed.length === 0 ? 0 : 1;
}
