// A source that fails costs its own rows and nothing else, says why in the frame and in the console, and heals. The agent
// reads the kernel's files through a folder of links, in which single files are then missing, denied, torn or broken, and
// meets a mount that hangs.
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { Latest, Row } from '@fleetreel/proto/http';
import { type Browser, chromium, type Page } from 'playwright';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { chromiumFlags, chromiumPath } from '../servers/chromium.ts';
import type { Program } from '../servers/program.ts';
import { eventually, Stack, startWithin } from '../stack.ts';
import { answers } from './hanging_filesystem.ts';
import { ticksOf } from './ticks.ts';

const host = 'brittle';
const second = 1000;
/** Root reads what is denied, unless it gives that right away. */
const unprivileged = ['setpriv', '--bounding-set=-all', '--inh-caps=-all'];
/** The longest pause before a source that was unavailable is looked at again, and some ticks. */
const healsWithin = 75 * second;

const folder = mkdtempSync(join(tmpdir(), 'fleetreel-proc-'));
const proc = join(folder, 'proc');
const mount = join(folder, 'mount');
const whole = { net: readFileSync('/proc/net/dev', 'utf8'), sockets: readFileSync('/proc/net/sockstat', 'utf8') };

let stack: Stack;
let hanging: Program;
let agent: Program;
let browser: Browser;
let page: Page;

beforeAll(async () => {
  makeProc();
  stack = await Stack.start();
  hanging = await startWithin(['unshare', '--mount', '--propagation', 'private'], 'test/faults/hanging_filesystem.ts', [
    mount,
  ]);
  await hanging.line(/^mounted$/);
  agent = await stack.startAgent({
    host,
    interval: '1s',
    flags: ['--roots-proc', proc],
    within: ['nsenter', `--mount=/proc/${hanging.pid}/ns/mnt`, ...unprivileged],
  });
  await stack.hostThat(host, ({ status }) => status === 'online');
  browser = await chromium.launch({ executablePath: chromiumPath, args: chromiumFlags });
  page = await browser.newPage();
});

afterAll(async () => {
  await browser?.close();
  await stack?.[Symbol.asyncDispose]();
  await hanging?.stop();
  rmSync(folder, { recursive: true, force: true });
});

test('missing, denied, torn and hanging: only their own rows are not there, and the frame says why', async () => {
  const from = Date.now();
  await eventually('an unresponsive mount', 20 * second, async () => (await mounts())[mount] === 1 || undefined);
  expect(await state('memory')).toEqual({ state: 'unavailable', reason: `${proc}/meminfo does not exist here` });
  expect(await state('disk_io')).toMatchObject({
    state: 'unavailable',
    reason: expect.stringContaining(`${proc}/diskstats may not be read`),
  });
  expect(await latest('memory')).toEqual([]);
  expect(await latest('disk_io')).toEqual([]);
  expect((await latest('net_interface')).map((row) => row.interface)).toEqual(['lo']);
  expect(await mounts()).toEqual({ '/': 0, [mount]: 1 });
  for (const table of ['cpu', 'load', 'pressure', 'tcp', 'network'])
    expect((await latest(table))[0]?.time, table).toBeGreaterThan(from - 3 * second);
  // The mount costs its numbers, not the other mounts' rows.
  expect(await state('filesystem')).toEqual({ state: 'ok', reason: '' });
});

test('a file that breaks while it is read: its source fails, the frame goes on', async () => {
  truncateSync(join(proc, 'net/sockstat'), 17 * 1024 * 1024);
  await eventually('the source network failed', 10 * second, async () =>
    (await state('network'))?.state === 'failed' ? true : undefined,
  );
  expect((await state('network'))?.reason).toMatch(/sockstat is larger than \d+ bytes/);
});

test('the console names the failing sources and their reasons', async () => {
  await page.goto(`${stack.address}/hosts`);
  const card = page.locator(`[data-testid="host-card"][data-host="${host}"]`);
  await card.getByText('1 source failed').waitFor();
  await card.click();
  await page
    .getByTestId('sources')
    .getByText(/sockstat is larger than/)
    .waitFor();
  await page.getByRole('button', { name: /^Sources/ }).click();
  await reasonOf('memory').getByText(`${proc}/meminfo does not exist here`).waitFor();
  await reasonOf('disk_io').getByText(`${proc}/diskstats may not be read`).waitFor();
  await page.getByRole('row').filter({ hasText: mount }).getByText('does not answer').waitFor();
});

