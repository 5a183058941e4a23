import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { NvidiaSmi, parseNvidiaSmi, parseXml } from '#gpu/nvidia_smi.ts';
import { gpu } from '#sources/gpu.ts';
import { defaultSettings, expectContract, rows, SteppedTree, systemContext } from '#sources/testing.ts';

const captured = (name: string): string =>
  readFileSync(join(import.meta.dirname, 'fixtures-gpu/nvidia-smi', `${name}.xml`), 'utf8');

const MiB = 1024 ** 2;

/** What of a row is known. */
const known = (row: object | undefined): object =>
  Object.fromEntries(Object.entries(row ?? {}).filter(([, value]) => value !== '' && !Number.isNaN(value)));

test('XML: elements, attributes, entities, comments, sections', () => {
  const root = parseXml(
    '<?xml version="1.0"?>\n<!DOCTYPE a SYSTEM "a.dtd">\n<a x="1&quot;" y=\'2\'><b>&lt;&#65;&#x1F600;&amp;lt;</b><!-- <b> --><b/>t<![CDATA[<&]]></a>\n',
  );
  expect(root.attributes).toEqual({ x: '1"', y: '2' });
  expect(root.text).toBe('t<&');
  expect(root.children.get('b')?.map(({ text }) => text)).toEqual(['<A😀&lt;', '']);
});

test('XML: what is none is refused', () => {
  for (const text of [
    '',
    'text',
    '<a>',
    '<a></b>',
    '<a></a><b></b>',
    '</a>',
    '<a><b></a></b>',
    '<a>&nbsp;</a>',
    '<a>& </a>',
    '<a>&#x110000;</a>',
    '<a>1 < 2</a>',
    '<a b=c></a>',
    '<!DOCTYPE a [<!ENTITY x "y">]><a>&x;</a>',
    '<a></a>text',
  ])
    expect(() => parseXml(text), text).toThrow(SyntaxError);
});

test('XML: long and deep documents take their time only once', () => {
  const deep = `${'<a>'.repeat(20_000)}${'</a>'.repeat(20_000)}`;
  expect(parseXml(deep).children.size).toBe(1);
  expect(() => parseXml(`<a ${'b="c" '.repeat(50_000)}`)).toThrow(SyntaxError);
  expect(() => parseXml(`<a>${'&'.repeat(100_000)}</a>`)).toThrow(SyntaxError);
});

test('driver 418: GTX 1660 Ti', () => {
  const { gpus, processes } = parseNvidiaSmi(captured('gtx-1660-ti'));
  expect(processes).toEqual([]);
  expect(gpus.map(known)).toEqual([
    {
      gpu: 'GPU-304a277d-3545-63b8-3a36-dfde3c992989',
      name: 'Graphics Device',
      vendor: 'nvidia',
      driver: 'nvidia 418.43',
      cuda_version: '10.1',
      pci_address: '0000:43:00.0',
      compute_mode: 'default',
      throttle_reasons: 'idle',
      throttled_flag: 0,
      used_percent: 0,
      memory_controller_used_percent: 1,
      encoder_used_percent: 0,
      decoder_used_percent: 0,
      memory_total_bytes: 5912 * MiB,
      memory_used_bytes: 0,
      memory_free_bytes: 5912 * MiB,
      memory_used_percent: 0,
      temperature_celsius: 40,
      temperature_slowdown_celsius: 93,
      temperature_shutdown_celsius: 96,
      power_watts: 8.93,
      power_limit_watts: 130,
      power_limit_max_watts: 130,
      fan_percent: 0,
      clock_hertz: 300e6,
      clock_max_hertz: 2145e6,
      memory_clock_hertz: 405e6,
      memory_clock_max_hertz: 4001e6,
      video_clock_hertz: 540e6,
      pcie_sent_bytes_per_second: 0,
      pcie_received_bytes_per_second: 0,
      pcie_generation_code: 1,
      pcie_generation_max_code: 3,
      pcie_lanes_count: 16,
      pcie_lanes_max_count: 16,
      pcie_replays_total: 0,
      performance_state_code: 8,
      processes_count: 0,
    },
  ]);
});

