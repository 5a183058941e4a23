import { readdirSync, readlinkSync } from 'node:fs';
import { basename, join } from 'node:path';
import { pageBytes, readOnce } from '#files.ts';
import { type Guest, stateOf } from '#guests.ts';
import { qmpProcessAgeSeconds, vmAnswerMilliseconds, vmDiscoverMilliseconds } from '#limits.ts';
import { askQmp, identityOf, parametersOf, parseQemuCommand, type QmpAnswers, threadsOf } from '#qmp.ts';
import type { Context } from '#source.ts';

/** The kernel counts CPU time in /proc in hundredths of a second (USER_HZ). */
const tick_ns = 1e7;

/** A QEMU without libvirt. */
type Machine = {
  /** As it was given; where it can be reached is another thing. */
  readonly socket: string;
  readonly reach: string;
  pid: number;
  started_us: number;
  uuid: string;
  name: string;
  /** What it answered last. */
  answers: QmpAnswers;
  askAgainAt_ms: number;
  problem: string;
  isPaused: boolean;
};

/** What /proc says of a process. */
export type ProcessFigures = { user_ns: number; system_ns: number; start_ticks: number; rss_pages: number };

/** Reads /proc/<pid>/stat: what follows the name, which may hold anything. Undefined where there is no such process. */
export function parseFigures(stat: string): ProcessFigures | undefined {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // One that has ended and that nobody has asked for its status is still listed.
  if (fields.length < 22 || fields[0] === 'Z' || fields[0] === 'X') return undefined;
  const at = (field: number): number => Number(fields[field - 3]);
  return { user_ns: at(14) * tick_ns, system_ns: at(15) * tick_ns, start_ticks: at(22), rss_pages: at(24) };
}

/** Finds QEMU's processes once in a while, asks each by its QMP socket, and reads of their threads what the kernel says. */
export class QemuWatch {
  readonly #context: Context;
  readonly #proc: string;
  readonly #pageKibibytes: number;
  readonly #machines = new Map<string, Machine>();
  #isFirst = true;
  /** Processes of QEMU that can't be asked. */
  #mute = 0;

  constructor(context: Context) {
    this.#context = context;
    this.#proc = context.roots.proc;
    this.#pageKibibytes = pageBytes(this.#proc) / 1024;
  }

  get hasGuests(): boolean {
    return this.#machines.size > 0;
  }

