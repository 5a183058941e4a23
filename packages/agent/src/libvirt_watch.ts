import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type Guest, isActive, stateOf } from '#guests.ts';
import { type DomainEvent, type DomainStats, Libvirt, LibvirtError } from '#libvirt.ts';
import { libvirtConnectMilliseconds, libvirtHangMilliseconds, vmAnswerMilliseconds } from '#limits.ts';
import type { Context } from '#source.ts';

/** virDomainEventType, and the details of each in words. */
const eventType = { defined: 0, started: 2, suspended: 3, resumed: 4, stopped: 5, pmSuspended: 7, crashed: 8 } as const;
const renamed = 2;
const details: Record<number, readonly string[]> = {
  [eventType.started]: ['booted', 'migrated', 'restored', 'from snapshot', 'wakeup'],
  [eventType.suspended]: [
    'paused',
    'migrated',
    'I/O error',
    'watchdog',
    'restored',
    'from snapshot',
    'API error',
    'post-copy',
    'post-copy failed',
  ],
  [eventType.resumed]: ['unpaused', 'migrated', 'from snapshot', 'post-copy', 'post-copy failed'],
  [eventType.stopped]: ['shut down', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from snapshot'],
  [eventType.pmSuspended]: ['suspended to memory', 'suspended to disk'],
  [eventType.crashed]: ['panicked', 'crash loaded'],
};
const crashedDetail = 2;
const unseen = 'while libvirt could not be asked';

/** A machine that runs, as far as events need it. */
type Running = { name: string; isPaused: boolean; started_us: number; isMissing?: boolean };

/** A question that was sent to libvirt. */
type Question = { since_ms: number; answer?: { guests: Guest[]; at_ms: number }; cause?: Error; done: Promise<void> };

/** Where libvirt's sockets are and what the driver is called; undefined where the address is not of this machine. */
export function libvirtSockets(uri: string, run: string, environment: NodeJS.ProcessEnv) {
  const [, driver, transport, path, query] = /^([a-z]+)(?:\+([a-z]+))?:\/\/(\/[a-z]*)(?:\?(.*))?$/.exec(uri) ?? [];
  if (driver === undefined || path === undefined || (transport !== undefined && transport !== 'unix')) return undefined;
  const given = new URLSearchParams(query ?? '').get('socket');
  const own = path === '/session';
  const folder = own ? join(environment.XDG_RUNTIME_DIR ?? run, 'libvirt') : join(run, 'libvirt');
  // The driver's own daemon, or the one for all of them. A session has no socket for reading only.
  const sockets = [`virt${driver}d-sock`, 'libvirt-sock'].map((name) => join(folder, own ? name : `${name}-ro`));
  return { driver: `${driver}://${path}`, sockets: given ? [given] : sockets };
}

/** The connection to libvirt: made anew when it was lost; what happens to machines is recorded as it is told. */
export class LibvirtWatch {
  readonly #context: Context;
  #connection: Libvirt | undefined;
  #connecting: Promise<void> | undefined;
  /** Ends an attempt to connect. */
  #limit: AbortController | undefined;
  #question: Question | undefined;
  /** By UUID; kept while libvirt is away. Undefined before it has answered once. */
  #running: Map<string, Running> | undefined;
  /** UUIDs of all machines that it manages. */
  #managed = new Set<string>();
  #isNew = false;
  #isLate = false;
  /** Why there is no connection. */
  problem = 'libvirt was not looked for yet';

  constructor(context: Context) {
    this.#context = context;
  }

  get isConnected(): boolean {
    return this.#connection !== undefined && this.#connection.closed === undefined;
  }

  manages(uuid: string): boolean {
    return this.#managed.has(uuid);
  }

  limitations(): string[] {
    return this.#isLate ? ['libvirt takes long to answer: its machines are shown late or not at all'] : [];
  }

  /** Tries once; never throws, but leaves the reason in `problem`. */
  connect(): Promise<void> {
    this.#connecting ??= this.#connect().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  async #connect(): Promise<void> {
    const { settings, roots, clock } = this.#context;
    const { uri } = settings.vm;
    if (uri === '') {
      this.problem = 'libvirt is not asked: the setting vm.uri is empty';
      return;
    }
    const found = libvirtSockets(uri, roots.run, process.env);
    if (!found) {
      this.problem = `vm.uri is ${uri}: only libvirt on this machine is asked, by an address such as qemu:///system`;
      return;
    }
    const sockets = found.sockets.filter((path) => existsSync(path));
    this.problem = `libvirt is not here: there is no socket ${found.sockets.join(' nor ')}`;
    for (const socket of sockets) {
      const limit = new AbortController();
      this.#limit = limit;
      const connected = new AbortController();
      clock.sleep(libvirtConnectMilliseconds, connected.signal).then(
        () => limit.abort(),
        () => {},
      );
      try {
        this.#connection = await Libvirt.connect(socket, found.driver, (event) => this.#happened(event), limit.signal);
        this.#question = undefined;
        this.#isNew = true;
        return;
      } catch (cause) {
        this.problem = `libvirt can't be asked by ${socket}: ${whyNot(cause)}`;
      } finally {
        connected.abort();
      }
    }
  }

  /** What libvirt answered within this tick, or after the one before; undefined when it has not. */
  async guests(): Promise<{ guests: readonly Guest[]; at_ms: number } | undefined> {
    const connection = this.#connection;
    if (!connection) return undefined;
    if (connection.closed) {
      this.#lost(connection.closed.message);
      return undefined;
    }
    const { clock } = this.#context;
    this.#question ??= this.#ask(connection);
    const question = this.#question;
    const answered = new AbortController();
    const limit = clock.sleep(vmAnswerMilliseconds, answered.signal).catch(() => undefined);
    await Promise.race([question.done, limit]);
    answered.abort();
    if (question.cause) {
      this.#lost(question.cause.message);
      return undefined;
    }
    if (!question.answer) {
      this.#isLate = true;
      const waited_ms = clock.monotonic_ms() - question.since_ms;
      if (waited_ms > libvirtHangMilliseconds)
        this.#lost(`libvirt has not answered for ${Math.round(waited_ms / 1000)} s`);
      return undefined;
    }
    // Where it takes longer than a tick waits, each tick shows what was asked for at the one before.
    this.#isLate = question.answer.at_ms - question.since_ms > vmAnswerMilliseconds;
    this.#question = this.#isLate ? this.#ask(connection) : undefined;
    this.#managed = new Set(question.answer.guests.map(({ uuid }) => uuid));
    if (this.#isNew) this.#compare(question.answer.guests);
    else this.#endMissing(question.answer.guests);
    this.#isNew = false;
    return question.answer;
  }

  close(): void {
    this.#limit?.abort();
    this.#limit = undefined;
    this.#connection?.[Symbol.dispose]();
    this.#connection = undefined;
    this.#question = undefined;
  }

  #lost(why: string): void {
    this.problem = why;
    this.close();
  }

  #ask(connection: Libvirt): Question {
    const { clock } = this.#context;
    const question: Question = { since_ms: clock.monotonic_ms(), done: Promise.resolve() };
    question.done = connection.domainStats().then(
      (domains) => {
        question.answer = { guests: domains.map(guestOf), at_ms: clock.monotonic_ms() };
      },
      (cause: Error) => {
        question.cause = cause;
      },
    );
    return question;
  }

  /** What happened while there was no connection; the first answer of all only says what there is. */
  #compare(guests: readonly Guest[]): void {
    const before = this.#running;
    const active = guests.filter(isActive);
    this.#running = new Map(
      active.map(({ uuid, name, parameters }) => [
        uuid,
        {
          name,
          isPaused: stateOf(parameters).state === 'paused',
          started_us: before?.get(uuid)?.started_us ?? Number.NaN,
        },
      ]),
    );
    if (!before) return;
    for (const { uuid, name } of active) if (!before.has(uuid)) this.#record('start', uuid, name, unseen);
    for (const [uuid, { name }] of before) if (!this.#running.has(uuid)) this.#record('stop', uuid, name, unseen);
  }

  /**
   * A daemon that has just started may still name a machine that has gone, and not tell its end when it finds out. What two answers do
   * not name has gone: to one an event that says so may be on its way.
   */
  #endMissing(guests: readonly Guest[]): void {
    const active = new Set(guests.filter(isActive).map(({ uuid }) => uuid));
    for (const [uuid, running] of this.#running ?? []) {
      if (running.isMissing && !active.has(uuid)) {
        this.#running?.delete(uuid);
        this.#record('stop', uuid, running.name, unseen);
      }
      running.isMissing = !active.has(uuid);
    }
  }

  #happened(happening: DomainEvent): void {
    const { uuid, name } = happening;
    const running = this.#running?.get(uuid);
    if (!('event' in happening)) {
      this.#record('restart', uuid, name, 'rebooted by its guest');
      return;
    }
    const { event, detail } = happening;
    const words = details[event]?.[detail] ?? '';
    switch (event) {
      case eventType.defined:
        if (detail !== renamed) return;
        this.#record('rename', uuid, name, '');
        return;
      case eventType.started:
        this.#running?.set(uuid, { name, isPaused: false, started_us: this.#context.clock.now_us() });
        this.#record('start', uuid, name, words);
        return;
      case eventType.suspended:
      case eventType.pmSuspended:
        if (running) running.isPaused = true;
        this.#record('pause', uuid, name, words);
        return;
      case eventType.resumed:
        // While it starts, it is resumed before it is said to be started.
        if (!running) return;
        running.isPaused = false;
        this.#record('resume', uuid, name, words);
        return;
      case eventType.stopped: {
        this.#running?.delete(uuid);
        const duration_s = (this.#context.clock.now_us() - (running?.started_us ?? Number.NaN)) / 1e6;
        this.#record(detail === crashedDetail ? 'crash' : 'stop', uuid, name, words, duration_s);
        return;
      }
      case eventType.crashed:
        this.#record('crash', uuid, name, words);
    }
  }

  #record(action: string, entity: string, name: string, detail: string, duration_s = Number.NaN): void {
    this.#context.events.record({ kind: 'vm', action, entity, name, detail, duration_s });
  }
}

const guestOf = ({ uuid, name, parameters }: DomainStats): Guest => ({ uuid, name, manager: 'libvirt', parameters });

/** Why libvirt can't be asked, and what would help. */
function whyNot(cause: unknown): string {
  const { code, message } = cause as NodeJS.ErrnoException;
  if (code === 'EACCES' || code === 'EPERM') return "it may not be used: add the agent's user to the group libvirt";
  if (code === 'ECONNREFUSED') return 'its daemon does not run';
  if (cause instanceof LibvirtError)
    return `${message}; the agent's user needs the right org.libvirt.unix.monitor (polkit), or to be in the group libvirt`;
  return message;
}
