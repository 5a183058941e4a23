// A libvirt of its own: its folders are seen only by it, its sockets lie in a temporary one. Needs root.
import { execFile } from 'node:child_process';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { promisify } from 'node:util';
import { Child } from '@fleetreel/deploy/local/child';

export const qemu = 'qemu-system-x86_64';

/** Whether a socket takes connections. */
const accepts = (path: string): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connect(path, () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });

/** Folders of libvirt, each hidden behind one of ours. */
const folders = {
  run: '/run/libvirt',
  lib: '/var/lib/libvirt',
  etc: '/etc/libvirt',
  log: '/var/log/libvirt',
  cache: '/var/cache/libvirt',
};

const daemonSettings = `auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0777"
log_outputs = "3:stderr"
`;
const driverSettings = `user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
remember_owner = 0
`;

export class LibvirtServer implements AsyncDisposable {
  /** In the place of /run: the sockets are in `libvirt/` below it. */
  readonly run: string;
  readonly #root: string;
  readonly #domains = new Set<string>();
  #child: Child | undefined;

  constructor(root: string) {
    this.#root = root;
    this.run = join(root, 'run');
  }

  /** A file beside its folders. */
  path(name: string): string {
    return join(this.#root, name);
  }

  get pid(): number {
    return this.#child?.pid ?? 0;
  }

  /** Starts it on the same folders; the machines that run go on running and are found again. */
  async start(): Promise<void> {
    const binds = Object.entries(folders).map(([name, path]) => {
      mkdirSync(path, { recursive: true });
      return `mount --bind "$0/${name === 'run' ? 'run/libvirt' : name}" ${path}`;
    });
    const script = [...binds, 'exec libvirtd --pid-file "$0/libvirtd.pid" --config /etc/libvirt/libvirtd.conf'];
    this.#child = await Child.start({
      name: 'libvirtd',
      command: 'unshare',
      args: ['--mount', '--propagation', 'private', 'bash', '-ec', script.join('\n'), this.#root],
    });
    await this.#child.untilReady(() => accepts(join(this.run, 'libvirt/libvirt-sock-ro')), 30_000);
  }

