import { join } from 'node:path';
import type { Roots } from '#source.ts';

// Which container a cgroup belongs to, and where the kernel shows the cgroups.

/** What the path of a cgroup says of its container. */
export type CgroupContainer = {
  /** The first 12 of its 64 hexadecimal digits, as the engines show it; of LXC and systemd-nspawn its name. */
  id: string;
  /** docker, podman, containerd, cri-o, lxc, systemd-nspawn, or how the path itself calls it; empty where it does not say. */
  engine: string;
  /** UID of its Kubernetes pod; empty outside of pods. */
  podUid: string;
};

const idDigits = 12;
/** `<id>`, `<prefix>-<id>.scope`, and `<slice>:<prefix>:<id>` where containerd was set up for systemd on a host without. */
const digits = /^(?:(?:.*:)?([a-z][a-z0-9._-]*)[-:])?([0-9a-f]{64})(?:\.scope|\.service)?$/;
const pod =
  /(?:^|[-/])pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=\.slice|[/:]|$)/;
/** systemd escapes what is no letter, digit, ":", "_" or "." in the names of its units. */
const escaped = /\\x([0-9a-f]{2})/g;

/** How the engines mark the cgroups of their containers. */
const enginesByPrefix: Readonly<Record<string, string>> = {
  docker: 'docker',
  libpod: 'podman',
  'cri-containerd': 'containerd',
  containerd: 'containerd',
  nerdctl: 'containerd',
  crio: 'cri-o',
};
/** Where engines that leave names to cgroups without systemd put them. */
const enginesByParent: Readonly<Record<string, string>> = {
  docker: 'docker',
  libpod_parent: 'podman',
  'k8s.io': 'containerd',
  default: 'containerd',
};

/** The container whose own cgroup this path is, without what is below it; undefined where it is none. */
export function containerAt(path: string): CgroupContainer | undefined {
  const start = path.lastIndexOf('/');
  const name = path.slice(start + 1);
  const parents = path.slice(0, Math.max(start, 0));
  const parent = parents.slice(parents.lastIndexOf('/') + 1);
  const found = digits.exec(name);
  if (!found) return namedContainer(name, parent);
  const [, prefix = '', id = ''] = found;
  // The monitor that stands beside each container of Podman and CRI-O.
  if (prefix.endsWith('conmon')) return undefined;
  const podUid = pod.exec(path)?.[1]?.replaceAll('_', '-') ?? '';
  const engine =
    prefix === ''
      ? (enginesByParent[parent] ?? (podUid === '' ? '' : 'containerd'))
      : (enginesByPrefix[prefix] ?? prefix);
  return { id: id.slice(0, idDigits), engine, podUid };
}

/** Containers that are known by a name: LXC, Incus and LXD, systemd-nspawn, LXC of libvirt. */
function namedContainer(name: string, parent: string): CgroupContainer | undefined {
  const named = (id: string, engine: string): CgroupContainer | undefined =>
    id === '' ? undefined : { id, engine, podUid: '' };
  if (name.startsWith('lxc.payload.')) return named(name.slice('lxc.payload.'.length), 'lxc');
  if ((parent === 'lxc' || parent === 'lxc.payload') && !name.startsWith('lxc')) return named(name, 'lxc');
  const service = /^systemd-nspawn@(.*)\.service$/.exec(name);
  if (service) return named(unescaped(service[1] ?? ''), 'systemd-nspawn');
  const scope = parent === 'machine.slice' ? /^machine-(.*)\.scope$/.exec(name) : null;
  if (!scope) return undefined;
  const machine = unescaped(scope[1] ?? '');
  // Virtual machines are registered there, too.
  if (machine.startsWith('qemu-') || machine.startsWith('libpod')) return undefined;
  return machine.startsWith('lxc-') ? named(machine.slice(4), 'lxc') : named(machine, 'systemd-nspawn');
}

const unescaped = (name: string): string =>
  name.replace(escaped, (_, code: string) => String.fromCharCode(Number.parseInt(code, 16)));

/** The innermost container that this cgroup is, or is in: containers have cgroups of their own below. */
export function containerAbove(path: string): CgroupContainer | undefined {
  for (let end = path.length; end > 0; end = path.lastIndexOf('/', end - 1)) {
    const container = containerAt(path.slice(0, end));
    if (container) return container;
  }
  return undefined;
}

/** The id, as in the table `container`, of the container that a process runs in, by its /proc/PID/cgroup; empty outside. */
export function containerOf(cgroupText: string): string {
  let before = '';
  for (let start = 0; start < cgroupText.length; ) {
    const newline = cgroupText.indexOf('\n', start);
    const end = newline < 0 ? cgroupText.length : newline;
    const path = cgroupText.slice(cgroupText.indexOf(':', cgroupText.indexOf(':', start) + 1) + 1, end);
    start = end + 1;
    // The hierarchies of version 1 repeat one path; most processes are in none.
    if (path === before || path === '/') continue;
    before = path;
    const container = containerAbove(path);
    if (container) return container.id;
  }
  return '';
}

/** Where cgroups are mounted. */
export type CgroupMounts = {
  /** Folder of each controller of version 1, with `systemd` for the hierarchy that has none. */
  v1: ReadonlyMap<string, string>;
  /** Folder of version 2; empty where it is not mounted. In a hybrid system it has no controllers, but pressure. */
  v2: string;
  /** Only a part of the hierarchy is seen: the reader is in a container. */
  isPartial: boolean;
};

/**
 * The cgroup file systems of /proc/self/mountinfo, the first of each kind.
 * @see https://docs.kernel.org/filesystems/proc.html (3.5)
 */
export function parseCgroupMounts(mountinfo: string, roots: Pick<Roots, 'sys'>): CgroupMounts {
  const v1 = new Map<string, string>();
  let v2 = '';
  let isPartial = false;
  for (const line of mountinfo.split('\n')) {
    const separator = line.indexOf(' - cgroup');
    if (separator < 0) continue;
    const [, , , root = '', point = ''] = line.slice(0, separator).split(' ');
    const [type = '', , options = ''] = line.slice(separator + 3).split(' ');
    const folder = below(
      roots.sys,
      point.replace(/\\(\d{3})/g, (_, code) => String.fromCharCode(Number.parseInt(code, 8))),
    );
    if (type === 'cgroup2') {
      if (v2 === '') {
        v2 = folder;
        isPartial ||= root !== '/';
      }
      continue;
    }
    for (const option of options.split(',')) {
      const controller = option.startsWith('name=') ? option.slice('name='.length) : option;
      if (controller === 'rw' || controller === 'ro' || controller.includes('=') || v1.has(controller)) continue;
      v1.set(controller, folder);
      isPartial ||= root !== '/';
    }
  }
  return { v1, v2, isPartial };
}

/** What is mounted below /sys is read where the settings say that /sys is. */
const below = (sys: string, point: string): string =>
  !point.startsWith(`${sys}/`) && point.startsWith('/sys/') ? join(sys, point.slice('/sys'.length)) : point;
