// What Docker and Podman answer over their API sockets, as far as it is used here. The reference is Docker's, version 1.41
// (https://docs.docker.com/engine/api/v1.41/); Podman speaks the same with differences that are named where they matter.
import type { EngineChange, EngineContainer } from '#engine.ts';

/** The newest version of the API that this was written for, and the oldest: what an engine offers in between is asked for. */
const newestApi = [1, 44] as const;

/** What an engine says of itself. */
export type EngineVersion = {
  /** docker or podman. */
  engine: string;
  /** Beginning of all further paths: `/v1.41`; empty where the engine does not say. */
  prefix: string;
};

/** A change of a container, with what the telling of it says: enough for one that is gone before it can be asked for. */
export type EngineEvent = {
  action: EngineChange['action'] | 'create';
  id: string;
  name: string;
  image: string;
  labels: Readonly<Record<string, string>>;
  /** NaN where it is not told. */
  exitCode: number;
  /** Empty where it is not told. */
  health: string;
  time_us: number;
};

type Json = Readonly<Record<string, unknown>>;

const object = (value: unknown): Json =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Json) : {};
const text = (value: unknown): string => (typeof value === 'string' ? value : '');
const number = (value: unknown): number => (typeof value === 'number' ? value : Number.NaN);

/** An id as engines give it; undefined for anything else. */
function identity(value: unknown): string | undefined {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value) ? value : undefined;
}

/** Labels, and attributes of events; null where a container has none. */
function labels(value: unknown): Record<string, string> {
  return Object.fromEntries(
    Object.entries(object(value)).filter((entry): entry is [string, string] => typeof entry[1] === 'string'),
  );
}

/** Docker puts a slash before names, from the time of links between containers. */
const withoutSlash = (name: string): string => (name.startsWith('/') ? name.slice(1) : name);

/** Microseconds since 1970 of a time as in `2026-11-21T08:44:30.137478537Z`; NaN for the year 1, which means "never". */
export function microseconds(time: unknown): number {
  const parts = /^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)$/.exec(text(time));
  if (!parts) return Number.NaN;
  const [, whole, fraction = '', zone] = parts;
  const whole_ms = Date.parse(`${whole}${zone}`);
  return whole_ms > 0 ? whole_ms * 1000 + Number(fraction.slice(0, 6).padEnd(6, '0')) : Number.NaN;
}

/** The answer of `GET /version`. */
export function parseVersion(answer: unknown): EngineVersion {
  const { Components: components, ApiVersion: newest, MinAPIVersion: oldest } = object(answer);
  const isPodman = Array.isArray(components) && components.some((part) => text(object(part).Name).startsWith('Podman'));
  const offered = versionNumbers(newest);
  const least = versionNumbers(oldest);
  let version: readonly [number, number] | undefined = offered && isNewer(newestApi, offered) ? offered : newestApi;
  if (least && isNewer(least, version)) version = least;
  if (!offered) version = undefined;
  return { engine: isPodman ? 'podman' : 'docker', prefix: version ? `/v${version.join('.')}` : '' };
}

function versionNumbers(value: unknown): [number, number] | undefined {
  const parts = /^(\d{1,3})\.(\d{1,3})$/.exec(text(value));
  return parts ? [Number(parts[1]), Number(parts[2])] : undefined;
}

const isNewer = (one: readonly [number, number], other: readonly [number, number]): boolean =>
  one[0] > other[0] || (one[0] === other[0] && one[1] > other[1]);

/** The states as Docker names them, from those that only Podman knows. */
const states: Readonly<Record<string, string>> = {
  configured: 'created',
  initialized: 'created',
  init: 'created',
  stopping: 'running',
  stopped: 'exited',
};

const stateNamed = (value: unknown): string => states[text(value)] ?? text(value);

/** Whether it does not run any more; one that is being removed has ended before. */
export const hasEnded = (state: string): boolean => state === 'exited' || state === 'dead' || state === 'removing';

/** A container of which nothing is known but its id. */
export const unknownContainer = (engine: string, id: string): EngineContainer => ({
  id,
  engine,
  name: '',
  image: '',
  labels: {},
  state: '',
  health: '',
  restarts: Number.NaN,
  exitCode: Number.NaN,
  isOomKilled: false,
  pid: 0,
  startedAt_us: Number.NaN,
  finishedAt_us: Number.NaN,
  cpuLimit_cores: Number.NaN,
  memoryLimit_bytes: Number.NaN,
  cgroupPath: '',
});

/** The answer of `GET /containers/json?all=1`: what is known before each is asked for, those that run first. */
export function parseList(engine: string, answer: unknown): EngineContainer[] {
  if (!Array.isArray(answer)) throw new Error('the list of containers is no list');
  const found: EngineContainer[] = [];
  for (const item of answer as unknown[]) {
    const { Id, Names, Image, Labels, State } = object(item);
    const id = identity(Id);
    if (id === undefined) continue;
    const name = Array.isArray(Names) ? withoutSlash(text(Names[0])) : '';
    const state = stateNamed(State);
    found.push({ ...unknownContainer(engine, id), name, image: text(Image), labels: labels(Labels), state });
  }
  return found.sort((one, other) => Number(hasEnded(one.state)) - Number(hasEnded(other.state)));
}

