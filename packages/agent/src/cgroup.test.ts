import { expect, test } from 'vitest';
import { containerAbove, containerAt, containerOf, parseCgroupMounts } from '#cgroup.ts';

const id = '3fc95ce32f84e9346c5fbd3bce38045e478aa5b067603955555cbff8445ba74f';
const short = '3fc95ce32f84';
const uid = '7a96c459-d529-44ae-9f99-90d3798d6426';
const uid_ = uid.replaceAll('-', '_');
const besteffort = 'kubepods-besteffort';

test.each([
  ['docker, cgroupfs', `/docker/${id}`, 'docker', ''],
  ['docker, systemd', `/system.slice/docker-${id}.scope`, 'docker', ''],
  ['docker, rootless', `/user.slice/user-1000.slice/user@1000.service/app.slice/docker-${id}.scope`, 'docker', ''],
  ['docker in docker', `/docker/${'0'.repeat(64)}/docker/${id}`, 'docker', ''],
  ['podman, systemd', `/machine.slice/libpod-${id}.scope`, 'podman', ''],
  ['podman, cgroupfs', `/libpod_parent/libpod-${id}`, 'podman', ''],
  ['podman, rootless', `/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-${id}.scope`, 'podman', ''],
  ['podman, in a pod', `/machine.slice/machine-libpod_pod_${'a'.repeat(64)}.slice/libpod-${id}.scope`, 'podman', ''],
  ['nerdctl', `/system.slice/nerdctl-${id}.scope`, 'containerd', ''],
  ['containerd, cgroupfs', `/k8s.io/${id}`, 'containerd', ''],
  [
    'kubernetes, containerd, systemd, burstable',
    `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod${uid_}.slice/cri-containerd-${id}.scope`,
    'containerd',
    uid,
  ],
  [
    'kubernetes, containerd, guaranteed',
    `/kubepods.slice/kubepods-pod${uid_}.slice/cri-containerd-${id}.scope`,
    'containerd',
    uid,
  ],
  ['kubernetes, cgroupfs', `/kubepods/besteffort/pod${uid}/${id}`, 'containerd', uid],
  [
    'kubernetes, docker',
    `/kubepods.slice/${besteffort}.slice/${besteffort}-pod${uid_}.slice/docker-${id}.scope`,
    'docker',
    uid,
  ],
  [
    'kubernetes, cri-o',
    `/kubepods.slice/${besteffort}.slice/${besteffort}-pod${uid_}.slice/crio-${id}.scope`,
    'cri-o',
    uid,
  ],
  ['a static pod', `/kubepods/burstable/pod${'ab'.repeat(16)}/${id}`, 'containerd', 'ab'.repeat(16)],
  ['kind: kubernetes in docker', `/docker/${'0'.repeat(64)}/kubelet/kubepods/pod${uid}/${id}`, 'containerd', uid],
  [
    'containerd that was told of a systemd that is not there',
    `/system.slice/containerd.service/kubepods-burstable-pod${uid_}.slice:cri-containerd:${id}`,
    'containerd',
    uid,
  ],
  ['an engine nobody knows', `/garden-${id}`, 'garden', ''],
  ['Amazon ECS', `/ecs/task/${id}`, '', ''],
])('the path of %s', (_, path, engine, podUid) => {
  expect(containerAt(path)).toEqual({ id: short, engine, podUid });
  expect(containerAbove(`${path}/init.scope`)).toEqual({ id: short, engine, podUid });
  expect(containerOf(`12:pids:${path}/system.slice/cron.service\n0::/\n`)).toBe(short);
});

test.each([
  ['/lxc/web', 'web', 'lxc'],
  ['/lxc.payload.web-1', 'web-1', 'lxc'],
  ['/lxc.payload/web', 'web', 'lxc'],
  ['/machine.slice/machine-debian\\x2d12.scope', 'debian-12', 'systemd-nspawn'],
  ['/machine.slice/systemd-nspawn@mail.service', 'mail', 'systemd-nspawn'],
  ['/machine.slice/machine-lxc\\x2d1204\\x2dbox.scope', '1204-box', 'lxc'],
])('%s is known by its name', (path, name, engine) => {
  expect(containerAt(path)).toEqual({ id: name, engine, podUid: '' });
});

