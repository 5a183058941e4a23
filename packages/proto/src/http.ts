// The HTTP and WebSocket contract under /api/v1. The collector validates with these schemas, the OpenAPI document is
// made from them, and the console takes its types from them.
import Type, { type Static } from 'typebox';

const ms = (description: string) => Type.Number({ description: `${description}, UTC, milliseconds since 1970` });
const nullable = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
const value = nullable(Type.Number());

/** RFC 9457: what went wrong, where, and what to do. */
export const Problem = Type.Object(
  {
    type: Type.String({ description: 'Address of the error in the reference' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String({ description: 'What is wrong, where, and what to do' }),
    code: Type.String({ description: 'Stable name of the error' }),
    parameter: Type.Optional(Type.String({ description: 'The parameter at fault' })),
    nearest: Type.Optional(Type.String({ description: 'The nearest valid value' })),
    index: Type.Optional(Type.Integer({ description: 'Of many entries in one call, the one at fault, from 0' })),
  },
  { $id: 'Problem' },
);
export type Problem = Static<typeof Problem>;

export const Catalog = Type.Object({
  tables: Type.Array(
    Type.Object({
      name: Type.String(),
      help: Type.String(),
      rowTime: nullable(
        Type.String({ description: "The field that is the time of each row, where that is not the frame's" }),
      ),
      labels: Type.Array(Type.Object({ name: Type.String(), key: Type.Boolean(), help: Type.String() })),
      fields: Type.Array(Type.Object({ name: Type.String(), unit: Type.String(), help: Type.String() })),
    }),
  ),
});
export type Catalog = Static<typeof Catalog>;

export const Refusal = Type.Object({
  machineId: Type.String({ description: 'The machine that was refused' }),
  addresses: Type.Array(Type.String()),
  holderMachineId: Type.String({ description: 'The machine that holds the name' }),
  holderAddresses: Type.Array(Type.String()),
  time: ms('When it was refused'),
  reason: Type.String(),
});
export type Refusal = Static<typeof Refusal>;

export const Description = Type.Object({
  machineId: Type.String(),
  agentVersion: Type.String(),
  platform: Type.String(),
  os: Type.String(),
  kernel: Type.String(),
  architecture: Type.String(),
  cpuModel: Type.String(),
  cpuCount: Type.Integer(),
  memoryBytes: Type.Number(),
  gpus: Type.Array(Type.String()),
  virtualization: Type.String(),
  bootTime: ms('When it was booted'),
  dmiUuid: Type.String({
    description:
      'By which the host of a virtual machine knows it: the uuid of the table vm; empty where it can not be read',
  }),
  intervalMs: Type.Integer(),
  addresses: Type.Array(Type.String()),
  tags: Type.Record(Type.String(), Type.String()),
});
export type Description = Static<typeof Description>;

/** The few values that a list of hosts shows; null where not available. */
export const Headline = Type.Object({
  cpuUsedPercent: value,
  memoryUsedPercent: value,
  /** Of the fullest file system. */
  diskUsedPercent: value,
  receiveBytesPerSecond: value,
  transmitBytesPerSecond: value,
  load1mCount: value,
  uptimeSeconds: value,
  /** Sources that failed in the newest frame. */
  failedSourcesCount: value,
});
export type Headline = Static<typeof Headline>;

export const Host = Type.Object({
  host: Type.String(),
  status: Type.Union([Type.Literal('online'), Type.Literal('offline')]),
  lastSeen: nullable(ms('Time of the newest frame')),
  intervalMs: nullable(Type.Integer()),
  clockSkewSeconds: nullable(Type.Number({ description: "The collector's clock less the host's" })),
  description: nullable(Description),
  headline: Headline,
  refusals: Type.Array(Refusal, { description: 'Machines that asked for this name and were refused, newest first' }),
});
export type Host = Static<typeof Host>;

export const Hosts = Type.Object({ hosts: Type.Array(Host) });
export type Hosts = Static<typeof Hosts>;

/** `{time, host, <label>: string, <field>: number or null}`. */
export const Row = Type.Object(
  { time: ms('Time of the row'), host: Type.String() },
  { additionalProperties: Type.Union([Type.String(), Type.Number(), Type.Null()]) },
);
export type Row = { time: number; host: string; [column: string]: string | number | null };

export const Latest = Type.Object({ rows: Type.Array(Row) });
export type Latest = { rows: Row[] };

/** The rows of a range, the newest first. */
export const Rows = Type.Object({
  rows: Type.Array(Row),
  truncated: Type.Boolean({ description: 'Whether the range has older rows, which the limit left out' }),
});
export type Rows = { rows: Row[]; truncated: boolean };

export const aggregations = ['avg', 'min', 'max', 'sum', 'last', 'p50', 'p95', 'p99'] as const;
export type Aggregation = (typeof aggregations)[number];

export const Series = Type.Object({
  from: ms('Begin of the range'),
  to: ms('End of the range, exclusive'),
  stepMs: Type.Integer(),
  times: Type.Array(Type.Number(), { description: 'Begin of each step, UTC, milliseconds since 1970' }),
  series: Type.Array(
    Type.Object({
      table: Type.String(),
      field: Type.String(),
      unit: Type.String(),
      agg: Type.String(),
      labels: Type.Record(Type.String(), Type.String(), { description: 'The host and the key labels' }),
      values: Type.Array(value, { description: 'One per time; null where there is none' }),
    }),
  ),
});
export type Series = Static<typeof Series>;

/** A message that could not be stored, put aside with the reason. */
const deadLetter = {
  sequence: Type.Integer({ description: 'Its place in the log, by which it is named' }),
  time: ms('When it was put aside'),
  host: Type.String(),
  reason: Type.String({ description: 'Why: undecodable, unnamed, future, expired, refused, or unknown' }),
  detail: Type.String({ description: 'One sentence about that' }),
  subject: Type.String({ description: 'The subject that it came by' }),
  originalSequence: Type.Integer({ description: 'Its place in the log there; 0 where that is not known' }),
  tries: Type.Integer({ description: 'How often it was published again in vain' }),
  sizeBytes: Type.Integer(),
  cut: Type.Boolean({ description: "Whether only its first bytes were kept: then it can't be published again" }),
};
export const DeadLetter = Type.Object(deadLetter);
export type DeadLetter = Static<typeof DeadLetter>;
export const DeadLetterBytes = Type.Object({
  ...deadLetter,
  base64: Type.String({ description: 'The message itself' }),
});
export type DeadLetterBytes = Static<typeof DeadLetterBytes>;

const before = nullable(Type.Integer({ description: 'Where it continues; null at the end' }));
export const DeadLetters = Type.Object({ letters: Type.Array(DeadLetter), before });
export type DeadLetters = Static<typeof DeadLetters>;
export const DeadLetterOutcome = Type.Object({
  done: Type.Integer({ description: 'How many it was done with' }),
  failed: Type.Array(Type.Object({ sequence: Type.Integer(), reason: Type.String() })),
  before,
});
export type DeadLetterOutcome = Static<typeof DeadLetterOutcome>;

/** Why there is a hole in what a host sent. */
export const holeCauses = [
  'agent_down',
  'reboot',
  'skipped',
  'link_down',
  'spool_bytes',
  'spool_age',
  'queue',
  'disk',
  'corrupt',
  'too_large',
  'log_bound',
  'dead_letter',
  'clock',
  'no_contact',
  'unknown',
] as const;
export type HoleCause = (typeof holeCauses)[number];

export const Hole = Type.Object({
  begin: ms('When the first missing frame was due'),
  end: nullable(ms('Time of the first frame after it; null while nothing came since')),
  cause: Type.Enum([...holeCauses], {
    description:
      'agent_down: the agent was stopped, killed or started anew. reboot: the machine was. skipped: the agent ran and did not sample, the host was suspended or too busy. link_down: the frames came later. spool_bytes, spool_age, queue: a bound of the agent was hit; disk, corrupt: its spool failed; too_large: of a frame. log_bound: a bound of the log removed the frames before they were stored. dead_letter: put aside by the collector. clock: the frames are stored at another time, the clock of the host was wrong. no_contact: there is no frame before, or none since. unknown: nothing explains it',
  }),
  session: nullable(Type.String({ description: 'The session of the agent before the hole, 16 hexadecimal digits' })),
  nextSession: nullable(Type.String({ description: 'The session after it' })),
  missingFrames: nullable(
    Type.Integer({ description: 'Frames that were made and are not stored, or were not in time; null where unknown' }),
  ),
  healed: nullable(ms('When the last of the frames arrived after all; null where they did not')),
});
export type Hole = Static<typeof Hole>;

/** What of a range is stored of hosts, and what is not. */
export const Coverage = Type.Object({
  from: ms('Begin of the range'),
  to: ms('End of the range, exclusive, at most now'),
  hosts: Type.Array(
    Type.Object({
      host: Type.String(),
      percent: Type.Number({ description: 'Share of the range of which there are frames now' }),
      percentInTime: Type.Number({ description: 'Share of the range of which there were frames in time' }),
      holes: Type.Array(Hole, { description: 'By begin. They may overlap, and reach beyond the range' }),
      truncated: Type.Boolean({ description: 'Whether there are more holes, later ones' }),
    }),
  ),
});
export type Coverage = Static<typeof Coverage>;

const subscription = Type.String({ maxLength: 64 });
const Subscribe = Type.Object({
  type: Type.Literal('subscribe'),
  id: subscription,
  table: Type.String(),
  fields: Type.Optional(Type.Array(Type.String())),
  hosts: Type.Optional(Type.Array(Type.String())),
});
const Unsubscribe = Type.Object({ type: Type.Literal('unsubscribe'), id: subscription });

/** What the console sends over `GET live` (WebSocket): one JSON object per message. */
export const LiveRequest = Type.Union([
  Subscribe,
  Type.Object({ type: Type.Literal('subscribe_hosts'), id: subscription }),
  Unsubscribe,
]);
export type LiveRequest = Static<typeof LiveRequest>;

/** What one frame of one host brought to a subscription, in columns. */
export type LiveRows = {
  type: 'rows';
  id: string;
  host: string;
  /** Time of the frame, milliseconds since 1970. */
  time: number;
  intervalMs: number;
  labels: Record<string, string[]>;
  values: Record<string, (number | null)[]>;
  /** Updates of this host that were left out since the one before because the reader was slow. */
  skipped: number;
};

/** All hosts after subscribing, then those that changed; at most one message a second. */
export type LiveHosts = { type: 'hosts'; id: string; hosts: Host[]; removed: string[] };

export type LiveMessage = LiveRows | LiveHosts | { type: 'error'; id: string | null; problem: Problem };

/** A replay that waits for its reader. */
export const ReplaySession = Type.Object({
  id: Type.String({ description: 'Its name: open /api/v1/replays/{id} as a WebSocket' }),
  from: ms('Begin of the range'),
  to: ms('End of the range, exclusive'),
  speed: Type.Number({ description: 'Times the original pace; 0 is as fast as it is taken' }),
  paused: Type.Boolean(),
});
export type ReplaySession = Static<typeof ReplaySession>;

/** What a reader of a replay session sends: one JSON object per message. */
export const ReplayRequest = Type.Union([
  Subscribe,
  Unsubscribe,
  Type.Object({ type: Type.Literal('pause') }),
  Type.Object({ type: Type.Literal('resume') }),
  Type.Object({ type: Type.Literal('speed'), speed: Type.Number() }),
  Type.Object({ type: Type.Literal('seek'), to: Type.String({ maxLength: 64 }) }),
  Type.Object({
    type: Type.Literal('step'),
    frames: Type.Optional(Type.Integer({ minimum: 1, maximum: 1_000_000 })),
  }),
]);
export type ReplayRequest = Static<typeof ReplayRequest>;

/** Where a session stands: at each change, and once a second. */
export type ReplayClock = {
  type: 'clock';
  /** Of the recording, milliseconds since 1970. */
  time: number;
  /** Times the original pace; 0 is as fast as it is taken. */
  speed: number;
  state: 'playing' | 'paused' | 'ended';
  /** One sentence, where there is something to say. */
  detail: string;
};

export type ReplayMessage = LiveRows | ReplayClock | { type: 'error'; id: string | null; problem: Problem };

/** How grave an event is, the least first. */
export const severities = ['debug', 'info', 'warning', 'error', 'critical'] as const;
export type Severity = (typeof severities)[number];

/** What measures and events are called. */
export const customNamePattern = '^[A-Za-z][A-Za-z0-9_.:/-]{0,127}$';
/** What keys of metadata are called. */
export const metadataKeyPattern = '^[A-Za-z][A-Za-z0-9_.-]{0,63}$';

const metadataValue = Type.Union([Type.String(), Type.Number(), Type.Boolean()]);
/** Key-values with their types. */
export type Metadata = Record<string, string | number | boolean>;
const metadata = (description: string) => Type.Record(Type.String(), metadataValue, { description });
const newMetadata = Type.Optional(
  metadata('Strings, numbers and booleans by key: a letter, then letters, digits, "_", "-" and ".", at most 64'),
);
const newName = Type.String({
  pattern: customNamePattern,
  description: 'A letter, then letters, digits, "_", "-", ".", ":" and "/", at most 128',
});
const newTime = (description: string) =>
  Type.Optional(
    Type.Union([Type.String(), Type.Number()], {
      description: `${description}: RFC 3339, or milliseconds since 1970; kept to the microsecond`,
    }),
  );

/** A measure to be stored: with either a value or a text. */
export const NewMeasure = Type.Object(
  {
    name: newName,
    value: Type.Optional(Type.Number({ description: 'A finite number' })),
    text: Type.Optional(Type.String()),
    time: newTime('When it was measured; when it arrives by default'),
    metadata: newMetadata,
  },
  { additionalProperties: false },
);
export type NewMeasure = Static<typeof NewMeasure>;

/** An event to be stored. */
export const NewEvent = Type.Object(
  {
    name: newName,
    text: Type.Optional(Type.String()),
    time: newTime('When it happened or began; when it arrives by default'),
    end: newTime('When it ended, not before it began; absent where it has no length'),
    severity: Type.Optional(Type.Enum([...severities], { description: 'How grave it is; info by default' })),
    metadata: newMetadata,
  },
  { additionalProperties: false },
);
export type NewEvent = Static<typeof NewEvent>;

/** What a call that wrote measures or events is answered, once the log has all of them. */
export const Accepted = Type.Object({
  accepted: Type.Integer({ description: 'How many the log has' }),
  duplicate: Type.Boolean({ description: 'Whether all of them had come before, under the same Idempotency-Key' }),
});
export type Accepted = Static<typeof Accepted>;

const found = {
  id: Type.String({ description: 'Unique within its time' }),
  time: ms('When it was, with up to three decimals'),
  name: Type.String(),
  metadata: metadata('Strings, numbers and booleans by key'),
  source: Type.String({ description: 'Whose key it was written with: the id of the key' }),
};
const continued = nullable(Type.String({ description: 'Where the list continues; null at its end' }));

export const Measure = Type.Object({ ...found, value, text: nullable(Type.String()) });
export type Measure = Static<typeof Measure>;
/** Measures, the newest first. */
export const Measures = Type.Object({ measures: Type.Array(Measure), before: continued });
export type Measures = Static<typeof Measures>;

export const CustomEvent = Type.Object({
  ...found,
  end: nullable(ms('When it ended; null where it has no length')),
  severity: Type.Enum([...severities]),
  text: Type.String(),
});
export type CustomEvent = Static<typeof CustomEvent>;
/** Events, the newest first. */
export const CustomEvents = Type.Object({ events: Type.Array(CustomEvent), before: continued });
export type CustomEvents = Static<typeof CustomEvents>;

export const AuditRecord = Type.Object({
  id: found.id,
  time: ms('When it was done'),
  actor: Type.Object({
    kind: Type.String({ description: 'user, key, anonymous or system' }),
    id: Type.String({ description: 'Empty where it has none' }),
    name: Type.String({ description: 'Of a sign-in that failed, the name that was tried' }),
  }),
  action: Type.String({ description: 'What was done, such as sign_in or user.create' }),
  target: Type.String({ description: 'What it was done to' }),
  before: Type.Unknown({ description: 'As it was; null where there was nothing' }),
  after: Type.Unknown({ description: 'As it is since; null where there is nothing' }),
  address: Type.String({ description: 'The address that it came from; empty where it came from none' }),
  collector: Type.String({ description: 'The collector that wrote it' }),
});
export type AuditRecord = Static<typeof AuditRecord>;
/** What was changed, the newest first. */
export const AuditRecords = Type.Object({ records: Type.Array(AuditRecord), before: continued });
export type AuditRecords = Static<typeof AuditRecords>;

/** What a right is for. `admin` implies all others. */
export const scopes = ['read', 'replay', 'write:measure', 'write:event', 'admin'] as const;
export type Scope = (typeof scopes)[number];
/** What a user may be: a viewer may read and replay, an admin may do all. */
export const roles = ['viewer', 'admin'] as const;
export type Role = (typeof roles)[number];
/** How long a password has to be at least, characters: it is the only factor. */
export const passwordCharactersMin = 12;

const role = Type.Enum([...roles], { description: 'viewer: read and replay; admin: all' });
const scopeList = Type.Array(Type.Enum([...scopes]), { description: 'What it may do; admin implies all' });
const userName = Type.String({ minLength: 1, maxLength: 64, description: "The user's name", examples: ['ada'] });
const password = Type.String({ minLength: 1, maxLength: 1024, description: 'The password' });
const newPassword = Type.String({
  minLength: passwordCharactersMin,
  maxLength: 1024,
  description: `The new password, of ${passwordCharactersMin} characters or more`,
});
const mode = Type.Optional(
  Type.Enum(['cookie', 'token'], {
    description:
      'How the session comes back: as a cookie for a browser, or as a bearer token; cookie when it is absent',
  }),
);
const code = Type.String({ minLength: 1, maxLength: 200, description: 'The code of a one-time link: what is after #' });
const purpose = Type.Enum(['first', 'invite', 'reset'], {
  description: 'first: makes the first admin of a tenant, of any name. invite, reset: sets the password of a user',
});

/** `POST login`. */
export const SignIn = Type.Object({ user: userName, password, mode });
export type SignIn = Static<typeof SignIn>;
/** Who has signed in. */
export const SignedIn = Type.Object({
  user: Type.String(),
  tenant: Type.String(),
  role,
  expires: ms('When the session ends'),
  token: Type.Optional(Type.String({ description: 'The bearer token, where one was asked for; shown once' })),
});
export type SignedIn = Static<typeof SignedIn>;
/** `GET me`. */
export const Me = Type.Object({
  kind: Type.Enum(['user', 'key', 'anonymous']),
  name: Type.String({ description: "The user's name, or the key's" }),
  tenant: Type.String(),
  role: Type.Optional(role),
  scopes: scopeList,
  expires: Type.Optional(ms('When the session or the key ends')),
});
export type Me = Static<typeof Me>;
/** `POST me/password`. */
export const PasswordChange = Type.Object({ password, newPassword });
export type PasswordChange = Static<typeof PasswordChange>;

export const Session = Type.Object({
  id: Type.String(),
  created: ms('When it was begun'),
  expires: ms('When it ends'),
  lastUsed: nullable(ms('When it was last used, to a minute; null while it was not')),
  address: Type.String({ description: 'From where it was begun' }),
  program: Type.String({ description: 'What the browser or program called itself' }),
  current: Type.Boolean({ description: 'Whether this request is of it' }),
});
export type Session = Static<typeof Session>;
export const Sessions = Type.Object({ sessions: Type.Array(Session) });
export type Sessions = Static<typeof Sessions>;

/** `POST link/check`. */
export const LinkCode = Type.Object({ code });
export type LinkCode = Static<typeof LinkCode>;
/** What a one-time link is for. */
export const LinkPurpose = Type.Object({
  user: nullable(Type.String({ description: 'Whose password it sets; null where the name is yet to be chosen' })),
  tenant: Type.String(),
  role,
  purpose,
});
export type LinkPurpose = Static<typeof LinkPurpose>;
/** `POST link`: answers as login does. */
export const LinkUse = Type.Object({ code, user: Type.Optional(userName), password: newPassword, mode });
export type LinkUse = Static<typeof LinkUse>;
/** A one-time link, shown once. */
export const Link = Type.Object({
  code: Type.String(),
  path: Type.String({ description: 'Below the address of the console: /welcome#CODE' }),
  purpose,
  expires: ms('Until when it can be used'),
});
export type Link = Static<typeof Link>;

export const User = Type.Object({
  name: Type.String(),
  role,
  created: ms('When it was made'),
  lastSignIn: nullable(ms('When a session of it was last begun; null where none is known')),
  sessions: Type.Integer({ description: 'Sessions that are open' }),
  hasPassword: Type.Boolean({ description: 'Whether the invitation was used' }),
});
export type User = Static<typeof User>;
export const Users = Type.Object({ users: Type.Array(User) });
export type Users = Static<typeof Users>;
/** `POST users`. */
export const NewUser = Type.Object({ user: userName, role });
export type NewUser = Static<typeof NewUser>;
/** A user, and the link by which a password is set. */
export const InvitedUser = Type.Object({ user: User, link: Link });
export type InvitedUser = Static<typeof InvitedUser>;
/** `PATCH users/{user}`. */
export const UserChange = Type.Object({ role });
export type UserChange = Static<typeof UserChange>;

export const Key = Type.Object({
  id: Type.String(),
  name: Type.String(),
  scopes: scopeList,
  created: ms('When it was made'),
  createdBy: Type.String({ description: 'Who made it' }),
  expires: nullable(ms('When it ends; null where it does not')),
  lastUsed: nullable(ms('When it was last used, to a minute; null while it was not')),
  lastAddress: Type.String({ description: 'From where; empty while it was not used' }),
});
export type Key = Static<typeof Key>;
export const Keys = Type.Object({ keys: Type.Array(Key) });
export type Keys = Static<typeof Keys>;
/** `POST keys`. */
export const NewKey = Type.Object({
  name: Type.String({ minLength: 1, maxLength: 64, description: 'What it is for', examples: ['deploy'] }),
  scopes: Type.Array(Type.Enum([...scopes]), { minItems: 1, maxItems: 5, description: 'What it may do' }),
  ttl: Type.Optional(
    Type.String({ description: 'How long it is valid, up to 3650d; for ever when it is absent', examples: ['30d'] }),
  ),
});
export type NewKey = Static<typeof NewKey>;
/** A key with its secret, which is shown this once. */
export const MadeKey = Type.Object({ key: Key, secret: Type.String({ description: 'What programs send: frk_...' }) });
export type MadeKey = Static<typeof MadeKey>;
/** Credentials that a host's agent was given. */
export const IssuedCredentials = Type.Object({
  host: Type.String(),
  publicKey: Type.String({ description: 'By which NATS knows them' }),
  by: Type.String({ description: 'Who had them issued' }),
  byCode: Type.Boolean({ description: 'Whether the agent fetched them with a code' }),
  issued: ms('When they were issued'),
  expires: nullable(ms('Until when they are valid; null: until they are revoked')),
  revoked: nullable(ms('When they were taken back')),
});
export type IssuedCredentials = Static<typeof IssuedCredentials>;

const AgentsUrl = nullable(
  Type.String({
    description: 'Where agents reach NATS, by the setting nats.agents_url of the collector; null: it was not told',
    examples: ['tls://nats.example.org:4222'],
  }),
);

export const Credentials = Type.Object({
  natsUrl: AgentsUrl,
  credentials: Type.Array(IssuedCredentials, { description: 'Those that have not expired, the newest first' }),
});
export type Credentials = Static<typeof Credentials>;

export const RevokedCredentials = Type.Object({
  revoked: Type.Integer({ description: 'How many there were, codes included' }),
});
export type RevokedCredentials = Static<typeof RevokedCredentials>;

export const EnrolmentRequest = Type.Object({
  host: Type.String({ description: 'Name of the host', examples: ['web-1'] }),
  ttl: Type.Optional(
    Type.String({
      description: 'How long its credentials are valid, 1m to 3650d; absent: until they are revoked',
      examples: ['24h'],
    }),
  ),
  mode: Type.Union([Type.Literal('code'), Type.Literal('credentials')], {
    description: 'A code with which the agent fetches its own credentials, once; or the credentials themselves',
  }),
});
export type EnrolmentRequest = Static<typeof EnrolmentRequest>;

export const Enrolled = Type.Object({
  tenant: Type.String(),
  host: Type.String(),
  credentials: Type.Optional(Type.String({ description: 'Content of the credentials file: a secret' })),
  code: Type.Optional(Type.String({ description: 'The code: a secret' })),
  expires: nullable(ms('Until when the credentials are valid, or the code can be used; null: until they are revoked')),
});
export type Enrolled = Static<typeof Enrolled>;

export const EnrolmentClaim = Type.Object({
  code: Type.String({ description: 'The code' }),
  publicKey: Type.String({ description: 'Public key of the agent, which keeps its seed to itself' }),
});
export type EnrolmentClaim = Static<typeof EnrolmentClaim>;

export const ClaimedEnrolment = Type.Object({
  tenant: Type.String(),
  host: Type.String(),
  jwt: Type.String({ description: 'The token that belongs to the key' }),
  expires: nullable(ms('Until when it is valid; null: until it is revoked')),
  natsUrl: AgentsUrl,
});
export type ClaimedEnrolment = Static<typeof ClaimedEnrolment>;
const settingsByKey = (description: string) => Type.Record(Type.String(), Type.String(), { description });

/** How agents stand to the settings that are pushed to them. */
export const agentStates = ['own', 'in_effect', 'pending', 'refused', 'unsupported'] as const;
export type AgentStateName = (typeof agentStates)[number];

export const AgentState = Type.Object({
  host: Type.String(),
  state: Type.Enum([...agentStates], {
    description:
      'own: nothing is wanted, its own settings are in effect. in_effect: it has taken what is wanted. pending: it has not yet. refused: it does not follow some or all of it. unsupported: its version knows no settings that are pushed',
  }),
  wanted: settingsByKey('Wanted settings by key, of all targets of the host together'),
  inEffect: settingsByKey('Settings in effect by key, pushed or its own'),
  refused: settingsByKey(
    'Wanted settings that it does not follow, with the reason, by key; under the empty key, why it follows none',
  ),
  targets: Type.Array(Type.String(), {
    description: 'Targets that the wanted settings are from; of two that say different things the later one counts',
  }),
});
export type AgentState = Static<typeof AgentState>;
export const Agents = Type.Object({ agents: Type.Array(AgentState, { description: 'By host' }) });
export type Agents = Static<typeof Agents>;

/** What is wanted of the agents of a target. */
export const AgentTarget = Type.Object({
  target: Type.String({ description: 'all, tag:<name>=<value> or host:<host>' }),
  settings: settingsByKey('Wanted settings by key'),
  revision: Type.Integer({ description: 'Changes with each change of it; 0 where there is nothing' }),
  time: nullable(ms('When it was changed last')),
  hosts: Type.Array(Type.String(), { description: 'Hosts that are of this target now' }),
});
export type AgentTarget = Static<typeof AgentTarget>;

export const AgentSetting = Type.Object({
  key: Type.String({ description: 'A part in capitals stands for a name: sources.NAME' }),
  help: Type.String(),
  expects: Type.String({ description: 'What its value has to be' }),
  examples: Type.Array(Type.String()),
  names: Type.Array(Type.String(), { description: 'What may stand for the name; empty where it is any' }),
});
export type AgentSetting = Static<typeof AgentSetting>;

export const AgentSettingsPage = Type.Object({
  targets: Type.Array(AgentTarget, { description: 'All, then tags, then hosts' }),
  settings: Type.Array(AgentSetting, { description: 'What can be pushed' }),
});
export type AgentSettingsPage = Static<typeof AgentSettingsPage>;

/** What `PUT agents/settings/{target}` takes. */
export const AgentSettingsBody = Type.Object(
  {
    settings: settingsByKey('All settings that are wanted of the target from now on'),
    revision: Type.Optional(
      Type.Integer({ minimum: 0, description: 'The revision that this is a change of; any when absent' }),
    ),
  },
  { additionalProperties: false },
);
export type AgentSettingsBody = Static<typeof AgentSettingsBody>;

export const AgentSettingsChange = Type.Object({
  target: AgentTarget,
  changed: Type.Array(Type.String(), { description: 'Hosts of which something else is wanted than before' }),
});
export type AgentSettingsChange = Static<typeof AgentSettingsChange>;
