import type { StatsFs } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import {
  type AskFilesystem,
  answerWithin_ms,
  filesystem,
  hungCallsMax,
  type Mount,
  parseMountinfo,
} from '#sources/filesystem.ts';
import { captured, rows, SteppedTree } from '#sources/testing.ts';

const names = (mounts: readonly Mount[]): string[] => mounts.map(({ mount }) => mount);

test('parses mountinfo: escaped blanks, optional fields, no pseudo file systems', () => {
  const mounts = parseMountinfo(captured('mixed', 'proc/1/mountinfo'));
  const volumes = '/var/lib/kubelet/plugins/kubernetes.io/vsphere-volume/mounts/[vsanDatastore]';
  const volume =
    'bafb9e5a-8856-7e6c-699c-801844e77a4a/kubernetes-dynamic-pvc-3eba5bba-48a3-11e8-89ab-005056b92113.vmdk';
  expect(names(mounts)).toEqual([
    '/run',
    '/',
    '/run/lock',
    '/boot',
    '/run/user/1000',
    '/run/user/1000/gvfs',
    `${volumes} ${volume}`,
    `${volumes}\t${volume}`,
  ]);
  expect(mounts[3]).toEqual({ mount: '/boot', device: '/dev/sda3', type: 'ext2', readOnly: false });
});

test('a mount over another hides it; read-only mounts and read-only file systems are read-only; torn lines are not seen', () => {
  const mounts = parseMountinfo(
    [
      '24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw',
      '25 24 8:2 / /data ro,relatime shared:1 master:2 - xfs /dev/sda2 rw',
      '26 24 8:3 / /usr rw,relatime - ext4 /dev/sda3 ro,data=ordered',
      '27 24 8:4 / /data rw - btrfs /dev/sdb rw',
      '28 24 8:5 / /usr rw - squashfs /dev/loop1 ro',
      '29 24 8:6 / /torn rw - ext4 /dev/sdc r',
    ].join('\n'),
  );
  expect(mounts).toEqual([
    { mount: '/', device: '/dev/sda1', type: 'ext4', readOnly: false },
    { mount: '/data', device: '/dev/sdb', type: 'btrfs', readOnly: false },
  ]);
});

test('the drives of Windows in WSL 2 are file systems, its tools and libraries are too, overlays are not', () => {
  const drvfs = 'aname=drvfs;path=C:\\134;uid=1000;gid=1000,access=client,trans=fd,rfd=8,wfd=8';
  const mounts = parseMountinfo(
    [
      '78 63 8:32 / / rw,relatime - ext4 /dev/sdc rw,discard,errors=remount-ro,data=ordered',
      '74 78 0:31 / /mnt/wsl rw,relatime shared:1 - tmpfs none rw',
      '75 78 0:33 / /usr/lib/wsl/drivers ro,nosuid,nodev,noatime - 9p drivers ro,aname=drivers;fmask=222;dmask=222',
      '76 78 0:40 / /usr/lib/wsl/lib rw,relatime - overlay none rw,lowerdir=/gpu_lib_packaged:/gpu_lib_inbox',
      `95 78 0:61 / /mnt/c rw,noatime - 9p C:\\134 rw,${drvfs}`,
      '',
    ].join('\n'),
  );
  expect(names(mounts)).toEqual(['/', '/mnt/wsl', '/usr/lib/wsl/drivers', '/mnt/c']);
  expect(mounts[3]).toEqual({ mount: '/mnt/c', device: 'C:\\', type: '9p', readOnly: false });
});

const stats = (values: Partial<StatsFs> = {}): StatsFs => ({
  type: 0,
  bsize: 1_048_576,
  frsize: 4096,
  blocks: 1000,
  bfree: 400,
  bavail: 300,
  files: 100,
  ffree: 75,
  ...values,
});

/** File systems that answer at once, except those that the test hangs; counts the calls that have not returned. */
function fakeFilesystems() {
  const hanging = new Map<string, (answer: StatsFs | Error) => void>();
  const hung = new Set<string>();
  const asked: string[] = [];
  const ask: AskFilesystem = (path) => {
    asked.push(path);
    if (!hung.has(path)) return Promise.resolve(stats());
    return new Promise((resolve, reject) =>
      hanging.set(path, (answer) => (answer instanceof Error ? reject(answer) : resolve(answer))),
    );
  };
  const release = (path: string, answer: StatsFs | Error): void => {
    hung.delete(path);
    hanging.get(path)?.(answer);
    hanging.delete(path);
  };
  return { ask, hung, asked, hanging, release };
}

