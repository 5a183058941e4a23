// The keys and tokens of decentralised NATS authentication, with node:crypto: a server trusts an operator's key, the operator signs
// accounts, an account signs users. Formats: https://github.com/nats-io/nkeys and https://github.com/nats-io/jwt (version 2).
// Our own, since `@nats-io/jwt` is declared unsupported and `@nats-io/nkeys` takes 27 ms a signature; held to theirs by tests.
import { createHash, createPrivateKey, createPublicKey, type KeyObject, randomBytes, sign, verify } from 'node:crypto';

/** What a key is of. */
export type KeyKind = 'operator' | 'account' | 'user';

/** The first byte of an encoded key: its letter is `O`, `A`, `U`, or `S` for a seed. */
const prefixBytes = { operator: 14 << 3, account: 0, user: 20 << 3, seed: 18 << 3 } as const;

/** What may be published or subscribed to. */
export type Permission = { allow?: readonly string[]; deny?: readonly string[] };
export type Permissions = { pub?: Permission; sub?: Permission };

/** The claims of a token, as far as this product reads them. */
export type Claims = {
  /** The public key whose token it is. */
  sub: string;
  /** The public key that signed it. */
  iss: string;
  name: string;
  /** Seconds since 1970. */
  iat: number;
  /** Seconds since 1970; absent: valid until it is revoked. */
  exp?: number;
  nats: {
    type: string;
    version: 2;
    tags?: string[];
    issuer_account?: string;
    revocations?: Record<string, number>;
  } & Record<string, unknown>;
};

/** A key pair; its seed is the secret. */
export class KeyPair {
  readonly kind: KeyKind;
  /** As NATS writes it: `U...`, `A...`, `O...`. */
  readonly publicKey: string;
  readonly #seed: Buffer;
  readonly #private: KeyObject;

