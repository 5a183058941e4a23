// Calls to the collector, with its errors as sentences.

import { printable } from '@fleetreel/deploy/local/printable';
import type {
  Agents as AgentPage,
  AgentSettingsChange,
  AgentSettingsPage,
  AgentState,
  AgentTarget,
  Coverage,
  Credentials,
  DeadLetter,
  DeadLetterBytes,
  DeadLetterOutcome,
  DeadLetters as DeadLetterPage,
  Enrolled,
  Hole,
  Hosts,
  Key,
  Keys,
  Latest,
  MadeKey,
  Role,
  Row,
  Rows,
  Scope,
  Series,
  Users,
} from '@fleetreel/proto/http';
import {
  Access,
  type AccessKey__Output,
  Agents,
  type AgentTargetMessage,
  type ChangeAgentSettingsRequest,
  type DeadLetterChoice,
  type DeadLetterFilter,
  type DeadLetterMessage,
  type DeadLetterOutcomeMessage,
  DeadLetters,
  Enrolment,
  type FollowResponse__Output,
  Live,
  type LiveClient,
  type PlayRequest,
  type PlayResponse__Output,
  type PlayStart,
  Query,
  Replay,
} from '@fleetreel/proto/services';
import {
  type CallOptions,
  type ClientDuplexStream,
  type ClientReadableStream,
  credentials,
  InterceptingCall,
  type Interceptor,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { accessOf, type Access as Caller, refusedBy, unreachedBy } from '#access.ts';

/** The collector could not be asked, or refused. The message is one sentence. */
export class CallError extends Error {
  override name = 'CallError';
  /** 2 where the question was wrong, else 1. */
  readonly exitCode: 1 | 2;

  constructor(message: string, exitCode: 1 | 2, options?: ErrorOptions) {
    super(message, options);
    this.exitCode = exitCode;
  }
}

/** How long one call may take, milliseconds: a series over months from a busy store. */
const callTime = 60_000;
/** The largest answer that is taken, bytes: a series of many hosts at the finest step. */
const largestAnswer = 256 * 1024 ** 2;

/** Rows of one table that one frame of one host brought, in columns. */
export type Update = {
  host: string;
  table: string;
  /** Time of the frame, milliseconds since 1970. */
  time: number;
  labels: Record<string, string[]>;
  values: Record<string, (number | null)[]>;
  /** Updates of this host and table that were left out since the one before because the reader was slow. */
  skipped: number;
};

/** A replay on its way: what it sends, and what it is told. */
export type Play = {
  messages: AsyncIterable<PlayResponse__Output>;
  send(request: PlayRequest): void;
  /** Nothing more is told: it plays to its end. */
  end(): void;
};

/** Says with each call who asks. */
const withKey =
  (key: string): Interceptor =>
  (options, next) =>
    new InterceptingCall(next(options), {
      start(metadata, listener, proceed) {
        metadata.set('authorization', `Bearer ${key}`);
        proceed(metadata, listener);
      },
    });

/** A connection to one collector. Answers have the shapes of the HTTP contract. */
export class Collector implements Disposable {
  readonly #address: string;
  readonly #who: Caller;
  readonly #access: InstanceType<typeof Access>;
  readonly #query: InstanceType<typeof Query>;
  readonly #live: InstanceType<typeof Live>;
  readonly #dead: InstanceType<typeof DeadLetters>;
  readonly #agents: InstanceType<typeof Agents>;
  readonly #replay: InstanceType<typeof Replay>;
  readonly #enrolment: InstanceType<typeof Enrolment>;

  constructor(address: string) {
    this.#address = address;
    this.#who = accessOf(address, process.env);
    const { key, tls, ca } = this.#who;
    const channel = tls ? credentials.createSsl(ca) : credentials.createInsecure();
    const options = {
      'grpc.max_receive_message_length': largestAnswer,
      interceptors: key === undefined ? [] : [withKey(key)],
    };
    this.#access = new Access(address, channel, options);
    this.#query = new Query(address, channel, options);
    this.#live = new Live(address, channel, options);
    this.#dead = new DeadLetters(address, channel, options);
    this.#agents = new Agents(address, channel, options);
    this.#replay = new Replay(address, channel, options);
    this.#enrolment = new Enrolment(address, channel, options);
  }

  /** @throws CallError */
  hosts(): Promise<Hosts> {
    return new Promise((resolve, reject) => {
      this.#query.ListHosts({}, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({
          hosts: answer.hosts.map(({ description, headline, refusals, ...host }) => ({
            host: host.host,
            status: host.status === 'online' ? 'online' : 'offline',
            lastSeen: host.last_seen_us === 0 ? null : Number(host.last_seen_us) / 1000,
            intervalMs: description?.interval_ms ?? null,
            clockSkewSeconds: host.clock_skew_seconds,
            description: description && {
              machineId: description.machine_id,
              agentVersion: description.agent_version,
              platform: description.platform,
              os: description.os,
              kernel: description.kernel,
              architecture: description.architecture,
              cpuModel: description.cpu_model,
              cpuCount: description.cpu_count,
              memoryBytes: Number(description.memory_bytes),
              gpus: description.gpus,
              virtualization: description.virtualization,
              bootTime: Number(description.boot_time_us) / 1000,
              dmiUuid: description.dmi_uuid,
              intervalMs: description.interval_ms,
              addresses: description.addresses,
              tags: description.tags,
            },
            headline: Object.fromEntries(
              headlines.map((name) => [camelCase(name), headline[name] ?? null]),
            ) as Hosts['hosts'][number]['headline'],
            refusals: refusals.map((refusal) => ({
              machineId: refusal.machine_id,
              addresses: refusal.addresses,
              holderMachineId: refusal.holder_machine_id,
              holderAddresses: refusal.holder_addresses,
              time: Number(refusal.time_us) / 1000,
              reason: refusal.reason,
            })),
          })),
        });
      });
    });
  }

  /** @throws CallError */
  latest(table: string, hosts: readonly string[], labels: Record<string, string>): Promise<Latest> {
    return new Promise((resolve, reject) => {
      this.#query.Latest({ table, hosts: [...hosts], labels }, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({ rows: answer.rows.map(rowOf) });
      });
    });
  }

  /** Rows of a range, the newest first. @throws CallError */
  rows(question: Parameters<InstanceType<typeof Query>['Rows']>[0]): Promise<Rows> {
    return new Promise((resolve, reject) => {
      this.#query.Rows(question, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({ rows: answer.rows.map(rowOf), truncated: answer.truncated });
      });
    });
  }

  /** @throws CallError */
  series(question: Parameters<InstanceType<typeof Query>['Series']>[0]): Promise<Series> {
    return new Promise((resolve, reject) => {
      this.#query.Series(question, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({
          from: Number(answer.from_ms),
          to: Number(answer.to_ms),
          stepMs: Number(answer.step_ms),
          times: answer.times_ms.map(Number),
          series: answer.series.map(({ table, field, unit, aggregation, labels, values }) => ({
            table,
            field,
            unit,
            agg: aggregation,
            labels,
            values: values.map(present),
          })),
        });
      });
    });
  }

  /** Agents with the settings that are wanted of them, and those in effect. @throws CallError */
  agents(): Promise<AgentPage> {
    return new Promise((resolve, reject) => {
      this.#agents.ListAgents({}, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({
          agents: answer.agents.map(({ in_effect, state, ...agent }) => ({
            ...agent,
            state: state as AgentState['state'],
            inEffect: in_effect,
          })),
        });
      });
    });
  }

  /** What is wanted of agents, by target, and what can be. @throws CallError */
  agentSettings(): Promise<AgentSettingsPage> {
    return new Promise((resolve, reject) => {
      this.#agents.ListAgentSettings({}, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({ targets: answer.targets.map(targetOf), settings: answer.settings });
      });
    });
  }

  /** Changes what is wanted of a target. @throws CallError */
  changeAgentSettings(change: ChangeAgentSettingsRequest): Promise<AgentSettingsChange> {
    return new Promise((resolve, reject) => {
      this.#agents.ChangeAgentSettings(change, this.#options(), (error, answer) => {
        if (error || !answer?.target) return reject(this.#error(error));
        resolve({ target: targetOf(answer.target), changed: answer.changed });
      });
    });
  }

  /** @throws CallError */
  users(): Promise<Users> {
    return new Promise((resolve, reject) => {
      this.#access.ListUsers({}, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({
          users: answer.users.map(({ name, role, created_ms, last_sign_in_ms, sessions, has_password }) => ({
            name,
            role: role as Role,
            created: created_ms,
            lastSignIn: last_sign_in_ms ?? null,
            sessions,
            hasPassword: has_password,
          })),
        });
      });
    });
  }

  /** Makes a user; the link sets its password. @throws CallError */
  createUser(user: string, role: Role): Promise<{ path: string; expires: number }> {
    return new Promise((resolve, reject) => {
      this.#access.CreateUser({ user, role }, this.#options(), (error, answer) => {
        if (error || !answer?.link) return reject(this.#error(error));
        resolve({ path: answer.link.path, expires: answer.link.expires_ms });
      });
    });
  }

  /** Makes a link by which a user sets a new password. @throws CallError */
  userLink(user: string): Promise<{ path: string; expires: number }> {
    return new Promise((resolve, reject) => {
      this.#access.CreateLink({ user }, this.#options(), (error, answer) => {
        if (error || !answer?.link) return reject(this.#error(error));
        resolve({ path: answer.link.path, expires: answer.link.expires_ms });
      });
    });
  }

  /** @throws CallError */
  changeUser(user: string, role: Role): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#access.ChangeUser({ user, role }, this.#options(), (error) =>
        error ? reject(this.#error(error)) : resolve(),
      );
    });
  }

  /** @throws CallError */
  deleteUser(user: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#access.DeleteUser({ user }, this.#options(), (error) => (error ? reject(this.#error(error)) : resolve()));
    });
  }

  /** How many sessions were ended. @throws CallError */
  endSessions(user: string): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#access.EndSessions({ user }, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve(answer.ended);
      });
    });
  }

  /** @throws CallError */
  keys(): Promise<Keys> {
    return new Promise((resolve, reject) => {
      this.#access.ListKeys({}, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({ keys: answer.keys.map(keyOf) });
      });
    });
  }

  /** Makes an API key; its secret is told this once. @throws CallError */
  createKey(name: string, scopes: Scope[], ttl: string): Promise<MadeKey> {
    return new Promise((resolve, reject) => {
      this.#access.CreateKey({ name, scopes, ttl }, this.#options(), (error, answer) => {
        if (error || !answer?.key) return reject(this.#error(error));
        resolve({ key: keyOf(answer.key), secret: answer.secret });
      });
    });
  }

  /** @throws CallError */
  revokeKey(id: string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#access.RevokeKey({ id }, this.#options(), (error) => (error ? reject(this.#error(error)) : resolve()));
    });
  }

  /** Dead letters, the newest first. @throws CallError */
  deadLetters(filter: DeadLetterFilter): Promise<DeadLetterPage> {
    return new Promise((resolve, reject) => {
      this.#dead.ListDeadLetters({ filter }, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({ letters: answer.letters.map(letterOf), before: Number(answer.before) || null });
      });
    });
  }

  /** One dead letter with its bytes. @throws CallError */
  deadLetter(sequence: number): Promise<DeadLetterBytes> {
    return new Promise((resolve, reject) => {
      this.#dead.GetDeadLetter({ sequence }, this.#options(), (error, answer) => {
        if (error || !answer?.letter) return reject(this.#error(error));
        resolve({ ...letterOf(answer.letter), base64: answer.content.toString('base64') });
      });
    });
  }

  /** Publishes dead letters again. @throws CallError */
  redriveDeadLetters(choice: DeadLetterChoice): Promise<DeadLetterOutcome> {
    return new Promise((resolve, reject) => {
      this.#dead.RedriveDeadLetters({ choice }, this.#options(), (error, answer) => {
        if (error || !answer?.outcome) return reject(this.#error(error));
        resolve(outcomeOf(answer.outcome));
      });
    });
  }

  /** Throws dead letters away. @throws CallError */
  discardDeadLetters(choice: DeadLetterChoice): Promise<DeadLetterOutcome> {
    return new Promise((resolve, reject) => {
      this.#dead.DiscardDeadLetters({ choice }, this.#options(), (error, answer) => {
        if (error || !answer?.outcome) return reject(this.#error(error));
        resolve(outcomeOf(answer.outcome));
      });
    });
  }

  /** Lets a host in: credentials, or a code. @throws CallError */
  enrol(wish: { host: string; ttl: string; code: boolean }): Promise<Enrolled> {
    return new Promise((resolve, reject) => {
      this.#enrolment.Enrol(wish, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        const { tenant, host, credentials: text, code, expires_ms } = answer;
        resolve({ tenant, host, ...(code ? { code } : { credentials: text }), expires: Number(expires_ms) || null });
      });
    });
  }

  /** Credentials that hosts were given, the newest first. @throws CallError */
  credentials(): Promise<Credentials> {
    return new Promise((resolve, reject) => {
      this.#enrolment.ListCredentials({}, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({
          natsUrl: answer.nats_url || null,
          credentials: answer.credentials.map((one) => ({
            host: one.host,
            publicKey: one.public_key,
            by: one.issued_by,
            byCode: one.by_code,
            issued: Number(one.issued_ms),
            expires: Number(one.expires_ms) || null,
            revoked: Number(one.revoked_ms) || null,
          })),
        });
      });
    });
  }

  /** Takes all credentials of a host back; how many there were. @throws CallError */
  revokeCredentials(host: string): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#enrolment.RevokeCredentials({ host }, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve(answer.revoked);
      });
    });
  }

  /** @throws CallError */
  coverage(question: Parameters<InstanceType<typeof Query>['Coverage']>[0]): Promise<Coverage> {
    return new Promise((resolve, reject) => {
      this.#query.Coverage(question, this.#options(), (error, answer) => {
        if (error || !answer) return reject(this.#error(error));
        resolve({
          from: answer.from_ms,
          to: answer.to_ms,
          hosts: answer.hosts.map(({ host, percent, percent_in_time, holes, truncated }) => ({
            host,
            percent,
            percentInTime: percent_in_time,
            holes: holes.map((hole) => ({
              begin: hole.begin_ms,
              end: hole.end_ms ?? null,
              cause: hole.cause as Hole['cause'],
              session: hole.session || null,
              nextSession: hole.next_session || null,
              missingFrames: hole.missing_frames === undefined ? null : Number(hole.missing_frames),
              healed: hole.healed_ms ?? null,
            })),
            truncated,
          })),
        });
      });
    });
  }

  /** Rows as they arrive, the newest known first, until the signal. @throws CallError */
  async *watch(
    table: string,
    fields: readonly string[],
    hosts: readonly string[],
    signal: AbortSignal,
  ): AsyncGenerator<Update> {
    const stream: ClientReadableStream<WatchResponse> = this.#live.Watch({
      watches: [{ table, fields: [...fields], hosts: [...hosts] }],
    });
    const cancel = () => stream.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    try {
      for await (const message of stream as AsyncIterable<WatchResponse>) {
        const { host, time_us: time, labels, fields: values, skipped } = message;
        yield {
          host,
          table: message.table,
          time: Number(time) / 1000,
          labels: Object.fromEntries(labels.map((column) => [column.name, column.values])),
          values: Object.fromEntries(values.map((column) => [column.name, column.values.map(present)])),
          skipped,
        };
      }
      if (!signal.aborted) throw new CallError(`The collector at ${this.#address} has ended the stream.`, 1);
    } catch (error) {
      if (signal.aborted) return;
      throw error instanceof CallError ? error : this.#error(error as ServiceError);
    } finally {
      signal.removeEventListener('abort', cancel);
      stream.cancel();
    }
  }

  /** Plays a range; the messages come at the pace at which they are taken. */
  play(start: PlayStart, signal: AbortSignal): Play {
    const stream = this.#replay.Play();
    stream.write({ start });
    return {
      messages: this.#messages<PlayResponse__Output>(stream, signal),
      send: (request) => void stream.write(request),
      end: () => void stream.end(),
    };
  }

  /** Frames since a time or a token, then those that arrive, until the signal. @throws CallError */
  follow(question: Parameters<InstanceType<typeof Live>['Follow']>[0], signal: AbortSignal) {
    return this.#messages<FollowResponse__Output>(this.#live.Follow(question), signal);
  }

  /** What a stream brings until it ends or the signal. @throws CallError */
  async *#messages<Message>(
    stream: ClientReadableStream<Message> | ClientDuplexStream<PlayRequest, Message>,
    signal: AbortSignal,
  ): AsyncGenerator<Message> {
    const cancel = () => stream.cancel();
    signal.addEventListener('abort', cancel, { once: true });
    try {
      yield* stream as AsyncIterable<Message>;
    } catch (error) {
      if (!signal.aborted) throw this.#error(error as ServiceError);
    } finally {
      signal.removeEventListener('abort', cancel);
      stream.cancel();
    }
  }

  [Symbol.dispose](): void {
    this.#access.close();
    this.#query.close();
    this.#live.close();
    this.#dead.close();
    this.#agents.close();
    this.#replay.close();
    this.#enrolment.close();
  }

  #options(): CallOptions {
    return { deadline: Date.now() + callTime };
  }

  #error(error: ServiceError | null): CallError {
    if (error === null) return new CallError(`The collector at ${this.#address} answered nothing.`, 1);
    const details = printable(error.details ?? error.message);
    const options = { cause: error };
    switch (error.code) {
      case status.UNAVAILABLE:
        // A collector that answers says itself what it is missing.
        return /^(No connection established|Connection dropped|Name resolution|Protocol error|read E|connect E|write E)/.test(
          details,
        )
          ? new CallError(unreachedBy(this.#address, this.#who, details), 1, options)
          : new CallError(details, 1, options);
      case status.DEADLINE_EXCEEDED:
        return new CallError(
          `The collector at ${this.#address} did not answer within ${callTime / 1000} s.`,
          1,
          options,
        );
      case status.UNAUTHENTICATED:
        return new CallError(refusedBy(this.#address, this.#who), 1, options);
      case status.PERMISSION_DENIED:
        return new CallError(details, 1, options);
      case status.INVALID_ARGUMENT:
      case status.NOT_FOUND:
      case status.OUT_OF_RANGE:
        return new CallError(details, 2, options);
      default:
        return new CallError(`The collector at ${this.#address} could not answer: ${details}`, 1, options);
    }
  }
}

const keyOf = (key: AccessKey__Output): Key => ({
  id: key.id,
  name: key.name,
  scopes: key.scopes as Scope[],
  created: key.created_ms,
  createdBy: key.created_by,
  expires: key.expires_ms ?? null,
  lastUsed: key.last_used_ms ?? null,
  lastAddress: key.last_address,
});

const letterOf = ({ time_us, original_sequence, size_bytes, ...letter }: DeadLetterMessage): DeadLetter => ({
  ...letter,
  sequence: Number(letter.sequence),
  time: Number(time_us) / 1000,
  originalSequence: Number(original_sequence),
  sizeBytes: Number(size_bytes),
});

const outcomeOf = ({ done, failed, before }: DeadLetterOutcomeMessage): DeadLetterOutcome => ({
  done,
  failed: failed.map(({ sequence, reason }) => ({ sequence: Number(sequence), reason })),
  before: Number(before) || null,
});

const targetOf = ({ time_us, revision, ...target }: AgentTargetMessage): AgentTarget => ({
  ...target,
  revision: Number(revision),
  time: Number(time_us) / 1000 || null,
});

type GrpcRow = {
  time_us: number | string;
  host: string;
  labels: Record<string, string>;
  values: Record<string, number>;
};

/** A value that is not available is missing in the answer, and in the row. */
const rowOf = ({ time_us, host, labels, values }: GrpcRow): Row => ({
  time: Number(time_us) / 1000,
  host,
  ...labels,
  ...values,
});

type WatchResponse = ReturnType<LiveClient['Watch']> extends ClientReadableStream<infer Message> ? Message : never;

/** Names of the headline values in the contract. */
const headlines = [
  'cpu_used_percent',
  'memory_used_percent',
  'disk_used_percent',
  'receive_bytes_per_second',
  'transmit_bytes_per_second',
  'load_1m_count',
  'uptime_seconds',
  'failed_sources_count',
] as const;

const camelCase = (name: string): string => name.replace(/_(\w)/g, (_, first: string) => first.toUpperCase());
const present = (value: number): number | null => (Number.isNaN(value) ? null : value);
