// For tests: a server that answers as it is told. The real collector is asked in test/e2e; this one fails in ways that it can't be
// made to: an error of its own, a request for patience, a proxy's answer, silence.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

/** A request as it came. */
export type Seen = { path: string; id: string; authorization: string; entries: Record<string, unknown>[]; at: number };

type Answer = {
  status: number;
  headers?: Record<string, string>;
  /** An object is a problem document. */
  body?: object | string;
};

/** What is answered to the nth request, from 0; nothing is silence. */
type Script = (request: Seen, index: number) => Answer | undefined | Promise<Answer>;

export const taken: Answer = { status: 200, body: { accepted: 1, duplicate: false } };

export class ScriptedServer implements AsyncDisposable {
  readonly url: string;
  readonly seen: Seen[] = [];
  readonly #server;

  private constructor(server: ReturnType<typeof createServer>) {
    this.#server = server;
    this.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  static async start(script: Script = () => taken, port = 0): Promise<ScriptedServer> {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
    const scripted = new ScriptedServer(server);
    server.on('request', (request, response) => void scripted.#answer(request, response, script));
    return scripted;
  }

  /** What all requests brought, in their order. */
  get entries(): Record<string, unknown>[] {
    return this.seen.flatMap(({ entries }) => entries);
  }

  async #answer(request: IncomingMessage, response: ServerResponse, script: Script): Promise<void> {
    let body = '';
    for await (const part of request) body += part;
    const seen = {
      path: request.url ?? '',
      id: String(request.headers['idempotency-key'] ?? ''),
      authorization: request.headers.authorization ?? '',
      entries: body
        .split('\n')
        .filter(Boolean)
        .map((line) => JSON.parse(line)),
      at: performance.now(),
    };
    const answer = await script(seen, this.seen.push(seen) - 1);
    if (answer === undefined) return;
    const text = typeof answer.body === 'object' ? JSON.stringify(answer.body) : (answer.body ?? '');
    response.writeHead(answer.status, { 'content-type': 'application/json', ...answer.headers }).end(text);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}