  /** Ends the daemon and not the machines. */
  async stop(): Promise<void> {
    // Only the daemon: the machines go on.
    if (this.#child && !this.#child.ended) process.kill(this.#child.pid, 'SIGTERM');
    await this.#child?.exited;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#child) process.kill(this.#child.pid, signal);
  }

  async virsh(...args: string[]): Promise<string> {
    const address = `qemu:///system?socket=${join(this.run, 'libvirt/libvirt-sock')}`;
    const environment = { ...process.env, LC_ALL: 'C' };
    return (await promisify(execFile)('virsh', ['-q', '-c', address, ...args], { env: environment })).stdout;
  }

  /** Starts a machine that is described by `domainXml`. */
  async create(xml: string, uuid: string): Promise<void> {
    const file = this.path(`${uuid}.xml`);
    writeFileSync(file, xml);
    await this.virsh('create', file);
    this.#domains.add(uuid);
  }

  /** The same, without starting it. */
  async define(xml: string, uuid: string): Promise<void> {
    const file = this.path(`${uuid}.xml`);
    writeFileSync(file, xml);
    await this.virsh('define', file);
  }

  async destroy(uuid: string): Promise<void> {
    await this.virsh('destroy', uuid);
    this.#domains.delete(uuid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      if (this.#child?.ended) await this.start();
      for (const uuid of this.#domains) {
        try {
          await this.virsh('destroy', uuid);
        } catch {
          // It has ended by itself.
        }
      }
    } finally {
      await this.stop();
      await pause(100);
      rmSync(this.#root, { recursive: true, force: true });
    }
  }
}

export async function startLibvirt(): Promise<LibvirtServer> {
  const root = mkdtempSync(join(tmpdir(), 'fleetreel-libvirt-'));
  for (const name of ['run/libvirt', 'lib', 'etc', 'log', 'cache']) mkdirSync(join(root, name), { recursive: true });
  writeFileSync(join(root, 'etc/libvirtd.conf'), daemonSettings);
  writeFileSync(join(root, 'etc/qemu.conf'), driverSettings);
  const server = new LibvirtServer(root);
  try {
    await server.start();
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
  return server;
}

/** Bytes that the guest of `writeBootDisk` writes before it spins. */
export const guestWrites = { bytes: 8 * 1024 * 1024, operations: 256 };

/**
 * A disk whose boot sector writes known bytes to it by the BIOS, and then spins: the smallest guest with a busy processor.
 * The writes are 256 of 64 sectors, from sector 64 on.
 */
export function writeBootDisk(path: string): void {
  const sector = Buffer.alloc(512);
  const packetAt = 0x7c00 + 48;
  // biome-ignore format: one instruction a line
  const code = [
    0xfa,                                   // cli
    0x31, 0xc0,                             // xor ax, ax
    0x8e, 0xd8,                             // mov ds, ax
    0x8e, 0xd0,                             // mov ss, ax
    0xbc, 0x00, 0x7c,                       // mov sp, 0x7c00
    0xfb,                                   // sti
    0xb9, 0x00, 0x01,                       // mov cx, 256
    0x51,                                   // next: push cx
    0xbe, packetAt & 255, packetAt >> 8,    // mov si, packet
    0xb8, 0x00, 0x43,                       // mov ax, 0x4300: extended write
    0xb2, 0x80,                             // mov dl, 0x80: the first disk
    0xcd, 0x13,                             // int 0x13
    0x83, 0x06, (packetAt + 8) & 255, packetAt >> 8, 64, // add word [packet + 8], 64
    0x59,                                   // pop cx
    0xe2, 0xed,                             // loop next
    0xeb, 0xfe,                             // jmp $
  ];
  sector.set(code);
  // The packet: its size, 64 sectors, from 0x1000:0000, to sector 64.
  sector.set([16, 0, 64, 0, 0, 0, 0, 0x10, 64], 48);
  sector.set([0x55, 0xaa], 510);
  const file = openSync(path, 'w');
  ftruncateSync(file, 16 * 1024 * 1024);
  writeSync(file, sector, 0, 512, 0);
  closeSync(file);
}

/** A small machine: 32 MiB, two processors of which the guest uses one, a virtio disk, by name a tap interface. */
export function domainXml(options: { name: string; uuid: string; disk: string; tap?: string }): string {
  const text = (value: string) => value.replace(/[&<>'"\n]/g, (character) => `&#${character.charCodeAt(0)};`);
  const tap = options.tap
    ? `<interface type="ethernet"><target dev="${options.tap}" managed="no"/><model type="virtio"/></interface>`
    : '';
  return `<domain type="qemu"><name>${text(options.name)}</name><uuid>${options.uuid}</uuid><memory unit="MiB">32</memory>
<vcpu>2</vcpu><os><type arch="x86_64" machine="pc">hvm</type></os><features><acpi/></features><devices>
<emulator>/usr/bin/${qemu}</emulator>
<disk type="file"><driver name="qemu" type="raw" cache="unsafe"/><source file="${text(options.disk)}"/><target dev="vda" bus="virtio"/></disk>
${tap}<memballoon model="virtio"/></devices></domain>`;
}

/** Starts a QEMU that no libvirt manages, with the guest of `writeBootDisk` on `disk`, and a QMP socket. */
export async function startQemu(settings: {
  disk: string;
  socket: string;
  uuid?: string | undefined;
  name: string;
}): Promise<Child> {
  writeBootDisk(settings.disk);
  const child = await Child.start({
    name: qemu,
    command: qemu,
    args: [
      '-display',
      'none',
      '-m',
      '16',
      '-smp',
      '2',
      '-accel',
      'tcg,thread=multi',
      '-name',
      settings.name,
      ...(settings.uuid ? ['-uuid', settings.uuid] : []),
      '-drive',
      `file=${settings.disk},format=raw,if=virtio,cache=unsafe`,
      '-qmp',
      `unix:${settings.socket},server=on,wait=off`,
    ],
  });
  await child.untilReady(async () => existsSync(settings.socket), 20_000);
  return child;
}
