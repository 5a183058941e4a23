// Agents get credentials, at once or for a code, and lose them again. What was issued is kept in a bucket; the seeds of agents are not.
import { createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { token } from '@fleetreel/proto';
import { ApiError, clip } from '@fleetreel/proto/errors';
import type { ClaimedEnrolment, Enrolled, IssuedCredentials } from '@fleetreel/proto/http';
import type { NatsSettings } from '@fleetreel/proto/nats_access';
import { credentialsText, isPublicKey, KeyPair } from '@fleetreel/proto/nats_jwt';
import { agentToken, type Issuer } from '@fleetreel/proto/nats_keys';
import { SettingsError } from '@fleetreel/proto/settings';
import type { KV } from '@nats-io/kv';
import { Accounts } from '#access/accounts.ts';
import { lifetimeOf } from '#access/lifetime.ts';
import { networkOf } from '#access/throttle.ts';
import type { Clock } from '#clock.ts';
import {
  codeFailures,
  codeMilliseconds,
  codesMax,
  credentialsListedMilliseconds,
  enrolmentTidyMilliseconds,
  retryMilliseconds,
  revocationKeptMilliseconds,
  revocationsMax,
} from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { answered, buckets, isOvertaken } from '#log/stream.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** What is wanted. */
export type Wish = {
  /** As it is in subjects. */
  tenant: string;
  /** The host's name, with its dots. */
  host: string;
  /** How long its credentials are valid; absent: until they are revoked. */
  ttl?: string | undefined;
  /** Who asks. */
  by: string;
};

/** Of a code: what it is for. Only its digest is kept, as its key. */
type Code = { tenant: string; host: string; ttl_ms: number | null; by: string; expires: number };
/** What was issued; times are UTC, milliseconds since 1970. */
type Stored = {
  host: string;
  by: string;
  byCode: boolean;
  issued: number;
  expires: number | null;
  revoked: number | null;
};
/** A code that can be used, and which version of its entry that is. */
type Waiting = { key: string; revision: number; code: Code };
type Found = { key: string; revision: number; tenant: string; publicKey: string; stored: Stored };

export type EnrolmentOptions = {
  log: Log;
  issuer: Issuer;
  nats: NatsSettings & { agents_url?: string };
  clock: Clock;
  telemetry: Telemetry;
};

export class Enrolment {
  /** Where agents reach the log, if it was told: from where this collector is, it may be elsewhere. */
  readonly agentsUrl: string | null;
  readonly #issuer: Issuer;
  readonly #accounts: Accounts;
  readonly #bucket: KV;
  readonly #clock: Clock;
  readonly #telemetry: Telemetry;
  readonly #failures: Failures;
  readonly #closed = new AbortController();
  /** Keys that NATS refuses by name, when it was told last. */
  #revocations = 0;
  /** Ends the pause before NATS is told again. */
  #hurried = new AbortController();
  readonly #keeping: Promise<void>;

  private constructor({ issuer, nats, clock, telemetry }: EnrolmentOptions, bucket: KV) {
    this.agentsUrl = nats.agents_url ?? null;
    this.#issuer = issuer;
    this.#accounts = new Accounts(issuer, nats, clock);
    this.#bucket = bucket;
    this.#clock = clock;
    this.#telemetry = telemetry;
    this.#failures = new Failures(clock);
    this.#keeping = this.#keep();
  }

  /** The bucket has to exist. */
  static async open(options: EnrolmentOptions): Promise<Enrolment> {
    return new Enrolment(options, await options.log.buckets.open(buckets.enrolment));
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#keeping;
  }

  /** Gives a host credentials. @throws ApiError bad_value, too_many_revocations, log_unavailable */
  async credentials(wish: Wish): Promise<Enrolled> {
    const { tenant, host, ttl_ms } = this.#checked(wish);
    const { publicKey, seed } = KeyPair.create('user');
    const { jwt, expires } = await this.#issue({ tenant, host, publicKey, ttl_ms, by: wish.by, byCode: false });
    return { tenant, host, credentials: credentialsText(jwt, seed), expires };
  }

  /** Gives a code with which a host's agent fetches its own. @throws ApiError bad_value, too_many_codes, too_many_revocations, log_unavailable */
  async code(wish: Wish): Promise<Enrolled> {
    const { tenant, host, ttl_ms } = this.#checked(wish);
    const code = randomBytes(20).toString('base64url');
    const expires = this.#now() + codeMilliseconds;
    const kept: Code = { tenant, host, ttl_ms, by: wish.by, expires };
    await answered(async () => {
      let waiting = 0;
      for await (const _ of await this.#bucket.keys(`code.${tenant}.*`)) waiting++;
      if (waiting >= codesMax) throw new ApiError('too_many_codes', { most: codesMax });
      await this.#bucket.create(codeKey(tenant, code), JSON.stringify(kept), markerTtl);
    });
    // The tenant leads to the digest, and is no secret.
    return { tenant, host, code: `${tenant}:${code}`, expires };
  }

  /**
   * Credentials for a code, once.
   * @param publicKey of the agent, who keeps its seed
   * @param address from where it is asked
   * @throws ApiError code_refused, too_many_claims, bad_value, log_unavailable
   */
  async claim(given: { code: string; publicKey: string }, address: string): Promise<ClaimedEnrolment> {
    this.#failures.check(address);
    if (!isPublicKey('user', given.publicKey))
      throw new ApiError('bad_value', {
        parameter: 'publicKey',
        value: clip(given.publicKey),
        expected: 'the public key of a user of NATS',
      });
    const waiting = await answered(() => this.#waiting(given.code));
    if (waiting === undefined) throw this.#refused(address);
    const { tenant, host, ttl_ms, by } = waiting.code;
    const { jwt, expires, key } = await this.#issue({
      tenant,
      host,
      publicKey: given.publicKey,
      ttl_ms,
      by,
      byCode: true,
    });
    // After its credentials are known: whoever takes a host's codes back, and then its credentials, finds the one or the other.
    if (!(await answered(() => this.#remove(waiting)))) {
      await answered(() => this.#bucket.purge(key, { ttl: markerTtl }));
      throw this.#refused(address);
    }
    return { tenant, host, jwt, expires, natsUrl: this.agentsUrl };
  }

  #refused(address: string): ApiError {
    this.#failures.add(address);
    return new ApiError('code_refused');
  }

  /** What was issued to hosts of a tenant, the newest first. @throws ApiError log_unavailable */
  async list(tenant: string): Promise<IssuedCredentials[]> {
    const found = await answered(() => this.#found(`credentials.${tenant}.>`));
    const oldest = this.#now() - credentialsListedMilliseconds;
    return found
      .filter(({ stored: { expires, revoked } }) => Math.min(expires ?? Infinity, revoked ?? Infinity) > oldest)
      .map(({ publicKey, stored }) => ({ ...stored, publicKey }))
      .sort((a, b) => b.issued - a.issued);
  }

  /**
   * Takes back all credentials and unused codes of a host.
   * @returns how many there were, and why NATS could not be told yet, which is tried until it can
   * @throws ApiError credentials_not_found, bad_value, log_unavailable
   */
  async revoke(tenant: string, host: string): Promise<{ revoked: number; untold: ApiError | undefined }> {
    const name = hostToken(host);
    const { revoked, marked } = await answered(() => this.#revoke(tenant, name));
    if (revoked === 0 && marked.length === 0) throw new ApiError('credentials_not_found', { value: clip(host) });
    try {
      // Also of those that were marked before: whoever did may have failed at this.
      if (marked.length > 0) await this.#tell(marked);
      return { revoked, untold: undefined };
    } catch (cause) {
      this.#hurried.abort();
      const reason = `NATS could not be told, which is tried until it can (${sentence(cause)})`;
      return { revoked, untold: new ApiError('log_unavailable', { reason }, { cause }) };
    }
  }

  /** Writes that all is revoked; returns how much that was, and the credentials that it is about. */
  async #revoke(tenant: string, name: string): Promise<{ revoked: number; marked: Found[] }> {
    const now = this.#now();
    let revoked = 0;
    for (const waiting of await this.#codes(tenant))
      if (hostToken(waiting.code.host) === name && (await this.#remove(waiting))) revoked++;
    const marked: Found[] = [];
    for (const found of await this.#found(`credentials.${tenant}.${name}.*`)) {
      const { stored } = found;
      if ((stored.expires ?? Infinity) <= now) continue;
      const mark = { ...found, stored: { ...stored, revoked: stored.revoked ?? now } };
      marked.push(mark);
      if (stored.revoked === null && (await this.#mark(mark))) revoked++;
    }
    return { revoked, marked };
  }

  /** Writes that credentials are revoked; false where somebody else did so at the same time, which is all that changes them. */
  async #mark({ key, stored, revision }: Found): Promise<boolean> {
    try {
      await this.#bucket.update(key, JSON.stringify(stored), revision);
      return true;
    } catch (cause) {
      if (isOvertaken(cause)) return false;
      throw cause;
    }
  }

  /**
   * Tells the servers of everything that is revoked.
   * @param marked what was marked a moment ago: a server of a cluster may not have that yet
   */
  async #tell(marked: readonly Found[]): Promise<void> {
    await this.#accounts.revoke(async (before) => {
      const wanted: Record<string, number> = { ...before };
      const forgotten = this.#now() - revocationKeptMilliseconds;
      for (const { publicKey, stored } of [...(await this.#found('credentials.>')), ...marked]) {
        const { issued, expires, revoked } = stored;
        if (revoked === null) continue;
        // What expired can't be used; what is not known here was revoked by other means, and stays so.
        if ((expires ?? Infinity) < forgotten) delete wanted[publicKey];
        // A server refuses what was issued until then, and whoever issued it may have a clock that is ahead.
        else wanted[publicKey] = Math.max(wanted[publicKey] ?? 0, Math.ceil(Math.max(revoked, issued) / 1000));
      }
      this.#revocations = Object.keys(wanted).length;
      return wanted;
    });
  }

  /** Has NATS know what is revoked, also what it was not told at first or has lost, until this is closed. */
  async #keep(): Promise<void> {
    const { signal } = this.#closed;
    let pause_ms: number = retryMilliseconds.min;
    while (!signal.aborted) {
      this.#hurried = new AbortController();
      const until = AbortSignal.any([signal, this.#hurried.signal]);
      let wait_ms: number = enrolmentTidyMilliseconds;
      try {
        await this.#tidy();
        this.#telemetry.revocationsTold();
        pause_ms = retryMilliseconds.min;
      } catch (cause) {
        this.#telemetry.revocationsUntold(sentence(cause));
        wait_ms = pause_ms;
        pause_ms = Math.min(pause_ms * 2, retryMilliseconds.max);
      }
      await this.#clock.sleep(wait_ms, until).catch(() => undefined);
    }
  }

  /** Tells what is revoked, and forgets what nobody can use any more, nor asks for. */
  async #tidy(): Promise<void> {
    const all = await this.#found('credentials.>');
    if (all.some(({ stored }) => stored.revoked !== null)) await this.#tell([]);
    const oldest = this.#now() - credentialsListedMilliseconds;
    for (const { key, stored } of all)
      if ((stored.expires ?? Infinity) < oldest) await this.#bucket.purge(key, { ttl: markerTtl });
  }

  async #issue(given: {
    tenant: string;
    host: string;
    publicKey: string;
    ttl_ms: number | null;
    by: string;
    byCode: boolean;
  }): Promise<{ jwt: string; expires: number | null; key: string }> {
    const { tenant, host, publicKey, ttl_ms, by, byCode } = given;
    const now = this.#now();
    const name = hostToken(host);
    const [issued_s, expires_s] = [
      Math.floor(now / 1000),
      ttl_ms === null ? undefined : Math.ceil((now + ttl_ms) / 1000),
    ];
    const jwt = agentToken(this.#issuer, { tenant, host: name, name: host, publicKey, issued_s, expires_s });
    const expires = expires_s === undefined ? null : expires_s * 1000;
    const stored: Stored = { host, by, byCode, issued: now, expires, revoked: null };
    const key = `credentials.${tenant}.${name}.${publicKey}`;
    // Before anybody has it: what is not known could not be revoked.
    await answered(async () => {
      try {
        await this.#bucket.create(key, JSON.stringify(stored));
      } catch (cause) {
        if (!isOvertaken(cause)) throw cause;
        const expected = 'a public key that has no credentials yet';
        throw new ApiError('bad_value', { parameter: 'publicKey', value: publicKey, expected }, { cause });
      }
    });
    return { jwt, expires, key };
  }

  /** What a code is for. Undefined where it is none. */
  async #waiting(text: string): Promise<Waiting | undefined> {
    const [, tenant, secret] = /^([A-Za-z0-9_-]{1,128}):([\w-]{27})$/.exec(text.trim()) ?? [];
    if (tenant === undefined || secret === undefined) return undefined;
    const key = codeKey(tenant, secret);
    const entry = await this.#bucket.get(key);
    if (entry?.operation !== 'PUT') return undefined;
    const code = entry.json<Code>();
    return code.expires > this.#now() ? { key, revision: entry.revision, code } : undefined;
  }

  /** Codes of a tenant that can be used. */
  async #codes(tenant: string): Promise<Waiting[]> {
    const now = this.#now();
    const waiting: Waiting[] = [];
    for await (const entry of await this.#bucket.history({ key: `code.${tenant}.*` }))
      if (entry.operation === 'PUT')
        waiting.push({ key: entry.key, revision: entry.revision, code: entry.json<Code>() });
    return waiting.filter(({ code }) => code.expires > now);
  }

  /** A code can't be used any more; false where somebody else was faster to say so, or to use it. */
  async #remove({ key, revision }: Waiting): Promise<boolean> {
    try {
      await this.#bucket.purge(key, { previousSeq: revision, ttl: markerTtl });
      return true;
    } catch (cause) {
      if (isOvertaken(cause)) return false;
      throw cause;
    }
  }

  /** One pass over the bucket, however many there are. */
  async #found(filter: string): Promise<Found[]> {
    const found: Found[] = [];
    for await (const entry of await this.#bucket.history({ key: filter })) {
      const [, tenant = '', , publicKey = ''] = entry.key.split('.');
      if (entry.operation === 'PUT')
        found.push({ key: entry.key, revision: entry.revision, tenant, publicKey, stored: entry.json<Stored>() });
    }
    return found;
  }

  /** @throws ApiError bad_value, too_many_revocations */
  #checked({ tenant, host, ttl }: Wish): { tenant: string; host: string; ttl_ms: number | null } {
    hostToken(host);
    const ttl_ms = lifetimeOf(ttl, '1m');
    if (ttl_ms === null && this.#revocations >= revocationsMax)
      throw new ApiError('too_many_revocations', { count: this.#revocations, most: revocationsMax });
    return { tenant, host, ttl_ms };
  }

  #now(): number {
    return this.#clock.now_us() / 1000;
  }
}

/** How long it is remembered that there was an entry. */
const markerTtl = `${codeMilliseconds / 1000}s`;

const codeKey = (tenant: string, code: string): string =>
  `code.${tenant}.${createHash('sha256').update(code).digest('hex')}`;

/** @throws ApiError bad_value */
function hostToken(host: string): string {
  try {
    return token('host', host);
  } catch (cause) {
    const expected = 'letters, digits, "-", "_" and ".", at most 128, beginning and ending with a letter or digit';
    throw new ApiError('bad_value', { parameter: 'host', value: clip(host), expected }, { cause });
  }
}

/** Codes that were refused of late, by the address that showed them. */
class Failures {
  readonly #clock: Clock;
  readonly #addresses = new Map<string, number>();
  #since_ms: number;

  constructor(clock: Clock) {
    this.#clock = clock;
    this.#since_ms = clock.monotonic_ms();
  }

  /** @throws ApiError too_many_claims */
  check(address: string): void {
    const past_ms = this.#clock.monotonic_ms() - this.#since_ms;
    if (past_ms >= codeFailures.milliseconds) {
      this.#addresses.clear();
      this.#since_ms += past_ms;
    } else if ((this.#addresses.get(networkOf(address)) ?? 0) >= codeFailures.count)
      throw new ApiError('too_many_claims', { retryAfter: Math.ceil((codeFailures.milliseconds - past_ms) / 1000) });
  }

  add(address: string): void {
    // Whoever has that many addresses is not kept from trying; guessing is as hopeless.
    if (this.#addresses.size >= codeFailures.addresses) this.#addresses.clear();
    const from = networkOf(address);
    this.#addresses.set(from, (this.#addresses.get(from) ?? 0) + 1);
  }
}

/** The keys in a file. @throws SettingsError */
export function readIssuer(path: string): Issuer {
  let issuer: Partial<Issuer>;
  try {
    issuer = JSON.parse(readFileSync(path, 'utf8')) as Partial<Issuer>;
    for (const name of ['agentsAccount', 'agentsSeed', 'operatorSeed', 'systemCredentials'] as const)
      if (typeof issuer[name] !== 'string') throw new RangeError(`it has no ${name}`);
    for (const name of ['agentsSeed', 'operatorSeed'] as const) KeyPair.fromSeed(issuer[name] ?? '');
  } catch (cause) {
    // What a parser says repeats what it has read.
    const why = cause instanceof SyntaxError ? 'it is no JSON' : (cause as Error).message;
    throw new SettingsError(`nats.issuer: ${path} has no keys to issue with: ${why}.`, { cause });
  }
  return issuer as Issuer;
}
