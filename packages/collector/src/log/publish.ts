// The one way to write into the log.
import { prefix } from '@fleetreel/proto';
import { headers } from '@nats-io/transport-node';
import type { Log } from '#log/connect.ts';

/** A message that can't be stored, put aside with the reason. */
export type DeadLetter = {
  tenant: string;
  host: string;
  /** The subject under which its bytes could be sent again. */
  subject: string;
  /** The place in the log that it came from, and of a frame of a batch its place there: they make the dead letter unique. */
  sequence: number;
  index: number | undefined;
  /** One sentence. */
  reason: string;
  bytes: Uint8Array;
};

/** Puts a message aside; resolves when the log has it. */
export async function publishDeadLetter({ jetstream }: Log, letter: DeadLetter): Promise<void> {
  const header = headers();
  // A header is one line of text.
  header.set('Fleetreel-Reason', letter.reason.replace(/[^\x20-\x7e]+/g, ' '));
  header.set('Fleetreel-Subject', letter.subject);
  await jetstream.publish(`${prefix}.${letter.tenant}.dead.${letter.host}`, letter.bytes, {
    headers: header,
    msgID: `dead-${letter.sequence}${letter.index === undefined ? '' : `-${letter.index}`}`,
  });
}
