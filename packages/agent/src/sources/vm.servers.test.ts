import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import type { Tables } from '@fleetreel/proto';
import {
  domainXml,
  guestWrites,
  type LibvirtServer,
  startLibvirt,
  startQemu,
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
async function opened(
  settings: { qmp?: string[] } = {},
): Promise<{ context: Context; source: Source; sample: () => Promise<Tables> }> {
  const system = systemContext();
  const context = {
    ...system,
    roots: { ...system.roots, run: libvirt.run },
    settings: { ...system.settings, vm: { ...system.settings.vm, ...settings } },
  };
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

/** What is compared within some percent is compared again, where the machine did other things meanwhile. */
const patience = { timeout: 120_000, interval: 100 };

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
  // Again where others held the CPU between the two looks at one moment.
  await vi.waitFor(async () => {
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
    expect(Math.abs((machine?.vcpu_percent as number) - ((first?.cpu ?? 0) + (second?.cpu ?? 0)) / 2)).toBeLessThan(
      0.1,
    );
    expect(machine?.cpu_percent as number).toBeGreaterThan((first?.cpu ?? 0) * 0.95);
    expect(machine?.memory_rss_bytes as number).toBeGreaterThan(2 ** 20);
  }, patience);
}, 300_000);

test('starts, pauses, resumes and ends are told as they happen, and break no frame', async () => {
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
  // A daemon that has just started may first regard a machine as running that has gone.
  const events = await vi.waitUntil(
    async () => {
      await sample();
      return context.events.take();
    },
    { timeout: 20_000, interval: 200 },
  );
  // One of the two, by whether libvirt had noticed it before it was asked.
  expect(events.entity).toEqual([goes]);
  expect(events.action[0]).toMatch(/^(stop|crash)$/);
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
  // XML has no control characters, and libvirt refuses newlines and slashes.
  const name = `"';$(reboot)\`x\`<b>=cmd()é漢 ${'n'.repeat(100)}`;
  const uuid = await started(name);
  const seen = async () => rows((await sample()).vm, 'uuid')[uuid]?.name;
  expect(await vi.waitUntil(seen, { timeout: 30_000 })).toBe(name);
});

/** A QEMU that no libvirt manages, with the guest that writes and then keeps a processor busy. */
async function alone(settings: { socket: string; uuid?: string; name?: string }) {
  const child = await startQemu({ name: 'alone', disk: libvirt.path(`${randomUUID()}.img`), ...settings });
  onTestFinished(async () => {
    await child.kill();
  });
  return child;
}

test('QEMU without libvirt, by its QMP socket: the same numbers, and the socket is left free', async () => {
  const uuid = randomUUID();
  const socket = libvirt.path('alone.qmp');
  const child = await alone({ socket, uuid, name: '$(reboot)<b>' });
  const { context, source, sample } = await opened({ qmp: [socket] });
  const block = async () => rows((await sample()).vm_block, 'uuid')[uuid];
  await vi.waitUntil(async () => ((await block())?.write_bytes_total as number) >= guestWrites.bytes, {
    timeout: 60_000,
    interval: 500,
  });
  expect(await block()).toMatchObject({ write_bytes_total: guestWrites.bytes, capacity_bytes: 16 * 2 ** 20 });

  const vcpus = async () => {
    const { vm_vcpu: table } = await sample();
    return [0, 1].map((vcpu) => {
      const place = table?.uuid.findIndex((of, row) => of === uuid && table.vcpu[row] === String(vcpu)) ?? -1;
      return { cpu: table?.cpu_percent[place] ?? Number.NaN, delay: table?.delay_percent[place] ?? Number.NaN };
    });
  };
  await vi.waitFor(async () => {
    await vcpus();
    await pause(3000);
    const [first, second] = await vcpus();
    expect(Math.abs((first?.cpu ?? 0) + (first?.delay ?? 0) - 100)).toBeLessThan(3);
    expect(first?.cpu).toBeGreaterThan(5);
    expect(second?.cpu).toBeLessThan(1);
  }, patience);
  expect(rows((await sample()).vm, 'uuid')[uuid]).toMatchObject({
    name: '$(reboot)<b>',
    manager: 'qemu',
    state: 'running',
    vcpu_current_count: 2,
  });

  // A tool of the user's holds the socket: what the kernel says of the process goes on.
  const tool = connect(socket);
  await vi.waitUntil(() => tool.read() !== null, { timeout: 10_000 });
  tool.write('{"execute":"qmp_capabilities"}{"execute":"stop"}\n');
  await sample();
  expect(rows((await sample()).vm, 'uuid')[uuid]).toMatchObject({
    manager: 'qemu',
    memory_rss_bytes: expect.any(Number),
  });
  expect(source.limitations?.()).toContainEqual(expect.stringContaining('another program may hold it'));
  tool.destroy();

  context.events.take();
  await child.kill();
  await vi.waitUntil(async () => !(await sample()).vm?.uuid.includes(uuid), { timeout: 20_000 });
  expect(happened(context, uuid)).toEqual(['stop: ']);
});

