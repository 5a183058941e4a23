// What servers of language models say of themselves, each in its own words, made into one form.

import { llmModelsPerServerMax, nameCharactersMax } from '#limits.ts';
import { type Distribution, nothing, together } from '#llm/distribution.ts';
import { parsePage, type Sample } from '#llm/prometheus.ts';

export type Kind = 'ollama' | 'vllm' | 'llama.cpp' | 'tgi' | 'sglang' | 'proxy';

/** What only grows; NaN where a server does not say it. */
export const counterNames = [
  'prompt_tokens',
  'generated_tokens',
  'ok',
  'aborted',
  'error',
  'preemptions',
  'cache_hits',
  'cache_queries',
] as const;
export type Counter = (typeof counterNames)[number];
export type Counters = Readonly<Record<Counter, number>>;

export const durationNames = ['time_to_first_token', 'inter_token_latency', 'request_duration'] as const;
export type DurationName = (typeof durationNames)[number];
export type Durations = Readonly<Partial<Record<DurationName, Distribution>>>;

/** What a server says of its work with one model: since its start, and now. NaN and absent where it does not say it. */
export type Work = {
  running: number;
  waiting: number;
  kv_cache_percent: number;
  /** Only of servers that publish the share instead of hits and queries. */
  cache_hit_percent: number;
  counters: Counters;
  durations: Durations;
  /** Begin of the latest stretch without a pause of 10 s, and end of the latest request: only a proxy knows. */
  busySince_us?: number;
  lastEnd_us?: number;
};

/** A model in memory; texts are empty and numbers NaN where nothing is known. */
export type Loaded = {
  model: string;
  parameters: string;
  quantization: string;
  size_bytes: number;
  vram_bytes: number;
  context_tokens: number;
  /** When it will be unloaded, microseconds since 1970. */
  unload_us: number;
};

export type Reading = { works: ReadonlyMap<string, Work>; loaded: readonly Loaded[] };

export const noCounters: Counters = Object.fromEntries(counterNames.map((name) => [name, Number.NaN])) as Counters;

/** How a server's page names things. Of several names the first that is there counts: versions have renamed them. */
type Dialect = {
  prefix: string;
  running: readonly string[];
  waiting: readonly string[];
  /** From 0 to 1. */
  kvCache: readonly string[];
  cacheHitRate: readonly string[];
  counters: Readonly<Partial<Record<Counter, readonly string[]>>>;
  /** Requests that ended by their reason. */
  ended?: { name: string; label: string };
  durations: Readonly<Partial<Record<DurationName, readonly string[]>>>;
  /** Sums and counts of durations that are no histogram: seconds, and what they were spent on. */
  meanOnly?: Readonly<Partial<Record<DurationName, readonly [string, string]>>>;
};

/**
 * @see https://docs.vllm.ai/en/stable/usage/metrics/ (its older pages for what was renamed)
 * @see https://docs.sglang.io/references/production_metrics.html
 * @see https://huggingface.co/docs/text-generation-inference/reference/metrics
 * @see https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
 */
