// Rows that come again, grown: the newest version is the one that stays, in whatever order frames come.
import type { FrameHeader, Table } from '@fleetreel/proto';
import type { PackedFrame, PackedTable } from '#store/rows.ts';

/** From which frame a row came last. */
type Version = Pick<FrameHeader, 'session' | 'sequence' | 'time_us'>;
type Owner = { tenant: string; host: string };

/**
 * Remembers of rows that have a time of their own from which frame the newest version came. A frame from a spool comes after those
 * that were sent live meanwhile, and one that is delivered again after those behind it: its versions are the older ones then, and
 * would replace what the store has. Only what this collector has read is known: where several share the work of a store, the versions
 * of one row may come through two of them.
 */
export class Versions {
  readonly #rowsMax: number;
  readonly #forgotten: () => void;
  /** Of each table by the key of the row; what was seen last is last. */
  readonly #tables = new Map<Table, Map<string, Version>>();

  /** @param rowsMax rows remembered of each table @param forgotten told of each that is forgotten beyond */
  constructor(rowsMax: number, forgotten: () => void) {
    this.#rowsMax = rowsMax;
    this.#forgotten = forgotten;
  }

  /** The tables of a frame without the rows of which a newer version was seen, and how many those were. */
  newest(
    owner: Owner,
    frame: Version & Pick<PackedFrame, 'tables'>,
  ): { tables: readonly PackedTable[]; older: number } {
    const { tables } = frame;
    // As good as all frames have no such rows.
    if (!tables.some(({ table }) => table.rowTime !== undefined)) return { tables, older: 0 };
    let older = 0;
    const newest = tables.map((packed) => {
      if (packed.table.rowTime === undefined) return packed;
      const rows = this.#newestRows(owner, frame, packed);
      older += packed.rowCount - rows.length;
      return rows.length === packed.rowCount ? packed : picked(packed, rows);
    });
    return { tables: older === 0 ? tables : newest.filter(({ rowCount }) => rowCount > 0), older };
  }

  #newestRows(owner: Owner, { session, sequence, time_us }: Version, packed: PackedTable): number[] {
    const version = { session, sequence, time_us };
    let known = this.#tables.get(packed.table);
    if (known === undefined) {
      known = new Map();
      this.#tables.set(packed.table, known);
    }
    const rows: number[] = [];
    for (let row = 0; row < packed.rowCount; row++) {
      const key = keyOf(owner, packed, row);
      const before = known.get(key);
      if (before && isOlder(version, before)) continue;
      rows.push(row);
      known.delete(key);
      known.set(key, version);
    }
    for (const key of known.keys()) {
      if (known.size <= this.#rowsMax) break;
      known.delete(key);
      this.#forgotten();
    }
    return rows;
  }
}

/** Within a session frames are numbered; their times may be wrong. */
const isOlder = (frame: Version, before: Version): boolean =>
  frame.session === before.session ? frame.sequence < before.sequence : frame.time_us < before.time_us;

/** What identifies a row in the store, as text: its time and its keys. */
function keyOf({ tenant, host }: Owner, packed: PackedTable, row: number): string {
  const { table, labelBytes, labelPlaces, view, offsets } = packed;
  const offset = offsets[table.fields.findIndex(({ name }) => name === table.rowTime)] ?? -1;
  const parts = [tenant, host, String(offset < 0 ? Number.NaN : view.getFloat64(offset + row * 8, true))];
  const bytes = Buffer.from(labelBytes.buffer, labelBytes.byteOffset, labelBytes.length);
  for (const [index, { key }] of table.labels.entries())
    if (key)
      parts.push(bytes.toString('latin1', labelPlaces[index]?.[2 * row] ?? 0, labelPlaces[index]?.[2 * row + 1] ?? 0));
  return parts.join('\0');
}

/** Some rows of a table. */
function picked(packed: PackedTable, rows: readonly number[]): PackedTable {
  const { labelPlaces, view, offsets } = packed;
  const values = new DataView(new ArrayBuffer(offsets.length * rows.length * 8));
  let end = 0;
  return {
    table: packed.table,
    rowCount: rows.length,
    labelBytes: packed.labelBytes,
    view: values,
    labelPlaces: labelPlaces.map((places) =>
      places.length === 0 ? places : rows.flatMap((row) => [places[2 * row] ?? 0, places[2 * row + 1] ?? 0]),
    ),
    offsets: offsets.map((offset) => {
      if (offset < 0) return offset;
      const begin = end;
      for (const row of rows) {
        // As bits: a number that is none stays the one that it was.
        values.setBigUint64(end, view.getBigUint64(offset + row * 8));
        end += 8;
      }
      return begin;
    }),
  };
}
