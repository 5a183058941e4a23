// How much each key may write: so many entries a second, and so many different names.
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { Clock } from '#clock.ts';
import { customBurstSeconds, customEntriesMax, customNamesMilliseconds, customOwnersMax } from '#limits.ts';

export type AllowanceSettings = {
  /** Measures and events a second. */
  rate: number;
  /** Different names, and metadata keys of a name, within an hour. */
  names: number;
};

/** Told of what was refused. */
export type Refused = (reason: 'rate' | 'names', entries: number) => void;

/** Names with their metadata keys. */
type Names = Map<string, Set<string>>;

/** What is known of who writes. Names are remembered in two generations: the older is forgotten when the newer is full of age. */
type Owner = { tokens: number; seen_ms: number; names: Names; before: Names; count: number; turned_ms: number };

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

  /** How many entries may be written at once: always as many as one call has at most. */
  get burst(): number {
    return Math.max(this.#settings.rate * customBurstSeconds, customEntriesMax);
  }

  /**
   * Refuses who has nothing left, before a call is even read.
   * @throws ApiError write_rate_exceeded
   */
  admit(owner: string): void {
    const account = this.#account(owner);
    if (account.tokens < 1) this.#refuseRate(account, 1);
  }

  /**
   * Takes entries off the account; all of them or none.
   * @param names of the entries @param keys of the metadata of each
   * @throws ApiError write_rate_exceeded, too_many_custom_names
   */
  take(owner: string, names: readonly string[], keys: readonly (readonly string[])[]): void {
    const account = this.#account(owner);
    if (account.tokens < names.length) this.#refuseRate(account, names.length);
    this.#takeNames(account, names, keys);
    account.tokens -= names.length;
  }

  #account(owner: string): Owner {
    const now_ms = this.#clock.monotonic_ms();
    let account = this.#owners.get(owner);
    if (account === undefined)
      account = {
        tokens: this.burst,
        seen_ms: now_ms,
        names: new Map(),
        before: new Map(),
        count: 0,
        turned_ms: now_ms,
      };
    else this.#owners.delete(owner);
    this.#owners.set(owner, account);
    if (this.#owners.size > customOwnersMax) this.#owners.delete(this.#owners.keys().next().value as string);
    account.tokens = Math.min(this.burst, account.tokens + ((now_ms - account.seen_ms) / 1000) * this.#settings.rate);
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
        this.#refuseNames(account, { index, value: key === undefined ? name : `${name} ${key}` }, names.length);
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

  #refuseRate({ tokens }: Owner, wanted: number): never {
    const { rate } = this.#settings;
    this.#refused('rate', wanted);
    throw new ApiError('write_rate_exceeded', {
      most: rate,
      retryAfter: Math.max(1, Math.ceil((wanted - tokens) / rate)),
    });
  }

  /** @param index of the entry, in its call */
  #refuseNames({ turned_ms }: Owner, { index, value }: { index: number; value: string }, entries: number): never {
    const left_ms = turned_ms + customNamesMilliseconds - this.#clock.monotonic_ms();
    this.#refused('names', entries);
    throw new ApiError('too_many_custom_names', {
      most: this.#settings.names,
      value: clip(value),
      index,
      retryAfter: Math.max(1, Math.ceil(left_ms / 1000)),
    });
  }
}
