import { encodeFrame, type Tables } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { decode } from '#ingest/decode.ts';
import { Versions } from '#ingest/versions.ts';

const owner = { tenant: 'default', host: 'web' };
const [one, other] = ['00000000000000aa', '00000000000000bb'];
/** A frame with sessions of these models, and a row that has no time of its own. */
function frame(sequence: number, models: readonly string[], session = one, time_us = sequence * 1e6) {
  const tables = {
    cpu: { core: ['total'], used_percent: [sequence] },
    llm_session: {
      timestamp_seconds: models.map(() => 7),
      server: models.map(() => 's'),
      model: models,
      requests_count: models.map((_, row) => sequence * 10 + row),
    },
  } as unknown as Tables;
  return decode(encodeFrame({ session: String(session), sequence, time_us, interval_ms: 1000, tables }));
}

test('of older versions only those rows are left that no newer frame had', () => {
  const versions = new Versions(10, () => undefined);
  expect(versions.newest(owner, frame(5, ['b', 'd'])).older).toBe(0);
  const { tables, older } = versions.newest(owner, frame(4, ['a', 'b', 'c', 'd']));
  expect(older).toBe(2);
  const [cpu, sessions] = tables;
  expect(cpu?.rowCount).toBe(1);
  const { table, rowCount, view, offsets, labelBytes, labelPlaces } = sessions ?? {};
  expect([table?.name, rowCount]).toEqual(['llm_session', 2]);
  const offset = offsets?.[table?.fields.findIndex(({ name }) => name === 'requests_count') ?? -1] ?? -1;
  expect([0, 1].map((row) => view?.getFloat64(offset + row * 8, true))).toEqual([40, 42]);
  const places = labelPlaces?.[table?.labels.findIndex(({ name }) => name === 'model') ?? -1] ?? [];
  const model = (row: number) => Buffer.from(labelBytes ?? []).toString('utf8', places[2 * row], places[2 * row + 1]);
  expect([0, 1].map(model)).toEqual(['a', 'c']);
  // A table of which nothing is left is none; the same frame again is no older one, another host's row another row.
  expect(versions.newest(owner, frame(3, ['a', 'd'])).tables.map(({ table: { name } }) => name)).toEqual(['cpu']);
  expect(versions.newest(owner, frame(5, ['b', 'd'])).older).toBe(0);
  expect(versions.newest({ ...owner, host: 'db' }, frame(1, ['b'])).older).toBe(0);
});

test('within a session the number decides, since the clock may have been set back; between two the time', () => {
  const versions = new Versions(10, () => undefined);
  const older = (...of: Parameters<typeof frame>) => versions.newest(owner, frame(...of)).older;
  expect(older(5, ['a'])).toBe(0);
  expect(older(6, ['a'], one, 1e6)).toBe(0);
  expect(older(1, ['a'], other, 0.5e6)).toBe(1);
  expect(older(1, ['a'], other, 2e6)).toBe(0);
});

test('the rows that were seen last are remembered', () => {
  let forgotten = 0;
  const versions = new Versions(2, () => forgotten++);
  for (const model of ['a', 'b', 'a', 'c']) versions.newest(owner, frame(5, [model]));
  expect(forgotten).toBe(1);
  const older = (model: string) => versions.newest(owner, frame(4, [model])).older;
  expect([older('c'), older('a'), older('b')]).toEqual([1, 1, 0]);
});
