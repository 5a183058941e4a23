import { join } from 'node:path';
import { readOnce } from '#files.ts';
import type { Processes, ProcessIdentity, Roots } from '#source.ts';

/** Who processes are, from what /proc says of them. */
export class ProcessIdentities implements Processes {
  readonly #proc: string;

  constructor(roots: Pick<Roots, 'proc'>) {
    this.#proc = roots.proc;
  }

  identity(pid: number): ProcessIdentity | undefined {
    const name = readOnce(join(this.#proc, String(pid), 'comm')).trim();
    return name === '' ? undefined : { name, class: 'other', container: '' };
  }
}
