// The only place that asks the collector over HTTP. Types come from the contract, nothing else does.
import type {
  AgentSettingsBody,
  AgentSettingsChange,
  AgentSettingsPage,
  Agents,
  Aggregation,
  AuditRecord,
  AuditRecords,
  Catalog,
  Coverage,
  Credentials,
  CustomEvent,
  CustomEvents,
  DeadLetters,
  Enrolled,
  EnrolmentRequest,
  Host,
  Hosts,
  InvitedUser,
  Key,
  Keys,
  Latest,
  Link,
  LinkPurpose,
  LinkUse,
  MadeKey,
  Me,
  Measure,
  Measures,
  NewKey,
  Problem,
  Role,
  Rows,
  Scope,
  Series,
  Sessions,
  SignedIn,
  User,
  Users,
} from '@fleetreel/proto/http';

export type {
  Aggregation,
  AuditRecord,
  Catalog,
  Coverage,
  CustomEvent,
  Host,
  Key,
  Latest,
  Link,
  LinkPurpose,
  Me,
  Measure,
  Problem,
  Role,
  Rows,
  Scope,
  Series,
  User,
};
export type Table = Catalog['tables'][number];
export type Field = Table['fields'][number];
export type Hole = Coverage['hosts'][number]['holes'][number];
export type Row = Latest['rows'][number];

/** How grave an event is, the least first. */
export const severities = [
  'debug',
  'info',
  'warning',
  'error',
  'critical',
] as const satisfies readonly CustomEvent['severity'][];

/** What `series` is asked: times are milliseconds since 1970 or relative (`-15m`, `now`). */
export type SeriesQuery = {
  table: string;
  fields: readonly string[];
  hosts: readonly string[];
  labels: Readonly<Record<string, readonly string[]>>;
  from: number | string;
  to: number | string;
  /** A duration such as `15s`, or `auto`. */
  step: string;
  agg: Aggregation;
};

/** What `rows` is asked. */
export type RowsQuery = Pick<SeriesQuery, 'table' | 'hosts' | 'labels' | 'from' | 'to'> & { limit: number };

/** What `measure` and `event` are asked: `*` in names stands for any characters; all conditions on metadata hold. */
export type CustomQuery = {
  names: readonly string[];
  where: readonly string[];
  from: number | string;
  to: number | string;
  limit: number;
  /** Where a list continues; empty for its begin. */
  before: string;
};

/** What `audit` is asked: what is empty means all. */
export type AuditQuery = Pick<CustomQuery, 'from' | 'to' | 'limit' | 'before'> & { actor: string; action: string };

/** What `dead-letters` is asked: an empty host means all. */
export type DeadLettersQuery = { host: string; from: number | string; to: number | string; limit: number };

/**
 * Who is told how many requests are under way, what time it is at the collector (to the second), that nobody is signed in
 * (any more), and that something was asked for that whoever is signed in may not do.
 */
export type Observer = {
  pending?: (count: number) => void;
  clock?: (now: number) => void;
  signedOut?: () => void;
  denied?: () => void;
};

/** A request that was not answered as hoped: the message is the collector's own sentence where it gave one. */
export class ApiError extends Error {
  override name = 'ApiError';
  /** HTTP status, 0 when the collector could not be reached. */
  readonly status: number;
  readonly problem: Problem | null;
  /** How long to wait before it is worth another try, seconds; null when the collector does not say. */
  readonly retryAfter: number | null;

  constructor(
    message: string,
    status: number,
    problem: Problem | null,
    { retryAfter = null, ...options }: ErrorOptions & { retryAfter?: number | null } = {},
  ) {
    super(message, options);
    this.status = status;
    this.problem = problem;
    this.retryAfter = retryAfter;
  }
}

/** Longest that any request may take, milliseconds: the store gives up before. */
const patience = 60_000;

/** What the collector answers with status 401 to whoever is not signed in; a wrong password has another name. */
const notSignedIn = 'not_signed_in';

export class Api {
  readonly #base: string;
  readonly #observer: Observer;
  #pending = 0;

  constructor(observer: Observer = {}, base = '/api/v1') {
    this.#observer = observer;
    this.#base = base;
  }

  catalog(signal?: AbortSignal): Promise<Catalog> {
    return this.#ask('GET', 'catalog', {}, signal);
  }

  hosts(signal?: AbortSignal): Promise<Hosts> {
    return this.#ask('GET', 'hosts', {}, signal);
  }

  /** Forgets a host: its claim of the name and its entry in the list, not its history. */
  forget(host: string, signal?: AbortSignal): Promise<void> {
    return this.#ask('DELETE', `hosts/${encodeURIComponent(host)}`, {}, signal);
  }

