// `pnpm bench [p1 ...]`: prints the figures, each beside its yardstick measured in the same run. A benchmark and never a
// test: machines are noisy. Everything it starts is real, on loopback, and ends with it.
import { parseArgs } from 'node:util';
import { build } from '@fleetreel/deploy/build';
import { thisMachine } from '@fleetreel/deploy/local/obtain';
import { cost, machine, memory, runAgent, size } from './agent.ts';
import { day } from './day.ts';
import { type Figure, table } from './figure.ts';
import { fleet } from './fleet.ts';
import { freshness } from './freshness.ts';
import { growth } from './growth.ts';
import { ingest } from './ingest.ts';
import { llmProxy } from './llm_proxy.ts';
import { measures } from './measures.ts';
import { rebuild } from './rebuild.ts';
import { replay } from './replay.ts';

const figures = ['p1', 'p2', 'day', 'p3', 'p4', 'p5', 'p6', 'p8', 'growth', 'rebuild', 'p11', 'l1'] as const;

const help = `Usage: pnpm bench [FIGURE ...] [OPTION ...]

Figures (all by default): p1 agent CPU, p2 agent memory, day the same after a day of ticks,
         p3 size of a frame, p4 ingest, p5 decode, p6 freshness, p8 replay,
         growth (P9): CPU, memory, lag and latency of each part with more and more hosts,
         rebuild (P4): a store filled from the log and verified, beside the store that was filled first,
         p11 measures that applications write,
         l1 what llm-proxy adds to the time to the first token

  --day N       ticks of the figure day (86400: a quarter of an hour)
  --seconds N   time over which the agent is measured (60; the figure asks for 300)
  --hosts N     hosts of the log that is ingested (100)
  --ticks N     frames of each of them (400)
  --groups N,N  numbers of hosts whose freshness is measured (10,100,1000)
  --watch N     seconds for which each of them is watched (20)
  --frames N    frames of the log that is replayed (200000; the figure asks for 1000000)
  --sizes N,N   numbers of hosts whose growth is watched (100,500,1000,2000,5000); the others are compared with the first
  --grow N      seconds for which each of them is watched (40), after --warm-up N (15)
  --rows N      rows of a frame of these hosts (200)
  --write N     seconds for which measures are written (10)
  --fleet N     hosts of the log that a store is rebuilt from (50), for --hours N (1; the figure asks for 24),
                a frame every --every N seconds (10)
  --aligned     all of these hosts publish at once, as with perfect clocks, not spread over the interval
`;

/** How often the hosts of the growth publish, as the figure asks for, milliseconds. */
const interval_ms = 5000;

