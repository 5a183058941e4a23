// Users: signing in, their sessions, and the one-time links by which passwords are set.
import { createHash } from 'node:crypto';
import { token } from '@fleetreel/proto';
import { ApiError, clip, unknown } from '@fleetreel/proto/errors';
import type { Link, LinkPurpose, Role, Session, User } from '@fleetreel/proto/http';
import type { Content, Entries } from '#access/entries.ts';
import type { Identity } from '#access/identity.ts';
import { Passwords } from '#access/password.ts';
import { isSame, makeSecret, parseSecret } from '#access/secret.ts';
import { networkOf, Throttle } from '#access/throttle.ts';
import type { Clock } from '#clock.ts';
import { linkMilliseconds, linksMax, sessionsOfUserMax, signInPairsMax, usersMax } from '#limits.ts';
import type { Telemetry } from '#telemetry.ts';

/** From where somebody signs in. */
export type From = { address: string; program: string };

/** A session that was begun, and the secret of it, which nobody is told again. */
export type Begun = { user: string; tenant: string; role: Role; expires: number; secret: string };

type UsersOptions = { entries: Entries; clock: Clock; telemetry: Telemetry; sessionMilliseconds: number };

const namePattern = /^[a-z0-9][a-z0-9._@+-]{0,63}$/;
/** Characters that are kept of what a browser calls itself. */
const programCharactersMax = 200;

export class Users {
  readonly #entries: Entries;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #sessionMilliseconds: number;
  readonly #passwords = new Passwords();
  readonly #throttle: Throttle;
  /** Users with networks that they have signed in from, the least recent first. */
  readonly #known = new Set<string>();

  constructor({ entries, clock, telemetry, sessionMilliseconds }: UsersOptions) {
    this.#entries = entries;
    this.#clock = clock;
    this.#telemetry = telemetry;
    this.#sessionMilliseconds = sessionMilliseconds;
    this.#throttle = new Throttle(clock);
    entries.onChange((kind, id) => {
      const session = kind === 'session' ? entries.get('session', id) : undefined;
      if (session) this.#remember(session.user, session.address);
    });
  }

  /** A user by the name, however it is written. */
  find(name: string): Content['user'] | undefined {
    return this.#entries.get('user', idOf(written(name)));
  }

