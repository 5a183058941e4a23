// The one place that decides who asks, and with that of which tenant a request is.
import { defaultTenant } from '@fleetreel/proto';
import { ApiError } from '@fleetreel/proto/errors';
import { Entries } from '#access/entries.ts';
import { type Identity, type Need, permits, scopesOf } from '#access/identity.ts';
import { Keys } from '#access/keys.ts';
import { isSame, parseSecret } from '#access/secret.ts';
import { Users } from '#access/users.ts';
import { type Clock, systemClock } from '#clock.ts';
import { accessTidyMilliseconds, expiredKeyMilliseconds, usedMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { isLoopback } from '#loopback.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** What whoever brings no credentials may do, from this machine. */
export type Anonymous = 'none' | 'viewer' | 'admin';

/** What a request brings to say who asks: the values of its headers, of its metadata, or of its cookie. */
export type Credentials = {
  /** `Bearer ...`; of another kind it is not for us. */
  authorization?: string | undefined;
  /** Of the header `X-API-Key`. */
  apiKey?: string | undefined;
  /** The session of a browser. */
  cookie?: string | undefined;
  /** From where it comes: an address, IPv4 in IPv6 or not. */
  address: string;
};

type AccessOptions = {
  anonymous: Anonymous;
  /** How long a session lasts, milliseconds. */
  sessionMilliseconds?: number;
  telemetry: Telemetry;
  clock?: Clock;
};

type Held = { identity: Identity; need: Need; end: () => void; timer: NodeJS.Timeout | undefined };

const day = 86_400_000;
/** The longest that a timer of Node can wait, milliseconds. */
const timerMillisecondsMax = 2 ** 31 - 1;

export class Access {
  readonly users: Users;
  readonly keys: Keys;
  readonly #anonymous: Identity | undefined;
  readonly #entries: Entries;
  readonly #telemetry: Telemetry;
  readonly #clock: Clock;
  /** What is open and ends with the right to it. */
  readonly #held = new Set<Held>();
  /** Sessions and keys that were used since it was last written. */
  readonly #used = new Map<string, { time: number; address: string }>();
  readonly #closed = new AbortController();
  #running: Promise<unknown> | undefined;

  constructor({ anonymous, sessionMilliseconds = 7 * day, telemetry, clock = systemClock }: AccessOptions) {
    this.#telemetry = telemetry;
    this.#clock = clock;
    this.#entries = new Entries(clock, telemetry);
    this.users = new Users({ entries: this.#entries, clock, telemetry, sessionMilliseconds });
    this.keys = new Keys(this.#entries, clock);
    if (anonymous !== 'none')
      this.#anonymous = {
        tenant: defaultTenant,
        kind: 'anonymous',
        id: '',
        name: 'anonymous',
        scopes: scopesOf(anonymous),
      };
    this.#entries.onChange((kind, id) => {
      if (kind === 'user' || kind === 'session' || kind === 'key') this.#review(kind, id);
    });
  }

  /** From now on users and keys are known. The bucket has to exist. */
  async open(log: Log): Promise<void> {
    await this.#entries.open(log);
    this.#running = Promise.all([
      this.#each(usedMilliseconds, () => this.#writeUsed()),
      this.#each(accessTidyMilliseconds, () => this.#tidy()),
    ]);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#running;
    await this.#tried(() => this.#writeUsed());
    await this.#entries.close();
    for (const held of this.#held) clearTimeout(held.timer);
  }

  /**
   * Who asks, and whether he may. What is brought has to be valid, but for a cookie, which a browser sends for as long as it has it.
   * @throws ApiError not_signed_in, not_permitted; log_unavailable while the users are not known
   */
  identify(credentials: Credentials, need: Need): Identity {
    const [, bearer] = /^bearer +(.*)$/i.exec(credentials.authorization ?? '') ?? [];
    const shown = bearer ?? credentials.apiKey;
    const known =
      shown !== undefined
        ? this.#holder(shown, bearer === undefined ? ['key'] : ['key', 'session'], credentials.address)
        : credentials.cookie === undefined
          ? undefined
          : this.#holder(credentials.cookie, ['session'], credentials.address);
    // A proxy on this machine brings callers from elsewhere.
    const anonymous = shown === undefined && isLoopback(credentials.address) ? this.#anonymous : undefined;
    const identity = known ?? anonymous;
    if (identity === undefined) throw new ApiError('not_signed_in');
    if (!permits(identity, need)) throw new ApiError('not_permitted', { need, have: [...identity.scopes].join(', ') });
    return identity;
  }

  /** Whether whoever brings no credentials may do this, from this machine. */
  isOpen(need: Need): boolean {
    return this.#anonymous !== undefined && permits(this.#anonymous, need);
  }

  /**
   * Something is open for somebody: `end` is called when he may not any more. Returns what to call when it is closed.
   */
  attend(identity: Identity, need: Need, end: () => void): () => void {
    if (identity.credential === undefined) return () => undefined;
    const held: Held = { identity, need, end, timer: undefined };
    const wait = () => {
      const left = (identity.expires ?? Number.POSITIVE_INFINITY) - this.#now();
      if (left <= 0) this.#end(held);
      else if (left < Number.POSITIVE_INFINITY)
        held.timer = setTimeout(wait, Math.min(left, timerMillisecondsMax)).unref();
    };
    this.#held.add(held);
    wait();
    // It may have been taken away since it was looked at.
    if (this.#current(identity.credential) === undefined) this.#end(held);
    return () => {
      clearTimeout(held.timer);
      this.#held.delete(held);
    };
  }

  /** Whose this secret is. */
  #holder(text: string, kinds: readonly ('key' | 'session')[], address: string): Identity | undefined {
    const parsed = parseSecret(text);
    const kind = kinds.find((each) => each === parsed?.kind);
    if (parsed === undefined || kind === undefined) return undefined;
    const { id } = parsed;
    if (!this.#entries.isFilled) throw new ApiError('log_unavailable', { reason: 'the users are not known yet' });
    const entry = this.#entries.get(kind, id);
    if (entry === undefined || !isSame(entry.digest, parsed.digest)) return undefined;
    const identity = this.#current({ kind, id });
    if (identity) this.#used.set(id, { time: this.#now(), address });
    return identity;
  }

  /** What a session or key gives now; undefined when it is over. */
  #current({ kind, id }: NonNullable<Identity['credential']>): Identity | undefined {
    const credential = { kind, id };
    if (kind === 'key') {
      const key = this.#entries.get('key', id);
      if (key === undefined || (key.expires !== null && key.expires <= this.#now())) return undefined;
      const { tenant, name, expires } = key;
      const identity = { tenant, kind, id, name, scopes: new Set(key.scopes), credential } as const;
      return expires === null ? identity : { ...identity, expires };
    }
    const session = this.#entries.get('session', id);
    if (session === undefined || session.expires <= this.#now()) return undefined;
    const user = this.users.find(session.user);
    if (user === undefined || session.generation < user.generation) return undefined;
    const { tenant, name, role } = user;
    return { tenant, kind: 'user', id: name, name, role, scopes: scopesOf(role), credential, expires: session.expires };
  }

  /** A user, a session or a key has changed: what is open by it ends, unless it may go on. */
  #review(kind: 'user' | 'session' | 'key', id: string): void {
    for (const held of this.#held) {
      const { credential } = held.identity;
      if (credential === undefined || (kind !== 'user' && (credential.kind !== kind || credential.id !== id))) continue;
      const current = this.#current(credential);
      const { tenant } = held.identity;
      if (current === undefined || current.tenant !== tenant || !permits(current, held.need)) this.#end(held);
    }
  }

  #end(held: Held): void {
    if (!this.#held.delete(held)) return;
    clearTimeout(held.timer);
    held.end();
  }

  async #writeUsed(): Promise<void> {
    for (const [id, value] of this.#used) {
      if (this.#entries.get('key', id) ?? this.#entries.get('session', id)) await this.#entries.put('used', id, value);
      // What could not be written stays for the next time, and so does what was used again meanwhile.
      if (this.#used.get(id) === value) this.#used.delete(id);
    }
  }

  /** Removes what is over. */
  async #tidy(): Promise<void> {
    const now = this.#now();
    for (const [id, { expires }] of this.#entries.list('link'))
      if (expires <= now) await this.#entries.remove('link', id);
    for (const [id, { expires }] of this.#entries.list('key'))
      if (expires !== null && expires + expiredKeyMilliseconds <= now) await this.#entries.remove('key', id);
    for (const [id] of this.#entries.list('session'))
      if (this.#current({ kind: 'session', id }) === undefined) await this.#entries.remove('session', id);
    for (const [id] of this.#entries.list('used'))
      if (!(this.#entries.get('key', id) ?? this.#entries.get('session', id))) await this.#entries.remove('used', id);
    await this.#entries.tidy();
  }

  async #each(milliseconds: number, step: () => Promise<void>): Promise<void> {
    const { signal } = this.#closed;
    while (!signal.aborted) {
      await this.#clock.sleep(milliseconds, signal).catch(() => undefined);
      if (signal.aborted) return;
      await this.#tried(step);
    }
  }

  async #tried(step: () => Promise<void>): Promise<void> {
    try {
      await step();
    } catch (cause) {
      const reason = sentence(cause);
      this.#telemetry.log.debug({ reason }, 'what is kept of users could not be written; it is tried again');
    }
  }

  #now(): number {
    return this.#clock.now_us() / 1000;
  }
}
