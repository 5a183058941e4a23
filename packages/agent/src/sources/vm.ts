import type { Tables } from '@fleetreel/proto';
import { GuestRows, guestTables } from '#guests.ts';
import { LibvirtWatch } from '#libvirt_watch.ts';
import { vmDiscoverMilliseconds } from '#limits.ts';
import { QemuWatch } from '#qemu_watch.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

/** Virtual machines: of libvirt by one kept connection, of QEMU alone by its QMP sockets. */
export function vm(context: Context): Source {
  const { clock } = context;
  const libvirt = new LibvirtWatch(context);
  const qemu = new QemuWatch(context);
  const [libvirtRows, qemuRows] = [new GuestRows(), new GuestRows()];
  let lookAgainAt_ms = Number.NEGATIVE_INFINITY;

  /** Looks for what was not there; what is asked for is not waited for. */
  const look = (): void => {
    if (clock.monotonic_ms() < lookAgainAt_ms) return;
    lookAgainAt_ms = clock.monotonic_ms() + vmDiscoverMilliseconds;
    qemu.discover();
    if (!libvirt.isConnected) void libvirt.connect();
  };

  return {
    name: 'vm',
    tables: ['vm', 'vm_vcpu', 'vm_block', 'vm_net'],
    async open() {
      qemu.discover();
      await libvirt.connect();
      lookAgainAt_ms = clock.monotonic_ms() + vmDiscoverMilliseconds;
      if (libvirt.isConnected || qemu.hasGuests) return;
      throw new Unavailable(`${libvirt.problem}; and no process of QEMU with a QMP socket is found`);
    },
    async sample(): Promise<Tables> {
      look();
      const [byLibvirt, byQemu] = await Promise.all([libvirt.guests(), qemu.guests()]);
      if (!libvirt.isConnected && !qemu.hasGuests) throw new Error(libvirt.problem);
      const tables = guestTables();
      if (byLibvirt) libvirtRows.add(tables, byLibvirt.guests, byLibvirt.at_ms);
      // What libvirt manages is told by libvirt, also while it can't be asked.
      const own = byQemu.guests.filter(({ uuid }) => !libvirt.manages(uuid));
      qemuRows.add(tables, own, byQemu.at_ms);
      return tables;
    },
    close() {
      libvirt.close();
    },
    limitations: () => [...(libvirt.isConnected ? libvirt.limitations() : [libvirt.problem]), ...qemu.limitations()],
  };
}
