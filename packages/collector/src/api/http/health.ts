import type { FastifyRequest } from 'fastify';
import Type from 'typebox';
import type { FaceParts } from '#api/faces.ts';
import { credentialsOf } from '#api/http/access.ts';
import { type App, json, problem } from '#api/http/app.ts';

const Ready = Type.Object({
  ready: Type.Boolean(),
  missing: Type.Array(Type.Object({ dependency: Type.String(), reason: Type.String() })),
});

export function healthRoutes(app: App, { telemetry, access }: FaceParts, openMetrics: boolean): void {
  const tags = ['operation'];
  const mayRead = (request: FastifyRequest): boolean => {
    try {
      return access.identify(credentialsOf(request), 'read').kind !== undefined;
    } catch {
      return false;
    }
  };
  const live = Type.Object({ ok: Type.Boolean() });
  app.get(
    '/healthz',
    {
      config: { scope: 'public' },
      schema: { summary: 'Whether the process lives', tags, response: { 200: json('It does', live) } },
    },
    () => ({ ok: true }),
  );
  app.get(
    '/readyz',
    {
      config: { scope: 'public' },
      schema: {
        summary: 'Whether NATS and QuestDB can be used and frames are stored',
        tags,
        response: { 200: json('All is well', Ready), 503: json('Something is missing', Ready) },
      },
    },
    (request, reply) => {
      const missing = telemetry.missing();
      // Addresses of servers are not for whoever asks.
      if (!mayRead(request))
        for (const each of missing) each.reason = 'the reason is in the log, and here for who may read';
      const ready = missing.length === 0;
      return reply.code(ready ? 200 : 503).send({ ready, missing });
    },
  );
  app.get(
    '/metrics',
    {
      config: { scope: openMetrics ? 'public' : 'read' },
      schema: {
        summary: 'Metrics of the collector itself, for Prometheus',
        tags,
        response: {
          200: { description: 'Metrics', content: { 'text/plain': { schema: Type.String() } } },
          ...problem(),
        },
      },
    },
    async (_, reply) =>
      reply.header('content-type', telemetry.registry.contentType).send(await telemetry.registry.metrics()),
  );
}
