// Dead letters as both faces of the API ask for them: words looked up, then passed on to the log.
import { ApiError, clip } from '@fleetreel/proto/errors';
import { deadLettersMax } from '#limits.ts';
import type { DeadFilter, DeadLetters, DeadOutcome, DeadPage } from '#log/dead.ts';
import { deadKinds } from '#log/publish.ts';
import { parseTime } from '#query/time.ts';

/** Dead letters of a page when nothing else is asked for. */
export const deadLettersDefault = 100;

/** What is asked, as it was written; what is empty is not asked for. */
export type DeadQuestion = Partial<Record<'host' | 'reason' | 'from' | 'to' | 'before' | 'limit', string | undefined>>;

/** Which are meant: by their sequences, by a filter, or all. */
export type DeadChoice = DeadQuestion & { sequences: readonly string[]; all: boolean };

/** @throws ApiError */
export async function listDead(
  letters: DeadLetters,
  tenant: string,
  question: DeadQuestion,
  now: number,
): Promise<DeadPage> {
  return await letters.list(tenant, filterOf(question, now), limitOf(question.limit, deadLettersDefault));
}

/** Publishes them again, or throws them away, oldest first; returns which, too. @throws ApiError */
export async function changeDead(
  letters: DeadLetters,
  what: 'redrive' | 'discard',
  tenant: string,
  choice: DeadChoice,
  now: number,
): Promise<{ sequences: readonly number[]; outcome: DeadOutcome }> {
  const filter = filterOf(choice, now);
  const limit = limitOf(choice.limit, deadLettersMax);
  const filtered = Object.values(filter).some((value) => value !== undefined);
  if (choice.sequences.length > 0) {
    if (filtered || choice.all)
      throw new ApiError('bad_value', {
        parameter: 'sequence',
        value: clip(choice.sequences.join(',')),
        expected: 'either sequences or a filter, not both',
      });
    if (choice.sequences.length > deadLettersMax)
      throw new ApiError('too_many_names', {
        parameter: 'sequence',
        count: choice.sequences.length,
        most: deadLettersMax,
      });
    const sequences = [...new Set(choice.sequences.map((text) => sequenceOf(text, 'sequence')))];
    return { sequences, outcome: { ...(await letters[what](tenant, sequences)), before: undefined } };
  }
  if (!filtered && !choice.all)
    throw new ApiError('missing_parameter', {
      parameter: 'sequence',
      expected: 'sequences, a filter (host, reason, from, to), or all=true',
    });
  const page = await letters.list(tenant, filter, limit);
  const sequences = page.letters.map(({ sequence }) => sequence).reverse();
  return { sequences, outcome: { ...(await letters[what](tenant, sequences)), before: page.before } };
}

/** @throws ApiError */
export function sequenceOf(text: string, parameter: string): number {
  const sequence = /^\d{1,15}$/.test(text) ? Number(text) : 0;
  if (sequence > 0) return sequence;
  throw new ApiError('bad_value', {
    parameter,
    value: clip(text),
    expected: 'the sequence of a dead letter, as they are listed: a whole number from 1',
  });
}

function filterOf({ host, reason, from, to, before }: DeadQuestion, now: number): DeadFilter {
  // Also hosts that nothing else is known of have dead letters, but none whose name is no token of a subject.
  if (host && !/^[^\s*>]{1,256}$/.test(host))
    throw new ApiError('bad_value', { parameter: 'host', value: clip(host), expected: 'the name of a host' });
  const kind = deadKinds.find((one) => one === reason);
  if (reason && kind === undefined)
    throw new ApiError('bad_value', { parameter: 'reason', value: clip(reason), expected: deadKinds.join(', ') });
  const range = {
    from: from ? parseTime(from, 'from', now) : undefined,
    to: to ? parseTime(to, 'to', now) : undefined,
  };
  return {
    host: host?.replaceAll('.', '_') || undefined,
    kind,
    ...range,
    before: before ? sequenceOf(before, 'before') : undefined,
  };
}

function limitOf(text: string | undefined, absent: number): number {
  if (!text) return absent;
  const limit = /^\d{1,9}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= deadLettersMax) return limit;
  throw new ApiError('bad_limit', { parameter: 'limit', value: clip(text), most: deadLettersMax });
}
