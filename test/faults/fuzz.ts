// Hostile frames: what no agent sends is published into the log of a running stack, beside frames that are well. By a seed, so
// that a run can be had again:
//   node test/faults/fuzz.ts --minutes 5 [--seed 123]
import { connect as connectSocket } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { zstdCompressSync } from 'node:zlib';
import { encodeFrame, type Frame, fromHex, prefix, root, scanFrame, subject } from '@fleetreel/proto';
import { encodeBatch } from '@fleetreel/proto/batch';
import type { DeadLetters, LiveMessage } from '@fleetreel/proto/http';
import { type JetStreamClient, jetstream, jetstreamManager } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { memoryOf } from '../numbers/process.ts';
import { errorLevel, eventually, logOf, Stack } from '../stack.ts';

const mebibyte = 1024 * 1024;
/** What NATS takes at most, as the stack configures it. */
const messageBytesMax = mebibyte;
/** Resident memory of the collector at most, whatever is sent: two buffers of a write, a pull, and the newest frames. */
const residentBytesMax = 900 * mebibyte;
const goodHosts = ['good-0', 'good-1', 'good-2', 'good-3'];
const badHosts = 8;
/** Messages published at once. */
const window = 16;
/** Pause between two windows, milliseconds: it is meant to be hostile, not heavy. */
const pauseMilliseconds = 100;
const year = 365 * 86_400_000;

/** What has to become of a message. */
type Fate =
  /** Stored once, as this frame. */
  | { stored: { session: string; sequence: number }[] }
  /** So many dead letters, for one of these reasons. */
  | { dead: string[]; count: number }
  /** Either: nobody can say beforehand whether what was spoiled is still a frame. */
  | 'accounted';

type Attack = { kind?: 'frame' | 'batch' | 'host' | 'refusal'; host?: string; bytes: Uint8Array; fate: Fate };

export type FuzzReport = {
  seed: number;
  sent: Record<string, number>;
  good: number;
  dead: number;
  residentBytes: { begin: number; most: number; end: number };
};

/** Random numbers of a seed: mulberry32. */
class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed;
  }

  /** From 0 to below 1. */
  number(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  below(limit: number): number {
    return Math.floor(this.number() * limit);
  }

  bytes(count: number): Buffer {
    return Buffer.from(Array.from({ length: count }, () => this.below(256)));
  }

  session(): string {
    return this.bytes(8).toString('hex');
  }
}

const frameType = root.lookupType('fleetreel.v1.Frame');
const batchType = root.lookupType('fleetreel.v1.FrameBatch');

/** A frame as the contract allows it to be written, right or wrong. */
function raw(random: Random, more: Record<string, unknown> = {}): Uint8Array {
  const header = { session: fromHex(random.session()), sequence: 1, time_us: Date.now() * 1000, interval_ms: 1000 };
  return frameType.encode({ ...header, memory: { used_percent: [50] }, ...more }).finish();
}

/** A frame that is well, and its identity. */
function good(random: Random, tables?: Record<string, Record<string, readonly (string | number)[]>>, session?: string) {
  const identity = { session: session ?? random.session(), sequence: 1 + random.below(1e6) };
  const bytes = encodeFrame({
    ...identity,
    time_us: Date.now() * 1000 + random.below(1000),
    interval_ms: 1000,
    tables: (tables ?? {
      cpu: { core: ['total', '0', '1'], used_percent: [1, 2, 3] },
      memory: { used_percent: [random.below(100)], total_bytes: [2 ** 33] },
      filesystem: { mount: ['/', '/home'], device: ['a', 'b'], type: ['ext4', 'xfs'], size_bytes: [1, 2] },
    }) as unknown as Frame['tables'],
  });
  return { bytes, identity };
}

const dead = (bytes: Uint8Array, ...reasons: string[]): Attack => ({ bytes, fate: { dead: reasons, count: 1 } });
const stored = ({ bytes, identity }: ReturnType<typeof good>): Attack => ({ bytes, fate: { stored: [identity] } });
const batchOf = (frames: readonly Uint8Array[], count = frames.length): Uint8Array =>
  zstdCompressSync(batchType.encode({ frames, frame_count: count }).finish());

