// The real servers, as the launcher and the tests start them.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { natsInfo } from '#local/nats.ts';
import { accepts } from '#local/port.ts';
import { startNats } from '../../test/servers/nats.ts';
import { startQuestdb } from '../../test/servers/questdb.ts';

const lives = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

test('nats-server starts with JetStream, comes back with its data, and leaves nothing behind', async () => {
  const nats = await startNats();
  const info = () => natsInfo('127.0.0.1', nats.port, AbortSignal.timeout(5000));
  expect(await info()).toMatchObject({ jetstream: true });
  const jsz = (await (await fetch(`${nats.monitorUrl}/jsz`)).json()) as { config: { sync_interval: number } };
  expect(jsz.config.sync_interval).toBe(1e9);
  const { pid } = nats;
  await nats.kill();
  expect(lives(pid)).toBe(false);
  expect(await info()).toBeUndefined();
  await nats.restart();
  expect(await info()).toMatchObject({ jetstream: true });
  const last = nats.pid;
  await nats[Symbol.asyncDispose]();
  expect(lives(last)).toBe(false);
  expect(existsSync(nats.data)).toBe(false);
});

test('QuestDB starts closed to strangers, keeps rows over a kill, and leaves nothing behind', async () => {
  const questdb = await startQuestdb();
  await questdb.query('CREATE TABLE t (ts TIMESTAMP, v DOUBLE) TIMESTAMP(ts) PARTITION BY DAY WAL');
  await questdb.query("INSERT INTO t VALUES ('2026-01-01T00:00:00Z', 1.5)");
  const count = async () => (await questdb.query('SELECT count() FROM t')).rows[0]?.[0];
  while ((await count()) !== 1) await pause(20);

  expect((await fetch(`${questdb.httpUrl}/exec?query=SELECT%201`)).status).toBe(401);
  await expect(questdb.query('SELECT * FROM missing')).rejects.toThrow(/table does not exist/);
  // A misspelt table is refused, not made.
  const authorization = `Basic ${Buffer.from(`${questdb.user}:${questdb.password}`).toString('base64')}`;
  const line = await fetch(`${questdb.httpUrl}/write`, {
    method: 'POST',
    headers: { authorization },
    body: 'tt v=1\n',
  });
  expect(line.status).toBe(400);

  const { pid } = questdb;
  await questdb.kill();
  expect(lives(pid)).toBe(false);
  await questdb.restart();
  expect(await count()).toBe(1);

  questdb.freeze();
  expect(await accepts(questdb.pgHost, questdb.pgPort)).toBe(true);
  await expect(fetch(`${questdb.httpUrl}/ping`, { signal: AbortSignal.timeout(300) })).rejects.toThrow(/timeout/i);
  questdb.thaw();
  expect(await count()).toBe(1);

  const last = questdb.pid;
  await questdb[Symbol.asyncDispose]();
  expect(lives(last)).toBe(false);
  expect(existsSync(questdb.data)).toBe(false);
});

test('a server does not outlive the process that started it, even when that is killed hard', async () => {
  const script = `const { startNats } = await import('@fleetreel/test/servers/nats');
    const nats = await startNats(); console.log(nats.pid); setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: join(import.meta.dirname, '..', '..', 'packages', 'cli'),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const pid = Number(line.toString());
  expect(lives(pid)).toBe(true);
  child.kill('SIGKILL');
  await expect.poll(() => lives(pid), { timeout: 8000 }).toBe(false);
});
