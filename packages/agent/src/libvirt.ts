import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { libvirtMessageBytesMax } from '#limits.ts';

// The remote procedure calls of libvirt, as much of them as is needed to watch domains: XDR over the daemon's socket. The
// numbers are fixed for good: clients and daemons of different versions talk by them (src/remote/remote_protocol.x).

const program = 0x20008086;
const keepaliveProgram = 0x6b656570;
const version = 1;
const messageType = { call: 0, reply: 1, event: 2 } as const;
const keepalive = { ping: 1, pong: 2 } as const;
const procedure = {
  open: 1,
  authList: 66,
  authPolkit: 70,
  registerEvent: 316,
  lifecycle: 318,
  reboot: 319,
  allDomainStats: 344,
} as const;
const statusOk = 0;
const headerBytes = 28;
const readOnly = 1;
const authentication = { none: 0, polkit: 2 } as const;
const eventId = { lifecycle: 0, reboot: 1 } as const;

/** State, CPU, balloon, virtual CPUs, interfaces, block devices. */
const statistics = 1 | 2 | 4 | 8 | 16 | 32;
/** VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT, since libvirt 4.5: what a job of a domain blocks is left out instead of waited for. */
const noWait = 1 << 29;

export type Parameters = Map<string, number | string>;

/** A domain with its statistics, named as `virsh domstats --raw` shows them. */
export type DomainStats = { uuid: string; name: string; parameters: Parameters };

/** Something that libvirt says of a domain as it happens: numbers of virDomainEventType and of its detail. */
export type DomainEvent =
  | { uuid: string; name: string; event: number; detail: number }
  | { uuid: string; name: string };

/** What libvirt answered instead of what it was asked for. */
export class LibvirtError extends Error {
  override name = 'LibvirtError';
  readonly code: number;

  constructor(code: number, message: string) {
    super(message);
    this.code = code;
  }
}

type Pending = { resolve: (payload: XdrReader) => void; reject: (cause: Error) => void };

/** One connection to libvirt's daemon that asks and listens, and can't change anything. */
export class Libvirt implements Disposable {
  readonly #socket: Socket;
  readonly #onEvent: (event: DomainEvent) => void;
  readonly #pending = new Map<number, Pending>();
  #serial = 0;
  #chunks: Buffer[] = [];
  #bytes = 0;
  /** Why it can't be used any more. */
  closed: Error | undefined;

