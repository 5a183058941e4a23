// What every route of the HTTP face shares.
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from 'fastify';
import Type, { type TSchema } from 'typebox';
import type { Identity, Need } from '#access/identity.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** What the route asks of its caller. Each route says it: the server does not start with one that doesn't. */
    scope?: Need;
  }
  interface FastifyRequest {
    /** Who asks, and so the tenant. Not of a public route. */
    readonly identity: Identity;
  }
}

/** The server, as its routes see it. */
export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

const problems: Record<number, string> = {
  401: 'The request brought no credentials that are valid',
  400: 'The request is wrong: the detail says what, where, and what to do',
  409: 'What there is does not go with it',
  410: 'It is not there any more',
  404: 'There is nothing of this name',
  403: 'The credentials, or the page that asks, may not do this',
  408: 'The request did not arrive in time',
  415: 'A body of this type is not read here',
  421: 'The request was addressed to another host name',
  426: 'This is a WebSocket',
  429: 'Too many of these are open',
  431: 'The request line and headers are too large',
  500: 'The collector failed; its log has the cause',
  503: 'The store or the log is away or not read yet, or too much is asked at once',
  504: 'The store took too long',
};

/** An answer in JSON. */
export const json = (description: string, schema: TSchema) => ({
  description,
  content: { 'application/json': { schema } },
});

/** The problems that a route can have, besides those that every route has. */
export function problem(...statuses: number[]): Record<number, unknown> {
  const schema = Type.Ref('Problem');
  return Object.fromEntries(
    [...new Set([...statuses, 401, 403, 408, 421, 431, 500, 503])].map((status) => [
      status,
      { description: problems[status] ?? 'A problem', content: { 'application/problem+json': { schema } } },
    ]),
  );
}