test('driver 418, shortened: what is not there is absent', () => {
  const [row] = parseNvidiaSmi(captured('gtx-1070-ti')).gpus;
  expect(known(row)).toEqual({
    gpu: 'GPU-f9ba66fc-a7f5-94c5-da19-019ef2f9c665',
    name: 'GeForce GTX 1070 Ti',
    vendor: 'nvidia',
    driver: 'nvidia',
    pci_address: '0000:01:00.0',
    compute_mode: 'default',
    used_percent: 0,
    memory_controller_used_percent: 0,
    memory_total_bytes: 4096 * MiB,
    memory_used_bytes: 42 * MiB,
    memory_free_bytes: 4054 * MiB,
    memory_used_percent: (42 / 4096) * 100,
    temperature_celsius: 39,
    fan_percent: 100,
    clock_hertz: 135e6,
    memory_clock_hertz: 405e6,
    video_clock_hertz: 405e6,
    pcie_generation_code: 1,
    pcie_lanes_count: 16,
    performance_state_code: 8,
  });
});

test('driver 515: Tesla T4 with its errors; driver 525: Quadro P2000', () => {
  const [t4] = parseNvidiaSmi(captured('tesla-t4')).gpus;
  expect(t4).toMatchObject({
    driver: 'nvidia 515.105.01',
    ecc_enabled_flag: 1,
    ecc_corrected_volatile_total: 0,
    ecc_uncorrected_aggregate_total: 0,
    retired_pages_corrected_total: 0,
    retired_pages_uncorrected_total: 0,
    retired_pages_pending_flag: 0,
    power_watts: 26.78,
    power_limit_watts: 70,
  });
  expect(known(t4)).not.toHaveProperty('remapped_rows_corrected_total');
  expect(known(t4)).not.toHaveProperty('memory_temperature_celsius');
  const [p2000] = parseNvidiaSmi(captured('quadro-p2000-v12')).gpus;
  expect(p2000).toMatchObject({ driver: 'nvidia 525.125.06', power_watts: 4.61, fan_percent: 46 });
  expect(known(p2000)).not.toHaveProperty('ecc_corrected_volatile_total');
});

test('driver 535: A100 and its instances', () => {
  const { gpus, processes } = parseNvidiaSmi(captured('a100-sxm4-v12'));
  const uuid = 'GPU-513536b6-7d19-9063-b049-1e69664bb298';
  expect(gpus.map((row) => [row.gpu, row.parent])).toEqual([
    [uuid, undefined],
    ...[3, 4, 5, 6].map((instance) => [`MIG-${uuid}/${instance}/0`, uuid]),
  ]);
  expect(gpus[0]).toMatchObject({
    mig_enabled_flag: 1,
    power_watts: 67.03,
    power_limit_watts: 500,
    memory_reserved_bytes: 869 * MiB,
    memory_temperature_celsius: 44,
    pcie_sent_bytes_per_second: 4e6,
    throttle_reasons: '',
    throttled_flag: 0,
  });
  expect(known(gpus[0])).not.toHaveProperty('used_percent');
  expect(gpus[1]).toMatchObject({ memory_total_bytes: 19968 * MiB, memory_used_bytes: 12 * MiB });
  expect(processes).toEqual([]);
});

test('driver 595: RTX 4000 and its processes; deprecated values are absent', () => {
  const { gpus, processes } = parseNvidiaSmi(captured('rtx-4000-sff-ada-v13'));
  expect(gpus[0]).toMatchObject({
    driver: 'nvidia 595.84',
    cuda_version: '13.2',
    power_watts: 8.44,
    power_limit_watts: 70,
    memory_controller_used_percent: 37,
    remapped_rows_corrected_total: 0,
    remapped_rows_failed_flag: 0,
    processes_count: processes.length,
  });
  // Its limits are distances from the temperature, not temperatures.
  expect(known(gpus[0])).not.toHaveProperty('temperature_slowdown_celsius');
  expect(processes.map(({ pid, type, name }) => [pid, type, name])).toEqual([
    [1842, 'graphics', 'cosmic-comp'],
    [3190, 'graphics', '/usr/bin/code'],
    [4937, 'compute', 'python'],
    [34626, 'compute,graphics', '/usr/lib/chromium/chromium'],
  ]);
  expect(processes[0]).toMatchObject({ gpu: gpus[0]?.gpu, memory_used_bytes: 410 * MiB });
});

