// Rows on their way into QuestDB: the Influx line protocol with binary doubles, made straight from a frame's columns.
import { createHash } from 'node:crypto';
import { catalog, type FrameHeader, type Table } from '@fleetreel/proto';
import { labelCharactersMax } from '#limits.ts';
import { symbol, textValue } from '#store/escape.ts';
import { frameTable } from '#store/schema.ts';

/** One table of a frame as it is on the wire, its columns found but not decoded. */
export interface PackedTable {
  readonly table: Table;
  readonly rowCount: number;
  /** The bytes in which the labels are, as UTF-8. */
  readonly labelBytes: Uint8Array;
  /** Where they begin and end, two places a row, columns in the order of the catalogue; an empty column is all absent. */
  readonly labelPlaces: readonly (readonly number[])[];
  /** The values: 8 bytes a row, little-endian. */
  readonly view: DataView;
  /** Where in `view` each column begins, columns in the order of the catalogue; -1 is all absent. */
  readonly offsets: readonly number[];
}

/** A frame with what the subject says of it. */
export type PackedFrame = FrameHeader & {
  tenant: string;
  host: string;
  sizeBytes: number;
  /** When the log stored it: UTC, microseconds since 1970. */
  received_us: number;
  tables: readonly PackedTable[];
};

/** A table's name and those of its columns, as they stand in a line. */
type Names = {
  table: Uint8Array;
  labels: readonly LabelName[];
  fields: readonly Uint8Array[];
  texts: boolean;
  /** The place of the column that is the row's own time; -1: it has the frame's. */
  time: number;
  /** Of the columns that the newest frame had: as good as always those of the next. */
  values: Values;
};
type LabelName = { bytes: Uint8Array; index: number; text: boolean };

/** The values of a row that has them all, as they stand in a line, with room for the numbers. */
type Values = {
  /** By their places in the catalogue. */
  columns: readonly number[];
  bytes: Uint8Array;
  /** Where in `bytes` the number of each of these columns is. */
  places: readonly number[];
};

const names = new Map<Table, Names>(
  catalog.map((table) => {
    // Texts are values to the protocol, and stand after all symbols.
    const labels = table.labels
      .map(({ name, text }, index) => ({ name, text, index }))
      .sort((a, b) => Number(a.text) - Number(b.text));
    const firstText = labels.find(({ text }) => text);
    return [
      table,
      {
        table: Buffer.from(table.name, 'latin1'),
        labels: labels.map((label) => ({
          bytes: Buffer.from(`${label === firstText ? ' ' : ','}${label.name}=${label.text ? '"' : ''}`, 'latin1'),
          index: label.index,
          text: label.text,
        })),
        // With the mark of eight binary bytes.
        fields: table.fields.map(({ name }) => Buffer.from(`${name}==\x10`, 'latin1')),
        texts: firstText !== undefined,
        time: table.fields.findIndex(({ name }) => name === table.rowTime),
        values: { columns: [], bytes: new Uint8Array(), places: [] },
      },
    ];
  }),
);

/** The values of a row with the columns that begin somewhere. */
function valuesOf(known: Names, offsets: readonly number[]): Values {
  if (!hasColumns(known.values, offsets)) {
    const columns = known.fields.map((_, index) => index).filter((index) => (offsets[index] as number) >= 0);
    const parts: Uint8Array[] = [];
    const places: number[] = [];
    let length = 0;
    for (const index of columns) {
      const name = known.fields[index] as Uint8Array;
      parts.push(Uint8Array.of(length === 0 ? firstSeparator(known) : comma), name, new Uint8Array(8));
      places.push(length + 1 + name.length);
      length += 1 + name.length + 8;
    }
    known.values = { columns, bytes: Buffer.concat(parts), places };
  }
  return known.values;
}

function hasColumns({ columns }: Values, offsets: readonly number[]): boolean {
  let count = 0;
  for (let index = 0; index < offsets.length; index++)
    if ((offsets[index] as number) >= 0 && columns[count++] !== index) return false;
  return count === columns.length;
}

/** A space before the first value, unless a text was it; a comma before the others. */
const firstSeparator = ({ texts }: Names): number => (texts ? comma : space);
const frameName = Buffer.from(frameTable, 'latin1');
const comma = 0x2c;
const space = 0x20;
const quote = 0x22;
const backslash = 0x5c;
/** Bytes that the end of a row takes at most: a space, 16 digits, the unit and a line break. */
const endBytes = 24;

