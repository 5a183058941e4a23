// Secrets that programs hold: made here, shown once, and kept as a digest alone.
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';

/** What begins a secret, so that a person and a scanner of leaks know what it is: an API key, a session, a one-time link. */
const prefixes = { key: 'frk', session: 'frs', link: 'frl' } as const;
export type SecretKind = keyof typeof prefixes;

/** A secret as it is told, and what is kept of it. */
export type Secret = { id: string; text: string; digest: string };

/** 32 random bytes, under an id of 16 hexadecimal digits, which is no secret. */
export function makeSecret(kind: SecretKind, id = randomBytes(8).toString('hex')): Secret {
  const secret = randomBytes(32).toString('base64url');
  return { id, text: `${prefixes[kind]}_${id}_${secret}`, digest: digestOf(secret) };
}

/** The parts of a secret; undefined where it is none. */
export function parseSecret(text: string): { kind: SecretKind; id: string; digest: string } | undefined {
  const [, prefix, id, secret] = /^(fr[ksl])_([0-9a-f]{16})_([\w-]{43})$/.exec(text) ?? [];
  const kind = (Object.keys(prefixes) as SecretKind[]).find((each) => prefixes[each] === prefix);
  return kind && id && secret ? { kind, id, digest: digestOf(secret) } : undefined;
}

/** Whether two digests are the same; how long that takes says nothing of where they differ. */
export const isSame = (one: string, other: string): boolean =>
  one.length === other.length && timingSafeEqual(Buffer.from(one), Buffer.from(other));

// Of 32 random bytes there is nothing to guess: a slow digest, as passwords need, would only cost time at each request.
const digestOf = (secret: string): string => createHash('sha256').update(secret).digest('base64url');
