import { Coverage } from '@fleetreel/proto/http';
import Type from 'typebox';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { from, host, many, one, type Parameters, to } from '#api/http/parameters.ts';

const ms = (time_us: number | null) => (time_us === null ? null : time_us / 1000);

export function coverageRoutes(app: App, { rooms }: FaceParts): void {
  app.get<{ Querystring: Parameters }>(
    '/coverage',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'What of a time range is stored of hosts, and every hole with its cause',
        tags: ['history'],
        querystring: Type.Object({ host, from, to }),
        response: {
          200: json('Coverage in percent and the holes, for each host', Coverage),
          ...problem(400, 503, 504),
        },
      },
    },
    async ({ query: parameters, identity: { tenant } }): Promise<Coverage> => {
      const { query, deadLetters } = rooms();
      const question = { hosts: many(parameters.host), from: one(parameters.from), to: one(parameters.to) };
      const { hosts, ...range } = await query.coverage(tenant, question, deadLetters);
      return {
        ...range,
        hosts: hosts.map(({ holes, isTruncated, ...coverage }) => ({
          ...coverage,
          holes: holes.map(({ begin_us, end_us, cause, session, nextSession, missing, healed_us }) => ({
            begin: begin_us / 1000,
            end: ms(end_us),
            cause,
            session,
            nextSession,
            missingFrames: missing,
            healed: ms(healed_us),
          })),
          truncated: isTruncated,
        })),
      };
    },
  );
}
