import type { Field, FrameHeader } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import { type LiveMessage, LiveRequest, type LiveRows } from '@fleetreel/proto/http';
import Type from 'typebox';
import Value from 'typebox/value';
import type { Identity, Need } from '#access/identity.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, problem } from '#api/http/app.ts';
import { hostJson } from '#api/http/hosts.ts';
import type { Rows } from '#live/newest.ts';
import { Outbox } from '#live/outbox.ts';
import { findFields, findTable, namesMax } from '#query/names.ts';

/** Subscriptions of one connection at most. */
export const subscriptionsMax = 64;
/** Bytes of a message from a reader at most: a subscription that names many hosts. */
export const messageBytesMax = 64 * 1024;
/** Bytes on their way to a reader before newer states replace those that wait. */
export const unsentBytesMax = 256 * 1024;
/** A reader that did not answer for one to two of these is gone, milliseconds. */
const pingMilliseconds = 30_000;

/** What is used of a WebSocket (package ws). */
export type Socket = {
  readonly readyState: number;
  readonly OPEN: number;
  readonly bufferedAmount: number;
  send(text: string, done: () => void): void;
  close(code: number, reason: string): void;
  on(event: 'message', listener: (data: Buffer, binary: boolean) => void): void;
  on(event: 'error', listener: (cause: Error) => void): void;
  on(event: 'close' | 'pong', listener: () => void): void;
};

/** What a socket is closed with when who opened it may not have it any more: a policy was broken (RFC 6455). */
const signedOut = 1008;

/** Sockets that have answered of late. */
const alive = new WeakSet<Socket>();

/** A socket has opened: as long as it answers, and who opened it may have it, it is not closed. */
export function attend(socket: Socket, { access }: FaceParts, identity: Identity, need: Need): void {
  alive.add(socket);
  socket.on('pong', () => alive.add(socket));
  const release = access.attend(identity, need, () => socket.close(signedOut, 'not_signed_in'));
  socket.on('close', release);
}

export function liveRoutes(app: App, parts: FaceParts): void {
  const ping = setInterval(() => {
    for (const socket of app.websocketServer.clients)
      if (alive.delete(socket)) socket.ping();
      else socket.terminate();
  }, pingMilliseconds);
  app.addHook('onClose', async () => clearInterval(ping));
  app.route({
    method: 'GET',
    url: '/live',
    exposeHeadRoute: false,
    config: { scope: 'read' },
    schema: {
      summary: 'Rows as they arrive (WebSocket)',
      description:
        'JSON messages. Send {"type":"subscribe","id","table","fields","hosts"}, {"type":"subscribe_hosts","id"} or {"type":"unsubscribe","id"}. ' +
        'Receive {"type":"rows",...}, the newest known first, {"type":"hosts",...} and {"type":"error",...}. A reader that is too slow gets the newest state, with the number of updates left out.',
      tags: ['live'],
      querystring: Type.Object({}),
      response: { 101: { description: 'A WebSocket' }, ...problem(400, 403, 426, 429) },
    },
    // Before it is a WebSocket, so that it is refused with an answer, and whoever wants one tries again.
    preHandler: async ({ ws, identity }) => {
      parts.live.check(identity.tenant);
      if (ws) parts.rooms();
    },
    handler: () => {
      throw new ApiError('upgrade_required', { value: '/api/v1/live' });
    },
    wsHandler: (socket: Socket, { identity }) => {
      attend(socket, parts, identity, 'read');
      const gone = parts.metrics.reader('http');
      const closed = parts.live.open(identity.tenant);
      const reader = new Reader(socket, identity.tenant, parts);
      socket.on('message', (data, binary) => reader.take(binary ? '' : data.toString()));
      socket.on('error', (cause) => parts.telemetry.log.debug({ err: cause }, 'a live reader failed'));
      socket.on('close', () => {
        reader.close();
        closed();
        gone();
      });
    },
  });
}

/** One connection and its subscriptions. */
class Reader {
  readonly #socket: Socket;
  readonly #tenant: string;
  readonly #parts: FaceParts;
  readonly #subscriptions = new Map<string, () => void>();
  readonly #outbox: Outbox<(skipped: number) => LiveMessage | undefined>;
  #full = false;

