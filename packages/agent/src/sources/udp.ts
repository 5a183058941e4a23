import { join } from 'node:path';
import type { Tables, Udp } from '@fleetreel/proto';
import { singleRow } from '#columns.ts';
import { KernelFile, numberAfter, OptionalFile } from '#files.ts';
import { CounterHistory, Rates } from '#rates.ts';
import { SnmpLines } from '#snmp.ts';
import type { Context, Source } from '#source.ts';

const names = [
  'InDatagrams',
  'OutDatagrams',
  'InErrors',
  'NoPorts',
  'RcvbufErrors',
  'SndbufErrors',
  'InCsumErrors',
] as const;

/** The UDP counters of /proc/net/snmp6 in the order of the names; NaN for what is not counted. */
export function parseUdp6(text: string): number[] {
  return names.map((name) => numberAfter(text, `Udp6${name}`));
}

/** The UDP stack, IPv4 and IPv6 together. */
export function udp({ roots, clock }: Context): Source {
  const snmp = new KernelFile(join(roots.proc, 'net/snmp'));
  const snmp6 = new OptionalFile(join(roots.proc, 'net/snmp6'), clock);
  const lines = new SnmpLines('Udp:', names);
  const history = new CounterHistory();
  return {
    name: 'udp',
    tables: ['udp'],
    open: () => snmp.open(),
    sample(): Tables {
      const counters4 = lines.parse(snmp.text());
      const text6 = snmp6.text();
      const seconds = history.begin(clock.monotonic_ms());
      const rates4 = new Rates(history.exchange('udp', counters4), counters4, seconds);
      // Without IPv6 there are no datagrams to add.
      const counters6 = text6 === '' ? undefined : parseUdp6(text6);
      const rates6 = counters6 && new Rates(history.exchange('udp6', counters6), counters6, seconds);
      const perSecond = (name: (typeof names)[number]): number => {
        const place = names.indexOf(name);
        return rates4.perSecond(place) + (rates6?.perSecond(place) ?? 0);
      };
      return {
        udp: singleRow<Udp>({
          receive_datagrams_per_second: perSecond('InDatagrams'),
          transmit_datagrams_per_second: perSecond('OutDatagrams'),
          receive_errors_per_second: perSecond('InErrors'),
          no_ports_per_second: perSecond('NoPorts'),
          receive_buffer_errors_per_second: perSecond('RcvbufErrors'),
          transmit_buffer_errors_per_second: perSecond('SndbufErrors'),
          checksum_errors_per_second: perSecond('InCsumErrors'),
        }),
      };
    },
    close() {
      snmp.close();
      snmp6.close();
    },
    limitations: () => (snmp6.missing ? [`IPv6 is not counted: ${snmp6.missing}`] : []),
  };
}
