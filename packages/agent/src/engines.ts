// Container engines by their sockets: one list when connected, then their stream of events. No list is polled.
import { readdirSync, realpathSync, statSync } from 'node:fs';
import { isAbsolute, join } from 'node:path';
import type { Clock } from '#clock.ts';
import type { EngineChange, EngineContainer, Engines } from '#engine.ts';
import { changed, type EngineEvent, hasEnded, unknownContainer } from '#engine_api.ts';
import { CriApi } from '#engine_cri.ts';
import { DockerApi, type EngineApi, EngineError, NoEngine, within } from '#engine_socket.ts';
import {
  engineContainersMax,
  engineEventsRemembered,
  engineInspectsAtOnce,
  engineOpenMilliseconds,
  engineReplayMilliseconds,
  engineRetryMilliseconds,
  engineSameMomentMilliseconds,
  engineSocketsMilliseconds,
} from '#limits.ts';
import type { Context } from '#source.ts';
import { sentence } from '#telemetry.ts';

/** Digits of an id by which a container is known. */
const idDigits = 12;

const shortId = (id: string): string => id.slice(0, idDigits);

/** What all engines of this host say. */
export class SocketEngines implements Engines {
  readonly #settings: Pick<Context['settings'], 'container'>;
  readonly #run: string;
  readonly #clock: Clock;
  #closed = new AbortController();
  #known = new Containers();
  /** By the socket's real path: /run/docker.sock may be a link to Podman's. */
  readonly #connections = new Map<string, Connection>();

  constructor({ settings, roots, clock }: Pick<Context, 'settings' | 'roots' | 'clock'>) {
    this.#settings = settings;
    this.#run = roots.run;
    this.#clock = clock;
  }

  get containers(): ReadonlyMap<string, EngineContainer> {
    return this.#known.all;
  }

  onChange(listener: (change: EngineChange) => void): void {
    this.#known.listeners.push(listener);
  }

