import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, copyFileSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ProcessIdentities, programName, unitOf } from '#processes.ts';
import { shippedClasses } from '#sources/testing.ts';

test.each([
  ['bash', '/bin/bash', 'bash'],
  ['bash', '-bash', 'bash'],
  ['systemd-journal', '/lib/systemd/systemd-journald', 'systemd-journald'],
  ['MainThread', '/usr/bin/node', 'node'],
  ['MainThread', '', 'MainThread'],
  ['my-thread', '/usr/bin/program', 'my-thread'],
  ['nginx', 'nginx: worker process', 'nginx'],
  // Cut in the middle of a letter of two bytes: what is left is not the beginning of the file's name.
  ['game.exe', 'C:\\Games\\game.exe', 'game.exe'],
])('a process named %j and started as %j is %j', (name, word, expected) => {
  expect(programName(name, word)).toBe(expected);
});

test.each([
  ['0::/system.slice/nginx.service\n', 'nginx.service'],
  ['0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox.scope\n', 'app-firefox.scope'],
  ['0::/\n', ''],
  ['12:pids:/a.service\n3:name=systemd:/system.slice/cron.service\n0::/\n', 'cron.service'],
  ['0::/system.slice/docker-0123.scope/init\n', 'docker-0123.scope'],
  ['', ''],
])('the unit of %j', (text, expected) => {
  expect(unitOf(text)).toBe(expected);
});

function tree() {
  const proc = mkdtempSync(join(tmpdir(), 'fleetreel-processes-'));
  onTestFinished(() => rmSync(proc, { recursive: true }));
  let now_ms = 0;
  return {
    proc,
    clock: { monotonic_ms: () => now_ms },
    later: (milliseconds: number) => {
      now_ms += milliseconds;
    },
    put: (pid: number, files: { name?: string; start?: number; command?: string; cgroup?: string; flags?: number }) => {
      const { name = 'a', start = 100, command = '', cgroup = '0::/\n', flags = 4194560 } = files;
      mkdirSync(join(proc, String(pid)), { recursive: true });
      const behind = `S 1 1 1 0 -1 ${flags} 0 0 0 0 0 0 0 0 20 0 1 0 ${start} 1000 10 18446744073709551615 1 1 0 0 0`;
      writeFileSync(join(proc, String(pid), 'stat'), `${pid} (${name}) ${behind} 0 0 0\n`);
      writeFileSync(join(proc, String(pid), 'cmdline'), command);
      writeFileSync(join(proc, String(pid), 'cgroup'), cgroup);
    },
  };
}