  constructor(socket: Socket, tenant: string, parts: FaceParts) {
    this.#socket = socket;
    this.#tenant = tenant;
    this.#parts = parts;
    this.#outbox = new Outbox((message, skipped) => {
      parts.metrics.skipped(skipped);
      return this.#send(message(skipped));
    });
  }

  /** Takes a message of the reader. */
  take(text: string): void {
    let id: string | null = null;
    try {
      const request = parseRequest(text, LiveRequest, 'bad_message', 'it does not have the form of a request');
      id = request.id;
      this.#end(id);
      if (request.type === 'unsubscribe') return;
      if (this.#subscriptions.size >= subscriptionsMax)
        throw new ApiError('too_many_subscriptions', { most: subscriptionsMax });
      this.#subscriptions.set(id, request.type === 'subscribe_hosts' ? this.#watchHosts(id) : this.#watchRows(request));
    } catch (error) {
      const known = error instanceof ApiError ? error : new ApiError('internal', { id: 'live' }, { cause: error });
      if (known.code === 'internal') this.#parts.telemetry.log.error({ err: error }, 'a live subscription failed');
      this.#send({ type: 'error', id, problem: known.problem });
    }
  }

  close(): void {
    for (const id of this.#subscriptions.keys()) this.#end(id);
  }

  #end(id: string): void {
    this.#subscriptions.get(id)?.();
    this.#subscriptions.delete(id);
    this.#outbox.drop((key) => key.startsWith(`${id}\0`));
  }

  #watchRows(request: Extract<LiveRequest, { type: 'subscribe' }>): () => void {
    const { id, hosts = [] } = request;
    const table = findTable(request.table);
    const fields = request.fields?.length ? findFields(table, request.fields) : table.fields;
    if (hosts.length > namesMax)
      throw new ApiError('too_many_names', { parameter: 'hosts', count: hosts.length, most: namesMax });
    return this.#parts
      .rooms()
      .hub.watch({ tenant: this.#tenant, table, hosts }, (update) =>
        this.#outbox.push(`${id}\0${update.frame.host}`, (skipped) => rowsJson(id, update, fields, skipped)),
      );
  }

  /** All hosts at once, then those that changed: what a slow reader missed is joined, since the newest state is all that counts. */
  #watchHosts(id: string): () => void {
    const { hosts } = this.#parts.rooms().query;
    const tenant = this.#tenant;
    const changed = new Set(hosts.names(tenant));
    const push = () =>
      this.#outbox.push(`${id}\0`, () => {
        const known = [...changed].map((host) => [host, hosts.get(tenant, host)] as const);
        changed.clear();
        return {
          type: 'hosts',
          id,
          hosts: known.flatMap(([, state]) => (state ? hostJson(state) : [])),
          removed: known.flatMap(([host, state]) => (state ? [] : host)),
        };
      });
    push();
    return hosts.watch(tenant, (changes) => {
      for (const host of changes) changed.add(host);
      push();
    });
  }

  /** Sends a message; says whether the reader keeps up. */
  #send(message: LiveMessage | undefined): boolean {
    if (message === undefined || this.#socket.readyState !== this.#socket.OPEN) return true;
    this.#socket.send(JSON.stringify(message), () => {
      if (!this.#full || this.#socket.bufferedAmount > unsentBytesMax / 2) return;
      this.#full = false;
      this.#outbox.resume();
    });
    this.#full ||= this.#socket.bufferedAmount > unsentBytesMax;
    return !this.#full;
  }
}

/**
 * A message of a reader that has this form.
 * @throws ApiError of this code, which says that it is not JSON, or what it `lacks`
 */
export function parseRequest<T extends Type.TSchema>(
  text: string,
  schema: T,
  code: 'bad_message' | 'bad_command',
  lacks: string,
): Type.Static<T> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw new ApiError(code, { reason: 'it is not JSON' });
  }
  if (Value.Check(schema, value)) return value as Type.Static<T>;
  throw new ApiError(code, { reason: lacks });
}

export function rowsJson(
  id: string,
  { frame, rows }: { frame: { host: string; header: Pick<FrameHeader, 'interval_ms'> }; rows: Rows },
  fields: readonly Field[],
  skipped: number,
): LiveRows {
  const table = rows.table;
  const blank = Array.from({ length: rows.count }, () => null);
  const column = <T>(name: string, absent: T[]) => {
    const values = rows.columns[name];
    return values?.length ? (values as T[]) : absent;
  };
  return {
    type: 'rows',
    id,
    host: frame.host,
    time: Math.floor(rows.time_us / 1000),
    intervalMs: frame.header.interval_ms,
    labels: Object.fromEntries(
      table.labels.map(({ name }) => [
        name,
        column(
          name,
          blank.map(() => ''),
        ),
      ]),
    ),
    // NaN becomes null when it is written as JSON.
    values: Object.fromEntries(fields.map(({ name }) => [name, column<number | null>(name, blank)])),
    skipped,
  };
}
