import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { setTimeout as pause } from 'node:timers/promises';
import type { Tables } from '@fleetreel/proto';
import {
  domainXml,
  guestWrites,
  type LibvirtServer,
  startLibvirt,
  writeBootDisk,
} from '@fleetreel/test/servers/libvirt';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { systemClock } from '#clock.ts';
import type { Context, Source } from '#source.ts';
import { expectContract, rows, systemContext } from '#sources/testing.ts';
import { vm } from '#sources/vm.ts';

// A real libvirt with real machines of QEMU, emulated in software.

let libvirt: LibvirtServer;
beforeAll(async () => {
  libvirt = await startLibvirt();
});
afterAll(async () => {
  await libvirt[Symbol.asyncDispose]();
});

/** The source, looking at the test's libvirt. */
async function opened(): Promise<{ context: Context; source: Source; sample: () => Promise<Tables> }> {
  const system = systemContext();
  const context = { ...system, roots: { ...system.roots, run: libvirt.run } };
  const source = vm(context);
  await source.open();
  onTestFinished(() => source.close());
  const sample = async () => {
    const tables = await source.sample();
    expectContract(tables, source);
    return tables;
  };
  return { context, source, sample };
}

/** Starts a machine that writes what is known, and then keeps its first processor busy. */
async function started(name: string, tap?: string): Promise<string> {
  const uuid = randomUUID();
  const disk = libvirt.path(`${uuid}.img`);
  writeBootDisk(disk);
  await libvirt.create(domainXml({ name, uuid, disk, ...(tap ? { tap } : {}) }), uuid);
  // Perhaps the test has done so.
  onTestFinished(() => libvirt.destroy(uuid).catch(() => {}));
  return uuid;
}

/** The events about machines that have come, oldest first. */
function happened(context: Context, uuid: string): string[] {
  const event = context.events.take();
  return (event?.action ?? []).flatMap((action, place) =>
    event?.entity[place] === uuid ? [`${action}: ${event.detail[place]}`] : [],
  );
}

/** CPU time of the threads of virtual processors, nanoseconds, as the scheduler counts it. */
function schedule(pid: number, vcpu: number): { run_ns: number; delay_ns: number } {
  const [thread] = execFileSync(
    'grep',
    ['-lE', `^CPU ${vcpu}/(TCG|KVM)`, '-r', `/proc/${pid}/task`, '--include=comm'],
    {
      encoding: 'utf8',
    },
  ).split('\n');
  const text = readFileSync((thread ?? '').replace(/comm$/, 'schedstat'), 'utf8').split(' ');
  return { run_ns: Number(text[0]), delay_ns: Number(text[1]) };
}

const pidOf = (uuid: string): number => {
  const found = execFileSync('pgrep', ['-f', `^/usr/bin/qemu-system.*${uuid}`], { encoding: 'utf8' }).trim();
  return Number(found.split('\n')[0]);
};

test('a busy virtual processor and bytes written are seen from outside', async () => {
  const { source, sample } = await opened();
  const uuid = await started('busy');
  const block = async () => rows((await sample()).vm_block, 'uuid')[uuid];
  await vi.waitUntil(async () => ((await block())?.write_bytes_total as number) >= guestWrites.bytes, {
    timeout: 60_000,
    interval: 500,
  });
  const disk = await block();
  // Exactly what the guest wrote; the device is asked by the name that libvirt gave it.
  expect(disk).toMatchObject({ device: 'vda', write_bytes_total: guestWrites.bytes, capacity_bytes: 16 * 2 ** 20 });

  const pid = pidOf(uuid);
  /** One that libvirt has answered at once, on a machine that has other things to do. */
  const prompt = async () =>
    await vi.waitFor(
      async () => {
        const tables = await sample();
        expect(source.limitations?.()).not.toContainEqual(expect.stringContaining('takes long'));
        return tables;
      },
      { timeout: 60_000, interval: 500 },
    );
  await prompt();
  const [before, from_ms] = [schedule(pid, 0), systemClock.monotonic_ms()];
  await pause(4000);
  const tables = await prompt();
  const [after, to_ms] = [schedule(pid, 0), systemClock.monotonic_ms()];
  const percent = (ns: number) => ns / 1e4 / (to_ms - from_ms);
  const [first, second] = [0, 1].map((vcpu) => {
    const place = tables.vm_vcpu?.uuid.findIndex(
      (of, row) => of === uuid && tables.vm_vcpu?.vcpu[row] === String(vcpu),
    );
    return {
      cpu: tables.vm_vcpu?.cpu_percent[place ?? -1] ?? Number.NaN,
      delay: tables.vm_vcpu?.delay_percent[place ?? -1] ?? Number.NaN,
    };
  });
  expect(Math.abs((first?.cpu ?? 0) - percent(after.run_ns - before.run_ns))).toBeLessThan(3);
  // It wants to run all the time: what it did not get, it waited for.
  expect(Math.abs((first?.cpu ?? 0) + (first?.delay ?? 0) - 100)).toBeLessThan(3);
  expect(second?.cpu).toBeLessThan(1);
  const machine = rows(tables.vm, 'uuid')[uuid];
  expect(machine).toMatchObject({
    name: 'busy',
    manager: 'libvirt',
    state: 'running',
    reason: 'booted',
    vcpu_current_count: 2,
    vcpu_maximum_count: 2,
    memory_current_bytes: 32 * 2 ** 20,
    memory_maximum_bytes: 32 * 2 ** 20,
  });
  expect(Math.abs((machine?.vcpu_percent as number) - ((first?.cpu ?? 0) + (second?.cpu ?? 0)) / 2)).toBeLessThan(0.1);
  expect(machine?.cpu_percent as number).toBeGreaterThan((first?.cpu ?? 0) * 0.95);
  expect(machine?.memory_rss_bytes as number).toBeGreaterThan(2 ** 20);
});

