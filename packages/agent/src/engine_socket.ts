// HTTP over a Unix socket, with a bound on everything: time, size of an answer, length of a line.
import type { IncomingMessage } from 'node:http';
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
    await follow(this.#socket, `${this.#prefix}/events?${query.toString()}`, began, takeLine, signal);
  }

  async #ask(path: string, signal: AbortSignal): Promise<unknown> {
    return await within(engineAnswerMilliseconds, signal, (limited) => ask(this.#socket, path, limited));
  }
}

/** One `GET`; resolves when the head of its answer is there. @throws EngineError, the system's error, the signal's reason */
async function get(socket: string, path: string, signal: AbortSignal): Promise<IncomingMessage> {
  // Not loaded on a host without engines.
  const { request } = await import('node:http');
  signal.throwIfAborted();
  return await new Promise((resolve, reject) => {
    const asked = request(
      { socketPath: socket, path, headers: { host: 'localhost' }, agent: false, signal },
      (answer) => {
        // What is told of the end of the answer while nobody reads it: who reads it learns it anyway.
        answer.on('error', () => {});
        resolve(answer);
      },
    );
    asked.on('error', (cause) => reject(signal.aborted ? (signal.reason as Error) : cause));
    asked.end();
  });
}

/** Asks for JSON. @throws EngineError, SyntaxError, the system's error, the signal's reason */
async function ask(socket: string, path: string, signal: AbortSignal): Promise<unknown> {
  const answer = await get(socket, path, signal);
  const pieces: Buffer[] = [];
  let bytes = 0;
  // Leaving the loop early closes the connection.
  for await (const piece of answer as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes > engineAnswerBytesMax)
      throw new EngineError(`answers with more than ${engineAnswerBytesMax / 1024 / 1024} MiB`);
    pieces.push(piece);
  }
  if (answer.statusCode !== 200)
    throw new EngineError(`answers with the status ${answer.statusCode}`, answer.statusCode);
  try {
    return JSON.parse(Buffer.concat(pieces).toString());
  } catch {
    throw new EngineError('answers with something that is not JSON');
  }
}

/**
 * Follows an answer that has no end, line by line. Resolves when it ends nevertheless. A line that is too long is left out.
 * @throws EngineError, the system's error, the signal's reason; and whatever `take` throws
 */
async function follow(
  socket: string,
  path: string,
  began: () => void,
  take: (line: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const answer = await get(socket, path, signal);
  if (answer.statusCode !== 200) {
    answer.destroy();
    throw new EngineError(`answers with the status ${answer.statusCode}`, answer.statusCode);
  }
  began();
  const lines = new Lines(take);
  for await (const piece of answer as AsyncIterable<Buffer>) lines.add(piece);
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
