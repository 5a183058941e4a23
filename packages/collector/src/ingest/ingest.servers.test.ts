// From the log into the store: what is stored, what is put aside, and what nobody may lose, over real servers.
import { randomBytes } from 'node:crypto';
import { setTimeout as pause } from 'node:timers/promises';
import {
  encodeFrame,
  encodeHostDescription,
  encodeHostRefusal,
  type Frame,
  type HostDescription,
  messageId,
  prefix,
  subject,
  type Tables,
} from '@fleetreel/proto';
import { encodeBatch } from '@fleetreel/proto/batch';
import { type NatsServer, startNats } from '@fleetreel/test/servers/nats';
import { freePort, type Program, startProgram } from '@fleetreel/test/servers/program';
import { type Questdb, startQuestdb } from '@fleetreel/test/servers/questdb';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { systemClock } from '#clock.ts';
import { Ingest } from '#ingest/consumer.ts';
import { Bounds } from '#ingest/watch.ts';
import { connectLog, type Log } from '#log/connect.ts';
import { Registry } from '#log/registry.ts';
import { consumerName, keepLog, streamName } from '#log/stream.ts';
import { execute, type Value } from '#store/admin.ts';
import { keepTables } from '#store/schema.ts';
import { Writer } from '#store/writer.ts';
import { Telemetry } from '#telemetry.ts';
import { describedHost } from '#testing.ts';

const second = 1000;
const minute = 60 * second;
const day = 24 * 60 * minute;
const tenant = 'default';
const bounds = { age_ms: day, bytes: 256 * 1024 * 1024 };

let nats: NatsServer;
let questdb: Questdb;
let log: Log;
const quiet = new Telemetry('silent');

beforeAll(async () => {
  [nats, questdb] = await Promise.all([startNats(), startQuestdb()]);
  log = await connectLog(nats.url);
  await keepTables(store(), 30, quiet);
});

afterAll(async () => {
  await log?.connection.close();
  await questdb?.[Symbol.asyncDispose]();
  await nats?.[Symbol.asyncDispose]();
});

const store = () => ({ http_url: questdb.httpUrl, user: questdb.user, password: questdb.password });
const query = (statement: string): Promise<Value[][]> => execute(store(), statement);

/** Asks again until it holds. */
async function eventually<T>(what: string, ask: () => Promise<T | undefined>, milliseconds = 30 * second): Promise<T> {
  let failure: unknown;
  for (const end = performance.now() + milliseconds; performance.now() < end; await pause(50)) {
    try {
      const answer = await ask();
      if (answer !== undefined) return answer;
    } catch (cause) {
      failure = cause;
    }
  }
  throw new Error(`${what}: not within ${milliseconds} ms`, { cause: failure });
}

/** Waits until the store holds so many frames of hosts whose names begin so. */
const stored = (hosts: string, count: number, milliseconds?: number) =>
  eventually(
    `${count} frames of ${hosts}`,
    async () => {
      const [[found] = []] = await query(`SELECT count() FROM frame WHERE host LIKE '${hosts}%'`);
      if (found !== count) throw new Error(`there are ${found}`);
      return true;
    },
    milliseconds,
  );

/** An agent without sources: frames of one host, in order. */
class Agent {
  readonly host: string;
  readonly session = randomBytes(8).toString('hex');
  sequence = 0;

  constructor(host: string) {
    this.host = host;
  }

  frame(more: Partial<Frame> = {}): Frame {
    const cores = ['total', '0', '1'];
    const cpu = { core: cores, used_percent: cores.map((_, index) => this.sequence + index) };
    return {
      session: this.session,
      sequence: ++this.sequence,
      time_us: Date.now() * 1000 + (this.sequence % 1000),
      interval_ms: second,
      tables: { cpu } as unknown as Tables,
      ...more,
    };
  }

  async publish(more: Partial<Frame> = {}): Promise<void> {
    await this.send(encodeFrame(this.frame(more)), messageId(this.session, this.sequence));
  }

