import type { Tables, Vm } from '@fleetreel/proto';
import { emptyTable } from '#columns.ts';
import type { Parameters } from '#libvirt.ts';
import { CounterHistory, mean, percent, Rates } from '#rates.ts';

/** A virtual machine as it was found: its statistics have the names of libvirt (`virsh domstats`), whoever gave them. */
export type Guest = { uuid: string; name: string; manager: 'libvirt' | 'qemu'; parameters: Parameters };

export type GuestTables = Required<Pick<Tables, 'vm' | 'vm_vcpu' | 'vm_block' | 'vm_net'>>;

const kibibyte = 1024;
const nanosecond = 1e-9;
const nanosecondsPercent = 1e-7;

/** virDomainState, and the reasons of each, by libvirt's numbers. */
const states: readonly (readonly [string, readonly string[]])[] = [
  ['', []],
  [
    'running',
    [
      '',
      'booted',
      'migrated',
      'restored',
      'from snapshot',
      'unpaused',
      'migration canceled',
      'save canceled',
      'wakeup',
      'crashed',
      'post-copy',
      'post-copy failed',
    ],
  ],
  ['blocked', []],
  [
    'paused',
    [
      '',
      'user',
      'migration',
      'save',
      'dump',
      'I/O error',
      'watchdog',
      'from snapshot',
      'shutting down',
      'snapshot',
      'crashed',
      'starting up',
      'post-copy',
      'post-copy failed',
      'API error',
    ],
  ],
  ['shutdown', ['', 'user']],
  ['shutoff', ['', 'shut down', 'destroyed', 'crashed', 'migrated', 'saved', 'failed', 'from snapshot', 'daemon']],
  ['crashed', ['', 'panicked']],
  ['pmsuspended', []],
];

const vcpuStates: readonly string[] = ['offline', 'running', 'blocked'];

/** A machine's state and its reason in words, by libvirt's numbers; empty where a newer libvirt has more of them. */
export function stateOf(parameters: Parameters): { state: string; reason: string } {
  const [state, reasons] = states[number(parameters, 'state.state')] ?? ['', []];
  return { state, reason: reasons[number(parameters, 'state.reason')] ?? '' };
}

/** Whether there is a process of it: a paused machine has one, too. */
export const isActive = (guest: Guest): boolean =>
  !['', 'shutoff', 'crashed'].includes(stateOf(guest.parameters).state);

const number = (parameters: Parameters, name: string): number => {
  const value = parameters.get(name);
  return typeof value === 'number' ? value : Number.NaN;
};
const text = (parameters: Parameters, name: string): string => {
  const value = parameters.get(name);
  return typeof value === 'string' ? value : '';
};

/** Makes rows of guests, with the rates since the sample before. */
export class GuestRows {
  readonly #history = new CounterHistory();

  /**
   * Adds the rows of guests to tables. All of them were asked at one time.
   * @param monotonic_ms when
   */
  add(tables: GuestTables, guests: readonly Guest[], monotonic_ms: number): void {
    const seconds = this.#history.begin(monotonic_ms);
    for (const guest of guests) {
      this.#vm(tables, guest, seconds, this.#vcpus(tables, guest, seconds));
      this.#blocks(tables, guest, seconds);
      this.#nets(tables, guest, seconds);
    }
  }

  #rates(entity: string, counters: readonly number[], seconds: number): Rates {
    return new Rates(this.#history.exchange(entity, counters), counters, seconds);
  }

