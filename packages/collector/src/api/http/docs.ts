// The OpenAPI document, made from the schemas that the routes have, its page, and the page of the errors.
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import { errors } from '@fleetreel/proto/errors';
import { Problem } from '@fleetreel/proto/http';
import type { Need } from '#access/identity.ts';
import { cookieName } from '#api/http/access.ts';
import type { App } from '#api/http/app.ts';
import { docsPolicy } from '#api/http/security.ts';

/** The ways to say who asks, by their names in the document. */
const securitySchemes = {
  bearer: { type: 'http', scheme: 'bearer', description: 'An API key, or the token of a session' },
  apiKey: { type: 'apiKey', in: 'header', name: 'X-API-Key', description: 'An API key' },
  session: { type: 'apiKey', in: 'cookie', name: cookieName, description: 'The session of a browser, by signing in' },
} as const;

/** Any one of them, and none where anybody may do it. */
const required = Object.keys(securitySchemes).map((name) => ({ [name]: [] }));

/** @param isOpen whether what a route asks is there for whoever brings no credentials */
export async function docs(app: App, version: string, isOpen: (need: Need) => boolean): Promise<void> {
  app.addSchema(Problem);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Fleetreel',
        version,
        description:
          'History and live values of a fleet. Errors are problem documents (RFC 9457) whose detail says what to do; [all errors](/docs/errors).',
        license: { name: 'Apache-2.0', identifier: 'Apache-2.0' },
      },
      components: { securitySchemes },
      tags: [
        { name: 'hosts', description: 'What is watched' },
        { name: 'history', description: 'What was measured' },
        { name: 'live', description: 'What is measured now' },
        { name: 'access', description: 'Users, sessions and API keys' },
        { name: 'custom', description: 'What applications write: measures and events' },
        { name: 'operation', description: 'The collector itself' },
      ],
    },
    transform: ({ schema, url, route }) => {
      const need = route.config?.scope ?? 'public';
      const security = need === 'public' ? [] : [...(isOpen(need) ? [{}] : []), ...required];
      return { schema: { ...schema, security }, url };
    },
    refResolver: {
      buildLocalReference: (schema, _, __, index) => (schema.$id as string | undefined) ?? `schema-${index}`,
    },
  });
  await app.register(swaggerUi, {
    routePrefix: '/docs',
    staticCSP: docsPolicy,
    uiConfig: { docExpansion: 'list', deepLinking: true, tryItOutEnabled: true, validatorUrl: null },
    // The bar on top only asks for the address of another document.
    theme: {
      title: 'Fleetreel: HTTP API',
      css: [{ filename: 'fleetreel.css', content: '.swagger-ui .topbar{display:none}' }],
    },
  });
  app.get('/docs/errors', { config: { scope: 'public' }, schema: { hide: true } }, (_, reply) =>
    reply.type('text/html; charset=utf-8').send(errorPage),
  );
}

const escaped = (text: string): string => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');

const errorPage = `<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Fleetreel: errors</title>
<style>body{font:16px/1.5 system-ui;margin:2rem auto;max-width:60rem;padding:0 1rem;color-scheme:light dark}dt{font-weight:600;margin-top:1rem}</style>
<h1>Errors</h1><p>Words in braces are filled in.</p>
<dl>${Object.entries(errors)
  .map(
    ([code, { http, grpc, title, detail, action }]) =>
      `<dt id="${code}"><code>${code}</code> ${escaped(title)} (HTTP ${http}, gRPC ${grpc})</dt><dd>${escaped(detail)} ${
        (action as string) === '{suggestion}' ? 'The nearest that there is, is named.' : escaped(action)
      }</dd>`,
  )
  .join('\n')}</dl>
</html>`;
