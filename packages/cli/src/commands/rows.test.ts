import { expect, test } from 'vitest';
import { parse, UsageError } from '#command.ts';
import { rows } from '#commands/rows.ts';
import { Output } from '#output.ts';

const run = async (...argv: string[]): Promise<void> => {
  // A port where nobody answers: what is wrong with the question is said before anybody is asked.
  const invocation = parse(rows, [...argv, '--address', '127.0.0.1:1'], {});
  if (invocation) await rows.run(invocation, new Output({ write: () => true }, {}), new AbortController().signal);
};

test.each([
  [['--since', '1h', '--from', '-2h'], '--since and --from both say when to begin'],
  [['--since', 'yesterday'], '--since yesterday is no duration'],
  [['--limit', 'many'], '--limit many is no number of rows'],
  [['--limit', '-1'], '--limit -1 is no number of rows'],
  [['--field', 'duration'], 'The table event has no field "duration"'],
  [['--label', 'kind'], "--label kind can't be read"],
])('%j is refused with a sentence', async (flags, message) => {
  await expect(run('event', ...flags)).rejects.toThrow(UsageError);
  await expect(run('event', ...flags)).rejects.toThrow(message);
});

test('a question that is well-formed is asked', async () => {
  await expect(run('event', '--since', '15m', '--label', 'kind=vm', '--limit', '5')).rejects.toThrow(
    'No collector answers at 127.0.0.1:1',
  );
});
