// The keys of a local Fleetreel's NATS: made at the first start, kept where only this user can read them.
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { defaultTenant, frameBytesMax, token } from '@fleetreel/proto';
import { credentialsText, KeyPair, readCredentials } from '@fleetreel/proto/nats_jwt';
import { agentToken, type Installation, makeInstallation, serverConfiguration } from '@fleetreel/proto/nats_keys';
import { LaunchError } from '#local/folder.ts';

/** Room of a message for its headers, beside what is in it, bytes. */
const headerBytes = 64 * 1024;

/** How long credentials of this machine's agent are valid, seconds: no list has them from which they could be taken back. */
const agentSeconds = 7 * 86_400;
/** How often it is looked whether they have to be renewed, milliseconds: a machine that has slept for days waits for it. */
const renewMilliseconds = 60_000;

/** What programs of one Fleetreel are told of its NATS: each setting is a file. */
export type NatsKeys = {
  /** Lines for the configuration of nats-server. */
  configuration: readonly string[];
  collector: Readonly<Record<string, string>>;
  agent: Readonly<Record<string, string>>;
};

/** New keys and accounts. */
export const newInstallation = (): Installation => makeInstallation(Date.now() / 1000, frameBytesMax + headerBytes);

/**
 * The keys in a data folder; makes them where there are none, and what an older version had in the log is taken over.
 * @param environment of this process, which may name the agent's host and tenant
 * @throws LaunchError
 */
export function natsKeys(data: string, environment: Readonly<Record<string, string | undefined>>): NatsKeys {
  const folder = join(data, 'nats-keys');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const path = join(folder, 'installation.json');
  if (!existsSync(path)) writeSecret(path, `${JSON.stringify(newInstallation(), null, 2)}\n`);
  const installation = JSON.parse(readFileSync(path, 'utf8')) as Installation;
  const [collector, issuer] = ['collector.creds', 'issuer.json'].map((name) => join(folder, name)) as [string, string];
  if (!existsSync(collector)) writeSecret(collector, installation.collectorCredentials);
  if (!existsSync(issuer)) writeSecret(issuer, `${JSON.stringify(installation.issuer, null, 2)}\n`);
  const agent = keepAgent(folder, environment);
  adoptLog(join(data, 'nats', 'jetstream'), installation.logAccount);
  return {
    configuration: serverConfiguration(installation, join(data, 'nats', 'accounts')),
    collector: { FLEETREEL_NATS_CREDENTIALS: collector, FLEETREEL_NATS_ISSUER: issuer },
    agent: { FLEETREEL_NATS_CREDENTIALS: agent },
  };
}

/**
 * Gives this machine's agent other credentials in time, until it is disposed of: it reads them when it connects.
 * @param report says something to the user, in one line
 */
export function renewAgent(
  data: string,
  environment: Readonly<Record<string, string | undefined>>,
  report: (line: string) => void,
): Disposable {
  let said = '';
  const renewing = setInterval(() => {
    try {
      keepAgent(join(data, 'nats-keys'), environment);
      said = '';
    } catch (cause) {
      const { message } = cause as Error;
      if (message !== said) report(`The agent's credentials can't be renewed: ${message}`);
      said = message;
    }
  }, renewMilliseconds);
  return { [Symbol.dispose]: () => clearInterval(renewing) };
}

/** The credentials of this machine's agent, as a file: others when half of their time is over, or it is called otherwise than before. */
function keepAgent(
  folder: string,
  { FLEETREEL_HOST, FLEETREEL_TENANT }: Readonly<Record<string, string | undefined>>,
): string {
  const path = join(folder, 'agent.creds');
  const name = FLEETREEL_HOST ?? hostname();
  let [tenant, host] = ['', ''];
  try {
    tenant = token('tenant', FLEETREEL_TENANT ?? defaultTenant);
    host = token('host', name);
  } catch (cause) {
    throw new LaunchError(
      `This machine's ${(cause as Error).message}: give it another name with the environment variable FLEETREEL_HOST.`,
      { cause },
    );
  }
  const issued_s = Math.floor(Date.now() / 1000);
  if (existsSync(path)) {
    const { claims } = readCredentials(readFileSync(path, 'utf8'));
    const tags = claims.nats.tags ?? [];
    const isOwn = claims.name === name && tags.includes(`tenant:${tenant}`) && tags.includes(`host:${host}`);
    if (isOwn && claims.exp !== undefined && claims.exp - issued_s > agentSeconds / 2) return path;
  }
  const { publicKey, seed } = KeyPair.create('user');
  const { issuer } = JSON.parse(readFileSync(join(folder, 'installation.json'), 'utf8')) as Installation;
  const expires_s = issued_s + agentSeconds;
  const jwt = agentToken(issuer, { tenant, host, name, publicKey, issued_s, expires_s });
  writeSecret(path, credentialsText(jwt, seed));
  return path;
}

/** Before there were keys, the log was in the account of whoever does not say who it is. */
function adoptLog(store: string, account: string): void {
  const [before, now] = [join(store, '$G'), join(store, account)];
  if (existsSync(before) && !existsSync(now)) renameSync(before, now);
}

/** Writes a file that only this user can read: whole, or not at all. */
export function writeSecret(path: string, text: string): void {
  writeFileSync(`${path}.new`, text, { mode: 0o600 });
  renameSync(`${path}.new`, path);
}
