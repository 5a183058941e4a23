import { catalog, type Table } from '@fleetreel/proto';
import { expect, test } from 'vitest';
import { labelCharactersMax } from '#limits.ts';
import { symbol } from '#store/escape.ts';
import { type PackedFrame, type PackedTable, Rows } from '#store/rows.ts';

const cpu = catalog.find(({ name }) => name === 'cpu') as Table;
const filesystem = catalog.find(({ name }) => name === 'filesystem') as Table;

/** A table's columns as `ingest` finds them. */
function packed(table: Table, labels: Record<string, string[]>, fields: Record<string, number[]>): PackedTable {
  const rowCount = (Object.values(labels)[0] ?? Object.values(fields)[0] ?? []).length;
  const view = new DataView(new ArrayBuffer(table.fields.length * rowCount * 8));
  const offsets = table.fields.map(({ name }, index) => {
    const values = fields[name];
    for (const [row, value] of (values ?? []).entries()) view.setFloat64((index * rowCount + row) * 8, value, true);
    return values ? index * rowCount * 8 : -1;
  });
  const parts: Buffer[] = [];
  let end = 0;
  const labelPlaces = table.labels.map(({ name }) =>
    (labels[name] ?? []).flatMap((label) => {
      const from = end;
      end += parts[parts.push(Buffer.from(label)) - 1]?.length ?? 0;
      return [from, end];
    }),
  );
  const labelBytes = Buffer.concat(parts);
  return { table, rowCount, labelBytes, labelPlaces, view, offsets };
}

const frame = (host: string, ...tables: PackedTable[]): PackedFrame => ({
  tenant: 'default',
  host,
  session: '00000000000000ab',
  sequence: 7,
  time_us: 1_769_860_800_123_007,
  interval_ms: 1000,
  sizeBytes: 321,
  received_us: 1_769_860_800_223_009,
  tables,
});

const rows = () => new Rows(() => undefined);
const text = (buffer: Rows) => Buffer.from(buffer.lines()).toString('latin1');
const value = (number: number) => {
  const bytes = Buffer.alloc(9, 0x10);
  bytes.writeDoubleLE(number, 1);
  return bytes.toString('latin1');
};
const lastLine =
  'frame,tenant=default,host=web,session=00000000000000ab sequence=7i,interval_ms=1000i,size_bytes=321i,received=1769860800223009t 1769860800123007t\n';

test('a row for each entity, and one for the frame', () => {
  const buffer = rows();
  buffer.add(frame('web', packed(cpu, { core: ['total', '0'] }, { used_percent: [1.5, 2], idle_percent: [98.5, 98] })));
  const row = (core: string, used: number, idle: number) =>
    `cpu,tenant=default,host=web,core=${core} used_percent==${value(used)},idle_percent==${value(idle)} 1769860800123007t\n`;
  expect(text(buffer)).toBe(row('total', 1.5, 98.5) + row('0', 2, 98) + lastLine);
  expect(buffer).toMatchObject({ rowCount: 3, frameCount: 1 });
});

test('what is not available is left out, to the last value', () => {
  const buffer = rows();
  const fields = { used_percent: [Number.NaN, Number.NaN, 0], idle_percent: [4, Number.POSITIVE_INFINITY, -0] };
  buffer.add(frame('web', packed(cpu, { core: ['a', 'b', 'c'] }, fields)));
  expect(text(buffer)).toBe(
    `cpu,tenant=default,host=web,core=a idle_percent==${value(4)} 1769860800123007t\n` +
      'cpu,tenant=default,host=web,core=b 1769860800123007t\n' +
      `cpu,tenant=default,host=web,core=c used_percent==${value(0)},idle_percent==${value(-0)} 1769860800123007t\n${lastLine}`,
  );
});

