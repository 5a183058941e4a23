import { expect, test } from 'vitest';
import { parse, UsageError } from '#command.ts';
import { deadLetters } from '#commands/dead_letters.ts';
import { Output } from '#output.ts';

const run = async (...argv: string[]): Promise<void> => {
  // A port where nobody answers: what is wrong with the question is said before anybody is asked.
  const invocation = parse(deadLetters, [...argv, '--address', '127.0.0.1:1'], {});
  if (invocation)
    await deadLetters.run(invocation, new Output({ write: () => true }, {}), new AbortController().signal);
};

test.each([
  [[], 'list|show|redrive|discard is missing'],
  [['lits'], 'dead-letters has no "lits". Did you mean "list"?'],
  [['list', '7'], 'list takes no sequence'],
  [['show'], 'show takes one sequence'],
  [['show', '1', '2'], 'show takes one sequence'],
  [['redrive', 'x'], '"x" is no sequence'],
  [['discard', '-1'], 'There is no flag -1'],
  [['list', '--limit', 'many'], '--limit many is no number'],
  [['list', '--before', '0'], '"0" is no sequence'],
])('%j is refused with a sentence', async (argv, message) => {
  await expect(run(...argv)).rejects.toThrow(UsageError);
  await expect(run(...argv)).rejects.toThrow(message);
});

test('a question that is well-formed is asked', async () => {
  for (const argv of [['list'], ['show', '1'], ['redrive', '1', '2'], ['discard', '--reason', 'future']])
    await expect(run(...argv)).rejects.toThrow('No collector answers at 127.0.0.1:1');
});
