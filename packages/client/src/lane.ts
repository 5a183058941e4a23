// The way of one kind of entries to the collector: a bounded queue, and one request at a time until it is settled.
import { ConnectionError, FleetreelError, InvalidEntryError, RequestError } from '#errors.ts';
import { closingRetryMilliseconds, internalErrorsMax, refusedLinesMax, retryMilliseconds } from '#limits.ts';
import { type Line, Queue, utf8Bytes } from '#queue.ts';
import { later, type Timer } from '#timer.ts';
import type { Transport } from '#transport.ts';

export type Kind = 'measure' | 'event';

/**
 * Why an entry will not be stored: it can't be (`invalid`), the queue was full (`full`, the oldest go first), the collector
 * refused it (`rejected`), or the client ended before it was acknowledged (`closed`).
 */
export type DropReason = 'invalid' | 'full' | 'rejected' | 'closed';

/** Counts since the client was made. `given` is the sum of `waiting`, `acknowledged` and what was dropped. */
export type KindStats = {
  given: number;
  /** In memory, a request that is under way included. */
  waiting: number;
  waitingBytes: number;
  /** Taken by the log: they will not be lost. */
  acknowledged: number;
  dropped: Record<DropReason, number>;
  /** Requests that were made once more, or will be. */
  retries: number;
};

export type Bounds = {
  batchCount: number;
  batchBytes: number;
  flushMilliseconds: number;
  queueCount: number;
  queueBytes: number;
};

export type Report = {
  drop(kind: Kind, reason: DropReason, count: number, error?: FleetreelError): void;
  /** What is tried again. */
  trouble(error: FleetreelError): void;
};

type Batch = {
  /** The same for each attempt: the collector knows by it what it has taken already. */
  id: string;
  /** How many entered the queue before its oldest line. */
  place: number;
  lines: Line[];
  bytes: number;
  /** How often the collector failed at it. */
  internalErrors: number;
  /** Lines that were taken out because the collector refused them. */
  refused: number;
  /** Given up, to make room. */
  isDropped: boolean;
};

/** It waits until all that entered before that place is settled. */
type Waiter = { place: number; done: () => void };

export class Lane {
  readonly #kind: Kind;
  readonly #transport: Transport;
  readonly #bounds: Bounds;
  readonly #report: Report;
  readonly #queue = new Queue();
  /** How many of the queue are sent without waiting for more. */
  #due = 0;
  #timer: Timer | undefined;
  #isRunning = false;
  /** The batch that is being delivered, and whether its request is under way; it waits to be tried again otherwise. */
  #current: Batch | undefined;
  #isUnderWay = false;
  /** Batches that were sent while the page was being left, beside the current one. */
  readonly #beside = new Set<Batch>();
  /** Those of them that failed. */
  readonly #again: Batch[] = [];
  /** The pause before the next attempt: what ends it, and why it is. */
  #rest: { end: () => void; error: FleetreelError | undefined } | undefined;
  #failures = 0;
  #isClosed = false;
  /** Those that are under way. One signal for all of them would keep what hangs on it in some versions of Node. */
  readonly #requests = new Set<AbortController>();
  readonly #session = randomHex();
  #batches = 0;
  #given = 0;
  /** Those of the given that came into the queue. */
  #entered = 0;
  #acknowledged = 0;
  #retries = 0;
  readonly #dropped: Record<DropReason, number> = { invalid: 0, full: 0, rejected: 0, closed: 0 };
  /** In the order of their places. */
  readonly #waiters = new Set<Waiter>();

  constructor(kind: Kind, transport: Transport, bounds: Bounds, report: Report) {
    this.#kind = kind;
    this.#transport = transport;
    this.#bounds = bounds;
    this.#report = report;
  }

