import { catalog, fromHex } from '@fleetreel/proto';
import type { QueryHandlers } from '@fleetreel/proto/services';
import type { FaceParts } from '#api/faces.ts';
import { unary } from '#api/grpc/status.ts';
import type { HostState } from '#query/hosts.ts';
import type { LatestRow } from '#query/latest.ts';

export function queryHandlers(parts: FaceParts): QueryHandlers {
  const { rooms, tenant } = parts;
  const tables = catalog.map(({ name, help, labels, fields, rowTime = '' }) => ({
    name,
    help,
    row_time: rowTime,
    labels: [...labels],
    fields: [...fields],
  }));
  return {
    ListHosts: unary(parts, 'Query/ListHosts', async () => ({
      hosts: rooms().query.hosts.list(tenant).map(hostMessage),
    })),
    Catalog: unary(parts, 'Query/Catalog', async () => ({ tables })),
    Latest: unary(parts, 'Query/Latest', async ({ table, hosts, labels }) => {
      const wanted = Object.fromEntries(Object.entries(labels).map(([name, value]) => [name, [value]]));
      const { rows } = await rooms().query.latest(tenant, { table, hosts, labels: wanted });
      return { rows: rows.map(rowMessage) };
    }),
    Rows: unary(parts, 'Query/Rows', async ({ labels, limit, ...question }) => {
      const { rows, isTruncated } = await rooms().query.rows(tenant, {
        ...question,
        limit: limit === 0 ? '' : String(limit),
        labels: Object.fromEntries(Object.entries(labels).map(([name, { values }]) => [name, values])),
      });
      return { rows: rows.map(rowMessage), truncated: isTruncated };
    }),
    Series: unary(parts, 'Query/Series', async ({ labels, ...question }) => {
      const { table, aggregation, from, to, stepMs, times, series } = await rooms().query.series(tenant, {
        ...question,
        labels: Object.fromEntries(Object.entries(labels).map(([name, { values }]) => [name, values])),
      });
      return {
        from_ms: from,
        to_ms: to,
        step_ms: stepMs,
        times_ms: times,
        series: series.map(({ field: { name, unit }, labels: own, values }) => ({
          table: table.name,
          field: name,
          unit,
          aggregation,
          labels: own,
          values,
        })),
      };
    }),
  };
}

/** A row in the form of the gRPC contract: a value that is not available is missing. */
const rowMessage = (row: LatestRow) => ({
  ...row,
  values: Object.fromEntries(Object.entries(row.values).filter(([, value]) => !Number.isNaN(value))),
});

/** A host in the form of the gRPC contract. */
function hostMessage({ host, status, lastSeen_us, clockSkewSeconds, description, refusals, headline }: HostState) {
  return {
    host,
    status,
    last_seen_us: lastSeen_us ?? 0,
    clock_skew_seconds: clockSkewSeconds ?? 0,
    description: description && { ...description, session: fromHex(description.session) },
    refusals: [...refusals],
    headline: Object.fromEntries(
      Object.entries(headline).flatMap(([name, value]) => (value === null ? [] : [[snakeCase(name), value]])),
    ),
  };
}

const snakeCase = (name: string): string => name.replace(/[A-Z]|\d+/g, (part) => `_${part.toLowerCase()}`);
