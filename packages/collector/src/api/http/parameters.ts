// Query parameters: described for the document, read strictly. An unknown one is an error that names the nearest.
import { catalog } from '@fleetreel/proto';
import { ApiError, clip, unknown } from '@fleetreel/proto/errors';
import { aggregations } from '@fleetreel/proto/http';
import Type, { type TObject, type TProperties, type TSchema } from 'typebox';
import Value from 'typebox/value';
import { rowsLimit } from '#query/rows.ts';

const labelPrefix = 'label.';
const names = (description: string, example: string) =>
  Type.Array(Type.String({ minLength: 1 }), { description, examples: [[example]], style: 'form', explode: true });

export const table = Type.Enum(
  catalog.map(({ name }) => name),
  { description: 'Table, by its name in the catalogue', examples: ['cpu'] },
);
export const field = names('Fields of the table: repeated, or separated by commas', 'used_percent');
export const host = Type.Optional(names('Hosts: repeated, or separated by commas; none means all', 'web-1'));
export const from = Type.Optional(
  Type.String({
    description:
      'Begin of the range: RFC 3339, milliseconds since 1970 (with decimals, as answers have them), or relative to now (-1h, -1h30m). The last hour when it is absent',
    examples: ['-1h'],
  }),
);
export const to = Type.Optional(
  Type.String({ description: 'End of the range, exclusive; now when it is absent', examples: ['now'] }),
);
export const limit = Type.Optional(
  Type.String({
    description: `Rows at most, from 1 to ${rowsLimit.max}; ${rowsLimit.default} when it is absent`,
    examples: ['100'],
  }),
);
export const step = Type.Optional(
  Type.String({
    description:
      'Width of a step: a duration (10s, 5m, 1h), or auto, which gives a few hundred points and is never shorter than the sampling interval. Steps begin at multiples of their width since 1970, and the range is widened to whole steps',
    examples: ['auto', '1m'],
  }),
);
export const agg = Type.Optional(
  Type.Enum([...aggregations], {
    description: 'How the values of a step become one; avg when it is absent. last and percentiles need raw rows',
    examples: ['avg'],
  }),
);

/** As `names`, of texts that may have commas: repeated only. */
export const texts = (description: string, examples: readonly string[]) =>
  Type.Array(Type.String({ minLength: 1 }), {
    description,
    examples: [examples],
    style: 'form',
    explode: true,
    'x-commas': false,
  });

/** One parameter for each label that a table has: `label.core=total`. */
export const labels: TProperties = Object.fromEntries(
  [...new Set(catalog.flatMap((one) => one.labels.map(({ name }) => name)))].map((name) => {
    const tables = catalog.filter((one) => one.labels.some((label) => label.name === name)).map((one) => one.name);
    const description = `Value that the label ${name} must have; repeated: one of the values. For ${tables.join(', ')}`;
    return [
      `${labelPrefix}${name}`,
      Type.Optional(Type.Array(Type.String(), { description, style: 'form', explode: true })),
    ];
  }),
);

/** What a query string said: parameters that take many values are arrays. */
export type Parameters = Record<string, string | string[] | undefined>;

/**
 * Makes the reader of a route's query string from its schema.
 * @throws ApiError of the reader: unknown_parameter, repeated_parameter, bad_value; unknown_label is left to the table's look-up
 */
export function parametersReader(schema: TObject): (query: Record<string, string | string[]>) => Parameters {
  const known = Object.keys(schema.properties);
  const takesLabels = known.some((name) => name.startsWith(labelPrefix));
  return (query) => {
    const parameters: Parameters = Object.create(null);
    for (const [name, given] of Object.entries(query)) {
      const values = Array.isArray(given) ? given : [given];
      const kind = schema.properties[name] as TSchema | undefined;
      if (takesLabels && name.startsWith(labelPrefix)) parameters[name] = values;
      else if (!kind || !Object.hasOwn(schema.properties, name))
        throw unknown('unknown_parameter', name, known, { parameter: name });
      else if (Type.IsArray(kind))
        parameters[name] =
          'x-commas' in kind
            ? values.map((value) => single(name, value))
            : values.flatMap((value) => listed(name, value));
      else if (values.length > 1) throw new ApiError('repeated_parameter', { parameter: name, count: values.length });
      else parameters[name] = single(name, values[0] ?? '');
    }
    return parameters;
  };
}

/** Makes the reader of a route's body from its schema. What is wrong is named without what it is: it may be a password. */
export function bodyReader(schema: TSchema): (body: unknown) => { value: unknown } | { error: ApiError } {
  return (value) => {
    if (Value.Check(schema, value)) return { value };
    const [first] = Value.Errors(schema, value);
    const parameter = first?.instancePath.slice(1).replaceAll('/', '.') || 'it';
    return { error: new ApiError('bad_body', { parameter, reason: first?.message ?? 'has another form' }) };
  };
}

/** @throws ApiError where nothing stands behind the name: it could be taken for what it is when it is absent */
function single(parameter: string, value: string): string {
  if (value === '') throw new ApiError('bad_value', { parameter, value, expected: 'a value, or leave it out' });
  return value;
}

/** @throws ApiError where nothing stands between two commas: it could be taken for all of them */
function listed(parameter: string, value: string): string[] {
  const values = value.split(',');
  if (values.includes(''))
    throw new ApiError('bad_value', {
      parameter,
      value: clip(value),
      expected: 'names with a comma between them, none of them empty',
    });
  return values;
}

/** The values of a parameter that takes many. */
export const many = (value: string | string[] | undefined): string[] => (value === undefined ? [] : [value].flat());

/** The value of a parameter that takes one. */
export const one = (value: string | string[] | undefined): string | undefined => [value].flat()[0];

/**
 * The value of a parameter that takes one of a few.
 * @throws ApiError for another
 */
export function oneOf<T extends string>(
  parameters: Parameters,
  parameter: string,
  values: readonly T[],
): T | undefined {
  const given = one(parameters[parameter]);
  const found = values.find((value) => value === given);
  if (given === undefined || found !== undefined) return found;
  throw new ApiError('bad_value', { parameter, value: clip(given), expected: values.join(' or ') });
}

/** The labels among the parameters. */
export function labelsOf(parameters: Parameters): Record<string, string[]> {
  return Object.fromEntries(
    Object.entries(parameters).flatMap(([name, value]) =>
      name.startsWith(labelPrefix) ? [[name.slice(labelPrefix.length), many(value)]] : [],
    ),
  );
}
