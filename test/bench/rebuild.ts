// How fast a store is rebuilt from the log, the verification included; and whether it then holds what the first store holds.
import { statfs } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { catalog, type Frame } from '@fleetreel/proto';
import { jetstream } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { contentDifferences, Store } from '../faults/stores.ts';
import { startProgram } from '../servers/program.ts';
import type { Questdb } from '../servers/questdb.ts';
import { endOf, eventually, programs, Stack } from '../stack.ts';
import { type Figure, measured } from './figure.ts';
import { countRows, countValues, type Fleet, fill, history } from './fleet.ts';
import { prepared, push } from './ilp.ts';

/** Frames of the yardstick, whose lines are in memory, and how often they are pushed. */
const pushed = { frames: 10_000, rounds: 3 } as const;
/** Longest waits, milliseconds: for a store to have all, and for a rebuild. */
const longest = { stored: 3_600_000, rebuild: 3_600_000 } as const;
/** What a row and a frame take on disk at most, bytes: rows in two stores and in what waits there, frames in the log. */
const onDisk = { row: 2 * 250, frame: 10_000 } as const;

const tables = ['frame', ...catalog.map(({ name }) => name)];

/** Fills a log and, by a collector, a first store; rebuilds a second from the log. @throws Error when the two differ */
export async function rebuild(fleet: Fleet): Promise<Figure[]> {
  const frames = fleet.hosts * fleet.ticks;
  await haveRoom(frames * (onDisk.frame + onDisk.row * rowsOf(fleet.captured)));
  await using stack = await Stack.start();
  await using copy = await Store.start('copy');
  const first = new Store('main', stack.questdb);
  const sent = await fillLog(stack, fleet);
  await visible(first, frames);
  await stack.collector.stop();

  const begin_ms = performance.now();
  const program = await startProgram(
    programs.collector,
    ['rebuild', ...copy.flags(stack.nats.url)],
    copy.questdb.environment,
  );
  const { code, output } = await endOf(program, longest.rebuild);
  const seconds = (performance.now() - begin_ms) / 1000;
  if (code !== 0) throw new Error(`The rebuild ended with ${code}:\n${output}`);
  const differing = contentDifferences(await first.content(), await copy.content());
  if (differing.length > 0) throw new Error(`The stores differ:\n${differing.slice(0, 10).join('\n')}`);
  const told = /^filled: ([\d,]+) frames, ([\d,]+) rows in ([\d.]+) s/m.exec(output) ?? [];
  const [, filled = 0, rows = 0, filling = 0] = told.map((text) => Number(text.replaceAll(',', '')));
  if (filled !== frames || rows !== sent.rows)
    throw new Error(`${frames} frames with ${sent.rows} rows were sent. The rebuild said:\n${output}`);

  const raw = await pushRates(copy.questdb, fleet);
  const rate = rows / filling;
  const span_h = (fleet.ticks * fleet.interval_s) / 3600;
  const how =
    `fleetreel-collector rebuild into an empty QuestDB, from its first pull until all is acknowledged: ${span_h.toFixed(1)} h of ` +
    `${fleet.hosts} hosts, a frame every ${fleet.interval_s} s (real frames of this machine, scaled for each host), ` +
    `${frames.toLocaleString('en-US')} frames, ${rows.toLocaleString('en-US')} rows of ${(sent.values / rows).toFixed(1)} values; ` +
    'afterwards every table of both stores has, for each host, as many rows and values and the same sums';
  const yardstick = `the first ${Math.min(pushed.frames, frames).toLocaleString('en-US')} of these frames as prepared binary lines into the same QuestDB over one connection, until all are visible, ${pushed.rounds} rounds`;
  return [
    {
      id: 'P4',
      name: 'rebuild: rows',
      unit: 'rows/s',
      value: rate,
      yardstick: { what: 'prepared binary lines', value: raw },
      goal: { text: '>= 0.6 of the yardstick', reached: rate >= 0.6 * raw.median },
      method: `${how}; yardstick: ${yardstick}`,
    },
    { id: 'P4', name: 'rebuild: values', unit: 'values/s', value: sent.values / filling, method: 'as the row above' },
    { id: 'P4', name: 'rebuild: frames', unit: 'frames/s', value: frames / filling, method: 'as the row above' },
    {
      id: 'P4',
      name: 'rebuild: all of it',
      unit: 's',
      value: seconds,
      method: `with the start of the program, the making of the tables, the roll-ups and the verification; filling alone took ${filling} s`,
    },
  ];
}

/** @throws Error when there is less room for temporary files */
async function haveRoom(bytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(tmpdir());
  const gib = (count: number) => (count / 1024 ** 3).toFixed(1);
  if (bavail * bsize < bytes)
    throw new RangeError(
      `The log and two stores may take ${gib(bytes)} GiB, and ${tmpdir()} has ${gib(bavail * bsize)} GiB: take fewer --fleet or --hours, or another TMPDIR.`,
    );
}

/** Rows of a frame at most, the frame's own included. */
const rowsOf = (captured: readonly Frame[]): number =>
  1 +
  Math.max(
    ...captured.map((frame) =>
      countRows(frame)
        .values()
        .reduce((sum, rows) => sum + rows, 0),
    ),
  );

/** Publishes all frames; returns what they hold. */
async function fillLog({ nats }: Stack, fleet: Fleet): Promise<{ rows: number; values: number }> {
  const sent = { rows: 0, values: 0 };
  const counted = history(fleet).map((entry) => {
    sent.rows += rowsOf([entry.frame]);
    sent.values += countValues(entry.frame);
    return entry;
  });
  const connection = await connect({ servers: nats.url, noAsyncTraces: true });
  try {
    // Longer than any pause of a busy machine: a bench of minutes would end with it.
    await fill(jetstream(connection, { timeout: 60_000 }), counted);
  } finally {
    await connection.close();
  }
  return sent;
}

/** Waits until a store has so many frames, and everything that it was sent can be read. */
async function visible({ questdb }: Store, frames: number): Promise<void> {
  const number = async (sql: string) => Number((await questdb.query(sql)).rows[0]?.[0]);
  await eventually(`${frames} frames in the store`, longest.stored, async () => {
    const count = await number('SELECT count() FROM frame');
    if (count !== frames) throw new Error(`there are ${count}`);
    return true;
  });
  await eventually('a store that has applied all', longest.stored, async () =>
    (await number('SELECT count() FROM wal_tables() WHERE writerTxn < sequencerTxn')) === 0 ? true : undefined,
  );
}

/** Rows per second that this store takes when nothing else is to be done. */
async function pushRates(questdb: Questdb, fleet: Fleet) {
  const ticks = Math.min(Math.ceil(pushed.frames / fleet.hosts), fleet.ticks);
  const some = { ...fleet, ticks };
  const rows = history(some).reduce((sum, { frame }) => sum + rowsOf([frame]), 0);
  const bodies = prepared(history(some));
  const rates: number[] = [];
  for (let round = 0; round < pushed.rounds; round++) {
    for (const name of tables) await questdb.query(`TRUNCATE TABLE ${name}`);
    const begin_ms = performance.now();
    await push(questdb, bodies, 1);
    await visible(new Store('pushed', questdb), fleet.hosts * ticks);
    rates.push((rows * 1000) / (performance.now() - begin_ms));
  }
  return measured(rates);
}