  limitations(): string[] {
    const problems = [...this.#machines.values()].flatMap(({ problem }) => (problem === '' ? [] : [problem]));
    if (this.#mute > 0)
      problems.push(
        `${this.#mute} processes of QEMU have no QMP socket that may be asked: start them with -qmp unix:PATH,server,wait=off`,
      );
    return problems;
  }

  /** Looks through the processes; forgets nothing. */
  discover(): void {
    const { clock, settings } = this.#context;
    this.#mute = 0;
    for (const socket of settings.vm.qmp) this.#add(socket, socket, 0, { uuid: '', name: '' });
    for (const entry of processes(this.#proc)) {
      const pid = Number(entry);
      if (!(pid > 0) || !/^(?:qemu|kvm)/.test(readOnce(join(this.#proc, entry, 'comm')))) continue;
      const command = parseQemuCommand(readOnce(join(this.#proc, entry, 'cmdline')).split('\0'));
      if (command.isLibvirts) continue;
      const figures = parseFigures(readOnce(join(this.#proc, entry, 'stat')));
      const [socket] = command.sockets;
      if (!figures || command.sockets.some((path) => this.#machines.has(path))) continue;
      if (socket === undefined) {
        this.#mute++;
        continue;
      }
      const age_s = uptime(this.#proc) - figures.start_ticks / 100;
      // It may be waiting for its own tool to be the first.
      if (age_s < qmpProcessAgeSeconds) continue;
      const machine = this.#add(socket, this.#reach(pid, socket), pid, command);
      machine.started_us = Math.round(clock.now_us() - age_s * 1e6);
      if (!this.#isFirst) this.#record('start', machine, machine.started_us);
    }
    this.#isFirst = false;
  }

  #add(socket: string, reach: string, pid: number, who: { uuid: string; name: string }): Machine {
    const known = this.#machines.get(socket);
    if (known) return known;
    const machine: Machine = {
      socket,
      reach,
      pid,
      started_us: Number.NaN,
      uuid: who.uuid,
      name: who.name,
      answers: {},
      askAgainAt_ms: Number.NEGATIVE_INFINITY,
      problem: '',
      isPaused: false,
    };
    this.#machines.set(socket, machine);
    return machine;
  }

  /** Where a process's socket is seen from here: a container has folders of its own, and a path may begin at its own. */
  #reach(pid: number, socket: string): string {
    const folder = join(this.#proc, String(pid));
    if (!socket.startsWith('/')) return join(folder, 'cwd', socket);
    try {
      const own = readlinkSync(join(this.#proc, 'self/ns/mnt'));
      if (readlinkSync(join(folder, 'ns/mnt')) !== own) return join(folder, 'root', socket);
    } catch {
      // Another user's: its path as it is.
    }
    return socket;
  }

  async guests(): Promise<{ guests: Guest[]; at_ms: number }> {
    const { clock } = this.#context;
    if (this.#machines.size === 0) return { guests: [], at_ms: clock.monotonic_ms() };
    const over = new AbortController();
    const answered = new AbortController();
    clock.sleep(vmAnswerMilliseconds, answered.signal).then(
      () => over.abort(new Error('it did not answer')),
      () => {},
    );
    await Promise.all([...this.#machines.values()].map((machine) => this.#ask(machine, over.signal)));
    answered.abort();
    const at_ms = clock.monotonic_ms();
    const guests = new Map<string, Guest>();
    for (const machine of this.#machines.values()) {
      const guest = this.#guest(machine);
      // Two machines of one UUID: the second by its socket.
      if (guest) guests.set(guests.has(guest.uuid) ? `qmp:${machine.socket}` : guest.uuid, guest);
    }
    return { guests: [...guests].map(([uuid, guest]) => ({ ...guest, uuid })), at_ms };
  }

  async #ask(machine: Machine, signal: AbortSignal): Promise<void> {
    const { clock } = this.#context;
    if (clock.monotonic_ms() < machine.askAgainAt_ms) return;
    try {
      machine.answers = await askQmp(machine.reach, signal);
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException;
      machine.askAgainAt_ms = clock.monotonic_ms() + vmDiscoverMilliseconds;
      machine.answers = {};
      machine.problem =
        code === 'EACCES' || code === 'EPERM'
          ? `The QMP socket ${machine.socket} may not be used: run the agent as root or as QEMU's user.`
          : `The QMP socket ${machine.socket} can't be asked (${message}): another program may hold it; give QEMU a second one.`;
      return;
    }
    machine.problem = '';
    const { uuid, name } = identityOf(machine.answers);
    machine.uuid = uuid;
    machine.name = name;
    const [thread] = threadsOf(machine.answers).values();
    if (machine.pid === 0 && thread !== undefined)
      machine.pid = Number(/^Tgid:\s+(\d+)$/m.exec(readOnce(join(this.#proc, String(thread), 'status')))?.[1] ?? 0);
  }

  /** What is known of a machine now; undefined when it has ended, which is recorded. */
  #guest(machine: Machine): Guest | undefined {
    const parameters = parametersOf(machine.answers);
    const figures = parseFigures(readOnce(join(this.#proc, String(machine.pid), 'stat')));
    if (!figures) {
      if (machine.pid > 0) {
        this.#machines.delete(machine.socket);
        this.#record('stop', machine);
      }
      return undefined;
    }
    parameters.set('cpu.time', figures.user_ns + figures.system_ns);
    parameters.set('cpu.user', figures.user_ns);
    parameters.set('cpu.system', figures.system_ns);
    parameters.set('balloon.rss', figures.rss_pages * this.#pageKibibytes);
    for (const [vcpu, thread] of threadsOf(machine.answers)) {
      const schedule = readOnce(join(this.#proc, String(machine.pid), 'task', String(thread), 'schedstat')).split(' ');
      if (schedule.length < 3) continue;
      parameters.set(`vcpu.${vcpu}.time`, Number(schedule[0]));
      parameters.set(`vcpu.${vcpu}.delay`, Number(schedule[1]));
    }
    const { state, reason } = stateOf(parameters);
    if (state !== '') {
      const isPaused = state === 'paused';
      if (isPaused !== machine.isPaused) this.#record(isPaused ? 'pause' : 'resume', machine, undefined, reason);
      machine.isPaused = isPaused;
    }
    return { uuid: machine.uuid || `qmp:${machine.socket}`, name: machine.name, manager: 'qemu', parameters };
  }

  #record(action: string, machine: Machine, time_us = this.#context.clock.now_us(), detail = ''): void {
    this.#context.events.record({
      kind: 'vm',
      action,
      entity: machine.uuid || `qmp:${machine.socket}`,
      name: machine.name || basename(machine.socket),
      detail,
      time_us,
      duration_s: action === 'stop' ? (time_us - machine.started_us) / 1e6 : Number.NaN,
    });
  }
}

const uptime = (proc: string): number => Number.parseFloat(readOnce(join(proc, 'uptime')));

function processes(proc: string): string[] {
  try {
    return readdirSync(proc);
  } catch {
    return [];
  }
}
