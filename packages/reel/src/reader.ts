import { type FileHandle, open } from 'node:fs/promises';
import { promisify } from 'node:util';
import { zstdDecompress } from 'node:zlib';
import { catalog, contractTexts } from '@fleetreel/proto';
import protobuf from 'protobufjs';
import {
  blockHeadBytes,
  chain,
  formatVersion,
  type Good,
  isWhole,
  kinds,
  magic,
  type ReelBlock,
  ReelError,
  type ReelFrame,
  type ReelHeader,
  type ReelIndex,
  readHead,
  sectionBytesMax,
  sectionHeadBytes,
  trailerBytes,
  unpackFrames,
  unpackJson,
} from '#format.ts';

const decompress = promisify(zstdDecompress);

type Section = { kind: number; offset: number; end: number; head: Buffer; payload: Buffer };

/** Reads a .reel file. */
export class ReelReader implements AsyncDisposable {
  readonly path: string;
  readonly bytes: number;
  readonly #file: FileHandle;
  #header!: ReelHeader;
  #first = 0;
  #index: ReelIndex = { hosts: [], blocks: [] };
  /** Why the end is not as it should be; what is before it is read all the same. */
  #fault: ReelError | undefined;

  private constructor(path: string, file: FileHandle, bytes: number) {
    this.path = path;
    this.#file = file;
    this.bytes = bytes;
  }

  /**
   * Opens a file and finds its blocks: by its index, or, where that is missing or damaged, from section to section.
   * @throws ReelError for a file that has no readable header; the error of the file system
   */
  static async open(path: string): Promise<ReelReader> {
    const file = await open(path, 'r');
    const reader = new ReelReader(path, file, (await file.stat()).size);
    try {
      await reader.#readHeader();
      await reader.#readIndex();
      return reader;
    } catch (cause) {
      await file.close();
      throw cause;
    }
  }

  get header(): ReelHeader {
    return this.#header;
  }

  get blocks(): readonly ReelBlock[] {
    return this.#index.blocks;
  }

  /** Hosts of the recording; empty where the file has no index. */
  get hosts(): readonly string[] {
    return this.#index.hosts;
  }

  get frameCount(): number {
    return this.blocks.reduce((sum, { frames }) => sum + frames, 0);
  }

  /** Time of the first and of the last frame, UTC in microseconds; undefined where there is none. */
  get range_us(): { first: number; last: number } | undefined {
    const [one] = this.blocks;
    if (one === undefined) return undefined;
    return this.blocks.reduce(
      ({ first, last }, block) => ({ first: Math.min(first, block.first_us), last: Math.max(last, block.last_us) }),
      { first: one.first_us, last: one.last_us },
    );
  }

  /** Why the file is not good to its end, as far as opening it has shown. */
  get fault(): ReelError | undefined {
    return this.#fault;
  }

