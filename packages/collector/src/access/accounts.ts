// The accounts of NATS: which credentials of agents are revoked is written in theirs, and the servers end such connections at once.
import { isDeepStrictEqual } from 'node:util';
import { NatsAccess, type NatsSettings } from '@fleetreel/proto/nats_access';
import { type Claims, KeyPair, readCredentials, readToken, revokedAccountToken } from '@fleetreel/proto/nats_jwt';
import { type Issuer, issuerInbox } from '@fleetreel/proto/nats_keys';
import { connect, type NatsConnection } from '@nats-io/transport-node';
import type { Clock } from '#clock.ts';
import { accountTriesMax, answerMilliseconds } from '#limits.ts';

/** Public keys, and when each was revoked: seconds since 1970. */
export type Revocations = Readonly<Record<string, number>>;

export class Accounts {
  readonly #issuer: Issuer;
  readonly #nats: NatsSettings;
  readonly #clock: Clock;

  constructor(issuer: Issuer, nats: NatsSettings, clock: Clock) {
    this.#issuer = issuer;
    this.#nats = nats;
    this.#clock = clock;
  }

  /**
   * Has the servers refuse these keys; settled when one has said that it does.
   * @param change what is to be revoked, of what is: asked at each try
   * @throws Error when the servers can't be reached or refuse it
   */
  async revoke(change: (now: Revocations) => Promise<Revocations>): Promise<void> {
    const connection = await this.#connect();
    try {
      for (let tries = 1; ; tries++) {
        const before = await this.#account(connection);
        const { revocations = {} } = before.nats;
        const wanted = await change(revocations);
        if (isDeepStrictEqual(wanted, revocations)) return;
        // Also after it was put: a server takes what comes last, and that may be what another collector wanted before it knew of this.
        if (tries > accountTriesMax) throw new Error('others change the account of the agents all the time');
        await this.#put(connection, before, wanted);
      }
    } finally {
      await connection.close();
    }
  }

  async #put(connection: NatsConnection, before: Claims, revocations: Revocations): Promise<void> {
    const signer = KeyPair.fromSeed(this.#issuer.operatorSeed);
    // A server keeps what is newer, in whole seconds.
    const issued_s = Math.max(Math.floor(this.#clock.now_us() / 1_000_000), before.iat + 1);
    const token = revokedAccountToken(before, { signer, issued_s }, revocations);
    const answer = await connection.request('$SYS.REQ.CLAIMS.UPDATE', token, { timeout: answerMilliseconds });
    const { data, error } = answer.json<{ data?: { code: number }; error?: { description?: string } }>();
    if (data?.code !== 200) throw new Error(`NATS does not take the account: ${error?.description ?? answer.string()}`);
  }

  async #account(connection: NatsConnection): Promise<Claims> {
    const subject = `$SYS.REQ.ACCOUNT.${this.#issuer.agentsAccount}.CLAIMS.LOOKUP`;
    const answer = await connection.request(subject, undefined, { timeout: answerMilliseconds });
    return readToken(answer.string());
  }

  /** For as long as it is needed: as a user of the system account. */
  async #connect(): Promise<NatsConnection> {
    const { jwt, key } = readCredentials(this.#issuer.systemCredentials);
    const { url, tls } = this.#nats;
    return await connect({
      ...new NatsAccess({ url, ...(tls && { tls }) }).options,
      authenticator: (nonce = '') => ({
        jwt,
        nkey: key.publicKey,
        sig: key.sign(Buffer.from(nonce)).toString('base64url'),
      }),
      name: 'fleetreel-collector accounts',
      inboxPrefix: issuerInbox,
      timeout: answerMilliseconds,
      reconnect: false,
    });
  }
}
