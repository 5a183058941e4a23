// Users and API keys of the caller's tenant.
import { InvitedUser, Keys, Link, MadeKey, NewKey, NewUser, User, UserChange, Users } from '@fleetreel/proto/http';
import type { FastifyRequest } from 'fastify';
import Type from 'typebox';
import type { By } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { type App, json, problem } from '#api/http/app.ts';
import {
  changeUser,
  createKey,
  createLink,
  createOpeningLink,
  createUser,
  endSessions,
  removeUser,
  revokeKey,
} from '#api/users.ts';

const tags = ['access'];
const querystring = Type.Object({});
const config = { scope: 'admin' } as const;
const params = Type.Object({ user: Type.String({ description: "The user's name", examples: ['ada'] }) });

const byOf = ({ identity, ip }: Pick<FastifyRequest, 'identity' | 'ip'>): By => ({ identity, address: ip });

export function userRoutes(app: App, parts: FaceParts): void {
  app.get(
    '/users',
    {
      config,
      schema: { summary: 'All users', tags, querystring, response: { 200: json('By name', Users), ...problem(400) } },
    },
    ({ identity: { tenant } }): Users => ({ users: parts.access.users.list(tenant) }),
  );
  app.post<{ Body: NewUser }>(
    '/users',
    {
      config,
      schema: {
        summary: 'Make a user',
        description: 'The answer has the one-time link by which the user sets a password. It is shown this once.',
        tags,
        querystring,
        body: NewUser,
        response: { 201: json('The user, and the invitation', InvitedUser), ...problem(400, 409, 415, 503) },
      },
    },
    async (request, reply): Promise<InvitedUser> => {
      reply.code(201);
      return await createUser(parts, byOf(request), request.body);
    },
  );
  app.patch<{ Params: { user: string }; Body: UserChange }>(
    '/users/:user',
    {
      config,
      schema: {
        summary: 'Change what a user may do',
        description: 'At once: what is open and not permitted any more ends.',
        tags,
        params,
        querystring,
        body: UserChange,
        response: { 200: json('The user', User), ...problem(400, 404, 409, 415, 503) },
      },
    },
    (request) => changeUser(parts, byOf(request), request.params.user, request.body),
  );
  app.delete<{ Params: { user: string } }>(
    '/users/:user',
    {
      config,
      schema: {
        summary: 'Remove a user',
        description: 'All sessions of the user end.',
        tags,
        params,
        querystring,
        response: { 204: Type.Null({ description: 'The user is gone' }), ...problem(400, 404, 409, 415, 503) },
      },
    },
    async (request, reply) => {
      await removeUser(parts, byOf(request), request.params.user);
      return reply.code(204).send();
    },
  );
}

/** How a user comes in, and is thrown out. */
export function userAccessRoutes(app: App, parts: FaceParts): void {
  app.post<{ Params: { user: string } }>(
    '/users/:user/link',
    {
      config,
      schema: {
        summary: 'Make a one-time link by which a user sets a new password',
        description: 'Links of before are not valid any more; the password of before is, until another is set.',
        tags,
        params,
        querystring,
        response: { 201: json('The link, shown this once', Link), ...problem(400, 404, 409, 415, 503) },
      },
    },
    async (request, reply) => {
      reply.code(201);
      return await createLink(parts, byOf(request), request.params.user);
    },
  );
  app.post(
    '/link/first',
    {
      config,
      schema: {
        summary: 'Make the one-time link by which the first admin sets a password',
        description: 'While no admin has one. The link of before is not valid any more.',
        tags,
        querystring,
        response: { 201: json('The link, shown this once', Link), ...problem(400, 409, 415, 503) },
      },
    },
    async (request, reply) => {
      reply.code(201);
      return await createOpeningLink(parts, byOf(request));
    },
  );
  app.delete<{ Params: { user: string } }>(
    '/users/:user/sessions',
    {
      config,
      schema: {
        summary: 'End all sessions of a user',
        tags,
        params,
        querystring,
        response: { 204: Type.Null({ description: 'They are over' }), ...problem(400, 404, 415, 503) },
      },
    },
    async (request, reply) => {
      await endSessions(parts, byOf(request), request.params.user);
      return reply.code(204).send();
    },
  );
}

export function keyRoutes(app: App, parts: FaceParts): void {
  app.get(
    '/keys',
    {
      config,
      schema: {
        summary: 'All API keys, the newest first',
        tags,
        querystring,
        response: { 200: json('Keys, without their secrets', Keys), ...problem(400) },
      },
    },
    ({ identity: { tenant } }): Keys => ({ keys: parts.access.keys.list(tenant) }),
  );
  app.post<{ Body: NewKey }>(
    '/keys',
    {
      config,
      schema: {
        summary: 'Make an API key',
        tags,
        querystring,
        body: NewKey,
        response: { 201: json('The key, and its secret, shown this once', MadeKey), ...problem(400, 409, 415, 503) },
      },
    },
    async (request, reply) => {
      reply.code(201);
      return await createKey(parts, byOf(request), request.body);
    },
  );
  app.delete<{ Params: { id: string } }>(
    '/keys/:id',
    {
      config,
      schema: {
        summary: 'Revoke an API key',
        description: 'At once: what is open by it ends.',
        tags,
        params: Type.Object({ id: Type.String({ description: 'The key', examples: ['0123456789abcdef'] }) }),
        querystring,
        response: { 204: Type.Null({ description: 'It is not valid any more' }), ...problem(400, 404, 415, 503) },
      },
    },
    async (request, reply) => {
      await revokeKey(parts, byOf(request), request.params.id);
      return reply.code(204).send();
    },
  );
}
