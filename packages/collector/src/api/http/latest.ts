import { Latest, type Row } from '@fleetreel/proto/http';
import Type from 'typebox';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { host, labels, labelsOf, many, one, type Parameters, table } from '#api/http/parameters.ts';
import type { LatestRow } from '#query/latest.ts';

export function latestRoutes(app: App, { rooms }: FaceParts): void {
  app.get<{ Querystring: Parameters }>(
    '/latest',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'The newest row of every entity of a table',
        tags: ['history'],
        querystring: Type.Object({ table, host, ...labels }),
        response: {
          200: json('Rows by host; a value that is not available is null', Latest),
          ...problem(400, 503, 504),
        },
      },
    },
    async ({ query: parameters, identity: { tenant } }) => {
      const { rows } = await rooms().query.latest(tenant, {
        table: one(parameters.table),
        hosts: many(parameters.host),
        labels: labelsOf(parameters),
      });
      return { rows: rows.map(rowJson) };
    },
  );
}

/** A row in the form of the HTTP contract; NaN becomes null when it is written as JSON. */
export const rowJson = ({ time_us, host, labels, values }: LatestRow): Row => ({
  time: Math.floor(time_us / 1000),
  host,
  ...labels,
  ...values,
});
