// Passwords: argon2id, as few at once as the machine bears.
import { argon2, randomBytes, timingSafeEqual } from 'node:crypto';
import { promisify } from 'node:util';
import { ApiError } from '@fleetreel/proto/errors';
import { passwordsAtOnceMax, passwordsWaitingFromMax, passwordsWaitingMax } from '#limits.ts';

/** The parameters that OWASP recommends first: 19 MiB, two passes, one lane. They are part of what is kept. */
const cost = { memory: 19_456, passes: 2, parallelism: 1 } as const;
const digestBytes = 32;

const derive = promisify(argon2);

type Waiting = { run: () => void; refuse: (error: ApiError) => void; from: string; tries: number };

/**
 * Hashes and checks passwords. One takes a core for tens of milliseconds and 19 MiB: whoever asks for many must not slow the rest down.
 * Those who are known to be right, as far as can be told, come before the others. Of those, who has tried less comes first, and takes
 * the place of who has tried more where there is none: an attack from many networks has tried from most of them.
 */
export class Passwords {
  readonly #known: Waiting[] = [];
  /** Who has tried least first. */
  readonly #others: Waiting[] = [];
  #running = 0;

  /** @param from where it is asked from @param tries from there of late, 0 where one was right before */
  async hash(password: string, from: string, tries: number): Promise<string> {
    const nonce = randomBytes(16);
    const tag = await this.#derived(password, nonce, cost, from, tries);
    const { memory, passes, parallelism } = cost;
    return `$argon2id$v=19$m=${memory},t=${passes},p=${parallelism}$${plain(nonce)}$${plain(tag)}`;
  }

  /**
   * Whether the password is the one that was kept; of null none is, in the same time.
   * @throws ApiError too_many_sign_ins where too many wait
   */
  async isRight(password: string, kept: string | null, from: string, tries: number): Promise<boolean> {
    const [, memory, passes, parallelism, nonce = '', tag = ''] =
      /^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([\w+/]+)\$([\w+/]+)$/.exec(kept ?? nobody) ?? [];
    const parameters = { memory: Number(memory), passes: Number(passes), parallelism: Number(parallelism) };
    const found = await this.#derived(password, Buffer.from(nonce, 'base64'), parameters, from, tries);
    const wanted = Buffer.from(tag, 'base64');
    return found.length === wanted.length && timingSafeEqual(found, wanted) && kept !== null;
  }

  async #derived(
    password: string,
    nonce: Buffer,
    parameters: { memory: number; passes: number; parallelism: number },
    from: string,
    tries: number,
  ): Promise<Buffer> {
    await this.#turn(from, tries);
    try {
      // The same text in other code points is the same password (RFC 8265).
      const message = password.normalize('NFC');
      return (await derive('argon2id', { message, nonce, tagLength: digestBytes, ...parameters })) as Buffer;
    } finally {
      // Its place is handed on, so that nobody slips in between.
      const next = this.#known.shift() ?? this.#others.shift();
      if (next === undefined) this.#running--;
      else next.run();
    }
  }

  async #turn(from: string, tries: number): Promise<void> {
    if (this.#running < passwordsAtOnceMax) {
      this.#running++;
      return;
    }
    const queue = tries === 0 ? this.#known : this.#others;
    const tooMany = new ApiError('too_many_sign_ins', { retryAfter: 2 });
    if (queue.filter((each) => each.from === from).length >= passwordsWaitingFromMax) throw tooMany;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const after = queue.findIndex((each) => each.tries > tries);
    if (after < 0 && queue.length >= passwordsWaitingMax) throw tooMany;
    queue.splice(after < 0 ? queue.length : after, 0, { run: resolve, refuse: reject, from, tries });
    if (queue.length > passwordsWaitingMax) queue.pop()?.refuse(tooMany);
    await promise;
  }
}

const plain = (bytes: Buffer): string => bytes.toString('base64').replaceAll('=', '');

/** What the password of nobody is compared with, so that the time does not tell who there is. */
const nobody = `$argon2id$v=19$m=${cost.memory},t=${cost.passes},p=${cost.parallelism}$${plain(Buffer.alloc(16))}$${plain(Buffer.alloc(digestBytes))}`;