  latest(table: string, hosts: readonly string[], signal?: AbortSignal): Promise<Latest> {
    return this.#ask('GET', 'latest', { table, host: hosts }, signal);
  }

  series(query: SeriesQuery, signal?: AbortSignal): Promise<Series> {
    const { table, fields, hosts, labels, from, to, step, agg } = query;
    return this.#ask(
      'GET',
      'series',
      { table, field: fields, host: hosts, from, to, step, agg, ...named(labels) },
      signal,
    );
  }

  /** What of a range is stored of hosts, and every hole with its cause. */
  coverage(
    hosts: readonly string[],
    from: number | string,
    to: number | string,
    signal?: AbortSignal,
  ): Promise<Coverage> {
    return this.#ask('GET', 'coverage', { host: hosts, from, to }, signal);
  }

  /** Rows of a range, the newest first. */
  rows({ table, hosts, labels, from, to, limit }: RowsQuery, signal?: AbortSignal): Promise<Rows> {
    return this.#ask('GET', 'rows', { table, host: hosts, from, to, limit, ...named(labels) }, signal);
  }

  /** Messages that could not be stored, the newest first. */
  deadLetters(query: DeadLettersQuery, signal?: AbortSignal): Promise<DeadLetters> {
    return this.#ask('GET', 'dead-letters', query, signal);
  }

  /** Who asks, and what they may do. */
  me(signal?: AbortSignal): Promise<Me> {
    return this.#ask('GET', 'me', {}, signal);
  }

  login(user: string, password: string): Promise<SignedIn> {
    return this.#send('POST', 'login', { user, password });
  }

  logout(): Promise<void> {
    return this.#ask('POST', 'logout', {});
  }

  /** What a one-time link is for. */
  checkLink(code: string, signal?: AbortSignal): Promise<LinkPurpose> {
    return this.#ask('POST', 'link/check', {}, signal, { code });
  }

  /** Uses a one-time link: the password is set, and its user signed in. */
  useLink(use: LinkUse): Promise<SignedIn> {
    return this.#send('POST', 'link', use);
  }

  changePassword(password: string, newPassword: string): Promise<void> {
    return this.#send('POST', 'me/password', { password, newPassword });
  }

  sessions(signal?: AbortSignal): Promise<Sessions> {
    return this.#ask('GET', 'me/sessions', {}, signal);
  }

  endSession(id: string): Promise<void> {
    return this.#ask('DELETE', `me/sessions/${encodeURIComponent(id)}`, {});
  }

  users(signal?: AbortSignal): Promise<Users> {
    return this.#ask('GET', 'users', {}, signal);
  }

  inviteUser(user: string, role: Role): Promise<InvitedUser> {
    return this.#send('POST', 'users', { user, role });
  }

  setRole(user: string, role: Role): Promise<User> {
    return this.#send('PATCH', `users/${encodeURIComponent(user)}`, { role });
  }

  removeUser(user: string): Promise<void> {
    return this.#ask('DELETE', `users/${encodeURIComponent(user)}`, {});
  }

  /** A one-time link by which the user chooses a new password. */
  linkUser(user: string): Promise<Link> {
    return this.#ask('POST', `users/${encodeURIComponent(user)}/link`, {});
  }

  endSessions(user: string): Promise<void> {
    return this.#ask('DELETE', `users/${encodeURIComponent(user)}/sessions`, {});
  }

  keys(signal?: AbortSignal): Promise<Keys> {
    return this.#ask('GET', 'keys', {}, signal);
  }

  createKey(key: NewKey): Promise<MadeKey> {
    return this.#send('POST', 'keys', key);
  }

  revokeKey(id: string): Promise<void> {
    return this.#ask('DELETE', `keys/${encodeURIComponent(id)}`, {});
  }

  /** Measures that applications wrote, the newest first. */
  measures({ names, ...query }: CustomQuery, signal?: AbortSignal): Promise<Measures> {
    return this.#ask('GET', 'measure', { name: names, ...query }, signal);
  }

  /** Events that applications wrote, the newest first. */
  customEvents(
    { names, ...query }: CustomQuery & { severity: readonly string[] },
    signal?: AbortSignal,
  ): Promise<CustomEvents> {
    return this.#ask('GET', 'event', { name: names, ...query }, signal);
  }

  /** Who changed what, the newest first. */
  audit(query: AuditQuery, signal?: AbortSignal): Promise<AuditRecords> {
    return this.#ask('GET', 'audit', query, signal);
  }

  /** Every host with the settings that are wanted of its agent, and those in effect. */
  agents(signal?: AbortSignal): Promise<Agents> {
    return this.#ask('GET', 'agents', {}, signal);
  }

  /** What is wanted of agents, by target, and which settings there are. */
  agentSettings(signal?: AbortSignal): Promise<AgentSettingsPage> {
    return this.#ask('GET', 'agents/settings', {}, signal);
  }

  /** Says which settings are wanted of a target, all of them; `dryRun` changes nothing and says what would be. */
  setAgentSettings(target: string, body: AgentSettingsBody, dryRun = false): Promise<AgentSettingsChange> {
    const path = `agents/settings/${encodeURIComponent(target)}`;
    const parameters: Parameters = dryRun ? { dryRun: 'true' } : {};
    const { settings, revision } = body;
    // To want nothing more is to take the target away.
    return Object.keys(settings).length === 0
      ? this.#ask('DELETE', path, { ...parameters, ...(revision === undefined ? {} : { revision }) })
      : this.#ask('PUT', path, parameters, undefined, body);
  }

  /** Credentials that agents were given for NATS. */
  credentials(signal?: AbortSignal): Promise<Credentials> {
    return this.#ask('GET', 'credentials', {}, signal);
  }

  /** Lets a host in. */
  enrol(request: EnrolmentRequest): Promise<Enrolled> {
    return this.#send('POST', 'enrolments', request);
  }

  /** Takes all credentials of a host back. */
  revokeCredentials(host: string): Promise<void> {
    return this.#ask('DELETE', `credentials/${encodeURIComponent(host)}`, {});
  }

  /** Sends what is to be changed: always in the body, so that nothing of it is in an address. */
  #send<T>(method: string, path: string, body: object): Promise<T> {
    return this.#ask(method, path, {}, undefined, body);
  }

  async #ask<T>(method: string, path: string, parameters: Parameters, signal?: AbortSignal, body?: object): Promise<T> {
    const limit = AbortSignal.timeout(patience);
    let response: Response;
    try {
      this.#observer.pending?.(++this.#pending);
      response = await fetch(`${this.#base}/${path}${search(parameters)}`, {
        method,
        headers: { accept: 'application/json', ...(body ? { 'content-type': 'application/json' } : {}) },
        ...(body ? { body: JSON.stringify(body) } : {}),
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
      });
    } catch (cause) {
      if (signal?.aborted) throw cause;
      const message = limit.aborted
        ? `The collector did not answer within ${patience / 1000} s. Try a shorter range, or again later.`
        : 'The collector can’t be reached. Check that it runs and that the network is up.';
      throw new ApiError(message, 0, null, { cause });
    } finally {
      this.#observer.pending?.(--this.#pending);
    }
    const date = Date.parse(response.headers.get('date') ?? '');
    if (Number.isFinite(date)) this.#observer.clock?.(date);
    if (!response.ok) {
      const error = await refusal(response);
      if (error.problem?.code === notSignedIn) this.#observer.signedOut?.();
      if (error.status === 403) this.#observer.denied?.();
      throw error;
    }
    if (response.status === 204) return undefined as T;
    return (await response.json()) as T;
  }
}

