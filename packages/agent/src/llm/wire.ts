// Follows HTTP/1.1 on a connection from copies of its bytes: where messages begin and end, and their bodies without framing.
import { httpHeadBytesMax } from '#limits.ts';

export type Head = {
  /** The first line: `POST /api/chat HTTP/1.1`, `HTTP/1.1 200 OK`. */
  line: string;
  /** By their names in small letters; of several of one name, the last. */
  headers: ReadonlyMap<string, string>;
};

/** How a body ends. `blind`: what follows is no longer HTTP. */
export type Body = 'none' | 'chunked' | 'close' | 'blind' | { bytes: number };

export interface Sink {
  /** A head has come; says what follows it. */
  head(head: Head): Body;
  body(bytes: Buffer): void;
  /** The message is complete. */
  end(): void;
}

const emptyLine = Buffer.from('\r\n\r\n');
const lineEnd = Buffer.from('\r\n');
const carriageReturn = 13;
const newline = 10;
/** A line with the size of a chunk, with its extensions. */
const chunkLineBytesMax = 4096;

/** The messages in one direction of a connection. @see https://www.rfc-editor.org/rfc/rfc9112 */
export class Messages {
  readonly #sink: Sink;
  #state: 'head' | 'length' | 'size' | 'chunk' | 'trailer' | 'close' | 'blind' = 'head';
  #held: Buffer = Buffer.alloc(0);
  #left = 0;

  constructor(sink: Sink) {
    this.#sink = sink;
  }

  /** @throws RangeError when this is no HTTP that can be followed */
  feed(bytes: Buffer): void {
    let rest = bytes;
    while (rest.length > 0) {
      if (this.#state === 'blind') return;
      rest = this.#step(rest);
    }
  }

  /** The sender has closed its side in order. */
  close(): void {
    if (this.#state === 'close') this.#complete();
  }

  /** From here on nothing is looked at. */
  blind(): void {
    this.#state = 'blind';
    this.#held = Buffer.alloc(0);
  }

  /** Takes from the front what belongs to the present state, returns the rest. */
  #step(bytes: Buffer): Buffer {
    if (this.#state === 'close') {
      this.#sink.body(bytes);
      return bytes.subarray(bytes.length);
    }
    if (this.#state === 'length' || this.#state === 'chunk') {
      const part = bytes.subarray(0, this.#left);
      this.#left -= part.length;
      this.#sink.body(part);
      if (this.#left === 0) {
        if (this.#state === 'length') this.#complete();
        else this.#state = 'size';
      }
      return bytes.subarray(part.length);
    }
    return this.#state === 'head' ? this.#readHead(bytes) : this.#readLine(bytes);
  }

  #readHead(bytes: Buffer): Buffer {
    // Empty lines before a request are to be ignored.
    if (this.#held.length === 0 && (bytes[0] === carriageReturn || bytes[0] === newline)) return bytes.subarray(1);
    const all = this.#held.length > 0 ? Buffer.concat([this.#held, bytes]) : bytes;
    const end = all.indexOf(emptyLine);
    if (end < 0 ? all.length > httpHeadBytesMax : end > httpHeadBytesMax) throw new RangeError('a head is too long');
    this.#held = end < 0 ? Buffer.from(all) : Buffer.alloc(0);
    if (end < 0) return all.subarray(all.length);
    this.#begin(this.#sink.head(parseHead(all.toString('latin1', 0, end))));
    return all.subarray(end + emptyLine.length);
  }

  /** A line between chunks: a size, the end of a chunk (empty), or of the trailer. */
  #readLine(bytes: Buffer): Buffer {
    const all = this.#held.length > 0 ? Buffer.concat([this.#held, bytes]) : bytes;
    const end = all.indexOf(lineEnd);
    if (end < 0 ? all.length > chunkLineBytesMax : end > chunkLineBytesMax) throw new RangeError('a line is too long');
    this.#held = end < 0 ? Buffer.from(all) : Buffer.alloc(0);
    if (end < 0) return all.subarray(all.length);
    const line = all.toString('latin1', 0, end);
    if (this.#state === 'trailer') {
      if (line === '') this.#complete();
    } else if (line !== '') {
      this.#left = Number.parseInt(line, 16);
      if (!(this.#left >= 0)) throw new RangeError('a chunk has no size');
      this.#state = this.#left === 0 ? 'trailer' : 'chunk';
    }
    return all.subarray(end + lineEnd.length);
  }

  #begin(body: Body): void {
    if (typeof body === 'object') {
      this.#left = body.bytes;
      this.#state = 'length';
      if (body.bytes === 0) this.#complete();
    } else if (body === 'chunked') this.#state = 'size';
    else if (body === 'close') this.#state = 'close';
    else if (body === 'blind') this.blind();
    else this.#complete();
  }

  #complete(): void {
    this.#state = 'head';
    this.#sink.end();
  }
}

function parseHead(text: string): Head {
  const [line = '', ...rest] = text.split('\r\n');
  const headers = new Map<string, string>();
  for (const header of rest) {
    const colon = header.indexOf(':');
    if (colon > 0) headers.set(header.slice(0, colon).toLowerCase(), header.slice(colon + 1).trim());
  }
  return { line, headers };
}

/** What follows a head by its own headers; `otherwise` where they say nothing. */
export function bodyOf(headers: Head['headers'], otherwise: Body): Body {
  if (/\bchunked\s*$/i.test(headers.get('transfer-encoding') ?? '')) return 'chunked';
  const length = headers.get('content-length');
  if (length === undefined) return otherwise;
  if (!/^\d{1,15}$/.test(length)) throw new RangeError('a length is no number');
  return { bytes: Number(length) };
}
