// Recorded frames on their way through a command: from the collector or a file, to wherever they are wanted.

import { once } from 'node:events';
import { createWriteStream, type WriteStream } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { contractTexts, decodeFrame, defaultTenant, messageId, prefix, token } from '@fleetreel/proto';
import { frameHeader } from '@fleetreel/proto/bytes';
import { NatsAccess, type NatsSettings } from '@fleetreel/proto/nats_access';
import type { RecordedFrame__Output } from '@fleetreel/proto/services';
import { readTime } from '@fleetreel/proto/time';
import type { ReelFrame, ReelHeader } from '@fleetreel/reel/format';
import type { Speed } from '@fleetreel/reel/pacer';
import { ReelWriter } from '@fleetreel/reel/writer';
import { type Invocation, UsageError } from '#command.ts';
import manifest from '#package.json' with { type: 'json' };

/** Something recorded could not be read or written. The message is one sentence. */
export class RecordingError extends Error {
  override name = 'RecordingError';
  readonly exitCode = 1;
}

/** Where frames go. What is behind holds the one who gives: nothing is left out. */
export interface Sink {
  take(frames: readonly ReelFrame[]): Promise<void>;
  /** Ends what was begun. */
  close(): Promise<void>;
}

/** A frame of the contract as recordings have it. */
export const reelFrame = (frame: RecordedFrame__Output): ReelFrame => ({
  host: frame.host,
  time_us: Number(frame.time_us),
  logSequence: Number(frame.log_sequence),
  stored_us: Number(frame.stored_us),
  origin: frame.origin === 'FRAME_ORIGIN_STORE' ? 'store' : 'log',
  bytes: frame.frame,
});

/** A frame as one line of JSON: tables in columns, null where a value is not available. */
export function frameJson({ host, time_us, logSequence, origin, bytes }: ReelFrame): Record<string, unknown> {
  const { session, sequence, time_us: own_us, interval_ms, tables } = decodeFrame(bytes);
  return {
    time: own_us / 1000,
    // Where a host's clock was wrong it is played at another time than its own.
    ...(time_us === own_us ? {} : { playedTime: time_us / 1000 }),
    host,
    session,
    sequence,
    intervalMs: interval_ms,
    origin,
    ...(logSequence > 0 ? { logSequence } : {}),
    tables,
  };
}

/** Lines of JSON to standard output or into a file. */
export class JsonSink implements Sink {
  readonly #stream: NodeJS.WritableStream;
  readonly #file: WriteStream | undefined;
  #failure: Error | undefined;

