// Who may do what in NATS, and the keys of an installation. An operator, whom the servers trust, has two accounts besides that of the
// system: LOG has the stream and the buckets, and AGENTS reaches of it only what a host needs. In one account that would not hold: a
// publisher names the subject that the server's answer goes to, and so any host could have one written anywhere in the account.
import {
  accountToken,
  credentialsText,
  KeyPair,
  operatorToken,
  type Permissions,
  type ScopedKey,
  scopedUserToken,
  userToken,
} from '#nats_jwt.ts';
import { agentsBucket, claimBucket, prefix, toldSubject } from '#subject.ts';

/** What a host publishes of itself into the log. */
const ownKinds = ['frame', 'batch', 'host', 'refusal'] as const;
/** Buckets with a key of each host. */
const ownBuckets = [claimBucket, agentsBucket] as const;

const direct = (bucket: string, key: string): string => `$JS.API.DIRECT.GET.KV_${bucket}.$KV.${bucket}.${key}`;

/** What of the log the account of the agents reaches at all: requests, which get one answer, and what the buckets tell. */
const requests: readonly string[] = [
  ...ownKinds.map((kind) => `${prefix}.*.${kind}.*`),
  `$KV.${claimBucket}.*.*`,
  ...ownBuckets.map((bucket) => direct(bucket, '*.*')),
];
const told: readonly string[] = ownBuckets.map((bucket) => toldSubject(bucket, '*.*'));

/** What one agent may do; `tenant` and `host` as they are in subjects. */
export function agentPermissions(tenant: string, host: string): Permissions {
  const key = `${tenant}.${host}`;
  // Another machine that asks for the name asks whoever has it, who answers it.
  const ownAlone = [`fr.claim.${key}.*`, `_INBOX_agent.${key}.>`];
  return {
    pub: {
      allow: [
        ...ownKinds.map((kind) => `${prefix}.${tenant}.${kind}.${host}`),
        `$KV.${claimBucket}.${key}`,
        ...ownBuckets.map((bucket) => direct(bucket, key)),
        ...ownAlone,
      ],
    },
    sub: { allow: [...ownBuckets.map((bucket) => toldSubject(bucket, key)), ...ownAlone] },
  };
}

/** What the server of a site may do: what its agents do, and nothing of the log comes to it that they did not ask for. */
const sitePermissions = {
  pub: { allow: [...requests, 'fr.claim.>', '_INBOX_agent.>'] },
  sub: { allow: [...told, 'fr.claim.>', '_INBOX_agent.>'] },
  allowed_connection_types: ['LEAFNODE'],
};

/** What a collector may do: its own subjects, buckets, and consumers; nothing that would remove a stream. */
export const collectorPermissions: Permissions = {
  pub: {
    allow: ['fr.>', '$KV.>', '$JS.API.>', '$JS.ACK.>', '$JS.FC.>', '_INBOX.>', '_INBOX_agent.>'],
    deny: ['STREAM.DELETE', 'STREAM.RESTORE', 'STREAM.SNAPSHOT', 'STREAM.PURGE'].map((what) => `$JS.API.${what}.>`),
  },
  sub: { allow: ['fr.>', '$KV.>', '_INBOX.>'] },
};

/** With what a collector issues and revokes credentials: a secret. */
export type Issuer = {
  /** Public key of the account of the agents. */
  agentsAccount: string;
  /** Seed of the key that signs agents, within the scope that the account gives it. */
  agentsSeed: string;
  /** Seed of the key that signs accounts: a revocation is a change of one. */
  operatorSeed: string;
  /** Credentials of a user of the system account, who may change accounts. */
  systemCredentials: string;
};

/** All that an installation needs to begin with. Everything but tokens and public keys is secret. */
export type Installation = {
  /** Seed of the operator itself; needed for nothing but other signing keys. */
  operatorSeed: string;
  operatorToken: string;
  systemAccount: string;
  logAccount: string;
  agentsAccount: string;
  /** Tokens of the accounts by their public keys. */
  accountTokens: Readonly<Record<string, string>>;
  /** Credentials files. */
  collectorCredentials: string;
  siteCredentials: string;
  /** The token of the account of the agents at a site: without the log, which is at the centre alone. */
  siteAgentsToken: string;
  issuer: Issuer;
};

/** Subscriptions of an agent at most: its inbox, its claim, and what it is told of its keys. */
const agentSubscriptionsMax = 32;