const mountinfo = (...mounts: [mount: string, type: string, device: string][]): string =>
  mounts.map(([mount, type, device], id) => `${id} 1 0:${id} / ${mount} rw - ${type} ${device} rw\n`).join('');

test('sizes are counted in fragments, and the percentage is that of df', async () => {
  using tree = new SteppedTree().write('proc/self/mountinfo', mountinfo(['/', 'ext4', '/dev/sda1']));
  const source = filesystem(tree.context, () => Promise.resolve(stats()));
  await source.open();
  expect(rows((await source.sample()).filesystem, 'mount')['/']).toEqual({
    device: '/dev/sda1',
    type: 'ext4',
    size_bytes: 4_096_000,
    used_bytes: 2_457_600,
    free_bytes: 1_638_400,
    available_bytes: 1_228_800,
    used_percent: (600 / 900) * 100,
    inodes_count: 100,
    inodes_used_count: 25,
    inodes_free_count: 75,
    read_only_flag: 0,
    unresponsive_flag: 0,
  });
  await source.close();
});

test('an older Node tells no fragments, btrfs no inodes, and an empty file system has no percentage', async () => {
  using tree = new SteppedTree().write('proc/self/mountinfo', mountinfo(['/', 'btrfs', '/dev/sda1']));
  const { frsize: _, ...older } = stats({ bsize: 512, blocks: 0, bfree: 0, bavail: 0, files: 0, ffree: 0 });
  const source = filesystem(tree.context, () => Promise.resolve(older as StatsFs));
  await source.open();
  const table = rows((await source.sample()).filesystem, 'mount')['/'];
  expect(table).toMatchObject({ size_bytes: 0, unresponsive_flag: 0 });
  expect(table).not.toHaveProperty('used_percent');
  expect(table).not.toHaveProperty('inodes_count');
  await source.close();
});

test('a file system that refuses is named with its reason, and the others are not harmed', async () => {
  using tree = new SteppedTree().write(
    'proc/self/mountinfo',
    mountinfo(['/gone', 'ext4', '/dev/sdb'], ['/', 'ext4', '/dev/sda1']),
  );
  const ask: AskFilesystem = (path) =>
    path === '/gone' ? Promise.reject(new Error('EACCES: permission denied')) : Promise.resolve(stats());
  const source = filesystem(tree.context, ask);
  await source.open();
  const table = rows((await source.sample()).filesystem, 'mount');
  expect(table['/gone']).toEqual({ device: '/dev/sdb', type: 'ext4', read_only_flag: 0 });
  expect(table['/']?.size_bytes).toBe(4_096_000);
  expect(source.limitations?.()).toEqual(['No numbers of /gone: EACCES: permission denied']);
  await source.close();
});