/** The answer of `GET /containers/<id>/json`. @throws Error when it is not one */
export function parseInspect(engine: string, answer: unknown): EngineContainer {
  const { Id, Name, State, RestartCount, Config, HostConfig } = object(answer);
  const id = identity(Id);
  if (id === undefined) throw new Error('the description of a container has no id');
  const { Status, ExitCode, OOMKilled, Pid, StartedAt, FinishedAt, Health, Healthcheck } = object(State);
  const config = object(Config);
  const state = stateNamed(Status);
  const ended = hasEnded(state) || state === 'restarting';
  const health = text(object(Health ?? Healthcheck).Status);
  // Podman takes the end from the time of a file, which is some milliseconds coarse: no end is before its start.
  const startedAt_us = microseconds(StartedAt);
  return {
    id,
    engine,
    name: withoutSlash(text(Name)),
    image: text(config.Image),
    labels: labels(config.Labels),
    state,
    health: health === 'none' ? '' : health,
    restarts: number(RestartCount),
    exitCode: ended ? number(ExitCode) : Number.NaN,
    isOomKilled: OOMKilled === true,
    pid: ended || state === 'created' ? 0 : Math.max(0, number(Pid) || 0),
    startedAt_us,
    finishedAt_us: ended ? Math.max(startedAt_us || 0, microseconds(FinishedAt)) : Number.NaN,
    ...limits(object(HostConfig)),
    cgroupPath: '',
  };
}

function limits({ NanoCpus, CpuQuota, CpuPeriod, Memory }: Json): {
  cpuLimit_cores: number;
  memoryLimit_bytes: number;
} {
  const quota = number(CpuQuota);
  // The kernel's period where the engine leaves it at its default.
  const period = number(CpuPeriod) > 0 ? number(CpuPeriod) : 100_000;
  const cores = number(NanoCpus) > 0 ? number(NanoCpus) / 1e9 : quota > 0 ? quota / period : Number.NaN;
  const memory = number(Memory);
  return { cpuLimit_cores: cores, memoryLimit_bytes: memory > 0 ? memory : Number.NaN };
}

/** The events that are asked for. Docker leaves out the others: a health check makes three a time. */
export const eventFilter = (engine: string): string =>
  JSON.stringify(engine === 'docker' ? { type: ['container'], event: Object.keys(actions) } : { type: ['container'] });

const actions: Readonly<Record<string, EngineEvent['action']>> = {
  create: 'create',
  start: 'start',
  die: 'die',
  died: 'die',
  destroy: 'destroy',
  remove: 'destroy',
  oom: 'oom',
  rename: 'rename',
  health_status: 'health_status',
  restart: 'restart',
  pause: 'pause',
  unpause: 'unpause',
  kill: 'kill',
};

/** What an event says besides the labels of its container. */
const attributeNames = new Set([
  'image',
  'name',
  'exitCode',
  'containerExitCode',
  'podId',
  'signal',
  'oldName',
  'execDuration',
  'health_status',
  'healthStatus',
  'health_log',
  'health_failing_streak',
  'error',
]);

/**
 * One line of `GET /events`; undefined where it tells nothing that is followed here.
 * @throws SyntaxError when it is not JSON
 */
export function parseEvent(line: string): EngineEvent | undefined {
  const { Type, Action, Actor, HealthStatus, time, timeNano } = object(JSON.parse(line));
  if (Type !== 'container') return undefined;
  // Docker: "health_status: healthy"; Podman tells the health beside it.
  const [actionName = '', told = ''] = text(Action).split(': ', 2);
  const action = Object.hasOwn(actions, actionName) ? actions[actionName] : undefined;
  const { ID, Attributes } = object(Actor);
  const id = identity(ID);
  if (action === undefined || id === undefined) return undefined;
  const attributes = labels(Attributes);
  const exitCode = attributes.exitCode ?? attributes.containerExitCode;
  return {
    action,
    id,
    name: withoutSlash(attributes.name ?? ''),
    image: attributes.image ?? '',
    labels: Object.fromEntries(Object.entries(attributes).filter(([name]) => !attributeNames.has(name))),
    exitCode: action === 'die' && exitCode !== undefined && exitCode !== '' ? Number(exitCode) : Number.NaN,
    health:
      action === 'health_status'
        ? told || text(HealthStatus) || attributes.health_status || attributes.healthStatus || ''
        : '',
    // Nanoseconds are beyond what a double holds to the last digit: microseconds are not.
    time_us: typeof timeNano === 'number' ? Math.floor(timeNano / 1000) : number(time) * 1e6,
  };
}

/** A container after an event. */
export function changed(before: EngineContainer, event: EngineEvent): EngineContainer {
  const container: EngineContainer = {
    ...before,
    name: event.name || before.name,
    image: event.image || before.image,
    // Events have them among other things: what the engine says when it is asked is better.
    labels: Object.keys(before.labels).length === 0 ? event.labels : before.labels,
    health: event.health || before.health,
  };
  const { time_us, exitCode } = event;
  switch (event.action) {
    case 'create':
      return { ...container, state: 'created' };
    case 'start':
      return {
        ...container,
        state: 'running',
        exitCode: Number.NaN,
        isOomKilled: false,
        pid: 0,
        startedAt_us: time_us,
        finishedAt_us: Number.NaN,
      };
    case 'die':
      return { ...container, state: 'exited', exitCode, pid: 0, finishedAt_us: time_us };
    case 'oom':
      return { ...container, isOomKilled: true };
    case 'pause':
      return { ...container, state: 'paused' };
    case 'unpause':
      return { ...container, state: 'running' };
    default:
      return container;
  }
}
