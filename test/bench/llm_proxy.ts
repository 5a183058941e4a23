// L1: what the measuring proxy adds to the time to the first token.
import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { freePort } from '@fleetreel/deploy/local/port';
import { type Figure, measured, quantile } from './figure.ts';

const rounds = 6;
const requestsPerRound = 400;
const warmUpRequests = 400;
const body = JSON.stringify({ model: 'm', messages: [{ role: 'user', content: 'x'.repeat(2000) }] });

export async function llmProxy(): Promise<Figure[]> {
  const { promise: ready, resolve } = Promise.withResolvers<number>();
  const script = new URL('./llm_upstream.ts', import.meta.url).pathname;
  await using upstream = await Child.start({ name: 'upstream', command: process.execPath, args: [script] }, (line) =>
    resolve(Number(line)),
  );
  const direct = await Promise.race([ready, upstream.exited.then(() => Number.NaN)]);
  const forwarded = await freePort();
  const bundle = join(import.meta.dirname, '../../dist/agent/main.js');
  const flags = ['llm-proxy', '--upstream', `http://127.0.0.1:${direct}`, '--listen', `127.0.0.1:${forwarded}`];
  await using proxy = await Child.start({ name: 'llm-proxy', command: process.execPath, args: [bundle, ...flags] });
  await proxy.untilReady(async () => (await firstToken(forwarded, undefined).catch(() => -1)) >= 0, 20_000);

  const figures: Figure[] = [];
  for (const [name, isKept] of [
    ['kept connections', true],
    ['a connection for each request', false],
  ] as const) {
    await using agents = new Agents(isKept);
    for (let warm = 0; warm < warmUpRequests; warm++)
      for (const port of [direct, forwarded]) await firstToken(port, agents.of(port));
    const medians = { direct: [] as number[], forwarded: [] as number[], added: [] as number[] };
    for (let round = 0; round < rounds; round++) {
      const times = { direct: [] as number[], forwarded: [] as number[] };
      // One after the other, so that both see the same machine.
      for (let at = 0; at < requestsPerRound; at++) {
        times.direct.push(await firstToken(direct, agents.of(direct)));
        times.forwarded.push(await firstToken(forwarded, agents.of(forwarded)));
      }
      const [own, through] = [quantile(times.direct, 0.5), quantile(times.forwarded, 0.5)];
      medians.direct.push(own);
      medians.forwarded.push(through);
      medians.added.push(through - own);
    }
    const added = measured(medians.added);
    figures.push({
      id: 'L1',
      name: `llm-proxy: added to the first token, ${name}`,
      unit: 'ms',
      value: added,
      yardstick: { what: 'asked directly', value: measured(medians.direct) },
      goal: { text: '< 1 ms', reached: added.median < 1 },
      method:
        `the bundle between a client and a server on loopback, each a process of its own; from sending a request of ${body.length} ` +
        `bytes to the first byte of the streamed answer, directly and through the proxy in turns; difference of the medians ` +
        `of ${requestsPerRound} each, in ${rounds} rounds`,
    });
  }
  return figures;
}

class Agents implements AsyncDisposable {
  readonly #agents = new Map<number, Agent>();
  readonly #isKept: boolean;

  constructor(isKept: boolean) {
    this.#isKept = isKept;
  }

  of(port: number): Agent | undefined {
    if (!this.#isKept) return undefined;
    const agent = this.#agents.get(port) ?? new Agent({ keepAlive: true, maxSockets: 1 });
    this.#agents.set(port, agent);
    return agent;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const agent of this.#agents.values()) agent.destroy();
  }
}

/** Milliseconds to the first part of the answer; the rest is read as well. */
async function firstToken(port: number, agent: Agent | undefined): Promise<number> {
  const begin_ms = performance.now();
  const outgoing = request({ host: '127.0.0.1', port, method: 'POST', path: '/api/chat', agent: agent ?? false });
  outgoing.end(body);
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage];
  const ended = once(response, 'end');
  await once(response, 'data');
  const first_ms = performance.now() - begin_ms;
  response.resume();
  await ended;
  return first_ms;
}
