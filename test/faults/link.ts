// A way to a TCP server that can be long, be closed, or hold back what a client says.
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';

/** Bytes that wait on one side before the other is no longer read. */
const waitingBytesMax = 4 * 1024 * 1024;

export class Link implements AsyncDisposable {
  readonly url: string;
  /** Milliseconds that everything takes, each way. */
  delay_ms = 0;
  /** Who comes while it is closed is sent away. */
  isOpen = true;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** What the client must not say any more; everything from its first occurrence on is dropped. */
  #held: { text: string; seen: () => void } | undefined;

  private constructor(server: Server, url: string) {
    this.#server = server;
    this.url = url;
  }

  /** @param address where it listens: at a port of the system's choice */
  static async open(to: { host: string; port: number }, address = '127.0.0.1'): Promise<Link> {
    const server = createServer({ noDelay: true });
    server.listen(0, address);
    await once(server, 'listening');
    const bound = server.address();
    if (bound === null || typeof bound === 'string') throw new Error('The link has no port.');
    const link = new Link(server, `nats://${address}:${bound.port}`);
    server.on('connection', (client) => {
      if (link.isOpen) link.#join(client, connect({ ...to, noDelay: true }));
      else client.destroy();
    });
    return link;
  }

  /** From now on a client that says this goes unheard from there on; settled when one has said it. */
  async hold(text: string): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#held = { text, seen: resolve };
    await promise;
  }

  /** Cuts all that is connected, and lets everybody be heard again. */
  release(): void {
    this.#held = undefined;
    for (const socket of this.#sockets) socket.destroy();
  }

  #join(client: Socket, server: Socket): void {
    for (const socket of [client, server]) {
      this.#sockets.add(socket);
      socket.on('close', () => {
        this.#sockets.delete(socket);
        client.destroy();
        server.destroy();
      });
      // The other side hears of it by the close.
      socket.on('error', () => socket.destroy());
    }
    this.#pass(server, client, (bytes) => bytes);
    let isUnheard = false;
    this.#pass(client, server, (bytes) => {
      const held = this.#held;
      if (isUnheard || !held) return isUnheard ? bytes.subarray(0, 0) : bytes;
      const place = bytes.indexOf(held.text);
      if (place < 0) return bytes;
      isUnheard = true;
      held.seen();
      return bytes.subarray(0, Math.max(0, bytes.lastIndexOf('\r\n', place) + 2));
    });
  }

  #pass(source: Socket, target: Socket, change: (bytes: Buffer) => Buffer): void {
    let waiting = 0;
    source.on('data', (bytes) => {
      const sent = change(bytes);
      const write = () => {
        if (!target.destroyed) target.write(sent);
      };
      if (this.delay_ms === 0 && waiting === 0) {
        if (!target.destroyed && !target.write(sent)) pauseUntilDrained(source, target);
        return;
      }
      // Timers of the same length keep their order.
      waiting += sent.length;
      if (waiting > waitingBytesMax) source.pause();
      setTimeout(() => {
        waiting -= sent.length;
        write();
        if (source.isPaused() && waiting < waitingBytesMax) source.resume();
      }, this.delay_ms);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.release();
    this.#server.close();
    await once(this.#server, 'close');
  }
}

function pauseUntilDrained(source: Socket, target: Socket): void {
  source.pause();
  target.once('drain', () => source.resume());
}
