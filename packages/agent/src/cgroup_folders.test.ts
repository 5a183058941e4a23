import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { expect, onTestFinished, test, vi } from 'vitest';
import { CgroupFolders } from '#cgroup_folders.ts';
import { cgroupFoldersPerTickMax } from '#limits.ts';

const idOf = (digit: string): string => digit.repeat(64);

function tree() {
  const root = mkdtempSync(join(tmpdir(), 'fleetreel-folders-'));
  const present = new Map<string, boolean>();
  const folders = new CgroupFolders(root, {
    appeared: (path, _, isNew) => present.set(path, isNew),
    gone: (path) => present.delete(path),
  });
  onTestFinished(() => {
    folders.close();
    rmSync(root, { recursive: true });
  });
  const make = (path: string) => mkdirSync(root + path, { recursive: true });
  const remove = (path: string) => rmSync(root + path, { recursive: true });
  return { root, present, folders, make, remove };
}

test('what is there is found, what comes and goes is told of at once, with all that is below', async () => {
  const { present, folders, make, remove, root } = tree();
  make(`/docker/${idOf('a')}/init.scope`);
  make('/system.slice/ssh.service');
  folders.open(0);
  expect([...present]).toEqual([[`/docker/${idOf('a')}`, false]]);

  make(`/docker/${idOf('b')}`);
  make(`/system.slice/docker-${idOf('c')}.scope`);
  // The first of its kind: nothing above it was there.
  make(`/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/crio-${idOf('d')}.scope`);
  make('/system.slice/cron.service');
  writeFileSync(`${root}/docker/cgroup.procs`, '1\n');
  await vi.waitFor(() => expect(present.size).toBe(4), 10_000);
  expect([...present.values()]).toEqual([false, true, true, true]);

  remove('/kubepods.slice');
  remove(`/docker/${idOf('a')}`);
  await vi.waitFor(
    () => expect([...present.keys()]).toEqual([`/docker/${idOf('b')}`, `/system.slice/docker-${idOf('c')}.scope`]),
    10_000,
  );
});

test('one that comes and goes at once leaves nothing behind; one that is there again is new', async () => {
  const { present, folders, make, remove } = tree();
  make('/docker');
  folders.open(0);
  for (let round = 0; round < 20; round++) {
    make(`/docker/${idOf('a')}`);
    await pause(round % 4);
    remove(`/docker/${idOf('a')}`);
  }
  make(`/docker/${idOf('b')}`);
  await vi.waitFor(() => expect([...present.keys()]).toEqual([`/docker/${idOf('b')}`]), 10_000);
});

test('thousands of cgroups that are no containers are looked through in pieces, and what is below them is found', () => {
  const { present, folders, make, remove } = tree();
  for (let group = 0; group < 30; group++) for (let unit = 0; unit < 100; unit++) make(`/odd-${group}/unit-${unit}`);
  folders.open(0);
  expect(present.size).toBe(0);
  make(`/odd-29/unit-99/deeper/${idOf('a')}`);
  folders.step(1000);
  expect(present.size).toBe(0);
  const steps = Math.ceil(3031 / cgroupFoldersPerTickMax);
  for (let step = 0; step < steps; step++) folders.step(31_000);
  expect([...present]).toEqual([[`/odd-29/unit-99/deeper/${idOf('a')}`, false]]);
  remove('/odd-29');
  for (let step = 0; step <= steps; step++) folders.step(62_000);
  expect(present.size).toBe(0);
  expect(folders.limitations()).toEqual([]);
});

test('another may tell of a container, and that it is gone', () => {
  const { present, folders, make } = tree();
  make(`/odd/x/y/${idOf('a')}`);
  folders.add(`/odd/x/y/${idOf('a')}`);
  folders.add(`/odd/x/y/${idOf('b')}`);
  expect([...present]).toEqual([[`/odd/x/y/${idOf('a')}`, true]]);
  folders.remove(`/odd/x/y/${idOf('a')}`);
  expect(present.size).toBe(0);
});