  constructor(path: string | undefined) {
    this.#file = path === undefined ? undefined : createWriteStream(path, { flags: 'wx' });
    this.#file?.on('error', (cause) => {
      this.#failure = cause;
    });
    this.#stream = this.#file ?? process.stdout;
  }

  async take(frames: readonly ReelFrame[]): Promise<void> {
    if (this.#failure) throw fileError(this.#failure);
    const lines = frames.map((frame) => `${JSON.stringify(frameJson(frame))}\n`).join('');
    if (!this.#stream.write(lines)) await once(this.#stream, 'drain');
  }

  async close(): Promise<void> {
    if (this.#failure) throw fileError(this.#failure);
    const file = this.#file;
    if (file)
      await new Promise<void>((resolve, reject) =>
        file.end((error?: Error | null) => (error ? reject(error) : resolve())),
      );
  }
}

/** A .reel file. */
export class ReelSink implements Sink {
  readonly writer: ReelWriter;
  #flushed_ms = performance.now();

  private constructor(writer: ReelWriter) {
    this.writer = writer;
  }

  /** @throws RecordingError */
  static async create(path: string, of: Pick<ReelHeader, 'range' | 'hosts' | 'tables'>): Promise<ReelSink> {
    const header = {
      product: manifest.version,
      created: Date.now(),
      tenant: defaultTenant,
      ...of,
      contract: contractTexts(),
    };
    try {
      return new ReelSink(await ReelWriter.create(path, header));
    } catch (cause) {
      throw fileError(cause);
    }
  }

  async take(frames: readonly ReelFrame[]): Promise<void> {
    try {
      for (const frame of frames) await this.writer.add(frame);
      // Of a recording that goes on, whoever ends it hard loses some seconds.
      if (performance.now() - this.#flushed_ms > flushMilliseconds) {
        await this.writer.flush();
        this.#flushed_ms = performance.now();
      }
    } catch (cause) {
      throw fileError(cause);
    }
  }

  async close(): Promise<void> {
    try {
      await this.writer.close();
    } catch (cause) {
      throw fileError(cause);
    }
  }
}

const flushMilliseconds = 5000;
/** Frames that are on their way to NATS at a time. */
const windowMax = 256;

/** NATS: as frames of a tenant, which another collector takes in, or on subjects of the caller's own. */
export class NatsSink implements Sink {
  readonly #publish: (frame: ReelFrame) => Promise<unknown>;
  readonly #close: () => Promise<void>;

  private constructor(publish: (frame: ReelFrame) => Promise<unknown>, close: () => Promise<void>) {
    this.#publish = publish;
    this.#close = close;
  }

  /** @throws RecordingError where NATS can't be reached */
  static async connect(nats: NatsSettings, target: { tenant: string } | { subject: string }): Promise<NatsSink> {
    const { connect, headers } = await import('@nats-io/transport-node');
    const access = new NatsAccess(nats);
    const connection = await connect({
      ...access.options,
      name: 'fleetreel replay',
      noAsyncTraces: true,
      timeout: 5000,
    }).catch(async (cause: unknown) => {
      const reason = await access.explain(cause, Date.now() / 1000);
      throw new RecordingError(`NATS at ${nats.url} can't be reached: ${reason}.`, { cause });
    });
    const close = () => connection.drain();
    if ('subject' in target) {
      const publish = async ({ host, origin, bytes }: ReelFrame) => {
        const header = headers();
        header.set('Fleetreel-Origin', origin);
        connection.publish(`${target.subject}.${host}`, bytes, { headers: header });
      };
      return new NatsSink(publish, close);
    }
    const { jetstream } = await import('@nats-io/jetstream');
    const client = jetstream(connection);
    const publish = ({ host, bytes }: ReelFrame) => {
      const { session, sequence, time_us } = frameHeader(bytes);
      // Not the agent's own: within its duplicate window the log would take this for what it has.
      const msgID = `replay-${target.tenant}-${messageId(session, sequence)}-${time_us}`;
      return client.publish(`${prefix}.${target.tenant}.frame.${host}`, bytes, { msgID });
    };
    return new NatsSink(publish, close);
  }

  async take(frames: readonly ReelFrame[]): Promise<void> {
    try {
      for (let first = 0; first < frames.length; first += windowMax)
        await Promise.all(frames.slice(first, first + windowMax).map(this.#publish));
    } catch (cause) {
      throw new RecordingError(`NATS did not take a frame: ${(cause as Error).message}.`, { cause });
    }
  }

  async close(): Promise<void> {
    await this.#close();
  }
}

/** What a file could not do, as a sentence. */
export function fileError(cause: unknown): Error {
  const { code, path, message } = cause as NodeJS.ErrnoException;
  if (code === undefined) return cause as Error;
  const why: Record<string, string> = {
    EEXIST: 'is there already: remove it, or name another',
    ENOENT: 'does not exist',
    EACCES: 'may not be opened by this user',
    EISDIR: 'is a folder',
    ENOSPC: 'can not grow: the disk is full',
  };
  return new RecordingError(why[code] ? `${path ?? 'The file'} ${why[code]}.` : `${message}.`, { cause });
}

/** `--speed`: 0 is as fast as possible. @throws UsageError */
export function speedOf(text: string | undefined, fallback: Speed): Speed {
  if (text === undefined) return fallback;
  if (text === 'max') return 'max';
  const speed = Number(text);
  if (speed >= 0.1 && speed <= 1000) return speed;
  throw new UsageError(`--speed ${text} can't be: give 0.1 to 1000, or max.`);
}

/** A time of a recording in microseconds: RFC 3339, milliseconds since 1970, or before its end (-10m). @throws UsageError */
export function recordedTime(flag: string, text: string | undefined, end_us: number): number | undefined {
  if (text === undefined) return undefined;
  // A recording has no now.
  const time = text === 'now' ? { hint: '' } : readTime(text, end_us / 1000);
  if (typeof time === 'number') return Math.round(time * 1000);
  throw new UsageError(
    `--${flag} ${text} is no time: give RFC 3339 (2026-01-31T12:00:00Z), milliseconds since 1970, or before the recording's end (-10m).${time.hint && ` ${time.hint}`}`,
  );
}

/** A whole number of a flag; 0 when it is absent. @throws UsageError */
export function sequenceOf({ flags }: Invocation, name: string): number {
  const text = flags.get(name)?.[0];
  if (text === undefined) return 0;
  if (/^[1-9]\d{0,15}$/.test(text)) return Number(text);
  throw new UsageError(`--${name} ${text} is no sequence of the log: give a whole number above 0.`);
}

/** Where frames are published, from the flags; undefined where they are not. @throws UsageError */
export function natsTarget({
  flags,
}: Invocation): { nats: NatsSettings; target: { tenant: string } | { subject: string } } | undefined {
  const [url, subject, tenant] = ['to-nats', 'subject', 'tenant'].map((name) => flags.get(name)?.[0]);
  if (url === undefined) {
    const lone = [...flags.keys()].find((name) => name.startsWith('nats-'));
    if (lone !== undefined) throw new UsageError(`--${lone} needs --to-nats URL.`);
    if (subject ?? tenant) throw new UsageError('--subject and --tenant need --to-nats URL.');
    return undefined;
  }
  const [credentials, ca, certificate, key] = ['credentials', 'tls-ca', 'tls-certificate', 'tls-key'].map(
    (name) => flags.get(`nats-${name}`)?.[0],
  );
  const nats = {
    url,
    ...(credentials !== undefined && { credentials }),
    tls: {
      ...(ca !== undefined && { ca }),
      ...(certificate !== undefined && { certificate }),
      ...(key !== undefined && { key }),
    },
  };
  if ((subject === undefined) === (tenant === undefined))
    throw new UsageError('--to-nats needs --subject PREFIX, or --tenant NAME for frames that a collector takes in.');
  if (tenant !== undefined)
    try {
      return { nats, target: { tenant: token('tenant', tenant) } };
    } catch (cause) {
      throw new UsageError(`--tenant: ${(cause as Error).message}.`, { cause });
    }
  if (!/^[^\s.*>]+(?:\.[^\s.*>]+)*$/.test(subject ?? ''))
    throw new UsageError(`--subject ${subject} is no subject: give words with dots between them, without wildcards.`);
  if (`${subject}.`.startsWith(`${prefix}.`))
    throw new UsageError(
      `--subject ${subject} is the log's own: name another, or use --tenant NAME for frames that a collector takes in.`,
    );
  return { nats, target: { subject: subject ?? '' } };
}

/** Keeps a token where the next call finds it: whole, or not at all. @throws RecordingError */
export async function keepToken(path: string, text: string): Promise<void> {
  try {
    await writeFile(`${path}.new`, text);
    await rename(`${path}.new`, path);
  } catch (cause) {
    throw fileError(cause);
  }
}
