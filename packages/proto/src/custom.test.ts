import { expect, test } from 'vitest';
import {
  type CustomBatch,
  decodeAuditRecord,
  decodeCustomBatch,
  decodeMetadata,
  encodeAuditRecord,
  encodeCustomBatch,
  encodeMetadata,
} from '#custom.ts';
import { FrameError } from '#frame.ts';

const head = { call: '7fedcba987654321', first: 5000, received_us: 1_795_238_811_539_000 };
const measures: CustomBatch = {
  ...head,
  words: ['', 'cpu', '{"nsize":1}', 'text'],
  measures: {
    time_us: [1_795_238_811_539_123, Number.NaN],
    name: [1, 1],
    value: [0.1, Number.NaN],
    text: [0, 3],
    metadata: [2, 0],
  },
};
const events: CustomBatch = {
  ...head,
  words: ['', 'deploy', 'info'],
  events: { time_us: [Number.NaN], name: [1], end_us: [Number.NaN], severity: [2], text: [0], metadata: [0] },
};

test.each([measures, events])('a batch comes back as it was', (batch) => {
  expect(decodeCustomBatch(encodeCustomBatch(batch))).toEqual(batch);
});

test.each([
  ['not a batch', Uint8Array.of(255, 255), /not a batch/],
  ['a call above 63 bits', encodeCustomBatch({ ...measures, call: '8000000000000000' }), /63 bits/],
  ['no time', encodeCustomBatch({ ...measures, received_us: 0 }), /time of the call/],
  [
    'nothing in it',
    encodeCustomBatch({ ...head, words: [''] } as unknown as CustomBatch),
    /neither measures nor events/,
  ],
  [
    'no row in it',
    encodeCustomBatch({ ...head, words: [''], measures: {} } as unknown as CustomBatch),
    /no measures in it/,
  ],
  [
    'both in it',
    encodeCustomBatch({ ...measures, events: events.events } as unknown as CustomBatch),
    /neither measures nor events/,
  ],
  [
    'columns of two lengths',
    encodeCustomBatch({ ...measures, measures: { ...measures.measures, value: [1] } } as CustomBatch),
    /value has 1 values, not 2/,
  ],
  ['a word that there is not', encodeCustomBatch({ ...measures, words: ['', 'cpu'] }), /no such word/],
])('%s is refused', (_, bytes, reason) => {
  expect(() => decodeCustomBatch(bytes)).toThrow(FrameError);
  expect(() => decodeCustomBatch(bytes)).toThrow(reason);
});

test('metadata keep their types and their keys', () => {
  const metadata = { host: 'web-1', 'host.name': '"1"', size: 10, exact: 0.1, ok: false, constructor: 'c' };
  const text = encodeMetadata(metadata);
  expect(JSON.parse(text)).toHaveProperty('shost:name', '"1"');
  expect(decodeMetadata(text)).toEqual(metadata);
  expect(encodeMetadata({})).toBe('');
  expect(decodeMetadata('')).toEqual({});
});

test('a record of the audit trail comes back as it was', () => {
  const record = {
    id: '0000000000000001',
    time_us: 1_795_238_811_539_000,
    actor_kind: 'user',
    actor_id: 'u1',
    actor_name: 'ana',
    action: 'user.create',
    target: 'ben',
    before: '',
    after: '{"role":"viewer"}',
    address: '192.0.2.1',
  };
  expect(decodeAuditRecord(encodeAuditRecord(record))).toEqual(record);
  expect(() => decodeAuditRecord(encodeAuditRecord({ ...record, action: '' }))).toThrow(/what was done/);
  expect(() => decodeAuditRecord(encodeAuditRecord({ ...record, time_us: 0 }))).toThrow(/the time/);
  expect(() => decodeAuditRecord(encodeAuditRecord({ ...record, id: 'ffffffffffffffff' }))).toThrow(/63 bits/);
  expect(() => decodeAuditRecord(Uint8Array.of(255))).toThrow(FrameError);
});
