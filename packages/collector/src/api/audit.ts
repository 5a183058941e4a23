// What both faces record of what is done through them.
import { ApiError } from '@fleetreel/proto/errors';
import type { AgentSettingsChange } from '@fleetreel/proto/http';
import type { Identity } from '#access/identity.ts';
import type { FaceParts } from '#api/faces.ts';
import type { Asked } from '#api/replay.ts';
import type { Actor, Deed } from '#log/audit.ts';
import type { DeadOutcome } from '#log/dead.ts';
import type { Change } from '#query/agents.ts';
import { changeDead, type DeadChoice } from '#query/dead_letters.ts';
import type { HostState } from '#query/hosts.ts';

type Parts = Pick<FaceParts, 'rooms'>;
/** Who does it, and from where. */
export type By = { identity: Identity; address: string };

/** Writes the record of what was done. @param by also somebody who is not, or not yet, known by credentials */
type RecordDeed = (by: { identity: Actor; address: string }, deed: Omit<Deed, 'address'>) => Promise<void>;

/** What writes records: had before anything is done, so that nothing is done of which there could be none. @throws ApiError log_unavailable */
export function recorder({ rooms }: Parts): RecordDeed {
  const { audit } = rooms();
  audit.admit();
  return ({ identity, address }, deed) => audit.record(identity, { ...deed, address });
}

/** Changes what is wanted of agents, unless it is only to be said what that would do. @throws ApiError */
export async function changeAgentSettings(parts: Parts, by: By, change: Change): Promise<AgentSettingsChange> {
  const record = recorder(parts);
  const { before, ...result } = await parts.rooms().agents.change(by.identity.tenant, change);
  const { target, settings: after } = result.target;
  if (!change.isTrial) await record(by, { action: 'agent_settings.change', target, before, after });
  return result;
}

/** Forgets a host, frees its name, and takes back what is wanted of it by its name. @throws ApiError */
export async function forgetHost(parts: Parts, by: By, host: string): Promise<void> {
  const record = recorder(parts);
  const { query, agents } = parts.rooms();
  const { tenant } = by.identity;
  const known = query.hosts.get(tenant, host);
  await query.hosts.forget(tenant, host);
  await record(by, { action: 'host.forget', target: host, before: known && inShort(known) });
  const target = `host:${host}`;
  if (!agents.targets(tenant).some((wanted) => wanted.target === target)) return;
  try {
    const nothing = { target, set: {}, unset: [], isWhole: true, isTrial: false, revision: undefined };
    await changeAgentSettings(parts, by, nothing);
  } catch (cause) {
    // Somebody else took it back meanwhile.
    if (!(cause instanceof ApiError && cause.code === 'settings_not_found')) throw cause;
  }
}

const inShort = ({ description, lastSeen_us }: HostState) => ({
  machineId: description?.machine_id ?? null,
  os: description?.os ?? null,
  addresses: description?.addresses.slice(0, shownMax) ?? [],
  lastSeen: lastSeen_us === null ? null : Math.floor(lastSeen_us / 1000),
});

/** Publishes dead letters again, or throws them away. @param now UTC, milliseconds since 1970 @throws ApiError */
export async function changeDeadLetters(
  parts: Parts,
  by: By,
  what: 'redrive' | 'discard',
  choice: DeadChoice,
  now: number,
): Promise<DeadOutcome> {
  const record = recorder(parts);
  const { sequences, outcome } = await changeDead(parts.rooms().deadLetters, what, by.identity.tenant, choice, now);
  const failed = new Set(outcome.failed.map(({ sequence }) => sequence));
  const gone = sequences.filter((sequence) => !failed.has(sequence));
  const before = gone.length === 0 ? undefined : { count: gone.length, sequences: gone.slice(0, shownMax) };
  const after = { done: outcome.done, failed: failed.size };
  await record(by, { action: `dead_letter.${what}`, target: choice.host ?? '', before, after });
  return outcome;
}

/** Somebody looks at what was: recorded before anything of it is sent. @throws ApiError */
export async function recordReplay(parts: Parts, by: By, how: 'play' | 'follow', asked: Partial<Asked>): Promise<void> {
  const { hosts = [], tables = [], from = '', to = '', fromSequence = 0, toSequence = 0 } = asked;
  const range = fromSequence > 0 || toSequence > 0 ? { fromSequence, toSequence } : { from, to };
  const target = hosts.length > shownMax ? `${hosts.slice(0, shownMax).join(', ')} and others` : hosts.join(', ');
  const after = { ...range, hosts: hosts.length, tables: tables.slice(0, shownMax) };
  await recorder(parts)(by, { action: `replay.${how}`, target, after });
}

/** Names, addresses and sequences that a record repeats at most. */
const shownMax = 20;
