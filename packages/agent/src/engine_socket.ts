// HTTP over a Unix socket, with a bound on everything: time, size of an answer, length of a line.
import type { EngineContainer } from '#engine.ts';
import { type EngineEvent, eventFilter, parseEvent, parseInspect, parseList, parseVersion } from '#engine_api.ts';
import { engineAnswerBytesMax, engineAnswerMilliseconds, engineEventBytesMax } from '#limits.ts';

/** What an engine can be asked, whatever it speaks. Everything is bounded in time and size but the following of its events. */
export interface EngineApi {
  /** Its name: docker, podman, containerd, cri-o. @throws NoEngine, EngineError, the system's error */
  identify(signal: AbortSignal): Promise<string>;
  list(signal: AbortSignal): Promise<EngineContainer[]>;
  /** Undefined when it is gone. */
  inspect(id: string, signal: AbortSignal): Promise<EngineContainer | undefined>;
  /** Takes events, those since then first where the engine keeps them; resolves when it ends its telling. */
  follow(since_us: number, began: () => void, take: (event: EngineEvent) => void, signal: AbortSignal): Promise<void>;
}

/** An answer that is not what was asked for. */
export class EngineError extends Error {
  override name = 'EngineError';
  /** The status of HTTP; NaN where there was none. */
  readonly status: number;

  constructor(message: string, status = Number.NaN) {
    super(message);
    this.status = status;
  }
}

/** Something that answers, and is not what is looked for. */
export class NoEngine extends Error {
  override name = 'NoEngine';
}

/** Gives work a time limit. @throws EngineError when it is over; what the work throws */
export async function within<T>(
  limit_ms: number,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const limited = new AbortController();
  const over = Promise.withResolvers<never>();
  const end = (cause: unknown): void => {
    limited.abort(cause);
    over.reject(cause);
  };
  const ended = (): void => end(signal.reason);
  const timer = setTimeout(() => end(new EngineError(`has not answered within ${limit_ms / 1000} s`)), limit_ms);
  signal.addEventListener('abort', ended, { once: true });
  try {
    if (signal.aborted) ended();
    return await Promise.race([work(limited.signal), over.promise]);
  } finally {
    clearTimeout(timer);
    signal.removeEventListener('abort', ended);
  }
}

/** Docker and Podman, by the API of Docker. */
export class DockerApi implements EngineApi {
  readonly #socket: string;
  #engine = '';
  #prefix = '';

  constructor(socket: string) {
    this.#socket = socket;
  }

