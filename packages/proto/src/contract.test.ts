import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { decodeHostDescription, encodeHostDescription } from '#host.ts';

const folder = join(import.meta.dirname, '..');
/** The contract as it was last released: made anew by `pnpm --filter @fleetreel/proto baseline`. */
const baseline = join(folder, 'baseline.binpb');

const buf = (args: readonly string[], cwd = folder) => {
  try {
    return execFileSync(join(folder, 'node_modules/.bin/buf'), args, { cwd, encoding: 'utf8', stdio: 'pipe' });
  } catch (error) {
    return (error as { stdout: string }).stdout || String(error);
  }
};

test('buf lint finds nothing', () => expect(buf(['lint'])).toBe(''));

test('nothing in the contract breaks what was released', () =>
  expect(buf(['breaking', '--against', baseline])).toBe(''));

test('a field taken away would be found', () => {
  const copy = mkdtempSync(join(tmpdir(), 'contract-'));
  onTestFinished(() => rmSync(copy, { recursive: true }));
  for (const part of ['fleetreel', 'buf.yaml']) cpSync(join(folder, part), join(copy, part), { recursive: true });
  symlinkSync(join(folder, 'node_modules'), join(copy, 'node_modules'));
  const path = join(copy, 'fleetreel/v1/host.proto');
  writeFileSync(path, readFileSync(path, 'utf8').replace(/^.*repeated double idle_percent.*$/m, ''));
  expect(buf(['breaking', '--against', baseline], copy)).toMatch(/field "6" with name "idle_percent"/);
});

test('a host description comes back as it was sent', () => {
  const host = {
    host: 'web-1',
    machine_id: 'abc',
    session: 'ffffffffffffffff',
    time_us: 1_795_238_811_539_000,
    agent_version: '0.1.0',
    platform: 'linux',
    os: 'Debian',
    kernel: '6.1',
    architecture: 'x64',
    cpu_model: 'c',
    cpu_count: 8,
    memory_bytes: 2 ** 45,
    gpus: ['a', 'b'],
    virtualization: '',
    boot_time_us: 1,
    interval_ms: 5000,
    addresses: ['10.0.0.1'],
    tags: { rack: 'a' },
    boot_id: 'b',
    dmi_uuid: '4c4c4544-0051-3010-8057-b4c04f4d3633',
    upload_interval_ms: 60_000,
    settings_digest: '0123456789abcdef',
    settings: { interval: '5s', 'tags.role': 'web' },
    settings_refused: { 'sources.tape': 'This version of the agent does not know it.' },
    own_tags: {},
  };
  expect(decodeHostDescription(encodeHostDescription(host))).toEqual(host);
  expect(() => decodeHostDescription(Uint8Array.from([10, 200]))).toThrow(/not a host description/);
});
