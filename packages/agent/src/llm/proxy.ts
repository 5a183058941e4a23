// The measuring proxy: passes bytes between clients and one server of language models as they come, and measures copies.
//
// It works below HTTP, so that whatever a client and a server say to each other arrives as it was sent: headers, framing,
// uploads that wait for a word of the server, upgrades, a side that is closed while the other goes on, an end in the middle.
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { SettingsError } from '@fleetreel/proto/settings';
import type { Clock } from '#clock.ts';
import type { Settings } from '#config.ts';
import {
  proxyConnectionsMax,
  proxyConnectMilliseconds,
  proxyKeepAliveMilliseconds,
  proxyLingerMilliseconds,
  proxyStopMilliseconds,
} from '#limits.ts';
import { proxyPath, withScheme } from '#llm/endpoint.ts';
import { Measures, Observer } from '#llm/measure.ts';
import { sentence, Telemetry } from '#telemetry.ts';

type Address = { host: string; port: number };

export type ProxyOptions = {
  settings: { log: { level: string }; llm: Pick<Settings['llm'], 'proxy'> };
  clock: Clock;
  /** Stops it: no new connections, and the answers that are coming have some time. */
  signal: AbortSignal;
  /** Told the address when it listens. */
  onListening?: (address: string) => void;
};

/** Forwards until the signal; returns the exit code. @throws SettingsError when it can't listen there */
export async function proxy({ settings, clock, signal, onListening }: ProxyOptions): Promise<number> {
  const telemetry = new Telemetry(settings.log.level);
  const { upstream, listen } = addresses(settings.llm.proxy);
  const measures = new Measures(clock);
  const connections = new Set<Connection>();
  const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
    const connection = new Connection({ client, upstream, measures, telemetry, clock });
    connections.add(connection);
    client.once('close', () => connections.delete(connection));
  });
  server.maxConnections = proxyConnectionsMax;
  server.on('drop', () => telemetry.proxyFull(proxyConnectionsMax));
  const own = await listening(server, listen);
  telemetry.proxying(textOf(own), textOf(upstream));
  onListening?.(textOf(own));

  if (!signal.aborted) await once(signal, 'abort');
  const closed = new Promise((resolve) => server.close(resolve));
  for (const connection of connections) connection.endWhenIdle();
  telemetry.proxyStopping(connections.size);
  const stop = new AbortController();
  await Promise.race([closed, clock.sleep(proxyStopMilliseconds, stop.signal).catch(() => undefined)]);
  stop.abort();
  for (const connection of connections) connection.destroy();
  return 0;
}

/** @throws SettingsError where the two make no sense */
function addresses({ upstream, listen, allow_remote }: Settings['llm']['proxy']): {
  upstream: Address;
  listen: Address;
} {
  if (!URL.canParse(withScheme(upstream)))
    throw new SettingsError(`llm.proxy.upstream: ${upstream} is no address. Give one such as http://127.0.0.1:11434.`);
  const { hostname, port } = new URL(withScheme(upstream));
  const to = { host: hostOf(hostname), port: Number(port || 80) };
  const colon = listen.lastIndexOf(':');
  const at = { host: hostOf(listen.slice(0, colon)), port: Number(listen.slice(colon + 1)) };
  if (at.port > 65_535) throw new SettingsError(`llm.proxy.listen: there is no port ${at.port}.`);
  if (!isLoopback(at.host) && !allow_remote)
    throw new SettingsError(
      `llm.proxy.listen: ${listen} is not a loopback address. Nobody is asked for a password: whoever reaches it could use the models. Set llm.proxy.allow_remote if that is meant.`,
    );
  if (to.port === at.port && (to.host === at.host || (isLoopback(to.host) && isAny(at.host))))
    throw new SettingsError(
      `llm.proxy.upstream: ${upstream} is where llm-proxy itself would listen. Give the server's address.`,
    );
  return { upstream: to, listen: at };
}

