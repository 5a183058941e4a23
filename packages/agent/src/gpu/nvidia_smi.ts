import { type ChildProcess, spawn } from 'node:child_process';
import { celsius, type GpuProcessRow, type GpuReading, type GpuRow, share, usedPercent } from '#gpu/model.ts';
import { nvidiaSmiBytesMax, nvidiaSmiMilliseconds } from '#limits.ts';

// What `nvidia-smi -q -x` says: the way where the library can't be had. Its elements have changed with the driver's
// generations: nvsmi_device_v6 (340), v9 (390), v10 (418), v11 (470 to 515), v12 (525 to 575), v13 (580 and newer).

/** An element: its text, without that of its children, and its children by name. */
export type Xml = { attributes: Record<string, string>; text: string; children: Map<string, Xml[]> };

const entities: Record<string, string> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

/** Text with its entities resolved. @throws SyntaxError at what is none, or an & alone */
function unescaped(text: string): string {
  return text.replace(/&([^;&\s]{0,10};?)/g, (whole, name: string) => {
    const number = /^#(?:x([\da-fA-F]{1,6})|(\d{1,7}));$/.exec(name);
    const code = number ? Number.parseInt(number[1] ?? number[2] ?? '', number[1] ? 16 : 10) : undefined;
    const character =
      code === undefined ? entities[name.slice(0, -1)] : code <= 0x10_ffff && String.fromCodePoint(code);
    if (!character || !name.endsWith(';')) throw new SyntaxError(`${whole} is no entity`);
    return character;
  });
}

