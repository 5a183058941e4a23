import type { Attributes } from '#gpu/drm.ts';
import { below, celsius, type GpuRow, hertzMax, share, usedPercent, wattsMax } from '#gpu/model.ts';

// amdgpu: https://docs.kernel.org/gpu/amdgpu/thermal.html, .../driver-misc.html. The attribute pcie_bw is left out: the
// driver waits for a whole second in it.

/** Clock of the level that is marked in a list such as "1: 1200Mhz *", and the highest of all; hertz, NaN where there is none. */
export function parseLevels(text: string): { now: number; max: number } {
  let now = Number.NaN;
  let max = Number.NaN;
  for (const [, megahertz, mark] of text.matchAll(/^\s*\w+:\s*(\d+)\s*[Mm][Hh]z\s*(\*?)/gm)) {
    const hertz = Number(megahertz) * 1e6;
    if (mark === '*') now = hertz;
    if (!(max >= hertz)) max = hertz;
  }
  return { now, max };
}

/** Generation of PCI Express that has this speed: "16.0 GT/s PCIe", "8 GT/s". */
export const pcieGeneration = (speed: string): number =>
  ({ 2.5: 1, 5: 2, 8: 3, 16: 4, 32: 5, 64: 6 })[Number(/^[\d.]+/.exec(speed)?.[0] ?? Number.NaN)] ?? Number.NaN;

/**
 * The table gpu_metrics, of discrete GPUs: versions 1.1 to 1.3 have one layout, to which each adds; from 1.4 on it is another.
 * @see drivers/gpu/drm/amd/include/kgd_pp_interface.h
 */
export function parseGpuMetrics(table: Buffer): Partial<GpuRow> {
  if (table.length < 96 || table.readUInt8(2) !== 1) return {};
  const revision = table.readUInt8(3);
  const u16 = (at: number): number => {
    const value = table.readUInt16LE(at);
    return value === 0xffff ? Number.NaN : value;
  };
  if (revision >= 4 && revision <= 6) {
    // Four video engines, then the energy in units of 2^-16 J; since 1.5 32 engines for pictures lie between them.
    const energy = table.readBigUInt64LE(revision === 4 ? 24 : 88);
    return {
      decoder_used_percent: share(Math.max(...[16, 18, 20, 22].map(u16).filter((used) => used >= 0))),
      energy_joules: energy === 0xffff_ffff_ffff_ffffn ? Number.NaN : Number(energy) / 65_536,
    };
  }
  if (revision < 1 || revision > 3) return {};
  const metrics: Partial<GpuRow> = { decoder_used_percent: share(u16(20)) };
  if (revision === 3 && table.length >= 120) Object.assign(metrics, throttlingOf(table.readBigUInt64LE(112)));
  return metrics;
}

/** Bits of what throttles, alike for all GPUs: enum smu_throttler in amdgpu_smu.h. All of them set means: not known. */
function throttlingOf(bits: bigint): Pick<GpuRow, 'throttle_reasons' | 'throttled_flag'> {
  if (bits === 0xffff_ffff_ffff_ffffn) return {};
  const reasons: string[] = [];
  if ((bits & 0xffffn) !== 0n) reasons.push('power_cap');
  if ((bits & 0xffff_0000n) !== 0n) reasons.push('current');
  if ((bits & 0xffff_0000_0000n) !== 0n) reasons.push('thermal');
  if (bits >> 48n !== 0n) reasons.push('hardware');
  return { throttle_reasons: reasons.join(','), throttled_flag: reasons.length > 0 ? 1 : 0 };
}

/** Fills in what amdgpu says. */
export async function readAmd(card: Attributes, row: GpuRow): Promise<void> {
  row.used_percent = share(await card.number('device/gpu_busy_percent'));
  row.memory_controller_used_percent = share(await card.number('device/mem_busy_percent'));
  row.memory_total_bytes = await card.number('device/mem_info_vram_total');
  row.memory_used_bytes = await card.number('device/mem_info_vram_used');
  row.memory_free_bytes = row.memory_total_bytes - row.memory_used_bytes;
  row.memory_used_percent = usedPercent(row.memory_used_bytes, row.memory_total_bytes);
  row.host_memory_total_bytes = await card.number('device/mem_info_gtt_total');
  row.host_memory_used_bytes = await card.number('device/mem_info_gtt_used');
  const clock = parseLevels(await card.text('device/pp_dpm_sclk'));
  row.clock_hertz = clock.now;
  row.clock_max_hertz = clock.max;
  const memory = parseLevels(await card.text('device/pp_dpm_mclk'));
  row.memory_clock_hertz = memory.now;
  row.memory_clock_max_hertz = memory.max;
  row.video_clock_hertz = parseLevels(await card.text('device/pp_dpm_vclk')).now;
  row.pcie_generation_code = pcieGeneration(await card.text('device/current_link_speed'));
  row.pcie_generation_max_code = pcieGeneration(await card.text('device/max_link_speed'));
  row.pcie_lanes_count = await card.number('device/current_link_width');
  row.pcie_lanes_max_count = await card.number('device/max_link_width');
  row.pcie_replays_total = await card.number('device/pcie_replay_count');
  const errors = await card.text('device/ras/umc_err_count');
  row.ecc_uncorrected_volatile_total = Number(/^ue:\s*(\d+)$/m.exec(errors)?.[1] ?? Number.NaN);
  row.ecc_corrected_volatile_total = Number(/^ce:\s*(\d+)$/m.exec(errors)?.[1] ?? Number.NaN);
  Object.assign(row, parseGpuMetrics(await card.bytes('device/gpu_metrics')));
  await readSensors(card, row);
}

async function readSensors(card: Attributes, row: GpuRow): Promise<void> {
  const hwmon = card.hwmon;
  if (hwmon === undefined) return;
  for (const place of [1, 2, 3]) {
    const label = await card.text(`${hwmon}temp${place}_label`);
    const degrees = celsius(await card.number(`${hwmon}temp${place}_input`, 1e-3));
    if (label === 'junction') row.hotspot_temperature_celsius = degrees;
    else if (label === 'mem') row.memory_temperature_celsius = degrees;
    // The only one, of older GPUs, has no label.
    else if (place === 1) row.temperature_celsius = degrees;
  }
  row.temperature_slowdown_celsius = celsius(await card.number(`${hwmon}temp1_crit`, 1e-3));
  row.temperature_shutdown_celsius = celsius(await card.number(`${hwmon}temp1_emergency`, 1e-3));
  const powers = [`${hwmon}power1_average`, `${hwmon}power1_input`];
  row.power_watts = below(await card.firstNumber(powers, 1e-6), wattsMax);
  row.power_limit_watts = below(await card.number(`${hwmon}power1_cap`, 1e-6), wattsMax);
  row.power_limit_max_watts = below(await card.number(`${hwmon}power1_cap_max`, 1e-6), wattsMax);
  row.fan_revolutions_per_minute = await card.number(`${hwmon}fan1_input`);
  row.fan_percent = share((await card.number(`${hwmon}pwm1`)) / 2.55);
  // What runs, where the list of levels only has the levels.
  const runs = below(await card.number(`${hwmon}freq1_input`), hertzMax);
  if (!Number.isNaN(runs)) row.clock_hertz = runs;
  const memoryRuns = below(await card.number(`${hwmon}freq2_input`), hertzMax);
  if (!Number.isNaN(memoryRuns)) row.memory_clock_hertz = memoryRuns;
}
