// What a page shows of one answer of the collector: waiting, there, failed, or not for this reader.
import { ApiError, isAbort, sentence } from '#lib/api.ts';

export class Fetched<T> {
  /** The newest answer; it stays while another is waited for. */
  value = $state.raw<T | null>(null);
  /** `denied`: not for this reader, or not in this installation. */
  status = $state<'loading' | 'ready' | 'error' | 'denied'>('loading');
  failure = $state('');

  readonly #ask: (signal: AbortSignal) => Promise<T>;
  #abort: AbortController | undefined;

  constructor(ask: (signal: AbortSignal) => Promise<T>) {
    this.#ask = ask;
  }

  /** Asks (again); what was asked before is given up. */
  async load(): Promise<void> {
    this.#abort?.abort();
    const abort = new AbortController();
    this.#abort = abort;
    try {
      this.value = await this.#ask(abort.signal);
      this.status = 'ready';
      this.failure = '';
    } catch (error) {
      if (abort.signal.aborted || isAbort(error)) return;
      this.failure = sentence(error);
      this.status = error instanceof ApiError && [403, 409].includes(error.status) ? 'denied' : 'error';
    }
  }

  /** Asks, until the returned function is called. */
  start(): () => void {
    void this.load();
    return () => this.#abort?.abort();
  }
}
