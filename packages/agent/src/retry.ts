import type { Clock } from '#clock.ts';
import { publishRetryMilliseconds } from '#limits.ts';
import { sentence } from '#telemetry.ts';

/**
 * Tries until it succeeds, with growing pauses; a reason goes to `failed` when it is another one than before.
 * @throws the signal's reason
 */
export async function untilItSucceeds<T>(
  attempt: () => Promise<T>,
  failed: (cause: unknown) => void,
  clock: Clock,
  signal: AbortSignal,
): Promise<T> {
  let pause_ms: number = publishRetryMilliseconds.min;
  let said: string | undefined;
  for (;;) {
    signal.throwIfAborted();
    try {
      return await attempt();
    } catch (cause) {
      signal.throwIfAborted();
      if (sentence(cause) !== said) failed(cause);
      said = sentence(cause);
    }
    await clock.sleep(pause_ms, signal);
    pause_ms = Math.min(pause_ms * 2, publishRetryMilliseconds.max);
  }
}
