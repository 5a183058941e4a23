// All of Fleetreel on this machine: nats-server, QuestDB, collector and agent as supervised children.
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { defaultTenant } from '@fleetreel/proto';
import { build, built } from '#build.ts';
import { type Credentials, credentials, FolderLock, LaunchError } from '#local/folder.ts';
import { guardPid } from '#local/guard.ts';
import { findNats, natsIllness, natsInfo, natsService } from '#local/nats.ts';
import { natsKeys, renewAgent } from '#local/nats_keys.ts';
import { cacheFolder, type Machine, withRemedy } from '#local/obtain.ts';
import { accepts, freePort, isFree, portHolder } from '#local/port.ts';
import { printable } from '#local/printable.ts';
import { findQuestdb, questdbService } from '#local/questdb.ts';
import { tellRunning } from '#local/running.ts';
import { type Supervised, Supervisor } from '#local/supervisor.ts';

/** What `fleetreel up` can be told. An absent address means: start a server of its own. */
export type UpSettings = Readonly<{
  /** Folder of everything that is kept. */
  data: string;
  nats: Readonly<{ url?: string; port: number }>;
  questdb: Readonly<{
    http_url?: string;
    http_port: number;
    pg_host: string;
    pg_port: number;
    user: string;
    password: string;
    read_user: string;
    read_password: string;
  }>;
  http: Readonly<{ port: number }>;
  grpc: Readonly<{ port: number }>;
}>;

const root = join(import.meta.dirname, '..', '..');

/** Each ends before what it talks to. */
const stopOrder = ['agent', 'collector', 'QuestDB', 'nats-server'];

/**
 * Starts everything, says where it is, and keeps it running until the signal; then ends it in order.
 * @throws LaunchError, Missing
 */
export async function up(settings: UpSettings, machine: Machine, signal: AbortSignal): Promise<void> {
  const data = resolve(settings.data);
  using lock = await FolderLock.take(data);
  await checkPorts(settings);
  const [nats, questdb] = await Promise.all([chooseNats(settings, machine), chooseQuestdb(settings, machine)]);
  await build(machine);

  const supervisor = new Supervisor(join(data, 'log'), machine.report);
  using told = new DisposableStack();
  try {
    await startAll({ settings, data, nats, questdb, supervisor, lock, told }, machine, signal);
    await aborted(signal);
  } catch (error) {
    // What the signal broke off is no failure.
    if (!signal.aborted) throw error;
  } finally {
    // Before the port is free for others.
    told.dispose();
    await supervisor.stop(stopOrder);
  }
}

type Plan = {
  settings: UpSettings;
  data: string;
  nats: Nats;
  questdb: Questdb;
  supervisor: Supervisor;
  lock: FolderLock;
  /** What is taken back when it ends. */
  told: DisposableStack;
};
/** Where the log is, and how it is started unless it runs already. */
type Nats = {
  url: string;
  /** What collector and agent are told of it besides. */
  environment(data: string): { collector: Readonly<Record<string, string>>; agent: Readonly<Record<string, string>> };
  start?: (data: string) => Supervised;
};
/** Where the store is, and how it is started unless it runs already. */
type Questdb = {
  environment(data: string): Record<string, string>;
  start?: (data: string) => Supervised;
};

async function startAll(plan: Plan, machine: Machine, signal: AbortSignal): Promise<void> {
  const { settings, data, nats, questdb, supervisor, lock, told } = plan;
  const start = async (service: Supervised) => {
    signal.throwIfAborted();
    const ready = supervisor.start(service);
    const guard = guardPid();
    if (guard !== undefined) lock.guardedBy(guard);
    await Promise.race([ready, aborted(signal)]);
    signal.throwIfAborted();
  };
  const servers = [nats.start, questdb.start].filter((make) => make !== undefined);
  await Promise.all(servers.map((make) => start(make(data))));

  const url = `http://127.0.0.1:${settings.http.port}`;
  const environment = { FLEETREEL_NATS_URL: nats.url, NODE_COMPILE_CACHE: join(cacheFolder(machine), 'compiled') };
  const access = nats.environment(data);
  const begun = Date.now();
  const ownerKey = join(data, 'owner.key');
  await start(
    collector(url, settings, {
      ...environment,
      // Another host reaches it by a tunnel under the same address. Of a server elsewhere that is not known.
      ...(nats.start && { FLEETREEL_NATS_AGENTS_URL: nats.url }),
      FLEETREEL_ACCESS_OWNER_KEY: ownerKey,
      // As the agent's.
      FLEETREEL_ACCESS_OWNER_TENANT: process.env.FLEETREEL_TENANT || defaultTenant,
      ...access.collector,
      ...questdb.environment(data),
    }),
  );
  const key = readFileSync(ownerKey, 'utf8').trim();
  try {
    told.use(tellRunning(machine, settings.grpc.port, ownerKey));
  } catch (cause) {
    machine.report(`Commands need --key-file ${ownerKey} to be given: ${printable((cause as Error).message)}`);
  }
  if (nats.start) told.use(renewAgent(data, process.env, machine.report));
  await start(agent(data, { ...environment, ...access.agent }));

  for (let round = 1; !(await hasFrame(url, key, begun, signal)); round++) {
    if (round % 75 === 0)
      machine.report(`Still waiting for the first frame; the agent's log is ${join(data, 'log', 'agent.log')}.`);
    await pause(200, undefined, { signal });
  }
  machine.report(`Fleetreel is ready: ${url}/`);
  await tellFirst(url, key, machine, signal);
}

