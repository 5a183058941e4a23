// Who asks, and what he may do.
import type { Role, Scope } from '@fleetreel/proto/http';

/** What a route or method asks of its caller: a right, to be anybody who is known, or nothing at all. */
export type Need = Scope | 'known' | 'public';

/** Who asks. The tenant of a request is this one, and nothing that a request says can name another. */
export type Identity = {
  tenant: string;
  kind: 'user' | 'key' | 'anonymous';
  /** The user's name, or the key's id; empty for whoever is not known. */
  id: string;
  /** For people. */
  name: string;
  scopes: ReadonlySet<Scope>;
  /** Of a user. */
  role?: Role;
  /** What gives the right, which may be taken away. */
  credential?: { kind: 'session' | 'key'; id: string };
  /** When that ends by itself, UTC, milliseconds since 1970. */
  expires?: number;
};

/** What a role may do. */
export const scopesOf = (role: Role): ReadonlySet<Scope> =>
  new Set<Scope>(role === 'admin' ? ['admin'] : ['read', 'replay']);

/** Whether the identity may do what a route or method is for. */
export const permits = ({ scopes: own }: Pick<Identity, 'scopes'>, need: Need): boolean =>
  need === 'public' || need === 'known' || own.has('admin') || own.has(need);
