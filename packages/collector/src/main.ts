#!/usr/bin/env node
// The collector's command line: builds the rooms in the order of the data path and stops them in reverse. The only
// file that touches arguments, environment, exit code and signals.
import { hostname } from 'node:os';
import { defaultTenant } from '@fleetreel/proto';
import { durationMilliseconds, milliseconds } from '@fleetreel/proto/duration';
import { ApiError } from '@fleetreel/proto/errors';
import type { Link } from '@fleetreel/proto/http';
import { readSettings, SettingsError, suggestion } from '@fleetreel/proto/settings';
import { readTime } from '@fleetreel/proto/time';
import { Access } from '#access/access.ts';
import { Enrolment, readIssuer } from '#access/enrolment.ts';
import { keepOwnerKey } from '#access/owner.ts';
import { Faces } from '#api/serve.ts';
import { systemClock } from '#clock.ts';
import {
  checkSettings,
  consoleUrl,
  openFaces,
  partitionOf,
  placeOf,
  program,
  rawDays,
  type Settings,
} from '#config.ts';
import { Ingest } from '#ingest/consumer.ts';
import { rebuild } from '#ingest/rebuild.ts';
import { Bounds } from '#ingest/watch.ts';
import { retryMilliseconds, stopMilliseconds } from '#limits.ts';
import { Hub } from '#live/hub.ts';
import { Newest } from '#live/newest.ts';
import { AgentSettings } from '#log/agent_settings.ts';
import { Allowances } from '#log/allowance.ts';
import { Audit, type Deed } from '#log/audit.ts';
import { connectLog, type Log, openLog } from '#log/connect.ts';
import { CustomLog } from '#log/custom.ts';
import { DeadLetters } from '#log/dead.ts';
import { Registry } from '#log/registry.ts';
import { listStores, removeStore } from '#log/stores.ts';
import { keepLog, type LogSettings } from '#log/stream.ts';
import { Agents } from '#query/agents.ts';
import { Query } from '#query/query.ts';
import { Replays } from '#replay/replays.ts';
import { execute, StatementError } from '#store/admin.ts';
import { Reader } from '#store/reader.ts';
import { Rollups } from '#store/rollup.ts';
import { keepTables, rollupDays } from '#store/schema.ts';
import { watchWal } from '#store/wal.ts';
import { Writer } from '#store/writer.ts';
import { sentence, Telemetry } from '#telemetry.ts';

const clock = systemClock;
const day = 86_400_000;

const commands = { run, rebuild: rebuildStore, stores, link, check } satisfies Record<
  keyof typeof program.commands,
  (settings: Settings) => Promise<number>
>;

try {
  const invocation = readSettings(program, process.argv.slice(2), process.env);
  if ('help' in invocation) console.log(invocation.help);
  else {
    checkSettings(invocation.settings);
    process.exitCode = await commands[invocation.command as keyof typeof commands](invocation.settings);
  }
} catch (error) {
  const wrong = error instanceof SettingsError;
  console.error(`${program.name}: ${wrong ? error.message : sentence(error)}`);
  process.exitCode = wrong ? error.exitCode : 1;
}

