import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { leaksInFolder, leaksInLines, leaksInProcesses } from './secrets.ts';

const secrets = new Set(['correct horse battery', 'frk_id_0123456789']);

test('a secret is found in files, wherever it is in them, but for those that are there to hold it', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-secrets-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  mkdirSync(join(folder, 'log'));
  writeFileSync(join(folder, 'log', 'clean.log'), 'frk_id_012345678, and correct horse');
  // Over the end of a piece that is read.
  writeFileSync(
    join(folder, 'torn.bin'),
    Buffer.concat([Buffer.alloc(4 * 1024 ** 2 - 5, 1), Buffer.from([...secrets][0] ?? '')]),
  );
  writeFileSync(join(folder, 'cli.key'), 'frk_id_0123456789', { mode: 0o600 });
  writeFileSync(join(folder, 'open.key'), 'frk_id_0123456789', { mode: 0o644 });
  expect((await leaksInFolder(folder, secrets, (path) => path.endsWith('.key'))).sort()).toEqual([
    'a secret is in the file torn.bin',
    'open.key is there to hold a secret, and others can read it',
  ]);
  expect(await leaksInFolder(folder, new Set())).toEqual([]);
});

test('a secret is found in what a program wrote, and is not repeated', () => {
  const programs = [
    { name: 'agent', lines: ['begins', 'the key frk_id_0123456789 is refused'] },
    { name: 'collector', lines: ['begins'] },
  ];
  expect(leaksInLines(programs, secrets)).toEqual(['agent has written a secret']);
});

test.runIf(process.platform === 'linux')('a secret is found among the arguments of a process', async () => {
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)', 'frk_id_0123456789']);
  await once(child, 'spawn');
  try {
    expect(await leaksInProcesses(secrets)).toEqual([expect.stringContaining(`(process ${child.pid})`)]);
  } finally {
    child.kill();
    await once(child, 'exit');
  }
});
