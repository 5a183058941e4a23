// One server of language models: who it is, asked again and again, never waited for longer than its limit.
import type { IncomingMessage } from 'node:http';
import type { Clock } from '#clock.ts';
import { llmAnswerBytesMax, llmAnswerMilliseconds, llmDiscoverMilliseconds } from '#limits.ts';
import {
  type dialects,
  inside,
  type Kind,
  kindOfPage,
  type Loaded,
  type MetricsKind,
  nameOf,
  type ProxyReading,
  type Reading,
  readInfo,
  readModels,
  readOllama,
  readPage,
  readProxy,
} from '#llm/reading.ts';

/** The proxy's own page; everything else it forwards. */
export const proxyPath = '/_fleetreel/llm';

/** An address as the URL that it stands for; which may still be none, as with a port above 65535. */
export const withScheme = (address: string): string => (/^https?:\/\//.test(address) ? address : `http://${address}`);

/** What an endpoint last said, and when: monotonic milliseconds. */
export type Answer = Reading & { at_ms: number; now_us: number; proxied?: Omit<ProxyReading, 'works'> };

export class Endpoint {
  /** As the tables name it: `127.0.0.1:11434`. */
  readonly address: string;
  /** As it was given. */
  readonly url: string;
  /** Named by a setting rather than found. */
  readonly isNamed: boolean;
  readonly #base: string;
  readonly #clock: Clock;
  kind: Kind | undefined;
  version = '';
  /** Why it can't be asked, or tells little; empty when all is well. */
  trouble = '';
  /** Monotonic milliseconds of the first and the latest good answer. */
  since_ms = Number.NaN;
  /** Asked, and nobody is there. */
  isGone = false;
  isPolling = false;
  /** The newest answer, until it is taken. */
  #answer: Answer | undefined;
  #model = '';
  #about: readonly Loaded[] = [];
  #aboutAt_ms = Number.NEGATIVE_INFINITY;
  #identifyAt_ms = Number.NEGATIVE_INFINITY;

  /** @param url an address, or a URL whose path is left out */
  constructor(url: string, isNamed: boolean, clock: Clock) {
    this.url = url;
    const parsed = new URL(withScheme(url));
    // One server has one address, however it was named.
    if (parsed.hostname === 'localhost') parsed.hostname = '127.0.0.1';
    this.address = parsed.port === '' ? `${parsed.hostname}:${parsed.protocol === 'https:' ? 443 : 80}` : parsed.host;
    this.#base = parsed.origin;
    this.isNamed = isNamed;
    this.#clock = clock;
  }

  /** The answer since this was last asked, if there is one. */
  take(): Answer | undefined {
    const answer = this.#answer;
    this.#answer = undefined;
    return answer;
  }

  /** Asks once; never throws. */
  async poll(): Promise<void> {
    const now_ms = this.#clock.monotonic_ms();
    if (this.kind === undefined && now_ms < this.#identifyAt_ms) return;
    this.isPolling = true;
    try {
      if (this.kind === undefined) await this.#identify();
      if (this.kind !== undefined) await this.#read();
      this.isGone = false;
    } catch (cause) {
      const code = (cause as NodeJS.ErrnoException).code;
      this.isGone = code === 'ECONNREFUSED';
      this.trouble = `does not answer: ${(cause as Error).message || code}`;
    } finally {
      this.isPolling = false;
    }
  }

  async #identify(): Promise<void> {
    this.#identifyAt_ms = this.#clock.monotonic_ms() + llmDiscoverMilliseconds;
    // First of all: a proxy answers everything else as the server behind it would.
    if (readProxy(await this.#json(proxyPath))) this.kind = 'proxy';
    else if (typeof (await this.#json('/api/version')).version === 'string') this.kind = 'ollama';
    else this.kind = kindOfPage(await this.#text('/metrics')) ?? (await this.#withoutMetrics());
    if (this.kind === undefined) this.trouble = 'does not answer as a server of language models';
  }

  /** Servers that publish their metrics only when they are told to. */
  async #withoutMetrics(): Promise<Kind | undefined> {
    if ('default_generation_settings' in (await this.#json('/props'))) return 'llama.cpp';
    if ('model_path' in (await this.#json('/get_model_info'))) return 'sglang';
    return 'max_total_tokens' in (await this.#json('/info')) ? 'tgi' : undefined;
  }

  async #read(): Promise<void> {
    if (this.kind === 'proxy') await this.#readProxy();
    else if (this.kind === 'ollama') await this.#readOllama();
    else if (this.kind !== undefined) await this.#readPage(this.kind);
  }

  async #readProxy(): Promise<void> {
    const reading = readProxy(await this.#json(proxyPath));
    if (!reading) return this.#isAnother();
    const { works, ...proxied } = reading;
    this.#put({ works, loaded: [], proxied });
  }

  async #readOllama(): Promise<void> {
    if (this.#isDue()) this.version = nameOf((await this.#json('/api/version')).version);
    const ps = await this.#json('/api/ps');
    if (!Array.isArray(ps.models)) return this.#isAnother();
    this.#put({ works: new Map(), loaded: readOllama(ps) });
  }

  async #readPage(kind: MetricsKind): Promise<void> {
    if (this.#isDue()) await this.#readAbout(kind);
    const page = await this.#text('/metrics');
    const found = kindOfPage(page);
    if (found !== undefined && found !== kind) return this.#isAnother();
    this.trouble = found === undefined ? withoutMetrics[kind] : '';
    this.#put({ works: readPage(kind, page, this.#model), loaded: this.#about });
  }

  /** What changes seldom: version and models. */
  async #readAbout(kind: MetricsKind): Promise<void> {
    if (kind === 'tgi') {
      const info = await this.#json('/info');
      const loaded = readInfo(info);
      this.version = nameOf(info.version);
      this.#model = loaded.model;
      this.#about = loaded.model === '' ? [] : [loaded];
      return;
    }
    const loaded = readModels(await this.#json('/v1/models'));
    if (kind === 'llama.cpp') {
      const props = await this.#json('/props');
      this.version = nameOf(props.build_info);
      this.#model = fileOf(loaded[0]?.model || nameOf(props.model_alias) || nameOf(props.model_path));
    } else {
      this.version = nameOf((await this.#json(kind === 'vllm' ? '/version' : '/server_info')).version);
      this.#model = loaded[0]?.model ?? '';
    }
    this.#about = loaded
      .filter(({ model }) => model !== '')
      .map((model) => (kind === 'llama.cpp' ? { ...model, model: fileOf(model.model) } : model));
  }

  #isDue(): boolean {
    const now_ms = this.#clock.monotonic_ms();
    if (now_ms < this.#aboutAt_ms + llmDiscoverMilliseconds) return false;
    this.#aboutAt_ms = now_ms;
    return true;
  }

  #put(reading: Reading & { proxied?: Omit<ProxyReading, 'works'> }): void {
    const at_ms = this.#clock.monotonic_ms();
    if (Number.isNaN(this.since_ms)) this.since_ms = at_ms;
    if (this.kind === 'proxy' || this.kind === 'ollama') this.trouble = '';
    this.#answer = { ...reading, at_ms, now_us: this.#clock.now_us() };
  }

  /** Another program has taken the address. */
  #isAnother(): void {
    this.kind = undefined;
    this.#identifyAt_ms = Number.NEGATIVE_INFINITY;
    this.#aboutAt_ms = Number.NEGATIVE_INFINITY;
  }

  /** An answer as JSON; an empty object where there is none. */
  async #json(path: string): Promise<Readonly<Record<string, unknown>>> {
    const text = await this.#text(path);
    try {
      return inside(JSON.parse(text));
    } catch {
      return {};
    }
  }

  /**
   * The body of an answer with a status of success; empty with another.
   * @throws Error when nothing answers in time, or too much
   */
  async #text(path: string): Promise<string> {
    const { get } = await (this.#base.startsWith('https:') ? import('node:https') : import('node:http'));
    // A timeout of the socket would begin anew with each byte.
    const signal = AbortSignal.timeout(llmAnswerMilliseconds);
    const response = await new Promise<IncomingMessage>((resolve, reject) => {
      get(`${this.#base}${path}`, { agent: false, signal, headers: { accept: '*/*' } }, resolve).once('error', reject);
    });
    const pieces: Buffer[] = [];
    let bytes = 0;
    for await (const piece of response as AsyncIterable<Buffer>) {
      bytes += piece.length;
      if (bytes > llmAnswerBytesMax) throw new Error(`an answer has more than ${llmAnswerBytesMax} bytes`);
      pieces.push(piece);
    }
    return response.statusCode === 200 ? Buffer.concat(pieces).toString('utf8') : '';
  }
}

/** A model that has no name but that of its file is called so, without the folders. */
const fileOf = (model: string): string => (model.endsWith('.gguf') ? model.slice(model.lastIndexOf('/') + 1) : model);

const withoutMetrics: Readonly<Record<keyof typeof dialects, string>> = {
  vllm: 'publishes no metrics: start it without --disable-log-stats',
  sglang: 'publishes no metrics: start it with --enable-metrics',
  'llama.cpp': 'publishes no metrics: start it with --metrics',
  tgi: 'publishes no metrics',
};