async function run(settings: Settings): Promise<number> {
  const telemetry = new Telemetry(settings.logging.level);
  const place = placeOf(settings);
  const stopping = new AbortController();
  /** Ends what is still in flight some seconds after the stop. */
  const abandon = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () => {
      // Somebody who asks twice does not want to wait.
      if (stopping.signal.aborted) process.exit(1);
      telemetry.stopping();
      stopping.abort();
      setTimeout(() => abandon.abort(), stopMilliseconds).unref();
    });

  const issuer = settings.nats.issuer === undefined ? undefined : readIssuer(settings.nats.issuer);
  const access = newAccess(settings, telemetry);
  warnOfReaders(settings, telemetry);
  const faces = await Faces.start(settings, access, telemetry);
  const closing: (() => unknown)[] = [];
  const running: Promise<unknown>[] = [];
  const { signal } = stopping;
  try {
    const log = await openLog(settings.nats, partitionOf(settings), telemetry, clock, signal);
    closing.push(() => drained(log));
    const wanted = logSettings(settings);
    await until(() => keepLog(log, wanted, place, telemetry), 'ingest', telemetry, signal);
    const registry = await Registry.open({ log, telemetry, clock });
    closing.push(() => registry.close());
    await access.open(log);
    closing.push(() => access.close());
    const agentSettings = await AgentSettings.open({ log, registry, telemetry, clock });
    closing.push(() => agentSettings.close());
    const audit = new Audit(log, hostname(), telemetry, clock);
    closing.push(() => audit.close());
    const { anonymous, owner_key: ownerKey } = settings.access;
    if (ownerKey !== '')
      await keepOwner(access, settings.access, audit, (step) => until(step, 'ingest', telemetry, signal));
    // Where anybody may do all, nobody has to sign in.
    else if (anonymous !== 'admin') await tellFirst(access, consoleUrl(settings, faces.http.port), audit, telemetry);
    const newest = await Newest.open(log, clock);
    closing.push(() => newest.close());
    const reader = new Reader(settings.questdb);
    closing.push(() => reader.close());
    const days = rawDays(settings);
    const retention = { raw: days * day, '1m': rollupDays['1m'] * day, '1h': rollupDays['1h'] * day };
    const query = new Query({ reader, registry, newest, clock, retention, telemetry });
    closing.push(() => query.close());
    const hub = new Hub(newest);
    closing.push(() => hub.close());
    const replays = new Replays({ log, reader, clock, telemetry });
    const enrolment = issuer && (await Enrolment.open({ log, issuer, nats: settings.nats, clock, telemetry }));
    closing.push(() => enrolment?.close());
    const agents = new Agents(registry, agentSettings);
    const custom = writtenBy(settings, log, telemetry);
    const deadLetters = new DeadLetters(log, telemetry);
    faces.open({ query, hub, deadLetters, replays, agents, enrolment, custom, audit });

    const tables = () => keepTables(settings.questdb, days, telemetry);
    await until(tables, 'questdb', telemetry, signal);
    telemetry.usable('questdb');
    const writer = new Writer(settings.questdb, tables, telemetry);
    closing.push(() => writer.close());
    const rollups = new Rollups(settings.questdb, telemetry, clock);
    const written = (times: readonly number[]) => rollups.written(times);
    const ingest = new Ingest({
      log,
      store: place,
      keepLog: () => keepLog(log, wanted, place, telemetry, 'missing'),
      rawMilliseconds: days * day,
      writer,
      registry,
      written,
      telemetry,
      clock,
    });
    const bounds = new Bounds({ log, store: place, settings: settings.questdb, telemetry, clock });
    await until(() => bounds.look(), 'ingest', telemetry, signal);
    running.push(
      rollups.run(signal),
      bounds.run(signal),
      watchWal(settings.questdb, { telemetry, clock, written }, signal),
    );
    await ingest.run(signal, abandon.signal);
  } catch (cause) {
    if (!signal.aborted) throw cause;
  } finally {
    stopping.abort();
    await Promise.all(running);
    // Nothing is asked any more when what would answer is closed.
    await faces.close();
    for (const close of closing.reverse()) await close();
  }
  telemetry.stopped();
  return 0;
}

/** Says what it means to be reached by others without TLS. */
function warnOfReaders(settings: Settings, telemetry: Telemetry): void {
  const open = openFaces(settings);
  if (open.length > 0 && settings.tls.certificate === '') telemetry.readable(open);
}

/** Where applications write to. */
function writtenBy(settings: Settings, log: Log, telemetry: Telemetry) {
  return {
    log: new CustomLog(log, telemetry, clock),
    allowances: new Allowances(settings.custom, clock, (bound) => telemetry.customRefused(bound)),
    rawMilliseconds: rawDays(settings) * day,
  };
}

function newAccess({ access: { anonymous, session } }: Settings, telemetry: Telemetry): Access {
  return new Access({ anonymous, sessionMilliseconds: milliseconds(session), telemetry, clock });
}

