// Measures requests to servers of language models from copies of what passes. Texts are looked at and forgotten.
import type { Clock } from '#clock.ts';
import {
  llmModelsPerServerMax,
  llmSessionGapMilliseconds,
  measuredLineBytesMax,
  measuredRequestBytesMax,
  requestsPerConnectionMax,
} from '#limits.ts';
import { Sketch } from '#llm/distribution.ts';
import { type DurationName, durationNames, inside, nameOf, numberOf } from '#llm/reading.ts';
import { type Body, bodyOf, type Head, Messages } from '#llm/wire.ts';

export type Outcome = 'ok' | 'aborted' | 'error';

/** What was asked of one model since the proxy was started. */
class ModelMeasures {
  running = 0;
  readonly ended: Record<Outcome, number> = { ok: 0, aborted: 0, error: 0 };
  promptTokens = 0;
  generatedTokens = 0;
  /** Parts of answers that are still coming. */
  comingTokens = 0;
  readonly durations: Record<DurationName, Sketch> = {
    time_to_first_token: new Sketch(),
    inter_token_latency: new Sketch(),
    request_duration: new Sketch(),
  };
  busySince_us = Number.NaN;
  lastEnd_us = Number.NaN;

  get isUnused(): boolean {
    return this.running === 0 && this.ended.ok + this.ended.aborted + this.ended.error === 0;
  }
}

/** All that a proxy has measured. */
export class Measures {
  readonly clock: Clock;
  readonly #models = new Map<string, ModelMeasures>();
  readonly #started_us: number;
  /** How the server is asked, by the last request that was measured. */
  api: 'ollama' | 'openai' | '' = '';
  /** Answers of which not everything could be measured: too long a line, compressed, not what they say they are. */
  unreadable = 0;

  constructor(clock: Clock) {
    this.clock = clock;
    this.#started_us = clock.now_us();
  }

  /** The measures of a model; of too many all further ones share those without a name. */
  of(model: string): ModelMeasures {
    const name = this.#models.has(model) || this.#models.size < llmModelsPerServerMax - 1 ? model : '';
    let measures = this.#models.get(name);
    if (!measures) {
      measures = new ModelMeasures();
      this.#models.set(name, measures);
    }
    return measures;
  }

