import { existsSync, type FSWatcher, readdirSync, readlinkSync, watch } from 'node:fs';
import { join } from 'node:path';
import type { Container, Tables } from '@fleetreel/proto';
import { type CgroupContainer, type CgroupMounts, containerAbove, parseCgroupMounts } from '#cgroup.ts';
import { at, BlockDevices, CgroupFiles, type CgroupLayout, cgroupLayout, Descriptors } from '#cgroup_files.ts';
import { CgroupFolders } from '#cgroup_folders.ts';
import { emptyTable } from '#columns.ts';
import type { EngineChange, EngineContainer, Engines } from '#engine.ts';
import { SocketEngines } from '#engines.ts';
import { readOnce } from '#files.ts';
import {
  cgroupLookMilliseconds,
  containerReadsPerTick,
  containersMax,
  sameHappeningMilliseconds,
  stoppedContainersMax,
  youngContainersMax,
  youngMilliseconds,
  youngPauseMilliseconds,
} from '#limits.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

/** A container whose cgroup is, or was a moment ago, there. */
type Tracked = {
  readonly id: string;
  readonly engine: string;
  readonly podUid: string;
  readonly files: CgroupFiles;
  /** When it began, where that was seen; else NaN. */
  readonly bornAt_us: number;
  readonly bornAt_ms: number;
  /** Monotonic time of the next reading between ticks; NaN when it is read at ticks alone. */
  youngDue_ms: number;
  /** Sum of the readings: what is done seldom is done at every so many of them. */
  round: number;
  /** Memory in use when its details were read last. */
  detailedMemory: number;
  /** CPU time when all was read last, and how often it was the same since. */
  busyUsage_s: number;
  idleTurns: number;
  /** The network namespace that it reads; empty: none of its own, or not known. */
  namespace: string;
  /** Monotonic time at which its network is looked for again. */
  networkDue_ms: number;
  emptied: FSWatcher | undefined;
  /** Name and image as an engine told them: after its end no engine may know it any more. */
  told: EngineContainer | undefined;
  isStartTold: boolean;
  isStopTold: boolean;
  endedAt_us: number;
  endedAt_ms: number;
  oomKills: number;
};

/** Limits, and what changes only with them, are read at every so many readings of the rest. */
const limitRounds = 12;
/** A container that used no CPU time is read at every so many of its turns: little can have changed. */
const idleTurnsMax = 5;
/** Files that are missing are looked for at every so many. */
const missingRounds = 48;

/** Hierarchies of version 1 in which containers are looked for: the first that is there. */
const searched = ['memory', 'pids', 'cpuacct', 'cpu', 'blkio', 'freezer', 'systemd'];