/** Says how the first admin's password is set, as long as nobody has done so. */
async function tellFirst(url: string, key: string, machine: Machine, signal: AbortSignal): Promise<void> {
  let why = '';
  try {
    const answer = await fetch(`${url}/api/v1/link/first`, {
      method: 'POST',
      headers: { 'x-api-key': key },
      signal: AbortSignal.any([signal, AbortSignal.timeout(5000)]),
    });
    const { path, code, detail = '' } = (await answer.json()) as { path?: string; code?: string; detail?: string };
    if (code === 'has_admin') return;
    if (path !== undefined)
      return machine.report(
        `Nobody can sign in yet: set the admin's password by this link, within 24 hours: ${url}${path}`,
      );
    why = detail;
  } catch (cause) {
    signal.throwIfAborted();
    why = (cause as Error).message;
  }
  machine.report(
    `It could not be seen whether anybody can sign in (${printable(why)}): start again to try that again.`,
  );
}

/** Settled when the signal comes. */
function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((done) => {
    if (signal.aborted) done();
    else signal.addEventListener('abort', () => done(), { once: true });
  });
}

async function chooseNats({ nats: { url, port } }: UpSettings, machine: Machine): Promise<Nats> {
  if (url !== undefined) {
    const [first = ''] = url.split(',');
    const { hostname, port: given } = parsed(first.includes('://') ? first : `nats://${first}`, 'nats-url');
    const info = await natsInfo(hostname, Number(given || 4222), AbortSignal.timeout(5000));
    if (info === undefined) throw new LaunchError(`No NATS server answers at ${url} (--nats-url).`);
    if (info.jetstream !== true)
      throw new LaunchError(`The NATS server at ${url} (--nats-url) has no JetStream: enable it in its configuration.`);
    machine.report(`NATS: the server at ${url} (version ${info.version ?? 'unknown'})`);
    return { url, environment: () => ({ collector: {}, agent: {} }) };
  }
  const program = await withRemedy(() => findNats(machine), machine);
  machine.report(`NATS: ${program.from}`);
  // Nobody else is told it.
  const monitorPort = await freePort();
  return {
    url: `nats://127.0.0.1:${port}`,
    environment: (data) => natsKeys(data, process.env),
    start: (data) => ({
      ...natsService({
        program,
        port,
        monitorPort,
        data: join(data, 'nats'),
        configuration: natsKeys(data, process.env).configuration,
      }),
      illness: (signal) => natsIllness(monitorPort, join(data, 'nats'), signal),
      readyWithin: 60_000,
      stopWithin: 1500,
      notable: (line) => /\[(?:WRN|ERR|FTL)\] (.*)/.exec(line)?.[1],
    }),
  };
}

async function chooseQuestdb({ questdb }: UpSettings, machine: Machine): Promise<Questdb> {
  const environment = (httpUrl: string, pgHost: string, { user, password, readUser, readPassword }: Credentials) => ({
    FLEETREEL_QUESTDB_HTTP_URL: httpUrl,
    FLEETREEL_QUESTDB_PG_HOST: pgHost,
    FLEETREEL_QUESTDB_PG_PORT: String(questdb.pg_port),
    FLEETREEL_QUESTDB_USER: user,
    FLEETREEL_QUESTDB_PASSWORD: password,
    FLEETREEL_QUESTDB_READ_USER: readUser,
    FLEETREEL_QUESTDB_READ_PASSWORD: readPassword,
  });
  const { http_url: httpUrl } = questdb;
  if (httpUrl !== undefined) {
    const { hostname, port, protocol } = parsed(httpUrl, 'questdb-http-url');
    if (!(await accepts(hostname, Number(port || (protocol === 'https:' ? 443 : 80)))))
      throw new LaunchError(`No QuestDB answers at ${httpUrl} (--questdb-http-url).`);
    machine.report(`QuestDB: the server at ${httpUrl}`);
    const { user, password, read_user: readUser, read_password: readPassword } = questdb;
    return { environment: () => environment(httpUrl, questdb.pg_host, { user, password, readUser, readPassword }) };
  }
  const program = await withRemedy(() => findQuestdb(machine), machine);
  machine.report(`QuestDB: ${program.from}, with ${program.java}`);
  return {
    environment: (data) => environment(`http://127.0.0.1:${questdb.http_port}`, '127.0.0.1', credentials(data)),
    start: (data) => ({
      ...questdbService({
        program,
        httpPort: questdb.http_port,
        pgPort: questdb.pg_port,
        data: join(data, 'questdb'),
        ...credentials(data),
      }),
      readyWithin: 60_000,
      stopWithin: 2000,
      notable: (line) => /^\S+ [CE] (.*)/.exec(line)?.[1],
    }),
  };
}

