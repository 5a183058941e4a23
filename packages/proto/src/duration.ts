/** Lengths of time as people write them: `500ms`, `5s`, `1h30m`, `72h`. */
const units = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
export const durationPattern = '^(?:\\d+(?:\\.\\d+)?(?:ms|s|m|h|d))+$';

/** Milliseconds of a duration such as `5s` or `1h30m`; undefined where it is none. */
export function durationMilliseconds(text: string): number | undefined {
  if (!new RegExp(durationPattern).test(text)) return undefined;
  let sum = 0;
  for (const [, number, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g))
    sum += Number(number) * units[unit as keyof typeof units];
  return sum;
}

/** Milliseconds of a duration that the schema has already checked. */
export function milliseconds(text: string): number {
  const value = durationMilliseconds(text);
  if (value === undefined) throw new RangeError(`"${text}" is no duration`);
  return value;
}
