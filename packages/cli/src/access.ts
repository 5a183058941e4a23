// By what the collector knows who asks, and how it is reached.
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { keyFileOf } from '@fleetreel/deploy/local/running';
import { UsageError } from '#command.ts';

export type Access = {
  /** The API key, or the bearer token of a session; undefined where none is named. */
  key: string | undefined;
  /** The file of the key that this machine's own Fleetreel has, which is taken where none is named; undefined for another. */
  ownFile: string | undefined;
  tls: boolean;
  /** The authority that signed the collector's certificate; null for those of the system. */
  ca: Buffer | null;
};

/**
 * What the environment says; a flag that names a file is put there before. A key is never an argument, which every process of the
 * machine could read. Where none is named, it is the one of the Fleetreel that this user runs at the address.
 * @param address `host:port` of the collector's gRPC face
 * @throws UsageError
 */
export function accessOf(
  address: string,
  environment: Readonly<Record<string, string | undefined>>,
  home = homedir(),
): Access {
  const {
    FLEETREEL_KEY: given,
    FLEETREEL_KEY_FILE: file,
    FLEETREEL_CA_FILE: authority,
    FLEETREEL_TLS: tls,
  } = environment;
  const ownFile = given || file ? undefined : keyFileOf(address, { env: environment, home });
  const keyFile = file || ownFile;
  const key = (given || (keyFile ? contentOf(keyFile, 'key').toString('utf8') : '')).trim();
  if (key !== '' && !/^[\x21-\x7e]+$/.test(key))
    throw new UsageError(
      `What ${given ? 'FLEETREEL_KEY' : keyFile} has is no API key: one begins with frk_ and is one word.`,
    );
  return {
    key: key === '' ? undefined : key,
    ownFile,
    tls: Boolean(authority) || tls === 'true',
    ca: authority ? contentOf(authority, 'certificate') : null,
  };
}

/** Why a collector does not know who asks, and what to do. */
export function refusedBy(address: string, { key, ownFile }: Access): string {
  const collector = `The collector at ${address}`;
  if (key === undefined)
    return `${collector} asks who you are, and there are no credentials: set FLEETREEL_KEY, or name the file of an API key with FLEETREEL_KEY_FILE or --key-file. Sign in to its console to make one, under Settings, Keys.`;
  if (ownFile === undefined)
    return `${collector} does not know this API key: it is another's, was revoked, or has expired.`;
  return `${collector} does not know the API key in ${ownFile}, which was revoked: the next start of \`fleetreel up\` makes another; --key-file names one of yours.`;
}

/**
 * Why there is no connection to a collector, and what to do.
 * @param details what the client of gRPC says
 */
export function unreachedBy(address: string, { tls }: Pick<Access, 'tls'>, details: string): string {
  const collector = `The collector at ${address}`;
  if (/ECONNREFUSED|ENOTFOUND|^Name resolution/.test(details))
    return `No collector answers at ${address}: start one with \`fleetreel up\`, or name another with --address.`;
  const [, last = details] = /Last error: (?:Error(?: \[\w+\])?: )?(.*?)\s*\. Resolution note/s.exec(details) ?? [];
  // What it advises is for who runs Node by hand; a time says nothing.
  const why = last.replace(/;.*| \(\d{4}-.*\)/s, '');
  if (!tls)
    return `There is no connection to the collector at ${address} (${why}): if it speaks TLS, name its authority with --ca-file, or set FLEETREEL_TLS=true.`;
  if (/altnames/.test(why))
    return `${collector} has a certificate of another name (${why}): name it with --address as its certificate does.`;
  if (/certificate/.test(why))
    return `${collector} has a certificate that is not trusted (${why}): name the authority that signed it with --ca-file.`;
  if (/wrong version number|packet length/.test(why))
    return `${collector} does not speak TLS: leave --ca-file, FLEETREEL_CA_FILE and FLEETREEL_TLS out.`;
  return `There is no connection to the collector at ${address} (${why}).`;
}

function contentOf(file: string, what: string): Buffer {
  try {
    return readFileSync(file);
  } catch (cause) {
    const why = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'it does not exist' : (cause as Error).message;
    throw Object.assign(new UsageError(`The file of the ${what}, ${file}, can't be read: ${why}.`), { cause });
  }
}
