// A nats-server that asks everybody who they are, and credentials for it.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { token } from '@fleetreel/proto';
import { credentialsText, KeyPair } from '@fleetreel/proto/nats_jwt';
import { agentToken, type Installation, makeInstallation, serverConfiguration } from '@fleetreel/proto/nats_keys';
import { secretsIn, watch } from '../secrets.ts';
import { type NatsServer, startNats } from './nats.ts';

/** What an agent is enrolled as. */
type Enrolled = { tenant?: string; host: string; expires_s?: number };

export class NatsInstallation implements AsyncDisposable {
  readonly keys: Installation = makeInstallation(Date.now() / 1000, 1024 ** 2);
  readonly folder = mkdtempSync(join(tmpdir(), 'fleetreel-keys-'));
  server!: NatsServer;

  /** @param configuration more lines for the server, such as those of TLS @param options more of the server */
  static async start(
    configuration: readonly string[] = [],
    options: { domain?: string } = {},
  ): Promise<NatsInstallation> {
    const made = new NatsInstallation();
    for (const text of [made.keys.collectorCredentials, made.keys.siteCredentials]) watch.learn(text);
    watch.add(...secretsIn(JSON.stringify(made.keys)));
    const lines = [...serverConfiguration(made.keys, join(made.folder, 'accounts')), ...configuration];
    made.server = await startNats({ ...options, configuration: lines });
    return made;
  }

  /** A file of the installation's folder. */
  write(name: string, text: string): string {
    const path = join(this.folder, name);
    writeFileSync(path, text, { mode: 0o600 });
    return path;
  }

  get collector(): { url: string; credentials: string } {
    return { url: this.server.url, credentials: this.write('collector.creds', this.keys.collectorCredentials) };
  }

  /** Credentials of an agent, as an enrolment makes them. */
  credentialsOf({ tenant = 'default', host, expires_s }: Enrolled): { text: string; publicKey: string } {
    const { publicKey, seed } = KeyPair.create('user');
    const issued_s = Math.floor(Date.now() / 1000);
    const [tenantToken, hostToken] = [token('tenant', tenant), token('host', host)];
    const jwt = agentToken(this.keys.issuer, {
      tenant: tenantToken,
      host: hostToken,
      name: host,
      publicKey,
      issued_s,
      expires_s,
    });
    watch.add(jwt, seed);
    return { text: credentialsText(jwt, seed), publicKey };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server?.[Symbol.asyncDispose]();
    await watch.folder(this.folder);
    rmSync(this.folder, { recursive: true, force: true });
  }
}
