// Replay sessions: made by a request, opened by a WebSocket with the messages of `live` and a clock of its own.
import { randomBytes } from 'node:crypto';
import { catalog, decodeTable, type Field, rowCount, scanFrame, type Table } from '@fleetreel/proto';
import { ApiError, clip } from '@fleetreel/proto/errors';
import { type ReplayMessage, ReplayRequest, ReplaySession } from '@fleetreel/proto/http';
import type { ReelFrame } from '@fleetreel/reel/format';
import Type from 'typebox';
import { recordReplay } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { attend, parseRequest, rowsJson, type Socket, subscriptionsMax, unsentBytesMax } from '#api/http/live.ts';
import { from, host, many, one, oneOf, type Parameters, to } from '#api/http/parameters.ts';
import { sourceQuestion, speedOf, timeOf } from '#api/replay.ts';
import { systemClock } from '#clock.ts';
import { replaysWaitingMax } from '#limits.ts';
import { findFields, findTable } from '#query/names.ts';
import type { Mark, Player, PlayerOptions, Reader } from '#replay/player.ts';
import type { SourceQuestion } from '#replay/source.ts';

/** How long a session waits for its reader, milliseconds. */
const openMilliseconds = 60_000;
/** How often a session says where it stands, at most, milliseconds. */
const clockMilliseconds = 1000;

type Session = { question: SourceQuestion; options: PlayerOptions; expires_ms: number };

const speed = Type.Optional(
  Type.String({
    description: 'Times the original pace: 0.1 to 1000, or 0 for as fast as it is taken; 1 when it is absent',
    examples: ['10'],
  }),
);
const table = Type.Optional(
  Type.Array(Type.Enum(catalog.map(({ name }) => name)), {
    description: 'Tables: repeated, or separated by commas; none means all',
    examples: [['cpu']],
    style: 'form',
    explode: true,
  }),
);
const paused = Type.Optional(Type.Enum(['true', 'false'], { description: 'Whether it begins paused' }));

