import type { AgentSettingsChange, AgentState } from '@fleetreel/proto/http';
import { suggestion } from '@fleetreel/proto/settings';
import { Collector } from '#client.ts';
import { type Command, type Invocation, UsageError } from '#command.ts';
import type { Column, Output, Tone } from '#output.ts';

const columns: Column[] = [
  { title: 'HOST', align: 'left' },
  { title: 'STATE', align: 'left' },
  { title: 'SETTING', align: 'left' },
  { title: 'WANTED', align: 'left' },
  { title: 'IN EFFECT', align: 'left' },
  { title: 'REASON', align: 'left' },
];
const targetColumns: Column[] = [
  { title: 'TARGET', align: 'left' },
  { title: 'HOSTS', align: 'right' },
  { title: 'SETTING', align: 'left' },
  { title: 'WANTED', align: 'left' },
];
const actions = ['list', 'targets', 'set', 'unset'] as const;
type Action = (typeof actions)[number];

export const agents: Command = {
  usage: 'agents [list|targets|set|unset] [TARGET] [KEY=VALUE|KEY...]',
  summary:
    'Settings that are pushed to agents: what is wanted and in effect by host, and by target; set and unset them',
  arguments: [],
  rest: 'list|targets|set|unset',
  flags: {
    'dry-run': { help: 'set and unset: change nothing, and say of which hosts something else would be wanted' },
    replace: { help: 'set: everything that is not given is not wanted any more' },
    all: { help: 'list: all settings in effect, not only the intervals and what is wanted' },
  },
  async run(invocation, output) {
    const [action = 'list', target, ...words] = invocation.arguments;
    if (!(actions as readonly string[]).includes(action))
      throw new UsageError(`agents has no "${action}". ${suggestion(action, actions)}`);
    const isChange = action === 'set' || action === 'unset';
    if (!isChange && target !== undefined)
      throw new UsageError(`"${target}" is one argument too many: fleetreel agents ${action}.`);
    using collector = new Collector(invocation.address);
    if (isChange) return await change(collector, action, target, words, invocation, output);
    if (action === 'targets') return await listTargets(collector, invocation, output);
    await list(collector, invocation, output);
  },
};

async function list(collector: Collector, invocation: Invocation, output: Output): Promise<void> {
  const page = await collector.agents();
  if (invocation.json) return output.json(page);
  if (page.agents.length === 0) return output.line('No host has described itself yet.');
  output.table(
    columns,
    page.agents.flatMap((agent) => rowsOf(agent, invocation.flags.has('all'))),
  );
}

const tones: Partial<Record<AgentState['state'], Tone>> = {
  in_effect: 'good',
  refused: 'bad',
  unsupported: 'bad',
  own: 'faint',
};

/** One row for each setting that is shown; what is said of the agent as a whole is in the first. */
function rowsOf(agent: AgentState, isAll: boolean): { text: string; tone?: Tone | undefined }[][] {
  const { host, state, wanted, inEffect, refused } = agent;
  const some = ['interval', 'upload_interval'].filter((key) => Object.hasOwn(inEffect, key));
  const keys = new Set([
    ...some,
    ...Object.keys(wanted),
    ...Object.keys(refused),
    ...(isAll ? Object.keys(inEffect) : []),
  ]);
  // Why it follows none stands beside what it is.
  keys.delete('');
  const first = [host, state.replace('_', ' ')];
  return [...(keys.size === 0 ? [''] : keys)].map((key, index) => [
    { text: index === 0 ? (first[0] ?? '') : '' },
    { text: index === 0 ? (first[1] ?? '') : '', tone: tones[state] },
    { text: key },
    { text: wanted[key] ?? '' },
    {
      text: inEffect[key] ?? '',
      tone: Object.hasOwn(wanted, key) && wanted[key] !== inEffect[key] ? 'bad' : undefined,
    },
    { text: refused[key] ?? (index === 0 ? (refused[''] ?? '') : ''), tone: 'bad' },
  ]);
}

async function listTargets(collector: Collector, { json }: Invocation, output: Output): Promise<void> {
  const page = await collector.agentSettings();
  if (json) return output.json(page);
  if (page.targets.length === 0) {
    output.line('Nothing is wanted of any agent. What can be:');
    for (const { key, help, expects } of page.settings) output.line(`  ${key}: ${help}; ${expects}`);
    return;
  }
  output.table(
    targetColumns,
    page.targets.flatMap(({ target, hosts, settings }) =>
      Object.entries(settings).map(([key, value], index) => [
        { text: index === 0 ? target : '' },
        { text: index === 0 ? String(hosts.length) : '' },
        { text: key },
        { text: value },
      ]),
    ),
  );
}

async function change(
  collector: Collector,
  action: Extract<Action, 'set' | 'unset'>,
  target: string | undefined,
  words: readonly string[],
  { flags, json }: Invocation,
  output: Output,
): Promise<void> {
  const example = action === 'set' ? 'host:web-1 interval=1s' : 'host:web-1 interval';
  if (target === undefined)
    throw new UsageError(
      `TARGET is missing: all, tag:NAME=VALUE or host:HOST, such as fleetreel agents ${action} ${example}.`,
    );
  if (action === 'set' && words.length === 0)
    throw new UsageError(`KEY=VALUE is missing: fleetreel agents set ${target} interval=1s.`);
  if (action === 'unset' && flags.has('replace')) throw new UsageError('unset takes no --replace.');
  const dry_run = flags.has('dry-run');
  const outcome = await collector.changeAgentSettings({
    target,
    set: action === 'set' ? Object.fromEntries(words.map(pairOf)) : {},
    unset: action === 'unset' ? [...words] : [],
    // Without a key, nothing is wanted of the target any more.
    replace: flags.has('replace') || (action === 'unset' && words.length === 0),
    dry_run,
  });
  if (json) return output.json(outcome);
  tell(outcome, dry_run, output);
}

function tell({ target, changed }: AgentSettingsChange, isTrial: boolean, output: Output): void {
  const wanted = Object.entries(target.settings).map(([key, value]) => `${key}=${value}`);
  output.line(`${target.target}: ${wanted.length === 0 ? 'nothing is wanted' : wanted.join(' ')}`);
  if (target.hosts.length === 0 && wanted.length > 0)
    output.line('No host is of this target now; one that comes takes it.', 'bad');
  const what = isTrial ? 'would be wanted; nothing was changed' : 'is wanted; agents that run take it at once';
  output.line(
    changed.length === 0
      ? `Of no host something else ${what}.`
      : `Of ${changed.length} host(s) something else ${what}:`,
  );
  for (const host of changed) output.line(`  ${host}`);
}

/** @throws UsageError */
function pairOf(word: string): [string, string] {
  const [, key, value] = /^([^=]+)=(.*)$/s.exec(word) ?? [];
  if (key === undefined || value === undefined)
    throw new UsageError(
      `"${word}" can't be read: write it as KEY=VALUE, for example interval=1s or sources.container=off.`,
    );
  return [key, value];
}
