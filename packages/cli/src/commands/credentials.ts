import { Collector } from '#client.ts';
import type { Command } from '#command.ts';
import { formatAge } from '#format.ts';
import type { Cell, Column } from '#output.ts';

const columns: readonly Column[] = [
  { title: 'HOST', align: 'left' },
  { title: 'STATE', align: 'left' },
  { title: 'ISSUED', align: 'left' },
  { title: 'BY', align: 'left' },
  { title: 'EXPIRES', align: 'left' },
  { title: 'KEY', align: 'left' },
];

export const credentials: Command = {
  usage: 'credentials',
  summary: 'Credentials by which NATS knows agents, or take those of a host back',
  arguments: [],
  flags: {
    revoke: {
      value: 'HOST',
      help: 'Take all credentials and unused codes of this host back: its agent is cut off at once',
    },
  },
  async run({ address, flags, json }, output) {
    using collector = new Collector(address);
    const host = flags.get('revoke')?.[0];
    if (host !== undefined) {
      const revoked = await collector.revokeCredentials(host);
      if (json) return output.json({ host, revoked });
      output.line(`${revoked} credentials or codes of ${host} are revoked.`);
      return;
    }
    const answer = await collector.credentials();
    if (json) return output.json(answer);
    if (answer.credentials.length === 0) return output.line('No host has been enrolled.');
    const now = Date.now();
    const rows = answer.credentials.map(({ host: name, issued, expires, revoked, by, byCode, publicKey }): Cell[] => [
      { text: name },
      revoked !== null
        ? { text: 'revoked', tone: 'bad' }
        : expires !== null && expires <= now
          ? { text: 'expired', tone: 'bad' }
          : { text: 'valid', tone: 'good' },
      { text: formatAge(issued, now) },
      { text: byCode ? `${by} (code)` : by },
      { text: expires === null ? 'never' : new Date(expires).toISOString() },
      { text: publicKey },
    ]);
    output.table(columns, rows);
  },
};
