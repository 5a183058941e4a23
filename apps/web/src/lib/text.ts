// Text of others (names of processes, containers, models) made harmless and readable: what can't be seen, or changes how the
// rest is seen, is written out. It is only ever put into text nodes and attributes, never into HTML.

/** Controls, formats, separators and lone surrogates, but for the joiner between the parts of one emoji. */
const unseen =
  /(?<!\p{Extended_Pictographic}\ufe0f?\p{Emoji_Modifier}?)\u200d|\u200d(?!\p{Extended_Pictographic})|(?!\u200d)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;
const short: Readonly<Record<string, string>> = { '\t': '\\t', '\n': '\\n', '\r': '\\r' };

/** The text with control characters, escape sequences and changes of direction as `\x1b`, `\u202e` and so on. */
export function visible(text: string): string {
  return text.replace(unseen, (character) => {
    const code = character.codePointAt(0) ?? 0;
    const digits = code.toString(16);
    return (
      short[character] ??
      (code <= 0xff
        ? `\\x${digits.padStart(2, '0')}`
        : code <= 0xffff
          ? `\\u${digits.padStart(4, '0')}`
          : `\\u{${digits}}`)
    );
  });
}

/** Longest text of a `title`: a browser shows no more of it anyway. */
const titleMost = 4096;

/** The whole of a text that is cut where it is shown, for its `title`. */
export const titleOf = (text: string): string => {
  const whole = visible(text);
  return whole.length > titleMost ? `${whole.slice(0, titleMost)}…` : whole;
};

/** Whether a text begins with a word, which may get a capital letter: a path keeps its own. */
export const startsWithWord = (text: string): boolean => /^\p{L}/u.test(text);
