// How a program of ours gets into NATS: the settings under `nats`, what the client is told of them, and what a refusal means.
import { existsSync, readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { checkServerIdentity, type PeerCertificate } from 'node:tls';
import { readCredentials, type UserCredentials } from '#nats_jwt.ts';

export type NatsSettings = {
  /** One server, or several of one cluster, separated by commas. */
  url: string;
  credentials?: string;
  /** Where credentials may come while the program runs, if none are named, and for whom they have to be, as it is in subjects. */
  enrolled?: { path: string; tenant: string; host: string };
  tls?: { ca?: string; certificate?: string; key?: string };
};

/** How the client proves who it is: a token and the signature of what the server asked. */
type Proof = { jwt: string; nkey: string; sig: string };

/** What `connect` of the client is told. */
export type NatsConnectOptions = {
  servers: string[];
  authenticator?: (nonce?: string) => Proof | undefined;
  tls?: {
    caFile?: string;
    certFile?: string;
    keyFile?: string;
    checkServerIdentity: (hostname: string, certificate: PeerCertificate) => Error | undefined;
  };
};

/** How long the server's greeting is waited for when a refusal is explained, milliseconds. */
const greetingMilliseconds = 3000;
/** Characters of a greeting at most: whoever sends more is no NATS server. */
const greetingCharactersMax = 64 * 1024;

/** The way into NATS by these settings. */
export class NatsAccess {
  readonly #settings: NatsSettings;
  /** What was last shown to a server. */
  #shown: UserCredentials | undefined;
  /** Why the file could not be read for that; then what was read before is shown. */
  #unreadable: string | undefined;
  #tries = 0;

  constructor(settings: NatsSettings) {
    this.#settings = settings;
  }

  /** The client reads files at every connection, so that renewed ones need no restart. A server's certificate is always verified. */
  get options(): NatsConnectOptions {
    const path = this.#path;
    const { url, tls: { ca, certificate, key } = {} } = this.#settings;
    return {
      servers: url.split(',').map((server) => server.trim()),
      ...(path !== undefined && { authenticator: (nonce = '') => this.#prove(path, nonce) }),
      ...(this.#isEncrypted && {
        tls: {
          checkServerIdentity: (hostname: string, certificate: PeerCertificate) => isNamed(url, hostname, certificate),
          ...(ca !== undefined && { caFile: ca }),
          ...(certificate !== undefined && { certFile: certificate }),
          ...(key !== undefined && { keyFile: key }),
        },
      }),
    };
  }

  /** Whether NATS is told who this is. */
  get isKnown(): boolean {
    return this.#settings.credentials !== undefined || this.#shown !== undefined;
  }

  /** Whether there are others than were last shown: the next connection shows them. */
  get isRenewed(): boolean {
    try {
      return this.#path !== undefined && this.#read(this.#path)?.jwt !== this.#shown?.jwt;
    } catch {
      return false;
    }
  }

  get #path(): string | undefined {
    return this.#settings.credentials ?? this.#settings.enrolled?.path;
  }

  /** How often a server was told who this is since one has accepted it: each time, the next one is to wait longer. */
  get tries(): number {
    return this.#tries;
  }

  /** A server has accepted it. */
  accepted(): void {
    this.#tries = 0;
  }

  /** Whether a connection without encryption is refused by this side. */
  get #isEncrypted(): boolean {
    const { url, tls } = this.#settings;
    return /(^|,)\s*tls:\/\//.test(url) || Object.values(tls ?? {}).some((path) => path !== undefined);
  }

  /** Never throws: the client would close for good. */
  #prove(path: string, nonce: string): Proof | undefined {
    try {
      this.#shown = this.#read(path) ?? this.#shown;
      this.#unreadable = undefined;
    } catch (cause) {
      this.#unreadable = (cause as Error).message;
    }
    if (this.isKnown) this.#tries++;
    if (this.#shown === undefined) return undefined;
    const { jwt, key } = this.#shown;
    return { jwt, nkey: key.publicKey, sig: key.sign(Buffer.from(nonce)).toString('base64url') };
  }

  /** What is in the file; undefined where it has not come yet. @throws Error that says what is wrong with it */
  #read(path: string): UserCredentials | undefined {
    const { credentials, enrolled } = this.#settings;
    if (credentials !== undefined || enrolled === undefined) return readCredentialsFile(path);
    if (!existsSync(path)) return undefined;
    const read = readCredentialsFile(path);
    const { name, nats } = read.claims;
    // Under another name or tenant nothing of this program would be taken.
    if (nats.tags?.includes(`tenant:${enrolled.tenant}`) && nats.tags.includes(`host:${enrolled.host}`)) return read;
    throw new Error(`${path} has credentials of "${name}", and this program runs as another: start it again`);
  }

  /**
   * Why the server has refused, or was not reached, as one sentence without a full stop.
   * @param now_s seconds since 1970
   */
  async explain(cause: unknown, now_s: number): Promise<string> {
    const { name, message, code } = rootOf(cause);
    const { url, tls } = this.#settings;
    if (name === 'AuthorizationError' || name === 'UserAuthenticationExpiredError')
      return this.#whyRefused(message, now_s);
    const certificate = certificateErrors.get(code ?? '');
    if (certificate !== undefined)
      return `the certificate of ${url} is not trusted: ${certificate}${tls?.ca === undefined ? ' (nats.tls.ca names the authority that signed it)' : ` (nats.tls.ca is ${tls.ca})`}`;
    // Most servers say that they miss or refuse a certificate; some only close, and the client sees that nobody answers.
    const isSilent = name === 'TimeoutError' || name === 'ConnectionError' || /timeout|closed|reset/i.test(message);
    if (/\balert\b.*\b(certificate|ca|access denied)\b/.test(message) || (isSilent && (await asksForCertificate(url))))
      return tls?.certificate === undefined
        ? 'the server asks for a certificate of this program: give nats.tls.certificate and nats.tls.key'
        : `the server does not accept the certificate ${tls.certificate} (nats.tls.certificate): its authority has to be one that the server trusts, and it has to be valid now`;
    if (code?.startsWith('ERR_OSSL') || code?.startsWith('ERR_CRYPTO'))
      return `a file of nats.tls is not what it has to be, or its key belongs to another certificate: ${message}`;
    if (/not available on this server|does not support 'tls'/.test(message))
      return 'the server does not encrypt, and this program was told to (nats.tls, or tls:// in nats.url)';
    return message || String(code ?? name);
  }

  #whyRefused(message: string, now_s: number): string {
    const path = this.#path;
    if (path === undefined) return 'the server asks for credentials: give nats.credentials';
    if (this.#shown === undefined)
      return (
        this.#unreadable ??
        (this.#settings.credentials === undefined
          ? 'the server asks for credentials: fetch some (fleetreel-agent enroll), no restart is needed, or give nats.credentials'
          : `${path} was not read yet`)
      );
    const { name, exp, iat } = this.#shown.claims;
    const whose = `the credentials of "${name}" in ${path}`;
    const older = this.#unreadable === undefined ? '' : `; the file could not be read again: ${this.#unreadable}`;
    if (exp !== undefined && exp <= now_s)
      return `${whose} have expired at ${new Date(exp * 1000).toISOString()}: put new ones there, no restart is needed${older}`;
    return `${whose}, issued at ${new Date(iat * 1000).toISOString()}, are refused (${message}): they were revoked, or are of another installation: put new ones there, no restart is needed${older}`;
  }
}

