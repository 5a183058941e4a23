import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { battery, parseUevent, supplyRow } from '#sources/battery.ts';
import { expectContract, rows, SteppedTree, unfilledColumns, withRealSleep } from '#sources/testing.ts';

/** What is known of a row. */
const known = (values: Record<string, number>) =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => !Number.isNaN(value)));

const of = (text: string) => known(supplyRow(parseUevent(text.replaceAll(/^ */gm, 'POWER_SUPPLY_'))));

test('a battery that counts charge; time from the current', () => {
  // https://github.com/mjkillough/cnx/pull/31 shows this one.
  const row = of(`TYPE=Battery
    STATUS=Discharging
    PRESENT=1
    CYCLE_COUNT=0
    VOLTAGE_MIN_DESIGN=11400000
    VOLTAGE_NOW=12600000
    CURRENT_NOW=756000
    CHARGE_FULL_DESIGN=4912000
    CHARGE_FULL=4804000
    CHARGE_NOW=4723000
    CAPACITY=98`);
  expect(row).toMatchObject({ charge_percent: 98, current_amperes: 0.756, voltage_volts: 12.6, present_flag: 1 });
  expect(row.energy_joules).toBeCloseTo(4.723 * 11.4 * 3600, 6);
  expect(row.health_percent).toBeCloseTo((4804 / 4912) * 100, 9);
  expect(row.power_watts).toBeCloseTo(0.756 * 12.6, 9);
  expect(row.time_to_empty_seconds).toBeCloseTo((4.723 * 11.4 * 3600) / (0.756 * 12.6), 6);
  expect(row).not.toHaveProperty('cycles_total');
  expect(row).not.toHaveProperty('time_to_full_seconds');
});

test('a negative current is one that flows out, without a nominal voltage, without a charge in percent', () => {
  const row = of(`TYPE=Battery
    STATUS=Discharging
    HEALTH=Good
    VOLTAGE_NOW=4000000
    CURRENT_NOW=-500000
    CHARGE_FULL=6000000
    CHARGE_NOW=4500000`);
  expect(row).toEqual({
    charge_percent: 75,
    energy_joules: 64_800,
    energy_full_joules: 86_400,
    power_watts: 2,
    current_amperes: 0.5,
    voltage_volts: 4,
    time_to_empty_seconds: 32_400,
  });
});

test('while it is charged there is a time to full, and the one that the battery gives goes first', () => {
  const charging = `TYPE=Battery
    STATUS=Charging
    ENERGY_NOW=20000000
    ENERGY_FULL=40000000
    ENERGY_FULL_DESIGN=39000000
    POWER_NOW=10000000
    TEMP=315`;
  expect(of(charging)).toEqual({
    charge_percent: 50,
    health_percent: 100,
    energy_joules: 72_000,
    energy_full_joules: 144_000,
    energy_design_joules: 140_400,
    power_watts: 10,
    temperature_celsius: 31.5,
    time_to_full_seconds: 7200,
  });
  expect(of(`${charging}\nTIME_TO_FULL_NOW=6000`).time_to_full_seconds).toBe(6000);
});

test('an empty place, a full battery, a mouse, adapters', () => {
  expect(of('TYPE=Battery\nPRESENT=0\nCAPACITY=0\nENERGY_NOW=0')).toEqual({ present_flag: 0 });
  expect(of('TYPE=Battery\nSTATUS=Full\nCAPACITY=101\nPOWER_NOW=0\nENERGY_NOW=1000000')).toEqual({
    charge_percent: 100,
    energy_joules: 3600,
    power_watts: 0,
  });
  expect(of('TYPE=Battery\nSCOPE=Device\nSTATUS=Discharging\nONLINE=1\nCAPACITY_LEVEL=Normal')).toEqual({});
  expect(of('TYPE=Mains\nONLINE=0')).toEqual({ online_flag: 0 });
  expect(of('TYPE=USB\nONLINE=2\nVOLTAGE_NOW=20000000\nCURRENT_NOW=3000000')).toEqual({
    online_flag: 1,
    voltage_volts: 20,
    current_amperes: 3,
    power_watts: 60,
  });
});

