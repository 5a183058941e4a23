import { expect, test } from 'vitest';
import { root, tableNamed } from '#catalog.ts';
import { decodeFrame, decodeTable, encodeFrame, type Frame, FrameError, fromHex, rowCount, scanFrame } from '#frame.ts';

const frame = {
  session: 'fedcba9876543210',
  sequence: 2 ** 40,
  time_us: 1_795_238_811_539_000,
  interval_ms: 5000,
  tables: {
    cpu: { core: ['total', '0'], used_percent: [12.5, Number.NaN] },
    memory: { total_bytes: [2 ** 40] },
  },
} as unknown as Frame;

test('a frame comes back as it was sent, NaN and 64 bits included', () => {
  const back = decodeFrame(encodeFrame(frame));
  expect(back).toMatchObject({ session: 'fedcba9876543210', sequence: 2 ** 40, time_us: 1_795_238_811_539_000 });
  expect(back.tables.cpu?.core).toEqual(['total', '0']);
  expect(back.tables.cpu?.used_percent).toEqual([12.5, Number.NaN]);
  expect(back.tables.cpu?.idle_percent).toEqual([]);
  expect(Object.keys(back.tables)).toEqual(['cpu', 'memory']);
});

test('the bytes are those of the encoder that is made from the contract', () => {
  const columns = {
    memory: { total_bytes: [2 ** 40], free_bytes: [0] },
    cpu: { used_percent: [-0, Number.POSITIVE_INFINITY, Number.NaN], core: ['total', '', 'ä\n\u{1f980}'.repeat(99)] },
    net_interface: { interface: [] },
  };
  const tables = columns as unknown as Frame['tables'];
  const { memory, cpu } = columns;
  const message = { ...frame, tables: undefined, session: fromHex(frame.session), memory, cpu };
  const expected = root.lookupType('fleetreel.v1.Frame').encode(message).finish();
  expect(Buffer.from(encodeFrame({ ...frame, tables }))).toEqual(Buffer.from(expected));
});

test('a column without any value costs nothing', () => {
  const absent = { ...frame, tables: { cpu: { core: ['total', '0'], used_percent: [Number.NaN, Number.NaN] } } };
  const none = { ...frame, tables: { cpu: { core: ['total', '0'] } } } as unknown as Frame;
  expect(encodeFrame(absent as unknown as Frame)).toEqual(encodeFrame(none));
});

test('scanning finds the same without decoding', () => {
  const scanned = scanFrame(encodeFrame(frame));
  expect(scanned).toMatchObject({ session: frame.session, sequence: frame.sequence, unknownFields: 0 });
  expect(scanned.slices.map(({ table }) => table.name)).toEqual(['cpu', 'memory']);
  expect(decodeTable(scanned.slices[1]!).total_bytes).toEqual([2 ** 40]);
});

test('a field that this version does not know is counted and does no harm', () => {
  const newer = Buffer.concat([encodeFrame(frame), Buffer.from([0xfa, 0x07, 2, 0x0a, 0x00])]); // field 127, 2 bytes
  expect(scanFrame(newer).unknownFields).toBe(1);
  expect(Object.keys(decodeFrame(newer).tables)).toEqual(['cpu', 'memory']);
});

test.each([
  ['nothing', new Uint8Array(), /the sequence is 0/],
  ['noise', Uint8Array.from([1, 2, 3]), /not a frame/],
  ['a torn frame', encodeFrame(frame).subarray(0, 40), /not a frame/],
  ['no time', encodeFrame({ ...frame, time_us: 0 }), /the time is 0/],
  ['no interval', encodeFrame({ ...frame, interval_ms: 0 }), /the interval is 0 ms/],
])('%s is refused with a reason', (_, bytes, reason) => {
  expect(() => decodeFrame(bytes)).toThrow(FrameError);
  expect(() => decodeFrame(bytes)).toThrow(reason);
  expect(() => scanFrame(bytes)).toThrow(FrameError);
});

test('columns of different lengths and an absent key are refused', () => {
  const uneven = { ...frame, tables: { cpu: { core: ['0', '1'], used_percent: [1] } } } as unknown as Frame;
  expect(() => decodeFrame(encodeFrame(uneven))).toThrow('table cpu: used_percent has 1 rows, not 2');
  const keyless = { ...frame, tables: { cpu: { used_percent: [1] } } } as unknown as Frame;
  expect(() => decodeFrame(encodeFrame(keyless))).toThrow('table cpu: the key core is absent');
  expect(rowCount(tableNamed('memory')!, {})).toBe(0);
});