/** A host without brackets, the loopback name as the address that it stands for. */
const hostOf = (text: string): string => text.replace(/^\[(.*)\]$/, '$1').replace(/^localhost$/i, '127.0.0.1');
const isLoopback = (host: string): boolean => /^(127(\.\d{1,3}){3}|::1|::ffff:127(\.\d{1,3}){3})$/.test(host);
const isAny = (host: string): boolean => /^(0\.0\.0\.0|::)$/.test(host);
const textOf = ({ host, port }: Address): string => `${host.includes(':') ? `[${host}]` : host}:${port}`;

async function listening(server: Server, { host, port }: Address): Promise<Address> {
  server.listen(port, host);
  try {
    await once(server, 'listening');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const why =
      code === 'EADDRINUSE'
        ? 'is in use'
        : code === 'EADDRNOTAVAIL'
          ? 'is no address of this machine'
          : sentence(cause);
    throw new SettingsError(`llm.proxy.listen: ${textOf({ host, port })} ${why}. Give another with --listen.`, {
      cause,
    });
  }
  const bound = server.address();
  return { host, port: typeof bound === 'object' && bound ? bound.port : port };
}

/** The beginning of a request for the proxy's own page. */
const ownRequest = Buffer.from('GET /_fleetreel/');
const ownHeadBytesMax = 8192;

/** A client's connection with its own to the server. */
class Connection {
  readonly #client: Socket;
  readonly #upstream: Address;
  readonly #measures: Measures;
  readonly #observer: Observer;
  readonly #telemetry: Telemetry;
  readonly #clock: Clock;
  #server: Socket | undefined;
  /** The first bytes, while they may still be a request for the proxy's own page. */
  #first: Buffer = Buffer.alloc(0);
  #isStopping = false;
  #isOllama = false;

