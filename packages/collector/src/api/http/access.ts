// Who may use which route: each says what it asks of its caller, and this is where it is held to.
import { ApiError } from '@fleetreel/proto/errors';
import type { FastifyRequest } from 'fastify';
import type { Access, Credentials } from '#access/access.ts';
import type { Identity, Need } from '#access/identity.ts';
import type { App } from '#api/http/app.ts';
import { isChange } from '#api/http/security.ts';

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
  app.addHook('onRequest', async (request) => {
    // What no route takes is answered so, whoever asks.
    const need = request.is404 ? 'public' : request.routeOptions.config.scope;
    if (need === 'public') return;
    if (need === undefined) throw new Error(`The route ${request.routeOptions.url} does not say whom it is for.`);
    const credentials = credentialsOf(request);
    const identity = access.identify(credentials, need);
    // A browser sends its cookie with whatever a page asks for: a change has to come from a page of ours.
    if (identity.kind === 'user' && isChange(request) && !isShown(credentials)) checkPage(request);
    identities.set(request, identity);
  });
  // A body comes as slowly as one likes, and the right may be gone by then.
  app.addHook('preValidation', async (request) => {
    const need = request.routeOptions.config.scope;
    if (need === undefined || need === 'public' || !isChange(request)) return;
    identities.set(request, access.identify(credentialsOf(request), need));
  });
  return needs;
}

/** Whether a program showed its credentials, which a page can't make a browser do. */
const isShown = ({ authorization, apiKey }: Credentials): boolean =>
  apiKey !== undefined || /^bearer /i.test(authorization ?? '');

/** Where a browser says neither which page asks nor that it is one of ours, none of ours does. */
function checkPage({ headers }: FastifyRequest): void {
  // What `origin` says is checked already.
  if (headers.origin === undefined && headers['sec-fetch-site'] !== 'same-origin')
    throw new ApiError('origin_refused', { value: 'an address that the browser does not tell' });
}

/** What a request brings to say who asks. */
export function credentialsOf({ headers, ip }: Pick<FastifyRequest, 'headers' | 'ip'>): Credentials {
  const { authorization, cookie } = headers;
  return { authorization, apiKey: [headers['x-api-key']].flat()[0], cookie: cookieOf(cookie), address: ip };
}

function cookieOf(header: string | undefined): string | undefined {
  return header
    ?.split(';')
    .map((part) => part.trim().split('='))
    .find(([name]) => name === cookieName)?.[1];
}
