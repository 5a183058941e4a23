import { expect, test } from 'vitest';
import { parsePage } from '#llm/prometheus.ts';
import { kindOfPage, readModels, readOllama, readPage, readProxy } from '#llm/reading.ts';

test('samples with labels, escapes, timestamps and all kinds of numbers; the rest is left out', () => {
  const page = [
    '# HELP vllm:a text',
    'vllm:a 1',
    'vllm:b{x="1",y="a\\"b\\\\c\\nd",z="}, {"} 2.5e3 1795250601000',
    'vllm:c{} +Inf',
    'vllm:d NaN',
    'vllm:e{le="0.1",} -3',
    'other 5',
    'vllm:torn{x="1"',
    'vllm:word abc',
    'vllm:',
    'vllm:empty ',
    'vllm:hex 0x10',
    'vllm:last 7',
  ].join('\n');
  expect(parsePage(page, 'vllm:')).toEqual([
    { name: 'vllm:a', labels: {}, value: 1 },
    { name: 'vllm:b', labels: { x: '1', y: 'a"b\\c\nd', z: '}, {' }, value: 2500 },
    { name: 'vllm:c', labels: {}, value: Number.POSITIVE_INFINITY },
    { name: 'vllm:d', labels: {}, value: Number.NaN },
    { name: 'vllm:e', labels: { le: '0.1' }, value: -3 },
    { name: 'vllm:hex', labels: {}, value: 16 },
    { name: 'vllm:last', labels: {}, value: 7 },
  ]);
});

test('a page that was made to take long is read in time', () => {
  const lines = [
    `vllm:a{${'x="'.repeat(300_000)}`,
    `vllm:a{${'\\'.repeat(1_000_000)}} 1`,
    `vllm:a ${' '.repeat(1_000_000)}x`,
  ];
  const begin_ms = performance.now();
  expect(parsePage(lines.join('\n'), 'vllm:').length).toBeLessThanOrEqual(1);
  expect(performance.now() - begin_ms).toBeLessThan(5000);
});

test('engines are added up, ranks of one engine are not, and parts by priority are in their sum', () => {
  const engines =
    'vllm:num_requests_running{engine="0",model_name="m"} 2\nvllm:num_requests_running{engine="1",model_name="m"} 3\nvllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.2\nvllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.4\n';
  expect(readPage('vllm', engines, '').get('m')).toMatchObject({ running: 5, kv_cache_percent: expect.closeTo(30, 9) });
  const ranks =
    'sglang:num_running_reqs{model_name="m",tp_rank="0"} 4\nsglang:num_running_reqs{model_name="m",tp_rank="1"} 4\n' +
    'sglang:num_running_reqs{model_name="m",priority="1",tp_rank="0"} 4\n';
  expect(readPage('sglang', ranks, '').get('m')?.running).toBe(4);
});

test('each model of a server has its own work; what has no model is not one', () => {
  const page =
    'vllm:prompt_tokens_total{model_name="a"} 1\nvllm:prompt_tokens_total{model_name="b"} 2\nvllm:cache_config_info{x="1"} 1\n';
  expect([...readPage('vllm', page, '').keys()]).toEqual(['a', 'b']);
  const many = Array.from({ length: 500 }, (_, at) => `vllm:prompt_tokens_total{model_name="m${at}"} 1`).join('\n');
  expect(readPage('vllm', many, '').size).toBe(100);
});

test('whose page it is, by what is on it', () => {
  expect(kindOfPage('# HELP x\nvllm:num_requests_running 1\n')).toBe('vllm');
  expect(kindOfPage('python_info 1\nsglang:x 1\n')).toBe('sglang');
  expect(kindOfPage('tgi_queue_size 0')).toBe('tgi');
  expect(kindOfPage('llamacpp:requests_processing 0')).toBe('llama.cpp');
  expect(kindOfPage('go_goroutines 7\n# about vllm: nothing')).toBeUndefined();
});

test('answers that are not what they should be give nothing', () => {
  for (const answer of [
    null,
    5,
    [],
    {},
    { models: 5, data: {} },
    { proxy: 'fleetreel' },
    { proxy: 'other', upstream: 'x' },
  ]) {
    expect(readOllama(answer)).toEqual([]);
    expect(readModels(answer)).toEqual([]);
    expect(readProxy(answer)).toBeUndefined();
  }
});
