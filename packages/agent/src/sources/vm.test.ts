import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Tables } from '@fleetreel/proto';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { type Guest, GuestRows, guestTables, isActive, stateOf } from '#guests.ts';
import { Libvirt, type Parameters } from '#libvirt.ts';
import { libvirtSockets } from '#libvirt_watch.ts';
import { parseFigures } from '#qemu_watch.ts';
import { askQmp, identityOf, parametersOf, parseQemuCommand, type QmpAnswers, threadsOf } from '#qmp.ts';
import { Unavailable } from '#source.ts';
import { expectContract, rows, SteppedTree, unfilledColumns } from '#sources/testing.ts';
import { vm } from '#sources/vm.ts';

const fixture = (name: string): string => readFileSync(join(import.meta.dirname, 'fixtures-vm', name), 'utf8');

/** The machines of a captured `virsh domstats --raw`, which knows them by name. */
function machines(text: string): Guest[] {
  return text
    .split(/^Domain: /m)
    .slice(1)
    .map((one) => {
      const [head = '', ...lines] = one.trimEnd().split('\n');
      const parameters: Parameters = new Map(
        lines.map((line) => {
          const [, key = '', value = ''] = /^ {2}([^=]+)=(.*)$/.exec(line) ?? [];
          return [key, /^-?\d+$/.test(value) ? Number(value) : value];
        }),
      );
      const name = head.slice(1, -1);
      return { uuid: name, name, manager: 'libvirt', parameters };
    });
}

/** The same machine later: what is given is added to. */
const later = (guest: Guest, growth: Record<string, number>): Guest => ({
  ...guest,
  parameters: new Map(
    [...guest.parameters].map(([key, value]) => [key, typeof value === 'number' ? value + (growth[key] ?? 0) : value]),
  ),
});

const sample = (made: GuestRows, guests: readonly Guest[], at_s: number): Tables => {
  const tables = guestTables();
  made.add(tables, guests, at_s * 1000);
  using tree = new SteppedTree();
  expectContract(tables, vm(tree.context));
  return tables;
};

test('an old libvirt: rates over the time that passed, a machine that is shut off, nothing made up', () => {
  const guests = machines(fixture('libvirt-kerub.txt'));
  const made = new GuestRows();
  const first = sample(made, guests, 10);
  expect(rows(first.vm, 'uuid')).toMatchObject({
    'kerub.hosts.opensuse13': { state: 'running', reason: 'booted', memory_current_bytes: 2 ** 30 },
    'kerub.hosts.fedora20': { state: 'shutoff', reason: 'destroyed', vcpu_current_count: 1 },
  });
  expect(rows(first.vm, 'uuid')['kerub.hosts.opensuse13']).not.toHaveProperty('cpu_percent');
  expect(guests.map(isActive)).toEqual([true, false]);

  const second = sample(
    made,
    [
      later(guests[0] as Guest, {
        'cpu.time': 3e9,
        'cpu.user': 1e9,
        'cpu.system': 0.5e9,
        'vcpu.0.time': 2e9,
        'vcpu.1.time': 1e9,
        'net.0.rx.bytes': 4000,
        'net.0.tx.pkts': 8,
        'net.0.rx.drop': 2,
        'block.0.wr.bytes': 4096,
        'block.0.wr.reqs': 4,
        'block.0.wr.times': 8e6,
      }),
      guests[1] as Guest,
    ],
    12,
  );
  const name = 'kerub.hosts.opensuse13';
  expect(rows(second.vm, 'uuid')[name]).toMatchObject({
    cpu_percent: 150,
    cpu_user_percent: 50,
    cpu_system_percent: 25,
    vcpu_percent: 75,
  });
  expect(second.vm_vcpu?.cpu_percent).toEqual([100, 50]);
  expect(second.vm_vcpu?.delay_percent).toEqual([Number.NaN, Number.NaN]);
  expect(rows(second.vm_net, 'uuid')[name]).toMatchObject({
    interface: 'vnet0',
    receive_bytes_per_second: 2000,
    transmit_packets_per_second: 4,
    receive_drops_per_second: 1,
  });
  expect(rows(second.vm_block, 'uuid')[name]).toMatchObject({
    device: 'sda',
    write_bytes_per_second: 2048,
    write_operations_per_second: 2,
    write_latency_seconds: 0.002,
    capacity_bytes: 8589934592,
  });
  expect(rows(second.vm_block, 'uuid')[name]).not.toHaveProperty('read_latency_seconds');
});

test('counters that go back, as after a restart within one interval, give no rate', () => {
  const [guest] = machines(fixture('libvirt-9.0.txt'));
  const made = new GuestRows();
  sample(made, [guest as Guest], 10);
  const restarted = sample(made, [later(guest as Guest, { 'cpu.time': -1e9, 'vcpu.0.time': -1e9 })], 11);
  expect(restarted.vm?.cpu_percent).toEqual([Number.NaN]);
  expect(restarted.vm_vcpu?.cpu_percent[0]).toBeNaN();
});