/** What to do with a byte of a label: copy it, put a backslash before it, or read the label as a string. */
const asItIs = 0;
const escaped = 1;
const asAString = 2;
const meanings = (special: string) =>
  Uint8Array.from({ length: 256 }, (_, byte) => {
    if (byte === 0 || byte >= 0x80) return asAString;
    return special.includes(String.fromCharCode(byte)) ? escaped : asItIs;
  });
const inSymbol = meanings(' ,=\n\r\\');
const inText = meanings('"\n\r\\');

/** A label of so many characters at most: a longer one is cut and ends in a digest of the whole, so that it stays distinct. */
export function shortened(label: string, charactersMax: number): string {
  if (label.length <= charactersMax) return label;
  const digest = createHash('sha256').update(label).digest('hex').slice(0, 16);
  return `${label.slice(0, charactersMax - digest.length - 1).toWellFormed()}~${digest}`;
}

/** A buffer of rows, frame by frame; it grows and is used again. */
export class Rows {
  readonly #onShortened: () => void;
  #bytes = Buffer.allocUnsafeSlow(1024 * 1024);
  #view = new DataView(this.#bytes.buffer);
  #length = 0;
  #rowCount = 0;
  /** Where each frame ends. */
  #frameEnds: number[] = [];

  /** @param onShortened called for each label that was too long */
  constructor(onShortened: () => void) {
    this.#onShortened = onShortened;
  }

  get frameCount(): number {
    return this.#frameEnds.length;
  }

  get rowCount(): number {
    return this.#rowCount;
  }

  get byteLength(): number {
    return this.#length;
  }

  /** The lines of a range of frames. Valid until the next `add` or `clear`. */
  lines(from = 0, to = this.#frameEnds.length): Uint8Array {
    return this.#bytes.subarray(from === 0 ? 0 : this.#frameEnds[from - 1], to === 0 ? 0 : this.#frameEnds[to - 1]);
  }

  clear(): void {
    this.#length = 0;
    this.#rowCount = 0;
    this.#frameEnds = [];
  }

  /** Appends a frame's rows; when it throws, none of them. */
  add(frame: PackedFrame): void {
    const before = { length: this.#length, rowCount: this.#rowCount };
    try {
      const who = Buffer.from(`,tenant=${symbol(frame.tenant)},host=${symbol(frame.host)}`);
      const end = Buffer.from(` ${frame.time_us}t\n`, 'latin1');
      for (const packed of frame.tables) this.#addTable(packed, who, end);
      this.#addFrame(frame, who, end);
      this.#frameEnds.push(this.#length);
    } catch (cause) {
      this.#length = before.length;
      this.#rowCount = before.rowCount;
      throw cause;
    }
  }

  /** Appends rows that are lines already, as those of a frame. */
  addLines({ bytes, rowCount }: { bytes: Uint8Array; rowCount: number }): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
    this.#rowCount += rowCount;
    this.#frameEnds.push(this.#length);
  }

