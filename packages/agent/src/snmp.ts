import { Cursor } from '#files.ts';

/**
 * Reads chosen values of one protocol from files like /proc/net/snmp and netstat, where a line of names is followed by
 * a line of values. Where the names stand is learned once and kept as long as the line of names stays the same: there
 * are more than a hundred of them.
 */
export class SnmpLines {
  readonly #protocol: string;
  readonly #names: readonly string[];
  #heading = '';
  /** For each column up to the last that is wanted, the place in the answer of its value, or -1. */
  #columns: number[] = [];

  /** `protocol` with its colon, as the lines begin; the names in the order of the answer. */
  constructor(protocol: string, names: readonly string[]) {
    this.#protocol = protocol;
    this.#names = names;
  }

  /** The values in the order of the names; NaN for what this kernel does not count. */
  parse(text: string): number[] {
    const values = this.#names.map(() => Number.NaN);
    const start = text.startsWith(this.#protocol) ? 0 : text.indexOf(`\n${this.#protocol}`) + 1;
    if (!text.startsWith(this.#protocol, start)) return values;
    const cursor = new Cursor(text);
    cursor.position = start;
    cursor.nextLine();
    const heading = text.slice(start, cursor.position);
    if (heading !== this.#heading) {
      this.#heading = heading;
      const columns = heading
        .trimEnd()
        .split(' ')
        .slice(1)
        .map((name) => this.#names.indexOf(name));
      this.#columns = columns.slice(0, columns.findLastIndex((place) => place >= 0) + 1);
    }
    if (cursor.word() !== this.#protocol) return values;
    for (let column = 0; column < this.#columns.length; column++) {
      const place = this.#columns[column]!;
      if (place < 0) cursor.skip(1);
      else values[place] = cursor.number();
    }
    return values;
  }
}
