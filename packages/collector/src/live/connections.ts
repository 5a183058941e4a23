// How many live connections each tenant has open, so that one can't take what all share.
import { ApiError } from '@fleetreel/proto/errors';
import { liveConnectionsMax } from '#limits.ts';

export class LiveConnections {
  readonly #open = new Map<string, number>();
  readonly #refused: () => void;

  constructor(refused: () => void) {
    this.#refused = refused;
  }

  /** @throws ApiError too_many_live_connections where a tenant has no room for another */
  check(tenant: string): void {
    if ((this.#open.get(tenant) ?? 0) < liveConnectionsMax) return;
    this.#refused();
    throw new ApiError('too_many_live_connections', { most: liveConnectionsMax });
  }

  /** One is open; returns what to call, once, when it is closed. */
  open(tenant: string): () => void {
    this.#open.set(tenant, (this.#open.get(tenant) ?? 0) + 1);
    return () => {
      const left = (this.#open.get(tenant) ?? 0) - 1;
      if (left > 0) this.#open.set(tenant, left);
      else this.#open.delete(tenant);
    };
  }
}
