// Requests that arrive slowly: what counts is the right that there is when they are here, and they have to be here some time.
import { subscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import { request, type Server } from 'node:http';
import { type ClientHttp2Session, connect, type IncomingHttpHeaders } from 'node:http2';
import { connect as connectSocket } from 'node:net';
import { text } from 'node:stream/consumers';
import type { MadeKey } from '@fleetreel/proto/http';
import { packageDefinition } from '@fleetreel/proto/services';
import { startNats } from '@fleetreel/test/servers/nats';
import { type MethodDefinition, status } from '@grpc/grpc-js';
import { afterAll, beforeAll, expect, test, vi } from 'vitest';
import { requestArrivalMilliseconds } from '#limits.ts';
import { serveRooms, startFaces, startLog } from '#testing.ts';

const closing = new AsyncDisposableStack();
const admin = { tenant: 'default', kind: 'user', id: '', name: 'ada', scopes: new Set(['admin'] as const) } as const;
let faces: Awaited<ReturnType<typeof startFaces>>['faces'];
/** What serves HTTP. */
let server: Server;

beforeAll(async () => {
  const nats = closing.use(await startNats());
  const started = await startFaces(closing, 'none');
  ({ faces } = started);
  const bounds = { age_ms: 3_600_000, bytes: 64 * 1024 * 1024 };
  const { log, registry } = await startLog(closing, nats.url, bounds, started.telemetry);
  await serveRooms(closing, { telemetry: started.telemetry, faces, log, registry });
  subscribe('http.server.request.start', (message) => {
    server = (message as { server: Server }).server;
  });
  await fetch(`http://127.0.0.1:${faces.http.port}/healthz`);
});
afterAll(() => closing.disposeAsync());

const makeKey = (): Promise<MadeKey> => faces.access.keys.create(admin, { name: 'of an admin', scopes: ['admin'] });
const names = () => faces.access.keys.list('default').map(({ name }) => name);

test('who loses the right while the body comes does nothing with it, over HTTP', async () => {
  const { key, secret } = await makeKey();
  const body = JSON.stringify({ name: 'made late', scopes: ['admin'] });
  const asked = request({
    port: faces.http.port,
    host: '127.0.0.1',
    path: '/api/v1/keys',
    method: 'POST',
    headers: {
      authorization: `Bearer ${secret}`,
      'content-type': 'application/json',
      'content-length': body.length,
      // It is told when the server has the head, and with it who asks.
      expect: '100-continue',
    },
  });
  asked.flushHeaders();
  await once(asked, 'continue');
  asked.write(body.slice(0, -1));
  await faces.access.keys.revoke('default', key.id);
  asked.end(body.slice(-1));
  const [answer] = await once(asked, 'response');
  expect([answer.statusCode, JSON.parse(await text(answer)).code]).toEqual([401, 'not_signed_in']);
  expect(names()).not.toContain('made late');
});

/** A connection over which gRPC is spoken. */
async function openSession(): Promise<ClientHttp2Session> {
  const session = connect(`http://127.0.0.1:${faces.grpc.port}`);
  closing.defer(() => session.destroy());
  await new Promise((resolve) => session.ping(resolve));
  return session;
}

/** A call whose message is sent and whose end is not. */
function openCall(
  session: ClientHttp2Session,
  service: string,
  method: string,
  message: object,
  headers: Record<string, string> = {},
) {
  const stream = session.request({
    ':method': 'POST',
    ':path': `/${service}/${method}`,
    'content-type': 'application/grpc',
    te: 'trailers',
    ...headers,
  });
  const methods = packageDefinition[service] as unknown as Record<string, MethodDefinition<object, object>>;
  const bytes = methods[method]?.requestSerialize(message) ?? Buffer.alloc(0);
  const length = Buffer.alloc(5);
  length.writeUInt32BE(bytes.length, 1);
  stream.write(Buffer.concat([length, bytes]));
  const answer = once(stream, 'response').then(([all]) => {
    const { 'grpc-status': code, 'fleetreel-code': why } = all as IncomingHttpHeaders;
    return [Number(code), why];
  });
  return { stream, answer };
}

test('who loses the right while the call comes does nothing with it, over gRPC', async () => {
  const { key, secret } = await makeKey();
  const wish = { name: 'made late', scopes: ['admin'] };
  const session = await openSession();
  const { stream, answer } = openCall(session, 'fleetreel.v1.Access', 'CreateKey', wish, {
    authorization: `Bearer ${secret}`,
  });
  // The server answers it after what was sent before.
  await new Promise((resolve) => session.ping(resolve));
  await faces.access.keys.revoke('default', key.id);
  stream.end();
  expect(await answer).toEqual([status.UNAUTHENTICATED, 'not_signed_in']);
  expect(names()).not.toContain('made late');
});

test('a request over HTTP that does not arrive is answered', async () => {
  expect(server.requestTimeout).toBe(requestArrivalMilliseconds);
  const socket = connectSocket(faces.http.port, '127.0.0.1');
  socket.write(
    'POST /api/v1/login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{',
  );
  const { headersTimeout } = server;
  Object.assign(server, { requestTimeout: 1, headersTimeout: 1 });
  try {
    expect(await text(socket)).toMatch(/^HTTP\/1\.1 408 .*"code":"request_too_slow"/s);
  } finally {
    Object.assign(server, { requestTimeout: requestArrivalMilliseconds, headersTimeout });
  }
});

test('a call over gRPC that does not arrive is answered', async () => {
  const session = await openSession();
  // That it waits so long is seen, and not waited for.
  const timers = vi.spyOn(globalThis, 'setTimeout');
  const wish = { code: 'none', public_key: '' };
  const { stream, answer } = openCall(session, 'fleetreel.v1.Enrolment', 'ClaimEnrolment', wish);
  const timer = () => timers.mock.calls.find(([, delay]) => delay === requestArrivalMilliseconds)?.[0];
  await expect.poll(timer, { timeout: 20_000, interval: 20 }).toBeDefined();
  timer()?.();
  timers.mockRestore();
  expect(await answer).toEqual([status.DEADLINE_EXCEEDED, 'request_too_slow']);
  stream.destroy();
});
