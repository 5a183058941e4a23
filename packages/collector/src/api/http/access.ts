// Who may use which route: each says what it asks of its caller, and this is where it is held to.
import type { FastifyRequest } from 'fastify';
import type { Access } from '#access/access.ts';
import type { Identity, Need } from '#access/identity.ts';
import type { App } from '#api/http/app.ts';

/**
 * What routes of plugins ask, which can't say it themselves. The description of the API is that of the product and has
 * nothing of anybody's data in it; the console's files are what shows the page to sign in.
 */
const ofPlugins: readonly (readonly [pattern: RegExp, need: Need])[] = [
  [/^\/docs(?:\/|$)/, 'public'],
  [/^\/\*$/, 'public'],
];

/** The cookie of a browser's session. */
export const cookieName = 'fleetreel_session';

/** Refuses whoever may not; before all routes are added. Returns what each asks, which grows with the routes. */
export function protect(app: App, access: Access): ReadonlyMap<string, Need> {
  const needs = new Map<string, Need>();
  const identities = new WeakMap<FastifyRequest, Identity>();
  app.decorateRequest('identity', {
    getter() {
      const identity = identities.get(this as FastifyRequest);
      if (identity === undefined) throw new Error('a public route knows nobody');
      return identity;
    },
  });
  app.addHook('onRoute', (route) => {
    const scope = route.config?.scope ?? ofPlugins.find(([pattern]) => pattern.test(route.url))?.[1];
    if (scope === undefined)
      throw new Error(`The route ${[route.method].flat().join()} ${route.url} does not say whom it is for.`);
    route.config = { ...route.config, scope };
    for (const method of [route.method].flat()) needs.set(`${method} ${route.url}`, scope);
  });
  app.addHook('onRequest', async (request, reply) => {
    // What no route takes is answered so, whoever asks.
    const need = request.is404 ? 'public' : request.routeOptions.config.scope;
    if (need === 'public') return;
    if (need === undefined) throw new Error(`The route ${request.routeOptions.url} does not say whom it is for.`);
    try {
      identities.set(request, access.identify(credentialsOf(request), need));
    } catch (error) {
      // Not Basic: a browser would ask for a password by itself.
      reply.header('www-authenticate', 'Bearer realm="fleetreel"');
      throw error;
    }
  });
  return needs;
}

/** What a request brings to say who asks. */
export function credentialsOf({ headers }: Pick<FastifyRequest, 'headers'>) {
  const { authorization, cookie } = headers;
  return { authorization, apiKey: [headers['x-api-key']].flat()[0], cookie: cookieOf(cookie) };
}

function cookieOf(header: string | undefined): string | undefined {
  return header
    ?.split(';')
    .map((part) => part.trim().split('='))
    .find(([name]) => name === cookieName)?.[1];
}
