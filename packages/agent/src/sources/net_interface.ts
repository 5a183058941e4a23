import { join } from 'node:path';
import type { NetInterface, Tables } from '@fleetreel/proto';
import { emptyTable } from '#columns.ts';
import { Cursor, KernelFile, readOnce } from '#files.ts';
import { CounterHistory, Rates } from '#rates.ts';
import type { Context, Source } from '#source.ts';

/** Least time between two readings of an interface's speed, largest packet and carrier changes: the driver is asked. */
const attributesEvery_ms = 30_000;

/** Counters of a line in /proc/net/dev by their place in it. */
const at = {
  receiveBytes: 0,
  receivePackets: 1,
  receiveErrors: 2,
  receiveDrops: 3,
  receiveMulticast: 7,
  transmitBytes: 8,
  transmitPackets: 9,
  transmitErrors: 10,
  transmitDrops: 11,
  collisions: 13,
} as const;
const countersPerLine = 16;

/** The counters of each interface, in the order of the file. */
export function parseNetDev(text: string): Map<string, readonly number[]> {
  const interfaces = new Map<string, readonly number[]>();
  const cursor = new Cursor(text);
  // Two lines of headings.
  cursor.nextLine();
  cursor.nextLine();
  for (; !cursor.atEnd; cursor.nextLine()) {
    // Old kernels leave no blank between the colon and the first counter.
    const colon = text.indexOf(':', cursor.position);
    if (colon < 0) break;
    const name = text.slice(cursor.position, colon).trim();
    cursor.position = colon + 1;
    const counters: number[] = [];
    while (counters.length < countersPerLine && !cursor.atLineEnd) counters.push(cursor.number());
    if (counters.length === countersPerLine) interfaces.set(name, counters);
  }
  return interfaces;
}

/**
 * 1 when packets can pass, 0 when not, from the interface's operstate. "unknown" is what drivers without a notion of a
 * link say, loopback and tunnels among them: the kernel's documentation asks to treat it as up.
 * @see https://docs.kernel.org/networking/operstates.html
 */
export function linkUp(operstate: string): number {
  const state = operstate.trimEnd();
  return state === '' ? Number.NaN : state === 'up' || state === 'unknown' ? 1 : 0;
}

/** Speed in bytes per second from the attribute, which is in Mbit/s; NaN where there is none (-1 or an error). */
export function linkSpeed(attribute: string): number {
  const megabits = attribute === '' ? Number.NaN : Number(attribute);
  return megabits > 0 ? megabits * 125_000 : Number.NaN;
}

/** What sysfs tells of one interface. Its state is read at every sample through a kept descriptor, the rest seldom. */
class Attributes {
  readonly #folder: string;
  readonly #operstate: KernelFile;
  #readAgainAt_ms = Number.NEGATIVE_INFINITY;
  speed_bytes_per_second = Number.NaN;
  mtu_bytes = Number.NaN;
  carrier_changes_total = Number.NaN;

  constructor(folder: string) {
    this.#folder = folder;
    this.#operstate = new KernelFile(join(folder, 'operstate'));
  }

  up(): number {
    try {
      return linkUp(this.#operstate.text());
    } catch {
      // It went away since /proc/net/dev was read, or sysfs is not there: absent.
      return Number.NaN;
    }
  }

  refresh(now_ms: number): void {
    if (now_ms < this.#readAgainAt_ms) return;
    this.#readAgainAt_ms = now_ms + attributesEvery_ms;
    const number = (name: string): number => new Cursor(readOnce(join(this.#folder, name))).number();
    this.speed_bytes_per_second = linkSpeed(readOnce(join(this.#folder, 'speed')));
    this.mtu_bytes = number('mtu');
    this.carrier_changes_total = number('carrier_changes');
  }

  close(): void {
    this.#operstate.close();
  }
}

/** Traffic and links of network interfaces. */
export function netInterface({ roots, clock }: Context): Source {
  const dev = new KernelFile(join(roots.proc, 'net/dev'));
  const history = new CounterHistory();
  const known = new Map<string, Attributes>();
  return {
    name: 'net_interface',
    tables: ['net_interface'],
    open: () => dev.open(),
    sample(): Tables {
      const interfaces = parseNetDev(dev.text());
      const now_ms = clock.monotonic_ms();
      const seconds = history.begin(now_ms);
      const table = emptyTable('net_interface');
      for (const [name, counters] of interfaces) {
        let attributes = known.get(name);
        if (!attributes) {
          attributes = new Attributes(join(roots.sys, 'class/net', name));
          known.set(name, attributes);
        }
        attributes.refresh(now_ms);
        pushInterface(table, name, new Rates(history.exchange(name, counters), counters, seconds), attributes);
      }
      for (const [name, attributes] of known) {
        if (interfaces.has(name)) continue;
        attributes.close();
        known.delete(name);
      }
      return { net_interface: table };
    },
    close() {
      dev.close();
      for (const attributes of known.values()) attributes.close();
      known.clear();
    },
  };
}

function pushInterface(table: NetInterface, name: string, rates: Rates, attributes: Attributes): void {
  table.interface.push(name);
  table.receive_bytes_per_second.push(rates.perSecond(at.receiveBytes));
  table.transmit_bytes_per_second.push(rates.perSecond(at.transmitBytes));
  table.receive_packets_per_second.push(rates.perSecond(at.receivePackets));
  table.transmit_packets_per_second.push(rates.perSecond(at.transmitPackets));
  table.receive_errors_per_second.push(rates.perSecond(at.receiveErrors));
  table.transmit_errors_per_second.push(rates.perSecond(at.transmitErrors));
  table.receive_drops_per_second.push(rates.perSecond(at.receiveDrops));
  table.transmit_drops_per_second.push(rates.perSecond(at.transmitDrops));
  table.receive_multicast_per_second.push(rates.perSecond(at.receiveMulticast));
  table.collisions_per_second.push(rates.perSecond(at.collisions));
  table.link_up_flag.push(attributes.up());
  table.speed_bytes_per_second.push(attributes.speed_bytes_per_second);
  table.mtu_bytes.push(attributes.mtu_bytes);
  table.carrier_changes_total.push(attributes.carrier_changes_total);
}
