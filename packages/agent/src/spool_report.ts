import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Damage, readSegment } from '#segment.ts';
import { parseName } from '#spool.ts';
import { sentence } from '#telemetry.ts';

/** One file; times are ISO 8601, null where there are no frames. */
type FileReport = {
  path: string;
  bytes: number;
  frames: number;
  oldest: string | null;
  newest: string | null;
  sessions: string[];
  /** Bytes from the beginning that are good. */
  goodBytes: number;
  /** Places that can't be read, with the numbers of the frames that were there as far as they are known. */
  damages: { offset: number; end: number; session: string; first: number; last: number }[];
  /** Where the last record is incomplete: cut off, or being written now. */
  tornAt: number | null;
  /** Why it can't be read; null where it can. */
  error: string | null;
};

/**
 * What is in the spool below a data folder, of all names, and whether it is good: a page for people, or JSON. Changes nothing, and may
 * run beside the agent. The code is 0 when all is good, 1 when something is damaged, 2 when something can't be read.
 */
export async function spoolReport(data: string, json: boolean): Promise<{ text: string; code: 0 | 1 | 2 }> {
  const folder = join(data, 'spool');
  const files: FileReport[] = [];
  const errors: string[] = [];
  for (const host of await names(folder, errors))
    for (const name of await names(join(folder, host), errors)) {
      if (!parseName(name)) continue;
      const report = await inspect(join(folder, host, name));
      if (report) files.push(report);
    }
  const code = errors.length > 0 || files.some(({ error }) => error !== null) ? 2 : files.some(isDamaged) ? 1 : 0;
  return { text: json ? JSON.stringify({ folder, files, errors }, null, 2) : page(folder, files, errors), code };
}

const isDamaged = ({ damages }: FileReport): boolean => damages.length > 0;

async function names(folder: string, errors: string[]): Promise<string[]> {
  try {
    return (await readdir(folder)).toSorted();
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') errors.push(`${folder} can't be read: ${sentence(cause)}`);
    return [];
  }
}

/** Undefined when the agent has removed the file meanwhile. */
async function inspect(path: string): Promise<FileReport | undefined> {
  const report: FileReport = {
    path,
    bytes: 0,
    frames: 0,
    oldest: null,
    newest: null,
    sessions: [],
    goodBytes: 0,
    damages: [],
    tornAt: null,
    error: null,
  };
  try {
    const bytes = await readFile(path);
    report.bytes = bytes.length;
    const { header, records, damages, tornAt } = readSegment(bytes);
    const times = records.map(({ time_us }) => time_us);
    const time = (us: number) => new Date(us / 1000).toISOString();
    const [oldest, newest] = [
      times.reduce((a, b) => Math.min(a, b), Infinity),
      times.reduce((a, b) => Math.max(a, b), 0),
    ];
    const bad = [...damages.map(({ offset }) => offset), ...(tornAt === undefined ? [] : [tornAt])];
    return {
      ...report,
      frames: records.length,
      oldest: times.length > 0 ? time(oldest) : null,
      newest: times.length > 0 ? time(newest) : null,
      sessions: [...new Set(records.map(({ session }) => session))],
      goodBytes: header ? Math.min(...bad, bytes.length) : 0,
      damages: [
        // A header that was cut off is a file that was just begun.
        ...(header || records.length + damages.length === 0
          ? []
          : [{ offset: 0, end: 32, session: '', first: 0, last: 0 }]),
        ...damages.map(({ offset, end, session, first, last }: Damage) => ({ offset, end, session, first, last })),
      ],
      tornAt: tornAt ?? null,
    };
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    return { ...report, error: sentence(cause) };
  }
}

function page(folder: string, files: readonly FileReport[], errors: readonly string[]): string {
  if (files.length + errors.length === 0) return `${folder}: no frames wait here`;
  const total = (of: (file: FileReport) => number) => files.reduce((sum, file) => sum + of(file), 0);
  const times = files.flatMap(({ oldest, newest }) => (oldest && newest ? [oldest, newest] : [])).toSorted();
  const sessions = new Set(files.flatMap((file) => file.sessions)).size;
  return [
    `${folder}: ${files.length} files, ${total(({ frames }) => frames)} frames, ${total(({ bytes }) => bytes)} bytes, ${sessions} sessions`,
    ...(times.length > 0 ? [`from ${times[0]} to ${times.at(-1)}`] : []),
    ...files.flatMap(lines),
    ...errors,
  ].join('\n');
}

function lines(file: FileReport): string[] {
  const { path, bytes, frames, oldest, newest, sessions, goodBytes, damages, tornAt, error } = file;
  if (error !== null) return [`${path}: can't be read: ${error}`];
  return [
    `${path}: ${frames} frames, ${bytes} bytes, ${oldest ?? '-'} to ${newest ?? '-'}, ${sessions.join(', ')}`,
    ...damages.map(
      ({ offset, end, session, first, last }) =>
        `  damaged: bytes ${offset} to ${end}${session === '' ? '' : `, frames ${first} to ${last} of ${session}`}`,
    ),
    ...(damages.length > 0 ? [`  good up to byte ${goodBytes}; the good frames behind it are sent, too`] : []),
    ...(tornAt === null ? [] : [`  the last frame is incomplete from byte ${tornAt}: cut off, or being written now`]),
  ];
}
