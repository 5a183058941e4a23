// How much each key may write: so many entries and bytes a second, and so many different names.
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { Clock } from '#clock.ts';
import {
  customBurstSeconds,
  customCallBytesMax,
  customEntriesMax,
  customNamesMilliseconds,
  customOwnersMax,
} from '#limits.ts';

export type AllowanceSettings = {
  /** Measures and events a second. */
  rate: number;
  /** Bytes of them a second. */
  bytes: number;
  /** Different names, and metadata keys of a name, within an hour. */
  names: number;
};

/** Told of a call that was refused, and by which bound. */
export type Refused = (bound: keyof AllowanceSettings) => void;

/** Names with their metadata keys. */
type Names = Map<string, Set<string>>;

/** What is known of who writes. Names are remembered in two generations: the older is forgotten when the newer is full of age. */
type Owner = {
  entries: number;
  bytes: number;
  seen_ms: number;
  names: Names;
  before: Names;
  count: number;
  turned_ms: number;
};

/** Keeps the accounts of all keys that write through this collector. */
export class Allowances {
  readonly #settings: AllowanceSettings;
  readonly #clock: Pick<Clock, 'monotonic_ms'>;
  readonly #refused: Refused;
  /** Who wrote last is last. */
  readonly #owners = new Map<string, Owner>();

  constructor(settings: AllowanceSettings, clock: Pick<Clock, 'monotonic_ms'>, refused: Refused) {
    this.#settings = settings;
    this.#clock = clock;
    this.#refused = refused;
  }

  /** How many entries, and bytes of them, may be written at once: always as many as one call has at most. */
  get burst(): { entries: number; bytes: number } {
    return {
      entries: Math.max(this.#settings.rate * customBurstSeconds, customEntriesMax),
      bytes: Math.max(this.#settings.bytes * customBurstSeconds, customCallBytesMax),
    };
  }

  /**
   * Refuses who has nothing left, before a call is even read.
   * @throws ApiError write_rate_exceeded
   */
  admit(owner: string): void {
    this.#check(this.#account(owner), 1, 1);
  }

  /**
   * Takes entries off the account; all of them or none.
   * @param names of the entries @param keys of the metadata of each @param bytes that they are in the log
   * @throws ApiError write_rate_exceeded, too_many_custom_names
   */
  take(owner: string, names: readonly string[], keys: readonly (readonly string[])[], bytes: number): void {
    const account = this.#account(owner);
    this.#check(account, names.length, bytes);
    this.#takeNames(account, names, keys);
    account.entries -= names.length;
    account.bytes -= bytes;
  }

  #account(owner: string): Owner {
    const now_ms = this.#clock.monotonic_ms();
    let account = this.#owners.get(owner);
    if (account === undefined)
      account = {
        ...this.burst,
        seen_ms: now_ms,
        names: new Map(),
        before: new Map(),
        count: 0,
        turned_ms: now_ms,
      };
    else this.#owners.delete(owner);
    this.#owners.set(owner, account);
    if (this.#owners.size > customOwnersMax) this.#owners.delete(this.#owners.keys().next().value as string);
    const past = (now_ms - account.seen_ms) / 1000;
    account.entries = Math.min(this.burst.entries, account.entries + past * this.#settings.rate);
    account.bytes = Math.min(this.burst.bytes, account.bytes + past * this.#settings.bytes);
    account.seen_ms = now_ms;
    const turns = Math.floor((now_ms - account.turned_ms) / customNamesMilliseconds);
    if (turns > 0) {
      account.before = turns === 1 ? account.names : new Map();
      account.names = new Map();
      account.count = [...account.before.values()].reduce((sum, { size }) => sum + 1 + size, 0);
      account.turned_ms += turns * customNamesMilliseconds;
    }
    return account;
  }

  #takeNames(account: Owner, names: readonly string[], keys: readonly (readonly string[])[]): void {
    const fresh: Names = new Map();
    let count = account.count;
    const add = (index: number, name: string, key: string | undefined): void => {
      const known = account.before.get(name);
      if (!(known && (key === undefined || known.has(key)))) count++;
      if (count > this.#settings.names)
        this.#refuseNames(account, { index, value: key === undefined ? name : `${name} ${key}` });
      let set = fresh.get(name);
      if (set === undefined) {
        set = new Set();
        fresh.set(name, set);
      }
      if (key !== undefined) set.add(key);
    };
    for (let place = 0; place < names.length; place++) {
      const name = names[place] as string;
      const known = account.names.get(name);
      if (known === undefined && !fresh.has(name)) add(place, name, undefined);
      for (const key of keys[place] as readonly string[])
        if (!known?.has(key) && !fresh.get(name)?.has(key)) add(place, name, key);
    }
    for (const [name, set] of fresh) {
      const known = account.names.get(name);
      if (known === undefined) account.names.set(name, set);
      else for (const key of set) known.add(key);
    }
    account.count = count;
  }

  /** @throws ApiError write_rate_exceeded where there is less than wanted */
  #check(account: Owner, entries: number, bytes: number): void {
    if (account.entries < entries) this.#refuseRate('rate', 'measures and events', entries - account.entries);
    if (account.bytes < bytes) this.#refuseRate('bytes', 'bytes of measures and events', bytes - account.bytes);
  }

  #refuseRate(bound: 'rate' | 'bytes', what: string, missing: number): never {
    const most = this.#settings[bound];
    this.#refused(bound);
    const retryAfter = Math.max(1, Math.ceil(missing / most));
    throw new ApiError('write_rate_exceeded', { most, what, setting: `custom.${bound}`, retryAfter });
  }

  /** @param index of the entry, in its call */
  #refuseNames({ turned_ms }: Owner, { index, value }: { index: number; value: string }): never {
    const left_ms = turned_ms + customNamesMilliseconds - this.#clock.monotonic_ms();
    this.#refused('names');
    throw new ApiError('too_many_custom_names', {
      most: this.#settings.names,
      value: clip(value),
      index,
      retryAfter: Math.max(1, Math.ceil(left_ms / 1000)),
    });
  }
}
