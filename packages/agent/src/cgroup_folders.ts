import { type FSWatcher, readdirSync, statSync, watch } from 'node:fs';
import { type CgroupContainer, containerAt } from '#cgroup.ts';
import { cgroupFoldersMax, cgroupFoldersPerTickMax, cgroupLookMilliseconds, cgroupWatchesMax } from '#limits.ts';

/** Told of containers as their cgroups come and go; paths are below the root of the hierarchy. */
export type FolderListener = {
  /** @param isNew it came just now; not when it was found by looking */
  appeared(path: string, container: CgroupContainer, isNew: boolean): void;
  gone(path: string): void;
};

/** Where containers come without anything being there before the first: watched though they are empty. */
const mayHoldContainers = /\.slice$|^docker$|^kubepods|^pod|^libpod|^lxc|^k8s\.io$|^ecs$|^user@\d+\.service$/;

/**
 * Finds the cgroups of containers in one hierarchy. The kernel tells of new folders in the watched ones; all are looked
 * through in pieces now and then, for what it did not tell.
 */
export class CgroupFolders {
  readonly #root: string;
  readonly #listener: FolderListener;
  readonly #known = new Set<string>();
  readonly #watchers = new Map<string, FSWatcher>();
  /** Folders of the look under way that were not visited yet, breadth first, and where it is. */
  #queue: string[] = [''];
  #next = 0;
  #seen = new Set<string>();
  #lookAgainAt_ms = Number.NEGATIVE_INFINITY;
  #unwatched = '';
  #hasTooMany = false;

  constructor(root: string, listener: FolderListener) {
    this.#root = root;
    this.#listener = listener;
  }

  /** Looks through everything, up to the bound. */
  open(monotonic_ms: number): void {
    this.#look(cgroupFoldersMax, monotonic_ms);
  }

  /** Goes on with looking, when it is time. */
  step(monotonic_ms: number): void {
    if (monotonic_ms >= this.#lookAgainAt_ms) this.#look(cgroupFoldersPerTickMax, monotonic_ms);
  }

  /** Another told that this is a container's cgroup. */
  add(path: string): void {
    this.#visit(path, true);
  }

  /** This one turned out to be gone. */
  remove(path: string): void {
    this.#forget(path);
  }

  limitations(): readonly string[] {
    const sentences: string[] = [];
    if (this.#unwatched !== '')
      sentences.push(
        `New cgroups are not told of at once (${this.#unwatched}): containers that live for seconds may be missed; raise ` +
          'fs.inotify.max_user_instances or fs.inotify.max_user_watches.',
      );
    if (this.#hasTooMany)
      sentences.push(`There are more than ${cgroupFoldersMax} cgroups: containers below the others may be missed.`);
    return sentences;
  }

  close(): void {
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  #look(most: number, monotonic_ms: number): void {
    for (let visited = 0; visited < most && this.#next < this.#queue.length; visited++) {
      const path = this.#queue[this.#next++]!;
      const below = this.#visit(path, false);
      if (below) for (const name of below) this.#queue.push(`${path}/${name}`);
      this.#hasTooMany = this.#queue.length > cgroupFoldersMax;
      if (this.#hasTooMany) this.#queue.length = cgroupFoldersMax;
    }
    if (this.#next < this.#queue.length) return;
    for (const path of this.#known) if (!this.#seen.has(path) && !this.#isThere(path)) this.#forget(path);
    this.#queue = [''];
    this.#next = 0;
    this.#seen = new Set();
    const { watched, unwatched } = cgroupLookMilliseconds;
    this.#lookAgainAt_ms = monotonic_ms + (this.#unwatched === '' ? watched : unwatched);
  }

  /** Reports this folder when it is a container's, and returns the names of the folders below; undefined when it is gone. */
  #visit(path: string, isNew: boolean): readonly string[] | undefined {
    let links: number;
    try {
      const stat = statSync(this.#root + path);
      if (!stat.isDirectory()) return undefined;
      links = stat.nlink;
    } catch {
      return undefined;
    }
    const container = containerAt(path);
    if (container) {
      this.#seen.add(path);
      if (!this.#known.has(path)) {
        this.#known.add(path);
        this.#listener.appeared(path, container, isNew);
      }
    }
    // A folder has a link for each folder below it, and two of its own: most have none, and are not read. File systems
    // that do not count have one.
    const isEmpty = links === 2;
    if (path === '' || (!container && (!isEmpty || mayHoldContainers.test(path.slice(path.lastIndexOf('/') + 1)))))
      this.#watch(path);
    if (isEmpty && !isNew) return [];
    try {
      return readdirSync(this.#root + path, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map((entry) => entry.name);
    } catch {
      return undefined;
    }
  }

  #watch(path: string): void {
    if (this.#watchers.has(path) || this.#watchers.size >= cgroupWatchesMax) return;
    try {
      const watcher = watch(this.#root + path, { persistent: false }, (event, name) => {
        if (event === 'rename' && name !== null) this.#changed(path, name);
      });
      watcher.on('error', () => this.#unwatch(path));
      this.#watchers.set(path, watcher);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'ENOENT') this.#unwatched = code ?? 'unknown reason';
    }
  }

  #unwatch(path: string): void {
    this.#watchers.get(path)?.close();
    this.#watchers.delete(path);
  }

  /** A folder came or went. */
  #changed(parent: string, name: string): void {
    const path = `${parent}/${name}`;
    // What was made below before it was watched is found by reading it: its watch stands already then.
    const waiting = [path];
    for (let folder = waiting.pop(); folder !== undefined; folder = waiting.pop()) {
      const below = this.#visit(folder, true);
      if (below === undefined) this.#forget(folder);
      else for (const child of below) if (waiting.length < cgroupFoldersPerTickMax) waiting.push(`${folder}/${child}`);
    }
  }

  /** This folder is gone, and with it all that were below. */
  #forget(path: string): void {
    const below = `${path}/`;
    for (const known of this.#known)
      if (known === path || known.startsWith(below)) {
        this.#known.delete(known);
        this.#listener.gone(known);
      }
    for (const watched of this.#watchers.keys())
      if (watched === path || watched.startsWith(below)) this.#unwatch(watched);
  }

  #isThere(path: string): boolean {
    try {
      return statSync(this.#root + path).isDirectory();
    } catch {
      return false;
    }
  }
}