  async open(): Promise<void> {
    if (this.#closed.signal.aborted) this.#closed = new AbortController();
    const { signal } = this.#closed;
    const first = this.#lookForSockets();
    void this.#keepLooking(signal);
    const enough = new AbortController();
    const patience = this.#clock.sleep(engineOpenMilliseconds, enough.signal).catch(() => undefined);
    // The first frame has names where the engines answer soon.
    await Promise.race([Promise.all(first), patience]);
    enough.abort();
  }

  limitations(): readonly string[] {
    const said = [...this.#connections.values()].flatMap(({ limitation }) => (limitation === '' ? [] : [limitation]));
    if (this.#known.tooMany)
      said.push(`There are more than ${engineContainersMax} containers: the names of further ones are not kept.`);
    return said;
  }

  /** It may be opened again; who listened before does no more. */
  close(): void {
    this.#closed.abort();
    this.#known = new Containers();
    this.#connections.clear();
  }

  /** Connects to the sockets that are here and were not before; the promises resolve when each has been listed or has failed. */
  #lookForSockets(): Promise<void>[] {
    const found: Promise<void>[] = [];
    for (const socket of this.#settings.container.sockets.flatMap((pattern) => socketsAt(this.#run, pattern))) {
      if (this.#connections.has(socket)) continue;
      const connection = new Connection(socket, this.#known, this.#clock, this.#closed.signal);
      this.#connections.set(socket, connection);
      found.push(connection.listed);
    }
    return found;
  }

  async #keepLooking(signal: AbortSignal): Promise<void> {
    try {
      for (;;) {
        await this.#clock.sleep(engineSocketsMilliseconds, signal);
        void this.#lookForSockets();
      }
    } catch {
      // Closed.
    }
  }
}

/** The sockets that a setting means: a path below the folder of run-time files, or absolute; `*` is any one folder. */
export function socketsAt(run: string, pattern: string): string[] {
  const path = isAbsolute(pattern) ? pattern : join(run, pattern);
  const star = path.indexOf('/*/');
  if (star < 0) return socketAt(path, true);
  const [before, after] = [path.slice(0, star), path.slice(star + 3)];
  try {
    // The folders of other users are closed to all but root, with an engine in them or without.
    return readdirSync(before).flatMap((name) => socketAt(join(before, name, after), false));
  } catch {
    return [];
  }
}

/** The socket at a path, if there is one. One that is named may be behind a closed folder: it is tried, and fails with a reason. */
function socketAt(path: string, isNamed: boolean): string[] {
  try {
    return statSync(path).isSocket() ? [realpathSync(path)] : [];
  } catch (error) {
    return isNamed && (error as NodeJS.ErrnoException).code === 'EACCES' ? [path] : [];
  }
}

/** The containers of all engines. */
class Containers {
  readonly all = new Map<string, EngineContainer>();
  readonly listeners: ((change: EngineChange) => void)[] = [];
  tooMany = false;

  /** False where there are too many. */
  put(container: EngineContainer): boolean {
    const key = shortId(container.id);
    if (this.all.size >= engineContainersMax && !this.all.has(key)) {
      this.tooMany = true;
      return false;
    }
    this.all.set(key, container);
    return true;
  }

  remove(id: string): void {
    this.all.delete(shortId(id));
    this.tooMany = false;
  }

  tell(change: EngineChange): void {
    for (const listener of this.listeners) listener(change);
  }
}

/** What was told of a container's runs. */
type Told = {
  /** Undefined when no run is known. */
  isRunning: boolean | undefined;
  start_us: number;
  end_us: number;
  oom_us: number;
  /** Grows with each event: an answer to a question asked before is out of date. */
  revision: number;
};

/** Which sockets are those of Kubernetes' engines. */
const speaksCri = /(containerd|crio)\.sock$/;

/** One engine: connected again after each break, and then told what it missed. */
class Connection {
  readonly #socket: string;
  readonly #api: EngineApi;
  readonly #known: Containers;
  readonly #clock: Clock;
  readonly #closed: AbortSignal;
  /** The containers of this engine, by id. What it says of another engine's is not heard. */
  readonly #told = new Map<string, Told>();
  #engine = '';
  /** Until when its changes are known; NaN before its containers were listed for the first time. */
  #seenUntil_us = Number.NaN;
  /** The newest events: some are told twice, since after a break those of the time before are asked for. */
  readonly #seen = new Set<string>();
  /** Events that came before the containers were listed. */
  #waiting: EngineEvent[] | undefined;
  readonly #toInspect = new Set<string>();
  #inspecting = 0;
  readonly #first = Promise.withResolvers<void>();
  limitation: string;

  constructor(socket: string, known: Containers, clock: Clock, closed: AbortSignal) {
    this.#socket = socket;
    this.#api = speaksCri.test(socket) ? new CriApi(socket) : new DockerApi(socket);
    this.#known = known;
    this.#clock = clock;
    this.#closed = closed;
    this.limitation = `What the engine at ${socket} says of its containers is not known yet.`;
    void this.#stayConnected();
  }

  /** Resolves when the engine's containers are known, or can't be. */
  get listed(): Promise<void> {
    return this.#first.promise;
  }

  async #stayConnected(): Promise<void> {
    let pause_ms: number = engineRetryMilliseconds.min;
    while (!this.#closed.aborted) {
      const session = new AbortController();
      const end = (): void => session.abort();
      this.#closed.addEventListener('abort', end, { once: true });
      try {
        await this.#connect(session, () => {
          pause_ms = engineRetryMilliseconds.min;
        });
      } catch (cause) {
        this.limitation = cause instanceof NoEngine ? '' : whyNot(this.#socket, this.#engine, cause);
      } finally {
        this.#closed.removeEventListener('abort', end);
      }
      this.#first.resolve();
      // Closing ends the pause, and then the loop.
      await this.#clock.sleep(pause_ms, this.#closed).catch(() => undefined);
      pause_ms = Math.min(pause_ms * 2, engineRetryMilliseconds.max);
    }
  }

  /** Connects, lists, and follows the events until that breaks. @throws always */
  async #connect(session: AbortController, succeeded: () => void): Promise<never> {
    const { signal } = session;
    this.#engine = await this.#api.identify(signal);
    const now_us = this.#clock.now_us();
    const since_us = Number.isNaN(this.#seenUntil_us) ? now_us : this.#seenUntil_us - engineReplayMilliseconds * 1000;
    this.#waiting = [];
    const began = Promise.withResolvers<void>();
    const streaming = this.#follow(since_us, began.resolve, signal);
    const listing = this.#list(now_us, began.promise, signal);
    try {
      await Promise.race([streaming, listing]);
      this.limitation = '';
      succeeded();
      this.#first.resolve();
      return await streaming;
    } finally {
      session.abort();
      this.#waiting = undefined;
      this.#toInspect.clear();
      if (!Number.isNaN(this.#seenUntil_us)) this.#seenUntil_us = this.#clock.now_us();
      await Promise.allSettled([streaming, listing]);
    }
  }

  async #follow(since_us: number, began: () => void, signal: AbortSignal): Promise<never> {
    const take = (event: EngineEvent): void => {
      if (!this.#isNew(event)) return;
      if (this.#waiting === undefined) this.#take(event, signal);
      else if (this.#waiting.length < engineContainersMax) this.#waiting.push(event);
      else throw new EngineError('tells of more changes than can be followed');
    };
    await this.#api.follow(since_us, began, take, signal);
    throw new EngineError('has ended its stream of events');
  }

  #isNew({ id, action, time_us }: EngineEvent): boolean {
    const key = `${id} ${action} ${time_us}`;
    if (this.#seen.has(key)) return false;
    this.#seen.add(key);
    // A set keeps the order in which it was filled.
    if (this.#seen.size > engineEventsRemembered) for (const oldest of this.#seen) return this.#seen.delete(oldest);
    return true;
  }

  /** Lists all containers, asks for each, and tells what happened while nobody listened. */
  async #list(connectedAt_us: number, began: Promise<void>, signal: AbortSignal): Promise<void> {
    // The events first, so that nothing falls in between. It is not waited for long: an engine may send the head of its answer
    // only with the first event.
    await within(engineReplayMilliseconds / 2, signal, () => began).catch(() => undefined);
    const listed = await this.#api.list(signal);
    const known = listed.slice(0, engineContainersMax);
    const left = known.entries();
    let unanswered = 0;
    const inspectNext = async (): Promise<void> => {
      for (const [place, { id }] of left) {
        const inspected = await this.#inspected(id, signal);
        if (inspected === 'no answer') {
          // A single container may be stuck in its engine.
          if (++unanswered > engineInspectsAtOnce) throw new EngineError('does not describe its containers');
        } else if (inspected) known[place] = inspected;
      }
    };
    await Promise.all(Array.from({ length: engineInspectsAtOnce }, inspectNext));
    const missedSince_us = this.#seenUntil_us;
    const waiting = this.#waiting ?? [];
    this.#waiting = undefined;
    this.#seenUntil_us = this.#clock.now_us();
    this.#known.tooMany ||= listed.length > known.length;
    for (const event of waiting) this.#take(event, signal);
    const changed = new Set(waiting.map(({ id }) => id));
    for (const container of known) {
      const { id } = container;
      // Of these the events know more than the list, which may be older.
      if (changed.has(id)) this.#inspectSoon(id, signal);
      else if (Number.isNaN(missedSince_us)) this.#adopt(container, connectedAt_us);
      else this.#catchUp(container, missedSince_us);
    }
    if (Number.isNaN(missedSince_us)) return;
    const ids = new Set(known.map(({ id }) => id));
    if (listed.length === known.length)
      for (const id of this.#told.keys()) if (!ids.has(id) && !changed.has(id)) this.#gone(id, missedSince_us);
  }

  /** A container as it was found at the start: nothing happened to it. */
  #adopt(container: EngineContainer, connectedAt_us: number): void {
    const told = this.#own(container.id);
    if (!told) return;
    // One that was started at this very moment is still told of.
    if (!(container.startedAt_us > connectedAt_us - engineSameMomentMilliseconds * 1000)) {
      told.isRunning = isRunning(container);
      told.start_us = container.startedAt_us;
      told.end_us = container.finishedAt_us;
    }
    this.#known.put(container);
  }

  /** Tells what happened to a container since it was last told of, or since `missedSince_us` where it is not known. */
  #catchUp(container: EngineContainer, missedSince_us: number): void {
    const told = this.#own(container.id);
    if (!told) return;
    const now_us = this.#clock.now_us();
    const before = this.#known.all.get(shortId(container.id));
    const { startedAt_us, finishedAt_us } = container;
    const lastKnown_us = Number.isNaN(told.start_us) ? missedSince_us : told.start_us;
    const wasStarted = startedAt_us > lastKnown_us + engineSameMomentMilliseconds * 1000;
    if (wasStarted) {
      if (before && told.isRunning) this.#tellEnd(before, Number.NaN, startedAt_us);
      const started = { ...container, state: 'running', exitCode: Number.NaN, finishedAt_us: Number.NaN };
      this.#tellStart(hasEnded(container.state) ? started : container, startedAt_us);
    }
    if (hasEnded(container.state) && told.isRunning) {
      const { exitCode } = container;
      this.#tellEnd(container, exitCode, Number.isNaN(finishedAt_us) ? now_us : finishedAt_us);
    } else if (before && !wasStarted) {
      if (before.name !== container.name) this.#tell('rename', container, now_us);
      if (before.health !== container.health) this.#tell('health_status', container, now_us);
      if ((before.state === 'paused') !== (container.state === 'paused'))
        this.#tell(container.state === 'paused' ? 'pause' : 'unpause', container, now_us);
    }
    this.#known.put(container);
  }

  /** A container that was removed while nobody listened. */
  #gone(id: string, missedSince_us: number): void {
    const container = this.#known.all.get(shortId(id));
    // When is not known: not before the connection broke.
    if (container) this.#tellRemoval(container, missedSince_us);
    this.#told.delete(id);
  }

  #take(event: EngineEvent, signal: AbortSignal): void {
    const { id, action, time_us } = event;
    const told = this.#own(id);
    if (!told) return;
    told.revision++;
    const before = this.#known.all.get(shortId(id)) ?? unknownContainer(this.#engine, id);
    const container = changed(before, event);
    if (action === 'destroy') {
      this.#tellRemoval(container, time_us);
      return;
    }
    if (action === 'start') {
      if (told.isRunning && isSameMoment(told.start_us, time_us)) this.#known.put(container);
      else {
        // Its end was not told: the engine was restarted, for example.
        if (told.isRunning) this.#tellEnd(before, Number.NaN, time_us);
        this.#tellStart(container, time_us);
      }
    } else if (action === 'die') {
      // Podman may tell the end of a run after the start of the next, which has told it already.
      if (told.isRunning && time_us < told.start_us) return;
      if (told.isRunning === false && isSameMoment(told.end_us, time_us)) this.#known.put(container);
      else this.#tellEnd(container, event.exitCode, time_us);
    } else if (action === 'oom') this.#tellOom(container, time_us);
    // Podman tells of each check, whatever came of it.
    else if (action === 'create' || (action === 'health_status' && container.health === before.health))
      this.#known.put(container);
    else this.#tell(action, container, time_us);
    if (action === 'start' || action === 'die' || action === 'restart' || action === 'rename')
      this.#inspectSoon(id, signal);
  }

  /** What was told of a container; undefined when it is another engine's. */
  #own(id: string): Told | undefined {
    let told = this.#told.get(id);
    if (!told && !this.#known.all.has(shortId(id))) {
      told = {
        isRunning: undefined,
        start_us: Number.NaN,
        end_us: Number.NaN,
        oom_us: Number.NaN,
        revision: 0,
      };
      this.#told.set(id, told);
    }
    return told;
  }

  #tellStart(container: EngineContainer, time_us: number): void {
    const told = this.#own(container.id);
    if (told) Object.assign(told, { isRunning: true, start_us: time_us, oom_us: Number.NaN });
    this.#tell('start', container, time_us);
  }