  /** Publishes until the log has it, as an agent does. */
  async send(bytes: Uint8Array, id = messageId(this.session, ++this.sequence), to = this.subject): Promise<void> {
    for (;;)
      try {
        await log.jetstream.publish(to, bytes, { msgID: id, timeout: second });
        return;
      } catch {
        await pause(100);
      }
  }

  get subject(): string {
    return subject({ tenant, kind: 'frame', host: this.host });
  }
}

/** The dead letters of a host: reason and payload, oldest first. */
async function deadLetters(host: string): Promise<{ reason: string; from: string; bytes: Uint8Array }[]> {
  const filter = `${prefix}.${tenant}.dead.${host}`;
  const { state } = await log.manager.streams.info(streamName, { subjects_filter: filter });
  const count = state.subjects?.[filter] ?? 0;
  const found: { reason: string; from: string; bytes: Uint8Array }[] = [];
  if (count === 0) return found;
  const consumer = await log.jetstream.consumers.get(streamName, { filter_subjects: filter });
  for await (const { headers, data } of await consumer.fetch({ max_messages: count, expires: 30 * second }))
    found.push({
      reason: headers?.get('Fleetreel-Reason') ?? '',
      from: headers?.get('Fleetreel-Subject') ?? '',
      bytes: data,
    });
  return found;
}

/** Nothing of the log waits for this store any more. */
const drained = (name: string) =>
  eventually('an empty consumer', async () => {
    const { num_pending, num_ack_pending } = await log.manager.consumers.info(streamName, consumerName(name));
    return num_pending === 0 && num_ack_pending === 0 ? true : undefined;
  });

/** Lets a consumer be done with all that the log has. */
async function drainAway(name: string): Promise<void> {
  const consumer = await log.jetstream.consumers.get(streamName, consumerName(name));
  for (let { num_pending: left } = await consumer.info(); left > 0; ) {
    for await (const message of await consumer.fetch({ max_messages: left, expires: second })) {
      message.ack();
      left--;
    }
  }
}

/** A collector's data path within this process. */
async function collect(name: string, telemetry = new Telemetry('silent'), clock = systemClock) {
  const keep = () => keepLog(log, bounds, name, telemetry);
  await keep();
  const registry = await Registry.open({ log, telemetry });
  const writer = new Writer(store(), () => keepTables(store(), 30, telemetry), telemetry);
  const parts = { log, store: name, keepLog: keep, rawMilliseconds: 30 * day, writer, registry, clock };
  const ingest = new Ingest({ ...parts, written: () => undefined, telemetry });
  const stopping = new AbortController();
  const running = ingest.run(stopping.signal, AbortSignal.any([]));
  return {
    telemetry,
    registry,
    async [Symbol.asyncDispose]() {
      stopping.abort();
      await running;
      await registry.close();
      await writer.close();
    },
  };
}

/** A counter of the telemetry, all its labels together. */
async function counted(telemetry: Telemetry, name: string): Promise<number> {
  const metric = await telemetry.registry.getSingleMetric(`fleetreel_collector_${name}`)?.get();
  return metric?.values.reduce((sum, { value }) => sum + value, 0) ?? Number.NaN;
}

