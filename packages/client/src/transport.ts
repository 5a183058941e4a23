// Requests to the collector, by the fetch that browsers and Node have. The only place that knows the key.
import { ConfigurationError, ConnectionError, type FleetreelError, RequestError } from '#errors.ts';
import { problemBytesMax, retryAfterMillisecondsMax } from '#limits.ts';

type RequestOptions = {
  method: 'GET' | 'POST';
  headers?: Readonly<Record<string, string>>;
  body?: string;
  /** Ends the request; after the time that it may take by default. */
  signal?: AbortSignal;
  /** The browser goes on with it when the page is left. */
  keepalive?: boolean;
};

export class Transport {
  /** Scheme, host and path, without a slash at the end. */
  readonly address: string;
  /** That a request may take. */
  readonly milliseconds: number;
  readonly #key: string;

  /** @throws ConfigurationError */
  constructor(url: string, key: string, milliseconds: number) {
    this.address = addressOf(url);
    if (typeof key !== 'string' || key === '')
      throw new ConfigurationError('There is no key: give "key", one of an administrator (frk_...).');
    // A header takes no other characters, and the error of one that refuses repeats its value.
    if (!/^[\x21-\x7e]+$/.test(key))
      throw new ConfigurationError('The key has characters that no key has: give it as it was shown, without spaces.');
    this.#key = key;
    this.milliseconds = milliseconds;
  }

  /** @throws RequestError when the answer is no success, ConnectionError when there is none */
  async request(path: string, { method, headers = {}, body, keepalive, ...given }: RequestOptions): Promise<Response> {
    const signal = given.signal ?? AbortSignal.timeout(this.milliseconds);
    let answer: Response;
    try {
      answer = await fetch(`${this.address}${path}`, {
        method,
        headers: { ...headers, authorization: `Bearer ${this.#key}` },
        signal,
        // The key is all that is brought, and it is brought to nobody else.
        credentials: 'omit',
        redirect: 'manual',
        ...(body !== undefined && { body }),
        ...(keepalive && { keepalive }),
      });
      if (answer.ok) return answer;
    } catch (cause) {
      throw this.#unreachable(cause, signal);
    }
    throw await this.#refusal(answer);
  }

  /** The answer's body: an object with this member, as a collector's is. @throws ConnectionError when it breaks off or is none */
  async json(answer: Response, member: string): Promise<Record<string, unknown>> {
    let document: unknown;
    try {
      document = await answer.json();
    } catch (cause) {
      throw new ConnectionError(`The answer of ${this.address} can't be read: ${this.#clean(reasonOf(cause))}.`);
    }
    if (typeof document !== 'object' || document === null || !(member in document))
      throw new ConnectionError(`The answer of ${this.address} is none of a collector.`);
    return document as Record<string, unknown>;
  }

  #unreachable(cause: unknown, signal: AbortSignal): FleetreelError {
    if (signal.aborted && (signal.reason as Error).name === 'TimeoutError')
      return new ConnectionError(`${this.address} did not answer within ${this.milliseconds / 1000} s.`);
    return new ConnectionError(`${this.address} can't be reached: ${this.#clean(reasonOf(cause))}.`);
  }

  async #refusal(answer: Response): Promise<RequestError> {
    const retryAfterMilliseconds = retryAfter(answer.headers.get('retry-after'));
    // A browser shows nothing of a redirect but that it was one.
    if (answer.type === 'opaqueredirect' || (answer.status >= 300 && answer.status < 400)) {
      await answer.body?.cancel();
      return new RequestError(
        answer.status,
        'redirected',
        `${this.address} sends on to another address: give that one.`,
      );
    }
    const problem = problemOf(await beginningOf(answer));
    return new RequestError(
      answer.status,
      problem.code ?? `http_${answer.status}`,
      this.#clean(problem.detail ?? `${this.address} answered ${answer.status} without saying why.`),
      { parameter: problem.parameter, index: problem.index, retryAfterMilliseconds },
    );
  }

  /** Whoever repeats what it was sent shall not bring the key into a log. */
  #clean(text: string): string {
    return text.replaceAll(this.#key, 'frk_...');
  }
}

function addressOf(url: string): string {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw new ConfigurationError(
      'There is no address of the collector that can be read: give "url", such as http://127.0.0.1:7600.',
    );
  }
  if (!['http:', 'https:'].includes(parsed.protocol))
    throw new ConfigurationError(`The collector is reached by http or https, and "url" begins with ${parsed.protocol}`);
  if (parsed.username !== '' || parsed.password !== '')
    throw new ConfigurationError('"url" has a user name or a password: leave them out, the key is what counts.');
  if (parsed.search !== '' || parsed.hash !== '')
    throw new ConfigurationError('"url" has a query or a fragment: give scheme, host and port alone.');
  return `${parsed.origin}${parsed.pathname}`.replace(/\/+$/, '');
}

/** What a failed fetch says: its own message is always the same, the cause has the reason. */
function reasonOf(cause: unknown): string {
  let reason: unknown = cause;
  while (reason instanceof Error && reason.cause !== undefined) reason = reason.cause;
  if (!(reason instanceof Error)) return String(reason);
  return reason.message || ((reason as Error & { code?: string }).code ?? reason.name);
}

/** Retry-After in milliseconds: seconds or a date. */
function retryAfter(header: string | null): number | undefined {
  if (header === null) return undefined;
  const milliseconds = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  if (!Number.isFinite(milliseconds)) return undefined;
  return Math.min(Math.max(milliseconds, 0), retryAfterMillisecondsMax);
}

async function beginningOf(answer: Response): Promise<string> {
  if (answer.body === null) return '';
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  let text = '';
  try {
    for (let bytes = 0; bytes < problemBytesMax; ) {
      const { done, value } = await reader.read();
      if (done) break;
      bytes += value.byteLength;
      text += decoder.decode(value, { stream: true });
    }
    await reader.cancel();
  } catch {
    // What there is of it says enough: the status is known.
  }
  return text;
}

type Problem = { code?: string; detail?: string; parameter?: string; index?: number };

/** The members of a problem document (RFC 9457) that are what they should be; none of anything else. */
function problemOf(text: string): Problem {
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch {
    return {};
  }
  if (typeof document !== 'object' || document === null) return {};
  const given = document as Record<string, unknown>;
  const { index } = given;
  const texts = (['code', 'detail', 'parameter'] as const).filter((name) => typeof given[name] === 'string');
  return {
    ...Object.fromEntries(texts.map((name) => [name, given[name]])),
    ...(typeof index === 'number' && Number.isInteger(index) && index >= 0 && { index }),
  };
}