test('each row has the values of its own frame, whichever columns and values come and go', () => {
  const buffer = rows();
  const absent = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
  const names = cpu.fields.slice(0, 6).map(({ name }) => name);
  const wrong: string[] = [];
  for (let step = 0; step < 4 ** names.length; step++) {
    // Of each column: not in this frame, there, or there without a value in the first or the second row.
    const kinds = names.map((_, index) => Math.floor(step / 4 ** index) % 4);
    const fields: Record<string, number[]> = {};
    for (const [index, kind] of kinds.entries())
      if (kind > 0)
        fields[names[index] as string] = [0, 1].map((row) =>
          kind === 2 + row ? (absent[(step + index) % absent.length] as number) : step + index + row / 2,
        );
    buffer.clear();
    buffer.add(frame('web', packed(cpu, { core: ['0', '1'] }, fields)));
    const lines = [0, 1].map((row) => {
      const there = names.filter((name) => Number.isFinite(fields[name]?.[row]));
      const values = there.map((name) => `${name}==${value(fields[name]?.[row] as number)}`).join(',');
      return `cpu,tenant=default,host=web,core=${row}${values && ' '}${values} 1769860800123007t\n`;
    });
    if (text(buffer) !== lines.join('') + lastLine) wrong.push(kinds.join(''));
  }
  expect(wrong).toEqual([]);
});

test('an empty label is none', () => {
  const buffer = rows();
  buffer.add(frame('web', packed(filesystem, { mount: ['/'], device: [''] }, { size_bytes: [1] })));
  expect(text(buffer)).toContain('filesystem,tenant=default,host=web,mount=/ size_bytes==');
});

test('the beginnings of rows follow the labels from frame to frame, and are kept apart by host', () => {
  const buffer = rows();
  const add = (host: string, ...cores: string[]) =>
    buffer.add(frame(host, packed(cpu, { core: cores }, { used_percent: cores.map(() => 1) })));
  add('web', '0', '1');
  add('db', '0');
  add('web', '0', '2');
  add('web', '0', '2');
  const found = [...text(buffer).matchAll(/host=(\w+),core=(\w)/g)].map(([, host, core]) => `${host} ${core}`);
  expect(found).toEqual(['web 0', 'web 1', 'db 0', 'web 0', 'web 2', 'web 0', 'web 2']);
});

test('rows without labels are as many as they are, from frame to frame', () => {
  const buffer = rows();
  const memory = catalog.find(({ name }) => name === 'memory') as Table;
  for (const used_bytes of [[1], [2, 3], [4]]) buffer.add(frame('web', packed(memory, {}, { used_bytes })));
  expect(buffer.rowCount).toBe(7);
  expect([...text(buffer).matchAll(/memory,tenant=default,host=web used_bytes==/g)]).toHaveLength(4);
});

test('a label that is too long is cut, stays distinct, and is counted', () => {
  let shortened = 0;
  const buffer = new Rows(() => shortened++);
  const long = ['a', 'b'].map((end) => `${'x'.repeat(labelCharactersMax)}${end}`);
  buffer.add(frame('web', packed(cpu, { core: long }, { used_percent: [1, 2] })));
  const [one = '', two = ''] = [...text(buffer).matchAll(/core=(x+~[0-9a-f]{16}) /g)].map(([, core]) => core);
  expect(one).toHaveLength(labelCharactersMax);
  expect(two).toHaveLength(labelCharactersMax);
  expect(one).not.toBe(two);
  expect(shortened).toBe(2);
});

test('characters that mean something in a line are escaped; NUL, which the store refuses, is replaced', () => {
  expect(symbol('plain/é-_.')).toBe('plain/é-_.');
  expect(symbol('a b,c=d\\e\nf\rg"h')).toBe('a\\ b\\,c\\=d\\\\e\\\nf\\\rg"h');
  expect(symbol('a\0b')).toBe('a\ufffdb');
});

