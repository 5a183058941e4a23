import { type Scope, scopes } from '@fleetreel/proto/http';
import { suggestion } from '@fleetreel/proto/settings';
import { Collector } from '#client.ts';
import { type Command, UsageError } from '#command.ts';
import { formatAge } from '#format.ts';
import type { Cell, Column } from '#output.ts';

const columns: readonly Column[] = [
  { title: 'ID', align: 'left' },
  { title: 'NAME', align: 'left' },
  { title: 'SCOPES', align: 'left' },
  { title: 'MADE', align: 'left' },
  { title: 'BY', align: 'left' },
  { title: 'LAST USED', align: 'left' },
  { title: 'EXPIRES', align: 'left' },
];

export const keys: Command = {
  usage: 'keys list|add|revoke [NAME|ID]',
  summary: 'API keys: list them, make one, revoke one',
  arguments: ['list|add|revoke'],
  rest: 'NAME|ID',
  flags: {
    scope: {
      value: 'SCOPE',
      help: `What a new key may do: ${scopes.join(', ')}; may be given several times`,
      many: true,
    },
    ttl: { value: 'DURATION', help: 'How long a new key is valid, such as 30d [for ever]' },
  },
  async run({ address, arguments: [action = '', what, ...more], flags, json }, output) {
    if (more.length > 0) throw new UsageError(`fleetreel keys ${action} takes one name or id.`);
    if (!['list', 'add', 'revoke'].includes(action))
      throw new UsageError(`fleetreel keys has no "${action}": there is list, add and revoke.`);
    using collector = new Collector(address);
    if (action === 'list') {
      const answer = await collector.keys();
      if (json) return output.json(answer);
      if (answer.keys.length === 0) return output.line('There is no API key.');
      const now = Date.now();
      const rows = answer.keys.map((key): Cell[] => [
        { text: key.id },
        { text: key.name },
        { text: key.scopes.join(' ') },
        { text: formatAge(key.created, now) },
        { text: key.createdBy },
        { text: key.lastUsed === null ? '-' : `${formatAge(key.lastUsed, now)} from ${key.lastAddress}` },
        { text: key.expires === null ? 'never' : new Date(key.expires).toISOString() },
      ]);
      return output.table(columns, rows);
    }
    if (what === undefined)
      throw new UsageError(`fleetreel keys ${action} needs ${action === 'add' ? 'a name' : 'an id'}.`);
    if (action === 'revoke') {
      await collector.revokeKey(what);
      return output.line(`The key ${what} is revoked.`);
    }
    const made = await collector.createKey(what, (flags.get('scope') ?? []).map(scopeOf), flags.get('ttl')?.[0] ?? '');
    if (json) return output.json(made);
    output.line('This is shown once:');
    output.line(made.secret);
  },
};

/** @throws UsageError */
function scopeOf(text: string): Scope {
  const scope = scopes.find((each) => each === text);
  if (scope === undefined) throw new UsageError(`There is no scope "${text}". ${suggestion(text, scopes)}`);
  return scope;
}
