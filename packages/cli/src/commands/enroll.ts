import { writeFile } from 'node:fs/promises';
import { Collector } from '#client.ts';
import type { Command } from '#command.ts';
import { fileError } from '#recorded.ts';

export const enroll: Command = {
  usage: 'enroll HOST',
  summary: 'Let a host in: its credentials file, or a code with which its agent fetches its own',
  arguments: ['HOST'],
  flags: {
    ttl: { value: 'DURATION', help: 'How long its credentials are valid, for example 24h [until they are revoked]' },
    code: { help: 'A code for fleetreel-agent enroll, which can be used once within an hour' },
    output: { value: 'FILE', help: 'Where the credentials go, a new file [HOST.creds]' },
  },
  async run({ address, arguments: [host = ''], flags, json }, output) {
    using collector = new Collector(address);
    const code = flags.has('code');
    const enrolled = await collector.enrol({ host, ttl: flags.get('ttl')?.[0] ?? '', code });
    if (code && json) return output.json(enrolled);
    if (code) {
      output.line(enrolled.code ?? '');
      return;
    }
    const path = flags.get('output')?.[0] ?? `${host}.creds`;
    await writeFile(path, enrolled.credentials ?? '', { mode: 0o600, flag: 'wx' }).catch((cause: unknown) => {
      throw fileError(cause);
    });
    const { tenant, expires } = enrolled;
    if (json) return output.json({ tenant, host, expires, file: path });
    const until = expires === null ? 'until they are revoked' : `until ${new Date(expires).toISOString()}`;
    output.line(`${path} has the credentials of ${host} (tenant ${tenant}), valid ${until}.`);
    output.line('Move it to the host, and name it there: fleetreel-agent run --nats-credentials FILE.');
  },
};
