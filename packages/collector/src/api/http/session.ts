// Signing in and out, one's own password and sessions, and the one-time links.
import { defaultTenant } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import { LinkCode, LinkPurpose, LinkUse, Me, PasswordChange, Sessions, SignedIn, SignIn } from '@fleetreel/proto/http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import type { Begun, From } from '#access/users.ts';
import { recorder } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';
import { cookieName } from '#api/http/access.ts';
import { type App, json, problem } from '#api/http/app.ts';
import { systemClock } from '#clock.ts';
import type { Actor } from '#log/audit.ts';

const tags = ['access'];
const querystring = Type.Object({});

export function sessionRoutes(app: App, parts: FaceParts): void {
  const { users } = parts.access;
  app.post<{ Body: SignIn }>(
    '/login',
    {
      config: { scope: 'public' },
      schema: {
        summary: 'Sign in: begin a session',
        description:
          'The session comes as a cookie, or with `mode: token` as a bearer token for programs that have no API key. After some failures the next try has to wait.',
        tags,
        querystring,
        body: SignIn,
        response: { 200: json('The session', SignedIn), ...problem(400, 415, 429, 503) },
      },
    },
    async (request, reply) => signedIn(await signIn(parts, request.body, fromOf(request)), request, reply),
  );
  app.post(
    '/logout',
    {
      config: { scope: 'known' },
      schema: {
        summary: 'Sign out: end this session',
        tags,
        querystring,
        response: { 204: Type.Null({ description: 'The session is over' }), ...problem(400, 415, 503) },
      },
    },
    async (request, reply) => {
      const { identity, ip: address } = request;
      const record = recorder(parts);
      await users.signOut(identity);
      await record({ identity, address }, { action: 'sign_out', target: identity.name });
      return reply
        .header('set-cookie', cookie('', 0, request))
        .code(204)
        .send(null);
    },
  );
  app.post<{ Body: LinkCode }>(
    '/link/check',
    {
      config: { scope: 'public' },
      schema: {
        summary: 'What a one-time link is for',
        tags,
        querystring,
        body: LinkCode,
        response: { 200: json('What it is for', LinkPurpose), ...problem(400, 410, 415, 503) },
      },
    },
    ({ body }) => users.checkLink(body.code),
  );
  app.post<{ Body: LinkUse }>(
    '/link',
    {
      config: { scope: 'public' },
      schema: {
        summary: 'Use a one-time link: set the password, and begin a session',
        tags,
        querystring,
        body: LinkUse,
        response: { 200: json('The session', SignedIn), ...problem(400, 409, 410, 415, 429, 503) },
      },
    },
    async (request, reply) => signedIn(await useLink(parts, request.body, fromOf(request)), request, reply),
  );
}

/** What a user may ask and change of oneself. */
export function meRoutes(app: App, parts: FaceParts): void {
  const { users } = parts.access;
  app.get(
    '/me',
    {
      config: { scope: 'known' },
      schema: {
        summary: 'Who asks, and what he may do',
        tags,
        querystring,
        response: { 200: json('Who asks', Me), ...problem(400) },
      },
    },
    ({ identity: { kind, name, tenant, role, scopes, expires } }): Me => ({
      kind,
      name,
      tenant,
      scopes: [...scopes],
      ...(role !== undefined && { role }),
      ...(expires !== undefined && { expires }),
    }),
  );
  app.post<{ Body: PasswordChange }>(
    '/me/password',
    {
      config: { scope: 'known' },
      schema: {
        summary: 'Change the own password',
        description: 'All other sessions of the user end.',
        tags,
        querystring,
        body: PasswordChange,
        response: { 204: Type.Null({ description: 'It is changed' }), ...problem(400, 415, 429, 503) },
      },
    },
    async (request, reply) => {
      const { identity, ip: address } = request;
      const record = recorder(parts);
      await users.changePassword(identity, request.body, fromOf(request));
      await record({ identity, address }, { action: 'password.change', target: identity.name });
      return reply.code(204).send();
    },
  );
  app.get(
    '/me/sessions',
    {
      config: { scope: 'known' },
      schema: {
        summary: 'The own sessions, the newest first',
        tags,
        querystring,
        response: { 200: json('Sessions', Sessions), ...problem(400) },
      },
    },
    ({ identity }): Sessions => ({ sessions: users.sessions(identity) }),
  );
  app.delete<{ Params: { id: string } }>(
    '/me/sessions/:id',
    {
      config: { scope: 'known' },
      schema: {
        summary: 'End an own session',
        tags,
        params: Type.Object({ id: Type.String({ description: 'The session', examples: ['0123456789abcdef'] }) }),
        querystring,
        response: { 204: Type.Null({ description: 'It is over' }), ...problem(400, 404, 415, 503) },
      },
    },
    async ({ identity, ip: address, params: { id } }, reply) => {
      const record = recorder(parts);
      const { user, address: from, created } = await users.endSession(identity, id);
      const before = { user, address: from, created };
      await record({ identity, address }, { action: 'session.end', target: id, before });
      return reply.code(204).send();
    },
  );
}

const userActor = ({ user, tenant }: Pick<Begun, 'user' | 'tenant'>): Actor => ({
  tenant,
  kind: 'user',
  id: user,
  name: user,
});

/** What could not be tried because it has to wait is counted, not recorded: it may come a hundred times a second. */
async function signIn(parts: FaceParts, given: SignIn, from: From): Promise<Begun> {
  const { users } = parts.access;
  const { address } = from;
  const record = recorder(parts);
  try {
    const begun = await users.signIn(given, from);
    await record({ identity: userActor(begun), address }, { action: 'sign_in', target: begun.user });
    return begun;
  } catch (error) {
    if (!(error instanceof ApiError && error.code === 'sign_in_failed')) throw error;
    // A name that is nobody's may be a password, typed too early.
    const { name = '', tenant = defaultTenant } = users.find(given.user) ?? {};
    const nobody = { tenant, kind: 'anonymous', id: '', name } as const;
    await record({ identity: nobody, address }, { action: 'sign_in.fail', target: name });
    throw error;
  }
}

async function useLink(parts: FaceParts, given: LinkUse, from: From): Promise<Begun> {
  const record = recorder(parts);
  const { purpose } = parts.access.users.checkLink(given.code);
  const begun = await parts.access.users.useLink(given, from);
  const deed = { action: 'link.use', target: begun.user, after: { purpose, role: begun.role } };
  await record({ identity: userActor(begun), address: from.address }, deed);
  return begun;
}

/** From where a request comes. */
const fromOf = ({ ip, headers }: FastifyRequest<never> | Pick<FastifyRequest, 'ip' | 'headers'>): From => ({
  address: ip,
  program: headers['user-agent'] ?? '',
});

function signedIn(
  { secret, ...begun }: Begun,
  request: Pick<FastifyRequest, 'protocol'> & { body: { mode?: 'cookie' | 'token' } },
  reply: FastifyReply,
): SignedIn {
  if (request.body.mode === 'token') return { ...begun, token: secret };
  reply.header('set-cookie', cookie(secret, Math.floor((begun.expires - systemClock.now_us() / 1000) / 1000), request));
  return begun;
}

/** No script reads it, no other site sends it, and over TLS it goes over nothing else. */
const cookie = (value: string, seconds: number, { protocol }: Pick<FastifyRequest, 'protocol'>): string =>
  `${cookieName}=${value}; Path=/; Max-Age=${seconds}; HttpOnly; SameSite=Strict${protocol === 'https' ? '; Secure' : ''}`;