test.each([
  '/',
  '',
  '/init.scope',
  '/system.slice/docker.service',
  '/system.slice/containerd.service',
  `/machine.slice/libpod-conmon-${id}.scope`,
  `/system.slice/crio-conmon-${id}.scope`,
  `/machine.slice/machine-libpod_pod_${id}.slice`,
  `/docker/${id.slice(1)}`,
  `/docker/${id.toUpperCase()}`,
  '/lxc.monitor.web',
  '/lxc/lxc.monitor',
  '/lxc/',
  '/machine.slice/machine-qemu\\x2d1\\x2dubuntu.scope',
  `/kubepods/burstable/pod${uid}`,
  '/process_api/b0c6913ad55412cdbb0055bd94083c2a',
  '/docker/$(touch x)"\u001b[31m<script>',
])('%j is the path of no container', (path) => {
  expect(containerAbove(path)).toBeUndefined();
  expect(containerOf(`5:memory:${path}\n0::${path}`)).toBe('');
});

test('a process of a hybrid system is found by any of its hierarchies, by the innermost of nested containers', () => {
  expect(containerOf(`9:name=systemd:/\n4:memory:/docker/${id}\n0::/\n`)).toBe(short);
  expect(containerOf(`0::/docker/${'0'.repeat(64)}/docker/${id}/init`)).toBe(short);
  expect(containerOf('')).toBe('');
  expect(containerOf('torn')).toBe('');
});

const line = (root: string, point: string, type: string, options: string) =>
  `31 30 0:28 ${root} ${point} rw,nosuid,relatime shared:9 - ${type} cgroup ${options}\n`;
const roots = { sys: '/sys' };

test('mounts of version 1, 2 and both', () => {
  const v1 =
    line('/', '/sys/fs/cgroup/cpu,cpuacct', 'cgroup', 'rw,cpu,cpuacct') +
    line('/', '/sys/fs/cgroup/systemd', 'cgroup', 'rw,xattr,release_agent=/usr/lib/systemd/agent,name=systemd') +
    line('/', '/mnt/second', 'cgroup', 'rw,cpu,cpuacct');
  const v2 = line('/', '/sys/fs/cgroup/unified', 'cgroup2', 'rw,nsdelegate');
  const other = '30 23 0:27 / /sys/fs/cgroup ro shared:8 - tmpfs tmpfs rw\n';
  const both = parseCgroupMounts(other + v1 + v2, roots);
  expect(both.v2).toBe('/sys/fs/cgroup/unified');
  expect(both.v1.get('cpuacct')).toBe('/sys/fs/cgroup/cpu,cpuacct');
  expect(both.v1.get('systemd')).toBe('/sys/fs/cgroup/systemd');
  expect(both.isPartial).toBe(false);
  expect(parseCgroupMounts(v1, roots).v2).toBe('');
  expect(parseCgroupMounts(v2, roots).v1.size).toBe(0);
  expect(parseCgroupMounts(other, roots)).toEqual({ v1: new Map(), v2: '', isPartial: false });
});

test('mounts are looked for below the folder that is /sys, escapes are undone, a part of a hierarchy is known as such', () => {
  const mountinfo = line('/', '/sys/fs/cgroup', 'cgroup2', 'rw');
  expect(parseCgroupMounts(mountinfo, { sys: '/host/sys' }).v2).toBe('/host/sys/fs/cgroup');
  expect(parseCgroupMounts(line('/', '/host/sys/fs/cgroup', 'cgroup2', 'rw'), { sys: '/host/sys' }).v2).toBe(
    '/host/sys/fs/cgroup',
  );
  expect(parseCgroupMounts(line('/', '/mnt/a\\040b', 'cgroup2', 'rw'), roots).v2).toBe('/mnt/a b');
  expect(parseCgroupMounts(line('/../..', '/sys/fs/cgroup', 'cgroup2', 'rw'), roots).isPartial).toBe(true);
  expect(parseCgroupMounts(line(`/docker/${id}`, '/sys/fs/cgroup/cpu', 'cgroup', 'rw,cpu'), roots).isPartial).toBe(
    true,
  );
});