function collector(url: string, { http, grpc }: UpSettings, environment: Record<string, string>): Supervised {
  return {
    name: 'collector',
    command: process.execPath,
    args: [join(root, 'packages/collector/src/main.ts'), 'run'],
    env: {
      ...environment,
      FLEETREEL_HTTP_HOST: '127.0.0.1',
      FLEETREEL_HTTP_PORT: String(http.port),
      FLEETREEL_GRPC_HOST: '127.0.0.1',
      FLEETREEL_GRPC_PORT: String(grpc.port),
      FLEETREEL_CONSOLE: built.console,
    },
    ready: async (signal) => (await ask(`${url}/readyz`, signal)) !== undefined,
    readyWithin: 60_000,
    stopWithin: 3000,
    notable: notableRecord,
  };
}

function agent(data: string, environment: Record<string, string>): Supervised {
  return {
    name: 'agent',
    command: process.execPath,
    args: [built.agent, 'run'],
    env: { ...environment, FLEETREEL_DATA: join(data, 'agent') },
    // Its first frame is waited for at the collector.
    ready: () => Promise.resolve(true),
    readyWithin: 5000,
    stopWithin: 3000,
    notable: notableRecord,
  };
}

/** The message of a pino line from warning upwards; all of a line that is none, such as the one of bad settings. */
export function notableRecord(line: string): string | undefined {
  let record: { level?: number; msg?: string; err?: { message?: string } };
  try {
    record = JSON.parse(line);
  } catch {
    return line;
  }
  if (typeof record !== 'object' || record === null || (record.level ?? 0) < 40) return undefined;
  const { msg = line, err } = record;
  return err?.message && !msg.includes(err.message) ? `${msg} (${err.message})` : msg;
}

/** Whether the collector knows of a frame that was made since `begun`, ms since 1970. */
async function hasFrame(url: string, key: string, begun: number, signal: AbortSignal): Promise<boolean> {
  const answer = (await ask(`${url}/api/v1/hosts`, signal, key)) as
    | { hosts: { lastSeen: number | null }[] }
    | undefined;
  return answer?.hosts.some(({ lastSeen }) => lastSeen !== null && lastSeen >= begun) ?? false;
}

/** The JSON that the collector answers; undefined while it doesn't answer with 200. */
async function ask(url: string, signal: AbortSignal, key?: string): Promise<unknown> {
  try {
    const response = await fetch(url, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(5000)]),
      headers: key === undefined ? {} : { 'x-api-key': key },
    });
    return response.ok ? await response.json() : await response.body?.cancel();
  } catch {
    return undefined;
  }
}

/** @throws LaunchError that names the port, its holder and the flag */
async function checkPorts({ nats, questdb, http, grpc }: UpSettings): Promise<void> {
  const ports: [what: string, flag: string, port: number][] = [
    ['the console', '--http-port', http.port],
    ['gRPC', '--grpc-port', grpc.port],
  ];
  if (nats.url === undefined) ports.push(['nats-server', '--nats-port', nats.port]);
  if (questdb.http_url === undefined)
    ports.push(
      ['QuestDB', '--questdb-http-port', questdb.http_port],
      ["QuestDB's PostgreSQL wire", '--questdb-pg-port', questdb.pg_port],
    );
  for (const [index, [what, flag, port]] of ports.entries()) {
    const twin = ports.find(([, , other], place) => place < index && other === port);
    if (twin) throw new LaunchError(`Port ${port} is given twice: with ${twin[1]} and with ${flag}.`);
    if (await isFree(port)) continue;
    const holder = portHolder(port);
    const who = holder ? `${printable(holder.name)} (process ${holder.pid})` : 'another process';
    throw new LaunchError(
      `Port ${port}, meant for ${what}, is in use by ${who}: stop it, or give another port with ${flag}.`,
    );
  }
}

function parsed(url: string, flag: string): URL {
  if (!URL.canParse(url)) throw new LaunchError(`"${url}" (--${flag}) is no address.`);
  return new URL(url);
}