test('labels are written from their bytes as they are read as strings', () => {
  const unread = Buffer.from([0x61, 0xff, 0x62]);
  for (const label of ['plain', 'a b,c=d\\e\nf\rg"h', 'é漢😀 x', 'a\0b', ' ', unread.toString()]) {
    const buffer = rows();
    buffer.add(frame('web', packed(cpu, { core: [label, 'next'] }, {})));
    const lines = Buffer.from(buffer.lines()).toString();
    const line = (core: string) => `cpu,tenant=default,host=web,core=${core} 1769860800123007t\n`;
    expect(lines.startsWith(line(symbol(label)) + line('next')), label).toBe(true);
  }
  const torn = packed(cpu, { core: ['abc'] }, {});
  const buffer = rows();
  buffer.add(frame('web', { ...torn, labelBytes: unread }));
  expect(Buffer.from(buffer.lines()).toString()).toContain('core=a\ufffdb ');
});

test('texts stand in quotes after the symbols, before the values, and may be empty', () => {
  const source = catalog.find(({ labels }) => labels.some(({ text }) => text)) as Table;
  const labels = Object.fromEntries(
    source.labels.map(({ name, text }) => [name, [text ? 'he said "no", a=b\\c\n\0é' : `${name}'s`, 'x']]),
  );
  const field = String(source.fields[0]?.name);
  const buffer = rows();
  buffer.add(frame('web', packed(source, labels, { [field]: [1, Number.NaN] })));
  const said = Buffer.from(buffer.lines()).toString();
  expect(said).toContain('="he said \\"no\\", a=b\\\\c\\\n\ufffdé"');
  const line = said.slice(0, said.indexOf('==')).replaceAll('\\\n', '');
  const texts = source.labels.filter(({ text }) => text).map(({ name }) => line.indexOf(`${name}="`));
  const symbols = source.labels.filter(({ text }) => !text).map(({ name }) => line.indexOf(`,${name}=${name}'s`));
  expect(Math.min(...texts)).toBeGreaterThan(Math.max(...symbols, 0));
  expect(line.endsWith(`",${field}`)).toBe(true);
  const bare = rows();
  bare.add(
    frame(
      'web',
      packed(
        source,
        { ...labels, ...Object.fromEntries(source.labels.filter(({ text }) => text).map(({ name }) => [name, []])) },
        { [field]: [1, 2] },
      ),
    ),
  );
  expect(Buffer.from(bare.lines()).toString('latin1')).toContain(`="",${field}==`);
});

test('a frame that can not be appended leaves nothing behind', () => {
  const buffer = rows();
  buffer.add(frame('web'));
  const broken = packed(cpu, { core: ['1'] }, { used_percent: [1] });
  // Its values end before its rows do.
  const fails = { ...broken, rowCount: 1000 };
  expect(() => buffer.add(frame('web', broken, fails))).toThrow(RangeError);
  expect(text(buffer)).toBe(lastLine);
  expect(buffer).toMatchObject({ rowCount: 1, frameCount: 1 });
});

test('grows, and gives the lines of any range of frames', () => {
  const buffer = rows();
  const cores = Array.from({ length: 5000 }, (_, row) => `${row}`);
  const used_percent = cores.map(Number);
  const alone = rows();
  alone.add(frame('web', packed(cpu, { core: cores }, { used_percent })));
  for (let count = 0; count < 8; count++) buffer.add(frame('web', packed(cpu, { core: cores }, { used_percent })));
  expect(buffer).toMatchObject({ frameCount: 8, rowCount: 8 * 5001, byteLength: 8 * alone.byteLength });
  expect(Buffer.compare(buffer.lines(0, 1), alone.lines())).toBe(0);
  expect(Buffer.compare(buffer.lines(7, 8), alone.lines())).toBe(0);
  expect(Buffer.compare(buffer.lines(3, 5), Buffer.concat([alone.lines(), alone.lines()]))).toBe(0);
  expect(buffer.lines(3, 3)).toHaveLength(0);
  buffer.clear();
  expect(buffer).toMatchObject({ frameCount: 0, rowCount: 0, byteLength: 0 });
});
