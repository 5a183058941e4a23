import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { accessSync, constants, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { hostname, networkInterfaces, release, uptime } from 'node:os';
import { dirname, extname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import type { HostDescription } from '@fleetreel/proto';
import { describeAnswerMilliseconds, describeBytesMax } from '#limits.ts';
import type { Machine } from '#machine.ts';
import type { Roots } from '#source.ts';

/** Who this machine is, as far as its name and its claim need it. */
export type Identity = {
  host: string;
  machineId: string;
  bootId: string;
  /** By which the host of a virtual machine knows it; empty where it can't be read: only root may. */
  dmiUuid: string;
};

/** A file's first line; empty when it can't be read. */
function line(path: string): string {
  try {
    return readFileSync(path, 'utf8').split('\n', 1)[0]?.trim() ?? '';
  } catch {
    return '';
  }
}

/** What systemd writes until the first boot of an image has given it an id. */
const notYet = 'uninitialized';

/**
 * The machine's identity: /etc/machine-id or the D-Bus one; where there is none, one that is made once and kept in the data
 * folder.
 * @param isKept false where nothing may be changed: an id that would have to be made is then good for this time only
 * @see https://www.freedesktop.org/software/systemd/man/latest/machine-id.html
 * @throws Error when one has to be kept and can't be
 */
export function identify(
  settings: { host?: string; machine_id?: string; data: string },
  roots: Roots,
  isKept: boolean,
): Identity {
  const machineId =
    settings.machine_id ||
    [
      join(roots.etc, 'machine-id'),
      // Of this system's own, not of one that is looked at through other folders.
      ...(roots.etc === '/etc' ? ['/var/lib/dbus/machine-id'] : []),
      join(settings.data, 'machine-id'),
    ]
      .map(line)
      .find((id) => id !== '' && id !== notYet) ||
    newMachineId(settings.data, isKept);
  return {
    host: settings.host || hostname(),
    machineId,
    dmiUuid: line(join(roots.sys, 'class/dmi/id/product_uuid')).toLowerCase(),
    bootId: line(join(roots.proc, 'sys/kernel/random/boot_id')) || `${machineId}-${release()}`,
  };
}

function newMachineId(folder: string, isKept: boolean): string {
  const made = randomUUID().replaceAll('-', '');
  if (isKept) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(join(folder, 'machine-id'), `${made}\n`);
  } else accessSync(nearestExisting(resolve(folder)), constants.W_OK | constants.X_OK);
  return made;
}

/** The folder itself, or the one in which it could be made. @throws Error where that is no folder */
function nearestExisting(path: string): string {
  const found = statSync(path, { throwIfNoEntry: false });
  if (found === undefined) return nearestExisting(dirname(path));
  if (!found.isDirectory()) throw new Error(`${path} is not a folder`);
  return path;
}

/** Addresses of this machine's interfaces, loopback and link-local left out. */
export function addresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
    .map(({ address }) => address)
    .sort();
}

/** The program that says what a machine is: beside this file, in the workspace and in the bundle. */
const machineProgram = join(import.meta.dirname, `machine${extname(import.meta.filename)}`);

/**
 * What the machine is, asked of a process that ends afterwards.
 * @throws Error when it has not answered in time
 */
export async function askMachine(): Promise<Machine> {
  const { stdout } = await promisify(execFile)(process.execPath, [machineProgram], {
    timeout: describeAnswerMilliseconds,
    killSignal: 'SIGKILL',
    maxBuffer: describeBytesMax,
  }).catch((cause: Error & { killed?: boolean }) => {
    const late = `the system has not described itself within ${describeAnswerMilliseconds / 1000} s`;
    throw new Error(cause.killed ? late : `the system could not describe itself: ${cause.message}`, { cause });
  });
  return JSON.parse(stdout) as Machine;
}

/**
 * The host's description.
 * @param machine what is known of the machine already; it is asked when absent
 * @throws Error when it has not answered in time
 */
export async function describe(
  identity: Identity,
  more: Pick<
    HostDescription,
    | 'session'
    | 'time_us'
    | 'agent_version'
    | 'interval_ms'
    | 'upload_interval_ms'
    | 'tags'
    | 'own_tags'
    | 'settings'
    | 'settings_digest'
    | 'settings_refused'
  >,
  machine?: Machine,
): Promise<HostDescription> {
  const known = machine ?? (await askMachine());
  return {
    host: identity.host,
    machine_id: identity.machineId,
    boot_id: identity.bootId,
    dmi_uuid: identity.dmiUuid,
    platform: process.platform,
    architecture: process.arch,
    ...known,
    boot_time_us: Math.round(more.time_us / 1e6 - uptime()) * 1e6,
    addresses: addresses(),
    ...more,
  };
}
