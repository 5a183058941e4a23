// Every fault under the load of a fleet, and then a count of its frames, one by one. Prints what it does.
//
//   node test/faults/matrix.ts [--only NAME[,NAME]] [--times 10] [--seed 1] [--short]
import { parseArgs } from 'node:util';
import { type Fault, faults, type Length, mayDie } from './faults.ts';
import { Ground } from './ground.ts';
import { describeVerdict, isClean, type Verdict } from './verify.ts';

export type MatrixOptions = {
  only: readonly string[];
  /** How often each moment is tried. */
  times: number;
  seed: number;
  length: Length;
  say: (line: string) => void;
};

/** Makes faults, one after the other; frames have to flow again after each. Returns what became of all frames. */
export async function matrix({ only, times, seed, length, say }: MatrixOptions): Promise<Verdict> {
  for (const name of only)
    if (!(name in faults)) throw new Error(`There is no fault "${name}": there are ${Object.keys(faults).join(', ')}.`);
  await using ground = await Ground.start(seed);
  say(`${ground.fleet.hosts} hosts publish every second; seed ${seed}`);
  for (const [name, fault] of Object.entries(faults)) {
    if (only.length > 0 && !only.includes(name)) continue;
    const rounds = fault.isMoment ? times : 1;
    for (let round = 1; round <= rounds; round++)
      await makeFault(ground, name, fault, length, (line) => say(`${line} (${round} of ${rounds})`));
  }
  say('the fleet stops, and its frames are counted');
  const verdict = await ground.verify(mayDie);
  say(describeVerdict(verdict));
  return verdict;
}

/** One fault, until frames are stored again. @throws Error that names it */
export async function makeFault(
  ground: Ground,
  name: string,
  fault: Fault,
  length: Length,
  say: (line: string) => void,
): Promise<void> {
  const begin_ms = performance.now();
  const seconds = () => ((performance.now() - begin_ms) / 1000).toFixed(1);
  try {
    await fault.make(ground, length);
    const made = seconds();
    await ground.flowing();
    say(`${name}: mended after ${made} s, all frames are stored again after ${seconds()} s`);
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
  const verdict = await matrix({
    only: values.only.split(',').filter(Boolean),
    times: Number(values.times),
    seed: Number(values.seed),
    length: values.short ? 'short' : 'long',
    say: (line) =>
      process.stdout.write(`${((performance.now() - begin_ms) / 1000).toFixed(0).padStart(5)} s  ${line}\n`),
  });
  process.exitCode = isClean(verdict) ? 0 : 1;
}
