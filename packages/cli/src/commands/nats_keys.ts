import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { newInstallation } from '@fleetreel/deploy/local/nats_keys';
import { serverConfiguration, siteConfiguration } from '@fleetreel/proto/nats_keys';
import { type Command, UsageError } from '#command.ts';
import { fileError } from '#recorded.ts';

export const natsKeys: Command = {
  usage: 'nats-keys FOLDER',
  summary: 'Make the keys of a NATS installation, and what its servers and collectors are told of them',
  arguments: ['FOLDER'],
  flags: {
    accounts: {
      value: 'FOLDER',
      help: 'Where each nats-server keeps its accounts [/var/lib/nats/accounts]',
    },
    hub: {
      value: 'URL',
      help: 'Where the nats-servers of sites reach this one [nats-leaf://hub.example:7422]',
    },
  },
  async run({ arguments: [folder = ''], flags, json }, output) {
    const accounts = flags.get('accounts')?.[0] ?? '/var/lib/nats/accounts';
    if (!accounts.startsWith('/')) throw new UsageError(`--accounts ${accounts} has to be an absolute path.`);
    const hub = flags.get('hub')?.[0] ?? 'nats-leaf://hub.example:7422';
    const made = newInstallation();
    const files: Record<string, [content: string, what: string]> = {
      'nats-server.conf': [
        `${serverConfiguration(made, accounts).join('\n')}\n`,
        'for the configuration of every nats-server: include "nats-server.conf"',
      ],
      'collector.creds': [made.collectorCredentials, 'for every collector: nats.credentials'],
      'site.conf': [
        `${siteConfiguration(made, hub, '/etc/nats/site.creds').join('\n')}\n`,
        'for the nats-server of each site: include "site.conf"',
      ],
      'site.creds': [made.siteCredentials, 'for the nats-server of each site: /etc/nats/site.creds'],
      'issuer.json': [
        `${JSON.stringify(made.issuer, null, 2)}\n`,
        'for collectors that enrol and revoke agents: nats.issuer',
      ],
      'operator.seed': [`${made.operatorSeed}\n`, 'needed for nothing that runs: keep it where no server is'],
    };
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      for (const [name, [content]] of Object.entries(files))
        await writeFile(join(folder, name), content, { mode: 0o600, flag: 'wx' });
    } catch (cause) {
      throw fileError(cause);
    }
    if (json) return output.json({ files: Object.keys(files).map((name) => join(folder, name)) });
    for (const [name, [, what]] of Object.entries(files)) output.line(`${join(folder, name)}: ${what}.`);
  },
};
