import {
  type Columns,
  catalog,
  decodeFrame,
  encodeFrame,
  type Frame,
  FrameError,
  root,
  type Tables,
} from '@fleetreel/proto';
import { describe, expect, test } from 'vitest';
import { decode } from '#ingest/decode.ts';
import { rowsPerFrameMax } from '#limits.ts';

const header = { session: '00000000000000ab', sequence: 7, time_us: 1_769_860_800_123_007, interval_ms: 1000 };

/** A frame with so many rows in every table, every second value absent, some columns wholly. */
function everyTable(rows: number): Frame {
  const tables: Record<string, Columns> = {};
  for (const { name, labels, fields } of catalog) {
    const columns: Record<string, (string | number)[]> = {};
    for (const label of labels) columns[label.name] = Array.from({ length: rows }, (_, row) => `${label.name} é${row}`);
    for (const [index, field] of fields.entries())
      columns[field.name] = Array.from({ length: rows }, (_, row) =>
        index % 5 === 4 || (index + row) % 2 === 1 ? Number.NaN : index + row / 7,
      );
    tables[name] = columns;
  }
  return { ...header, tables: tables as Tables };
}

/** What `decode` found, as columns. */
function columns(bytes: Uint8Array): Record<string, Columns> {
  const tables: Record<string, Columns> = {};
  for (const { table, rowCount, labelBytes, labelPlaces, view, offsets } of decode(bytes).tables) {
    const found: Record<string, (string | number)[]> = {};
    for (const [index, { name }] of table.labels.entries()) {
      const places = labelPlaces[index] ?? [];
      found[name] = Array.from({ length: places.length / 2 }, (_, row) =>
        Buffer.from(labelBytes.subarray(places[2 * row], places[2 * row + 1])).toString(),
      );
    }
    for (const [index, { name }] of table.fields.entries()) {
      const offset = offsets[index] as number;
      found[name] =
        offset < 0 ? [] : Array.from({ length: rowCount }, (_, row) => view.getFloat64(offset + row * 8, true));
    }
    tables[table.name] = found;
  }
  return tables;
}

/** What the contract itself decodes. */
function contract(bytes: Uint8Array): Record<string, Columns> {
  const tables: Record<string, Columns> = {};
  for (const [name, found] of Object.entries(decodeFrame(bytes).tables as Record<string, Columns>)) {
    const table = catalog.find((one) => one.name === name);
    const names = [...(table?.labels ?? []), ...(table?.fields ?? [])].map((column) => column.name);
    tables[name] = Object.fromEntries(names.map((column) => [column, [...(found[column] ?? [])]]));
  }
  return tables;
}

test.each([1, 2, 33])('every table with %i rows is what the contract decodes', (rows) => {
  const bytes = encodeFrame(everyTable(rows));
  expect(Object.keys(columns(bytes))).toHaveLength(catalog.length);
  expect(columns(bytes)).toEqual(contract(bytes));
  expect(decode(bytes)).toMatchObject({ ...header, sizeBytes: bytes.length, unknownFields: 0 });
});

test('a frame within a larger buffer, at an odd place', () => {
  const bytes = encodeFrame(everyTable(2));
  const larger = new Uint8Array(bytes.length + 13);
  larger.set(bytes, 5);
  expect(columns(larger.subarray(5, 5 + bytes.length))).toEqual(columns(bytes));
});

describe('as other encoders may write it', () => {
  /** A frame of which the table `cpu` is given as bytes. */
  const withCpu = (cpu: readonly number[]) => {
    const number = root.lookupType('fleetreel.v1.Frame').fields.cpu?.id ?? 0;
    return Buffer.concat([
      encodeFrame({ ...header, tables: {} }),
      Buffer.from([(number << 3) | 2, cpu.length]),
      Buffer.from(cpu),
    ]);
  };
  const double = (value: number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleLE(value);
    return [...bytes];
  };
  const core = (name: string) => [0x0a, name.length, ...Buffer.from(name)];
  const packed = (...values: number[]) => [0x12, values.length * 8, ...values.flatMap(double)];
  const single = (value: number) => [0x11, ...double(value)];

  test.each([
    ['packed', [...core('0'), ...core('1'), ...packed(3, 4)]],
    ['not packed', [...core('0'), ...core('1'), ...single(3), ...single(4)]],
    ['in pieces', [...packed(3), ...core('0'), ...packed(4), ...core('1')]],
    ['values first', [...packed(3, 4), ...core('0'), ...core('1')]],
    ['with a field that is not known', [...core('0'), 0xf8, 0x07, 0x80, 0x01, ...core('1'), ...packed(3, 4)]],
  ])('%s', (_, cpu) => {
    expect(columns(withCpu(cpu)).cpu).toMatchObject({ core: ['0', '1'], used_percent: [3, 4] });
  });

  test('fields that are not known are counted', () => {
    expect(decode(withCpu([...core('0'), ...packed(1), 0xf8, 0x07, 0x80, 0x01])).unknownFields).toBe(1);
  });

  test('a table without rows is absent', () => {
    expect(decode(withCpu([])).tables).toEqual([]);
  });

  test.each([
    ['columns of different length', [...core('0'), ...packed(1, 2)], 'table cpu: used_percent has 2 rows, not 1'],
    ['half a value', [...core('0'), 0x12, 4, 0, 0, 0, 0], 'table cpu: used_percent has 0.5 rows, not 1'],
    ['no key', packed(1), 'table cpu: the key core is absent'],
    ['a length beyond the end', [0x0a, 9, 0x30], 'table cpu: it ends too early'],
    ['a tag without a value', [0x0a], 'table cpu: it ends too early'],
    ['an endless number', [0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 'table cpu: a number is too long'],
    ['a wire type that does not exist', [0x0f], 'table cpu: there is no wire type 7'],
  ])('%s is an error', (_, cpu, message) => {
    expect(() => decode(withCpu(cpu))).toThrow(new FrameError(message));
  });
});

test('a frame cut off anywhere is either a shorter frame or an error that says so', () => {
  const bytes = encodeFrame(everyTable(2));
  for (let length = 0; length < bytes.length; length++) {
    let cause: unknown;
    try {
      decode(bytes.subarray(0, length));
    } catch (thrown) {
      cause = thrown;
    }
    if (cause !== undefined) expect(cause).toBeInstanceOf(FrameError);
  }
});

test('more rows than a frame may have', () => {
  const cores = Array.from({ length: rowsPerFrameMax + 1 }, (_, row) => `${row}`);
  const bytes = encodeFrame({ ...header, tables: { cpu: { core: cores } } as unknown as Tables });
  expect(() => decode(bytes)).toThrow(`the frame has more than ${rowsPerFrameMax} rows`);
});