export const dialects = {
  vllm: {
    prefix: 'vllm:',
    running: ['vllm:num_requests_running'],
    waiting: ['vllm:num_requests_waiting'],
    // Before version 0.10 the first engine's name.
    kvCache: ['vllm:kv_cache_usage_perc', 'vllm:gpu_cache_usage_perc'],
    cacheHitRate: ['vllm:gpu_prefix_cache_hit_rate'],
    counters: {
      prompt_tokens: ['vllm:prompt_tokens_total'],
      generated_tokens: ['vllm:generation_tokens_total'],
      preemptions: ['vllm:num_preemptions_total', 'vllm:num_preemptions'],
      cache_hits: ['vllm:prefix_cache_hits_total', 'vllm:gpu_prefix_cache_hits_total', 'vllm:prefix_cache_hits'],
      cache_queries: [
        'vllm:prefix_cache_queries_total',
        'vllm:gpu_prefix_cache_queries_total',
        'vllm:prefix_cache_queries',
      ],
    },
    ended: { name: 'vllm:request_success_total', label: 'finished_reason' },
    durations: {
      time_to_first_token: ['vllm:time_to_first_token_seconds'],
      inter_token_latency: ['vllm:inter_token_latency_seconds', 'vllm:time_per_output_token_seconds'],
      request_duration: ['vllm:e2e_request_latency_seconds'],
    },
  },
  sglang: {
    prefix: 'sglang:',
    running: ['sglang:num_running_reqs'],
    waiting: ['sglang:num_queue_reqs'],
    kvCache: ['sglang:token_usage'],
    cacheHitRate: ['sglang:cache_hit_rate'],
    counters: {
      prompt_tokens: ['sglang:prompt_tokens_total'],
      generated_tokens: ['sglang:generation_tokens_total'],
      // Those that were given up while they ran are among them; taking them away would make a counter that goes back.
      ok: ['sglang:num_requests_total'],
      aborted: ['sglang:num_aborted_requests_total'],
      preemptions: ['sglang:num_retracted_requests_total'],
      cache_hits: ['sglang:cached_tokens_total'],
      cache_queries: ['sglang:prompt_tokens_total'],
    },
    durations: {
      time_to_first_token: ['sglang:time_to_first_token_seconds'],
      inter_token_latency: ['sglang:inter_token_latency_seconds', 'sglang:time_per_output_token_seconds'],
      request_duration: ['sglang:e2e_request_latency_seconds'],
    },
  },
  tgi: {
    prefix: 'tgi_',
    running: ['tgi_batch_current_size'],
    waiting: ['tgi_queue_size'],
    kvCache: [],
    cacheHitRate: [],
    counters: {
      prompt_tokens: ['tgi_request_input_length_sum'],
      generated_tokens: ['tgi_request_generated_tokens_sum'],
      ok: ['tgi_request_success'],
      error: ['tgi_request_failure'],
    },
    durations: {
      inter_token_latency: ['tgi_request_mean_time_per_token_duration'],
      request_duration: ['tgi_request_duration'],
    },
  },
  'llama.cpp': {
    prefix: 'llamacpp:',
    running: ['llamacpp:requests_processing'],
    waiting: ['llamacpp:requests_deferred'],
    // Gone since 2025.
    kvCache: ['llamacpp:kv_cache_usage_ratio'],
    cacheHitRate: [],
    counters: {
      prompt_tokens: ['llamacpp:prompt_tokens_total'],
      generated_tokens: ['llamacpp:tokens_predicted_total'],
      cache_hits: ['llamacpp:prompt_tokens_cached_total'],
    },
    durations: {},
    meanOnly: {
      inter_token_latency: ['llamacpp:tokens_predicted_seconds_total', 'llamacpp:tokens_predicted_total'],
    },
  },
} as const satisfies Readonly<Record<string, Dialect>>;
export type MetricsKind = keyof typeof dialects;

/** The reasons for which a request of vLLM ends, as outcomes. Others count as well ended. */
const outcomes: Readonly<Record<string, 'aborted' | 'error'>> = { abort: 'aborted', error: 'error' };

/** Each process of a parallel engine may publish the same numbers of the same requests. */
const ranks = ['tp_rank', 'pp_rank', 'moe_ep_rank', 'pid'];

/** Whose page of metrics this is; undefined where it is none of a server of language models. */
export const kindOfPage = (page: string): MetricsKind | undefined =>
  (Object.keys(dialects) as MetricsKind[]).find((kind) => new RegExp(`^${dialects[kind].prefix}`, 'm').test(page));

/** Reads a page of metrics by model; `model` is whose it is where the page does not say. */
export function readPage(kind: MetricsKind, page: string, model: string): Map<string, Work> {
  const dialect: Dialect = dialects[kind];
  const byModel = new Map<string, Sample[]>();
  for (const sample of parsePage(page, dialect.prefix)) {
    // Parts by priority are in the sum that has none.
    if (sample.labels.priority) continue;
    const name = nameOf(sample.labels.model_name ?? model);
    const samples = byModel.get(name);
    if (samples) samples.push(sample);
    else if (byModel.size < llmModelsPerServerMax) byModel.set(name, [sample]);
  }
  // Numbers of the process as a whole have no model.
  if (byModel.size > 1) byModel.delete('');
  return new Map([...byModel].map(([name, samples]) => [name, workOf(dialect, samples)]));
}

