import type { GpuProcess, Gpu as GpuTable, Tables } from '@fleetreel/proto';
import { emptyTable } from '#columns.ts';
import { DeviceReader } from '#devices.ts';
import { DrmDevices } from '#gpu/drm.ts';
import type { GpuDevice, GpuProcessRow, GpuRow } from '#gpu/model.ts';
import { hasNvidia, NvidiaDevice } from '#gpu/nvidia.ts';
import { gpuSampleMilliseconds } from '#limits.ts';
import { type Context, type Processes, type Source, Unavailable } from '#source.ts';

/**
 * GPUs and the processes that use them: NVIDIA by its library (or nvidia-smi), AMD and Intel by what the kernel says. Drivers
 * may hang: they are asked beside the tick, one at a time, and one that does not answer is left alone until it does.
 */
export function gpu(context: Context): Source {
  const { clock, processes, platform } = context;
  // Both outlive a failure: what hangs is not asked anew.
  const reader = new DeviceReader(clock);
  const drm = new DrmDevices(context);
  let nvidia: NvidiaDevice | undefined;
  let devices: readonly GpuDevice[] = [];
  return {
    name: 'gpu',
    tables: ['gpu', 'gpu_process'],
    every_ms: gpuSampleMilliseconds,
    open() {
      if (platform !== 'linux') throw new Unavailable(`GPUs are read on Linux only, not on ${platform}`);
      if (!hasNvidia(context) && drm.look().length === 0)
        throw new Unavailable(
          `There is no GPU with a driver that is known: neither that of NVIDIA is loaded nor amdgpu, i915 or xe`,
        );
    },
    async sample() {
      // A driver may be loaded later than others.
      if (hasNvidia(context)) nvidia ??= new NvidiaDevice(context);
      // What answers at once first: a library that is initialized takes seconds.
      devices = [...drm.look(), ...(nvidia ? [nvidia] : [])];
      await reader.read(devices);
      const readings = devices.map((device) => device.take());
      const rows = readings.flatMap((reading) => reading?.gpus ?? []);
      const users = [...readings.flatMap((reading) => reading?.processes ?? []), ...drm.processes(rows)];
      const tables: Tables = {};
      if (rows.length > 0) tables.gpu = gpuTable(rows);
      if (users.length > 0) tables.gpu_process = processTable(users, processes);
      const troubles = devices.flatMap(({ trouble }) => (trouble === undefined ? [] : [trouble]));
      if (rows.length === 0) {
        const [reason = troubles[0]] = reader.hanging();
        if (reason !== undefined) throw new Error(reason);
      }
      return tables;
    },
    limitations: () => [
      ...reader.hanging(),
      ...devices.flatMap((device) => device.limitations()),
      ...drm.limitations(),
    ],
    async close() {
      await Promise.all(devices.map((device) => device.close()));
      drm.close();
    },
  };
}

const isLabel = new Set<keyof GpuTable | keyof GpuProcess>([
  'gpu',
  'name',
  'vendor',
  'parent',
  'pci_address',
  'driver',
  'cuda_version',
  'compute_mode',
  'throttle_reasons',
  'pid',
  'class',
  'container',
  'type',
]);

function gpuTable(rows: readonly GpuRow[]): GpuTable {
  const table = emptyTable('gpu');
  const seen = new Set<string>();
  for (const row of rows) {
    if (seen.has(row.gpu)) continue;
    seen.add(row.gpu);
    append(table, row);
  }
  return table;
}

function processTable(rows: readonly GpuProcessRow[], processes: Processes): GpuProcess {
  const table = emptyTable('gpu_process');
  for (const row of rows) {
    const { name = row.name ?? '', class: kind = '', container = '' } = processes.identity(row.pid) ?? {};
    append(table, { ...row, pid: String(row.pid), name, class: kind, container });
  }
  return table;
}

/** Adds a row; what it leaves out is absent. */
function append<T extends GpuTable | GpuProcess>(table: T, row: { [K in keyof T]?: string | number }): void {
  for (const name of Object.keys(table) as (keyof GpuTable & keyof T)[])
    (table[name] as (string | number)[]).push(row[name] ?? (isLabel.has(name) ? '' : Number.NaN));
}
