// Settings of agents over a real nats-server: asked for by both faces and the command line, put where agents find them by two collectors.
import { agentsBucket } from '@fleetreel/proto';
import { pushedText } from '@fleetreel/proto/agent_settings';
import { AgentSettingsChange, AgentSettingsPage, type AgentState, Agents, type Problem } from '@fleetreel/proto/http';
import { startNats } from '@fleetreel/test/servers/nats';
import { freePort, startProgram } from '@fleetreel/test/servers/program';
import type { KV } from '@nats-io/kv';
import Value from 'typebox/value';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';
import { type Clock, systemClock } from '#clock.ts';
import { pushedRepairMilliseconds } from '#limits.ts';
import { AgentSettings } from '#log/agent_settings.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { Registry } from '#log/registry.ts';
import { buckets } from '#log/stream.ts';
import { Telemetry } from '#telemetry.ts';
import { describedHost, serveRooms, startFaces, startLog } from '#testing.ts';

const until = (check: () => unknown) => expect.poll(check, { timeout: 30_000, interval: 50 });

let parts: Awaited<ReturnType<typeof start>>;
beforeAll(async () => {
  parts = await start();
});
afterAll(() => parts?.[Symbol.asyncDispose]());

async function start() {
  const closing = new AsyncDisposableStack();
  const nats = closing.use(await startNats({ port: await freePort() }));
  const { telemetry, faces } = await startFaces(closing);
  const { log, registry } = await startLog(
    closing,
    nats.url,
    { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 },
    telemetry,
  );
  await serveRooms(closing, { telemetry, faces, log, registry });
  const pushed = await log.buckets.open(agentsBucket);
  return {
    nats,
    log,
    registry,
    pushed,
    settings: await log.buckets.open('settings'),
    telemetry,
    url: `http://127.0.0.1:${faces.http.port}/api/v1`,
    grpcAddress: `127.0.0.1:${faces.grpc.port}`,
    [Symbol.asyncDispose]: () => closing.disposeAsync(),
  };
}

const known = { settings: { 'settings.remote': 'on', interval: '5s' } };
const describe = (host: string, more: Parameters<typeof describedHost>[1] = {}) =>
  parts.registry.describe('default', describedHost(host, { ...known, ...more }));

/** What any of the routes answers. */
type Body = AgentSettingsChange & AgentSettingsPage & Agents & Problem;

async function ask(method: string, path: string, body?: unknown): Promise<{ status: number; body: Body }> {
  const answer = await fetch(`${parts.url}/${path}`, {
    method,
    ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
  });
  return { status: answer.status, body: (await answer.json()) as Body };
}
const put = (target: string, settings: unknown, more: { dryRun?: boolean; revision?: number } = {}) =>
  ask('PUT', `agents/settings/${encodeURIComponent(target)}${more.dryRun ? '?dryRun=true' : ''}`, {
    settings,
    ...(more.revision !== undefined && { revision: more.revision }),
  });
const remove = (target: string, question = '') =>
  ask('DELETE', `agents/settings/${encodeURIComponent(target)}${question}`);
/** What is in the bucket for an agent. */
const textOf = async (host: string, bucket: KV = parts.pushed, tenant = 'default') => {
  const entry = await bucket.get(`${tenant}.${host}`);
  return entry?.operation === 'PUT' ? entry.string() : undefined;
};
const agent = async (host: string): Promise<AgentState | undefined> => {
  const { body } = await ask('GET', 'agents');
  expect(Value.Check(Agents, body)).toBe(true);
  return body.agents.find((one) => one.host === host);
};

async function cli(...args: string[]): Promise<{ code: number | null; text: string }> {
  const program = await startProgram('packages/cli/src/main.ts', ['agents', ...args, '--address', parts.grpcAddress]);
  const { code } = await program.exited;
  return { code, text: program.lines.join('\n') };
}

/** Another collector on the same log. */
async function another(): Promise<{ log: Log; registry: Registry; settings: AgentSettings }> {
  const log = await connectLog(parts.nats.url);
  const telemetry = new Telemetry('silent');
  const registry = await Registry.open({ log, telemetry });
  const settings = await AgentSettings.open({ log, registry, telemetry });
  onTestFinished(async () => {
    await settings.close();
    await registry.close();
    await log.connection.close();
  });
  return { log, registry, settings };
}

