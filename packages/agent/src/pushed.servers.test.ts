// Settings that are pushed to a running agent: the program, a real nats-server, and a bucket into which the test writes.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  agentsBucket,
  decodeFrame,
  decodeHostDescription,
  type HostDescription,
  hostKey,
  republishOf,
} from '@fleetreel/proto';
import { type AgentSettings, pushedText, settingsDigest } from '@fleetreel/proto/agent_settings';
import { decodeBatch } from '@fleetreel/proto/batch';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { freePort, type Program, startProgram } from '@fleetreel/test/servers/program';
import { jetstreamManager, StorageType } from '@nats-io/jetstream';
import { type KV, Kvm } from '@nats-io/kv';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, expect, onTestFinished, test } from 'vitest';

const patience = { timeout: 30_000, interval: 100 };
type Frame = ReturnType<typeof decodeFrame>;

let nats: NatsServer;
let connection: NatsConnection;
let bucket: KV;
/** What came since the beginning, by host. */
const frames = new Map<string, Frame[]>();
const described = new Map<string, HostDescription[]>();

beforeAll(async () => {
  nats = await startNats({ port: await freePort() });
  connection = await connect({ servers: nats.url, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
  await prepare();
  const add = <T>(to: Map<string, T[]>, host: string, items: readonly T[]) =>
    to.set(host, [...(to.get(host) ?? []), ...items]);
  connection.subscribe('fr.v1.default.*.*', {
    callback: (_, { subject, data }) => {
      const [, , , kind, host = ''] = subject.split('.');
      if (kind === 'frame') add(frames, host, [decodeFrame(data)]);
      if (kind === 'batch') add(frames, host, decodeBatch(data).map(decodeFrame));
      if (kind === 'host') add(described, host, [decodeHostDescription(data)]);
    },
  });
});

afterAll(async () => {
  await connection?.close();
  await nats?.[Symbol.asyncDispose]();
});

async function prepare(): Promise<void> {
  const manager = await jetstreamManager(connection);
  await manager.streams.add({ name: 'FRAMES', subjects: ['fr.v1.>'], storage: StorageType.File });
  bucket = await new Kvm(connection).create(agentsBucket, {
    history: 1,
    storage: StorageType.File,
    republish: republishOf(agentsBucket),
  });
}

async function folder(): Promise<string> {
  const made = await mkdtemp(join(tmpdir(), 'fleetreel-pushed-'));
  onTestFinished(() => rm(made, { recursive: true, force: true, maxRetries: 5 }));
  return made;
}

async function agent(host: string, data: string, ...flags: string[]): Promise<Program> {
  const args = ['run', '--host', host, '--nats-url', nats.url, '--data', data, '--tags', 'rack=a3', ...flags];
  const program = await startProgram('packages/agent/src/main.ts', args, {});
  onTestFinished(async () => void (await program.kill()));
  return program;
}

const push = (host: string, settings: AgentSettings) => bucket.put(hostKey('default', host), pushedText(settings));
const newest = (host: string) => frames.get(host)?.at(-1);
const told = (host: string) => described.get(host)?.at(-1);
const sourcesIn = (host: string) =>
  frames.get(host)?.findLast(({ tables }) => tables.source)?.tables.source?.source ?? [];
/** A digest is told when what it stands for is in effect. */
const isTold = (host: string, settings: AgentSettings) =>
  expect.poll(() => told(host)?.settings_digest, patience).toBe(settingsDigest(pushedText(settings)));

test('intervals, sources, labels and tags change while it runs, in one session without a gap, and change back', async () => {
  const host = 'changing';
  await agent(host, await folder(), '--interval', '300s', '--container-labels', 'own');
  await expect.poll(() => told(host)?.settings, patience).toMatchObject({ interval: '300s', 'sources.cpu': 'on' });
  expect(told(host)).toMatchObject({ settings_digest: '', settings_refused: {}, own_tags: { rack: 'a3' } });
  const settings = {
    interval: '1s',
    'sources.memory': 'off',
    'container.labels': 'team,version',
    'tags.role': 'web',
    'tags.rack': 'b1',
  };
  await push(host, settings);
  await expect.poll(() => newest(host)?.interval_ms, patience).toBe(1000);
  await expect.poll(() => sourcesIn(host).includes('memory'), patience).toBe(false);
  await isTold(host, settings);
  expect(told(host)).toMatchObject({
    settings,
    interval_ms: 1000,
    tags: { rack: 'b1', role: 'web' },
    own_tags: { rack: 'a3' },
    settings_refused: {},
  });
  await expect.poll(() => newest(host)?.tables.memory, patience).toBeUndefined();
  expect(newest(host)?.tables.cpu).toBeDefined();

  await push(host, { interval: '1s', upload_interval: '2s' });
  await expect.poll(() => newest(host)?.tables.memory, patience).toBeDefined();
  await expect
    .poll(() => told(host)?.settings, patience)
    .toMatchObject({ 'sources.memory': 'on', 'container.labels': 'own' });
  expect(told(host)).toMatchObject({ upload_interval_ms: 2000, tags: { rack: 'a3' } });
  await push(host, { interval: '1s' });
  await expect.poll(() => told(host)?.upload_interval_ms, patience).toBe(0);

  await bucket.delete(hostKey('default', host));
  await expect.poll(() => newest(host)?.interval_ms, patience).toBe(300_000);
  await expect.poll(() => told(host)?.settings_digest, patience).toBe('');
  const all = frames.get(host) ?? [];
  expect(new Set(all.map(({ session }) => session)).size).toBe(1);
  const numbers = [...new Set(all.map(({ sequence }) => sequence))].sort((a, b) => a - b);
  expect(numbers).toEqual(numbers.map((_, index) => index + 1));
});

test('what was pushed last is in effect after a kill, without NATS; what cannot be read leaves it so', async () => {
  const host = 'kept';
  const data = await folder();
  const first = await agent(host, data, '--interval', '300s');
  await push(host, { interval: '1s', 'sources.tcp': 'off' });
  await expect.poll(() => newest(host)?.interval_ms, patience).toBe(1000);
  const file = join(data, 'settings', 'default.kept.json');
  await expect.poll(() => readdirSync(join(data, 'settings')), patience).toEqual(['default.kept.json']);

  // Somebody who may write writes garbage.
  const garbage = '{"settings":';
  await bucket.put(hostKey('default', host), garbage);
  await expect.poll(() => told(host)?.settings_refused, patience).toEqual({ '': 'They are no JSON.' });
  expect(told(host)).toMatchObject({
    settings_digest: settingsDigest(garbage),
    settings: { interval: '1s', 'sources.tcp': 'off' },
  });
  await first.line(/some of the settings that were pushed are not followed/);
  expect(readFileSync(file, 'utf8')).toBe(pushedText({ interval: '1s', 'sources.tcp': 'off' }));
  await bucket.put(
    hostKey('default', host),
    Buffer.from('{"settings":{"interval":"2s","sources.tape":"off","data":"/etc"}}'),
  );
  await expect.poll(() => newest(host)?.interval_ms, patience).toBe(2000);
  await expect
    .poll(() => Object.keys(told(host)?.settings_refused ?? {}).sort(), patience)
    .toEqual(['data', 'sources.tape']);

  await first.kill();
  const port = await freePort();
  const second = await agent(host, data, '--interval', '300s', '--nats-url', `nats://127.0.0.1:${port}`);
  await second.line(/"interval":"2s".*"msg":"sampling"/);
  await second.kill();

  writeFileSync(file, '{"settings":{"inter');
  const third = await agent(host, data, '--interval', '300s', '--nats-url', `nats://127.0.0.1:${port}`);
  await third.line(/has no settings: it is not used/);
  await third.line(/"interval":"300s".*"msg":"sampling"/);
});

test('a host whose own settings say so takes none, and says that', async () => {
  const host = 'closed';
  await push(host, { interval: '1s', 'tags.role': 'web' });
  await agent(host, await folder(), '--interval', '2s', '--settings-remote', 'false');
  await expect
    .poll(() => told(host)?.settings_refused, patience)
    .toEqual({ '': 'settings.remote is off on this host.' });
  await expect.poll(() => newest(host)?.sequence ?? 0, patience).toBeGreaterThan(1);
  expect(newest(host)?.interval_ms).toBe(2000);
  expect(told(host)).toMatchObject({ settings: { interval: '2s', 'settings.remote': 'off' }, tags: { rack: 'a3' } });
});

test('what was changed while NATS was away is taken when it is back; without a bucket its own are in effect', async () => {
  const host = 'away';
  await using other = await startNats({ port: await freePort() });
  const one = await agent(host, await folder(), '--interval', '1s', '--nats-url', other.url);
  await one.line(/settings that are pushed can not be read/);
  const own = await connect({ servers: other.url, maxReconnectAttempts: -1, reconnectTimeWait: 100 });
  onTestFinished(() => own.close());
  await (await jetstreamManager(own)).streams.add({ name: 'FRAMES', subjects: ['fr.v1.>'], storage: StorageType.File });
  let frame: Frame | undefined;
  own.subscribe('fr.v1.default.frame.away', {
    callback: (_, { data }) => {
      frame = decodeFrame(data);
    },
  });
  await expect.poll(() => frame?.interval_ms, patience).toBe(1000);
  const there = await new Kvm(own).create(agentsBucket, {
    history: 1,
    storage: StorageType.File,
    republish: republishOf(agentsBucket),
  });
  await there.put(hostKey('default', host), pushedText({ interval: '3s' }));
  await expect.poll(() => frame?.interval_ms, patience).toBe(3000);
  await other.restart();
  const again = () => there.put(hostKey('default', host), pushedText({ interval: '2s' }));
  await expect.poll(() => again().catch(() => 0), patience).toBeGreaterThan(0);
  await expect.poll(() => frame?.interval_ms, patience).toBe(2000);
});
