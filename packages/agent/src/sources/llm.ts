import type { LlmModel, LlmServer, Tables } from '@fleetreel/proto';
import { milliseconds } from '@fleetreel/proto/duration';
import { emptyTable } from '#columns.ts';
import {
  llmDiscoverMilliseconds,
  llmModelsPerServerMax,
  llmPollMilliseconds,
  llmServersMax,
  llmSessionGapMilliseconds,
  llmWaitMilliseconds,
} from '#limits.ts';
import { Discovery } from '#llm/discovery.ts';
import { meanOf, quantileOf } from '#llm/distribution.ts';
import { type Answer, Endpoint } from '#llm/endpoint.ts';
import { filled, type Interval, idle, intervalOf, plus, sumOfIntervals } from '#llm/interval.ts';
import type { Counter } from '#llm/reading.ts';
import { Sessions } from '#llm/sessions.ts';
import { percent } from '#rates.ts';
import { type Context, type Source, Unavailable } from '#source.ts';

/** An endpoint, what it last said, and what it did until then, by model. */
type Watched = {
  endpoint: Endpoint;
  last: Answer | undefined;
  /** Of the newest answer that had any. */
  usual: ReadonlyMap<string, Interval>;
  /** Of the answer of this sample; undefined when there is none. */
  fresh: ReadonlyMap<string, Interval> | undefined;
  isAnnounced: boolean;
};

/** Servers of language models: what they publish themselves, and what the proxy measures in front of them. */
export function llm(context: Context): Source {
  const { clock, settings } = context;
  const known = new KnownServers(context);
  const sessions = new Sessions(Math.max(milliseconds(settings.llm.session_gap), llmSessionGapMilliseconds));
  return {
    name: 'llm',
    tables: ['llm_server', 'llm_model', 'llm_session'],
    every_ms: llmPollMilliseconds,
    open: () => known.discover(),
    async sample(): Promise<Tables> {
      known.discover();
      await known.poll();
      known.take((address) => sessions.gone(address));
      const [servers, models] = [emptyTable('llm_server'), emptyTable('llm_model')];
      for (const server of serversOf(known.all)) {
        addServer(servers, server);
        addModels(models, server);
        for (const [model, interval] of server.intervals) sessions.take(server.address, model, interval, server.now_us);
      }
      const grown = sessions.rows(clock.now_us());
      return {
        ...(servers.server.length > 0 && { llm_server: servers }),
        ...(models.server.length > 0 && { llm_model: models }),
        ...(grown && { llm_session: grown }),
      };
    },
    close: () => known.clear(),
    limitations: () => known.limitations(),
  };
}

/** The servers that are there: found, asked, and forgotten when they are gone. */
class KnownServers {
  readonly #context: Context;
  readonly #discovery: Discovery;
  readonly #begin_us: number;
  readonly #watched = new Map<string, Watched>();
  #discoverAt_ms = Number.NEGATIVE_INFINITY;
  #isFirst = true;

  constructor(context: Context) {
    this.#context = context;
    this.#discovery = new Discovery(context.roots, context.processes);
    this.#begin_us = context.clock.now_us();
  }

