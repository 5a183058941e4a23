// A log that keeps less than what a stopped collector leaves in it: what is lost has its cause in the coverage, and nothing else has.
import { randomBytes } from 'node:crypto';
import { encodeFrame, encodeHostDescription, messageId, subject, type Tables } from '@fleetreel/proto';
import { Coverage, type Hole } from '@fleetreel/proto/http';
import { startNats } from '@fleetreel/test/servers/nats';
import { freePort, startProgram } from '@fleetreel/test/servers/program';
import { startQuestdb } from '@fleetreel/test/servers/questdb';
import Value from 'typebox/value';
import { expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { Bounds } from '#ingest/watch.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { keepLog, streamName } from '#log/stream.ts';
import { Telemetry } from '#telemetry.ts';
import { describedHost } from '#testing.ts';

const minute = 60_000;
const interval_ms = 2000;
/** The least that a log may be told to keep. */
const log_bytes = 16 * 1024 * 1024;
const large_bytes = 400_000;
/** Frames are of times from here on; their hosts send so seldom that none is late. */
const begin = Date.now() - 10 * minute;

/** An agent that sends what it samples as fast as the log takes it; times are intervals since the begin. */
class Agent {
  readonly host: string;
  readonly #log: Log;
  #session = '';
  sequence = 0;

  constructor(log: Log, host: string) {
    this.#log = log;
    this.host = host;
    this.restart();
  }

  restart(): void {
    this.#session = randomBytes(8).toString('hex');
    this.sequence = 0;
  }

  async describe(): Promise<void> {
    const described = describedHost(this.host, { interval_ms, upload_interval_ms: 20 * minute });
    const to = subject({ tenant: 'default', kind: 'host', host: this.host });
    await this.#log.jetstream.publish(to, encodeHostDescription(described));
  }

  async publish(from: number, to: number, bytes = 2): Promise<void> {
    for (let tick = from; tick < to; tick++) {
      const session = this.#session;
      const sequence = ++this.sequence;
      const process = { pid: ['1'], name: ['one'], command: [randomBytes(bytes / 2).toString('hex')] };
      const tables = { process } as unknown as Tables;
      await this.#log.jetstream.publish(
        subject({ tenant: 'default', kind: 'frame', host: this.host }),
        encodeFrame({ session, sequence, time_us: (begin + tick * interval_ms) * 1000, interval_ms, tables }),
        { msgID: messageId(session, sequence) },
      );
    }
  }
}

test('what the log lost while no collector ran is told', { timeout: 180_000 }, async () => {
  await using closing = new AsyncDisposableStack();
  const [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  closing.use(nats);
  closing.use(questdb);
  const [http, grpc] = [await freePort(), await freePort()];
  const own = [
    '--http-port',
    `${http}`,
    '--grpc-port',
    `${grpc}`,
    '--log-bytes',
    `${log_bytes}`,
    '--access-anonymous',
    'admin',
  ];
  const flags = ['--nats-url', nats.url, ...own];
  const collect = async () => {
    const collector = await startProgram('packages/collector/src/main.ts', ['run', ...flags], questdb.environment);
    closing.use(collector);
    await expect
      .poll(async () => (await fetch(`http://127.0.0.1:${http}/readyz`)).status, { timeout: 60_000 })
      .toBe(200);
    return collector;
  };
  const stored = async (host: string) =>
    (await questdb.query(`SELECT count() FROM frame WHERE host = '${host}'`)).rows[0]?.[0];

  const collector = await collect();
  const log = await connectLog(nats.url);
  closing.defer(() => log.connection.close());
  const agents = ['large', 'restarted', 'down', 'slept'].map((host) => new Agent(log, host));
  const [large, restarted, down, slept] = agents as [Agent, Agent, Agent, Agent];
  for (const agent of agents) await agent.describe();
  for (const agent of [large, down, slept]) await agent.publish(0, 10);
  // Two that nobody has an explanation for.
  await restarted.publish(0, 4);
  restarted.sequence += 2;
  await restarted.publish(6, 10);
  for (const agent of agents)
    await expect.poll(() => stored(agent.host), { timeout: 30_000 }).toBe(agent === restarted ? 8 : 10);
  await collector.stop();

  const before = (await log.manager.streams.info(streamName)).state.last_seq;
  await restarted.publish(10, 12);
  restarted.restart();
  await restarted.publish(14, 16);
  await large.publish(10, 70, large_bytes);
  down.restart();
  for (const agent of agents) await agent.publish(70, 80);
  const { state } = await log.manager.streams.info(streamName);
  const lost = state.first_seq - 1 - before;
  expect(lost).toBeGreaterThan(4);

  await collect();
  const metric = async () => {
    const text = await (await fetch(`http://127.0.0.1:${http}/metrics`)).text();
    return Number(/^fleetreel_collector_log_overtaken_messages_total (\S+)$/m.exec(text)?.[1]);
  };
  await expect.poll(metric, { timeout: 30_000 }).toBe(lost);
  const range = { from: String(begin), to: String(begin + 80 * interval_ms) };
  const ask = async () => {
    const answer = await fetch(`http://127.0.0.1:${http}/api/v1/coverage?${new URLSearchParams(range).toString()}`);
    const coverage = (await answer.json()) as Coverage;
    expect([...Value.Errors(Coverage, coverage)]).toEqual([]);
    return coverage;
  };
  const tick = (time: number | null) => (time === null ? null : (time - begin) / interval_ms);
  const short = (hole: Hole) => [tick(hole.begin), tick(hole.end), hole.cause, hole.missingFrames];
  // Of what the log lost, four frames were of the other host.
  const here = 10 + lost - 4;
  await expect
    .poll(async () => (await ask()).hosts.map(({ host, holes }) => [host, holes.map(short)]), { timeout: 60_000 })
    .toEqual([
      ['down', [[10, 70, 'agent_down', 0]]],
      ['large', [[10, here, 'log_bound', lost - 4]]],
      [
        'restarted',
        [
          [4, 6, 'unknown', 2],
          [10, 70, 'log_bound', 2],
        ],
      ],
      ['slept', [[10, 70, 'skipped', 0]]],
    ]);

  const cli = async (...words: string[]) => {
    const question = ['coverage', 'large', '--from', range.from, '--to', range.to, '--address', `127.0.0.1:${grpc}`];
    const program = await startProgram('packages/cli/src/main.ts', [...question, ...words]);
    expect((await program.exited).code).toBe(0);
    return program.lines.join('\n');
  };
  expect(await cli()).toContain(' log bound ');
  const { hosts } = JSON.parse(await cli('--json')) as Coverage;
  expect(hosts).toEqual((await ask()).hosts.filter(({ host }) => host === 'large'));

  // A store that begins to read now has lost nothing.
  const telemetry = new Telemetry('silent');
  await keepLog(log, { age_ms: 60 * minute, bytes: log_bytes }, 'new', telemetry, 'missing');
  const settings = { http_url: questdb.httpUrl, user: questdb.user, password: questdb.password };
  await new Bounds({ log, store: 'new', settings, telemetry, clock: systemClock }).look();
  expect(await telemetry.registry.metrics()).toContain('\nfleetreel_collector_log_overtaken_messages_total 0\n');
});
