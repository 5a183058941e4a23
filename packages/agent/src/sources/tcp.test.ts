import { expect, test } from 'vitest';
import { tcp } from '#sources/tcp.ts';
import { captured, row, SteppedTree } from '#sources/testing.ts';

const snmp = (values: Record<string, number>): string =>
  `Ip: Forwarding\nIp: 1\nTcp: MaxConn ${Object.keys(values).join(' ')}\nTcp: -1 ${Object.values(values).join(' ')}\n`;
const netstat = (values: Record<string, number>): string =>
  `TcpExt: Other ${Object.keys(values).join(' ')}\nTcpExt: 0 ${Object.values(values).join(' ')}\n`;

const counters = {
  ActiveOpens: 10,
  PassiveOpens: 20,
  AttemptFails: 1,
  EstabResets: 2,
  CurrEstab: 7,
  InSegs: 1000,
  OutSegs: 900,
  RetransSegs: 5,
  InErrs: 0,
  OutRsts: 3,
};
const more = { TCPSynRetrans: 1, TCPTimeouts: 2, ListenOverflows: 3, ListenDrops: 4 };

test('every counter has its rate', async () => {
  using tree = new SteppedTree().write('proc/net/snmp', snmp(counters)).write('proc/net/netstat', netstat(more));
  const source = tcp(tree.context);
  await source.open();
  expect(row((await source.sample()).tcp)).toEqual({ established_count: 7 });
  tree
    .write(
      'proc/net/snmp',
      snmp({
        ActiveOpens: 12,
        PassiveOpens: 24,
        AttemptFails: 7,
        EstabResets: 10,
        CurrEstab: 9,
        InSegs: 1010,
        OutSegs: 912,
        RetransSegs: 19,
        InErrs: 16,
        OutRsts: 21,
      }),
    )
    .write('proc/net/netstat', netstat({ TCPSynRetrans: 21, TCPTimeouts: 24, ListenOverflows: 27, ListenDrops: 30 }))
    .context.clock.advance(2);
  expect(row((await source.sample()).tcp)).toEqual({
    established_count: 9,
    active_opens_per_second: 1,
    passive_opens_per_second: 2,
    attempt_failures_per_second: 3,
    resets_per_second: 4,
    receive_segments_per_second: 5,
    transmit_segments_per_second: 6,
    retransmitted_segments_per_second: 7,
    receive_errors_per_second: 8,
    transmit_resets_per_second: 9,
    syn_retransmits_per_second: 10,
    timeouts_per_second: 11,
    listen_overflows_per_second: 12,
    listen_drops_per_second: 13,
  });
  // Backwards: this one is absent, the others stand.
  tree.write('proc/net/netstat', netstat(more)).context.clock.advance(1);
  const reset = row((await source.sample()).tcp);
  expect(reset).not.toHaveProperty('listen_drops_per_second');
  expect(reset.receive_segments_per_second).toBe(0);
  await source.close();
});

test('without netstat the rest is told, and it says so', async () => {
  using tree = new SteppedTree().write('proc/net/snmp', captured('fedora-5', 'proc/net/snmp'));
  const source = tcp(tree.context);
  await source.open();
  await source.sample();
  tree.context.clock.advance(1);
  const now = row((await source.sample()).tcp);
  expect(now).toMatchObject({ receive_segments_per_second: 0 });
  expect(now).not.toHaveProperty('timeouts_per_second');
  expect(source.limitations?.()).toEqual([expect.stringMatching(/net\/netstat does not exist here$/)]);
  await source.close();
});

test('without /proc/net/snmp it is unavailable', () => {
  using tree = new SteppedTree();
  expect(() => tcp(tree.context).open()).toThrow('net/snmp does not exist here');
});
