// Which Fleetreel of this user runs on this machine, and with which key it is asked: for the commands of the same user.
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { identify, lives, type ProcessId } from '#local/folder.ts';
import type { Machine } from '#local/obtain.ts';
import { listeners } from '#local/port.ts';

type User = Pick<Machine, 'env' | 'home'>;
type Told = ProcessId & { key: string };

/** Where fetched servers are kept, for all checkouts of this user, and what is said here. */
export const cacheFolder = ({ env, home }: User): string =>
  join(env.XDG_CACHE_HOME || join(home, '.cache'), 'fleetreel');

const pathOf = (user: User, port: number): string => join(cacheFolder(user), 'running', `${port}.json`);

/**
 * Tells the commands of this user where the key is of the Fleetreel that this process runs.
 * @param port of its gRPC face on 127.0.0.1, which listens already
 * @param key file of the key
 * @returns what takes it back
 */
export function tellRunning(user: User, port: number, key: string): Disposable {
  const path = pathOf(user, port);
  mkdirSync(join(path, '..'), { recursive: true, mode: 0o700 });
  const told: Told = { ...identify(process.pid), key };
  const beside = `${path}.${process.pid}`;
  writeFileSync(beside, JSON.stringify(told), { mode: 0o600 });
  renameSync(beside, path);
  return { [Symbol.dispose]: () => rmSync(path, { force: true }) };
}

/**
 * The file with the key of the Fleetreel that runs at an address; undefined for every other address. Whoever listens there is sent
 * the key, so it has to be the one who owns the file: a port that is free may be taken by any user of the machine.
 */
export function keyFileOf(address: string, user: User): string | undefined {
  const [, digits] = /^127\.0\.0\.1:(\d+)$/.exec(address) ?? [];
  if (digits === undefined) return undefined;
  const port = Number(digits);
  let told: Told;
  let owner: number;
  try {
    told = JSON.parse(readFileSync(pathOf(user, port), 'utf8')) as Told;
    owner = statSync(told.key).uid;
  } catch {
    // None runs there, or it has no key.
    return undefined;
  }
  if (!lives(told)) return undefined;
  const found = listeners(port);
  const isTheirs =
    process.platform === 'linux' ? found.length > 0 && found.every(({ user: id }) => id === owner) : true;
  return isTheirs ? told.key : undefined;
}
