// What a change changed, of what was before and what is after.

/** Null where there was, or is, nothing. */
export type Change = { key: string; before: string | null; after: string | null };

/** Of objects the members that differ, by name; of anything else the two, under no name. */
export function difference(before: unknown, after: unknown): Change[] {
  const a = membersOf(before);
  const b = membersOf(after);
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .map((key) => ({ key, before: textOf(a[key]), after: textOf(b[key]) }))
    .filter((change) => change.before !== change.after);
}

const membersOf = (value: unknown): Record<string, unknown> =>
  value !== null && typeof value === 'object' && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : { '': value };

const textOf = (value: unknown): string | null =>
  value === null || value === undefined ? null : typeof value === 'string' ? value : JSON.stringify(value);