/** Keeps the key of whoever runs this machine valid; one that is made is in the audit trail. @throws SettingsError */
async function keepOwner(
  { keys }: Access,
  { owner_key: path, owner_tenant: tenant }: Settings['access'],
  audit: Audit,
  settled: (step: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const made = await keepOwnerKey(keys, { path, tenant, machine: hostname() }, settled);
  if (made === undefined) return;
  const { id, name, scopes, expires } = made;
  const deed = { action: 'key.create', target: id, after: { name, scopes, expires } };
  // What the log does not take now, the audit trail repeats.
  await recordOwn(audit, tenant, deed).catch(ignoreUnavailable);
}

/** Writes the record of what the collector does by itself. @throws ApiError log_unavailable */
async function recordOwn(audit: Audit, tenant: string, deed: Omit<Deed, 'address'>): Promise<void> {
  await audit.record({ tenant, kind: 'system', id: '', name: 'collector' }, { ...deed, address: '' });
}

function linkMade(target: string, { purpose, expires }: Link) {
  return { action: 'user.link', target, after: { purpose, expires } };
}

function ignoreUnavailable(cause: unknown): void {
  if (!(cause instanceof ApiError && cause.code === 'log_unavailable')) throw cause;
}

/** Says once how the first admin is made, where there is no user. */
async function tellFirst({ users }: Access, url: string, audit: Audit, telemetry: Telemetry): Promise<void> {
  try {
    const link = await users.firstLink(defaultTenant);
    if (!link) return;
    await recordOwn(audit, defaultTenant, linkMade('', link)).catch(ignoreUnavailable);
    telemetry.firstLink(`${url}${link.path}`);
  } catch (cause) {
    telemetry.log.warn(
      { reason: sentence(cause) },
      'it could not be seen whether there is a user; see the command link',
    );
  }
}

/** Prints a one-time link; returns the exit code. */
async function link(settings: Settings): Promise<0> {
  const { tenant, user } = settings.link;
  const telemetry = new Telemetry('warn');
  const log = await connectLog(settings.nats, partitionOf(settings));
  try {
    await keepLog(log, logSettings(settings), undefined, telemetry, 'missing');
    const access = newAccess(settings, telemetry);
    const audit = new Audit(log, hostname(), telemetry, clock);
    await access.open(log);
    try {
      const { users } = access;
      const made = await (user === '' ? users.adminLink(tenant) : users.linkOf(user));
      const { tenant: of = tenant, name = '' } = user === '' ? {} : (users.find(user) ?? {});
      await recordOwn(audit, of, linkMade(name, made));
      console.log(`${consoleUrl(settings)}${made.path}`);
      console.error(
        `It can be used once, until ${new Date(made.expires).toISOString()}, and ${user === '' ? `makes an admin of the tenant ${tenant}` : `sets the password of ${user}`}. Tell it to nobody else.`,
      );
    } finally {
      await audit.close();
      await access.close();
    }
    return 0;
  } catch (cause) {
    if (cause instanceof ApiError) throw new SettingsError(cause.message, { cause });
    throw cause;
  } finally {
    await log.connection.close();
  }
}

/** What the log has to be like. */
function logSettings({ log: { age, bytes, replicas } }: Settings): LogSettings {
  return { age_ms: milliseconds(age), bytes, replicas };
}

/** Ends the connection once everything was sent, or after a second: NATS may be away. */
async function drained({ connection }: Log): Promise<void> {
  const late = new AbortController();
  try {
    await Promise.race([connection.drain(), clock.sleep(1000, late.signal)]);
  } finally {
    late.abort();
    await connection.close();
  }
}

/** Tries a step until it succeeds. @throws StatementError when the store says that it never will */
async function until(
  step: () => Promise<void>,
  dependency: 'questdb' | 'ingest',
  telemetry: Telemetry,
  signal: AbortSignal,
): Promise<void> {
  for (let pause: number = retryMilliseconds.min; ; pause = Math.min(pause * 2, retryMilliseconds.max)) {
    signal.throwIfAborted();
    try {
      await step();
      return;
    } catch (cause) {
      telemetry.unusable(dependency, sentence(cause));
    }
    await clock.sleep(pause, signal);
  }
}

/** Fills the store from the log and says whether it then holds what the log holds; returns the exit code. */
async function rebuildStore(settings: Settings): Promise<0 | 1> {
  const from = beginning(settings.rebuild.from);
  // What it does is told line by line; of the data path only what goes wrong is.
  const telemetry = new Telemetry('warn');
  const stopping = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const)
    process.on(signal, () =>
      stopping.abort(new Error('it was stopped; what is stored stays, and a rebuild may be repeated')),
    );
  const log = await connectLog(settings.nats, partitionOf(settings));
  try {
    // The stream and the buckets, but not yet the store's consumer: it is made to begin where the rebuild ends.
    await keepLog(log, logSettings(settings), undefined, telemetry, 'missing');
    const days = rawDays(settings);
    const tables = () => keepTables(settings.questdb, days, telemetry);
    await tables();
    await using registry = await Registry.open({ log, telemetry, clock });
    await using writer = new Writer(settings.questdb, tables, telemetry);
    const isRight = await rebuild(
      {
        log,
        store: placeOf(settings),
        from,
        settings: settings.questdb,
        rawMilliseconds: days * day,
        writer,
        rollups: new Rollups(settings.questdb, telemetry, clock),
        registry,
        telemetry,
        clock,
        say: (line) => console.log(line),
      },
      stopping.signal,
    );
    return isRight ? 0 : 1;
  } finally {
    await drained(log);
  }
}

