// A site behind a link that breaks: agent, the site's leaf node, the link, the hub. And the servers' files of the documentation.
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, connect as dial, type Socket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { findNats } from '@fleetreel/deploy/local/nats';
import { thisMachine } from '@fleetreel/deploy/local/obtain';
import { agentsBucket, claimBucket, hostKey, republishOf, scanFrame, subject } from '@fleetreel/proto';
import { pushedText } from '@fleetreel/proto/agent_settings';
import { decodeBatch } from '@fleetreel/proto/batch';
import { NatsAccess } from '@fleetreel/proto/nats_access';
import { siteConfiguration } from '@fleetreel/proto/nats_keys';
import { jetstream, jetstreamManager } from '@nats-io/jetstream';
import { Kvm } from '@nats-io/kv';
import { connect } from '@nats-io/transport-node';
import { expect, test } from 'vitest';
import { startNats } from '../servers/nats.ts';
import { NatsInstallation } from '../servers/nats_installation.ts';
import { freePort, startProgram } from '../servers/program.ts';
import { eventually, machineIdOf, programs } from '../stack.ts';

const second = 1000;
const host = 'quarry';
const folder = join(import.meta.dirname, '../../deploy/nats');

test('the configuration files are what nats-server takes', async () => {
  const { path } = await findNats(thisMachine());
  for (const file of ['cluster.conf', 'hub.conf', 'leaf.conf'])
    execFileSync(path, ['-t', '-c', join(folder, file)], { stdio: 'pipe' });
});

test('a site whose link is cut for a while loses nothing', { timeout: 240 * second }, async () => {
  const leafPort = await freePort();
  // The hub would otherwise tell the leaf its own address, and with it a way around the link.
  const leafnodes = `leafnodes { listen: "127.0.0.1:${leafPort}", no_advertise: true }`;
  await using hub = await startNats({ name: 'hub', domain: 'hub', configuration: [leafnodes] });
  await using link = await Link.to(leafPort);
  // As the file has it, but for the hub's address.
  const file = readFileSync(join(folder, 'leaf.conf'), 'utf8').replace('hub.example:7422', `127.0.0.1:${link.port}`);
  const configuration = [file.slice(file.indexOf('default_js_domain'))];
  await using site = await startNats({ name: 'site', jetstream: false, configuration });
  const log = await connect({ servers: hub.url });
  try {
    const manager = await jetstreamManager(log);
    await manager.streams.add({ name: 'FRAMES', subjects: ['fr.v1.>'] });
    const flags = `run --host ${host} --machine-id ${machineIdOf(host)} --interval 1s --nats-url ${site.url}`;
    await using agent = await startProgram(programs.agent, [...flags.split(' '), '--data', join(site.data, 'agent')]);
    const filter = ['frame', 'batch'].map((kind) => subject({ tenant: 'default', kind: kind as 'frame', host }));
    const newest = async () => (await sequences(jetstream(log), filter)).at(-1) ?? 0;
    const before = await eventually('frames at the hub', 60 * second, async () =>
      (await newest()) >= 5 ? newest() : undefined,
    );
    link.cut();
    const made = before + 8;
    await pause(8 * second);
    expect(await newest()).toBeLessThan(made);
    link.heal();
    await eventually('frames of the time without a link, and newer ones', 90 * second, async () =>
      (await newest()) >= made + 5 ? true : undefined,
    );
    await agent.stop();
    const found = await sequences(jetstream(log), filter);
    expect([...new Set(found)]).toEqual(Array.from({ length: found.at(-1) ?? 0 }, (_, index) => index + 1));
  } finally {
    await log.close();
  }
});

