/**
 * What a message in the log is; the third token of its subject. The last token is the host that it is of; of `custom` it is the key
 * that it was written with, of `audit` the collector that wrote it.
 */
export const kinds = ['frame', 'batch', 'host', 'refusal', 'dead', 'custom', 'audit'] as const;
export type Kind = (typeof kinds)[number];

/** Every subject of the product begins so: the product and the version of its contract. */
export const prefix = 'fr.v1';

/** The tenant of everything until tenants exist. */
export const defaultTenant = 'default';

/** What a host or tenant may be called: as DNS labels with dots and underscores, at most 128 characters. */
export const namePattern = '^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?$';
const name = new RegExp(namePattern);

export type Address = { tenant: string; kind: Kind; host: string };

/** The filter of a consumer of all that the log has: the only one for which the server does not look at subjects. */
export const everything = '>';

/**
 * The subject of a host's messages: `fr.v1.<tenant>.<kind>.<host>`. Dots in a host's name are written `_`.
 * @throws RangeError for a name that can't be one.
 */
export function subject({ tenant, kind, host }: Address): string {
  return `${prefix}.${token('tenant', tenant)}.${kind}.${token('host', host)}`;
}

/** The subject that matches this kind of message of all tenants and hosts. */
export const anySubject = (kind: Kind): string => `${prefix}.*.${kind}.*`;

/**
 * Who sent a message, from its subject; undefined for a subject that is not one of ours. A dot in a host's name
 * can't be told from an underscore: the subject's form is the host's name in the store and in the API.
 */
export function parseSubject(text: string): Address | undefined {
  const [product, version, tenant, kind, host, ...rest] = text.split('.');
  if (`${product}.${version}` !== prefix || !tenant || !host || rest.length > 0) return undefined;
  return kinds.includes(kind as Kind) ? { tenant, kind: kind as Kind, host } : undefined;
}

/** JetStream's message id of a frame: within the duplicate window, the same id is stored once. */
export const messageId = (session: string, sequence: number): string => `${session}-${sequence}`;

/** The key-value bucket in which machines claim the names of hosts. */
export const claimBucket = 'claims';

/** The key-value bucket in which each agent finds its settings, under the key of its host: the only one that it may read. */
export const agentsBucket = 'agents';

/** Under which subject a bucket tells what it has stored, to whoever may not make a consumer of its own. */
export const toldSubject = (bucket: string, key: string): string => `fr.told.${bucket}.${key}`;

/** What makes a bucket tell it. */
export const republishOf = (bucket: string): { src: string; dest: string } => ({
  src: `$KV.${bucket}.>`,
  dest: toldSubject(bucket, '>'),
});

/** What an agent's answers come under: a host may read only its own. */
export const inboxPrefix = (tenant: string, host: string): string => `_INBOX_agent.${hostKey(tenant, host)}`;

/** The key of a host in every bucket: `<tenant>.<host>`. */
export const hostKey = (tenant: string, host: string): string => `${token('tenant', tenant)}.${token('host', host)}`;

/** Where the holder of a name answers that it lives; outside of the log. */
export const claimSubject = (tenant: string, host: string, session: string): string =>
  `fr.claim.${hostKey(tenant, host)}.${session}`;

/** A name as one token of a subject or key: dots are written `_`. */
export function token(what: 'tenant' | 'host', text: string): string {
  if (!name.test(text))
    throw new RangeError(
      `${what} "${text}" can't be a name: use letters, digits, "-", "_" and ".", at most 128, beginning and ending with a letter or digit`,
    );
  return text.replaceAll('.', '_');
}
