// The agent as an ordinary user, as it is shipped: it samples what it may, and says of the rest which right or group would change that.
import { chmodSync, copyFileSync, cpSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import type { Latest } from '@fleetreel/proto/http';
import { chromium } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import { type DockerEngine, startDocker } from '../servers/docker.ts';
import { eventually, machineIdOf, Stack } from '../stack.ts';

const host = 'ordinary';
/** The user that everybody is who is nobody: of no group but its own. */
const asNobody = ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] as const;

let stack: Stack;
let docker: DockerEngine;
/** The agent and a Node where every user can read them: the checkout may be somebody's own. */
let shipped: string;
let agent: Child;

/** Runs the agent until it ends, or leaves it running. */
async function start(onLine: (line: string) => void, ...args: string[]): Promise<Child> {
  const [command, ...rest] = asNobody;
  const own = ['--container-sockets', docker.socket, '--machine-id', machineIdOf(host), '--host', host];
  return await Child.start(
    {
      name: 'the agent of an ordinary user',
      command,
      args: [...rest, join(shipped, 'node'), join(shipped, 'dist/agent/main.js'), ...args, ...own],
      env: { HOME: '/' },
      cwd: '/',
    },
    onLine,
  );
}

beforeAll(async () => {
  shipped = await mkdtemp(join(tmpdir(), 'fleetreel-shipped-'));
  chmodSync(shipped, 0o755);
  cpSync('dist', join(shipped, 'dist'), { recursive: true });
  copyFileSync(process.execPath, join(shipped, 'node'));
  [stack, docker] = await Promise.all([Stack.start(), startDocker()]);
  // As in /run: the folder is everybody's to see, the socket is not.
  chmodSync(dirname(docker.socket), 0o755);
  chmodSync(docker.socket, 0o660);
  agent = await start(() => undefined, 'run', '--interval', '1s', '--nats-url', stack.nats.url);
});

afterAll(async () => {
  await agent?.stop();
  await docker?.[Symbol.asyncDispose]();
  await stack?.[Symbol.asyncDispose]();
  await rm(shipped, { recursive: true, force: true });
});

type Seen = { source: string; state: string; reasons: string[]; rows: Record<string, number> };

/** What is said of what an ordinary user can't see: the right or the group that would change it. */
const missing: Readonly<Record<string, RegExp>> = {
  process: /can't be read: run the agent as root, or with the capabilit.*CAP_SYS_PTRACE/,
  perf: /CAP_PERFMON/,
  container: /group "docker"/,
};

test('inventory lists what it can see, what it can not, and what would change that', async () => {
  const lines: string[] = [];
  const child = await start((line) => lines.push(line), 'inventory', '--json');
  expect(await child.exited).toEqual({ code: 0, signal: null });
  const { sources } = JSON.parse(lines.join('\n')) as { sources: Seen[] };
  const of = (name: string) => sources.find(({ source }) => source === name);
  for (const name of ['cpu', 'memory', 'disk_io', 'filesystem', 'net_interface', 'tcp', 'process'])
    expect(of(name), name).toMatchObject({ source: name, state: 'ok' });
  expect(sources.filter(({ state }) => state === 'failed')).toEqual([]);
  for (const [name, sentence] of Object.entries(missing)) expect(of(name)?.reasons.join(' '), name).toMatch(sentence);
});

const sourcesOf = async (): Promise<Latest['rows']> => {
  const answer = await fetch(`${stack.address}/api/v1/latest?table=source&host=${host}`);
  return ((await answer.json()) as Latest).rows;
};

test('frames come without gaps, and say the same', async () => {
  await stack.hostThat(host, ({ status }) => status === 'online');
  for (const [name, sentence] of Object.entries(missing))
    await eventually(
      `what the source ${name} can't see`,
      30_000,
      async () =>
        (await sourcesOf()).some(({ source, reason }) => source === name && sentence.test(String(reason))) || undefined,
    );
  const counted = `SELECT count(), max(sequence) - min(sequence) + 1 FROM frame WHERE host = '${host}'`;
  await eventually('ten frames in the store, none missing between them', 30_000, async () => {
    const [[count, span] = []] = (await stack.questdb.query(counted)).rows;
    return (Number(count) >= 10 && count === span) || undefined;
  });
});

test('the console says it, too', async () => {
  const browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  try {
    const page = await browser.newPage();
    await page.goto(`${stack.address}/hosts/${host}`);
    for (const sentence of Object.values(missing))
      await page.getByText(sentence).first().waitFor({ state: 'attached', timeout: 30_000 });
  } finally {
    await browser.close();
  }
});
