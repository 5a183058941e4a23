import { expect, test } from 'vitest';
import { parse, UsageError } from '#command.ts';
import { agents } from '#commands/agents.ts';
import { Output } from '#output.ts';

async function said(...argv: string[]): Promise<string> {
  const invocation = parse(agents, [...argv, '--address', '127.0.0.1:1'], {});
  if (!invocation) throw new Error('help');
  try {
    await agents.run(invocation, new Output({ write: () => true }, {}), new AbortController().signal);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
  return '';
}

test('what can not be understood is said before a collector is asked', async () => {
  expect(await said('sat')).toMatch(/Did you mean "set"/);
  expect(await said('set')).toMatch(/TARGET is missing: all, tag:NAME=VALUE or host:HOST/);
  expect(await said('set', 'all')).toMatch(/KEY=VALUE is missing/);
  expect(await said('set', 'all', 'interval')).toMatch(/interval=1s or sources\.container=off/);
  expect(await said('unset', 'all', '--replace')).toMatch(/unset takes no --replace/);
  expect(await said('list', 'web-1')).toMatch(/one argument too many/);
});
