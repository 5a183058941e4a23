// nats-server on this machine: found or fetched, configured, started.
import { mkdirSync, renameSync, rmSync, statfsSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { basename, join } from 'node:path';
import type { Service } from '#local/child.ts';
import {
  cacheFolder,
  fetchArchive,
  findProgram,
  isAtLeast,
  isExecutable,
  longStep,
  type Machine,
  Missing,
  versionOf,
} from '#local/obtain.ts';

/** The version that Go builds when none is found. */
const moduleVersion = '2.15.2';
/** The release that is fetched, with the SHA-256 of its archives as the official container image gives them. */
const release = {
  version: '2.15.0',
  checksums: {
    'linux-x64': '5d2c51caca950333aba84911df7d377f826f3a59ec36061c6539105084f65c92',
    'linux-arm64': 'cdc208f5a3f42963a52b6ab06ef65626bb870315dc936e26ba571780c6351112',
  } as Readonly<Record<string, string>>,
} as const;
/** The oldest version that is taken from PATH: the log needs its direct gets and per-message times to live. */
const oldestVersion = [2, 12];
/** The oldest Go that fetches by itself the newer one that nats-server asks for. */
const oldestGo = [1, 21];
/** Where Go puts itself when it isn't on PATH. */
const goFolders = ['/usr/local/go/bin', '/usr/lib/go/bin', '/opt/homebrew/bin', '/snap/bin'];

/** A server that was found, and where. */
export type NatsProgram = { path: string; from: string };

/**
 * nats-server from PATH when it is recent enough, else from the cache, else the released archive, else built from its
 * Go module; the last two are put into the cache.
 * @throws Missing
 */
export async function findNats(machine: Machine): Promise<NatsProgram> {
  const onPath = findProgram('nats-server', machine);
  const version = onPath && (await recentVersion(onPath));
  if (version) return { path: onPath, from: `nats-server ${version} on PATH (${onPath})` };

  const cached = join(cacheFolder(machine), 'nats-server', onWindows ? 'nats-server.exe' : 'nats-server');
  const cachedVersion = isExecutable(cached) ? await recentVersion(cached) : undefined;
  if (cachedVersion) return { path: cached, from: `nats-server ${cachedVersion} of the cache (${cached})` };

  const tried = [
    onPath ? `the one on PATH (${onPath}) is older than ${oldestVersion.join('.')}` : 'it is not on PATH',
    `it is not in ${cacheFolder(machine)}`,
  ];
  const system = `${process.platform}-${process.arch}`;
  const checksum = release.checksums[system];
  if (checksum !== undefined) {
    const name = `nats-server-v${release.version}-${system.replace('x64', 'amd64')}`;
    const url = `https://github.com/nats-io/nats-server/releases/download/v${release.version}/${name}.tar.gz`;
    try {
      await fetchArchive({ url, checksum, member: `${name}/nats-server` }, cached, machine);
      return {
        path: cached,
        from: `nats-server ${release.version}, the released archive (${url}), now in the cache (${cached})`,
      };
    } catch (error) {
      machine.signal?.throwIfAborted();
      const { message, cause } = error as Error;
      tried.push(`its release could not be fetched (${cause instanceof Error ? cause.message : message})`);
    }
  } else tried.push(`no release for ${system} is known here`);

  const go = findProgram('go', machine, goFolders);
  const missing = `nats-server is missing: ${tried.join(', ')}`;
  if (go === undefined) throw new Missing(`${missing}, and there is no Go to build it with.`, ['golang-go']);
  const goVersion = await versionOf(go, 'version');
  if (goVersion === undefined || !isAtLeast(goVersion, oldestGo))
    throw new Missing(
      `${missing}, and the Go here (${go}, ${goVersion?.join('.') ?? 'of unknown version'}) can't build it: ` +
        `install ${oldestGo.join('.')} or newer from https://go.dev/dl, or name a running server with --nats-url.`,
      [],
    );
  const fresh = `${cached}.${process.pid}`;
  mkdirSync(fresh, { recursive: true });
  try {
    await longStep(
      `Building nats-server ${moduleVersion} with Go (${go})`,
      [go, 'install', `github.com/nats-io/nats-server/v2@v${moduleVersion}`],
      machine,
      { env: { GOBIN: fresh, GOFLAGS: '' } },
    );
    renameSync(join(fresh, basename(cached)), cached);
  } finally {
    rmSync(fresh, { recursive: true, force: true });
  }
  return { path: cached, from: `nats-server ${moduleVersion}, built with Go (${go}), now in the cache (${cached})` };
}

const onWindows = process.platform === 'win32';

async function recentVersion(path: string): Promise<string | undefined> {
  const version = await versionOf(path, '--version');
  return version && isAtLeast(version, oldestVersion) ? version.join('.') : undefined;
}

export type NatsOptions = {
  program: NatsProgram;
  port: number;
  /** Port of the monitoring pages; none when undefined. */
  monitorPort?: number | undefined;
  /** Folder of the configuration and of the store. */
  data: string;
  /** What it is called: in a cluster, each by another name. */
  serverName?: string;
  /** Whether it keeps streams: a leaf node may leave that to its hub. True by default. */
  jetstream?: boolean;
  /** The name by which leaf nodes know its JetStream. */
  domain?: string | undefined;
  /** More lines of its configuration: its part in a cluster, or what else is wanted of it. */
  configuration?: readonly string[];
};

/** Writes the configuration and says how the server is started. */
export function natsService(options: NatsOptions): Service {
  const { program, port, monitorPort, data, serverName = 'fleetreel', jetstream = true } = options;
  const { domain, configuration: more = [] } = options;
  const named = domain === undefined ? '' : `, domain: ${domain}`;
  mkdirSync(data, { recursive: true, mode: 0o700 });
  const configuration = join(data, 'nats-server.conf');
  writeFileSync(
    configuration,
    [
      `server_name: ${serverName}`,
      `listen: "127.0.0.1:${port}"`,
      ...(monitorPort === undefined ? [] : [`http: "127.0.0.1:${monitorPort}"`]),
      // What is acknowledged survives a power loss but for the last second; the agent keeps its frames longer than that.
      // The stream has its own bound; the server's would only be a second one that refuses to create it.
      ...(jetstream
        ? [`jetstream { store_dir: ${JSON.stringify(data)}, sync_interval: "1s", max_file_store: 1TB${named} }`]
        : []),
      'max_payload: 1MB',
      ...more,
      '',
    ].join('\n'),
  );
  return {
    name: 'nats-server',
    command: program.path,
    args: ['--config', configuration],
    ready: (signal) => greets(port, jetstream, signal),
  };
}

/** Room on the disk with which a nats-server that ran out of it is started again, bytes: some blocks of its streams. */
const roomBytes = 64 * 1024 ** 2;

/**
 * Why a running nats-server has to be started again: once it could not write a file it takes nothing more into that stream, or has
 * no JetStream any more, until then. Undefined while it is well, does not answer, or its disk is still full.
 * @param port of its monitoring pages
 */
export async function natsIllness(port: number, data: string, signal: AbortSignal): Promise<string | undefined> {
  try {
    const answer = await fetch(`http://127.0.0.1:${port}/healthz`, { signal });
    const { error } = (await answer.json()) as { error?: string };
    // Others pass: a stream may be recovered just now.
    if (error === undefined || !/ write error: |JetStream not enabled/.test(error)) return undefined;
    const { bavail, bsize } = statfsSync(data);
    return bavail * bsize < roomBytes ? undefined : error;
  } catch {
    // Whoever does not answer has ended, or will be asked again.
    return undefined;
  }
}

/** Whether a NATS server, with JetStream when that is wanted, greets at this port of loopback. */
async function greets(port: number, jetstream: boolean, signal: AbortSignal): Promise<boolean> {
  const info = await natsInfo('127.0.0.1', port, signal);
  return info !== undefined && (!jetstream || info.jetstream === true);
}

/** What a NATS server says of itself when one connects; undefined where none answers. */
export function natsInfo(
  host: string,
  port: number,
  signal: AbortSignal,
): Promise<{ jetstream?: boolean; version?: string } | undefined> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, signal });
    let text = '';
    const settle = (info?: { jetstream?: boolean; version?: string }) => {
      socket.destroy();
      resolve(info);
    };
    socket.setEncoding('utf8');
    socket.on('error', () => settle());
    socket.on('close', () => settle());
    socket.on('data', (part: string) => {
      text += part;
      const end = text.indexOf('\r\n');
      if (end < 0) return;
      const line = text.slice(0, end);
      settle(line.startsWith('INFO ') ? JSON.parse(line.slice(5)) : undefined);
    });
  });
}
