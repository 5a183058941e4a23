// The gRPC face: the same questions and answers as over HTTP, with health and reflection.
import {
  Access,
  Agents,
  Audit,
  Custom,
  DeadLetters,
  Enrolment,
  Live,
  packageDefinition,
  Query,
  Replay,
} from '@fleetreel/proto/services';
import { experimental, logVerbosity, ServerCredentials, setLogVerbosity } from '@grpc/grpc-js';
import { ReflectionService } from '@grpc/reflection';
import { HealthImplementation } from 'grpc-health-check';
import type { ServerCertificate } from '#api/certificate.ts';
import type { Face, FaceParts } from '#api/faces.ts';
import { ProtectedServer } from '#api/grpc/access.ts';
import { agentHandlers } from '#api/grpc/agents.ts';
import { auditHandlers, customHandlers } from '#api/grpc/custom.ts';
import { deadLetterHandlers } from '#api/grpc/dead_letters.ts';
import { enrolmentHandlers } from '#api/grpc/enrolment.ts';
import { liveHandlers } from '#api/grpc/live.ts';
import { queryHandlers } from '#api/grpc/query.ts';
import { replayHandlers } from '#api/grpc/replay.ts';
import { accessHandlers } from '#api/grpc/users.ts';
import { customBodyBytesMax } from '#limits.ts';

export type GrpcSettings = {
  host: string;
  port: number;
  /** Addresses and networks whose word on who calls is believed. */
  trustedProxies: readonly string[];
  tls: ServerCertificate | undefined;
};

/** Bytes of a request at most: measures and events; the server has one bound for all methods. */
const requestBytesMax = customBodyBytesMax;
/** How long calls have to end when the collector stops, milliseconds. */
const drainMilliseconds = 5000;
/** How often health follows readiness, milliseconds. */
const healthMilliseconds = 1000;

// Its own lines on stderr are no JSON, and what they say comes as errors too.
setLogVerbosity(logVerbosity.NONE);

/** Starts the gRPC face; resolves when it listens. */
export async function startGrpc(
  parts: FaceParts,
  { host, port: wanted, trustedProxies, tls }: GrpcSettings,
): Promise<Face> {
  const server = new ProtectedServer(parts, trustedProxies, {
    'grpc.max_receive_message_length': requestBytesMax,
    // An answer may be as large as `valuesMax` values are.
    'grpc.max_send_message_length': -1,
    'grpc.keepalive_time_ms': 30_000,
    'grpc.keepalive_timeout_ms': 10_000,
  });
  const live = liveHandlers(parts);
  server.addService(Query.service, queryHandlers(parts));
  server.addService(Live.service, live.handlers);
  server.addService(DeadLetters.service, deadLetterHandlers(parts));
  server.addService(Enrolment.service, enrolmentHandlers(parts));
  server.addService(Agents.service, agentHandlers(parts));
  server.addService(Custom.service, customHandlers(parts));
  server.addService(Audit.service, auditHandlers(parts));
  const replay = replayHandlers(parts);
  server.addService(Replay.service, replay.handlers);
  server.addService(Access.service, accessHandlers(parts));
  new ReflectionService(packageDefinition).addToServer(server);
  const services = [
    '',
    'fleetreel.v1.Query',
    'fleetreel.v1.Live',
    'fleetreel.v1.DeadLetters',
    'fleetreel.v1.Enrolment',
    'fleetreel.v1.Replay',
    'fleetreel.v1.Access',
    'fleetreel.v1.Agents',
    'fleetreel.v1.Custom',
    'fleetreel.v1.Audit',
  ];
  const health = new HealthImplementation();
  health.addToServer(server);
  const tellHealth = () => {
    const status = parts.telemetry.missing().length === 0 ? 'SERVING' : 'NOT_SERVING';
    for (const service of services) health.setStatus(service, status);
  };
  tellHealth();
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync(
      `${host.includes(':') ? `[${host}]` : host}:${wanted}`,
      tls
        ? // The first is that of the server's own certificate, whatever its name in the declaration.
          experimental.createCertificateProviderServerCredentials(tls, null, false)
        : ServerCredentials.createInsecure(),
      (error, bound) => (error ? reject(error) : resolve(bound)),
    ),
  );
  const timer = setInterval(tellHealth, healthMilliseconds);
  return {
    port,
    needs: server.needs,
    async close() {
      clearInterval(timer);
      for (const service of services) health.setStatus(service, 'NOT_SERVING');
      live.end();
      replay.end();
      const late = setTimeout(() => server.forceShutdown(), drainMilliseconds);
      await new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
      clearTimeout(late);
    },
  };
}
