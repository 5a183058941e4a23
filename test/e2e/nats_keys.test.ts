// Keys of NATS: those that a local Fleetreel makes for itself, also over an older version's data, and those for servers elsewhere.
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { natsKeys, renewAgent } from '@fleetreel/deploy/local/nats_keys';
import { NatsAccess } from '@fleetreel/proto/nats_access';
import { readCredentials } from '@fleetreel/proto/nats_jwt';
import { jetstream, jetstreamManager, StorageType } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect } from '@nats-io/transport-node';
import { afterAll, expect, onTestFinished, test, vi } from 'vitest';
import { startNats } from '../servers/nats.ts';
import { startProgram } from '../servers/program.ts';
import { programs } from '../stack.ts';

const data = mkdtempSync(join(tmpdir(), 'fleetreel-keys-'));
afterAll(() => rmSync(data, { recursive: true, force: true }));

const keysOf = (host: string) => natsKeys(data, { FLEETREEL_HOST: host });
const agentOf = (keys: ReturnType<typeof keysOf>) =>
  readCredentials(readFileSync(keys.agent.FLEETREEL_NATS_CREDENTIALS ?? '', 'utf8')).claims;

test('what the log held is still there, only keys open it, and they stay the same', async () => {
  const store = { data: join(data, 'nats') };
  {
    await using before = await startNats(store);
    const open = await connect({ servers: before.url });
    const manager = await jetstreamManager(open);
    await manager.streams.add({ name: 'FRAMES', subjects: ['fr.v1.>'], storage: StorageType.File });
    await jetstream(open).publish('fr.v1.default.frame.web-1', 'one');
    await (await new Kvm(open).create('hosts', { storage: StorageType.File })).put('default.web-1', 'two');
    await open.close();
  }
  const keys = keysOf('web.1');
  const folder = join(data, 'nats-keys');
  expect(statSync(folder).mode & 0o777).toBe(0o700);
  for (const name of readdirSync(folder)) expect(statSync(join(folder, name)).mode & 0o777, name).toBe(0o600);

  await using server = await startNats({ ...store, configuration: keys.configuration });
  await expect(connect({ servers: server.url, reconnect: false })).rejects.toThrow(/authorization violation/i);
  const credentials = keys.collector.FLEETREEL_NATS_CREDENTIALS ?? '';
  const known = await connect(new NatsAccess({ url: server.url, credentials }).options);
  const manager = await jetstreamManager(known);
  expect((await manager.streams.info('FRAMES')).state.messages).toBe(1);
  expect((await (await new Kvm(known).open('hosts')).get('default.web-1'))?.string()).toBe('two');
  await known.close();

  // At the next start, and under another name.
  const agent = agentOf(keys);
  expect(agent).toMatchObject({ name: 'web.1', nats: { tags: ['tenant:default', 'host:web_1'] } });
  const again = keysOf('web.1');
  expect(again).toEqual(keys);
  expect(agentOf(again).sub).toBe(agent.sub);
  expect(agentOf(keysOf('web-2'))).toMatchObject({ name: 'web-2', nats: { tags: ['tenant:default', 'host:web-2'] } });
  expect(() => keysOf('web 3')).toThrow(/give it another name with the environment variable FLEETREEL_HOST/);
});

test('the credentials of its own agent end by themselves, and are renewed before', () => {
  onTestFinished(() => void vi.useRealTimers());
  vi.useFakeTimers({ toFake: ['Date', 'setInterval', 'clearInterval'] });
  const day = 86_400_000;
  const first = agentOf(keysOf('web-3'));
  expect((first.exp ?? Infinity) * 1000).toBeLessThanOrEqual(Date.now() + 7 * day);
  const said: string[] = [];
  using _ = renewAgent(data, { FLEETREEL_HOST: 'web-3' }, (line) => said.push(line));
  vi.setSystemTime(Date.now() + 3 * day);
  vi.advanceTimersByTime(60_000);
  expect(agentOf(keysOf('web-3'))).toEqual(first);
  vi.setSystemTime(Date.now() + day);
  vi.advanceTimersByTime(60_000);
  const path = join(data, 'nats-keys', 'agent.creds');
  const second = readCredentials(readFileSync(path, 'utf8')).claims;
  expect(second.sub).not.toBe(first.sub);
  expect(second.exp).toBeGreaterThan((first.exp ?? Infinity) + 3 * 86_400);
  expect(said).toEqual([]);
});

test('fleetreel nats-keys makes what a server and its collectors need, and never over what is there', async () => {
  const folder = join(data, 'production');
  const accounts = join(data, 'accounts');
  const hub = 'nats-leaf://centre.example:7422';
  const run = async () => {
    const program = await startProgram(programs.cli, ['nats-keys', folder, '--accounts', accounts, '--hub', hub]);
    const { code } = await program.exited;
    return { code, said: program.lines.join('\n') };
  };
  expect(await run()).toMatchObject({
    code: 0,
    said: expect.stringContaining('operator.seed: needed for nothing that runs'),
  });
  for (const name of readdirSync(folder)) expect(statSync(join(folder, name)).mode & 0o777, name).toBe(0o600);
  expect(await run()).toMatchObject({ code: 1, said: expect.stringContaining('is there already') });

  expect(readFileSync(join(folder, 'site.conf'), 'utf8')).toContain(`url: "${hub}", account: A`);
  expect(readCredentials(readFileSync(join(folder, 'site.creds'), 'utf8')).claims.nats).toMatchObject({
    allowed_connection_types: ['LEAFNODE'],
  });
  const configuration = readFileSync(join(folder, 'nats-server.conf'), 'utf8').split('\n');
  await using server = await startNats({ configuration });
  const credentials = join(folder, 'collector.creds');
  const known = await connect(new NatsAccess({ url: server.url, credentials }).options);
  const manager = await jetstreamManager(known);
  await manager.streams.add({ name: 'FRAMES', subjects: ['fr.v1.>'] });
  // A collector may do its work, and not remove what it is there for.
  await expect(manager.streams.delete('FRAMES')).rejects.toThrow(/Permissions Violation/);
  await known.close();
  expect(JSON.parse(readFileSync(join(folder, 'issuer.json'), 'utf8'))).toEqual({
    agentsAccount: expect.stringMatching(/^A/),
    agentsSeed: expect.stringMatching(/^SA/),
    operatorSeed: expect.stringMatching(/^SO/),
    systemCredentials: expect.stringContaining('BEGIN NATS USER JWT'),
  });
  expect(readFileSync(join(folder, 'operator.seed'), 'utf8')).toMatch(/^SO\w+\n$/);
});
