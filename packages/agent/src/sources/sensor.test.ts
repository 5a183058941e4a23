import { execFileSync } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import type { Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { chipName, findSensors, sensor } from '#sources/sensor.ts';
import { expectContract, type Row, SteppedTree, unfilledColumns, withRealSleep } from '#sources/testing.ts';

/** The rows by chip and sensor; empty labels are left out. */
function bySensor({ sensor: table }: Tables): Record<string, Row> {
  const found: Record<string, Row> = {};
  for (const [place, chip] of (table?.chip ?? []).entries()) {
    const row: Row = {};
    for (const [column, cells] of Object.entries(table ?? {}) as [string, (string | number)[]][]) {
      const cell = cells[place];
      if (cell !== undefined && cell !== '' && !Number.isNaN(cell)) row[column] = cell;
    }
    found[`${chip} ${table?.sensor[place]}`] = row;
    delete row.chip;
    delete row.sensor;
  }
  return found;
}

const chip = (tree: SteppedTree, number: number, device: string, files: Record<string, string>): SteppedTree => {
  const path = `sys/devices/${device}/hwmon/hwmon${number}`;
  tree.link(`sys/class/hwmon/hwmon${number}`, `../../devices/${device}/hwmon/hwmon${number}`);
  tree.link(`${path}/device`, '../..');
  for (const [name, text] of Object.entries(files)) tree.write(`${path}/${name}`, `${text}\n`);
  return tree;
};

test('chips are named as lm-sensors names them, whatever their numbers are', () => {
  const named = (device: string) => chipName('x', `/sys/devices/${device}`);
  expect(named('platform/coretemp.0')).toBe('x-isa-0000');
  expect(named('platform/nct6775.656')).toBe('x-isa-0290');
  expect(named('platform/asus-nb-wmi')).toBe('x-isa-0000');
  expect(named('pci0000:00/0000:00:18.3')).toBe('x-pci-00c3');
  expect(named('pci0000:00/0000:00:02.1/0000:01:00.0/nvme/nvme0')).toBe('x-pci-0100');
  expect(named('pci0000:00/0000:00:1f.4/i2c-0/0-0048')).toBe('x-i2c-0-48');
  expect(named('pci0000:00/0000:00:17.0/ata3/host2/target2:0:0/2:0:0:0')).toBe('x-scsi-2-0');
  expect(named('pci0000:00/0000:00:14.0/usb1/1-9/1-9:1.0/0003:1B1C:0C10.0002')).toBe('x-hid-3-2');
  expect(named('platform/soc/fe204000.spi/spi_master/spi0/spi0.1')).toBe('x-spi-0-1');
  expect(named('LNXSYSTM:00/LNXSYBUS:00/PNP0A08:00/PNP0C0A:00/power_supply/BAT0')).toBe('x-acpi-0');
  expect(named('virtual/thermal/thermal_zone0')).toBe('x-virtual-0');
  expect(chipName('x', '')).toBe('x-virtual-0');
});

test('a captured server: processors, fans, voltages, a network card, NVMe', async () => {
  using tree = new SteppedTree().putListing('fixtures-sensors/node_exporter.txt');
  const source = sensor(withRealSleep(tree.context));
  await source.open();
  const tables = await source.sample();
  expectContract(tables, source);
  const found = bySensor(tables);
  expect(found['coretemp-isa-0001 temp2']).toEqual({
    label: 'Core 0',
    kind: 'temperature',
    device: 'coretemp.1',
    temperature_celsius: 54,
    temperature_max_celsius: 84,
    temperature_critical_celsius: 100,
    alarm_flag: 0,
  });
  expect(found['nct6779-isa-0290 fan2']).toEqual({
    kind: 'fan',
    device: 'nct6775.656',
    fan_revolutions_per_minute: 1098,
    fan_min_revolutions_per_minute: 0,
    alarm_flag: 0,
  });
  expect(found['nct6779-isa-0290 in1']).toEqual({
    kind: 'voltage',
    device: 'nct6775.656',
    voltage_volts: 1.024,
    voltage_min_volts: 0,
    voltage_max_volts: 0,
    alarm_flag: 1,
  });
  expect(found['nct6779-isa-0290 intrusion0']).toEqual({ kind: 'intrusion', device: 'nct6775.656', alarm_flag: 1 });
  expect(found['i350bb-pci-4500 temp1']).toMatchObject({ label: 'loc1', temperature_celsius: 50 });
  // Its limits of 65261.85 °C are none.
  expect(found['nvme-pci-0100 temp2']).toEqual({
    label: 'Sensor 1',
    kind: 'temperature',
    device: 'nvme0',
    temperature_celsius: 43.85,
  });
  expect(found['nvme-pci-0100 temp1']).toMatchObject({ temperature_critical_celsius: 94.85 });
  expect(found['mt7996_phy0_1-isa-0000 temp1']).toMatchObject({ device: 'phy0', temperature_celsius: 56 });
  // A chip without a name or a device.
  expect(found['hwmon4-virtual-0 freq1']).toEqual({ label: 'sclk', kind: 'frequency', frequency_hertz: 214e6 });
  expect(found['cpu-thermal-thermal-0 temp1']).toEqual({
    label: 'cpu-thermal',
    kind: 'temperature',
    device: 'thermal_zone0',
    temperature_celsius: 12.376,
  });
  expect(Object.keys(found)).toHaveLength(28);
  expect(source.limitations?.()).toEqual([]);
  await source.close();
});

test('a captured Raspberry Pi has thermal zones only', async () => {
  using tree = new SteppedTree().putListing('fixtures-sensors/procfs.txt');
  const source = sensor(withRealSleep(tree.context));
  await source.open();
  expect(bySensor(await source.sample())).toEqual({
    'bcm2835_thermal-thermal-0 temp1': {
      label: 'bcm2835_thermal',
      kind: 'temperature',
      device: 'thermal_zone0',
      temperature_celsius: 49.925,
    },
    'acpitz-thermal-1 temp1': {
      label: 'acpitz',
      kind: 'temperature',
      device: 'thermal_zone1',
      temperature_celsius: -44,
    },
  });
  await source.close();
});

/** An AMD desktop with what the captured trees lack; the graphics card sleeps. */
function desktop(): SteppedTree {
  const tree = new SteppedTree();
  chip(tree, 0, 'pci0000:00/0000:00:18.3', { name: 'k10temp', temp1_input: '61500', temp1_label: 'Tctl' });
  chip(tree, 1, 'pci0000:00/0000:00:03.1/0000:2d:00.0', {
    name: 'amdgpu',
    power1_average: '7178000',
    power1_cap: '220000000',
    fan1_input: '0',
    fan1_min: '0',
  });
  chip(tree, 2, 'platform/amd_energy.0', {
    name: 'amd_energy',
    energy1_input: '1000000000',
    energy1_label: 'Ecore000',
  });
  chip(tree, 3, 'pci0000:00/0000:00:14.0/i2c-1/1-0040', {
    name: 'ina226',
    curr1_input: '1500',
    curr1_max: '3000',
    humidity1_input: '45500',
  });
  chip(tree, 4, 'pci0000:00/0000:00:14.0/i2c-1/1-0018', {
    name: 'jc42',
    temp1_input: '127000',
    temp1_fault: '1',
    temp1_min_alarm: '0',
    temp1_crit_alarm: '1',
  });
  return tree;
}

test('power, counted energy, current, humidity; a sensor that is broken has no value', async () => {
  using tree = desktop();
  const source = sensor(withRealSleep(tree.context));
  await source.open();
  const first = await source.sample();
  expectContract(first, source);
  expect(bySensor(first)).toMatchObject({
    'k10temp-pci-00c3 temp1': { label: 'Tctl', temperature_celsius: 61.5 },
    'amdgpu-pci-2d00 power1': { power_watts: 7.178, power_max_watts: 220 },
    'ina226-i2c-1-40 curr1': { current_amperes: 1.5, current_max_amperes: 3 },
    'ina226-i2c-1-40 humidity1': { humidity_percent: 45.5 },
  });
  expect(bySensor(first)['jc42-i2c-1-18 temp1']).toEqual({
    kind: 'temperature',
    device: '1-0018',
    fault_flag: 1,
    alarm_flag: 1,
  });
  expect(bySensor(first)['amd_energy-isa-0000 energy1']).toEqual({
    label: 'Ecore000',
    kind: 'energy',
    device: 'amd_energy.0',
  });
  tree.write('sys/devices/platform/amd_energy.0/hwmon/hwmon2/energy1_input', '1250000000\n').context.clock.advance(10);
  expect(bySensor(await source.sample())['amd_energy-isa-0000 energy1']).toMatchObject({ power_watts: 25 });
  await source.close();
});

test('every column is filled by something', async () => {
  const samples: Tables[] = [];
  for (const tree of [desktop(), new SteppedTree().putListing('fixtures-sensors/node_exporter.txt')]) {
    using stepped = tree;
    const source = sensor(withRealSleep(stepped.context));
    await source.open();
    samples.push(await source.sample());
    await source.close();
  }
  expect(unfilledColumns(['sensor'], samples)).toEqual([]);
});

test('a zone that a chip shows is not shown twice; trip points are its limits', async () => {
  using tree = new SteppedTree();
  chip(tree, 0, 'virtual/thermal/thermal_zone0', { name: 'cpu_thermal', temp1_input: '40000' });
  chip(tree, 1, 'platform/coretemp.0', { name: 'coretemp', temp1_input: '50000' });
  const zone = (number: number, files: Record<string, string>) => {
    for (const [name, text] of Object.entries(files))
      tree.write(`sys/devices/virtual/thermal/thermal_zone${number}/${name}`, `${text}\n`);
    tree.link(`sys/class/thermal/thermal_zone${number}`, `../../devices/virtual/thermal/thermal_zone${number}`);
  };
  zone(0, { type: 'cpu-thermal', temp: '40000' });
  zone(1, { type: 'x86_pkg_temp', temp: '50000' });
  zone(2, {
    type: 'soc-thermal',
    temp: '45500',
    trip_point_0_type: 'passive',
    trip_point_0_temp: '85000',
    trip_point_1_type: 'critical',
    trip_point_1_temp: '110000',
    trip_point_2_type: 'hot',
    trip_point_2_temp: '-274000',
    trip_point_3_type: 'active',
    trip_point_3_temp: '60000',
  });
  const source = sensor(withRealSleep(tree.context));
  await source.open();
  const found = bySensor(await source.sample());
  expect(Object.keys(found)).toEqual([
    'cpu_thermal-virtual-0 temp1',
    'coretemp-isa-0000 temp1',
    'soc-thermal-thermal-2 temp1',
  ]);
  expect(found['soc-thermal-thermal-2 temp1']).toMatchObject({
    temperature_celsius: 45.5,
    temperature_max_celsius: 85,
    temperature_critical_celsius: 110,
  });
  await source.close();
});

test('chips of one name at one place keep apart', () => {
  using tree = new SteppedTree();
  for (const number of [0, 1]) chip(tree, number, `virtual/net/eth${number}`, { name: 'sfp', temp1_input: '1' });
  expect(findSensors(tree.path('sys')).map((found) => found.chip)).toEqual([
    'sfp-virtual-0-hwmon0',
    'sfp-virtual-0-hwmon1',
  ]);
});

test('hardware comes and goes', async () => {
  using tree = desktop();
  const source = sensor(withRealSleep(tree.context));
  await source.open();
  const chips = async () => [...new Set((await source.sample()).sensor?.chip)];
  expect(await chips()).toHaveLength(5);
  tree.remove('sys/class/hwmon/hwmon3').remove('sys/devices/pci0000:00/0000:00:14.0/i2c-1/1-0040');
  expect(await chips()).not.toContain('ina226-i2c-1-40');
  chip(tree, 7, 'pci0000:00/0000:00:14.0/i2c-1/1-0048', { name: 'lm75', temp1_input: '20000' });
  expect(await chips()).toContain('lm75-i2c-1-48');
  // Another under the same number.
  tree.remove('sys/class/hwmon/hwmon7').remove('sys/devices/pci0000:00/0000:00:14.0/i2c-1/1-0048');
  await source.sample();
  chip(tree, 7, 'pci0000:00/0000:00:14.0/i2c-1/1-0049', { name: 'lm75', temp1_input: '20000' });
  expect(await chips()).toContain('lm75-i2c-1-49');
  await source.close();
});

test.runIf(process.platform === 'linux')(
  'sensors that answer with an error or hang cost nothing but their own values',
  async () => {
    using tree = desktop();
    const amdgpu = 'sys/devices/pci0000:00/0000:00:03.1/0000:2d:00.0/hwmon/hwmon1';
    // EIO, as of a sensor that does not reply; and a folder for another error.
    tree.link(`${amdgpu}/temp1_input`, '/proc/self/mem').write(`${amdgpu}/temp2_input/x`, '');
    tree.write(`${amdgpu}/temp3_input`, 'N/A\n').write(`${amdgpu}/temp4_input`, '');
    const bus = 'sys/devices/pci0000:00/0000:00:14.0/i2c-1/1-0040/hwmon/hwmon3/temp9_input';
    execFileSync('mkfifo', [tree.path(bus)]);
    const source = sensor(withRealSleep(tree.context));
    await source.open();
    let found: Record<string, Row> = {};
    await expect
      .poll(
        async () => {
          found = bySensor(await source.sample());
          return Object.keys(found).length;
        },
        { timeout: 20_000 },
      )
      .toBe(9);
    expect(Object.keys(found).filter((name) => name.startsWith('ina226'))).toEqual([]);
    expect(found['amdgpu-pci-2d00 power1']).toMatchObject({ power_watts: 7.178 });
    for (const name of ['temp1', 'temp2', 'temp3', 'temp4'])
      expect(found[`amdgpu-pci-2d00 ${name}`]).toEqual({ kind: 'temperature', device: '0000:2d:00.0' });
    tree.context.clock.advance(30);
    expect(source.limitations?.()).toEqual([
      'The sensor chip ina226-i2c-1-40 has not answered for 30 s: its driver waits for the hardware.',
    ]);

    // Its first reading may be given up in the moment in which it is answered: then there is another.
    const answer = () => writeFile(tree.path(bus), '30000\n');
    await answer().catch((cause: NodeJS.ErrnoException) => {
      if (cause.code !== 'EPIPE') throw cause;
      return answer();
    });
    await expect
      .poll(async () => bySensor(await source.sample())['ina226-i2c-1-40 curr1'], { timeout: 20_000 })
      .toMatchObject({ current_amperes: 1.5 });
    await source.close();
  },
  60_000,
);

test('what is switched off to save power is not woken', async () => {
  using tree = desktop();
  const status = 'sys/devices/pci0000:00/0000:00:03.1/0000:2d:00.0/power/runtime_status';
  tree.write(status, 'suspended\n');
  const source = sensor(withRealSleep(tree.context));
  await source.open();
  const isSeen = async () => (await source.sample()).sensor?.chip.includes('amdgpu-pci-2d00');
  expect(await isSeen()).toBe(false);
  expect(source.limitations?.()).toEqual(['amdgpu-pci-2d00: switched off to save power, and not woken to be asked.']);
  tree.write(status, 'active\n');
  expect(await isSeen()).toBe(true);
  expect(source.limitations?.()).toEqual([]);
  // Its last answer is not shown as if it were one of now.
  tree.write(status, 'suspended\n');
  expect(await isSeen()).toBe(false);
  await source.close();
});

test('a machine without sensors says so, and what would help', () => {
  using tree = new SteppedTree();
  expect(() => sensor(tree.context).open()).toThrow(/no sensors in .*virtual machines have none.*sensors-detect/);
});
