// What a newcomer is told when something is missing on the machine.
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'fleetreel-run-'));
  mkdirSync(join(folder, 'deploy'));
  copyFileSync(join(import.meta.dirname, 'run.mjs'), join(folder, 'deploy', 'run.mjs'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const start = (oldest: number) => {
  writeFileSync(
    join(folder, 'package.json'),
    JSON.stringify({ packageManager: 'pnpm@12.21.0', engines: { node: `>=${oldest}` } }),
  );
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(folder, 'deploy', 'run.mjs'), 'up'], {
    env: { PATH: folder },
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
};

test('a Node that is too old is told which one is needed', () => {
  expect(start(99)).toEqual({
    status: 2,
    stdout: '',
    stderr: `Fleetreel needs Node 99 or newer, and this is ${process.version}: see https://nodejs.org/en/download.\n`,
  });
});

test('without npm it is said what is missing and where it comes from', () => {
  expect(start(20)).toEqual({
    status: 2,
    stdout: '',
    stderr: 'npx is missing: install Node with npm, which brings it (https://nodejs.org/en/download).\n',
  });
});
