// What these tests need of the machine. Where it is missing they are left out with the reason; never on CI.
import { accessSync, constants, existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { TestContext } from 'vitest';

/** The program on PATH or in the usual folders of administrators; undefined where there is none. */
export function program(...names: readonly string[]): string | undefined {
  const folders = [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin', '/usr/bin'];
  return names
    .flatMap((name) => folders.map((folder) => join(folder, name)))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

export const nodeExporter = (): string | undefined => program('prometheus-node-exporter', 'node_exporter');

const lacks = {
  linux: () =>
    process.platform === 'linux' ? undefined : `these numbers are Linux's, not those of ${process.platform}`,
  root: () => (process.getuid?.() === 0 ? undefined : 'devices and network namespaces are made as root'),
  ip: () => (program('ip') ? undefined : '`ip` is missing (Debian: iproute2)'),
  taskset: () => (program('taskset') ? undefined : '`taskset` is missing (Debian: util-linux)'),
  ramDisk: () =>
    existsSync('/sys/class/zram-control') && program('mkfs.ext4')
      ? undefined
      : 'a block device of its own is made with zram (`modprobe zram`) and mkfs.ext4 (Debian: e2fsprogs)',
  nodeExporter: () =>
    nodeExporter()
      ? undefined
      : 'node_exporter is missing (Debian: prometheus-node-exporter, or `node_exporter` on PATH)',
};
export type Requirement = keyof typeof lacks;

/** Why this machine can't run a test that needs these; undefined where it can, and on CI, where all must run. */
export function missing(...needed: readonly Requirement[]): string | undefined {
  if (process.env.CI) return undefined;
  const reasons = needed.flatMap((name) => lacks[name]() ?? []);
  return reasons.length > 0 ? reasons.join('; ') : undefined;
}

/** Leaves the test out, counted and with the reason, where something is missing. */
export function need(context: TestContext, ...needed: readonly Requirement[]): void {
  const reason = missing(...needed);
  if (reason !== undefined) context.skip(reason);
}