/** A time as RFC 3339, from one or from how long ago it is. @throws SettingsError */
function beginning(text: string): string | undefined {
  if (text === 'beginning') return undefined;
  const now = clock.now_us() / 1000;
  const before = durationMilliseconds(text);
  const time = before === undefined ? readTime(text, now) : now - before;
  if (typeof time === 'number') return new Date(time).toISOString();
  throw new SettingsError(
    `rebuild.from: "${text}" is neither a time such as 2026-11-21T12:00:00Z nor how long ago, such as 24h.${time.hint && ` ${time.hint}`}`,
  );
}

/** Lists the stores that read the log, or forgets one; returns the exit code. */
async function stores({ nats, stores: { remove } }: Settings): Promise<0 | 1> {
  const log = await connectLog(nats);
  try {
    const found = await listStores(log, (pause) => clock.sleep(pause));
    if (remove === '') {
      const rows = found.map(({ name, behind, isRead, lastRead }) => [
        name,
        String(behind),
        isRead ? 'yes' : 'no',
        lastRead ?? 'never',
      ]);
      for (const [name = '', behind = '', isRead = '', lastRead = ''] of [
        ['STORE', 'BEHIND', 'READ NOW', 'LAST READ'],
        ...rows,
      ])
        console.log(`${name.padEnd(32)}  ${behind.padStart(12)}  ${isRead.padEnd(8)}  ${lastRead}`);
      return 0;
    }
    const store = found.find(({ name }) => name === remove);
    if (store === undefined)
      throw new SettingsError(
        `The log knows no store "${remove}". ${suggestion(
          remove,
          found.map(({ name }) => name),
        )}`,
      );
    if (store.isRead)
      throw new SettingsError(
        `A collector reads for the store "${remove}" now: stop it, or it makes its place in the log again.`,
      );
    await removeStore(log, remove);
    console.log(
      `The log has forgotten the store ${remove}. Its rows are still in its QuestDB; a collector with --store ${remove} begins with the oldest message.`,
    );
    return 0;
  } finally {
    await log.connection.close();
  }
}

/** Says line by line whether the collector could run; returns the exit code. */
async function check(settings: Settings): Promise<0 | 2> {
  console.log('settings: right');
  let code: 0 | 2 = 0;
  let log: Log | undefined;
  try {
    log = await connectLog(settings.nats);
    const { limits } = await log.manager.getAccountInfo();
    console.log(
      `NATS: connected to ${log.connection.getServer()}, JetStream${limits.max_storage === 0 ? ' without storage' : ''}`,
    );
  } catch (cause) {
    console.log(
      `NATS: ${settings.nats.url} can't be used: ${sentence(cause)}. Is it running with JetStream, and is nats.url right?`,
    );
    code = 2;
  } finally {
    await log?.connection.close();
  }
  try {
    await execute(settings.questdb, 'SELECT 1');
    await using reader = new Reader(settings.questdb);
    await reader.check();
    console.log(`QuestDB: ${settings.questdb.http_url} answers`);
  } catch (cause) {
    const why = cause instanceof StatementError ? '' : ' Is it running, and are the addresses under questdb right?';
    console.log(`QuestDB: ${settings.questdb.http_url} can't be used: ${sentence(cause)}.${why}`);
    code = 2;
  }
  return code;
}
