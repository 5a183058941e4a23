// Every log line of the data path and its counter, declared once.
import { type Logger, pino } from 'pino';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';

export type { Logger } from 'pino';

/** What the collector can't work without. */
export type Dependency = 'nats' | 'questdb' | 'ingest';

const prefix = 'fleetreel_collector';

/** Logger and metrics of one collector. */
export class Telemetry {
  readonly registry = new Registry();
  readonly log: Logger;
  /** What can't be used now, and why: one clause each. */
  readonly #missing = new Map<Dependency, string>();
  /** Why NATS does not know which credentials are revoked, as long as that is so. */
  #untold: string | undefined;

  readonly #frames = this.#counter('frames_stored_total', 'Frames that the store has.');
  readonly #rows = this.#counter('rows_stored_total', 'Rows that the store has.');
  readonly #writtenBytes = this.#counter('store_request_bytes_total', 'Bytes sent to the store.');
  readonly #writes = this.#counter('store_requests_total', 'Writes, by their result.', ['result']);
  readonly #writeSeconds = new Histogram({
    name: `${prefix}_store_request_duration_seconds`,
    help: 'Time of a write until the store had it.',
    buckets: [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10],
    registers: [this.registry],
  });
  readonly #batchFrames = new Histogram({
    name: `${prefix}_batch_frames`,
    help: 'Frames written at once.',
    buckets: [1, 3, 10, 30, 100, 300, 1000],
    registers: [this.registry],
  });
  readonly #lag = this.#gauge('ingest_lag_seconds', 'Age of the oldest frame of the last batch when the store had it.');
  readonly #pending = this.#gauge('log_pending_messages', 'Messages of the log that no collector has read yet.');
  readonly #dead = this.#counter('dead_letters_total', 'Messages put aside because they could not be stored.', [
    'reason',
  ]);
  readonly #redriven = this.#counter('dead_letters_redriven_total', 'Dead letters that were published again.');
  readonly #discarded = this.#counter('dead_letters_discarded_total', 'Dead letters that were thrown away.');
  readonly #deadKept = this.#gauge('dead_letters', 'Dead letters that the log has.');
  readonly #unknown = this.#counter('unknown_fields_total', 'Fields of frames that this version does not know.');
  readonly #shortened = this.#counter('labels_shortened_total', 'Labels cut because they were too long.');
  readonly #older = this.#counter(
    'rows_older_total',
    'Rows left out because a newer version of them had come before: of sessions that grow.',
  );
  readonly #versionsForgotten = this.#counter(
    'row_versions_forgotten_total',
    'Rows of which it is no longer remembered which version is the newest.',
  );
  readonly #overtaken = this.#counter(
    'log_overtaken_messages_total',
    'Messages that a bound of the log removed before they were stored.',
  );
  readonly #ingestErrors = this.#counter('ingest_errors_total', 'Failures to read from or acknowledge to the log.');
  readonly #walWaiting = this.#gauge(
    'store_wal_waiting_transactions',
    'Transactions that the store has taken and not applied yet.',
  );
  readonly #walSuspended = this.#gauge(
    'store_suspended_tables',
    'Tables to which the store applies nothing any more until it is told to.',
  );
  readonly #rolledUp = this.#counter('rollup_statements_total', 'Statements that filled roll-ups, by result.', [
    'result',
  ]);
  readonly #rollupSeconds = this.#counter('rollup_duration_seconds_total', 'Time spent filling roll-ups.');
  readonly #pushed = this.#counter(
    'agent_settings_pushed_total',
    'Settings of agents that were put where they find them.',
  );
  readonly #leftOut = this.#counter(
    'bucket_entries_unreadable_total',
    'Entries of buckets that can not be read and are left out.',
    ['bucket'],
  );
  readonly #replays = this.#gauge('replay_sessions', 'Replays and cursors that are open.', ['kind']);
  readonly #replayed = this.#counter('replay_frames_total', 'Frames sent to replays and cursors.');
  readonly #signIns = this.#counter('sign_ins_total', 'Tries to sign in, by their result.', ['result']);
  readonly #custom = this.#counter('custom_entries_total', 'Measures and events that the log has taken.', ['kind']);
  readonly #customBytes = this.#counter('custom_bytes_total', 'Bytes of measures and events that the log has taken.');
  readonly #customRefused = this.#counter(
    'custom_calls_refused_total',
    'Calls with measures or events that were refused because the key wrote too much, by which bound.',
    ['bound'],
  );
  readonly #audited = this.#counter('audit_records_total', 'Records of the audit trail that the log has taken.');
  readonly #auditWaiting = this.#gauge(
    'audit_records_waiting',
    'Records of the audit trail that the log did not take yet: they are repeated until it does.',
  );
  readonly #auditLost = this.#counter(
    'audit_records_lost_total',
    "Records of the audit trail that the log had not taken when the collector stopped: they are in the collector's own log.",
  );
  readonly #certificateEnds = this.#gauge(
    'tls_certificate_expiration_timestamp_seconds',
    'When the certificate of HTTP and gRPC is not valid any more, as a Unix time; 0 without one.',
  );
  readonly #up = this.#gauge('dependency_up', '1 when it can be used, else 0.', ['dependency']);

  constructor(level: string) {
    this.log = pino({ name: 'fleetreel-collector', level });
    collectDefaultMetrics({ register: this.registry });
    // Sums of metrics that are there by kind, and no counters although they are called so.
    for (const kind of ['handles', 'requests', 'resources'])
      this.registry.removeSingleMetric(`nodejs_active_${kind}_total`);
    for (const dependency of ['nats', 'questdb', 'ingest'] as const) {
      this.#missing.set(dependency, 'not started yet');
      this.#up.set({ dependency }, 0);
    }
  }

  /** What is missing for work, and why; empty when the collector is ready. */
  missing(): { dependency: Dependency; reason: string }[] {
    return [...this.#missing].map(([dependency, reason]) => ({ dependency, reason }));
  }

  /** It can be used. Logged when that is a change. */
  usable(dependency: Dependency): void {
    if (!this.#missing.delete(dependency)) return;
    this.#up.set({ dependency }, 1);
    this.log.info({ dependency }, `${dependency} is ready`);
  }

  /** It can't be used; the reason is one clause. Logged when that is a change. */
  unusable(dependency: Dependency, reason: string): void {
    if (this.#missing.get(dependency) === reason) return;
    this.#missing.set(dependency, reason);
    this.#up.set({ dependency }, 0);
    this.log.warn({ dependency, reason }, `${dependency} can't be used: ${reason}; it is tried until it can`);
  }

  stopping(): void {
    this.log.info('stopping');
  }

  stopped(): void {
    this.log.info('stopped');
  }

  /** Something of NATS or QuestDB was made or changed; `detail` says from what to what. */
  configured(what: string, change: 'created' | 'updated', detail?: string): void {
    this.log.info({ what, change }, `${what} was ${change}${detail === undefined ? '' : `: ${detail}`}`);
  }

  stored(frames: number, rows: number, bytes: number, seconds: number): void {
    this.#frames.inc(frames);
    this.#rows.inc(rows);
    this.#writtenBytes.inc(bytes);
    this.#writes.inc({ result: 'stored' });
    this.#writeSeconds.observe(seconds);
    this.#batchFrames.observe(frames);
    this.log.debug({ frames, rows, bytes, seconds }, 'stored');
  }

  /** Seconds between the oldest frame's time and now. */
  lag(seconds: number): void {
    this.#lag.set(seconds);
  }

  storeRefused(reason: string): void {
    this.#writes.inc({ result: 'refused' });
    this.log.warn({ reason }, 'the store refused a write; the rows at fault are looked for');
  }

  /** Rows of these tables stay invisible until they are resumed. */
  tablesSuspended(count: number, reason: string): void {
    this.log.error(
      { count, reason },
      'the store has suspended tables: their rows wait; they are resumed until it works',
    );
  }

  tablesResumed(): void {
    this.log.info('the store writes all tables again');
  }

  storeFailed(reason: string): void {
    this.#writes.inc({ result: 'failed' });
    this.unusable('questdb', reason);
  }

  redriven(): void {
    this.#redriven.inc();
  }

  discarded(): void {
    this.#discarded.inc();
  }

  customWritten(kind: 'measure' | 'event', entries: number, bytes: number): void {
    this.#custom.inc({ kind }, entries);
    this.#customBytes.inc(bytes);
  }

  customRefused(bound: 'rate' | 'bytes' | 'names'): void {
    this.#customRefused.inc({ bound });
  }

  audited(): void {
    this.#audited.inc();
  }

  /** @param reason why there is one more */
  auditWaits(count: number, reason?: string): void {
    this.#auditWaiting.set(count);
    if (reason !== undefined)
      this.log.warn(
        { count, reason },
        'the log did not take a record of the audit trail; it is repeated until it does',
      );
  }

  /** @param record what was done, by whom: nothing secret is in it */
  auditLost(record: object): void {
    this.#auditLost.inc();
    this.log.error({ record }, 'the log did not take a record of the audit trail before the collector stopped');
  }

  deadLettersKept(count: number): void {
    this.#deadKept.set(count);
  }

  deadLetter(reason: string, subject: string, detail: string): void {
    this.#dead.inc({ reason });
    this.log.error({ reason, subject, detail }, 'a message was put aside');
  }

  unknownFields(count: number): void {
    this.#unknown.inc(count);
  }

  labelShortened(): void {
    this.#shortened.inc();
  }

  olderRows(rows: number): void {
    this.#older.inc(rows);
  }

  rowVersionForgotten(): void {
    this.#versionsForgotten.inc();
  }

  overtaken(messages: number): void {
    this.#overtaken.inc(messages);
    this.log.error({ messages }, 'a bound of the log removed messages before they were stored: make it larger');
  }

  pending(messages: number): void {
    this.#pending.set(messages);
  }

  ingestFailed(cause: unknown): void {
    this.#ingestErrors.inc();
    this.unusable('ingest', sentence(cause));
  }

  agentSettingsPushed(): void {
    this.#pushed.inc();
  }

  bucketNotFollowed(bucket: string, reason: string): void {
    this.log.warn({ bucket, reason }, 'a bucket of the log can not be read; it is tried again');
  }

  entryLeftOut(bucket: string, key: string, reason: string): void {
    this.#leftOut.inc({ bucket });
    this.log.warn({ bucket, key, reason }, 'an entry of a bucket can not be read; it is left out');
  }

  agentSettingsFailed(reason: string): void {
    this.log.warn({ reason }, 'settings of agents could not be written; it is tried again');
  }

  /** A replay or a cursor was opened; returns what to call when it ends. */
  replaying(kind: 'replay' | 'cursor'): () => void {
    this.#replays.inc({ kind });
    return () => this.#replays.dec({ kind });
  }

  replayed(frames: number): void {
    this.#replayed.inc(frames);
  }

  /** The one place where the secret of a link is written: whoever reads this log is to make the first admin. */
  firstLink(url: string): void {
    this.log.warn(`There is no user yet. Whoever opens ${url} within 24 hours becomes the first admin.`);
  }

  /** @param until when the certificate that is in use from now on is valid */
  certificate(until: Date, isOver: boolean): void {
    this.#certificateEnds.set(until.getTime() / 1000);
    const line = { until: until.toISOString() };
    if (isOver) this.log.error(line, 'the certificate of HTTP and gRPC is not valid any more: callers will refuse it');
    else this.log.info(line, 'the certificate of HTTP and gRPC was read');
  }

  certificateRefused(reason: string): void {
    this.log.error({ reason }, 'what is in the files of the certificate can not be used; the one before stays in use');
  }

  /** @param settings by which other machines reach a face */
  readable(settings: readonly string[]): void {
    this.log.warn(
      { settings },
      'passwords, keys and data go over the network for everybody to read: give tls.certificate and tls.key, or let only a proxy with TLS reach the ports',
    );
  }

  revocationsTold(): void {
    if (this.#untold !== undefined) this.log.info('NATS knows which credentials are revoked');
    this.#untold = undefined;
  }

  /** Logged when the reason is another one than before. */
  revocationsUntold(reason: string): void {
    if (this.#untold === reason) return;
    this.#untold = reason;
    this.log.error({ reason }, 'NATS could not be told which credentials are revoked; it is tried until it can');
  }

  signedIn(user: string, address: string): void {
    this.#signIns.inc({ result: 'right' });
    this.log.info({ user, address }, 'a user has signed in');
  }

  /** @param user undefined where there is none of the name that was tried */
  signInRefused(why: 'wrong' | 'throttled', address: string, user: string | undefined): void {
    this.#signIns.inc({ result: why });
    // Of many, each would be a line: that they are many is in the counter.
    if (why === 'wrong') this.log.warn({ user, address }, 'a sign-in failed');
  }

  /** Transactions that wait in the store, and how many of its tables are suspended. */
  wal(waiting: number, suspended: number): void {
    this.#walWaiting.set(waiting);
    this.#walSuspended.set(suspended);
  }

  rolledUp(statements: number, seconds: number): void {
    this.#rolledUp.inc({ result: 'done' }, statements);
    this.#rollupSeconds.inc(seconds);
    this.log.debug({ statements, seconds }, 'rolled up');
  }

  rollupFailed(table: string, cause: unknown): void {
    this.#rolledUp.inc({ result: 'failed' });
    this.log.warn({ table, reason: sentence(cause) }, 'a roll-up failed; it is tried again');
  }

  #counter(name: string, help: string, labelNames: string[] = []): Counter {
    return new Counter({ name: `${prefix}_${name}`, help, labelNames, registers: [this.registry] });
  }

  #gauge(name: string, help: string, labelNames: string[] = []): Gauge {
    return new Gauge({ name: `${prefix}_${name}`, help, labelNames, registers: [this.registry] });
  }
}

/** What a thrown value says, the innermost reason of a failed connection included. */
export function sentence(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  const inner = cause instanceof AggregateError ? cause.errors[0] : cause.cause;
  const own = cause.message || (cause as NodeJS.ErrnoException).code || cause.name;
  const deeper = inner instanceof Error ? sentence(inner) : '';
  return deeper === '' || own.includes(deeper) ? own : `${own}: ${deeper}`;
}