  #vm({ vm }: GuestTables, { uuid, name, manager, parameters }: Guest, seconds: number, vcpu_ns: number): void {
    const value = (key: string): number => number(parameters, key);
    const bytes = (key: string): number => value(`balloon.${key}`) * kibibyte;
    const rates = this.#rates(
      uuid,
      [
        value('cpu.time'),
        value('cpu.user'),
        value('cpu.system'),
        value('balloon.swap_in'),
        value('balloon.swap_out'),
        value('balloon.major_fault'),
        value('balloon.minor_fault'),
      ],
      seconds,
    );
    const { state, reason } = stateOf(parameters);
    const row: Record<keyof Vm, string | number> = {
      uuid,
      name,
      manager,
      state,
      reason,
      cpu_percent: rates.perSecond(0, nanosecondsPercent),
      cpu_user_percent: rates.perSecond(1, nanosecondsPercent),
      cpu_system_percent: rates.perSecond(2, nanosecondsPercent),
      // Above 100 only by the steps in which the kernel counts, and by what passes while it is read.
      vcpu_percent: Math.min(percent(vcpu_ns, value('vcpu.current') * seconds * 1e9), 100),
      vcpu_current_count: value('vcpu.current'),
      vcpu_maximum_count: value('vcpu.maximum'),
      memory_current_bytes: bytes('current'),
      memory_maximum_bytes: bytes('maximum'),
      memory_available_bytes: bytes('available'),
      memory_unused_bytes: bytes('unused'),
      memory_usable_bytes: bytes('usable'),
      memory_disk_caches_bytes: bytes('disk_caches'),
      memory_rss_bytes: bytes('rss'),
      swap_in_bytes_per_second: rates.perSecond(3, kibibyte),
      swap_out_bytes_per_second: rates.perSecond(4, kibibyte),
      major_faults_per_second: rates.perSecond(5),
      minor_faults_per_second: rates.perSecond(6),
    };
    for (const column of Object.keys(row) as (keyof Vm)[]) (vm[column] as (string | number)[]).push(row[column]);
  }

  /** Returns how much time all of them took together, nanoseconds; NaN where none is known. */
  #vcpus({ vm_vcpu: table }: GuestTables, { uuid, parameters }: Guest, seconds: number): number {
    let sum_ns = Number.NaN;
    const count = bounded(number(parameters, 'vcpu.maximum'));
    for (let vcpu = 0; vcpu < count; vcpu++) {
      const value = (key: string): number => number(parameters, `vcpu.${vcpu}.${key}`);
      if (Number.isNaN(value('state')) && Number.isNaN(value('time'))) continue;
      const counters = [value('time'), value('delay'), value('wait')];
      const rates = this.#rates(`${uuid} vcpu ${vcpu}`, counters, seconds);
      const time_ns = rates.increase(0);
      if (!Number.isNaN(time_ns)) sum_ns = (Number.isNaN(sum_ns) ? 0 : sum_ns) + time_ns;
      table.uuid.push(uuid);
      table.vcpu.push(String(vcpu));
      table.state.push(vcpuStates[value('state')] ?? '');
      table.cpu_percent.push(rates.perSecond(0, nanosecondsPercent));
      table.delay_percent.push(Math.min(rates.perSecond(1, nanosecondsPercent), 100));
      table.wait_percent.push(Math.min(rates.perSecond(2, nanosecondsPercent), 100));
      const halted = parameters.get(`vcpu.${vcpu}.halted`);
      table.halted_flag.push(halted === undefined ? Number.NaN : halted === 1 || halted === 'yes' ? 1 : 0);
    }
    return sum_ns;
  }

  #blocks({ vm_block: table }: GuestTables, { uuid, parameters }: Guest, seconds: number): void {
    const count = bounded(number(parameters, 'block.count'));
    const seen = new Set<string>();
    for (let block = 0; block < count; block++) {
      const value = (key: string): number => number(parameters, `block.${block}.${key}`);
      const device = text(parameters, `block.${block}.name`);
      // The images below a disk's own (with the flag BACKING) have its name, too.
      if (device === '' || seen.has(device)) continue;
      seen.add(device);
      const rates = this.#rates(
        `${uuid} block ${device}`,
        [
          value('rd.bytes'),
          value('wr.bytes'),
          value('rd.reqs'),
          value('wr.reqs'),
          value('fl.reqs'),
          value('rd.times'),
          value('wr.times'),
          value('fl.times'),
        ],
        seconds,
      );
      const latency = (time: number, operations: number): number =>
        mean(rates.increase(time), rates.increase(operations)) * nanosecond;
      table.uuid.push(uuid);
      table.device.push(device);
      table.path.push(text(parameters, `block.${block}.path`));
      table.read_bytes_per_second.push(rates.perSecond(0));
      table.write_bytes_per_second.push(rates.perSecond(1));
      table.read_operations_per_second.push(rates.perSecond(2));
      table.write_operations_per_second.push(rates.perSecond(3));
      table.flush_operations_per_second.push(rates.perSecond(4));
      table.read_latency_seconds.push(latency(5, 2));
      table.write_latency_seconds.push(latency(6, 3));
      table.flush_latency_seconds.push(latency(7, 4));
      table.read_bytes_total.push(value('rd.bytes'));
      table.write_bytes_total.push(value('wr.bytes'));
      table.capacity_bytes.push(value('capacity'));
      table.allocation_bytes.push(value('allocation'));
      table.physical_bytes.push(value('physical'));
    }
  }

  #nets({ vm_net: table }: GuestTables, { uuid, parameters }: Guest, seconds: number): void {
    const count = bounded(number(parameters, 'net.count'));
    const seen = new Set<string>();
    for (let net = 0; net < count; net++) {
      const value = (key: string): number => number(parameters, `net.${net}.${key}`);
      const device = text(parameters, `net.${net}.name`);
      if (device === '' || seen.has(device)) continue;
      seen.add(device);
      const rates = this.#rates(
        `${uuid} net ${device}`,
        ['bytes', 'pkts', 'errs', 'drop'].flatMap((key) => [value(`rx.${key}`), value(`tx.${key}`)]),
        seconds,
      );
      table.uuid.push(uuid);
      table.interface.push(device);
      table.receive_bytes_per_second.push(rates.perSecond(0));
      table.transmit_bytes_per_second.push(rates.perSecond(1));
      table.receive_packets_per_second.push(rates.perSecond(2));
      table.transmit_packets_per_second.push(rates.perSecond(3));
      table.receive_errors_per_second.push(rates.perSecond(4));
      table.transmit_errors_per_second.push(rates.perSecond(5));
      table.receive_drops_per_second.push(rates.perSecond(6));
      table.transmit_drops_per_second.push(rates.perSecond(7));
    }
  }
}

/** Tables without rows. */
export const guestTables = (): GuestTables => ({
  vm: emptyTable('vm'),
  vm_vcpu: emptyTable('vm_vcpu'),
  vm_block: emptyTable('vm_block'),
  vm_net: emptyTable('vm_net'),
});

/** How many of something a machine has: none where that is not known. */
const bounded = (count: number): number => (count > 0 ? Math.min(count, 4096) : 0);
