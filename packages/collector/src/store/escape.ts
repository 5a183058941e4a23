// Texts in the Influx line protocol.

/** What stands in the quotes of a text value of the line protocol. */
export const textValue = (value: string): string => value.replace(/["\\\n\r]/g, '\\$&').replaceAll('\0', '\ufffd');

/** A symbol as the line protocol wants it. QuestDB takes any character but NUL. */
export function symbol(text: string): string {
  return /[ ,=\n\r\\\0]/.test(text) ? text.replace(/[ ,=\n\r\\]/g, '\\$&').replaceAll('\0', '\ufffd') : text;
}
