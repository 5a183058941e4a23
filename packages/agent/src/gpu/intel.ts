import type { Attributes } from '#gpu/drm.ts';
import { below, celsius, type GpuRow, wattsMax } from '#gpu/model.ts';
import { rate } from '#rates.ts';

// i915 and xe: Documentation/ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon, .../sysfs-driver-intel-xe, i915's gt/gt*.

/** Where each driver has its frequencies and what throttles them; the last are those of i915 before Linux 5.18. */
const places = {
  i915: {
    now: ['gt/gt0/rps_act_freq_mhz', 'gt_act_freq_mhz'],
    max: ['gt/gt0/rps_RP0_freq_mhz', 'gt_RP0_freq_mhz'],
    throttled: 'gt/gt0/throttle_reason_status',
    reason: 'gt/gt0/throttle_reason_',
  },
  xe: {
    now: ['device/tile0/gt0/freq0/act_freq'],
    max: ['device/tile0/gt0/freq0/rp0_freq'],
    throttled: 'device/tile0/gt0/freq0/throttle/status',
    reason: 'device/tile0/gt0/freq0/throttle/reason_',
  },
} as const;

/** The reasons of both drivers, and what they are called in the table. */
const reasons: Record<string, string> = {
  pl1: 'power_cap',
  pl2: 'power_cap',
  pl4: 'power_cap',
  thermal: 'thermal',
  prochot: 'hardware_thermal',
  ratl: 'thermal',
  vr_thermalert: 'hardware_thermal',
  vr_tdc: 'current',
};

/** Fills in what i915 or xe says. */
export async function readIntel(card: Attributes, row: GpuRow): Promise<void> {
  const place = card.driver === 'xe' ? places.xe : places.i915;
  row.clock_hertz = await card.firstNumber(place.now, 1e6);
  row.clock_max_hertz = await card.firstNumber(place.max, 1e6);
  const throttled = await card.number(place.throttled);
  if (throttled === 0 || throttled === 1) {
    const active = new Set<string>();
    if (throttled === 1)
      for (const [name, reason] of Object.entries(reasons))
        if ((await card.number(`${place.reason}${name}`)) === 1) active.add(reason);
    row.throttled_flag = throttled;
    row.throttle_reasons = [...active].join(',');
  }
  row.memory_total_bytes = await card.firstNumber(['device/tile0/physical_vram_size_bytes']);
  const hwmon = card.hwmon;
  if (hwmon === undefined) return;
  // Of the whole card, or of its package.
  const microjoules = await card.firstNumber([`${hwmon}energy1_input`, `${hwmon}energy2_input`]);
  row.energy_joules = microjoules / 1e6;
  const now_ms = card.clock.monotonic_ms();
  const [before = Number.NaN] = card.counters;
  row.power_watts = below(rate(before, microjoules, (now_ms - card.counters_ms) / 1000) / 1e6, wattsMax);
  card.counters = [microjoules];
  card.counters_ms = now_ms;
  // 0 is "no limit".
  row.power_limit_watts =
    below(await card.firstNumber([`${hwmon}power1_max`, `${hwmon}power2_max`], 1e-6), wattsMax) || Number.NaN;
  row.power_limit_max_watts = below(
    await card.firstNumber([`${hwmon}power1_rated_max`, `${hwmon}power2_rated_max`], 1e-6),
    wattsMax,
  );
  row.temperature_celsius = celsius(await card.firstNumber([`${hwmon}temp2_input`, `${hwmon}temp1_input`], 1e-3));
  row.memory_temperature_celsius = celsius(await card.number(`${hwmon}temp3_input`, 1e-3));
  row.fan_revolutions_per_minute = await card.number(`${hwmon}fan1_input`);
}
