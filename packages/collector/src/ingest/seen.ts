// What was seen of numbers that mostly come in order.

/** Numbers of one chunk: 512 bytes. */
const chunkNumbers = 4096;

/** Whole numbers by name, a bit for each where they are dense. */
export class Seen {
  readonly #names = new Map<string, Map<number, Uint8Array>>();

  /** Adds a number; false when it was there. */
  add(name: string, number: number): boolean {
    let chunks = this.#names.get(name);
    if (chunks === undefined) {
      chunks = new Map();
      this.#names.set(name, chunks);
    }
    const place = Math.floor(number / chunkNumbers);
    let chunk = chunks.get(place);
    if (chunk === undefined) {
      chunk = new Uint8Array(chunkNumbers / 8);
      chunks.set(place, chunk);
    }
    const bit = number - place * chunkNumbers;
    const mask = 1 << (bit & 7);
    const byte = chunk[bit >> 3] as number;
    chunk[bit >> 3] = byte | mask;
    return (byte & mask) === 0;
  }
}