/**
 * Whether a certificate is for a server of `nats.url`. The client names no server that has an address instead of a name, and Node
 * takes it for "localhost" then.
 */
function isNamed(url: string, hostname: string, certificate: PeerCertificate): Error | undefined {
  const named = url.split(',').map((server) => hostOf(server));
  const hosts = hostname === 'localhost' ? named : [hostname, ...named];
  const errors = hosts.map((host) => checkServerIdentity(host, certificate));
  return errors.includes(undefined) ? undefined : errors[0];
}

/** The name or address in a server's address. */
function hostOf(server: string): string {
  const address = server.includes('://') ? server.trim() : `nats://${server.trim()}`;
  return URL.canParse(address) ? new URL(address).hostname.replace(/^\[|\]$/g, '') : server.trim();
}

/** What a credentials file says. @throws Error whose message says what is wrong with the file */
export function readCredentialsFile(path: string): UserCredentials {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const why =
      { ENOENT: 'it does not exist', EACCES: 'this user may not read it', EISDIR: 'it is a folder' }[code ?? ''] ??
      message;
    throw new Error(`the credentials file ${path} can't be read: ${why}`, { cause });
  }
  try {
    return readCredentials(text);
  } catch (cause) {
    throw new Error(`${path} is no credentials file of NATS: ${(cause as Error).message}`, { cause });
  }
}

/** What a certificate's error of OpenSSL means. */
const certificateErrors: ReadonlyMap<string, string> = new Map([
  ['SELF_SIGNED_CERT_IN_CHAIN', 'its authority is not among the trusted ones'],
  ['DEPTH_ZERO_SELF_SIGNED_CERT', 'it is signed by itself, and not among the trusted ones'],
  ['UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'its authority is not among the trusted ones'],
  ['UNABLE_TO_GET_ISSUER_CERT', 'its authority is not among the trusted ones'],
  ['UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'its authority is not among the trusted ones'],
  ['CERT_SIGNATURE_FAILURE', 'its signature is wrong'],
  ['CERT_HAS_EXPIRED', 'it has expired'],
  ['CERT_NOT_YET_VALID', 'it is not valid yet'],
  ['ERR_TLS_CERT_ALTNAME_INVALID', 'it is for another name than the one in nats.url'],
]);

/** The first error in a chain of causes that says what it is. */
function rootOf(cause: unknown): { name: string; message: string; code: string | undefined } {
  let found = { name: '', message: String(cause), code: undefined as string | undefined };
  for (let error = cause; error instanceof Error; error = error.cause) {
    const { code } = error as NodeJS.ErrnoException;
    found = { name: error.name, message: error.message, code: typeof code === 'string' ? code : undefined };
    if (found.code !== undefined || /Authori[sz]ation|Expired/.test(error.name)) break;
  }
  return found;
}

/** Whether a NATS server says so of itself before anything is encrypted. */
function asksForCertificate(url: string): Promise<boolean> {
  const [first = ''] = url.split(',');
  const address = first.includes('://') ? first.trim() : `nats://${first.trim()}`;
  if (!URL.canParse(address)) return Promise.resolve(false);
  const { port } = new URL(address);
  return new Promise((resolve) => {
    const signal = AbortSignal.timeout(greetingMilliseconds);
    const socket = connect({ host: hostOf(first), port: Number(port || 4222), signal });
    let text = '';
    const settle = (does: boolean) => {
      socket.destroy();
      resolve(does);
    };
    socket.setEncoding('utf8');
    socket.on('error', () => settle(false));
    socket.on('close', () => settle(false));
    socket.on('data', (piece: string) => {
      text += piece;
      const line = /^INFO (.*)\r\n/.exec(text)?.[1];
      if (line !== undefined) settle(/"tls_verify":\s*true/.test(line));
      else if (text.length > greetingCharactersMax) settle(false);
    });
  });
}
