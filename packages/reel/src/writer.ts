import { type FileHandle, open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { zstdCompress, zstdCompressSync } from 'node:zlib';
import {
  blockBytesTarget,
  blockHeadBytes,
  chain,
  formatVersion,
  kinds,
  magic,
  packFrames,
  type ReelBlock,
  type ReelFrame,
  type ReelHeader,
  sectionHead,
  trailerBytes,
} from '#format.ts';

const compress = promisify(zstdCompress);

/** Blocks that are compressed and written while the next is filled: as many as threads gain from. */
const blocksInFlightMax = 4;

/**
 * Writes a .reel file. Its memory is that of a few blocks, and some hundred bytes of index for each block written.
 * What is not closed has no index and is read up to its last block.
 */
export class ReelWriter implements AsyncDisposable {
  readonly #file: FileHandle;
  readonly #hosts = new Map<string, number>();
  readonly #blocks: ReelBlock[] = [];
  #pending: ReelFrame[] = [];
  #pendingBytes = 0;
  /** Sections are written one after the other, in the order of their calls. */
  #written: Promise<void> = Promise.resolve();
  #inFlight = 0;
  #offset = 0;
  #crc = 0;
  #frames = 0;
  #failure: unknown;
  #closed = false;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Begins a file that must not exist. @throws the error of the file system */
  static async create(path: string, header: ReelHeader): Promise<ReelWriter> {
    const writer = new ReelWriter(await open(path, 'wx'));
    try {
      await writer.#put(magic);
      const version = Buffer.alloc(4);
      version.writeUInt32LE(formatVersion);
      await writer.#section(kinds.header, [version, zstdCompressSync(JSON.stringify(header))]);
      return writer;
    } catch (cause) {
      await writer.#file.close();
      throw cause;
    }
  }

  /** Frames taken so far. */
  get frames(): number {
    return this.#frames;
  }

  /** Bytes in the file so far. */
  get bytes(): number {
    return this.#offset;
  }

  /**
   * Takes a frame; its bytes have to stay as they are until its block is written. Where a promise comes back, the writer
   * is behind: wait for it before the next.
   * @throws what an earlier write failed with
   */
  add(frame: ReelFrame): Promise<void> | undefined {
    if (this.#failure) throw this.#failure;
    this.#pending.push(frame);
    this.#pendingBytes += frame.bytes.length;
    this.#frames++;
    if (this.#pendingBytes < blockBytesTarget) return undefined;
    this.#cut();
    return this.#inFlight < blocksInFlightMax ? undefined : this.#written;
  }

  /** Writes what was taken; settled when the file has it. */
  async flush(): Promise<void> {
    this.#cut();
    await this.#written;
    if (this.#failure) throw this.#failure;
  }

  /** Ends the file with its index and checksum. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    try {
      await this.flush();
      const index = this.#offset;
      const content = { hosts: [...this.#hosts.keys()], blocks: this.#blocks };
      await this.#section(kinds.index, [zstdCompressSync(JSON.stringify(content))]);
      const trailer = Buffer.alloc(trailerBytes);
      trailer.writeDoubleLE(index, 0);
      trailer.writeDoubleLE(this.#frames, 8);
      trailer.writeUInt32LE(this.#crc, 16);
      await this.#section(kinds.trailer, [trailer]);
      await this.#file.sync();
    } finally {
      await this.#file.close();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** Sends what was taken on its way to the file. */
  #cut(): void {
    const frames = this.#pending;
    if (frames.length === 0) return;
    this.#pending = [];
    this.#pendingBytes = 0;
    this.#inFlight++;
    const packed = packFrames(frames);
    const compressed = compress(packed);
    this.#written = Promise.all([compressed, this.#written])
      .then(async ([body]) => {
        if (!this.#failure) await this.#block(frames, packed.length, body);
      })
      .catch((cause: unknown) => {
        this.#failure ??= cause;
      })
      .finally(() => this.#inFlight--);
  }

  async #block(frames: readonly ReelFrame[], rawBytes: number, body: Buffer): Promise<void> {
    const hosts = new Set<number>();
    let first_us = Number.POSITIVE_INFINITY;
    let last_us = Number.NEGATIVE_INFINITY;
    for (const { host, time_us } of frames) {
      const place = this.#hosts.get(host) ?? this.#hosts.size;
      this.#hosts.set(host, place);
      hosts.add(place);
      first_us = Math.min(first_us, time_us);
      last_us = Math.max(last_us, time_us);
    }
    this.#blocks.push({ offset: this.#offset, frames: frames.length, first_us, last_us, hosts: [...hosts] });
    const head = Buffer.alloc(blockHeadBytes);
    head.writeUInt32LE(frames.length, 0);
    head.writeUInt32LE(rawBytes, 4);
    head.writeDoubleLE(first_us, 8);
    head.writeDoubleLE(last_us, 16);
    await this.#section(kinds.block, [head, body]);
  }

  async #section(kind: number, parts: readonly Buffer[]): Promise<void> {
    const payload = Buffer.concat(parts);
    const head = sectionHead(kind, payload);
    this.#crc = chain(this.#crc, head);
    await this.#put(Buffer.concat([head, payload]));
  }

  async #put(bytes: Buffer): Promise<void> {
    for (let at = 0; at < bytes.length; ) {
      const { bytesWritten } = await this.#file.write(bytes, at, bytes.length - at, this.#offset + at);
      at += bytesWritten;
    }
    this.#offset += bytes.length;
  }
}