/** True for the error of a request that was given up on purpose. */
export const isAbort = (error: unknown): boolean =>
  error instanceof DOMException && (error.name === 'AbortError' || error.name === 'TimeoutError');

/** The sentence to show for whatever was thrown. */
export const sentence = (error: unknown): string => (error instanceof Error ? error.message : String(error));

type Parameters = Record<string, string | number | readonly string[]>;

/** The parameters that labels are asked for by. */
const named = (labels: SeriesQuery['labels']): Parameters =>
  Object.fromEntries(Object.entries(labels).map(([label, values]) => [`label.${label}`, values]));

/** Of several values each is a parameter of its own: a label's may have commas. */
function search(parameters: Parameters): string {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters))
    for (const text of Array.isArray(value) ? value : [String(value)]) if (text !== '') pairs.append(name, text);
  return pairs.size > 0 ? `?${pairs}` : '';
}

async function refusal(response: Response): Promise<ApiError> {
  const fallback = `The collector answered ${response.status} ${response.statusText}`.trim();
  const seconds = Number(response.headers.get('retry-after') ?? Number.NaN);
  const retryAfter = Number.isFinite(seconds) ? seconds : null;
  try {
    const problem = (await response.json()) as Problem;
    return new ApiError(problem.detail || problem.title || fallback, response.status, problem, { retryAfter });
  } catch {
    return new ApiError(`${fallback}.`, response.status, null, { retryAfter });
  }
}