describe('identities', () => {
  test('of a process, in a container, with a secret, and of a thread of the kernel', async () => {
    const { proc, put, clock } = tree();
    const id = '0123456789abcdef'.repeat(4);
    put(7, {
      name: 'postgres',
      command: 'postgres\0--password=swordfish\0',
      cgroup: `0::/system.slice/docker-${id}.scope\n`,
    });
    put(8, { name: 'kworker/0:0', flags: 0x0020_8040 });
    const identities = new ProcessIdentities({ proc }, { classify: shippedClasses, clock, commands: true });
    expect(identities.identity(7)).toEqual({ name: 'postgres', class: 'database', container: '0123456789ab' });
    expect(identities.identity(8)).toEqual({ name: 'kworker/0:0', class: 'kernel', container: '' });
    expect(identities.identity(9)).toBeUndefined();
    await identities.settled();
    expect(identities.identity(7)?.command).toBe('postgres --password=***');
    expect(new ProcessIdentities({ proc }, { classify: shippedClasses }).identity(7)).not.toHaveProperty('command');
  });

  test('the command line comes later, and changes the identity in place', async () => {
    const { proc, put } = tree();
    put(7, { name: 'MainThread', command: '/opt/python3\0-m\0vllm.entrypoints\0' });
    const identities = new ProcessIdentities({ proc }, { classify: shippedClasses });
    const identity = identities.identity(7);
    expect(identity).toMatchObject({ name: 'MainThread', class: 'other' });
    await identities.settled();
    expect(identity).toEqual({ name: 'python3', class: 'llm', container: '' });
    expect(identities.identity(7)).toBe(identity);
  });

  test('without the command line, where reading it hangs, a process has its name, and it is said why', async () => {
    const { proc, put } = tree();
    put(7, { name: 'nginx' });
    rmSync(join(proc, '7/cmdline'));
    // A pipe that nobody writes to, as a process whose memory is locked.
    execFileSync('mkfifo', [join(proc, '7/cmdline')]);
    const writer = openSync(join(proc, '7/cmdline'), 'r+');
    const identities = new ProcessIdentities({ proc }, { classify: shippedClasses });
    expect(identities.identity(7)).toEqual({ name: 'nginx', class: 'web', container: '' });
    await identities.settled();
    expect(identities.identity(7)?.class).toBe('web');
    expect(identities.limitations()).toEqual([expect.stringMatching(/^Command lines can not be read now/)]);
    writeSync(writer, 'late\0');
    await expect.poll(() => identities.limitations()).toEqual([]);
    closeSync(writer);
  });

  test('are kept until the name, the program or the process is another, or some minutes are over', async () => {
    const { proc, put, clock, later } = tree();
    put(7, { name: 'nginx' });
    const identities = new ProcessIdentities({ proc }, { classify: shippedClasses, clock });
    const first = identities.identity(7);
    put(7, { name: 'nginx', cgroup: '0::/lxc.payload.web\n' });
    expect(identities.identity(7)).toBe(first);
    expect(first?.container).toBe('');
    later(301_000);
    expect(identities.identity(7)).toBe(first);
    expect(first?.container).toBe('web');
    put(7, { name: 'nginx', start: 200 });
    expect(identities.identity(7)).not.toBe(first);
    put(7, { name: 'redis-server', start: 200 });
    expect(identities.identity(7)).toMatchObject({ name: 'redis-server', class: 'database' });
    rmSync(join(proc, '7'), { recursive: true });
    expect(identities.identity(7)).toBeUndefined();
    await identities.settled();
  });
});

async function started(command: string, args: string[], argv0?: string): Promise<ChildProcess> {
  const child = spawn(command, args, { stdio: 'ignore', ...(argv0 === undefined ? {} : { argv0 }) });
  onTestFinished(async () => {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  });
  await once(child, 'spawn');
  return child;
}

describe.runIf(process.platform === 'linux')('on this machine', () => {
  const identities = new ProcessIdentities({ proc: '/proc' }, { classify: shippedClasses });

  test('this process is known', async () => {
    identities.identity(process.pid);
    await identities.settled();
    // Vitest names its workers.
    expect(identities.identity(process.pid)?.name).not.toBe('');
    expect(identities.identity(4_194_304)).toBeUndefined();
  });

  test.each([
    ') R 1',
    '((a b ) (',
    'a\nb',
    "'; DROP TABLE",
    '$(reboot)`id`',
    '<script>x',
    '\u001b[31mred',
    '=1+1',
    'größe',
  ])('a program of the name %j is only a name', async (name) => {
    const folder = mkdtempSync(join(tmpdir(), 'fleetreel-names-'));
    onTestFinished(() => rmSync(folder, { recursive: true }));
    copyFileSync('/bin/sleep', join(folder, name));
    const child = await started(join(folder, name), ['100'], `/x/${'y'.repeat(4096)}\u0007"`);
    const pid = child.pid ?? 0;
    await expect.poll(() => identities.identity(pid)?.name).toBe(name);
    await identities.settled();
    expect(identities.identity(pid)).toMatchObject({ name, class: 'other' });
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(identities.identity(pid)).toBeUndefined();
  });

  test('a program that becomes another one is that', async () => {
    const child = await started('/bin/sh', ['-c', 'sleep 0.3; exec sleep 100']);
    const pid = child.pid ?? 0;
    expect(identities.identity(pid)?.name).toBe('sh');
    await expect.poll(() => identities.identity(pid)?.name, { timeout: 10_000 }).toBe('sleep');
  });
});