/** Everything that is tried, by its name; those of the second list are large, and rare. */
const attacks: Record<string, (random: Random) => Attack> = {
  garbage: (random) => ({ bytes: random.bytes(random.below(2000)), fate: 'accounted' }),
  empty: () => dead(new Uint8Array(), 'undecodable'),
  truncated: (random) => {
    const { bytes } = good(random);
    return { bytes: bytes.subarray(0, random.below(bytes.length)), fate: 'accounted' };
  },
  'bit-flipped': (random) => {
    const bytes = Buffer.from(good(random).bytes);
    for (let flips = 1 + random.below(8); flips > 0; flips--) {
      const at = random.below(bytes.length);
      bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
    }
    return { bytes, fate: 'accounted' };
  },
  'not available and infinite': (random) =>
    stored(
      good(random, { memory: { used_percent: [Number.POSITIVE_INFINITY], total_bytes: [Number.NEGATIVE_INFINITY] } }),
    ),
  'all not available': (random) => stored(good(random, { cpu: { core: ['a'], used_percent: [Number.NaN] } })),
  'time of 1970': (random) => dead(raw(random, { time_us: 1 }), 'expired'),
  'time of 2100': (random) => dead(raw(random, { time_us: (Date.now() + 74 * year) * 1000 }), 'future'),
  'time before 1970': (random) => dead(raw(random, { time_us: -1e15 }), 'undecodable'),
  'no time': (random) => dead(raw(random, { time_us: 0 }), 'undecodable'),
  'no sequence': (random) => dead(raw(random, { sequence: 0 }), 'undecodable'),
  'no interval': (random) => dead(raw(random, { interval_ms: 0 }), 'undecodable'),
  'sequence beyond what a number holds': (random) => ({
    bytes: raw(random, { sequence: fromHex(random.session()) }),
    fate: 'accounted',
  }),
  'sequence going back': (random) => {
    const session = random.session();
    const frames = [good(random, undefined, session), good(random, undefined, session)];
    frames.sort((a, b) => b.identity.sequence - a.identity.sequence);
    return {
      kind: 'batch',
      bytes: encodeBatch(frames.map(({ bytes }) => bytes)),
      fate: { stored: frames.map(({ identity }) => identity) },
    };
  },
  'columns of different lengths': (random) =>
    dead(raw(random, { cpu: { core: ['a', 'b'], used_percent: [1, 2, 3] } }), 'undecodable'),
  'rows without their key': (random) => dead(raw(random, { cpu: { used_percent: [1, 2] } }), 'undecodable'),
  'half a value': (random) =>
    // Field 12 (memory), which holds field 4 (used_percent) of 7 bytes.
    dead(Buffer.concat([good(random).bytes, tableOf('memory', [0x22, 7, 1, 2, 3, 4, 5, 6, 7])]), 'undecodable'),
  'wrong wire types': (random) => ({
    bytes: Buffer.concat([good(random).bytes, tableOf('memory', [0x20, 1, 0x25, 1, 2, 3, 4, 0x23, 0x24])]),
    fate: 'accounted',
  }),
  'wrong wire types of the header': (random) => ({
    bytes: Buffer.concat([Buffer.from([[0x0a, 0x10, 0x1d, 0x25][random.below(4)] ?? 0, 4]), raw(random)]),
    fate: 'accounted',
  }),
  'unknown fields': (random) => {
    const frame = good(random);
    const unknown = [
      Buffer.from([0xf8, 0x3f, 1]),
      Buffer.from([0xfa, 0x7f, 3, 1, 2, 3]),
      tableOf('memory', [0xf8, 0x3f, 1]),
    ];
    return stored({ ...frame, bytes: Buffer.concat([frame.bytes, ...unknown]) });
  },
  'text that is none': (random) =>
    stored({
      ...good(random),
      ...spoiledLabel(random),
    }),
  'event of the future': (random) =>
    dead(
      raw(random, { event: { timestamp_seconds: [4e9], kind: ['vm'], action: ['start'], entity: ['a'] } }),
      'future',
    ),
  'event of no time': (random) => ({
    bytes: raw(random, {
      event: {
        timestamp_seconds: [Number.NaN, Number.NEGATIVE_INFINITY, -1e300, 0],
        kind: ['a', 'b', 'c', 'd'],
        action: ['a', 'b', 'c', 'd'],
        entity: ['a', 'b', 'c', 'd'],
      },
    }),
    fate: 'accounted',
  }),
  'labels that would be other lines': (random) =>
    stored(
      good(random, {
        filesystem: {
          mount: ['a\nb,host=other c=1', '\\', '=, "', '\u0000\u001b[31m', '\u202e', '{"x"}'],
          size_bytes: [1, 2, 3, 4, 5, 6],
        },
      }),
    ),
  'name that can not be one': (random) => ({ ...dead(good(random).bytes, 'unnamed'), host: `-${random.below(9)}-` }),
  'garbage as a host': (random) => ({ ...dead(random.bytes(300), 'undecodable', 'unnamed'), kind: 'host' }),
  'garbage as a refusal': (random) => ({ ...dead(random.bytes(300), 'undecodable', 'unnamed'), kind: 'refusal' }),
  'garbage as a batch': (random) => ({ ...dead(random.bytes(500), 'undecodable'), kind: 'batch' }),
  'frame as a batch': (random) => ({ ...dead(good(random).bytes, 'undecodable'), kind: 'batch' }),
  'batch as a frame': (random) => dead(encodeBatch([good(random).bytes]), 'undecodable'),
  'batch that says another count': (random) => ({
    ...dead(batchOf([good(random).bytes, good(random).bytes], 3), 'undecodable'),
    kind: 'batch',
  }),
  'batch of too many': (random) => ({
    ...dead(batchOf(Array.from({ length: 2000 }, () => raw(random))), 'undecodable'),
    kind: 'batch',
  }),
  'batch of garbage': () => ({
    kind: 'batch',
    bytes: batchOf(Array.from({ length: 20 }, () => Buffer.from([0xff]))),
    fate: { dead: ['undecodable'], count: 20 },
  }),
  'batch of which one is bad': (random) => {
    const frames = Array.from({ length: 5 }, () => good(random));
    const bytes = frames.map((frame) => frame.bytes).toSpliced(random.below(6), 0, Buffer.from('no frame'));
    return { kind: 'batch', bytes: encodeBatch(bytes), fate: { stored: frames.map(({ identity }) => identity) } };
  },
};
const largeAttacks: typeof attacks = {
  'label of 64 KB': (random) =>
    stored(good(random, { filesystem: { mount: [`${'x'.repeat(64 * 1024)}${random.below(1e9)}`], size_bytes: [1] } })),
  'as much as a message takes': () => dead(Buffer.alloc(messageBytesMax, 0xff), 'undecodable'),
  'half a million rows': (random) =>
    dead(Buffer.concat([raw(random), tableOf('cpu', Buffer.alloc(900_000, Buffer.from([0x0a, 0x00])))]), 'undecodable'),
  'a million rows in a batch': (random) => ({
    ...dead(
      batchOf([Buffer.concat([raw(random), tableOf('cpu', Buffer.alloc(2_000_000, Buffer.from([0x0a, 0x00])))])]),
      'undecodable',
    ),
    kind: 'batch',
  }),
  'batch that unfolds to 64 MB': () => ({
    ...dead(zstdCompressSync(Buffer.alloc(64 * mebibyte)), 'undecodable'),
    kind: 'batch',
  }),
};