export function replayRoutes(app: App, parts: FaceParts): void {
  const sessions = new Map<string, Session>();
  const open = new Set<AbortController>();
  app.addHook('onClose', async () => {
    for (const stopping of open) stopping.abort(new ApiError('stopping'));
  });
  app.post<{ Querystring: Parameters }>(
    '/replays',
    {
      config: { scope: 'replay' },
      schema: {
        summary: 'Make a replay session: a range of the recording with a clock of its own',
        description: 'Open it within a minute as a WebSocket at /api/v1/replays/{id}.',
        tags: ['replay'],
        querystring: Type.Object({ from, to, host, table, speed, paused }),
        response: { 201: json('The session', ReplaySession), ...problem(400, 403, 415, 429, 503) },
      },
    },
    async ({ query, identity, ip: address }, reply): Promise<ReplaySession> => {
      const now_ms = systemClock.monotonic_ms();
      for (const [id, { expires_ms }] of sessions) if (expires_ms <= now_ms) sessions.delete(id);
      parts.rooms();
      const asked = {
        from: one(query.from) ?? '',
        to: one(query.to) ?? '',
        fromSequence: 0,
        toSequence: 0,
        hosts: many(query.host),
        tables: many(query.table),
      };
      const question = sourceQuestion(identity.tenant, asked, systemClock.now_us() / 1000);
      const wanted = one(query.speed);
      const pace = speedOf(wanted === undefined ? 1 : wanted.trim() === '' ? Number.NaN : Number(wanted));
      let waiting = 0;
      for (const { question: other } of sessions.values()) if (other.tenant === identity.tenant) waiting++;
      if (waiting >= replaysWaitingMax)
        throw new ApiError('too_many_replays', { most: replaysWaitingMax, what: 'replays that wait for their reader' });
      const id = randomBytes(16).toString('hex');
      const options = { speed: pace, isPaused: oneOf(query, 'paused', ['true', 'false']) === 'true', shift: false };
      // It has its place before it is recorded, for many may come at once; nobody knows its id yet.
      sessions.set(id, { question, options, expires_ms: now_ms + openMilliseconds });
      try {
        await recordReplay(parts, { identity, address }, 'play', asked);
      } catch (cause) {
        sessions.delete(id);
        throw cause;
      }
      const { from_us, to_us } = question.range as { from_us: number; to_us: number };
      reply.code(201);
      return { id, from: from_us / 1000, to: to_us / 1000, speed: pace === 'max' ? 0 : pace, paused: options.isPaused };
    },
  );
  app.route<{ Params: { id: string } }>({
    method: 'GET',
    url: '/replays/:id',
    exposeHeadRoute: false,
    config: { scope: 'replay' },
    schema: {
      summary: 'Play a session (WebSocket)',
      description:
        'JSON messages. Send {"type":"subscribe","id","table","fields","hosts"}, after the first of which it begins, {"type":"unsubscribe","id"}, and ' +
        '{"type":"pause"}, {"type":"resume"}, {"type":"speed","speed"}, {"type":"seek","to"}, {"type":"step","frames"}. ' +
        'Receive {"type":"rows",...} as from live, {"type":"clock","time","state",...} at each change and once a second, and {"type":"error",...}. A slow reader slows it down; nothing is left out.',
      tags: ['replay'],
      params: Type.Object({ id: Type.String({ description: 'The session', examples: ['0123456789abcdef'] }) }),
      querystring: Type.Object({}),
      response: { 101: { description: 'A WebSocket' }, ...problem(400, 403, 426) },
    },
    handler: () => {
      throw new ApiError('upgrade_required', { value: '/api/v1/replays/{id}' });
    },
    wsHandler: (socket: Socket, { params: { id }, identity }) => {
      attend(socket, parts, identity, 'replay');
      // Another tenant's is as if it were not there.
      const known = sessions.get(id);
      const session = known?.question.tenant === identity.tenant ? known : undefined;
      if (session) sessions.delete(id);
      const stopping = new AbortController();
      open.add(stopping);
      const gone = parts.metrics.reader('http');
      const reader = new SessionReader(socket, stopping.signal);
      const waiting = session && session.expires_ms > systemClock.monotonic_ms() ? session : undefined;
      socket.on('error', (cause) => parts.telemetry.log.debug({ err: cause }, 'a replay reader failed'));
      socket.on('close', () => stopping.abort(new Error('the reader has gone')));
      void run(waiting, id, reader, socket, stopping.signal, parts).finally(() => {
        open.delete(stopping);
        gone();
      });
    },
  });
}

async function run(
  session: Session | undefined,
  id: string,
  reader: SessionReader,
  socket: Socket,
  signal: AbortSignal,
  parts: FaceParts,
): Promise<void> {
  try {
    if (!session) throw new ApiError('replay_not_found', { value: clip(id) });
    const begun = Promise.withResolvers<void>();
    signal.addEventListener('abort', () => begun.reject(signal.reason), { once: true });
    // Who goes while the recording is being found goes before anybody waits for it.
    begun.promise.catch(() => undefined);
    socket.on('message', (data, binary) => {
      if (reader.take(binary ? '' : data.toString(), parts)) begun.resolve();
    });
    using player = await parts.rooms().replays.open(session.question, reader, session.options);
    reader.player = player;
    await begun.promise;
    await player.run(signal, () => true);
  } catch (error) {
    const known = asApiError(signal.aborted ? signal.reason : error, parts);
    reader.send({ type: 'error', id: null, problem: known.problem });
    socket.close(known.code === 'stopping' ? 1001 : 1008, known.code);
  }
}

function asApiError(error: unknown, parts: FaceParts): ApiError {
  if (error instanceof ApiError) return error;
  const isGone = error instanceof Error && error.message === 'the reader has gone';
  if (!isGone) parts.telemetry.log.error({ err: error }, 'a replay failed');
  return new ApiError('internal', { id: 'replay' }, { cause: error as Error });
}

type Subscription = { table: Table; fields: readonly Field[]; hosts: ReadonlySet<string> | undefined };

/** One session's connection: what it watches, and how it controls its clock. */
class SessionReader implements Reader {
  player: Player | undefined;
  readonly #socket: Socket;
  readonly #signal: AbortSignal;
  readonly #subscriptions = new Map<string, Subscription>();
  #said_ms = Number.NEGATIVE_INFINITY;
  #time = 0;
  #isAtEnd = false;
  #room: PromiseWithResolvers<void> | undefined;

