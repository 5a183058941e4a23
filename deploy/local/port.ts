// TCP ports of this machine: a free one, and who holds one.
import { once } from 'node:events';
import { type Dirent, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { basename } from 'node:path';

/**
 * A free TCP port on loopback, below the range that the system gives to outgoing connections: a client that keeps
 * trying a port of that range may be connected to itself, and the server that comes back finds its port taken.
 */
export async function freePort(): Promise<number> {
  const ports = range();
  for (let attempt = 0; attempt < 200; attempt++) {
    const port = Math.floor(ports.first + Math.random() * ports.count);
    if (!given.has(port) && (await isFree(port))) {
      given.add(port);
      return port;
    }
  }
  throw new Error('No free TCP port was found between 15000 and 32000 on 127.0.0.1.');
}

/** Where a port is looked for. Each of several test workers has a part for itself: a server binds some seconds after it was given its port. */
function range(): { first: number; count: number } {
  const all = { first: 15_000, count: 17_000 };
  const worker = process.env.VITEST_POOL_ID;
  if (worker === undefined) return all;
  const count = all.count / 16;
  return { first: all.first + (Number(worker) % 16) * count, count };
}

/** Ports that were given out but perhaps not yet bound. */
const given = new Set<number>();

/** Whether a server could listen on this port of loopback. */
export async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  const free = new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false));
    server.once('listening', () => resolve(true));
  });
  server.listen(port, '127.0.0.1');
  if (!(await free)) return false;
  server.close();
  await once(server, 'close');
  return true;
}

/** Whether something accepts connections there. */
export function accepts(host: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const settle = (open: boolean) => {
      socket.destroy();
      resolve(open);
    };
    socket.setTimeout(2000, () => settle(false));
    socket.once('connect', () => settle(true));
    socket.once('error', () => settle(false));
  });
}

/** Who listens on a TCP port: the process, and how it was called. */
export type PortHolder = { pid: number; name: string };

/** The process that listens on a TCP port; undefined where it can't be seen (another user's, or not on Linux). */
export function portHolder(port: number, proc = '/proc'): PortHolder | undefined {
  const inodes = new Set(listeners(port, proc).map(({ inode }) => inode));
  if (inodes.size === 0) return undefined;
  for (const { name: pid } of list(proc)) {
    if (!/^\d+$/.test(pid)) continue;
    for (const { name: descriptor } of list(`${proc}/${pid}/fd`)) {
      const socket = attempt(() => readlinkSync(`${proc}/${pid}/fd/${descriptor}`));
      if (!socket?.startsWith('socket:[') || !inodes.has(socket.slice(8, -1))) continue;
      return { pid: Number(pid), name: nameOf(`${proc}/${pid}`) };
    }
  }
  return undefined;
}

/** Name of a process: its program, with the script where it runs one. */
function nameOf(process: string): string {
  const [program = '', script = ''] = (attempt(() => readFileSync(`${process}/cmdline`, 'utf8')) ?? '').split('\0');
  if (program === '') return attempt(() => readFileSync(`${process}/comm`, 'utf8').trim()) ?? 'unknown';
  const tail = script.split('/').slice(-3).join('/');
  return /\.\w+$/.test(tail) && !script.startsWith('-') ? `${basename(program)} ${tail}` : basename(program);
}

/**
 * The sockets that listen on a TCP port of any address, with the numbers of the users whose they are; none where that can't be seen
 * (not on Linux).
 */
export function listeners(port: number, proc = '/proc'): { inode: string; user: number }[] {
  const wanted = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  return ['tcp', 'tcp6']
    .flatMap((table) => (attempt(() => readFileSync(`${proc}/net/${table}`, 'utf8')) ?? '').split('\n').slice(1))
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local = '', , state]) => state === '0A' && local.endsWith(wanted))
    .map((columns) => ({ inode: columns[9] ?? '', user: Number(columns[7]) }));
}

const list = (folder: string): Dirent[] => attempt(() => readdirSync(folder, { withFileTypes: true })) ?? [];

/** Processes and sockets come and go, and those of others can't be read: both mean that there is nothing to see. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