  private constructor(kind: KeyKind, seed: Buffer) {
    this.kind = kind;
    this.#seed = seed;
    this.#private = createPrivateKey({ key: Buffer.concat([pkcs8, seed]), format: 'der', type: 'pkcs8' });
    const { x = '' } = createPublicKey(this.#private).export({ format: 'jwk' });
    this.publicKey = encode([prefixBytes[kind]], Buffer.from(x, 'base64url'));
  }

  static create(kind: KeyKind): KeyPair {
    return new KeyPair(kind, randomBytes(32));
  }

  /** @throws RangeError for a text that is no seed; the error does not repeat it */
  static fromSeed(text: string): KeyPair {
    const bytes = decode(text.trim());
    const [first = 0, second = 0] = bytes ?? [];
    const kindByte = ((first & 7) << 5) | (second >> 3);
    const kind = (['operator', 'account', 'user'] as const).find((one) => prefixBytes[one] === kindByte);
    if (bytes?.length !== 34 || (first & 0xf8) !== prefixBytes.seed || kind === undefined)
      throw new RangeError('this is no seed of a NATS key');
    return new KeyPair(kind, bytes.subarray(2));
  }

  /** The secret, as NATS writes it: `SU...`, `SA...`, `SO...`. */
  get seed(): string {
    const kindByte = prefixBytes[this.kind];
    return encode([prefixBytes.seed | (kindByte >> 5), (kindByte & 31) << 3], this.#seed);
  }

  sign(bytes: Uint8Array): Buffer {
    return sign(null, bytes, this.#private);
  }
}

/** Whether a text is a public key of this kind. */
export function isPublicKey(kind: KeyKind, text: string): boolean {
  const bytes = decode(text);
  return bytes?.length === 33 && bytes[0] === prefixBytes[kind];
}

/** The DER in front of the 32 bytes of a private Ed25519 key, and of a public one. */
const pkcs8 = Buffer.from('302e020100300506032b657004220420', 'hex');
const spki = Buffer.from('302a300506032b6570032100', 'hex');

const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';

/** Base32 without padding of the prefix, the bytes and their CRC-16. */
function encode(before: readonly number[], bytes: Uint8Array): string {
  const body = Buffer.concat([Buffer.from(before), bytes]);
  const sum = crc16(body);
  return base32(Buffer.concat([body, Buffer.from([sum & 0xff, sum >> 8])]));
}

/** The bytes without their CRC-16; undefined where that is wrong or the text is no base32. */
function decode(text: string): Buffer | undefined {
  const bytes: number[] = [];
  let bits = 0;
  let value = 0;
  for (const letter of text) {
    const digit = alphabet.indexOf(letter);
    if (digit < 0) return undefined;
    value = ((value << 5) | digit) & 0xfff;
    bits += 5;
    if (bits < 8) continue;
    bits -= 8;
    bytes.push((value >> bits) & 0xff);
  }
  // What is over is less than a letter, and nothing.
  if (bytes.length < 3 || bits > 4 || (value & ((1 << bits) - 1)) !== 0) return undefined;
  const body = Buffer.from(bytes.slice(0, -2));
  const [low = 0, high = 0] = bytes.slice(-2);
  return crc16(body) === ((high << 8) | low) ? body : undefined;
}

function base32(bytes: Uint8Array): string {
  let text = '';
  let bits = 0;
  let value = 0;
  for (const byte of bytes) {
    value = ((value << 8) | byte) & 0xfff;
    bits += 8;
    for (; bits >= 5; bits -= 5) text += alphabet[(value >> (bits - 5)) & 31];
  }
  return bits > 0 ? text + alphabet[(value << (5 - bits)) & 31] : text;
}

/** CRC-16/XMODEM, which guards the text form of a key against slips of the pen. */
function crc16(bytes: Uint8Array): number {
  let crc = 0;
  for (const byte of bytes) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? ((crc << 1) ^ 0x1021) & 0xffff : (crc << 1) & 0xffff;
  }
  return crc;
}

const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');

/** What every token says besides its claims of NATS. */
export type TokenOptions = {
  /** Whose token: a public key. */
  subject: string;
  name: string;
  signer: KeyPair;
  /** When it is issued, seconds since 1970. */
  issued_s: number;
  /** Until when it is valid, seconds since 1970; absent: until it is revoked. */
  expires_s?: number | undefined;
};

function token({ subject, name, signer, issued_s, expires_s }: TokenOptions, nats: Record<string, unknown>): string {
  const claims = {
    iat: issued_s,
    ...(expires_s !== undefined && { exp: expires_s }),
    iss: signer.publicKey,
    name,
    sub: subject,
    nats,
  };
  const jti = base32(createHash('sha512-256').update(JSON.stringify(claims)).digest());
  const signed = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part({ jti, ...claims })}`;
  return `${signed}.${signer.sign(Buffer.from(signed)).toString('base64url')}`;
}

/** What the server trusts: an operator, signed by itself. */
export const operatorToken = (
  options: TokenOptions,
  { systemAccount, signingKeys }: { systemAccount: string; signingKeys: readonly string[] },
): string => token(options, { type: 'operator', version: 2, system_account: systemAccount, signing_keys: signingKeys });

/** A key that may sign users of an account, with what each of them may do; `{{tag(x)}}` stands for the user's tag. */
export type ScopedKey = {
  key: string;
  role: string;
  permissions: Permissions;
  subscriptions: number;
  payload_bytes: number;
};

export type AccountOptions = {
  /** Whether it has JetStream. */
  jetstream: boolean;
  /** Keys that sign users within a scope; others can't sign any but the account's own. */
  scopedKeys: readonly ScopedKey[];
  /** Public keys of users whose tokens are refused when they were issued until then, seconds since 1970. */
  revocations?: Readonly<Record<string, number>>;
  exports?: readonly Readonly<Record<string, unknown>>[];
  imports?: readonly Readonly<Record<string, unknown>>[];
};

export const accountToken = (options: TokenOptions, account: AccountOptions): string => {
  const any = { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
  return token(options, {
    type: 'account',
    version: 2,
    limits: account.jetstream ? { ...any, mem_storage: -1, disk_storage: -1, streams: -1, consumer: -1 } : any,
    signing_keys: account.scopedKeys.map(({ key, role, permissions, subscriptions, payload_bytes }) => ({
      kind: 'user_scope',
      key,
      role,
      description: '',
      template: {
        ...permissions,
        subs: subscriptions,
        data: -1,
        payload: payload_bytes,
        allowed_connection_types: ['STANDARD'],
      },
    })),
    ...(account.revocations && { revocations: account.revocations }),
    ...(account.exports && { exports: account.exports }),
    ...(account.imports && { imports: account.imports }),
    default_permissions: {},
  });
};

/** The same account with other revocations, and everything else as it was. */
export const revokedAccountToken = (
  before: Claims,
  options: Pick<TokenOptions, 'signer' | 'issued_s'>,
  revocations: Readonly<Record<string, number>>,
): string => token({ subject: before.sub, name: before.name, ...options }, { ...before.nats, revocations });

/** A user of an account, signed by a scoped key: what it may do is in the account. */
export const scopedUserToken = (
  options: TokenOptions,
  account: string,
  tags: Readonly<Record<string, string>>,
): string =>
  token(options, {
    type: 'user',
    version: 2,
    issuer_account: account,
    tags: Object.entries(tags).map(([name, value]) => `${name}:${value}`),
  });

/** A user of an account, signed by the account itself, with what it may do, and by which connections; all when that is not said. */
export const userToken = (
  options: TokenOptions,
  permissions: Permissions & { allowed_connection_types?: readonly string[] } = {},
): string => token(options, { type: 'user', version: 2, ...permissions, subs: -1, data: -1, payload: -1 });

/**
 * The claims of a token whose signature is right. Whether its signer is one to trust is the server's to say.
 * @throws RangeError for a text that is no such token; the error does not repeat it
 */
export function readToken(text: string): Claims {
  const [header = '', body = '', signature = '', ...rest] = text.trim().split('.');
  let claims: Claims;
  try {
    claims = JSON.parse(Buffer.from(body, 'base64url').toString());
    const issuer = decode(claims.iss);
    const key =
      issuer && createPublicKey({ key: Buffer.concat([spki, issuer.subarray(1)]), format: 'der', type: 'spki' });
    const isRight =
      key &&
      rest.length === 0 &&
      verify(null, Buffer.from(`${header}.${body}`), key, Buffer.from(signature, 'base64url'));
    if (!isRight || claims.nats.version !== 2) throw new RangeError('the signature is wrong');
  } catch (cause) {
    throw new RangeError('this is no token of NATS, or it was changed', { cause });
  }
  return claims;
}

/** A credentials file: a user's token and the seed of its key. */
export const credentialsText = (jwt: string, seed: string): string =>
  [
    '-----BEGIN NATS USER JWT-----',
    jwt,
    '------END NATS USER JWT------',
    '',
    '************************* IMPORTANT *************************',
    'The seed below is a secret: whoever has it is this user of NATS.',
    '',
    '-----BEGIN USER NKEY SEED-----',
    seed,
    '------END USER NKEY SEED------',
    '',
    '*************************************************************',
    '',
  ].join('\n');

/** Who a credentials file is for. */
export type UserCredentials = { jwt: string; key: KeyPair; claims: Claims };

/** @throws RangeError for a text that is no credentials file; the error does not repeat it */
export function readCredentials(text: string): UserCredentials {
  const [jwt = '', seed = ''] = [...text.matchAll(/-{3,}[^\n]*-{3,}\r?\n([\w.=-]+)\r?\n-{3,}[^\n]*-{3,}/g)].map(
    ([, content = '']) => content,
  );
  if (seed === '') throw new RangeError('it has no token and seed');
  const claims = readToken(jwt);
  const key = KeyPair.fromSeed(seed);
  if (key.publicKey !== claims.sub) throw new RangeError('its seed is not that of its token');
  return { jwt, key, claims };
}
