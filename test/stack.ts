// The whole product as people run it: nats-server, QuestDB, the collector and agents, each a program of its own, on free
// ports of loopback and with data in a temporary folder. Everything ends with the test.
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { Child } from '@fleetreel/deploy/local/child';
import type { Host, Hosts } from '@fleetreel/proto/http';
import { watch } from './secrets.ts';
import { type NatsServer, startNats } from './servers/nats.ts';
import type { NatsInstallation } from './servers/nats_installation.ts';
import { freePort, Program, shows, startProgram } from './servers/program.ts';
import { type Questdb, startQuestdb } from './servers/questdb.ts';

const root = join(import.meta.dirname, '..');

/** The programs of ours, as files from the project's root. */
export const programs = {
  agent: 'packages/agent/src/main.ts',
  collector: 'packages/collector/src/main.ts',
  cli: 'packages/cli/src/main.ts',
} as const;

export type AgentOptions = {
  host: string;
  /** Two agents on one machine need two; made from the host's name by default. */
  machineId?: string;
  interval?: string;
  natsUrl?: string;
  flags?: readonly string[];
  /** A command that starts it, such as `ip netns exec NAME`. */
  within?: readonly string[];
};

/** Who is asked for credentials. */
type Asking = {
  /** A nats-server that asks everybody who they are; it ends with the stack. */
  keys?: NatsInstallation;
  anonymous?: Stack['anonymous'];
  agentsUrl?: string;
};

export class Stack implements AsyncDisposable {
  readonly nats: NatsServer;
  readonly questdb: Questdb;
  /** `http://127.0.0.1:PORT` of the collector, which also serves the console. */
  readonly address: string;
  /** `127.0.0.1:PORT` of its gRPC face. */
  readonly grpcAddress: string;
  readonly folder: string;
  /** What whoever brings no credentials may do. */
  anonymous: 'none' | 'viewer' | 'admin' = 'admin';
  /** What the collector tells agents of where the log is; undefined: nothing. */
  agentsUrl: string | undefined;
  /**
   * Secrets that a test used: passwords, keys, codes, credentials. At the end none of them may be in what was written, but for files
   * that are there for them.
   */
  readonly secrets = new Set<string>();
  collector!: Program;
  readonly #httpPort: number;
  readonly #grpcPort: number;
  #keys: NatsInstallation | undefined;
  #settings: Readonly<Record<string, string>> = {};
  readonly #started: Program[] = [];

  private constructor(nats: NatsServer, questdb: Questdb, folder: string, httpPort: number, grpcPort: number) {
    this.nats = nats;
    this.questdb = questdb;
    this.folder = folder;
    this.#httpPort = httpPort;
    this.#grpcPort = grpcPort;
    this.address = `http://127.0.0.1:${httpPort}`;
    this.grpcAddress = `127.0.0.1:${grpcPort}`;
  }

  /**
   * Starts the servers and the collector, and waits until it can serve.
   * @param data folders of the servers, temporary ones by default; more settings of the collector, by the names of their flags
   */
  static async start(
    data: { nats?: string; questdb?: string; settings?: Readonly<Record<string, string>> } = {},
    { keys, anonymous = 'admin', agentsUrl }: Asking = {},
  ): Promise<Stack> {
    if (!existsSync(join(root, 'apps/web/build/index.html')))
      throw new Error('The console is not built, and the collector serves the built one: run `pnpm build` first.');
    const folder = await mkdtemp(join(tmpdir(), 'fleetreel-stack-'));
    const [nats, questdb] = await Promise.all([
      keys?.server ?? startNats(data.nats === undefined ? {} : { data: data.nats }),
      startQuestdb(data.questdb === undefined ? {} : { data: data.questdb }),
    ]);
    const stack = new Stack(nats, questdb, folder, await freePort(), await freePort());
    stack.#keys = keys;
    stack.#settings = data.settings ?? {};
    stack.anonymous = anonymous;
    stack.agentsUrl = agentsUrl;
    try {
      await stack.startCollector();
    } catch (error) {
      await stack[Symbol.asyncDispose]();
      throw error;
    }
    return stack;
  }

  /**
   * Starts the collector; again after it was killed or stopped, on the same ports.
   * @param natsUrl by which it reaches the log
   */
  async startCollector(natsUrl = this.nats.url): Promise<void> {
    this.collector = await startProgram(
      programs.collector,
      ['run', ...this.collectorFlags(natsUrl)],
      this.questdb.environment,
    );
    this.#started.push(this.collector);
    await this.ready();
  }

  /** Waits until the collector says that it is. */
  async ready(milliseconds = 60_000): Promise<void> {
    const said = () => this.collector.lines.slice(-10).join('\n');
    const ended = this.collector.exited.then(({ code }) => {
      throw new Error(`The collector ended with code ${code}: ${said()}`);
    });
    await Promise.race([
      ended,
      eventually('a collector that is ready', milliseconds, async () => {
        const { status, text } = await this.readiness();
        if (status !== 200) throw new Error(`/readyz: ${status} ${text}\n${said()}`);
        return true;
      }),
    ]);
  }

