import type { Gpu, GpuProcess } from '@fleetreel/proto';
import type { Device } from '#devices.ts';

type Values<T> = { [K in keyof T]?: T[K] extends string[] ? string : number };

/** A row of the table `gpu`; what is left out is absent. */
export type GpuRow = Values<Gpu> & { gpu: string };

/** A row of the table `gpu_process`; its name is that of the driver, for processes that are not known otherwise. */
export type GpuProcessRow = Omit<Values<GpuProcess>, 'pid' | 'class' | 'container'> & {
  gpu: string;
  pid: number;
};

/** What one round of asking brought. */
export type GpuReading = { gpus: GpuRow[]; processes: GpuProcessRow[] };

/** The GPUs of one driver. */
export interface GpuDevice extends Device {
  /** What the newest round brought, once. */
  take(): GpuReading | undefined;
  /** Why it has nothing at the moment, one sentence. */
  readonly trouble: string | undefined;
  /** What it can't see, and what would change that. */
  limitations(): string[];
  close(): Promise<void>;
}

/** A share in percent; more than 100 is rounding up to a few percent, and garbage above. */
export const share = (percent: number): number =>
  percent >= 0 && percent <= 110 ? Math.min(percent, 100) : Number.NaN;

/** A temperature; colder or hotter is a driver's way to say that there is none. */
export const celsius = (value: number): number => (value > -150 && value < 1000 ? value : Number.NaN);

/** What is above this is no value of a GPU: 100 kW, 100 GHz. */
export const below = (value: number, limit: number): number => (value >= 0 && value < limit ? value : Number.NaN);
export const wattsMax = 100_000;
export const hertzMax = 100e9;

/** Used memory of all, in percent. */
export const usedPercent = (used: number, total: number): number =>
  total > 0 ? share((used / total) * 100) : Number.NaN;