test('every column is filled by something that libvirt or QEMU says', () => {
  const made = new GuestRows();
  const samples: Tables[] = [];
  for (const moment of [1, 2]) {
    const guests = [...machines(fixture('libvirt-kerub.txt')), ...machines(fixture('libvirt-9.0.txt'))];
    for (const { parameters } of guests) {
      // What only a balloon driver in the guest tells, and vCPUs that were asked whether they are halted.
      for (const key of [
        'available',
        'unused',
        'usable',
        'disk_caches',
        'swap_in',
        'swap_out',
        'major_fault',
        'minor_fault',
      ])
        parameters.set(`balloon.${key}`, 1000);
      parameters.set('vcpu.0.halted', 'yes');
    }
    const busy = guests.map((guest) =>
      later(
        guest,
        Object.fromEntries(
          [...guest.parameters.keys()].map((key) => [
            key,
            /^(state|vcpu\.\d+\.state|.*count|vcpu\.(current|maximum)$)/.test(key) ? 0 : moment,
          ]),
        ),
      ),
    );
    samples.push(sample(made, busy, moment));
  }
  expect(unfilledColumns(['vm', 'vm_vcpu', 'vm_block', 'vm_net'], samples)).toEqual([]);
});

test('states and reasons are words; numbers of a newer libvirt are not guessed', () => {
  const words = (state: number, reason: number) =>
    Object.values(
      stateOf(
        new Map([
          ['state.state', state],
          ['state.reason', reason],
        ]),
      ),
    );
  expect(words(1, 1)).toEqual(['running', 'booted']);
  expect(words(3, 5)).toEqual(['paused', 'I/O error']);
  expect(words(5, 3)).toEqual(['shutoff', 'crashed']);
  expect(words(6, 1)).toEqual(['crashed', 'panicked']);
  expect(words(7, 0)).toEqual(['pmsuspended', '']);
  expect(words(1, 99)).toEqual(['running', '']);
  expect(words(99, 1)).toEqual(['', '']);
});

test('what QEMU answers by QMP has the names and units of libvirt', () => {
  const answers: Record<string, unknown> = {};
  for (const line of fixture('qemu-7.2.qmp').trim().split('\n')) {
    const message = JSON.parse(line) as { id?: string; return?: unknown };
    if (message.id) answers[message.id] = message.return;
  }
  const parameters = parametersOf(answers as QmpAnswers);
  expect(identityOf(answers as QmpAnswers)).toEqual({ uuid: '99999999-aaaa-bbbb-cccc-0123456789ab', name: 'alone' });
  expect([...threadsOf(answers as QmpAnswers).keys()]).toEqual([0, 1]);
  expect(stateOf(parameters)).toEqual({ state: 'paused', reason: 'starting up' });
  expect(Object.fromEntries(parameters)).toMatchObject({
    'vcpu.current': 2,
    'vcpu.maximum': 2,
    'balloon.current': 16 * 1024,
    'block.count': 2,
    'block.0.name': 'virtio0',
    'block.0.path': 'qa.img',
    'block.0.capacity': 16 * 2 ** 20,
    'block.0.rd.bytes': 0,
    'block.1.path': 'qb.img',
  });
  expect(identityOf({ 'query-uuid': { UUID: '00000000-0000-0000-0000-000000000000' }, 'query-name': {} })).toEqual({
    uuid: '',
    name: '',
  });
  expect(
    Object.fromEntries(parametersOf({ 'query-status': null, 'query-block': 'x', 'query-blockstats': [1, null] })),
  ).toEqual({
    'block.count': 0,
  });
});

test("QEMU's command line: sockets that it serves itself, names with commas, what libvirt started", () => {
  const uuid = '0A0B0C0D-0000-1111-2222-333344445555';
  expect(
    parseQemuCommand([
      'qemu',
      '-uuid',
      uuid,
      '--name',
      'guest=a,,b,debug-threads=on',
      '-qmp',
      'unix:/run/a.qmp,server,nowait',
    ]),
  ).toEqual({ uuid: uuid.toLowerCase(), name: 'a,b', sockets: ['/run/a.qmp'], isLibvirts: false });
  expect(
    parseQemuCommand([
      'qemu',
      '-name',
      'plain',
      '-mon',
      'chardev=m,mode=control',
      '-chardev',
      'socket,id=m,path=/run/x,,y.sock,server=on,wait=off',
      '-chardev',
      'socket,id=other,path=/run/serial.sock,server=on',
    ]),
  ).toMatchObject({ name: 'plain', sockets: ['/run/x,y.sock'] });
  // It connects to somebody, or is served over the network or over a descriptor.
  for (const qmp of ['unix:/run/b.qmp', 'unix:/run/b.qmp,server=off', 'tcp:127.0.0.1:4444,server', 'stdio'])
    expect(parseQemuCommand(['qemu', '-qmp', qmp]).sockets).toEqual([]);
  expect(
    parseQemuCommand([
      'qemu',
      '-chardev',
      'socket,id=charmonitor,fd=22,server=on',
      '-mon',
      'chardev=charmonitor,id=monitor,mode=control',
    ]),
  ).toMatchObject({ sockets: [], isLibvirts: true });
  expect(parseQemuCommand(['qemu', '-name'])).toEqual({ uuid: '', name: '', sockets: [], isLibvirts: false });
});