/** Makes the keys and accounts of an installation. @param now_s seconds since 1970 */
export function makeInstallation(now_s: number, payload_bytes: number): Installation {
  const [operator, operatorSigner] = [KeyPair.create('operator'), KeyPair.create('operator')];
  const [system, log, agents, agentsSigner] = [
    KeyPair.create('account'),
    KeyPair.create('account'),
    KeyPair.create('account'),
    KeyPair.create('account'),
  ];
  const issued_s = Math.floor(now_s);
  const services = requests.map((subject) => ({ name: subject, subject, type: 'service' }));
  const streams = told.map((subject) => ({ name: subject, subject, type: 'stream' }));
  const scope: ScopedKey = {
    key: agentsSigner.publicKey,
    role: 'agent',
    permissions: agentPermissions('{{tag(tenant)}}', '{{tag(host)}}'),
    subscriptions: agentSubscriptionsMax,
    payload_bytes,
  };
  const account = (pair: KeyPair, name: string, options: Partial<Parameters<typeof accountToken>[1]>) =>
    accountToken(
      { subject: pair.publicKey, name, signer: operatorSigner, issued_s },
      { jetstream: false, scopedKeys: [], ...options },
    );
  const user = (signer: KeyPair, name: string, permissions: Parameters<typeof userToken>[1]) => {
    const pair = KeyPair.create('user');
    return credentialsText(userToken({ subject: pair.publicKey, name, signer, issued_s }, permissions), pair.seed);
  };
  return {
    operatorSeed: operator.seed,
    operatorToken: operatorToken(
      { subject: operator.publicKey, name: 'fleetreel', signer: operator, issued_s },
      { systemAccount: system.publicKey, signingKeys: [operatorSigner.publicKey] },
    ),
    systemAccount: system.publicKey,
    logAccount: log.publicKey,
    agentsAccount: agents.publicKey,
    accountTokens: {
      [system.publicKey]: account(system, 'SYSTEM', {}),
      [log.publicKey]: account(log, 'LOG', { jetstream: true, exports: [...services, ...streams] }),
      [agents.publicKey]: account(agents, 'AGENTS', {
        scopedKeys: [scope],
        imports: [...services, ...streams].map((one) => ({ ...one, account: log.publicKey })),
      }),
    },
    siteCredentials: user(agents, 'site', sitePermissions),
    siteAgentsToken: account(agents, 'AGENTS', { scopedKeys: [scope] }),
    collectorCredentials: user(log, 'collector', collectorPermissions),
    issuer: {
      agentsAccount: agents.publicKey,
      agentsSeed: agentsSigner.seed,
      operatorSeed: operatorSigner.seed,
      systemCredentials: user(system, 'issuer', {
        pub: { allow: ['$SYS.REQ.CLAIMS.UPDATE', `$SYS.REQ.ACCOUNT.${agents.publicKey}.CLAIMS.LOOKUP`] },
        sub: { allow: [`${issuerInbox}.>`] },
      }),
    },
  };
}

/** What the answers to whoever changes accounts come under. */
export const issuerInbox = '_INBOX_issuer';

/** Who is to have credentials. */
export type AgentUser = {
  /** As they are in subjects. */
  tenant: string;
  host: string;
  /** The host's name. */
  name: string;
  publicKey: string;
  issued_s: number;
  expires_s: number | undefined;
};

/** The token of an agent. */
export const agentToken = (
  { agentsAccount, agentsSeed }: Pick<Issuer, 'agentsAccount' | 'agentsSeed'>,
  { tenant, host, name, publicKey, issued_s, expires_s }: AgentUser,
): string =>
  scopedUserToken(
    { subject: publicKey, name, signer: KeyPair.fromSeed(agentsSeed), issued_s, expires_s },
    agentsAccount,
    { tenant, host },
  );

/**
 * Lines for the configuration of nats-server.
 * @param folder where it keeps accounts as they are now
 */
export const serverConfiguration = (
  {
    operatorToken: operator,
    systemAccount,
    accountTokens,
  }: Pick<Installation, 'operatorToken' | 'systemAccount' | 'accountTokens'>,
  folder: string,
): string[] => [
  `operator: ${operator}`,
  `system_account: ${systemAccount}`,
  `resolver { type: full, dir: ${JSON.stringify(folder)}, allow_delete: false, interval: "2m" }`,
  // What the resolver has already and is newer stays.
  `resolver_preload { ${Object.entries(accountTokens)
    .map(([key, token]) => `${key}: ${token}`)
    .join(', ')} }`,
];

/**
 * Lines for the configuration of the nats-server of a site: agents prove there who they are, and it proves to the hub who it is.
 * @param hub where the hub takes such servers
 * @param credentials the path of the site's credentials
 */
export const siteConfiguration = (
  {
    operatorToken: operator,
    systemAccount,
    agentsAccount,
    accountTokens,
    siteAgentsToken,
  }: Pick<Installation, 'operatorToken' | 'systemAccount' | 'agentsAccount' | 'accountTokens' | 'siteAgentsToken'>,
  hub: string,
  credentials: string,
): string[] => [
  `operator: ${operator}`,
  `system_account: ${systemAccount}`,
  'resolver: MEMORY',
  `resolver_preload { ${systemAccount}: ${accountTokens[systemAccount]}, ${agentsAccount}: ${siteAgentsToken} }`,
  // Requests to JetStream go to the hub as they are.
  `default_js_domain { ${agentsAccount}: "" }`,
  'leafnodes {',
  '  reconnect: "2s"',
  `  remotes: [ { url: ${JSON.stringify(hub)}, account: ${agentsAccount}, credentials: ${JSON.stringify(credentials)} } ]`,
  '}',
];
