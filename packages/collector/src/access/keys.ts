// API keys: what programs bring.

import { durationMilliseconds } from '@fleetreel/proto/duration';
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { Key, Scope } from '@fleetreel/proto/http';
import type { Content, Entries } from '#access/entries.ts';
import type { Identity } from '#access/identity.ts';
import { makeSecret } from '#access/secret.ts';
import type { Clock } from '#clock.ts';
import { keysMax } from '#limits.ts';

export class Keys {
  readonly #entries: Entries;
  readonly #clock: Clock;

  constructor(entries: Entries, clock: Clock) {
    this.#entries = entries;
    this.#clock = clock;
  }

  /** Those of a tenant, the newest first. */
  list(tenant: string): Key[] {
    return [...this.#entries.list('key')]
      .filter(([, key]) => key.tenant === tenant)
      .map(([id, key]) => this.#shown(id, key))
      .sort((a, b) => b.created - a.created);
  }

  /**
   * Makes a key of the tenant of who asks.
   * @param ttl how long it is valid, such as `30d`; empty means for ever
   * @returns what is told of it, and what programs send, which nobody is told again
   * @throws ApiError
   */
  async create(
    { tenant, name: createdBy }: Identity,
    { name, scopes, ttl = '' }: { name: string; scopes: readonly Scope[]; ttl?: string | undefined },
  ): Promise<{ key: Key; secret: string }> {
    const length = ttl === '' ? null : durationMilliseconds(ttl);
    if (length === undefined || length === 0)
      throw new ApiError('bad_value', {
        parameter: 'ttl',
        value: clip(ttl),
        expected: 'a duration such as 12h or 30d',
      });
    if (this.#entries.count('key') >= keysMax) throw new ApiError('too_many_kept', { what: 'API keys', most: keysMax });
    const { id, text, digest } = makeSecret('key');
    const created = Math.floor(this.#clock.now_us() / 1000);
    const expires = length === null ? null : created + length;
    const key = { name, tenant, scopes: [...new Set(scopes)], digest, created, createdBy, expires };
    await this.#entries.create('key', id, key);
    return { key: this.#shown(id, key), secret: text };
  }

  /** Ends a key. @returns what it was @throws ApiError key_not_found */
  async revoke(tenant: string, id: string): Promise<Key> {
    const key = this.#entries.get('key', id);
    if (key?.tenant !== tenant) throw new ApiError('key_not_found', { value: clip(id) });
    const shown = this.#shown(id, key);
    await this.#entries.remove('key', id);
    return shown;
  }

  #shown(id: string, { name, scopes, created, createdBy, expires }: Content['key']): Key {
    const used = this.#entries.get('used', id);
    return {
      id,
      name,
      scopes: [...scopes],
      created,
      createdBy,
      expires,
      lastUsed: used?.time ?? null,
      lastAddress: used?.address ?? '',
    };
  }
}