test('every way to say that there is no value is absent', () => {
  const ways = [
    'N/A',
    '[N/A]',
    '[Not Supported]',
    'Not Supported',
    '[Unknown Error]',
    'Unknown Error',
    'ERR!',
    '[GPU requires reset]',
  ];
  ways.push(
    'GPU requires reset',
    'Insufficient Permissions',
    '[Insufficient Permissions]',
    'GPU is lost',
    '',
    '-',
    '12 parsecs',
  );
  ways.push('Requested functionality has been deprecated', '1e9999 W', '0x7fffffff');
  for (const way of ways) {
    const blank = captured('rtx-4000-sff-ada-v13')
      .replace(/>[^<>\n]+</g, `>${way}<`)
      .replace(/<uuid>[^<]*</, '<uuid>GPU-1<');
    const { gpus, processes } = parseNvidiaSmi(blank);
    const values = Object.values(gpus[0] ?? {}).filter((value) => typeof value === 'number');
    // But for what is counted here.
    expect(
      values.filter((value) => !Number.isNaN(value) && value !== 0),
      way,
    ).toEqual([]);
    expect(processes, way).toEqual([]);
  }
});

const hostile = [
  `a'b"c`,
  '<script>alert(1)</script>',
  '$(reboot)',
  '=cmd()',
  '\u001b[31mred',
  'x'.repeat(4096),
  '</process_name><pid>1</pid>',
  'a</process_name></process_info><process_info><pid>1</pid><process_name>b',
  '&&amp;',
  ']]>',
  'ü😀',
];
const escaped = (text: string) => text.replace(/[&<>'"]/g, (character) => `&#${character.charCodeAt(0)};`);

test('hostile names: escaped they are themselves, unescaped they cost nobody anything', () => {
  const answer = captured('rtx-4000-sff-ada-v13');
  const original = parseNvidiaSmi(answer);
  for (const name of hostile) {
    // A function, since $ and & mean something in a text.
    const good = parseNvidiaSmi(answer.replace('>/usr/bin/code<', () => `>${escaped(name)}<`));
    expect(good.processes.map((process) => process.name)).toContain(name);
    const raw = parseNvidiaSmi(answer.replace('>/usr/bin/code<', () => `>${name}<`));
    expect(raw.gpus).toEqual(original.gpus);
    expect(
      raw.processes.map(({ pid, memory_used_bytes }) => [pid, memory_used_bytes]),
      name,
    ).toEqual(original.processes.map(({ pid, memory_used_bytes }) => [pid, memory_used_bytes]));
  }
});

/** A program in the place of nvidia-smi: a script of the shell. */
function program(script: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-smi-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const path = join(folder, 'nvidia-smi');
  writeFileSync(path, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return path;
}

const fixture = join(import.meta.dirname, 'fixtures-gpu/nvidia-smi/rtx-4000-sff-ada-v13.xml');

test('it is asked for all in XML, in English', async () => {
  const smi = new NvidiaSmi(program(`[ "$*" = "-q -x" ] && [ "$LC_ALL" = C ] && exec cat ${fixture}`));
  expect((await smi.read()).gpus).toHaveLength(1);
});

test('one that fails says why; one that is none, too', async () => {
  const failing = new NvidiaSmi(
    program(`echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."; exit 9`),
  );
  await expect(failing.read()).rejects.toThrow(
    /nvidia-smi failed: NVIDIA-SMI has failed because it couldn't communicate/,
  );
  await expect(new NvidiaSmi(program('exit 3')).read()).rejects.toThrow('nvidia-smi failed: it ended with 3');
  await expect(new NvidiaSmi('/nonexistent/nvidia-smi').read()).rejects.toThrow(/can't be run.*ENOENT/);
  await expect(new NvidiaSmi(program('echo nonsense')).read()).rejects.toThrow();
  await expect(new NvidiaSmi(program('exec yes "<a>"')).read()).rejects.toThrow();
});

test('one that hangs is killed: at its deadline, and when it is closed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-smi-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  const pid = async (name: string): Promise<number> => {
    for (;;) {
      try {
        const text = readFileSync(join(folder, name), 'utf8');
        if (text.endsWith('\n')) return Number(text);
      } catch {
        // Not started yet.
      }
      await systemClock.sleep(10);
    }
  };
  const isAlive = (number: number): boolean => {
    try {
      return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${number}/status`, 'utf8'));
    } catch {
      return false;
    }
  };
  const late = new NvidiaSmi(program(`echo $$ > ${folder}/late; exec sleep 60`), 2000);
  const closed = new NvidiaSmi(program(`echo $$ > ${folder}/closed; exec sleep 60`));
  const reading = late.read();
  const ending = closed.read().catch((cause: Error) => cause.message);
  const pids = [await pid('late'), await pid('closed')];
  expect(pids.map(isAlive)).toEqual([true, true]);
  closed.close();
  expect(await ending).toMatch(/ended with null/);
  await expect(reading).rejects.toThrow(/has not answered for 2 s/);
  for (let wait = 0; wait < 100 && pids.some(isAlive); wait++) await systemClock.sleep(20);
  expect(pids.map(isAlive)).toEqual([false, false]);
}, 30_000);

test('the source asks it where the library can not be had, and says so', async () => {
  using tree = new SteppedTree();
  const context = {
    ...systemContext(),
    roots: tree.context.roots,
    settings: {
      ...defaultSettings,
      gpu: { library: '/nonexistent/libnvidia-ml.so.1', nvidia_smi: program(`exec cat ${fixture}`) },
    },
  };
  const source = gpu(context);
  await source.open();
  for (let wait = 0; ; wait++) {
    const tables = await source.sample();
    expectContract(tables, source);
    if (tables.gpu) {
      expect(rows(tables.gpu, 'pci_address')).toMatchObject({ '0000:06:00.0': { cuda_version: '13.2' } });
      // Nobody else knows the process: its name is the one that nvidia-smi gives.
      expect(tables.gpu_process?.name).toEqual([
        'cosmic-comp',
        '/usr/bin/code',
        'python',
        '/usr/lib/chromium/chromium',
      ]);
      break;
    }
    expect(wait).toBeLessThan(200);
    await systemClock.sleep(50);
  }
  expect(source.limitations?.()).toEqual([
    expect.stringMatching(
      /^The library of NVIDIA can't be used: .*libnvidia-ml.so.1 can't be loaded.*nvidia-smi is asked/,
    ),
  ]);
  await source.close();
});

test('no GPU: nothing is there, and nothing is loaded for it', () => {
  const script = `
    import { gpu } from ${JSON.stringify(join(import.meta.dirname, 'gpu.ts'))};
    import { program } from ${JSON.stringify(join(import.meta.dirname, '../config.ts'))};
    import { readSettings } from '@fleetreel/proto/settings';
    const { settings } = readSettings(program, ['run'], { FLEETREEL_CONFIG: '/dev/null' });
    const roots = { proc: '/nonexistent', sys: '/nonexistent', etc: '/nonexistent', run: '/nonexistent' };
    const source = gpu({ roots, settings, platform: 'linux', clock: { monotonic_ms: () => 0 } });
    try { source.open(); } catch (cause) { console.log(cause.name, cause.message); }
    console.log(process.report.getReport().sharedObjects.filter((path) => path.includes('koffi')).length);
  `;
  const said = execFileSync(process.execPath, ['--input-type=module', '--eval', script], {
    cwd: join(import.meta.dirname, '../..'),
    encoding: 'utf8',
    env: { ...process.env, NODE_NO_WARNINGS: '1' },
  });
  expect(said).toMatch(/^Unavailable There is no GPU with a driver that is known: .*\n0\n$/);
});
