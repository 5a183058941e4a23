import { readFileSync } from 'node:fs';
import protobuf from 'protobufjs';

/** Where the `.proto` files are: beside `src/` in the workspace, beside the bundle when shipped. */
export const protoFolder = new URL('../', import.meta.url);

const keyOption = '(fleetreel.v1.key)';
const textOption = '(fleetreel.v1.text)';
const rowTimeOption = '(fleetreel.v1.row_time)';

/** The first field number of a frame that is a table; the numbers before it are the header. */
export const firstTableId = 10;

/** A label column: a string that names the row's entity or describes it; `text`: with a new value in nearly every row. */
export type Label = { name: string; key: boolean; text: boolean; help: string };

/** A value column: 64-bit floats, NaN where a value is not available. */
export type Field = { name: string; unit: Unit; help: string };

/** One table of metrics, as its message in the contract describes it. */
export type Table = {
  name: string;
  help: string;
  labels: readonly Label[];
  fields: readonly Field[];
  /** The field, in seconds since 1970, that is the time of each row, where that is not the frame's. */
  rowTime: string | undefined;
  /** Number of the table's field in `Frame`. */
  id: number;
};

/** The endings of a field's name, longest first: its unit, in base units as Prometheus asks. */
export const units = [
  'bytes_per_second',
  'per_second',
  'per_minute',
  'percent',
  'bytes',
  'seconds',
  'celsius',
  'watts',
  'joules',
  'volts',
  'amperes',
  'hertz',
  'ratio',
  'count',
  'total',
  'flag',
  'code',
  'sequence',
] as const;
export type Unit = (typeof units)[number];

/** The descriptors of the contract, names as they are written there. */
export const root = new protobuf.Root();
parse('fleetreel/v1/frame.proto');
root.resolveAll();

/** All tables in the order of the contract. */
export const catalog: readonly Table[] = root
  .lookupType('fleetreel.v1.Frame')
  .fieldsArray.filter((field) => field.id >= firstTableId)
  .map((field) => table(field));

const byName = new Map(catalog.map((entry) => [entry.name, entry]));
const byId = new Map(catalog.map((entry) => [entry.id, entry]));

/** The table of this name, or undefined. */
export const tableNamed = (name: string): Table | undefined => byName.get(name);

/** The table that has this number in `Frame`, or undefined: a newer agent's. */
export const tableNumbered = (id: number): Table | undefined => byId.get(id);

/** The texts of the contract of frames, by their paths: what whoever opens a recording years later reads it by. */
export function contractTexts(): Record<string, string> {
  const paths = new Set<string>(['fleetreel/v1/options.proto']);
  for (const path of paths.add('fleetreel/v1/frame.proto'))
    for (const [, imported = ''] of readFileSync(new URL(path, protoFolder), 'utf8').matchAll(
      /^import "(fleetreel[^"]+)"/gm,
    ))
      paths.add(imported);
  return Object.fromEntries([...paths].sort().map((path) => [path, readFileSync(new URL(path, protoFolder), 'utf8')]));
}

/** Reads a file and those that it imports, but for options.proto: it extends descriptor.proto, which nothing here needs. */
function parse(file: string, seen = new Set<string>()): void {
  if (seen.has(file) || file.endsWith('/options.proto')) return;
  seen.add(file);
  const text = readFileSync(new URL(file, protoFolder), 'utf8');
  const { imports = [] } = protobuf.parse(text, root, { keepCase: true, alternateCommentMode: true });
  for (const imported of imports) parse(imported, seen);
}

function table(member: protobuf.Field): Table {
  const message = member.resolvedType;
  if (!(message instanceof protobuf.Type)) throw new TypeError(`Frame.${member.name} is not a message`);
  const labels: Label[] = [];
  const fields: Field[] = [];
  let rowTime: string | undefined;
  for (const column of message.fieldsArray) {
    const where = `${message.name}.${column.name}`;
    if (!column.repeated) throw new TypeError(`${where} is not repeated: a table's columns are`);
    const help = sentence(column.comment, where);
    const is = (option: string) => column.options?.[option] === true;
    if (column.type === 'string') labels.push({ name: column.name, key: is(keyOption), text: is(textOption), help });
    else if (column.type === 'double') fields.push({ name: column.name, unit: unitOf(column.name), help });
    else throw new TypeError(`${where} is ${column.type}: a column is string or double`);
    if (is(rowTimeOption)) rowTime = column.name;
  }
  return { name: member.name, help: sentence(message.comment, message.name), labels, fields, rowTime, id: member.id };
}

function unitOf(name: string): Unit {
  const unit = units.find((ending) => name.endsWith(`_${ending}`));
  if (!unit) throw new TypeError(`${name} does not end in a unit: ${units.join(', ')}`);
  return unit;
}

function sentence(comment: string | null, where: string): string {
  if (!comment) throw new TypeError(`${where} has no comment: it is the help text`);
  return comment.replace(/\s+/g, ' ').trim();
}