  /** @throws ApiError sign_in_failed, too_many_sign_ins, log_unavailable */
  async signIn(given: { user: string; password: string }, from: From): Promise<Begun> {
    const name = written(given.user);
    if (!this.#entries.isFilled) throw new ApiError('log_unavailable', { reason: 'the users are not known yet' });
    const user = this.find(name);
    try {
      await this.#check(name, given.password, from);
    } catch (error) {
      const isWrong = error instanceof ApiError && error.code === 'sign_in_failed';
      // A name that is nobody's may be a password, typed too early.
      this.#telemetry.signInRefused(isWrong ? 'wrong' : 'throttled', from.address, user?.name);
      throw error;
    }
    if (user === undefined) throw new ApiError('sign_in_failed');
    const begun = await this.#begin(user, from);
    this.#telemetry.signedIn(user.name, from.address);
    return begun;
  }

  /** Ends the session of who asks. */
  async signOut({ credential }: Identity): Promise<void> {
    if (credential?.kind === 'session') await this.#endSession(credential.id);
  }

  /** @throws ApiError not_a_user, wrong_password, too_many_sign_ins */
  async changePassword(
    identity: Identity,
    given: { password: string; newPassword: string },
    from: From,
  ): Promise<void> {
    const { name, id: session } = this.#sessionOf(identity);
    try {
      await this.#check(name, given.password, from);
    } catch (error) {
      throw error instanceof ApiError && error.code === 'sign_in_failed' ? new ApiError('wrong_password') : error;
    }
    const password = await this.#passwords.hash(given.newPassword, networkOf(from.address), 0);
    await this.#setPassword(name, password, session);
  }

  /** The sessions of who asks, the newest first. @throws ApiError not_a_user */
  sessions(identity: Identity): Session[] {
    const { name, id: current } = this.#sessionOf(identity);
    return this.#sessionsOf(name)
      .map(([id, { created, expires, address, program }]) => ({
        id,
        created,
        expires,
        lastUsed: this.#entries.get('used', id)?.time ?? null,
        address,
        program,
        current: id === current,
      }))
      .sort((a, b) => b.created - a.created);
  }

  /** Ends a session of who asks. @returns what it was @throws ApiError not_a_user, session_not_found */
  async endSession(identity: Identity, id: string): Promise<Pick<Content['session'], 'user' | 'address' | 'created'>> {
    const { name } = this.#sessionOf(identity);
    const session = this.#entries.get('session', id);
    if (session?.user !== name) throw new ApiError('session_not_found', { value: clip(id) });
    await this.#endSession(id);
    return session;
  }

  /** What a one-time link is for. @throws ApiError link_not_valid */
  checkLink(code: string): LinkPurpose {
    const { user, tenant, role, purpose } = this.#link(code).link;
    return { user, tenant, role, purpose };
  }

  /** Sets the password that a link is for, and begins a session. @throws ApiError link_not_valid, user_exists, bad_value */
  async useLink(
    { code, user: wanted, password }: { code: string; user?: string | undefined; password: string },
    from: From,
  ): Promise<Begun> {
    const { id, link } = this.#link(code);
    const { purpose, tenant, role } = link;
    const name = link.user ?? nameOf(wanted ?? '');
    if (purpose === 'first' && this.find(name)) throw new ApiError('user_exists', { value: name });
    const hashed = await this.#passwords.hash(password, networkOf(from.address), 0);
    // Of two who use it at once, one has it.
    if (!(await this.#entries.take('link', id))) throw new ApiError('link_not_valid');
    if (purpose === 'first') await this.#create({ name, tenant, role, password: hashed });
    else await this.#setPassword(name, hashed, undefined);
    const user = this.find(name);
    if (user === undefined) throw new ApiError('link_not_valid');
    this.#telemetry.signedIn(user.name, from.address);
    return await this.#begin(user, from);
  }

  /** Those of a tenant, by their names. */
  list(tenant: string): User[] {
    const sessions = new Map<string, Content['session'][]>();
    for (const [, session] of this.#entries.list('session'))
      sessions.set(session.user, [...(sessions.get(session.user) ?? []), session]);
    return [...this.#entries.list('user')]
      .filter(([, user]) => user.tenant === tenant)
      .map(([, user]) => this.#shown(user, sessions.get(user.name) ?? []))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  /** Makes a user, and the link by which a password is set. @throws ApiError user_exists, bad_value, too_many_kept */
  async create(tenant: string, given: { user: string; role: Role }): Promise<{ user: User; link: Link }> {
    this.#checkLinks(tenant);
    const user = await this.#create({ name: nameOf(given.user), tenant, role: given.role, password: null });
    return { user: this.#shown(user, []), link: await this.#makeLink({ ...user, purpose: 'invite' }) };
  }

  /** @returns what the user was before, and is @throws ApiError user_not_found, last_admin */
  async change(tenant: string, name: string, { role }: { role: Role }): Promise<{ before: User; user: User }> {
    const known = this.#of(tenant, name);
    const before = await this.#entries.decide('user', idOf(known.name), (user, all) => {
      if (role !== 'admin') keepAdmin(user, all);
      return { ...user, role };
    });
    if (before === undefined) throw new ApiError('user_not_found', { value: known.name });
    const sessions = this.#contentOf(known.name);
    return { before: this.#shown(before, sessions), user: this.#shown({ ...before, role }, sessions) };
  }

  /** Removes a user with all sessions and links. @throws ApiError user_not_found, last_admin */
  async remove(tenant: string, name: string): Promise<User> {
    const known = this.#of(tenant, name);
    const sessions = this.#contentOf(known.name);
    // The user first: nothing of it is valid from then on.
    const user = await this.#entries.decide('user', idOf(known.name), keepAdmin);
    if (user === undefined) throw new ApiError('user_not_found', { value: known.name });
    await this.#endSessions(user.name);
    await this.#removeLinks(user.name);
    return this.#shown(user, sessions);
  }

  /** Makes a link by which a user of the tenant sets a new password. @throws ApiError user_not_found, too_many_kept */
  async createLink(tenant: string, name: string): Promise<Link> {
    const user = this.#of(tenant, name);
    await this.#removeLinks(user.name);
    this.#checkLinks(tenant);
    return await this.#makeLink({ ...user, purpose: user.password === null ? 'invite' : 'reset' });
  }

  /** The same for a user of any tenant: for who runs the installation. @throws ApiError user_not_found */
  async linkOf(name: string): Promise<Link> {
    return await this.createLink(this.find(name)?.tenant ?? '', name);
  }

  /** Ends all sessions of a user of the tenant; returns how many there were. @throws ApiError user_not_found */
  async endSessions(tenant: string, name: string): Promise<number> {
    return await this.#endSessions(this.#of(tenant, name).name);
  }

  /**
   * The link by which the first admin of a tenant is made; undefined where there is a user already, or a link that nobody used yet.
   * Of several collectors that start at once, one has it.
   */
  async firstLink(tenant: string): Promise<Link | undefined> {
    if ([...this.#entries.list('user')].some(([, user]) => user.tenant === tenant)) return undefined;
    const id = firstId(tenant);
    const known = this.#entries.get('link', id);
    if (known && known.expires > this.#now()) return undefined;
    if (known) await this.#entries.take('link', id);
    const { link, content } = this.#newLink({ purpose: 'first', tenant, role: 'admin', user: null }, id);
    return (await this.#entries.create('link', id, content)) ? link : undefined;
  }

  /**
   * The link by which the first admin of a tenant sets a password, as long as there is none who has one; the link before is not
   * valid any more. @throws ApiError has_admin
   */
  async openingLink(tenant: string): Promise<Link> {
    const admin = [...this.#entries.list('user')].find(
      ([, user]) => user.tenant === tenant && user.role === 'admin' && user.password !== null,
    );
    if (admin) throw new ApiError('has_admin', { value: admin[1].name });
    return await this.adminLink(tenant);
  }

  /** Makes a link for another admin of a tenant, whether it has users or not. The one before is not valid any more. */
  async adminLink(named: string): Promise<Link> {
    const tenant = tenantOf(named);
    const id = firstId(tenant);
    const { link, content } = this.#newLink({ purpose: 'first', tenant, role: 'admin', user: null }, id);
    await this.#entries.put('link', id, content);
    return link;
  }

  /** @throws ApiError sign_in_failed, too_many_sign_ins */
  async #check(name: string, password: string, { address }: From): Promise<void> {
    const network = networkOf(address);
    const isKnown = this.#known.has(`${name}\0${network}`);
    const tries = this.#throttle.begin(name, address, isKnown);
    const kept = this.find(name)?.password ?? null;
    const right = await this.#passwords.isRight(password, kept, network, tries).catch((error: unknown) => {
      this.#throttle.withdraw(name, address, isKnown);
      throw error;
    });
    if (!right) throw new ApiError('sign_in_failed');
    this.#throttle.succeed(name, address, isKnown);
  }

  async #begin({ name, tenant, role, generation }: Content['user'], from: From): Promise<Begun> {
    const { id, text, digest } = makeSecret('session');
    const created = Math.floor(this.#now());
    const expires = created + this.#sessionMilliseconds;
    const program = from.program.replace(/[^\x20-\x7e]/g, '?').slice(0, programCharactersMax);
    const session = { user: name, generation, digest, created, expires, address: from.address, program };
    const others = this.#sessionsOf(name).sort(([, a], [, b]) => a.created - b.created);
    for (const [oldest] of others.slice(0, Math.max(0, others.length - sessionsOfUserMax + 1)))
      await this.#endSession(oldest);
    await this.#entries.create('session', id, session);
    return { user: name, tenant, role, expires, secret: text };
  }

  /** @param current the session that goes on */
  async #setPassword(name: string, password: string, current: string | undefined): Promise<void> {
    const generation = (this.find(name)?.generation ?? 0) + 1;
    // First, so that it is valid at all times.
    if (current !== undefined)
      await this.#entries.change('session', current, (session) => ({ ...session, generation }));
    const changed = await this.#entries.change('user', idOf(name), (user) => ({
      ...user,
      password,
      generation: Math.max(generation, user.generation + 1),
    }));
    if (changed === undefined) throw new ApiError('user_not_found', { value: name });
    await this.#endSessions(name, current);
    await this.#removeLinks(name);
  }

  async #create(given: Pick<Content['user'], 'name' | 'tenant' | 'role' | 'password'>): Promise<Content['user']> {
    if (this.#entries.countOf(given.tenant, 'user') >= usersMax)
      throw new ApiError('too_many_kept', { what: 'users', most: usersMax });
    const created = Math.floor(this.#now());
    // No session of one who had the name before may be taken for one of this user, where it is known still.
    const user = { ...given, generation: created, created };
    if (!(await this.#entries.create('user', idOf(user.name), user)))
      throw new ApiError('user_exists', { value: user.name });
    return user;
  }

  #of(tenant: string, name: string): Content['user'] {
    if (!this.#entries.isFilled) throw new ApiError('log_unavailable', { reason: 'the users are not known yet' });
    const user = this.find(name);
    if (user?.tenant === tenant) return user;
    const names = [...this.#entries.list('user')].flatMap(([, one]) => (one.tenant === tenant ? one.name : []));
    throw unknown('user_not_found', name, names);
  }

  #sessionOf({ kind, name, credential }: Identity): { name: string; id: string } {
    if (kind !== 'user' || credential === undefined) throw new ApiError('not_a_user');
    return { name, id: credential.id };
  }

  #sessionsOf(name: string): [id: string, session: Content['session']][] {
    const [now, generation] = [this.#now(), this.find(name)?.generation ?? 0];
    return [...this.#entries.list('session')].filter(
      ([, session]) => session.user === name && session.expires > now && session.generation >= generation,
    );
  }

  #contentOf(name: string): Content['session'][] {
    return this.#sessionsOf(name).map(([, session]) => session);
  }

  async #endSession(id: string): Promise<void> {
    await this.#entries.remove('session', id);
    if (this.#entries.get('used', id)) await this.#entries.remove('used', id);
  }

  async #endSessions(name: string, but?: string): Promise<number> {
    const ending = [...this.#entries.list('session')].filter(([id, { user }]) => user === name && id !== but);
    for (const [id] of ending) await this.#endSession(id);
    return ending.length;
  }

  #link(code: string): { id: string; link: Content['link'] } {
    if (!this.#entries.isFilled) throw new ApiError('log_unavailable', { reason: 'the users are not known yet' });
    const parsed = parseSecret(code.trim());
    const link = parsed?.kind === 'link' ? this.#entries.get('link', parsed.id) : undefined;
    if (!parsed || !link || !isSame(link.digest, parsed.digest) || link.expires <= this.#now())
      throw new ApiError('link_not_valid');
    return { id: parsed.id, link };
  }

  async #makeLink(of: { name: string; tenant: string; role: Role; purpose: 'invite' | 'reset' }): Promise<Link> {
    const { name: user, tenant, role, purpose } = of;
    const { id, link, content } = this.#newLink({ purpose, tenant, role, user });
    await this.#entries.create('link', id, content);
    return link;
  }

  /** @throws ApiError too_many_kept where a tenant has no room for another link */
  #checkLinks(tenant: string): void {
    if (this.#entries.countOf(tenant, 'link') >= linksMax)
      throw new ApiError('too_many_kept', { what: 'links that nobody has used', most: linksMax });
  }

  #newLink(of: Pick<Content['link'], 'purpose' | 'tenant' | 'role' | 'user'>, wanted?: string) {
    const { id, text, digest } = makeSecret('link', wanted);
    const created = Math.floor(this.#now());
    const expires = created + linkMilliseconds[of.purpose];
    const link: Link = { code: text, path: `/welcome#${text}`, purpose: of.purpose, expires };
    return { id, link, content: { ...of, digest, created, expires } };
  }

  async #removeLinks(name: string): Promise<void> {
    for (const [id, { user }] of this.#entries.list('link')) if (user === name) await this.#entries.remove('link', id);
  }

  #shown({ name, role, created, password }: Content['user'], sessions: readonly Content['session'][]): User {
    const begun = sessions.map((session) => session.created);
    return {
      name,
      role,
      created,
      lastSignIn: begun.length === 0 ? null : Math.max(...begun),
      sessions: sessions.length,
      hasPassword: password !== null,
    };
  }

  #remember(name: string, address: string): void {
    const pair = `${name}\0${networkOf(address)}`;
    this.#known.delete(pair);
    this.#known.add(pair);
    for (const oldest of this.#known) {
      if (this.#known.size <= signInPairsMax) return;
      this.#known.delete(oldest);
    }
  }

  #now(): number {
    return this.#clock.now_us() / 1000;
  }
}

/** @throws ApiError last_admin where the tenant has no other who can sign in */
function keepAdmin(user: Content['user'], all: Iterable<Content['user']>): undefined {
  const isAdmin = ({ tenant, role, password }: Content['user']) =>
    tenant === user.tenant && role === 'admin' && password !== null;
  if (isAdmin(user) && ![...all].some((other) => other.name !== user.name && isAdmin(other)))
    throw new ApiError('last_admin', { value: user.name });
}

/** A user's name, as it is kept. @throws ApiError bad_value */
function nameOf(text: string): string {
  const name = written(text);
  if (namePattern.test(name)) return name;
  throw new ApiError('bad_value', {
    parameter: 'user',
    value: clip(text),
    expected: 'up to 64 letters, digits, ".", "_", "@", "+" and "-", the first a letter or digit',
  });
}

/** @throws ApiError bad_value */
function tenantOf(text: string): string {
  try {
    return token('tenant', text);
  } catch {
    throw new ApiError('bad_value', {
      parameter: 'tenant',
      value: clip(text),
      expected: 'a name that subjects may have',
    });
  }
}

/** A name as it is kept: of two that differ in capitals alone there is one. */
export const written = (name: string): string => name.trim().toLowerCase();

/** A name in the form of a key of the bucket. */
const idOf = (name: string): string => Buffer.from(name).toString('base64url');

/** The link of a tenant's first admin has always the same id, so that there is one. */
const firstId = (tenant: string): string => createHash('sha256').update(`first ${tenant}`).digest('hex').slice(0, 16);
