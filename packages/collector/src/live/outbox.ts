/**
 * What waits for one reader. While the reader keeps up, everything passes; when it does not, only the newest item of each
 * key waits, with the number of those that it replaced. So it holds at most one item for each key, however slow the reader.
 */
export class Outbox<T> {
  readonly #write: (item: T, skipped: number) => boolean;
  readonly #waiting = new Map<string, { item: T; skipped: number }>();
  #open = true;
  #skippedTotal = 0;

  /** `write` hands an item to the reader and says whether it takes another one now; if not, `resume` is called later. */
  constructor(write: (item: T, skipped: number) => boolean) {
    this.#write = write;
  }

  /** Items that wait. */
  get size(): number {
    return this.#waiting.size;
  }

  /** Items that were replaced by newer ones since the start. */
  get skippedTotal(): number {
    return this.#skippedTotal;
  }

  /** Hands an item over, or keeps it in the place of an older one of its key. */
  push(key: string, item: T): void {
    if (this.#open) {
      this.#open = this.#write(item, 0);
      return;
    }
    const older = this.#waiting.get(key);
    if (older) {
      // It keeps its place in the row: a key that changes often must not be passed by for ever.
      older.item = item;
      older.skipped++;
      this.#skippedTotal++;
    } else this.#waiting.set(key, { item, skipped: 0 });
  }

  /** The reader takes more. */
  resume(): void {
    this.#open = true;
    for (const [key, { item, skipped }] of this.#waiting) {
      this.#waiting.delete(key);
      this.#open = this.#write(item, skipped);
      if (!this.#open) return;
    }
  }

  /** Drops what waits with such a key. */
  drop(matches: (key: string) => boolean): void {
    for (const key of this.#waiting.keys()) if (matches(key)) this.#waiting.delete(key);
  }
}