  get all(): Watched[] {
    return [...this.#watched.values()];
  }

  /** Finds what is new, and forgets what is gone; once a minute. @throws Unavailable when there is none */
  discover(): void {
    const { clock, settings } = this.#context;
    const now_ms = clock.monotonic_ms();
    if (now_ms < this.#discoverAt_ms) return;
    this.#discoverAt_ms = now_ms + llmDiscoverMilliseconds;
    for (const url of settings.llm.servers) this.#watch(new Endpoint(url, true, clock));
    const found = this.#discovery.addresses();
    for (const address of found) this.#watch(new Endpoint(address, false, clock));
    this.#isFirst = false;
    for (const { endpoint } of this.all)
      if (!endpoint.isNamed && !endpoint.isPolling && !found.includes(endpoint.address)) endpoint.isGone = true;
    if (this.#watched.size === 0)
      throw new Unavailable(
        [
          'no server of language models (Ollama, vLLM, llama.cpp, TGI, SGLang) listens here; others are named by llm.servers',
          ...this.#unseen(),
        ].join('. '),
      );
  }

  /** Asks those that are not being asked, and waits a moment for what they say. */
  async poll(): Promise<void> {
    const waited = new AbortController();
    const limit = this.#context.clock.sleep(llmWaitMilliseconds, waited.signal).catch(() => undefined);
    const polls = this.all.flatMap(({ endpoint }) => (endpoint.isPolling ? [] : endpoint.poll()));
    await Promise.race([Promise.all(polls), limit]);
    waited.abort();
  }

  /** Takes the answers that have come. */
  take(onGone: (address: string) => void): void {
    for (const one of this.all) {
      const { endpoint, last } = one;
      const answer = endpoint.take();
      one.fresh = answer && this.#work(answer, last);
      if (one.fresh && one.fresh.size > 0) one.usual = one.fresh;
      if (answer) {
        this.#announce(one);
        one.last = answer;
      } else if (endpoint.isGone && (last || !endpoint.isNamed)) {
        this.#forget(one);
        onGone(endpoint.address);
      }
    }
  }

  limitations(): string[] {
    const proxied = this.all.map(({ last }) => last?.proxied?.upstream);
    const troubles = this.all.flatMap(({ endpoint: { address, kind, trouble } }) => {
      const isUnmeasured = trouble === '' && kind === 'ollama' && !proxied.includes(address);
      const what = isUnmeasured
        ? 'publishes no metrics: its requests, tokens and times are seen when `fleetreel-agent llm-proxy` is put in front of it'
        : trouble;
      return what === '' ? [] : `${address} (${kind ?? 'unknown'}) ${what}.`;
    });
    return [...troubles, ...this.#unseen()];
  }

  #unseen(): string[] {
    return this.#discovery.unseen.map(
      (program) =>
        `${program} may serve where it can't be seen: run the agent as root, or name the address in llm.servers.`,
    );
  }

  clear(): void {
    this.#watched.clear();
    this.#discoverAt_ms = Number.NEGATIVE_INFINITY;
  }

  #work(answer: Answer, last: Answer | undefined): Map<string, Interval> {
    const seconds = last ? (answer.at_ms - last.at_ms) / 1000 : Number.NaN;
    // A model that was not there before, and all that a proxy has counted which was started under our eyes, is new.
    const isNew = last !== undefined || (answer.proxied && answer.proxied.started_us >= this.#begin_us);
    return new Map(
      [...answer.works].map(([model, work]) => [
        model,
        intervalOf(work, last?.works.get(model) ?? (isNew ? idle : undefined), seconds),
      ]),
    );
  }

  #watch(endpoint: Endpoint): void {
    if (this.#watched.has(endpoint.address) || this.#watched.size >= llmServersMax) return;
    // What was there before the agent looked has not started now.
    this.#watched.set(endpoint.address, {
      endpoint,
      last: undefined,
      usual: new Map(),
      fresh: undefined,
      isAnnounced: this.#isFirst,
    });
  }

  #announce(one: Watched): void {
    const { kind, address } = one.endpoint;
    if (!one.isAnnounced && kind !== undefined && kind !== 'proxy')
      this.#context.events.record({ kind: 'llm_server', action: 'start', entity: address, name: kind });
    one.isAnnounced = true;
  }

  #forget({ endpoint, last }: Watched): void {
    const { clock, events } = this.#context;
    const { address, kind = '', isNamed, since_ms } = endpoint;
    this.#watched.delete(address);
    if (isNamed) this.#watch(new Endpoint(endpoint.url, true, clock));
    if (!last || kind === 'proxy') return;
    const duration_s = (clock.monotonic_ms() - since_ms) / 1000;
    events.record({ kind: 'llm_server', action: 'stop', entity: address, name: kind, duration_s });
  }
}

/** A server with its proxy, as the rows show it. */
type Server = {
  address: string;
  kind: string;
  version: string;
  proxy: string;
  now_us: number;
  whole: Interval | undefined;
  intervals: ReadonlyMap<string, Interval>;
  loaded: Answer['loaded'];
};

/** Servers of which there is something new, each with the first proxy in front of it. */
function serversOf(watched: readonly Watched[]): Server[] {
  const proxies = new Map<string, Watched>();
  for (const one of watched) {
    const upstream = one.last?.proxied?.upstream;
    if (upstream !== undefined && !proxies.has(upstream)) proxies.set(upstream, one);
  }
  const owners = watched.filter(({ endpoint, last }) => endpoint.kind !== 'proxy' && last !== undefined);
  const addresses = new Set([...owners.map(({ endpoint }) => endpoint.address), ...proxies.keys()]);
  const servers: Server[] = [];
  for (const address of addresses) {
    const own = owners.find(({ endpoint }) => endpoint.address === address);
    const proxy = proxies.get(address);
    if (!own?.fresh && !proxy?.fresh) continue;
    const kind = own?.endpoint.kind ?? proxy?.last?.proxied?.api ?? '';
    const measured = renamed(proxy?.fresh, kind);
    const all = [...(own?.fresh?.values() ?? [])];
    servers.push({
      address,
      kind,
      version: own?.endpoint.version ?? '',
      proxy: proxy?.endpoint.address ?? '',
      now_us: Math.max(own?.last?.now_us ?? 0, proxy?.last?.now_us ?? 0),
      whole: filled(
        sumOfIntervals(all),
        sumOfIntervals([...measured.values()]),
        sumOfIntervals([...(own?.usual.values() ?? [])]),
      ),
      intervals: byModel(own, measured),
      loaded: own?.fresh ? (own.last?.loaded ?? []) : [],
    });
  }
  return servers;
}

