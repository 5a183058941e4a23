// Says when a bound of the log removed messages that no collector had stored.
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
  while (!signal.aborted) {
    await clock.sleep(watchMilliseconds, signal).catch(() => undefined);
    if (signal.aborted) return;
    try {
      const { ack_floor, num_pending, num_ack_pending } = await log.manager.consumers.info(
        streamName,
        consumerName(store),
      );
      const { state } = await log.manager.streams.info(streamName);
      telemetry.pending(num_pending + num_ack_pending);
      // Every message between the two was removed before it was stored. Sequences are never used again.
      const lost = state.first_seq - 1 - Math.max(ack_floor.stream_seq, counted);
      if (lost > 0) {
        telemetry.overtaken(lost);
        counted = state.first_seq - 1;
      }
    } catch (cause) {
      telemetry.log.debug({ reason: sentence(cause) }, 'the bounds of the log could not be read');
    }
  }
}
