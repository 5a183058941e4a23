import { Series } from '@fleetreel/proto/http';
import Type from 'typebox';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import {
  agg,
  field,
  from,
  host,
  labels,
  labelsOf,
  many,
  one,
  type Parameters,
  step,
  table,
  to,
} from '#api/http/parameters.ts';

export function seriesRoutes(app: App, { rooms }: FaceParts): void {
  app.get<{ Querystring: Parameters }>(
    '/series',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'Fields of a table over a time range, aggregated by steps',
        tags: ['history'],
        querystring: Type.Object({ table, field, host, from, to, step, agg, ...labels }),
        response: {
          200: json('One series for each field and entity, all on the same times', Series),
          ...problem(400, 503, 504),
        },
      },
    },
    async ({ query: parameters, identity: { tenant } }): Promise<Series> => {
      const { table, aggregation, series, ...range } = await rooms().query.series(tenant, {
        table: one(parameters.table),
        fields: many(parameters.field),
        hosts: many(parameters.host),
        labels: labelsOf(parameters),
        from: one(parameters.from),
        to: one(parameters.to),
        step: one(parameters.step),
        aggregation: one(parameters.agg),
      });
      return {
        ...range,
        series: series.map(({ field: { name, unit }, labels, values }) => ({
          table: table.name,
          field: name,
          unit,
          agg: aggregation,
          labels,
          // NaN becomes null when it is written as JSON.
          values,
        })),
      };
    },
  );
}
