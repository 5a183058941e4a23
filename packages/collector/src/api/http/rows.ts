import { Rows } from '@fleetreel/proto/http';
import Type from 'typebox';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { rowJson } from '#api/http/latest.ts';
import { from, host, labels, labelsOf, limit, many, one, type Parameters, table, to } from '#api/http/parameters.ts';

export function rowsRoutes(app: App, { rooms }: FaceParts): void {
  app.get<{ Querystring: Parameters }>(
    '/rows',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'The rows of a table over a time range, the newest first',
        tags: ['history'],
        querystring: Type.Object({ table, host, from, to, limit, ...labels }),
        response: {
          200: json('Rows, the newest first; a value that is not available is null', Rows),
          ...problem(400, 503, 504),
        },
      },
    },
    async ({ query: parameters, identity: { tenant } }) => {
      const { rows, isTruncated } = await rooms().query.rows(tenant, {
        table: one(parameters.table),
        hosts: many(parameters.host),
        labels: labelsOf(parameters),
        from: one(parameters.from),
        to: one(parameters.to),
        limit: one(parameters.limit),
      });
      return { rows: rows.map(rowJson), truncated: isTruncated };
    },
  );
}
