import { join } from 'node:path';
import { containerOf } from '#cgroup.ts';
import { type Classify, kernelClass } from '#classes.ts';
import { type Clock, systemClock } from '#clock.ts';
import { CommandReader, redacted } from '#commands.ts';
import { readOnce } from '#files.ts';
import { processIdentitiesMax, processIdentityMilliseconds } from '#limits.ts';
import { ProcessStat } from '#process_stat.ts';
import type { Processes, ProcessIdentity, Roots } from '#source.ts';

/** Names that a main thread gives itself, and that say nothing of the program: Node's. */
const threadNames = new Set(['MainThread', 'node-MainThread']);

/** Bytes of a program's name that the kernel keeps. */
const nameBytes = 15;

/** What is known of a process. */
type Known = {
  start: number;
  nameHash: number;
  startCode: number;
  learned_ms: number;
  identity: ProcessIdentity;
};

export type ProcessIdentitiesOptions = {
  clock?: Pick<Clock, 'monotonic_ms'>;
  classify: Classify;
  /** Identities have command lines. */
  commands?: boolean;
};

/**
 * Who processes are, from what /proc says of them. An identity is kept for as long as the process has its start time and its
 * name; the object changes in place when the command line is known.
 */
export class ProcessIdentities implements Processes {
  readonly #proc: string;
  readonly #clock: Pick<Clock, 'monotonic_ms'>;
  readonly #commands: boolean;
  readonly #reader: CommandReader;
  readonly #stat = new ProcessStat();
  /** The newest last. */
  readonly #known = new Map<number, Known>();
  readonly #learning = new Set<Promise<void>>();
  readonly #classify: Classify;

  constructor(roots: Pick<Roots, 'proc'>, options: ProcessIdentitiesOptions) {
    this.#proc = roots.proc;
    this.#clock = options.clock ?? systemClock;
    this.#classify = options.classify;
    this.#commands = options.commands ?? false;
    this.#reader = new CommandReader(roots.proc);
  }

  identity(pid: number): ProcessIdentity | undefined {
    const stat = this.#stat;
    if (!stat.read(`${this.#proc}/${pid}/stat`)) {
      this.#known.delete(pid);
      return undefined;
    }
    const known = this.#known.get(pid);
    const now_ms = this.#clock.monotonic_ms();
    const isSame =
      known?.start === stat.start && known.nameHash === stat.nameHash && known.startCode === stat.startCode;
    if (known && isSame && now_ms - known.learned_ms < processIdentityMilliseconds) return known.identity;
    // An ended process has no command line and no cgroup any more: it stays what it was.
    if (known?.start === stat.start && stat.hasEnded) return known.identity;
    const identity = this.#learn(pid, stat, isSame ? known?.identity : undefined);
    this.#known.delete(pid);
    this.#known.set(pid, {
      start: stat.start,
      nameHash: stat.nameHash,
      startCode: stat.startCode,
      learned_ms: now_ms,
      identity,
    });
    if (this.#known.size > processIdentitiesMax)
      for (const oldest of this.#known.keys()) {
        this.#known.delete(oldest);
        break;
      }
    return identity;
  }

  /** Resolves when all command lines that are wanted have come, or have been given up. */
  async settled(): Promise<void> {
    await Promise.all(this.#learning);
  }

  limitations(): readonly string[] {
    if (this.#reader.hanging === 0) return [];
    return [
      'Command lines can not be read now, and classes that depend on them are not known: the memory of a process is locked, often since it waits for a disk or a file server. End the process that ps hangs at.',
    ];
  }

  /** Who a process is that was just read; what was known of it stays until its command line comes. */
  #learn(pid: number, stat: ProcessStat, before: ProcessIdentity | undefined): ProcessIdentity {
    const { name } = stat;
    if (stat.isKernelThread) return { name, class: kernelClass, container: '' };
    const cgroups = readOnce(join(this.#proc, String(pid), 'cgroup'));
    const unit = unitOf(cgroups);
    const identity = before ?? { name, class: '', container: '' };
    identity.container = containerOf(cgroups);
    if (!before) identity.class = this.#classify({ names: [name], words: [], unit });
    const learning = this.#learnCommand(pid, identity, name, unit).finally(() => this.#learning.delete(learning));
    this.#learning.add(learning);
    return identity;
  }

  async #learnCommand(pid: number, identity: ProcessIdentity, name: string, unit: string): Promise<void> {
    const words = await this.#reader.words(pid);
    if (words === undefined || words.length === 0) return;
    identity.name = programName(name, words[0] ?? '');
    const names = new Set([name, identity.name, lastPart(words[0] ?? '')]);
    identity.class = this.#classify({ names: [...names], words, unit });
    if (this.#commands) identity.command = redacted(words);
  }
}

/** The program's name: that of the process, in full where the kernel has cut it, or of its file where it names a thread. */
export function programName(name: string, firstWord: string): string {
  const file = lastPart(firstWord);
  if (file === '') return name;
  if (threadNames.has(name)) return file;
  return Buffer.byteLength(name) === nameBytes && file.startsWith(name) ? file : name;
}

/** The last part of a path, of Linux or of Windows; of a login shell without its dash. */
function lastPart(path: string): string {
  const name = path.slice(Math.max(path.lastIndexOf('/'), path.lastIndexOf('\\')) + 1);
  return name.startsWith('-') ? name.slice(1) : name;
}

/** The innermost systemd service or scope among the parts of the cgroups' paths; empty when there is none. */
export function unitOf(cgroups: string): string {
  let unit = '';
  for (const line of cgroups.split('\n')) {
    // Of the hierarchies of version 1 only that of systemd itself has its units for sure; "0:" is version 2.
    if (!line.startsWith('0:') && !line.includes(':name=systemd:')) continue;
    for (const part of line.split('/')) if (part.endsWith('.service') || part.endsWith('.scope')) unit = part;
    if (unit !== '') return unit;
  }
  return unit;
}