describe('the log', () => {
  test('is made, and kept as it should be', async () => {
    const changes: string[] = [];
    const telemetry = Object.assign(new Telemetry('silent'), {
      configured: (what: string, change: string) => changes.push(`${what} ${change}`),
    });
    await keepLog(log, bounds, 'kept', telemetry);
    changes.length = 0;
    await keepLog(log, bounds, 'kept', telemetry);
    expect(changes).toEqual([]);
    const { config } = await log.manager.streams.info(streamName);
    await log.manager.streams.update(streamName, { ...config, max_bytes: 1_000_000, description: 'changed by hand' });
    await log.manager.consumers.update(streamName, consumerName('kept'), { max_ack_pending: 7 });
    await keepLog(log, bounds, 'kept', telemetry);
    expect(changes).toEqual(['the stream FRAMES updated', 'the consumer store-kept updated']);
    expect((await log.manager.streams.info(streamName)).config).toMatchObject({
      subjects: ['fr.v1.>'],
      storage: 'file',
      compression: 's2',
      discard: 'old',
      max_bytes: bounds.bytes,
      max_age: bounds.age_ms * 1e6,
      duplicate_window: 120e9,
    });
  });

  test('says how many messages its bound removed before they were stored', async () => {
    await using small = await startNats();
    const own = await connectLog(small.url);
    const telemetry = new Telemetry('silent');
    await keepLog(own, { age_ms: day, bytes: 200_000 }, 'slow', telemetry);
    for (let count = 0; count < 50; count++)
      await own.jetstream.publish(`${prefix}.default.frame.web`, randomBytes(10_000));
    const { state } = await own.manager.streams.info(streamName);
    expect(state.first_seq).toBeGreaterThan(1);
    const enough = new AbortController();
    const watching = new Bounds({ log: own, store: 'slow', settings: store(), telemetry, clock: systemClock }).run(
      enough.signal,
    );
    await eventually('a count', async () =>
      (await counted(telemetry, 'log_overtaken_messages_total')) === state.first_seq - 1 ? true : undefined,
    );
    enough.abort();
    await watching;
    await own.connection.close();
  });
});

const eventAt = (seconds: number) => ({
  timestamp_seconds: [seconds],
  kind: ['process'],
  action: ['start'],
  entity: ['1'],
});