test('of a hub with keys: who is at the site proves who he is, and does there what he may', async () => {
  const leafPort = await freePort();
  const leafnodes = `leafnodes { listen: "127.0.0.1:${leafPort}", no_advertise: true }`;
  await using keys = await NatsInstallation.start([leafnodes], { domain: 'hub' });
  const credentials = keys.write('site.creds', keys.keys.siteCredentials);
  const configuration = siteConfiguration(keys.keys, `nats-leaf://127.0.0.1:${leafPort}`, credentials);
  await using site = await startNats({ name: 'site', jetstream: false, configuration });
  const log = await connect(new NatsAccess(keys.collector).options);
  const way = (name: string) => new NatsAccess({ url: site.url, credentials: agentFile(keys, name) }).options;
  try {
    const manager = await jetstreamManager(log);
    await manager.streams.add({ name: 'FRAMES', subjects: ['fr.v1.>'] });
    for (const bucket of [claimBucket, agentsBucket]) {
      await new Kvm(log).create(bucket, { history: 1 });
      const { config } = await manager.streams.info(`KV_${bucket}`);
      await manager.streams.update(config.name, { ...config, allow_direct: true, republish: republishOf(bucket) });
    }
    const flags = `run --host ${host} --machine-id ${machineIdOf(host)} --interval 1s --nats-url ${site.url}`;
    const own = ['--nats-credentials', agentFile(keys, host), '--data', join(site.data, 'agent')];
    await using agent = await startProgram(programs.agent, [...flags.split(' '), ...own]);
    const filter = [subject({ tenant: 'default', kind: 'frame', host })];
    await eventually('frames at the hub', 60 * second, async () =>
      (await sequences(jetstream(log), filter)).length >= 3 ? true : undefined,
    );
    // What it is told comes by the same way.
    await (await new Kvm(log).open(agentsBucket)).put(hostKey('default', host), pushedText({ interval: '2s' }));
    await eventually('settings that are pushed', 60 * second, async () =>
      agent.lines.some((line) => line.includes('settings were pushed')) ? true : undefined,
    );

    await expect(connect({ servers: site.url, reconnect: false })).rejects.toThrow(/authorization violation/i);
    // The site's own credentials are for its server, and for nobody's connection.
    const options = new NatsAccess({ url: keys.server.url, credentials }).options;
    await expect(connect({ ...options, reconnect: false })).rejects.toThrow(/authorization violation/i);
    const web = await connect({ ...way('web-1'), inboxPrefix: `_INBOX_agent.${hostKey('default', 'web-1')}` });
    const state = async (subjects_filter: string) =>
      (await manager.streams.info('FRAMES', { subjects_filter })).state.subjects ?? {};
    const refused: string[] = [];
    void (async () => {
      for await (const { type, ...status } of web.status())
        if (type === 'error') refused.push(String((status as { error?: Error }).error));
    })();
    web.publish('fr.v1.default.frame.other', '{}');
    web.subscribe('fr.v1.>');
    // Nor by an answer that is sent elsewhere.
    for (const reply of ['fr.v1.default.frame.other', '$KV.claims.default.other'])
      for (const to of ['fr.v1.default.frame.web-1', '$JS.API.DIRECT.GET.KV_claims.$KV.claims.default.web-1'])
        web.publish(to, '{}', { reply });
    await web.flush();
    // After this one, all before are done.
    await jetstream(web).publish('fr.v1.default.frame.web-1', 'last', { timeout: 10 * second });
    expect(await state('fr.v1.default.frame.other')).toEqual({});
    expect(await state('fr.v1.default.frame.web-1')).toEqual({ 'fr.v1.default.frame.web-1': 3 });
    expect(await (await new Kvm(log).open(claimBucket)).get('default.other')).toBeNull();
    expect(refused.filter((line) => /permissions violation/i.test(line))).toHaveLength(2);
    await web.close();
  } finally {
    await log.close();
  }
}, 180_000);

/** A file with the credentials of an agent. */
const agentFile = (keys: NatsInstallation, name: string) =>
  keys.write(`${name}.creds`, keys.credentialsOf({ host: name }).text);

/** The sequences of the log, in order. */
async function sequences(client: ReturnType<typeof jetstream>, filter: string[]): Promise<number[]> {
  const consumer = await client.consumers.get('FRAMES', { filter_subjects: filter });
  const found: number[] = [];
  let left = (await consumer.info()).num_pending;
  if (left === 0) return found;
  for await (const { subject: from, data } of await consumer.fetch({ max_messages: left, expires: 30 * second })) {
    const frames = from.includes('.batch.') ? decodeBatch(data) : [data];
    for (const frame of frames) found.push(scanFrame(frame).sequence);
    if (--left === 0) break;
  }
  return found.sort((a, b) => a - b);
}

/** A TCP connection that can be cut: what went over it is closed, and nothing is let through until it is healed. */
class Link implements AsyncDisposable {
  readonly #sockets = new Set<Socket>();
  readonly #server = createServer((near) => {
    if (this.cutAt > 0) {
      near.destroy();
      return;
    }
    const far = dial(this.#to, '127.0.0.1');
    for (const socket of [near, far]) {
      this.#sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        near.destroy();
        far.destroy();
      });
    }
    near.pipe(far).pipe(near);
  });
  readonly #to: number;
  /** When it was cut; 0 while it is whole. */
  cutAt = 0;

  private constructor(to: number) {
    this.#to = to;
  }

  static async to(port: number): Promise<Link> {
    const link = new Link(port);
    link.#server.listen(0, '127.0.0.1');
    await once(link.#server, 'listening');
    return link;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  cut(): void {
    this.cutAt = Date.now();
    for (const socket of this.#sockets) socket.destroy();
  }

  heal(): void {
    this.cutAt = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
