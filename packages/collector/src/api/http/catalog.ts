import { catalog } from '@fleetreel/proto';
import { Catalog } from '@fleetreel/proto/http';
import Type from 'typebox';
import { type App, answers } from '#api/http/app.ts';

export function catalogRoutes(app: App): void {
  const tables = catalog.map(({ id: _, ...table }) => table);
  app.get(
    '/catalog',
    {
      schema: {
        summary: 'All tables with their labels and fields',
        tags: ['history'],
        querystring: Type.Object({}),
        response: answers('The catalogue, in the order of the contract', Catalog, 400),
      },
    },
    () => ({ tables }),
  );
}