  #tellEnd(container: EngineContainer, exitCode: number, time_us: number): void {
    const told = this.#own(container.id);
    if (told) Object.assign(told, { isRunning: false, end_us: time_us });
    const ended = { ...container, state: 'exited', exitCode, pid: 0, finishedAt_us: time_us };
    if (container.isOomKilled && told && Number.isNaN(told.oom_us)) this.#tellOom(ended, time_us);
    this.#tell('die', ended, time_us);
  }

  /** An engine may tell by an event, by its description, by both. */
  #tellOom(container: EngineContainer, time_us: number): void {
    const told = this.#own(container.id);
    if (!told || isSameMoment(told.oom_us, time_us)) return;
    told.oom_us = time_us;
    this.#tell('oom', container, time_us);
  }

  #tellRemoval(container: EngineContainer, time_us: number): void {
    if (this.#told.get(container.id)?.isRunning) this.#tellEnd(container, Number.NaN, time_us);
    this.#told.delete(container.id);
    this.#known.remove(container.id);
    this.#known.tell({ action: 'destroy', container, time_us });
  }

  #tell(action: EngineChange['action'], container: EngineContainer, time_us: number): void {
    this.#known.put(container);
    this.#known.tell({ action, container, time_us });
  }

  /** Asks for a container as soon as few enough are being asked for. */
  #inspectSoon(id: string, signal: AbortSignal): void {
    this.#toInspect.add(id);
    if (this.#inspecting < engineInspectsAtOnce) void this.#inspectWaiting(signal);
  }

  async #inspectWaiting(signal: AbortSignal): Promise<void> {
    this.#inspecting++;
    try {
      for (const id of this.#toInspect) {
        this.#toInspect.delete(id);
        const asked = this.#told.get(id)?.revision;
        const container = await this.#inspected(id, signal);
        const told = this.#told.get(id);
        if (!container || container === 'no answer' || !told) continue;
        if (told.revision === asked) this.#learn(container, told);
        else this.#toInspect.add(id);
      }
    } catch {
      // What ended this ends the connection, too, or else the next event asks again.
    } finally {
      this.#inspecting--;
    }
  }

  /** Takes over what the engine says when it is asked. Starts and ends are told by events. */
  #learn(container: EngineContainer, told: Told): void {
    const before = this.#known.all.get(shortId(container.id));
    this.#known.put(container);
    if (container.isOomKilled && !before?.isOomKilled && Number.isNaN(told.oom_us))
      this.#tellOom(container, Number.isNaN(container.finishedAt_us) ? this.#clock.now_us() : container.finishedAt_us);
    if (before && before.health !== container.health) this.#tell('health_status', container, this.#clock.now_us());
  }

  /** A container as the engine describes it; undefined when it is gone. */
  async #inspected(id: string, signal: AbortSignal): Promise<EngineContainer | 'no answer' | undefined> {
    try {
      return await this.#api.inspect(id, signal);
    } catch (cause) {
      if (cause instanceof EngineError) return 'no answer';
      throw cause;
    }
  }
}

const isRunning = ({ state }: EngineContainer): boolean => state === 'running' || state === 'paused';

/** The time of an event and that in a description differ a little. */
const isSameMoment = (one_us: number, other_us: number): boolean =>
  Math.abs(one_us - other_us) < engineSameMomentMilliseconds * 1000;

/** Why an engine tells nothing, and what would change that. */
function whyNot(socket: string, engine: string, cause: unknown): string {
  const code = (cause as NodeJS.ErrnoException).code;
  const lost = 'containers that it runs have no names, images and events here';
  if (code === 'EACCES' || code === 'EPERM') {
    const way = socket.includes('podman')
      ? 'run the agent as root, or as the user whose containers they are'
      : 'run the agent as root, or add its user to the group "docker", which is as good as root on this host';
    return `${socket} may not be opened by this user, so ${lost}: ${way}.`;
  }
  if (code === 'ENOENT' || code === 'ECONNREFUSED')
    return `No engine listens at ${socket}, so ${lost}: start its service (docker.socket, podman.socket).`;
  return `The engine at ${socket} ${cause instanceof EngineError ? cause.message : `can't be followed (${sentence(cause)})`}, so ${engine === '' ? lost : 'what is shown of its containers may be old'}; it is tried again.`;
}