function workOf(dialect: Dialect, samples: readonly Sample[]): Work {
  const all = new Map<string, Sample[]>();
  for (const sample of samples) {
    const same = all.get(sample.name);
    if (same) same.push(sample);
    else all.set(sample.name, [sample]);
  }
  const first = (names: readonly string[] = []): readonly Sample[] =>
    names.map((name) => all.get(name)).find((found) => found !== undefined) ?? [];
  const sum = (names: readonly string[] | undefined): number => total(first(names));
  const share = (names: readonly string[]): number => {
    const found = perEngine(first(names)).filter((value) => value >= 0);
    return found.length > 0 ? Math.min((sumOf(found) / found.length) * 100, 100) : Number.NaN;
  };
  const counters = Object.fromEntries(counterNames.map((name) => [name, sum(dialect.counters[name])])) as Record<
    Counter,
    number
  >;
  if (dialect.ended) countEnded(counters, all.get(dialect.ended.name) ?? [], dialect.ended.label);
  if (dialect === dialects['llama.cpp']) counters.cache_queries = counters.cache_hits + counters.prompt_tokens;
  const durations: Partial<Record<DurationName, Distribution>> = {};
  for (const name of durationNames) {
    const [seconds, count] = dialect.meanOnly?.[name] ?? [];
    const found = seconds
      ? { sum: sum([seconds]), count: sum([count as string]), buckets: [] }
      : histogram(dialect.durations[name] ?? [], all);
    if (found && Number.isFinite(found.sum) && Number.isFinite(found.count)) durations[name] = found;
  }
  return {
    running: sum(dialect.running),
    waiting: sum(dialect.waiting),
    kv_cache_percent: share(dialect.kvCache),
    cache_hit_percent: share(dialect.cacheHitRate),
    counters,
    durations,
  };
}

function countEnded(counters: Record<Counter, number>, samples: readonly Sample[], label: string): void {
  if (samples.length === 0) return;
  counters.ok = 0;
  counters.aborted = 0;
  counters.error = 0;
  for (const { labels, value } of samples) counters[outcomes[labels[label] ?? ''] ?? 'ok'] += value;
}

/** A value for each engine: of several ranks of one, the greatest. */
function perEngine(samples: readonly Sample[]): number[] {
  const engines = new Map<string, number>();
  for (const { labels, value } of samples) {
    if (!Number.isFinite(value)) continue;
    const key = JSON.stringify(Object.entries(labels).filter(([name]) => !ranks.includes(name)));
    engines.set(key, Math.max(engines.get(key) ?? Number.NEGATIVE_INFINITY, value));
  }
  return [...engines.values()];
}

const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0);

function total(samples: readonly Sample[]): number {
  const values = perEngine(samples);
  const sum = sumOf(values);
  return values.length > 0 && sum >= 0 ? sum : Number.NaN;
}

/** The series of a histogram added up: their buckets count all that are not above their end. */
function histogram(names: readonly string[], all: ReadonlyMap<string, Sample[]>): Distribution | undefined {
  const name = names.find((one) => all.has(`${one}_count`));
  if (name === undefined) return undefined;
  const series = new Map<string, { to: number; count: number }[]>();
  for (const { labels, value } of all.get(`${name}_bucket`) ?? []) {
    const { le = '', ...others } = labels;
    const to = le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le);
    if (Number.isNaN(to) || !(value >= 0)) continue;
    const key = JSON.stringify(others);
    const buckets = series.get(key);
    if (buckets) buckets.push({ to, count: value });
    else series.set(key, [{ to, count: value }]);
  }
  let added = nothing;
  for (const cumulative of series.values()) {
    cumulative.sort((a, b) => a.to - b.to);
    const buckets = cumulative.map(({ to, count }, place) => {
      const before = cumulative[place - 1];
      return { from: before?.to ?? 0, to, count: Math.max(count - (before?.count ?? 0), 0) };
    });
    added = together(added, { sum: 0, count: 0, buckets });
  }
  return { ...added, sum: total(all.get(`${name}_sum`) ?? []), count: total(all.get(`${name}_count`) ?? []) };
}

/** A text of a server as a name: bounded, else as it is. */
export const nameOf = (value: unknown): string => (typeof value === 'string' ? value.slice(0, nameCharactersMax) : '');

/** A number of a server: NaN where it is none, or less than nothing. */
export const numberOf = (value: unknown): number =>
  typeof value === 'number' && value >= 0 && Number.isFinite(value) ? value : Number.NaN;

type Json = Readonly<Record<string, unknown>>;

/** Something within an answer, an empty object where there is none. */
export const inside = (value: unknown, ...path: readonly string[]): Json => {
  let found = value;
  for (const key of path) found = (found as Json | null | undefined)?.[key];
  return typeof found === 'object' && found !== null ? (found as Json) : {};
};

