// What a change changed, of what was before and what is after.

import { formatTime, type Zone } from '#lib/format.ts';

/** Null where there was, or is, nothing. */
export type Change = { key: string; before: unknown; after: unknown };

/** Of objects the members that differ, by name; of anything else the two, under no name. */
export function difference(before: unknown, after: unknown): Change[] {
  const a = membersOf(before);
  const b = membersOf(after);
  return [...new Set([...Object.keys(a), ...Object.keys(b)])]
    .map((key) => ({ key, before: a[key] ?? null, after: b[key] ?? null }))
    .filter((change) => JSON.stringify(change.before) !== JSON.stringify(change.after));
}

const membersOf = (value: unknown): Record<string, unknown> =>
  value !== null && typeof value === 'object' && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : { '': value };

/** As one reads it; a moment as a time of this zone. */
export function shownIn(
  zone: Zone,
  { key, before, after }: Change,
): { key: string; before: string | null; after: string | null } {
  const shown = (value: unknown): string | null => {
    if (value === null || value === undefined) return null;
    if (typeof value === 'string') return value;
    // The trail has moments in milliseconds since 1970, under this name.
    if (key === 'expires' && typeof value === 'number') return formatTime(value, 'full', zone);
    if (Array.isArray(value) && value.every((entry) => typeof entry === 'string')) return value.join(', ');
    return JSON.stringify(value);
  };
  return { key, before: shown(before), after: shown(after) };
}
