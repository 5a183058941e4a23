// Who looks at the console, and what they may do.
import { type Api, isAbort, type Me, sentence } from '#lib/api.ts';

/** Pause before what failed is tried again, milliseconds. */
const retryAfter = 5_000;

export class Session {
  me = $state.raw<Me | null>(null);
  /** `unknown` until the collector was asked, `out` when nobody is signed in and somebody has to be. */
  status = $state<'unknown' | 'in' | 'out'>('unknown');
  failure = $state('');
  /** Whether they went of their own will: then there is nothing to come back to. */
  left = $state(false);

  /** Whether what changes something is shown. The collector decides by itself; this only hides what it would refuse. */
  readonly admin = $derived(this.me?.scopes.includes('admin') ?? false);
  /** Somebody with a name and a password, not whoever comes by. */
  readonly user = $derived(this.me?.kind === 'user');

  readonly #api: Api;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Asks who is signed in, until there is an answer. */
  async load(): Promise<void> {
    clearTimeout(this.#timer);
    try {
      this.me = await this.#api.me();
      this.status = 'in';
      this.left = false;
      this.failure = '';
    } catch (error) {
      // That nobody is signed in came by `end` already.
      if (isAbort(error) || this.status !== 'unknown') return;
      this.failure = sentence(error);
      this.#timer = setTimeout(() => void this.load(), retryAfter);
    }
  }

  /** Nobody is signed in (any more). */
  end(): void {
    clearTimeout(this.#timer);
    this.me = null;
    this.status = 'out';
    this.failure = '';
  }

  async signOut(): Promise<void> {
    await this.#api.logout();
    this.left = true;
    this.end();
  }
}
