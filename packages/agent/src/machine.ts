// A program of its own: says what this machine is, as JSON. systeminformation asks other programs, may hang, and takes memory that the agent
// needs once an hour.
import { setTimeout } from 'node:timers/promises';
import si from 'systeminformation';
import { graphicsMilliseconds } from '#limits.ts';

/** What a machine is, as far as this program says it. */
export type Machine = {
  os: string;
  kernel: string;
  cpu_model: string;
  cpu_count: number;
  memory_bytes: number;
  gpus: string[];
  virtualization: string;
};

if (import.meta.main) {
  process.stdout.write(JSON.stringify(await machine()));
  // Not waiting for what hangs.
  process.exit(0);
}

/** The graphics cards' programs may hang or fail without costing the rest. */
async function machine(): Promise<Machine> {
  const cards = Promise.race([si.graphics(), setTimeout(graphicsMilliseconds)]).catch(() => undefined);
  const [os, cpu, memory, system] = await Promise.all([si.osInfo(), si.cpu(), si.mem(), si.system()]);
  return {
    os: [os.distro, os.release].filter(Boolean).join(' '),
    kernel: os.kernel,
    cpu_model: [cpu.manufacturer, cpu.brand].filter(Boolean).join(' '),
    cpu_count: cpu.cores,
    memory_bytes: memory.total,
    gpus: ((await cards)?.controllers ?? []).map(({ model }) => model).filter(Boolean),
    virtualization: system.virtual ? system.virtualHost || 'virtual' : '',
  };
}
