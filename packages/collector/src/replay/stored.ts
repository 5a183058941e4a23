// Frames that the log no longer has, put together from the rows of the store.
import { type Columns, catalog, encodeFrame, type Frame, type Table, type Tables } from '@fleetreel/proto';
import type { ReelFrame } from '@fleetreel/reel/format';
import { rebuiltFramesMax } from '#limits.ts';
import type { Cell, Reader } from '#store/reader.ts';
import { frameHeads, rowsOf } from '#store/sql.ts';

/** What is to be rebuilt: of these hosts and tables (none means all), from a time (inclusive) to a time (exclusive), microseconds. */
export type StoredQuestion = {
  tenant: string;
  hosts: readonly string[];
  tables: readonly Table[];
  from_us: number;
  to_us: number;
};

/** A rebuilt frame, and who it is. */
export type StoredFrame = { session: string; sequence: number; frame: ReelFrame };

type Head = { time_us: number; host: string; session: string; sequence: number; interval_ms: number };

/** Tables that are read at once: connections are for those who wait for a chart, too. */
const queriesAtOnce = 4;

/**
 * The frames of a range in the order of their time, some at a time. What the agent sent in a column that the store does not have is
 * missing; rows come in the order of their labels; rows with a time of their own come with the next frame of their host.
 * @throws ApiError of `query`: store_unavailable, store_timeout, busy
 */
export async function* storedFrames(
  reader: Reader,
  question: StoredQuestion,
  signal: AbortSignal,
): AsyncGenerator<StoredFrame[]> {
  const { tables, to_us } = question;
  const wanted = tables.length > 0 ? tables : catalog;
  const waiting = new Map<Table, Cell[][]>();
  for (let from_us = question.from_us; from_us < to_us; ) {
    signal.throwIfAborted();
    const { heads, end_us } = await nextHeads(reader, { ...question, from_us });
    if (heads.length === 0) return;
    const rows = await rowsOfWindow(reader, wanted, { ...question, from_us, to_us: end_us });
    const frames = assemble(heads, rows, waiting);
    const kept = tables.length > 0 ? frames.filter(({ hasRows }) => hasRows) : frames;
    if (kept.length > 0) yield kept.map(({ frame }) => frame);
    from_us = end_us;
  }
}

/** The next frames that are read at once, and up to where that is. */
async function nextHeads(reader: Reader, question: StoredQuestion): Promise<{ heads: Head[]; end_us: number }> {
  for (let limit = rebuiltFramesMax; ; limit *= 4) {
    const rows = await reader.query(frameHeads(question, limit));
    const heads = rows.map(([time_us, host, session, sequence, interval_ms]) => ({
      time_us: Number(time_us),
      host: String(host),
      session: String(session),
      sequence: Number(sequence),
      interval_ms: Number(interval_ms),
    }));
    if (heads.length < limit) return { heads, end_us: question.to_us };
    // Those of the last time may not be all there: they are left to the next.
    const end_us = heads.at(-1)?.time_us ?? 0;
    const whole = heads.filter(({ time_us }) => time_us < end_us);
    if (whole.length > 0) return { heads: whole, end_us };
  }
}

async function rowsOfWindow(
  reader: Reader,
  tables: readonly Table[],
  question: StoredQuestion,
): Promise<Map<Table, Cell[][]>> {
  const found = new Map<Table, Cell[][]>();
  const queue = [...tables];
  const work = async () => {
    for (let table = queue.shift(); table !== undefined; table = queue.shift())
      found.set(table, await reader.query(rowsOf(table, question)));
  };
  await Promise.all(Array.from({ length: queriesAtOnce }, work));
  return found;
}

/** Frames of their rows; rows of a later frame are left in `waiting`. */
function assemble(
  heads: readonly Head[],
  found: ReadonlyMap<Table, Cell[][]>,
  waiting: Map<Table, Cell[][]>,
): { hasRows: boolean; frame: StoredFrame }[] {
  const byHost = Map.groupBy(heads, ({ host }) => host);
  const tables = new Map<Head, Record<string, Columns>>(heads.map((head) => [head, {}]));
  for (const [table, rows] of found) {
    const of = new Map<Head, Cell[][]>();
    const left: Cell[][] = [];
    for (const row of [...(waiting.get(table) ?? []), ...rows]) {
      const [time_us, host] = row;
      const own = byHost.get(String(host)) ?? [];
      const head = nextHead(own, Number(time_us));
      if (head && (table.rowTime !== undefined || head.time_us === time_us))
        of.set(head, [...(of.get(head) ?? []), row]);
      else if (table.rowTime !== undefined) left.push(row);
    }
    if (table.rowTime !== undefined) waiting.set(table, left);
    for (const [head, own] of of) (tables.get(head) as Record<string, Columns>)[table.name] = columnsOf(table, own);
  }
  return heads.map((head) => {
    const own = tables.get(head) ?? {};
    const { session, sequence, time_us, interval_ms, host } = head;
    const frame: Frame = { session, sequence, time_us, interval_ms, tables: own as Tables };
    return {
      hasRows: Object.keys(own).length > 0,
      frame: {
        session,
        sequence,
        frame: { host, time_us, logSequence: 0, stored_us: 0, origin: 'store', bytes: encodeFrame(frame) },
      },
    };
  });
}

/** The first at or after a time, of heads in their order. */
function nextHead(heads: readonly Head[], time_us: number): Head | undefined {
  let [low, high] = [0, heads.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((heads[middle] as Head).time_us < time_us) low = middle + 1;
    else high = middle;
  }
  return heads[low];
}

/** Rows (time, host, labels, fields) as columns, in an order that is always the same. */
function columnsOf({ labels, fields }: Table, rows: readonly Cell[][]): Columns {
  const key = (row: readonly Cell[]) => JSON.stringify(row.slice(2, 2 + labels.length));
  const sorted = rows
    .map((row) => ({ row, key: key(row) }))
    .sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : 0));
  return Object.fromEntries([
    ...labels.map(({ name }, index) => [name, sorted.map(({ row }) => String(row[2 + index] ?? ''))]),
    ...fields.map(({ name }, index) => [
      name,
      sorted.map(({ row }) => Number(row[2 + labels.length + index] ?? Number.NaN)),
    ]),
  ]);
}
