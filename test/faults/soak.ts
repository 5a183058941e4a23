// Random faults under load; after each, and at the end, all frames are counted one by one. Prints what it does, and a table of what
// became of the frames.
//
//   node test/faults/soak.ts [--minutes 30] [--seed 1]
import { parseArgs } from 'node:util';
import { memoryOf } from '../numbers/process.ts';
import { faults, mayDie } from './faults.ts';
import { Ground } from './ground.ts';
import { fateOf, makeFault } from './matrix.ts';
import { Tally } from './tally.ts';
import { describeVerdict, isClean } from './verify.ts';

const MiB = 1024 ** 2;
/** What no part may ever take, resident, MiB: well above what each takes after a backlog of some minutes. */
const most_MiB = { collector: 600, nats: 600, questdb: 2000, fleet: 400 } as const;

type Part = keyof typeof most_MiB;

/** Resident memory of each part now, MiB; of the fleet that of its largest process. */
function memory({ stack, fleet }: Ground): Record<Part, number> {
  const of = (pid: number) => Math.round(memoryOf(pid).resident / MiB);
  return {
    collector: of(stack.collector.pid),
    nats: of(stack.nats.pid),
    questdb: of(stack.questdb.pid),
    fleet: Math.max(...Array.from({ length: fleet.processes }, (_, index) => of(fleet.program(index).pid))),
  };
}

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
  },
});
const begin_ms = performance.now();
const minutes = () => (performance.now() - begin_ms) / 60_000;
const say = (line: string) => process.stdout.write(`${minutes().toFixed(1).padStart(5)} min  ${line}\n`);
const seed = Number(values.seed);

await using ground = await Ground.start(seed);
const began = minutes();
say(`${ground.fleet.hosts} hosts publish every second; seed ${seed}`);
const largest: Record<Part, number> = { collector: 0, nats: 0, questdb: 0, fleet: 0 };
const tally = new Tally();
let failed = 0;
while (minutes() - began < Number(values.minutes)) {
  const [name, fault] = Object.entries(faults)[ground.random.below(Object.keys(faults).length)] ?? [];
  if (name === undefined || fault === undefined) throw new Error('There are no faults.');
  const verdict = await makeFault(ground, name, fault, 'short', say);
  tally.add(name, fateOf(verdict));
  if (!isClean(verdict)) failed++;
  const now = memory(ground);
  for (const part of Object.keys(largest) as Part[]) largest[part] = Math.max(largest[part], now[part]);
}
const verdict = await ground.verify(mayDie);
say(describeVerdict(verdict));
for (const line of tally.lines) say(line);
const parts = Object.keys(largest) as Part[];
say(`most memory, MiB: ${parts.map((part) => `${part} ${largest[part]} (of ${most_MiB[part]})`).join(', ')}`);
if (failed > 0) say(`${failed} faults after which something was not as it should be: see above`);
const isWithin = parts.every((part) => largest[part] <= most_MiB[part]);
process.exitCode = isClean(verdict) && failed === 0 && isWithin ? 0 : 1;
