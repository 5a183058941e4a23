// Frames on disk while the log does not take them: files that are only appended to, sent oldest first, removed when the log has
// what is in them. Everything that touches the disk happens one after the other, beside the tick.
import { type FileHandle, mkdir, open, readdir, readFile, stat, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { hostKey } from '@fleetreel/proto';
import type { Clock } from '#clock.ts';
import { segmentBytesMax, segmentQuietMilliseconds } from '#limits.ts';
import type { LossCause } from '#loss.ts';
import {
  type Damage,
  encodeHeader,
  headerBytes,
  readSegment,
  recordBytes,
  type SegmentRecord,
  type SpooledFrame,
  writeRecord,
} from '#segment.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

export type SpoolBounds = {
  bytes: number;
  age_ms: number;
  /** Milliseconds after a write at which it is synced to the disk; 0: each is at once. */
  sync_ms: number;
};

export type SpoolOptions = {
  /** The folder of one host's files. */
  folder: string;
  /** The session of the frames that are written: 16 hexadecimal digits. */
  session: string;
  bounds: SpoolBounds;
  clock: Clock;
  telemetry: Telemetry;
  /** Told of frames that will never be sent. */
  lost: (session: string, cause: LossCause, first: number, last: number, first_us: number, last_us: number) => void;
};

/** What is known of a file without reading it again. */
type File = {
  readonly path: string;
  readonly number: number;
  readonly session: string;
  bytes: number;
  frames: number;
  first: number;
  last: number;
  first_us: number;
  last_us: number;
  /** Frames from the beginning that the log has, and the most that it ever had: what is sent again is counted once. */
  sent: number;
  counted: number;
  /** Damages that were told of. */
  damages: number;
  /** Monotonic milliseconds at which the log had all of it. */
  sentAt_ms: number | undefined;
};

/** Frames to be sent: a part of one file. */
export type Chunk = {
  readonly file: File;
  readonly frames: readonly SpooledFrame[];
  /** For each frame how many of the file the log has after it. */
  readonly places: readonly number[];
};

/** Where the files of a host are: a machine that is renamed does not send them under its new name. */
export const spoolFolder = ({ data, tenant }: { data: string; tenant: string }, host: string): string =>
  join(data, 'spool', hostKey(tenant, host));

const nameOf = (number: number, session: string): string => `${String(number).padStart(10, '0')}-${session}.spool`;
const namePattern = /^(\d{10})-([0-9a-f]{16})\.spool$/;

/** Number and session in a file's name; undefined for a file that is none of the spool's. */
export function parseName(name: string): { number: number; session: string } | undefined {
  const [, number, session] = namePattern.exec(name) ?? [];
  return number && session ? { number: Number(number), session } : undefined;
}

export class Spool {
  readonly #options: SpoolOptions;
  /** Oldest first. */
  #files: File[] = [];
  /** The file that is being written: the last of `#files` of our session. */
  #active: { file: File; handle: FileHandle } | undefined;
  /** Frames of our session that are in a file, and that the log has by another way. */
  readonly #elsewhere = new Set<number>();
  /** The records of the file that is being sent. */
  #read: { file: File; records: readonly SegmentRecord[] } | undefined;
  /** What touches the disk, one after the other. */
  #work: Promise<unknown> = Promise.resolve();
  /** Never given twice: a file that is still to be removed has its number. */
  #number = 0;
  #failing = false;
  #unsynced = false;
  readonly #closed = new AbortController();

  constructor(options: SpoolOptions) {
    this.#options = options;
  }

  /** Frames that are still to be sent, the bytes of all files, and when the oldest frame was sampled. */
  get state(): { frames: number; bytes: number; oldest_us: number | undefined } {
    let frames = 0;
    let bytes = 0;
    let oldest_us: number | undefined;
    for (const file of this.#files) {
      bytes += file.bytes;
      if (file.sentAt_ms !== undefined) continue;
      frames += file.frames - file.sent;
      oldest_us ??= file.first_us;
    }
    return { frames, bytes, oldest_us };
  }

  /** Whether there is nothing to be sent. */
  get isEmpty(): boolean {
    return this.#files.every(({ sentAt_ms }) => sentAt_ms !== undefined);
  }

  /** Frames of our session that are on disk. */
  get ownFrames(): number {
    return this.#files.reduce((sum, { session, frames }) => sum + (session === this.#options.session ? frames : 0), 0);
  }

  /** Whether the newest attempt to write has failed. */
  get isFailing(): boolean {
    return this.#failing;
  }

  /** Finds files that are not known yet: of sessions before, or of an agent that this one has displaced. */
  look(): Promise<void> {
    return this.#do(() => this.#look());
  }

  /**
   * Writes frames, oldest first; they survive the end of this process from then on, and that of the machine once they are synced.
   * Returns how many of them are on disk: fewer than all when the disk does not take them, which is told once.
   */
  write(frames: readonly Omit<SpooledFrame, 'session'>[]): Promise<number> {
    return this.#do(async () => {
      const progress = { written: 0 };
      try {
        await this.#write(frames, progress);
        if (this.#failing) this.#options.telemetry.spoolHealed(this.#options.folder);
        this.#failing = false;
      } catch (cause) {
        if (!this.#failing) this.#options.telemetry.spoolFailed(this.#options.folder, sentence(cause));
        this.#failing = true;
      }
      await this.#keepBounds();
      return progress.written;
    });
  }

  /** The log has this frame of our session though it is in a file: it need not be sent from there. */
  arrived(sequence: number): void {
    this.#elsewhere.add(sequence);
  }

  /** Ends the file that is being written; returns the number of the newest. */
  mark(): Promise<number> {
    return this.#do(async () => {
      await this.#seal();
      return this.#number;
    });
  }

  /**
   * The oldest frames that are to be sent, from files up to this number; so many bytes and frames at most, but one at least.
   * Undefined when there are none.
   */
  next(bytesMax: number, countMax: number, numberMax = Number.POSITIVE_INFINITY): Promise<Chunk | undefined> {
    return this.#do(() => this.#next(bytesMax, countMax, numberMax));
  }

  /** The log has the first frames of a chunk; returns how many of them it has for the first time. */
  sent({ file, places }: Chunk, count: number): number {
    file.sent = places[count - 1] ?? file.sent;
    const isNew = Math.max(0, file.sent - file.counted);
    file.counted = Math.max(file.counted, file.sent);
    if (file.sent >= file.frames) this.#complete(file);
    return Math.min(isNew, count);
  }

  /** The server may have lost what it had not synced: everything that is still here is to be sent again. */
  rewind(): void {
    for (const file of this.#files) {
      file.sent = 0;
      file.sentAt_ms = undefined;
    }
  }

  /** Removes files that the log had before this time. */
  forget(before_ms: number): void {
    const gone = this.#files.filter(({ sentAt_ms }) => sentAt_ms !== undefined && sentAt_ms < before_ms);
    if (gone.length > 0) this.#remove(gone);
  }

  /** Removes what was written by this process. */
  discard(): Promise<void> {
    return this.#do(async () => {
      await this.#seal();
      this.#elsewhere.clear();
      await this.#unlink(this.#files.filter(({ session }) => session === this.#options.session));
    });
  }

  /** Syncs and closes what is being written. */
  async close(): Promise<void> {
    this.#closed.abort();
    await this.#do(() => this.#seal());
  }

  #do<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#work.then(work);
    this.#work = done.catch(() => undefined);
    return done;
  }

  async #look(): Promise<void> {
    const { folder, telemetry } = this.#options;
    let names: string[];
    try {
      names = await readdir(folder);
    } catch (cause) {
      // Without the folder nothing was ever written.
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') telemetry.spoolUnreadable(folder, sentence(cause));
      return;
    }
    const known = new Set(this.#files.map(({ path }) => path));
    for (const name of names.toSorted()) {
      const path = join(folder, name);
      const parsed = parseName(name);
      if (!parsed || known.has(path) || parsed.session === this.#options.session) continue;
      try {
        const file = await this.#inspect(path, parsed.number, parsed.session);
        if (file) this.#files.push(file);
      } catch (cause) {
        telemetry.spoolUnreadable(path, sentence(cause));
      }
    }
    this.#files.sort((a, b) => a.number - b.number);
    this.#number = Math.max(this.#number, this.#files.at(-1)?.number ?? 0);
    await this.#keepBounds();
  }

  /** Reads a file of another session; what is damaged in it is told. */
  async #inspect(path: string, number: number, session: string): Promise<File | undefined> {
    const bytes = await readFile(path);
    const { records, damages } = readSegment(bytes);
    this.#tell(path, damages);
    const [first, last] = [records[0], records.at(-1)];
    if (!first || !last) {
      // Nothing that can be sent: cut off before its first record, or damaged as a whole.
      await unlink(path);
      return undefined;
    }
    return {
      path,
      number,
      session,
      bytes: bytes.length,
      frames: records.length,
      first: first.sequence,
      last: last.sequence,
      first_us: first.time_us,
      last_us: last.time_us,
      sent: 0,
      counted: 0,
      damages: damages.length,
      sentAt_ms: undefined,
    };
  }

  #tell(path: string, damages: readonly Damage[]): void {
    const { telemetry, lost } = this.#options;
    for (const { offset, session, first, last, first_us, last_us } of damages) {
      telemetry.spoolDamaged(path, offset);
      if (session !== '') lost(session, 'corrupt', first, last, first_us, last_us);
    }
  }

  async #write(frames: readonly Omit<SpooledFrame, 'session'>[], progress: { written: number }): Promise<void> {
    const { session, bounds } = this.#options;
    const fileBytes = Math.min(segmentBytesMax, bounds.bytes / 8);
    for (let from = 0; from < frames.length; ) {
      const first = frames[from] as SpooledFrame;
      const space = this.#active ? fileBytes - this.#active.file.bytes : 0;
      if (this.#active && recordBytes(first) > space) {
        await this.#seal();
        continue;
      }
      const active = this.#active ?? (await this.#begin(first));
      let bytes = 0;
      let to = from;
      for (; to < frames.length; to++) {
        const more = recordBytes(frames[to] as SpooledFrame);
        if (to > from && active.file.bytes + bytes + more > fileBytes) break;
        bytes += more;
      }
      const buffer = Buffer.allocUnsafe(bytes);
      let at = 0;
      for (const frame of frames.slice(from, to)) {
        writeRecord(buffer, at, { ...frame, session });
        at += recordBytes(frame);
      }
      await this.#append(active, buffer);
      const last = frames[to - 1] as SpooledFrame;
      active.file.bytes += bytes;
      active.file.frames += to - from;
      active.file.last = last.sequence;
      active.file.last_us = last.time_us;
      from = to;
      progress.written = to;
    }
    if (bounds.sync_ms === 0) await this.#active?.handle.datasync();
    else this.#syncSoon();
  }

  async #begin({ sequence, time_us }: SpooledFrame): Promise<{ file: File; handle: FileHandle }> {
    const { folder, session } = this.#options;
    await mkdir(folder, { recursive: true, mode: 0o700 });
    const number = ++this.#number;
    const path = join(folder, nameOf(number, session));
    const handle = await open(path, 'w', 0o600);
    const file: File = {
      path,
      number,
      session,
      bytes: 0,
      frames: 0,
      first: sequence,
      last: sequence,
      first_us: time_us,
      last_us: time_us,
      sent: 0,
      counted: 0,
      damages: 0,
      sentAt_ms: undefined,
    };
    const active = { file, handle };
    try {
      await this.#append(active, encodeHeader(session, sequence));
    } catch (cause) {
      await handle.close();
      await unlink(path);
      throw cause;
    }
    file.bytes = headerBytes;
    this.#files.push(file);
    this.#active = active;
    // The file's name is on the disk, too, when what is in it is.
    await using directory = await open(folder, 'r');
    await directory.sync();
    return active;
  }

  /** Appends at the end of the good records; what was written of it is cut off again where it fails. */
  async #append({ file, handle }: { file: File; handle: FileHandle }, buffer: Buffer): Promise<void> {
    try {
      for (let at = 0; at < buffer.length; ) {
        const { bytesWritten } = await handle.write(buffer, at, buffer.length - at, file.bytes + at);
        at += bytesWritten;
      }
    } catch (cause) {
      try {
        await handle.truncate(file.bytes);
      } catch (truncating) {
        // Then its end is torn, which the reader knows to leave out; what follows goes to another file.
        this.#options.telemetry.failed(`${file.path} can not be cut off behind its last record`, truncating);
        await this.#seal();
      }
      throw cause;
    }
  }

  /** Syncs once for all that is written within some time. */
  #syncSoon(): void {
    if (this.#unsynced || !this.#active) return;
    this.#unsynced = true;
    const { clock, bounds, folder, telemetry } = this.#options;
    const sync = async () => {
      await clock.sleep(bounds.sync_ms, this.#closed.signal).catch(() => undefined);
      this.#unsynced = false;
      await this.#do(async () => this.#active?.handle.datasync());
    };
    sync().catch((cause: unknown) => telemetry.spoolFailed(folder, sentence(cause)));
  }

  /** Ends the file that is being written. */
  async #seal(): Promise<void> {
    const active = this.#active;
    if (!active) return;
    this.#active = undefined;
    try {
      await active.handle.datasync();
    } finally {
      await active.handle.close();
    }
  }

  async #next(bytesMax: number, countMax: number, numberMax: number): Promise<Chunk | undefined> {
    const { session, telemetry } = this.#options;
    for (const file of this.#files) {
      if (file.sentAt_ms !== undefined || file.number > numberMax) continue;
      if (this.#active?.file === file) await this.#seal();
      try {
        if (file.session !== session && !(await this.#isQuiet(file))) continue;
        if (this.#read?.file !== file) await this.#readAll(file);
      } catch (cause) {
        this.#files = this.#files.filter((one) => one !== file);
        // Another agent on this machine has sent and removed it.
        if (file.session !== session && (cause as NodeJS.ErrnoException).code === 'ENOENT') continue;
        telemetry.spoolUnreadable(file.path, sentence(cause));
        this.#give(file, 'corrupt');
        continue;
      }
      const frames: SpooledFrame[] = [];
      const places: number[] = [];
      let bytes = 0;
      const { records } = this.#read as { records: readonly SegmentRecord[] };
      for (const [index, record] of records.entries()) {
        if (index < file.sent) continue;
        if (record.session === session && this.#elsewhere.has(record.sequence)) continue;
        if (frames.length >= countMax || (frames.length > 0 && bytes + record.bytes.length > bytesMax)) break;
        frames.push(record);
        places.push(index + 1);
        bytes += record.bytes.length;
      }
      if (frames.length > 0) {
        // What is behind the last one need not be sent: with it the file is done.
        const rest = records.slice(places.at(-1));
        if (rest.every((record) => record.session === session && this.#elsewhere.has(record.sequence)))
          places[places.length - 1] = file.frames;
        return { file, frames, places };
      }
      file.sent = file.frames;
      this.#complete(file);
    }
    return undefined;
  }

  async #readAll(file: File): Promise<void> {
    const { records, damages } = readSegment(await readFile(file.path));
    if (damages.length > file.damages) this.#tell(file.path, damages);
    file.damages = damages.length;
    file.frames = records.length;
    this.#read = { file, records };
  }

  /** Whether nobody writes to a file of another session any more: an agent that is displaced may still be ending. */
  async #isQuiet(file: File): Promise<boolean> {
    const { mtimeMs, size } = await stat(file.path);
    if (Math.abs(this.#options.clock.now_us() / 1000 - mtimeMs) < segmentQuietMilliseconds) return false;
    file.bytes = size;
    return true;
  }

  #complete(file: File): void {
    file.sentAt_ms = this.#options.clock.monotonic_ms();
    if (this.#read?.file === file) this.#read = undefined;
  }

  /** Gives up the oldest files beyond the bounds. */
  async #keepBounds(): Promise<void> {
    const { bounds, clock } = this.#options;
    const oldest_us = clock.now_us() - bounds.age_ms * 1000;
    let bytes = this.#files.reduce((sum, file) => sum + file.bytes, 0);
    const gone: File[] = [];
    for (const file of this.#files) {
      const cause = file.last_us < oldest_us ? 'spool_age' : bytes > bounds.bytes ? 'spool_bytes' : undefined;
      if (cause === undefined || file === this.#active?.file) break;
      bytes -= file.bytes;
      gone.push(file);
      if (file.sentAt_ms === undefined) this.#give(file, cause);
    }
    if (gone.length > 0) await this.#unlink(gone);
  }

  #give(file: File, cause: LossCause): void {
    const { lost, telemetry } = this.#options;
    const frames = file.frames - file.sent;
    if (frames <= 0) return;
    telemetry.spoolDropped(frames, cause);
    lost(file.session, cause, file.first + file.sent, file.last, file.first_us, file.last_us);
  }

  #remove(files: readonly File[]): void {
    this.#files = this.#files.filter((file) => !files.includes(file));
    void this.#do(() => this.#unlink(files));
  }

  async #unlink(files: readonly File[]): Promise<void> {
    this.#files = this.#files.filter((file) => !files.includes(file));
    for (const { path, session, first, last } of files) {
      try {
        await unlink(path);
      } catch (cause) {
        // Another agent on this machine may have sent and removed it.
        if ((cause as NodeJS.ErrnoException).code !== 'ENOENT')
          this.#options.telemetry.spoolUnreadable(path, sentence(cause));
      }
      if (session !== this.#options.session) continue;
      for (const sequence of this.#elsewhere)
        if (sequence >= first && sequence <= last) this.#elsewhere.delete(sequence);
    }
  }
}
