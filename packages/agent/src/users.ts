import { statSync } from 'node:fs';
import { join } from 'node:path';
import { readOnce } from '#files.ts';

/** Names of users by number, from the file passwd: those of a directory service are not in it. */
export class Users {
  readonly #path: string;
  #modified_ms = Number.NaN;
  #names: ReadonlyMap<string, string> = new Map();

  constructor(etc: string) {
    this.#path = join(etc, 'passwd');
  }

  /** The user's name, or the number where there is none. */
  name(uid: string): string {
    try {
      const { mtimeMs } = statSync(this.#path);
      if (mtimeMs !== this.#modified_ms) {
        this.#modified_ms = mtimeMs;
        this.#names = parsePasswd(readOnce(this.#path));
      }
    } catch {
      // Without the file the numbers are all there is.
    }
    return this.#names.get(uid) ?? uid;
  }
}

/** Names by number; of several names for one number the first counts, as for the system itself. */
export function parsePasswd(text: string): Map<string, string> {
  const names = new Map<string, string>();
  for (const line of text.split('\n')) {
    const [name = '', , uid = ''] = line.split(':', 3);
    if (name !== '' && /^\d+$/.test(uid) && !names.has(uid)) names.set(uid, name);
  }
  return names;
}
