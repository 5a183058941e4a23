// The one way to write into the log.
import { createHash } from 'node:crypto';
import { prefix } from '@fleetreel/proto';
import { headers } from '@nats-io/transport-node';
import { deadLetterHeaderBytesMax, deadReasonCharactersMax } from '#limits.ts';
import type { Log } from '#log/connect.ts';

/** Why a message went to the dead letters. */
export const deadKinds = ['undecodable', 'unnamed', 'future', 'expired', 'refused'] as const;
export type DeadKind = (typeof deadKinds)[number];

/** The headers of a dead letter; of a message that is published again, `tries` alone. */
export const deadHeaders = {
  kind: 'Fleetreel-Kind',
  reason: 'Fleetreel-Reason',
  subject: 'Fleetreel-Subject',
  sequence: 'Fleetreel-Sequence',
  /** How often it was published again in vain. */
  tries: 'Fleetreel-Tries',
  /** How many bytes it had, where only the first of them could be kept. */
  bytes: 'Fleetreel-Bytes',
} as const;

/** A message that can't be stored, put aside with the reason. */
export type DeadLetter = {
  tenant: string;
  host: string;
  /** The subject under which its bytes could be sent again. */
  subject: string;
  /** The place in the log that it came from, and of a frame of a batch its place there: they make the dead letter unique. */
  sequence: number;
  /** When the log took it, as the log says it. */
  stored: string;
  index: number | undefined;
  kind: DeadKind;
  /** One sentence. */
  reason: string;
  tries: number;
  bytes: Uint8Array;
};

/** The subject of the dead letters of a host; `*` means all. */
export const deadSubject = (tenant: string, host: string): string => `${prefix}.${tenant}.dead.${host}`;

/** Puts a message aside; resolves when the log has it. */
export async function publishDeadLetter({ jetstream, connection }: Log, letter: DeadLetter): Promise<void> {
  const header = headers();
  header.set(deadHeaders.kind, letter.kind);
  // A header is one line of text, and what a message says of itself may be of any length.
  const line = letter.reason.replace(/[^\x20-\x7e]+/g, ' ');
  header.set(deadHeaders.reason, line.slice(0, deadReasonCharactersMax));
  header.set(deadHeaders.subject, letter.subject);
  header.set(deadHeaders.sequence, String(letter.sequence));
  if (letter.tries > 0) header.set(deadHeaders.tries, String(letter.tries));
  // A message of the greatest size has no room for headers: the server would refuse it, time after time.
  const most = (connection.info?.max_payload ?? Number.POSITIVE_INFINITY) - deadLetterHeaderBytesMax;
  if (letter.bytes.length > most) header.set(deadHeaders.bytes, String(letter.bytes.length));
  await jetstream.publish(deadSubject(letter.tenant, letter.host), letter.bytes.subarray(0, most), {
    headers: header,
    msgID: idOf('dead', letter),
  });
}

/** Publishes the bytes of a dead letter again, under an id that makes a second attempt the same message. */
export async function republish(
  { jetstream }: Log,
  letter: { sequence: number; stored: string; subject: string; tries: number; bytes: Uint8Array },
): Promise<void> {
  const header = headers();
  header.set(deadHeaders.tries, String(letter.tries + 1));
  await jetstream.publish(letter.subject, letter.bytes, { headers: header, msgID: idOf('redriven', letter) });
}

/**
 * The same for the same message, and nothing that others foresee: ids are of the whole log, and what comes under one that was there is
 * taken for what was. Places in the log can be counted; what a message says, and the nanosecond it came, can't.
 */
function idOf(
  what: 'dead' | 'redriven',
  message: { sequence: number; stored: string; index?: number | undefined; subject: string; bytes: Uint8Array },
): string {
  const { sequence, stored, index, subject, bytes } = message;
  const about = JSON.stringify([sequence, stored, index ?? null, subject]);
  return `${what}-${createHash('sha256').update(about).update(bytes).digest('hex').slice(0, 32)}`;
}
