import { type StatsFs, statfs } from 'node:fs';
import { join } from 'node:path';
import type { Filesystem, Tables } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { emptyTable } from '#columns.ts';
import { Cursor, KernelFile } from '#files.ts';
import { percent } from '#rates.ts';
import type { Context, Source } from '#source.ts';

/** A file system fills slowly, and asking a remote one costs a message. */
const every_ms = 15_000;

/** All file systems together have this time to answer: less than a tick waits for its sources. */
export const answerWithin_ms = 400;

/**
 * A call to a hung file system keeps one of libuv's four threads until it returns, perhaps never. When so many are kept,
 * remote file systems are not asked any more. Local ones are, since they answer from memory; the first of them that
 * hangs nevertheless ends that too.
 */
export const hungCallsMax = 2;

/** Not on disk, or part of something that is: the same as node_exporter leaves out. */
const excludedTypes = new Set(
  (
    'autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs fusectl hugetlbfs iso9660 mqueue nsfs overlay ' +
    'proc procfs pstore rpc_pipefs securityfs selinuxfs squashfs erofs sysfs tracefs'
  ).split(' '),
);
const excludedMounts =
  /^\/(?:dev|proc|run\/credentials\/.+|sys|var\/lib\/docker\/.+|var\/lib\/containers\/storage\/.+)(?:$|\/)/;

/** Answered by another process or machine, which may be gone. */
const remoteTypes =
  /^(?:nfs|cifs|smb|9p|afs|ceph|fuse|gluster|lustre|beegfs|gpfs|ncpfs|ocfs2|gfs2|virtiofs|drvfs|coda)/;

export type Mount = { mount: string; device: string; type: string; readOnly: boolean };

/**
 * The mounts that are watched, in the order in which they were made. Of several at one place the last one counts: it
 * hides the others.
 * @see https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
 */
export function parseMountinfo(text: string): Mount[] {
  const mounts = new Map<string, Mount>();
  for (const cursor = new Cursor(text); !cursor.atEnd; cursor.nextLine()) {
    cursor.skip(4);
    const mount = unescapeOctal(cursor.word());
    const mountOptions = cursor.word();
    // Any number of optional fields, then a hyphen.
    for (let field = cursor.word(); field !== '-' && field !== ''; ) field = cursor.word();
    const type = cursor.word();
    const device = unescapeOctal(cursor.word());
    const readOnly = isReadOnly(mountOptions) || isReadOnly(cursor.word());
    mounts.delete(mount);
    if (mount !== '' && type !== '' && !excludedTypes.has(type) && !excludedMounts.test(mount))
      mounts.set(mount, { mount, device, type, readOnly });
  }
  return [...mounts.values()];
}

const isReadOnly = (options: string): boolean => options === 'ro' || options.startsWith('ro,');

/** Blanks and backslashes are written as three octal digits: `\040`. */
const unescapeOctal = (text: string): string =>
  text.includes('\\')
    ? text.replace(/\\([0-7]{3})/g, (_, digits) => String.fromCharCode(Number.parseInt(digits, 8)))
    : text;

/** What was learned of one mount: its numbers, that it hangs, that it was not asked, or why it could not be. */
type Answer = StatsFs | 'unresponsive' | 'not asked' | Error;

export type AskFilesystem = (path: string) => Promise<StatsFs>;

const askSystem: AskFilesystem = (path) =>
  new Promise((resolve, reject) => statfs(path, (error, stats) => (error ? reject(error) : resolve(stats))));

/** Asks file systems one after the other, the local ones first, and remembers those that hang. */
class Asker {
  readonly #ask: AskFilesystem;
  readonly #clock: Clock;
  /** Calls that did not return in time and still have not, by mount. */
  readonly #hung = new Map<string, Mount>();
  #hungLocal = false;

  constructor(ask: AskFilesystem, clock: Clock) {
    this.#ask = ask;
    this.#clock = clock;
  }

  get hung(): Iterable<string> {
    return this.#hung.keys();
  }

