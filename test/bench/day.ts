// P2 in full: the agent after a day of ticks, which its clocks run through in minutes.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { anySubject, prefix, scanFrame } from '@fleetreel/proto';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { memoryOf } from '../numbers/process.ts';
import { startNats } from '../servers/nats.ts';
import { startProgram } from '../servers/program.ts';
import { machineIdOf } from '../stack.ts';
import { type Figure, quantile } from './figure.ts';

const MiB = 1024 * 1024;
/** How much faster the agent's clocks run: a tick of 1 s every 10 ms. */
const factor = 100;
/** Looks at the agent's memory, evenly over the ticks. */
const looks = 200;
/** So many seconds without a frame, and the agent is given up. */
const patience_s = 60;

type Look = { ticks: number; resident: number; private: number };

/** P2: resident and private memory after so many ticks, and how they grew over the second half of them. */
export async function day(ticks: number): Promise<Figure[]> {
  await using nats = await startNats();
  await using connection = await connect({ servers: nats.url });
  // Only the newest: the frames of a day are not what is measured.
  const stream = { name: 'FRAMES', subjects: [`${prefix}.>`], max_msgs: 1000, allow_direct: true };
  await (await jetstreamManager(connection)).streams.add(stream);
  let newest = 0;
  connection.subscribe(anySubject('frame'), {
    callback: (error, message) => {
      if (error) throw error;
      newest = scanFrame(message.data).sequence;
    },
  });
  const folder = await mkdtemp(join(tmpdir(), 'fleetreel-day-'));
  // Not perf: it counts in real time, and would be taken for one that hangs.
  const flags = {
    host: 'day',
    'machine-id': machineIdOf('day'),
    interval: '1s',
    data: folder,
    'nats-url': nats.url,
    'sources-disable': 'perf',
  };
  const agent = await startProgram(
    'dist/agent/main.js',
    ['run', ...Object.entries(flags).flatMap(([name, value]) => [`--${name}`, value])],
    {
      NODE_OPTIONS: `--import=${new URL('hurry.mjs', import.meta.url).href}`,
      FLEETREEL_BENCH_HURRY: String(factor),
    },
  );
  try {
    const seen: Look[] = [];
    for (let at = 1; at <= looks; at++) {
      const wanted = (ticks / looks) * at;
      for (let since = performance.now(), last = newest; newest < wanted; await pause(50)) {
        if (newest !== last) [since, last] = [performance.now(), newest];
        if (performance.now() - since > patience_s * 1000)
          throw new Error(`No frame for ${patience_s} s. The agent said:\n${agent.lines.slice(-10).join('\n')}`);
      }
      seen.push({ ticks: newest, ...memoryOf(agent.pid) });
    }
    return [figure('resident', seen, 64), figure('private', seen, 25)];
  } finally {
    await agent.stop();
    await rm(folder, { recursive: true, force: true });
  }
}

function figure(part: 'resident' | 'private', seen: readonly Look[], most: number): Figure {
  const half = seen.slice(seen.length / 2);
  // Collections make it rise and fall: the least of each quarter says what stays.
  const least = (looks: readonly Look[]) => Math.min(...looks.map((look) => look[part])) / MiB;
  const [before, after] = [least(half.slice(0, half.length / 2)), least(half.slice(half.length / 2))];
  const last = quantile(
    half.slice(-20).map((look) => look[part] / MiB),
    0.5,
  );
  return {
    id: 'P2',
    name: `agent: ${part} memory after ${seen.at(-1)?.ticks.toLocaleString('en-US')} ticks`,
    unit: 'MiB',
    value: last,
    goal: { text: `<= ${most} MiB, no growth`, reached: last <= most && after - before < 1 },
    method:
      `the bundle with its clocks ${factor} times as fast, interval 1 s, all sources but perf, publishing into nats-server; least of the third ` +
      `quarter of the ticks ${before.toFixed(1)}, of the fourth ${after.toFixed(1)} MiB; /proc/PID/smaps_rollup`,
  };
}
