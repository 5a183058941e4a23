// The Python client: its own tests, its types, and what it does with the whole product.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheFolder, thisMachine } from '@fleetreel/deploy/local/obtain';
import { describe, expect, test } from 'vitest';

const run = promisify(execFile);
const folder = join(import.meta.dirname, '..', '..', 'clients/python');
/** From PyPI. */
const mypyVersion = '2.4.1';

/** A Python that the client is for. */
const python = ['python3', 'python'].find(
  (name) => spawnSync(name, ['-c', 'import sys; sys.exit(sys.version_info < (3, 9))']).status === 0,
);
/** Whether it makes environments, and is one that mypy still knows. */
const hasMypy =
  spawnSync(python ?? 'python3', ['-c', 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))']).status ===
  0;

/** mypy in an environment of its own, made at the first call. */
async function mypy(): Promise<string> {
  const environment = join(cacheFolder(thisMachine()), `mypy-${mypyVersion}`);
  const program = join(environment, 'bin', 'mypy');
  if (!existsSync(program)) {
    await run(python ?? 'python3', ['-m', 'venv', '--clear', environment]);
    await run(join(environment, 'bin', 'pip'), ['install', '--quiet', `mypy==${mypyVersion}`]);
  }
  return program;
}

describe.skipIf(python === undefined)('the Python client', () => {
  const env = { ...process.env, PYTHONPATH: join(folder, 'src'), PYTHONDONTWRITEBYTECODE: '1' };

  test('does what its own tests say', async () => {
    const { stderr } = await run(
      python ?? 'python3',
      ['-W', 'error', '-m', 'unittest', 'discover', '-t', '.', '-s', 'tests'],
      { cwd: folder, env, timeout: 150_000 },
    );
    expect(stderr).toMatch(/^Ran \d{2,} tests in .*\n\nOK$/m);
  });

  test.skipIf(!hasMypy)('has types that are complete and hold', async () => {
    const cache = join(cacheFolder(thisMachine()), 'mypy-cache');
    const { stdout } = await run(await mypy(), ['--cache-dir', cache], { cwd: folder, timeout: 150_000 });
    expect(stdout).toMatch(/^Success: no issues found/);
  });
});