  constructor(socket: Socket, signal: AbortSignal) {
    this.#socket = socket;
    this.#signal = signal;
    signal.addEventListener('abort', () => this.#room?.reject(signal.reason), { once: true });
  }

  /** Takes a message of the reader; says whether it was a subscription. */
  take(text: string, parts: FaceParts): boolean {
    let id: string | null = null;
    try {
      const request = parseRequest(text, ReplayRequest, 'bad_command', 'it does not have the form of one');
      if ('id' in request) {
        ({ id } = request);
        this.#subscriptions.delete(id);
      }
      if (request.type === 'unsubscribe') return false;
      if (request.type === 'subscribe') {
        if (this.#subscriptions.size >= subscriptionsMax)
          throw new ApiError('too_many_subscriptions', { most: subscriptionsMax });
        const wanted = findTable(request.table);
        const fields = request.fields?.length ? findFields(wanted, request.fields) : wanted.fields;
        const hosts = request.hosts?.length ? new Set(request.hosts) : undefined;
        this.#subscriptions.set(request.id, { table: wanted, fields, hosts });
        return true;
      }
      const { player } = this;
      if (!player) throw new ApiError('bad_command', { reason: 'the replay has not begun yet' });
      if (request.type === 'pause') player.pause();
      else if (request.type === 'resume') player.resume();
      else if (request.type === 'speed') player.setSpeed(speedOf(request.speed));
      else if (request.type === 'step') player.step(request.frames ?? 1);
      else player.seek(timeOf(request.to, 'to', systemClock.now_us() / 1000));
      this.#clock('');
    } catch (error) {
      this.send({ type: 'error', id, problem: asApiError(error, parts).problem });
    }
    return false;
  }

  frames(frames: readonly ReelFrame[]): Promise<void> | undefined {
    this.#isAtEnd = false;
    for (const frame of frames) this.#frame(frame);
    this.#time = (frames.at(-1)?.time_us ?? 0) / 1000;
    if (systemClock.monotonic_ms() - this.#said_ms >= clockMilliseconds) this.#clock('');
    return this.#room?.promise;
  }

  mark({ kind, time_us, detail }: Mark): Promise<void> | undefined {
    this.#isAtEnd = kind === 'end';
    this.#time = time_us / 1000;
    this.#clock(detail);
    return this.#room?.promise;
  }

  /** Sends a message; while too much is on its way, nothing more is played. */
  send(message: ReplayMessage): void {
    if (this.#socket.readyState !== this.#socket.OPEN) return;
    this.#socket.send(JSON.stringify(message), () => {
      if (this.#socket.bufferedAmount > unsentBytesMax / 2) return;
      this.#room?.resolve();
      this.#room = undefined;
    });
    if (this.#socket.bufferedAmount > unsentBytesMax && !this.#room && !this.#signal.aborted) {
      this.#room = Promise.withResolvers();
      this.#room.promise.catch(() => undefined);
    }
  }

  #clock(detail: string): void {
    const { pacer } = this.player ?? {};
    const isPaused = pacer?.isPaused ?? false;
    this.#said_ms = systemClock.monotonic_ms();
    this.send({
      type: 'clock',
      time: this.#time,
      speed: pacer === undefined || pacer.speed === 'max' ? 0 : pacer.speed,
      state: this.#isAtEnd ? 'ended' : isPaused ? 'paused' : 'playing',
      detail,
    });
  }

  /** The rows of a frame that are watched, each table decoded once. */
  #frame({ host: name, bytes }: ReelFrame): void {
    const watched = [...this.#subscriptions].filter(([, { hosts }]) => hosts === undefined || hosts.has(name));
    if (watched.length === 0) return;
    const { slices, interval_ms, time_us } = scanFrame(bytes);
    for (const slice of slices) {
      const own = watched.filter(([, one]) => one.table === slice.table);
      if (own.length === 0) continue;
      const columns = decodeTable(slice);
      const rows = { table: slice.table, time_us, count: rowCount(slice.table, columns), columns };
      for (const [id, { fields }] of own)
        this.send(rowsJson(id, { frame: { host: name, header: { interval_ms } }, rows }, fields, 0));
    }
  }
}
