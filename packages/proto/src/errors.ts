// The catalogue of errors: what both faces of the API answer, and what the reference page says. A code is never reused.
import type { Problem } from '#http.ts';
import { nearest, suggestion } from '#settings.ts';

/** The numbers of the gRPC status codes that the product uses: https://grpc.io/docs/guides/status-codes/ */
export const grpcStatus = {
  INVALID_ARGUMENT: 3,
  DEADLINE_EXCEEDED: 4,
  NOT_FOUND: 5,
  ALREADY_EXISTS: 6,
  PERMISSION_DENIED: 7,
  RESOURCE_EXHAUSTED: 8,
  FAILED_PRECONDITION: 9,
  ABORTED: 10,
  OUT_OF_RANGE: 11,
  UNIMPLEMENTED: 12,
  INTERNAL: 13,
  UNAVAILABLE: 14,
  UNAUTHENTICATED: 16,
} as const;

type Entry = {
  http: number;
  grpc: keyof typeof grpcStatus;
  title: string;
  /** One sentence with holes, `{name}`: what is wrong, and where. */
  detail: string;
  /** What to do about it; may have holes too. */
  action: string;
};

const invalid = { http: 400, grpc: 'INVALID_ARGUMENT' } as const;

export const errors = {
  unknown_table: { ...invalid, title: 'Unknown table', detail: 'There is no table "{value}".', action: '{suggestion}' },
  unknown_field: {
    ...invalid,
    title: 'Unknown field',
    detail: 'The table {table} has no field "{value}".',
    action: '{suggestion}',
  },
  unknown_label: {
    ...invalid,
    title: 'Unknown label',
    detail: 'The table {table} has no label "{value}".',
    action: '{suggestion}',
  },
  unknown_aggregation: {
    ...invalid,
    title: 'Unknown aggregation',
    detail: 'There is no aggregation "{value}".',
    action: '{suggestion}',
  },
  unknown_host: {
    ...invalid,
    title: 'Unknown host',
    detail: 'There is no host "{value}".',
    action: '{suggestion}',
  },
  unknown_parameter: {
    ...invalid,
    title: 'Unknown parameter',
    detail: 'There is no parameter "{value}" here.',
    action: '{suggestion}',
  },
  missing_parameter: {
    ...invalid,
    title: 'Missing parameter',
    detail: 'The parameter "{parameter}" is missing.',
    action: 'Give {expected}.',
  },
  repeated_parameter: {
    ...invalid,
    title: 'Repeated parameter',
    detail: 'The parameter "{parameter}" is given {count} times.',
    action: 'Give it once.',
  },
  too_many_names: {
    ...invalid,
    title: 'Too many names',
    detail: 'The parameter "{parameter}" names {count} values.',
    action: 'Name at most {most}, or leave it out to mean all.',
  },
  bad_value: {
    ...invalid,
    title: 'Bad value',
    detail: 'The parameter "{parameter}" has a value that can\'t be: "{value}".',
    action: 'Give {expected}.',
  },
  bad_limit: {
    ...invalid,
    title: 'Bad limit',
    detail: '"{value}" in "{parameter}" is no number of rows.',
    action: 'Give a whole number from 1 to {most}.',
  },
  bad_time: {
    ...invalid,
    title: 'Bad time',
    detail: '"{value}" in "{parameter}" is no time.',
    action:
      'Give RFC 3339 (2026-01-31T12:00:00Z), milliseconds since 1970, or a time relative to now (now, -1h, -1h30m).{hint}',
  },
  bad_range: {
    ...invalid,
    title: 'Bad range',
    detail: 'The range is empty: it begins at {from} and ends at {to}.',
    action: 'Give a "from" that is before "to".',
  },
  bad_step: {
    ...invalid,
    title: 'Bad step',
    detail: '"{value}" is no step.',
    action: 'Give a duration in whole milliseconds of 1ms to 365d, such as 10s, 5m or 1h, or "auto".{hint}',
  },
  too_many_points: {
    ...invalid,
    title: 'Too many points',
    detail: 'Steps of {value} over this range make {count} points; {most} is the most.',
    action: 'Give a step of {nearest} or longer, a shorter range, or "auto".',
  },
  too_many_series: {
    ...invalid,
    title: 'Too many series',
    detail: 'This is more than {most} series.',
    action: 'Name hosts, labels or fewer fields.',
  },
  too_many_values: {
    ...invalid,
    title: 'Too many values',
    detail: 'This is more than {most} values.',
    action: 'Name hosts, labels or fewer fields, or give a shorter range or a longer step.',
  },
  step_too_fine: {
    ...invalid,
    title: 'Step too fine',
    detail: 'Before {kept} only rows of {nearest} are kept, and the step is {value}.',
    action: 'Give a step that is a multiple of {nearest}, or a later "from".',
  },
  raw_rows_gone: {
    ...invalid,
    title: 'Raw rows gone',
    detail: '{value} needs raw rows, which are kept since {kept}; the range begins at {from}.',
    action: 'Give a later "from", or ask for avg, min, max or sum by key labels, which roll-ups have.',
  },
  bad_request: {
    ...invalid,
    title: 'Bad request',
    detail: "The request can't be read: {reason}.",
    action: 'See /docs for what there is.',
  },
  bad_entry: {
    ...invalid,
    title: 'Bad entry',
    detail: '{place}: {reason}.',
    action: 'Nothing of this call was stored. {hint}',
  },
  bad_condition: {
    ...invalid,
    title: 'Bad condition',
    detail: 'The condition "{value}" can\'t be used: {reason}.',
    action:
      'Give a key of metadata, a comparison and a value: size>=10, ok=true, host=web-*; in quotes it is a string as it stands: version="10".',
  },
  bad_cursor: {
    ...invalid,
    title: 'Bad cursor',
    detail: 'The parameter "before" is not one of this list: "{value}".',
    action: 'Give "before" of an answer as it was received, or leave it out to begin with the newest.',
  },
  too_many_entries: {
    http: 413,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many entries',
    detail: 'The call has {count} entries; {most} is the most.',
    action: 'Nothing of it was stored: send them in several calls.',
  },
  write_rate_exceeded: {
    http: 429,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many measures and events',
    detail: 'This key writes more than {most} {what} a second.',
    action: 'Nothing of this call was stored: send it again in {retryAfter} s, or raise {setting} of the collector.',
  },
  too_many_custom_names: {
    http: 429,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many names',
    detail:
      'This key has written {most} different names, and metadata keys of names, of late; "{value}" is one too many.',
    action:
      'Nothing of this call was stored: put what varies into values of metadata, try again in {retryAfter} s, or raise custom.names of the collector.',
  },
  bad_message: {
    ...invalid,
    title: 'Bad message',
    detail: "The message can't be used: {reason}.",
    action: 'Send a JSON object with "type" subscribe, subscribe_hosts or unsubscribe, and "id".',
  },
  too_many_subscriptions: {
    http: 400,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many subscriptions',
    detail: 'This connection has {most} subscriptions, which is the most.',
    action: 'Unsubscribe from some, or open another connection.',
  },
  too_many_live_connections: {
    http: 429,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many live connections',
    detail: 'This tenant has {most} live connections to this collector, which is the most.',
    action: 'Close some: one connection takes many subscriptions.',
  },
  bad_speed: {
    ...invalid,
    title: 'Bad speed',
    detail: "The speed can't be {value}.",
    action: 'Give 0.1 to 1000 times the original pace, or 0 for as fast as possible.',
  },
  bad_command: {
    ...invalid,
    title: 'Bad command',
    detail: "The command can't be followed: {reason}.",
    action: 'Send the start first and once, then pause, resume, speed, seek or step.',
  },
  bad_token: {
    ...invalid,
    title: 'Bad token',
    detail: 'The token is none of this log: {reason}.',
    action: 'Give a token as it was received from this fleet, or begin with a time.',
  },
  token_gone: {
    http: 410,
    grpc: 'OUT_OF_RANGE',
    title: 'Token too old',
    detail: 'The log has removed what comes after this token, which is of {value}.',
    action:
      'Begin with that time instead: what the log no longer has is rebuilt from the store, and some frames come again.',
  },
  sequence_gone: {
    http: 410,
    grpc: 'OUT_OF_RANGE',
    title: 'Not in the log',
    detail: 'The log does not have its message {value}: it has {first} to {last}.',
    action: 'Give a sequence that it has, or a time: frames of before are rebuilt from the store.',
  },
  too_many_late: {
    http: 400,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many late frames',
    detail: 'More than {most} batches of the log have frames of this range that came late.',
    action: 'Give a shorter range, or name hosts.',
  },
  too_many_replays: {
    http: 429,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many replays',
    detail: 'This tenant has {most} {what}, which is the most.',
    action: 'End one, or try again later.',
  },
  replay_idle: {
    http: 504,
    grpc: 'DEADLINE_EXCEEDED',
    title: 'Replay idle',
    detail: 'The replay stood still and was told nothing for an hour.',
    action: 'Begin it again.',
  },
  replay_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'Replay not found',
    detail: 'There is no replay "{value}" that waits for its reader.',
    action: 'Make one with POST /api/v1/replays, and open it within a minute.',
  },
  not_signed_in: {
    http: 401,
    grpc: 'UNAUTHENTICATED',
    title: 'Not signed in',
    detail: 'This needs a user or an API key, and the request brought none that is valid.',
    action: 'Sign in at /login, or send an API key as "Authorization: Bearer KEY" or "X-API-Key: KEY".',
  },
  not_permitted: {
    http: 403,
    grpc: 'PERMISSION_DENIED',
    title: 'Not permitted',
    detail: 'This needs the right "{need}", and these credentials have: {have}.',
    action: 'Ask an administrator for a role or an API key that has it.',
  },
  sign_in_failed: {
    http: 401,
    grpc: 'UNAUTHENTICATED',
    title: 'Sign-in failed',
    detail: 'There is no user of this name with this password.',
    action: 'Check both; an administrator can make a link to set a new password.',
  },
  too_many_sign_ins: {
    http: 429,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many sign-ins',
    detail: 'Too many sign-ins were tried.',
    action: 'Try again in {retryAfter} s.',
  },
  wrong_password: {
    http: 403,
    grpc: 'PERMISSION_DENIED',
    title: 'Wrong password',
    detail: 'The present password is another.',
    action: 'Give the one that you signed in with.',
  },
  not_a_user: {
    http: 403,
    grpc: 'PERMISSION_DENIED',
    title: 'Not a user',
    detail: 'These credentials are not those of a user.',
    action: 'Sign in with a name and a password.',
  },
  link_not_valid: {
    http: 410,
    grpc: 'NOT_FOUND',
    title: 'Link not valid',
    detail: 'This link was used already, is too old, or never was.',
    action:
      'Ask an administrator for another, or make one with "fleetreel-collector link"; "fleetreel up" prints one at its start while nobody can sign in.',
  },
  user_exists: {
    http: 409,
    grpc: 'ALREADY_EXISTS',
    title: 'User exists',
    detail: 'There is a user "{value}" already.',
    action: 'Names are unique in an installation, over all tenants: give another.',
  },
  user_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'User not found',
    detail: 'There is no user "{value}".',
    action: '{suggestion}',
  },
  has_admin: {
    http: 409,
    grpc: 'FAILED_PRECONDITION',
    title: 'Admin exists',
    detail: '"{value}" is an admin who has a password.',
    action: 'Sign in, and invite others under Settings, Users.',
  },
  last_admin: {
    http: 409,
    grpc: 'FAILED_PRECONDITION',
    title: 'Last admin',
    detail: '"{value}" is the last user who may do this.',
    action: 'Make another admin first, who has set a password.',
  },
  session_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'Session not found',
    detail: 'You have no session "{value}".',
    action: 'List those that you have: it may have ended.',
  },
  key_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'Key not found',
    detail: 'There is no API key "{value}".',
    action: 'List those that there are: it may have been revoked.',
  },
  bad_body: {
    ...invalid,
    title: 'Bad body',
    detail: "The body can't be used: {parameter} {reason}.",
    action: 'See /docs for what is asked for.',
  },
  too_many_kept: {
    http: 409,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many',
    detail: 'This tenant has {most} {what}, which is the most.',
    action: 'Remove some that nobody needs; a link goes with its user.',
  },
  enrolment_unavailable: {
    http: 409,
    grpc: 'FAILED_PRECONDITION',
    title: 'No enrolment here',
    detail: 'This collector can issue no credentials: {reason}.',
    action: 'Give it the file of its keys with nats.issuer; docs/nats.md says how it is made.',
  },
  code_refused: {
    http: 403,
    grpc: 'PERMISSION_DENIED',
    title: 'Code refused',
    detail: 'The code is wrong, was used, or has expired.',
    action: 'Have another one made: fleetreel enroll HOST --code.',
  },
  too_many_codes: {
    http: 429,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many codes',
    detail: 'This tenant has {most} codes that wait to be used, which is the most.',
    action: 'Try again when some were used or have expired.',
  },
  too_many_revocations: {
    http: 409,
    grpc: 'FAILED_PRECONDITION',
    title: 'Too many revocations',
    detail: 'NATS refuses {count} keys by name, and is to be told of no more than {most} that it has to remember.',
    action: 'Give hosts credentials that expire (ttl): they are forgotten when they have.',
  },
  too_many_claims: {
    http: 429,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many claims',
    detail: 'Too many codes were refused of late.',
    action: 'Try again in {retryAfter} s.',
  },
  credentials_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'No credentials',
    detail: 'The host "{value}" has no credentials and no codes that could be revoked.',
    action: 'List those that there are: fleetreel credentials.',
  },
  origin_refused: {
    http: 403,
    grpc: 'PERMISSION_DENIED',
    title: 'Origin refused',
    detail: 'The page at {value} may not do this.',
    action: 'Use the console that this collector serves, or a program that sends no Origin.',
  },
  host_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'Host not found',
    detail: 'There is no host "{value}".',
    action: '{suggestion}',
  },
  dead_letter_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'Dead letter not found',
    detail: 'There is no dead letter {value}.',
    action:
      'List those that there are: it may have been published again, thrown away, or removed by the bounds of the log.',
  },
  unknown_setting: {
    ...invalid,
    title: 'Unknown setting',
    detail: 'There is no setting "{value}" that can be pushed to agents.',
    action: '{suggestion}',
  },
  bad_setting: {
    ...invalid,
    title: 'Bad setting',
    detail: 'The setting {parameter} can\'t be "{value}".',
    action: 'Give {expected}.',
  },
  bad_target: {
    ...invalid,
    title: 'Bad target',
    detail: '"{value}" is no target of settings.',
    action: 'Give all, tag:NAME=VALUE or host:HOST.',
  },
  too_many_settings: {
    http: 400,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Too many settings',
    detail: '{what} would have {count}, and {most} is the most.',
    action: 'Remove some first.',
  },
  settings_not_found: {
    http: 404,
    grpc: 'NOT_FOUND',
    title: 'No settings',
    detail: 'Nothing is wanted of {value}.',
    action: '{suggestion}',
  },
  settings_changed: {
    http: 409,
    grpc: 'ABORTED',
    title: 'Settings changed',
    detail: 'What is wanted of {value} is at revision {revision} now.',
    action: 'Read it again, and change that.',
  },
  not_found: {
    http: 404,
    grpc: 'UNIMPLEMENTED',
    title: 'Not found',
    detail: 'There is nothing at {value}.',
    action: 'See /docs for what there is.',
  },
  method_not_allowed: {
    http: 405,
    grpc: 'UNIMPLEMENTED',
    title: 'Method not allowed',
    detail: '{value} does not take {method}.',
    action: 'Use {allowed}.',
  },
  request_too_slow: {
    http: 408,
    grpc: 'DEADLINE_EXCEEDED',
    title: 'Request too slow',
    detail: 'The request was not here as a whole within {seconds} seconds.',
    action: 'Send it again, less at once where the connection is slow.',
  },
  payload_too_large: {
    http: 413,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Payload too large',
    detail: "The request's body is larger than {most} bytes.",
    action: 'Send less.',
  },
  unsupported_media_type: {
    http: 415,
    grpc: 'INVALID_ARGUMENT',
    title: 'Unsupported media type',
    detail: 'A body of type "{value}" can\'t be read here.',
    action:
      'Send application/json, for many measures or events also application/x-ndjson, or no body where none is asked for.',
  },
  host_refused: {
    http: 421,
    grpc: 'PERMISSION_DENIED',
    title: 'Host refused',
    detail: 'This server is not "{value}".',
    action: 'Address it as localhost or 127.0.0.1, or allow the name with the setting http.allowed_hosts.',
  },
  upgrade_required: {
    http: 426,
    grpc: 'UNIMPLEMENTED',
    title: 'Upgrade required',
    detail: '{value} is a WebSocket.',
    action: 'Open it with a WebSocket client, or read /api/v1/latest.',
  },
  header_too_large: {
    http: 431,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Request header too large',
    detail: 'The request line and headers are larger than {most} bytes.',
    action: 'Name fewer hosts or fields.',
  },
  internal: {
    http: 500,
    grpc: 'INTERNAL',
    title: 'Internal error',
    detail: 'The collector failed at this request.',
    action: "The collector's log has the cause under the request id {id}.",
  },
  busy: {
    http: 503,
    grpc: 'RESOURCE_EXHAUSTED',
    title: 'Busy',
    detail: '{most} queries are waiting already.',
    action: 'Try again in a second.',
  },
  store_unavailable: {
    http: 503,
    grpc: 'UNAVAILABLE',
    title: 'History unavailable',
    detail: "The store can't be read now: {reason}.",
    action: 'Live values go on; try again when QuestDB is back.',
  },
  log_unavailable: {
    http: 503,
    grpc: 'UNAVAILABLE',
    title: 'Log unavailable',
    detail: "The log can't be reached now: {reason}.",
    action: 'Try again when NATS is back.{hint}',
  },
  stopping: {
    http: 503,
    grpc: 'UNAVAILABLE',
    title: 'Stopping',
    detail: 'The collector is stopping.',
    action: 'Try again in a few seconds.',
  },
  store_timeout: {
    http: 504,
    grpc: 'DEADLINE_EXCEEDED',
    title: 'Query too slow',
    detail: 'The store did not answer within {most} seconds.',
    action: 'Name hosts or labels, or give a shorter range or a longer step.',
  },
} as const satisfies Record<string, Entry>;

