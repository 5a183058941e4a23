// An agent that NATS knows: what it does with its credentials, and what the server lets nobody do with them.
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { agentsBucket, claimBucket, inboxPrefix, republishOf } from '@fleetreel/proto';
import { NatsAccess } from '@fleetreel/proto/nats_access';
import { NatsInstallation } from '@fleetreel/test/servers/nats_installation';
import { type Program, startProgram } from '@fleetreel/test/servers/program';
import { type JetStreamManager, jetstream, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { type KV, Kvm } from '@nats-io/kv';
import { connect, errors, headers, type NatsConnection } from '@nats-io/transport-node';
import { afterAll, beforeAll, beforeEach, expect, onTestFinished, test } from 'vitest';

let nats: NatsInstallation;
let collector: NatsConnection;
let manager: JetStreamManager;
let claims: KV;

beforeAll(async () => {
  nats = await NatsInstallation.start();
  collector = await connect({ ...new NatsAccess(nats.collector).options, inboxPrefix: '_INBOX.collector' });
  manager = await jetstreamManager(collector);
  await manager.streams.add({ name: 'FRAMES', subjects: ['fr.v1.>'], storage: StorageType.File, allow_direct: true });
  for (const bucket of [claimBucket, agentsBucket]) {
    await new Kvm(collector).create(bucket, { history: 1, republish: republishOf(bucket) });
    const { config } = await manager.streams.info(`KV_${bucket}`);
    await manager.streams.update(`KV_${bucket}`, { ...config, allow_rollup_hdrs: false });
  }
  claims = await new Kvm(collector).open(claimBucket, { allow_direct: true });
});
afterAll(async () => {
  await collector?.close();
  await nats?.[Symbol.asyncDispose]();
});

/** Subjects of the log and how many messages each has. */
const stored = async (stream = 'FRAMES'): Promise<Record<string, number>> =>
  (await manager.streams.info(stream, { subjects_filter: '>' })).state.subjects ?? {};

/** A client with the credentials of an agent. */
async function client(host: string, tenant = 'default'): Promise<NatsConnection> {
  const credentials = nats.write(`${tenant}-${host}.creds`, nats.credentialsOf({ tenant, host }).text);
  const access = new NatsAccess({ url: nats.server.url, credentials });
  const connection = await connect({
    ...access.options,
    inboxPrefix: inboxPrefix(tenant, host),
    reconnect: false,
    noAsyncTraces: true,
    timeout: 10_000,
  });
  onTestFinished(() => connection.close());
  return connection;
}

const dataFolder = () => mkdtempSync(join(tmpdir(), 'fleetreel-agent-'));

async function agent(args: readonly string[], command = 'run', data = dataFolder()): Promise<Program> {
  const given = ['--nats-url', nats.server.url, '--interval', '1s', '--sources-disable', 'process', '--data', data];
  const program = await startProgram('packages/agent/src/main.ts', [command, ...given, ...args], {});
  onTestFinished(async () => {
    await program.kill();
    rmSync(data, { recursive: true, force: true, maxRetries: 5 });
  });
  return program;
}

/** An agent that is in, with credentials that then expire within seconds, however long its start takes. */
async function shortlyIn(host: string): Promise<Program> {
  const path = join(nats.folder, `${host}.creds`);
  const write = () => {
    const expires_s = Math.floor(Date.now() / 1000) + 8;
    renameSync(nats.write(`${host}.new`, nats.credentialsOf({ host, expires_s }).text), path);
  };
  write();
  const program = await agent(['--nats-credentials', path]);
  const writing = setInterval(write, 1000);
  await program.line(/the name is ours/, 60_000).finally(() => clearInterval(writing));
  return program;
}

const soon = { timeout: 30_000, interval: 100 };

let web: NatsConnection;
beforeEach(async () => {
  web = await client('web.1');
});

test('what is its own it may do', async () => {
  const log = jetstream(web);
  for (const kind of ['frame', 'batch', 'host', 'refusal'])
    await expect(log.publish(`fr.v1.default.${kind}.web_1`, 'x')).resolves.toMatchObject({ stream: 'FRAMES' });
  const own = await new Kvm(jetstream(web, { checkAPI: false })).open(claimBucket, { allow_direct: true });
  expect(await own.get('default.web_1')).toBeNull();
  const revision = await own.create('default.web_1', 'one');
  await own.update('default.web_1', 'two', revision);
  expect((await own.get('default.web_1'))?.string()).toBe('two');
  await claims.delete('default.web_1');
  const settings = await new Kvm(collector).open(agentsBucket, { allow_direct: true });
  const told: string[] = [];
  web.subscribe('fr.told.agents.default.web_1', { callback: (_, message) => void told.push(message.string()) });
  await web.flush();
  await settings.put('default.web_1', 'mine');
  await settings.put('default.other', 'not mine');
  const mine = await new Kvm(jetstream(web, { checkAPI: false })).open(agentsBucket, { allow_direct: true });
  expect((await mine.get('default.web_1'))?.string()).toBe('mine');
  await expect.poll(() => told, soon).toEqual(['mine']);
});

test.for([
  'fr.v1.default.frame.other',
  'fr.v1.default.batch.other',
  'fr.v1.default.host.other',
  'fr.v1.default.refusal.other',
  'fr.v1.acme.frame.web_1',
  'fr.v1.default.dead.web_1',
  'fr.v1.default.custom.key',
  'fr.v1.default.audit.collector',
  'fr.told.claims.default.web_1',
  'fr.told.agents.default.web_1',
  'fr.claim.default.other.session',
  '$KV.claims.default.other',
  '$KV.claims.acme.web_1',
  '$KV.agents.default.web_1',
  '$KV.hosts.default.web_1',
  '$KV.access.anything',
  '$JS.API.INFO',
  '$JS.API.STREAM.NAMES',
  '$JS.API.STREAM.LIST',
  '$JS.API.STREAM.INFO.FRAMES',
  '$JS.API.STREAM.INFO.KV_claims',
  '$JS.API.STREAM.CREATE.MINE',
  '$JS.API.STREAM.UPDATE.FRAMES',
  '$JS.API.STREAM.DELETE.FRAMES',
  '$JS.API.STREAM.PURGE.FRAMES',
  '$JS.API.STREAM.PURGE.KV_claims',
  '$JS.API.STREAM.MSG.GET.KV_claims',
  '$JS.API.STREAM.MSG.DELETE.FRAMES',
  '$JS.API.DIRECT.GET.FRAMES',
  '$JS.API.DIRECT.GET.FRAMES.fr.v1.default.frame.web_1',
  '$JS.API.DIRECT.GET.KV_claims',
  '$JS.API.DIRECT.GET.KV_claims.$KV.claims.default.other',
  '$JS.API.DIRECT.GET.KV_claims.$KV.claims.>',
  '$JS.API.DIRECT.GET.KV_agents.$KV.agents.default.other',
  '$JS.API.DIRECT.GET.KV_hosts.$KV.hosts.default.web_1',
  '$JS.API.CONSUMER.CREATE.FRAMES',
  '$JS.API.CONSUMER.CREATE.KV_claims.mine.$KV.claims.default.web_1',
  '$JS.API.CONSUMER.DURABLE.CREATE.FRAMES.mine',
  '$JS.API.CONSUMER.MSG.NEXT.FRAMES.store-main',
  '$JS.API.CONSUMER.DELETE.FRAMES.store-main',
  '$JS.ACK.FRAMES.store-main.1.1.1.1.1',
  '$SYS.REQ.SERVER.PING',
  '$SYS.REQ.CLAIMS.UPDATE',
  '_INBOX.collector.anything',
  '_INBOX_agent.default.other.anything',
])('publishing to %s is refused', async (subject) => {
  const [before, claimed] = [await stored(), await stored('KV_claims')];
  const answer = await web.request(subject, '{}', { timeout: 5000 }).then(
    () => 'answered',
    (cause: unknown) => cause,
  );
  expect(answer).toBeInstanceOf(errors.RequestError);
  expect((answer as Error).cause).toBeInstanceOf(errors.PermissionViolationError);
  expect([await stored(), await stored('KV_claims')]).toEqual([before, claimed]);
});

test.for([
  '>',
  'fr.>',
  'fr.v1.>',
  'fr.v1.default.frame.*',
  'fr.v1.default.frame.web_1',
  'fr.told.>',
  '$KV.agents.default.*',
  '$KV.agents.default.other',
  'fr.told.claims.default.other',
  'fr.told.agents.default.other',
  'fr.claim.>',
  'fr.claim.default.other.*',
  '$KV.>',
  '$KV.claims.default.web_1',
  '$JS.>',
  '$JS.EVENT.>',
  '$SYS.>',
  '_INBOX.>',
  '_INBOX_agent.>',
  '_INBOX_agent.default.other.>',
])('subscribing to %s is refused', async (subject) => {
  const answer = await new Promise<unknown>((resolve) => {
    web.subscribe(subject, { callback: (error, message) => resolve(error ?? message) });
  });
  expect(answer).toBeInstanceOf(errors.PermissionViolationError);
});

test('nothing is written elsewhere by having an answer sent there', async () => {
  const before = { ...(await stored()), 'fr.v1.default.frame.web_1': expect.anything() };
  const log = jetstream(web);
  await log.publish('$KV.claims.default.web_1', '{}');
  const [claimed, settings] = [await stored('KV_claims'), await stored('KV_agents')];
  for (const reply of [
    'fr.v1.default.frame.other',
    'fr.v1.acme.host.web_1',
    '$KV.claims.default.other',
    '$KV.agents.default.web_1',
    '$JS.API.STREAM.DELETE.FRAMES',
    '$JS.API.STREAM.PURGE.KV_claims',
  ])
    for (const subject of [
      'fr.v1.default.frame.web_1',
      '$KV.claims.default.web_1',
      '$JS.API.DIRECT.GET.KV_claims.$KV.claims.default.web_1',
    ])
      web.publish(subject, '{}', { reply });
  // After the first of these are answered, all before have been; after the second, what an answer wrote is written.
  for (let time = 0; time < 2; time++) {
    await log.publish('fr.v1.default.frame.web_1', 'last');
    await log.publish('$KV.claims.default.web_1', '{}');
    await web.request('$JS.API.DIRECT.GET.KV_claims.$KV.claims.default.web_1');
  }
  expect(await stored()).toEqual(before);
  expect(await stored('KV_claims')).toEqual(claimed);
  expect(await stored('KV_agents')).toEqual(settings);
  await claims.delete('default.web_1');
});

test('one key gives no power over others by a header', async () => {
  await claims.put('default.other', '{}');
  const header = headers();
  header.set('Nats-Rollup', 'all');
  await expect(jetstream(web).publish('$KV.claims.default.web_1', 'x', { headers: header })).rejects.toThrow(/rollup/);
  expect(await stored('KV_claims')).toHaveProperty(['$KV.claims.default.other']);
});

test('an agent publishes, keeps its name against another machine, which has it once it is free', async () => {
  const path = nats.write('db.1.creds', nats.credentialsOf({ tenant: 'acme', host: 'db.1' }).text);
  const first = await agent(['--nats-credentials', path, '--machine-id', 'machine-one']);
  await expect.poll(async () => (await stored())['fr.v1.acme.frame.db_1'], soon).toBeGreaterThan(1);
  await expect.poll(async () => await stored(), soon).toHaveProperty(['fr.v1.acme.host.db_1']);
  expect((await claims.get('acme.db_1'))?.json()).toMatchObject({ machineId: 'machine-one' });

  const second = await agent(['--nats-credentials', path, '--machine-id', 'machine-two']);
  await second.line(/The name \\"db.1\\" is held by machine machine-one/, 30_000);
  await expect.poll(async () => await stored(), soon).toHaveProperty(['fr.v1.acme.refusal.db_1']);
  await first.stop();
  // As when it is forgotten in the console.
  await claims.delete('acme.db_1');
  await second.line(/the name is ours/, 30_000);
});

test('an agent whose name is taken while it runs is told, and ends', async () => {
  const path = nats.write('db.2.creds', nats.credentialsOf({ host: 'db.2' }).text);
  const program = await agent(['--nats-credentials', path]);
  await program.line(/the name is ours/, 30_000);
  const claim = (await claims.get('default.db_2'))?.json<object>();
  await claims.put('default.db_2', JSON.stringify({ ...claim, session: 'another', machineId: 'machine-three' }));
  expect((await program.exited).code).toBe(1);
  expect(program.lines.join('\n')).toContain('Another agent has taken the name');
});

test('credentials that come while an agent runs need no restart, unless they are of another host', async () => {
  const data = dataFolder();
  const program = await agent(['--host', 'late.1'], 'run', data);
  await program.line(/the server asks for credentials: fetch some \(fleetreel-agent enroll\)/, 60_000);
  const path = join(data, 'nats.creds');
  renameSync(nats.write('late.creds', nats.credentialsOf({ host: 'late.2' }).text), path);
  await program.line(/has credentials of \\?"late\.2\\?", and this program runs as another: start it again/, 60_000);
  renameSync(nats.write('late.creds', nats.credentialsOf({ host: 'late.1' }).text), path);
  await program.line(/"host":"late.1","msg":"the name is ours"/, 60_000);
});

test('who renews credentials in time hears nothing of it', async () => {
  const program = await shortlyIn('db.5');
  nats.write('db.5.creds', nats.credentialsOf({ host: 'db.5' }).text);
  await program.line(/connected again/, 60_000);
  expect(program.lines.join('\n')).not.toMatch(/NATS refuses/);
});

test('expired credentials are said, sampling goes on into the spool, and new ones need no restart', async () => {
  const program = await shortlyIn('db.3');
  await program.line(/NATS refuses this agent.*|have expired at/, 60_000);
  const count = async () => (await stored())['fr.v1.default.frame.db_3'] ?? 0;
  const before = await count();
  await pause(2500);
  expect(await count()).toBe(before);
  nats.write('db.3.creds', nats.credentialsOf({ host: 'db.3' }).text);
  await program.line(/connected again/, 30_000);
  await expect.poll(async () => await stored(), soon).toHaveProperty(['fr.v1.default.batch.db_3']);
  await program.stop();
  // Not at each try: the connection that ends, the next that is refused and the file say it each in their own words.
  expect(program.lines.filter((line) => line.includes('NATS refuses this agent')).length).toBeLessThanOrEqual(4);
  expect(program.lines.join('\n')).toContain('have expired at');
});

test('check says what is wrong with credentials', async () => {
  const said = async (text: string, ...more: string[]) => {
    const path = nats.write(`checked-${performance.now()}.creds`, text);
    const program = await agent(['--nats-credentials', path, ...more], 'check');
    const { code } = await program.exited;
    return `${code} ${program.lines.join(' | ')}`;
  };
  const { text } = nats.credentialsOf({ host: 'db.4', expires_s: Math.floor(Date.now() / 1000) - 60 });
  const good = nats.credentialsOf({ tenant: 'acme', host: 'db.4' }).text;
  const answers = await Promise.all([
    said('nothing'),
    said(text),
    said(good),
    said(good, '--host', 'db.5'),
    said(good, '--tenant', 'other'),
  ]);
  expect(answers).toEqual([
    expect.stringMatching(/^2 .*\.creds is no credentials file of NATS: it has no token and seed/),
    expect.stringMatching(/^2 .*the credentials of "db\.4" in \S+ have expired at 20/),
    expect.stringMatching(/^0 .*name: "db\.4" can be claimed/),
    expect.stringMatching(/^2 .*host: this is to be "db\.5", and the credentials .* "db\.4"/),
    expect.stringMatching(/^2 .*tenant: this is to be a host of "other"/),
  ]);
});
