import type { Field } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import type { LiveHandlers } from '@fleetreel/proto/services';
import { recordReplay } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { recorded, written } from '#api/grpc/replay.ts';
import { addressOf, identityOf } from '#api/grpc/rights.ts';
import { statusOf } from '#api/grpc/status.ts';
import { hostNames, tableNames, timeOf } from '#api/replay.ts';
import { systemClock } from '#clock.ts';
import type { Update } from '#live/hub.ts';
import { Outbox } from '#live/outbox.ts';
import { findFields, findTable, namesMax } from '#query/names.ts';

/** Watches of one call at most. */
const watchesMax = 64;

type Item = { update: Update; fields: readonly Field[] };

/** The handlers, and what ends the calls that are open. */
export function liveHandlers(parts: FaceParts): { handlers: LiveHandlers; end: () => void } {
  const stops = new Set<() => void>();
  const handlers: LiveHandlers = {
    Watch(call) {
      const ends: (() => void)[] = [parts.metrics.reader('grpc')];
      const finish = () => {
        for (const end of ends.splice(0)) end();
      };
      const outbox = new Outbox<Item>((item, skipped) => {
        parts.metrics.skipped(skipped);
        return call.write(message(item, skipped));
      });
      call.on('drain', () => outbox.resume());
      call.on('cancelled', finish);
      call.on('error', finish);
      const stop = () => call.emit('error', statusOf(new ApiError('stopping'), 'Live/Watch', parts));
      stops.add(stop);
      ends.push(() => stops.delete(stop));
      try {
        const { tenant } = identityOf(call);
        parts.live.check(tenant);
        ends.push(parts.live.open(tenant));
        // All are checked before the first is begun, so that a wrong one is answered alone.
        const watches = call.request.watches.map(({ table: name, fields, hosts }) => {
          const table = findTable(name);
          if (hosts.length > namesMax)
            throw new ApiError('too_many_names', { parameter: 'hosts', count: hosts.length, most: namesMax });
          return { table, hosts, fields: fields.length > 0 ? findFields(table, fields) : table.fields };
        });
        if (watches.length === 0)
          throw new ApiError('missing_parameter', { parameter: 'watches', expected: 'at least one table to watch' });
        if (watches.length > watchesMax) throw new ApiError('too_many_subscriptions', { most: watchesMax });
        for (const [index, { table, hosts, fields }] of watches.entries())
          ends.push(
            parts
              .rooms()
              .hub.watch({ tenant, table, hosts }, (update) =>
                outbox.push(`${index}\0${update.frame.host}`, { update, fields }),
              ),
          );
        // Last: where the right has gone meanwhile, it ends at once, with all of the above.
        const signOut = () => call.emit('error', statusOf(new ApiError('not_signed_in'), 'Live/Watch', parts));
        ends.push(parts.access.attend(identityOf(call), 'read', signOut));
      } catch (error) {
        call.emit('error', statusOf(error, 'Live/Watch', parts));
      }
    },
    Follow(call) {
      const stopping = new AbortController();
      const stop = () => stopping.abort(new ApiError('stopping'));
      const gone = () => stopping.abort(new Error('the reader has gone'));
      call.on('cancelled', gone);
      call.on('error', gone);
      stops.add(stop);
      const release = parts.access.attend(identityOf(call), 'replay', () =>
        stopping.abort(new ApiError('not_signed_in')),
      );
      void follow(call, stopping.signal, parts).finally(() => {
        stops.delete(stop);
        release();
      });
    },
  };
  return {
    handlers,
    end() {
      for (const stop of stops) stop();
    },
  };
}

async function follow(
  call: Parameters<LiveHandlers['Follow']>[0],
  signal: AbortSignal,
  parts: FaceParts,
): Promise<void> {
  const finished = parts.metrics.reader('grpc');
  try {
    const { from, token, hosts, tables } = call.request;
    if (from && token) throw new ApiError('bad_command', { reason: 'it begins at a time or at a token, not at both' });
    const question = {
      tenant: identityOf(call).tenant,
      hosts: hostNames(hosts),
      tables: tableNames(tables),
      from: token ? { token } : { time_us: timeOf(from || 'now', 'from', systemClock.now_us() / 1000) },
    };
    await recordReplay(parts, { identity: identityOf(call), address: addressOf(call) }, 'follow', {
      from,
      hosts,
      tables,
    });
    for await (const part of parts.rooms().replays.follow(question, signal))
      await written(call, { frames: part.frames.map(recorded), token: part.token }, signal);
  } catch (error) {
    // Who has gone is not told why.
    if (!call.cancelled) call.emit('error', statusOf(signal.aborted ? signal.reason : error, 'Live/Follow', parts));
  } finally {
    finished();
  }
}

function message({ update: { frame, rows }, fields }: Item, skipped: number) {
  // An empty column means that all its values are absent, as in a frame.
  const column = <T>(name: string) => ({ name, values: (rows.columns[name] ?? []) as T[] });
  return {
    host: frame.host,
    table: rows.table.name,
    time_us: rows.time_us,
    labels: rows.table.labels.map(({ name }) => column<string>(name)),
    fields: fields.map(({ name }) => column<number>(name)),
    skipped,
  };
}