test('torn and strange text has no values', () => {
  for (const text of ['', 'POWER_SUPPLY_', 'POWER_SUPPLY_CAPACITY', 'CAPACITY=5', 'POWER_SUPPLY_CAPACITY=x'])
    expect(known(supplyRow(parseUevent(text))), text).toEqual({});
});

const folder = 'sys/class/power_supply';

test('captured laptops', async () => {
  const samples: Tables[] = [];
  for (const listing of ['fixtures-sensors/procfs.txt', 'fixtures-sensors/node_exporter.txt']) {
    using tree = new SteppedTree().putListing(listing);
    const source = battery(withRealSleep(tree.context));
    await source.open();
    samples.push(await source.sample());
    expectContract(samples.at(-1) as Tables, source);
    await source.close();
  }
  expect(rows(samples[0]?.battery, 'battery').AC).toMatchObject({ kind: 'Mains', scope: 'System', online_flag: 0 });
  expect(rows(samples[0]?.battery, 'battery').BAT0).toMatchObject({
    kind: 'Battery',
    model: 'LGC LNV-45N1',
    technology: 'Li-ion',
    state: 'Discharging',
    level: 'Normal',
    // As in its uevent, which was captured at another moment than the other files.
    charge_percent: 85,
    charge_limit_percent: 100,
    energy_joules: 40.73 * 3600,
    power_watts: 5.064,
    voltage_volts: 11.75,
    time_to_empty_seconds: (40.73 * 3600) / 5.064,
  });
  expect(rows(samples[1]?.battery, 'battery').BAT0?.health_percent).toBeCloseTo((45.07 / 47.52) * 100, 9);
});

test('every column is filled by something; a supply whose properties can only be read one by one', async () => {
  using tree = new SteppedTree().putListing('fixtures-sensors/procfs.txt');
  const files = { type: 'Battery', scope: 'Device', status: 'Charging', capacity: '40', health: 'Good', temp: '250' };
  const more = {
    energy_now: '1000000',
    energy_full: '2000000',
    power_now: '500000',
    current_now: '-1',
    cycle_count: '7',
  };
  // One property that fails empties the file of all of them.
  tree.write(`${folder}/hidpp_battery_0/uevent`, '');
  for (const [name, text] of Object.entries({ ...files, ...more }))
    tree.write(`${folder}/hidpp_battery_0/${name}`, `${text}\n`);
  if (process.platform === 'linux') tree.link(`${folder}/hidpp_battery_0/voltage_now`, '/proc/self/mem');
  const source = battery(withRealSleep(tree.context));
  await source.open();
  const sample = await source.sample();
  expectContract(sample, source);
  expect(rows(sample.battery, 'battery').hidpp_battery_0).toMatchObject({
    scope: 'Device',
    state: 'Charging',
    charge_percent: 40,
    cycles_total: 7,
    time_to_full_seconds: 7200,
  });
  expect(unfilledColumns(['battery'], [sample])).toEqual([]);
  await source.close();
});

test('supplies come and go', async () => {
  using tree = new SteppedTree().write(`${folder}/AC/type`, 'Mains\n').write(`${folder}/AC/online`, '1\n');
  const source = battery(withRealSleep(tree.context));
  await source.open();
  const names = async () => (await source.sample()).battery?.battery;
  expect(await names()).toEqual(['AC']);
  tree.write(`${folder}/hid-aa:bb-battery/type`, 'Battery\n').write(`${folder}/hid-aa:bb-battery/capacity`, '5\n');
  expect(await names()).toEqual(['AC', 'hid-aa:bb-battery']);
  tree.remove(`${folder}/hid-aa:bb-battery`);
  expect(await names()).toEqual(['AC']);
  await source.close();
});

test('a machine without batteries and adapters says so', () => {
  using tree = new SteppedTree();
  expect(() => battery(tree.context).open()).toThrow(/power_supply has no batteries or adapters: servers/);
});
