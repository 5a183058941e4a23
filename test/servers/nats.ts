import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Child } from '@fleetreel/deploy/local/child';
import { findNats, type NatsOptions, natsService } from '@fleetreel/deploy/local/nats';
import { thisMachine } from '@fleetreel/deploy/local/obtain';
import { freePort } from '@fleetreel/deploy/local/port';
import { type ClusterInfo, type JetStreamManager, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { watch } from '../secrets.ts';

/** A nats-server with JetStream on loopback. Its folder is removed with it unless it was given. */
export class NatsServer implements AsyncDisposable {
  readonly name: string;
  readonly port: number;
  readonly url: string;
  readonly monitorUrl: string;
  readonly data: string;
  readonly #service: ReturnType<typeof natsService>;
  readonly #temporary: boolean;
  readonly #lines: string[] = [];
  #child: Child | undefined;

  constructor(options: Required<Pick<NatsOptions, 'serverName' | 'port' | 'data'>> & NatsOptions, temporary: boolean) {
    this.#service = natsService(options);
    this.name = options.serverName;
    this.port = options.port;
    this.url = `nats://127.0.0.1:${options.port}`;
    this.monitorUrl = `http://127.0.0.1:${options.monitorPort}`;
    this.data = options.data;
    this.#temporary = temporary;
    watch.program('nats-server', this.#service, this.#lines);
  }

  get pid(): number {
    if (!this.#child || this.#child.ended) throw new Error('This nats-server does not run.');
    return this.#child.pid;
  }

  /** Starts it again on the same port and data; stops it before when it runs. */
  async restart(): Promise<void> {
    await this.stop();
    this.#child = await Child.start(this.#service, (line) => this.#lines.push(line));
    await this.#child.untilReady(this.#service.ready, 20_000);
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    await this.#child?.kill();
  }

  get isRunning(): boolean {
    return this.#child?.ended === false;
  }

  /** Asks it to end: it hands over what it leads. */
  async stop(): Promise<void> {
    await this.#child?.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    if (this.#temporary) await watch.folder(this.data);
    if (this.#temporary) rmSync(this.data, { recursive: true, force: true });
  }
}

type StartOptions = {
  port?: number;
  data?: string;
  name?: string;
  jetstream?: boolean;
  domain?: string;
  configuration?: readonly string[];
};

export async function startNats(options: StartOptions = {}): Promise<NatsServer> {
  const server = await makeNats(options);
  try {
    await server.restart();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return server;
}

async function makeNats(given: StartOptions): Promise<NatsServer> {
  const { port, data, name = 'fleetreel', jetstream = true, domain, configuration = [] } = given;
  const options = {
    program: await findNats(thisMachine()),
    port: port ?? (await freePort()),
    monitorPort: await freePort(),
    data: data ?? mkdtempSync(join(tmpdir(), 'fleetreel-nats-')),
    serverName: name,
    jetstream,
    domain,
    configuration,
  };
  return new NatsServer(options, data === undefined);
}

/** Some nats-servers on loopback that are one cluster. */
export class NatsCluster implements AsyncDisposable {
  readonly servers: readonly NatsServer[];

  constructor(servers: readonly NatsServer[]) {
    this.servers = servers;
  }

  /** All servers, as the setting `nats.url` wants them. */
  get url(): string {
    return this.servers.map(({ url }) => url).join(',');
  }

  /** The server that leads a stream. */
  async leaderOf(stream: string): Promise<NatsServer> {
    const connection = await connect({ servers: this.servers.map(({ url }) => url), timeout: 5000 });
    try {
      for (const end = performance.now() + 30_000; performance.now() < end; await pause(50)) {
        const manager = await jetstreamManager(connection, { checkAPI: false, timeout: 2000 });
        const found = await manager.streams.info(stream).catch(() => undefined);
        const leader = this.servers.find(({ name }) => name === found?.cluster?.leader);
        if (leader?.isRunning) return leader;
      }
      throw new Error(`The stream ${stream} had no leader within 30 s.`);
    } finally {
      await connection.close();
    }
  }

  /** Waits until all replicas of streams and consumers are current, so that the next fault is not one too many. */
  async inSync(): Promise<void> {
    const connection = await connect({ servers: this.servers.map(({ url }) => url), timeout: 5000 });
    try {
      const manager = await jetstreamManager(connection, { checkAPI: false, timeout: 2000 });
      for (const end = performance.now() + 120_000; performance.now() < end; await pause(100))
        if (await this.#isInSync(manager).catch(() => false)) return;
      throw new Error('The replicas of streams and consumers were not current within 120 s.');
    } finally {
      await connection.close();
    }
  }

  async #isInSync(manager: JetStreamManager): Promise<boolean> {
    const groups: (ClusterInfo | undefined)[] = [];
    for await (const stream of manager.streams.list()) {
      groups.push(stream.cluster);
      for await (const consumer of manager.consumers.list(stream.config.name)) groups.push(consumer.cluster);
    }
    const isCurrent = (group: ClusterInfo | undefined) =>
      group?.leader !== undefined &&
      (group.replicas ?? []).every(({ current, offline }) => current && offline !== true);
    return groups.length > 0 && groups.every(isCurrent);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const server of this.servers) await server[Symbol.asyncDispose]();
  }
}

/** Starts a cluster; settled when JetStream has a leader. */
export async function startCluster(size = 3): Promise<NatsCluster> {
  const routes = await Promise.all(Array.from({ length: size }, () => freePort()));
  const servers = await Promise.all(
    routes.map((route, index) => {
      const others = routes.map((port) => `"nats-route://127.0.0.1:${port}"`).join(', ');
      const configuration = [`cluster { name: fleetreel, listen: "127.0.0.1:${route}", routes: [${others}] }`];
      return makeNats({ name: `server-${index + 1}`, configuration });
    }),
  );
  const cluster = new NatsCluster(servers);
  try {
    await Promise.all(servers.map((server) => server.restart()));
    const connection = await connect({ servers: servers.map(({ url }) => url) });
    try {
      for (const end = performance.now() + 30_000; ; await pause(100)) {
        const answer = await jetstreamManager(connection, { timeout: 1000 }).catch((cause: unknown) => cause as Error);
        if (!(answer instanceof Error)) break;
        if (performance.now() > end) throw new Error('JetStream had no leader within 30 s.', { cause: answer });
      }
    } finally {
      await connection.close();
    }
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
  return cluster;
}
