// What both faces share of users and API keys: what is done, and the record of it.
import type { InvitedUser, Key, Link, MadeKey, NewKey, Role, User } from '@fleetreel/proto/http';
import { written } from '#access/users.ts';
import { type By, recorder } from '#api/audit.ts';
import type { FaceParts } from '#api/faces.ts';

type Parts = Pick<FaceParts, 'access' | 'rooms'>;

export async function createUser(parts: Parts, by: By, given: { user: string; role: Role }): Promise<InvitedUser> {
  const record = recorder(parts);
  const made = await parts.access.users.create(by.identity.tenant, given);
  const { name, role } = made.user;
  await record(by, { action: 'user.create', target: name, after: { role } });
  return made;
}

export async function changeUser(parts: Parts, by: By, name: string, change: { role: Role }): Promise<User> {
  const record = recorder(parts);
  const { before, user } = await parts.access.users.change(by.identity.tenant, name, change);
  const [was, is] = [{ role: before.role }, { role: user.role }];
  await record(by, { action: 'user.change', target: user.name, before: was, after: is });
  return user;
}

export async function removeUser(parts: Parts, by: By, name: string): Promise<void> {
  const record = recorder(parts);
  const { name: target, role } = await parts.access.users.remove(by.identity.tenant, name);
  await record(by, { action: 'user.delete', target, before: { role } });
}

/** Makes a one-time link by which a user sets a password. */
export async function createLink(parts: Parts, by: By, name: string): Promise<Link> {
  const record = recorder(parts);
  const link = await parts.access.users.createLink(by.identity.tenant, name);
  const after = { purpose: link.purpose, expires: link.expires };
  await record(by, { action: 'user.link', target: written(name), after });
  return link;
}

/** Makes the one-time link by which the first admin sets a password. @throws ApiError has_admin */
export async function createOpeningLink(parts: Parts, by: By): Promise<Link> {
  const record = recorder(parts);
  const link = await parts.access.users.openingLink(by.identity.tenant);
  const after = { purpose: link.purpose, expires: link.expires };
  await record(by, { action: 'user.link', target: '', after });
  return link;
}

/** Ends all sessions of a user; returns how many there were. */
export async function endSessions(parts: Parts, by: By, name: string): Promise<number> {
  const record = recorder(parts);
  const ended = await parts.access.users.endSessions(by.identity.tenant, name);
  await record(by, { action: 'user.end_sessions', target: written(name), before: { sessions: ended } });
  return ended;
}

export async function createKey(parts: Parts, by: By, given: NewKey): Promise<MadeKey> {
  const record = recorder(parts);
  const made = await parts.access.keys.create(by.identity, given);
  await record(by, { action: 'key.create', target: made.key.id, after: whatItMay(made.key) });
  return made;
}

export async function revokeKey(parts: Parts, by: By, id: string): Promise<void> {
  const record = recorder(parts);
  const key = await parts.access.keys.revoke(by.identity.tenant, id);
  await record(by, { action: 'key.revoke', target: key.id, before: whatItMay(key) });
}

const whatItMay = ({ name, scopes, expires }: Key) => ({ name, scopes, expires });
