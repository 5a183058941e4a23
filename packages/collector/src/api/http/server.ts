// The HTTP face: thin routes over query and live, one form for errors, the OpenAPI document, the console.
import type { Server as SecureServer } from 'node:tls';
import websocket from '@fastify/websocket';
import type { ApiError } from '@fleetreel/proto/errors';
import fastify, { type FastifyBaseLogger, LogController } from 'fastify';
import type { TObject, TSchema } from 'typebox';
import type { Need } from '#access/identity.ts';
import type { ServerCertificate } from '#api/certificate.ts';
import type { Face, FaceParts } from '#api/faces.ts';
import { protect } from '#api/http/access.ts';
import { agentRoutes } from '#api/http/agents.ts';
import type { App } from '#api/http/app.ts';
import { catalogRoutes } from '#api/http/catalog.ts';
import { compress } from '#api/http/compress.ts';
import { serveConsole } from '#api/http/console.ts';
import { coverageRoutes } from '#api/http/coverage.ts';
import { customRoutes } from '#api/http/custom.ts';
import { deadLetterRoutes } from '#api/http/dead_letters.ts';
import { docs } from '#api/http/docs.ts';
import { enrolmentRoutes } from '#api/http/enrolment.ts';
import { fleetRoutes } from '#api/http/fleet.ts';
import { healthRoutes } from '#api/http/health.ts';
import { hostRoutes } from '#api/http/hosts.ts';
import { latestRoutes } from '#api/http/latest.ts';
import { liveRoutes, messageBytesMax } from '#api/http/live.ts';
import { bodyReader, parametersReader } from '#api/http/parameters.ts';
import { badRequest, bodyBytesMax, notFound, refuseRaw, sendProblem } from '#api/http/problem.ts';
import { replayRoutes } from '#api/http/replays.ts';
import { rowsRoutes } from '#api/http/rows.ts';
import { guard } from '#api/http/security.ts';
import { seriesRoutes } from '#api/http/series.ts';
import { meRoutes, sessionRoutes } from '#api/http/session.ts';
import { keyRoutes, userAccessRoutes, userRoutes } from '#api/http/users.ts';
import { program } from '#config.ts';
import { requestArrivalMilliseconds, requestLateMilliseconds } from '#limits.ts';

export type HttpSettings = {
  host: string;
  port: number;
  /** By which it may be addressed besides the names of loopback. */
  allowedHosts: readonly string[];
  /** Addresses and networks whose word on who calls is believed. */
  trustedProxies: readonly string[];
  /** Whether /metrics is for whoever reaches the port. */
  openMetrics: boolean;
  tls: ServerCertificate | undefined;
  console: string | undefined;
};

/** Characters of one part of a path at most. */
const pathPartCharactersMax = 200;
/** How long readers have to close their sockets when the collector stops, milliseconds. */
const socketCloseMilliseconds = 1000;

/** Starts the HTTP face; resolves when it listens. */
export async function startHttp(parts: FaceParts, settings: HttpSettings): Promise<Face> {
  const { app, needs } = await createApp(parts, settings);
  try {
    const address = await app.listen({ host: settings.host, port: settings.port });
    return { port: Number(new URL(address).port), needs, close: () => app.close() };
  } catch (cause) {
    await app.close();
    throw cause;
  }
}

/** The server, ready to listen, and what its routes ask of their callers. */
async function createApp(
  parts: FaceParts,
  { host, allowedHosts, trustedProxies, openMetrics, tls, console: consoleFolder }: HttpSettings,
): Promise<{ app: App; needs: ReadonlyMap<string, Need> }> {
  const late = { connectionsCheckingInterval: requestLateMilliseconds };
  const app: App = fastify({
    // The types of both kinds of server differ in nothing that is used.
    ...((tls
      ? { https: { cert: tls.pair.certificate, key: tls.pair.privateKey, ...late } }
      : { http: late }) as object),
    requestTimeout: requestArrivalMilliseconds,
    loggerInstance: parts.telemetry.log as FastifyBaseLogger,
    logController: new LogController({ disableRequestLogging: true }),
    trustProxy: trustedProxies.length > 0 && [...trustedProxies],
    bodyLimit: bodyBytesMax,
    routerOptions: { maxParamLength: pathPartCharactersMax },
    forceCloseConnections: 'idle',
    clientErrorHandler: refuseRaw,
    frameworkErrors: (error, request, reply) => void sendProblem(badRequest(error.message), request, reply),
  });
  tls?.addIdentityCertificateListener(({ certificate, privateKey }) =>
    (app.server as unknown as SecureServer).setSecureContext({ cert: certificate, key: privateKey }),
  );
  // The console's types are checked by the compiler; a serializer for each schema would only cost time.
  app.setSerializerCompiler(() => (data) => JSON.stringify(data));
  app.setValidatorCompiler(readerOf);
  const missing = notFound(app);
  app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply));

  await app.register(websocket, {
    options: { maxPayload: messageBytesMax },
    preClose: (done) => {
      for (const socket of app.websocketServer.clients) {
        socket.close(1001, 'the collector is stopping');
        setTimeout(() => socket.terminate(), socketCloseMilliseconds).unref();
      }
      app.websocketServer.close(() => done());
    },
  });
  guard(app, [...allowedHosts, host]);
  const needs = protect(app, parts.access);
  // Before a body is read that nobody takes.
  app.addHook('onRequest', async (request, reply) => {
    if (request.is404 && !['GET', 'HEAD'].includes(request.method)) return missing(request, reply);
  });
  compress(app);
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none';
    parts.metrics.request('http', route, reply.statusCode, reply.elapsedTime / 1000);
  });
  await docs(app, program.version, (need) => parts.access.isOpen(need));
  await app.register(
    async (api: App) => {
      api.addHook('onRequest', async (_, reply) => void reply.header('cache-control', 'no-store'));
      catalogRoutes(api);
      hostRoutes(api, parts);
      latestRoutes(api, parts);
      rowsRoutes(api, parts);
      seriesRoutes(api, parts);
      coverageRoutes(api, parts);
      liveRoutes(api, parts);
      replayRoutes(api, parts);
      deadLetterRoutes(api, parts);
      sessionRoutes(api, parts);
      meRoutes(api, parts);
      userRoutes(api, parts);
      userAccessRoutes(api, parts);
      keyRoutes(api, parts);
      enrolmentRoutes(api, parts);
      agentRoutes(api, parts);
      await customRoutes(api, parts);
    },
    { prefix: '/api/v1' },
  );
  healthRoutes(app, parts, openMetrics);
  fleetRoutes(app, parts);
  const console = await serveConsole(app, consoleFolder);
  app.setNotFoundHandler(async (request, reply) => {
    if (!(await console(request, reply))) missing(request, reply);
    return reply;
  });
  await app.ready();
  return { app, needs };
}

/** What reads a part of a request by its schema. */
function readerOf({ schema, httpPart }: { schema: unknown; httpPart?: string | undefined }) {
  if (httpPart === 'body') {
    const read = bodyReader(schema as TSchema);
    // What a route reads by itself comes as bytes.
    return (value: unknown) => (Buffer.isBuffer(value) ? { value } : read(value));
  }
  if (httpPart !== 'querystring') return (value: unknown) => ({ value });
  const read = parametersReader(schema as TObject);
  return (value: unknown) => {
    try {
      return { value: read(value as never) };
    } catch (error) {
      return { error: error as ApiError };
    }
  };
}