  /** What `/readyz` says: status 0 when nobody answers. */
  async readiness(): Promise<{ status: number; text: string }> {
    try {
      const answer = await fetch(`${this.address}/readyz`, { signal: AbortSignal.timeout(5000) });
      return { status: answer.status, text: await answer.text() };
    } catch (cause) {
      return { status: 0, text: String(cause) };
    }
  }

  /** What a command of the collector is told of the log alone. */
  logFlags(): string[] {
    return flags({
      'nats-url': this.nats.url,
      ...(this.#keys && { 'nats-credentials': this.#keys.collector.credentials }),
    });
  }

  collectorFlags(natsUrl = this.nats.url): string[] {
    return flags({
      'nats-url': natsUrl,
      'http-port': this.#httpPort,
      'grpc-port': this.#grpcPort,
      'access-anonymous': this.anonymous,
      ...(this.#keys && {
        'nats-credentials': this.#keys.collector.credentials,
        'nats-issuer': this.#keys.write('issuer.json', JSON.stringify(this.#keys.keys.issuer)),
      }),
      ...(this.agentsUrl !== undefined && { 'nats-agents-url': this.agentsUrl }),
      ...this.#settings,
    });
  }

  async startAgent({ host, machineId, interval = '1s', natsUrl, flags: more = [], within = [] }: AgentOptions) {
    const given = flags({
      host,
      'machine-id': machineId ?? machineIdOf(host),
      interval,
      'nats-url': natsUrl ?? this.nats.url,
      data: join(this.folder, `agent-${this.#started.length}`),
    });
    const agent = await startWithin(within, programs.agent, ['run', ...given, ...more]);
    this.#started.push(agent);
    return agent;
  }

  async hosts(): Promise<Host[]> {
    const answer = await fetch(`${this.address}/api/v1/hosts`);
    return ((await answer.json()) as Hosts).hosts;
  }

  /** Waits until the collector says so of a host. */
  async hostThat(host: string, is: (host: Host) => boolean, milliseconds = 30_000): Promise<Host> {
    return await eventually(`host ${host} that is as asked for: ${is.toString()}`, milliseconds, async () =>
      (await this.hosts()).find((one) => one.host === host && is(one)),
    );
  }

  /** Programs first, the newest first, then the servers. What was written is looked through for secrets. */
  async [Symbol.asyncDispose](): Promise<void> {
    watch.add(...this.secrets);
    await watch.processes();
    for (const program of this.#started.toReversed()) await program.stop();
    await this.questdb[Symbol.asyncDispose]();
    await this.nats[Symbol.asyncDispose]();
    await watch.folder(this.folder);
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** Starts a program of ours by a command that starts another: `ip netns exec NAME`; by none as it is. */
export async function startWithin(
  within: readonly string[],
  entry: string,
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<Program> {
  const [command, ...rest] = within;
  if (command === undefined) return await startProgram(entry, args, environment);
  const lines: string[] = [];
  watch.program(entry, { args, environment, shows: shows(args) }, lines);
  const child = await Child.start(
    { name: entry, command, args: [...rest, process.execPath, join(root, entry), ...args], env: environment },
    (line) => lines.push(line),
  );
  return new Program(child, lines);
}

/** Waits until a program ends by itself; kills it when it doesn't. */
export async function endOf(program: Program, milliseconds = 30_000): Promise<{ code: number | null; output: string }> {
  const timer = setTimeout(() => program.signal('SIGKILL'), milliseconds);
  const { code } = await program.exited;
  clearTimeout(timer);
  return { code, output: program.lines.join('\n') };
}

/** One line of a program's log. */
export type LogLine = { level: number; msg: string; [field: string]: unknown };

/** pino's number of the level "error". */
export const errorLevel = 50;

/** What a program logged; lines that are no JSON (a warning of Node) are left out. */
export function logOf({ lines }: Program): LogLine[] {
  return lines.filter((line) => line.startsWith('{')).map((line) => JSON.parse(line) as LogLine);
}

/** A machine id, as /etc/machine-id has it, that is always the same for this text. */
export const machineIdOf = (text: string): string => Buffer.from(text).toString('hex').padEnd(32, '0').slice(0, 32);

/** Asks again until there is an answer. @throws Error that says what was waited for, with the last failure. */
export async function eventually<T>(
  what: string,
  milliseconds: number,
  ask: () => T | undefined | Promise<T | undefined>,
): Promise<T> {
  const end = performance.now() + milliseconds;
  for (;;) {
    let failure: Error | undefined;
    try {
      const answer = await ask();
      if (answer !== undefined) return answer;
    } catch (error) {
      failure = error as Error;
    }
    if (performance.now() > end)
      throw new Error(
        `Within ${milliseconds / 1000} s there was not: ${what}${failure ? ` (${failure.message})` : ''}`,
        {
          cause: failure,
        },
      );
    await pause(100);
  }
}

const flags = (values: Readonly<Record<string, string | number>>): string[] =>
  Object.entries(values).flatMap(([name, value]) => [`--${name}`, String(value)]);
