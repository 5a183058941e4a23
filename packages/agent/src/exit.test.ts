import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';

/** A program that opens what never answers, a pipe without a writer, and then ends in this way. */
async function endOf(end: string): Promise<number | null> {
  const folder = mkdtempSync(join(tmpdir(), 'fleetreel-exit-'));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const pipe = join(folder, 'pipe');
  execFileSync('mkfifo', [pipe]);
  const program = `
    import { open } from 'node:fs';
    import { exit } from ${JSON.stringify(join(import.meta.dirname, 'exit.ts'))};
    open(${JSON.stringify(pipe)}, () => {});
    console.log('started');
    setTimeout(() => ${end}, 200);
  `;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    stdio: ['inherit', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit') as Promise<[number | null]>;
  await once(child.stdout, 'data');
  const limit = setTimeout(() => child.kill('SIGKILL'), 5000);
  const [code] = await ended;
  clearTimeout(limit);
  return code;
}

test.skipIf(process.platform === 'win32')(
  'a call that never comes back does not keep the agent from ending',
  async () => {
    // The orderly end has to be killed: otherwise this would test nothing.
    expect(await Promise.all([endOf('exit(7)'), endOf('process.exit(7)')])).toEqual([7, null]);
  },
);