  async identify(signal: AbortSignal): Promise<string> {
    const { engine, prefix } = parseVersion(await this.#ask('/version', signal));
    this.#engine = engine;
    this.#prefix = prefix;
    return engine;
  }

  async list(signal: AbortSignal): Promise<EngineContainer[]> {
    return parseList(this.#engine, await this.#ask(`${this.#prefix}/containers/json?all=1`, signal));
  }

  async inspect(id: string, signal: AbortSignal): Promise<EngineContainer | undefined> {
    try {
      return parseInspect(this.#engine, await this.#ask(`${this.#prefix}/containers/${id}/json`, signal));
    } catch (cause) {
      // Podman answers 500 for one that is being removed.
      if (cause instanceof EngineError && !Number.isNaN(cause.status)) return undefined;
      throw cause;
    }
  }

  async follow(
    since_us: number,
    began: () => void,
    take: (event: EngineEvent) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const since = `${Math.floor(since_us / 1e6)}.${String(Math.floor(since_us % 1e6)).padStart(6, '0')}000`;
    const query = new URLSearchParams({ since, filters: eventFilter(this.#engine) });
    const takeLine = (line: string): void => {
      const event = parseEvent(line);
      if (event) take(event);
    };
    const lines = new Lines(takeLine);
    const path = `${this.#prefix}/events?${query.toString()}`;
    await get(this.#socket, path, began, (piece) => lines.add(piece), signal);
  }

  async #ask(path: string, signal: AbortSignal): Promise<unknown> {
    return await within(engineAnswerMilliseconds, signal, (limited) => ask(this.#socket, path, limited));
  }
}

/**
 * One `GET`. It is asked in HTTP/1.0, in which an answer is what comes until the connection ends: to read that takes no client of
 * HTTP, whose loading alone takes 15 MiB of memory. Resolves when the answer has ended.
 * @throws EngineError, the system's error, the signal's reason; and whatever `take` throws
 */
async function get(
  socket: string,
  path: string,
  began: () => void,
  take: (piece: Buffer) => void,
  signal: AbortSignal,
): Promise<void> {
  const { connect } = await import('node:net');
  signal.throwIfAborted();
  const wire = connect(socket);
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const abort = (): void => reject(signal.reason as Error);
  signal.addEventListener('abort', abort, { once: true });
  const answer = new Answer(began, take);
  wire.on('error', reject);
  wire.on('data', (piece: Buffer) => {
    try {
      answer.add(piece);
    } catch (cause) {
      reject(cause);
    }
  });
  wire.on('close', () => {
    if (answer.isComplete) resolve();
    else reject(new EngineError('breaks off its answer'));
  });
  try {
    wire.write(`GET ${path} HTTP/1.0\r\nHost: localhost\r\n\r\n`);
    await promise;
  } finally {
    signal.removeEventListener('abort', abort);
    wire.destroy();
  }
}

/** The head of an answer is shorter than this. */
const headBytesMax = 64 * 1024;

/** An answer of HTTP/1, as its bytes come: the head is read, the body passed on. */
class Answer {
  readonly #began: () => void;
  readonly #take: (piece: Buffer) => void;
  /** Undefined once it is read. */
  #head: Buffer | undefined = Buffer.alloc(0);
  /** Of the body that is still to come, where the head says its length. */
  #leftBytes = Number.NaN;

  constructor(began: () => void, take: (piece: Buffer) => void) {
    this.#began = began;
    this.#take = take;
  }

  get isComplete(): boolean {
    return this.#head === undefined && !(this.#leftBytes > 0);
  }

  /** @throws EngineError when it is not what was asked for */
  add(piece: Buffer): void {
    let body = piece;
    if (this.#head !== undefined) {
      const head = Buffer.concat([this.#head, piece]);
      const end = head.indexOf('\r\n\r\n');
      if (
        end < 0 &&
        head.length < headBytesMax &&
        head.subarray(0, 5).equals(Buffer.from('HTTP/').subarray(0, head.length))
      ) {
        this.#head = head;
        return;
      }
      this.#readHead(head.toString('latin1', 0, Math.max(end, 0)));
      this.#head = undefined;
      this.#began();
      body = head.subarray(end + 4);
    }
    this.#leftBytes -= body.length;
    if (body.length > 0) this.#take(body);
  }

  #readHead(head: string): void {
    const status = /^HTTP\/1\.[01] (\d{3})\b/.exec(head)?.[1];
    if (status === undefined) throw new EngineError('does not speak HTTP');
    if (status !== '200') throw new EngineError(`answers with the status ${status}`, Number(status));
    if (/^transfer-encoding:/im.test(head)) throw new EngineError('answers in pieces, which nobody asked for');
    this.#leftBytes = Number(/^content-length: *(\d+) *$/im.exec(head)?.[1] ?? Number.NaN);
  }
}

/** Asks for JSON. @throws EngineError, the system's error, the signal's reason */
async function ask(socket: string, path: string, signal: AbortSignal): Promise<unknown> {
  const pieces: Buffer[] = [];
  let bytes = 0;
  const take = (piece: Buffer): void => {
    bytes += piece.length;
    if (bytes > engineAnswerBytesMax)
      throw new EngineError(`answers with more than ${engineAnswerBytesMax / 1024 / 1024} MiB`);
    pieces.push(piece);
  };
  await get(socket, path, () => {}, take, signal);
  try {
    return JSON.parse(Buffer.concat(pieces).toString());
  } catch {
    throw new EngineError('answers with something that is not JSON');
  }
}

/** Puts lines together from the pieces in which they come. */
export class Lines {
  readonly #take: (line: string) => void;
  #kept: Buffer[] = [];
  #keptBytes = 0;
  #isTooLong = false;

  constructor(take: (line: string) => void) {
    this.#take = take;
  }

  add(piece: Buffer): void {
    let start = 0;
    for (let end = piece.indexOf(10); end >= 0; end = piece.indexOf(10, start)) {
      this.#keep(piece.subarray(start, end));
      start = end + 1;
      const line = this.#isTooLong ? '' : Buffer.concat(this.#kept).toString();
      this.#forget();
      if (line.trim() !== '') this.#take(line);
    }
    this.#keep(piece.subarray(start));
  }

  #keep(bytes: Buffer): void {
    if (this.#isTooLong || bytes.length === 0) return;
    this.#keptBytes += bytes.length;
    this.#isTooLong = this.#keptBytes > engineEventBytesMax;
    if (this.#isTooLong) this.#kept = [];
    // A copy: the piece is a view of a buffer that may be many times as large.
    else this.#kept.push(Buffer.from(bytes));
  }

  #forget(): void {
    this.#kept = [];
    this.#keptBytes = 0;
    this.#isTooLong = false;
  }
}