test('starts, pauses, resumes, renames and ends are told as they happen, and break no frame', async () => {
  const { context, sample } = await opened();
  const seen = (uuid: string, what: object | undefined) =>
    vi.waitFor(
      async () => {
        const machine = rows((await sample()).vm, 'uuid')[uuid];
        if (what) expect(machine).toMatchObject(what);
        else expect(machine).toBeUndefined();
      },
      { timeout: 30_000, interval: 100 },
    );
  await sample();
  const uuid = await started('first');
  await seen(uuid, { state: 'running', reason: 'booted' });
  await libvirt.virsh('suspend', uuid);
  await seen(uuid, { state: 'paused', reason: 'user' });
  await libvirt.virsh('resume', uuid);
  await seen(uuid, { state: 'running', reason: 'unpaused' });
  const ending = sample();
  await libvirt.destroy(uuid);
  await ending;
  await seen(uuid, undefined);
  expect(happened(context, uuid)).toEqual(['start: booted', 'pause: paused', 'resume: unpaused', 'stop: destroyed']);
});

test('a daemon that restarts: the machines go on, and what happened meanwhile is told', async () => {
  const { context, source, sample } = await opened();
  const stays = await started('stays');
  const goes = await started('goes');
  await vi.waitUntil(
    async () => (await sample()).vm?.uuid.filter((uuid) => [stays, goes].includes(uuid)).length === 2,
    {
      timeout: 30_000,
    },
  );
  context.events.take();
  const pid = pidOf(goes);
  await libvirt.stop();
  await expect(sample()).rejects.toThrow('libvirt');
  await source.close();
  process.kill(pid, 'SIGKILL');
  await libvirt.start();
  await source.open();
  await vi.waitUntil(async () => rows((await sample()).vm, 'uuid')[stays]?.state === 'running', { timeout: 20_000 });
  const events = context.events.take();
  // One of the two, by whether libvirt had noticed it before it was asked.
  expect(events?.entity).toEqual([goes]);
  expect(events?.action[0]).toMatch(/^(stop|crash)$/);
});

test('a daemon that hangs delays no tick, and is asked again when it answers', async () => {
  const { source, sample } = await opened();
  const uuid = await started('patient');
  await sample();
  libvirt.signal('SIGSTOP');
  try {
    const begin_ms = systemClock.monotonic_ms();
    expect((await sample()).vm?.uuid).toEqual([]);
    expect(systemClock.monotonic_ms() - begin_ms).toBeLessThan(1500);
    expect(source.limitations?.()).toContainEqual(expect.stringContaining('libvirt takes long to answer'));
  } finally {
    libvirt.signal('SIGCONT');
  }
  await vi.waitUntil(async () => (await sample()).vm?.uuid.includes(uuid), { timeout: 20_000, interval: 200 });
});

test('names are data: quotes, markup, escapes and commands come as they are', async () => {
  const { sample } = await opened();
  const name = `"';$(reboot)\`x\`<script>\u001b[31m=cmd()é漢`.replace('\u001b', '');
  const uuid = await started(name);
  const seen = async () => rows((await sample()).vm, 'uuid')[uuid]?.name;
  expect(await vi.waitUntil(seen, { timeout: 30_000 })).toBe(name);
});
