import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { ConnectionCounter, connectionsMax, tcpConnection, tcpStates } from '#sources/tcp_connection.ts';
import { captured, rows, SteppedTree } from '#sources/testing.ts';

const heading = '  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n';
const line = (slot: number, state: string): string =>
  `${String(slot).padStart(4)}: 0100007F:1F90 0100007F:C001 ${state} 00000000:00000000 00:00000000 00000000     0        0 1\n`;
const line6 = (slot: number, state: string): string =>
  `${String(slot).padStart(4)}: ${'0'.repeat(32)}:0016 ${'0'.repeat(32)}:0000 ${state} 00000000:00000000 00:00000000 1\n`;

const counts = async (source: ReturnType<typeof tcpConnection>): Promise<Record<string, number>> => {
  const table = rows((await source.sample()).tcp_connection, 'state');
  return Object.fromEntries(Object.entries(table).map(([state, row]) => [state, row.connections_count as number]));
};

test('counts every state, IPv4 and IPv6 together, without the headings', async () => {
  const states = '01 01 02 03 04 05 06 07 08 09 0A 0B 0C'.split(' ');
  using tree = new SteppedTree()
    .write('proc/net/tcp', heading + states.map((state, slot) => line(slot, state)).join(''))
    .write('proc/net/tcp6', heading + line6(0, '0A') + line6(12_345, '01'));
  const source = tcpConnection(tree.context);
  await source.open();
  expect(await counts(source)).toEqual({
    established: 3,
    syn_sent: 1,
    syn_recv: 2,
    fin_wait1: 1,
    fin_wait2: 1,
    time_wait: 1,
    close: 1,
    close_wait: 1,
    last_ack: 1,
    listen: 2,
    closing: 1,
  });
  await source.close();
});

test('without connections and without IPv6 every state is 0', async () => {
  using tree = new SteppedTree().write('proc/net/tcp', heading);
  const source = tcpConnection(tree.context);
  await source.open();
  const none = await counts(source);
  expect(Object.keys(none)).toEqual([...tcpStates]);
  expect(Object.values(none).every((count) => count === 0)).toBe(true);
  await source.close();
});

test('a piece may end anywhere: the rest of the line is counted with the next, a torn one is not', () => {
  const text = Buffer.from(heading + line(0, '01') + line(1, '0A') + line(2, '06'));
  for (let cut = 1; cut < text.length; cut++) {
    const counter = new ConnectionCounter();
    const counted = counter.count(text, cut);
    counter.count(text.subarray(counted), text.length - counted);
    expect([counter.connections, counter.counts[1], counter.counts[10], counter.counts[6]]).toEqual([3, 1, 1, 1]);
  }
  const torn = new ConnectionCounter();
  torn.count(text, text.length - 1);
  expect(torn.connections).toBe(2);
});

test('reads more than the buffer holds', async () => {
  const many = Array.from({ length: 3_000 }, (_, slot) => line(slot, slot % 3 === 0 ? '06' : '01')).join('');
  using tree = new SteppedTree().write('proc/net/tcp', heading + many);
  const source = tcpConnection(tree.context);
  await source.open();
  expect(await counts(source)).toMatchObject({ established: 2_000, time_wait: 1_000, listen: 0 });
  await source.close();
});

test('with too many connections it gives up, says so, and pauses in proportion to what it took', async () => {
  const many = Array.from({ length: 1_000 }, (_, slot) => line(slot, '01')).join('');
  using tree = new SteppedTree().write('proc/net/tcp', heading + many.repeat(connectionsMax / 1_000 + 1));
  const { clock } = tree.context;
  const started_ms = systemClock.monotonic_ms();
  const moving = { ...clock, monotonic_ms: () => clock.monotonic_ms() + (systemClock.monotonic_ms() - started_ms) };
  const source = tcpConnection({ ...tree.context, clock: moving });
  await source.open();
  expect(await source.sample()).toEqual({});
  expect(source.limitations?.()).toEqual(['There are more than 200000 TCP connections: they are not counted by state']);
  tree.write('proc/net/tcp', heading + line(0, '0A'));
  expect(await source.sample()).toEqual({});
  clock.advance(3_600);
  expect(await counts(source)).toMatchObject({ listen: 1 });
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('a captured table of a virtual machine', async () => {
  using tree = new SteppedTree('debian-5.10/0');
  const source = tcpConnection(tree.context);
  await source.open();
  const lines =
    captured('debian-5.10/0', 'proc/net/tcp').split('\n').length +
    captured('debian-5.10/0', 'proc/net/tcp6').split('\n').length -
    4;
  expect(Object.values(await counts(source)).reduce((sum, count) => sum + count, 0)).toBe(lines);
  await source.close();
});

const sockets: Socket[] = [];
afterEach(() => {
  for (const socket of sockets) socket.destroy();
});

test.runIf(process.platform === 'linux')('this machine: a listener and a connection are seen', async () => {
  using tree = new SteppedTree();
  const source = tcpConnection({ ...tree.context, roots: { proc: '/proc', sys: '/sys', etc: '/etc', run: '/run' } });
  await source.open();
  const server = createServer((socket) => sockets.push(socket)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address() as { port: number };
  const { connect } = await import('node:net');
  const client = connect(address.port, '127.0.0.1');
  sockets.push(client);
  await once(client, 'connect');
  const now = await counts(source);
  expect(now.listen).toBeGreaterThanOrEqual(1);
  expect(now.established).toBeGreaterThanOrEqual(2);
  server.close();
  await source.close();
});

test('without /proc/net/tcp it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => tcpConnection(tree.context).open()).toThrow('net/tcp does not exist here');
});
