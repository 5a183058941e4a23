// How often a password may be tried. What counts is who is tried from where: guessing is slowed down, and nobody can lock a
// user out from elsewhere.
import { isIPv6 } from 'node:net';
import { ApiError } from '@fleetreel/proto/errors';
import type { Clock } from '#clock.ts';
import { signInBackoffMilliseconds, signInFailuresFree, signInPairsMax } from '#limits.ts';

type Failures = { count: number; until_ms: number };

/** Tries of users from addresses, and of addresses with any user. Each collector counts for itself. */
export class Throttle {
  readonly #clock: Clock;
  /** The least recently failed first. */
  readonly #pairs = new Map<string, Failures>();
  readonly #addresses = new Map<string, Failures>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /**
   * Notes a try before it is known whether it is right: many at once are as many as one after the other.
   * @param isKnown whether the user signed in from there before: others who fail from there do not matter then
   * @returns the tries from there of late with this one; 0 where `isKnown`
   * @throws ApiError too_many_sign_ins
   */
  begin(user: string, address: string, isKnown: boolean): number {
    const now_ms = this.#clock.monotonic_ms();
    const from = networkOf(address);
    const pair = `${user}\0${from}`;
    const late = [
      this.#pairs.get(pair)?.until_ms ?? 0,
      isKnown ? 0 : (this.#addresses.get(from)?.until_ms ?? 0),
    ].filter((until_ms) => until_ms > now_ms);
    if (late.length > 0)
      throw new ApiError('too_many_sign_ins', { retryAfter: Math.ceil((Math.max(...late) - now_ms) / 1000) });
    note(this.#pairs, pair, signInFailuresFree.pair, now_ms);
    return isKnown ? 0 : note(this.#addresses, from, signInFailuresFree.address, now_ms);
  }

  /** The try was right: what failed before it is forgotten. Of the address only this try is, where it was counted. */
  succeed(user: string, address: string, isKnown: boolean): void {
    const from = networkOf(address);
    this.#pairs.delete(`${user}\0${from}`);
    if (!isKnown) takeBack(this.#addresses, from);
  }

  /** The password was not even looked at, since too many wait: it was no try. */
  withdraw(user: string, address: string, isKnown: boolean): void {
    const from = networkOf(address);
    takeBack(this.#pairs, `${user}\0${from}`);
    if (!isKnown) takeBack(this.#addresses, from);
  }
}

function takeBack(all: Map<string, Failures>, name: string): void {
  const failures = all.get(name);
  if (failures) failures.count = Math.max(0, failures.count - 1);
}

/** Counts one more; returns how many there are. */
function note(all: Map<string, Failures>, name: string, free: number, now_ms: number): number {
  const known = all.get(name);
  // Who has waited as long again as he had to begins anew, but for the doubling.
  const isOld = known !== undefined && now_ms > known.until_ms + signInBackoffMilliseconds.max;
  const count = (known === undefined || isOld ? 0 : known.count) + 1;
  const doublings = Math.min(count - free, 20);
  const pause = Math.min(signInBackoffMilliseconds.min * 2 ** doublings, signInBackoffMilliseconds.max);
  all.delete(name);
  all.set(name, { count, until_ms: count < free ? now_ms : now_ms + pause });
  for (const [oldest] of all) {
    if (all.size <= signInPairsMax) break;
    all.delete(oldest);
  }
  return count;
}

/** The network that one machine may choose its address from: of IPv6 the first half. */
export function networkOf(address: string): string {
  const plain = address.replace(/^::ffff:(?=\d+\.)/, '');
  if (!isIPv6(plain)) return plain;
  const [head = '', tail] = plain.split('::');
  const before = head === '' ? [] : head.split(':');
  const after = tail ? tail.split(':') : [];
  const zeros =
    tail === undefined ? [] : Array.from({ length: Math.max(0, 8 - before.length - after.length) }, () => '0');
  const groups = [...before, ...zeros, ...after].map((group) => group.replace(/^0+(?=.)/, '').toLowerCase());
  return `${groups.slice(0, 4).join(':')}::/64`;
}
