// The document at /docs/json describes what the collector does: schemathesis makes requests from it, right and wrong ones,
// and looks at every answer.
import { execFile, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { cacheFolder, thisMachine } from '@fleetreel/deploy/local/obtain';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Stack } from '../stack.ts';

const run = promisify(execFile);
/** From PyPI. */
const version = '4.32.5';
/** Made up for each route; the same ones in each run, so that one that fails can be had again. */
const examples = process.env.FLEETREEL_OPENAPI_EXAMPLES ?? '10';
const seed = process.env.FLEETREEL_OPENAPI_SEED ?? '1';

const python = ['python3', 'python'].find((name) => spawnSync(name, ['-c', 'import venv, ensurepip']).status === 0);

/** The program `st` in an environment of its own, made at the first call. */
async function schemathesis(): Promise<string> {
  const folder = join(cacheFolder(thisMachine()), `schemathesis-${version}`);
  const program = join(folder, 'bin', 'st');
  if (!existsSync(program)) {
    await run(python ?? 'python3', ['-m', 'venv', '--clear', folder]);
    await run(join(folder, 'bin', 'pip'), ['install', '--quiet', `schemathesis==${version}`]);
  }
  return program;
}

describe.skipIf(python === undefined)('the OpenAPI document', () => {
  let stack: Stack;

  beforeAll(async () => {
    stack = await Stack.start();
    // The name that the document's examples have.
    await stack.startAgent({ host: 'web-1' });
    await stack.hostThat('web-1', ({ status }) => status === 'online');
  });

  afterAll(async () => {
    await stack?.[Symbol.asyncDispose]();
  });

  test('is kept by every answer to a fuzzer, and none is a 5xx', { timeout: 600_000 }, async () => {
    const program = await schemathesis();
    const { code, output } = await run(
      program,
      [
        'run',
        `${stack.address}/docs/json`,
        '--max-examples',
        examples,
        '--seed',
        seed,
        '--continue-on-failure',
        '--no-color',
        '--checks',
        'all',
        // Whether a field, a label or a host is right depends on the table: a schema can't say so. And a WebSocket
        // answers only to its own kind of client.
        '--exclude-checks',
        'positive_data_acceptance',
      ],
      { cwd: stack.folder, timeout: 540_000, maxBuffer: 64 * 1024 * 1024 },
    ).then(
      ({ stdout }) => ({ code: 0, output: stdout }),
      (error: { code: number; stdout: string; stderr: string }) => ({
        code: error.code,
        output: `${error.stdout}${error.stderr}`,
      }),
    );
    expect(code, output.slice(-20_000)).toBe(0);
    // It did ask, and of every route.
    expect(Number(/(\d+) generated/.exec(output)?.[1])).toBeGreaterThan(200);
    const [, selected, tested] = /Selected: (\d+)\/\d+\s+Tested: (\d+)/.exec(output) ?? [];
    expect(tested).toBe(selected);
    expect(Number(tested)).toBeGreaterThanOrEqual(9);
    expect((await stack.readiness()).status).toBe(200);
  });
});
