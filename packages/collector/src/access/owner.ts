// The API key of whoever runs this machine: an admin's, which the collector puts into a file that only its owner reads.
import { createHash } from 'node:crypto';
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import type { MadeKey } from '@fleetreel/proto/http';
import { SettingsError } from '@fleetreel/proto/settings';
import type { Keys } from '#access/keys.ts';
import { parseSecret } from '#access/secret.ts';

type Owner = {
  /** File of the key. */
  path: string;
  tenant: string;
  /** The name of this machine. */
  machine: string;
};

/**
 * Makes sure that the file holds a key that is valid: another is made where there is none, where it was revoked, where the log is
 * another one, and where others than the file's owner can read it.
 * @param settled repeats what the log may refuse for a while, until it is done
 * @returns what is told of a key that was made; undefined where the one that is there is good
 * @throws SettingsError where the file is none for keys, or can't be written
 */
export async function keepOwnerKey(
  keys: Keys,
  { path, tenant, machine }: Owner,
  settled: (step: () => Promise<void>) => Promise<void>,
): Promise<MadeKey['key'] | undefined> {
  const shown = readKey(path);
  // Of one file there is one key: the one before is not valid any more.
  const id = createHash('sha256')
    .update(`owner ${machine} ${resolve(path)}`)
    .digest('hex')
    .slice(0, 16);
  let made: MadeKey | undefined;
  await settled(async () => {
    made = await keys.keepOwner(shown, { id, tenant, name: `owner of ${machine}` });
  });
  if (made === undefined) return undefined;
  writeKey(path, made.secret);
  return made.key;
}

/** The key in the file; empty where there is none that may be used. @throws SettingsError where there is something else */
function readKey(path: string): string {
  let text = '';
  try {
    text = readFileSync(path, 'utf8').trim();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw refused(path, `can't be read (${(cause as Error).message})`, cause);
  }
  if (text !== '' && parseSecret(text)?.kind !== 'key')
    throw refused(path, 'has something else in it than an API key, and is left as it is');
  // Windows does not tell who else may read it.
  const isOpen = process.platform !== 'win32' && (statSync(path).mode & 0o077) !== 0;
  return isOpen ? '' : text;
}

/** Whole or not at all, and never readable by others. */
function writeKey(path: string, secret: string): void {
  const beside = `${path}.new`;
  try {
    rmSync(beside, { force: true });
    writeFileSync(beside, `${secret}\n`, { mode: 0o600, flag: 'wx' });
    renameSync(beside, path);
  } catch (cause) {
    throw refused(path, `can't be written (${(cause as Error).message})`, cause);
  }
}

const refused = (path: string, why: string, cause?: unknown): SettingsError =>
  new SettingsError(`access.owner_key: the file ${path} ${why}: name another.`, { cause });