const token =
  /<\?[\s\S]*?\?>|<!--[\s\S]*?-->|<!\[CDATA\[([\s\S]*?)\]\]>|<!DOCTYPE[^>[]*>|<\/([\w.:-]+)\s*>|<([\w.:-]+)((?:\s+[\w.:-]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*)\s*(\/?)>|([^<]+)/y;

/** The root element of a small XML document, without namespaces and definitions of its own. @throws SyntaxError */
export function parseXml(document: string): Xml {
  const root: Xml = { attributes: {}, text: '', children: new Map() };
  const open: { name: string; element: Xml }[] = [{ name: '', element: root }];
  token.lastIndex = 0;
  while (token.lastIndex < document.length) {
    const at = token.lastIndex;
    const match = token.exec(document);
    const top = open.at(-1);
    if (!match || !top) throw new SyntaxError(`no XML at character ${at}`);
    const [, raw, closed, opened, attributes = '', isEmpty, text] = match;
    if (text !== undefined) top.element.text += unescaped(text);
    else if (raw !== undefined) top.element.text += raw;
    else if (closed !== undefined) {
      if (top.name !== closed || open.length === 1)
        throw new SyntaxError(`</${closed}> at character ${at} closes nothing`);
      open.pop();
    } else if (opened !== undefined) {
      const element: Xml = { attributes: attributesOf(attributes), text: '', children: new Map() };
      const alike = top.element.children.get(opened);
      if (alike) alike.push(element);
      else top.element.children.set(opened, [element]);
      if (isEmpty === '') open.push({ name: opened, element });
    }
  }
  if (open.length > 1) throw new SyntaxError(`<${open.at(-1)?.name}> is not closed`);
  if (root.text.trim() !== '') throw new SyntaxError('text outside of elements');
  const [only, ...more] = [...root.children.values()].flat();
  if (!only || more.length > 0) throw new SyntaxError('not one root element');
  return only;
}

const attributesOf = (text: string): Record<string, string> =>
  Object.fromEntries(
    Array.from(text.matchAll(/([\w.:-]+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g), ([, name = '', double, single]) => [
      name,
      unescaped(double ?? single ?? ''),
    ]),
  );

/** The element at a path of names; the first where there are several. */
function find(from: Xml, path: string): Xml | undefined {
  let element: Xml | undefined = from;
  for (const name of path.split('/')) element = element?.children.get(name)?.[0];
  return element;
}

/** Text of the first of these paths that is there; empty where none is, or where it says that there is nothing. */
function textOf(from: Xml, ...paths: string[]): string {
  for (const path of paths) {
    const text = find(from, path)?.text.trim() ?? '';
    // N/A, [N/A], [Not Supported], Unknown Error, ERR!, GPU requires reset, Insufficient Permissions, Requested ... deprecated
    if (text !== '' && !/^\[|^N\/A$|error|ERR!|requires|permission|not supported|deprecated/i.test(text)) return text;
  }
  return '';
}

const scales: Record<string, number> = { '': 1, '%': 1, C: 1, W: 1, x: 1, MiB: 1024 ** 2, MHz: 1e6, 'KB/s': 1000 };

/** The number with its unit at the first of these paths that has one, in base units; NaN where none has. */
function numberOf(from: Xml, ...paths: string[]): number {
  for (const path of paths) {
    const [, digits = '', unit = ''] = /^(-?\d{1,15}(?:\.\d{1,6})?) ?([a-zA-Z%/]{0,5})$/.exec(textOf(from, path)) ?? [];
    const scale = digits === '' ? undefined : scales[unit];
    if (scale !== undefined) return Number(digits) * scale;
  }
  return Number.NaN;
}

const flags: Record<string, number> = { Yes: 1, No: 0, Enabled: 1, Disabled: 0 };
const flagOf = (from: Xml, path: string): number => flags[textOf(from, path)] ?? Number.NaN;

/** The sum of what is there; NaN where nothing is. */
function sumOf(from: Xml, ...paths: string[]): number {
  const values = paths.map((path) => numberOf(from, path)).filter((value) => !Number.isNaN(value));
  return values.length === 0 ? Number.NaN : values.reduce((sum, value) => sum + value, 0);
}

/** What lowers the clocks, as the elements of all generations call it. */
const reasons: readonly [element: string, reason: string, lowers: boolean][] = [
  ['gpu_idle', 'idle', false],
  ['applications_clocks_setting', 'applications_clocks', false],
  ['sw_power_cap', 'power_cap', true],
  ['hw_slowdown', 'hardware', true],
  ['sync_boost', 'sync_boost', false],
  ['sw_thermal_slowdown', 'thermal', true],
  ['hw_thermal_slowdown', 'hardware_thermal', true],
  ['hw_power_brake_slowdown', 'power_brake', true],
  ['display_clocks_setting', 'display_clocks', false],
];

function throttling(gpu: Xml): Pick<GpuRow, 'throttle_reasons' | 'throttled_flag'> {
  const states = reasons.map(([element, reason, lowers]) => ({
    reason,
    lowers,
    state: textOf(
      gpu,
      `clocks_event_reasons/clocks_event_reason_${element}`,
      `clocks_throttle_reasons/clocks_throttle_reason_${element}`,
    ),
  }));
  if (states.every(({ state }) => state === '')) return {};
  const active = states.filter(({ state }) => state === 'Active');
  return {
    throttle_reasons: active.map(({ reason }) => reason).join(','),
    throttled_flag: active.some(({ lowers }) => lowers) ? 1 : 0,
  };
}

function memoryOf(of: Xml): Partial<GpuRow> {
  const total = numberOf(of, 'fb_memory_usage/total');
  const used = numberOf(of, 'fb_memory_usage/used');
  return {
    memory_total_bytes: total,
    memory_used_bytes: used,
    memory_free_bytes: numberOf(of, 'fb_memory_usage/free'),
    memory_reserved_bytes: numberOf(of, 'fb_memory_usage/reserved'),
    memory_used_percent: usedPercent(used, total),
  };
}

function errorsOf(gpu: Xml): Partial<GpuRow> {
  const corrected = (kind: string) => {
    const of = `ecc_errors/${kind}`;
    return sumOf(gpu, `${of}/single_bit/total`, `${of}/sram_correctable`, `${of}/dram_correctable`);
  };
  const uncorrected = (kind: string) => {
    const of = `ecc_errors/${kind}`;
    const sram = ['sram_uncorrectable', 'sram_uncorrectable_parity', 'sram_uncorrectable_secded'];
    return sumOf(gpu, `${of}/double_bit/total`, `${of}/dram_uncorrectable`, ...sram.map((name) => `${of}/${name}`));
  };
  return {
    ecc_enabled_flag: flagOf(gpu, 'ecc_mode/current_ecc'),
    ecc_corrected_volatile_total: corrected('volatile'),
    ecc_uncorrected_volatile_total: uncorrected('volatile'),
    ecc_corrected_aggregate_total: corrected('aggregate'),
    ecc_uncorrected_aggregate_total: uncorrected('aggregate'),
    retired_pages_corrected_total: numberOf(gpu, 'retired_pages/multiple_single_bit_retirement/retired_count'),
    retired_pages_uncorrected_total: numberOf(gpu, 'retired_pages/double_bit_retirement/retired_count'),
    retired_pages_pending_flag: flagOf(gpu, 'retired_pages/pending_retirement'),
    remapped_rows_corrected_total: numberOf(gpu, 'remapped_rows/remapped_row_corr'),
    remapped_rows_uncorrected_total: numberOf(gpu, 'remapped_rows/remapped_row_unc'),
    remapped_rows_pending_flag: flagOf(gpu, 'remapped_rows/remapped_row_pending'),
    remapped_rows_failed_flag: flagOf(gpu, 'remapped_rows/remapped_row_failure'),
  };
}

function powerOf(gpu: Xml): Partial<GpuRow> {
  const powers = (...names: string[]) =>
    ['gpu_power_readings', 'power_readings'].flatMap((of) => names.map((name) => `${of}/${name}`));
  return {
    temperature_celsius: celsius(numberOf(gpu, 'temperature/gpu_temp')),
    memory_temperature_celsius: celsius(numberOf(gpu, 'temperature/memory_temp')),
    temperature_slowdown_celsius: celsius(numberOf(gpu, 'temperature/gpu_temp_slow_threshold')),
    temperature_shutdown_celsius: celsius(numberOf(gpu, 'temperature/gpu_temp_max_threshold')),
    power_watts: numberOf(gpu, ...powers('power_draw', 'instant_power_draw', 'average_power_draw')),
    power_limit_watts: numberOf(gpu, ...powers('enforced_power_limit', 'current_power_limit', 'power_limit')),
    power_limit_max_watts: numberOf(gpu, ...powers('max_power_limit')),
    fan_percent: share(numberOf(gpu, 'fan_speed')),
  };
}

/** Rows of one `<gpu>`, its instances and its processes. */
function rowsOf(gpu: Xml, log: { driver: string; cuda: string }): GpuReading {
  const link = 'pci/pci_gpu_link_info';
  // 8 digits of the domain; the kernel and everybody else write 4.
  const address = (textOf(gpu, 'pci/pci_bus_id') || (gpu.attributes.id ?? ''))
    .toLowerCase()
    .replace(/^0000(?=.{4}:.{2}:)/, '');
  const uuid = textOf(gpu, 'uuid') || address;
  const state = /^P(\d{1,2})$/.exec(textOf(gpu, 'performance_state', 'power_state'))?.[1];
  const common = {
    vendor: 'nvidia',
    driver: log.driver === '' ? 'nvidia' : `nvidia ${log.driver}`,
    cuda_version: log.cuda,
    pci_address: address,
  };
  const mode = textOf(gpu, 'compute_mode').toLowerCase().replaceAll(' ', '_');
  const row: GpuRow = {
    gpu: uuid,
    name: textOf(gpu, 'product_name'),
    ...common,
    compute_mode: mode === 'e._process' ? 'exclusive_process' : mode,
    ...throttling(gpu),
    used_percent: share(numberOf(gpu, 'utilization/gpu_util')),
    memory_controller_used_percent: share(numberOf(gpu, 'utilization/memory_util')),
    encoder_used_percent: share(numberOf(gpu, 'utilization/encoder_util')),
    decoder_used_percent: share(numberOf(gpu, 'utilization/decoder_util')),
    ...memoryOf(gpu),
    ...powerOf(gpu),
    ...errorsOf(gpu),
    clock_hertz: numberOf(gpu, 'clocks/sm_clock', 'clocks/graphics_clock'),
    clock_max_hertz: numberOf(gpu, 'max_clocks/sm_clock', 'max_clocks/graphics_clock'),
    memory_clock_hertz: numberOf(gpu, 'clocks/mem_clock'),
    memory_clock_max_hertz: numberOf(gpu, 'max_clocks/mem_clock'),
    video_clock_hertz: numberOf(gpu, 'clocks/video_clock'),
    pcie_sent_bytes_per_second: numberOf(gpu, 'pci/tx_util'),
    pcie_received_bytes_per_second: numberOf(gpu, 'pci/rx_util'),
    pcie_generation_code: numberOf(gpu, `${link}/pcie_gen/current_link_gen`),
    pcie_generation_max_code: numberOf(gpu, `${link}/pcie_gen/max_link_gen`),
    pcie_lanes_count: numberOf(gpu, `${link}/link_widths/current_link_width`),
    pcie_lanes_max_count: numberOf(gpu, `${link}/link_widths/max_link_width`),
    pcie_replays_total: numberOf(gpu, 'pci/replay_counter'),
    performance_state_code: state === undefined ? Number.NaN : Number(state),
    mig_enabled_flag: flagOf(gpu, 'mig_mode/current_mig'),
  };
  const instances = (find(gpu, 'mig_devices')?.children.get('mig_device') ?? []).map(
    (instance): GpuRow => ({
      gpu: textOf(instance, 'uuid') || instanceName(uuid, instance),
      name: `${row.name} MIG`,
      ...common,
      parent: uuid,
      ...memoryOf(instance),
    }),
  );
  return { gpus: [row, ...instances], processes: processesOf(gpu, row, instances) };
}

/** How instances without a UUID are called: by their GPU and the two numbers that processes name them by. */
const instanceName = (gpu: string, of: Xml): string =>
  `MIG-${gpu}/${textOf(of, 'gpu_instance_id')}/${textOf(of, 'compute_instance_id')}`;

const types: Record<string, string> = { C: 'compute', G: 'graphics', 'C+G': 'compute,graphics', 'M+C': 'compute' };

function processesOf(gpu: Xml, row: GpuRow, instances: readonly GpuRow[]): GpuProcessRow[] {
  const list = find(gpu, 'processes');
  if (!list) return [];
  const devices = find(gpu, 'mig_devices')?.children.get('mig_device') ?? [];
  const places = new Map(devices.map((device, place) => [instanceName(row.gpu, device), instances[place]]));
  const rows = new Map<string, GpuProcessRow>();
  for (const info of list.children.get('process_info') ?? []) {
    const pid = numberOf(info, 'pid');
    if (!Number.isSafeInteger(pid)) continue;
    const on = places.get(instanceName(row.gpu, info)) ?? row;
    const type = types[textOf(info, 'type')] ?? '';
    const memory = numberOf(info, 'used_memory');
    const name = find(info, 'process_name')?.text ?? '';
    rows.set(`${on.gpu}/${pid}`, { gpu: on.gpu, pid, name, type, memory_used_bytes: memory });
  }
  for (const on of instances.length > 0 ? instances : [row])
    on.processes_count = [...rows.values()].filter(({ gpu: of }) => of === on.gpu).length;
  return [...rows.values()];
}

/** All rows of the answer of `nvidia-smi -q -x`. @throws SyntaxError where it is none */
export function parseNvidiaSmi(answer: string): GpuReading {
  // A long list that is not needed, and not always well-formed. Names may be written as they are, and programs call themselves
  // what they like: a line with one that looks like more elements has none.
  const brief = answer
    .replace(/<supported_clocks>[\s\S]*?<\/supported_clocks>/g, '')
    .replace(/<process_name>(.*)<\/process_name>[ \t]*$/gm, (line, name: string) => (name.includes('<') ? '' : line));
  let log: Xml;
  try {
    log = parseXml(brief);
  } catch {
    log = parseXml(brief.replace(/<process_name>[\s\S]*?<\/process_name>/g, ''));
  }
  const about = { driver: textOf(log, 'driver_version'), cuda: textOf(log, 'cuda_version') };
  const readings = (log.children.get('gpu') ?? []).map((gpu) => rowsOf(gpu, about));
  return { gpus: readings.flatMap(({ gpus }) => gpus), processes: readings.flatMap(({ processes }) => processes) };
}

/** Runs nvidia-smi; at most one at a time, which is gone when its time is over, or when it is closed. */
export class NvidiaSmi {
  readonly #command: string;
  readonly #answer_ms: number;
  #child: ChildProcess | undefined;

  constructor(command: string, answer_ms: number = nvidiaSmiMilliseconds.answer) {
    this.#command = command;
    this.#answer_ms = answer_ms;
  }

  /** @throws Error where it can't be run, fails, hangs, or says something else */
  async read(): Promise<GpuReading> {
    const { answer, code, isLate } = await this.#run();
    if (isLate) throw new Error(`nvidia-smi has not answered for ${this.#answer_ms / 1000} s`);
    // It says on its standard output why it fails, in one line.
    if (code !== 0 && !answer.includes('</nvidia_smi_log>'))
      throw new Error(
        `nvidia-smi failed: ${answer.slice(0, 200).replace(/\s+/g, ' ').trim() || `it ended with ${code}`}`,
      );
    return parseNvidiaSmi(answer);
  }

  close(): void {
    this.#child?.kill('SIGKILL');
  }

  #run(): Promise<{ answer: string; code: number | null; isLate: boolean }> {
    return new Promise((resolve, reject) => {
      const child = spawn(this.#command, ['-q', '-x'], {
        stdio: ['ignore', 'pipe', 'ignore'],
        env: { ...process.env, LC_ALL: 'C' },
      });
      this.#child = child;
      const chunks: Buffer[] = [];
      let bytes = 0;
      let isLate = false;
      const limit = setTimeout(() => {
        isLate = true;
        child.kill('SIGKILL');
        // One that waits in the kernel is not gone by that, nor is a child of it that holds the pipe.
        child.stdout.destroy();
        child.unref();
        finish(null);
      }, this.#answer_ms);
      const finish = (code: number | null): void => {
        clearTimeout(limit);
        this.#child = undefined;
        resolve({ answer: Buffer.concat(chunks).toString('utf8'), code, isLate });
      };
      child.stdout.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes <= nvidiaSmiBytesMax) chunks.push(chunk);
        else child.kill('SIGKILL');
      });
      child.once('error', (cause) => {
        clearTimeout(limit);
        this.#child = undefined;
        reject(new Error(`nvidia-smi can't be run: ${cause.message}`, { cause }));
      });
      child.once('close', finish);
    });
  }
}
