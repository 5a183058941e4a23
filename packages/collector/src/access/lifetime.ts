// For how long credentials are valid that can be given an end.
import { durationMilliseconds } from '@fleetreel/proto/duration';
import { ApiError, clip } from '@fleetreel/proto/errors';

/** Ten years: a later end is a mistake, and far beyond it there are no dates. */
const longest = '3650d';

/**
 * Milliseconds of a time such as `30d`; null where there is none, which means for ever.
 * @param shortest that is of use
 * @throws ApiError bad_value
 */
export function lifetimeOf(ttl: string | undefined, shortest: '1s' | '1m'): number | null {
  if (ttl === undefined || ttl === '') return null;
  const length = durationMilliseconds(ttl) ?? 0;
  const [min = 0, max = 0] = [shortest, longest].map(durationMilliseconds);
  if (length >= min && length <= max) return length;
  throw new ApiError('bad_value', {
    parameter: 'ttl',
    value: clip(ttl),
    expected: `a duration of ${shortest} to ${longest} such as 24h, or leave it out`,
  });
}
