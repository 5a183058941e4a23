// The audit trail into the log: who changed what, from where, and what was before and after. There is no way to change it.
import { randomBytes } from 'node:crypto';
import { subject, token } from '@fleetreel/proto';
import { encodeAuditRecord } from '@fleetreel/proto/custom';
import { ApiError } from '@fleetreel/proto/errors';
import type { Clock } from '#clock.ts';
import { auditJsonCharactersMax, auditWaitingMax, retryMilliseconds } from '#limits.ts';
import type { Log } from '#log/connect.ts';
import { sentence, type Telemetry } from '#telemetry.ts';

/** Who does something: an identity is one. Of a sign-in that failed, `name` is the one that was tried. */
export type Actor = { tenant: string; kind: 'user' | 'key' | 'anonymous' | 'system'; id: string; name: string };

/** What was done. Nothing secret: what is here is shown, and kept for years. */
export type Deed = {
  /** Such as `sign_in` or `user.create`. */
  action: string;
  /** What it was done to: a name. */
  target: string;
  /** As it was and as it is since, as JSON has it; undefined where there was nothing, or is nothing. */
  before?: unknown;
  after?: unknown;
  /** The address that it came from; empty where it came from none. */
  address: string;
};

const actionRule = /^[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*$/;

/** A record on its way: under its id the log takes it once, however often it is published. */
type Outgoing = {
  id: string;
  to: string;
  bytes: Uint8Array;
  what: Pick<Deed, 'action' | 'target' | 'address'> & Actor;
};

export class Audit {
  readonly #log: Log;
  readonly #collector: string;
  readonly #telemetry: Pick<Telemetry, 'audited' | 'auditWaits' | 'auditLost'>;
  readonly #clock: Clock;
  /** What the log did not take yet, by id: it was done, and is repeated until the log has it. */
  readonly #waiting = new Map<string, Outgoing>();
  readonly #closed = new AbortController();
  #repeating: Promise<void> | undefined;

  /** @param collector the name of this machine, as it is */
  constructor(
    log: Log,
    collector: string,
    telemetry: Pick<Telemetry, 'audited' | 'auditWaits' | 'auditLost'>,
    clock: Clock,
  ) {
    this.#log = log;
    this.#collector = nameOf(collector);
    this.#telemetry = telemetry;
    this.#clock = clock;
  }

  /** Called before anything is done of which there is to be a record. @throws ApiError log_unavailable where none could be kept */
  admit(): void {
    if (this.#waiting.size < auditWaitingMax) return;
    throw new ApiError('log_unavailable', { reason: `${this.#waiting.size} records of the audit trail wait for it` });
  }

  /**
   * Writes a record; resolves when the log has it. Called before what was done is answered, so that nothing is done unseen: a record
   * that the log does not take now is repeated until it does.
   * @throws ApiError log_unavailable
   */
  async record(actor: Actor, deed: Deed): Promise<void> {
    if (!actionRule.test(deed.action)) throw new RangeError(`"${deed.action}" is no action, such as user.create`);
    const random = randomBytes(8);
    random[0] = (random[0] as number) & 0x7f;
    const id = random.toString('hex');
    const { action, target, address } = deed;
    const bytes = encodeAuditRecord({
      id,
      time_us: Math.round(this.#clock.now_us()),
      actor_kind: actor.kind,
      actor_id: actor.id,
      actor_name: actor.name,
      action,
      target,
      before: json(deed.before),
      after: json(deed.after),
      address,
    });
    const { tenant, kind, id: who, name } = actor;
    const to = subject({ tenant, kind: 'audit', host: this.#collector });
    const outgoing = { id, to, bytes, what: { action, target, address, tenant, kind, id: who, name } };
    try {
      await this.#publish(outgoing);
    } catch (cause) {
      this.#keep(outgoing, sentence(cause));
      throw new ApiError('log_unavailable', { reason: sentence(cause) }, { cause });
    }
  }

  /** Tries once more what waits; what the log does not take then is told in the collector's own log. */
  async close(): Promise<void> {
    this.#closed.abort();
    await this.#repeating;
    await Promise.allSettled([...this.#waiting.values()].map((outgoing) => this.#publish(outgoing)));
    for (const { what } of this.#waiting.values()) this.#telemetry.auditLost(what);
  }

  async #publish({ id, to, bytes }: Outgoing): Promise<void> {
    await this.#log.jetstream.publish(to, bytes, { msgID: `audit-${id}` });
    this.#telemetry.audited();
    if (this.#waiting.delete(id)) this.#telemetry.auditWaits(this.#waiting.size);
  }

  #keep(outgoing: Outgoing, reason: string): void {
    if (this.#closed.signal.aborted) {
      this.#telemetry.auditLost(outgoing.what);
      return;
    }
    this.#waiting.set(outgoing.id, outgoing);
    this.#telemetry.auditWaits(this.#waiting.size, reason);
    this.#repeating ??= this.#repeat().finally(() => {
      this.#repeating = undefined;
    });
  }

  /** Publishes what waits, with growing pauses, until nothing does. */
  async #repeat(): Promise<void> {
    const { signal } = this.#closed;
    for (let pause: number = retryMilliseconds.min; ; pause = Math.min(pause * 2, retryMilliseconds.max)) {
      await this.#clock.sleep(pause, signal).catch(() => undefined);
      for (const outgoing of this.#waiting.values()) {
        if (signal.aborted) return;
        try {
          await this.#publish(outgoing);
          pause = retryMilliseconds.min;
        } catch {
          // The next time others come first: it may be the only one that the log does not take.
          this.#waiting.delete(outgoing.id);
          this.#waiting.set(outgoing.id, outgoing);
          break;
        }
      }
      if (signal.aborted || this.#waiting.size === 0) return;
    }
  }
}

/** A machine's name as a token of a subject. */
function nameOf(text: string): string {
  const name = text
    .replace(/[^A-Za-z0-9._-]/g, '-')
    .slice(0, 128)
    .replace(/^[^A-Za-z0-9]+|[^A-Za-z0-9]+$/g, '');
  return token('host', name || 'collector');
}

/** @throws RangeError for more than a change of settings can be */
function json(value: unknown): string {
  if (value === undefined) return '';
  const text = JSON.stringify(value);
  if (text.length > auditJsonCharactersMax)
    throw new RangeError(`${text.length} characters are too many for the audit trail`);
  return text;
}
