import { expect, test } from 'vitest';
import { row, SteppedTree } from '#sources/testing.ts';
import { udp } from '#sources/udp.ts';

const names = ['InDatagrams', 'NoPorts', 'InErrors', 'OutDatagrams', 'RcvbufErrors', 'SndbufErrors', 'InCsumErrors'];
const snmp = (...values: number[]): string => `Udp: ${names.join(' ')}\nUdp: ${values.join(' ')}\n`;
const snmp6 = (...values: number[]): string =>
  `Ip6InReceives   12\n${names.map((name, place) => `Udp6${name}    \t${values[place]}\n`).join('')}UdpLite6InDatagrams 99\n`;

test('adds IPv4 and IPv6', async () => {
  using tree = new SteppedTree()
    .write('proc/net/snmp', snmp(0, 0, 0, 0, 0, 0, 0))
    .write('proc/net/snmp6', snmp6(100, 100, 100, 100, 100, 100, 100));
  const source = udp(tree.context);
  await source.open();
  expect(row((await source.sample()).udp)).toEqual({});
  tree
    .write('proc/net/snmp', snmp(2, 4, 6, 8, 10, 12, 14))
    .write('proc/net/snmp6', snmp6(102, 102, 102, 102, 102, 102, 102))
    .context.clock.advance(2);
  expect(row((await source.sample()).udp)).toEqual({
    receive_datagrams_per_second: 2,
    no_ports_per_second: 3,
    receive_errors_per_second: 4,
    transmit_datagrams_per_second: 5,
    receive_buffer_errors_per_second: 6,
    transmit_buffer_errors_per_second: 7,
    checksum_errors_per_second: 8,
  });
  tree.write('proc/net/snmp', snmp(1, 4, 6, 8, 10, 12, 14)).context.clock.advance(1);
  const reset = row((await source.sample()).udp);
  expect(reset).not.toHaveProperty('receive_datagrams_per_second');
  expect(reset.no_ports_per_second).toBe(0);
  await source.close();
});

test('without IPv6 there is IPv4, and IPv6 that comes later is no spike', async () => {
  using tree = new SteppedTree().write('proc/net/snmp', snmp(0, 0, 0, 0, 0, 0, 0));
  const source = udp(tree.context);
  await source.open();
  await source.sample();
  expect(source.limitations?.()).toEqual([expect.stringMatching(/^IPv6 is not counted: .*snmp6 does not exist here$/)]);
  tree.write('proc/net/snmp', snmp(5, 0, 0, 0, 0, 0, 0)).context.clock.advance(1);
  expect(row((await source.sample()).udp).receive_datagrams_per_second).toBe(5);
  tree.write('proc/net/snmp6', snmp6(1e9, 0, 0, 0, 0, 0, 0)).context.clock.advance(60);
  expect(row((await source.sample()).udp)).toEqual({});
  tree.context.clock.advance(1);
  expect(row((await source.sample()).udp).receive_datagrams_per_second).toBe(0);
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('without /proc/net/snmp it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => udp(tree.context).open()).toThrow('net/snmp does not exist here');
});