  async answers(mounts: readonly Mount[]): Promise<Map<Mount, Answer>> {
    const answers = new Map<Mount, Answer>();
    const limit = new AbortController();
    const late = this.#clock.sleep(answerWithin_ms, limit.signal).then(
      () => 'late' as const,
      // All have answered before.
      () => 'late' as const,
    );
    let isLate = false;
    for (const remote of [false, true])
      for (const mount of mounts) {
        if (remoteTypes.test(mount.type) !== remote) continue;
        if (this.#hung.has(mount.mount) || this.#hasHungServer(mount)) answers.set(mount, 'unresponsive');
        else if (isLate || this.#hungLocal || (remote && this.#hung.size >= hungCallsMax))
          answers.set(mount, 'not asked');
        else {
          const call = this.#ask(mount.mount);
          const answer = await Promise.race([call, late]).catch((error: Error) => error);
          isLate = answer === 'late';
          if (isLate) this.#remember(mount, remote, call);
          answers.set(mount, answer === 'late' ? 'unresponsive' : answer);
        }
      }
    limit.abort();
    return answers;
  }

  /** A server that hangs with one of its exports hangs with all. */
  #hasHungServer({ device }: Mount): boolean {
    const server = serverOf(device);
    if (server !== '') for (const mount of this.#hung.values()) if (serverOf(mount.device) === server) return true;
    return false;
  }

  #remember(mount: Mount, remote: boolean, call: Promise<StatsFs>): void {
    this.#hung.set(mount.mount, mount);
    this.#hungLocal ||= !remote;
    const forget = (): void => {
      this.#hung.delete(mount.mount);
      if (!remote) this.#hungLocal = false;
    };
    // Whether it comes back with an answer or an error: it can be asked again.
    call.then(forget, forget);
  }
}

/** The server of an NFS or SMB mount (`server:/export`, `//server/share`), else empty. */
function serverOf(device: string): string {
  if (device.startsWith('//')) return device.slice(2).split('/', 1)[0] ?? '';
  const colon = device.indexOf(':/');
  return colon > 0 ? device.slice(0, colon) : '';
}

/** Room in mounted file systems. A mount that hangs is reported as such and costs nothing else. */
export function filesystem({ roots, clock }: Context, ask: AskFilesystem = askSystem): Source {
  const mountinfo = new KernelFile(join(roots.proc, 'self/mountinfo'), true);
  const asker = new Asker(ask, clock);
  let notAsked: string[] = [];
  let failed: string[] = [];
  return {
    name: 'filesystem',
    tables: ['filesystem'],
    every_ms,
    open: () => mountinfo.open(),
    async sample(): Promise<Tables> {
      const table = emptyTable('filesystem');
      notAsked = [];
      failed = [];
      const mounts = parseMountinfo(mountinfo.text());
      const answers = await asker.answers(mounts);
      for (const mount of mounts) {
        const answer = answers.get(mount) ?? 'not asked';
        if (answer === 'not asked') notAsked.push(mount.mount);
        else if (answer instanceof Error) failed.push(`${mount.mount}: ${answer.message}`);
        pushMount(table, mount, answer);
      }
      return { filesystem: table };
    },
    close: () => mountinfo.close(),
    limitations() {
      const sentences = failed.map((reason) => `No numbers of ${reason}`);
      if (notAsked.length > 0)
        sentences.push(`Not asked for lack of an answer from ${[...asker.hung].join(', ')}: ${notAsked.join(', ')}`);
      return sentences;
    },
  };
}

function pushMount(table: Filesystem, { mount, device, type, readOnly }: Mount, answer: Answer): void {
  const stats = answer instanceof Error || typeof answer === 'string' ? undefined : answer;
  // Blocks are counted in fragments; Node tells their size since 24.13, and the two differ only for a few FUSE systems.
  const block = stats ? (stats.frsize ?? stats.bsize) : Number.NaN;
  const size = (stats?.blocks ?? Number.NaN) * block;
  const free = (stats?.bfree ?? Number.NaN) * block;
  const available = (stats?.bavail ?? Number.NaN) * block;
  // Some file systems (btrfs) have no fixed number of inodes, and say 0.
  const inodes = stats && stats.files > 0 ? stats.files : Number.NaN;
  const inodesFree = stats && stats.files > 0 ? stats.ffree : Number.NaN;
  table.mount.push(mount);
  table.device.push(device);
  table.type.push(type);
  table.size_bytes.push(size);
  table.used_bytes.push(size - free);
  table.free_bytes.push(free);
  table.available_bytes.push(available);
  table.used_percent.push(percent(size - free, size - free + available));
  table.inodes_count.push(inodes);
  table.inodes_used_count.push(inodes - inodesFree);
  table.inodes_free_count.push(inodesFree);
  table.read_only_flag.push(readOnly ? 1 : 0);
  table.unresponsive_flag.push(stats ? 0 : answer === 'unresponsive' ? 1 : Number.NaN);
}