/** The bytes of a table within a frame. */
function tableOf(name: string, content: Uint8Array | readonly number[]): Buffer {
  const bytes = Buffer.from(content);
  const tag = varint(((frameType.fields[name]?.id ?? 0) << 3) | 2);
  return Buffer.concat([tag, varint(bytes.length), bytes]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  for (let rest = value; ; rest = Math.floor(rest / 128)) {
    if (rest < 128) return Buffer.from([...bytes, rest]);
    bytes.push((rest % 128) | 0x80);
  }
}

/** A frame with a label that is no UTF-8. */
function spoiledLabel(random: Random): ReturnType<typeof good> {
  const frame = good(random, { cpu: { core: ['~~~~~~'], used_percent: [1] } });
  const bytes = Buffer.from(frame.bytes);
  bytes.write('fffe80c0edff', bytes.indexOf('~~~~~~'), 'hex');
  return { ...frame, bytes };
}

/** Publishes hostile and good frames for so long and looks at what became of each. @throws Error that says what is wrong */
export async function fuzz({ milliseconds, seed }: { milliseconds: number; seed: number }): Promise<FuzzReport> {
  await using stack = await Stack.start();
  await using closing = new AsyncDisposableStack();
  const connection = await connect({ servers: stack.nats.url, noAsyncTraces: true });
  closing.defer(() => connection.close());
  const client = jetstream(connection);
  const random = new Random(seed);
  const live = new LiveReader(stack.address);
  closing.use(live);
  const { pid } = stack.collector;
  const begin = memoryOf(pid).resident;
  let most = begin;
  const watching = setInterval(() => {
    most = Math.max(most, memoryOf(pid).resident);
  }, 1000);
  closing.defer(() => clearInterval(watching));

  const sent: Record<string, number> = {};
  const expected: Expected[] = [];
  const goodOnes: { host: string; session: string; sequence: number }[] = [];
  const sessions = goodHosts.map(() => random.session());
  let lastRound = 0;
  for (let round = 1, end = performance.now() + milliseconds; performance.now() < end; round++) {
    const published: Promise<unknown>[] = [];
    lastRound = Date.now();
    for (const [index, host] of goodHosts.entries()) {
      goodOnes.push({ host, session: sessions[index] as string, sequence: round });
      published.push(publishGood(client, host, sessions[index] as string, round));
    }
    for (let count = 0; count < window; count++) {
      const of = round % 10 === 0 && count < 2 ? largeAttacks : attacks;
      const [name, make] = Object.entries(of)[random.below(Object.keys(of).length)] as [
        string,
        (typeof attacks)[string],
      ];
      sent[name] = (sent[name] ?? 0) + 1;
      const attack = make(random);
      const host = attack.host ?? `fuzz-${random.below(badHosts)}`;
      const to = `${prefix}.default.${attack.kind ?? 'frame'}.${host}`;
      published.push(
        client.publish(to, attack.bytes).then(({ seq }) => expected.push({ name, host, attack, sequence: seq })),
      );
    }
    await Promise.all(published);
    if (round % 50 === 1) await refusedByServer(stack.nats.port);
    await pause(pauseMilliseconds);
  }

  const manager = await jetstreamManager(connection);
  await eventually('an empty consumer', 120_000, async () => {
    const { num_pending, num_ack_pending } = await manager.consumers.info('FRAMES', 'store-main');
    return num_pending + num_ack_pending === 0 ? true : undefined;
  });
  await live.sees(goodHosts, lastRound);
  const letters = await deadLetters(stack.address);
  const faults = [
    ...(await notStoredOnce(stack, goodOnes)),
    ...(await notAsFated(stack, expected, letters)),
    ...(await counted(stack, letters.length)),
  ];
  if (stack.collector.pid !== pid) faults.push('the collector was started anew');
  for (const line of logOf(stack.collector))
    if (line.level >= errorLevel && line.msg !== 'a message was put aside') faults.push(JSON.stringify(line));
  if (most > residentBytesMax) faults.push(`the collector's memory reached ${Math.round(most / mebibyte)} MiB`);
  if (faults.length > 0) throw new Error(`seed ${seed}: ${faults.length} faults:\n${faults.slice(0, 20).join('\n')}`);
  return {
    seed,
    sent,
    good: goodOnes.length,
    dead: letters.length,
    residentBytes: { begin, most, end: memoryOf(pid).resident },
  };
}

type Expected = { name: string; host: string; attack: Attack; sequence: number };

async function publishGood(client: JetStreamClient, host: string, session: string, sequence: number): Promise<void> {
  const bytes = encodeFrame({
    session,
    sequence,
    time_us: Date.now() * 1000,
    interval_ms: 1000,
    tables: { memory: { used_percent: [sequence % 100] } } as unknown as Frame['tables'],
  });
  await client.publish(subject({ tenant: 'default', kind: 'frame', host }), bytes, { msgID: `${session}-${sequence}` });
}

/** The server takes no message of 64 MB: it closes the connection before it has come. */
async function refusedByServer(port: number): Promise<void> {
  const socket = connectSocket({ host: '127.0.0.1', port });
  let said = '';
  const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
  socket.on('data', (bytes) => {
    said += bytes.toString('latin1');
  });
  // However it ends: what counts is what was said.
  socket.on('error', () => undefined);
  socket.write(`CONNECT {"verbose":false}\r\nPUB ${prefix}.default.frame.fuzz-0 ${64 * mebibyte}\r\n`);
  await closed;
  if (!/Maximum Payload Violation/i.test(said)) throw new Error(`nats-server took 64 MB: ${said.slice(-200)}`);
}

type Letter = DeadLetters['letters'][number];

async function deadLetters(address: string): Promise<Letter[]> {
  const letters: Letter[] = [];
  for (let before = ''; ; ) {
    const answer = await fetch(`${address}/api/v1/dead-letters?limit=1000${before}`);
    if (!answer.ok) throw new Error(`dead letters: ${answer.status} ${await answer.text()}`);
    const page = (await answer.json()) as DeadLetters;
    letters.push(...page.letters);
    if (page.before === null) return letters;
    before = `&before=${page.before}`;
  }
}

/** How often each frame is in the store, by host, session and sequence. */
async function storedFrames(stack: Stack, hosts: string): Promise<Map<string, number>> {
  const { rows } = await stack.questdb.query(
    `SELECT host, session, sequence, count() FROM frame WHERE host LIKE '${hosts}' GROUP BY host, session, sequence`,
  );
  return new Map(rows.map((row) => [row.slice(0, 3).join(' '), Number(row[3])]));
}

async function notStoredOnce(
  stack: Stack,
  frames: readonly { host: string; session: string; sequence: number }[],
): Promise<string[]> {
  const found = await storedFrames(stack, 'good-%');
  return frames.flatMap(({ host, session, sequence }) => {
    const count = found.get(`${host} ${session} ${sequence}`) ?? 0;
    return count === 1 ? [] : [`the good frame ${sequence} of ${host} is stored ${count} times`];
  });
}

async function notAsFated(stack: Stack, expected: readonly Expected[], letters: readonly Letter[]): Promise<string[]> {
  const found = await storedFrames(stack, 'fuzz-%');
  const bySequence = Map.groupBy(letters, ({ originalSequence }) => originalSequence);
  return expected.flatMap(({ name, host, attack: { fate, bytes }, sequence }) => {
    const own = bySequence.get(sequence) ?? [];
    const said = own.map(({ reason, detail }) => `${reason} (${detail})`).join(', ') || 'nothing';
    const fault = (what: string) => [`${name}, message ${sequence}: ${what}; its dead letters say ${said}`];
    if (own.some(({ detail }) => detail === '')) return fault('a dead letter has no reason');
    if (fate === 'accounted') return own.length === 1 || isStored(host, bytes, found) ? [] : fault('it is nowhere');
    if ('dead' in fate)
      return own.length === fate.count && own.every(({ reason }) => fate.dead.includes(reason))
        ? []
        : fault(`there are ${own.length} dead letters, not ${fate.count} of ${fate.dead.join(' or ')}`);
    return fate.stored.every((frame) => found.get(`${host} ${frame.session} ${frame.sequence}`) === 1)
      ? []
      : fault('it is not stored once');
  });
}

function isStored(host: string, bytes: Uint8Array, found: ReadonlyMap<string, number>): boolean {
  try {
    const { session, sequence } = scanFrame(bytes);
    return found.has(`${host} ${session} ${sequence}`);
  } catch {
    return false;
  }
}

/** The counters have to agree with what is there. */
async function counted(stack: Stack, letters: number): Promise<string[]> {
  const page = await (await fetch(`${stack.address}/metrics`)).text();
  const sum = (name: string) =>
    [...page.matchAll(new RegExp(`^fleetreel_collector_${name}(?:\\{[^}]*\\})? (\\S+)$`, 'gm'))].reduce(
      (total, [, value]) => total + Number(value),
      0,
    );
  const faults: string[] = [];
  if (sum('dead_letters_total') !== letters)
    faults.push(`${sum('dead_letters_total')} dead letters are counted, and ${letters} are there`);
  if (sum('ingest_errors_total') !== 0) faults.push(`${sum('ingest_errors_total')} failures to read from the log`);
  return faults;
}

/** A reader of the console's kind, which stays connected all the time. */
class LiveReader implements Disposable {
  readonly #socket: WebSocket;
  readonly #seen = new Map<string, number>();
  #closed = false;

  constructor(address: string) {
    this.#socket = new WebSocket(`${address.replace('http', 'ws')}/api/v1/live`);
    this.#socket.addEventListener('open', () =>
      this.#socket.send(JSON.stringify({ type: 'subscribe', id: 'memory', table: 'memory' })),
    );
    this.#socket.addEventListener('close', () => {
      this.#closed = true;
    });
    this.#socket.addEventListener('message', ({ data }) => {
      const message = JSON.parse(String(data)) as LiveMessage;
      if (message.type === 'rows') this.#seen.set(message.host, message.time);
    });
  }

  /** Waits until it has seen frames of these hosts that are of this time or later, milliseconds since 1970. */
  async sees(hosts: readonly string[], since: number): Promise<void> {
    await eventually('live rows of every good host', 30_000, () => {
      if (this.#closed) throw new Error('the connection was closed');
      return hosts.every((host) => (this.#seen.get(host) ?? 0) >= since) ? true : undefined;
    });
  }

  [Symbol.dispose](): void {
    this.#socket.close();
  }
}

if (import.meta.main) {
  const { values } = parseArgs({ options: { minutes: { type: 'string', default: '5' }, seed: { type: 'string' } } });
  const seed = Number(values.seed ?? Math.floor(Math.random() * 2 ** 31));
  const milliseconds = Number(values.minutes) * 60_000;
  if (!Number.isSafeInteger(seed) || !(milliseconds > 0)) throw new Error('Give --minutes NUMBER and --seed INTEGER.');
  console.log(`seed ${seed}, ${values.minutes} minutes`);
  console.log(JSON.stringify(await fuzz({ milliseconds, seed }), null, 2));
}