  #addFrame(
    { session, sequence, interval_ms, sizeBytes, received_us }: PackedFrame,
    who: Uint8Array,
    end: Uint8Array,
  ): void {
    const values = Buffer.from(
      `,session=${session} sequence=${sequence}i,interval_ms=${interval_ms}i,size_bytes=${sizeBytes}i,received=${received_us}t`,
      'latin1',
    );
    this.#reserve(frameName.length + who.length + values.length + endBytes);
    for (const part of [frameName, who, values, end]) {
      this.#bytes.set(part, this.#length);
      this.#length += part.length;
    }
    this.#rowCount++;
  }

  #addTable(packed: PackedTable, who: Uint8Array, end: Uint8Array): void {
    const { table, rowCount, labelBytes, labelPlaces, view: values, offsets } = packed;
    const known = names.get(table) as Names;
    const { table: name, labels } = known;
    const present = labels.filter(({ index, text }) => text || (labelPlaces[index]?.length ?? 0) > 0);
    const line = valuesOf(known, offsets);
    const timeOffset = known.time < 0 ? -1 : (offsets[known.time] as number);
    const headBytes = name.length + who.length;
    const fixedBytes =
      present.reduce((sum, label) => sum + label.bytes.length + 1, headBytes + endBytes) + line.bytes.length;
    // A byte of a label becomes two with its backslash, or three when it has to be replaced.
    this.#reserve(rowCount * fixedBytes + 3 * labelBytes.length);
    const bytes = this.#bytes;
    const head = this.#length;
    bytes.set(name, head);
    bytes.set(who, head + name.length);
    for (let row = 0; row < rowCount; row++) {
      let at = this.#length;
      if (row > 0) bytes.copyWithin(at, head, head + headBytes);
      at += headBytes;
      for (const label of present) at = this.#addLabel(label, labelBytes, labelPlaces[label.index] ?? [], row, at);
      at = this.#addValues(known, line, packed, row, at);
      const time_us = timeOffset < 0 ? Number.NaN : Math.round(values.getFloat64(timeOffset + row * 8, true) * 1e6);
      const last = Number.isNaN(time_us) ? end : Buffer.from(` ${time_us}t\n`, 'latin1');
      bytes.set(last, at);
      this.#length = at + last.length;
    }
    this.#rowCount += rowCount;
  }

  /**
   * Writes the values of a row, for which there is room, and returns where they end. A row without values has none: its labels say
   * that it was there.
   */
  #addValues(
    known: Names,
    { columns, bytes: template, places }: Values,
    { view: values, offsets }: PackedTable,
    row: number,
    start: number,
  ): number {
    const bytes = this.#bytes;
    const view = this.#view;
    bytes.set(template, start);
    let count = 0;
    for (; count < columns.length; count++) {
      const value = values.getFloat64((offsets[columns[count] as number] as number) + row * 8, true);
      // NaN is NULL: the column is left out. So is an infinity, which the store does not have.
      if (!Number.isFinite(value)) break;
      view.setFloat64(start + (places[count] as number), value, true);
    }
    if (count === columns.length) return start + template.length;
    // What comes after it moves up, column by column.
    let at = count === 0 ? start : start + (places[count - 1] as number) + 8;
    let separator = count === 0 ? firstSeparator(known) : comma;
    for (count++; count < columns.length; count++) {
      const index = columns[count] as number;
      const value = values.getFloat64((offsets[index] as number) + row * 8, true);
      if (!Number.isFinite(value)) continue;
      bytes[at++] = separator;
      separator = comma;
      const name = known.fields[index] as Uint8Array;
      bytes.set(name, at);
      at += name.length;
      view.setFloat64(at, value, true);
      at += 8;
    }
    return at;
  }

  /** Writes a label of a row, for which there is room, and returns where it ends. An empty symbol is none. */
  #addLabel(
    { bytes: name, text }: LabelName,
    source: Uint8Array,
    places: readonly number[],
    row: number,
    start: number,
  ): number {
    const from = places[row * 2] ?? 0;
    const to = places[row * 2 + 1] ?? 0;
    if (from === to && !text) return start;
    const bytes = this.#bytes;
    bytes.set(name, start);
    const first = start + name.length;
    const meaning = text ? inText : inSymbol;
    let at = first;
    let place = to - from > labelCharactersMax ? to : from;
    // As good as all labels end here.
    for (; place < to && meaning[source[place] as number] === asItIs; place++) bytes[at++] = source[place] as number;
    for (; place < to && meaning[source[place] as number] !== asAString; place++) {
      if (meaning[source[place] as number] === escaped) bytes[at++] = backslash;
      bytes[at++] = source[place] as number;
    }
    if (place < to || to - from > labelCharactersMax)
      at = first + bytes.write(this.#read(source.subarray(from, to), text), first);
    if (text) bytes[at++] = quote;
    return at;
  }

  /** A label that is not copied byte by byte. */
  #read(bytes: Uint8Array, text: boolean): string {
    const read = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString();
    if (read.length > labelCharactersMax) this.#onShortened();
    const label = shortened(read, labelCharactersMax);
    return text ? textValue(label) : symbol(label);
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#bytes.length) return;
    const larger = Buffer.allocUnsafeSlow(Math.max(this.#bytes.length * 2, this.#length + bytes));
    larger.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = larger;
    this.#view = new DataView(larger.buffer);
  }
}