  /** Takes an entry, a line of NDJSON. */
  put(text: string): void {
    const bytes = utf8Bytes(text) + 1;
    const { batchBytes } = this.#bounds;
    if (bytes > batchBytes) {
      this.refuse(
        new InvalidEntryError(`An entry of ${bytes} bytes is larger than a request; ${batchBytes} is the most.`),
      );
      return;
    }
    this.#given++;
    if (this.#isClosed) {
      this.#drop('closed', 1);
      return;
    }
    this.#queue.push({ text, bytes });
    this.#entered++;
    this.#makeRoom();
    if (this.#isDue) this.#wake();
    else this.#arm();
  }

  /** Counts an entry that can't be. */
  refuse(error: FleetreelError): void {
    this.#given++;
    this.#drop('invalid', 1, error);
  }

  get stats(): KindStats {
    return {
      given: this.#given,
      waiting: this.#waiting,
      waitingBytes: this.#waitingBytes,
      acknowledged: this.#acknowledged,
      dropped: { ...this.#dropped },
      retries: this.#retries,
    };
  }

  /** Sends what there is without waiting for more. Resolves with whether all of it was settled within the time. */
  flush(milliseconds: number): Promise<boolean> {
    this.#due = this.#queue.count;
    if (this.#rest !== undefined && this.#askedPause(this.#rest.error) === undefined) this.#rest.end();
    this.#wake();
    const place = this.#entered;
    if (this.#settledPlace >= place) return Promise.resolve(true);
    return new Promise((resolve) => {
      const end = (isSettled: boolean) => {
        clearTimeout(timer);
        this.#waiters.delete(waiter);
        resolve(isSettled);
      };
      const waiter = { place, done: () => end(true) };
      this.#waiters.add(waiter);
      // It keeps the process alive: somebody waits.
      const timer = setTimeout(() => end(false), milliseconds);
    });
  }

  /** Takes nothing from now on. The pauses between attempts are short: little time is left. */
  close(): void {
    this.#isClosed = true;
  }

  /** Gives up what is not acknowledged yet. */
  abandon(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const batches = [this.#current, ...this.#beside, ...this.#again].filter((batch) => batch !== undefined);
    const count = this.#waiting;
    for (const batch of batches) batch.isDropped = true;
    this.#current = undefined;
    this.#beside.clear();
    this.#again.length = 0;
    this.#queue.take(Infinity, Infinity);
    this.#due = 0;
    for (const request of this.#requests) request.abort();
    this.#rest?.end();
    if (count > 0) this.#drop('closed', count);
  }

  /**
   * The page may be gone after this call: sends at once what the browser will go on with.
   * @param bytes that may be sent so
   * @returns bytes that were not used
   */
  leave(bytes: number): number {
    let left = bytes;
    const current = this.#current;
    if (current !== undefined && current.bytes <= left) {
      left -= current.bytes;
      // Its own request ends with the page. Both have one id: if the page stays, the second is told that it was taken.
      void this.#post(current, true);
    }
    for (const batch of this.#again.splice(0)) {
      if (batch.bytes > left) {
        this.#again.push(batch);
        continue;
      }
      left -= batch.bytes;
      void this.#deliverBeside(batch);
    }
    while (left > 0) {
      const batch = this.#seal(left);
      if (batch === undefined) break;
      left -= batch.bytes;
      void this.#deliverBeside(batch);
    }
    return left;
  }

  get #waiting(): number {
    return this.#queue.count + this.#sum(({ lines }) => lines.length);
  }

  get #waitingBytes(): number {
    return this.#queue.bytes + this.#sum(({ bytes }) => bytes);
  }

  /** All that entered before it is settled: some is dropped sooner than what is older, so counts do not tell. */
  get #settledPlace(): number {
    let place = Math.min(this.#queuePlace, this.#current?.place ?? Infinity);
    for (const batch of this.#beside) place = Math.min(place, batch.place);
    for (const batch of this.#again) place = Math.min(place, batch.place);
    return place;
  }

  /** How many entered before the oldest of the queue. */
  get #queuePlace(): number {
    return this.#entered - this.#queue.count;
  }

  get #isDue(): boolean {
    const { batchCount, batchBytes } = this.#bounds;
    return this.#due > 0 || this.#queue.count >= batchCount || this.#queue.bytes >= batchBytes;
  }

  /** Over all batches. */
  #sum(of: (batch: Batch) => number): number {
    let sum = this.#current === undefined ? 0 : of(this.#current);
    for (const batch of this.#beside) sum += of(batch);
    for (const batch of this.#again) sum += of(batch);
    return sum;
  }

  /** The oldest go first: a batch that waits to be tried again, then the queue's. A request that is under way stays. */
  #makeRoom(): void {
    const { queueCount, queueBytes } = this.#bounds;
    while (this.#waiting > queueCount || this.#waitingBytes > queueBytes) {
      const batch = this.#isUnderWay ? this.#again.shift() : (this.#current ?? this.#again.shift());
      if (batch !== undefined) {
        batch.isDropped = true;
        if (batch === this.#current) this.#current = undefined;
        this.#drop('full', batch.lines.length);
        continue;
      }
      if (this.#queue.shift() === undefined) return;
      this.#due = Math.max(0, this.#due - 1);
      this.#drop('full', 1);
    }
  }

  #drop(reason: DropReason, count: number, error?: FleetreelError): void {
    this.#dropped[reason] += count;
    this.#report.drop(this.#kind, reason, count, error);
    this.#tellWaiters();
  }

  #tellWaiters(): void {
    if (this.#waiters.size === 0) return;
    const settled = this.#settledPlace;
    for (const waiter of this.#waiters) {
      if (settled < waiter.place) return;
      waiter.done();
    }
  }

  #arm(): void {
    if (this.#timer !== undefined || this.#queue.count === 0) return;
    this.#timer = later(this.#bounds.flushMilliseconds, () => {
      this.#timer = undefined;
      this.#due = this.#queue.count;
      this.#wake();
    });
  }

  #wake(): void {
    if (this.#isRunning) return;
    this.#isRunning = true;
    this.#run().catch((error: unknown) => {
      this.#isRunning = false;
      this.#report.trouble(new FleetreelError('internal', `The client failed: ${String(error)}`));
    });
  }

  async #run(): Promise<void> {
    for (;;) {
      const batch = this.#again.shift() ?? (this.#isDue ? this.#seal(this.#bounds.batchBytes) : undefined);
      if (batch === undefined) break;
      this.#current = batch;
      await this.#deliver(batch);
    }
    this.#isRunning = false;
    this.#arm();
  }

