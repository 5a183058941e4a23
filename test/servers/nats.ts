import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Child } from '@fleetreel/deploy/local/child';
import { findNats, natsService } from '@fleetreel/deploy/local/nats';
import { thisMachine } from '@fleetreel/deploy/local/obtain';
import { freePort } from '@fleetreel/deploy/local/port';

/** A nats-server with JetStream on loopback. Its folder is removed with it unless it was given. */
export class NatsServer implements AsyncDisposable {
  readonly port: number;
  readonly url: string;
  readonly monitorUrl: string;
  readonly data: string;
  readonly #service: ReturnType<typeof natsService>;
  readonly #temporary: boolean;
  #child: Child | undefined;

  constructor(
    service: ReturnType<typeof natsService>,
    port: number,
    monitorPort: number,
    data: string,
    temporary: boolean,
  ) {
    this.#service = service;
    this.port = port;
    this.url = `nats://127.0.0.1:${port}`;
    this.monitorUrl = `http://127.0.0.1:${monitorPort}`;
    this.data = data;
    this.#temporary = temporary;
  }

  get pid(): number {
    if (!this.#child || this.#child.ended) throw new Error('This nats-server does not run.');
    return this.#child.pid;
  }

  /** Starts it again on the same port and data; stops it before when it runs. */
  async restart(): Promise<void> {
    await this.stop();
    this.#child = await Child.start(this.#service);
    await this.#child.untilReady(this.#service.ready, 20_000);
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    await this.#child?.kill();
  }

  async stop(): Promise<void> {
    await this.#child?.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    if (this.#temporary) rmSync(this.data, { recursive: true, force: true });
  }
}

export async function startNats(options: { port?: number; data?: string } = {}): Promise<NatsServer> {
  const program = await findNats(thisMachine());
  const port = options.port ?? (await freePort());
  const monitorPort = await freePort();
  const data = options.data ?? mkdtempSync(join(tmpdir(), 'fleetreel-nats-'));
  const service = natsService({ program, port, monitorPort, data });
  const server = new NatsServer(service, port, monitorPort, data, options.data === undefined);
  try {
    await server.restart();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return server;
}