  /** Forgets a model that never was one: a request for it failed. */
  forget(model: string): void {
    if (this.#models.get(model)?.isUnused) this.#models.delete(model);
  }

  /** What the proxy says of itself, as `readProxy` reads it. */
  report(upstream: string) {
    return {
      proxy: 'fleetreel',
      upstream,
      api: this.api,
      started_us: this.#started_us,
      unreadable: this.unreadable,
      models: [...this.#models]
        .filter(([, measures]) => !measures.isUnused)
        .map(([model, measures]) => ({
          model,
          running: measures.running,
          busy_since_us: measures.busySince_us,
          last_end_us: measures.lastEnd_us,
          counters: {
            ...measures.ended,
            prompt_tokens: measures.promptTokens,
            generated_tokens: measures.generatedTokens + measures.comingTokens,
          },
          durations: Object.fromEntries(
            durationNames.map((name) => {
              const { sum, count, buckets } = measures.durations[name].distribution;
              return [name, { sum, count, buckets: buckets.map(({ from, to, count: many }) => [from, to, many]) }];
            }),
          ),
        })),
    };
  }
}

/** Paths of requests that are measured, at their end: servers may be below a prefix. */
const measuredPaths =
  /\/(api\/(generate|chat|embed|embeddings)|chat\/completions|completions?|responses|embeddings|messages|infill|generate|generate_stream)$/;

/** A request and its answer. */
class Exchange {
  readonly #measures: Measures;
  readonly #begin_ms: number;
  readonly #requested = new TopLevelText('model');
  #requestBytes = 0;
  #name: string | undefined;
  #model: ModelMeasures | undefined;
  #lines: Lines | undefined;
  #firstToken_ms = Number.NaN;
  #lastToken_ms = Number.NaN;
  #parts = 0;
  #promptTokens = Number.NaN;
  #generatedTokens = Number.NaN;
  #failed = false;
  /** The server has said which model it is. */
  #hasAnswered = false;
  #isOver = false;

  constructor(measures: Measures) {
    this.#measures = measures;
    this.#begin_ms = measures.clock.monotonic_ms();
  }

  request(bytes: Buffer): void {
    if (this.#requested.text !== undefined || this.#requestBytes > measuredRequestBytesMax) return;
    this.#requestBytes += bytes.length;
    this.#requested.feed(bytes);
    if (this.#requested.text !== undefined) this.#belongTo(nameOf(this.#requested.text));
  }

  requestEnd(): void {
    if (this.#name === undefined) this.#belongTo('');
  }

  answer(status: number, headers: Head['headers']): void {
    if (status >= 400) this.#failed = true;
    const encoding = headers.get('content-encoding') ?? 'identity';
    const type = headers.get('content-type') ?? '';
    if (encoding !== 'identity') this.#measures.unreadable++;
    else if (/ndjson|event-stream|json/.test(type)) {
      const isWhole = !/ndjson|event-stream/.test(type);
      this.#lines = new Lines(
        isWhole,
        (text) => this.#take(text),
        () => this.#measures.unreadable++,
      );
    }
  }

  answerBody(bytes: Buffer): void {
    this.#lines?.feed(bytes);
  }

  /** @param isUnwanted the client had closed its side: servers end what they do then with an error */
  end(outcome: Outcome, isUnwanted = false): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (outcome === 'ok') this.#lines?.end();
    const result = outcome === 'ok' && this.#failed ? (isUnwanted ? 'aborted' : 'error') : outcome;
    if (this.#name === undefined) this.#belongTo('');
    this.#leave();
    let model = this.#measures.of(this.#name ?? '');
    // Whoever asks for what is not there makes no model.
    if (result === 'error' && !this.#hasAnswered && model.isUnused) {
      this.#measures.forget(this.#name ?? '');
      model = this.#measures.of('');
    }
    model.ended[result]++;
    model.lastEnd_us = this.#measures.clock.now_us();
    model.promptTokens += this.#promptTokens || 0;
    // Without a number of tokens each part of the answer counts as one.
    model.generatedTokens += Number.isNaN(this.#generatedTokens) ? this.#parts : this.#generatedTokens;
    if (result === 'ok')
      model.durations.request_duration.add((this.#measures.clock.monotonic_ms() - this.#begin_ms) / 1000);
  }

  /** A line of the answer, or all of it. */
  #take(text: string): void {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      this.#measures.unreadable++;
      return;
    }
    const part = partOf(value);
    // Some name the model only at the end: by then it has been measured under the name that was asked for.
    if (part.model !== '' && this.#parts === 0) this.#belongTo(part.model);
    this.#hasAnswered ||= part.model !== '';
    if (part.isError) this.#failed = true;
    // Some tell with each part how many it has been until then.
    if (part.promptTokens >= 0) this.#promptTokens = part.promptTokens;
    if (part.generatedTokens >= 0) this.#generatedTokens = part.generatedTokens;
    if (part.hasContent && this.#lines && !this.#lines.isWhole) this.#token();
  }

  #token(): void {
    const now_ms = this.#measures.clock.monotonic_ms();
    const durations = this.#model?.durations;
    if (Number.isNaN(this.#firstToken_ms)) {
      this.#firstToken_ms = now_ms;
      durations?.time_to_first_token.add((now_ms - this.#begin_ms) / 1000);
    } else durations?.inter_token_latency.add((now_ms - this.#lastToken_ms) / 1000);
    this.#lastToken_ms = now_ms;
    this.#parts++;
    if (this.#model) this.#model.comingTokens++;
  }

  #belongTo(name: string): void {
    if (this.#name === name && this.#model) return;
    this.#leave();
    const { clock } = this.#measures;
    const model = this.#measures.of(name);
    const now_us = clock.now_us();
    const isPause = !(now_us - model.lastEnd_us <= llmSessionGapMilliseconds * 1000);
    if (model.running === 0 && isPause)
      model.busySince_us = Math.round(now_us - (clock.monotonic_ms() - this.#begin_ms) * 1000);
    model.running++;
    model.comingTokens += this.#parts;
    this.#name = name;
    this.#model = model;
  }

  #leave(): void {
    if (!this.#model) return;
    this.#model.running--;
    this.#model.comingTokens -= this.#parts;
    this.#model = undefined;
  }
}

/** Follows one connection through the proxy. */
export class Observer {
  readonly #measures: Measures;
  /** Requests whose answers are not complete, oldest first; undefined: one that is not measured. */
  readonly #open: { method: string; exchange: Exchange | undefined }[] = [];
  readonly #requests: Messages;
  readonly #answers: Messages;
  #isBlind = false;
  #hasClientEnded = false;

  constructor(measures: Measures) {
    this.#measures = measures;
    this.#requests = new Messages({
      head: (head) => this.#requestHead(head),
      body: (bytes) => this.#open.at(-1)?.exchange?.request(bytes),
      end: () => this.#open.at(-1)?.exchange?.requestEnd(),
    });
    this.#answers = new Messages({
      head: (head) => this.#answerHead(head),
      body: (bytes) => this.#open[0]?.exchange?.answerBody(bytes),
      end: () => this.#answerEnd(),
    });
  }

  /** Nothing is under way. */
  get isIdle(): boolean {
    return this.#isBlind ? false : this.#open.length === 0;
  }

  fromClient(bytes: Buffer): void {
    this.#follow(() => this.#requests.feed(bytes));
  }

  fromServer(bytes: Buffer): void {
    this.#follow(() => this.#answers.feed(bytes));
  }

  clientEnded(): void {
    this.#hasClientEnded = true;
  }

  /** The server has closed its side: an answer without a length is complete, others are not. */
  serverEnded(): void {
    this.#follow(() => this.#answers.close());
    this.closed('server');
  }

  /** The connection is over; what is still open has failed, or was given up. */
  closed(by: 'client' | 'server'): void {
    for (const { exchange } of this.#open.splice(0))
      exchange?.end(by === 'client' || this.#hasClientEnded ? 'aborted' : 'error');
  }

  #requestHead({ line, headers }: Head): Body {
    const [method = '', target = ''] = line.split(' ');
    if (this.#open.length >= requestsPerConnectionMax) throw new RangeError('too many requests wait for answers');
    const [path = ''] = target.split('?');
    const isMeasured = method === 'POST' && measuredPaths.test(path);
    if (isMeasured) this.#measures.api = path.includes('/api/') ? 'ollama' : 'openai';
    this.#open.push({ method, exchange: isMeasured ? new Exchange(this.#measures) : undefined });
    return bodyOf(headers, 'none');
  }

  #answerHead({ line, headers }: Head): Body {
    const status = Number(line.split(' ')[1]);
    const open = this.#open[0];
    if (!open || !(status >= 100)) throw new RangeError('an answer that nobody asked for');
    if (status === 101 || (open.method === 'CONNECT' && status < 300)) {
      this.#requests.blind();
      return 'blind';
    }
    if (status < 200) return 'none';
    open.exchange?.answer(status, headers);
    this.#isFinal = true;
    return open.method === 'HEAD' || status === 204 || status === 304 ? 'none' : bodyOf(headers, 'close');
  }

  /** The head that came last was not one that announces another. */
  #isFinal = false;

  #answerEnd(): void {
    if (!this.#isFinal) return;
    this.#isFinal = false;
    this.#open.shift()?.exchange?.end('ok', this.#hasClientEnded);
  }

  /** Whatever goes wrong here costs the measure of this connection, and nothing else. */
  #follow(step: () => void): void {
    if (this.#isBlind) return;
    try {
      step();
    } catch {
      this.#isBlind = true;
      this.#measures.unreadable++;
      this.#requests.blind();
      this.#answers.blind();
      for (const { exchange } of this.#open.splice(0)) exchange?.end('aborted');
    }
  }
}

const newline = 10;

/** Cuts an answer into lines, or keeps it whole; what is longer than the bound is left out and counted. */
class Lines {
  readonly isWhole: boolean;
  readonly #take: (text: string) => void;
  readonly #tooLong: () => void;
  #pieces: Buffer[] = [];
  #bytes = 0;

  constructor(isWhole: boolean, take: (text: string) => void, tooLong: () => void) {
    this.isWhole = isWhole;
    this.#take = take;
    this.#tooLong = tooLong;
  }

  feed(bytes: Buffer): void {
    let start = 0;
    for (let end = this.#lineEnd(bytes, 0); end >= 0; end = this.#lineEnd(bytes, start)) {
      this.#keep(bytes.subarray(start, end));
      this.end();
      start = end + 1;
    }
    this.#keep(bytes.subarray(start));
  }

  /** The line is complete. */
  end(): void {
    const isTooLong = this.#bytes > measuredLineBytesMax;
    const line = isTooLong ? '' : Buffer.concat(this.#pieces).toString('utf8').trim();
    this.#pieces = [];
    this.#bytes = 0;
    if (isTooLong) this.#tooLong();
    // Of server-sent events only the data says something, and its end is no JSON.
    const text = line.startsWith('data:') ? line.slice(5).trim() : line;
    if (text.startsWith('{')) this.#take(text);
  }

  #lineEnd(bytes: Buffer, from: number): number {
    return this.isWhole ? -1 : bytes.indexOf(newline, from);
  }

  #keep(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#bytes += bytes.length;
    // The buffer may be used again by whoever owns it.
    if (this.#bytes <= measuredLineBytesMax) this.#pieces.push(Buffer.from(bytes));
    else this.#pieces = [];
  }
}

type Part = { model: string; hasContent: boolean; promptTokens: number; generatedTokens: number; isError: boolean };

/**
 * What one piece of an answer says.
 * @see https://docs.ollama.com/api/chat, https://platform.openai.com/docs/api-reference/chat-streaming and
 * /responses-streaming, https://docs.anthropic.com/en/api/messages-streaming, the README of the server of llama.cpp,
 * https://huggingface.co/docs/text-generation-inference/reference/api_reference
 */
export function partOf(value: unknown): Part {
  const part = inside(value);
  // Newer interfaces wrap the answer as a whole: `response`, `message`.
  const wrapped = [part, inside(part, 'response'), inside(part, 'message')];
  const first = (read: (of: Readonly<Record<string, unknown>>) => number): number =>
    wrapped.map(read).find((number) => number >= 0) ?? Number.NaN;
  const usage = (...names: readonly string[]) =>
    first((of) => names.map((name) => numberOf(inside(of, 'usage')[name])).find((count) => count >= 0) ?? Number.NaN);
  const timings = inside(part, 'timings');
  const isLast = part.done === true || part.stop === true;
  const either = (...counts: readonly number[]): number => counts.find((count) => count >= 0) ?? Number.NaN;
  return {
    model: wrapped.map(({ model }) => nameOf(model)).find((model) => model !== '') ?? '',
    hasContent: hasContent(part),
    promptTokens: either(
      usage('prompt_tokens', 'input_tokens'),
      numberOf(part.prompt_eval_count),
      isLast ? numberOf(part.tokens_evaluated) : Number.NaN,
      numberOf(timings.prompt_n) + (numberOf(timings.cache_n) || 0),
    ),
    generatedTokens: either(
      usage('completion_tokens', 'output_tokens'),
      numberOf(part.eval_count),
      isLast ? numberOf(part.tokens_predicted) : Number.NaN,
      numberOf(timings.predicted_n),
      numberOf(inside(part, 'details').generated_tokens),
    ),
    isError: isSomething(part.error) || part.type === 'response.failed',
  };
}

const isSomething = (value: unknown): boolean =>
  Array.isArray(value) ? value.length > 0 : value !== undefined && value !== null && value !== '' && value !== false;

/** Whether a piece of a stream carries something that was generated. */
function hasContent(part: Readonly<Record<string, unknown>>): boolean {
  if (Array.isArray(part.choices))
    return part.choices.some((choice) => {
      const { text } = inside(choice);
      const { content, reasoning, reasoning_content, tool_calls, refusal } = inside(choice, 'delta');
      return [text, content, reasoning, reasoning_content, tool_calls, refusal].some(isSomething);
    });
  // Responses and Messages: `response.output_text.delta`, `content_block_delta`.
  if (typeof part.type === 'string') return part.type.endsWith('delta') && part.type !== 'message_delta';
  const { content, thinking, tool_calls } = inside(part, 'message');
  return [
    typeof part.response === 'string' ? part.response : undefined,
    part.thinking,
    content,
    thinking,
    tool_calls,
    typeof part.stop === 'boolean' ? part.content : undefined,
    part.token,
  ].some(isSomething);
}

const quote = 34;
const backslash = 92;
const textBytesMax = 4096;

/** Finds a text of the outermost object of some JSON by its key, and keeps nothing else. */
export class TopLevelText {
  readonly #key: string;
  /** The text, once it is found. */
  text: string | undefined;
  #depth = 0;
  #isInString = false;
  #isEscaped = false;
  /** The string of the outermost object that is being read, or was read last. */
  #string: number[] = [];
  #isValue = false;
  #isWanted = false;

  constructor(key: string) {
    this.#key = key;
  }

  feed(bytes: Buffer): void {
    for (let at = 0; at < bytes.length && this.text === undefined; at++) {
      // Long texts lie deeper: they are leapt over.
      if (this.#isInString && this.#depth !== 1) at = this.#leap(bytes, at);
      else this.#read(bytes[at] as number);
    }
  }

  /** To the quote that ends a string, or to the last byte. */
  #leap(bytes: Buffer, from: number): number {
    let start = from;
    if (this.#isEscaped) {
      this.#isEscaped = false;
      start++;
    }
    for (;;) {
      const end = bytes.indexOf(quote, start);
      const last = end < 0 ? bytes.length : end;
      let slashes = 0;
      while (last - slashes - 1 >= start && bytes[last - slashes - 1] === backslash) slashes++;
      if (end < 0) {
        this.#isEscaped = slashes % 2 === 1;
        return last;
      }
      if (slashes % 2 === 0) {
        this.#isInString = false;
        return end;
      }
      start = end + 1;
    }
  }

  #read(byte: number): void {
    if (this.#isInString) {
      if (!this.#isEscaped && byte === quote) {
        this.#isInString = false;
        if (this.#isValue && this.#isWanted) this.text = this.#decoded();
        return;
      }
      this.#isEscaped = !this.#isEscaped && byte === backslash;
      if (this.#string.length < textBytesMax) this.#string.push(byte);
      return;
    }
    const character = String.fromCharCode(byte);
    if (byte === quote) {
      this.#isInString = true;
      this.#string = [];
    } else if (character === '{' || character === '[') this.#depth++;
    else if (character === '}' || character === ']') this.#depth--;
    else if (this.#depth !== 1) return;
    else if (character === ':') {
      this.#isWanted = this.#decoded() === this.#key;
      this.#isValue = true;
    } else if (character === ',') this.#isValue = false;
  }

  #decoded(): string {
    try {
      return JSON.parse(`"${Buffer.from(this.#string).toString('utf8')}"`) as string;
    } catch {
      return '';
    }
  }
}
