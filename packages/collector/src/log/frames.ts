// The one place where a message of the log becomes frames.
import { anySubject, type Kind } from '@fleetreel/proto';
import { decodeBatch } from '@fleetreel/proto/batch';
import { futureMilliseconds } from '#limits.ts';

/** Where frames come from. */
export const frameSubjects = [anySubject('frame'), anySubject('batch')];

/** Whether a time of a frame is further ahead of now than a host's clock may be; both are UTC, microseconds since 1970. */
export const isFuture = (time_us: number, now_us: number): boolean => time_us - now_us > futureMilliseconds * 1000;

/** Whether messages of this kind hold frames. */
export const holdsFrames = (kind: Kind): boolean => kind === 'frame' || kind === 'batch';

/**
 * The bytes of the frames that a message holds, oldest first, as its sender put them; none for a kind without frames. They
 * are parts of larger buffers: who keeps one copies it.
 * @throws FrameError for a batch that can't be read
 */
export function framesOf(kind: Kind, data: Uint8Array): Uint8Array[] {
  if (kind === 'batch') return decodeBatch(data);
  return kind === 'frame' ? [data] : [];
}