/** What each model did. What a proxy measured belongs to the only model of a server, whatever the client called it. */
function byModel(own: Watched | undefined, measured: ReadonlyMap<string, Interval>): Map<string, Interval> {
  const known = own?.usual;
  if (!own || !known || known.size === 0) return new Map(measured);
  const models = new Map<string, Interval>();
  for (const [model, usual] of known) {
    const theirs = known.size === 1 ? sumOfIntervals([...measured.values()]) : measured.get(model);
    const interval = filled(own.fresh?.get(model), theirs, usual);
    if (interval) models.set(model, interval);
  }
  return models;
}

/** Ollama calls a model without a tag its latest. */
function renamed(measured: ReadonlyMap<string, Interval> | undefined, kind: string): Map<string, Interval> {
  const models = new Map<string, Interval[]>();
  for (const [model, interval] of measured ?? []) {
    const isUntagged = kind === 'ollama' && model !== '' && !model.includes(':', model.lastIndexOf('/') + 1);
    const name = isUntagged ? `${model}:latest` : model;
    models.set(name, [...(models.get(name) ?? []), interval]);
  }
  return new Map([...models].map(([model, intervals]) => [model, sumOfIntervals(intervals) as Interval]));
}

const perSecond = (interval: Interval | undefined, counter: Counter): number =>
  interval && interval.seconds > 0 ? interval.growth[counter] / interval.seconds : Number.NaN;

function addServer(table: LlmServer, { address, kind, version, proxy, whole, loaded }: Server): void {
  const { work, growth, durations } = whole ?? {};
  const counted = work?.counters;
  table.server.push(address);
  table.kind.push(kind);
  table.version.push(version);
  table.proxy.push(proxy);
  table.requests_running_count.push(work?.running ?? Number.NaN);
  table.requests_waiting_count.push(work?.waiting ?? Number.NaN);
  table.requests_ok_per_second.push(perSecond(whole, 'ok'));
  table.requests_aborted_per_second.push(perSecond(whole, 'aborted'));
  table.requests_error_per_second.push(perSecond(whole, 'error'));
  table.requests_total.push(counted ? plus(counted.ok, plus(counted.aborted, counted.error)) : Number.NaN);
  table.prompt_tokens_per_second.push(perSecond(whole, 'prompt_tokens'));
  table.generated_tokens_per_second.push(perSecond(whole, 'generated_tokens'));
  table.prompt_tokens_total.push(counted?.prompt_tokens ?? Number.NaN);
  table.generated_tokens_total.push(counted?.generated_tokens ?? Number.NaN);
  for (const name of ['time_to_first_token', 'inter_token_latency', 'request_duration'] as const) {
    table[`${name}_seconds`].push(meanOf(durations?.[name]));
    table[`${name}_p95_seconds`].push(quantileOf(durations?.[name], 0.95));
  }
  table.kv_cache_percent.push(work?.kv_cache_percent ?? Number.NaN);
  const hits = growth ? percent(growth.cache_hits, growth.cache_queries) : Number.NaN;
  table.prefix_cache_hit_percent.push(
    Number.isNaN(hits) ? (work?.cache_hit_percent ?? Number.NaN) : Math.min(hits, 100),
  );
  table.preemptions_per_second.push(perSecond(whole, 'preemptions'));
  table.models_count.push(loaded.length > 0 || kind === 'ollama' ? loaded.length : Number.NaN);
}

/** Models that are loaded, and those that the server works with though it does not list them. */
function addModels(table: LlmModel, { address, intervals, loaded, now_us }: Server): void {
  const named = new Map(loaded.map((model) => [model.model, model]));
  for (const model of [...new Set([...named.keys(), ...intervals.keys()])].slice(0, llmModelsPerServerMax)) {
    const interval = intervals.get(model);
    const about = named.get(model);
    table.server.push(address);
    table.model.push(model);
    table.parameters.push(about?.parameters ?? '');
    table.quantization.push(about?.quantization ?? '');
    table.size_bytes.push(about?.size_bytes ?? Number.NaN);
    table.vram_bytes.push(about?.vram_bytes ?? Number.NaN);
    table.context_tokens_count.push(about?.context_tokens ?? Number.NaN);
    table.unload_seconds.push(about ? Math.max((about.unload_us - now_us) / 1e6, 0) : Number.NaN);
    table.requests_running_count.push(interval?.work.running ?? Number.NaN);
    table.prompt_tokens_per_second.push(perSecond(interval, 'prompt_tokens'));
    table.generated_tokens_per_second.push(perSecond(interval, 'generated_tokens'));
  }
}
