// Says when a bound of the log removed messages that no collector had stored.
import { anySubject } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { watchMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { consumerName, streamName } from '#log/stream.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** Compares the log's first message with the last that was acknowledged, until the signal. */
export async function watchBounds(
  log: Log,
  store: string,
  telemetry: Telemetry,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  let counted = 0;
  /** How many messages of this store were in the log and not stored at the look before. */
  let unstored = Number.POSITIVE_INFINITY;
  while (!signal.aborted) {
    try {
      const { ack_floor, num_pending, num_ack_pending } = await log.manager.consumers.info(
        streamName,
        consumerName(store),
      );
      const { state } = await log.manager.streams.info(streamName, { subjects_filter: anySubject('dead') });
      telemetry.deadLettersKept(Object.values(state.subjects ?? {}).reduce((sum, count) => sum + count, 0));
      telemetry.pending(num_pending + num_ack_pending);
      // The log is shared with messages that no store wants, such as dead letters: of what was removed, no more than what
      // waited was lost. Sequences are never used again.
      const removed = state.first_seq - 1 - Math.max(ack_floor.stream_seq, counted);
      const lost = Math.min(removed, unstored);
      if (lost > 0) telemetry.overtaken(lost);
      counted = Math.max(counted, state.first_seq - 1);
      unstored = num_pending + num_ack_pending;
    } catch (cause) {
      telemetry.log.debug({ reason: sentence(cause) }, 'the bounds of the log could not be read');
    }
    await clock.sleep(watchMilliseconds, signal).catch(() => undefined);
  }
}