  private constructor(socket: Socket, onEvent: (event: DomainEvent) => void) {
    this.#socket = socket;
    this.#onEvent = onEvent;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (cause) => this.#close(cause));
    socket.on('close', () => this.#close(new Error('libvirt has closed the connection')));
  }

  /**
   * Connects, opens the driver for reading only, and asks for events.
   * @param uri the driver's, as `qemu:///system`
   * @throws LibvirtError when libvirt refuses; the system's error when the socket can't be used
   */
  static async connect(
    path: string,
    uri: string,
    onEvent: (event: DomainEvent) => void,
    signal: AbortSignal,
  ): Promise<Libvirt> {
    const socket = connect(path);
    const abort = () => socket.destroy(new Error('libvirt has not answered'));
    signal.addEventListener('abort', abort, { once: true });
    try {
      await once(socket, 'connect');
      const libvirt = new Libvirt(socket, onEvent);
      await libvirt.#open(uri);
      return libvirt;
    } catch (cause) {
      socket.destroy();
      throw cause;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  async #open(uri: string): Promise<void> {
    const types = (await this.#call(procedure.authList)).list((reader) => reader.int());
    if (types.includes(authentication.polkit)) await this.#call(procedure.authPolkit);
    else if (types.length > 0 && !types.includes(authentication.none))
      throw new LibvirtError(0, 'its socket asks for a password (SASL)');
    await this.#call(procedure.open, new XdrWriter().int(1).string(uri).int(readOnly));
    for (const event of [eventId.lifecycle, eventId.reboot])
      await this.#call(procedure.registerEvent, new XdrWriter().int(event).int(0));
  }

  /** All domains, running or not. @throws LibvirtError; Error when the connection has ended */
  async domainStats(): Promise<DomainStats[]> {
    const arguments_ = new XdrWriter().int(0).int(statistics).int(noWait);
    const reader = await this.#call(procedure.allDomainStats, arguments_);
    return reader.list(() => {
      const domain = reader.domain();
      const parameters: Parameters = new Map();
      for (let left = reader.int(); left > 0; left--) {
        const name = reader.string();
        parameters.set(name, reader.typedValue());
      }
      return { ...domain, parameters };
    });
  }

  [Symbol.dispose](): void {
    this.#close(new Error('the connection to libvirt was closed'));
  }

  #close(cause: Error): void {
    if (this.closed) return;
    this.closed = cause;
    this.#chunks = [];
    this.#socket.destroy();
    for (const { reject } of this.#pending.values()) reject(cause);
    this.#pending.clear();
  }

  #call(number: number, body = new XdrWriter()): Promise<XdrReader> {
    return new Promise((resolve, reject) => {
      if (this.closed) {
        reject(this.closed);
        return;
      }
      this.#serial++;
      this.#pending.set(this.#serial, { resolve, reject });
      this.#send(program, number, messageType.call, this.#serial, body.bytes());
    });
  }

  #send(programNumber: number, number: number, type: number, serial: number, body: Buffer): void {
    const message = Buffer.allocUnsafe(headerBytes + body.length);
    const words = [message.length, programNumber, version, number, type, serial, statusOk];
    for (const [place, word] of words.entries()) message.writeUInt32BE(word, place * 4);
    body.copy(message, headerBytes);
    this.#socket.write(message);
  }

  /** Messages come in pieces, and several at once. */
  #take(chunk: Buffer): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    while (this.#bytes >= 4 && !this.closed) {
      if ((this.#chunks[0]?.length ?? 0) < 4) this.#chunks = [Buffer.concat(this.#chunks)];
      const length = this.#chunks[0]?.readUInt32BE(0) ?? 0;
      if (length < headerBytes || length > libvirtMessageBytesMax) {
        this.#close(new Error(`libvirt sent a message of ${length} bytes`));
        return;
      }
      if (this.#bytes < length) return;
      const all = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
      this.#bytes -= length;
      this.#chunks = this.#bytes > 0 ? [all.subarray(length)] : [];
      try {
        this.#handle(all.subarray(0, length));
      } catch (cause) {
        this.#close(new Error('libvirt sent a message that is not understood', { cause }));
      }
    }
  }

  #handle(message: Buffer): void {
    const word = (place: number): number => message.readUInt32BE(place * 4);
    const [from, number, type, serial, status] = [word(1), word(3), word(4), word(5), word(6)];
    const reader = new XdrReader(message.subarray(headerBytes));
    if (from === keepaliveProgram) {
      if (number === keepalive.ping)
        this.#send(keepaliveProgram, keepalive.pong, messageType.event, 0, Buffer.alloc(0));
      return;
    }
    if (type === messageType.event) {
      if (number !== procedure.lifecycle && number !== procedure.reboot) return;
      reader.int();
      const domain = reader.domain();
      this.#onEvent(number === procedure.reboot ? domain : { ...domain, event: reader.int(), detail: reader.int() });
      return;
    }
    const pending = this.#pending.get(serial);
    if (type !== messageType.reply || !pending) return;
    this.#pending.delete(serial);
    if (status === statusOk) {
      // Read at once, while this message's bytes are the only ones that are kept for it.
      pending.resolve(reader);
      return;
    }
    const code = reader.int();
    reader.int();
    pending.reject(
      new LibvirtError(code, reader.int() === 0 ? `libvirt answered with error ${code}` : reader.string()),
    );
  }
}

/** Words of four bytes, the highest first; texts and bytes are padded to words (RFC 4506). */
class XdrWriter {
  readonly #parts: Buffer[] = [];

  int(value: number): this {
    const word = Buffer.allocUnsafe(4);
    word.writeInt32BE(value);
    this.#parts.push(word);
    return this;
  }

  string(text: string): this {
    const bytes = Buffer.from(text);
    this.int(bytes.length);
    this.#parts.push(bytes, Buffer.alloc(-bytes.length & 3));
    return this;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }
}

/** Reads what `XdrWriter` writes, and libvirt's structures. @throws RangeError where the message ends too early */
class XdrReader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  int(): number {
    this.#at += 4;
    return this.#bytes.readInt32BE(this.#at - 4);
  }

  unsigned(): number {
    return this.int() >>> 0;
  }

  string(): string {
    const length = this.unsigned();
    const start = this.#advance(length);
    return this.#bytes.toString('utf8', start, start + length);
  }

  list<T>(item: (reader: this) => T): T[] {
    const items: T[] = [];
    for (let left = this.unsigned(); left > 0; left--) items.push(item(this));
    return items;
  }

  /** A domain: its number within the daemon is left out. */
  domain(): { uuid: string; name: string } {
    const name = this.string();
    const start = this.#advance(16);
    const hexadecimal = this.#bytes.toString('hex', start, start + 16);
    this.int();
    return { name, uuid: hexadecimal.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-') };
  }

  /** Counters above 2^53 lose their last digits. */
  typedValue(): number | string {
    const type = this.int();
    switch (type) {
      case 1:
      case 6:
        return this.int();
      case 2:
        return this.unsigned();
      case 3:
        return this.int() * 2 ** 32 + this.unsigned();
      case 4:
        return this.unsigned() * 2 ** 32 + this.unsigned();
      case 5:
        return this.#bytes.readDoubleBE(this.#advance(8));
      case 7:
        return this.string();
      default:
        throw new RangeError(`a value of type ${type}`);
    }
  }

  #advance(length: number): number {
    const start = this.#at;
    this.#at += length + (-length & 3);
    if (this.#at > this.#bytes.length) throw new RangeError('the message ends too early');
    return start;
  }
}