/** A list within an answer, bounded. */
export const listIn = (value: unknown, key: string): readonly unknown[] => {
  const list = inside(value)[key];
  return Array.isArray(list) ? list.slice(0, llmModelsPerServerMax) : [];
};

const unknownModel: Omit<Loaded, 'model'> = {
  parameters: '',
  quantization: '',
  size_bytes: Number.NaN,
  vram_bytes: Number.NaN,
  context_tokens: Number.NaN,
  unload_us: Number.NaN,
};

/** @see https://docs.ollama.com/api/ps */
export function readOllama(ps: unknown): Loaded[] {
  return listIn(ps, 'models').map((entry) => {
    const model = inside(entry);
    const details = inside(entry, 'details');
    const known = (value: unknown): string => (value === 'unknown' ? '' : nameOf(value));
    return {
      model: nameOf(model.name),
      parameters: known(details.parameter_size),
      quantization: known(details.quantization_level),
      size_bytes: numberOf(model.size),
      vram_bytes: numberOf(model.size_vram),
      context_tokens: numberOf(model.context_length),
      unload_us: Date.parse(nameOf(model.expires_at)) * 1000,
    };
  });
}

/** Models by the list that all servers with the interface of OpenAI have, with what vLLM, SGLang and llama.cpp add to it. */
export function readModels(models: unknown): Loaded[] {
  return listIn(models, 'data').map((entry) => {
    const { id, max_model_len } = inside(entry);
    const meta = inside(entry, 'meta');
    const { n_params, n_ctx } = meta;
    const context_tokens = numberOf(max_model_len ?? n_ctx);
    const parameters = numberOf(n_params);
    return {
      ...unknownModel,
      model: nameOf(id),
      parameters: Number.isNaN(parameters) ? '' : short(parameters),
      quantization: nameOf(meta.ftype),
      size_bytes: numberOf(meta.size),
      context_tokens,
    };
  });
}

/** 8030261248 as 8.0B, as Ollama does it. */
function short(count: number): string {
  for (const [unit, size] of [
    ['B', 1e9],
    ['M', 1e6],
    ['K', 1e3],
  ] as const)
    if (count >= size) return `${(count / size).toFixed(count >= 100 * size ? 0 : 1)}${unit}`;
  return String(count);
}

/** @see https://huggingface.co/docs/text-generation-inference/reference/api_reference (`/info`) */
export function readInfo(info: unknown): Loaded {
  const { model_id, model_dtype, max_total_tokens } = inside(info);
  const quantization = nameOf(model_dtype).replace(/^torch\./, '');
  return { ...unknownModel, model: nameOf(model_id), quantization, context_tokens: numberOf(max_total_tokens) };
}

/** What a measuring proxy says, in front of which server. */
export type ProxyReading = { upstream: string; api: string; started_us: number; works: Map<string, Work> };

/** A work as the proxy writes it: durations by name. Undefined where this is no such answer. */
export function readProxy(answer: unknown): ProxyReading | undefined {
  const { proxy, upstream, api, started_us } = inside(answer);
  if (proxy !== 'fleetreel' || typeof upstream !== 'string') return undefined;
  const works = new Map<string, Work>();
  for (const entry of listIn(answer, 'models')) {
    const { model, running, busy_since_us, last_end_us } = inside(entry);
    const counts = inside(entry, 'counters');
    const durations: Partial<Record<DurationName, Distribution>> = {};
    for (const name of durationNames) {
      const { sum, count } = inside(entry, 'durations', name);
      const buckets = inside(entry, 'durations', name).buckets;
      if (!Array.isArray(buckets)) continue;
      durations[name] = {
        sum: numberOf(sum),
        count: numberOf(count),
        buckets: buckets.slice(0, 2000).map(([from, to, many]: unknown[]) => ({
          from: numberOf(from),
          to: numberOf(to),
          count: numberOf(many),
        })),
      };
    }
    works.set(nameOf(model), {
      running: numberOf(running),
      waiting: Number.NaN,
      kv_cache_percent: Number.NaN,
      cache_hit_percent: Number.NaN,
      counters: Object.fromEntries(counterNames.map((name) => [name, numberOf(counts[name])])) as Counters,
      durations,
      busySince_us: numberOf(busy_since_us),
      lastEnd_us: numberOf(last_end_us),
    });
  }
  return { upstream: nameOf(upstream), api: nameOf(api), started_us: numberOf(started_us), works };
}
