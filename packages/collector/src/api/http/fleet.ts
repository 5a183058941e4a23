import { pipeline, Readable } from 'node:stream';
import { createGzip } from 'node:zlib';
import { ApiError } from '@fleetreel/proto/errors';
import Type from 'typebox';
import type { FaceParts } from '#api/faces.ts';
import { type App, problem } from '#api/http/app.ts';
import { accepts } from '#api/http/compress.ts';
import { host, many, type Parameters } from '#api/http/parameters.ts';
import { fleetPageMilliseconds, fleetPagesMax } from '#limits.ts';
import { exportable } from '#query/fleet.ts';

const table = Type.Optional(
  Type.Array(Type.Enum(exportable.map(({ name }) => name)), {
    description:
      'Tables: repeated, or separated by commas; none means all but those of single processes, which would be new series with each process',
    examples: [['cpu']],
    style: 'form',
    explode: true,
  }),
);

export function fleetRoutes(app: App, { rooms, telemetry }: FaceParts): void {
  /** Pages that are being sent. */
  let open = 0;
  app.get<{ Querystring: Parameters }>(
    '/metrics/fleet',
    {
      config: { scope: 'read' },
      schema: {
        summary: 'The newest values of all hosts, for Prometheus',
        description:
          'A field of a table is the metric `fleetreel_<table>_<field>`: `_percent` becomes `_ratio` (0 to 1), `_count` is left out, `_total` is a counter. Labels: `host` and the keys of the table; what else a table says of its entities is in `fleetreel_<table>_info`. A value that is not available is absent, and so is a host that is offline, but for `fleetreel_host_up`.',
        tags: ['operation'],
        querystring: Type.Object({ host, table }),
        response: {
          200: { description: 'Metrics', content: { 'text/plain': { schema: Type.String() } } },
          ...problem(400, 503),
        },
      },
    },
    ({ query: { host: hosts, table: tables }, headers, identity: { tenant } }, reply) => {
      if (open >= fleetPagesMax) throw new ApiError('busy', { most: fleetPagesMax });
      const pieces = rooms().query.fleet(tenant, { hosts: many(hosts), tables: many(tables) });
      const page = Readable.from(pieces, { objectMode: false });
      open++;
      // A reader that stops reading must not hold the state of a fleet for ever.
      const late = setTimeout(() => page.destroy(new Error('the reader is too slow')), fleetPageMilliseconds);
      page.once('close', () => {
        open--;
        clearTimeout(late);
      });
      void reply.header('content-type', 'text/plain; version=0.0.4; charset=utf-8').header('vary', 'accept-encoding');
      if (!accepts(headers['accept-encoding'], 'gzip')) return reply.send(page);
      // An error of either side ends both; the reader sees a page that is cut off.
      const gzip = createGzip({ level: 1 });
      pipeline(page, gzip, (cause) => {
        if (cause) telemetry.log.debug({ reason: cause.message }, 'a page of metrics was cut off');
      });
      return reply.header('content-encoding', 'gzip').send(gzip);
    },
  );
}