const settings = {
  allowPositionals: true,
  options: {
    day: { type: 'string', default: '86400' },
    seconds: { type: 'string', default: '60' },
    hosts: { type: 'string', default: '100' },
    ticks: { type: 'string', default: '400' },
    groups: { type: 'string', default: '10,100,1000' },
    watch: { type: 'string', default: '20' },
    frames: { type: 'string', default: '200000' },
    sizes: { type: 'string', default: '100,500,1000,2000,5000' },
    grow: { type: 'string', default: '40' },
    'warm-up': { type: 'string', default: '15' },
    rows: { type: 'string', default: '200' },
    write: { type: 'string', default: '10' },
    fleet: { type: 'string', default: '50' },
    hours: { type: 'string', default: '1' },
    every: { type: 'string', default: '10' },
    aligned: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
} as const;

function positive(name: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new RangeError(`--${name}: "${text}" is not a whole number above 0.`);
}

async function main(): Promise<void> {
  const { values: options, positionals } = parseArgs(settings);
  if (options.help) {
    process.stdout.write(help);
    return;
  }
  const unknown = positionals.find((name) => !figures.some((figure) => figure === name));
  if (unknown !== undefined) throw new RangeError(`There is no figure "${unknown}": there are ${figures.join(', ')}.`);
  const wanted = (...names: readonly string[]) =>
    positionals.length === 0 || names.some((name) => positionals.includes(name));
  const seconds = positive('seconds', options.seconds);
  const [groups, sizes] = (['groups', 'sizes'] as const).map((name) =>
    options[name].split(',').map((text) => positive(name, text)),
  ) as [number[], number[]];
  const [hosts, ticks, watch] = (['hosts', 'ticks', 'watch'] as const).map((name) => positive(name, options[name])) as [
    number,
    number,
    number,
  ];

  await build(thisMachine());
  say(machine());
  const found: Figure[] = [];
  if (wanted('l1')) {
    say('The proxy of language models is asked ...');
    found.push(...(await llmProxy()));
  }
  // Everything begins with real frames of this machine; for the rest some of them are enough.
  const agentSeconds = wanted('p1', 'p2') ? seconds : Math.min(seconds, 20);
  const needsAgent = wanted('p1', 'p2', 'p3', 'p4', 'p5', 'p6', 'p8', 'growth', 'rebuild');
  if (needsAgent) say(`The agent runs for ${agentSeconds} s ...`);
  const run = needsAgent ? await runAgent(agentSeconds) : undefined;
  if (run && wanted('p1')) {
    say('node_exporter is scraped ...');
    found.push(...(await cost(run, seconds)));
  }
  if (run && wanted('p2')) found.push(...(await memory(run)));
  if (wanted('day')) {
    const dayTicks = positive('day', options.day);
    say(`The agent runs through ${dayTicks} ticks ...`);
    found.push(...(await day(dayTicks)));
  }
  if (run && wanted('p3')) found.push(...size(run));
  if (run && wanted('p3', 'p4', 'p5')) {
    say(`${hosts * ticks} frames go through the log into the store ...`);
    const all = await ingest(fleet(run.frames, hosts, ticks));
    found.push(...all.filter(({ id }) => wanted(id.toLowerCase())));
  }
  if (run && wanted('p6')) {
    say(`The freshness of ${groups.join(', ')} hosts is watched ...`);
    found.push(...(await freshness(run.frames, groups, watch)));
  }
  if (run && wanted('p8')) {
    const frames = positive('frames', options.frames);
    say(`${frames} frames are recorded and replayed ...`);
    found.push(...(await replay(run.frames, frames)));
  }
  if (run && wanted('growth')) {
    const [watched_s, warmUp_s, rows] = (['grow', 'warm-up', 'rows'] as const).map((name) =>
      positive(name, options[name]),
    ) as [number, number, number];
    const { aligned } = options;
    say(`The growth with ${sizes.join(', ')} hosts is watched ...`);
    found.push(...(await growth(run.frames, { sizes, seconds: watched_s, warmUp_s, interval_ms, rows, aligned })));
  }
  if (run && wanted('rebuild')) {
    const [size, hours, every] = (['fleet', 'hours', 'every'] as const).map((name) =>
      positive(name, options[name]),
    ) as [number, number, number];
    say(`${hours} h of ${size} hosts are rebuilt from the log ...`);
    found.push(...(await rebuild(fleet(run.frames, size, Math.floor((hours * 3600) / every), every))));
  }
  if (wanted('p11')) {
    say('Measures are written ...');
    found.push(...(await measures(positive('write', options.write))));
  }
  process.stdout.write(`\n${table(found)}\n`);
}

/** Progress, apart from the figures. */
function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** What was asked for can't be done: the message says what is wrong with it. */
const isMistaken = (error: Error): boolean =>
  error instanceof RangeError || String((error as NodeJS.ErrnoException).code).startsWith('ERR_PARSE_ARGS');

try {
  await main();
} catch (cause) {
  const error = cause as Error;
  process.stderr.write(`${isMistaken(error) ? error.message : (error.stack ?? error.message)}\n`);
  process.exitCode = isMistaken(error) ? 2 : 1;
}
