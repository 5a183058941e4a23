// nats-server on this machine: found or fetched, configured, started.
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Service } from '#local/child.ts';
import {
  cacheFolder,
  findProgram,
  isAtLeast,
  isExecutable,
  longStep,
  type Machine,
  Missing,
  versionOf,
} from '#local/obtain.ts';

/** The version that is fetched when none is found. */
export const natsVersion = '2.15.2';
/** The oldest version that is taken from PATH: frames need its per-message time to live and its direct gets. */
const oldestVersion = [2, 12];
/** Where Go puts itself when it isn't on PATH. */
const goFolders = ['/usr/local/go/bin', '/usr/lib/go/bin', '/opt/homebrew/bin', '/snap/bin'];

/** A server that was found, and where. */
export type NatsProgram = { path: string; from: string };

/**
 * nats-server from PATH when it is recent enough, else from the cache, else built from its Go module into the cache.
 * @throws Missing
 */
export async function findNats(machine: Machine): Promise<NatsProgram> {
  const onPath = findProgram('nats-server', machine);
  const version = onPath && (await versionOf(onPath, '--version'));
  if (onPath && version && isAtLeast(version, oldestVersion))
    return { path: onPath, from: `nats-server ${version.join('.')} on PATH (${onPath})` };

  const folder = join(cacheFolder(machine), `nats-server-${natsVersion}`);
  const cached = join(folder, process.platform === 'win32' ? 'nats-server.exe' : 'nats-server');
  if (isExecutable(cached)) return { path: cached, from: `nats-server ${natsVersion} of the cache (${cached})` };

  const go = findProgram('go', machine, goFolders);
  if (go) {
    const fresh = `${folder}.${process.pid}`;
    mkdirSync(fresh, { recursive: true });
    try {
      await longStep(
        `Building nats-server ${natsVersion} with Go (${go})`,
        [go, 'install', `github.com/nats-io/nats-server/v2@v${natsVersion}`],
        machine,
        { GOBIN: fresh, GOFLAGS: '' },
      );
      // Another process may have built it meanwhile: either is good.
      if (!isExecutable(cached)) {
        rmSync(folder, { recursive: true, force: true });
        renameSync(fresh, folder);
      }
    } finally {
      rmSync(fresh, { recursive: true, force: true });
    }
    return { path: cached, from: `nats-server ${natsVersion}, built with Go into the cache (${cached})` };
  }

  const old = onPath ? `the one on PATH (${onPath}) is older than ${oldestVersion.join('.')}` : 'it is not on PATH';
  throw new Missing(
    `nats-server is missing: ${old}, it is not in ${cacheFolder(machine)}, and there is no Go to build it with.`,
    ['golang-go'],
  );
}

export type NatsOptions = {
  program: NatsProgram;
  port: number;
  /** Port of the monitoring pages; none when undefined. */
  monitorPort?: number | undefined;
  /** Folder of the configuration and of the store. */
  data: string;
};

/** Writes the configuration and says how the server is started. */
export function natsService({ program, port, monitorPort, data }: NatsOptions): Service {
  mkdirSync(data, { recursive: true, mode: 0o700 });
  const configuration = join(data, 'nats-server.conf');
  writeFileSync(
    configuration,
    [
      'server_name: fleetreel',
      `listen: "127.0.0.1:${port}"`,
      ...(monitorPort === undefined ? [] : [`http: "127.0.0.1:${monitorPort}"`]),
      // What is acknowledged survives a power loss but for the last second; the agent keeps its frames longer than that.
      // The stream has its own bound; the server's would only be a second one that refuses to create it.
      `jetstream { store_dir: ${JSON.stringify(data)}, sync_interval: "1s", max_file_store: 1TB }`,
      'max_payload: 1MB',
      '',
    ].join('\n'),
  );
  return {
    name: 'nats-server',
    command: program.path,
    args: ['--config', configuration],
    ready: (signal) => greets(port, signal),
  };
}

/** Whether a NATS server with JetStream greets at this port of loopback. */
async function greets(port: number, signal: AbortSignal): Promise<boolean> {
  const info = await natsInfo('127.0.0.1', port, signal);
  return info?.jetstream === true;
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