export type ErrorCode = keyof typeof errors;

/**
 * What fills the holes of an error's sentence; `parameter`, `nearest` and `index` are also members of the problem, `retryAfter`
 * (whole seconds) is also a header of the answer, or metadata.
 */
export type ErrorContext = {
  parameter?: string;
  nearest?: string | undefined;
  index?: number | undefined;
  retryAfter?: number | undefined;
} & Record<string, string | number | undefined>;

/** After how many seconds what is away is worth another try, where nobody knows better. */
const unavailableSeconds = 5;

/** An error of the catalogue. Its message is the sentence for the user, the same over HTTP and gRPC. */
export class ApiError extends Error {
  override name = 'ApiError';
  readonly code: ErrorCode;
  readonly parameter: string | undefined;
  readonly nearest: string | undefined;
  readonly index: number | undefined;
  /** After how many seconds it is worth another try. */
  readonly retryAfter: number | undefined;

  constructor(code: ErrorCode, context: ErrorContext = {}, options?: ErrorOptions) {
    const { detail, action } = errors[code];
    super(`${fill(detail, context)} ${fill(action, context)}`.trim(), options);
    this.code = code;
    this.parameter = context.parameter;
    this.nearest = context.nearest;
    this.index = context.index;
    this.retryAfter = context.retryAfter ?? (this.httpStatus === 503 ? unavailableSeconds : undefined);
  }