test('a process by its line in /proc: the name may hold anything, and an ended one is none', () => {
  const line = (state: string) =>
    `7 (qemu) S 1 (x) ${state} 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 3 0 1234 1000000 2048 18446744073709551615\n`;
  expect(parseFigures(line('S'))).toEqual({ user_ns: 2.5e9, system_ns: 0.5e9, start_ticks: 1234, rss_pages: 2048 });
  expect(parseFigures(line('Z'))).toBeUndefined();
  expect(parseFigures('')).toBeUndefined();
});

test('where libvirt is looked for', () => {
  const sockets = (uri: string) => libvirtSockets(uri, '/run', { XDG_RUNTIME_DIR: '/run/user/5' });
  expect(sockets('qemu:///system')).toEqual({
    driver: 'qemu:///system',
    sockets: ['/run/libvirt/virtqemud-sock-ro', '/run/libvirt/libvirt-sock-ro'],
  });
  expect(sockets('qemu:///session')?.sockets[0]).toBe('/run/user/5/libvirt/virtqemud-sock');
  expect(sockets('qemu+unix:///system?socket=/x/y-sock')).toEqual({ driver: 'qemu:///system', sockets: ['/x/y-sock'] });
  for (const elsewhere of ['qemu+ssh://root@host/system', 'qemu://host/system', 'nonsense'])
    expect(sockets(elsewhere)).toBeUndefined();
});

test('with neither libvirt nor QEMU it is unavailable, and says what was looked for', async () => {
  using tree = new SteppedTree();
  const attempt = async () => await vm(tree.context).open();
  await expect(attempt()).rejects.toThrow(Unavailable);
  await expect(attempt()).rejects.toThrow(
    /no socket .*virtqemud-sock-ro nor .*libvirt-sock-ro; and no process of QEMU/,
  );
});

/** A socket on which something else than libvirt or QEMU answers. */
async function stranger(answer: (socket: Socket) => void): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-stranger-'));
  const server = createServer((socket) => {
    socket.on('error', () => {});
    answer(socket);
  });
  const path = join(folder, 'socket');
  await new Promise<void>((resolve) => server.listen(path, resolve));
  onTestFinished(() => {
    server.close();
    rmSync(folder, { recursive: true });
  });
  return path;
}

test.each([
  ['a length that no message has', Buffer.from([0xff, 0xff, 0xff, 0xff])],
  ['a message without a header', Buffer.from([0, 0, 0, 4])],
  ['text', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')],
  ['a reply that ends too early', Buffer.from('0000001e20008086000000010000004200000001000000010000000000ff', 'hex')],
])('in the place of libvirt %s', async (_, bytes) => {
  const path = await stranger((socket) => socket.end(bytes));
  await expect(Libvirt.connect(path, 'qemu:///system', () => {}, AbortSignal.timeout(10_000))).rejects.toThrow();
});

test('in the place of QEMU nothing, nonsense, or a program that never answers', async () => {
  const ask = async (answer: (socket: Socket) => void) =>
    await askQmp(await stranger(answer), AbortSignal.timeout(300));
  await expect(ask((socket) => socket.end())).rejects.toThrow('closed its QMP socket');
  await expect(ask((socket) => socket.end('SSH-2.0\n'))).rejects.toThrow();
  await expect(ask(() => {})).rejects.toThrow();
});

test('a source that is closed while libvirt lets it wait leaves no connection behind', async () => {
  let ended: Promise<unknown> = Promise.resolve();
  const path = await stranger((socket) => {
    ended = new Promise((resolve) => socket.on('close', resolve));
    socket.resume();
  });
  using tree = new SteppedTree();
  const clock = { ...systemClock };
  const settings = { ...tree.context.settings, vm: { uri: `qemu+unix:///system?socket=${path}`, qmp: [] } };
  const source = vm({ ...tree.context, clock, settings });
  const opening = Promise.resolve(source.open()).catch((cause: unknown) => cause);
  await systemClock.sleep(200);
  await source.close();
  expect(await opening).toBeInstanceOf(Unavailable);
  await ended;
});