test('hung mounts: at most two calls wait, one at a time; a dead server is not asked twice, local ones go on, and it heals', async () => {
  using tree = new SteppedTree().write(
    'proc/self/mountinfo',
    mountinfo(
      ['/a', 'nfs4', 'first:/a'],
      ['/b', 'nfs4', 'first:/b'],
      ['/c', 'cifs', '//second/share'],
      ['/d', 'nfs', 'third:/d'],
      ['/', 'ext4', '/dev/sda1'],
      ['/home', 'xfs', '/dev/sdb1'],
    ),
  );
  const { ask, hung, asked, hanging, release } = fakeFilesystems();
  const source = filesystem(tree.context, ask);
  await source.open();
  const sample = async () => {
    asked.length = 0;
    return rows((await source.sample()).filesystem, 'mount');
  };
  expect(Object.values(await sample()).map((mount) => mount.unresponsive_flag)).toEqual([0, 0, 0, 0, 0, 0]);

  for (const path of ['/a', '/b', '/c', '/d']) hung.add(path);
  const first = await sample();
  expect(asked).toEqual(['/', '/home', '/a']);
  expect(first['/a']).toEqual({ device: 'first:/a', type: 'nfs4', read_only_flag: 0, unresponsive_flag: 1 });
  expect(first['/b']?.unresponsive_flag).toBe(1);
  expect(first['/c']).not.toHaveProperty('unresponsive_flag');
  expect(first['/']).toMatchObject({ size_bytes: 4_096_000, unresponsive_flag: 0 });
  expect(first['/home']).toMatchObject({ size_bytes: 4_096_000, unresponsive_flag: 0 });
  expect(source.limitations?.()).toEqual(['Not asked for lack of an answer from /a: /c, /d']);

  const second = await sample();
  expect(asked).toEqual(['/', '/home', '/c']);
  expect(second['/c']?.unresponsive_flag).toBe(1);
  expect(hanging.size).toBe(hungCallsMax);

  const third = await sample();
  expect(asked).toEqual(['/', '/home']);
  expect(third['/d']).not.toHaveProperty('unresponsive_flag');
  expect(source.limitations?.()).toEqual(['Not asked for lack of an answer from /a, /c: /d']);

  release('/a', stats());
  release('/c', new Error('EIO'));
  for (const path of ['/b', '/d']) hung.delete(path);
  await setImmediate();
  const healed = await sample();
  expect(asked).toEqual(['/', '/home', '/a', '/b', '/c', '/d']);
  expect(Object.values(healed).map((mount) => mount.unresponsive_flag)).toEqual([0, 0, 0, 0, 0, 0]);
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('a local file system that hangs ends the asking until it answers', async () => {
  using tree = new SteppedTree().write(
    'proc/self/mountinfo',
    mountinfo(['/disk', 'xfs', '/dev/sdb'], ['/', 'ext4', '/dev/sda1'], ['/nfs', 'nfs4', 'server:/']),
  );
  const { ask, hung, asked, release } = fakeFilesystems();
  const source = filesystem(tree.context, ask);
  await source.open();
  hung.add('/disk');
  await source.sample();
  const flags = rows((await source.sample()).filesystem, 'mount');
  expect(asked).toEqual(['/disk']);
  expect(flags['/disk']?.unresponsive_flag).toBe(1);
  expect(flags['/']).not.toHaveProperty('unresponsive_flag');
  release('/disk', stats());
  await setImmediate();
  const healed = rows((await source.sample()).filesystem, 'mount');
  expect(Object.values(healed).map((mount) => mount.unresponsive_flag)).toEqual([0, 0, 0]);
  await source.close();
});

test('hung mounts really take no longer than their time, all together', async () => {
  using tree = new SteppedTree().write(
    'proc/self/mountinfo',
    mountinfo(['/dead', 'nfs4', 'one:/'], ['/gone', 'nfs4', 'two:/'], ['/', 'ext4', '/dev/sda1']),
  );
  const first_ms: number[] = [];
  const known_ms: number[] = [];
  // The machine may do something else for a moment: the least counts.
  for (let time = 0; time < 3; time++) {
    const { ask, hung } = fakeFilesystems();
    hung.add('/dead').add('/gone');
    const source = filesystem({ ...tree.context, clock: systemClock }, ask);
    await source.open();
    const took_ms = async (): Promise<number> => {
      const begin = systemClock.monotonic_ms();
      await source.sample();
      return systemClock.monotonic_ms() - begin;
    };
    first_ms.push(await took_ms());
    await took_ms();
    // Both are known now: nothing is waited for.
    known_ms.push(await took_ms());
    await source.close();
  }
  expect(Math.min(...first_ms)).toBeGreaterThan(answerWithin_ms * 0.9);
  expect(Math.min(...first_ms)).toBeLessThan(answerWithin_ms * 5);
  expect(Math.min(...known_ms)).toBeLessThan(answerWithin_ms * 0.9);
});

test('this machine: the root file system has a size', async () => {
  using tree = new SteppedTree().write('proc/self/mountinfo', mountinfo(['/', 'ext4', '/dev/root']));
  const source = filesystem({ ...tree.context, clock: systemClock });
  await source.open();
  const root = rows((await source.sample()).filesystem, 'mount')['/'];
  expect(root?.size_bytes).toBeGreaterThan(2 ** 20);
  expect(root?.used_percent).toBeGreaterThan(0);
  expect(root?.used_percent).toBeLessThanOrEqual(100);
  await source.close();
});

test('without mountinfo it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => filesystem(tree.context).open()).toThrow('self/mountinfo does not exist here');
});