  get httpStatus(): number {
    return errors[this.code].http;
  }

  /** The number of the gRPC status. */
  get grpcStatus(): number {
    return grpcStatus[errors[this.code].grpc];
  }

  /** The problem document of RFC 9457. */
  get problem(): Problem {
    return {
      type: `/docs/errors#${this.code}`,
      title: errors[this.code].title,
      status: this.httpStatus,
      detail: this.message,
      code: this.code,
      ...(this.parameter !== undefined && { parameter: this.parameter }),
      ...(this.nearest !== undefined && { nearest: this.nearest }),
      ...(this.index !== undefined && { index: this.index }),
    };
  }
}

type UnknownCode = Extract<ErrorCode, `unknown_${string}` | 'host_not_found' | 'user_not_found' | 'settings_not_found'>;

/** A name that there is not: the error names it and the nearest there is. */
export function unknown(
  code: UnknownCode,
  value: string,
  candidates: readonly string[],
  context: ErrorContext = {},
): ApiError {
  return new ApiError(code, {
    ...context,
    value: clip(value),
    nearest: nearest(value, candidates),
    suggestion: candidates.length === 0 ? 'There is none yet.' : suggestion(value, candidates.slice(0, shownMax)),
  });
}

/** Names listed in a sentence at most. */
const shownMax = 200;
/** Characters of a bad value that an error repeats at most. */
const clipMax = 100;

/** A value as an error may repeat it: short, without control characters. */
export function clip(value: string): string {
  const plain = value.replace(/\p{C}/gu, '\uFFFD');
  return plain.length > clipMax ? `${plain.slice(0, clipMax)}...` : plain;
}

function fill(template: string, context: ErrorContext): string {
  return template.replace(/\{(\w+)\}/g, (_, name: string) => String(context[name] ?? ''));
}
