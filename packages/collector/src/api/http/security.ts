// Who may talk to this server from a browser, and what a page of it may do. A page from elsewhere must not borrow the rights
// of who looks at it, of a session or of being on this machine: by another name for this address (DNS rebinding), or by a
// request across origins.
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { FastifyRequest } from 'fastify';
import type { App } from '#api/http/app.ts';

const loopbackName = /^(?:localhost|(?:[a-z0-9-]+\.)+localhost|127(?:\.\d{1,3}){3}|\[::1\])$/i;

/** Pages of the collector itself that run no script. */
const plainPolicy = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'";
/** The page of the API brings its scripts and styles in files; its styles also set attributes and inline pictures. */
export const docsPolicy =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/** The console's own policy is in its page, with the hashes of its scripts; a page can't say who may frame it. */
export const consolePolicy = "object-src 'none'; base-uri 'none'; frame-ancestors 'none'";

const headers = {
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
  'referrer-policy': 'no-referrer',
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'permissions-policy': 'camera=(), geolocation=(), microphone=(), payment=(), usb=()',
  'content-security-policy': plainPolicy,
};

/** Refuses requests that are addressed to a name that is neither one of loopback nor allowed, and changes and sockets that another page asks for. */
export function guard(app: App, allowed: readonly string[]): void {
  const names = new Set(
    allowed.map((name) => (name.includes(':') ? `[${name.replace(/^\[|\]$/g, '')}]` : name).toLowerCase()),
  );
  app.addHook('onRequest', async (request, reply) => {
    reply.headers(headers);
    const host = request.headers.host ?? '';
    const name = host.replace(/:\d+$/, '');
    if (!loopbackName.test(name) && !names.has(name.toLowerCase()))
      throw new ApiError('host_refused', { value: clip(host) });
    if (isChange(request)) checkOrigin(request);
  });
}

/** Whether a request changes something, or opens a socket, which no page of another origin may. */
export const isChange = ({ method, ws }: FastifyRequest): boolean => ws || !['GET', 'HEAD', 'OPTIONS'].includes(method);

/** A program sends no Origin; a page's has to be the one that this server is addressed by. */
function checkOrigin({ headers: { host, origin } }: FastifyRequest): void {
  if (origin === undefined) return;
  if (!URL.canParse(origin) || new URL(origin).host !== host?.toLowerCase().replace(/:(80|443)$/, ''))
    throw new ApiError('origin_refused', { value: clip(origin) });
}
