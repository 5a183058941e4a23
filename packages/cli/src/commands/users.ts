import { type Role, roles } from '@fleetreel/proto/http';
import { Collector } from '#client.ts';
import { type Command, type Invocation, UsageError } from '#command.ts';
import { formatAge } from '#format.ts';
import type { Cell, Column, Output } from '#output.ts';

const columns: readonly Column[] = [
  { title: 'USER', align: 'left' },
  { title: 'ROLE', align: 'left' },
  { title: 'SESSIONS', align: 'right' },
  { title: 'LAST SIGN-IN', align: 'left' },
  { title: 'PASSWORD', align: 'left' },
];

export const users: Command = {
  usage: 'users list|add|role|link|sign-out|remove [USER]',
  summary: 'Users: list or add them, change a role, make a link for a new password, end sessions, remove them',
  arguments: ['list|add|role|link|sign-out|remove'],
  rest: 'USER',
  flags: { role: { value: 'ROLE', help: 'viewer (reads and replays; the default of add) or admin' } },
  async run(invocation, output) {
    const [action = '', name, ...more] = invocation.arguments;
    if (more.length > 0) throw new UsageError(`fleetreel users ${action} takes one user.`);
    using collector = new Collector(invocation.address);
    if (action === 'list') return await list(collector, invocation, output);
    if (name === undefined) throw new UsageError(`The user is missing: fleetreel users ${action} USER.`);
    switch (action) {
      case 'add':
      case 'link': {
        const made =
          action === 'add'
            ? await collector.createUser(name, roleOf(invocation, 'viewer'))
            : await collector.userLink(name);
        if (invocation.json) return output.json(made);
        output.line(`Open this below the address of the console, once, until ${new Date(made.expires).toISOString()}:`);
        return output.line(made.path);
      }
      case 'role': {
        const role = roleOf(invocation, undefined);
        await collector.changeUser(name, role);
        return output.line(`${name} is ${role} now.`);
      }
      case 'sign-out':
        return output.line(`${await collector.endSessions(name)} sessions of ${name} were ended.`);
      case 'remove':
        await collector.deleteUser(name);
        return output.line(`${name} is removed.`);
      default:
        throw new UsageError(
          `fleetreel users has no "${action}": there is list, add, role, link, sign-out and remove.`,
        );
    }
  },
};

async function list(collector: Collector, { json }: Invocation, output: Output): Promise<void> {
  const answer = await collector.users();
  if (json) return output.json(answer);
  if (answer.users.length === 0) return output.line('There is no user: fleetreel-collector link makes the first.');
  const now = Date.now();
  const rows = answer.users.map(({ name, role, sessions, lastSignIn, hasPassword }): Cell[] => [
    { text: name },
    { text: role },
    { text: String(sessions) },
    { text: lastSignIn === null ? '-' : formatAge(lastSignIn, now) },
    { text: hasPassword ? 'set' : 'invited' },
  ]);
  output.table(columns, rows);
}

/** @throws UsageError */
function roleOf({ flags }: Invocation, fallback: Role | undefined): Role {
  const given = flags.get('role')?.[0] ?? fallback;
  const role = roles.find((each) => each === given);
  if (role === undefined)
    throw new UsageError(`--role has to be ${roles.join(' or ')}${given ? `, and is ${given}` : ''}.`);
  return role;
}