class ContainerSource implements Source {
  readonly name = 'container';
  readonly tables = ['container'] as const;
  readonly #context: Context;
  readonly #engines: Engines;
  readonly #tracked = new Map<string, Tracked>();
  readonly #byPath = new Map<string, Tracked>();
  /** Those that have ended since the last tick, by id. */
  readonly #ended = new Map<string, Tracked>();
  readonly #young = new Set<Tracked>();
  /** When starts and ends were that cgroups told and an engine may tell still, by action and id. */
  readonly #toldByCgroup = new Map<string, number>();
  /** When it was told last that memory had run out in a container, by id: the kernel and the engine both tell. */
  readonly #oomToldAt_ms = new Map<string, number>();
  /** Those that have ended, while their engine does not know it yet. */
  readonly #endedUnknown = new Set<string>();
  /** Who reads a network namespace. */
  readonly #networks = new Map<string, Tracked>();
  readonly #devices: BlockDevices;
  #descriptors = new Descriptors('');
  #mounts: CgroupMounts = { v1: new Map(), v2: '', isPartial: false };
  #layout: CgroupLayout | undefined;
  #folders: CgroupFolders | undefined;
  #hostNetwork = '';
  #networkForbidden = false;
  #hasTooMany = false;
  #lastTick_ms = Number.NaN;
  #forgetDevicesAt_ms = 0;
  /** Whose turn it is. */
  #turn = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(context: Context, engines: Engines) {
    this.#context = context;
    this.#engines = engines;
    this.#devices = new BlockDevices(context.roots.sys);
  }

  async open(): Promise<void> {
    const { roots, clock } = this.#context;
    const mountinfo = join(roots.proc, 'self/mountinfo');
    this.#mounts = parseCgroupMounts(readOnce(mountinfo), roots);
    const { v1, v2 } = this.#mounts;
    const candidates = [...searched.flatMap((controller) => v1.get(controller) ?? []), ...(v2 === '' ? [] : [v2])];
    const root = candidates.find((folder) => existsSync(folder));
    if (root === undefined)
      throw new Unavailable(
        `No cgroups are mounted here by ${mountinfo}: containers need Linux with control groups; an agent in a container ` +
          'needs /sys/fs/cgroup of its host, and its cgroup namespace (--cgroupns=host).',
      );
    this.#layout = cgroupLayout(this.#mounts, this.#devices);
    this.#descriptors = new Descriptors(readOnce(join(roots.proc, 'self/limits')));
    this.#hostNetwork = this.#namespaceOf('1') || this.#namespaceOf('self');
    this.#networkForbidden = false;
    this.#folders = new CgroupFolders(root, {
      appeared: (path, container, isNew) => this.#appeared(path, container, isNew),
      gone: (path) => this.#gone(path),
    });
    this.#folders.open(clock.monotonic_ms());
    this.#engines.onChange((change) => this.#changed(change));
    await this.#engines.open();
  }

  sample(): Tables {
    const now_ms = this.#context.clock.monotonic_ms();
    this.#folders?.step(now_ms);
    if (now_ms >= this.#forgetDevicesAt_ms) {
      this.#devices.forget();
      this.#forgetDevicesAt_ms = now_ms + cgroupLookMilliseconds.watched;
    }
    this.#readAll();
    const table = emptyTable('container');
    // They may change while this is open.
    const { labels } = this.#context.settings.container;
    for (const tracked of this.#tracked.values()) {
      this.#tellStart(tracked);
      pushRow(table, tracked, this.#told(tracked), labels, this.#uptime_s(tracked));
    }
    for (const tracked of this.#ended.values()) {
      this.#tellStart(tracked);
      this.#tellStop(tracked);
      if (!this.#tracked.has(tracked.id)) {
        tracked.files.settleAll(now_ms);
        pushRow(table, tracked, this.#told(tracked), labels, this.#uptime_s(tracked));
      }
    }
    this.#pushStopped(table, labels);
    this.#ended.clear();
    const forgotten_us = this.#context.clock.now_us() - sameHappeningMilliseconds * 2000;
    for (const [told, at_us] of this.#toldByCgroup) if (at_us < forgotten_us) this.#toldByCgroup.delete(told);
    this.#lastTick_ms = now_ms;
    return { container: table };
  }

  limitations(): readonly string[] {
    const sentences = [...this.#engines.limitations(), ...(this.#folders?.limitations() ?? [])];
    if (this.#mounts.isPartial)
      sentences.push(
        'Only the cgroups below its own are seen from this container: start it with --cgroupns=host and /sys/fs/cgroup of its host.',
      );
    if (this.#networkForbidden)
      sentences.push(
        "The containers' networks can't be told apart: run the agent as root, or give it the capability CAP_SYS_PTRACE.",
      );
    if (!this.#devices.isCounting)
      sentences.push(
        'This kernel counts block I/O of cgroups of version 1 only when a limit was set on a device once: boot with version 2 ' +
          '(systemd.unified_cgroup_hierarchy=1), or set one, as docker run --device-write-bps does.',
      );
    if (this.#hasTooMany) sentences.push(`There are more than ${containersMax} containers: the rest is left out.`);
    return sentences;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#engines.close();
    this.#folders?.close();
    this.#folders = undefined;
    for (const tracked of this.#tracked.values()) this.#release(tracked);
    this.#tracked.clear();
    this.#byPath.clear();
    this.#ended.clear();
    this.#endedUnknown.clear();
    this.#young.clear();
    this.#oomToldAt_ms.clear();
    this.#toldByCgroup.clear();
    this.#networks.clear();
    this.#lastTick_ms = Number.NaN;
  }

  // Coming and going.

  #appeared(path: string, { id, engine, podUid }: CgroupContainer, isNew: boolean): void {
    const layout = this.#layout;
    if (!layout || this.#tracked.has(id)) return;
    this.#hasTooMany = this.#tracked.size >= containersMax;
    if (this.#hasTooMany) return;
    const { clock } = this.#context;
    const now_ms = clock.monotonic_ms();
    const files = new CgroupFiles(path, layout, this.#descriptors);
    const before = this.#ended.get(id);
    if (isNew && !Number.isNaN(this.#lastTick_ms)) files.bornAfter(this.#lastTick_ms, before?.files);
    const tracked: Tracked = {
      id,
      engine,
      podUid,
      files,
      bornAt_us: isNew ? clock.now_us() : Number.NaN,
      bornAt_ms: isNew ? now_ms : Number.NaN,
      youngDue_ms: Number.NaN,
      round: 0,
      detailedMemory: Number.NaN,
      busyUsage_s: Number.NaN,
      idleTurns: 0,
      namespace: '',
      networkDue_ms: Number.NEGATIVE_INFINITY,
      emptied: undefined,
      told: this.#engines.containers.get(id),
      isStartTold: !isNew,
      isStopTold: false,
      endedAt_us: Number.NaN,
      endedAt_ms: Number.NaN,
      oomKills: isNew ? 0 : Number.NaN,
    };
    this.#endedUnknown.delete(id);
    this.#tracked.set(id, tracked);
    this.#byPath.set(path, tracked);
    this.#watchEnd(tracked);
    if (isNew) this.#keepReading(tracked, now_ms);
    else {
      this.#readBetween(tracked, now_ms);
      // So that not all are read in detail in the same tick.
      tracked.round += this.#tracked.size % limitRounds;
    }
  }

  /** The kernel tells when the last process of a cgroup of version 2 has left: its counters are final, and still there. */
  #watchEnd(tracked: Tracked): void {
    if (this.#mounts.v2 === '') return;
    const file = `${this.#mounts.v2}${tracked.files.path}/cgroup.events`;
    try {
      tracked.emptied = watch(file, { persistent: false }, () => {
        if (readOnce(file).includes('populated 0')) this.#readBetween(tracked, this.#context.clock.monotonic_ms());
      });
      tracked.emptied.on('error', () => tracked.emptied?.close());
    } catch {
      // Not there in a hybrid system whose engine makes cgroups of version 1 alone, or no watch is left.
    }
  }

  #gone(path: string): void {
    const tracked = this.#byPath.get(path);
    if (!tracked) return;
    const { clock } = this.#context;
    // What is still open may tell a little more; of a removed cgroup nothing can be read.
    tracked.files.readMany(this.#layout?.lasting);
    tracked.endedAt_us = clock.now_us();
    tracked.endedAt_ms = clock.monotonic_ms();
    tracked.told = this.#told(tracked);
    this.#tellOomKills(tracked, tracked.endedAt_ms);
    this.#tracked.delete(tracked.id);
    this.#byPath.delete(path);
    this.#young.delete(tracked);
    this.#release(tracked);
    if (this.#ended.size < containersMax) this.#ended.set(tracked.id, tracked);
    if (tracked.told && isAlive(tracked.told)) this.#endedUnknown.add(tracked.id);
  }

  #release(tracked: Tracked): void {
    tracked.files.close();
    tracked.emptied?.close();
    if (this.#networks.get(tracked.namespace) !== tracked) return;
    this.#networks.delete(tracked.namespace);
    // Another that shares it has it from now on.
    for (const other of this.#tracked.values())
      if (other.namespace === '') other.networkDue_ms = Number.NEGATIVE_INFINITY;
  }

  // Reading.

  #readAll(): void {
    const layout = this.#layout;
    if (!layout) return;
    for (const tracked of this.#tracked.values()) if (!this.#readHot(tracked, layout)) this.#lost(tracked);
    const all = [...this.#tracked.values()];
    let left = containerReadsPerTick;
    for (let count = 0; count < all.length && left > 0; count++) {
      if (this.#turn >= all.length) this.#turn = 0;
      const tracked = all[this.#turn++]!;
      const cost = this.#readWarm(tracked, layout);
      if (cost < 0) this.#lost(tracked);
      left -= Math.abs(cost);
    }
  }

  /** What is read in every tick; false when the cgroup is gone. */
  #readHot(tracked: Tracked, layout: CgroupLayout): boolean {
    const now_ms = this.#context.clock.monotonic_ms();
    let isThere = false;
    try {
      for (const index of layout.hot)
        if (tracked.files.read(index)) {
          isThere = true;
          tracked.files.settle(index, now_ms);
        }
    } catch {
      return false;
    }
    // Without any of them it is gone, or its controllers are off: the look through the folders tells which.
    return isThere || tracked.round < 2 || existsSync(this.#eventsFolder(tracked));
  }

  #eventsFolder(tracked: Tracked): string {
    const root = searched.map((controller) => this.#mounts.v1.get(controller)).find((folder) => folder !== undefined);
    return `${root ?? this.#mounts.v2}${tracked.files.path}`;
  }

  /** The rest; returns what it took, negative when the cgroup is gone. */
  #readWarm(tracked: Tracked, layout: CgroupLayout): number {
    const { files } = tracked;
    const now_ms = this.#context.clock.monotonic_ms();
    const usage_s = files.now[at.usage_s]!;
    const isCrowded = this.#tracked.size * layout.files.length > containerReadsPerTick;
    if (isCrowded && usage_s === tracked.busyUsage_s && tracked.idleTurns < idleTurnsMax) {
      tracked.idleTurns++;
      files.settleAll(now_ms);
      return 1;
    }
    tracked.busyUsage_s = usage_s;
    tracked.idleTurns = 0;
    const round = tracked.round++;
    let cost = 1;
    if (now_ms >= tracked.networkDue_ms) cost += this.#findNetwork(tracked, now_ms);
    // An engine makes the cgroups of the controllers one after the other, and sets their limits some moments later.
    const isYoung = now_ms - tracked.bornAt_ms < youngMilliseconds;
    if (round % missingRounds === 0 || isYoung) files.retryMissing();
    if (round % limitRounds === 0 || isYoung) {
      files.readLimits();
      cost += layout.limits.length * 3;
    }
    const isLimited = !Number.isNaN(files.now[at.cpuLimit_cores]!);
    const memory = files.now[at.memory]!;
    try {
      for (const index of layout.warm) {
        // A cgroup without a limit is never throttled, and details of memory that did not change are the same.
        if (index === layout.throttling && !isLimited && round % limitRounds !== 0) continue;
        if (index === layout.memoryStat && memory === tracked.detailedMemory && round % limitRounds !== 0) continue;
        if (!files.read(index)) continue;
        files.settle(index, now_ms);
        cost += layout.files[index]!.cost;
      }
    } catch {
      return -Math.max(cost, 1);
    }
    tracked.detailedMemory = memory;
    this.#tellOomKills(tracked, now_ms);
    return cost;
  }

  /** Its cgroup is gone, and nobody told; another may be there under the same name, as after a quick restart. */
  #lost(tracked: Tracked): void {
    const { path } = tracked.files;
    this.#folders?.remove(path);
    this.#folders?.add(path);
  }

  /** Reads everything the first time, then what lasts, for the case that there is no later. */
  #readBetween(tracked: Tracked, now_ms: number): void {
    const round = tracked.round++;
    // Limits are set after the cgroup was made.
    if (round % limitRounds === 0 || round === 3) tracked.files.readLimits();
    if (now_ms >= tracked.networkDue_ms) this.#findNetwork(tracked, now_ms);
    if (tracked.files.readMany(round === 0 ? undefined : this.#layout?.lasting)) this.#tellOomKills(tracked, now_ms);
    else this.#lost(tracked);
  }

  /** Reads a new container now and again and again until it is no longer new. */
  #keepReading(tracked: Tracked, now_ms: number): void {
    if (this.#young.size >= youngContainersMax) {
      const [oldest] = this.#young;
      if (oldest) this.#young.delete(oldest);
    }
    this.#young.add(tracked);
    this.#readBetween(tracked, now_ms);
    tracked.youngDue_ms = now_ms + youngPauseMilliseconds.min;
    this.#timer ??= setTimeout(() => this.#readYoung(), youngPauseMilliseconds.min).unref();
  }

  #readYoung(): void {
    this.#timer = undefined;
    const now_ms = this.#context.clock.monotonic_ms();
    const { min, max } = youngPauseMilliseconds;
    for (const tracked of this.#young) {
      if (now_ms < tracked.youngDue_ms) continue;
      const age_ms = now_ms - tracked.bornAt_ms;
      if (age_ms > youngMilliseconds) {
        this.#young.delete(tracked);
        continue;
      }
      // Controllers of version 1 are made one after the other.
      if (age_ms < youngPauseMilliseconds.max) tracked.files.retryMissing();
      this.#readBetween(tracked, now_ms);
      tracked.youngDue_ms = now_ms + Math.min(Math.max(age_ms / 20, min), max);
    }
    if (this.#young.size > 0) this.#timer = setTimeout(() => this.#readYoung(), min).unref();
  }

  // The network.

  #namespaceOf(pid: string): string {
    try {
      return readlinkSync(join(this.#context.roots.proc, pid, 'ns/net'));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'EACCES' || code === 'EPERM') this.#networkForbidden = true;
      return '';
    }
  }

  /** Finds out whose network a container has; returns what that took. */
  #findNetwork(tracked: Tracked, now_ms: number): number {
    const isYoung = now_ms - tracked.bornAt_ms < youngMilliseconds / 10;
    // Its first process is in the cgroup before it leaves the host's network.
    tracked.networkDue_ms = isYoung ? now_ms : now_ms + cgroupLookMilliseconds.watched;
    if (tracked.namespace !== '' && tracked.files.networkFile !== '') return 0;
    const pid = this.#firstProcess(tracked);
    const namespace = pid === '' ? '' : this.#namespaceOf(pid);
    if (namespace === '' || namespace === this.#hostNetwork) return 8;
    const reader = this.#networks.get(namespace);
    if (reader !== undefined && reader !== tracked) return 8;
    tracked.namespace = namespace;
    this.#networks.set(namespace, tracked);
    // Containers of a pod come into a network that was there before them.
    tracked.files.setNetwork(join(this.#context.roots.proc, pid, 'net/dev'), isYoung && tracked.podUid === '');
    return 12;
  }

  /** Number of a process in it: its first, or one of those in cgroups of its own below. */
  #firstProcess(tracked: Tracked): string {
    const told = this.#engines.containers.get(tracked.id)?.pid ?? 0;
    if (told > 0) return String(told);
    const folder = this.#eventsFolder(tracked);
    const first = (of: string): string => /^[1-9]\d*/.exec(readOnce(join(of, 'cgroup.procs')))?.[0] ?? '';
    const own = first(folder);
    if (own !== '') return own;
    try {
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        const below = entry.isDirectory() ? first(join(folder, entry.name)) : '';
        if (below !== '') return below;
      }
    } catch {
      // Gone: nothing more to find.
    }
    return '';
  }

  // What engines and counters tell.

  #told(tracked: Tracked): EngineContainer | undefined {
    const told = this.#engines.containers.get(tracked.id);
    if (told) tracked.told = told;
    return tracked.told;
  }

  #uptime_s(tracked: Tracked): number {
    const started_us = tracked.told?.startedAt_us || tracked.bornAt_us;
    const until_us = Number.isNaN(tracked.endedAt_us) ? this.#context.clock.now_us() : tracked.endedAt_us;
    const uptime_s = (until_us - started_us) / 1e6;
    return uptime_s >= 0 ? uptime_s : Number.NaN;
  }

  #record(action: string, id: string, told: EngineContainer | undefined, more: object = {}): void {
    this.#context.events.record({
      kind: 'container',
      action,
      entity: id,
      name: told?.name || id,
      class: told?.image ?? '',
      container: id,
      ...more,
    });
  }

  /** Of a container that an engine knows, the engine tells. */
  #tellStart(tracked: Tracked): void {
    if (tracked.isStartTold || this.#told(tracked)) return;
    tracked.isStartTold = true;
    this.#toldByCgroup.set(`start ${tracked.id}`, tracked.bornAt_us);
    this.#record('start', tracked.id, undefined, { time_us: tracked.bornAt_us });
  }

  #tellStop(tracked: Tracked): void {
    if (tracked.isStopTold || this.#told(tracked)) return;
    tracked.isStopTold = true;
    this.#toldByCgroup.set(`die ${tracked.id}`, tracked.endedAt_us);
    this.#record('stop', tracked.id, undefined, {
      time_us: tracked.endedAt_us,
      duration_s: this.#uptime_s(tracked),
    });
  }

  /** Whether its cgroup told this start or end before, when no engine had told of the container: once for each. */
  #isToldByCgroup(action: 'start' | 'die', id: string, time_us: number): boolean {
    const told_us = this.#toldByCgroup.get(`${action} ${id}`);
    if (told_us === undefined) return false;
    this.#toldByCgroup.delete(`${action} ${id}`);
    return Math.abs(time_us - told_us) < sameHappeningMilliseconds * 1000;
  }

  /** The kernel counts the processes that it killed, the engine tells of it, maybe only after the container's end: it is one. */
  #isNewOom(id: string, now_ms: number): boolean {
    const before_ms = this.#oomToldAt_ms.get(id) ?? Number.NEGATIVE_INFINITY;
    if (now_ms - before_ms < sameHappeningMilliseconds) return false;
    for (const [old, at_ms] of this.#oomToldAt_ms)
      if (now_ms - at_ms >= sameHappeningMilliseconds) this.#oomToldAt_ms.delete(old);
    this.#oomToldAt_ms.set(id, now_ms);
    return true;
  }

  #tellOomKills(tracked: Tracked, now_ms: number): void {
    const kills = tracked.files.now[at.oomKills]!;
    const more = kills - tracked.oomKills;
    if (!Number.isNaN(kills)) tracked.oomKills = kills;
    if (!(more > 0) || !this.#isNewOom(tracked.id, now_ms)) return;
    this.#record('oom_kill', tracked.id, this.#told(tracked), {
      detail: more === 1 ? '1 process' : `${more} processes`,
    });
  }

  #changed({ action, container, time_us }: EngineChange): void {
    const id = container.id.slice(0, 12);
    if (action === 'start') this.#engineStarted(container);
    const tracked = this.#tracked.get(id) ?? this.#ended.get(id);
    const now_ms = this.#context.clock.monotonic_ms();
    if (tracked) {
      const renamedFrom = tracked.told?.name ?? '';
      tracked.told = container;
      // It may be over soon, or its cgroup gone when this is told: what can be read is read.
      if (this.#tracked.has(id)) this.#readBetween(tracked, now_ms);
      if (action === 'kill' && this.#tracked.has(id)) this.#keepReading(tracked, now_ms);
      if (action === 'rename' && renamedFrom !== '' && renamedFrom !== container.name) {
        this.#record('rename', id, container, { time_us, detail: `was ${renamedFrom}` });
        return;
      }
    }
    if (action === 'oom' && !this.#isNewOom(id, now_ms)) return;
    if ((action === 'start' || action === 'die') && this.#isToldByCgroup(action, id, time_us)) return;
    if (action === 'die') this.#recordEnd(id, container, time_us);
    else {
      const detail = action === 'health_status' ? container.health : '';
      this.#record(actions[action], id, container, { time_us, detail });
    }
  }

  #recordEnd(id: string, container: EngineContainer, time_us: number): void {
    const { startedAt_us, finishedAt_us } = container;
    const duration_s = ((finishedAt_us || time_us) - startedAt_us) / 1e6;
    this.#record('stop', id, container, {
      time_us,
      code: container.exitCode,
      duration_s: startedAt_us > 0 && duration_s >= 0 ? duration_s : Number.NaN,
    });
  }

  /** An engine may tell of a container before the kernel has, or of one whose folders are not watched. */
  #engineStarted({ id, pid, cgroupPath }: EngineContainer): void {
    if (this.#tracked.has(id.slice(0, 12))) return;
    if (cgroupPath !== '' && containerAbove(cgroupPath)) this.#folders?.add(cgroupPath);
    else if (pid > 0) {
      const text = readOnce(join(this.#context.roots.proc, String(pid), 'cgroup'));
      const path = text.split('\n').find((line) => line.includes(id));
      if (path !== undefined) this.#folders?.add(path.slice(path.indexOf('/')));
    }
  }

  /** Containers that only an engine knows: most are not running, others have cgroups that are not seen here. They have no numbers. */
  #pushStopped(table: Container, labels: readonly string[]): void {
    const stopped: EngineContainer[] = [];
    for (const [id, told] of this.#engines.containers)
      if (!this.#tracked.has(id) && !this.#ended.has(id)) stopped.push(told);
    if (stopped.length > stoppedContainersMax) stopped.sort((a, b) => (b.finishedAt_us || 0) - (a.finishedAt_us || 0));
    for (const id of this.#endedUnknown) {
      const told = this.#engines.containers.get(id);
      if (!told || !isAlive(told)) this.#endedUnknown.delete(id);
    }
    for (const told of stopped.slice(0, stoppedContainersMax)) {
      const id = told.id.slice(0, 12);
      const hasEnded = this.#endedUnknown.has(id) || !isAlive(told);
      const row = { id, engine: told.engine, podUid: '', hasEnded };
      pushRow(table, row, told, labels, Number.NaN);
    }
  }
}

const actions: Readonly<Record<EngineChange['action'], string>> = {
  start: 'start',
  die: 'stop',
  destroy: 'remove',
  oom: 'oom_kill',
  rename: 'rename',
  health_status: 'health',
  restart: 'restart',
  pause: 'pause',
  unpause: 'unpause',
  kill: 'kill',
};

/** The numbers of a container that has none. */
const nothing = { now: new Float64Array(64).fill(Number.NaN), rates: new Float64Array(64).fill(Number.NaN) };

type RowOf = Pick<Tracked, 'id' | 'engine' | 'podUid'> & {
  files?: CgroupFiles;
  endedAt_us?: number;
  hasEnded?: boolean;
};

const isAlive = ({ state }: EngineContainer): boolean => state === 'running' || state === 'paused';

function pushRow(
  table: Container,
  row: RowOf,
  told: EngineContainer | undefined,
  labels: readonly string[],
  uptime_s: number,
): void {
  const { now, rates } = row.files ?? nothing;
  const isRunning = row.files !== undefined && Number.isNaN(row.endedAt_us ?? Number.NaN);
  const label = (key: string): string => told?.labels[key] ?? '';
  table.container.push(row.id);
  table.name.push(told?.name || row.id);
  table.engine.push(told?.engine || row.engine);
  table.image.push(told?.image ?? '');
  const hasEnded = row.hasEnded ?? !isRunning;
  table.state.push(stateOf(hasEnded, told, now[at.pids]!));
  table.health.push(told?.health ?? '');
  table.compose_project.push(label('com.docker.compose.project') || label('io.podman.compose.project'));
  table.compose_service.push(label('com.docker.compose.service') || label('io.podman.compose.service'));
  table.pod.push(label('io.kubernetes.pod.name'));
  table.namespace.push(label('io.kubernetes.pod.namespace'));
  table.pod_uid.push(row.podUid || label('io.kubernetes.pod.uid'));
  table.labels.push(told ? chosen(told.labels, labels) : '');
  table.restarts_total.push(told?.restarts ?? Number.NaN);
  table.exit_code.push(isRunning ? Number.NaN : (told?.exitCode ?? Number.NaN));
  table.oom_killed_flag.push(told ? Number(told.isOomKilled) : Number.NaN);
  table.uptime_seconds.push(uptime_s);
  pushCpu(table, now, rates, told);
  pushMemory(table, now, isRunning, told);
  pushPressure(table, rates);
  pushTraffic(table, now, rates);
  table.pids_count.push(isRunning ? now[at.pids]! : Number.NaN);
  table.pids_limit_count.push(now[at.pidsLimit]!);
}

/** What an engine said before the end is not true after it. */
function stateOf(hasEnded: boolean, told: EngineContainer | undefined, pids: number): string {
  const state = told?.state ?? '';
  if (hasEnded) return state !== '' && told && !isAlive(told) ? state : 'exited';
  // An engine may be late, too, with one that has started.
  if (state !== '' && state !== 'exited' && state !== 'dead') return state;
  return pids === 0 ? '' : 'running';
}

/** The labels that the settings allow, in their order. */
function chosen(all: Readonly<Record<string, string>>, allowed: readonly string[]): string {
  const pairs: string[] = [];
  for (const key of allowed) if (Object.hasOwn(all, key)) pairs.push(`${key}=${all[key]}`);
  return pairs.join(',');
}

function pushCpu(table: Container, now: Float64Array, rates: Float64Array, told: EngineContainer | undefined): void {
  const limit_cores = Number.isNaN(now[at.cpuLimit_cores]!)
    ? (told?.cpuLimit_cores ?? Number.NaN)
    : now[at.cpuLimit_cores]!;
  const usage = rates[at.usage_s]! * 100;
  table.cpu_percent.push(usage);
  table.cpu_user_percent.push(rates[at.user_s]! * 100);
  table.cpu_system_percent.push(rates[at.system_s]! * 100);
  table.cpu_limit_percent.push(usage / limit_cores);
  table.cpu_limit_count.push(limit_cores);
  table.cpu_seconds_total.push(now[at.usage_s]!);
  table.cpu_user_seconds_total.push(now[at.user_s]!);
  table.cpu_system_seconds_total.push(now[at.system_s]!);
  table.cpu_throttled_ratio.push(rates[at.throttledPeriods]! / rates[at.periods]!);
  table.cpu_throttled_periods_per_second.push(rates[at.throttledPeriods]!);
  table.cpu_throttled_percent.push(rates[at.throttled_s]! * 100);
  table.cpu_periods_total.push(now[at.periods]!);
  table.cpu_throttled_periods_total.push(now[at.throttledPeriods]!);
  table.cpu_throttled_seconds_total.push(now[at.throttled_s]!);
}

/** After the end nothing is in use: only what happened until then is left. */
function pushMemory(table: Container, now: Float64Array, isRunning: boolean, told: EngineContainer | undefined): void {
  const current = (place: number): number => (isRunning ? now[place]! : Number.NaN);
  // The details may be older than the sum.
  const used = Math.max(current(at.memory) - now[at.inactiveFile]!, 0);
  const limit = Number.isNaN(now[at.memoryLimit]!) ? (told?.memoryLimit_bytes ?? Number.NaN) : now[at.memoryLimit]!;
  table.memory_used_bytes.push(used);
  table.memory_limit_bytes.push(limit);
  table.memory_limit_percent.push((used / limit) * 100);
  table.memory_anonymous_bytes.push(current(at.anonymous));
  table.memory_cache_bytes.push(current(at.cache));
  table.memory_kernel_bytes.push(current(at.kernel));
  table.memory_swap_bytes.push(current(at.swap));
  table.memory_peak_bytes.push(now[at.peak]!);
  table.oom_kills_total.push(now[at.oomKills]!);
}

function pushPressure(table: Container, rates: Float64Array): void {
  // Above 100 only by what passes between reading the clock and reading the file.
  const share = (place: number): number => Math.min(rates[place]! * 100, 100);
  table.cpu_pressure_some_percent.push(share(at.cpuSome_s));
  table.cpu_pressure_full_percent.push(share(at.cpuFull_s));
  table.memory_pressure_some_percent.push(share(at.memorySome_s));
  table.memory_pressure_full_percent.push(share(at.memoryFull_s));
  table.io_pressure_some_percent.push(share(at.ioSome_s));
  table.io_pressure_full_percent.push(share(at.ioFull_s));
}

function pushTraffic(table: Container, now: Float64Array, rates: Float64Array): void {
  table.read_bytes_per_second.push(rates[at.readBytes]!);
  table.write_bytes_per_second.push(rates[at.writeBytes]!);
  table.read_operations_per_second.push(rates[at.reads]!);
  table.write_operations_per_second.push(rates[at.writes]!);
  table.read_bytes_total.push(now[at.readBytes]!);
  table.write_bytes_total.push(now[at.writeBytes]!);
  table.read_operations_total.push(now[at.reads]!);
  table.write_operations_total.push(now[at.writes]!);
  table.receive_bytes_per_second.push(rates[at.receiveBytes]!);
  table.transmit_bytes_per_second.push(rates[at.transmitBytes]!);
  table.receive_packets_per_second.push(rates[at.receivePackets]!);
  table.transmit_packets_per_second.push(rates[at.transmitPackets]!);
  table.receive_errors_per_second.push(rates[at.receiveErrors]!);
  table.transmit_errors_per_second.push(rates[at.transmitErrors]!);
  table.receive_drops_per_second.push(rates[at.receiveDrops]!);
  table.transmit_drops_per_second.push(rates[at.transmitDrops]!);
  table.receive_bytes_total.push(now[at.receiveBytes]!);
  table.transmit_bytes_total.push(now[at.transmitBytes]!);
}

/** Containers, by their cgroups and what engines say of them. */
export const container = (context: Context, engines: Engines = new SocketEngines(context)): Source =>
  new ContainerSource(context, engines);
