// The audit trail into the log: who changed what, from where, and what was before and after. There is no way to change it.
import { randomBytes } from 'node:crypto';
import { subject, token } from '@fleetreel/proto';
import { encodeAuditRecord } from '@fleetreel/proto/custom';
import { ApiError } from '@fleetreel/proto/errors';
import type { Clock } from '#clock.ts';
import { auditJsonCharactersMax } from '#limits.ts';
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

export class Audit {
  readonly #log: Log;
  readonly #collector: string;
  readonly #telemetry: Pick<Telemetry, 'audited'>;
  readonly #clock: Clock;

  /** @param collector the name of this machine, as it is */
  constructor(log: Log, collector: string, telemetry: Pick<Telemetry, 'audited'>, clock: Clock) {
    this.#log = log;
    this.#collector = nameOf(collector);
    this.#telemetry = telemetry;
    this.#clock = clock;
  }

  /**
   * Writes a record; resolves when the log has it. Called before what was done is answered, so that nothing is done unseen.
   * @throws ApiError log_unavailable
   */
  async record(actor: Actor, deed: Deed): Promise<void> {
    if (!actionRule.test(deed.action)) throw new RangeError(`"${deed.action}" is no action, such as user.create`);
    const random = randomBytes(8);
    random[0] = (random[0] as number) & 0x7f;
    const id = random.toString('hex');
    const bytes = encodeAuditRecord({
      id,
      time_us: Math.round(this.#clock.now_us()),
      actor_kind: actor.kind,
      actor_id: actor.id,
      actor_name: actor.name,
      action: deed.action,
      target: deed.target,
      before: json(deed.before),
      after: json(deed.after),
      address: deed.address,
    });
    const to = subject({ tenant: actor.tenant, kind: 'audit', host: this.#collector });
    try {
      await this.#log.jetstream.publish(to, bytes, { msgID: `audit-${id}` });
    } catch (cause) {
      throw new ApiError('log_unavailable', { reason: sentence(cause) }, { cause });
    }
    this.#telemetry.audited();
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
