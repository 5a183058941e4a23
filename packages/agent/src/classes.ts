/** What the rules look at. */
export type Traits = {
  /** Names of the program. */
  names: readonly string[];
  /** The words of its command line, the program's first; none where it can't be read. */
  words: readonly string[];
  /** The systemd unit; empty outside of one. */
  unit: string;
};

/** The class of what no rule fits. */
export const otherClass = 'other';
/** The class of the kernel's own threads, which no rule gives. */
export const kernelClass = 'kernel';

/** What a rule can look at. */
export const conditions = ['name', 'argument', 'unit'] as const;
export type Condition = (typeof conditions)[number];
/** A class, and the patterns one of which has to fit for each condition. Plain data: read by one process, used by another. */
export type Rule = { class: string } & { [C in Condition]?: readonly string[] };

/** Says what class a process is of: by the first rule that fits. */
export type Classify = (traits: Traits) => string;

/** Classifies by rules: the first that fits. */
export function classifier(rules: readonly Rule[]): Classify {
  const ready = rules.map(({ class: name, ...patterns }) => ({
    class: name,
    conditions: conditions.flatMap((condition) =>
      patterns[condition] ? { condition, patterns: new Patterns(patterns[condition]) } : [],
    ),
  }));
  return ({ names, words, unit }) => {
    const texts = { name: names, argument: words, unit: [unit] };
    const fits = (rule: (typeof ready)[number]): boolean =>
      rule.conditions.every(({ condition, patterns }) => texts[condition].some((text) => patterns.fit(text)));
    return ready.find(fits)?.class ?? otherClass;
  };
}

/** Patterns of one condition, one of which has to fit. Most have no wildcard: those are looked up. */
class Patterns {
  readonly #whole = new Set<string>();
  readonly #globs: string[] = [];

  constructor(patterns: readonly string[]) {
    for (const pattern of patterns)
      if (/[*?]/.test(pattern)) this.#globs.push(pattern.toLowerCase());
      else this.#whole.add(pattern.toLowerCase());
  }

  fit(text: string): boolean {
    const small = text.toLowerCase();
    return this.#whole.has(small) || this.#globs.some((pattern) => globMatches(pattern, small));
  }
}

const star = 42;
const question = 63;

/**
 * Whether the whole text fits a pattern in which "*" stands for any characters and "?" for one. Not a regular expression:
 * names and command lines are anybody's, and this takes at most their length times the pattern's.
 */
export function globMatches(pattern: string, text: string): boolean {
  let at = 0;
  let lastStar = -1;
  let resumeAt = 0;
  for (let position = 0; position < text.length; ) {
    const wanted = pattern.charCodeAt(at);
    if (wanted === star) {
      lastStar = at++;
      resumeAt = position;
    } else if (at < pattern.length && (wanted === question || wanted === text.charCodeAt(position))) {
      at++;
      position++;
    } else if (lastStar >= 0) {
      // The last star takes one character more.
      at = lastStar + 1;
      position = ++resumeAt;
    } else return false;
  }
  while (pattern.charCodeAt(at) === star) at++;
  return at === pattern.length;
}
