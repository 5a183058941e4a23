// Each part is killed as a crash would, while an agent goes on sampling every second. Afterwards every frame that the agent
// has ever made is in QuestDB, once: counted by sequence against what the log holds, and by time against the clock.
import { setTimeout as pause } from 'node:timers/promises';
import { decodeFrame, scanFrame, subject } from '@fleetreel/proto';
import { decodeBatch } from '@fleetreel/proto/batch';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Program } from '../servers/program.ts';
import { eventually, Stack } from '../stack.ts';
import { ticksOf } from './ticks.ts';

const host = 'anvil';
const second = 1000;
const patience = { timeout: 60 * second, interval: 200 };
/** How long a part is away: longer than the log waits for the acknowledgement of what it has handed out. */
const away_ms = Number(process.env.FLEETREEL_AWAY_SECONDS ?? 20) * second;

let stack: Stack;
let agent: Program;

beforeAll(async () => {
  stack = await Stack.start();
  agent = await stack.startAgent({ host, interval: '1s' });
  await stack.hostThat(host, ({ status }) => status === 'online');
});

afterAll(async () => {
  await stack?.[Symbol.asyncDispose]();
});

test('the collector killed', { timeout: 150 * second + away_ms }, async () => {
  const away = await during(away_ms, async () => {
    await stack.collector.kill();
    return () => stack.startCollector();
  });
  await expectComplete(away);
});

test('QuestDB killed: live data goes on', { timeout: 150 * second + away_ms }, async () => {
  const away = await during(away_ms, async () => {
    await stack.questdb.kill();
    const readiness = await eventually('not ready', 30 * second, async () => {
      const answer = await stack.readiness();
      return answer.status === 503 ? answer : undefined;
    });
    expect(readiness.text).toMatch(/questdb/i);
    const { lastSeen } = await stack.hostThat(host, ({ status }) => status === 'online');
    await stack.hostThat(host, (now) => now.lastSeen !== null && now.lastSeen > (lastSeen ?? 0));
    return () => stack.questdb.restart();
  });
  await stack.ready();
  await expectComplete(away);
});

test('nats-server killed for ten seconds', { timeout: 90 * second }, async () => {
  const away = await during(10 * second, async () => {
    await stack.nats.kill();
    return () => stack.nats.restart();
  });
  await stack.ready();
  await stack.hostThat(host, ({ status, lastSeen }) => status === 'online' && lastSeen !== null && lastSeen > away.to);
  await expectComplete(away);
});

test('all frames of the session, once each, in every table', async () => {
  await agent.stop();
  const { sequences, rows } = await inLog();
  expect(sequences).toEqual(oneTo(sequences.length));
  // Each table becomes visible by itself.
  await expect.poll(inStore, patience).toEqual(sequences);
  for (const [table, count] of Object.entries(rows))
    await expect
      .poll(async () => (await stack.questdb.query(`SELECT count() FROM ${table}`)).rows, {
        ...patience,
        message: table,
      })
      .toEqual([[count]]);
  const { rows: doubled } = await stack.questdb.query(
    `SELECT count(), count_distinct(ts) FROM memory WHERE host = '${host}'`,
  );
  expect(doubled).toEqual([[sequences.length, sequences.length]]);
});

type Away = { from: number; to: number };

/** Makes a fault, leaves it for so long, and mends it. */
async function during(milliseconds: number, fault: () => Promise<() => Promise<unknown>>): Promise<Away> {
  const from = Date.now();
  const mend = await fault();
  await pause(from + milliseconds - Date.now());
  const to = Date.now();
  await mend();
  return { from, to };
}

/** Nothing is missing up to now, and the agent did sample while the part was away. */
async function expectComplete({ from, to }: Away): Promise<void> {
  const newest = (await inLog()).sequences.at(-1) ?? 0;
  await eventually(`all frames up to ${newest} in QuestDB`, patience.timeout, async () => {
    const stored = await inStore();
    expect(stored).toEqual(oneTo(Math.max(newest, stored.length)));
    // What is away lets the agent leave out no tick; a busy machine may, and the agent says so.
    const { frames, leftOut } = await ticksOf(stack.questdb, host, from, to);
    expect(frames + leftOut).toBeGreaterThanOrEqual(Math.floor((to - from) / second) - 1);
    expect(frames).toBeLessThanOrEqual(Math.ceil((to - from) / second));
    return true;
  });
}

/** The stored sequences in order, doubled ones twice. */
async function inStore(): Promise<number[]> {
  const { rows } = await stack.questdb.query(`SELECT sequence FROM frame WHERE host = '${host}' ORDER BY sequence`);
  return rows.map(([sequence]) => Number(sequence));
}

/** What the log holds: the sequences, and how many rows all its frames have per table. */
async function inLog(): Promise<{ sequences: number[]; rows: Record<string, number> }> {
  const connection = await connect({ servers: stack.nats.url });
  try {
    const manager = await jetstreamManager(connection);
    const [single, batch] = (['frame', 'batch'] as const).map((kind) => subject({ tenant: 'default', kind, host }));
    const filters = [single as string, batch as string];
    let count = 0;
    for (const filter of filters) {
      const { state } = await manager.streams.info('FRAMES', { subjects_filter: filter });
      count += state.subjects?.[filter] ?? 0;
    }
    const sequences = new Set<number>();
    const rows: Record<string, number> = {};
    const consumer = await jetstream(connection).consumers.get('FRAMES', { filter_subjects: filters });
    let left = count;
    for await (const message of await consumer.fetch({ max_messages: count, expires: 30 * second })) {
      // What was sampled while nats-server was away came later, in batches.
      for (const bytes of message.subject === batch ? decodeBatch(message.data) : [message.data]) {
        const { sequence } = scanFrame(bytes);
        if (!sequences.has(sequence))
          for (const [table, columns] of Object.entries(decodeFrame(bytes).tables)) {
            const lengths = Object.values(columns as Record<string, unknown[]>).map((column) => column.length);
            rows[table] = (rows[table] ?? 0) + Math.max(...lengths);
          }
        sequences.add(sequence);
      }
      if (--left === 0) break;
    }
    return { sequences: [...sequences].sort((a, b) => a - b), rows };
  } finally {
    await connection.close();
  }
}

const oneTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);