  constructor({
    client,
    upstream,
    measures,
    telemetry,
    clock,
  }: {
    client: Socket;
    upstream: Address;
    measures: Measures;
    telemetry: Telemetry;
    clock: Clock;
  }) {
    this.#client = client;
    this.#upstream = upstream;
    this.#measures = measures;
    this.#observer = new Observer(measures);
    this.#telemetry = telemetry;
    this.#clock = clock;
    client.setKeepAlive(true, proxyKeepAliveMilliseconds);
    // What follows is up to 'close', which comes after it.
    client.on('error', () => undefined);
    client.once('close', (hadError) => this.#clientClosed(hadError));
    client.on('data', this.#begin);
    client.once('end', this.#endedEarly);
  }

  /** Ends as soon as no answer is coming. */
  endWhenIdle(): void {
    this.#isStopping = true;
    if (this.#observer.isIdle) this.destroy();
  }

  destroy(): void {
    this.#client.destroy();
    this.#server?.destroy();
  }

  /** The first bytes tell whether this is for the proxy itself. */
  readonly #begin = (bytes: Buffer): void => {
    this.#first = this.#first.length > 0 ? Buffer.concat([this.#first, bytes]) : bytes;
    const isOwn = this.#first.subarray(0, ownRequest.length).equals(ownRequest.subarray(0, this.#first.length));
    if (!isOwn) this.#forward();
    else if (this.#first.includes('\r\n\r\n') || this.#first.length > ownHeadBytesMax) this.#answerOwn();
  };

  readonly #endedEarly = (): void => {
    // Nothing came that would have to be answered, or only the beginning of it.
    if (this.#first.length > 0) this.#forward();
    else this.#client.end();
  };

  #forward(): void {
    const client = this.#client;
    client.off('data', this.#begin);
    client.off('end', this.#endedEarly);
    const { host, port } = this.#upstream;
    const server = connect({ host, port, allowHalfOpen: true, noDelay: true });
    this.#server = server;
    server.setKeepAlive(true, proxyKeepAliveMilliseconds);
    server.setTimeout(proxyConnectMilliseconds, () => server.destroy(new Error('it takes no connection')));
    server.once('connect', () => server.setTimeout(0));
    const refused = (cause: Error): void => this.#refuse(cause);
    server.once('error', refused);
    server.once('connect', () => {
      server.off('error', refused);
      server.on('error', () => {
        this.#observer.closed('server');
        client.resetAndDestroy();
      });
      server.once('close', () => {
        this.#observer.closed('server');
        // All that came is in the client's hands, or will be; without an orderly end there was more to come.
        if (!server.readableEnded) client.resetAndDestroy();
      });
    });
    pass(
      client,
      server,
      (bytes) => this.#observer.fromClient(bytes),
      () => this.#observer.clientEnded(),
    );
    pass(
      server,
      client,
      (bytes) => {
        this.#observer.fromServer(bytes);
        if (this.#isStopping && this.#observer.isIdle) client.end();
      },
      () => this.#observer.serverEnded(),
    );
    const first = this.#first;
    this.#isOllama = /^\w+ \S*\/api\//.test(first.toString('latin1', 0, 256));
    this.#first = Buffer.alloc(0);
    server.write(first);
    this.#observer.fromClient(first);
    if (client.readableEnded) server.end();
  }

  /** The server is away: says so in the form that the client expects. */
  #refuse(cause: Error): void {
    const reason = `The server of language models at ${textOf(this.#upstream)} can't be reached: ${sentence(cause)}`;
    this.#telemetry.upstreamAway(reason);
    this.#observer.closed('server');
    const error = this.#isOllama ? reason : { message: reason, type: 'bad_gateway', code: 502 };
    this.#answer('502 Bad Gateway', { error });
    // What is still being sent is taken and thrown away: unread, it would undo the answer.
    this.#client.removeAllListeners('data').removeAllListeners('end').resume();
    const lingered = this.#clock.sleep(proxyLingerMilliseconds).catch(() => undefined);
    void Promise.race([lingered, once(this.#client, 'close').catch(() => undefined)]).then(() => this.destroy());
  }

  #answerOwn(): void {
    this.#client.off('data', this.#begin);
    this.#client.resume();
    const head = this.#first.toString('latin1');
    const [, host = ''] = /\r\nhost:[ \t]*([^\r\n]*?)(?::\d+)?[ \t]*\r\n/i.exec(head) ?? [];
    // A page of a browser may not read it either, under whatever name it reached this address.
    if (!isLoopback(this.#client.remoteAddress ?? '') || !isLoopback(hostOf(host)))
      this.#answer('403 Forbidden', { error: 'This is only told on the host itself.' });
    else if (head.startsWith(`GET ${proxyPath} `))
      this.#answer('200 OK', this.#measures.report(textOf(this.#upstream)));
    else this.#answer('404 Not Found', { error: `There is only ${proxyPath}.` });
  }

  #answer(status: string, value: unknown): void {
    const body = Buffer.from(JSON.stringify(value));
    const head = [
      `HTTP/1.1 ${status}`,
      'content-type: application/json; charset=utf-8',
      `content-length: ${body.length}`,
      'connection: close',
    ];
    this.#client.end(Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), body]));
  }

  #clientClosed(hadError: boolean): void {
    this.#observer.closed('client');
    const server = this.#server;
    if (!server || server.closed) return;
    // The server learns at once that nobody waits for its answer.
    if (hadError && !server.connecting) server.resetAndDestroy();
    else server.destroy();
  }
}

/** Passes bytes on as they come, as fast as they are taken; a copy is looked at when they are on their way. */
function pass(from: Socket, to: Socket, look: (bytes: Buffer) => void, ended: () => void): void {
  from.on('data', (bytes: Buffer) => {
    if (!to.write(bytes)) from.pause();
    look(bytes);
  });
  to.on('drain', () => from.resume());
  from.on('end', () => {
    ended();
    to.end();
  });
}
