import { setTimeout as pause } from 'node:timers/promises';
import type { Publisher } from '@fleetreel/agent/publisher';

/** Waits until the log has everything that a publisher took or found, or the time is over; then ends it. Returns how many frames it has not. */
export async function settle(publisher: Publisher, milliseconds: number): Promise<number> {
  const left = () => publisher.waiting.frames + publisher.spooled.frames;
  for (const end = performance.now() + milliseconds; left() > 0 && performance.now() < end; ) await pause(20);
  const frames = left();
  await publisher.stop(0);
  return frames;
}
