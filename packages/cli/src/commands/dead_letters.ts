import type { DeadLetter } from '@fleetreel/proto/http';
import { suggestion } from '@fleetreel/proto/settings';
import { Collector } from '#client.ts';
import { type Command, type Invocation, UsageError } from '#command.ts';
import { formatAge } from '#format.ts';
import type { Column, Output } from '#output.ts';

const columns: Column[] = [
  { title: 'SEQUENCE', align: 'right' },
  { title: 'PUT ASIDE', align: 'left' },
  { title: 'HOST', align: 'left' },
  { title: 'REASON', align: 'left' },
  { title: 'BYTES', align: 'right' },
  { title: 'TRIES', align: 'right' },
  { title: 'DETAIL', align: 'left' },
];
const actions = ['list', 'show', 'redrive', 'discard'];
/** Bytes of a message that are shown; JSON has all of them. */
const shownBytes = 256;

export const deadLetters: Command = {
  usage: 'dead-letters list|show|redrive|discard [SEQUENCE...]',
  summary: 'Messages that could not be stored: list them, look into one, publish them again, throw them away',
  arguments: ['list|show|redrive|discard'],
  rest: 'SEQUENCE',
  flags: {
    host: { value: 'HOST', help: 'Only of this host' },
    reason: { value: 'REASON', help: 'Only these: undecodable, unnamed, future, expired, refused' },
    from: { value: 'TIME', help: 'Put aside at or after: RFC 3339, milliseconds since 1970, or -1h' },
    to: { value: 'TIME', help: 'Put aside before' },
    before: { value: 'SEQUENCE', help: 'Only those with a smaller sequence' },
    limit: { value: 'COUNT', help: 'At most so many' },
    all: { help: 'redrive and discard: all that there are' },
  },
  async run(invocation, output) {
    const [action = '', ...words] = invocation.arguments;
    if (!actions.includes(action))
      throw new UsageError(`dead-letters has no "${action}". ${suggestion(action, actions)}`);
    const sequences = words.map(sequenceOf);
    using collector = new Collector(invocation.address);
    if (action === 'list') {
      if (sequences.length > 0) throw new UsageError('list takes no sequence: fleetreel dead-letters show SEQUENCE.');
      return await list(collector, invocation, output);
    }
    if (action === 'show') return await show(collector, sequences, invocation, output);
    const choice = { sequences, filter: filterOf(invocation), all: invocation.flags.has('all') };
    const discard = action === 'discard';
    const outcome = await (discard ? collector.discardDeadLetters(choice) : collector.redriveDeadLetters(choice));
    if (invocation.json) return output.json(outcome);
    for (const { sequence, reason } of outcome.failed) output.line(`${sequence}: ${reason}.`, 'bad');
    output.line(`${outcome.done} ${discard ? 'thrown away' : 'published again'}.`);
    if (outcome.before !== null) output.line(`There may be more: --before ${outcome.before} continues.`, 'faint');
  },
};

async function list(collector: Collector, invocation: Invocation, output: Output): Promise<void> {
  const page = await collector.deadLetters(filterOf(invocation));
  if (invocation.json) return output.json(page);
  const { letters, before } = page;
  if (letters.length === 0 && before === null) return output.line('There are no dead letters that match.');
  const now = Date.now();
  output.table(
    columns,
    letters.map((letter) => [
      { text: String(letter.sequence) },
      { text: formatAge(letter.time, now) },
      { text: letter.host },
      { text: letter.reason, tone: 'bad' },
      { text: String(letter.sizeBytes) },
      { text: String(letter.tries) },
      { text: letter.detail },
    ]),
  );
  if (before !== null) output.line(`There are older ones: --before ${before} continues.`, 'faint');
}

async function show(
  collector: Collector,
  sequences: readonly number[],
  { json }: Invocation,
  output: Output,
): Promise<void> {
  const [sequence, ...more] = sequences;
  if (sequence === undefined || more.length > 0)
    throw new UsageError('show takes one sequence: fleetreel dead-letters show SEQUENCE.');
  const letter = await collector.deadLetter(sequence);
  if (json) return output.json(letter);
  const { base64, ...head } = letter;
  const described: Record<keyof DeadLetter, string> = {
    sequence: 'sequence',
    time: 'put aside',
    host: 'host',
    reason: 'reason',
    detail: 'detail',
    subject: 'subject',
    originalSequence: 'sequence there',
    tries: 'tries',
    sizeBytes: 'bytes',
    cut: 'only its beginning was kept',
  };
  for (const [name, title] of Object.entries(described)) {
    const value = head[name as keyof DeadLetter];
    output.line(`${title}: ${name === 'time' ? new Date(letter.time).toISOString() : value}`);
  }
  const bytes = Buffer.from(base64, 'base64');
  for (let at = 0; at < Math.min(bytes.length, shownBytes); at += 16) {
    const line = bytes.subarray(at, at + 16);
    const hex = [...line].map((byte) => byte.toString(16).padStart(2, '0')).join(' ');
    output.line(
      `${at.toString(16).padStart(6, '0')}  ${hex.padEnd(48)} ${line.toString('latin1').replace(/[^ -~]/g, '.')}`,
    );
  }
  if (bytes.length > shownBytes) output.line(`${bytes.length - shownBytes} bytes more: --json has them.`, 'faint');
}

function sequenceOf(text: string): number {
  if (/^[1-9]\d{0,14}$/.test(text)) return Number(text);
  throw new UsageError(`"${text}" is no sequence of a dead letter: fleetreel dead-letters list shows them.`);
}

/** @throws UsageError */
function filterOf({ flags }: Invocation) {
  const flag = (name: string) => flags.get(name)?.[0] ?? '';
  const limit = flag('limit') || '0';
  if (!/^\d{1,9}$/.test(limit)) throw new UsageError(`--limit ${limit} is no number of dead letters.`);
  return {
    host: flag('host'),
    reason: flag('reason'),
    from: flag('from'),
    to: flag('to'),
    before: flag('before') === '' ? 0 : sequenceOf(flag('before')),
    limit: Number(limit),
  };
}
