// What can be said of a new password before it is sent. Length counts most; which kinds of characters are in it does not.

/** Characters that a password has at least; the collector insists on it. */
export const passwordShortest = 12;

export const strengths = ['short', 'weak', 'fair', 'good', 'strong'] as const;
export type Strength = (typeof strengths)[number];

/** Words that are tried first by whoever guesses. */
const common = /passwor[dt]|fleetreel|monitoring|admin|welcome|letmein|secret|change ?me|qwert[yz]\w*|asdf\w*/gi;
/** From how many characters that can't be foreseen on it is so. */
const steps: readonly [number, Strength][] = [
  [17, 'strong'],
  [13, 'good'],
  [8, 'fair'],
  [0, 'weak'],
];

/** How well a password resists being guessed. */
export function strengthOf(password: string, user: string): Strength {
  if ([...password].length < passwordShortest) return 'short';
  const rest = password
    .replaceAll(common, '*')
    .replaceAll(user.length > 2 ? new RegExp(literal(user), 'gi') : /$^/g, '*');
  const unforeseen = unforeseenOf([...rest]);
  return steps.find(([least]) => unforeseen >= least)?.[1] ?? 'weak';
}

/** Characters that neither repeat nor continue (abc, 321) what is before them; ones that came before count half. */
function unforeseenOf(characters: readonly string[]): number {
  const seen = new Set<string>();
  let count = 0;
  for (const [index, character] of characters.entries()) {
    const step = (character.codePointAt(0) ?? 0) - (characters[index - 1]?.codePointAt(0) ?? -9);
    if (Math.abs(step) > 1) count += seen.has(character) ? 0.5 : 1;
    seen.add(character);
  }
  // Few different characters make any length foreseeable.
  return seen.size < 5 ? Math.min(count, seen.size) : count;
}

const literal = (text: string): string => text.replaceAll(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** What is said of it. */
export function strengthText(password: string, strength: Strength): string {
  const missing = passwordShortest - [...password].length;
  return {
    short: `${missing} more ${missing === 1 ? 'character' : 'characters'}, please`,
    weak: 'Weak: easy to guess',
    fair: 'Fair',
    good: 'Good',
    strong: 'Strong',
  }[strength];
}
