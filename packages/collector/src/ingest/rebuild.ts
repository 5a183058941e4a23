// A store filled from the log: by ingest as it is, from a consumer of its own, and verified at the end.
import { randomUUID } from 'node:crypto';
import type { Clock } from '#clock.ts';
import { Ingest } from '#ingest/consumer.ts';
import { LogContent } from '#ingest/verify.ts';
import type { Log } from '#log/connect.ts';
import type { Registry } from '#log/registry.ts';
import { keepStoreFrom, rebuildConsumer, streamName } from '#log/stream.ts';
import type { AdminSettings } from '#store/admin.ts';
import { isVisible, storeContent } from '#store/content.ts';
import type { Rollups } from '#store/rollup.ts';
import type { Writer } from '#store/writer.ts';
import type { Telemetry } from '#telemetry.ts';

/** How often progress is looked at and told, milliseconds. */
const progressMilliseconds = { look: 250, tell: 5000 } as const;
/** Rows of the time before now that are not compared while agents go on: they may still come. */
const liveMilliseconds = 60_000;
/** Rows that the store drops for their age so soon are not compared, milliseconds: verifying takes its time. */
const keptMilliseconds = 6 * 3_600_000;
/** Differences that are told one by one. */
const differencesTold = 20;

export type RebuildParts = {
  log: Log;
  store: string;
  /** Where the log is read from: a time, RFC 3339; all of it when undefined. */
  from: string | undefined;
  settings: AdminSettings;
  rawMilliseconds: number;
  writer: Writer;
  rollups: Rollups;
  registry: Registry;
  telemetry: Telemetry;
  clock: Clock;
  /** Tells the user a line. */
  say: (line: string) => void;
};

/** Fills the store; resolves with whether it then holds what the log holds. */
export async function rebuild(parts: RebuildParts, signal: AbortSignal): Promise<boolean> {
  const { log, store, from, settings, rawMilliseconds, rollups, telemetry, clock, say } = parts;
  const begin_us = clock.now_us();
  const { state } = await log.manager.streams.info(streamName);
  const lastSequence = state.last_seq;
  const newest_us = state.messages === 0 ? 0 : Date.parse(state.last_ts) * 1000;
  // While nobody publishes, everything that was made is in the log.
  const isLive = begin_us - newest_us < liveMilliseconds * 1000;
  const before_us = isLive ? begin_us - liveMilliseconds * 1000 : begin_us;

  const aside = new Set<string>();
  const filled = await fill(parts, lastSequence, aside, signal);
  say(
    `filled: ${count(filled.frames)} frames, ${count(filled.rows)} rows in ${filled.seconds.toFixed(1)} s, ` +
      `${count(filled.rows / filled.seconds)} rows/s${aside.size > 0 ? `; ${count(aside.size)} can't be stored, and were put aside when they came` : ''}`,
  );
  while (!(await isVisible(settings))) await clock.sleep(progressMilliseconds.look, signal);
  say('filling the roll-ups');
  await rollups.fill(signal);
  signal.throwIfAborted();

  say('verifying: the log is read again and counted');
  const content = new LogContent(before_us);
  const told = new Progress(clock, say, state.first_seq, lastSequence);
  const isAside = (sequence: number, index: number | undefined) => aside.has(place(sequence, index));
  await content.read(
    log,
    { from, lastSequence, before_us, after_us: begin_us - (rawMilliseconds - keptMilliseconds) * 1000, isAside },
    (sequence) => told.at(sequence, () => `${count(content.frames)} frames counted`),
    signal,
  );
  const stored = await storeContent(settings, content.earliest_us, before_us);
  const differing = content.differences(stored);
  for (const line of differing.slice(0, differencesTold)) say(`differs: ${line}`);
  const until = `before ${new Date(before_us / 1000).toISOString()}`;
  if (differing.length > 0) {
    say(
      `The store ${store} does not hold what the log holds, in ${differing.length} places. If the log's bounds removed messages meanwhile, or a frame was changed by hand, this is why; otherwise rebuild it again.`,
    );
    return false;
  }
  // What comes from now on, the collector reads where the rebuild ended.
  await keepStoreFrom(log, store, lastSequence + 1, telemetry);
  const left = [
    ...(content.ownTimes ? [] : ['events of hosts']),
    ...(content.writtenCalls ? [] : ['calls of applications']),
  ];
  const notCompared = left.length === 0 ? '' : `; there were too many ${left.join(' and ')} to compare those`;
  say(
    `The store ${store} holds what the log holds: ${count(content.rows)} rows ${until}, by number and sums${notCompared}.`,
  );
  return true;
}

