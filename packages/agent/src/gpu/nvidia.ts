import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { GpuDevice, GpuReading } from '#gpu/model.ts';
import type { NvidiaSmi } from '#gpu/nvidia_smi.ts';
import type { Nvml } from '#gpu/nvml.ts';
import { nvidiaSmiMilliseconds, sourceRetryMilliseconds } from '#limits.ts';
import type { Context } from '#source.ts';
import { sentence } from '#telemetry.ts';

/** Its name where nobody gives another one. */
export const standardLibrary = 'libnvidia-ml.so.1';

/** True where there are signs of NVIDIA's driver, or a library was named. */
export function hasNvidia({ roots, settings }: Pick<Context, 'roots' | 'settings'>): boolean {
  return (
    settings.gpu.library !== standardLibrary ||
    existsSync(join(roots.proc, 'driver/nvidia')) ||
    existsSync(join(roots.sys, 'module/nvidia')) ||
    // The GPU of Windows, inside its subsystem for Linux.
    existsSync(join(roots.sys, 'class/misc/dxg'))
  );
}

/** The GPUs of NVIDIA: by their library, and by nvidia-smi while that can't be had. */
export class NvidiaDevice implements GpuDevice {
  readonly #context: Context;
  #nvml: Nvml | undefined;
  #smi: NvidiaSmi | undefined;
  #reading: GpuReading | undefined;
  #isReading = false;
  #isClosed = false;
  #hasRead = false;
  /** Why the library can't be had. */
  #libraryTrouble: string | undefined;
  #retry_ms: number = sourceRetryMilliseconds.min;
  #nvmlNotBefore_ms = Number.NEGATIVE_INFINITY;
  #smiTrouble: string | undefined;
  #smiNotBefore_ms = Number.NEGATIVE_INFINITY;
  /** The GPUs that the kernel's driver has. */
  #places = '';

  constructor(context: Context) {
    this.#context = context;
  }

  get name(): string {
    return this.#libraryTrouble === undefined ? 'The library of NVIDIA' : 'nvidia-smi';
  }

  get trouble(): string | undefined {
    if (this.#libraryTrouble === undefined) {
      const lost = this.#nvml?.lost() ?? [];
      return lost.length > 0 ? lost.join(' ') : undefined;
    }
    if (this.#smiTrouble === undefined) return undefined;
    return `${this.#libraryTrouble}; ${this.#smiTrouble}.`;
  }

  limitations(): string[] {
    if (this.#libraryTrouble !== undefined) {
      const command = this.#smiTrouble === undefined ? 'nvidia-smi is asked, which says less' : this.#smiTrouble;
      return [`The library of NVIDIA can't be used: ${this.#libraryTrouble}; ${command}.`];
    }
    if (!this.#nvml) return [];
    const lost = this.#nvml.lost();
    const present = this.#places === '' ? 0 : this.#places.split(' ').length;
    const hidden = present - this.#nvml.count;
    if (hidden > 0 && this.#hasRead)
      lost.push(
        `The driver of NVIDIA has ${hidden} GPUs that are not shown to the agent: let it use their /dev/nvidia*.`,
      );
    return lost;
  }

  take(): GpuReading | undefined {
    const reading = this.#reading;
    this.#reading = undefined;
    return reading;
  }

  async read(): Promise<void> {
    this.#isReading = true;
    this.#isClosed = false;
    try {
      if (await this.#readLibrary()) return;
      await this.#readCommand();
    } finally {
      this.#isReading = false;
      if (this.#isClosed) await this.#end();
    }
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#reading = undefined;
    this.#smi?.close();
    // What is under way may hang: it ends by itself, or with the process.
    if (!this.#isReading) await this.#end();
  }

  /** True where the library answered. */
  async #readLibrary(): Promise<boolean> {
    const { clock, settings, events, roots } = this.#context;
    if (clock.monotonic_ms() < this.#nvmlNotBefore_ms) return false;
    try {
      const { Nvml: make } = await import('#gpu/nvml.ts');
      this.#nvml ??= new make({ library: settings.gpu.library, clock, events });
      const places = directories(join(roots.proc, 'driver/nvidia/gpus'));
      // The library knows what was there when it was initialized.
      if (places !== this.#places) await this.#nvml.close();
      this.#places = places;
      this.#reading = await this.#nvml.read();
      this.#libraryTrouble = undefined;
      this.#hasRead = true;
      this.#retry_ms = sourceRetryMilliseconds.min;
      return true;
    } catch (cause) {
      this.#libraryTrouble = sentence(cause);
      this.#nvmlNotBefore_ms = clock.monotonic_ms() + this.#retry_ms;
      this.#retry_ms = Math.min(this.#retry_ms * 2, sourceRetryMilliseconds.max);
      return false;
    }
  }

  async #readCommand(): Promise<void> {
    const { clock, settings } = this.#context;
    const now_ms = clock.monotonic_ms();
    if (now_ms < this.#smiNotBefore_ms) return;
    this.#smiNotBefore_ms = now_ms + nvidiaSmiMilliseconds.pause;
    try {
      const { NvidiaSmi: make } = await import('#gpu/nvidia_smi.ts');
      this.#smi ??= new make(settings.gpu.nvidia_smi);
      this.#reading = await this.#smi.read();
      this.#smiTrouble = undefined;
    } catch (cause) {
      this.#smiTrouble = sentence(cause);
    }
  }

  async #end(): Promise<void> {
    this.#smiNotBefore_ms = Number.NEGATIVE_INFINITY;
    // A driver that can't even be left is left.
    await this.#nvml?.close().catch(() => {});
  }
}

/** The names in a folder, as one text; empty where it can't be read. */
function directories(folder: string): string {
  try {
    return readdirSync(folder).sort().join(' ');
  } catch {
    return '';
  }
}