test('what is wanted of a target is put where each of its agents finds it, also of one that comes later', async () => {
  await describe('web-1', { own_tags: { role: 'web' } });
  await describe('db-1', { own_tags: { role: 'db' } });
  await until(async () => (await agent('db-1'))?.state).toBe('own');

  const all = await put('all', { interval: '10s', 'sources.gpu': 'off' });
  expect(all.status).toBe(200);
  expect(Value.Check(AgentSettingsChange, all.body)).toBe(true);
  expect(all.body.changed).toEqual(['db-1', 'web-1']);
  await until(() => textOf('db-1')).toBe(pushedText({ interval: '10s', 'sources.gpu': 'off' }));

  const trial = await put('tag:role=web', { interval: '1s' }, { dryRun: true });
  expect(trial.body).toMatchObject({
    changed: ['web-1'],
    target: { target: 'tag:role=web', hosts: ['web-1'], revision: 0 },
  });
  expect((await ask('GET', 'agents/settings')).body.targets).toHaveLength(1);
  await put('tag:role=web', { interval: '1s' });
  await put('host:web-1', { 'sources.gpu': 'on', 'tags.rack': 'a3' });
  await until(() => textOf('web-1')).toBe(pushedText({ interval: '1s', 'sources.gpu': 'on', 'tags.rack': 'a3' }));
  expect(await agent('web-1')).toMatchObject({
    state: 'pending',
    wanted: { interval: '1s', 'sources.gpu': 'on', 'tags.rack': 'a3' },
    inEffect: { interval: '5s' },
    targets: ['all', 'tag:role=web', 'host:web-1'],
  });

  await describe('web-2', { own_tags: { role: 'web' } });
  await until(() => textOf('web-2')).toBe(pushedText({ interval: '1s', 'sources.gpu': 'off' }));
  // Its role is another one.
  await describe('web-2', { own_tags: { role: 'db' } });
  await until(() => textOf('web-2')).toBe(pushedText({ interval: '10s', 'sources.gpu': 'off' }));
  const page = await ask('GET', 'agents/settings');
  expect(Value.Check(AgentSettingsPage, page.body)).toBe(true);
  expect(page.body.targets.map(({ target, hosts }) => [target, hosts])).toEqual([
    ['all', ['db-1', 'web-1', 'web-2']],
    ['tag:role=web', ['web-1']],
    ['host:web-1', ['web-1']],
  ]);

  for (const target of ['all', 'tag:role=web', 'host:web-1']) expect((await remove(target)).status).toBe(200);
  await until(() => textOf('web-1')).toBeUndefined();
  expect(await agent('web-1')).toMatchObject({ state: 'own', wanted: {}, targets: [] });
});

