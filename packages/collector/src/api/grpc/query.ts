import { catalog, fromHex } from '@fleetreel/proto';
import type { QueryHandlers } from '@fleetreel/proto/services';
import type { FaceParts } from '#api/faces.ts';
import { unary } from '#api/grpc/status.ts';
import type { Hole } from '#query/holes.ts';
import type { HostState } from '#query/hosts.ts';
import type { LatestRow } from '#query/latest.ts';

export function queryHandlers(parts: FaceParts): QueryHandlers {
  const { rooms } = parts;
  const tables = catalog.map(({ name, help, labels, fields, rowTime = '' }) => ({
    name,
    help,
    row_time: rowTime,
    labels: [...labels],
    fields: [...fields],
  }));
  return {
    ListHosts: unary(parts, 'Query/ListHosts', async (_, { tenant }) => ({
      hosts: rooms().query.hosts.list(tenant).map(hostMessage),
    })),
    Catalog: unary(parts, 'Query/Catalog', async () => ({ tables })),
    Latest: unary(parts, 'Query/Latest', async ({ table, hosts, labels }, { tenant }) => {
      const wanted = Object.fromEntries(Object.entries(labels).map(([name, value]) => [name, [value]]));
      const { rows } = await rooms().query.latest(tenant, { table, hosts, labels: wanted });
      return { rows: rows.map(rowMessage) };
    }),
    Rows: unary(parts, 'Query/Rows', async ({ labels, limit, ...question }, { tenant }) => {
      const { rows, isTruncated } = await rooms().query.rows(tenant, {
        ...question,
        limit: limit === 0 ? '' : String(limit),
        labels: Object.fromEntries(Object.entries(labels).map(([name, { values }]) => [name, values])),
      });
      return { rows: rows.map(rowMessage), truncated: isTruncated };
    }),
    Series: unary(parts, 'Query/Series', async ({ labels, ...question }, { tenant }) => {
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
    Coverage: unary(parts, 'Query/Coverage', async (question, { tenant }) => {
      const { query, deadLetters } = rooms();
      const { from, to, hosts } = await query.coverage(tenant, question, deadLetters);
      return {
        from_ms: from,
        to_ms: to,
        hosts: hosts.map(({ host, percent, percentInTime, holes, isTruncated }) => ({
          host,
          percent,
          percent_in_time: percentInTime,
          holes: holes.map(holeMessage),
          truncated: isTruncated,
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

/** A hole in the form of the gRPC contract: what is not known is missing. */
const holeMessage = ({ begin_us, end_us, cause, session, nextSession, missing, healed_us }: Hole) => ({
  begin_ms: begin_us / 1000,
  cause,
  session: session ?? '',
  next_session: nextSession ?? '',
  ...(end_us === null ? {} : { end_ms: end_us / 1000 }),
  ...(missing === null ? {} : { missing_frames: missing }),
  ...(healed_us === null ? {} : { healed_ms: healed_us / 1000 }),
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
