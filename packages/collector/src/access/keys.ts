// API keys: what programs bring.
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { Key, Scope } from '@fleetreel/proto/http';
import type { Content, Entries } from '#access/entries.ts';
import type { Identity } from '#access/identity.ts';
import { lifetimeOf } from '#access/lifetime.ts';
import { isSame, makeSecret, parseSecret } from '#access/secret.ts';
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
    { name, scopes, ttl }: { name: string; scopes: readonly Scope[]; ttl?: string | undefined },
  ): Promise<{ key: Key; secret: string }> {
    const length = lifetimeOf(ttl, '1s');
    if (this.#entries.countOf(tenant, 'key') >= keysMax)
      throw new ApiError('too_many_kept', { what: 'API keys', most: keysMax });
    const { id, text, digest } = makeSecret('key');
    const created = Math.floor(this.#clock.now_us() / 1000);
    const expires = length === null ? null : created + length;
    const key = { name, tenant, scopes: [...new Set(scopes)], digest, created, createdBy, expires };
    await this.#entries.create('key', id, key);
    return { key: this.#shown(id, key), secret: text };
  }

  /**
   * The key of whoever runs a machine, an admin's without an end: the one that is shown, or another under the same id.
   * @param shown the key that there is; empty where there is none
   * @returns undefined where that one is good
   * @throws ApiError log_unavailable
   */
  async keepOwner(
    shown: string,
    { id, tenant, name }: { id: string; tenant: string; name: string },
  ): Promise<{ key: Key; secret: string } | undefined> {
    if (!this.#entries.isFilled) throw new ApiError('log_unavailable', { reason: 'the users are not known yet' });
    const parsed = parseSecret(shown);
    const known = parsed && this.#entries.get('key', parsed.id);
    const isAdmins = known && known.tenant === tenant && known.expires === null && known.scopes.includes('admin');
    if (isAdmins && isSame(known.digest, parsed.digest)) return undefined;
    // The one before is removed first, so that what is open by it ends.
    for (const kind of ['key', 'used'] as const) if (this.#entries.get(kind, id)) await this.#entries.remove(kind, id);
    const { text, digest } = makeSecret('key', id);
    const created = Math.floor(this.#clock.now_us() / 1000);
    const key: Content['key'] = {
      name,
      tenant,
      scopes: ['admin'],
      digest,
      created,
      createdBy: 'collector',
      expires: null,
    };
    await this.#entries.put('key', id, key);
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
