// Finds the servers of language models on this host without asking anything that is none: by their programs' names and the
// sockets that these listen on, and by the one port that belongs to Ollama.
import { readdirSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { Cursor, readOnce } from '#files.ts';
import { llmServersMax } from '#limits.ts';
import type { Processes, Roots } from '#source.ts';

/** Where the proxy listens unless it is told otherwise: beside Ollama. */
export const proxyPort = 11_435;
/** Ports that no other program has by default. Whoever listens there is asked who it is. */
const ownPorts = [11_434, proxyPort];

/** Programs by the name of the process, or of what an interpreter runs; the port is theirs by default. */
const programs: readonly { name: RegExp; command?: RegExp; port: number }[] = [
  { name: /^ollama$/, port: 11_434 },
  { name: /^llama-server$/, port: 8080 },
  // The kernel keeps 15 characters: text-generation-launcher and -router.
  { name: /^text-generation$/, port: 3000 },
  { name: /^(vllm|VLLM::APIServer.*)$/, port: 8000 },
  { name: /^(python|pt_main)/, command: /\bvllm( serve|\.entrypoints)\b/, port: 8000 },
  { name: /^(python|pt_main)/, command: /\bsglang(\.launch_server| serve)\b/, port: 30_000 },
  { name: /^(python|pt_main)/, command: /\bllama_cpp\.server\b/, port: 8000 },
  { name: /^(node|MainThread|fleetreel)/, command: /\bllm-proxy\b/, port: proxyPort },
];

/** Parts of engines, which listen only for each other. */
const workers = /^(VLLM::(?!APIServer)|sglang::)/;

/**
 * Every so many scans all processes are looked at, else only new ones: a process may become another program. The kernel
 * takes some 10 ms to list the sockets: they are looked at then, and when there is something to be found among them.
 */
const wholeScanEvery = 10;
/** Sockets of one process that are looked at, and its ports that are asked: engines listen on others for themselves. */
const descriptorsMax = 4096;
const portsPerProcessMax = 4;

type Socket = { host: string; port: number };

export class Discovery {
  readonly #proc: string;
  readonly #processes: Processes;
  readonly #known = new Set<number>();
  /** Processes that may serve, with their program's port. */
  readonly #servers = new Map<number, { name: string; port: number | undefined }>();
  #unseen: string[] = [];
  #hasOwnPort = false;
  #scans = 0;

  constructor(roots: Pick<Roots, 'proc'>, processes: Processes) {
    this.#proc = roots.proc;
    this.#processes = processes;
  }

  /** Programs that seem to serve where it can't be seen, with their process: `vllm (1234)`. */
  get unseen(): readonly string[] {
    return this.#unseen;
  }

  /** Addresses that may be servers, as `127.0.0.1:11434`. */
  addresses(): string[] {
    const isWhole = this.#scans++ % wholeScanEvery === 0;
    this.#scan(isWhole);
    const isWorthwhile = isWhole || this.#hasOwnPort || this.#servers.size > 0;
    const listening = isWorthwhile ? this.#listening() : new Map<string, Socket>();
    const found = new Map<number, Socket>();
    const add = (socket: Socket): void => {
      // Of one port the loopback address is enough.
      if (!found.has(socket.port) || socket.host === '127.0.0.1') found.set(socket.port, socket);
    };
    for (const socket of listening.values()) if (ownPorts.includes(socket.port)) add(socket);
    this.#hasOwnPort = found.size > 0;
    this.#unseen = [];
    for (const [pid, { name, port }] of this.#servers) {
      const sockets = this.#socketsOf(pid, port, listening);
      for (const socket of sockets) add(socket);
      if (sockets.length === 0 && this.#isHidden(pid)) this.#unseen.push(`${name} (${pid})`);
    }
    return [...found.values()]
      .slice(0, llmServersMax)
      .map(({ host, port }) => `${host}:${port}`)
      .sort();
  }

  /** Looks for programs among the processes. */
  #scan(isWhole: boolean): void {
    if (isWhole) this.#known.clear();
    const alive = new Set<number>();
    for (const name of entriesOf(this.#proc)) {
      const pid = Number(name);
      if (!Number.isInteger(pid)) continue;
      alive.add(pid);
      if (this.#known.has(pid)) continue;
      this.#known.add(pid);
      const served = this.#isServer(pid);
      if (served) this.#servers.set(pid, served);
      else this.#servers.delete(pid);
    }
    for (const pid of this.#servers.keys()) if (!alive.has(pid)) this.#servers.delete(pid);
    for (const pid of this.#known) if (!alive.has(pid)) this.#known.delete(pid);
  }

  #isServer(pid: number): { name: string; port: number | undefined } | undefined {
    const name = readOnce(join(this.#proc, String(pid), 'comm')).trim();
    if (workers.test(name)) return undefined;
    const program = programs.find(
      (one) => one.name.test(name) && (one.command === undefined || one.command.test(this.#command(pid))),
    );
    if (program === undefined)
      return this.#processes.identity(pid)?.class === 'llm' ? { name, port: undefined } : undefined;
    // What Ollama starts for a model serves Ollama alone.
    return this.#parentName(pid) === 'ollama' ? undefined : { name, port: program.port };
  }

  /** Its sockets may not be seen, or are in another network. What has none for all to see is a client. */
  #isHidden(pid: number): boolean {
    const folder = join(this.#proc, String(pid));
    if (entriesOf(join(folder, 'fd')).length === 0) return true;
    return linkOf(join(folder, 'ns/net')) !== linkOf(join(this.#proc, 'self/ns/net'));
  }

  #command(pid: number): string {
    return readOnce(join(this.#proc, String(pid), 'cmdline')).replaceAll('\0', ' ');
  }

  #parentName(pid: number): string {
    const stat = readOnce(join(this.#proc, String(pid), 'stat'));
    const parent = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1];
    return parent === undefined ? '' : readOnce(join(this.#proc, parent, 'comm')).trim();
  }

  /**
   * Where a process listens. Its sockets may be hidden (another user's) or in another network (a container's): then the port
   * it was given, or its program's, if somebody listens there.
   */
  #socketsOf(pid: number, port: number | undefined, listening: ReadonlyMap<string, Socket>): Socket[] {
    const own = entriesOf(join(this.#proc, String(pid), 'fd'))
      .slice(0, descriptorsMax)
      .flatMap((descriptor) => {
        const [, inode = ''] = /^socket:\[(\d+)\]$/.exec(linkOf(join(this.#proc, String(pid), 'fd', descriptor))) ?? [];
        return listening.get(inode) ?? [];
      });
    const [, given] = /\s--port[= ](\d+)\b/.exec(this.#command(pid)) ?? [];
    const expected = given === undefined ? port : Number(given);
    const served = own.filter((socket) => socket.port === expected);
    if (served.length > 0) return served;
    if (own.length > 0) return own.slice(0, portsPerProcessMax);
    return [...listening.values()].filter((socket) => socket.port === expected);
  }

  /** All listening sockets of this network by inode. */
  #listening(): Map<string, Socket> {
    const sockets = new Map<string, Socket>();
    for (const file of ['net/tcp', 'net/tcp6'])
      for (const { inode, ...socket } of parseListening(readOnce(join(this.#proc, file)))) sockets.set(inode, socket);
    return sockets;
  }
}

const listen = '0A';

/**
 * Listening sockets of /proc/net/tcp or tcp6, with an address at which they can be reached from this host.
 * @see https://docs.kernel.org/networking/proc_net_tcp.html
 */
export function parseListening(text: string): (Socket & { inode: string })[] {
  const sockets: (Socket & { inode: string })[] = [];
  const cursor = new Cursor(text);
  for (cursor.nextLine(); !cursor.atEnd; cursor.nextLine()) {
    cursor.skip(1);
    const [address = '', port = ''] = cursor.word().split(':');
    cursor.skip(1);
    if (cursor.word() !== listen) continue;
    cursor.skip(5);
    sockets.push({ host: hostOf(address), port: Number.parseInt(port, 16), inode: cursor.word() });
  }
  return sockets;
}

/** An address as the kernel writes it: words of four bytes, each in the order of the machine. */
function hostOf(address: string): string {
  const bytes = (address.match(/.{8}/g) ?? []).flatMap((word) =>
    (word.match(/../g) ?? []).reverse().map((byte) => Number.parseInt(byte, 16)),
  );
  const isMapped = bytes.length === 16 && bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 255;
  if (bytes.every((byte) => byte === 0)) return '127.0.0.1';
  if (bytes.length === 4 || isMapped) return bytes.slice(-4).join('.');
  const groups = Array.from({ length: 8 }, (_, at) =>
    (((bytes[at * 2] ?? 0) << 8) | (bytes[at * 2 + 1] ?? 0)).toString(16),
  );
  const isLoopback = groups.slice(0, 7).every((group) => group === '0') && groups[7] === '1';
  return `[${isLoopback ? '::1' : groups.join(':')}]`;
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}