test('what can not be is refused before anything is written', async () => {
  await describe('web-1');
  const wrong: [string, unknown, number, string, RegExp][] = [
    ['all', { intervall: '5s' }, 400, 'unknown_setting', /Did you mean "interval"/],
    ['all', { 'sources.containers': 'off' }, 400, 'unknown_setting', /sources\.container"/],
    ['all', { 'nats.url': 'nats://10.0.0.1' }, 400, 'unknown_setting', /can be pushed/],
    ['all', { interval: '1s', upload_interval: '1d' }, 400, 'bad_setting', /upload_interval/],
    ['all', { interval: 5 }, 400, 'bad_body', /settings\.interval/],
    ['all', { 'tags.-x': 'y' }, 400, 'bad_setting', /the name of a tag/],
    ['tag:role=web', { 'tags.role': 'db' }, 400, 'bad_setting', /to all or to a host/],
    ['every', { interval: '1s' }, 400, 'bad_target', /all, tag:NAME=VALUE/],
    ['host:>', { interval: '1s' }, 400, 'bad_target', /host:HOST/],
    ['all', {}, 400, 'missing_parameter', /at least one/],
    ['all', 'x', 400, 'bad_body', /settings/],
    [
      'all',
      Object.fromEntries(Array.from({ length: 101 }, (_, n) => [`tags.t${n}`, 'x'])),
      400,
      'too_many_settings',
      /100/,
    ],
  ];
  for (const [target, settings, status, code, detail] of wrong) {
    const answer = await put(target, settings);
    expect([answer.status, answer.body.code], JSON.stringify(settings)).toEqual([status, code]);
    expect(answer.body.detail).toMatch(detail);
  }
  expect(await remove('host:nobody')).toMatchObject({ status: 404, body: { code: 'settings_not_found' } });
  const before = await put('host:web-1', { interval: '1s' });
  const changed = await put('host:web-1', { interval: '2s' }, { revision: before.body.target.revision + 1 });
  expect(changed).toMatchObject({ status: 409, body: { code: 'settings_changed' } });
  const revision: number = before.body.target.revision;
  expect((await put('host:web-1', { interval: '2s' }, { revision })).status).toBe(200);
  // Nor is what somebody else changed meanwhile taken away.
  for (const question of [`?revision=${revision}`, `?revision=${revision}&dryRun=true`])
    expect(await remove('host:web-1', question)).toMatchObject({ status: 409, body: { code: 'settings_changed' } });
  expect(await remove('host:web-1', '?revision=-1')).toMatchObject({ status: 400, body: { code: 'bad_value' } });
  const [now] = (await ask('GET', 'agents/settings')).body.targets;
  expect(now).toMatchObject({ settings: { interval: '2s' } });
  expect((await remove('host:web-1', `?revision=${now?.revision}`)).status).toBe(200);
});

test('two collectors come to the same, and write no more than there is to write', async () => {
  const hosts = Array.from({ length: 50 }, (_, index) => `many-${index}`);
  await Promise.all(
    hosts.map((host) => describe(host, { own_tags: { group: host.endsWith('7') ? 'seven' : 'other' } })),
  );
  const { settings } = await another();
  // Both change the same target, at the same time.
  const changes = await Promise.all([
    put('all', { interval: '7s' }),
    settings.put('default', { kind: 'all' }, { interval: '8s' }, 0),
    put('tag:group=seven', { 'sources.llm': 'off' }),
  ]);
  expect(changes.filter((change) => change !== undefined).length).toBeGreaterThanOrEqual(2);
  const wanted = async () => (await ask('GET', 'agents/settings')).body.targets[0]?.settings ?? {};
  await until(async () => settings.get('default', 'all')?.settings.interval).toBe((await wanted()).interval);
  const { interval = '' } = await wanted();
  for (const host of hosts)
    await until(() => textOf(host)).toBe(pushedText({ interval, ...(host.endsWith('7') && { 'sources.llm': 'off' }) }));
  // Nothing goes back and forth.
  const last = async () => (await parts.log.manager.streams.info(`KV_${agentsBucket}`)).state.last_seq;
  const now = await last();
  await new Promise((resolve) => setTimeout(resolve, pushedRepairMilliseconds.first * 2));
  expect(await last()).toBe(now);
  await remove('all');
  await remove('tag:group=seven');
  await until(() => textOf('many-7')).toBeUndefined();
});

test('what somebody else writes is told, and made right', async () => {
  await describe('web-1');
  await put('host:web-1', { interval: '1s' });
  await until(() => textOf('web-1')).toBe(pushedText({ interval: '1s' }));
  await parts.pushed.put('default.web-1', '{"settings":{"interval":"300s"}}');
  await until(() => textOf('web-1')).toBe(pushedText({ interval: '1s' }));
  // Garbage among what is wanted.
  await parts.settings.put('default.tag.@@@'.replaceAll('@', '='), 'x');
  await parts.settings.put('default.all', '{"settings":{"interval":5}}');
  await parts.settings.put('default.host.web-2', 'null');
  const unreadable = async () =>
    (await parts.telemetry.registry.metrics()).match(/bucket_entries_unreadable_total{bucket="settings"} (\d+)/)?.[1];
  await until(unreadable).toBe('3');
  expect((await ask('GET', 'agents/settings')).body.targets).toMatchObject([{ target: 'host:web-1' }]);
  expect((await put('all', { interval: '3s' })).status).toBe(409);
  await remove('host:web-1');
});

test('an agent that does not follow, or that knows nothing of it, is shown so', async () => {
  await put('host:closed', { interval: '1s' });
  await describe('closed', {
    settings: { interval: '5s', 'settings.remote': 'off' },
    settings_refused: { '': 'settings.remote is off on this host.' },
  });
  await put('host:older', { interval: '1s' });
  await describe('older', { settings: {} });
  await until(async () => (await agent('closed'))?.state).toBe('refused');
  await until(async () => (await agent('older'))?.state).toBe('unsupported');
  const { text } = await cli('list');
  expect(text).toMatch(/closed +refused +interval +1s +5s +settings\.remote is off/);
  expect(text).toMatch(/older +unsupported +interval +1s/);
  await remove('host:closed');
  await remove('host:older');
});

test('by the command line: a trial, set, unset, and what is wrong', async () => {
  await describe('web-1', { own_tags: { role: 'web' } });
  await put('tag:role=web', { interval: '1s' });
  const trial = await cli('set', 'tag:role=web', 'sources.container=off', '--dry-run');
  expect(trial).toMatchObject({ code: 0 });
  expect(trial.text).toMatch(/^tag:role=web: interval=1s sources\.container=off\n.*nothing was changed:\n {2}web-1$/);
  // What is not named stays.
  expect((await cli('set', 'tag:role=web', 'sources.container=off')).code).toBe(0);
  await until(() => textOf('web-1')).toBe(pushedText({ interval: '1s', 'sources.container': 'off' }));
  expect((await cli('targets')).text).toMatch(/tag:role=web +1 +interval +1s\n.*sources\.container +off/);
  expect((await cli('unset', 'tag:role=web', 'interval')).code).toBe(0);
  await until(() => textOf('web-1')).toBe(pushedText({ 'sources.container': 'off' }));
  const wrong = await cli('set', 'all', 'interval=soon');
  expect(wrong.code).toBe(2);
  expect(wrong.text).toMatch(/interval can't be "soon"\. Give a duration/);
  await remove('tag:role=web');
});

test.each([buckets.settings, buckets.hosts])('nothing is pushed before all of the bucket %s is read', async (late) => {
  await describe('web-1', { own_tags: { role: 'web' } });
  await put('tag:role=web', { interval: '1s' });
  await put('host:web-1', { 'sources.llm': 'off' });
  await until(() => textOf('web-1')).toBe(pushedText({ interval: '1s', 'sources.llm': 'off' }));
  const last = async () => (await parts.log.manager.streams.info(`KV_${agentsBucket}`)).state.last_seq;
  const before = await last();
  // Seconds are milliseconds: what is waited for comes too late.
  const clock: Clock = {
    ...systemClock,
    monotonic_ms: () => systemClock.monotonic_ms() * 1000,
    sleep: (milliseconds, signal) => systemClock.sleep(milliseconds / 1000, signal),
  };
  const log = await connectLog(parts.nats.url);
  onTestFinished(() => log.connection.close());
  const gate = Promise.withResolvers<void>();
  // To open it is one thing, to read it another.
  let opened = 0;
  const open = async (bucket: string) => {
    if (bucket === late && ++opened > 1) await gate.promise;
    return await log.buckets.open(bucket);
  };
  const telemetry = new Telemetry('silent');
  const slow = { log: { ...log, buckets: { open } as unknown as Log['buckets'] }, telemetry, clock };
  await using registry = await Registry.open(slow);
  await using settings = await AgentSettings.open({ ...slow, registry });
  using _ = { [Symbol.dispose]: gate.resolve };
  // What another would do by now.
  for (let round = 0; round < 100; round++) await log.connection.flush();
  expect(await last()).toBe(before);
  gate.resolve();
  await until(() => settings.wantedOf('default', 'web-1').targets).toEqual(['tag:role=web', 'host:web-1']);
  const { revision = 0 } = settings.get('default', 'host:web-1') ?? {};
  await settings.put('default', { kind: 'host', host: 'web-1' }, { 'sources.gpu': 'off' }, revision);
  await until(() => textOf('web-1')).toMatch(/gpu/);
  for (const target of ['tag:role=web', 'host:web-1']) await remove(target);
});

test('after a restart of NATS what is wanted is known, and put where it belongs', async () => {
  await describe('web-1');
  await put('host:web-1', { interval: '1s' });
  await until(() => textOf('web-1')).toBe(pushedText({ interval: '1s' }));
  await parts.nats.restart();
  await until(async () => (await put('host:web-1', { interval: '2s' })).status).toBe(200);
  await until(() => textOf('web-1').catch(() => '')).toBe(pushedText({ interval: '2s' }));
  const { settings } = await another();
  expect(settings.wantedOf('default', 'web-1').settings).toEqual({ interval: '2s' });
  await until(async () => (await remove('host:web-1')).status).toBe(200);
});
