// A list that the collector gives page by page, the newest first: a page continues where the one before ended, whatever
// arrives meanwhile.
import { ApiError, isAbort, sentence } from '#lib/api.ts';

export type Page<T> = { rows: readonly T[]; before: string | null };

/** How often the newest page is asked for again while the range follows the time, milliseconds: nobody pushes these. */
const askAgain = 10_000;

export class Paged<T> {
  rows = $state.raw<readonly T[]>([]);
  /** Where the list continues; null at its end. */
  before = $state<string | null>(null);
  status = $state<'loading' | 'ready' | 'error' | 'denied'>('loading');
  failure = $state('');
  /** Whether an older page is under way. */
  busy = $state(false);

  readonly #ask: (before: string, signal: AbortSignal) => Promise<Page<T>>;
  #abort = new AbortController();
  #following = $state(false);
  #older = $state(false);

  /** @param ask for the page that continues there; for the first one where that is empty */
  constructor(ask: (before: string, signal: AbortSignal) => Promise<Page<T>>) {
    this.#ask = ask;
  }

  /** Whether newer ones would be shown, if none of the older pages were. */
  get isHeld(): boolean {
    return this.#following && this.#older;
  }

  /** Asks for the newest page; again and again if `following`; until the returned function is called. */
  start(following = false): () => void {
    const abort = new AbortController();
    this.#abort = abort;
    this.#following = following;
    void this.#load(abort.signal);
    // Who reads on in older pages is not thrown back.
    const timer = setInterval(() => {
      if (this.#following && !this.#older && document.visibilityState === 'visible') void this.#load(abort.signal);
    }, askAgain);
    return () => {
      clearInterval(timer);
      abort.abort();
    };
  }

  /** Asks for the newest page once more; older ones are left out again. */
  again(): void {
    this.#older = false;
    void this.#load(this.#abort.signal);
  }

  /** Asks for the next page, of what is older. */
  async more(): Promise<void> {
    if (this.before === null || this.busy) return;
    this.busy = true;
    this.#older = true;
    const { signal } = this.#abort;
    try {
      const { rows, before } = await this.#ask(this.before, signal);
      // It began anew meanwhile.
      if (!this.#older) return;
      this.rows = [...this.rows, ...rows];
      this.before = before;
      this.failure = '';
    } catch (error) {
      this.#fail(error, signal);
    } finally {
      this.busy = false;
    }
  }

  async #load(signal: AbortSignal): Promise<void> {
    try {
      const { rows, before } = await this.#ask('', signal);
      if (this.#older) return;
      this.rows = rows;
      this.before = before;
      this.status = 'ready';
      this.failure = '';
    } catch (error) {
      this.#fail(error, signal);
    }
  }

  #fail(error: unknown, signal: AbortSignal): void {
    if (signal.aborted || isAbort(error)) return;
    this.failure = sentence(error);
    if (error instanceof ApiError && error.status === 403) this.status = 'denied';
    else if (this.rows.length === 0) this.status = 'error';
  }
}
