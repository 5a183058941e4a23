// What both faces do with what applications write.
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { Accepted } from '@fleetreel/proto/http';
import type { Identity } from '#access/identity.ts';
import { readBody, readEntries } from '#api/entries.ts';
import type { Rooms } from '#api/faces.ts';
import { systemClock } from '#clock.ts';
import type { EntryKind } from '#log/custom.ts';

/** What came: a body, or the entries themselves. */
type Given = { body: Uint8Array; isLines: boolean } | { entries: readonly unknown[] };

/**
 * Reads entries, all or none, and writes them.
 * @throws ApiError
 */
export async function put(
  { custom }: Pick<Rooms, 'custom'>,
  identity: Identity,
  kind: EntryKind,
  given: Given,
  idempotencyKey: string | undefined,
): Promise<Accepted> {
  const { tenant } = identity;
  const source = sourceOf(identity);
  const owner = `${tenant}.${source}`;
  const { allowances, log, rawMilliseconds } = custom;
  // Who has used up what he may is not even read.
  allowances.admit(owner);
  const times = { now: systemClock.now_us() / 1000, rawMilliseconds };
  const { entries, names, keys, bytes } =
    'entries' in given ? readEntries(kind, given.entries, times) : readBody(kind, given.body, given.isLines, times);
  allowances.take(owner, names, keys, bytes);
  return await log.put({ tenant, source }, entries, idempotencyKey);
}

/** What identifies who writes, as a token of a subject: the key's id. */
function sourceOf({ kind, id }: Identity): string {
  const name = id.replace(/[^A-Za-z0-9_-]/g, '-').replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, '');
  if (kind === 'key') return name;
  return kind === 'user' ? `user-${name || 'unnamed'}`.slice(0, 128) : 'anonymous';
}

/** @throws ApiError bad_value for one that can't be */
export function checkKey(key: string | undefined, parameter: string): string | undefined {
  if (key === undefined || /^[ -~]{1,128}$/.test(key)) return key;
  throw new ApiError('bad_value', {
    parameter,
    value: clip(key),
    expected: '1 to 128 printable characters of ASCII',
  });
}
