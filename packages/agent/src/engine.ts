/** What an engine says of a container; a text is empty, and a number NaN, where it does not say. */
export type EngineContainer = {
  /** 64 hexadecimal digits. */
  id: string;
  /** docker, podman, containerd, cri-o. */
  engine: string;
  name: string;
  image: string;
  /** All labels: who shows them applies the allow-list. */
  labels: Readonly<Record<string, string>>;
  /** created, running, paused, restarting, removing, exited, dead. */
  state: string;
  /** healthy, unhealthy, starting; empty without a check. */
  health: string;
  restarts: number;
  /** NaN while it is running. */
  exitCode: number;
  isOomKilled: boolean;
  /** Number of its first process, as the host counts them; 0 when it is not running. */
  pid: number;
  startedAt_us: number;
  finishedAt_us: number;
  /** NaN without a limit. */
  cpuLimit_cores: number;
  /** NaN without a limit. */
  memoryLimit_bytes: number;
  /** Its folder below the root of the cgroup hierarchies. */
  cgroupPath: string;
};

/** A change that an engine told of, passed on at once. */
export type EngineChange = {
  action: 'start' | 'die' | 'destroy' | 'oom' | 'rename' | 'health_status' | 'restart' | 'pause' | 'unpause' | 'kill';
  container: EngineContainer;
  time_us: number;
};

/** The container engines of this host. */
export interface Engines {
  /** Connects in the background; never throws for an engine that is absent. */
  open(): Promise<void>;
  /** All known containers by the first 12 digits of their id, stopped ones included. */
  readonly containers: ReadonlyMap<string, EngineContainer>;
  onChange(listener: (change: EngineChange) => void): void;
  /** What can't be seen, and which right, group or setting would change that: one sentence each. */
  limitations(): readonly string[];
  close(): void;
}

/** Of a host that has none. */
export const noEngines: Engines = {
  open: async () => {},
  containers: new Map(),
  onChange() {},
  limitations: () => [],
  close() {},
};
