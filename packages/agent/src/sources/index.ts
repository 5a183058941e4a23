import { classifier, type Rule } from '#classes.ts';
import { systemClock } from '#clock.ts';
import type { Settings } from '#config.ts';
import type { Events } from '#events.ts';
import { ProcessIdentities } from '#processes.ts';
import type { Context, MakeSource, Source, SourceSettings } from '#source.ts';
import { battery } from '#sources/battery.ts';
import { clock } from '#sources/clock.ts';
import { container } from '#sources/container.ts';
import { cpu } from '#sources/cpu.ts';
import { diskIo } from '#sources/disk_io.ts';
import { filesystem } from '#sources/filesystem.ts';
import { gpu } from '#sources/gpu.ts';
import { llm } from '#sources/llm.ts';
import { memory } from '#sources/memory.ts';
import { netInterface } from '#sources/net_interface.ts';
import { network } from '#sources/network.ts';
import { perf } from '#sources/perf.ts';
import {
  portableCpu,
  portableDiskIo,
  portableFilesystem,
  portableMemory,
  portableNetInterface,
} from '#sources/portable.ts';
import { power } from '#sources/power.ts';
import { pressure } from '#sources/pressure.ts';
import { process as processes } from '#sources/process.ts';
import { sensor } from '#sources/sensor.ts';
import { tcp } from '#sources/tcp.ts';
import { tcpConnection } from '#sources/tcp_connection.ts';
import { udp } from '#sources/udp.ts';
import { vm } from '#sources/vm.ts';

/** The sources on Linux, in the order in which they are shown. */
const linux: readonly MakeSource[] = [
  cpu,
  memory,
  pressure,
  diskIo,
  filesystem,
  netInterface,
  tcp,
  tcpConnection,
  udp,
  network,
  clock,
  sensor,
  power,
  battery,
  processes,
  perf,
  container,
  vm,
  gpu,
  llm,
];

/** The sources elsewhere. */
const portable: readonly MakeSource[] = [
  portableCpu,
  portableMemory,
  portableDiskIo,
  portableFilesystem,
  portableNetInterface,
];

/** What can be sampled on this platform. */
export const sourcesFor = (platform: NodeJS.Platform): readonly MakeSource[] =>
  platform === 'linux' ? linux : portable;

/**
 * The sources of this machine, and those of them that the settings don't leave out.
 * @param live the settings of single sources where they change while they are read
 */
export function systemSources(
  settings: Settings,
  rules: readonly Rule[],
  events: Events,
  live: SourceSettings = settings,
): { all: Source[]; chosen: Source[] } {
  const context: Context = {
    roots: settings.roots,
    clock: systemClock,
    platform: process.platform,
    settings: live,
    events,
    processes: new ProcessIdentities(settings.roots, {
      classify: classifier(rules),
      commands: settings.process.commands,
    }),
  };
  const all = sourcesFor(process.platform).map((make) => make(context));
  return { all, chosen: all.filter(({ name }) => !settings.sources.disable.includes(name)) };
}