/** Reads the log into the store up to a message. */
async function fill(
  { log, store, from, rawMilliseconds, writer, rollups, registry, telemetry, clock, say }: RebuildParts,
  lastSequence: number,
  aside: Set<string>,
  signal: AbortSignal,
): Promise<{ frames: number; rows: number; seconds: number }> {
  const consumer = `rebuild-${store}-${randomUUID().slice(0, 8)}`;
  await log.manager.consumers.add(streamName, rebuildConsumer(consumer, store, from));
  const filled = { frames: 0, rows: 0, seconds: 0 };
  const begin_ms = clock.monotonic_ms();
  const done = new AbortController();
  const ingest = new Ingest({
    log,
    store,
    consumer,
    aside: (sequence, index) => aside.add(place(sequence, index)),
    keepLog: async () => undefined,
    rawMilliseconds,
    writer,
    registry,
    written: (times, rows) => {
      filled.frames += times.length;
      filled.rows += rows;
      rollups.written(times);
    },
    telemetry,
    clock,
  });
  const running = ingest.run(AbortSignal.any([signal, done.signal]), signal);
  const told = new Progress(clock, say, undefined, lastSequence);
  try {
    for (;;) {
      const info = await log.manager.consumers.info(streamName, consumer);
      const { num_pending, num_ack_pending, ack_floor } = info;
      if (ack_floor.stream_seq >= lastSequence || num_pending + num_ack_pending === 0) break;
      told.of(
        num_pending + num_ack_pending,
        () => `${count(filled.frames)} frames, ${count(filled.rows / told.seconds)} rows/s`,
      );
      await clock.sleep(progressMilliseconds.look, signal);
    }
    filled.seconds = (clock.monotonic_ms() - begin_ms) / 1000;
  } finally {
    done.abort();
    await running;
    await log.manager.consumers.delete(streamName, consumer);
  }
  return filled;
}

/** Tells from time to time how much is done, and how long the rest will take. */
class Progress {
  readonly #clock: Clock;
  readonly #say: (line: string) => void;
  readonly #first: number | undefined;
  readonly #last: number;
  readonly #begin_ms: number;
  #told_ms: number;
  #most = 0;

  constructor(clock: Clock, say: (line: string) => void, first: number | undefined, last: number) {
    this.#clock = clock;
    this.#say = say;
    this.#first = first;
    this.#last = last;
    this.#begin_ms = clock.monotonic_ms();
    this.#told_ms = this.#begin_ms;
  }

  get seconds(): number {
    return (this.#clock.monotonic_ms() - this.#begin_ms) / 1000;
  }

  /** A place in the log is reached. */
  at(sequence: number, what: () => string): void {
    const first = this.#first ?? 0;
    this.#tell((sequence - first) / Math.max(this.#last - first, 1), what);
  }

  /** So many messages are left. */
  of(left: number, what: () => string): void {
    this.#most = Math.max(this.#most, left);
    this.#tell(1 - left / this.#most, what);
  }

  #tell(share: number, what: () => string): void {
    const now_ms = this.#clock.monotonic_ms();
    if (now_ms - this.#told_ms < progressMilliseconds.tell) return;
    this.#told_ms = now_ms;
    const left = share > 0 ? `, ${Math.ceil((this.seconds / share) * (1 - share))} s left` : '';
    this.#say(`${Math.floor(share * 100)} %: ${what()}${left}`);
  }
}

const place = (sequence: number, index: number | undefined): string => `${sequence}/${index ?? ''}`;
const count = (number: number): string => Math.round(number).toLocaleString('en-US');
