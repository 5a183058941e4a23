import { catalog } from '@fleetreel/proto';
import { Catalog } from '@fleetreel/proto/http';
import Type from 'typebox';
import { type App, json, problem } from '#api/http/app.ts';

export function catalogRoutes(app: App): void {
  const tables = catalog.map(({ name, help, labels, fields, rowTime = null }) => ({
    name,
    help,
    rowTime,
    labels,
    fields,
  }));
  app.get(
    '/catalog',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'All tables with their labels and fields',
        tags: ['history'],
        querystring: Type.Object({}),
        response: { 200: json('The catalogue, in the order of the contract', Catalog), ...problem(400) },
      },
    },
    () => ({ tables }),
  );
}
