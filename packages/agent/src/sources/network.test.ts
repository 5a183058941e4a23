import { expect, test } from 'vitest';
import { network, parseSockstat, parseSoftnet } from '#sources/network.ts';
import { captured, row, SteppedTree } from '#sources/testing.ts';

test('parses sockstat', () => {
  const text = captured('mixed', 'proc/net/sockstat');
  expect(parseSockstat(text, 'sockets:')).toEqual({ used: 229 });
  expect(parseSockstat(text, 'TCP:')).toEqual({ inuse: 4, orphan: 0, tw: 4, alloc: 17, mem: 1 });
  expect(parseSockstat(text, 'UDP:')).toEqual({ inuse: 0, mem: 0 });
  expect(parseSockstat('TCP: inuse 4 orph', 'TCP:')).toEqual({});
});

test('adds the cores of softnet_stat', () => {
  expect(parseSoftnet(captured('mixed', 'proc/net/softnet_stat'))).toEqual({
    cores: 4,
    counters: [0x49279 + 0xdfb82 + 0x551c3f + 0x2f8339, 0x29, 1 + 0x0a + 0x55 + 0x32],
  });
  expect(parseSoftnet('')).toEqual({ cores: 0, counters: [0, 0, 0] });
  expect(parseSoftnet('00000001 00000002 0000').cores).toBe(0);
});

const softnet = (...processed: number[]): string =>
  processed.map((count) => `${count.toString(16).padStart(8, '0')} 00000001 00000002 00000000\n`).join('');

test('rates, and no spike when a core leaves or a counter wraps', async () => {
  using tree = new SteppedTree('debian-6.1-arm64/0').write('proc/net/softnet_stat', softnet(100, 200));
  const source = network(tree.context);
  await source.open();
  const step = async (text: string) => {
    tree.write('proc/net/softnet_stat', text).context.clock.advance(2);
    return row((await source.sample()).network);
  };
  expect(row((await source.sample()).network)).not.toHaveProperty('softnet_processed_per_second');
  expect(await step(softnet(110, 210))).toMatchObject({
    softnet_processed_per_second: 10,
    softnet_drops_per_second: 0,
    softnet_squeezes_per_second: 0,
  });
  expect(await step(softnet(100_000))).not.toHaveProperty('softnet_processed_per_second');
  expect(await step(softnet(0xffff_ffff))).toHaveProperty('softnet_processed_per_second');
  expect(await step(softnet(1))).not.toHaveProperty('softnet_processed_per_second');
  await source.close();
});

test('sockets and their memory in bytes, connection tracking with its limit', async () => {
  using tree = new SteppedTree('debian-6.1-arm64/0').write('proc/net/sockstat', captured('mixed', 'proc/net/sockstat'));
  const source = network(tree.context);
  await source.open();
  expect(row((await source.sample()).network)).toMatchObject({
    sockets_used_count: 229,
    tcp_sockets_count: 4,
    tcp_orphans_count: 0,
    tcp_time_wait_count: 4,
    tcp_memory_bytes: 4096,
    udp_sockets_count: 0,
    udp_memory_bytes: 0,
    conntrack_entries_count: expect.any(Number),
    conntrack_limit_count: expect.any(Number),
  });
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('what is missing is absent, and it says so', async () => {
  using tree = new SteppedTree().write('proc/net/sockstat', captured('mixed', 'proc/net/sockstat'));
  const source = network(tree.context);
  await source.open();
  expect(row((await source.sample()).network)).toEqual({
    sockets_used_count: 229,
    tcp_sockets_count: 4,
    tcp_orphans_count: 0,
    tcp_time_wait_count: 4,
    udp_sockets_count: 0,
  });
  expect(source.limitations?.()).toEqual([
    expect.stringMatching(/softnet_stat does not exist here$/),
    expect.stringMatching(/^Connections are not tracked here: /),
    expect.stringMatching(/^The size of a page is not known/),
  ]);
  await source.close();
});

test('without sockstat it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => network(tree.context).open()).toThrow('net/sockstat does not exist here');
});
