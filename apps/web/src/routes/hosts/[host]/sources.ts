// What the sources of metrics say of themselves: what they could read here, and why not all of it.
import type { Row } from '#lib/api.ts';
import { textOf } from '#lib/entities.ts';

export type SourceState = 'failed' | 'limited' | 'unavailable' | 'ok';

/** A source that is well, but says why it does not see everything, is limited. */
export function stateOf(row: Row): SourceState {
  const state = textOf(row, 'state');
  if (state === 'ok') return textOf(row, 'reason') === '' ? 'ok' : 'limited';
  return state === 'failed' ? 'failed' : 'unavailable';
}

/** The sentences of a reason. */
export const sentencesOf = (reason: string): string[] => [
  ...new Set(reason.split(/(?<=[.!?])\s+(?=[A-Z])|\n/).filter((sentence) => sentence.trim() !== '')),
];

/** Sources of this name, or of a name that begins so: `gpu` is `gpu_nvidia` as well. */
const named = (rows: readonly Row[], names: readonly string[]): Row[] =>
  rows.filter((row) => names.some((name) => row.source === name || textOf(row, 'source').startsWith(`${name}_`)));

/**
 * Why nothing of this kind is on the host, when all its sources say so; null when there may be something. What every host has is
 * not told to be missing where the agent has no source of that name.
 */
export function absenceOf(rows: readonly Row[], names: readonly string[], everywhere: boolean): string | null {
  const own = named(rows, names);
  if (own.length === 0) return rows.length === 0 || everywhere ? null : 'The agent of this host has no source for it.';
  if (own.some((row) => stateOf(row) !== 'unavailable')) return null;
  return [...new Set(own.map((row) => textOf(row, 'reason')))].join(' ');
}

/** What the sources of a kind can't see here. */
export const limitsOf = (rows: readonly Row[], names: readonly string[]): string[] =>
  named(rows, names).flatMap((row) =>
    stateOf(row) === 'limited' || stateOf(row) === 'failed' ? sentencesOf(textOf(row, 'reason')) : [],
  );
