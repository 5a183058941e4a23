import { join } from 'node:path';
import type { Tables, Tcp } from '@fleetreel/proto';
import { singleRow } from '#columns.ts';
import { KernelFile, OptionalFile } from '#files.ts';
import { CounterHistory, Rates } from '#rates.ts';
import { SnmpLines } from '#snmp.ts';
import type { Context, Source } from '#source.ts';

const snmpNames = [
  'ActiveOpens',
  'PassiveOpens',
  'AttemptFails',
  'EstabResets',
  'InSegs',
  'OutSegs',
  'RetransSegs',
  'InErrs',
  'OutRsts',
  'CurrEstab',
] as const;
const netstatNames = ['TCPSynRetrans', 'TCPTimeouts', 'ListenOverflows', 'ListenDrops'] as const;
const names: readonly string[] = [...snmpNames, ...netstatNames];

/** The TCP stack, IPv4 and IPv6 together. @see https://docs.kernel.org/networking/snmp_counter.html */
export function tcp({ roots, clock }: Context): Source {
  const snmp = new KernelFile(join(roots.proc, 'net/snmp'));
  const netstat = new OptionalFile(join(roots.proc, 'net/netstat'), clock);
  const snmpLines = new SnmpLines('Tcp:', snmpNames);
  const netstatLines = new SnmpLines('TcpExt:', netstatNames);
  const history = new CounterHistory();
  return {
    name: 'tcp',
    tables: ['tcp'],
    open: () => snmp.open(),
    sample(): Tables {
      const counters = [...snmpLines.parse(snmp.text()), ...netstatLines.parse(netstat.text())];
      const seconds = history.begin(clock.monotonic_ms());
      const rates = new Rates(history.exchange('', counters), counters, seconds);
      const perSecond = (name: (typeof snmpNames | typeof netstatNames)[number]): number =>
        rates.perSecond(names.indexOf(name));
      return {
        tcp: singleRow<Tcp>({
          established_count: counters[names.indexOf('CurrEstab')] ?? Number.NaN,
          active_opens_per_second: perSecond('ActiveOpens'),
          passive_opens_per_second: perSecond('PassiveOpens'),
          attempt_failures_per_second: perSecond('AttemptFails'),
          resets_per_second: perSecond('EstabResets'),
          receive_segments_per_second: perSecond('InSegs'),
          transmit_segments_per_second: perSecond('OutSegs'),
          retransmitted_segments_per_second: perSecond('RetransSegs'),
          syn_retransmits_per_second: perSecond('TCPSynRetrans'),
          timeouts_per_second: perSecond('TCPTimeouts'),
          receive_errors_per_second: perSecond('InErrs'),
          transmit_resets_per_second: perSecond('OutRsts'),
          listen_overflows_per_second: perSecond('ListenOverflows'),
          listen_drops_per_second: perSecond('ListenDrops'),
        }),
      };
    },
    close() {
      snmp.close();
      netstat.close();
    },
    limitations: () => (netstat.missing ? [netstat.missing] : []),
  };
}
