// The one place that decides who asks, and with that of which tenant a request is.
import { defaultTenant } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import { type Identity, type Need, permits, scopesOf } from '#access/identity.ts';

/** What whoever brings no credentials may do. */
export type Anonymous = 'none' | 'viewer' | 'admin';

/** What a request brings to say who asks: the values of its headers, of its metadata, or of its cookie. */
export type Credentials = {
  /** `Bearer ...` */
  authorization?: string | undefined;
  /** Of the header `X-API-Key`. */
  apiKey?: string | undefined;
  /** The session of a browser. */
  cookie?: string | undefined;
};

type AccessOptions = { anonymous: Anonymous };

export class Access {
  readonly #anonymous: Identity | undefined;

  constructor({ anonymous }: AccessOptions) {
    if (anonymous !== 'none')
      this.#anonymous = {
        tenant: defaultTenant,
        kind: 'anonymous',
        id: '',
        name: 'anonymous',
        scopes: scopesOf(anonymous),
      };
  }

  /**
   * Who asks, and whether he may.
   * @throws ApiError not_signed_in, not_permitted
   */
  identify(_credentials: Credentials, need: Need): Identity {
    const identity = this.#anonymous;
    if (identity === undefined) throw new ApiError('not_signed_in');
    if (!permits(identity, need)) throw new ApiError('not_permitted', { need, have: [...identity.scopes].join(', ') });
    return identity;
  }
}
