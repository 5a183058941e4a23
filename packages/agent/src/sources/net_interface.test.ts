import { expect, test } from 'vitest';
import { linkSpeed, linkUp, netInterface, parseNetDev } from '#sources/net_interface.ts';
import { captured, rows, SteppedTree } from '#sources/testing.ts';

const heading =
  'Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|bytes ...\n';
const line = (name: string, counters: Partial<Record<number, number>>): string =>
  `${name}:${Array.from({ length: 16 }, (_, place) => counters[place] ?? 0).join(' ')}\n`;

test('parses /proc/net/dev', () => {
  const interfaces = parseNetDev(captured('debian-6.18', 'proc/net/dev'));
  expect([...interfaces.keys()]).toEqual(['lo', 'ifb0', 'ifb1', 'eth0']);
  expect(interfaces.get('lo')?.[0]).toBe(interfaces.get('lo')?.[8]);
});

test('takes names that touch their first counter, and leaves out a torn line', () => {
  const interfaces = parseNetDev(`${heading}${line('  wlp0s20f3', { 0: 4_294_967_296 })}  eth0: 1 2 3`);
  expect([...interfaces]).toEqual([['wlp0s20f3', [4_294_967_296, ...Array.from({ length: 15 }, () => 0)]]]);
});

test('links are up, down or not told', () => {
  expect(linkUp('up\n')).toBe(1);
  expect(linkUp('unknown\n')).toBe(1);
  for (const state of ['down', 'lowerlayerdown', 'dormant', 'notpresent', 'testing'])
    expect(linkUp(`${state}\n`)).toBe(0);
  expect(linkUp('')).toBeNaN();
  expect(linkSpeed('10000\n')).toBe(1_250_000_000);
  expect(linkSpeed('-1\n')).toBeNaN();
  expect(linkSpeed('')).toBeNaN();
});

test('rates of every counter over the time that passed', async () => {
  using tree = new SteppedTree().write('proc/net/dev', heading + line('eth0', {}));
  tree.write('sys/class/net/eth0/operstate', 'up\n').write('sys/class/net/eth0/speed', '1000\n');
  tree.write('sys/class/net/eth0/mtu', '1500\n').write('sys/class/net/eth0/carrier_changes', '4\n');
  const source = netInterface(tree.context);
  await source.open();
  expect(rows((await source.sample()).net_interface, 'interface').eth0).toEqual({
    link_up_flag: 1,
    speed_bytes_per_second: 125_000_000,
    mtu_bytes: 1500,
    carrier_changes_total: 4,
  });
  const counters = { 0: 1000, 1: 10, 2: 2, 3: 4, 7: 6, 8: 3000, 9: 30, 10: 8, 11: 12, 13: 14 };
  tree.write('proc/net/dev', heading + line('eth0', counters)).context.clock.advance(2);
  expect(rows((await source.sample()).net_interface, 'interface').eth0).toMatchObject({
    receive_bytes_per_second: 500,
    receive_packets_per_second: 5,
    receive_errors_per_second: 1,
    receive_drops_per_second: 2,
    receive_multicast_per_second: 3,
    transmit_bytes_per_second: 1500,
    transmit_packets_per_second: 15,
    transmit_errors_per_second: 4,
    transmit_drops_per_second: 6,
    collisions_per_second: 7,
  });
  await source.close();
});

test('an interface that goes, comes back and wraps; its link is seen at once, its speed within 30 s', async () => {
  using tree = new SteppedTree();
  const veth = (bytes: number): string => line('veth0', { 0: bytes });
  const eth = line('eth0', { 0: 7 });
  const attributes = (speed: string, operstate: string): void => {
    tree.write('sys/class/net/veth0/operstate', operstate).write('sys/class/net/veth0/speed', speed);
  };
  attributes('10000\n', 'up\n');
  tree.write('proc/net/dev', heading + eth + veth(2 ** 32 - 100));
  const source = netInterface(tree.context);
  await source.open();
  const step = async (text: string) => {
    tree.write('proc/net/dev', heading + text).context.clock.advance(1);
    return rows((await source.sample()).net_interface, 'interface');
  };
  await source.sample();
  expect((await step(eth + veth(2 ** 32 - 50))).veth0?.receive_bytes_per_second).toBe(50);
  attributes('2500\n', 'down\n');
  const wrapped = await step(eth + veth(10));
  expect(wrapped.veth0).not.toHaveProperty('receive_bytes_per_second');
  expect(wrapped.veth0).toMatchObject({ link_up_flag: 0, speed_bytes_per_second: 1_250_000_000 });
  expect(wrapped.eth0).toMatchObject({ receive_bytes_per_second: 0 });
  expect(wrapped.eth0).not.toHaveProperty('link_up_flag');
  tree.context.clock.advance(30);
  expect((await step(eth + veth(10))).veth0?.speed_bytes_per_second).toBe(312_500_000);
  tree.remove('sys/class/net/veth0');
  expect(Object.keys(await step(eth))).toEqual(['eth0']);
  attributes('100\n', 'up\n');
  const again = await step(eth + veth(5_000));
  expect(again.veth0).toEqual({ link_up_flag: 1, speed_bytes_per_second: 12_500_000 });
  await source.close();
});

test('a link that was taken down in a virtual machine', async () => {
  using tree = new SteppedTree('debian-6.1-arm64/0').put('debian-6.1-arm64/1');
  const source = netInterface(tree.context);
  await source.open();
  const sample = async () => rows((await source.sample()).net_interface, 'interface');
  expect((await sample()).eth0).toMatchObject({ link_up_flag: 1, mtu_bytes: 1500 });
  tree.put('debian-6.1-arm64/2').context.clock.advance(31);
  expect((await sample()).eth0).toMatchObject({ link_up_flag: 0, receive_errors_per_second: 0 });
  await source.close();
});

test('without /proc/net/dev it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => netInterface(tree.context).open()).toThrow('proc/net/dev does not exist here');
});
