import { ApiError, clip } from '@fleetreel/proto/errors';
import { type Key, type Link, roles, scopes, type User } from '@fleetreel/proto/http';
import type { AccessHandlers, AccessKey, AccessLink, UserMessage } from '@fleetreel/proto/services';
import type { FaceParts } from '#api/faces.ts';
import { unary } from '#api/grpc/status.ts';
import { changeUser, createKey, createLink, createUser, endSessions, removeUser, revokeKey } from '#api/users.ts';

export function accessHandlers(parts: FaceParts): AccessHandlers {
  const { users, keys } = parts.access;
  return {
    GetMe: unary(parts, 'Access/GetMe', async (_, { kind, name, tenant, scopes: own }) => ({
      kind,
      name,
      tenant,
      scopes: [...own],
    })),
    ListUsers: unary(parts, 'Access/ListUsers', async (_, { tenant }) => ({
      users: users.list(tenant).map(userMessage),
    })),
    CreateUser: unary(parts, 'Access/CreateUser', async ({ user: name, role }, identity, address) => {
      const given = { user: name, role: oneOf('role', role, roles) };
      const { user, link } = await createUser(parts, { identity, address }, given);
      return { user: userMessage(user), link: linkMessage(link) };
    }),
    ChangeUser: unary(parts, 'Access/ChangeUser', async ({ user: name, role }, identity, address) => {
      const change = { role: oneOf('role', role, roles) };
      return { user: userMessage(await changeUser(parts, { identity, address }, name, change)) };
    }),
    DeleteUser: unary(parts, 'Access/DeleteUser', async ({ user }, identity, address) => {
      await removeUser(parts, { identity, address }, user);
      return {};
    }),
    CreateLink: unary(parts, 'Access/CreateLink', async ({ user }, identity, address) => ({
      link: linkMessage(await createLink(parts, { identity, address }, user)),
    })),
    EndSessions: unary(parts, 'Access/EndSessions', async ({ user }, identity, address) => ({
      ended: await endSessions(parts, { identity, address }, user),
    })),
    ListKeys: unary(parts, 'Access/ListKeys', async (_, { tenant }) => ({ keys: keys.list(tenant).map(keyMessage) })),
    CreateKey: unary(parts, 'Access/CreateKey', async ({ name, scopes: wanted, ttl }, identity, address) => {
      if (name === '' || name.length > 64)
        throw new ApiError('bad_value', { parameter: 'name', value: clip(name), expected: '1 to 64 characters' });
      if (wanted.length === 0)
        throw new ApiError('missing_parameter', { parameter: 'scopes', expected: `some of ${scopes.join(', ')}` });
      const own = wanted.map((scope) => oneOf('scopes', scope, scopes));
      const { key, secret } = await createKey(parts, { identity, address }, { name, scopes: own, ttl });
      return { key: keyMessage(key), secret };
    }),
    RevokeKey: unary(parts, 'Access/RevokeKey', async ({ id }, identity, address) => {
      await revokeKey(parts, { identity, address }, id);
      return {};
    }),
  };
}

/** @throws ApiError bad_value */
function oneOf<T extends string>(parameter: string, value: string, of: readonly T[]): T {
  const found = of.find((each) => each === value);
  if (found !== undefined) return found;
  throw new ApiError('bad_value', { parameter, value: clip(value), expected: `one of ${of.join(', ')}` });
}

const userMessage = ({ name, role, created, lastSignIn, sessions, hasPassword }: User): UserMessage => ({
  name,
  role,
  created_ms: created,
  ...(lastSignIn !== null && { last_sign_in_ms: lastSignIn }),
  sessions,
  has_password: hasPassword,
});

const linkMessage = ({ path, purpose, expires }: Link): AccessLink => ({ path, purpose, expires_ms: expires });

const keyMessage = ({ id, name, scopes: own, created, createdBy, expires, lastUsed, lastAddress }: Key): AccessKey => ({
  id,
  name,
  scopes: [...own],
  created_ms: created,
  created_by: createdBy,
  ...(expires !== null && { expires_ms: expires }),
  ...(lastUsed !== null && { last_used_ms: lastUsed }),
  last_address: lastAddress,
});
