import { join } from 'node:path';
import type { Network, Tables } from '@fleetreel/proto';
import { singleRow } from '#columns.ts';
import { Cursor, KernelFile, OptionalFile, pageBytes } from '#files.ts';
import { CounterHistory, Rates } from '#rates.ts';
import type { Context, Source } from '#source.ts';

/** Values of one line of /proc/net/sockstat, by name. */
export function parseSockstat(text: string, protocol: 'sockets:' | 'TCP:' | 'UDP:'): Record<string, number> {
  const values: Record<string, number> = {};
  for (const cursor = new Cursor(text); !cursor.atEnd; cursor.nextLine()) {
    if (cursor.word() !== protocol) continue;
    for (let name = cursor.word(); name !== ''; name = cursor.word()) values[name] = cursor.number();
  }
  return values;
}

/**
 * Sums over the cores in /proc/net/softnet_stat: packets processed, packets dropped, times the budget was used up; and
 * the number of cores. The counters have 32 bits each.
 */
export function parseSoftnet(text: string): { cores: number; counters: number[] } {
  const counters = [0, 0, 0];
  let cores = 0;
  for (const cursor = new Cursor(text); !cursor.atEnd; cursor.nextLine(), cores++)
    for (let place = 0; place < counters.length; place++) counters[place] = counters[place]! + cursor.hexadecimal();
  return { cores, counters };
}

const single = (text: string): number => new Cursor(text).number();

/** Sockets, connection tracking and the receive path of the network stack. */
export function network({ roots, clock }: Context): Source {
  const sockstat = new KernelFile(join(roots.proc, 'net/sockstat'));
  const softnet = new OptionalFile(join(roots.proc, 'net/softnet_stat'), clock);
  const conntrackCount = new OptionalFile(join(roots.proc, 'sys/net/netfilter/nf_conntrack_count'), clock);
  const conntrackMax = new OptionalFile(join(roots.proc, 'sys/net/netfilter/nf_conntrack_max'), clock);
  const history = new CounterHistory();
  let page_bytes = Number.NaN;
  return {
    name: 'network',
    tables: ['network'],
    open() {
      sockstat.open();
      page_bytes = pageBytes(roots.proc);
    },
    sample(): Tables {
      const text = sockstat.text();
      const tcp = parseSockstat(text, 'TCP:');
      const udp = parseSockstat(text, 'UDP:');
      const { cores, counters } = parseSoftnet(softnet.text());
      const seconds = history.begin(clock.monotonic_ms());
      // With a core that came or went the sums can't be compared.
      const rates = new Rates(history.exchange(`softnet of ${cores} cores`, counters), counters, seconds);
      const value = (of: Record<string, number>, name: string): number => of[name] ?? Number.NaN;
      return {
        network: singleRow<Network>({
          sockets_used_count: value(parseSockstat(text, 'sockets:'), 'used'),
          tcp_sockets_count: value(tcp, 'inuse'),
          tcp_orphans_count: value(tcp, 'orphan'),
          tcp_time_wait_count: value(tcp, 'tw'),
          tcp_memory_bytes: value(tcp, 'mem') * page_bytes,
          udp_sockets_count: value(udp, 'inuse'),
          udp_memory_bytes: value(udp, 'mem') * page_bytes,
          conntrack_entries_count: single(conntrackCount.text()),
          conntrack_limit_count: single(conntrackMax.text()),
          softnet_processed_per_second: cores > 0 ? rates.perSecond(0) : Number.NaN,
          softnet_drops_per_second: cores > 0 ? rates.perSecond(1) : Number.NaN,
          softnet_squeezes_per_second: cores > 0 ? rates.perSecond(2) : Number.NaN,
        }),
      };
    },
    close() {
      for (const file of [sockstat, softnet, conntrackCount, conntrackMax]) file.close();
    },
    limitations() {
      const sentences = softnet.missing ? [softnet.missing] : [];
      if (conntrackCount.missing) sentences.push(`Connections are not tracked here: ${conntrackCount.missing}`);
      if (Number.isNaN(page_bytes))
        sentences.push(
          `The size of a page is not known, and socket memory with it: ${roots.proc}/self/auxv can't be read`,
        );
      return sentences;
    },
  };
}