  /**
   * What of the contract that the file was written with this version does not know: tables, and columns as `table.column`. Their
   * values are in the frames, and this version leaves them out.
   */
  unknown(): string[] {
    const root = new protobuf.Root();
    for (const [path, text] of Object.entries(this.#header.contract))
      if (!path.endsWith('/options.proto')) protobuf.parse(text, root, { keepCase: true });
    root.resolveAll();
    const tables = new Map(catalog.map((table) => [table.id, table]));
    return root.lookupType('fleetreel.v1.Frame').fieldsArray.flatMap((field) => {
      if (!(field.resolvedType instanceof protobuf.Type)) return [];
      const table = tables.get(field.id);
      if (table === undefined) return field.name;
      const known = new Set([...table.labels, ...table.fields].map(({ name }) => name));
      return field.resolvedType.fieldsArray
        .filter(({ name }) => !known.has(name))
        .map(({ name }) => `${field.name}.${name}`);
    });
  }

  /** Whether the contract of the file is the one of this version. */
  get isOfThisContract(): boolean {
    const own = contractTexts();
    const paths = new Set([...Object.keys(own), ...Object.keys(this.#header.contract)]);
    return [...paths].every((path) => own[path] === this.#header.contract[path]);
  }

  /**
   * The frames from a time on, block by block; of these hosts, none means all.
   * @throws ReelError at the place where the file is not good, once everything before it was given
   */
  async *frames({
    from_us = Number.NEGATIVE_INFINITY,
    hosts = [] as readonly string[],
  } = {}): AsyncGenerator<readonly ReelFrame[]> {
    const wanted = hosts.length > 0 ? new Set(hosts) : undefined;
    const places = wanted && new Set(this.#index.hosts.flatMap((host, place) => (wanted.has(host) ? place : [])));
    const good: Good = { bytes: this.#first, frames: 0, time_us: undefined };
    for (const block of this.blocks) {
      good.bytes = block.offset;
      const isMissing = places && block.hosts && !block.hosts.some((place) => places.has(place));
      if (block.last_us >= from_us && !isMissing) {
        const frames = await this.#block(block, good);
        const kept = frames.filter(
          (frame) => frame.time_us >= from_us && (wanted === undefined || wanted.has(frame.host)),
        );
        if (kept.length > 0) yield kept;
      }
      good.frames += block.frames;
      good.time_us = block.last_us;
    }
    if (this.#fault) throw this.#fault;
  }

  /** Reads all of it. @throws ReelError where it is not good, with how far it is */
  async verify(): Promise<void> {
    let crc = 0;
    let frames = 0;
    const good: Good = { bytes: this.#first, frames: 0, time_us: undefined };
    for (let offset = magic.length; offset < this.bytes; ) {
      const section = await this.#section(offset, good);
      offset = section.end;
      if (section.kind === kinds.trailer) {
        const { payload } = section;
        if (payload.readUInt32LE(16) !== crc || payload.readDoubleLE(8) !== frames)
          throw new ReelError('damaged', `${this.path}: blocks are missing, doubled or out of their order.`, good);
      } else crc = chain(crc, section.head);
      if (section.kind !== kinds.block) continue;
      const unpacked = await this.#unpack(section, good);
      frames += unpacked.length;
      good.frames = frames;
      good.bytes = offset;
      good.time_us = unpacked.reduce((last, { time_us }) => Math.max(last, time_us), good.time_us ?? 0);
    }
    if (this.#fault) throw this.#fault;
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #readHeader(): Promise<void> {
    const none: Good = { bytes: 0, frames: 0, time_us: undefined };
    const start = await this.#read(0, Math.min(magic.length, this.bytes));
    if (Buffer.compare(start, magic) !== 0)
      throw new ReelError('foreign', `${this.path} is no .reel file: it does not begin as one.`, none);
    const section = await this.#section(magic.length, none);
    const version = section.kind === kinds.header && section.payload.length > 4 ? section.payload.readUInt32LE(0) : 0;
    if (version > formatVersion)
      throw new ReelError(
        'newer',
        `${this.path} is of format ${version}, and this version reads up to ${formatVersion}: open it with a newer one.`,
        { ...none, bytes: section.end },
      );
    try {
      if (version === 0) throw new RangeError('the first section is no header');
      this.#header = unpackJson(section.payload.subarray(4)) as ReelHeader;
    } catch (cause) {
      throw new ReelError('damaged', `${this.path}: its header can't be read.`, none, { cause });
    }
    this.#first = section.end;
  }

  /** By the trailer; where there is none that fits, by going through the file. */
  async #readIndex(): Promise<void> {
    const trailerOffset = this.bytes - sectionHeadBytes - trailerBytes;
    const good: Good = { bytes: this.#first, frames: 0, time_us: undefined };
    if (trailerOffset >= this.#first) {
      try {
        const trailer = await this.#section(trailerOffset, good);
        const indexOffset = trailer.payload.readDoubleLE(0);
        const index = await this.#section(indexOffset, good);
        if (trailer.kind === kinds.trailer && index.kind === kinds.index && index.end === trailerOffset) {
          this.#index = unpackJson(index.payload) as ReelIndex;
          return;
        }
      } catch {
        // What is wrong, and where, is found below.
      }
    }
    await this.#scan(good);
  }

  /** Finds the blocks by their heads. Up to the first that is not good, which it notes. */
  async #scan(good: Good): Promise<void> {
    const blocks: ReelBlock[] = [];
    this.#index = { hosts: [], blocks };
    try {
      for (let offset = this.#first; ; ) {
        if (offset === this.bytes)
          throw new ReelError('cut', `${this.path} has no end: its writer was stopped, or it was cut.`, good);
        const section = await this.#section(offset, good);
        if (section.kind === kinds.trailer)
          throw new ReelError('damaged', `${this.path}: its index or trailer is damaged.`, good);
        if (section.kind === kinds.block) {
          const block = {
            offset,
            frames: section.payload.readUInt32LE(0),
            first_us: section.payload.readDoubleLE(8),
            last_us: section.payload.readDoubleLE(16),
          };
          blocks.push(block);
          good.frames += block.frames;
          good.time_us = block.last_us;
          good.bytes = section.end;
        }
        offset = section.end;
      }
    } catch (cause) {
      if (!(cause instanceof ReelError)) throw cause;
      this.#fault = cause;
    }
  }

  async #block(block: ReelBlock, good: Good): Promise<ReelFrame[]> {
    const section = await this.#section(block.offset, good);
    if (section.kind !== kinds.block)
      throw new ReelError(
        'damaged',
        `${this.path}: at byte ${block.offset} the index names a block that is none.`,
        good,
      );
    const frames = await this.#unpack(section, good);
    good.bytes = section.end;
    return frames;
  }

  async #unpack({ payload, offset }: Section, good: Good): Promise<ReelFrame[]> {
    try {
      const bytes = payload.readUInt32LE(4);
      if (bytes > sectionBytesMax) throw new RangeError('the block is too large');
      const packed = await decompress(payload.subarray(blockHeadBytes), { maxOutputLength: Math.max(bytes, 1) });
      return unpackFrames(packed, payload.readUInt32LE(0));
    } catch (cause) {
      throw new ReelError('damaged', `${this.path}: the block at byte ${offset} can't be read.`, good, { cause });
    }
  }

  /** A section that is whole. @throws ReelError */
  async #section(offset: number, good: Good): Promise<Section> {
    const cut = () =>
      new ReelError('cut', `${this.path} ends within the section at byte ${offset}: it was cut.`, { ...good });
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + sectionHeadBytes > this.bytes) throw cut();
    const head = await this.#read(offset, sectionHeadBytes);
    const { kind, length } = readHead(head);
    const end = offset + sectionHeadBytes + length;
    const known = Object.values(kinds).some((one) => one === kind);
    const damaged = () =>
      new ReelError('damaged', `${this.path}: the section at byte ${offset} has a wrong checksum.`, { ...good });
    if (!known || length > sectionBytesMax) throw damaged();
    if (end > this.bytes) throw cut();
    const payload = await this.#read(offset + sectionHeadBytes, length);
    if (!isWhole(head, payload)) throw damaged();
    return { kind, offset, end, head, payload };
  }

  async #read(offset: number, length: number): Promise<Buffer> {
    const bytes = Buffer.allocUnsafe(length);
    let at = 0;
    while (at < length) {
      const { bytesRead } = await this.#file.read(bytes, at, length - at, offset + at);
      if (bytesRead === 0) break;
      at += bytesRead;
    }
    return bytes.subarray(0, at);
  }
}
