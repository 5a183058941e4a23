// Settings that are pushed to agents, by the whole product: the command line, collectors, NATS and an agent, each of which is killed.

import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentState, Agents } from '@fleetreel/proto/http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type Program, startProgram } from '../servers/program.ts';
import { eventually, programs, Stack } from '../stack.ts';

let stack: Stack;
let agent: Program;
const data = () => `${stack.folder}/kept`;

beforeAll(async () => {
  stack = await Stack.start();
  agent = await start();
  await stack.hostThat('web-1', ({ status }) => status === 'online');
});

afterAll(() => stack?.[Symbol.asyncDispose]());

const start = () =>
  stack.startAgent({ host: 'web-1', interval: '5s', flags: ['--tags', 'role=web', '--data', data()] });

/** Waits until the collector says so of the agent. */
const agentThat = (is: (agent: AgentState) => boolean) =>
  eventually(`an agent that is as asked for: ${is.toString()}`, 60_000, async () => {
    const answer = await fetch(`${stack.address}/api/v1/agents`);
    const found = ((await answer.json()) as Agents).agents.find((one) => one.host === 'web-1');
    if (found && is(found)) return found;
    // What it is instead is part of the failure.
    throw new Error(`${JSON.stringify(found)}; ${agent.lines.slice(-5).join('\n')}`);
  });

async function cli(...args: string[]): Promise<string> {
  const program = await startProgram(programs.cli, ['agents', ...args, '--address', stack.grpcAddress]);
  const { code } = await program.exited;
  const text = program.lines.join('\n');
  expect(code, text).toBe(0);
  return text;
}

test('what is set by the command line is in effect, and shown in frames and by the API', async () => {
  expect(await cli('set', 'tag:role=web', 'interval=1s', 'sources.filesystem=off', 'tags.x=y').catch(String)).toMatch(
    /tags\.x can't be/,
  );
  expect(await cli('set', 'tag:role=web', 'interval=1s', 'sources.filesystem=off')).toMatch(/web-1$/);
  const { wanted, inEffect } = await agentThat(({ state }) => state === 'in_effect');
  expect(wanted).toEqual({ interval: '1s', 'sources.filesystem': 'off' });
  expect(inEffect).toMatchObject(wanted);
  await stack.hostThat('web-1', ({ intervalMs }) => intervalMs === 1000);
  const session = async () =>
    (await stack.questdb.query("SELECT count_distinct(session) FROM frame WHERE host = 'web-1'")).rows;
  expect(await session()).toEqual([[1]]);
});

test('a collector that is killed, NATS that is restarted, and an agent that is killed: what is wanted is in effect', async () => {
  await stack.collector.kill();
  await stack.nats.restart();
  await stack.startCollector();
  await cli('set', 'host:web-1', 'interval=2s', 'tags.rack=a3');
  await stack.hostThat(
    'web-1',
    ({ intervalMs, description }) => intervalMs === 2000 && description?.tags.rack === 'a3',
  );
  // It is in effect before it is kept.
  const kept = join(data(), 'settings');
  await expect
    .poll(() => readdirSync(kept).map((name) => readFileSync(join(kept, name), 'utf8')))
    .toEqual([expect.stringContaining('2s')]);
  await agent.kill();
  // While it is away.
  await cli('set', 'host:web-1', 'interval=3s');
  await agentThat(({ state }) => state === 'pending');
  agent = await start();
  await agent.line(/"interval":"2s".*"msg":"sampling"/);
  await agentThat(({ state, inEffect }) => state === 'in_effect' && inEffect.interval === '3s');
  await cli('unset', 'host:web-1');
  await cli('unset', 'tag:role=web');
  await stack.hostThat('web-1', ({ intervalMs }) => intervalMs === 5000);
  await agentThat(({ state, inEffect }) => state === 'own' && inEffect['sources.filesystem'] === 'on');
});