test('QEMU is found by its command line, once it is old enough not to wait for its own tool', async () => {
  const socket = libvirt.path('found.qmp');
  await alone({ socket });
  // Its age is measured by the kernel: the source is opened again until it is found, as the sampler does.
  const found = async () => {
    const { source, sample } = await opened();
    const machines = rows((await sample()).vm, 'uuid');
    await source.close();
    return machines[`qmp:${socket}`];
  };
  expect(await found()).toBeUndefined();
  await vi.waitFor(
    async () => expect(await found()).toMatchObject({ name: 'alone', manager: 'qemu', state: 'running' }),
    {
      timeout: 40_000,
      interval: 1000,
    },
  );
});

test('a tap interface is counted as the guest sees it', async () => {
  const { sample } = await opened();
  const tap = `frt${process.pid % 1_000_000}`;
  execFileSync('ip', ['tuntap', 'add', 'dev', tap, 'mode', 'tap']);
  onTestFinished(() => {
    execFileSync('ip', ['link', 'delete', tap]);
  });
  execFileSync('ip', ['link', 'set', tap, 'up']);
  const uuid = await started('networked', tap);
  const net = async () => rows((await sample()).vm_net, 'uuid')[uuid];
  await vi.waitUntil(async () => (await net())?.receive_bytes_per_second !== undefined, {
    timeout: 30_000,
    interval: 500,
  });
  expect(await net()).toMatchObject({ interface: tap, receive_errors_per_second: 0, transmit_errors_per_second: 0 });
});

test('a machine that is renamed keeps its identity', async () => {
  const { context, sample } = await opened();
  await sample();
  const uuid = randomUUID();
  const disk = libvirt.path(`${uuid}.img`);
  writeBootDisk(disk);
  await libvirt.define(domainXml({ name: 'before', uuid, disk }), uuid);
  onTestFinished(async () => {
    await libvirt.virsh('undefine', uuid);
  });
  const seen = (name: string) =>
    vi.waitFor(async () => expect(rows((await sample()).vm, 'uuid')[uuid]).toMatchObject({ name, state: 'shutoff' }), {
      timeout: 30_000,
    });
  await seen('before');
  await libvirt.virsh('domrename', uuid, 'after\'"<i>');
  await seen('after\'"<i>');
  expect(happened(context, uuid)).toEqual(['rename: ']);
});

test('a machine that libvirt manages is not shown a second time', async () => {
  const uuid = await started('once');
  // Somebody gave another QEMU the same UUID: what libvirt says is what counts.
  const socket = libvirt.path('twin.qmp');
  await alone({ socket, uuid, name: 'twin' });
  const { sample } = await opened({ qmp: [socket] });
  await vi.waitFor(
    async () => {
      const { vm: table } = await sample();
      expect(table?.uuid.filter((one) => one === uuid)).toHaveLength(1);
      expect(table?.name[table.uuid.indexOf(uuid)]).toBe('once');
    },
    { timeout: 30_000 },
  );
});
