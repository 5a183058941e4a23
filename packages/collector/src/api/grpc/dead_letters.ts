import type {
  DeadLetterChoice__Output,
  DeadLetterFilter__Output,
  DeadLettersHandlers,
} from '@fleetreel/proto/services';
import { type By, changeDeadLetters } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { unary } from '#api/grpc/status.ts';
import { systemClock } from '#clock.ts';
import type { DeadLetterHead } from '#log/dead.ts';
import { listDead, sequenceOf } from '#query/dead_letters.ts';

const now = () => systemClock.now_us() / 1000;

export function deadLetterHandlers(parts: FaceParts): DeadLettersHandlers {
  const { rooms } = parts;
  const change = async (what: 'redrive' | 'discard', by: By, choice: DeadLetterChoice__Output | null) => {
    const wanted = {
      ...questionOf(choice?.filter ?? null),
      sequences: (choice?.sequences ?? []).map(String),
      all: choice?.all ?? false,
    };
    const { before = 0, ...outcome } = await changeDeadLetters(parts, by, what, wanted, now());
    return { outcome: { ...outcome, before } };
  };
  return {
    ListDeadLetters: unary(parts, 'DeadLetters/ListDeadLetters', async ({ filter }, { tenant }) => {
      const { letters, before } = await listDead(rooms().deadLetters, tenant, questionOf(filter), now());
      return { letters: letters.map(letterMessage), before: before ?? 0 };
    }),
    GetDeadLetter: unary(parts, 'DeadLetters/GetDeadLetter', async ({ sequence }, { tenant }) => {
      const { bytes, ...letter } = await rooms().deadLetters.get(tenant, sequenceOf(String(sequence), 'sequence'));
      return { letter: letterMessage(letter), content: Buffer.from(bytes) };
    }),
    RedriveDeadLetters: unary(parts, 'DeadLetters/RedriveDeadLetters', ({ choice }, identity, address) =>
      change('redrive', { identity, address }, choice),
    ),
    DiscardDeadLetters: unary(parts, 'DeadLetters/DiscardDeadLetters', ({ choice }, identity, address) =>
      change('discard', { identity, address }, choice),
    ),
  };
}

const positive = (value: number | string | undefined): string | undefined =>
  Number(value ?? 0) === 0 ? undefined : String(value);

const questionOf = (filter: DeadLetterFilter__Output | null) => ({
  host: filter?.host,
  reason: filter?.reason,
  from: filter?.from,
  to: filter?.to,
  before: positive(filter?.before),
  limit: positive(filter?.limit),
});

const letterMessage = ({ time, kind, reason, originalSequence, sizeBytes, ...letter }: DeadLetterHead) => ({
  ...letter,
  time_us: time * 1000,
  reason: kind,
  detail: reason,
  original_sequence: originalSequence,
  size_bytes: sizeBytes,
});
