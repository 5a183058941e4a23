// What applications write, and the audit trail, as they are in the log. Apart from frames: an agent needs none of it.
import { readFileSync } from 'node:fs';
import protobuf from 'protobufjs';
import { protoFolder } from '#catalog.ts';
import { FrameError, fromHex, toHex } from '#frame.ts';
import type { Metadata } from '#http.ts';

const root = new protobuf.Root();
for (const name of ['custom', 'audit'])
  protobuf.parse(readFileSync(new URL(`fleetreel/v1/${name}.proto`, protoFolder), 'utf8'), root, { keepCase: true });
root.resolveAll();
const batchType = root.lookupType('fleetreel.v1.CustomBatch');
const recordType = root.lookupType('fleetreel.v1.AuditRecord');

/** One value an entry; texts are places among the words of the batch. */
export type MeasureColumns = {
  /** UTC, microseconds since 1970; NaN is when the call came. */
  time_us: number[];
  name: number[];
  /** NaN where it is a text. */
  value: number[];
  text: number[];
  metadata: number[];
};
export type EventColumns = {
  time_us: number[];
  name: number[];
  /** NaN where it has no length. */
  end_us: number[];
  severity: number[];
  text: number[];
  metadata: number[];
};

/** What a call wrote, or a part of it. */
export type CustomBatch = {
  /** 16 hexadecimal digits, the first below 8. */
  call: string;
  /** The number of the first entry in the call. */
  first: number;
  /** UTC, microseconds since 1970. */
  received_us: number;
  words: readonly string[];
} & CustomColumns;
export type CustomColumns =
  | { measures: MeasureColumns; events?: undefined }
  | { measures?: undefined; events: EventColumns };

const columnNames = {
  measures: { numbers: ['time_us', 'value'], words: ['name', 'text', 'metadata'] },
  events: { numbers: ['time_us', 'end_us'], words: ['name', 'severity', 'text', 'metadata'] },
} as const;

export function encodeCustomBatch(batch: CustomBatch): Uint8Array {
  return batchType.encode({ ...batch, call: fromHex(batch.call) }).finish();
}

/**
 * Reads a batch and checks it: columns of one length, words that there are.
 * @throws FrameError
 */
export function decodeCustomBatch(bytes: Uint8Array): CustomBatch {
  const message = attempt('batch of measures or events', () => batchType.decode(bytes));
  const call = toHex(message.call);
  const [first, received_us] = [Number(message.first), Number(message.received_us)];
  if (Number.parseInt(call[0] ?? '', 16) > 7) throw new FrameError('the call is above 63 bits');
  if (!(received_us > 0)) throw new FrameError(`the time of the call is ${received_us}`);
  const kinds = (['measures', 'events'] as const).filter((kind) => message[kind]);
  const [kind] = kinds;
  if (kind === undefined || kinds.length > 1) throw new FrameError('it has neither measures nor events alone');
  const words = message.words as string[];
  const columns = message[kind] as Record<string, number[]>;
  const rows = columns.name?.length ?? 0;
  if (rows === 0) throw new FrameError(`there are no ${kind} in it`);
  const { numbers, words: texts } = columnNames[kind];
  for (const name of [...numbers, ...texts])
    if (columns[name]?.length !== rows)
      throw new FrameError(`${kind}: ${name} has ${columns[name]?.length ?? 0} values, not ${rows}`);
  for (const name of texts)
    if (columns[name]?.some((place) => place >= words.length))
      throw new FrameError(`${kind}: ${name} has no such word`);
  return { call, first, received_us, words, [kind]: columns } as unknown as CustomBatch;
}

/** A record of the audit trail, without its tenant and collector. `before` and `after` are JSON, or empty. */
export type LoggedAuditRecord = {
  /** 16 hexadecimal digits, the first below 8. */
  id: string;
  /** UTC, microseconds since 1970. */
  time_us: number;
  actor_kind: string;
  actor_id: string;
  actor_name: string;
  action: string;
  target: string;
  before: string;
  after: string;
  address: string;
};

export function encodeAuditRecord(record: LoggedAuditRecord): Uint8Array {
  return recordType.encode({ ...record, id: fromHex(record.id) }).finish();
}

/** @throws FrameError */
export function decodeAuditRecord(bytes: Uint8Array): LoggedAuditRecord {
  const message = attempt('record of the audit trail', () => recordType.decode(bytes));
  const plain = recordType.toObject(message, { longs: Number, defaults: true }) as LoggedAuditRecord;
  const record = { ...plain, id: toHex(message.id) };
  if (Number.parseInt(record.id[0] ?? '', 16) > 7) throw new FrameError('the id is above 63 bits');
  if (!(record.time_us > 0)) throw new FrameError(`the time is ${record.time_us}`);
  if (record.action === '') throw new FrameError('it does not say what was done');
  return record;
}

const marks = { string: 's', number: 'n', boolean: 'b' } as const;

/** How a key of metadata is written where its value has this type. */
export const markedKey = (type: keyof typeof marks, key: string): string =>
  marks[type] + (key.includes('.') ? key.replaceAll('.', ':') : key);

/** Metadata as they are in the log and in the store: JSON. Keys are as `metadataKeyPattern` says, numbers finite. */
export function encodeMetadata(metadata: Metadata): string {
  // Put together by hand: an object of the marked keys would be made only to be written, which takes three times as long.
  let members = '';
  for (const key in metadata) {
    const value = metadata[key] as Metadata[string];
    const marked = markedKey(typeof value as keyof typeof marks, key);
    members += `${members === '' ? '' : ','}"${marked}":${typeof value === 'string' ? JSON.stringify(value) : value}`;
  }
  return members === '' ? '' : `{${members}}`;
}

/** @throws SyntaxError for a text that is no JSON */
export function decodeMetadata(text: string): Metadata {
  if (text === '') return {};
  return Object.fromEntries(
    Object.entries(JSON.parse(text) as Metadata).map(([key, value]) => [key.slice(1).replaceAll(':', '.'), value]),
  );
}

function attempt<T>(what: string, decode: () => T): T & Record<string, unknown> {
  try {
    return decode() as T & Record<string, unknown>;
  } catch (cause) {
    throw new FrameError(`not a ${what}: ${cause instanceof Error ? cause.message : String(cause)}`, { cause });
  }
}
