import {
  ClaimedEnrolment,
  Credentials,
  Enrolled,
  EnrolmentClaim,
  EnrolmentRequest,
  RevokedCredentials,
} from '@fleetreel/proto/http';
import Type from 'typebox';
import { claim, enrol, enrolmentOf, revoke } from '#api/enrolment.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';

export function enrolmentRoutes(app: App, parts: FaceParts): void {
  const tags = ['access'];
  app.post<{ Body: EnrolmentRequest }>(
    '/enrolments',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Let a host in',
        description:
          'Gives the credentials by which NATS knows its agent, or a code with which the agent fetches its own, once. With them an agent may publish as this host of this tenant and nothing else.',
        tags,
        body: EnrolmentRequest,
        querystring: Type.Object({}),
        response: {
          200: json('Credentials or a code, which are secret', Enrolled),
          ...problem(400, 403, 409, 429, 503),
        },
      },
    },
    async ({ body: { host, ttl, mode }, identity, ip }) =>
      await enrol(parts, identity, { host, ttl, code: mode === 'code' }, ip),
  );
  app.post<{ Body: EnrolmentClaim }>(
    '/enrolments/claim',
    {
      config: { scope: 'public' },
      schema: {
        summary: 'Credentials for a code',
        description: 'The code is the right to them, once. The agent keeps the seed of its key to itself.',
        tags,
        body: EnrolmentClaim,
        querystring: Type.Object({}),
        response: { 200: json('The token of the key', ClaimedEnrolment), ...problem(400, 403, 409, 429, 503) },
      },
    },
    ({ body, ip }) => claim(parts, body, ip),
  );
  app.get(
    '/credentials',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Credentials that hosts were given, the newest first',
        tags,
        querystring: Type.Object({}),
        response: { 200: json('Without anything secret', Credentials), ...problem(409, 503) },
      },
    },
    async ({ identity }) => {
      const enrolment = enrolmentOf(parts);
      return { natsUrl: enrolment.agentsUrl, credentials: await enrolment.list(identity.tenant) };
    },
  );
  app.delete<{ Params: { host: string } }>(
    '/credentials/:host',
    {
      config: { scope: 'admin' },
      schema: {
        summary: 'Take all credentials and unused codes of a host back',
        description: 'NATS ends its connections at once and lets it in no more, until it is enrolled anew.',
        tags,
        params: Type.Object({ host: Type.String({ description: 'The host', examples: ['web-1'] }) }),
        querystring: Type.Object({}),
        response: { 200: json('How many there were', RevokedCredentials), ...problem(403, 404, 409, 503) },
      },
    },
    async ({ params, identity, ip }) => ({ revoked: await revoke(parts, identity, params.host, ip) }),
  );
}
