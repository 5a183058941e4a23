import { randomUUID } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { hostname, networkInterfaces, release, uptime } from 'node:os';
import { join } from 'node:path';
import type { HostDescription } from '@fleetreel/proto';
import type { Roots } from '#source.ts';

/** Who this machine is, as far as its name and its claim need it. */
export type Identity = { host: string; machineId: string; bootId: string };

/** A file's first line; empty when it can't be read. */
function line(path: string): string {
  try {
    return readFileSync(path, 'utf8').split('\n', 1)[0]?.trim() ?? '';
  } catch {
    return '';
  }
}

/**
 * The machine's identity: /etc/machine-id or the D-Bus one; where there is none, one that is made once and kept in the data
 * folder.
 * @see https://www.freedesktop.org/software/systemd/man/latest/machine-id.html
 * @throws Error when one has to be kept and can't be
 */
export function identify(settings: { host?: string; machine_id?: string; data: string }, roots: Roots): Identity {
  const machineId =
    settings.machine_id ||
    line(join(roots.etc, 'machine-id')) ||
    line('/var/lib/dbus/machine-id') ||
    keptMachineId(settings.data);
  return {
    host: settings.host || hostname(),
    machineId,
    bootId: line(join(roots.proc, 'sys/kernel/random/boot_id')) || `${machineId}-${release()}`,
  };
}

function keptMachineId(folder: string): string {
  const path = join(folder, 'machine-id');
  const kept = line(path);
  if (kept !== '') return kept;
  const made = randomUUID().replaceAll('-', '');
  mkdirSync(folder, { recursive: true });
  writeFileSync(path, `${made}\n`);
  return made;
}

/** Addresses of this machine's interfaces, loopback and link-local left out. */
export function addresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .filter(({ internal, address }) => !internal && !address.startsWith('fe80:'))
    .map(({ address }) => address)
    .sort();
}

/** What the machine is. Some of it is asked from other programs by systeminformation, so it is done seldom. */
export async function describe(
  identity: Identity,
  more: { session: string; time_us: number; agent_version: string; interval_ms: number; tags: Record<string, string> },
): Promise<HostDescription> {
  // Loaded only here: it is large, and needed at start and once an hour.
  const { default: si } = await import('systeminformation');
  const [os, cpu, memory, system, graphics] = await Promise.all([
    si.osInfo(),
    si.cpu(),
    si.mem(),
    si.system(),
    si.graphics(),
  ]);
  return {
    host: identity.host,
    machine_id: identity.machineId,
    boot_id: identity.bootId,
    platform: process.platform,
    os: [os.distro, os.release].filter(Boolean).join(' '),
    kernel: os.kernel,
    architecture: process.arch,
    cpu_model: [cpu.manufacturer, cpu.brand].filter(Boolean).join(' '),
    cpu_count: cpu.cores,
    memory_bytes: memory.total,
    gpus: graphics.controllers.map(({ model }) => model).filter(Boolean),
    virtualization: system.virtual ? system.virtualHost || 'virtual' : '',
    boot_time_us: Math.round(more.time_us / 1e6 - uptime()) * 1e6,
    addresses: addresses(),
    ...more,
  };
}
