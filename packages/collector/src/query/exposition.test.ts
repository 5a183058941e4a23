import { catalog } from '@fleetreel/proto';
import { promtool } from '@fleetreel/test/servers/prometheus';
import { expect, test } from 'vitest';
import { describing, heading, infoName, labelText, metricOf, valueText } from '#query/exposition.ts';
import { exportable, exportedByDefault } from '#query/fleet.ts';

const metric = (table: string, field: string) => {
  const found = catalog.find(({ name }) => name === table);
  const column = found?.fields.find(({ name }) => name === field);
  if (!found || !column) throw new Error(`there is no ${table}.${field}`);
  return metricOf(found, column);
};

test('a name ends as Prometheus asks', () => {
  expect(metric('cpu', 'used_percent')).toMatchObject({
    name: 'fleetreel_cpu_used_ratio',
    type: 'gauge',
    divisor: 100,
  });
  expect(metric('load', 'tasks_count')).toMatchObject({ name: 'fleetreel_load_tasks', type: 'gauge', divisor: 1 });
  expect(metric('agent', 'frames_dropped_total')).toMatchObject({
    name: 'fleetreel_agent_frames_dropped_total',
    type: 'counter',
  });
  expect(metric('memory', 'total_bytes')).toMatchObject({ name: 'fleetreel_memory_total_bytes', type: 'gauge' });
});

test('every metric of the contract has a name of its own, and promtool finds no fault with any', async () => {
  const names = new Set<string>();
  let page = '';
  const add = (name: string, type: 'counter' | 'gauge', help: string) => {
    expect(names, name).not.toContain(name);
    names.add(name);
    page += `${heading(name, type, help)}${name}${labelText([['host', 'a']])} 1\n`;
  };
  for (const table of exportable) {
    if (describing(table).length > 0) add(infoName(table), 'gauge', table.help);
    for (const field of table.fields) {
      const { name, type, help } = metricOf(table, field);
      add(name, type, help);
    }
  }
  expect(names.size).toBeGreaterThan(300);
  expect(await promtool(page)).toBe('');
});

test('promtool finds the faults that there are', async () => {
  expect(await promtool('# HELP a_total b\n# TYPE a_total gauge\na_total 1\n')).toMatch(/a_total/);
});

test('what happened, and single processes, are not exported unless asked for', () => {
  const names = exportedByDefault.map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['cpu', 'memory', 'container', 'vm', 'gpu', 'llm_server', 'agent']));
  for (const name of ['event', 'llm_session', 'frame_loss', 'process', 'gpu_process'])
    expect(names).not.toContain(name);
  expect(exportable.map(({ name }) => name)).toContain('process');
});

test('a label may hold any text', () => {
  expect(
    labelText([
      ['a', 'x"y\\z\nw'],
      ['b', ''],
      ['c', 'ü'],
    ]),
  ).toBe('{a="x\\"y\\\\z\\nw",c="ü"}');
  const long = labelText([['a', 'x'.repeat(64 * 1024)]]);
  expect(long.length).toBeLessThan(2000);
  expect(long).not.toBe(labelText([['a', `${'x'.repeat(64 * 1024)}y`]]));
});

test('a value may be infinite', () => {
  expect([1.5, 1e21, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY].map(valueText)).toEqual([
    '1.5',
    '1e+21',
    '+Inf',
    '-Inf',
  ]);
});