describe('ingest', () => {
  test('puts aside what can not be stored, with the reason, and stores the rest', async () => {
    await using collector = await collect('aside');
    const agent = new Agent('aside');
    const now = Date.now() * 1000;
    const good = () => agent.publish();
    await good();
    await agent.send(Buffer.from('this is no frame'));
    await good();
    const cut = encodeFrame(agent.frame()).subarray(0, 40);
    await agent.send(cut, 'cut');
    // What a later version may record is not for this one.
    await agent.send(Buffer.from('something new'), 'later', `${prefix}.${tenant}.later.aside`);
    await agent.publish({ time_us: now + 11 * minute * 1000 });
    await agent.publish({ time_us: now + 9 * minute * 1000 });
    await agent.publish({ time_us: now - 31 * day * 1000 });
    await agent.publish({ interval_ms: 4_000_000_000 });
    await agent.publish({ tables: { event: eventAt(now / 1e6 + 11 * 60) } as Frame['tables'] });
    await agent.publish({ tables: { event: eventAt(now / 1e6 - 11 * 60) } as Frame['tables'] });
    await good();
    await stored('aside', 5);
    await drained('aside');
    const letters = await deadLetters('aside');
    expect(letters.map(({ reason }) => reason)).toEqual(
      expect.arrayContaining([
        expect.stringMatching(/^not a frame|^the sequence is/),
        expect.stringMatching(/too early|not a frame/),
        "the frame's time is 11 minutes in the future: the host's clock is wrong",
        expect.stringMatching(/^the frame's time is 44640 minutes in the past: older than the store keeps rows$/),
        expect.stringMatching(/interval_ms/),
        'a row of the frame has a time that is more than 10 minutes in the future',
      ]),
    );
    expect(letters).toHaveLength(6);
    expect(new Set(letters.map(({ from }) => from))).toEqual(new Set([agent.subject]));
    expect(letters.some(({ bytes }) => Buffer.from(bytes).equals(cut))).toBe(true);
    expect(await counted(collector.telemetry, 'dead_letters_total')).toBe(6);
    expect(await counted(collector.telemetry, 'frames_stored_total')).toBe(5);
    expect(collector.telemetry.missing().map(({ dependency }) => dependency)).not.toContain('ingest');
  });

  test('puts aside what can not be stored, whatever ids others gave their messages', async () => {
    const { state } = await log.manager.streams.info(streamName);
    const foreseeing = new Agent('foreseeing');
    const ids = Array.from({ length: 100 }, (_, index) => state.last_seq + 51 + index);
    for (const id of ids) await foreseeing.send(encodeFrame(foreseeing.frame()), `dead-${id}`);
    const agent = new Agent('foreseen');
    await agent.send(Buffer.from('this is no frame'));
    expect((await log.manager.streams.info(streamName)).state.last_seq).toBeLessThanOrEqual(ids.at(-1) ?? 0);
    await using _ = await collect('foreseen');
    await drained('foreseen');
    expect(await deadLetters('foreseen')).toHaveLength(1);
    // Who puts the same aside does so once.
    await using again = await collect('foreseen-copy');
    await drained('foreseen-copy');
    expect(await counted(again.telemetry, 'dead_letters_total')).toBeGreaterThan(0);
    expect(await deadLetters('foreseen')).toHaveLength(1);
  });

  test('takes batches: each frame as if it had come alone, what can not be stored put aside by itself', async () => {
    await using _ = await collect('batch');
    const agent = new Agent('batch');
    const batches = subject({ tenant, kind: 'batch', host: 'batch' });
    const now = Date.now() * 1000;
    const good = Array.from({ length: 20 }, () => encodeFrame(agent.frame()));
    const damaged = Buffer.from('this is no frame');
    const old = encodeFrame(agent.frame({ time_us: now - 31 * day * 1000 }));
    await agent.send(encodeBatch([...good.slice(0, 10), damaged, old, ...good.slice(10)]), 'first', batches);
    // Frames that come twice are the same rows.
    await agent.send(encodeBatch([...good, encodeFrame(agent.frame())]), 'second', batches);
    await agent.send(damaged, 'third', batches);
    await agent.publish();
    await stored('batch', 22);
    await drained('batch');
    const letters = await deadLetters('batch');
    expect(letters.map(({ from }) => from).toSorted()).toEqual([batches, agent.subject, agent.subject]);
    expect(letters.map(({ reason }) => reason).toSorted()).toEqual([
      expect.stringMatching(/^not a batch/),
      expect.stringMatching(/^not a frame/),
      expect.stringMatching(/44640 minutes in the past/),
    ]);
    expect(letters.some(({ bytes }) => Buffer.from(bytes).equals(Buffer.from(old)))).toBe(true);
    // Rows of another table are seen at another moment than those of the frames.
    await eventually('all rows', async () => {
      const [[rows] = []] = await query(`SELECT count() FROM cpu WHERE host = 'batch'`);
      expect(rows).toBe(3 * 22);
      return true;
    });
  });

  test('keeps the newest version of a row that grows, in whatever order its frames come', async () => {
    const agent = new Agent('grown');
    const begin_s = Math.floor(Date.now() / 1000) - 60;
    const models = (...requests: number[]) =>
      ({
        llm_session: {
          timestamp_seconds: requests.map(() => begin_s),
          server: requests.map(() => 'a server'),
          model: requests.map((_, index) => `model-${index}`),
          requests_count: requests,
        },
      }) as unknown as Tables;
    await using collector = await collect('grown');
    const wait = (requests: number) =>
      eventually('sessions', async () => {
        const rows = await query(`SELECT model, requests_count FROM llm_session WHERE host = 'grown' ORDER BY model`);
        const found = rows.map(([, count]) => count);
        if (found.join() !== [requests, 5].join()) throw new Error(`there are ${found.join()}`);
        return true;
      });
    // Two frames that the disk took, while those after them are sent; the second session is of the first of them alone.
    const spooled = [models(1, 5), models(2)].map((tables) => encodeFrame(agent.frame({ tables })));
    await agent.publish({ tables: models(3) });
    await stored('grown', 1);
    await agent.send(encodeBatch(spooled), 'late', subject({ tenant, kind: 'batch', host: 'grown' }));
    await stored('grown', 3);
    await wait(3);
    expect(await counted(collector.telemetry, 'rows_older_total')).toBe(2);
    // Sent again, it is the newest all the same; so is what comes of the agent's next start.
    await agent.publish({ tables: models(4) });
    await stored('grown', 4);
    const next = new Agent('grown');
    await next.publish({ tables: models(7) });
    await stored('grown', 5);
    await wait(7);
  });

  test('keeps the newest version of a row when the log delivers an older one again', async () => {
    const agent = new Agent('again');
    const session = (requests: number) =>
      ({
        llm_session: {
          timestamp_seconds: [Math.floor(Date.now() / 60_000) * 60],
          server: ['a server'],
          model: ['a model'],
          requests_count: [requests],
        },
      }) as unknown as Tables;
    await keepLog(log, bounds, 'again', quiet);
    await drainAway('again');
    const first = session(1);
    await agent.publish({ tables: first });
    const consumer = await log.jetstream.consumers.get(streamName, consumerName('again'));
    // Somebody else has the first frame, and gives it back when the second is stored.
    const held = await consumer.next({ expires: 5 * second });
    await using collector = await collect('again');
    const grown = { llm_session: { ...first.llm_session, requests_count: [2] } } as unknown as Tables;
    await agent.publish({ tables: grown });
    await stored('again', 1);
    held?.nak();
    await stored('again', 2);
    await drained('again');
    expect(await counted(collector.telemetry, 'rows_older_total')).toBe(1);
    await eventually('the newest version', async () => {
      expect(await query(`SELECT requests_count FROM llm_session WHERE host = 'again'`)).toEqual([[2]]);
      return true;
    });
  });

  test('does not stop at a name that can be none, nor at a description of another host', async () => {
    await using _ = await collect('named');
    const agent = new Agent('named');
    await agent.send(encodeFrame(agent.frame()), 'odd', `${prefix}.${tenant}.frame.od$d`);
    await agent.send(encodeHostDescription(description('other')), 'other', `${prefix}.${tenant}.host.named`);
    await agent.publish();
    await stored('named', 1);
    await drained('named');
    const reasons = async (host: string) => (await deadLetters(host)).map(({ reason }) => reason);
    expect(await reasons('od$d')).toEqual([
      `the subject ${prefix}.${tenant}.frame.od$d has no tenant and host that can be names`,
    ]);
    expect(await reasons('named')).toEqual([
      `it is about the host "other", but came as ${prefix}.${tenant}.host.named`,
    ]);
  });

  test('shows a frame within 1.5 s', async () => {
    await using _ = await collect('soon');
    const agent = new Agent('soon');
    await agent.publish();
    await stored('soon', 1);
    const took_ms: number[] = [];
    for (let count = 1; count <= 5; count++) {
      await pause(Math.random() * second);
      const begin = performance.now();
      await agent.publish();
      await stored('soon', count + 1);
      took_ms.push(performance.now() - begin);
    }
    // As a rule: the machine may be busy with other things for a moment.
    expect(took_ms.toSorted((a, b) => a - b)[2], took_ms.join()).toBeLessThan(1500 + second);
  });

  test('of a backlog, all that was read while the store was busy goes into its next write', async () => {
    await keepLog(log, bounds, 'busy', quiet);
    await drainAway('busy');
    const agent = new Agent('busy');
    await Promise.all(Array.from({ length: 2000 }, () => agent.publish()));
    // The second that reading takes at most is over after the first pull.
    const clock = { ...systemClock, monotonic_ms: () => 1e6 * systemClock.monotonic_ms() };
    questdb.freeze();
    const begun = collect('busy', new Telemetry('silent'), clock);
    await eventually('all messages', async () => {
      const { num_pending } = await log.manager.consumers.info(streamName, consumerName('busy'));
      return num_pending === 0 ? true : undefined;
    }).finally(() => questdb.thaw());
    await using collector = await begun;
    await stored('busy', 2000);
    expect(await counted(collector.telemetry, 'store_requests_total')).toBe(2);
  });

  test('is shared by two collectors: every frame is stored, each by one of them', async () => {
    await using one = await collect('shared');
    await using two = await collect('shared');
    await drained('shared');
    const before =
      (await counted(one.telemetry, 'frames_stored_total')) + (await counted(two.telemetry, 'frames_stored_total'));
    const agents = Array.from({ length: 20 }, (_, index) => new Agent(`shared-${index}`));
    for (let count = 0; count < 100; count++) await Promise.all(agents.map((agent) => agent.publish()));
    await stored('shared', 2000);
    await drained('shared');
    const shares = [
      await counted(one.telemetry, 'frames_stored_total'),
      await counted(two.telemetry, 'frames_stored_total'),
    ];
    expect((shares[0] ?? 0) + (shares[1] ?? 0)).toBe(2000 + before);
    expect(Math.min(...shares)).toBeGreaterThan(0);
  });

  test('goes on when somebody removes its consumer', async () => {
    await using _ = await collect('removed');
    const agent = new Agent('removed');
    await agent.publish();
    await stored('removed', 1);
    await log.manager.consumers.delete(streamName, consumerName('removed'));
    await agent.publish();
    await stored('removed', 2);
  });
});

const description = (host: string, more: Partial<HostDescription> = {}) =>
  describedHost(host, { tags: { room: '1' }, ...more });

test('the registry knows what hosts say and who was refused, in every collector, also after NATS was away', async () => {
  await using one = await collect('registry');
  await using two = await collect('registry');
  const changed: string[] = [];
  two.registry.onChange((_, host) => changed.push(host));
  const agent = new Agent('web_1');
  const tell = (text: string, time_us: number) =>
    agent.send(
      encodeHostDescription(description('web.1', { os: text, time_us })),
      `${text}`,
      subject({ tenant, kind: 'host', host: 'web.1' }),
    );
  const refuse = (machine_id: string, time_us: number) =>
    agent.send(
      encodeHostRefusal({
        host: 'web.1',
        machine_id,
        addresses: ['10.0.0.2'],
        holder_machine_id: 'a'.repeat(32),
        holder_addresses: ['10.0.0.1'],
        time_us,
        reason: 'the name is held',
      }),
      `${machine_id}-${time_us}`,
      subject({ tenant, kind: 'refusal', host: 'web.1' }),
    );
  const now = Date.now() * 1000;
  await tell('newer', now);
  await tell('older', now - 1e6);
  for (let index = 0; index < 12; index++) await refuse(`machine-${index}`, now + index);
  await refuse('machine-11', now + 100);
  await drained('registry');
  for (const { registry } of [one, two]) {
    const entry = await eventually('the entry', async () => {
      const found = registry.get(tenant, 'web_1');
      return found?.refusals[0]?.time_us === now + 100 ? found : undefined;
    });
    expect(entry).toMatchObject({
      tenant,
      host: 'web_1',
      description: { os: 'newer', host: 'web.1', tags: { room: '1' } },
    });
    expect(entry.refusals).toHaveLength(10);
    expect(entry.refusals.map(({ machine_id }) => machine_id).slice(0, 3)).toEqual([
      'machine-11',
      'machine-10',
      'machine-9',
    ]);
    expect(registry.list(tenant).map(({ host }) => host)).toContain('web_1');
    expect(registry.list('other')).toEqual([]);
  }
  expect(changed).toContain('web_1');

  await nats.kill();
  await nats.restart();
  await tell('newest', now + 2e6);
  await eventually('the newest in both', async () =>
    [one, two].every(({ registry }) => registry.get(tenant, 'web_1')?.description?.os === 'newest') ? true : undefined,
  );
  await one.registry.forget(tenant, 'web_1');
  await eventually('forgotten in both', async () =>
    [one, two].every(({ registry }) => registry.get(tenant, 'web_1') === undefined) ? true : undefined,
  );
});

describe('a part is killed while 20 hosts report', () => {
  let collector: Program;
  let flags: string[];

  const start = async () => {
    collector = await startProgram('packages/collector/src/main.ts', ['run', ...flags], questdb.environment);
  };

  beforeEach(async () => {
    const port = await freePort();
    const own = ['--http-port', `${port}`, '--grpc-port', '0', '--store', 'killed'];
    flags = ['--nats-url', nats.url, ...own];
    await start();
    await eventually('readiness', async () =>
      (await fetch(`http://127.0.0.1:${port}/readyz`)).status === 200 ? true : undefined,
    );
    return async () => {
      await collector.stop();
    };
  });

  /** Publishes at some 200 frames a second while a fault comes and goes; then every frame is stored, once. */
  async function survives(name: string, fault: () => Promise<void>): Promise<void> {
    const agents = Array.from({ length: 20 }, (_, index) => new Agent(`${name}-${index}`));
    let over = false;
    const load = Promise.all(
      agents.map(async (agent) => {
        while (!over) {
          await agent.publish();
          await pause(100);
        }
      }),
    );
    await pause(2 * second);
    await fault();
    await pause(2 * second);
    over = true;
    await load;
    const frames = agents.reduce((sum, { sequence }) => sum + sequence, 0);
    await stored(`${name}-`, frames, minute);
    const found = await query(
      `SELECT host, count(), count_distinct(sequence), min(sequence), max(sequence) FROM frame WHERE host LIKE '${name}-%'`,
    );
    expect(found.toSorted(([a], [b]) => String(a).localeCompare(String(b)))).toEqual(
      agents
        .map(({ host, sequence }) => [host, sequence, sequence, 1, sequence])
        .toSorted(([a], [b]) => String(a).localeCompare(String(b))),
    );
    // Three cores a frame, each once.
    await eventually('all rows of cpu', async () => {
      const [[rows] = []] = await query(`SELECT count() FROM cpu WHERE host LIKE '${name}-%'`);
      return rows === 3 * frames ? true : undefined;
    });
  }

  test('the collector, twice', async () => {
    await survives('collector', async () => {
      for (let time = 0; time < 2; time++) {
        await collector.kill();
        await pause(second);
        await start();
        await collector.line(/ingest is ready/);
        await pause(second);
      }
    });
  });

  test('QuestDB: ingest waits, says so, and goes on', async () => {
    await survives('questdb', async () => {
      await questdb.kill();
      await collector.line(/questdb can't be used/);
      await pause(3 * second);
      await questdb.restart();
      await collector.line(/questdb is ready/);
    });
  });

  test('nats-server', async () => {
    await survives('nats', async () => {
      await nats.kill();
      await collector.line(/nats can't be used/);
      await pause(2 * second);
      await nats.restart();
    });
  });

  test('stopping finishes what was fetched, and is quick', async () => {
    const agent = new Agent('stopping');
    for (let count = 0; count < 300; count++) await agent.publish();
    const begin = performance.now();
    expect(await collector.stop()).toMatchObject({ code: 0 });
    expect(performance.now() - begin).toBeLessThan(5 * second);
    const { num_ack_pending } = await log.manager.consumers.info(streamName, consumerName('killed'));
    expect(num_ack_pending).toBe(0);
  });
});

// The last: every store that is new reads what it left in the log.
test('ingest takes batches that unfold to more than one write holds', async () => {
  await using _ = await collect('unfold');
  const agent = new Agent('unfold');
  const cores = Array.from({ length: 2000 }, (_, index) => `${index}`);
  const cpu = { core: cores, used_percent: cores.map((_, index) => index) };
  const batches = subject({ tenant, kind: 'batch', host: 'unfold' });
  for (let count = 0; count < 20; count++) {
    const frames = Array.from({ length: 50 }, () =>
      encodeFrame(agent.frame({ time_us: Date.now() * 1000 + agent.sequence, tables: { cpu } as unknown as Tables })),
    );
    await agent.send(encodeBatch(frames), `unfold-${count}`, batches);
  }
  await stored('unfold', 1000, minute);
  await drained('unfold');
  await eventually('all rows', async () => {
    const [[rows] = []] = await query(`SELECT count() FROM cpu WHERE host = 'unfold'`);
    return rows === 1000 * cores.length ? true : undefined;
  });
});