  /** The oldest of the queue as one request. */
  #seal(bytesMax: number): Batch | undefined {
    const { batchCount, batchBytes } = this.#bounds;
    const place = this.#queuePlace;
    const lines = this.#queue.take(batchCount, Math.min(bytesMax, batchBytes));
    if (lines.length === 0) return undefined;
    this.#due = Math.max(0, this.#due - lines.length);
    return {
      id: this.#newId(),
      place,
      lines,
      bytes: lines.reduce((sum, { bytes }) => sum + bytes, 0),
      internalErrors: 0,
      refused: 0,
      isDropped: false,
    };
  }

  #newId(): string {
    return `${this.#session}-${++this.#batches}`;
  }

  /** Tries until the batch is taken, refused or given up. */
  async #deliver(batch: Batch): Promise<void> {
    while (!batch.isDropped) {
      this.#isUnderWay = true;
      const error = await this.#post(batch);
      this.#isUnderWay = false;
      if (this.#settle(batch, error)) return;
      if (this.#withoutRefused(batch, error)) continue;
      if (error !== undefined) this.#report.trouble(error);
      this.#failures++;
      this.#retries++;
      await this.#pause(error);
    }
  }

  /** One attempt beside the current batch. What fails takes its place in the row again. */
  async #deliverBeside(batch: Batch): Promise<void> {
    this.#beside.add(batch);
    const error = await this.#post(batch, true);
    if (this.#settle(batch, error)) return;
    if (!this.#withoutRefused(batch, error)) this.#retries++;
    this.#beside.delete(batch);
    this.#again.push(batch);
    this.#wake();
  }

  /** Whether nothing more is done about a batch: it was taken, refused, or given up meanwhile. */
  #settle(batch: Batch, error: FleetreelError | undefined): boolean {
    if (batch.isDropped) return true;
    if (error !== undefined && (refusedLine(batch, error) !== undefined || !isFinal(batch, error))) return false;
    this.#failures = 0;
    if (this.#current === batch) this.#current = undefined;
    this.#beside.delete(batch);
    if (error === undefined) {
      this.#acknowledged += batch.lines.length;
      this.#tellWaiters();
    } else this.#drop('rejected', batch.lines.length, error);
    return true;
  }

  /** Takes out the line that was refused, for which nothing of the others was stored. */
  #withoutRefused(batch: Batch, error: FleetreelError | undefined): boolean {
    const index = error && refusedLine(batch, error);
    if (index === undefined) return false;
    const [line] = batch.lines.splice(index, 1);
    batch.bytes -= line?.bytes ?? 0;
    batch.refused++;
    // Another batch than the one that was refused.
    batch.id = this.#newId();
    this.#drop('rejected', 1, error);
    return true;
  }

  /** @returns nothing when the collector has taken the batch */
  async #post(batch: Batch, keepalive = false): Promise<FleetreelError | undefined> {
    const request = new AbortController();
    const timer = later(this.#transport.milliseconds, () => request.abort(new DOMException('', 'TimeoutError')));
    this.#requests.add(request);
    try {
      const answer = await this.#transport.request(`/api/v1/${this.#kind}`, {
        method: 'POST',
        headers: { 'content-type': 'application/x-ndjson', 'idempotency-key': batch.id },
        body: `${batch.lines.map(({ text }) => text).join('\n')}\n`,
        signal: request.signal,
        keepalive,
      });
      // A proxy, or a server of pages at a wrong address, may say yes to anything.
      await this.#transport.json(answer, 'accepted');
      return undefined;
    } catch (error) {
      return error instanceof FleetreelError ? error : new ConnectionError(String(error));
    } finally {
      clearTimeout(timer);
      this.#requests.delete(request);
    }
  }

  /** How long the collector wants to be left alone. While closing, one that is only away for now is asked sooner. */
  #askedPause(error: FleetreelError | undefined): number | undefined {
    if (!(error instanceof RequestError) || (this.#isClosed && error.status !== 429)) return undefined;
    return error.retryAfterMilliseconds;
  }

  async #pause(error: FleetreelError | undefined): Promise<void> {
    const { min, max } = retryMilliseconds;
    const longest = this.#isClosed ? closingRetryMilliseconds : max;
    const doubled = Math.min(longest, min * 2 ** Math.min(this.#failures - 1, 20));
    const milliseconds = this.#askedPause(error) ?? doubled * (0.5 + Math.random() / 2);
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        this.#rest = undefined;
        resolve();
      };
      const timer = later(milliseconds, end);
      this.#rest = { end, error };
    });
  }
}

/** Whether another attempt would end the same. */
function isFinal(batch: Batch, error: FleetreelError): boolean {
  if (!(error instanceof RequestError)) return false;
  const { status, code } = error;
  // It does not pass with time as long as the application goes on with new names, and what comes after must not wait for it.
  if (code === 'too_many_custom_names') return true;
  if (status === 500) return ++batch.internalErrors >= internalErrorsMax;
  return status < 500 && status !== 408 && status !== 429;
}

/** Which line of a batch is at fault, where the others are worth another try without it. */
function refusedLine({ lines, refused }: Batch, error: FleetreelError): number | undefined {
  if (!(error instanceof RequestError) || refused >= refusedLinesMax || lines.length < 2) return undefined;
  const { index } = error;
  return index !== undefined && index < lines.length ? index : undefined;
}

/** 128 bits. `crypto.randomUUID` is not there in a page that was fetched over plain http. */
function randomHex(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
