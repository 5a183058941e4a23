// Tells the application of trouble: one kind at once, and what comes of it within the next minute together afterwards.
import { tellKindsMax, tellMilliseconds } from '#limits.ts';
import { later, type Timer } from '#timer.ts';

type Trouble = {
  /** What has come since it was told of last. */
  count: number;
  tell: ((count: number) => unknown) | undefined;
  timer: Timer;
};

export class Teller {
  readonly #troubles = new Map<string, Trouble>();

  /**
   * @param kind what is told of together
   * @param count how many it concerns
   * @param tell is called with how many there are since the last time: now, or when the minute is over
   */
  add(kind: string, count: number, tell: (count: number) => unknown): void {
    const known = this.#troubles.get(kind) ?? this.#troubles.get('other');
    if (known !== undefined) {
      known.count += count;
      known.tell = tell;
      return;
    }
    const name = this.#troubles.size < tellKindsMax ? kind : 'other';
    this.#troubles.set(name, { count: 0, tell: undefined, timer: this.#watch(name) });
    call(tell, count);
  }

  /** Tells what is left to tell: the application ends. */
  close(): void {
    const troubles = [...this.#troubles.values()];
    this.#troubles.clear();
    for (const { count, tell, timer } of troubles) {
      clearTimeout(timer);
      if (tell !== undefined) call(tell, count);
    }
  }

  #watch(name: string): Timer {
    return later(tellMilliseconds, () => {
      const trouble = this.#troubles.get(name);
      this.#troubles.delete(name);
      if (trouble?.tell === undefined) return;
      this.#troubles.set(name, { count: 0, tell: undefined, timer: this.#watch(name) });
      call(trouble.tell, trouble.count);
    });
  }
}

/** What the application does with what it is told must not end it, nor stop the sending. */
function call(tell: (count: number) => unknown, count: number): void {
  const failed = (error: unknown) => console.error('fleetreel: onError or onDrop failed:', error);
  try {
    // One that is async fails later, and a rejection that nobody handles ends Node.
    Promise.resolve(tell(count)).catch(failed);
  } catch (error) {
    failed(error);
  }
}
