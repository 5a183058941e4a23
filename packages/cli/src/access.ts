// By what the collector knows who asks, and how it is reached.
import { readFileSync } from 'node:fs';
import { UsageError } from '#command.ts';

export type Access = {
  /** The API key, or the bearer token of a session; undefined where none is named. */
  key: string | undefined;
  tls: boolean;
  /** The authority that signed the collector's certificate; null for those of the system. */
  ca: Buffer | null;
};

/**
 * What the environment says; a flag that names a file is put there before. A key is never an argument, which every process of the
 * machine could read.
 * @throws UsageError
 */
export function accessOf(environment: Readonly<Record<string, string | undefined>>): Access {
  const {
    FLEETREEL_KEY: given,
    FLEETREEL_KEY_FILE: file,
    FLEETREEL_CA_FILE: authority,
    FLEETREEL_TLS: tls,
  } = environment;
  const key = (given || (file ? contentOf(file, 'key').toString('utf8') : '')).trim();
  if (key !== '' && !/^[\x21-\x7e]+$/.test(key))
    throw new UsageError(
      `What ${given ? 'FLEETREEL_KEY' : file} has is no API key: one begins with frk_ and is one word.`,
    );
  return {
    key: key === '' ? undefined : key,
    tls: Boolean(authority) || tls === 'true',
    ca: authority ? contentOf(authority, 'certificate') : null,
  };
}

function contentOf(file: string, what: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'it does not exist' : (cause as Error).message;
    throw Object.assign(new UsageError(`The file of the ${what}, ${file}, can't be read: ${why}.`), { cause });
  }
}