test('a mount that hangs for 30 s delays no tick', { timeout: 90 * second }, async () => {
  const { rows } = await stack.questdb.query(`SELECT min(ts), max(ts) FROM frame WHERE host = '${host}'`);
  const started = Date.parse(String(rows[0]?.[0]));
  await pause(Math.max(0, started + 32 * second - Date.now()));
  const until = started + 30 * second;
  await eventually('the frames of 30 s', 30 * second, async () => {
    const { frames, leftOut } = await ticksOf(stack.questdb, host, started, until);
    // A busy machine may leave out some ticks, and the agent says so; a mount may not.
    expect(frames + leftOut).toBeGreaterThanOrEqual(29);
    expect(frames).toBeGreaterThanOrEqual(25);
    const cpu = await stack.questdb.query(
      `SELECT count() FROM cpu WHERE host = '${host}' AND core = 'total' AND ts >= ${started * 1000} AND ts < ${until * 1000}`,
    );
    expect(cpu.rows).toEqual([[frames]]);
    return true;
  });
});

test('everything heals by itself', { timeout: healsWithin + 30 * second }, async () => {
  hanging.signal('SIGUSR2');
  symlinkSync('/proc/meminfo', join(proc, 'meminfo'));
  chmodSync(join(proc, 'diskstats'), 0o644);
  writeFileSync(join(proc, 'net/dev'), whole.net);
  writeFileSync(join(proc, 'net/sockstat'), whole.sockets);
  const mended = Date.now();
  for (const source of ['memory', 'disk_io', 'network', 'net_interface', 'filesystem'])
    await eventually(`the source ${source} is ok`, healsWithin, async () => {
      const now = await state(source);
      if (now?.state !== 'ok') throw new Error(JSON.stringify(now));
      return true;
    });
  await eventually('the mount answers', 30 * second, async () => (await mounts())[mount] === 0 || undefined);
  const [answered] = (await latest('filesystem')).filter((row) => row.mount === mount);
  expect(answered?.size_bytes).toBe(answers.blocks * answers.blockBytes);
  expect(answered?.available_bytes).toBe(answers.available * answers.blockBytes);
  for (const table of ['memory', 'net_interface', 'network', 'disk_io'])
    expect((await latest(table))[0]?.time, table).toBeGreaterThan(mended);
  expect((await latest('net_interface')).length).toBe(whole.net.split('\n').length - 3);
  // Limited where this kernel lacks a file of many.
  for (const source of ['memory', 'disk_io', 'network'])
    await page.locator(`[data-source="${source}"]:is([data-state="ok"], [data-state="limited"])`).waitFor();
  expect(agent.lines.join('\n')).not.toMatch(/^\s+at /m);
});

const reasonOf = (source: string) => page.getByTestId('sources').locator(`[data-source="${source}"]`);

/** Links to the kernel's own files, but for those that are spoilt. */
function makeProc(): void {
  mkdirSync(mount);
  mkdirSync(join(proc, 'self'), { recursive: true });
  mkdirSync(join(proc, 'net'));
  for (const name of ['cpuinfo', 'loadavg', 'pressure', 'stat', 'sys', 'uptime', 'vmstat'])
    symlinkSync(join('/proc', name), join(proc, name));
  for (const name of readdirSync('/proc/net'))
    if (name !== 'dev' && name !== 'sockstat') symlinkSync(join('/proc/net', name), join(proc, 'net', name));
  symlinkSync('/proc/self/auxv', join(proc, 'self/auxv'));
  const lines = [`1 0 8:1 / / rw - ext4 /dev/root rw`, `2 1 0:9 / ${mount} rw - fuse hanging rw`];
  writeFileSync(join(proc, 'self/mountinfo'), `${lines.join('\n')}\n`);
  writeFileSync(join(proc, 'net/sockstat'), whole.sockets);
  // Denied: no right at all. Torn: it ends in the middle of the line after the loopback's.
  writeFileSync(join(proc, 'diskstats'), readFileSync('/proc/diskstats'), { mode: 0 });
  const [head = '', columns = ''] = whole.net.split('\n');
  const loopback = whole.net.split('\n').find((line) => line.trim().startsWith('lo:')) ?? '';
  writeFileSync(join(proc, 'net/dev'), `${head}\n${columns}\n${loopback}\n  eth0: 1234 56`);
}

async function latest(table: string): Promise<Row[]> {
  const answer = await fetch(`${stack.address}/api/v1/latest?table=${table}&host=${host}`);
  expect(answer.status).toBe(200);
  return ((await answer.json()) as Latest).rows;
}

async function state(source: string): Promise<{ state: unknown; reason: unknown } | undefined> {
  const row = (await latest('source')).find((one) => one.source === source);
  return row && { state: row.state, reason: row.reason };
}

/** Whether each mount is unresponsive. */
async function mounts(): Promise<Record<string, unknown>> {
  return Object.fromEntries((await latest('filesystem')).map((row) => [row.mount, row.unresponsive_flag]));
}
