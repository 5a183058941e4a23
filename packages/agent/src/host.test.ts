import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { decodeHostDescription, encodeHostDescription } from '@fleetreel/proto';
import { expect, onTestFinished, test } from 'vitest';
import { describe as describeHost, identify } from '#host.ts';

function machine(files: Record<string, string> = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-host-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(folder, path, '..'), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  const at = (name: string) => join(folder, name);
  return { folder, data: at('data'), roots: { proc: at('proc'), sys: at('sys'), etc: at('etc'), run: at('run') } };
}

test("the machine's own ids are taken, one that is set before them", () => {
  const { data, roots } = machine({
    'etc/machine-id': '3d1219c7c4c5404aaa1f6d2a48adfda4\n',
    'proc/sys/kernel/random/boot_id': 'f6f1e6a0-boot\n',
    'sys/class/dmi/id/product_uuid': '4C4C4544-0051\n',
  });
  expect(identify({ host: 'one', data }, roots, true)).toEqual({
    host: 'one',
    machineId: '3d1219c7c4c5404aaa1f6d2a48adfda4',
    dmiUuid: '4c4c4544-0051',
    bootId: 'f6f1e6a0-boot',
  });
  expect(identify({ data, machine_id: 'mine-0001' }, roots, true).machineId).toBe('mine-0001');
});

test.each([{}, { 'etc/machine-id': '' }, { 'etc/machine-id': 'uninitialized\n' }])(
  'a machine without an id keeps one that was made: %j',
  (files: Record<string, string>) => {
    const { data, roots } = machine(files);
    const { machineId } = identify({ data }, roots, true);
    expect(machineId).toMatch(/^[0-9a-f]{32}$/);
    expect(identify({ data }, roots, true).machineId).toBe(machineId);
  },
);

test('where nothing may be changed, nothing is; but it is said when it could not be', () => {
  const { folder, data, roots } = machine({ file: '' });
  expect(identify({ data }, roots, false).machineId).toMatch(/^[0-9a-f]{32}$/);
  expect(readdirSync(folder)).toEqual(['file']);
  expect(() => identify({ data: join(folder, 'file', 'data') }, roots, false)).toThrow(/file is not a folder/);
  expect(() => identify({ data: join(folder, 'file', 'data') }, roots, true)).toThrow(/ENOTDIR/);
});

test('a description is whole and survives the way through the log', async () => {
  const { data, roots } = machine();
  const identity = identify({ host: 'one', machine_id: 'mine-0001', data }, roots, true);
  const more = {
    session: '0123456789abcdef',
    time_us: 1_795_238_811_539_000,
    interval_ms: 5000,
    upload_interval_ms: 60_000,
    agent_version: '1.2.3',
    settings: { interval: '5s' },
    settings_digest: '0123456789abcdef',
    settings_refused: { 'tags.rack': 'It has to be another.' },
    own_tags: {},
  };
  const description = await describeHost(identity, { ...more, tags: { rack: 'a3' } });
  expect(description).toMatchObject({ host: 'one', machine_id: 'mine-0001', tags: { rack: 'a3' }, ...more });
  for (const part of ['os', 'kernel', 'architecture', 'cpu_model', 'platform'] as const)
    expect(description[part], part).not.toBe('');
  expect(description.boot_time_us).toBeLessThan(more.time_us);
  expect(decodeHostDescription(encodeHostDescription(description))).toEqual(description);
});
